"""What a seeded bug is, and what it may break."""

from __future__ import annotations

from dataclasses import dataclass

#: What a mutant breaks: the rules of the design by their numbers, and the detectors by name.
RULES = {
    "1": "one primary a lane",
    "2": "the ledger is the truth",
    "3": "only the newest attempt counts",
    "4": "an artifact appears once, whole",
    "5": "a job pins what decides its sound",
    "6": "nobody leads past the deadline",
    "7": "ready means it has spoken",
    "8": "coordination data is small",
    "segments": "a text goes on from its last segment",
    "epoch": "no epoch is given out twice",
    "switchover": "only the ordered successor leads",
    "watchdog": "only the dead are deposed",
    "recovery": "what the dead held is given back",
    "stuck": "an engine that hangs is ended",
    "poison": "a job that costs its workers is tried elsewhere, then ended with the evidence",
    "admission": "what a lane cannot do in time is refused, and its load is counted exactly",
    "batch": "every line of a batch is counted once, at its time",
    "voices": "a recording that is needed is there, and a version is never another one",
    "served": "what a speech server sends is checked, and nothing outlives its worker",
    "glmtts": "what the checkout of GLM-TTS does stays with it, and its history is the whole state",
    "routing": "a job goes where it can be served, or is refused at once",
    "device": "a device that is not well is not used",
}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug."""

    name: str
    rule: str  #: of `RULES`
    file: str
    text: str
    replacement: str
    suites: tuple[str, ...]  #: arguments of pytest
