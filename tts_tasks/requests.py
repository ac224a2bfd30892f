"""One request for speech: its fields, its defaults, its validation.

Files of requests are read by `tts_tasks.jsonl`. Every field is hostile until it has passed here:
requests come from files, from HTTP bodies and from Celery messages.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from tts_tasks.errors import RequestError
from tts_tasks.formats import (
    AUDIO_FORMATS,
    FORMAT_SAMPLE_RATES_HZ,
    SAMPLE_RATES_HZ,
    SUBTITLE_FORMATS,
    AudioFormat,
    SubtitleFormat,
)
from tts_tasks.names import safe_output_name, safe_prompt_audio
from tts_tasks.wording import did_you_mean, kind, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic_core import ErrorDetails

#: Longest text of one job, in characters. A book of 1,000 pages has about two million.
MAX_TEXT_CHARS = 2_000_000
#: Reference audio is seconds long, so its transcript is short.
MAX_PROMPT_TEXT_CHARS = 4_000
MAX_DEADLINE_S = 7 * 24 * 3600.0
MAX_NAME_CHARS = 128

_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:@+-]{{0,{MAX_NAME_CHARS - 1}}}")
_MODEL_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._:@+/-]{{0,{MAX_NAME_CHARS - 1}}}")
# Tab, line ends, vertical tab, form feed and U+0085 are white space of real documents. The other
# controls are debris (U+0080 to U+009F mostly cp1252 read as Latin-1), and engines choke on them.
_UNSPEAKABLE = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
# What `str.isalnum` is true of.
_SPEAKABLE = re.compile(r"[^\W_]")


def _whole_number(value: object) -> object:
    # JSON has one number type: 24000.0 is what pandas writes for 24000.
    return int(value) if isinstance(value, float) and value.is_integer() else value


WholeNumber = Annotated[int, BeforeValidator(_whole_number)]


class Requirements(BaseModel):
    """What the pool that serves a request must be able to do. Empty: any pool will do."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    pool: str | None = None
    engine: str | None = None
    language: str | None = None  #: BCP 47: ``en`` is spoken by a pool of ``en-GB``, too
    features: Annotated[tuple[str, ...], Field(strict=False, max_length=32)] = ()
    model_version: str | None = None
    #: Hz, native: every pool serves every ``sample_rate``, by resampling
    sample_rate_hz: Annotated[WholeNumber, Field(gt=0)] | None = None

    @field_validator("pool", "engine", "language", "model_version")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        return None if value is None else _plain(value, _NAME)

    @field_validator("features")
    @classmethod
    def _plain_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_plain(name, _NAME) for name in value)


class SpeechRequest(BaseModel):
    """One text to speak with one voice. Immutable: it is pinned when the job is accepted.

    Values are never coerced: ``"1.5"`` is not a speed and ``true`` is not a seed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    text: Annotated[str, Field(max_length=MAX_TEXT_CHARS)]
    voice: str = "default"
    lexicon: str | None = None
    speed: Annotated[float, Field(ge=0.25, le=4.0, allow_inf_nan=False)] = 1.0
    format: AudioFormat = "wav"
    sample_rate: WholeNumber | None = None  #: Hz; None: what the engine speaks natively
    seed: Annotated[WholeNumber, Field(ge=0, le=2**32 - 1)] = 0
    output_name: str | None = None  #: relative, without the format's suffix
    requires: Requirements = Requirements()
    #: transcript of ``prompt_audio``
    prompt_text: Annotated[str, Field(max_length=MAX_PROMPT_TEXT_CHARS)] | None = None
    #: reference audio: a path relative to the batch file, or ``sha256:`` and its hash in storage
    prompt_audio: str | None = None
    model: str = "default"
    #: integrated loudness of the artifact; None: as it is spoken
    loudness_lufs: Annotated[float, Field(ge=-40, le=-5, allow_inf_nan=False)] | None = None
    #: no sample of the artifact is louder; None: -1 where the loudness is set, else as it is
    peak_limit_dbfs: Annotated[float, Field(ge=-30, le=0, allow_inf_nan=False)] | None = None
    gain_db: Annotated[float, Field(ge=-40, le=40, allow_inf_nan=False)] = 0.0  #: of each segment
    trim_silence: bool = False  #: at the ends of each segment
    fade_ms: Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)] = 0.0  #: of each segment
    #: silence between sentences, and between paragraphs; None: the engine's
    sentence_pause_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] | None = None
    paragraph_pause_ms: Annotated[float, Field(ge=0, le=60_000, allow_inf_nan=False)] | None = None
    subtitles: Annotated[tuple[SubtitleFormat, ...], Field(strict=False, max_length=3)] = ()
    stream: bool = False  #: somebody listens while it is made
    #: seconds from its acceptance within which the sound of an online job is wanted
    deadline_s: Annotated[float, Field(gt=0, le=MAX_DEADLINE_S, allow_inf_nan=False)] | None = None

    @field_validator("text")
    @classmethod
    def _text_has_something_to_speak(cls, value: str) -> str:
        _check_characters(value)
        if not _SPEAKABLE.search(value):
            raise ValueError("holds no letter and no digit: there is nothing to speak")
        return value

    @field_validator("prompt_text")
    @classmethod
    def _prompt_text_is_text(cls, value: str | None) -> str | None:
        if value is not None:
            _check_characters(value)
        return value

    @field_validator("voice", "lexicon")
    @classmethod
    def _plain_name(cls, value: str | None) -> str | None:
        return None if value is None else _plain(value, _NAME)

    @field_validator("model")
    @classmethod
    def _model_name(cls, value: str) -> str:
        return _plain(value, _MODEL_NAME)

    @field_validator("output_name")
    @classmethod
    def _safe_output_name(cls, value: str | None) -> str | None:
        return None if value is None else safe_output_name(value)

    @field_validator("prompt_audio")
    @classmethod
    def _safe_prompt_audio(cls, value: str | None) -> str | None:
        return None if value is None else safe_prompt_audio(value)

    @field_validator("sample_rate")
    @classmethod
    def _format_knows_the_rate(cls, value: int | None, info: ValidationInfo) -> int | None:
        audio_format = info.data.get("format", "wav")
        rates = FORMAT_SAMPLE_RATES_HZ.get(audio_format, SAMPLE_RATES_HZ)
        if value is not None and value not in rates:
            known = ", ".join(map(str, rates))
            raise ValueError(f"{value} Hz is no rate of {audio_format}; it takes one of {known}")
        return value

    @field_validator("subtitles")
    @classmethod
    def _each_once(cls, value: tuple[SubtitleFormat, ...]) -> tuple[SubtitleFormat, ...]:
        return tuple(sorted(set(value)))

    @field_validator("stream")
    @classmethod
    def _a_stream_has_no_whole(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("loudness_lufs") is not None:
            raise ValueError(
                "has no place beside loudness_lufs, which is measured over the whole text, and a "
                "stream is heard before there is a whole; say gain_db instead"
            )
        return value

    def sound_sha256(self) -> str:
        """Hash of everything in the request that decides the artifact's content, as hex.

        Fields at their default are left out, so that a field added in a later version does not
        change the hash of the requests of today, and their artifacts are still found.
        """
        fields = self.model_dump(
            mode="json",
            exclude={"output_name", "requires", "stream", "deadline_s"},
            exclude_defaults=True,
        )
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def _plain(value: str, pattern: re.Pattern[str]) -> str:
    if not pattern.fullmatch(value):
        marks = "._:@+-" if pattern is _NAME else "._:@+-/"
        raise ValueError(
            f"{shown(value)} is not a name: ASCII letters and digits, then also {marks}, "
            f"1 to {MAX_NAME_CHARS} characters"
        )
    return value


def _character_fault(text: str) -> str | None:
    found = _UNSPEAKABLE.search(text)
    if found is None:
        return None
    code, at = ord(found.group()), found.start() + 1
    if 0xD800 <= code <= 0xDFFF:
        return (
            f"holds half of a surrogate pair (U+{code:04X}) at character {at}; "
            "write the character itself or both halves"
        )
    return f"holds the control character U+{code:04X} at character {at}; remove it"


def _check_characters(text: str) -> None:
    if fault := _character_fault(text):
        raise ValueError(fault)


def checked_transcript(value: str) -> str:
    """Return the transcript of a recording as it is; raises ValueError with the reason."""
    if len(value) > MAX_PROMPT_TEXT_CHARS:
        raise ValueError(f"is {len(value)} characters long; at most {MAX_PROMPT_TEXT_CHARS}")
    _check_characters(value)
    if not _SPEAKABLE.search(value):
        raise ValueError("holds no letter and no digit: say what is spoken in the recording")
    return value


def parse_request(fields: Mapping[str, Any]) -> SpeechRequest:
    """Validate one request; raises `RequestError` naming the first wrong field.

    A field that is None counts as not given. Unknown fields are named before anything else,
    because a mistyped name is what usually makes another field missing.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return SpeechRequest.model_validate(given)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first = next((one for one in errors if one["type"] == "extra_forbidden"), errors[0])
        raise RequestError(_field_of(first), _reason_of(first)) from None


def _field_of(error: ErrorDetails) -> str:
    parts = [str(part) for part in error["loc"]]
    field = ".".join(parts) or "request"
    return field if field.isprintable() and len(field) <= 80 else shown(field)


def _unknown_field(error: ErrorDetails) -> str:
    path = error["loc"]
    model: type[BaseModel] = Requirements if len(path) > 1 else SpeechRequest
    return f"is no field of ours{did_you_mean(str(path[-1]), model.model_fields)}"


def _choices(error: ErrorDetails) -> tuple[str, ...]:
    return SUBTITLE_FORMATS if error["loc"][0] == "subtitles" else AUDIO_FORMATS


#: pydantic's error types in our words: what was wrong, and what it is instead.
_REASONS: dict[str, Callable[[ErrorDetails], str]] = {
    "extra_forbidden": _unknown_field,
    "missing": lambda _: "is missing",
    "string_type": lambda error: f"must be a string, not {kind(error['input'])}",
    "int_type": lambda error: f"must be a whole number, not {shown(error['input'])}",
    "float_type": lambda error: f"must be a number, not {kind(error['input'])}",
    "string_unicode": lambda error: _character_fault(error["input"]) or "is not Unicode text",
    "tuple_type": lambda error: f"must be a list, not {kind(error['input'])}",
    "model_type": lambda error: f"must be an object, not {kind(error['input'])}",
    "finite_number": lambda _: "must be a finite number",
    "greater_than": lambda error: (
        f"must be greater than {error['ctx']['gt']}; it is {shown(error['input'])}"
    ),
    "greater_than_equal": lambda error: (
        f"must be at least {error['ctx']['ge']}; it is {shown(error['input'])}"
    ),
    "less_than_equal": lambda error: (
        f"must be at most {error['ctx']['le']}; it is {shown(error['input'])}"
    ),
    "string_too_long": lambda error: (
        f"is {len(error['input'])} characters long; at most {error['ctx']['max_length']}"
    ),
    "literal_error": lambda error: (
        f"must be one of {', '.join(_choices(error))}; it is {shown(error['input'])}"
    ),
}


def _reason_of(error: ErrorDetails) -> str:
    ours = _REASONS.get(error["type"])
    return ours(error) if ours else error["msg"].removeprefix("Value error, ")
