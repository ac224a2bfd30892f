"""Digits that name something instead of counting it: telephone, card, room, version."""

from __future__ import annotations

import re
from typing import Final

from tts_workers.text.english.numbers import cardinal, spell, spell_groups
from tts_workers.text.rules import Rule, Start

_PHONE: Final = re.compile(
    r"(?:\+?(?P<country>[0-9]{1,3})[ -])?(?:\([0-9]{3}\) ?|[0-9]{3}[ -])[0-9]{3}[ -][0-9]{4}"
    r"(?![0-9-])"
)
_INTERNATIONAL: Final = re.compile(
    r"\+(?P<number>[1-9][0-9]{0,2}(?:[ -]?\(?[0-9]{1,11}\)?){1,5})(?![0-9])"
)
_LOCAL: Final = re.compile(r"[2-9][0-9]{2}-[0-9]{4}(?![0-9-])")
_CHINESE_PHONE: Final = re.compile(
    r"(?:(?:\+?86[ -]?)?1[3-9][0-9][ -]?[0-9]{4}[ -]?[0-9]{4}|\(?0[1-9][0-9]{1,2}[)]?[ -]"
    r"[2-9][0-9]{6,7}"
    r"|[48]00-(?:[0-9]{3}-[0-9]{4}|[0-9]{4}-[0-9]{3}|[0-9]{7}))(?![0-9-]|[.,][0-9])"
)
_CARD: Final = re.compile(r"[0-9]{4}(?:[ -][0-9]{4}){2,4}(?:[ -][0-9]{1,3})?(?![0-9])")
_AMOUNT_AFTER: Final = (
    r"(?![0-9]|[.,:/%‰][0-9]|\s?[%‰°]|\s(?:people|times|years|days|hours|minutes|dollars|yuan|percent"
    r"|million|thousand|billion|points|items|units)\b)"
)
_CUED: Final = re.compile(rf"[0-9](?:[ -]?[0-9]){{2,40}}{_AMOUNT_AFTER}")
_CUE: Final = re.compile(
    r"\b(?:codes?|PIN|OTP|passcode|password|number|account|card|ending"
    r"|ends|ending in|call|dial|phone|telephone|tel|mobile|hotline|fax|extension|ext|order"
    r"|reference|ref|tracking|invoice|case|ticket|zip|postcode|room|rm|suite|flight|train|apartment|apt|unit"
    r"|passport|policy|booking|confirmation|ID)\b\.?\s?(?:number|no\.?|code|#)?\s?"
    r"(?:us (?:on|at)|on|at|in|with|is|:|is:)?\s?[\"“(]?\s?$|-[0-9]{4} or $",
    re.IGNORECASE,
)
_EMERGENCY: Final = re.compile(r"(?:911|999|112)(?=\s(?:call|operator|emergency|dispatch))")
_FLAT: Final = re.compile(r"(?:0[0-9]+|[0-9]{11,})(?![0-9]|[.,][0-9]|\s?%)")
_DOTTED: Final = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6}){2,8}(?![0-9])")
_CHAINED: Final = re.compile(r"[0-9]{1,10}(?:-[0-9]{1,10}){2,8}(?![0-9])")


def _read_cued(match: re.Match[str]) -> str:
    groups = re.split("[ -]", match[0])
    return spell_groups(match[0]) if min(map(len, groups)) >= 3 else spell(match[0])


def _read_phone(match: re.Match[str]) -> str:
    plus = "plus " if match[0].startswith("+") else ""
    return plus + spell_groups(match[0]).replace("eight, zero zero,", "eight zero zero,")


def _read_dotted(match: re.Match[str]) -> str:
    parts = match[0].split(".")
    if len(parts) == 4:
        return " dot ".join(map(spell, parts))
    return " point ".join(map(cardinal, parts))


RULES: Final = (
    Rule("card in groups", Start.DIGIT, _CARD, lambda match: spell_groups(match[0])),
    Rule("Chinese phone", Start.DIGIT | Start.SYMBOL, _CHINESE_PHONE, _read_phone),
    Rule("phone", Start.DIGIT | Start.SYMBOL, _PHONE, _read_phone),
    Rule("international", Start.SYMBOL, _INTERNATIONAL, _read_phone),
    Rule("local phone", Start.DIGIT, _LOCAL, _read_phone),
    Rule("emergency number", Start.DIGIT, _EMERGENCY, lambda match: spell(match[0])),
    Rule("cued digits", Start.DIGIT, _CUED, _read_cued, cue=_CUE),
    Rule("long or zero-led digits", Start.DIGIT, _FLAT, lambda match: spell(match[0])),
    Rule("version or address", Start.DIGIT, _DOTTED, _read_dotted),
    Rule("chained by hyphens", Start.DIGIT, _CHAINED, lambda match: spell_groups(match[0])),
)
