"""Every error this system raises on purpose, in one tree.

::

    TTSError
    ├── ConfigurationError        a setting, a missing program, an impossible combination
    ├── RequestError              one request is wrong: ``field`` and ``reason``
    ├── ConflictError             the id or the name is taken by something else
    ├── NotFoundError             no such job, batch, worker, artifact
    ├── UnavailableError          Redis, storage or a fitting worker cannot be reached
    │   └── NoPoolError           no pool that is there can do what a request needs
    ├── AdmissionError            an online job is not taken now: ``estimate_s``, ``retry_after_s``
    │   ├── QueueFullError        as many wait in its lane as may wait
    │   └── DeadlineError         it would not be done by its deadline
    ├── WaitTimeoutError          the wait ended, the work goes on
    ├── JobFailedError            what ``.get()`` and ``follow`` raise for a failed job
    ├── JobCancelledError         somebody cancelled it
    ├── StaleAttemptError         a newer attempt has the job, the effect was refused
    ├── StorageError              the artifact store refused or failed
    ├── EpochsUnknownError        a lane cannot be led before it is known which epochs were used
    ├── DeliveryError             a notice did not get through to an operator
    └── EngineError               the engine failed; another attempt may succeed
        ├── EngineLoadError       it never became ready
        ├── EngineCrashedError    its process died while speaking
        │   └── EngineLostError   and it does not come back before it is loaded anew
        ├── EngineOutOfMemoryError
        └── UnspeakableTextError  permanent: this text holds nothing to speak

A message says what was wrong, where, and what to do. Errors travel through Celery's JSON result
backend, which rebuilds them from ``args``: so every constructor takes plain values, positionally.
"""

from __future__ import annotations


class TTSError(Exception):
    """The root of everything raised on purpose."""


class ConfigurationError(TTSError):
    """A setting, a missing program or an impossible combination; the message names the way out."""


class RequestError(TTSError):
    """One request is wrong; ``field`` says where and ``reason`` what."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


class ConflictError(TTSError):
    """The id or the name is taken by something else; nothing was overwritten."""


class NotFoundError(TTSError):
    """There is no such job, batch, worker or artifact."""


class UnavailableError(TTSError):
    """Redis, the storage or a fitting worker cannot be reached now."""


class NoPoolError(UnavailableError):
    """No pool that is there can do what a request needs: nothing was accepted.

    ``needs``: what was asked for. ``pools``: what each pool that is there lacks, in words. A pool
    that would fit may come, or come back: only those alive are known.
    """

    def __init__(self, needs: str, pools: dict[str, str]) -> None:
        super().__init__(needs, pools)
        self.needs = needs
        self.pools = pools

    def __str__(self) -> str:
        lacks = "; ".join(f"{name} {lack}" for name, lack in sorted(self.pools.items()))
        return f"no pool fits: {self.needs} is asked for, and {lacks}. See `ttsctl status`"


class AdmissionError(TTSError):
    """An online job was refused at once: nothing was accepted, and nothing will come of it.

    ``estimate_s``: after so many seconds it would have been done; None where it cannot be told.
    ``retry_after_s``: when it makes sense to ask again; None: with these wishes never.
    """

    code = "not_admitted"  #: of the job's failure, where a worker refuses it

    def __init__(
        self, reason: str, estimate_s: float | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason, estimate_s, retry_after_s)
        self.reason = reason
        self.estimate_s = estimate_s
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return self.reason


class QueueFullError(AdmissionError):
    """As many online jobs wait in the lane as may wait; ``retry_after_s`` is never None."""

    code = "queue_full"


class DeadlineError(AdmissionError):
    """The job would not be done by its deadline."""

    code = "deadline_unmeetable"


class WaitTimeoutError(TTSError):
    """The wait ended; the work goes on."""


class JobFailedError(TTSError):
    """The job ended without an artifact; ``code`` is stable, ``reason`` is for people."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code}: {self.reason}"


class JobCancelledError(TTSError):
    """Somebody cancelled the job."""


class StaleAttemptError(TTSError):
    """A newer attempt has the job (or the job has ended)."""


class StorageError(TTSError):
    """The artifact store refused or failed."""


class EpochsUnknownError(TTSError):
    """The store has no counter of a lane's epochs; the candidate is to learn what has been used."""

    def __init__(self, lane_key: str) -> None:
        super().__init__(lane_key)
        self.lane_key = lane_key

    def __str__(self) -> str:
        return (
            f"the store has no counter of lane {self.lane_key}'s epochs: ask the storage which "
            "were used, and then again"
        )


class DeliveryError(TTSError):
    """One try to deliver a notice failed; with ``final`` no further one will fare better."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class EngineError(TTSError):
    """The engine failed on this attempt; another attempt may succeed."""


class EngineLoadError(EngineError):
    """The engine never became ready."""


class EngineCrashedError(EngineError):
    """The engine's process died while it was speaking."""


class EngineLostError(EngineCrashedError):
    """The engine can do no more before it is loaded anew: a worker starts a new process for it."""


class EngineOutOfMemoryError(EngineError):
    """The device ran out of memory."""


class UnspeakableTextError(EngineError):
    """The text holds nothing that can be spoken; no further attempt will change that."""
