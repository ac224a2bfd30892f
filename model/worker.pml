/* A worker: the agent's thread, the deadline's thread, and the child. */

/* What stands in another's record, if that is more than the store still knows. */
#define OTHER_KNOWS_MORE(w, i) \
    (seen[(w + i) % WORKERS] > seen[w] && seen[(w + i) % WORKERS] > counter)

#ifdef TIMED

/* Nobody asks any more what became of its lease. */
#define FORGET_CUT(w) cut[w] = (leads[w] == 0 && ask[w] == NONE -> 0 : cut[w])

inline start(w, what, e) {
    ask[w] = what;
    ask_e[w] = e;
    asked[w] = (what == REMOVE -> 0 : DEADLINE)
}

inline forget_request(w) {
    ask[w] = NONE;
    ask_e[w] = 0;
    answer[w] = UNHEARD;
    asked[w] = 0;
    FORGET_CUT(w)
}

/* LeaseKeeper._lead */
inline lead(w, e) {
    if
    :: IN_TIME(w) ->
        leads[w] = e;
        left[w] = LEFT(w);
        TELL_E(w, "worker %d believes to lead under epoch %d\n", e)
    :: else -> TAKEN            /* the answer came too late to be believed */
    fi
}

/* LeaseKeeper.demote */
inline demote(w) {
    leads[w] = 0;
    left[w] = 0;
    FORGET_CUT(w);
    TELL(w, "worker %d stops to lead\n")
}

/* Agent.tick: read, decide, carry out. Reading and asking are one step, as any delay between them
 * may as well lie between asking and the store. What `decide` orders depends on more than is
 * modelled (readiness, drains, switchovers, who is silent), so it may order anything that some
 * view would have it order. */
proctype agent(byte w) {
    byte v;
end: do
    /* Acquire: the lane was free, or a dead holder's lease was removed just now. It knows of the
     * epochs that it has seen itself, and of those in the records of others, if they are there. */
    :: d_step { RUNS(w) && ask[w] == NONE && leads[w] == 0 && lease_e == 0 ->
#ifdef JOB                      /* with the marks, in one step */
        seen[w] = MAX(seen[w], mark);
#endif
        start(w, ACQUIRE, seen[w]);
        TELL_E(w, "worker %d asks for the lease, floor %d\n", seen[w]) }
#ifndef LIVE
    :: d_step { RUNS(w) && ask[w] == NONE && leads[w] == 0 && lease_e == 0 &&
            OTHER_KNOWS_MORE(w, 1) ->
        start(w, ACQUIRE, seen[(w + 1) % WORKERS]);
        TELL_E(w, "worker %d asks for the lease, floor %d\n", ask_e[w]) }
#if WORKERS > 2 && LOSSES > 0
    :: d_step { RUNS(w) && ask[w] == NONE && leads[w] == 0 && lease_e == 0 &&
            OTHER_KNOWS_MORE(w, 2) ->
        start(w, ACQUIRE, seen[(w + 2) % WORKERS]);
        TELL_E(w, "worker %d asks for the lease, floor %d\n", ask_e[w]) }
#endif
#endif

    /* Renew. */
    :: d_step { RUNS(w) && ask[w] == NONE && leads[w] > 0 && MAY_RENEW(w) ->
        start(w, RENEW, leads[w]); TELL_E(w, "worker %d asks to renew epoch %d\n", leads[w]) }

#ifndef LIVE
    /* Demote: the lease seen is not its own. */
    :: d_step { RUNS(w) && leads[w] > 0 && !HOLDS(w, leads[w]) -> TAKEN; demote(w) }

    /* Demote and Remove: it drains, hands over, or its engine is gone. */
    :: d_step { RUNS(w) && ask[w] == NONE && leads[w] > 0 ->
        TELL(w, "worker %d hands the lane over\n"); start(w, REMOVE, leads[w]); demote(w) }
#endif

    /* Remove: left over from an acquisition whose answer was not heard, or from a belief that has
     * ended. */
    :: d_step { RUNS(w) && ask[w] == NONE && leads[w] == 0 && lease_e > 0 && lease_h == w ->
        seen[w] = MAX(seen[w], lease_e);
#ifdef ADOPT_LEFTOVER
        leads[w] = lease_e;
        left[w] = DEADLINE;
        TELL_E(w, "worker %d takes up what it finds to be its own, epoch %d\n", lease_e)
#else
        start(w, REMOVE, lease_e);
        TELL_E(w, "worker %d asks to remove its own old lease, epoch %d\n", lease_e)
#endif
        }

    /* The answer. */
    :: d_step { RUNS(w) && ask[w] == ACQUIRE && answer[w] == YES ->
        TAKEN;
        CHECK_OWN_EPOCHS(w, ask_e[w])
        seen[w] = MAX(seen[w], ask_e[w]);
        lead(w, ask_e[w]); forget_request(w) }
    :: d_step { RUNS(w) && ask[w] == RENEW && answer[w] == YES ->
        TAKEN; lead(w, ask_e[w]); forget_request(w) }
    :: d_step { RUNS(w) && ask[w] == RENEW && answer[w] == NO ->
        if
        :: leads[w] == ask_e[w] -> TAKEN; demote(w)
        :: else -> TAKEN
        fi;
        forget_request(w) }

#ifndef LIVE
    /* No answer in time (UnavailableError): request or answer was lost; or the request is still on
     * its way, and may be executed at any time. (A late renewal makes the lease last longer, which
     * it may do anyway; and to remove what is gone already does nothing.) */
    :: d_step { RUNS(w) && ask[w] != NONE ->
        forget_request(w); TELL(w, "worker %d hears no answer\n") }
    :: d_step { RUNS(w) && answer[w] == UNHEARD && late == NONE &&
            (ask[w] == ACQUIRE || (ask[w] == REMOVE && MATTERS(w, ask_e[w]))) ->
        late_w = w; late = ask[w]; late_x = ask_e[w];
        forget_request(w);
        TELL(w, "worker %d hears no answer; the request is still on its way\n") }
#endif
    od
}

/* Agent._guard: no I/O, so nothing but a pause holds it up: see SETTLED in world.pml. */
#ifdef NO_SELF_DEMOTION
#define OVERDUE(w) false
#else
#define OVERDUE(w) (RUNS(w) && leads[w] > 0 && left[w] == 0)
#endif

proctype deadline(byte w) {
end: do
    :: d_step { OVERDUE(w) -> TELL(w, "worker %d has passed its deadline\n"); demote(w) }
    od
}

#ifdef JOB
/* ParentLink: the child hears what its parent believes, late. */
proctype link(byte w) {
end: do
    :: d_step { RUNS(w) && told[w] != leads[w] -> TAKEN; told[w] = leads[w] }
    od
}
#endif

#else

/* Without time: agent, deadline and link in one. The lane is taken when it is free; the child
 * hears of it some time later or never, and some time later or never that it is over. What was
 * believed in between makes no difference to the stores. */
#define COUNTED(w) (counter > 0 || complete[w])

inline note_reading(w) {
    slipped = slipped || (counter == 0 && read_at[w] != losses);
    complete[w] = false;
    read_at[w] = 0
}

proctype agent(byte w) {
    byte v, yes;
end: do
    :: d_step { lease_e == 0 && COUNTED(w) ->
        TAKEN; note_reading(w); acquire(w, seen[w], v, yes); v = 0; yes = 0 }
    :: d_step { lease_e == 0 && COUNTED(w) && OTHER_KNOWS_MORE(w, 1) ->
        TAKEN; note_reading(w);
        acquire(w, seen[(w + 1) % WORKERS], v, yes); v = 0; yes = 0 }
    /* acquire.lua says "uncounted"; Chores.read_epochs, for the next try. */
    :: d_step { lease_e == 0 && !COUNTED(w) ->
        complete[w] = true;
        read_at[w] = losses;
        seen[w] = MAX(seen[w], mark);
        TELL_E(w, "worker %d has read the marks: %d\n", mark) }
    :: d_step { lease_e > 0 && lease_h == w && told[w] != lease_e ->
        seen[w] = MAX(seen[w], lease_e);
        told[w] = lease_e;
        TELL_E(w, "worker %d believes to lead under epoch %d\n", lease_e) }
    :: d_step { told[w] > 0 -> told[w] = 0; TELL(w, "worker %d stops to lead\n") }
    od
}

#endif

#ifdef JOB

inline idle(w) {
    at[w] = IDLE;
    attempt[w] = 0;
    claim_e[w] = 0;
    life[w] = 0;
    late_again = (late_w == w -> false : late_again);
    job_again = (job_w == w -> false : job_again);
    stale[w] = false
}

inline heard_claim(w, given) {
    if
    :: given == 0 -> TAKEN; idle(w)
    :: given > ATTEMPTS -> TAKEN; at[w] = GIVING_UP
    :: else ->
        TAKEN;
        at[w] = WORKING;
        attempt[w] = given;
        life[w] = losses;
        late_again = (late_w == w -> false : late_again);
        stale[w] = false
    fi
}

/* JobRunner: it claims, works, publishes, finishes; calls that are not answered are made again. */
proctype child(byte w) {
    byte n, v;
end: do
    /* A message, handed on by the parent: there may be any number of them, at any time. */
    :: d_step { RUNS(w) && at[w] == IDLE && OPEN ->
        TAKEN; at[w] = CLAIMING }

    /* Without a lease to believe in, the claim is refused. Else cover(), before anything can be
     * done under its epoch. */
    :: d_step { LIVES(w) && at[w] == CLAIMING && told[w] == 0 -> TAKEN; idle(w) }
    :: d_step { LIVES(w) && at[w] == CLAIMING && told[w] > 0 ->
        TAKEN;
        claim_e[w] = told[w];
#ifndef LATE_MARK
        mark = MAX(mark, told[w]);
#endif
        at[w] = COVERED }

    /* Claim: with an answer, or with one that is lost. */
#ifdef CHECK_THEN_CLAIM
    :: d_step { LIVES(w) && at[w] == COVERED && HOLDS(w, claim_e[w]) ->
        at[w] = CHECKED; TELL(w, "worker %d has looked: the lease is its own\n") }
    :: d_step { LIVES(w) && at[w] == CHECKED ->
        TAKEN; claim(w, claim_e[w], true, n); heard_claim(w, n); n = 0 }
#else
    :: d_step { LIVES(w) && at[w] == COVERED ->
        TAKEN; claim(w, claim_e[w], true, n); heard_claim(w, n); n = 0 }
#ifndef LIVE
    :: d_step { LIVES(w) && at[w] == COVERED ->
        claim(w, claim_e[w], true, n); n = 0; at[w] = CLAIMING; claim_e[w] = 0;
        TELL(w, "worker %d hears no answer to its claim\n") }
    :: d_step { LIVES(w) && at[w] == COVERED && late == NONE ->
        late_w = w; late = CLAIM; late_x = claim_e[w]; late_again = true;
        at[w] = CLAIMING; claim_e[w] = 0;
        TELL(w, "worker %d hears no answer to its claim, which is still on its way\n") }
#endif
#endif
    :: d_step { LIVES(w) && at[w] == GIVING_UP -> TAKEN; give_up(w); idle(w) }

    /* Speak: each segment is noted, and tells whether the attempt is still the newest. */
#ifndef LIVE                    /* a text does not go on for ever */
    :: d_step { LIVES(w) && at[w] == WORKING && APPENDS(w, attempt[w]) -> TAKEN; CHECK_APPEND(w) }
#endif
    :: d_step { LIVES(w) && at[w] == WORKING && !APPENDS(w, attempt[w]) -> TAKEN; idle(w) }

    /* find_published, before anything is spoken; else publish(). */
    :: d_step { LIVES(w) && at[w] == WORKING && artifact ->
        at[w] = FINISHING; TELL(w, "worker %d adopts the artifact\n") }
#ifdef FINISH_FIRST
    :: d_step { LIVES(w) && at[w] == WORKING && !artifact -> at[w] = FINISHING }
#else
    :: d_step { LIVES(w) && at[w] == WORKING && !artifact ->
        TAKEN;
#ifdef LATE_MARK
        mark = MAX(mark, claim_e[w]);
#endif
        at[w] = CREATING }
    :: d_step { LIVES(w) && at[w] == CREATING ->
        TAKEN; create(w); at[w] = FINISHING }
#ifndef LIVE
    :: d_step { LIVES(w) && at[w] == CREATING && !artifact ->
        create(w); TELL(w, "worker %d hears no answer to its publication\n") }
    :: d_step { LIVES(w) && at[w] == CREATING && late == NONE ->
        late_w = w; late = CREATE;
        TELL(w, "worker %d hears no answer to its publication, which is still on its way\n") }
#endif
#endif

    :: d_step { LIVES(w) && at[w] == FINISHING ->
        TAKEN; finish(w, attempt[w], stale[w], life[w], n); idle(w); n = 0 }
#ifndef LIVE
    :: d_step { LIVES(w) && at[w] == FINISHING ->
        finish(w, attempt[w], stale[w], life[w], n); n = 0;
        TELL(w, "worker %d hears no answer to its finish\n") }
    :: d_step { LIVES(w) && at[w] == FINISHING && late == NONE ->
        late_w = w; late = FINISH; late_x = attempt[w]; late_stale = stale[w]; late_life = life[w];
        TELL(w, "worker %d hears no answer to its finish, which is still on its way\n") }

    /* kill -9 of the child, or an engine that fails. */
    :: d_step { LIVES(w) && at[w] != IDLE -> idle(w); TELL(w, "worker %d loses its child\n") }
#endif
    od
}

#endif
