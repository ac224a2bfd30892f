"""The forms in which lexicons are read and written: ours, and the two of GLM-TTS.

All three are JSONL, and the first line tells which it is::

    {"phrase": "重庆", "pinyin": "chong2 qing4"}        ours; or "ipa", or "text"
    {"鬓毛衰": "鬓毛<|C|><|UEI1|>"}                      glmtts-g2p (G2P_replace_dict.jsonl)
    {"origin": "GPU", "new": "显卡"}                     glmtts-replace (custom_replace.jsonl)
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from tts_tasks.errors import RequestError
from tts_tasks.lexicons.glmtts import parse_tokens, syllable_to_tokens
from tts_tasks.lexicons.lexicon import KINDS, MAX_ENTRIES, Entry, Kind, Lexicon, entry, is_han
from tts_tasks.lexicons.pinyin import UNCHANGED

if TYPE_CHECKING:
    from collections.abc import Iterator

Form = Literal["ours", "glmtts-g2p", "glmtts-replace"]
FORMS: Final[tuple[Form, ...]] = ("ours", "glmtts-g2p", "glmtts-replace")

MAX_FILE_BYTES: Final = 8 * 1024 * 1024
_FAULTS_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Exported:
    """A lexicon in a form, and the entries that the form has no way to say."""

    text: str
    left_out: tuple[Entry, ...] = ()


def parse_lexicon(data: bytes, form: Form | None = None) -> Lexicon:
    """Read a lexicon file; ``form`` None: the one its first line is in.

    All or nothing: raises `RequestError` with the field ``lexicon`` and the first faults by line.
    """
    if len(data) > MAX_FILE_BYTES:
        raise _fault(f"the file is {len(data)} bytes long; at most {MAX_FILE_BYTES}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = data.count(b"\n", 0, error.start) + 1
        raise _fault(f"line {at}: is not UTF-8 (byte 0x{data[error.start]:02x})") from None
    reading = _Reading(form)
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            reading.take(number, line)
    return reading.lexicon()


def export_lexicon(lexicon: Lexicon, form: Form) -> Exported:
    """Return a lexicon in a form; `parse_lexicon` makes the same of it, but for ``left_out``.

    IPA has no place in GLM-TTS's forms, and pinyin none in ``glmtts-replace``.
    """
    if form == "ours":
        return Exported(lexicon.to_jsonl())
    lines: list[str] = []
    left_out: list[Entry] = []
    for one in lexicon.entries:
        said = _as_replacement(one) if form == "glmtts-replace" else _as_tokens(one)
        if said is None:
            left_out.append(one)
            continue
        fields = {one.phrase: said}
        if form == "glmtts-replace":
            fields = {"origin": one.phrase, "new": said}
        lines.append(json.dumps(fields, ensure_ascii=False) + "\n")
    return Exported("".join(lines), tuple(left_out))


class _Reading:
    """What the lines so far have given."""

    def __init__(self, form: Form | None) -> None:
        self._form = form
        self._entries: list[Entry] = []
        self._line_of: dict[str, int] = {}
        self._faults: list[str] = []
        self._more = 0

    def take(self, number: int, line: str) -> None:
        try:
            fields = _object(line)
            self._form = self._form or _form_of(fields)
            for one in _READERS[self._form](fields):
                self._add(number, one)
        except ValueError as error:
            if len(self._faults) < _FAULTS_SHOWN:
                self._faults.append(f"line {number}: {error}")
            else:
                self._more += 1

    def _add(self, number: int, one: Entry) -> None:
        if first := self._line_of.get(one.phrase):
            raise ValueError(f"{one.phrase!r} is already given in line {first}")
        if len(self._entries) == MAX_ENTRIES:
            raise ValueError(f"a lexicon holds at most {MAX_ENTRIES} entries")
        self._line_of[one.phrase] = number
        self._entries.append(one)

    def lexicon(self) -> Lexicon:
        if self._faults:
            more = f"; and {self._more} more" if self._more else ""
            raise _fault("; ".join(self._faults) + more)
        if not self._entries:
            raise _fault("the file holds no entry; a lexicon is one JSON object a line")
        return Lexicon(tuple(self._entries))


def _object(line: str) -> dict[str, str]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            raise ValueError("a key is given twice in this line")
        return fields

    try:
        fields = json.loads(line, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.colno}") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    if not isinstance(fields, dict) or not fields:
        raise ValueError('must be a JSON object such as {"phrase": "重庆", "pinyin": "..."}')
    for key, value in fields.items():
        if not isinstance(value, str):
            raise ValueError(f"{key!r} must be a string")  # noqa: TRY004 - a line's fault
    return fields


def _form_of(fields: dict[str, str]) -> Form:
    if fields.keys() == {"origin", "new"}:
        return "glmtts-replace"
    if "phrase" in fields and not fields.keys().isdisjoint(KINDS):
        return "ours"
    return "glmtts-g2p"


def _ours(fields: dict[str, str]) -> Iterator[Entry]:
    if "phrase" not in fields:
        raise ValueError("has no 'phrase'")
    kinds: list[Kind] = [kind for kind in KINDS if kind in fields]
    if len(kinds) != 1 or len(fields) != 2:
        raise ValueError(f"beside 'phrase' stands exactly one of {', '.join(KINDS)}")
    yield entry(fields["phrase"], kinds[0], fields[kinds[0]])


def _replacement(fields: dict[str, str]) -> Iterator[Entry]:
    if fields.keys() != {"origin", "new"}:
        raise ValueError("holds not exactly 'origin' and 'new'")
    yield entry(fields["origin"], "text", fields["new"])


def _g2p(fields: dict[str, str]) -> Iterator[Entry]:
    for phrase, value in fields.items():
        parts = parse_tokens(value)
        if len(parts) == len(value):  # no token among them
            yield entry(phrase, "text", value)
        else:
            phrase = unicodedata.normalize("NFC", phrase)  # noqa: PLW2901
            yield entry(phrase, "pinyin", " ".join(_aligned(phrase, parts)))


def _aligned(phrase: str, parts: list[str]) -> list[str]:
    """Return the syllables of a phrase; raises ValueError where the value says something else."""
    if not any(map(is_han, phrase)) and all(len(part) > 1 for part in parts):
        return parts
    if len(parts) != len(phrase):
        raise ValueError(f"the value of {phrase!r} has {len(parts)} places for {len(phrase)}")
    said: list[str] = []
    for char, part in zip(phrase, parts, strict=True):
        if len(part) > 1 and is_han(char):
            said.append(part)
        elif part != char:
            raise ValueError(f"the value of {phrase!r} has {part!r} in the place of {char!r}")
        elif is_han(char):
            said.append(UNCHANGED)
    return said


_READERS: Final = {"ours": _ours, "glmtts-g2p": _g2p, "glmtts-replace": _replacement}


def _as_replacement(one: Entry) -> str | None:
    return one.said if one.kind == "text" else None


def _as_tokens(one: Entry) -> str | None:
    """Return the value of GLM-TTS's dictionary; None where there is none that says it."""
    if one.kind == "text":
        return one.said if "<|" not in one.said else None
    if one.kind == "ipa":
        return None
    tokens = [
        syllable if syllable == UNCHANGED else syllable_to_tokens(syllable)
        for syllable in one.syllables
    ]
    if None in tokens:
        return None
    if not any(map(is_han, one.phrase)):
        return "".join(map(str, tokens))
    places = iter(tokens)
    said = []
    for char in one.phrase:
        token = next(places) if is_han(char) else char
        said.append(char if token == UNCHANGED else str(token))
    return "".join(said)


def _fault(reason: str) -> RequestError:
    return RequestError("lexicon", reason)
