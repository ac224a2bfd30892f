"""The documentation names what there is: settings, events, keys, tests, commands, files."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import pytest

from tts_gateway.settings import GatewaySettings
from tts_tasks import keys
from tts_tasks.settings import Settings
from tts_workers.engines.glmtts import GlmTtsSettings
from tts_workers.engines.openai_http import OpenAIHttpSettings
from tts_workers.engines.paced import PacedSettings
from tts_workers.engines.sherpa_onnx_model import SherpaOnnxSettings
from tts_workers.gpu_health import GpuSettings
from tts_workers.recovery import unacked_keys
from tts_workers.testing import ContractCheck, engine_contract
from ttsctl.__main__ import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic_settings import BaseSettings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*.md")])
SOURCES = [
    path
    for folder in ("tts_tasks", "workers", "gateway", "cli")
    for path in (ROOT / folder).rglob("*.py")
]
SETTINGS = (
    Settings,
    GpuSettings,
    PacedSettings,
    GlmTtsSettings,
    OpenAIHttpSettings,
    SherpaOnnxSettings,
    GatewaySettings,
)
EVENT = re.compile(r"[a-z]+\.[a-z_]+")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def table_rows(text: str) -> dict[str, list[str]]:
    """Return the rows of all tables by the first code word of their first cell."""
    rows = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and (word := re.match(r"`([^`]+)`", cells[0])):
            rows[word[1]] = cells
    return rows


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", SETTINGS, ids=lambda model: model.__name__)
def test_every_setting_is_described_with_its_default(model: type[BaseSettings]) -> None:
    """A field that is added, or whose default is changed, fails until the page says so."""
    rows = table_rows(page("docs/reference/settings.md"))
    for name, field in model.model_fields.items():
        variable = f"{model.model_config['env_prefix']}{name.upper()}"
        assert variable in rows
        if field.default_factory is None:
            assert rows[variable][1].strip("`") == (str(field.default) or "none"), variable


def test_every_variable_that_the_code_names_is_described() -> None:
    """What is read from the environment by hand is on the page too."""
    text = page("docs/reference/settings.md")
    literal = re.compile(r'"(TTS_[A-Z_]*[A-Z])"')
    named = {v for path in SOURCES for v in literal.findall(path.read_text(encoding="utf-8"))}
    assert {"TTS_GPU", "TTS_GPU_LOCK_DIR"} <= named
    assert {variable for variable in named if f"`{variable}`" not in text} == set()


def test_the_page_describes_no_setting_that_is_gone() -> None:
    """Each variable in a table is read by the code."""
    code = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    fields = {
        f"{model.model_config['env_prefix']}{name.upper()}"
        for model in SETTINGS
        for name in model.model_fields
    }
    for variable in table_rows(page("docs/reference/settings.md")):
        assert variable in fields or f'"{variable}"' in code, variable


# -- events ---------------------------------------------------------------------------------------


def emitted() -> Iterator[tuple[str, set[str]]]:
    """Yield each event that the code can write, with the names of its fields.

    A name may be chosen before the call, so all dotted words of a calling function count.
    """
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)):
            for call in filter(is_emit, ast.walk(function)):
                fields = {keyword.arg for keyword in call.keywords if keyword.arg}
                where = call.args[0] if isinstance(call.args[0], ast.Constant) else function
                for node in ast.walk(where):
                    word = node.value if isinstance(node, ast.Constant) else None
                    if isinstance(word, str) and EVENT.fullmatch(word):
                        yield word, fields


def is_emit(node: ast.AST) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in {"emit", "event", "note"}
        and bool(node.args)
    )


def test_every_event_and_field_is_described() -> None:
    """The tables of events are what the code writes, no more and no less."""
    rows = {k: row for k, row in table_rows(page("docs/reference/events.md")).items() if "." in k}
    written: dict[str, set[str]] = {}
    for name, fields in emitted():
        written.setdefault(name, set()).update(fields)
    assert {"lease.acquired", "lease.deposed", "job.recovered", "up.ready"} <= written.keys()
    assert rows.keys() == written.keys()
    described = {name: set(re.findall(r"`(\w+)`", row[1])) for name, row in rows.items()}
    assert described == written


# -- keys and scripts -----------------------------------------------------------------------------


def test_every_key_is_described() -> None:
    """Each key that the code makes stands on the page, with the names of its parts in capitals."""
    made = {
        *(value for name, value in vars(keys).items() if name.isupper() and "tts:" in str(value)),
        *(
            make("POOL.LANE")
            for make in (keys.lease, keys.epoch, keys.successor, keys.bell, keys.load)
        ),
        *(make("BATCH") for make in (keys.batch, keys.batch_done, keys.batch_reporting)),
        *(
            make("BATCH")
            for make in (keys.batch_ready, keys.batch_chunks, keys.batch_taken, keys.batch_runs)
        ),
        keys.shares("QUEUE"),
        *(make("WORKER") for make in (keys.worker, keys.claims, keys.drained)),
        *unacked_keys("WORKER").values(),
        keys.job("TAG:ITEM"),
        keys.segments("TAG:ITEM"),
        keys.open_jobs("QUEUE"),
    }
    text = page("docs/reference/redis-keys.md")
    assert {key for key in made if f"`{key}`" not in text} == set()


def test_every_script_is_described() -> None:
    """Each Lua file is linked on the page."""
    text = page("docs/reference/redis-keys.md")
    scripts = [name_of(path) for path in (ROOT / "tts_tasks").rglob("*.lua")]
    assert len(scripts) >= 10
    assert [script for script in scripts if f"(../../{script})" not in text] == []


# -- what all pages name --------------------------------------------------------------------------


@cache
def headings(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(path: Path) -> list[str]:
    """Return the targets of a page's links within the repository."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target for target in found if "://" not in target]


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_leads_somewhere(path: Path) -> None:
    """A relative link is a file of the repository, and its anchor a heading of that file."""
    for link in links(path):
        target, _, anchor = link.partition("#")
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), link
        assert file.is_relative_to(ROOT), link
        if anchor:
            assert anchor in headings(file), link


@cache
def names_in(path: Path) -> set[str]:
    return set(re.findall(r"^ *def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE))


@cache
def all_tests() -> set[str]:
    """Return the names of every test and every file of tests."""
    files = list((ROOT / "tests").rglob("test_*.py"))
    return {path.name for path in files}.union(*map(names_in, files))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_test_that_is_named_exists(path: Path) -> None:
    """What is said to be shown by a test has that test, in the file that the link leads to."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    for name, target in re.findall(r"\[(test_\w+)\]\(([^)]+)\)", text):
        assert name in names_in((path.parent / target).resolve()), name
    named = set(re.findall(r"\btest_\w+(?:\.py)?", text))
    assert named - all_tests() - {"test_tone_engine.py"} == set()  # the reader's own


def test_every_promise_of_the_readme_names_a_test() -> None:
    """No row of the table of promises is without its proof."""
    section = page("README.md").split("## What is promised")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 15
    assert [row for row in rows if "[test_" not in row.rsplit(" | ", 1)[1]] == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_command_that_is_shown_exists(path: Path) -> None:
    """Pages show commands of `ttsctl` and words of `make` that there are."""
    text = path.read_text(encoding="utf-8")
    code = "\n".join([body for _, body in FENCE.findall(text)])
    code += "\n" + "\n".join(re.findall(r"`([^`\n]+)`", FENCE.sub("", text)))
    commands = {name for section in COMMANDS.values() for name in section}
    assert set(re.findall(r"\bttsctl ([a-z]+)\b", code)) <= commands
    targets = set(re.findall(r"^([a-z-]+):", page("Makefile"), re.MULTILINE))
    assert set(re.findall(r"^(?:\$ )?make ([a-z-]+)", code, re.MULTILINE)) <= targets


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_python_example_is_python(path: Path) -> None:
    """Examples are whole: they parse."""
    for language, body in FENCE.findall(path.read_text(encoding="utf-8")):
        if language == "python":
            ast.parse(body)


# -- the engine of the how-to ---------------------------------------------------------------------


def engine_of_the_how_to() -> type:
    """Return the class that the page shows."""
    examples = dict(FENCE.findall(page("docs/how-to/write-an-engine.md"))[:1])
    module: dict[str, Any] = {"__name__": "tone_engine"}
    exec(compile(examples["python"], "write-an-engine.md", "exec"), module)  # noqa: S102 - ours
    engine: type = module["ToneEngine"]
    return engine


@pytest.mark.parametrize("check", engine_contract(engine_of_the_how_to()), ids=str)
def test_the_engine_of_the_how_to_keeps_the_contract(check: ContractCheck) -> None:
    """Whoever copies the example has an engine."""
    check()
