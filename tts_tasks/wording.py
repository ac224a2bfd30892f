"""Values from outside as they may stand in a message."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``; did you mean '...'?`` for the nearest known name, or an empty string."""
    # Comparing is quadratic in the length, and no name of ours is long.
    near = difflib.get_close_matches(name.lower(), known, n=1) if len(name) <= 64 else []
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(value: object, max_chars: int = 60) -> str:
    """Return a value as it may stand in a message: quoted, printable, and not too long."""
    if isinstance(value, str):
        cut = "..." if len(value) > max_chars else ""
        return f"{value[:max_chars]!r}{cut}"
    if isinstance(value, int) and value.bit_length() > 64:
        return "a very large number"
    return repr(value) if isinstance(value, int | float) else kind(value)


def kind(value: object) -> str:
    """Return what a JSON value is, in words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, list | tuple):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a Python {type(value).__name__}"
