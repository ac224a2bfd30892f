"""Bugs put in on purpose. Each breaks one rule, and the named suites must fail over it.

A mutant is one text of one file, which occurs there exactly once, and what takes its place.
``tests/unit/test_mutants.py`` holds the catalogue to the code.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What a mutant breaks: the rules of the design by their numbers, and the detectors by name.
RULES = {
    "1": "one primary a lane",
    "2": "the ledger is the truth",
    "3": "only the newest attempt counts",
    "4": "an artifact appears once, whole",
    "6": "nobody leads past the deadline",
    "7": "ready means it has spoken",
    "epoch": "no epoch is given out twice",
    "switchover": "only the ordered successor leads",
    "watchdog": "only the dead are deposed",
    "recovery": "what the dead held is given back",
    "stuck": "an engine that hangs is ended",
}

COORDINATOR = ("tests/contract/test_coordinator_contract.py",)
LEDGER = ("tests/contract/test_job_ledger.py",)
ACCEPTANCE = ("tests/contract/test_acceptance.py",)
RECOVERY = ("tests/contract/test_recovery.py",)
RUNNER = ("tests/contract/test_job_runner.py",)
PUBLISH = ("tests/contract/test_storage_contract.py", "-k", "not s3")
DISK = ("tests/unit/test_storage.py",)
DECISION = ("tests/unit/test_decision.py",)
WATCHDOG = ("tests/unit/test_watchdog.py",)
KEEPER = ("tests/unit/test_lease_keeper.py",)
CHORES = ("tests/unit/test_chores.py",)
AGENT = ("tests/unit/test_agent.py",)
ENGINE = ("tests/unit/test_engine_host.py",)
CHILD = ("tests/unit/test_child_watch.py",)

SIMULATION = ("tests/simulation/test_simulation.py", "-k", "stays_mended or no_run_breaks")

_COORDINATION = "tts_tasks/coordination/scripts"
_LEDGER = "tts_tasks/ledger/scripts"
_WORKERS = "workers/tts_workers"
_RING_THE_REST = "self._ring(record for record in released if _task_id(record) not in restored)"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One bug."""

    name: str
    rule: str  #: of `RULES`
    file: str
    text: str
    replacement: str
    suites: tuple[str, ...]  #: arguments of pytest


MUTANTS = (
    # -- lease ----------------------------------------------------------------------------------
    Mutant(
        "acquire-overwrites",
        "1",
        f"{_COORDINATION}/acquire.lua",
        "if held then",
        "if redis.call('DEL', KEYS[1]) < 0 then",
        COORDINATOR,
    ),
    Mutant(
        "renew-by-holder-only",
        "1",
        f"{_COORDINATION}/renew.lua",
        "if redis.call('GET', KEYS[1]) == ARGV[1] then",
        "if (redis.call('GET', KEYS[1]) or ''):match(':.*') == ARGV[1]:match(':.*') then",
        COORDINATOR,
    ),
    Mutant(
        "renew-by-epoch-only",
        "1",
        f"{_COORDINATION}/renew.lua",
        "if redis.call('GET', KEYS[1]) == ARGV[1] then",
        "if (redis.call('GET', KEYS[1]) or ''):match('%d*') == ARGV[1]:match('%d*') then",
        COORDINATOR,
    ),
    Mutant(
        "remove-by-plain-del",
        "1",
        f"{_COORDINATION}/remove.lua",
        "if redis.call('GET', KEYS[1]) ~= ARGV[1] then",
        "if redis.call('EXISTS', KEYS[1]) == 0 then",
        COORDINATOR,
    ),
    Mutant(
        "renewal-refused-but-believed",
        "1",
        f"{_WORKERS}/lease_keeper.py",
        'self.demote(lease, "the renewal was refused")',
        "self._lead(lease, asked_s)",
        KEEPER,
    ),
    Mutant(
        "own-leftover-lease-adopted",
        "1",
        f"{_WORKERS}/decision.py",
        'return [Remove(view.lease, "left over from an earlier leadership")]',
        "return [Renew(view.lease)]",
        DECISION,
    ),
    Mutant(
        "lease-of-another-not-noticed",
        "1",
        f"{_WORKERS}/decision.py",
        "if view.lease != leads.lease:",
        "if view.lease is None:",
        DECISION,
    ),
    Mutant(
        "lease-released-before-demotion",
        "1",
        f"{_WORKERS}/decision.py",
        'why = f"switchover to {view.successor}"\n'
        "        return [Demote(leads.lease, why), Remove(leads.lease, why)]",
        'why = f"switchover to {view.successor}"\n'
        "        return [Remove(leads.lease, why), Demote(leads.lease, why)]",
        DECISION,
    ),
    Mutant(
        "leaving-primary-releases-before-demotion",
        "1",
        f"{_WORKERS}/agent.py",
        'self._keeper.demote(leads.lease, "leaving")\n'
        '                self._keeper.remove(leads.lease, "leaving")',
        'self._keeper.remove(leads.lease, "leaving")\n'
        '                self._keeper.demote(leads.lease, "leaving")',
        SIMULATION,
    ),
    # -- epoch ----------------------------------------------------------------------------------
    Mutant(
        "epoch-not-raised",
        "epoch",
        f"{_COORDINATION}/acquire.lua",
        "redis.call('INCR', KEYS[2])",
        "(redis.call('GET', KEYS[2]) or '1')",
        COORDINATOR,
    ),
    Mutant(
        "floor-ignored-by-the-store",
        "epoch",
        f"{_COORDINATION}/acquire.lua",
        "if tonumber(ARGV[3]) >",
        "if false and tonumber(ARGV[3]) >",
        COORDINATOR,
    ),
    Mutant(
        "store-without-a-counter-begins-at-one",
        "epoch",
        f"{_COORDINATION}/acquire.lua",
        "if not counter and ARGV[4] ~= '1' then",
        "if false then",
        COORDINATOR,
    ),
    Mutant(
        "floor-not-told-to-the-store",
        "epoch",
        f"{_WORKERS}/lease_keeper.py",
        "self._settings.lease_ttl_s, floor\n",
        "self._settings.lease_ttl_s, EpochFloor(0, floor.complete)\n",
        KEEPER,
    ),
    Mutant(
        "old-floor-used-twice",
        "epoch",
        f"{_WORKERS}/lease_keeper.py",
        "self._floor = EpochFloor(floor.epoch)",
        "pass",
        KEEPER,
    ),
    Mutant(
        "claimed-before-the-epoch-is-marked",
        "epoch",
        f"{_WORKERS}/job_runner.py",
        "loaded.epochs.cover(lease.epoch)",
        "pass",
        RUNNER,
    ),
    Mutant(
        "marks-with-gaps",
        "epoch",
        "tts_tasks/storage/epochs.py",
        "while self._marked * BLOCK < epoch:",
        "if self._marked * BLOCK < epoch:",
        PUBLISH,
    ),
    # -- demotion -------------------------------------------------------------------------------
    Mutant(
        "deadline-counted-from-the-reply",
        "6",
        f"{_WORKERS}/lease_keeper.py",
        "deadline_s=asked_s + ",
        "deadline_s=self._clock() + ",
        KEEPER,
    ),
    Mutant(
        "late-reply-believed",
        "6",
        f"{_WORKERS}/lease_keeper.py",
        "if self._clock() >= leadership.deadline_s:",
        "if self._clock() < 0:",
        KEEPER,
    ),
    Mutant(
        "late-renewal-brings-an-ended-belief-back",
        "6",
        f"{_WORKERS}/lease_keeper.py",
        "if self._believes_in(lease) and self._believe(lease, asked_s):",
        "if self._believe(lease, asked_s):",
        KEEPER,
    ),
    Mutant(
        "renewal-waits-for-the-reading-of-the-world",
        "6",
        f"{_WORKERS}/agent.py",
        '"tts-renewal": partial(',
        '"tts-renewal": lambda: None if self._keeper else partial(',
        ("tests/simulation/test_simulation.py", "-k", "always_slow"),
    ),
    Mutant(
        "no-demotion-without-io",
        "6",
        f"{_WORKERS}/lease_keeper.py",
        'self.demote(leads.lease, "the renew deadline passed")',
        "pass",
        KEEPER,
    ),
    Mutant(
        "guard-ends-before-the-belief",
        "6",
        f"{_WORKERS}/agent.py",
        "while not self._stopping.is_set() or self._keeper.leadership is not None:",
        "while not self._stopping.is_set():",
        (*AGENT, "-k", "deadline_ends"),
    ),
    Mutant(
        "no-demotion-by-decision",
        "6",
        f"{_WORKERS}/decision.py",
        "if leads is not None and now_s >= leads.deadline_s:",
        "if leads is not None and now_s >= leads.deadline_s + 60:",
        DECISION,
    ),
    # -- readiness and switchover ---------------------------------------------------------------
    Mutant(
        "candidate-before-its-engine-spoke",
        "7",
        f"{_WORKERS}/decision.py",
        "candidate = view.ready and not view.draining",
        "candidate = not view.draining",
        DECISION,
    ),
    Mutant(
        "ready-without-a-sound",
        "7",
        f"{_WORKERS}/engine_host.py",
        "if samples == 0:",
        "if samples < 0:",
        ENGINE,
    ),
    Mutant(
        "successor-not-checked-by-the-store",
        "switchover",
        f"{_COORDINATION}/acquire.lua",
        "if successor and successor ~= ARGV[1] then",
        "if false then",
        COORDINATOR,
    ),
    Mutant(
        "successor-not-checked-by-the-worker",
        "switchover",
        f"{_WORKERS}/decision.py",
        'and view.successor in ("", view.me)\n',
        "\n",
        DECISION,
    ),
    # -- accept and ring ------------------------------------------------------------------------
    Mutant(
        "batch-rung-before-it-is-accepted",
        "2",
        "tts_tasks/acceptance.py",
        "times_ms = self._ledger.accept(self._good)",
        "ids = [job_id for job_id, _, _ in self._good]\n"
        "        ring(app, self._batch.queue, ids, rung_ms=0, wants_result=False)\n"
        "        times_ms = self._ledger.accept(self._good)",
        ACCEPTANCE,
    ),
    Mutant(
        "online-rung-without-being-accepted",
        "2",
        "tts_tasks/tasks.py",
        "rung_ms = accept_online(request, task_id, delay_s=_delay_s(options))",
        "rung_ms = len(request.text)",
        ACCEPTANCE,
    ),
    # -- claim ----------------------------------------------------------------------------------
    Mutant(
        "claim-without-lease",
        "1",
        f"{_LEDGER}/claim.lua",
        "if lease == '' or lease ~= ARGV[3] then",
        "if false then",
        LEDGER,
    ),
    Mutant(
        "claim-by-number-only",
        "1",
        f"{_LEDGER}/claim.lua",
        "if lease == '' or lease ~= ARGV[3] then",
        "if tonumber(lease:match('%d+') or '1e9') > tonumber(ARGV[3]:match('%d+') or '0') then",
        LEDGER,
    ),
    Mutant(
        "claim-gives-a-held-job-away",
        "2",
        f"{_LEDGER}/claim.lua",
        "if job[2] ~= ARGV[1] then",
        "if false then",
        LEDGER,
    ),
    Mutant(
        "claim-asked-again-is-a-new-attempt",
        "2",
        f"{_LEDGER}/claim.lua",
        "if job[9] == ARGV[4] then",
        "if false then",
        LEDGER,
    ),
    # -- append and finish ----------------------------------------------------------------------
    Mutant(
        "append-without-attempt",
        "3",
        f"{_LEDGER}/append.lua",
        "or job[2] ~= ARGV[1] or",
        "or",
        LEDGER,
    ),
    Mutant(
        "append-by-another-worker",
        "3",
        f"{_LEDGER}/append.lua",
        " or job[3] ~= ARGV[2] then",
        " then",
        LEDGER,
    ),
    Mutant(
        "finish-without-attempt",
        "3",
        f"{_LEDGER}/finish.lua",
        "job[1] == 'running' and job[2] == ARGV[1] and",
        "job[1] == 'running' and",
        LEDGER,
    ),
    Mutant(
        "finish-by-another-worker",
        "3",
        f"{_LEDGER}/finish.lua",
        "job[2] == ARGV[1] and job[3] == ARGV[2]\n",
        "job[2] == ARGV[1]\n",
        LEDGER,
    ),
    Mutant(
        "finish-counts-twice-after-a-lost-reply",
        "3",
        f"{_LEDGER}/finish.lua",
        "if mine then",
        "if true then",
        LEDGER,
    ),
    Mutant(
        "finish-forgets-that-its-reply-was-lost",
        "3",
        f"{_LEDGER}/finish.lua",
        "if not mine and not repeated then",
        "if not mine then",
        LEDGER,
    ),
    Mutant(
        "giving-up-takes-a-running-job",
        "3",
        f"{_LEDGER}/finish.lua",
        "(job[1] == 'running' and job[3] == ARGV[2])",
        "job[1] == 'running'",
        LEDGER,
    ),
    Mutant(
        "overtaken-attempt-goes-on",
        "3",
        f"{_WORKERS}/job_runner.py",
        "if not self._insist(lambda: self._ledger.append(claim, done, segments)):",
        "if self._insist(lambda: self._ledger.append(claim, done, segments)) is None:",
        RUNNER,
    ),
    # -- publish --------------------------------------------------------------------------------
    Mutant(
        "publish-overwrites",
        "4",
        "tts_tasks/storage/local.py",
        "os.link(temp, leaf, src_dir_fd=temp_folder, dst_dir_fd=folder, follow_symlinks=False)",
        "os.replace(temp, leaf, src_dir_fd=temp_folder, dst_dir_fd=folder)",
        PUBLISH,
    ),
    Mutant(
        "publish-under-the-final-name-at-once",
        "4",
        "tts_tasks/storage/local.py",
        "created = _link_if_absent(temp_folder, temp, folder, leaf)",
        "created = (self.root / name).write_bytes(data) >= 0",
        DISK,
    ),
    Mutant(
        "publish-before-the-bytes-are-synced",
        "4",
        "tts_tasks/storage/local.py",
        "os.fsync(file.fileno())",
        "pass",
        DISK,
    ),
    Mutant(
        "second-finisher-does-not-adopt",
        "4",
        "tts_tasks/storage/artifacts.py",
        "if ours and held is not None:",
        "if False:",
        PUBLISH,
    ),
    Mutant(
        "anothers-reservation-is-taken",
        "4",
        "tts_tasks/storage/artifacts.py",
        "may_create = held is not None and (ours or held.sha256 == mine.sha256)",
        "may_create = held is not None",
        PUBLISH,
    ),
    Mutant(
        "another-sound-is-adopted",
        "4",
        "tts_tasks/storage/artifacts.py",
        "return self.job == owner.job and self.sound == owner.sound",
        "return self.job == owner.job",
        PUBLISH,
    ),
    Mutant(
        "success-without-its-artifact",
        "4",
        f"{_WORKERS}/job_runner.py",
        "published = self._insist(lambda: publish(storage, name, rendered.data, owner, details))",
        'published = Published(name, "", "", 0, adopted=False, details=details)',
        RUNNER,
    ),
    # -- watchdog -------------------------------------------------------------------------------
    Mutant(
        "watchdog-counts-its-own-suspension",
        "watchdog",
        f"{_WORKERS}/watchdog.py",
        "step_s = min(now_s - self._last_read_s, self._max_step_s)",
        "step_s = now_s - self._last_read_s",
        WATCHDOG,
    ),
    Mutant(
        "watchdog-judges-by-ttl",
        "watchdog",
        f"{_WORKERS}/watchdog.py",
        "silent_s = last.silent_s + step_s if beat == last_beat else 0.0",
        "silent_s = last.silent_s + step_s if record is None else 0.0",
        WATCHDOG,
    ),
    Mutant(
        "watchdog-deposes-after-two-beats",
        "watchdog",
        f"{_WORKERS}/watchdog.py",
        "return self.silent_s >= silence_limit_s",
        "return self.silent_s >= silence_limit_s * 2 / 3",
        DECISION,
    ),
    Mutant(
        "absence-without-grace",
        "watchdog",
        f"{_WORKERS}/watchdog.py",
        "or self.absent_s >= presence_grace_s",
        "or self.absent_s > 0",
        DECISION,
    ),
    Mutant(
        "absence-counts-during-an-outage",
        "watchdog",
        f"{_WORKERS}/watchdog.py",
        "and worker in self._absent and now_s >= self._lenient_until_s",
        "and worker in self._absent",
        WATCHDOG,
    ),
    Mutant(
        "absence-outweighs-a-heartbeat",
        "watchdog",
        f"{_WORKERS}/watchdog.py",
        "gone = worker in absent and beat == last_beat",
        "gone = worker in absent",
        WATCHDOG,
    ),
    Mutant(
        "reconnection-waits-for-the-next-beat",
        "watchdog",
        f"{_WORKERS}/agent.py",
        "if now_s < self._next_beat_s and presence == self._record.presence:",
        "if now_s < self._next_beat_s:",
        AGENT,
    ),
    # -- recovery -------------------------------------------------------------------------------
    Mutant(
        "recovery-does-not-ring",
        "recovery",
        f"{_WORKERS}/recovery.py",
        f"restored = self._restore_messages(worker_id)\n        {_RING_THE_REST}",
        "restored = self._restore_messages(worker_id)",
        RECOVERY,
    ),
    Mutant(
        "recovery-rings-beside-the-message",
        "recovery",
        f"{_WORKERS}/recovery.py",
        f"restored = self._restore_messages(worker_id)\n        {_RING_THE_REST}",
        "restored = self._restore_messages(worker_id)\n        self._ring(released)",
        RECOVERY,
    ),
    Mutant(
        "recovery-forgets-messages",
        "recovery",
        f"{_WORKERS}/recovery.py",
        "restored = self._restore_messages(worker_id)",
        "restored: set[str] = set()",
        RECOVERY,
    ),
    Mutant(
        "messages-come-back-before-their-jobs-are-free",
        "recovery",
        f"{_WORKERS}/recovery.py",
        "released = self._release_claims(worker_id)\n"
        "        restored = self._restore_messages(worker_id)",
        "restored = self._restore_messages(worker_id)\n"
        "        released = self._release_claims(worker_id)",
        RECOVERY,
    ),
    Mutant(
        "recovery-turns-messages-round",
        "recovery",
        f"{_WORKERS}/held_messages.py",
        "in reversed(tags):",
        "in tags:",
        RECOVERY,
    ),
    Mutant(
        "release-whoever-holds-it",
        "recovery",
        f"{_LEDGER}/release.lua",
        " or job[2] ~= ARGV[1] or",
        " or",
        LEDGER,
    ),
    Mutant(
        "release-of-a-later-attempt",
        "recovery",
        f"{_LEDGER}/release.lua",
        " or (ARGV[2] ~= '*' and job[3] ~= ARGV[2]) then",
        " then",
        LEDGER,
    ),
    Mutant(
        "dead-childs-job-is-not-given-back",
        "recovery",
        f"{_WORKERS}/agent.py",
        "self._chores.child_died(pid)",
        "pass",
        AGENT,
    ),
    Mutant(
        "dead-child-costs-its-successor-its-job",
        "recovery",
        f"{_WORKERS}/recovery.py",
        "if held is None or not held.nonce.startswith(nonce_prefix(child)):",
        "if held is None:",
        RECOVERY,
    ),
    Mutant(
        "dead-childs-message-stays-with-its-worker",
        "recovery",
        f"{_WORKERS}/recovery.py",
        "restored = self._restore_messages(worker_id, only=task_ids) if released else set()",
        "restored = task_ids",
        RECOVERY,
    ),
    Mutant(
        "dead-child-costs-its-worker-every-message",
        "recovery",
        f"{_WORKERS}/recovery.py",
        "restored = self._restore_messages(worker_id, only=task_ids) if released else set()",
        "restored = self._restore_messages(worker_id)",
        RECOVERY,
    ),
    Mutant(
        "failed-chore-is-forgotten",
        "recovery",
        f"{_WORKERS}/chores.py",
        "for pid in set(self._dead_children):",
        "for pid in [self._dead_children.pop() for _ in set(self._dead_children)]:",
        CHORES,
    ),
    Mutant(
        "lost-message-is-not-rung-again",
        "2",
        f"{_WORKERS}/recovery.py",
        "self._ring(lost)",
        "pass",
        RECOVERY,
    ),
    Mutant(
        "ring-is-not-noted",
        "2",
        f"{_WORKERS}/recovery.py",
        "rung_ms = self._ledger.rung(queue, [record.id for record in group])",
        "rung_ms = self._ledger.now_ms()",
        RECOVERY,
    ),
    Mutant(
        "missing-report-is-not-written",
        "recovery",
        f"{_WORKERS}/chores.py",
        'self._survive("reports", self._rescue.complete_batches)',
        "pass",
        SIMULATION,
    ),
    Mutant(
        "living-worker-loses-its-job",
        "recovery",
        f"{_WORKERS}/recovery.py",
        "elif working_on.get(record.worker) == job_id or record.claimed_ms > fresh_ms:",
        "elif record.claimed_ms > fresh_ms:",
        RECOVERY,
    ),
    Mutant(
        "fresh-claim-is-taken-back",
        "recovery",
        f"{_WORKERS}/recovery.py",
        "elif working_on.get(record.worker) == job_id or record.claimed_ms > fresh_ms:",
        "elif working_on.get(record.worker) == job_id:",
        RECOVERY,
    ),
    Mutant(
        "waiting-message-is-taken-for-lost",
        "2",
        "tts_tasks/ledger/jobs.py",
        "until_ms = min(until_ms, _rung_ms(next_message))",
        "pass",
        LEDGER,
    ),
    Mutant(
        "job-in-hand-is-not-told",
        "recovery",
        f"{_WORKERS}/job_runner.py",
        'self._link.say({"event": "job", "job": job_id})',
        "pass",
        RUNNER,
    ),
    Mutant(
        "the-dead-are-not-recovered",
        "recovery",
        f"{_WORKERS}/decision.py",
        "actions += [Recover(worker, dead[worker].silent_s) for worker in sorted(dead)]",
        "pass",
        DECISION,
    ),
    # -- a stuck engine -------------------------------------------------------------------------
    Mutant(
        "pulse-counts-as-progress",
        "stuck",
        f"{_WORKERS}/child_watch.py",
        'if message.get("event") == "pulse" and self._budget_s:',
        'if message.get("event") == "" and self._budget_s:',
        CHILD,
    ),
    Mutant(
        "parent-counts-its-own-suspension",
        "stuck",
        f"{_WORKERS}/child_watch.py",
        "self._silent_s += min(now_s - self._looked_s, self._max_step_s)",
        "self._silent_s += now_s - self._looked_s",
        CHILD,
    ),
    Mutant(
        "loading-engine-is-taken-for-stuck",
        "7",
        f"{_WORKERS}/child_watch.py",
        "if not self._pid or not self._ready:",
        "if not self._pid:",
        CHILD,
    ),
)
