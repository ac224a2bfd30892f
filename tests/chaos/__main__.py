"""Hurt a real cluster for some minutes and judge what it did: ``python -m tests.chaos``.

The last line on stdout is the summary. Exit code 0: nothing was broken; 1: something was, and the
history and the logs are kept where the output says; 2: the experiment itself failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.chaos.campaign import Campaign
from tests.chaos.checker import Verdict, check
from tests.chaos.network import NetworkError
from tests.chaos.recorder import Recorder
from tests.chaos.schedule import KINDS
from tests.chaos.world import ENGINES, ChaosError, World

if TYPE_CHECKING:
    from types import FrameType

HISTORY = "history.jsonl"


def main() -> int:
    """Run, judge, report."""
    arguments = _arguments()
    if arguments.check:
        verdict = judge(arguments.check)
        _report(verdict, arguments.check.parent)
        return 0 if verdict.good else 1
    kinds = [kind for kind in KINDS if not arguments.only or kind.name in arguments.only]
    directory = arguments.keep or Path(tempfile.mkdtemp(prefix="tts-chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / HISTORY).exists():
        print(f"{directory} holds a history already: choose another folder", file=sys.stderr)  # noqa: T201
        return 2
    recorder = Recorder(directory / HISTORY)
    world = World(
        directory,
        recorder,
        network=arguments.network,
        minutes=arguments.minutes,
        engine=arguments.engine,
    )
    signal.signal(signal.SIGTERM, _interrupt)
    failed = False
    try:
        Campaign(world, recorder, seed=arguments.seed, minutes=arguments.minutes).run(kinds)
    except (ChaosError, NetworkError) as error:
        print(f"the experiment failed: {error}", file=sys.stderr)  # noqa: T201
        failed = True
    except Exception:  # noqa: BLE001 - whatever it was: the world must be ended, and the log kept
        traceback.print_exc()
        failed = True
    finally:
        world.stop()
        recorder.close()
    if failed:
        print(f"history and logs: {directory}", file=sys.stderr)  # noqa: T201
        return 2
    verdict = judge(directory / HISTORY)
    _report(verdict, directory)
    if verdict.good and not arguments.keep:
        shutil.rmtree(directory, ignore_errors=True)
    return 0 if verdict.good else 1


def judge(history: Path) -> Verdict:
    """Read a history and check it."""
    with history.open(encoding="utf-8") as lines:
        return check([json.loads(line) for line in lines])


def _report(verdict: Verdict, directory: Path) -> None:
    run = json.loads(next(line for line in (directory / HISTORY).open() if '"kind": "run"' in line))
    for violation in verdict.violations:
        print(f"VIOLATION {violation}")  # noqa: T201
    if not verdict.good:
        print(f"history and logs: {directory}")  # noqa: T201
    faults = ",".join(f"{name}:{times}" for name, times in sorted(verdict.faults.items()))
    figures = {
        "seed": run["seed"],
        "minutes": f"{run['minutes']:g}",
        "network": run["network"],
        "faults": faults or "none",
        "jobs": verdict.jobs,
        "failed": verdict.failed,
        "takeovers": verdict.takeovers,
        "refusals": verdict.refusals,
        "redone": verdict.redone,
        "lost": verdict.count("lost"),
        "doubled": verdict.count("doubled"),
        "changed": verdict.count("changed"),
        "unknown": verdict.unknown,
        "verdict": "good" if verdict.good else f"{len(verdict.violations)} violations",
    }
    print("chaos " + " ".join(f"{key}={value}" for key, value in figures.items()))  # noqa: T201


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="of load; healing comes on top")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--network", choices=("auto", "netns", "proxy"), default="auto")
    parser.add_argument(
        "--engine",
        choices=sorted(ENGINES),
        default="espeak",
        help="what speaks; glmtts: on the double of its checkout",
    )
    parser.add_argument("--only", action="append", metavar="FAULT", help="repeatable: these kinds")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep history and logs there")
    parser.add_argument("--check", type=Path, metavar="FILE", help="judge a kept history again")
    arguments = parser.parse_args()
    unknown = set(arguments.only or ()) - {kind.name for kind in KINDS}
    if unknown:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    if arguments.keep:
        arguments.keep = arguments.keep.absolute()
    return arguments


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
