/* What must hold. The README says it in words, and what is not claimed. */

/* 1. Epochs. */
#ifdef NUMBERS_ARE_UNIQUE       /* too strong a claim: see README.md */
#define NUMBERS_KEPT true
#else
#define NUMBERS_KEPT (losses == 0)
#endif
#ifdef MARKS_ARE_NEVER_OLD      /* too strong a claim */
#define MARKS_KEPT true
#elif defined(LIVE)             /* there the reading is no step of its own */
#define MARKS_KEPT false
#else
#define MARKS_KEPT (!slipped)
#endif
#ifdef JOB
#define CHECK_NEW_EPOCH(v, w, e) \
    if \
    :: v != w && NUMBERS_KEPT && e <= seen[v] -> BROKEN("property 1a: a number is given twice\n") \
    :: v == w && MARKS_KEPT && e <= claimed_e -> \
        BROKEN("property 1c: an epoch is not above one that was claimed under\n") \
    :: else \
    fi;
#else
#define CHECK_NEW_EPOCH(v, w, e) \
    if \
    :: v != w && NUMBERS_KEPT && e <= seen[v] -> BROKEN("property 1a: a number is given twice\n") \
    :: else \
    fi;
#endif
#define CHECK_OWN_EPOCHS(w, e) \
    if \
    :: e <= seen[w] -> BROKEN("property 1b: a worker leads twice under one epoch\n") \
    :: else \
    fi;

/* 2. Belief. Before its deadline a worker believes only what the store says too, unless its
 * record ended before its time. As the store has one record, no two workers do. */
#define EXCUSED(w) (leads[w] <= cut[w])
#define CUT_LEASE \
    cut[lease_h] = \
        (leads[lease_h] > 0 || ask[lease_h] != NONE -> MAX(cut[lease_h], lease_e) : cut[lease_h])
#define FALSE_BELIEF(w) \
    (leads[w] > 0 && left[w] > 0 && !HOLDS(w, leads[w]) && !EXCUSED(w))
#define FALSE_BELIEF_FOUND \
    BROKEN("property 2a: a worker believes, before its deadline, in a lease that is gone\n")
#define CHECK_TICK(w) \
    if \
    :: RUNS(w) && leads[w] > 0 && !HOLDS(w, leads[w]) && !EXCUSED(w) -> \
        BROKEN("property 2b: a worker that runs goes on to lead without the lease\n") \
    :: else \
    fi;

/* 3. Stale effects. Without JOB a child believes for ever what its worker believed last. */
#define STALE_CLAIM(w) (FENCE_LETS(w, seen[w]) && !HOLDS(w, seen[w]))
#define STALE_CLAIM_FOUND BROKEN("property 3a: a claim passes without the lease\n")
#ifdef BUT_3A                   /* to see what follows from it */
#define CLAIM_IS_STALE(w, e) false
#else
#define CLAIM_IS_STALE(w, e) (!HOLDS(w, e))
#endif
#define CHECK_CLAIM(w, e) \
    if \
    :: CLAIM_IS_STALE(w, e) -> STALE_CLAIM_FOUND \
    :: !CLAIM_IS_STALE(w, e) && losses == 0 && e < job_e -> \
        BROKEN("property 3b: claims go back in epochs\n") \
    :: else \
    fi;
#define CHECK_APPEND(w) \
    if \
    :: stale[w] -> BROKEN("property 3c: an old attempt appends\n") \
    :: else \
    fi

/* 4. Once. A finish of before the store forgot the job is told by its worker alone: see README. */
#ifdef ATTEMPTS_NEVER_REPEAT    /* too strong a claim */
#define STALE_FINISH(w, old, since) (old)
#else
#define STALE_FINISH(w, old, since) (old && (since == losses || job_w != w))
#endif
#define CHECK_FINISH(w, old, since) \
    if \
    :: STALE_FINISH(w, old, since) -> BROKEN("property 3d: an old attempt finishes\n") \
    :: !STALE_FINISH(w, old, since) && OPEN && !artifact -> \
        BROKEN("property 4b: a job succeeds without its artifact\n") \
    :: else \
    fi; \
    CHECK_END
#define CHECK_END \
    if \
    :: !OPEN -> BROKEN("property 4a: a job ends twice\n") \
    :: else \
    fi;
#define CHECK_CREATE \
    if \
    :: artifact -> BROKEN("property 4c: an artifact is written twice\n") \
    :: else \
    fi;
