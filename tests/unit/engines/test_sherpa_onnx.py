"""The engine sherpa_onnx on a model that the test builds, spoken by the real library."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests import tiny_model
from tests.tiny_model import TOKEN_SAMPLES, build, settings
from tts_tasks.errors import (
    ConfigurationError,
    EngineError,
    EngineLoadError,
    EngineLostError,
    EngineOutOfMemoryError,
    RequestError,
    UnspeakableTextError,
)
from tts_workers.engines.base import Segment, SpeakOptions, VoiceReference
from tts_workers.engines.engine_settings import read_settings
from tts_workers.engines.sherpa_onnx import SherpaOnnxEngine, _translated
from tts_workers.engines.sherpa_onnx_model import SherpaOnnxSettings, find_files

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TEXT = "mind the gap."


def loaded(folder: Path, **fields: Any) -> SherpaOnnxEngine:
    engine = SherpaOnnxEngine(settings(folder, **fields))
    engine.load("cpu")
    return engine


def speak(
    engine: SherpaOnnxEngine, text: str = TEXT, voice: str = "default", speed: float = 1.0
) -> NDArray[np.float32]:
    encoded = engine.encode_voice(VoiceReference(voice))
    return engine.speak(Segment(text), encoded, None, SpeakOptions(speed=speed)).samples


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole model, with noise as VITS has it."""
    return build(tmp_path_factory.mktemp("model"))


def test_the_real_library_speaks_each_token(model: Path) -> None:
    """As many samples as the text has tokens, faster and slower, at the model's rate."""
    engine = loaded(model)
    assert engine.capabilities().sample_rate_hz == tiny_model.RATE_HZ
    assert speak(engine).size == TOKEN_SAMPLES * len(TEXT)
    assert speak(engine, speed=2.0).size == TOKEN_SAMPLES * len(TEXT) // 2
    assert "vits" in engine.version


def test_a_model_that_draws_random_numbers_says_so(model: Path, tmp_path: Path) -> None:
    """It sounds another way each time, unless the noise is taken away."""
    noisy = loaded(model)
    assert not noisy.capabilities().deterministic
    assert not np.array_equal(speak(noisy), speak(noisy))

    for engine in (loaded(model, noise=0.0), loaded(build(tmp_path / "clear", noisy=False))):
        assert engine.capabilities().deterministic
        assert np.array_equal(speak(engine), speak(engine))
    assert not loaded(model, noise=0.0, threads=2).capabilities().deterministic


def test_speakers_are_numbers_or_names(model: Path) -> None:
    """Each sounds another way; one that is not there is refused, when it is named too."""
    engine = loaded(model, noise=0.0)
    assert np.array_equal(speak(engine), speak(engine, voice="0"))
    assert not np.array_equal(speak(engine), speak(engine, voice="2"))
    with pytest.raises(RequestError, match="no speaker '3'; there is default, 0, 1, 2"):
        speak(engine, voice="3")

    assert engine.capabilities().voices == ("default", "0", "1", "2")

    named = loaded(model, noise=0.0, speakers="anna=2,bob=1")
    assert named.capabilities().voices == ("default", "anna", "bob")
    assert np.array_equal(speak(named, voice="anna"), speak(engine, voice="2"))
    assert np.array_equal(speak(named), speak(engine, voice="2"))
    with pytest.raises(EngineLoadError, match=r"SPEAKERS: eve=7, .* are 0 to 2"):
        loaded(model, speakers="eve=7")


def test_text_without_a_token_is_unspeakable(model: Path) -> None:
    """Not silence; and the next text is spoken."""
    engine = loaded(model)
    with pytest.raises(UnspeakableTextError, match="knows no sound"):
        speak(engine, "ЖЖЖ")
    assert speak(engine).size


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"),
    [("model.onnx", "there is no model"), ("tokens.txt", "tokens.txt is missing")],
)
def test_a_missing_file_is_named_with_what_is_needed(tmp_path: Path, name: str, words: str) -> None:
    """Before the library is asked."""
    folder = build(tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(EngineLoadError, match=words) as raised:
        loaded(folder)
    assert str(folder) in str(raised.value)
    assert "a vits model needs a model (.onnx), tokens.txt" in str(raised.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "model.onnx is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "only a pointer of Git LFS"),
        (b"<html>404</html>" * 9, "sherpa-onnx cannot use .*model.onnx.*Protobuf parsing failed"),
    ],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    """Downloads that were cut off, were never made, or brought something else."""
    folder = build(tmp_path / "model")
    (folder / "model.onnx").write_bytes(content)
    with pytest.raises(EngineLoadError, match=words):
        loaded(folder)


@pytest.mark.parametrize(
    ("missing", "words"),
    [("sample_rate", "'sample_rate' does not exist in the metadata"), ("comment", "'comment'")],
)
def test_a_model_that_makes_the_library_end_its_process_does_not_end_ours(
    tmp_path: Path, missing: str, words: str
) -> None:
    """The library calls `_Exit` for a model that was not made for it."""
    folder = build(tmp_path / "model", **{missing: None})
    with pytest.raises(EngineLoadError, match=words) as raised:
        loaded(folder)
    assert "it reads metadata from the model" in str(raised.value)


def test_tokens_that_end_the_library_do_not_end_us(tmp_path: Path) -> None:
    """The same for other files."""
    folder = build(tmp_path / "model")
    (folder / "tokens.txt").write_text("abc 1 2 3\n")
    with pytest.raises(EngineLoadError, match="Error when reading tokens: abc 1 2 3"):
        loaded(folder)


def test_cuda_is_not_quietly_replaced_by_the_cpu(model: Path) -> None:
    """The wheel on PyPI has no CUDA; the library says so in passing, and goes on without."""
    with pytest.raises(EngineLoadError, match="TTS_SHERPA_ONNX_PROVIDER=cpu"):
        loaded(model, provider="cuda")
    by_device = SherpaOnnxEngine(settings(model))
    with pytest.raises(EngineLoadError, match="cannot use CUDA"):
        by_device.load("cuda")
    on_the_cpu_of_a_gpu = SherpaOnnxEngine(settings(model, provider="cpu"))
    on_the_cpu_of_a_gpu.load("cuda")
    assert speak(on_the_cpu_of_a_gpu).size


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


ESPEAK = [f"espeak-ng-data/{name}" for name in ("phontab", "phonindex", "phondata", "intonations")]
KOKORO = ["model.onnx", "voices.bin", "tokens.txt", *ESPEAK]


def test_the_files_of_each_family_are_found(tmp_path: Path) -> None:
    """By the names that sherpa-onnx's own downloads have."""
    kokoro = touch(tmp_path / "kokoro", *KOKORO, "lexicon-us-en.txt", "lexicon-zh.txt")
    with pytest.raises(EngineLoadError, match=r"lexicon-us-en\.txt,lexicon-zh\.txt"):
        find_files(settings(kokoro, model_type="kokoro"))
    lexicons = "lexicon-us-en.txt,lexicon-zh.txt"
    files = find_files(settings(kokoro, model_type="kokoro", lexicon=lexicons, lang="en"))
    assert files.arguments == {
        "model": str(kokoro / "model.onnx"),
        "voices": str(kokoro / "voices.bin"),
        "tokens": str(kokoro / "tokens.txt"),
        "lexicon": f"{kokoro / 'lexicon-us-en.txt'},{kokoro / 'lexicon-zh.txt'}",
        "data_dir": str(kokoro / "espeak-ng-data"),
        "lang": "en",
    }

    matcha = touch(tmp_path / "matcha", "model-steps-3.onnx", "vocos.onnx", "tokens.txt")
    touch(matcha, "lexicon.txt")
    with pytest.raises(EngineLoadError, match="set TTS_SHERPA_ONNX_MODEL_FILE to one of"):
        find_files(settings(matcha, model_type="matcha"))
    files = find_files(settings(matcha, model_type="matcha", vocoder="vocos.onnx", noise=0.5))
    assert files.arguments == {
        "acoustic_model": str(matcha / "model-steps-3.onnx"),
        "vocoder": str(matcha / "vocos.onnx"),
        "tokens": str(matcha / "tokens.txt"),
        "lexicon": str(matcha / "lexicon.txt"),
        "noise_scale": 0.5,
    }


@pytest.mark.parametrize("name", [name for name in KOKORO if name != "model.onnx"])
def test_each_file_that_kokoro_needs_is_asked_for(tmp_path: Path, name: str) -> None:
    """By name; a whole folder too."""
    folder = touch(tmp_path / "kokoro", *KOKORO)
    (folder / name).unlink()
    with pytest.raises(EngineLoadError, match=f"{name} is missing: a kokoro model needs"):
        find_files(settings(folder, model_type="kokoro"))


def test_the_fingerprint_is_of_the_contents(model: Path, tmp_path: Path) -> None:
    """Not of the place; another file, noise or speaker is another sound."""
    of_one = loaded(model).fingerprint()
    version = loaded(model).capabilities().model_version
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert loaded(copy).fingerprint() == of_one
    assert loaded(copy).capabilities().model == "copy"
    assert loaded(copy).capabilities().model_version == version
    assert loaded(copy, noise=0.5).fingerprint() != of_one
    assert loaded(copy, speakers="default=1").fingerprint() != of_one
    with (copy / "tokens.txt").open("a") as file:
        file.write("Ж 999\n")
    assert loaded(copy).fingerprint() != of_one
    assert loaded(copy).capabilities().model_version != version


# -- settings, errors, cancelling -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MODEL", "", "TTS_SHERPA_ONNX_MODEL: is not set"),
        ("MODEL_TYPE", "tacotron", "TTS_SHERPA_ONNX_MODEL_TYPE: "),
        ("LANGUAGES", "", "TTS_SHERPA_ONNX_LANGUAGES: is not set"),
        ("SPEAKERS", "anna", "name=number"),
        ("SPEAKERS", "anna=1,anna=2", "each name once"),
    ],
)
def test_wrong_settings_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    """With the variable, as whoever sets them knows it."""
    for name, usual in {"MODEL": "/m", "MODEL_TYPE": "vits", "LANGUAGES": "en"}.items():
        monkeypatch.setenv(f"TTS_SHERPA_ONNX_{name}", usual)
    read_settings(SherpaOnnxSettings)
    monkeypatch.setenv(f"TTS_SHERPA_ONNX_{variable}", value)
    with pytest.raises(ConfigurationError, match=words):
        SherpaOnnxEngine()


@pytest.mark.parametrize("name", ["MODEL", "MODEL_TYPE", "LANGUAGES"])
def test_what_is_needed_is_asked_for(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Also where it is not there at all."""
    for other in {"MODEL", "MODEL_TYPE", "LANGUAGES"} - {name}:
        monkeypatch.setenv(f"TTS_SHERPA_ONNX_{other}", {"MODEL_TYPE": "vits"}.get(other, "en"))
    with pytest.raises(ConfigurationError, match=f"TTS_SHERPA_ONNX_{name}: is not set"):
        SherpaOnnxEngine()


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("Failed to allocate memory for requested buffer", EngineOutOfMemoryError),
        ("CUDA failure 700: an illegal memory access", EngineLostError),
        ("Non-zero status code returned while running Conv", EngineError),
    ],
)
def test_what_the_library_raises_is_told_in_our_words(said: str, kind: type[EngineError]) -> None:
    """Memory that ran out, a device that is lost, and the rest."""
    assert type(_translated(RuntimeError(said))) is kind


def test_close_ends_speaking_at_the_end_of_a_sentence(model: Path) -> None:
    """From another thread, while a text of many sentences is spoken."""
    engine = loaded(model)
    raised: list[Exception] = []
    began = threading.Event()

    def go_on() -> None:
        try:
            while True:
                speak(engine, "a. " * 200)
                began.set()
        except EngineError as error:
            raised.append(error)

    thread = threading.Thread(target=go_on)
    thread.start()
    assert began.wait(60)
    engine.close()
    thread.join(30)
    assert not thread.is_alive()
    assert raised


def test_the_library_stops_where_it_is_told_to(model: Path) -> None:
    """Its documentation says "non-zero to stop"; what it does is: zero."""
    engine = loaded(model)
    assert engine._loaded is not None
    for answer, sentences in ((0, 1), (1, 3)):
        made = engine._loaded.model.generate(
            "a. b. c.", callback=lambda _samples, _share, answer=answer: answer
        )
        assert (len(made.samples) > 3 * TOKEN_SAMPLES) is (sentences == 3)


def test_the_engine_is_named_without_importing_the_library() -> None:
    """A worker with another engine does not pay for this one."""
    program = (
        "import sys, tts_workers.engines.sherpa_onnx\nassert 'sherpa_onnx' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
