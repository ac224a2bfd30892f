"""The tests that look for the seeded bugs, as arguments of pytest."""

from __future__ import annotations

COORDINATOR = ("tests/contract/test_coordinator_contract.py",)
LEDGER = ("tests/contract/test_job_ledger.py",)
BOOK = ("tests/contract/test_batch_book.py", "-k", "redis")
GIVEN_BACK = ("tests/contract/test_batch_given_back.py", "-k", "redis")
FLUSHING = ("tests/contract/test_batch_flushing.py", "-k", "redis")
CANCEL_RETRY_REMOVE = ("tests/contract/test_batch_cancel_retry_remove.py", "-k", "redis")
SHARES = ("tests/contract/test_batch_shares.py", "-k", "redis or turns")
LOSSES = ("tests/contract/test_batch_machine.py", "-k", "reply_is_lost or dies_between")
SHIFT = ("tests/contract/test_shift.py", "-k", "not wherever")
WINDOW = ("tests/contract/test_window.py",)
SUBMISSION = ("tests/contract/test_submission.py",)
BATCH_RUNNER = ("tests/contract/test_batch_runner.py",)
LINES = ("tests/contract/test_line_recovery.py",)
ADMISSION = ("tests/contract/test_admission.py",)
RECOVERY = ("tests/contract/test_recovery.py",)
SEGMENTS = ("tests/contract/test_segment_log.py",)
RENDERING = ("tests/contract/test_rendering.py",)
RUNNER = ("tests/contract/test_job_runner.py",)
PUBLISH = (
    "tests/contract/test_storage_contract.py",
    "tests/contract/test_publishing.py",
    "-k",
    "not s3",
)
PINNING = ("tests/contract/test_pinning.py", "-k", "not s3")
REFERENCES = ("tests/contract/test_voice_references.py", "-k", "not s3")
VOICES = ("tests/contract/test_voice_store.py", "-k", "not s3")
LEXICONS = ("tests/contract/test_lexicon_store.py", "-k", "not s3")
SERVED = (
    "tests/unit/engines/test_openai_http.py",
    "-k",
    "told_in_our_words or for_ever or is_replaced",
)
AHEAD = ("tests/unit/engines/test_openai_http_ahead.py",)
GLMTTS = ("tests/unit/engines/test_glmtts.py",)
CHECKOUT = ("tests/unit/engines/test_glmtts_checkout.py",)
GRAMMARS = ("tests/unit/engines/test_glmtts_normaliser.py",)
HOST = ("tests/unit/test_engine_host.py",)
POOLS = ("tests/unit/test_pools.py",)
ROUTING = ("tests/contract/test_routing.py",)
GPU_HEALTH = ("tests/unit/test_gpu_health.py",)
DISK = ("tests/unit/storage/test_local_durability.py",)
DECISION = ("tests/unit/test_decision.py",)
WATCHDOG = ("tests/unit/test_watchdog.py",)
KEEPER = ("tests/unit/test_lease_keeper.py",)
CHORES = ("tests/unit/test_chores.py",)
AGENT = ("tests/unit/test_agent.py",)
CHILD_SUPERVISOR = ("tests/unit/test_child_supervisor.py",)
HEARTBEAT = ("tests/unit/test_heartbeat.py",)
FITNESS = ("tests/unit/test_fitness.py",)
ENGINE = ("tests/unit/test_engine_host.py",)
CHILD = ("tests/unit/test_child_watch.py",)

SIMULATION = ("tests/simulation/test_simulation.py", "-k", "stays_mended or no_run_breaks")
