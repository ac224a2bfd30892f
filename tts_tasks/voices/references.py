"""Reference audio in storage, by its content, and who still needs it.

::

    .tts/voices/audio/<sha256>.wav        normalised, see `tts_tasks.reference_audio`
    .tts/voices/uses/<user>/<sha256>      it is needed: by ``voice/NAME[~STYLE]/VERSION``, by
                                          ``batch/ID``, or by ``online/DAY``: jobs of that day
    .tts/voices/condemned/<sha256>/<who>  somebody is about to remove it
    .tts/voices/encoded/<fingerprint>/<sha256>/<reference>  what an engine has made of it
"""

from __future__ import annotations

import hashlib
import secrets
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from tts_tasks import keys
from tts_tasks.errors import StorageError, UnavailableError
from tts_tasks.storage.base import SIDECAR_FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable

    from tts_tasks.storage import Storage

VOICES_FOLDER: Final = f"{SIDECAR_FOLDER}/voices"
ENCODED_FOLDER: Final = f"{VOICES_FOLDER}/encoded"
_AUDIO: Final = f"{VOICES_FOLDER}/audio"
_USES: Final = f"{VOICES_FOLDER}/uses"
_CONDEMNED: Final = f"{VOICES_FOLDER}/condemned"
_SUFFIX: Final = ".wav"
#: Objects of which only the names matter.
_MARK: Final = b"\n"
#: Days for which audio is kept that an online job has brought, besides the day itself.
KEPT_DAYS: Final = 2
#: How long to wait for whoever removes the very audio that is being brought.
_SWEPT_WITHIN_S: Final = 10.0
_POLL_S: Final = 0.05
#: What was condemned so long ago was left by somebody who died.
_ABANDONED: Final = timedelta(hours=1)


def uses_of_batch(batch_id: str) -> str:
    """Return the folder in which it is noted what a batch needs; it goes with the batch."""
    return f"{_USES}/{batch_user(batch_id)}"


def batch_user(batch_id: str) -> str:
    """Return the user that stands for a batch."""
    return f"batch/{keys.check_batch_id(batch_id)}"


class ReferenceStore:
    """Reference audio by content hash. Every call raises as the methods of `Storage` do.

    Invariant: audio whose use was noted by a call of `put` or `use` that has returned is there as
    long as the note is. Whoever removes audio condemns it first and looks for notes afterwards;
    whoever notes a use looks afterwards whether it is condemned. Proved by
    ``tests/contract/test_voice_references.py``.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        patience_s: float = _SWEPT_WITHIN_S,
    ) -> None:
        """``now`` tells the time in UTC, for the day of online jobs."""
        self._storage = storage
        self._now = now
        self._patience_s = patience_s

    def put(self, data: bytes, user: str) -> str:
        """Keep audio for a user; returns its content hash."""
        sha256 = hashlib.sha256(data).hexdigest()
        self._insist(sha256, lambda: self._create(sha256, data, user))
        return sha256

    def use(self, sha256: str, user: str) -> bool:
        """Note that a user needs audio that is there; False if it is not there."""
        self._insist(sha256, lambda: self._note(sha256, user))
        return self.has(sha256)

    def has(self, sha256: str) -> bool:
        """Tell whether audio is there now."""
        return self._storage.stat(_audio_name(sha256)) is not None

    def read(self, sha256: str) -> bytes:
        """Return audio; raises `NotFoundError`, and `StorageError` where it is damaged."""
        name = _audio_name(sha256)
        data = self._storage.read(name)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise StorageError(
                f"{self._storage.uri(name)} is damaged: its content is not what its name says; "
                "remove it, and add the voice or submit the job again"
            )
        return data

    def for_today(self) -> str:
        """Return the user that stands for the online jobs of today."""
        return f"online/{self._now():%Y%m%d}"

    def drop(self, user: str) -> None:
        """Forget what a user needs. Online jobs may have been told of it: it stays for a while."""
        today = self.for_today()
        notes = list(self._storage.list_hidden(f"{_USES}/{user}"))
        for note in notes:
            self._note(_sha256_of(note), today)
        self._storage.remove(notes)

    def sweep(self, wanted: Callable[[], set[str]]) -> int:
        """Remove the audio that nobody needs, and what was made of it; returns how many.

        ``wanted`` returns what open jobs pin; it is asked only if there is anything to remove. Any
        number of sweeps may run at once.
        """
        self._forgive()
        there = {_sha256_of(name) for name in self._storage.list_hidden(_AUDIO)}
        unused = there - self._used() if there else there
        unused = unused - wanted() if unused else unused
        who = secrets.token_hex(8)
        condemned = {sha256: f"{_CONDEMNED}/{sha256}/{who}" for sha256 in sorted(unused)}
        for name in condemned.values():
            self._storage.create(name, _MARK)
        swept = unused - self._used() if unused else unused
        self._storage.remove(map(_audio_name, sorted(swept)))
        left = there - swept
        encoded = self._storage.list_hidden(ENCODED_FOLDER)
        self._storage.remove([name for name in encoded if name.split("/")[-2] not in left])
        self._storage.remove(condemned.values())
        return len(swept)

    def _insist(self, sha256: str, effect: Callable[[], None]) -> None:
        """Have an effect that nobody who removes this audio can have missed."""
        deadline_s = time.monotonic() + self._patience_s
        while True:
            effect()
            if not any(self._storage.list_hidden(f"{_CONDEMNED}/{sha256}")):
                return
            if time.monotonic() >= deadline_s:
                raise UnavailableError(
                    f"reference audio {sha256} is just being removed by somebody; try again"
                )
            time.sleep(_POLL_S)

    def _create(self, sha256: str, data: bytes, user: str) -> None:
        self._note(sha256, user)
        self._storage.create(_audio_name(sha256), data)

    def _note(self, sha256: str, user: str) -> None:
        self._storage.create(f"{_USES}/{user}/{sha256}", _MARK)

    def _used(self) -> set[str]:
        """Return what is needed, and forget the notes of days that have passed."""
        first_kept = f"{_USES}/online/{self._now() - timedelta(days=KEPT_DAYS):%Y%m%d}/"
        online = f"{_USES}/online/"
        names = list(self._storage.list_hidden(_USES))
        passed = [name for name in names if name.startswith(online) and name < first_kept]
        self._storage.remove(passed)
        return {_sha256_of(name) for name in set(names).difference(passed)}

    def _forgive(self) -> None:
        """Let go what was condemned by somebody who died over it."""
        before = self._now() - _ABANDONED
        infos = [self._storage.stat(name) for name in list(self._storage.list_hidden(_CONDEMNED))]
        self._storage.remove([info.name for info in infos if info and info.modified < before])


def _audio_name(sha256: str) -> str:
    return f"{_AUDIO}/{sha256}{_SUFFIX}"


def _sha256_of(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(_SUFFIX)
