"""A speech server with OpenAI's interface that misbehaves on command; run as a file of its own.

Its sound says which text it belongs to: each letter is a tone. It is told what to do wrong by
files in a folder, which the next requests for speech take away, one each, so it can also be told
once over all restarts::

    python speech_server.py --port 8091 --faults DIR [--ready-after-s 1] [--delay-s 0.1] ...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

RATE_HZ = 24_000
LETTER_S = 0.06
VOICES = ("default", "anna", "bob")


def sound(text: str, voice: str = "default", speed: float = 1.0) -> Any:
    """Return what the server says for a text, as 16-bit samples."""
    pitch = 1 + int(hashlib.sha256(voice.encode()).hexdigest(), 16) % 97 / 1000
    times_s = np.arange(round(LETTER_S / speed * RATE_HZ)) / RATE_HZ
    letters = [char for char in text if char.isalnum()]
    tones = [np.sin(2 * np.pi * pitch * (200 + ord(char) % 2000) * times_s) for char in letters]
    return (np.concatenate(tones or [np.zeros(1)]) * 9000).astype("<i2")


def wav(samples: Any, rate_hz: int = RATE_HZ, *, size: int | None = None) -> bytes:
    """Return a WAV file; ``size`` stands in its header in place of the true one."""
    data = samples.tobytes()
    size = len(data) if size is None else size
    whole = min(0xFFFFFFFF, size + 36)
    header = struct.pack("<4sI4s4sIHHII", b"RIFF", whole, b"WAVE", b"fmt ", 16, 1, 1, rate_hz, 0)
    return header + struct.pack("<HH4sI", 2, 16, b"data", size) + data


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    options: ClassVar[argparse.Namespace]
    began_s = time.monotonic()
    lock = threading.Lock()
    seen: ClassVar[list[dict[str, Any]]] = []
    busy: ClassVar[dict[str, int]] = {"now": 0, "most": 0, "dropped": 0, "endless": 0}

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        print("request", format % args, flush=True)  # noqa: T201

    def do_GET(self) -> None:  # noqa: PLR0911
        if self.path == "/seen":
            return self.answer({"requests": self.seen, **self.busy, "pid": os.getpid()})
        if self.options.key and self.headers["Authorization"] != f"Bearer {self.options.key}":
            return self.answer({"error": {"message": "no such key"}}, 401)
        if time.monotonic() < self.began_s + self.options.ready_after_s:
            return self.answer({"error": {"message": "loading"}}, 503)
        match self.path:
            case "/health":
                return self.answer({})
            case "/v1/models":
                return self.answer({"data": [{"id": "tones"}]})
            case "/v1/audio/voices" if not self.options.mute:
                return self.answer({"voices": [{"id": name, "name": name} for name in VOICES]})
        return self.answer({"detail": "Not Found"}, 404)

    def do_POST(self) -> None:
        fields = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.seen.append(fields)
            self.busy["now"] += 1
            self.busy["most"] = max(self.busy["most"], self.busy["now"])
        try:
            self.speak(fields)
        except OSError:
            with self.lock:
                self.busy["dropped"] += 1
            self.close_connection = True
        finally:
            with self.lock:
                self.busy["now"] -= 1

    def speak(self, fields: dict[str, Any]) -> None:
        if self.options.key and self.headers["Authorization"] != f"Bearer {self.options.key}":
            return self.answer({"error": {"message": "no such key"}}, 401)
        time.sleep(self.options.delay_s)
        voice = fields.get("ref_audio") or fields.get("voice", "")
        if "ref_audio" not in fields and voice not in VOICES:
            return self.answer({"detail": {"message": f"Voice '{voice}' not found"}}, 400)
        samples = sound(fields["input"], voice + fields.get("ref_text", ""), fields.get("speed", 1))
        fault = taken(self.options.faults)
        if fault:
            return self.misbehave(fault, samples)
        if fields["response_format"] == "pcm":
            return self.send(samples.tobytes(), "audio/pcm")
        return self.send(wav(samples, size=0xFFFFFFFF if self.options.streams else None))

    def misbehave(self, fault: str, samples: Any) -> None:  # noqa: PLR0911
        whole = wav(samples)
        match fault:
            case "slow":
                time.sleep(1)
                return self.send(whole)
            case "stall":
                self.head("audio/wav", len(whole))
                self.wfile.write(whole[: len(whole) // 2])
                return time.sleep(600)
            case "truncated":
                self.head("audio/wav", len(whole))
                self.wfile.write(whole[: len(whole) // 2])
                self.close_connection = True
                return None
            case "cut":
                return self.send(whole[: len(whole) // 2])
            case "short":
                return self.send(samples[: len(samples) // 10].tobytes(), "audio/pcm")
            case "odd":
                return self.send(samples.tobytes()[:-1], "audio/pcm")
            case "forever":
                return self.forever()
            case "wav":
                return self.send(whole)
            case "mp3":
                return self.send(b"ID3" + bytes(5000), "audio/mpeg")
            case "json":
                return self.answer({"error": {"message": "no audio was made"}})
            case "html":
                return self.send(b"<html>Bad Gateway</html>", "text/html")
            case "rubbish":
                return self.send(b"RIFF" + bytes(range(256)))
            case "rate":
                return self.send(wav(samples, 22_050))
            case "stereo":
                return self.send(wav(np.repeat(samples, 2)).replace(b"\1\0\1\0", b"\1\0\2\0", 1))
            case "nan":
                nan = np.full(9000, np.nan, "<f4").tobytes()
                header = wav(np.zeros(0, "<i2"), size=len(nan))
                return self.send(
                    header.replace(b"\1\0\1\0", b"\3\0\1\0", 1)[:32]
                    + struct.pack("<HH", 4, 32)
                    + header[36:]
                    + nan
                )
            case "reset":
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
                raise OSError
            case "crash" | "stop":
                os.kill(os.getpid(), signal.SIGKILL if fault == "crash" else signal.SIGSTOP)
                return time.sleep(600)  # this thread may run on for a moment
            case "oom":
                return self.answer({"error": {"message": "CUDA out of memory."}}, 500)
            case "unready":
                self.options.ready_after_s = 1e9
                return self.answer({"error": {"message": "EngineDeadError"}}, 500)
        status, _, message = fault.partition(" ")
        retry = {"Retry-After": "0.2"} if status == "429" else {}
        return self.answer({"error": {"message": message or "oh"}}, int(status), retry)

    def forever(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "audio/wav")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(wav(np.zeros(0, "<i2"), size=0xFFFFFFFF))
        while True:
            self.wfile.write(bytes(65_536))
            self.busy["endless"] += 65_536

    def answer(
        self, told: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send(json.dumps(told).encode(), "application/json", status, headers)

    def send(
        self,
        data: bytes,
        kind: str = "audio/wav",
        status: int = 200,
        headers: dict[str, str] | None = None,
    ) -> None:
        self.head(kind, len(data), status, headers)
        self.wfile.write(data)

    def head(
        self, kind: str, size: int, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        self.end_headers()


def taken(folder: Path | None) -> str:
    """Take the next fault away; empty: none."""
    for path in sorted(folder.iterdir()) if folder else ():
        claimed = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
        if path.name.startswith("."):
            continue
        try:
            path.rename(claimed)
        except FileNotFoundError:
            continue
        return claimed.read_text()
    return ""


class Server(ThreadingHTTPServer):
    """Many may wait."""

    daemon_threads = True
    request_queue_size = 64


def main() -> None:
    """Serve until somebody ends it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--faults", type=Path)
    parser.add_argument("--ready-after-s", type=float, default=0.0)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--key", default="")
    parser.add_argument("--mute", action="store_true", help="it does not name its voices")
    parser.add_argument("--streams", action="store_true", help="sizes in headers are unknown")
    parser.add_argument("--spawn", action="store_true", help="it has a child in its own session")
    parser.add_argument("--exit", type=int, help="it says so and ends")
    Handler.options = parser.parse_args()
    if Handler.options.exit is not None:
        print("no weights here, key", Handler.options.key, flush=True)  # noqa: T201
        sys.exit(Handler.options.exit)
    if Handler.options.spawn:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
    Server(("127.0.0.1", Handler.options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
