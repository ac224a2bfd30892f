"""What the command line and Python users call to look after lexicons.

Each works with this process's settings and raises the errors of `tts_tasks.errors`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tts_tasks.errors import NotFoundError, RequestError
from tts_tasks.events import event_log
from tts_tasks.lexicons.forms import Exported, Form, export_lexicon, parse_lexicon
from tts_tasks.lexicons.store import LexiconStore, LexiconVersion
from tts_tasks.pinning import forget_recent
from tts_tasks.settings import get_settings
from tts_tasks.storage import open_storage

if TYPE_CHECKING:
    from tts_tasks.lexicons.lexicon import Lexicon


def lexicon_add(name: str, data: bytes, *, form: Form | None = None) -> LexiconVersion:
    """Make a file's content the newest version of a lexicon; jobs accepted from now on use it."""

    def tell(made: LexiconVersion) -> None:
        event_log(get_settings()).emit(
            "lexicon.added", lexicon=name, version=made.version, sha256=made.sha256
        )

    made = _store().add(name, parse_lexicon(data, form), on_made=tell)
    forget_recent()
    return made


def lexicon_list() -> list[LexiconVersion]:
    """Return the newest version of each lexicon, by name."""
    return _store().all()


def lexicon_versions(name: str) -> list[LexiconVersion]:
    """Return all versions of a lexicon, the oldest first; raises `NotFoundError`."""
    versions = _store().versions(name)
    if not versions:
        raise NotFoundError(f"there is no lexicon {name}; `ttsctl lexicon ls` lists them")
    return versions


def lexicon_read(name: str) -> Lexicon:
    """Return the content of ``NAME`` or ``NAME@VERSION``; raises `NotFoundError`."""
    try:
        return _store().read(name)
    except RequestError as error:
        raise NotFoundError(error.reason) from None


def lexicon_export(name: str, form: Form) -> Exported:
    """Return a lexicon in a form, with what that form has no way to say."""
    return export_lexicon(lexicon_read(name), form)


def lexicon_remove(name: str) -> LexiconVersion:
    """Let new jobs use a lexicon no more; those that were accepted with it still do."""
    made = _store().remove(name)
    event_log(get_settings()).emit("lexicon.removed", lexicon=name, version=made.version)
    forget_recent()
    return made


def _store() -> LexiconStore:
    return LexiconStore(open_storage(get_settings().storage_url))
