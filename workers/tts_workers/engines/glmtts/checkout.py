"""A checkout of GLM-TTS as a guest in this process, with its habits kept to itself.

Its code takes ``ckpt``, ``configs`` and ``frontend`` from the working directory, on loading and
with every text; its packages are called ``utils``, ``llm``, ``flow``, ``tools``; and where a folder
is missing it asks a hub on the internet. So it is run in a working directory and with a set of
modules of its own, which are there only while it runs, and what it needs is looked for before.
Proved by ``tests/unit/engines/test_glmtts_checkout.py``.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tts_tasks.errors import EngineLoadError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from tts_workers.engines.glmtts.settings import GlmTtsSettings

ENTRY: Final = "glmtts_inference"
_VOCODERS: Final = {24_000: "hift/hift.pt", 32_000: "vocos2d/generator_jit.ckpt"}
#: What is needed of the checkout and of the weights: at least one file for each pattern.
_CODE: Final = (
    f"{ENTRY}.py",
    "cosyvoice/cli/frontend.py",
    "configs/spk_prompt_dict.yaml",
    "frontend/campplus.onnx",
)
_PHONEME_CODE: Final = ("configs/G2P_able_1word.json", "configs/G2P_replace_dict.jsonl")
_WEIGHTS: Final = (
    "llm/config.json",
    "llm/*.safetensors|llm/*.bin",
    "flow/config.yaml",
    "flow/flow.pt",
    "speech_tokenizer/config.json",
    "speech_tokenizer/preprocessor_config.json",
    "speech_tokenizer/model*.safetensors",
    "vq32k-phoneme-tokenizer/tokenizer*",
)
#: What huggingface_hub and transformers read: nothing is fetched, whatever is missing.
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
_POINTER: Final = b"version https://git-lfs"


class Checkout:
    """The files of a checkout and its weights, and the way to run its code."""

    def __init__(self, settings: GlmTtsSettings) -> None:
        self.home = settings.home_path
        self.ckpt = settings.ckpt_path
        self._needed = [
            *((self.home, name) for name in _CODE),
            *((self.home, name) for name in _PHONEME_CODE if settings.phoneme),
            *((self.ckpt, name) for name in (*_WEIGHTS, _VOCODERS[settings.sample_rate_hz])),
        ]
        places = hashlib.sha256(f"{self.home}\n{self.ckpt}".encode()).hexdigest()[:16]
        self._place = settings.cache_path / f"place-{places}"
        self._names: frozenset[str] = frozenset()
        self._modules: dict[str, ModuleType] = {}

    def open(self) -> None:
        """Look for all that is needed; raises `EngineLoadError` that names what is missing."""
        if not self.home.is_dir():
            raise EngineLoadError(f"TTS_GLMTTS_HOME: there is no folder {self.home}")
        if not self.ckpt.is_dir():
            raise EngineLoadError(
                f"the weights are not there: no folder {self.ckpt}. Download them into it, or name"
                " theirs in TTS_GLMTTS_CKPT (docs/how-to/glm-tts.md); nothing is fetched here"
            )
        missing = [folder / name for folder, name in self._needed if not _found(folder, name)]
        if missing:
            raise EngineLoadError(
                f"missing: {', '.join(map(str, missing))}. Nothing is fetched here: complete the"
                " checkout or the download (docs/how-to/glm-tts.md)"
            )
        for file in self.files():
            if _is_pointer(file):
                raise EngineLoadError(
                    f"{file} is only a pointer of Git LFS to the real file: run `git lfs pull`"
                )
        self._names = frozenset(_top_level_names(self.home))
        self._modules = dict(_bare_packages(self.home, self._names))
        try:
            self._make_place()
        except OSError as error:
            raise EngineLoadError(
                f"the cache {self._place.parent} cannot be written to ({error.strerror}): name"
                " another folder in TTS_GLMTTS_CACHE"
            ) from error

    def files(self) -> list[Path]:
        """Return the needed files, sorted: what a pattern stands for, one by one."""
        return sorted({file for folder, name in self._needed for file in _found(folder, name)})

    def weights(self) -> list[Path]:
        """Return what was trained, what configures it, and what the tokenizers consist of."""
        needed = [file for file in self.files() if file.suffix != ".py"]
        return _plain_files([*needed, *self._beside(needed)])

    def checkpoint(self) -> list[Path]:
        """Return what a download of the weights consists of, the same for each rate and mode."""
        vocoders = [self.ckpt / name for name in _VOCODERS.values()]
        return _plain_files(
            self._beside([*self.files(), *(file for file in vocoders if file.is_file())])
        )

    def _beside(self, files: Iterable[Path]) -> list[Path]:
        """Return those of the weights' files themselves, and all that lies in their folders."""
        folders = {file.parent for file in files if file.is_relative_to(self.ckpt)}
        return [file for folder in folders for file in folder.iterdir()]

    def sources(self) -> list[Path]:
        """Return its program and its dictionaries, sorted."""
        configs = (self.home / "configs").rglob("*")
        code = [
            file
            for name in _top_level_names(self.home)
            for file in [self.home / f"{name}.py", *(self.home / name).rglob("*.py")]
        ]
        return sorted({file for file in [*configs, *code] if file.is_file()})

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Have its working directory and its modules while the block runs; not to be nested."""
        outside = Path.cwd()
        os.chdir(self._place)
        theirs = self._take_modules()
        sys.modules.update(self._modules)
        sys.path.insert(0, str(self.home))
        try:
            yield
        finally:
            sys.path.remove(str(self.home))
            self._modules = self._take_modules()
            sys.modules.update(theirs)
            os.chdir(outside)

    def module(self, name: str) -> ModuleType:
        """Import one of its modules, or one that it uses; only `inside`.

        Raises `EngineLoadError` for a package that is not installed or does not load, and for a
        module of another place under the checkout's name.
        """
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = (error.name or "?").partition(".")[0]
            if missing in self._names:
                raise EngineLoadError(f"{self.home} is incomplete: {error}") from error
            raise EngineLoadError(
                f"the checkout needs the Python package {missing!r}, which is not installed:"
                " pip install 'tts-tasks[glmtts]'"
            ) from error
        except (ImportError, OSError) as error:  # OSError: a library of its own, as torchaudio's
            raise EngineLoadError(
                f"a package that the checkout needs does not load ({error}): are torch and"
                " torchaudio of one release, and both for CUDA? constraints-glmtts.txt has versions"
                " that go together"
            ) from error
        file = str(getattr(module, "__file__", ""))
        if name.partition(".")[0] in self._names and not Path(file).is_relative_to(self.home):
            raise EngineLoadError(f"the module {name} came from {file}, not from {self.home}")
        return module

    def close(self) -> None:
        """Forget its modules."""
        self._modules = {}

    def _take_modules(self) -> dict[str, Any]:
        """Take those out of the interpreter that bear one of the checkout's names."""
        names = [name for name in sys.modules if name.partition(".")[0] in self._names]
        return {name: sys.modules.pop(name) for name in names}

    def _make_place(self) -> None:
        """Make the working directory: links to what the code looks for there."""
        self._place.mkdir(parents=True, exist_ok=True)
        targets = {
            entry.name: entry for entry in self.home.iterdir() if not entry.name.startswith(".")
        }
        targets["ckpt"] = self.ckpt
        for name, target in targets.items():
            link = self._place / name
            if not link.is_symlink():
                with contextlib.suppress(FileExistsError):  # another worker was faster
                    link.symlink_to(target)


def go_offline() -> None:
    """Forbid the libraries to ask a hub, from now on and in this process."""
    os.environ.update(_OFFLINE)
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # it has read its variable already
        setattr(constants, "HF_HUB_OFFLINE", True)  # noqa: B010 - a module, whose names mypy knows


def _found(folder: Path, name: str) -> list[Path]:
    """Return the files of a pattern, or of several that will do, separated by ``|``."""
    return [file for one in name.split("|") for file in folder.glob(one) if file.is_file()]


def _plain_files(paths: Iterable[Path]) -> list[Path]:
    return sorted({path for path in paths if path.is_file() and not path.name.startswith(".")})


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_POINTER)) == _POINTER


def _top_level_names(home: Path) -> list[str]:
    """Return the names under which the checkout's code is imported."""
    names = []
    for entry in home.iterdir():
        is_code = entry.suffix == ".py" or (
            entry.is_dir() and entry.name != "ckpt" and any(entry.rglob("*.py"))
        )
        if is_code and entry.stem.isidentifier():
            names.append(entry.stem)
    return sorted(names)


def _bare_packages(home: Path, names: frozenset[str]) -> Iterator[tuple[str, ModuleType]]:
    """Make the packages that have no ``__init__.py``.

    Left to the import system, any installed package of the same name would come first: one with an
    ``__init__.py`` wins, wherever on the path it is.
    """
    for name in names:
        folder = home / name
        if folder.is_dir() and not (folder / "__init__.py").exists():
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(folder)]
            yield name, importlib.util.module_from_spec(spec)
