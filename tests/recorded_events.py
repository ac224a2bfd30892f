"""Events that are only noted."""

from __future__ import annotations

from typing import Any


class RecordedEvents:
    """The stream of events, in a list."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def note(self, event: str, **fields: Any) -> None:
        self.seen.append((event, fields))

    emit = note

    def flush(self) -> None:
        return

    def named(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.seen if name == event]
