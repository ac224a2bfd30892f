/* One lane of the cluster: lease, deadline, claim, publish. Start with README.md.
 *
 *   lease.pml    bounds, state, who runs        scripts.pml     what the stores do in one step
 *   job.pml      state of the job               worker.pml      agent, deadline's thread, child
 *                                               world.pml       network, time, faults, recovery
 *                                               properties.pml  what must hold
 *
 * check.py chooses a configuration:
 *   (none)     the lease in time; of the work only the claim's fence
 *   JOB        one online job, without time: a lease may lapse, a belief end at any moment
 *   LIVE       both, with few faults in a network that is calm otherwise: for liveness
 * and one broken variant by its name, an #ifdef where the code has the safeguard.
 *
 * Every option of a do loop is one indivisible step, and between two steps a process may stop for
 * as long as it likes. So slow threads, slow networks and kill -9 (no further step) need no events
 * of their own. A pause does: it stops the deadline's thread too, which nothing else stops.
 */

/* -- bounds: small, but explored in full ------------------------------------------------------ */

#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef EPOCHS
#define EPOCHS 3                /* the highest number that is given */
#endif
#ifndef LOSSES
#define LOSSES 1                /* how often the store forgets everything */
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2              /* max_attempts */
#endif

#ifndef FAULTS
#define FAULTS 1                /* only with LIVE */
#endif

#if !defined(JOB) || defined(LIVE)
#define TIMED
#endif
#ifdef LIVE
#define JOB
#endif

/* A tick is a heartbeat. Only the order counts: the deadline, counted from before the request was
 * sent, lapses before the time to live, counted from the request's receipt (2 s and 3 s at the
 * defaults). All clocks run at one speed; what the third of the TTL in between pays for is drift.
 * That the store's clock jumps is an event: ahead, the lease ends early; back, it lapses late,
 * and a lease never has to lapse at once. */
#ifndef TTL
#define TTL 3
#endif
#ifdef DEADLINE_PAST_TTL
#define DEADLINE (TTL + 1)
#else
#define DEADLINE (TTL - 1)
#endif

#define MAX(a, b) ((a) > (b) -> (a) : (b))

/* What a step says is printed by a replay; a search can note which steps were ever taken. */
#ifdef COVER
#define SAY(what) TAKEN
#define TELL(w, what) TAKEN
#define TELL_E(w, what, e) TAKEN
#define TAKEN \
    c_code { static int once; if (!once++) printf("taken %s:%d\n", __FILE__, __LINE__); }
#else
#define SAY(what) printf(what)
#define TELL(w, what) printf(what, w)
#define TELL_E(w, what, e) printf(what, w, e)
#define TAKEN skip
#endif
#define BROKEN(property) printf(property); assert(false)

/* -- the store: Redis ------------------------------------------------------------------------- */

byte lease_e, lease_h;          /* tts:{lane}:lease = "epoch:holder"; lease_e 0: no such key */
byte counter;                   /* tts:{lane}:epoch */
byte losses;
#ifdef TIMED
byte ttl;                       /* ticks until the lease may lapse */
#endif

#define HOLDS(w, e) ((e) > 0 && lease_e == (e) && lease_h == (w))

/* -- workers ---------------------------------------------------------------------------------- */

byte seen[WORKERS];             /* LeaseKeeper.floor: highest epoch that it knows of for sure */
#ifdef TIMED
byte leads[WORKERS];            /* LeaseKeeper.leadership: the epoch it believes in, 0: none */
bool paused[WORKERS];           /* the parent process stands still (SIGSTOP, suspend) */
byte left[WORKERS];             /* ticks until its deadline */
byte asked[WORKERS];            /* ticks until the deadline that the request under way can give */
#endif
#ifdef LIVE
bool dead[WORKERS];             /* kill -9 of parent and child */
#endif

/* Requests: the one under way of each agent, and one of all that has outlived its timeout and is
 * still on its way. */
#define NONE 0
#define ACQUIRE 1
#define RENEW 2
#define REMOVE 3
#define CLAIM 4
#define CREATE 5
#define FINISH 6
#ifdef TIMED
byte ask[WORKERS], ask_e[WORKERS];      /* ask_e: the epoch; of ACQUIRE the floor, then the epoch */
byte answer[WORKERS];
#endif
#define UNHEARD 0                       /* not executed yet */
#define YES 1
#define NO 2
byte late, late_w, late_x;              /* late_x: epoch, floor, or the attempt */

/* -- read by the properties alone ------------------------------------------------------------- */

#ifdef TIMED
byte cut[WORKERS];              /* highest epoch of this holder whose record ended before its TTL:
                                   deposed, lost, or by a jump of the store's clock */
#endif
byte ranks;                     /* how many workers have held the lease: see IS_NEXT */

#ifdef JOB
#include "job.pml"
#endif

/* -- what depends on the configuration -------------------------------------------------------- */

#ifdef LIVE
#define LIVES(w) (!dead[w])
#else
#define LIVES(w) true           /* kill -9: a worker that takes no further step */
#endif

/* A late removal of a record that is gone does nothing, so the model forgets it. */
#ifdef PLAIN_DEL
#define MATTERS(w, e) true
#define FORGET_LATE skip
#else
#define MATTERS(w, e) HOLDS(w, e)
#define FORGET_LATE \
    late_w = (late == REMOVE -> 0 : late_w); \
    late_x = (late == REMOVE -> 0 : late_x); \
    late = (late == REMOVE -> NONE : late)
#endif

#ifdef TIMED
#define RUNS(w) (!paused[w] && LIVES(w))
#define START_TTL ttl = TTL
#define END_LEASE FORGET_LATE; lease_e = 0; lease_h = 0; ttl = 0
#ifdef REPLY_TIME_DEADLINE
#define IN_TIME(w) true
#define LEFT(w) DEADLINE
#else
#define IN_TIME(w) (asked[w] > 0)
#define LEFT(w) asked[w]
#endif
#else
#define RUNS(w) true
#define START_TTL skip
#define END_LEASE lease_e = 0; lease_h = 0
#endif

#ifdef LIVE                     /* asked as often as the code does, so that time can pass */
#define MAY_RENEW(w) (left[w] < DEADLINE)
#else
#define MAY_RENEW(w) true
#endif

#include "properties.pml"
#include "scripts.pml"
#include "worker.pml"
#include "world.pml"

/* What holds at every moment. */
#ifndef JOB
proctype monitor() {
end: do
#ifdef BELIEFS_NEVER_OVERLAP
    :: d_step { leads[0] > 0 && left[0] > 0 && leads[1] > 0 && left[1] > 0 ->
        BROKEN("property 2: two workers believe to lead\n") }
#endif
#if WORKERS == 2
    :: d_step { FALSE_BELIEF(0) || FALSE_BELIEF(1) -> FALSE_BELIEF_FOUND }
    :: d_step { STALE_CLAIM(0) || STALE_CLAIM(1) -> STALE_CLAIM_FOUND }
#else
    :: d_step { FALSE_BELIEF(0) || FALSE_BELIEF(1) || FALSE_BELIEF(2) -> FALSE_BELIEF_FOUND }
    :: d_step { STALE_CLAIM(0) || STALE_CLAIM(1) || STALE_CLAIM(2) -> STALE_CLAIM_FOUND }
#endif
    od
}
#endif

/* 5. Liveness, under weak fairness: after the faults. */
#ifdef LIVE
#define LEADING(w) (RUNS(w) && HOLDS(w, leads[w]))
ltl primary { <> [] (LEADING(0) || LEADING(1)) }
ltl spoken { <> [] (job_state == SUCCEEDED) }
#endif

init {
    byte i;
    atomic {
#ifdef JOB
        job_w = NOBODY;
#endif
        for (i : 0 .. WORKERS - 1) {
            run agent(i);
#ifdef TIMED
            run deadline(i);
            run store(i);
#endif
#ifdef JOB
            run child(i);
#ifdef LIVE
            run link(i)
#endif
#endif
        }
        run time();
        run faults();
#ifdef JOB
        run ledger();
#endif
#ifndef LIVE
        run late_requests();
#endif
#ifndef JOB
        run monitor()
#endif
    }
}
