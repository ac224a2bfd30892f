"""What stands between our segments and the checkout's text front end, in its place.

Our own front end has normalised and cut the text. The checkout would cut it again, and on some
texts its cutting fails: a clause of few but long words, a space at the beginning. Handed this in
place of its front end, it takes a segment as it is. Its normaliser still runs, as the model was
trained on what that writes; phonemes are kept from it, for it would spell them out.
"""

from __future__ import annotations

import re
from typing import Any, Final

from tts_tasks.errors import UnspeakableTextError

#: One or more phonemes as the model's tokens, ``<|CH|><|ONG2|>``.
_PHONEMES: Final = re.compile(r"((?:<\|[A-Z]{1,4}[1-5]?\|>)+)")
#: Stands for phonemes while the text is normalised: a character that no text needs, and that a
#: normaliser for Chinese leaves where it is.
_STAND_IN: Final = "龦"


class TextGuard:
    """The checkout's ``TextFrontEnd`` as far as ``generate_long`` uses it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def split_by_len(self, text: str, *_: object, **__: object) -> list[str]:
        """Return the text whole."""
        return [text]

    def text_normalize(self, text: str) -> str:
        """Normalise as the checkout does; raises `UnspeakableTextError` if nothing is left."""
        text = text.strip()
        phonemes = _PHONEMES.findall(text)
        plain = _PHONEMES.sub(_STAND_IN, text.replace(_STAND_IN, ""))
        normalised = str(self._inner.text_normalize(plain) or "")
        if not any(map(str.isalnum, normalised)):
            raise UnspeakableTextError(
                f"GLM-TTS's text normaliser leaves nothing of {text[:40]!r} to speak"
            )
        parts = normalised.split(_STAND_IN)
        if len(parts) != len(phonemes) + 1:
            raise UnspeakableTextError(
                f"GLM-TTS's text normaliser lost the phonemes of {text[:40]!r}"
            )
        rest = [piece for pair in zip(phonemes, parts[1:], strict=True) for piece in pair]
        return "".join([parts[0], *rest]).strip()

    def g2p_infer(self, text: str) -> str:
        """Turn the checkout's choice of characters into phonemes; those there are stay."""
        parts = _PHONEMES.split(text)
        plain = [str(self._inner.g2p_infer(part)) if part else "" for part in parts[::2]]
        parts[::2] = plain
        return "".join(parts)


def without_phonemes(text: str) -> str:
    """Return a text in which nothing looks like one of the model's own tokens."""
    return text.replace("<|", " ").replace("|>", " ")
