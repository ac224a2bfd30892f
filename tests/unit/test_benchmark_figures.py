"""The pure parts of `python -m benchmarks`: figures, tables, options, records, spans, engine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks import engine, priority, record, scale
from benchmarks.__main__ import NAMES, main
from benchmarks.benchmark import Benchmark, Option, counts, names, parse, run
from benchmarks.busy import measure as busy
from benchmarks.dispatch.systems import latencies_s
from benchmarks.figures import Case, Metric, Plan, Run, Spread, summarise
from benchmarks.ours import text_of, write_batch
from benchmarks.rooms import peak_rss_bytes
from benchmarks.spans import Span, Spans, busy_share, rate_per_s, speaking_s
from benchmarks.table import number, render
from benchmarks.talk import Peer, PeerError
from tts_tasks.jsonl import BatchLine, read_batch
from tts_workers.engines.base import EngineVoice, SpeakOptions, VoiceReference

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

BASE, FAST = Case("base"), Case("fast")
PLAN = Plan(
    name="example",
    title="An example",
    metrics=(
        Metric("per_s", "drained", "jobs/s"),
        Metric("took_s", "took", "ms", 1000),
        Metric("share", "share", "%", 100, ratio=False),
    ),
    baseline=lambda _: BASE,
)


def runs(case: Case, *per_s: float | None) -> list[Run]:
    return [
        Run(case, repeat, {"per_s": value, "took_s": 0.002, "share": 0.5})
        for repeat, value in enumerate(per_s)
    ]


# -- figures --------------------------------------------------------------------------------------


def test_the_spread_is_of_what_there_is() -> None:
    """A value that is missing counts for nothing, and nothing has no spread."""
    assert Spread.of([3.0, None, 1.0, 10.0]) == Spread(3, 3.0, 1.0, 10.0)
    assert Spread.of([1.0, 2.0]) == Spread(2, 1.5, 1.0, 2.0)
    assert Spread.of([None]) is None


def test_ratios_are_of_the_runs_of_one_repetition() -> None:
    """Where the machine was slow for both, the ratio does not show it; medians would hide it."""
    rows = summarise(PLAN, [*runs(BASE, 100, 10, 30), *runs(FAST, 200, 20, 90)])
    base, fast = rows
    assert base.ratios["per_s"] == Spread(3, 1.0, 1.0, 1.0)
    assert fast.spreads["per_s"] == Spread(3, 90, 20, 200)
    assert fast.ratios["per_s"] == Spread(3, 2.0, 2.0, 3.0)
    assert "share" not in fast.ratios


@pytest.mark.parametrize("base", [[], runs(BASE, None), runs(BASE, 0.0)])
def test_there_is_no_ratio_without_a_baseline(base: list[Run]) -> None:
    """It was not measured, gave nothing, or gave zero."""
    *_, fast = summarise(PLAN, [*base, *runs(FAST, 5.0)])
    assert fast.ratios["per_s"] is None


def test_linear_is_one() -> None:
    """Twice the throughput on four workers is half of linear."""
    plan = Plan(
        "scale",
        "",
        (Metric("per_s", "drained"),),
        baseline=lambda case: Case(case.series, 1.0),
        x_title="workers",
        per_x=True,
    )
    one, four = summarise(plan, [*runs(Case("a", 1.0), 10.0), *runs(Case("a", 4.0), 20.0)])
    assert one.ratios["per_s"] == Spread(1, 1.0, 1.0, 1.0)
    assert four.ratios["per_s"] == Spread(1, 0.5, 0.5, 0.5)
    assert "of linear" in render(plan, [one, four])


# -- the table ------------------------------------------------------------------------------------


def test_the_table_shows_median_range_and_ratio() -> None:
    """In the metric's unit; what there is not is a dash, and notes stand below."""
    noted = Run(FAST, 2, {"per_s": None}, note="slow disk")
    heads, rule, base, fast, *notes = render(
        PLAN, summarise(PLAN, [*runs(BASE, 10, 10), *runs(FAST, 20, 40), noted])
    ).splitlines()
    assert len(heads) <= len(rule)
    assert re.split(r"  +", heads.strip()) == [
        "n", "drained, jobs/s", "ratio", "took, ms", "ratio", "share, %"
    ]  # fmt: skip
    assert re.split(r"  +", base)[:4] == ["base", "2", "10.0 [10.0, 10.0]", "1.00 [1.00, 1.00]"]
    assert re.split(r"  +", fast)[2:] == [
        "30.0 [20.0, 40.0]", "3.00 [2.00, 4.00]",
        "2.00 [2.00, 2.00]", "1.00 [1.00, 1.00]", "50.0 [50.0, 50.0]",
    ]  # fmt: skip
    assert notes == ["fast: slow disk"]


def test_a_single_run_has_no_range_and_a_missing_value_is_a_dash() -> None:
    """So that a smoke run is not taken for a measurement."""
    line = render(PLAN, summarise(PLAN, [Run(BASE, 0, {"per_s": 7.0})])).splitlines()[2]
    assert re.split(r"  +", line) == ["base", "1", "7.00", "1.00", "-", "-", "-"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (0.0123, "0.012"),
        (1.234, "1.23"),
        (12.34, "12.3"),
        (123.4, "123"),
        (1234567.0, "1,234,567"),
        (-2.5, "-2.50"),
    ],
)
def test_numbers_have_about_three_figures(value: float, shown: str) -> None:
    """More would be noise."""
    assert number(value) == shown


# -- options, record ------------------------------------------------------------------------------


def _example(asked: list[tuple[str, int, int]]) -> Benchmark:
    """Return a benchmark that notes in ``asked`` what it was asked for."""

    def measure(options: Namespace, case: Case, repeat: int) -> tuple[Run, str]:
        asked.append((case.series, repeat, options.jobs))
        values = {"per_s": float(repeat + 1), "took_s": 0.001, "share": None}
        return Run(case, repeat, values, {"latency_s": [0.5]}), "server 9.9"

    options = {"jobs": Option(100, 5, "jobs"), "sizes": Option([1000], [10], "sizes", counts)}
    return Benchmark(PLAN, options, lambda _: [BASE, FAST], measure)


def test_quick_changes_defaults_and_not_what_is_given() -> None:
    """A smoke run of one's own size is possible."""
    example = _example([])
    full, quick = parse(example, []), parse(example, ["--quick", "--sizes", "7,1e1"])
    assert (full.jobs, full.sizes, full.repeats) == (100, [1000], 5)
    assert (quick.jobs, quick.sizes, quick.repeats) == (5, [7, 10], 1)
    assert full.seed is not None


@pytest.mark.parametrize(
    "arguments", [["--sizes", "1.5"], ["--sizes", "0"], ["--repeats", "0"], ["--jobs", "x"]]
)
def test_options_that_make_no_sense_are_refused(arguments: list[str]) -> None:
    """Before anything is started."""
    with pytest.raises(SystemExit) as refused:
        parse(_example([]), arguments)
    assert refused.value.code == 2


def test_lists_of_names_know_what_there_is() -> None:
    """A wrong word is told with the right ones."""
    read = names(["a", "b c"])
    assert read("b c,a") == ["b c", "a"]
    with pytest.raises(Exception, match="no 'x'; there are: a, b c"):
        read("a,x")


def test_cases_take_turns_and_every_run_is_recorded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A B A B, not A A B B: a machine that slows down is slow for all."""
    asked: list[tuple[str, int, int]] = []

    assert run(_example(asked), ["--repeats", "2", "--results", str(tmp_path)]) == 0

    assert asked == [("base", 0, 100), ("fast", 0, 100), ("base", 1, 100), ("fast", 1, 100)]
    told = json.loads((tmp_path / "example.json").read_text())
    assert [(r["series"], r["repeat"], r["values"]["per_s"]) for r in told["runs"]] == [
        ("base", 0, 1.0), ("fast", 0, 1.0), ("base", 1, 2.0), ("fast", 1, 2.0)
    ]  # fmt: skip
    assert told["runs"][0]["samples"] == {"latency_s": [0.5]}
    assert told["summary"][1]["values"]["per_s"] == {"n": 2, "median": 1.5, "low": 1, "high": 2}
    assert told["summary"][1]["values"]["share"] is None
    assert told["baselines"] == {"base": "base", "fast": "base"}
    assert told["parameters"]["jobs"] == 100
    assert told["parameters"]["repeats"] == 2
    assert told["cores"] == os.cpu_count()
    assert told["versions"]["redis-server"] == "server 9.9"
    assert told["versions"]["celery"]
    assert {"date", "commit", "changed_since_commit", "load_1min", "nice"} <= told.keys()
    assert "drained, jobs/s" in capsys.readouterr().out


def test_a_quick_run_does_not_overwrite_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its figures are noise; they go to a folder of their own, which git ignores."""
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    run(_example([]), ["--quick"])
    assert (tmp_path / "quick" / "example.json").exists()
    assert not (tmp_path / "example.json").exists()


def test_the_plot_shows_every_metric_that_was_measured(tmp_path: Path) -> None:
    """And none that was not; the same figures make the same file."""
    pytest.importorskip("matplotlib", reason="make bench installs it")
    from benchmarks.plots import draw

    measured = [*runs(Case("a", 1.0), 10.0, 11.0), *runs(Case("a", 16.0), 100.0)]
    without = [Run(r.case, r.repeat, r.values | {"share": None}) for r in measured]
    for name, drawn in (("all", measured), ("again", measured), ("some", without)):
        draw(PLAN, drawn, summarise(PLAN, drawn), tmp_path / f"{name}.svg", "caption")
    everything = (tmp_path / "all.svg").read_text()
    assert all(word in everything for word in ("An example", "jobs/s", "share, %", "caption"))
    assert "share, %" not in (tmp_path / "some.svg").read_text()
    assert (tmp_path / "again.svg").read_text() == everything


# -- the list -------------------------------------------------------------------------------------


def test_without_a_name_they_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    """And a wrong name is told with the right ones."""
    assert main([]) == 0
    assert all(f"make bench NAME={name}" in capsys_line for name, capsys_line in
               zip(NAMES, capsys.readouterr().out.splitlines(), strict=True))  # fmt: skip
    assert main(["nothing"]) == 2
    assert "dispatch, busy" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in NAMES if name != "failover"])
def test_every_benchmark_has_a_baseline_and_a_smoke_run(name: str) -> None:
    """Each case is compared with a case of the same benchmark, at its defaults and in --quick."""
    benchmark: Benchmark = import_module(NAMES[name][0]).BENCHMARK
    assert benchmark.plan.name == name
    for arguments in ([], ["--quick"]):
        cases = list(benchmark.cases(parse(benchmark, arguments)))
        assert len(cases) >= 2
        assert len(set(cases)) == len(cases)
        assert {benchmark.plan.baseline(case) for case in cases} <= set(cases)
    for option in benchmark.options.values():
        for default in (option.default, option.quick):
            if isinstance(default, list):
                assert option.read(",".join(map(str, default))) == default


# -- what engines did -----------------------------------------------------------------------------


def test_spans_are_read_as_they_are_written(tmp_path: Path) -> None:
    """Probes are left out, a line that is still being written waits."""
    path = tmp_path / "spans"
    spans = Spans(path)
    assert spans.read() == []
    line = '{"pid": 7, "job": %d, "began_s": %g, "ended_s": %g, "audio_s": 1.0}'
    whole = "\n".join([line % (1, 0, 1), line % (2, 2, 3), line % (3, 4, 5)])
    path.write_text(whole[:-9])
    assert spans.read() == [Span(7, 2, 3)]
    path.write_text(f"{whole}\n")
    assert spans.read() == [Span(7, 2, 3), Span(7, 4, 5)]
    assert spans.read() == [Span(7, 2, 3), Span(7, 4, 5)]


def test_figures_of_spans() -> None:
    """Three seconds of speech in four; two beginnings after the first in three seconds."""
    spans = [Span(1, 10, 11), Span(1, 12, 13), Span(1, 13, 14)]
    assert speaking_s(spans) == 3
    assert busy_share(spans) == pytest.approx(0.75)
    assert rate_per_s(spans) == pytest.approx(2 / 3)
    assert busy_share(spans[:1]) is None
    assert rate_per_s(spans[:1]) is None


def test_pauses_and_shares_of_the_busy_benchmark() -> None:
    """The pause is from the end of a job to the beginning of the next one."""
    found = busy.values_of([Span(1, 10, 11), Span(1, 11.5, 12.5), Span(1, 12.6, 13)], 0.25)
    assert found["idle_s"] == pytest.approx(0.5)
    assert found["busy"] == pytest.approx(2.4 / 3)
    assert found["one_by_one"] == pytest.approx(0.8)


def test_engines_of_several_workers_speak_at_once() -> None:
    """Two workers, three seconds each, of which one is idle for a second: five sixths."""
    spans = [Span(1, 10, 12), Span(1, 12, 13), Span(2, 10, 11), Span(2, 12, 13)]
    found = scale.values_of(spans, 2)
    assert found["busy"] == pytest.approx(5 / 6)
    assert found["jobs_per_s"] == pytest.approx(3 / 2)


def test_latencies_pair_jobs_in_their_order() -> None:
    """One start too many or too few is an error, not a shift."""
    assert latencies_s([1.0, 2.0], [2.5, 1.25]) == [0.25, 0.5]
    with pytest.raises(ValueError, match="longer"):
        latencies_s([1.0], [1.5, 2.0])


def test_a_release_that_cannot_stream_has_no_first_audio() -> None:
    """It is a dash, not a zero."""
    found = priority.values_of({"heard_s": [], "done_s": [0.3, 0.1, 0.2]}, None)
    assert found == {
        "heard_p50_s": None,
        "heard_p99_s": None,
        "done_p50_s": 0.2,
        "done_p99_s": 0.3,
        "batch_per_s": None,
    }


def test_the_batch_lasts_longer_than_the_online_jobs() -> None:
    """Though all workers did nothing else."""
    options = parse(priority.BENCHMARK, [])
    lines = priority.lines_that_last(options, busy=2)
    batch_s = lines * options.batch_sentences * options.speak_ms / 1000 / 2
    online_s = options.jobs * (options.pause_ms + priority.SENTENCES * options.speak_ms) / 1000
    assert batch_s > 1.5 * online_s


def test_the_silent_engine_speaks_a_segment_a_sentence() -> None:
    """As long as its text, so that `paced` can make it cost."""
    silent = engine.SilentEngine()
    segments = silent.split(text_of(10, 3))
    assert [len(segment.text) for segment in segments] == [10, 10, 10]
    spoken = silent.speak(segments[0], EngineVoice(VoiceReference()), None, SpeakOptions())
    assert spoken.samples.size == 10 * engine.AUDIO_S_PER_CHAR * engine.SAMPLE_RATE_HZ
    told = engine.environment(Path("/x"), speak_s=0.5, chars=10)
    assert float(told["TTS_PACED_COST"]) * 10 * engine.AUDIO_S_PER_CHAR == pytest.approx(0.5)


def test_the_silent_engine_is_found_in_a_run_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its entry point, as any engine; elsewhere nobody knows it."""
    from tts_workers.engines import engine_names

    assert "silent" not in engine_names()
    engine.install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert "silent" in engine_names()


@pytest.mark.parametrize(
    ("variable", "kind"), [("BENCH_ENCODE_S", "encode"), ("BENCH_STORE_S", "store")]
)
def test_a_cost_is_paid_by_artifacts_and_noted(tmp_path: Path, variable: str, kind: str) -> None:
    """In a process of its own, as in a worker: encoding and storing take longer, reports do not."""
    code = (
        "import time, numpy as np, pathlib\n"
        "from benchmarks.engine import inject_costs\n"
        "from tts_tasks import audio\n"
        "from tts_tasks.storage import LocalStorage\n"
        "inject_costs()\n"
        f"storage = LocalStorage(pathlib.Path({str(tmp_path)!r}) / 'root')\n"
        "data = audio.encode(np.zeros(10, np.float32), 8000, 'wav')\n"
        "storage.create('a.wav', data)\n"
        "storage.create('a.jsonl', b'x')\n"
    )
    environment = {**os.environ, variable: "0.01", "BENCH_COSTS": str(tmp_path / "costs")}
    root = Path(record.ROOT)
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, check=True)
    lines = [json.loads(line) for line in (tmp_path / "costs").read_text().splitlines()]
    assert [line["kind"] for line in lines] == [kind]


def test_the_batch_file_is_one_that_is_accepted(tmp_path: Path) -> None:
    """By the reader that `submit_batch` uses."""
    path = write_batch(tmp_path / "jobs.jsonl", 3, text_of(5))
    lines = list(read_batch(path))
    assert [line.request.text for line in lines if isinstance(line, BatchLine)] == [
        "好好好好。"
    ] * 3


# -- processes ------------------------------------------------------------------------------------


@pytest.fixture(name="peer")
def _peer(tmp_path: Path) -> Iterator[Peer]:
    """Return the other side of a process that can add and fail."""
    (tmp_path / "adder.py").write_text(
        "from benchmarks.talk import serve\n"
        "def add(a, b):\n"
        "    print('to the log')\n"
        "    return a + b\n"
        "serve({'add': add, 'end': lambda: exit(3)})\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{record.ROOT}"}
    with Peer("adder", environment=environment, log_path=tmp_path / "log") as peer:
        yield peer


def test_a_peer_answers_and_prints_elsewhere(peer: Peer, tmp_path: Path) -> None:
    """What a library prints does not get between the answers."""
    assert peer.ask("add", a=1, b=2) == 3
    assert "to the log" in (tmp_path / "log").read_text()


def test_a_peer_s_errors_are_ours(peer: Peer) -> None:
    """Said in its words; it goes on, until it ends."""
    with pytest.raises(PeerError, match="TypeError"):
        peer.ask("add", a=1)
    assert peer.ask("add", a=1, b=1) == 2
    with pytest.raises(PeerError, match="has ended"):
        peer.ask("end")


def test_memory_is_that_of_the_program_and_not_of_its_starter() -> None:
    """A process that is gone has none."""
    assert peak_rss_bytes(os.getpid()) > 10_000_000
    assert peak_rss_bytes(2**22) == 0
