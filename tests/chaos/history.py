"""A run's history as the checker reads it: no I/O, plain records in, typed views out.

Kinds of records, each with ``at_s`` (CLOCK_BOOTTIME):

``run``        seed, minutes, kinds, network, storage, heartbeat_s, renew_deadline_s ...
``phase``      phase: control | faults | healing | end
``started``    worker, node, pid;  ``ended``  node, how, code, ordered
``fault``      phase: begin | end, number, fault; at the begin effects, node (None: of the store)
``event``      event, fields, id: an event of the cluster; at_s is when it happened there
``lease``      lane, epoch, holder: as seen in Redis
``submitted``  job (None: not known), outcome: accepted | unknown, text
``outcome``    job, state, attempt, worker, lease, name, sha256, duration_s, error, answered, text
``batch``      batch, accepted, ended_lines, report
``artifact``   when: seen | end, name, sha256, duration_s (None: not decodable), sidecar
``stray``      name: a visible file that is neither artifact nor report
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FaultSpan:
    """One fault from its begin to its end."""

    number: int
    name: str
    effects: frozenset[str]
    node: str | None  #: the worker that it hurt; None: all of them
    begin_s: float
    end_s: float
    facts: Record

    def hurts(self, node: str) -> bool:
        """Whether this worker felt it."""
        return self.node is None or self.node == node


def node_of(worker_id: str) -> str:
    """Return the node's name, with which a worker's id begins."""
    return worker_id.partition("/")[0]


class History:
    """Indexes over the records of one run."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._by_kind: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            self._by_kind[record["kind"]].append(record)

    def of(self, kind: str) -> list[Record]:
        """Return the records of a kind, in the order of writing."""
        return self._by_kind[kind]

    @cached_property
    def run(self) -> Record:
        """What the run was."""
        return self.of("run")[0]

    def events(self, *names: str) -> Iterator[Record]:
        """Yield the cluster's events of these names, in the order of the stream."""
        for record in self.of("event"):
            if record["event"] in names:
                yield record

    @cached_property
    def end_s(self) -> float:
        """When the run ended: nothing is known of later."""
        return float(max(r["at_s"] for records in self._by_kind.values() for r in records))

    @cached_property
    def control(self) -> tuple[float, float] | None:
        """Begin and end of the phase without faults."""
        begins = {record["phase"]: float(record["at_s"]) for record in self.of("phase")}
        if "control" not in begins:
            return None
        later = [at_s for at_s in begins.values() if at_s > begins["control"]]
        return begins["control"], min(later, default=self.end_s)

    @cached_property
    def faults(self) -> list[FaultSpan]:
        """Every fault; one without a recorded end is held until the end of the run."""
        ends = {r["number"]: r["at_s"] for r in self.of("fault") if r["phase"] == "end"}
        return [
            FaultSpan(
                number=record["number"],
                name=record["fault"],
                effects=frozenset(record["effects"]),
                node=record["node"],
                begin_s=float(record["at_s"]),
                end_s=float(ends.get(record["number"], self.end_s)),
                facts=record,
            )
            for record in self.of("fault")
            if record["phase"] == "begin"
        ]

    def faults_with(self, *effects: str) -> list[FaultSpan]:
        """Return the faults that have any of these effects."""
        return [fault for fault in self.faults if fault.effects & set(effects)]

    @cached_property
    def ended_nodes(self) -> dict[str, float]:
        """Return when each worker that ended was certainly gone."""
        return {record["node"]: float(record["at_s"]) for record in self.of("ended")}

    @cached_property
    def outcomes(self) -> dict[str, Record]:
        """The ledger's last word on each job."""
        return {record["job"]: record for record in self.of("outcome")}

    @cached_property
    def artifacts(self) -> dict[str, Record]:
        """The artifacts that are there at the end, by name."""
        return {r["name"]: r for r in self.of("artifact") if r["when"] == "end"}
