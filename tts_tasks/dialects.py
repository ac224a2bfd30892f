"""The dialects of a batch file: how kinds of files name the fields of a request."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - a dataclass field
from dataclasses import dataclass
from typing import Any, Final

from tts_tasks.requests import SpeechRequest


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a kind of file names the fields of a request."""

    name: str
    text_field: str
    id_field: str | None
    fields: Mapping[str, tuple[str, ...]]  #: its name of a field → our names of it

    def named(self, field: str) -> str:
        """Return this dialect's name of one of our fields (``requires.engine`` and the like)."""
        first, dot, rest = field.partition(".")
        theirs = next((name for name, ours in self.fields.items() if first in ours), first)
        return f"{theirs}{dot}{rest}"


OURS: Final = Dialect(
    "tts-tasks", "text", "id", {name: (name,) for name in ("id", *SpeechRequest.model_fields)}
)
ARTICLES: Final = Dialect(
    "articles",
    "input_text",
    None,
    {
        "prompt_text": ("prompt_text",),
        "prompt_audio": ("prompt_audio",),
        "input_text": ("text",),
        "output_name": ("output_name",),
    },
)
GLM_TTS: Final = Dialect(
    "GLM-TTS",
    "syn_text",
    "uttid",
    {
        "uttid": ("id", "output_name"),
        "prompt_text": ("prompt_text",),
        "prompt_speech": ("prompt_audio",),
        "syn_text": ("text",),
    },
)
DIALECTS: Final = (OURS, ARTICLES, GLM_TTS)


def recognise(item: Mapping[Any, Any]) -> Dialect | None:
    """Tell the dialect by the text's field, or else by the fields that only one dialect has."""
    by_text = [one for one in DIALECTS if one.text_field in item]
    if len(by_text) == 1:
        return by_text[0]
    scores = {one.name: _own_fields(one, item) for one in by_text or DIALECTS}
    best = max(scores.values())
    winners = [one for one in DIALECTS if scores.get(one.name) == best]
    return winners[0] if best > 0 and len(winners) == 1 else None


def _own_fields(dialect: Dialect, item: Mapping[Any, Any]) -> int:
    others = [one for one in DIALECTS if one is not dialect]
    return sum(
        name in item and not any(name in other.fields for other in others)
        for name in dialect.fields
    )
