"""Turns of outputs: batches that write into the same folder are worked on one after the other.

First come, first served, by the order in which they were opened. Nobody has to pass a turn on: a
batch that is over, gone or deserted does not count when the next one looks. Proved by
``tests/contract/test_batch_shares.py``.
"""

from __future__ import annotations

from collections import defaultdict
from enum import Enum, auto
from typing import TYPE_CHECKING

from tts_tasks import keys
from tts_tasks.redis_connection import RedisClient, Scripts, server_time_ms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: The field of the hash that is no batch: the number of its last change.
NUMBER = "#"

#: What of a batch's hash decides whether it still holds its turn.
_FIELDS = (
    "source",
    "cancelled_ms",
    "sealed",
    "accepted",
    "succeeded",
    "failed",
    "cancelled",
    "alive_ms",
)


class TurnOrder:
    """Which batches come before which. Pure; both books of batches use it.

    Two outputs overlap if they are equal or one is a parent folder of the other.
    """

    def __init__(self, entries: Mapping[str, str]) -> None:
        """``entries``: batch → ``"number output"``, the numbers in the order of arrival."""
        self.entries = dict(entries)
        self._at: dict[str, list[str]] = defaultdict(list)
        self._below: dict[str, list[str]] = defaultdict(list)
        for batch_id, entry in entries.items():
            output = _output(entry)
            self._at[output].append(batch_id)
            for folder in (output, *_parents(output)):
                self._below[folder].append(batch_id)

    def before(self, batch_id: str) -> list[str]:
        """Return the batches that came earlier with an overlapping output, in their order."""
        entry = self.entries[batch_id]
        output = _output(entry)
        overlapping = set(self._below.get(output, ()))
        for folder in _parents(output):
            overlapping.update(self._at.get(folder, ()))
        came = {other: _number(self.entries[other]) for other in overlapping}
        earlier = [other for other, number in came.items() if number < _number(entry)]
        return sorted(earlier, key=came.__getitem__)


class Turns:
    """The outputs that batches write to or wait for, in Redis."""

    def __init__(self, client: RedisClient, scripts: Scripts, *, unsealed_grace_s: float) -> None:
        self._client = client
        self._scripts = scripts
        self._grace_ms = unsealed_grace_s * 1000
        self._seen: tuple[str | None, TurnOrder] = (None, TurnOrder({}))

    def enter(self, batch_id: str, output: str) -> None:
        """Let a batch wait for its turn; who waits already keeps its place."""
        self._scripts.run("enter_turn", [keys.TURNS], [batch_id, output])

    def leave(self, batch_id: str, seen: str = "*") -> None:
        """Pass a batch's turn on. ``seen``: only this entry."""
        self._scripts.run("leave_turn", [keys.TURNS], [batch_id, seen])

    def waits_for(self, batch_id: str) -> list[str]:
        """Return the batches whose turn comes before; empty: it has its turn, or needs none."""
        if self._claim_of(batch_id) is _Claim.NONE:
            return []
        order = self._order_with(batch_id, self.order(None))
        return [other for other in order.before(batch_id) if self._keeps(other, order)]

    def has_turn(self, batch_id: str, known: dict[str, bool]) -> bool:
        """Whether a batch may be worked on, by the order that was read last.

        ``known``: which others keep their turn, as found out so far; it is added to.
        """
        order = self._seen[1]
        if batch_id not in order.entries:
            if self._claim_of(batch_id) is _Claim.NONE:
                return True  # there is nothing to wait with
            order = self._order_with(batch_id, order)
        for other in order.before(batch_id):
            if other not in known:
                known[other] = self._keeps(other, order)
            if known[other]:
                return False
        return True

    def order(self, number: str | None) -> TurnOrder:
        """Return the order as of the hash's ``number``; it is read where that is another one."""
        if number is None or self._seen[0] != number:
            entries: dict[str, str] = self._client.hgetall(keys.TURNS)
            self._seen = (entries.pop(NUMBER, None), TurnOrder(entries))
        return self._seen[1]

    def _order_with(self, batch_id: str, order: TurnOrder) -> TurnOrder:
        """Return an order that has the batch: as the last one, if nobody has entered it."""
        while batch_id not in order.entries:
            output = self._client.hget(keys.batch(batch_id), "output")
            self.enter(batch_id, output or batch_id)
            order = self.order(None)
        return order

    def _keeps(self, batch_id: str, order: TurnOrder) -> bool:
        """Whether a batch goes first; if it has no right to, its entry is struck off."""
        if self._claim_of(batch_id) is _Claim.FULL:
            return True
        self.leave(batch_id, order.entries[batch_id])
        return False

    def _claim_of(self, batch_id: str) -> _Claim:
        source, cancelled_ms, sealed, accepted, *ended, alive_ms = self._client.hmget(
            keys.batch(batch_id), _FIELDS
        )
        if source is None or cancelled_ms is not None:
            return _Claim.NONE
        if sealed == "1":
            open_lines = int(accepted) - sum(int(number or 0) for number in ended)
            return _Claim.FULL if open_lines > 0 else _Claim.NONE
        silent_ms = server_time_ms(self._client) - int(alive_ms)
        return _Claim.FULL if silent_ms <= self._grace_ms else _Claim.LAPSED


class _Claim(Enum):
    """What a batch's state gives it a right to."""

    NONE = auto()  #: it is over: complete, cancelled or gone
    LAPSED = auto()  #: its submitter has deserted it: it goes on, but others need not wait for it
    FULL = auto()


def _number(entry: str) -> int:
    return int(entry.partition(" ")[0])


def _output(entry: str) -> str:
    return entry.partition(" ")[2]


def _parents(output: str) -> Iterator[str]:
    """Yield the folders that an output lies in, the nearest first."""
    while output:
        output = output.rpartition("/")[0]
        yield output
