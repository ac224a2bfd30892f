"""The helper process in which espeak-ng speaks; its only argument is the worker's process id.

The worker never loads the library itself (docs/decisions/0003). This process waits on stdin; for
each request it forks a renderer, which reads the request, loads the library afresh, answers on
stdout and exits. The waiting process reads no request and never loads the library, so its memory,
and with it the starting point of every renderer, is the same for the first and the thousandth
utterance. It exits at stdin's end, when the process PID dies, and after a renderer has crashed.

A frame is two unsigned 32-bit big-endian lengths, a JSON header and a body. A request has no body;
an answer's body is 16-bit mono PCM in native byte order. Only the standard library is used here.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import json
import os
import select
import signal
import struct
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

FRAME: Final = struct.Struct(">II")
#: espeak-ng's own limits: slower it does not go, faster it hands over to its sonic library.
MIN_RATE_WPM: Final = 80

# Names and values of espeak-ng's C interface (speak_lib.h).
_AUDIO_OUTPUT_SYNCHRONOUS: Final = 2
_INITIALIZE_DONT_EXIT: Final = 0x8000
_TRACE_NAMES: Final = 1
_TRACE_IPA: Final = 3
_PARAMETER_RATE: Final = 1
_PARAMETER_VOLUME: Final = 2
_CHARS_UTF8: Final = 1  # and not espeakSSML (0x10)
_PHONEMES: Final = 0x100  # what stands in [[...]] is the library's own names of sounds
_PR_SET_PDEATHSIG: Final = 1
#: At the default of 100 loud vowels reach the library's limiter; at 60 no voice does.
_VOLUME: Final = 60

_SynthCallback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class RenderError(Exception):
    """The library refused; the message goes back to the worker."""


class Library:
    """The espeak-ng library, loaded and initialised once. One utterance, then throw it away."""

    def __init__(self) -> None:
        import espeakng_loader

        self.shared_object = Path(espeakng_loader.get_library_path())
        self.data_path = Path(espeakng_loader.get_data_path())
        self._lib = ctypes.CDLL(str(self.shared_object))
        self._lib.espeak_Info.restype = ctypes.c_char_p
        self.sample_rate_hz: int = self._lib.espeak_Initialize(
            _AUDIO_OUTPUT_SYNCHRONOUS, 0, os.fsencode(self.data_path), _INITIALIZE_DONT_EXIT
        )
        if self.sample_rate_hz <= 0:
            raise RenderError(f"espeak-ng cannot use its data in {self.data_path}")

    def describe(self) -> dict[str, Any]:
        """Return version, sample rate, and a hash of the library and all its voice data."""
        digest = hashlib.sha256(self.shared_object.read_bytes())
        for path in sorted(self.data_path.rglob("*")):
            if path.is_file():
                digest.update(str(path.relative_to(self.data_path)).encode())
                digest.update(path.read_bytes())
        return {
            "version": self._lib.espeak_Info(None).decode(),
            "sample_rate_hz": self.sample_rate_hz,
            "content_sha256": digest.hexdigest(),
        }

    def speak(
        self,
        text: str,
        voice: str,
        *,
        rate_wpm: int,
        stretch: float = 1.0,
        seed: int = 0,
        phonemes: bool = False,
    ) -> bytes:
        """Return the PCM of one plain text; ``stretch`` below 1.0 slows it down further.

        ``phonemes``: what stands in ``[[...]]`` is the names of sounds.
        """
        if status := self._lib.espeak_SetVoiceByName(voice.encode()):
            raise RenderError(f"espeak-ng has no voice {voice!r} (status {status})")
        self._lib.espeak_SetParameter(_PARAMETER_RATE, rate_wpm, 0)
        self._lib.espeak_SetParameter(_PARAMETER_VOLUME, _VOLUME, 0)
        # espeak_Initialize seeds its noise from the wall clock, which breathy voices make audible.
        self._lib.espeak_ng_SetRandSeed(ctypes.c_long(seed))
        ctypes.CDLL(None).srand(ctypes.c_uint(seed))
        pcm = bytearray()

        def collect(samples: Any, count: int, _events: int | None) -> int:
            if samples and count > 0:
                pcm.extend(ctypes.string_at(samples, count * 2))
            return 0

        callback = _SynthCallback(collect)
        self._lib.espeak_SetSynthCallback(callback)
        encoded = text.encode() + b"\0"
        flags = _CHARS_UTF8 | (_PHONEMES if phonemes else 0)
        status = self._lib.espeak_Synth(
            encoded, ctypes.c_size_t(len(encoded)), 0, 0, 0, flags, None, None
        )
        if status:
            raise RenderError(f"espeak-ng refused the text (status {status})")
        return bytes(pcm) if stretch >= 1.0 else self._stretched(bytes(pcm), stretch)

    def phonemes(self, text: str, voice: str, *, ipa: bool, phonemes: bool = False) -> str:
        """Return what would be spoken, a line for each clause."""
        libc = ctypes.CDLL(None)
        libc.open_memstream.restype = ctypes.c_void_p
        written, size = ctypes.c_char_p(), ctypes.c_size_t()
        stream = ctypes.c_void_p(libc.open_memstream(ctypes.byref(written), ctypes.byref(size)))
        if not stream:
            raise RenderError("there is no memory to write the phonemes to")
        trace = self._lib.espeak_SetPhonemeTrace
        trace(_TRACE_IPA if ipa else _TRACE_NAMES, stream)
        self.speak(text, voice, rate_wpm=175, phonemes=phonemes)
        trace(0, None)
        libc.fclose(stream)
        return (written.value or b"").decode().strip()

    def _stretched(self, pcm: bytes, speed: float) -> bytes:
        """Slow the speech down at the same pitch with the sonic library inside espeak-ng."""
        sonic = self._lib
        sonic.sonicCreateStream.restype = ctypes.c_void_p
        stream = ctypes.c_void_p(sonic.sonicCreateStream(self.sample_rate_hz, 1))
        if not stream:
            raise RenderError("sonic could not allocate its stream")
        sonic.sonicSetSpeed(stream, ctypes.c_float(speed))
        sonic.sonicWriteShortToStream(stream, pcm, len(pcm) // 2)
        sonic.sonicFlushStream(stream)
        count = sonic.sonicSamplesAvailable(stream)
        slow = ctypes.create_string_buffer(count * 2)
        read = sonic.sonicReadShortFromStream(stream, slow, count)
        sonic.sonicDestroyStream(stream)
        return slow.raw[: read * 2]


def encode_frame(header: dict[str, Any], body: bytes = b"") -> bytes:
    """Return header and body as one frame."""
    encoded = json.dumps(header, ensure_ascii=False).encode()
    return FRAME.pack(len(encoded), len(body)) + encoded + body


def answer(request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """Carry one request out in this process; what is refused becomes an ``error`` header."""
    try:
        library = Library()
        match request.pop("op"):
            case "describe":
                return library.describe(), b""
            case "phonemes":
                return {"phonemes": library.phonemes(**request)}, b""
        return {}, library.speak(**request)
    except (ImportError, OSError, RenderError) as error:
        return {"error": f"{type(error).__name__}: {error}"}, b""


def _read_exactly(fd: int, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        chunk = os.read(fd, count - len(data))
        if not chunk:
            raise EOFError("the request ends in the middle of a frame")
        data += chunk
    return bytes(data)


def _render(requests_fd: int, answers_fd: int) -> None:
    header_bytes, _ = FRAME.unpack(_read_exactly(requests_fd, FRAME.size))
    frame = encode_frame(*answer(json.loads(_read_exactly(requests_fd, header_bytes))))
    view = memoryview(frame)
    while view:
        view = view[os.write(answers_fd, view) :]


def _renderer(requests_fd: int, answers_fd: int, helper_pid: int) -> NoReturn:
    """Be the forked renderer: one request, one answer, then exit without any clean-up."""
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == helper_pid:
            _render(requests_fd, answers_fd)
            status = 0
    finally:
        if status:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        os._exit(status)


def _wait_for_renderer(pid: int, parent_fd: int) -> int:
    """Return the renderer's exit code; kill it if the worker dies first."""
    renderer_fd = os.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(renderer_fd, select.POLLIN)
        poller.register(parent_fd, select.POLLIN)
        if any(fd == parent_fd for fd, _ in poller.poll()):
            os.kill(pid, signal.SIGKILL)
    finally:
        os.close(renderer_fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def serve(requests_fd: int, answers_fd: int, parent_fd: int) -> int:
    """Fork a renderer for each request until stdin ends or the worker dies; return the exit code.

    A pidfd watches the worker and not PR_SET_PDEATHSIG, whose signal comes already when the
    *thread* that started this process ends.
    """
    poller = select.poll()
    poller.register(requests_fd, select.POLLIN)
    poller.register(parent_fd, select.POLLIN)
    helper_pid = os.getpid()
    while True:
        ready = dict(poller.poll())
        if parent_fd in ready or not ready.get(requests_fd, 0) & select.POLLIN:
            return 0
        pid = os.fork()
        if pid == 0:
            _renderer(requests_fd, answers_fd, helper_pid)
        code = _wait_for_renderer(pid, parent_fd)
        if code:
            death = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            sys.stderr.write(f"the renderer died: {death}\n")
            return 1


def main() -> int:
    """Entry point; the only argument is the worker's process id."""
    parent_pid = int(sys.argv[1])
    parent_fd = os.pidfd_open(parent_pid)
    if os.getppid() != parent_pid:
        return 0
    faulthandler.enable()
    # Whatever a library prints must not end up among the frames.
    answers_fd = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return serve(sys.stdin.fileno(), answers_fd, parent_fd)


if __name__ == "__main__":
    sys.exit(main())
