"""IPA as lexicons hold it: characters of the International Phonetic Alphabet, checked."""

from __future__ import annotations

import unicodedata
from typing import Final

_LETTERS: Final = (
    "abcdefhijklmnopqrstuvwxyz"
    "ɡɢɣɥɦɧɨɪɫɬɭɮɯɰɱɲɳɴɵɶɸɹɺɻɽɾʀʁʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʘʙʛʝʟʡʢǀǁǂǃ"
    "ɐɑɒɓɔɕɖɗɘəɚɛɜɝɞɟɠæçðøħŋœβθχɤɩɷ"
)
_STRESS_AND_LENGTH: Final = "ˈˌːˑ˘.‿|‖ "
_MODIFIERS: Final = "ʰʱʲʷˠˤⁿˡʼ˞˥˦˧˨˩ꜛꜜ↗↘͜͡"
_KNOWN: Final = frozenset(_LETTERS + _STRESS_AND_LENGTH + _MODIFIERS)
#: What keyboards have for what IPA has.
_VARIANTS: Final = str.maketrans({"g": "ɡ", "'": "ˈ", ":": "ː", "’": "ˈ"})


def parse_ipa(written: str) -> str:
    """Return a transcription without its slashes or brackets; raises ValueError."""
    text = unicodedata.normalize("NFD", written.strip()).translate(_VARIANTS)
    # The cedilla belongs to the letter, other marks below and above are diacritics.
    text = text.replace("c\u0327", "ç")
    for opening, closing in (("/", "/"), ("[", "]")):
        if text.startswith(opening) and text.endswith(closing) and len(text) > 1:
            text = text[1:-1].strip()
    for char in text:
        if char not in _KNOWN and not "\u0300" <= char <= "\u036f":
            raise ValueError(f"{char!r} (U+{ord(char):04X}) is no character of the IPA")
    if not any(char in _LETTERS or char == "ɡ" for char in text):
        raise ValueError("holds no sound")
    return text
