"""Subtitles: a cue for each segment, at the very sample where it begins and ends."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Cue:
    """One segment in the sound: samples from its beginning, without the pause that follows."""

    text: str  #: as it was written; empty where it is a part of that of the cue before
    spoken: str  #: as the engine got it
    start: int
    end: int


def cues(
    texts: Sequence[tuple[str, str]], lengths: Sequence[int], pauses: Sequence[int]
) -> list[Cue]:
    """Return the cues of segments: ``(written, spoken)``, samples with the pause, of the pause."""
    found: list[Cue] = []
    position = 0
    for (written, spoken), length, pause in zip(texts, lengths, pauses, strict=True):
        found.append(Cue(written, spoken, position, position + length - pause))
        position += length
    return found


def rendered(cues: Sequence[Cue], kind: str, from_hz: int, sample_rate_hz: int) -> bytes:
    """Return a subtitle file: ``srt``, ``vtt``, or ``json``.

    Cues count samples at ``from_hz``; the artifact has ``sample_rate_hz``.
    """
    if kind == "srt":
        return _srt(cues, from_hz).encode()
    if kind == "vtt":
        return _vtt(cues, from_hz).encode()
    return _json(cues, from_hz, sample_rate_hz).encode()


def _shown(cues: Sequence[Cue]) -> list[Cue]:
    """Return the cues that have a text, each with the time of those after it that have none."""
    shown: list[Cue] = []
    for cue in cues:
        if cue.text or not shown:
            shown.append(cue)
        else:
            shown[-1] = replace(shown[-1], end=cue.end)
    return shown


def _srt(cues: Sequence[Cue], rate_hz: int) -> str:
    return "\n".join(
        f"{number}\n{_clock(cue.start, rate_hz, ',')} --> {_clock(cue.end, rate_hz, ',')}\n"
        f"{_line(cue.text).replace('-->', '→')}\n"
        for number, cue in enumerate(_shown(cues), start=1)
    )


def _vtt(cues: Sequence[Cue], rate_hz: int) -> str:
    told = (
        f"{_clock(cue.start, rate_hz, '.')} --> {_clock(cue.end, rate_hz, '.')}\n"
        f"{html.escape(_line(cue.text), quote=False)}\n"
        for cue in _shown(cues)
    )
    return "\n".join(("WEBVTT\n", *told))


def _json(cues: Sequence[Cue], from_hz: int, rate_hz: int) -> str:
    segments = [
        {
            "number": number,
            "text": cue.text,
            "spoken": cue.spoken,
            "start_s": round(cue.start / from_hz, 6),
            "end_s": round(cue.end / from_hz, 6),
            "start_sample": _rounded(cue.start * rate_hz, from_hz),
            "end_sample": _rounded(cue.end * rate_hz, from_hz),
        }
        for number, cue in enumerate(cues, start=1)
    ]
    whole = {"sample_rate_hz": rate_hz, "segments": segments}
    return json.dumps(whole, ensure_ascii=False, indent=1) + "\n"


def _line(text: str) -> str:
    """Return a cue's text in one line: an empty one would end it."""
    return " ".join(text.split())


def _clock(samples: int, rate_hz: int, point: str) -> str:
    milliseconds = _rounded(samples * 1000, rate_hz)
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{milliseconds:03d}"


def _rounded(numerator: int, denominator: int) -> int:
    """Round a fraction to the nearest whole number, halves up, without floating point."""
    return (2 * numerator + denominator) // (2 * denominator)
