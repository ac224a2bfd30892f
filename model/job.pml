/* The one online job: its ledger record, its artifact, and the children that work on it. */

#define GONE 0                  /* no such record: not accepted yet, or forgotten */
#define ACCEPTED 1
#define RUNNING 2
#define SUCCEEDED 3
#define FAILED 4
byte job_state, job_attempt;
byte job_w;                     /* whose attempt it is */
byte job_e;                     /* the epoch it was claimed under last */
bool job_again;                 /* its nonce is that of the claim that the child `job_w` is at */

#define NOBODY WORKERS
#define OPEN (job_state == ACCEPTED || job_state == RUNNING)

/* The storage: another store, which forgets nothing. */
bool artifact;
byte mark;                      /* EpochMarks: epochs up to here count as used */

/* The child of each worker. */
#define IDLE 0
#define CLAIMING 1
#define COVERED 2
#define CHECKED 3               /* in a broken variant only */
#define WORKING 4
#define CREATING 5
#define FINISHING 6
#define GIVING_UP 7
byte at[WORKERS];
byte attempt[WORKERS];
byte claim_e[WORKERS];          /* the epoch that it claims, or has claimed, under */
byte told[WORKERS];             /* BelievedLease: follows what the parent believes, late */
bool complete[WORKERS];         /* EpochFloor.complete: it has read the marks, to acquire by them */
bool late_again;                /* the late claim has the nonce of the claim that its child is at */

/* Read by the properties alone. */
bool stale[WORKERS];            /* its attempt was overtaken, taken back, or forgotten */
bool late_stale;                /* the same of the attempt that the late request is of */
byte life[WORKERS], late_life;  /* losses of the store before the attempt was claimed */
byte claimed_e;                 /* the highest epoch that a claim was accepted under, ever */
byte read_at[WORKERS];          /* losses of the store before it read the marks */
bool slipped;                   /* an epoch was given by marks that were read before a loss */
