/* What is around the workers: the network, time, watchdogs, recovery, and what goes wrong. */

inline no_late() {
    late = NONE;
    late_w = 0;
    late_x = 0;
#ifdef JOB
    late_stale = false;
    late_life = 0;
    late_again = false
#endif
}

#ifdef TIMED
/* The store executes requests in any order, and at any time after they were sent. An answer that
 * changes nothing is taken for heard. */
proctype store(byte w) {
    byte v;
end: do
    :: d_step { ask[w] == ACQUIRE && answer[w] == UNHEARD ->
        acquire(w, ask_e[w], ask_e[w], answer[w]);
        if
        :: answer[w] == NO -> TAKEN; forget_request(w)
        :: else -> TAKEN
        fi }
    :: d_step { ask[w] == RENEW && answer[w] == UNHEARD ->
        TAKEN; renew(w, ask_e[w], answer[w]) }
    :: d_step { ask[w] == REMOVE -> TAKEN; remove(w, w, ask_e[w]); forget_request(w) }
    od
}
#endif

#ifndef LIVE
/* The one that its sender has given up: executed now, or never. Nobody hears the answer. */
proctype late_requests() {
    byte v, n;
end: do
#ifdef TIMED
    :: d_step { late == ACQUIRE ->
        SAY("a late request comes through\n"); acquire(late_w, late_x, n, n); n = 0; no_late() }
    :: d_step { late == REMOVE ->
        SAY("a late request comes through\n"); remove(late_w, late_w, late_x); no_late() }
#else
    :: d_step { late == CLAIM ->
        SAY("a late request comes through\n");
        claim(late_w, late_x, late_again, n); n = 0; no_late() }
    :: d_step { late == CREATE ->
        SAY("a late request comes through\n"); create(late_w); no_late() }
    :: d_step { late == FINISH ->
        SAY("a late request comes through\n");
        finish(late_w, late_x, late_stale, late_life, n); n = 0; no_late() }
#endif
    :: d_step { late != NONE -> TAKEN; no_late() }
    od
}
#endif

/* -- time ------------------------------------------------------------------------------------- */

#ifdef LIVE
/* A calm network: requests are answered, and leases renewed, within a heartbeat; and a lease
 * lapses at its time. */
#define BUSY(w) \
    ((RUNS(w) && (ask[w] != NONE || (leads[w] > 0 && left[w] < DEADLINE))) || \
     (lease_e > 0 && ttl == 0))
#else
#define BUSY(w) false
#endif

#define TICK_OF(x) x = ((x) > 0 -> (x) - 1 : 0)

/* Time does not pass while a deadline's thread that runs has something to do. */
#if WORKERS == 2
#define SETTLED (!OVERDUE(0) && !OVERDUE(1) && !BUSY(0) && !BUSY(1))
#else
#define SETTLED (!OVERDUE(0) && !OVERDUE(1) && !OVERDUE(2))
#endif

proctype time() {
#ifdef TIMED
    byte v;
end: do
    :: d_step { SETTLED ->
        TICK_OF(ttl);
        for (v : 0 .. WORKERS - 1) {
            CHECK_TICK(v)
#ifdef SUSPENDED_CLOCK
            if
            :: paused[v]
            :: else -> TICK_OF(left[v]); TICK_OF(asked[v])
            fi
#else
            TICK_OF(left[v]);
            TICK_OF(asked[v])
#endif
        }
        v = 0;
        SAY("a heartbeat passes\n") }
#ifndef NO_TTL
    :: d_step { lease_e > 0 && ttl == 0 -> END_LEASE; SAY("the lease lapses\n") }
#endif
    od
#else
end: do
    :: d_step { lease_e > 0 -> END_LEASE; SAY("the lease lapses, or is removed\n") }
    od
#endif
}

/* -- watchdogs and recovery ------------------------------------------------------------------- */

#ifdef JOB
#ifdef LIVE
/* Recovery of the dead, and the reconciler: a job that nobody works on is taken back. */
#define ADRIFT \
    (job_state == RUNNING && \
     (!RUNS(job_w) || at[job_w] < WORKING || attempt[job_w] != job_attempt))
#else
#define ADRIFT (job_state == RUNNING)
#endif

proctype ledger() {
    byte v;
end: do
    /* accept.lua; and the client asks again for a job that the store has forgotten. */
    :: d_step { job_state == GONE -> job_state = ACCEPTED; SAY("the job is accepted\n") }
#ifndef NO_RECOVERY
    :: d_step { ADRIFT -> release() }
#endif
    od
}
#endif

/* -- faults ----------------------------------------------------------------------------------- */

/* The store restarts without its data. What it has not read yet dies with its connections; what
 * is not sent yet may still come, with a floor from before. A restart with its data is a delay. */
inline lose_everything() {
#ifdef TIMED
    if
    :: lease_e > 0 -> CUT_LEASE
    :: else
    fi;
#endif
    END_LEASE;
    counter = 0;
    losses++;
#ifdef JOB
    job_state = GONE;
    job_attempt = 0;
    job_w = NOBODY;
    job_e = 0;
    job_again = false;
    overtake_all();
#endif
#ifndef LIVE
    if
    :: late != NONE && late != CREATE -> no_late()
    :: else
    fi;
#endif
    SAY("the store loses everything\n")
}

#ifdef ROLLBACK
/* A replica that lags is promoted, or the end of the append-only file is lost: what was written
 * after some moment never was. A lease of that time is back, and may lapse at once: a renewal may
 * be among what is lost. */
bool copied;
byte copy_e, copy_h, copy_c;

inline roll_back() {
    if
    :: lease_e > 0 -> CUT_LEASE
    :: else
    fi;
    no_late();
    lease_e = copy_e;
    lease_h = copy_h;
    counter = copy_c;
    ttl = 0;
    losses++;
    copy_e = 0;
    copy_h = 0;
    copy_c = 0;
    SAY("the store is as it was when the replica was\n")
}
#endif

#ifdef LIVE
/* A few faults, or fewer; one worker stays. */
#define FAULT_OF(w, other) \
        :: RUNS(other) -> dead[w] = true; TELL(w, "worker %d is killed\n") \
        :: RUNS(other) -> paused[w] = true; TELL(w, "worker %d is paused\n") \
        :: at[w] != IDLE -> idle(w); TELL(w, "worker %d loses its child\n") \
        :: ask[w] != NONE -> forget_request(w); TELL(w, "worker %d hears no answer\n") \
        :: ask[w] == NONE && leads[w] > 0 -> \
            start(w, REMOVE, leads[w]); demote(w); TELL(w, "worker %d hands the lane over\n")

byte faults_left = FAULTS;
bool woken;

proctype faults() {
    byte v;
end: do
    :: atomic { faults_left > 0 -> faults_left--;
        if
        FAULT_OF(0, 1)
        FAULT_OF(1, 0)
        :: lease_e > 0 -> CUT_LEASE; END_LEASE; SAY("the lease ends early\n")
        :: losses < LOSSES -> lose_everything()
        :: SAY("no fault\n")
        fi }
    /* A pause ends, or never does. */
    :: atomic { !woken && (paused[0] || paused[1]) -> woken = true;
        if
        :: paused[0] -> paused[0] = false; TELL(0, "worker %d goes on\n")
        :: paused[1] -> paused[1] = false; TELL(1, "worker %d goes on\n")
        :: SAY("the pause lasts\n")
        fi }
    od
}
#else
proctype faults() {
    byte v;
end: do
#ifdef TIMED
    /* A pause of a worker that does not lead is nothing but a delay. */
    :: d_step { leads[0] > 0 && !paused[0] -> paused[0] = true; TELL(0, "worker %d is paused\n") }
    :: d_step { paused[0] -> paused[0] = false; TELL(0, "worker %d goes on\n") }
    :: d_step { leads[1] > 0 && !paused[1] -> paused[1] = true; TELL(1, "worker %d is paused\n") }
    :: d_step { paused[1] -> paused[1] = false; TELL(1, "worker %d goes on\n") }
#if WORKERS > 2
    :: d_step { leads[2] > 0 && !paused[2] -> paused[2] = true; TELL(2, "worker %d is paused\n") }
    :: d_step { paused[2] -> paused[2] = false; TELL(2, "worker %d goes on\n") }
#endif
    /* A watchdog deposes, rightly or not; or the store's clock jumps. What a watchdog removes is
     * exactly the record that it has seen, and no record comes twice: so to have seen it before
     * is no more than to remove it now. */
    :: d_step { lease_e > 0 ->
        CUT_LEASE; END_LEASE; SAY("the lease ends early\n") }
#endif
    :: d_step { losses < LOSSES -> lose_everything() }
#ifdef ROLLBACK
    :: d_step { !copied ->
        copied = true; copy_e = lease_e; copy_h = lease_h; copy_c = counter;
        SAY("the replica is as the store is now\n") }
    :: d_step { copied && losses == 0 -> roll_back() }
#endif
#ifdef MARKS_HELP_A_ROLLBACK    /* too strong a claim */
    :: d_step { counter > 1 && losses == 0 ->
        counter--; END_LEASE; losses++; SAY("the store goes back to the epoch before\n") }
#endif
    od
}
#endif
