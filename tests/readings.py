"""The set of readings in ``tests/data/readings.jsonl``, and how what is said is held against it.

A line says how a sentence is to be read aloud: its normalised text (``{a/b}`` where both are
sensible) and, for words whose characters have several readings, their pinyin. Two thirds of the
lines are held out: they were written before anything was measured, and no rule is made for them.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from tts_workers.engines.base import Segment, VoiceReference
from tts_workers.engines.espeak_pronunciation import spell
from tts_workers.text import Pronunciation, normalise

if TYPE_CHECKING:
    from tts_workers.engines.espeak import EspeakEngine

DATA = Path(__file__).parent / "data" / "readings.jsonl"

_CHOICE = re.compile(r"\{([^{}]*)\}")
_TOKEN = re.compile(r"[\u3400-\u9fff]|[a-z]+")
#: espeak-ng's names of tones by their contour; what ends in 1 and begins low is a half third.
_TONES = {"55": "1", "35": "2", "214": "3", "21": "3", "51": "4", "53": "4"}
_TONE = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Reading:
    """One line of the set."""

    id: str
    held_out: bool
    text: str
    spoken: str
    pinyin: dict[str, str]

    @property
    def category(self) -> str:
        return self.id.rpartition("-")[0]


def readings() -> list[Reading]:
    lines = DATA.read_text(encoding="utf-8").splitlines()
    return [Reading(**{"pinyin": {}, **json.loads(line)}) for line in lines]


def tokens(text: str) -> list[str]:
    """Return the Chinese characters and the words of a text: what is heard of it."""
    return _TOKEN.findall(text.lower())


def text_fault(reading: Reading) -> str:
    """Say what is wrong with the normalised text; empty where it is one that is expected."""
    said = normalise(reading.text)
    pattern = "".join(
        f"(?:{'|'.join(map(_of_choice, part.split('/')))})" if place % 2 else _of_choice(part)
        for place, part in enumerate(_CHOICE.split(reading.spoken))
    )
    heard = "".join(f"{token} " for token in tokens(said))
    return "" if re.fullmatch(pattern, heard) else f"{reading.text} is read {said}"


def _of_choice(text: str) -> str:
    return "".join(f"{re.escape(token)} " for token in tokens(text))


def sound_faults(reading: Reading, engine: EspeakEngine) -> list[str]:
    """Say which words espeak-ng reads with another pinyin than is expected.

    Each is compared with the same sentence in which the word is given as pinyin.
    """
    faults = []
    said = normalise(reading.text)
    voice = engine.encode_voice(VoiceReference("zh"))
    usual = engine.phonemes(Segment(said), voice)
    for word, pinyin in reading.pinyin.items():
        given = spell(Pronunciation(word, tuple(pinyin.split())))
        wanted = engine.phonemes(Segment(said.replace(word, given)), voice)
        if not _sound_alike(usual, wanted):
            faults.append(f"{word} in {reading.text}: {pinyin} is wanted")
    return faults


def _sound_alike(usual: str, wanted: str) -> bool:
    """Whether two lines of phonemes are the same but for stress, breaks, and tone sandhi.

    Tones change beside each other, and more so within a word: a third tone may sound as a second
    one, and a light syllable or one of 一 and 不 has no tone of its own.
    """
    for mine, theirs in zip_longest(_pieces(usual), _pieces(wanted), fillvalue=""):
        if mine == theirs:
            continue
        if not (mine.isdigit() and theirs.isdigit()):
            return False
        tones = {_TONES.get(mine, "5"), _TONES.get(theirs, "5")}
        if len(tones) > 1 and tones != {"2", "3"}:
            return False
    return True


def _pieces(phonemes: str) -> list[str]:
    plain = re.sub(r"[',|_:\s]", "", phonemes)
    return _TONE.split(plain)


def main() -> None:
    """Print the score of each kind, and the faults of the lines that are not held out."""
    from tts_workers.engines.espeak import EspeakEngine

    engine = EspeakEngine()
    engine.load("cpu")
    scores: dict[tuple[bool, str], list[bool]] = {}
    for reading in readings():
        faults = [fault for fault in (text_fault(reading),) if fault]
        faults += sound_faults(reading, engine)
        scores.setdefault((reading.held_out, reading.category), []).append(not faults)
        if faults and not reading.held_out:
            print(reading.id, "; ".join(faults))  # noqa: T201
    engine.close()
    for held_out in (True, False):
        total = [one for (held, _), right in scores.items() if held is held_out for one in right]
        print("held out" if held_out else "open", sum(total), "of", len(total))  # noqa: T201
        for (held, category), right in scores.items():
            if held is held_out:
                print(f"  {category}: {sum(right)} of {len(right)}")  # noqa: T201


if __name__ == "__main__":
    main()
