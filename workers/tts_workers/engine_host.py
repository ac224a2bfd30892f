"""The child that speaks: loads the engine, lets it speak once, and only then says it is ready.

The engine loads in a thread, not in Celery's initialiser: the pool kills a child that does not
come up in time, and a real model takes its time. A load that fails is tried again with back-off,
and the parent is told why; where the engine is lost, in a new process.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from tts_tasks.errors import EngineError, EngineLoadError, EngineLostError, TTSError
from tts_tasks.lexicons import KeptLexicons
from tts_tasks.requests import MAX_NAME_CHARS
from tts_tasks.storage import open_storage
from tts_tasks.storage.epochs import EpochMarks
from tts_workers.engines import load_engine
from tts_workers.engines.base import Engine, SpeakOptions, VoiceReference
from tts_workers.voice_cache import VoiceCache

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.storage import Storage
    from tts_workers.link import ChildLink
    from tts_workers.pace import Pace

logger = logging.getLogger(__name__)

#: Of a process whose engine is lost: EX_SOFTWARE.
LOST_EXIT_STATUS = 70
PROBE_TEXT = "你好。 Hello."
#: What no plain name holds, and what none begins with; see `Requirements`.
_NO_NAME = re.compile(r"[^A-Za-z0-9._:@+-]+")
_NOT_FIRST = "._:@+-"
#: Of an engine that has more of them no voice is advertised: what each heartbeat says is small.
MOST_VOICES = 200
#: Of every worker, whatever its engine says: who listens gets each segment as it is spoken.
_OF_EVERY_WORKER = frozenset({"stream"})
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 30.0
#: From the loss of an engine while it loads to the end of its process: the next one begins anew
#: with its back-off, and what is broken for good is not to be asked without a pause.
_LOST_PAUSE_S = 5.0
#: A half-written file that nobody has touched for that long was left by a writer that died.
_ABANDONED_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """An engine that has spoken, with what it says of itself."""

    engine: Engine
    fingerprint: str
    capabilities: dict[str, Any]
    storage: Storage  #: where what it speaks will go: a worker without one is not ready either
    epochs: EpochMarks  #: up to where the storage says that the lane's epochs are used
    sample_rate_hz: int = field(init=False)
    voices: VoiceCache = field(init=False, repr=False)  #: what it has encoded
    lexicons: KeptLexicons = field(init=False, repr=False)  #: that it was asked for

    def __post_init__(self) -> None:
        """Begin with no voice encoded and no lexicon read."""
        object.__setattr__(self, "sample_rate_hz", self.engine.capabilities().sample_rate_hz)
        voices = VoiceCache(self.engine, self.fingerprint, self.storage)
        object.__setattr__(self, "voices", voices)
        object.__setattr__(self, "lexicons", KeptLexicons(self.storage))

    @property
    def name(self) -> str:
        """Name and version, as reports have it."""
        return f"{self.engine.name} ({self.engine.version})"


class EngineHost:
    """Owns the one engine of this process."""

    def __init__(
        self,
        engine_name: str,
        device: str,
        link: ChildLink,
        *,
        pace: Pace,
        storage_url: str,
        lane_key: str,
        check_device: Callable[[], None] = lambda: None,
    ) -> None:
        """``check_device``: called before the engine is loaded; raises `EngineLoadError`."""
        self._check_device = check_device
        self._engine_name = engine_name
        self.pace = pace
        self._storage_url = storage_url
        self._lane_key = lane_key
        self._device = device
        self._link = link
        self._loaded: LoadedEngine | None = None
        self._ready = threading.Event()

    def start(self) -> None:
        """Begin to load."""
        threading.Thread(target=self._load_until_ready, name="engine-load", daemon=True).start()

    def wait(self, timeout_s: float) -> LoadedEngine:
        """Return the engine once it has spoken; raises `EngineLoadError` after ``timeout_s``."""
        if not self._ready.wait(timeout_s) or self._loaded is None:
            raise EngineLoadError(f"the engine {self._engine_name} is not ready yet")
        return self._loaded

    def close(self) -> None:
        """Free the engine."""
        if self._loaded is not None:
            self._loaded.engine.close()

    def lost(self, error: EngineLostError) -> None:
        """End this process, as the engine is of no more use in it.

        The parent gives the job in hand back with a strike, hands the lane over, and starts a new
        process, which loads the engine anew: so a worker whose engine does not come back takes no
        work that others can do. Without clean-up, which may need what is lost.
        """
        logger.critical("the engine %s is lost: %s", self._engine_name, error)
        for handler in logging.root.handlers:
            handler.flush()
        os._exit(LOST_EXIT_STATUS)

    def _load_until_ready(self) -> None:
        retry_s = _FIRST_RETRY_S
        while True:
            try:
                self._loaded = self._load()
            except EngineLostError as error:
                self._wait_for_next_try(error, _LOST_PAUSE_S)
                self.lost(error)
                return
            except TTSError as error:
                self._wait_for_next_try(error, retry_s)
                retry_s = min(retry_s * 2, _LAST_RETRY_S)
            else:
                break
        self._ready.set()
        self._link.say(
            {
                "event": "ready",
                "engine": self._loaded.name,
                "fingerprint": self._loaded.fingerprint,
                "capabilities": self._loaded.capabilities,
            }
        )

    def _wait_for_next_try(self, error: TTSError, pause_s: float) -> None:
        logger.error("engine %s: %s; next try in %.0f s", self._engine_name, error, pause_s)
        self._link.say({"event": "load_failed", "reason": str(error)})
        time.sleep(pause_s)

    def _load(self) -> LoadedEngine:
        """Load and probe. Rule 7: ready means it has spoken.

        Without a budget, as nobody watches yet; and `Pace` learns nothing from a text so short,
        spoken with one voice: the first job may still have caches to build.
        """
        storage = open_storage(self._storage_url)
        storage.sweep(_ABANDONED_S)
        epochs = EpochMarks(storage, self._lane_key)
        epochs.check_writable()
        engine = load_engine(self._engine_name)
        self._check_device()
        try:
            engine.load(self._device)
            voice = engine.encode_voice(VoiceReference())
            state = None
            samples = 0
            for segment in engine.split(PROBE_TEXT):
                spoken = engine.speak(segment, voice, state, SpeakOptions())
                state, samples = spoken.state, samples + len(spoken.samples)
        except EngineLostError:
            raise  # without clean-up, as in `lost`
        except EngineError:
            engine.close()
            raise
        except Exception as error:
            engine.close()
            logger.debug("engine load", exc_info=True)
            raise EngineLoadError(f"{type(error).__name__}: {error}") from error
        if samples == 0:
            engine.close()
            raise EngineLoadError("the probe made no sound")
        return LoadedEngine(engine, engine.fingerprint(), described(engine), storage, epochs)


def described(engine: Engine) -> dict[str, Any]:
    """Return the capabilities of a loaded engine as its worker advertises them.

    The model's version as a name that a request may require; with what every worker does. Voices
    in the order of numbers, those with short names first; none where there are too many.
    """
    capabilities = engine.capabilities()
    version = _NO_NAME.sub("-", capabilities.model_version or engine.version)
    voices = {name for name in capabilities.voices if len(name) <= MAX_NAME_CHARS}
    known = sorted(voices, key=lambda name: (len(name), name))
    return asdict(capabilities) | {
        "features": sorted(capabilities.features | _OF_EVERY_WORKER),
        "model": capabilities.model or engine.name,
        "model_version": version.lstrip(_NOT_FIRST)[:MAX_NAME_CHARS],
        "voices": known if len(known) <= MOST_VOICES else [],
    }
