"""Written abbreviations that are said in full, and those whose dot does not end a sentence."""

from __future__ import annotations

import re
from typing import Final

from tts_workers.text.rules import Rule, Start

_SAID_IN_FULL: Final = {
    "Dr.": "Doctor", "Mr.": "Mister", "Mrs.": "Missus", "Prof.": "Professor", "Jr.": "Junior",
    "Sr.": "Senior", "Gen.": "General", "Capt.": "Captain", "Lt.": "Lieutenant", "Sgt.": "Sergeant",
    "Gov.": "Governor", "Sen.": "Senator", "Rev.": "Reverend", "vs.": "versus",
    "approx.": "approximately", "e.g.": "for example", "i.e.": "that is", "etc.": "et cetera",
    "Dept.": "Department", "dept.": "department", "Ave.": "Avenue", "Blvd.": "Boulevard",
    "Mt.": "Mount", "Ext.": "Extension", "ext.": "extension", "Tel.": "Telephone",
}  # fmt: skip
#: Said as they stand; listed so that a sentence is not cut behind them.
ABBREVIATIONS: Final = frozenset(
    {
        "dr", "mr", "mrs", "ms", "prof", "jr", "sr", "st", "gen", "capt", "lt", "sgt", "gov",
        "sen", "rep", "rev", "vs", "approx", "dept", "ave", "blvd", "mt", "ext", "tel", "inc",
        "ltd", "co", "corp", "no", "nos", "vol", "fig", "sec", "ed", "pp", "al", "ca", "cf",
        "e.g", "i.e", "u.s", "u.k", "u.n", "ph.d", "a.m", "p.m",
    }
)  # fmt: skip
_PATTERN: Final = re.compile(
    "|".join(re.escape(name) for name in sorted(_SAID_IN_FULL, key=len, reverse=True))
)
#: These end a sentence as often as not: their dot is kept when a new sentence follows.
_MAY_END: Final = frozenset({"etc.", "Jr.", "Sr.", "Ave.", "Blvd."})


def _read(match: re.Match[str]) -> str:
    after = match.string[match.end() : match.end() + 2]
    ends = match[0] in _MAY_END and (
        not after.strip() or (after[0] in " \n" and after[1].isupper())
    )
    return _SAID_IN_FULL[match[0]] + ("." if ends else "")


RULES: Final = (Rule("abbreviation", Start.LETTER, _PATTERN, _read),)
