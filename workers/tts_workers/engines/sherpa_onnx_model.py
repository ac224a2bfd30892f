"""Which files a sherpa-onnx model consists of, and what it can be told: ``TTS_SHERPA_ONNX_*``."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tts_tasks.errors import EngineLoadError

ESPEAK_DATA: Final = "espeak-ng-data"
_ESPEAK_FILES: Final = ("phontab", "phonindex", "phondata", "intonations")
#: What each kind of model needs, in words.
NEEDS: Final = {
    "kitten": f"a model (.onnx), voices.bin, tokens.txt and {ESPEAK_DATA}",
    "kokoro": f"a model (.onnx), voices.bin, tokens.txt and {ESPEAK_DATA}; from 1.0 on also"
    " lexicons",
    "matcha": f"an acoustic model and a vocoder (.onnx), tokens.txt, and lexicon.txt or"
    f" {ESPEAK_DATA}",
    "vits": f"a model (.onnx), tokens.txt, and unless its tokens are characters lexicon.txt or"
    f" {ESPEAK_DATA}",
}
#: Names of the operators that draw random numbers, as they stand in a model's file.
_RANDOM: Final = (b"RandomNormal", b"RandomUniform", b"Multinomial", b"Bernoulli")
#: The library's own noise scales, where it takes any.
_NOISE: Final = {
    "vits": {"noise_scale": 0.667, "noise_scale_w": 0.8},
    "matcha": {"noise_scale": 1.0},
}


class SherpaOnnxSettings(BaseSettings):
    """Settings of `SherpaOnnxEngine`. Relative paths are taken from where the process started."""

    model_config = SettingsConfigDict(
        env_prefix="TTS_SHERPA_ONNX_", frozen=True, extra="ignore", protected_namespaces=()
    )

    model: str = ""  #: the folder
    model_type: Literal["", "kitten", "kokoro", "matcha", "vits"] = ""
    model_file: str = ""  #: in the folder; empty: model.onnx, or the only one that there is
    vocoder: str = ""  #: a file, in the folder or elsewhere
    lexicon: str = ""  #: files in the folder, by commas; empty: the only one that there is
    lang: str = ""  #: of Kokoro from 1.0 on
    languages: str = ""
    speakers: str = ""  #: ``name=number``, by commas; empty: the numbers themselves
    provider: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    noise: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] = 1.0

    @field_validator("model")
    @classmethod
    def _folder_is_absolute(cls, value: str) -> str:
        if not value:
            raise ValueError("is not set: it names the folder of the model")
        return str(Path(value).expanduser().absolute())

    @field_validator("model_type")
    @classmethod
    def _type_is_named(cls, value: str) -> str:
        if not value:
            raise ValueError(f"is not set: it is one of {', '.join(NEEDS)}")
        return value

    @field_validator("languages")
    @classmethod
    def _there_is_a_language(cls, value: str) -> str:
        if not parts(value):
            raise ValueError("is not set: it names what the model speaks, as in zh,en")
        return value

    @field_validator("speakers")
    @classmethod
    def _speakers_are_numbered(cls, value: str) -> str:
        speakers_of(value)
        return value

    def language_tags(self) -> tuple[str, ...]:
        """Return the languages."""
        return tuple(parts(self.languages))


def parts(text: str) -> list[str]:
    """Return what stands between commas."""
    return [part.strip() for part in text.split(",") if part.strip()]


def speakers_of(text: str) -> dict[str, int]:
    """Return the numbers of speakers by name; raises ValueError."""
    speakers: dict[str, int] = {}
    for part in parts(text):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if not name or not number.isdecimal() or name in speakers:
            raise ValueError(
                f"{part!r}: must be name=number, each name once, as in default=0,anna=3"
            )
        speakers[name] = int(number)
    return speakers


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a model, all of which are there."""

    family: str
    arguments: dict[str, Any]  #: of the family's configuration
    onnx: tuple[Path, ...]
    others: tuple[Path, ...]

    @property
    def draws_random_numbers(self) -> bool:
        """Whether it sounds another way each time."""
        if self.family in _NOISE and not any(self.arguments[name] for name in _NOISE[self.family]):
            return False
        return any(_holds(path, _RANDOM) for path in self.onnx)

    def sha256(self) -> str:
        """Hash of the contents of all files, and of what the model is told."""
        told = {k: v for k, v in self.arguments.items() if isinstance(v, float)}
        digest = hashlib.sha256(f"{self.family} {told} {self.arguments.get('lang')}".encode())
        for path in (*self.onnx, *self.others):
            with path.open("rb") as file:
                digest.update(f"\n{path.name} ".encode())
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def find_files(settings: SherpaOnnxSettings) -> ModelFiles:
    """Find a model's files; raises `EngineLoadError` that names what is missing."""
    family, folder = settings.model_type, Path(settings.model)
    if not folder.is_dir():
        raise EngineLoadError(f"TTS_SHERPA_ONNX_MODEL: {folder} is not a folder")
    vocoder = _file(folder, settings.vocoder, family, "VOCODER") if settings.vocoder else None
    model = _model_file(folder, settings, vocoder)
    tokens = _file(folder, "tokens.txt", family)
    arguments: dict[str, Any] = {"tokens": str(tokens)}
    onnx, others = [model], [tokens]
    if family == "matcha":
        if vocoder is None:
            raise EngineLoadError(f"TTS_SHERPA_ONNX_VOCODER is not set: {_needs(family)}")
        onnx.append(vocoder)
        arguments |= {"acoustic_model": str(model), "vocoder": str(vocoder)}
    else:
        arguments["model"] = str(model)
    if family in {"kokoro", "kitten"}:
        voices = _file(folder, "voices.bin", family)
        others.append(voices)
        arguments["voices"] = str(voices)
    if family == "kokoro" and settings.lang:
        arguments["lang"] = settings.lang
    if lexicons := _lexicons(folder, settings):
        others += lexicons
        arguments["lexicon"] = ",".join(map(str, lexicons))
    if data := _espeak_data(folder, family):
        others += sorted(path for path in data.rglob("*") if path.is_file())
        arguments["data_dir"] = str(data)
    arguments |= {name: s * settings.noise for name, s in _NOISE.get(family, {}).items()}
    return ModelFiles(family, arguments, tuple(onnx), tuple(others))


def _model_file(folder: Path, settings: SherpaOnnxSettings, vocoder: Path | None) -> Path:
    if settings.model_file:
        return _file(folder, settings.model_file, settings.model_type, "MODEL_FILE")
    found = sorted(path for path in folder.glob("*.onnx") if path != vocoder)
    plain = folder / "model.onnx"
    if plain in found or len(found) == 1:
        return _whole(plain if plain in found else found[0])
    if not found:
        raise EngineLoadError(
            f"there is no model (.onnx) in {folder}: {_needs(settings.model_type)}"
        )
    names = ", ".join(path.name for path in found)
    raise EngineLoadError(
        f"there are several models in {folder}: set TTS_SHERPA_ONNX_MODEL_FILE to one of {names}"
    )


def _lexicons(folder: Path, settings: SherpaOnnxSettings) -> list[Path]:
    if settings.lexicon:
        return [
            _file(folder, name, settings.model_type, "LEXICON") for name in parts(settings.lexicon)
        ]
    found = sorted(folder.glob("lexicon*.txt"))
    if len(found) > 1:
        names = ",".join(path.name for path in found)
        raise EngineLoadError(
            f"there are several lexicons in {folder}: set TTS_SHERPA_ONNX_LEXICON to those that"
            f" go with the languages, of {names}"
        )
    return found


def _espeak_data(folder: Path, family: str) -> Path | None:
    data = folder / ESPEAK_DATA
    if not data.is_dir():
        if family in {"kokoro", "kitten"}:
            raise EngineLoadError(f"{data} is missing: {_needs(family)}")
        return None
    for name in _ESPEAK_FILES:
        _file(data, name, family)
    return data


def _file(folder: Path, name: str, family: str, variable: str = "") -> Path:
    path = folder / Path(name).expanduser()
    if not path.is_file():
        setting = f" (TTS_SHERPA_ONNX_{variable})" if variable else ""
        raise EngineLoadError(f"{path} is missing{setting}: {_needs(family)}")
    return _whole(path)


def _whole(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            begins = file.read(40)
    except OSError as error:
        raise EngineLoadError(f"{path} cannot be read: {error.strerror}") from error
    if not begins:
        raise EngineLoadError(f"{path} is empty: was it downloaded to its end?")
    if begins.startswith(b"version https://git-lfs"):
        raise EngineLoadError(f"{path} is only a pointer of Git LFS: run git lfs pull")
    return path


def _needs(family: str) -> str:
    return f"a {family} model needs {NEEDS[family]}"


def _holds(path: Path, words: tuple[bytes, ...]) -> bool:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return any(content.find(word) >= 0 for word in words)
