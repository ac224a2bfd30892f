"""First step of the front end: characters and markup that are not speech go, variants are unified.

After `clean` a text holds ASCII digits only (superscripts apart), one kind of line break, no
control or format characters, no pictograph, and no HTML, SSML or Markdown syntax. Chinese
punctuation stays as it is; full-width letters, digits and technical symbols become ASCII.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache
from typing import Final

#: Elements whose tags are removed. Other ``<...>`` is left: it may be a comparison, not markup.
_TAG_NAMES: Final = (
    r"abbr|article|audio|blockquote|body|break|br|button|b|center|cite|code|dd|"
    r"del|details|div|dl|dt|em|emphasis|figcaption|figure|font|footer|form|h[1-6]|"
    r"header|head|hr|html|img|ins|input|i|kbd|label|lang|link|li|main|mark|"
    r"meta|nav|ol|option|phoneme|prosody|pre|p|q|rp|rt|ruby|samp|say-as|script|"
    r"section|select|small|span|speak|strike|strong|style|summary|sub|sup|svg|s|"
    r"table|tbody|td|textarea|tfoot|thead|th|time|title|tr|tt|ul|u|var|video|"
    r"voice|wbr|a"
)
_BLOCK: Final = re.compile(
    r"article|blockquote|br|dd|div|dl|dt|figure|footer|form|h[1-6]|header|hr|li|"
    r"main|nav|ol|pre|p|section|table|td|th|title|tr|ul"
)
_TAG: Final = re.compile(rf"</?({_TAG_NAMES})(?:[\s/][^<>]{{0,1000}})?>", re.IGNORECASE)
_HIDDEN: Final = (("<!--", "-->"), ("<script", "</script>"), ("<style", "</style>"))
_ENTITY: Final = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});")
_MARKDOWN_LINK: Final = re.compile(r"!?\[([^\[\]\n]{0,300})\]\([^()\s]{0,1000}\)")
_MARKDOWN_LINE: Final = re.compile(
    r"^[ \t]*+(?:#{1,6}[ \t]+|>[ \t]+|[-*+•·▪◦][ \t]+)", re.MULTILINE
)
_MARKDOWN_SPAN: Final = re.compile(r"\*\*+|__+|~~+|``+")
_LINE_BREAK: Final = re.compile(r"\r\n?|[\n\v\f\x85\u2028\u2029]")

_WIDTH: Final = {
    **{code: code - 0xFEE0 for code in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B))},
    **{code: code - 0xFEE0 for code in range(0xFF41, 0xFF5B)},
    **{ord(char): ord(char) - 0xFEE0 for char in "％＋－／＄＠＃＆＝＊＜＞～＿｜＾．＂＇＼｀"},
}
_VARIANTS: Final = {
    **_WIDTH,
    **str.maketrans("−‐‑‒﹣⁄∶〜∼〇￥￡", "-----/:~~零¥£"),
    **str.maketrans({"℃": "°C", "℉": "°F", "º": "°", "µ": "μ", "№": "No.", "﹪": "%", "٪": "%"}),
}
#: Symbols (Unicode category So) that are read; all others are pictures.
_READ_SYMBOLS: Final = frozenset("°")


def clean(text: str) -> str:
    """Return ``text`` without markup and without characters that cannot be spoken.

    Removed characters leave a space where they separated words, and nothing where they are
    invisible (zero-width joiners, soft hyphens, variation selectors).
    """
    text = _LINE_BREAK.sub("\n", _strip_markup(text))
    text = "".join(map(_unify, text))
    return unicodedata.normalize("NFC", text)


def _strip_markup(text: str) -> str:
    if "<" in text:
        for opening, closing in _HIDDEN:
            text = _without_blocks(text, opening, closing)
        text = _TAG.sub(_tag_replacement, text)
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    text = _MARKDOWN_LINK.sub(r"\1", text)
    return _MARKDOWN_SPAN.sub("", _MARKDOWN_LINE.sub("", text))


def _without_blocks(text: str, opening: str, closing: str) -> str:
    """Remove every ``opening ... closing``; an opening that is never closed is left alone."""
    folded = text.lower()
    if len(folded) != len(text):  # a few capitals grow in lower case: offsets would not fit
        folded = text
    kept: list[str] = []
    position = 0
    while (start := folded.find(opening, position)) >= 0:
        end = folded.find(closing, start)
        if end < 0:
            break
        kept += text[position:start], " "
        position = end + len(closing)
    return "".join((*kept, text[position:]))


def _tag_replacement(match: re.Match[str]) -> str:
    return "\n" if _BLOCK.fullmatch(match[1].lower()) else ""


@lru_cache(maxsize=8192)
def _unify(char: str) -> str:
    """Return what stands for one character: itself, its plain variant, a space, or nothing."""
    if char == "\n" or " " <= char <= "~":
        return char
    variant = _VARIANTS.get(ord(char))
    if variant is not None:
        return variant if isinstance(variant, str) else chr(variant)
    category = unicodedata.category(char)
    if category[0] == "N":
        return _unify_number(char)
    if category in {"So", "Sk"}:
        return _unify_symbol(char)
    if category[0] == "Z" or char == "\t":
        return " "
    is_invisible = category[0] == "C" or category == "Me" or "\ufe00" <= char <= "\ufe0f"
    return "" if is_invisible else char


def _unify_number(char: str) -> str:
    """Write a numeric character with ASCII digits: ``٣`` 3, ``½`` 1/2, ``Ⅲ`` III, ``①`` (1)."""
    decimal = unicodedata.decimal(char, None)
    if decimal is not None:
        return str(decimal)
    decomposition = unicodedata.decomposition(char)
    plain = unicodedata.normalize("NFKC", char)
    if decomposition.startswith("<super>"):
        return char
    if decomposition.startswith("<fraction>"):
        return " " + plain.replace("⁄", "/")
    if decomposition.startswith("<circle>") and plain.isdecimal():
        return f"({plain})"
    if plain != char:
        return plain
    value = unicodedata.numeric(char, -1.0)
    return f"({int(value)})" if value >= 0 and value == int(value) else " "


def _unify_symbol(char: str) -> str:
    if char in _READ_SYMBOLS:
        return char
    if "㌀" <= char <= "㏿":  # squared units: ㎡, ㎏
        codes = unicodedata.decomposition(char).split()[1:]
        return "".join(chr(int(code, 16)) for code in codes)
    return "" if "\U0001f3fb" <= char <= "\U0001f3ff" else " "
