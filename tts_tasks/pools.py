"""Pools as the registry shows them: what they can do, what a request needs, which of them fits.

Pure: what is seen goes in, a choice or an error comes out. `tts_tasks.routing` reads the registry
and asks. Rule: a pool that is chosen for a request can serve it, whichever of its workers takes
it; where that cannot be, the caller is told at once. Proved by ``tests/unit/test_pools.py``.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from tts_tasks.errors import NoPoolError, RequestError
from tts_tasks.voices.names import DEFAULT_VOICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tts_tasks.coordination.base import WorkerRecord
    from tts_tasks.requests import SpeechRequest

#: What callers write who want whatever speaks; among them what OpenAI's clients cannot leave out.
ANY_MODEL: Final = frozenset({"default", "tts-1", "tts-1-hd", "gpt-4o-mini-tts"})


@dataclass(frozen=True, slots=True)
class Needs:
    """What a request needs of the pool that serves it; what is empty, it does not care about."""

    pool: str = ""  #: its caller names it
    engine: str = ""
    model: str = ""
    model_version: str = ""
    language: str = ""
    sample_rate_hz: int = 0  #: native: any other rate is made by resampling
    features: tuple[str, ...] = ()
    voice: str = ""  #: one of an engine's own, by name

    def __str__(self) -> str:
        words = [f"{_WORDS[name]} {value}" for name, value in self._wanted() if value]
        words += [f"feature {feature}" for feature in self.features]
        return ", ".join(words)

    def _wanted(self) -> list[tuple[str, Any]]:
        names = (field.name for field in fields(self))
        return [(name, getattr(self, name)) for name in names if name != "features"]


_WORDS: Final = {
    "pool": "pool",
    "engine": "engine",
    "model": "model",
    "model_version": "model version",
    "language": "language",
    "sample_rate_hz": "native sample rate",
    "voice": "voice",
}
_SHOWN_VOICES: Final = 20


def needs_of(request: SpeechRequest, *, has_sounds: bool = False) -> Needs:
    """Return what a pinned request needs: what it requires, and what its other fields call for.

    ``has_sounds``: its lexicon says how phrases sound, and not only which words to say.
    """
    required = request.requires
    features = set(required.features)
    is_recorded = request.prompt_audio is not None
    if is_recorded:
        features.add("clone")
    if request.speed != 1.0:
        features.add("speed")
    if has_sounds:
        features.add("phoneme")
    return Needs(
        pool=required.pool or "",
        engine=required.engine or "",
        model="" if request.model in ANY_MODEL else request.model,
        model_version=required.model_version or "",
        language=required.language or "",
        sample_rate_hz=required.sample_rate_hz or 0,
        features=tuple(sorted(features)),
        voice="" if is_recorded or request.voice == DEFAULT_VOICE else request.voice,
    )


class Lack(NamedTuple):
    """Something that a request needs and somebody does not have."""

    field: str  #: of the request
    reason: str  #: continues a sentence that begins with who lacks it


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker advertises: what its engine can do."""

    engine: str
    model: str
    model_version: str
    languages: tuple[str, ...]  #: BCP 47 tags
    sample_rate_hz: int
    features: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()  #: that it has without a recording; empty: it has not said
    fingerprint: str = ""

    @classmethod
    def of(cls, record: WorkerRecord) -> Self | None:
        """Return what a worker can do; None where it has not said so yet: it loads."""
        return cls.of_capabilities(
            record.capabilities,
            engine=record.engine.partition(" (")[0],
            fingerprint=record.fingerprint,
        )

    @classmethod
    def of_capabilities(
        cls, capabilities: Mapping[str, Any], *, engine: str, fingerprint: str = ""
    ) -> Self | None:
        """Read what `EngineHost` says of an engine; None if it says nothing."""
        if not capabilities.get("languages"):
            return None
        return cls(
            engine=engine,
            model=str(capabilities.get("model") or engine),
            model_version=str(capabilities.get("model_version") or ""),
            languages=tuple(map(str, capabilities["languages"])),
            sample_rate_hz=int(capabilities.get("sample_rate_hz") or 0),
            features=tuple(sorted(map(str, capabilities.get("features") or ()))),
            voices=tuple(map(str, capabilities.get("voices") or ())),
            fingerprint=fingerprint,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        kept: dict[str, Any] = json.loads(text)
        for name in ("languages", "features", "voices"):
            kept[name] = tuple(kept.get(name, ()))
        return cls(**kept)

    def to_json(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    def lacks(self, needs: Needs) -> list[Lack]:
        """Return what it lacks; nothing: it can serve such a request."""
        lacks = []
        if needs.engine not in ("", self.engine):
            lacks.append(Lack("requires.engine", f"runs {self.engine}"))
        if needs.model not in ("", self.model, self.engine):
            lacks.append(Lack("model", f"has the model {self.model}"))
        if needs.model_version not in ("", self.model_version):
            has = self.model_version or "of no known version"
            lacks.append(Lack("requires.model_version", f"has the model version {has}"))
        if needs.language and not any(_speaks(needs.language, tag) for tag in self.languages):
            lacks.append(Lack("requires.language", f"speaks {', '.join(self.languages)}"))
        if needs.sample_rate_hz not in (0, self.sample_rate_hz):
            reason = f"speaks at {self.sample_rate_hz} Hz"
            lacks.append(Lack("requires.sample_rate_hz", reason))
        if needs.voice and self.voices and needs.voice not in self.voices:
            lacks.append(Lack("voice", f"has the voices {_listed(self.voices)}"))
        missing = sorted(set(needs.features) - set(self.features))
        if missing:
            has = ", ".join(self.features) or "none"
            reason = f"lacks the feature {', '.join(missing)} (it has {has})"
            lacks.append(Lack("requires.features", reason))
        return lacks


def _listed(voices: tuple[str, ...]) -> str:
    more = len(voices) - _SHOWN_VOICES
    return ", ".join(voices[:_SHOWN_VOICES]) + (f" and {more} more" if more > 0 else "")


def _speaks(wanted: str, tag: str) -> bool:
    """Match languages by RFC 4647, 3.3.1: ``en`` is spoken by ``en-GB``, and not the reverse."""
    wanted, tag = wanted.lower(), tag.lower()
    return tag == wanted or tag.startswith(f"{wanted}-")


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool as the registry shows it."""

    name: str
    offers: tuple[Offer, ...]  #: of its workers, each once; empty: nobody has said anything yet
    lanes: Mapping[str, int]  #: its lanes, and how many of their workers take work now
    workers: int

    @property
    def serving(self) -> int:
        """How many of its workers take work now."""
        return sum(self.lanes.values())

    def lacks(self, needs: Needs) -> list[Lack]:
        """Return what any of its workers lacks: any of them may take the job."""
        return lacks_of(self.offers, needs)

    def lane_for(self, key: str) -> str:
        """Return the lane of a voice: the same one for as long as that is served.

        By highest random weight, so a lane that comes or goes moves no voice between the others.
        """
        alive = [lane for lane, serving in self.lanes.items() if serving] or [*self.lanes]

        def weight(lane: str) -> bytes:
            return hashlib.sha256(f"{lane}\0{key}".encode()).digest()

        return max(sorted(alive), key=weight)


def lacks_of(offers: Iterable[Offer], needs: Needs) -> list[Lack]:
    """Return what at least one of those who may take a job lacks."""
    return [lack for offer in offers for lack in offer.lacks(needs)]


def check_fits(needs: Needs, pool: str, offers: Iterable[Offer]) -> None:
    """Refuse what a batch's pool cannot do; raises `RequestError`.

    Without offers nothing is known of it.
    """
    if needs.pool not in ("", pool):
        raise RequestError("requires.pool", f"this batch goes to the pool {pool}")
    for lack in lacks_of(offers, needs):
        raise RequestError(
            lack.field,
            f"this batch goes to the pool {pool}, which {lack.reason}: submit such lines as a "
            "batch of their own",
        )


def voice_key(request: SpeechRequest) -> str:
    """Return what a request's lane hangs on: its voice, which is encoded there already.

    The default voice has been encoded by every worker, for its probe: the text spreads it.
    """
    if request.prompt_audio is None and request.voice == DEFAULT_VOICE:
        return f"text {request.text}"
    return f"voice {request.voice} {request.prompt_audio or ''}"


def pools_of(workers: Iterable[tuple[WorkerRecord, bool]]) -> dict[str, Pool]:
    """Return the pools of the workers that are registered; of each it is told whether it beats.

    A worker whose engine loads again still offers what it did. One that drains does so only
    where nobody else is: it is about to go.
    """
    members: dict[str, list[tuple[WorkerRecord, bool]]] = {}
    for record, beats in workers:
        members.setdefault(record.pool, []).append((record, beats))
    return {name: _pool(name, members[name]) for name in sorted(members)}


def _pool(name: str, members: list[tuple[WorkerRecord, bool]]) -> Pool:
    staying = [(record, beats) for record, beats in members if not record.draining]
    lanes: dict[str, int] = {}
    offers: dict[Offer, None] = {}
    for record, beats in staying or members:
        serves = beats and record.ready and not record.draining
        lanes[record.lane] = lanes.get(record.lane, 0) + serves
    for known in (staying, members):
        for record, _ in known:
            if (offer := Offer.of(record)) is not None:
                offers[offer] = None
        if offers:
            break
    return Pool(name, tuple(offers), lanes, len(members))


def choose(needs: Needs, pools: Mapping[str, Pool], home: str, *, at_home: bool = False) -> str:
    """Return the name of the pool that a request goes to.

    ``home``: the pool that this process is configured for; ``at_home``: somebody has said so, and
    it is left only for what it is known to lack. While nothing is known of any pool (the cluster
    starts), what is accepted waits at home. Among several that fit: one where somebody takes work
    now, then home, then the one with the most such workers, then by name.

    Raises `NoPoolError` where none fits.
    """
    if needs.pool:
        return _named(needs, pools)
    mine = pools.get(home)
    if at_home and (mine is None or not mine.lacks(needs)):
        return home
    known = [pool for pool in pools.values() if pool.offers]
    if not known:
        loading = sorted(pools.values(), key=lambda pool: (-pool.workers, pool.name))
        return home if mine is not None or not loading else loading[0].name
    fitting = [pool for pool in known if not pool.lacks(needs)]
    if not fitting:
        raise _no_pool(needs, pools)
    best = min(fitting, key=lambda p: (p.serving == 0, p.name != home, -p.serving, p.name))
    return best.name


def _named(needs: Needs, pools: Mapping[str, Pool]) -> str:
    pool = pools.get(needs.pool)
    if pools and (pool is None or pool.lacks(needs)):
        raise _no_pool(needs, pools)
    return needs.pool


def _no_pool(needs: Needs, pools: Mapping[str, Pool]) -> NoPoolError:
    if needs.pool and needs.pool not in pools:
        return NoPoolError(f"pool {needs.pool}", dict.fromkeys(pools, "is another one"))
    there = {pool.name: _why_not(pool, needs) for pool in pools.values()}
    return NoPoolError(str(needs), there)


def _why_not(pool: Pool, needs: Needs) -> str:
    if needs.pool not in ("", pool.name):
        return "is not the one that is asked for"
    if not pool.offers:
        return "is loading, and has not said yet what it can do"
    reasons = dict.fromkeys(lack.reason for lack in pool.lacks(needs))
    return " and ".join(reasons)
