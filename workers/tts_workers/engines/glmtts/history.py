"""What was said before a segment, between the JSON of a job's state and the checkout's ``cache``.

The cache holds, for the voice's recording and for each segment since, the tokens of the text and
those of the speech; the checkout drops the oldest segments itself, before it would grow over 750
tokens of speech. The lists are made anew for each segment, as the checkout changes them in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tts_tasks.errors import EngineError

if TYPE_CHECKING:
    from tts_workers.engines.base import EngineState
    from tts_workers.engines.glmtts.voices import GlmVoice

_VERSION = 1
#: One token alone loses its dimension in the checkout's code, and then nothing goes on.
_FEWEST_TEXT_TOKENS = 2


def cache_of(voice: GlmVoice, state: EngineState | None, torch: Any) -> dict[str, Any]:
    """Return a fresh cache: the voice, then what ``state`` remembers.

    Raises `EngineError` for a state that this engine did not make.
    """
    texts, speech = _tokens_of(state)
    return {
        "cache_text": [voice.text, *("" for _ in texts)],
        "cache_text_token": [
            torch.tensor([tokens], dtype=torch.int32)
            for tokens in [list(voice.text_tokens), *texts]
        ],
        "cache_speech_token": [list(voice.speech_tokens), *(list(tokens) for tokens in speech)],
        "use_cache": True,
    }


def state_of(cache: dict[str, Any]) -> EngineState:
    """Return what is to be remembered of a cache: all but the voice, as plain numbers."""
    spoken = [
        ([int(token) for token in text.tolist()[0]], [int(token) for token in speech])
        for text, speech in zip(
            cache["cache_text_token"][1:], cache["cache_speech_token"][1:], strict=True
        )
    ]
    kept = [(text, speech) for text, speech in spoken if len(text) >= _FEWEST_TEXT_TOKENS]
    return {
        "version": _VERSION,
        "text_tokens": [text for text, _ in kept],
        "speech_tokens": [speech for _, speech in kept],
    }


def _tokens_of(state: EngineState | None) -> tuple[list[list[int]], list[list[int]]]:
    if state is None:
        return [], []
    texts, speech = state.get("text_tokens"), state.get("speech_tokens")
    if (
        state.get("version") != _VERSION
        or not isinstance(texts, list)
        or not isinstance(speech, list)
        or len(texts) != len(speech)
    ):
        raise EngineError("glmtts was handed a state that it did not make")
    return texts, speech
