/* What the stores do in one step, named after the script or method that does it. */

/* acquire.lua. The workers are alike until one first holds the lease, so runs that differ only in
 * names are explored once: who holds it for the first time has the lowest name that has not. */
#ifdef LIVE
#define IS_NEXT(w) true
#else
#define IS_NEXT(w) ((w) <= ranks)
#endif
#ifdef NO_FLOOR
#define NEXT(floor) (counter + 1)
#elif defined(NO_COUNTER)
#define NEXT(floor) ((floor) + 1)
#else
#define NEXT(floor) (MAX(counter, floor) + 1)
#endif

inline acquire(w, floor, epoch, yes) {
    if
    :: lease_e == 0 && NEXT(floor) <= EPOCHS && IS_NEXT(w) ->
        counter = NEXT(floor);
        lease_e = counter;
        lease_h = w;
        ranks = MAX(ranks, w + 1);
#ifdef TIMED
        cut[w] = (cut[w] < counter -> cut[w] : 0);
#endif
        START_TTL;
        for (v : 0 .. WORKERS - 1) {
            CHECK_NEW_EPOCH(v, w, counter)
        }
        epoch = counter;
        yes = YES;
        TELL_E(w, "worker %d is given the lease, epoch %d\n", counter)
    :: else -> TAKEN; yes = NO
    fi;
    v = 0
}

/* renew.lua */
inline renew(w, e, yes) {
    if
    :: HOLDS(w, e) -> TAKEN; START_TTL; yes = YES
    :: else -> TAKEN; yes = NO
    fi
}

/* remove.lua: by `me`, the holder or a watchdog, of the record (e, h) that it has seen. Only a
 * removal of the record it was meant for excuses the holder's belief. */
inline remove(me, h, e) {
    if
    :: lease_e == e && lease_h == h ->
#ifdef TIMED
        if
        :: me != h -> CUT_LEASE
        :: else
        fi;
#endif
        END_LEASE;
        SAY("the lease is removed\n")
#ifdef PLAIN_DEL
    :: lease_e > 0 && !(lease_e == e && lease_h == h) ->
        END_LEASE;
        SAY("another lease is removed than the one that was meant\n")
#endif
    :: else -> TAKEN
    fi
}

/* The fence of claim.lua. */
#if defined(NO_FENCE) || defined(CHECK_THEN_CLAIM)
#define FENCE_LETS(w, e) ((e) > 0)
#elif defined(NUMBER_ONLY_FENCE)
#define FENCE_LETS(w, e) ((e) > 0 && lease_e > 0 && (e) >= lease_e)
#else
#define FENCE_LETS(w, e) HOLDS(w, e)
#endif

#ifdef JOB

#define MINE(w, n) (job_state == RUNNING && job_attempt == (n) && job_w == (w))

inline overtake_all() {
    for (v : 0 .. WORKERS - 1) {
        stale[v] = (at[v] >= WORKING)
    }
    late_stale = (late == FINISH);
    v = 0
}

/* claim.lua under the lease (e, w). again: with the nonce of the claim that the child is at;
 * `given` is the attempt; 0 is a refusal, ATTEMPTS + 1 says "exhausted". */
inline claim(w, e, again, given) {
    given = 0;
    if
    :: !OPEN -> TAKEN
    :: OPEN && !FENCE_LETS(w, e) -> TAKEN
    :: OPEN && FENCE_LETS(w, e) && job_state == RUNNING && job_w != w -> TAKEN
    :: OPEN && FENCE_LETS(w, e) && job_state == RUNNING && job_w == w && again && job_again ->
        TAKEN; given = job_attempt
    :: OPEN && FENCE_LETS(w, e) && (job_state == ACCEPTED ||
            (job_w == w && !(again && job_again))) ->
        if
        :: job_attempt >= ATTEMPTS -> TAKEN; given = ATTEMPTS + 1
        :: else ->
            CHECK_CLAIM(w, e)
            overtake_all();
            job_state = RUNNING;
            job_attempt++;
            job_w = w;
            job_e = e;
            claimed_e = MAX(claimed_e, e);
            job_again = again;
            given = job_attempt;
            TELL_E(w, "worker %d has claimed the job, attempt %d\n", given)
        fi
    fi
}

/* finish.lua: attempt number of w has succeeded. */
inline finish(w, number, old, since, yes) {
    if
#ifdef NO_ATTEMPT_FENCE
    :: job_state != GONE ->
#elif defined(ATTEMPT_ONLY)
    :: job_state == RUNNING && job_attempt == number ->
#else
    :: MINE(w, number) ->
#endif
        CHECK_FINISH(w, old, since)
        job_state = SUCCEEDED;
        yes = YES;
        TELL_E(w, "worker %d has finished the job, attempt %d\n", number)
#ifndef NO_ATTEMPT_FENCE
    :: job_state == SUCCEEDED && job_attempt == number && job_w == w -> TAKEN; yes = YES
#endif
    :: else -> TAKEN; yes = NO
    fi
}

/* append.lua checks what finish.lua checks, and changes nothing that is modelled. */
#ifdef NO_ATTEMPT_FENCE
#define APPENDS(w, n) (job_state != GONE)
#else
#define APPENDS(w, n) MINE(w, n)
#endif

/* finish.lua for the attempt "*": fail a job that nobody else runs. */
inline give_up(w) {
    if
#ifdef BLIND_GIVE_UP
    :: job_state != GONE ->
#else
    :: job_state == ACCEPTED || (job_state == RUNNING && job_w == w) ->
#endif
        CHECK_END
        job_state = FAILED;
        overtake_all();
        TELL(w, "worker %d gives the job up\n")
    :: else -> TAKEN
    fi
}

/* release.lua, whoever calls it: recovery, the reconciler, or the child itself. */
inline release() {
    job_state = ACCEPTED;
    job_w = NOBODY;
    job_again = false;
    overtake_all();
    SAY("the job is taken back\n")
}

/* Storage.create: create-if-absent. */
inline create(w) {
    if
#ifdef OVERWRITE
    :: true ->
#else
    :: !artifact ->
#endif
        CHECK_CREATE
        artifact = true;
        TELL(w, "worker %d publishes the artifact\n")
#ifndef OVERWRITE
    :: else -> TAKEN
#endif
    fi
}

#endif
