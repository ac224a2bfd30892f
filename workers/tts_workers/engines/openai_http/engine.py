"""The engine: a speech server with OpenAI's interface, attached to or started by it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from tts_tasks.errors import EngineError, EngineLoadError, EngineLostError, RequestError
from tts_workers.engines.base import Capabilities, EngineVoice, Spoken, VoiceReference
from tts_workers.engines.engine_settings import read_settings
from tts_workers.engines.openai_http.ahead import CallsAhead, LoopThread
from tts_workers.engines.openai_http.client import SpeechCall, SpeechClient
from tts_workers.engines.openai_http.failures import ServerError, ServerHungError
from tts_workers.engines.openai_http.server import ServerProcess, free_port
from tts_workers.engines.openai_http.settings import PORT, OpenAIHttpSettings
from tts_workers.engines.openai_http.sound import Expected, decode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tts_tasks.lexicons import Lexicon
    from tts_workers.engines.base import EngineState, Segment, SpeakOptions

logger = logging.getLogger(__name__)

#: Raise it when a change in this package changes the sound of an unchanged request.
_RENDERING_REVISION: Final = 1
_SPEED_RANGE: Final = (0.25, 4.0)
_ASK_AGAIN_S: Final = 0.1
#: A server that has broken a connection off may be about to exit.
_EXIT_GRACE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class _ServerVoice:
    """What a request says of the voice: a name, or reference audio as a data URL."""

    name: str = ""
    audio_url: str = field(default="", repr=False)
    text: str = ""

    def fields(self) -> dict[str, str]:
        if self.name:
            return {"voice": self.name}
        return {"ref_audio": self.audio_url} | ({"ref_text": self.text} if self.text else {})


@dataclass(frozen=True, slots=True)
class _Loaded:
    loop: LoopThread
    client: SpeechClient
    calls: CallsAhead
    model: str
    voices: dict[str, _ServerVoice]
    server: ServerProcess | None


class OpenAIHttpEngine:
    """Speaks with a server; an `Engine` that also begins with segments ahead (`SpeaksAhead`).

    ``settings`` come from the environment unless given; raises `ConfigurationError` for bad ones.
    There is no state between segments. `speak` raises `EngineLostError` when the server is gone,
    or hung and one of its own: `load` starts another one then, or attaches again.
    """

    name = "openai_http"

    def __init__(self, settings: OpenAIHttpSettings | None = None) -> None:
        self._settings = settings or read_settings(OpenAIHttpSettings)
        self._loaded: _Loaded | None = None
        self._loading: tuple[LoopThread, ServerProcess | None] | None = None
        self._is_lost = False

    @property
    def version(self) -> str:
        """The server's model, once loaded."""
        return self._loaded.model if self._loaded else "not loaded"

    @property
    def server_pid(self) -> int | None:
        """Process id of the server's guardian; None where the server is not one of ours."""
        server = self._loaded.server if self._loaded else None
        return server.guardian_pid if server else None

    def capabilities(self) -> Capabilities:
        """Return what the settings say that the server can do, with which model, once loaded."""
        settings = self._settings
        features = {"speed": settings.speed, "clone": settings.clone, "emotion": settings.emotion}
        return Capabilities(
            languages=settings.language_tags(),
            sample_rate_hz=settings.sample_rate_hz,
            features=frozenset(name for name, has in features.items() if has),
            deterministic=settings.deterministic,
            model=self._loaded.model if self._loaded else "",
            model_version=settings.revision,
            voices=tuple(self._loaded.voices) if self._loaded else (),
        )

    def load(self, device: str) -> None:  # noqa: ARG002 - the server sees this process's devices
        """Start or find the server and wait until it is ready; raises `EngineLoadError`."""
        if left := self._left_behind(at_once=False):
            raise EngineLoadError(f"openai_http was loaded before, and is not closed{left}")
        self._is_lost = False
        settings = self._settings
        own_voice = self._own_voice()
        port = free_port() if PORT in settings.url else 0
        base_url = settings.base_url(port)
        arguments = settings.arguments(port)
        server = ServerProcess(arguments, settings.hide) if arguments else None
        loop = LoopThread()
        self._loading = loop, server
        client = SpeechClient(settings, base_url)
        try:
            loop.result(_until_ready(client, server, settings, base_url))
            model = settings.model or loop.result(client.model())
            voices = self._voices(loop.result(client.voices()), own_voice, base_url)
        except EngineError as error:
            left = self._left_behind(at_once=False)
            if isinstance(error, EngineLoadError) and not left:
                raise
            raise EngineLoadError(f"{error}{left}") from error

        def begin(call: SpeechCall) -> Any:
            return loop.submit(client.speech(call))

        calls = CallsAhead(begin, settings.concurrency)
        self._loaded = _Loaded(loop, client, calls, model, voices, server)
        self._loading = None

    def encode_voice(self, reference: VoiceReference) -> EngineVoice:
        """Look a voice up, or make reference audio ready to be sent; raises `RequestError`."""
        voices = self._need_loaded().voices
        if reference.prompt_audio is not None:
            if not self._settings.clone:
                raise RequestError(
                    "prompt_audio", "this server imitates no voice (TTS_OPENAI_HTTP_CLONE)"
                )
            return EngineVoice(
                reference, _cloned(reference.prompt_audio, reference.prompt_text or "")
            )
        if reference.name not in voices:
            raise RequestError(
                "voice", f"the speech server has no voice {reference.name!r}; {_named(voices)}"
            )
        return EngineVoice(reference, voices[reference.name])

    def split(self, text: str, lexicon: Lexicon | None = None) -> list[Segment]:
        """Normalise and cut a text with the shared front end; of a lexicon it says words only."""
        from tts_workers.text import front_end

        return front_end(text, lexicon=lexicon)

    def expect(
        self, segments: Sequence[Segment], voice: EngineVoice, options: SpeakOptions
    ) -> None:
        """Ask the server for the next segments; see `SpeaksAhead`."""
        loaded = self._loaded
        if loaded is None or self._settings.concurrency == 1:
            return
        try:
            calls = [self._call(loaded, segment, voice, options) for segment in segments]
        except (EngineError, RequestError):
            calls = []  # `speak` will say so
        loaded.calls.expect(calls)

    def speak(
        self,
        segment: Segment,
        voice: EngineVoice,
        state: EngineState | None,  # noqa: ARG002 - the server is told each segment by itself
        options: SpeakOptions,
    ) -> Spoken:
        """Have one segment spoken, and check what came."""
        loaded = self._need_loaded()
        call = self._call(loaded, segment, voice, options)
        try:
            answer = loaded.calls.result(call)
        except ServerError as error:
            self._blame(loaded, error)
        samples = decode(answer.data, answer.content_type, call.expected)
        return Spoken(samples, took_s=answer.took_s)

    def fingerprint(self) -> str:
        """Hash of what decides the sound, as far as it is known from outside the server.

        Not of where the server listens; its model may change without it: TTS_OPENAI_HTTP_REVISION.
        """
        from tts_workers.text import FRONT_END_VERSION

        loaded, settings = self._need_loaded(), self._settings
        voices = {name: voice.fields() for name, voice in loaded.voices.items()}
        parts = (
            self.name,
            loaded.model,
            settings.command,
            settings.revision,
            json.dumps(voices, sort_keys=True),
            json.dumps(settings.further_fields(), sort_keys=True),
            f"{settings.sample_rate_hz} {settings.response_format} {settings.stream}",
            f"{settings.seed} {settings.clone}",
            f"{FRONT_END_VERSION} {_RENDERING_REVISION}",
        )
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def close(self) -> None:
        """Give up what is under way and end the server, if it is one of ours."""
        self._end(at_once=False)

    # -- the server -----------------------------------------------------------------------------

    def _end(self, *, at_once: bool) -> None:
        loaded, self._loaded = self._loaded, None
        loading, self._loading = self._loading, None
        if loaded is not None:
            loading = loaded.loop, loaded.server
        if loading is None:
            return
        loop, server = loading
        try:
            loop.close()
        finally:
            if server is not None:
                server.close(at_once=at_once)

    def _left_behind(self, *, at_once: bool) -> str:
        """End it where there is an error to tell already; returns what to add to that."""
        try:
            self._end(at_once=at_once)
        except EngineError as error:
            return f"; {error}"
        return ""

    def _blame(self, loaded: _Loaded, error: ServerError) -> NoReturn:
        """Find out whether the server is gone; raises `EngineLostError`, or what happened."""
        server = loaded.server
        if server is not None:
            if isinstance(error, ServerHungError):
                self._lose(server, f"{error}; it was killed", error)
            if server.ends_within(_EXIT_GRACE_S):
                self._lose(server, f"{error}; the server has ended", error)
        try:
            is_ready = loaded.loop.result(loaded.client.is_ready())
        except EngineLoadError as refused:
            raise EngineLostError(str(refused)) from error
        if is_ready:
            raise error
        self._lose(server, f"{error}; the server is not ready any more", error)

    def _lose(self, server: ServerProcess | None, reason: str, error: Exception) -> NoReturn:
        words = server.last_words() if server else ""
        self._is_lost = True
        left = self._left_behind(at_once=True)
        raise EngineLostError(f"{reason}{words}{left}") from error

    def _need_loaded(self) -> _Loaded:
        if self._loaded is None:
            kind = EngineLostError if self._is_lost else EngineError
            raise kind("openai_http is not loaded: call load() first")
        return self._loaded

    # -- voices and requests --------------------------------------------------------------------

    def _own_voice(self) -> _ServerVoice | None:
        if not self._settings.voice_audio:
            return None
        from tts_tasks.reference_audio import prepare

        try:
            data = Path(self._settings.voice_audio).read_bytes()
            return _cloned(prepare(data).data, self._settings.voice_text)
        except (OSError, RequestError) as error:
            raise EngineLoadError(f"TTS_OPENAI_HTTP_VOICE_AUDIO: {error}") from error

    def _voices(
        self, listed: list[str], own: _ServerVoice | None, base_url: str
    ) -> dict[str, _ServerVoice]:
        names = self._settings.named_voices() or {name: name for name in listed}
        voices = {name: _ServerVoice(name=server_name) for name, server_name in names.items()}
        if own is not None:
            voices["default"] = own
        if "default" in voices:
            return voices
        if self._settings.voices or not listed:
            raise EngineLoadError(
                f"there is no voice 'default': {base_url}/audio/voices names"
                f" {', '.join(listed[:20]) or 'none'}; set TTS_OPENAI_HTTP_VOICES=default=NAME, or"
                " for a server that imitates TTS_OPENAI_HTTP_VOICE_AUDIO"
            )
        return voices | {"default": _ServerVoice(name=listed[0])}

    def _call(
        self, loaded: _Loaded, segment: Segment, voice: EngineVoice, options: SpeakOptions
    ) -> SpeechCall:
        settings = self._settings
        if not isinstance(voice.payload, _ServerVoice):
            raise EngineError("openai_http was handed a voice that it did not encode itself")
        natural = options.speed == 1.0
        slowest, fastest = _SPEED_RANGE
        if not natural and not settings.speed:
            raise RequestError("speed", "this server speaks at its own speed: leave it at 1.0")
        if not slowest <= options.speed <= fastest:
            raise RequestError("speed", f"must be from {slowest:g} to {fastest:g}")
        fields: dict[str, Any] = {
            "model": loaded.model,
            "input": segment.text,
            "response_format": settings.response_format,
            **voice.payload.fields(),
        }
        if not natural:
            fields["speed"] = options.speed
        elif settings.stream:  # vLLM-Omni does not stream at another speed
            fields["stream_format"] = "audio"
        if settings.seed:
            fields["seed"] = options.seed
        fields |= settings.further_fields()
        expected = Expected.of(
            segment.text, options.speed, settings.response_format, settings.sample_rate_hz
        )
        return SpeechCall(fields, expected)


def _cloned(audio: bytes, text: str) -> _ServerVoice:
    url = f"data:audio/wav;base64,{base64.b64encode(audio).decode('ascii')}"
    return _ServerVoice(audio_url=url, text=text)


def _named(voices: dict[str, _ServerVoice]) -> str:
    names = sorted(voices)
    more = ", ..." if names[40:] else ""
    return f"there is {', '.join(names[:40])}{more}"


async def _until_ready(
    client: SpeechClient,
    server: ServerProcess | None,
    settings: OpenAIHttpSettings,
    base_url: str,
) -> None:
    """Wait until the server is ready; raises `EngineLoadError` if it ends or takes too long."""
    try:
        async with asyncio.timeout(settings.ready_s):
            while not await client.is_ready():
                if server is not None and not server.is_running:
                    raise EngineLoadError(f"the speech server ended{server.last_words()}")
                await asyncio.sleep(_ASK_AGAIN_S)
    except TimeoutError:
        words = server.last_words() if server else ""
        raise EngineLoadError(
            f"the speech server at {base_url} was not ready within {settings.ready_s:g} s"
            f" (TTS_OPENAI_HTTP_READY_S){words}"
        ) from None
