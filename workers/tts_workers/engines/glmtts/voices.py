"""A voice as GLM-TTS takes it: made of a recording and its text, and packed for other workers."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tts_tasks.audio import resample
from tts_tasks.errors import EngineError, RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tts_workers.engines.glmtts.model import Model
    from tts_workers.engines.glmtts.prompt import Prompt

_HEARD_AT_HZ: Final = 16_000
_VERSION: Final = 1
_MELS: Final = 80
_MOST_PACKED_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class GlmVoice:
    """The encoding: the text's tokens, the speech's, its mel spectrum, and who speaks."""

    text: str
    text_tokens: tuple[int, ...]
    speech_tokens: tuple[int, ...]
    mel: NDArray[np.float32]  #: (frames, 80)
    speaker: NDArray[np.float32]  #: (192,)


def encode(model: Model, prompt: Prompt, sample_rate_hz: int) -> GlmVoice:
    """Encode a recording; only inside the checkout. Raises `RequestError` for an unusable one.

    The checkout is handed samples, not a file: its own way to read one needs torchcodec.
    """
    torch, frontend = model.torch, model.frontend
    heard = torch.from_numpy(resample(prompt.samples, prompt.sample_rate_hz, _HEARD_AT_HZ)[None])
    spoken = torch.from_numpy(resample(prompt.samples, prompt.sample_rate_hz, sample_rate_hz)[None])
    text = model.text.text_normalize(prompt.text)
    # the space is the checkout's: its own programs put it between the prompt and what follows
    text_tokens = frontend._extract_text_token(text + " ").tolist()[0]  # noqa: SLF001 - its API
    if len(text_tokens) < 2:
        raise RequestError("prompt_text", "is too short: record a whole sentence")
    speech = frontend._extract_speech_token([(heard, _HEARD_AT_HZ)])  # noqa: SLF001
    speech_tokens = speech.tolist()[0]
    if not speech_tokens:
        raise RequestError("prompt_audio", "no speech was found in it")
    mel = frontend._extract_speech_feat(spoken, sample_rate=sample_rate_hz)  # noqa: SLF001
    speaker = frontend._extract_spk_embedding(heard)  # noqa: SLF001
    return GlmVoice(
        text,
        tuple(map(int, text_tokens)),
        tuple(map(int, speech_tokens)),
        _array(mel)[0],
        _array(speaker)[0],
    )


def pack(voice: GlmVoice) -> bytes:
    """Return a voice as bytes, the same for the same voice; no pickle."""
    head = {
        "version": _VERSION,
        "text": voice.text,
        "text_tokens": voice.text_tokens,
        "speech_tokens": voice.speech_tokens,
    }
    packed = io.BytesIO()
    np.savez(
        packed,
        head=np.frombuffer(json.dumps(head).encode(), np.uint8),
        mel=voice.mel,
        speaker=voice.speaker,
    )
    return packed.getvalue()


def unpack(data: bytes) -> GlmVoice:
    """Return the voice that was packed; raises `EngineError` for anything else."""
    if len(data) > _MOST_PACKED_BYTES:
        raise EngineError(f"a packed voice of {len(data)} bytes is none of glmtts's")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as packed:
            head = json.loads(packed["head"].tobytes())
            mel, speaker = packed["mel"], packed["speaker"]
        voice = GlmVoice(
            str(head["text"]),
            _tokens(head["text_tokens"]),
            _tokens(head["speech_tokens"]),
            mel,
            speaker,
        )
        known = head["version"] == _VERSION
    # zipfile, zlib, numpy and json each have errors of their own for bytes that are damaged
    except Exception as error:  # noqa: BLE001
        raise EngineError(
            f"a packed voice cannot be read: {type(error).__name__}: {error}"
        ) from None
    if not known or not _is_sound(voice):
        raise EngineError("a packed voice is of another version, or damaged")
    return voice


def _tokens(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in values)


def _is_sound(voice: GlmVoice) -> bool:
    return (
        len(voice.text_tokens) >= 2
        and bool(voice.speech_tokens)
        and min(voice.text_tokens) >= 0
        and min(voice.speech_tokens) >= 0
        and voice.mel.ndim == 2
        and voice.mel.shape[0] > 0
        and voice.mel.shape[1] == _MELS
        and voice.speaker.ndim == 1
        and all(
            array.dtype == np.float32 and bool(np.isfinite(array).all())
            for array in (voice.mel, voice.speaker)
        )
    )


def _array(tensor: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.cpu().numpy(), dtype=np.float32)
