"""Bugs put in on purpose: where a job goes, and devices that are not well."""

from __future__ import annotations

from tests.mutants.catalogue.mutant import Mutant
from tests.mutants.catalogue.suites import FITNESS, GPU_HEALTH, POOLS, ROUTING

_WORKERS = "workers/tts_workers"

MUTANTS = (
    # -- routing --------------------------------------------------------------------------------
    Mutant(
        "pool-chosen-that-lacks-something",
        "routing",
        "tts_tasks/pools.py",
        "fitting = [pool for pool in known if not pool.lacks(needs)]",
        "fitting = known",
        POOLS,
    ),
    Mutant(
        "one-worker-of-a-pool-is-enough",
        "routing",
        "tts_tasks/pools.py",
        "return lacks_of(self.offers, needs)",
        "return lacks_of(self.offers[:1], needs)",
        POOLS,
    ),
    Mutant(
        "pool-that-nobody-serves-is-as-good",
        "routing",
        "tts_tasks/pools.py",
        "key=lambda p: (p.serving == 0, p.name != home",
        "key=lambda p: (p.name != home",
        POOLS,
    ),
    Mutant(
        "any-pool-speaks-at-any-speed",
        "routing",
        "tts_tasks/pools.py",
        "if request.speed != 1.0:",
        "if request.speed < 0:",
        POOLS,
    ),
    Mutant(
        "lane-where-nobody-serves",
        "routing",
        "tts_tasks/pools.py",
        "alive = [lane for lane, serving in self.lanes.items() if serving] or [*self.lanes]",
        "alive = [*self.lanes]",
        POOLS,
    ),
    Mutant(
        "refused-by-old-news",
        "routing",
        "tts_tasks/routing.py",
        "return self._choose(needs, self.pools(fresh=True))",
        "return self._choose(needs, self.pools())",
        ROUTING,
    ),
    Mutant(
        "registry-read-once",
        "routing",
        "tts_tasks/routing.py",
        "if now_s - self._read_s >= (_FRESH_S if fresh else self._kept_s):",
        "if now_s - self._read_s >= (_FRESH_S if fresh else 3600):",
        ROUTING,
    ),
    Mutant(
        "chosen-task-id-accepted-in-two-lanes",
        "routing",
        "tts_tasks/tasks.py",
        "if len(routes) > 1:",
        "if len(routes) > 1000:",
        ROUTING,
    ),
    Mutant(
        "batch-held-to-who-is-there-now",
        "routing",
        "tts_tasks/batches/submission.py",
        "offers = tuple(Offer.from_json(text) for text in head.offers)",
        "offers = router_of(self._settings).pools()[head.pool].offers",
        ROUTING,
    ),
    # -- the device -----------------------------------------------------------------------------
    Mutant(
        "engine-lives-on-a-broken-device",
        "device",
        f"{_WORKERS}/fitness.py",
        "verdict.faults > before.faults",
        "verdict.faults > before.faults > 0",
        FITNESS,
    ),
    Mutant(
        "ready-on-a-broken-device",
        "device",
        f"{_WORKERS}/agent.py",
        "ready=not self._fitness.fault,",
        "ready=True,",
        FITNESS,
    ),
    Mutant(
        "well-before-it-has-spoken",
        "device",
        f"{_WORKERS}/fitness.py",
        "ready = self._child.has_spoken and not fault",
        "ready = not fault",
        FITNESS,
    ),
    Mutant(
        "all-hot-and-nobody-serves",
        "device",
        f"{_WORKERS}/observer.py",
        'and not (cool and record.gpu.get("hot"))',
        "and True",
        FITNESS,
    ),
    Mutant(
        "well-at-once",
        "device",
        f"{_WORKERS}/gpu_health.py",
        "if self._broken and now_s - self._broken_s >= self._settings.well_s:",
        "if self._broken and now_s > self._broken_s:",
        GPU_HEALTH,
    ),
    Mutant(
        "silent-driver-is-well",
        "device",
        f"{_WORKERS}/gpu_health.py",
        "if now_s - self._read_s >= SILENT_S:",
        "if now_s < self._read_s:",
        GPU_HEALTH,
    ),
    Mutant(
        "errors-of-applications-count",
        "device",
        f"{_WORKERS}/gpu_health.py",
        "fatal = [xid for xid in reading.xids if xid not in APPLICATION_XIDS]",
        "fatal = list(reading.xids)",
        GPU_HEALTH,
    ),
    Mutant(
        "any-pool-has-any-voice",
        "routing",
        "tts_tasks/pools.py",
        "if needs.voice and self.voices and needs.voice not in self.voices:",
        "if False:",
        POOLS,
    ),
)
