"""A checkout of GLM-TTS is a guest: its habits stay with it, and it lacks nothing unnoticed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

from tests.glmtts_double import CACHE, DOUBLE, copy_of_the_double, double_engine, speak_all
from tts_tasks.errors import ConfigurationError, EngineLoadError
from tts_tasks.requests import Requirements
from tts_workers.engines import load_engine, runs_on_cpu_only
from tts_workers.engines.glmtts import GlmTtsEngine, GlmTtsSettings
from tts_workers.engines.glmtts.checkout import Checkout

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXT = "欸，各位旅客请注意，开往上海虹桥的列车马上就要进站了。请您到三号站台等候上车，谢谢大家。"
#: The names that the checkout's packages have; other people have such packages too.
NAMES = ("utils", "llm", "flow", "tools", "cosyvoice", "tn", "torch", "glmtts_inference")


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """Whatever a test does with modules, variables and folders, the next one does not see it."""
    modules, path, folder = dict(sys.modules), list(sys.path), Path.cwd()
    variables = dict(os.environ)
    yield
    os.chdir(folder)
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        if name.partition(".")[0] in NAMES:
            del sys.modules[name]
    sys.modules.update({n: m for n, m in modules.items() if n.partition(".")[0] in NAMES})
    os.environ.clear()
    os.environ.update(variables)


def sound(engine: GlmTtsEngine, text: str = TEXT) -> str:
    """Return the hash of what a loaded engine says."""
    digest = hashlib.sha256()
    for spoken in speak_all(engine, engine.split(text)):
        digest.update(spoken.samples.tobytes())
    return digest.hexdigest()


def loaded(**settings: object) -> GlmTtsEngine:
    engine = double_engine(**settings)
    engine.load("cpu")
    return engine


def sound_of_a_new_process(rate_hz: int) -> str:
    """Return what `sound` returns where nothing was loaded before."""
    program = (
        "from tests.unit.engines.test_glmtts_checkout import loaded, sound;"
        f"print(sound(loaded(sample_rate_hz={rate_hz}, cache={str(CACHE)!r})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=DOUBLE.parents[2],
    )
    return done.stdout.split()[-1]


# -- the working directory ------------------------------------------------------------------------


def test_it_speaks_the_same_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rules are read from the working directory with every text, and are not missed there."""
    expected = sound(loaded())
    (tmp_path / "configs").mkdir()  # another one's, empty
    monkeypatch.chdir(tmp_path)

    assert sound(loaded()) == expected


def test_the_process_stays_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, between and after calls the working directory is the process's own."""
    monkeypatch.chdir(tmp_path)
    engine = loaded()
    assert Path.cwd() == tmp_path
    sound(engine)
    assert Path.cwd() == tmp_path
    engine.close()
    assert Path.cwd() == tmp_path


def test_a_load_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither its folder, nor its path, nor its modules."""
    home = copy_of_the_double(tmp_path)
    (home / "ckpt/llm/model.safetensors").write_text("no JSON")
    before = Path.cwd(), list(sys.path), set(sys.modules)

    with pytest.raises(EngineLoadError, match="JSONDecodeError"):
        loaded(home=str(home))

    assert (Path.cwd(), list(sys.path)) == before[:2]
    assert {name for name in set(sys.modules) - before[2] if name in NAMES} == set()


def test_a_relative_home_is_taken_from_where_the_process_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is set as a path of the shell's folder stays that, wherever the code runs later."""
    home = copy_of_the_double(tmp_path)
    monkeypatch.chdir(tmp_path)
    engine = double_engine(home=home.name)
    monkeypatch.chdir("/")
    engine.load("cpu")

    assert engine.version.startswith("GLM-TTS ")


def test_weights_may_lie_elsewhere(tmp_path: Path) -> None:
    """TTS_GLMTTS_CKPT names them; the checkout finds them where it looks."""
    expected = sound(loaded())
    home = copy_of_the_double(tmp_path)
    (home / "ckpt").rename(tmp_path / "weights")

    assert sound(loaded(home=str(home), ckpt=str(tmp_path / "weights"))) == expected


# -- names of modules -----------------------------------------------------------------------------


def test_its_modules_are_not_seen_outside() -> None:
    """After loading and speaking, nobody else finds a module under the checkout's names."""
    had = {name for name in NAMES if name in sys.modules}
    engine = loaded()
    sound(engine)

    assert {name for name in NAMES if name in sys.modules} == had
    assert str(DOUBLE) not in sys.path


def test_modules_of_the_same_name_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another ``utils`` is neither used by the checkout nor lost to those who use it."""
    mine = ModuleType("utils")
    monkeypatch.setitem(sys.modules, "utils", mine)
    engine = loaded()
    sound(engine)

    assert sys.modules["utils"] is mine


@pytest.mark.parametrize("name", ["llm", "utils", "tools"])
def test_an_installed_package_of_the_same_name_does_not_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Where the checkout has no ``__init__.py``, Python would prefer one that has."""
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert sound(loaded()) == sound(loaded())


def test_a_module_of_another_place_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever finder gets between: code that is not the checkout's is not taken for it."""
    (tmp_path / "glmtts_inference.py").write_text("DEVICE = 'cpu'")
    checkout = Checkout(GlmTtsSettings(home=str(DOUBLE), cache=str(CACHE)))
    checkout.open()
    with checkout.inside():
        sys.path.insert(0, str(tmp_path))
        with pytest.raises(EngineLoadError, match="came from"):
            checkout.module("glmtts_inference")
        sys.path.remove(str(tmp_path))


# -- what is missing ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "glmtts_inference.py",
        "configs/spk_prompt_dict.yaml",
        "frontend/campplus.onnx",
        "ckpt/llm/config.json",
        "ckpt/llm/model.safetensors",
        "ckpt/flow/flow.pt",
        "ckpt/hift/hift.pt",
        "ckpt/speech_tokenizer/preprocessor_config.json",
        "ckpt/vq32k-phoneme-tokenizer/tokenizer_config.json",
    ],
)
def test_a_missing_file_is_named_and_not_fetched(tmp_path: Path, name: str) -> None:
    """Each needed file is looked for before anything is loaded; a hub is never asked."""
    home = copy_of_the_double(tmp_path)
    (home / name).unlink()

    with pytest.raises(EngineLoadError, match=r"Nothing is fetched") as raised:
        loaded(home=str(home))
    assert str(home / Path(name).parent) in str(raised.value)


def test_only_the_vocoder_of_the_rate_is_needed(tmp_path: Path) -> None:
    """24 kHz needs HiFT, 32 kHz Vocos."""
    home = copy_of_the_double(tmp_path)
    (home / "ckpt/vocos2d/generator_jit.ckpt").unlink()

    loaded(home=str(home)).close()
    with pytest.raises(EngineLoadError, match="vocos2d"):
        loaded(home=str(home), sample_rate_hz=32_000)


def test_missing_weights_are_not_looked_for_on_a_hub(tmp_path: Path) -> None:
    """Without the folder ``ckpt`` the checkout would ask for a repository ``ckpt/llm``."""
    home = copy_of_the_double(tmp_path)
    (home / "ckpt").rename(tmp_path / "elsewhere")

    with pytest.raises(EngineLoadError, match="TTS_GLMTTS_CKPT"):
        loaded(home=str(home))


def test_the_libraries_are_told_to_stay_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are imported by their variables, and those that are there by their constants."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    constants = ModuleType("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False, raising=False)
    monkeypatch.setitem(sys.modules, "huggingface_hub.constants", constants)
    loaded()

    assert os.environ["HF_HUB_OFFLINE"] == os.environ["TRANSFORMERS_OFFLINE"] == "1"
    assert constants.HF_HUB_OFFLINE is True


def test_a_cache_that_cannot_be_written_to_is_named_with_its_variable(tmp_path: Path) -> None:
    """A container's home may be read-only."""
    in_the_way = tmp_path / "cache"
    in_the_way.write_text("no folder")

    with pytest.raises(EngineLoadError, match=rf"{in_the_way}.*TTS_GLMTTS_CACHE"):
        loaded(cache=str(in_the_way))


def test_a_pointer_of_git_lfs_is_told_from_a_file(tmp_path: Path) -> None:
    """A clone without LFS has a line of text where the weights should be."""
    home = copy_of_the_double(tmp_path)
    (home / "ckpt/flow/flow.pt").write_text("version https://git-lfs.github.com/spec/v1\noid ...")

    with pytest.raises(EngineLoadError, match=r"flow\.pt.*git lfs pull"):
        loaded(home=str(home))


def test_a_missing_package_is_named_with_what_installs_it(tmp_path: Path) -> None:
    """The checkout's imports are not those of tts-tasks: an extra brings them."""
    home = copy_of_the_double(tmp_path)
    with (home / "utils/audio.py").open("a") as file:
        file.write("\nimport librosa_of_nobody.filters\n")

    with pytest.raises(EngineLoadError, match=r"'librosa_of_nobody'.*tts-tasks\[glmtts\]"):
        loaded(home=str(home))


@pytest.mark.parametrize("error", ["OSError('libtorch_cuda.so')", "ImportError('no symbol')"])
def test_a_package_that_does_not_load_is_told_with_what_to_look_at(
    tmp_path: Path, error: str
) -> None:
    """As a torchaudio for CUDA beside a torch without it."""
    home = copy_of_the_double(tmp_path)
    with (home / "utils/audio.py").open("a") as file:
        file.write(f"\nraise {error}\n")

    with pytest.raises(EngineLoadError, match=r"does not load \((lib|no).*constraints-glmtts\.txt"):
        loaded(home=str(home))


def test_a_home_that_is_not_set_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thing a user forgets."""
    monkeypatch.delenv("TTS_GLMTTS_HOME", raising=False)

    with pytest.raises(ConfigurationError, match="TTS_GLMTTS_HOME"):
        load_engine("glmtts")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("SAMPLE_RATE_HZ", "44100"), ("PHONEME", "perhaps"), ("VOICE_AUDIO", "/voice.wav")],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    """With the variable, and what it may be."""
    monkeypatch.setenv("TTS_GLMTTS_HOME", str(DOUBLE))
    monkeypatch.setenv(f"TTS_GLMTTS_{variable}", value)

    with pytest.raises(ConfigurationError, match=f"TTS_GLMTTS_{variable}"):
        GlmTtsEngine()


# -- device and rate ------------------------------------------------------------------------------


def test_a_gpu_that_torch_does_not_see_is_an_error() -> None:
    """A worker that was given a GPU does not speak on the CPU unnoticed."""
    engine = double_engine()
    with pytest.raises(EngineLoadError, match="sees no CUDA device"):
        engine.load("cuda")


def test_it_is_not_taken_for_an_engine_without_a_gpu() -> None:
    """``--gpu auto`` gives it one."""
    assert not runs_on_cpu_only("glmtts")


def test_two_rates_in_one_process_do_not_mix() -> None:
    """The checkout keeps a mel basis under a key that omits the rate; each load has its own."""
    here = [sound(loaded(sample_rate_hz=rate_hz)) for rate_hz in (24_000, 32_000, 24_000)]

    assert here[0] == here[2] == sound_of_a_new_process(24_000)
    assert here[1] == sound_of_a_new_process(32_000) != here[0]


# -- identity -------------------------------------------------------------------------------------


def fingerprint(home: Path, **settings: object) -> str:
    engine = loaded(home=str(home), **settings)
    try:
        return engine.fingerprint()
    finally:
        engine.close()


def test_the_fingerprint_follows_what_changes_the_sound(tmp_path: Path) -> None:
    """Weights, program, dictionaries, rate, phonemes, the default voice; not where it lies."""
    home = copy_of_the_double(tmp_path)
    seen = [fingerprint(home)]
    assert seen == [fingerprint(DOUBLE)]
    seen += [fingerprint(home, sample_rate_hz=32_000), fingerprint(home, phoneme=True)]
    (home / "ckpt/llm/model.safetensors").write_text(json.dumps({"seed": 4712}))
    seen.append(fingerprint(home))
    with (home / "configs/custom_replace.jsonl").open("a") as rules:
        rules.write('{"origin": "噢", "new": "哦"}\n')
    seen.append(fingerprint(home))
    with (home / "llm/glmtts.py").open("a") as program:
        program.write("# changed\n")
    seen.append(fingerprint(home))
    example = home / "examples/example_zh.jsonl"
    example.write_text(example.read_text().replace("三秒多", "四秒多"))
    seen.append(fingerprint(home))

    assert len(set(seen)) == len(seen)


def test_weights_that_differ_in_their_middle_are_others(tmp_path: Path) -> None:
    """Large files are not read whole, but not only at their ends either."""
    home = copy_of_the_double(tmp_path)
    flow = home / "ckpt/flow/flow.pt"
    flow.write_bytes(bytes(8 * 2**20))
    before = fingerprint(home)
    flow.write_bytes(bytes(4 * 2**20) + b"\1" + bytes(4 * 2**20 - 1))

    assert fingerprint(home) != before


REF = "refs/heads/main"


def test_the_version_is_the_commit_where_git_knows_it(tmp_path: Path) -> None:
    """And else a hash of the sources."""
    home = copy_of_the_double(tmp_path)
    (home / ".git/refs/heads").mkdir(parents=True)
    (home / ".git/HEAD").write_text(f"ref: {REF}\n")
    branch = home / ".git/refs/heads/main"
    branch.write_text("c5dc7ae" + "0" * 33 + "\n")

    assert loaded(home=str(home)).version == "GLM-TTS c5dc7ae, 24000 Hz"
    branch.unlink()
    packed = home / ".git/packed-refs"
    packed.write_text(f"# pack-refs with: peeled\n{'a' * 40} refs/tags/v1\n{'b' * 40} {REF}\n")
    assert loaded(home=str(home)).version == "GLM-TTS bbbbbbb, 24000 Hz"
    assert loaded().version != loaded(home=str(home)).version


def model_version(home: Path, **settings: object) -> str:
    engine = loaded(home=str(home), **settings)
    try:
        return engine.capabilities().model_version
    finally:
        engine.close()


def test_the_model_version_is_that_of_the_weights(tmp_path: Path) -> None:
    """Whatever is spoken with them: the rate, the mode, the program, the place are other things."""
    home = copy_of_the_double(tmp_path)
    seen = {model_version(DOUBLE)}
    (home / "llm/glmtts.py").write_text(f"{(home / 'llm/glmtts.py').read_text()}# changed\n")
    (home / "ckpt").rename(tmp_path / "weights")
    weights = {"ckpt": str(tmp_path / "weights")}
    seen |= {
        model_version(home, **weights),
        model_version(home, sample_rate_hz=32_000, **weights),
        model_version(home, phoneme=True, **weights),
    }

    assert len(seen) == 1
    assert Requirements(model_version=min(seen)).model_version in seen


@pytest.mark.parametrize("name", ["llm/model.safetensors", "flow/flow.pt", "hift/hift.pt"])
def test_other_weights_are_another_model_version(tmp_path: Path, name: str) -> None:
    """So a request can ask for those of before, or for the new ones."""
    home = copy_of_the_double(tmp_path)
    before = model_version(home)
    with (home / "ckpt" / name).open("a") as file:
        file.write(" ")

    assert model_version(home) != before


def test_a_vocoder_of_another_rate_is_part_of_the_model_version(tmp_path: Path) -> None:
    """Else workers of two rates would name one download in two ways, or two in one."""
    home = copy_of_the_double(tmp_path)
    before = model_version(home)
    (home / "ckpt/vocos2d/generator_jit.ckpt").write_text("another")

    assert model_version(home) == model_version(home, sample_rate_hz=32_000) != before
