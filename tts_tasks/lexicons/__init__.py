"""Lexicons: what is said for phrases that an engine would get wrong, in versions."""

from __future__ import annotations

from tts_tasks.lexicons.forms import FORMS, Exported, Form, export_lexicon, parse_lexicon
from tts_tasks.lexicons.lexicon import Entry, Kind, Lexicon, Match, entry, is_han
from tts_tasks.lexicons.pinyin import UNCHANGED
from tts_tasks.lexicons.store import (
    KeptLexicons,
    LexiconName,
    LexiconStore,
    LexiconVersion,
)

__all__ = [
    "FORMS",
    "UNCHANGED",
    "Entry",
    "Exported",
    "Form",
    "KeptLexicons",
    "Kind",
    "Lexicon",
    "LexiconName",
    "LexiconStore",
    "LexiconVersion",
    "Match",
    "entry",
    "export_lexicon",
    "is_han",
    "parse_lexicon",
]
