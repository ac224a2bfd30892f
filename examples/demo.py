"""The main job, with a death in the middle: ``make demo``.

Starts Redis, two workers and Flower from nothing, submits announcements.jsonl, kills the active
primary half-way with SIGKILL, waits for the end, checks every file, and says what happened.
Exits 0 only if nothing was lost, nothing was doubled, and what was made is speech.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import soundfile

from tts_workers.text import normalise, speech_units

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
BATCH_FILE = HERE / "announcements.jsonl"
OUTPUT = HERE.parent / "demo-out"
BATCH = "announcements"
DEADLINE_S = 120
#: espeak speaks an hour in seconds, which is too fast to be killed in the middle. `paced` is the
#: same engine, and the same sound to the bit, at this many seconds of work for one of audio.
COST = "0.05"
#: Seconds of audio for one Chinese syllable (or three letters): slower or faster is not speech.
SECONDS_A_UNIT = (0.08, 0.6)


class Cluster:
    """`ttsctl` with a state of its own, so that the demo meets nobody else's cluster."""

    def __init__(self, home: Path) -> None:
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("TTS_")},
            "TTS_HOME": str(home),
            "TTS_ENGINE": "paced",
            "TTS_PACED_COST": COST,
        }

    def ttsctl(self, *words: str, may_exit: tuple[int, ...] = (0,)) -> str:
        """Run a command as a user would; returns what it answered."""
        done = subprocess.run(
            [sys.executable, "-m", "ttsctl", *words],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode not in may_exit:
            raise SystemExit(f"ttsctl {' '.join(words)} exited with {done.returncode}")
        return done.stdout

    def json(self, *words: str) -> Any:
        """Run a command that answers with one JSON object."""
        return json.loads(self.ttsctl(*words, "-o", "json"))

    def lines(self, *words: str) -> list[dict[str, Any]]:
        """Run a command that answers with JSON lines."""
        return [json.loads(line) for line in self.ttsctl(*words, "-o", "jsonl").splitlines()]


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Start everything; stop it and remove its state whatever happens."""
    home = Path(tempfile.mkdtemp(prefix="tts-demo-"))
    cluster = Cluster(home)
    try:
        say("Starting Redis, two workers and Flower (ttsctl up --detach) ...")
        cluster.ttsctl("up", "--detach", "--workers", "2", "--gpu", "cpu")
        yield cluster
    finally:
        say("\nStopping it all (ttsctl down) ...")
        cluster.ttsctl("down", may_exit=(0, 1))
        shutil.rmtree(home, ignore_errors=True)


def say(*words: object) -> None:
    """Tell the person in front of the terminal."""
    print(*words, flush=True)


def wait_until_half_done(cluster: Cluster) -> dict[str, Any]:
    """Return the batch's status once half of its lines are done."""
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        status = cluster.json("batch", "show", BATCH)
        if status["succeeded"] * 2 >= status["total"] - status["rejected"]:
            return dict(status)
        if time.monotonic() > deadline_s:
            raise SystemExit("the batch does not get on; see the logs")
        time.sleep(0.1)


def kill_the_primary(cluster: Cluster) -> str:
    """Send SIGKILL to the worker that the lease names; returns its id."""
    status = cluster.json("status")
    primary = status["lanes"][0]["primary"]
    pid = next(worker["pid"] for worker in status["workers"] if worker["id"] == primary)
    os.kill(pid, signal.SIGKILL)
    return str(primary)


def faults_of(line: dict[str, Any], text: str) -> str | None:
    """Say what is wrong with a published artifact, if anything is."""
    path = OUTPUT / str(line["name"]).removeprefix(f"{BATCH}/")
    samples, rate_hz = soundfile.read(path)
    seconds_a_unit = len(samples) / rate_hz / speech_units(normalise(text))
    peak = abs(samples).max()
    if not SECONDS_A_UNIT[0] <= seconds_a_unit <= SECONDS_A_UNIT[1]:
        return f"{path.name}: {seconds_a_unit:.2f} s a syllable is not speech"
    if peak < 0.05:
        return f"{path.name} is silent"
    if path.suffix in {".wav", ".flac"} and peak >= 1.0:
        return f"{path.name} is clipped"
    return None


def tell_the_story(events: list[dict[str, Any]], killed: str) -> None:
    """Print who led, who died and who took over, with times."""
    say("\nWhat happened (ttsctl events):")
    for event in events:
        match event["event"]:
            case "lease.acquired":
                what = f"{event['holder']} became primary (epoch {event['epoch']})"
            case "lease.deposed":
                what = f"{event['holder']} was deposed: {event['reason']}"
            case "worker.dead":
                given_back = len(event["jobs"]) + event["lines"]
                what = f"{event['worker']} is dead; jobs given back: {given_back}"
            case "job.recovered":
                what = f"job {event['job']} goes to another worker after attempt {event['attempt']}"
            case "up.process_ended":
                what = f"{event['node']} ended; ttsctl up starts a new one"
            case "worker.ready":
                what = f"{event['worker']} is ready"
            case _:
                continue
        mark = "  <- the one we killed" if killed in event.values() else ""
        say(f"  {event['time'][11:23]}  {what}{mark}")


def check(report: list[dict[str, Any]], submitted: int) -> list[str]:
    """Return every broken promise, in words."""
    texts = {}
    for raw in BATCH_FILE.read_text(encoding="utf-8").splitlines():
        try:
            item = json.loads(raw)
            texts[item["id"]] = item["text"]
        except ValueError:
            continue  # one of the three lines that are wrong on purpose
    states = Counter(line["state"] for line in report)
    names = Counter(line["name"] for line in report if line["state"] == "succeeded")
    files = [path for path in OUTPUT.rglob("*") if path.is_file()]
    problems = []
    lost = submitted - sum(states.values()) + states["failed"]
    doubled = sum(count - 1 for count in names.values()) + abs(len(files) - len(names))
    redone = [line for line in report if (line["attempt"] or 0) > 1]
    say(
        f"\n{submitted} lines: {states['succeeded']} spoken, {states['rejected']} rejected at the "
        f"door, {len(redone)} redone, {lost} lost, {doubled} doubled."
    )
    if lost or doubled or states["rejected"] != 3:
        problems.append("lines were lost, doubled or wrongly rejected")
    problems += [
        fault
        for line in report
        if line["state"] == "succeeded" and (fault := faults_of(line, texts[line["id"]]))
    ]
    return problems


def main() -> None:
    """Run the demo."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started_s = time.monotonic()
    submitted = sum(1 for line in BATCH_FILE.read_bytes().splitlines() if line.strip())
    with running_cluster() as cluster:
        say(
            f"\nSubmitting {BATCH_FILE.name}: {submitted} lines, three of them wrong on purpose ..."
        )
        cluster.ttsctl("submit", str(BATCH_FILE), "--id", BATCH, "--no-wait", may_exit=(3,))
        status = wait_until_half_done(cluster)
        killed = kill_the_primary(cluster)
        say(f"\nkill -9 of the primary {killed}, {status['succeeded']} jobs done.\n")
        cluster.ttsctl("batch", "watch", BATCH, "--timeout-s", str(DEADLINE_S), may_exit=(3,))
        wait_for_the_new_standby(cluster)
        report = cluster.lines("batch", "report", BATCH)
        shutil.rmtree(OUTPUT, ignore_errors=True)
        cluster.ttsctl("batch", "fetch", BATCH, "--to", str(OUTPUT))
        tell_the_story(cluster.lines("events"), killed)
        problems = check(report, submitted)
    say(f"Listen: {OUTPUT}/ (for example {next(OUTPUT.rglob('*.wav'))})")
    say(f"Took {time.monotonic() - started_s:.0f} s.")
    say(
        "\nGo on by hand:\n"
        "  . .venv/bin/activate\n"
        "  ttsctl up --detach && ttsctl status\n"
        "  ttsctl say '列车即将进站。' --file arrival.wav\n"
        "  ttsctl submit examples/announcements.jsonl\n"
        "  ttsctl down"
    )
    if problems:
        raise SystemExit("FAILED: " + "; ".join(problems))


def wait_for_the_new_standby(cluster: Cluster) -> None:
    """Wait until the killed worker's successor has joined, so that the story is whole."""
    deadline_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline_s:
        workers = cluster.json("status")["workers"]
        if sum(worker["ready"] for worker in workers) == 2:
            return
        time.sleep(0.2)


if __name__ == "__main__":
    main()
