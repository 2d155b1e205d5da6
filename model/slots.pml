/*
 * The slot protocol: a pipe of tokens, a ledger of who holds which slot, and loans.
 *
 * Whatever other processes do, and SIGKILL too, may fall between any two steps. A step is a
 * statement of its own, a d_step{} or an atomic{}. It touches shared memory once (one load, store,
 * CAS or system call of the protocol); what else it does is private to its process, or the model's
 * bookkeeping. The fields token, sent and lender of an entry are private to its holder as long as
 * it lives. Stores that change nothing are left out. README.md says what else is.
 *
 * run.py sets SLOTS, PROCESSES, OWNERS, KINDS, KILLS, CLIENT, either HOLD or YIELD, perhaps
 * PROGRAMS, COMMON, IMPLICIT, NAMES, RESULTS, TIMEOUT_0, INTERRUPTS, GIVES or LEAVES_YIELD, and, to see
 * that flaws are found, one of the BREAK_... that break the protocol.
 */

#ifndef COMMON
#define COMMON 0    /* 1: one of the slots is in common, and has no byte */
#endif
#ifndef IMPLICIT
#define IMPLICIT 0  /* 1: the programs of the root have a slot of their own each, without a byte */
#endif

#define BYTES (SLOTS - COMMON)
#define FREE 0      /* a holder that is nobody */
#define NONE 0      /* an entry that is none: those of the ledger are numbered from 1 */
#define ENTRIES 5   /* always enough: a claim asserts it */
#define ROOT 1      /* processes are numbered from 1 */
#define POOL (PROCESSES + 2)    /* the holder of the entry in common */
#define COMMON_ENTRY 1

/* Who started whom. What a process starts has higher numbers than it. */
byte owner[PROCESSES + 1] = OWNERS;

#define JOB 0       /* starts on a slot, which it adopts, and gives it back itself */
#define PROGRAM 1   /* starts without: it takes one, for itself or for what it starts on it */
#define COMMAND 2   /* starts on a slot, and knows nothing of slots: `exec`'s */
byte kind[PROCESSES + 1] = KINDS;

/* What stands in the place of a borrower: nobody may borrow, or somebody may. */
#define CLOSED 0
#define OPEN 7

/* A generation is one of 8 here, and one of very many in the protocol. */
typedef Entry {
    unsigned holder : 4;
    unsigned gen : 3;           /* one word with the holder, and so are the next two */
    bit launching;
    bit nameless;               /* the holder has adopted it before its owner named it */
    bit token;
    bit sent;                   /* the cursor: START or SENT */
    unsigned lender : 3;
    unsigned lender_gen : 3;
    unsigned borrower : 3;
    unsigned borrower_gen : 3;  /* one word with the borrower, and so is PASS */
    bit pass;
    unsigned open_to : 4;       /* in the same word, if it is OPEN: the holder, who runs on it */
    unsigned owner : 4          /* who will hear of the holder's end, and does not watch for it */
};
Entry ledger[ENTRIES + 1];

byte pipe = BYTES;              /* bytes in the pipe */
byte client_holds;              /* bytes that the foreign client has taken */
bit client_left;

bit forked[PROCESSES + 2];
bit dead[PROCESSES + 3];        /* exited or killed: the kernel's word, which anybody can ask for */
bit result[PROCESSES + 2];      /* a living job has sent its result */

/* What a process runs on, and whether it runs now. */
byte slot[PROCESSES + 2];
bit runs[PROCESSES + 2];

/* What the owner of a job knows of it, and the job from its owner's memory. */
byte launch[PROCESSES + 2];     /* the entry that it was launched on */
byte launch_gen[PROCESSES + 2];
bit told[PROCESSES + 2];        /* the owner has been told of its end */
bit told_result[PROCESSES + 2];
bit gave[PROCESSES + 2];        /* it has told its owner that it gave its slot away */

byte watch[PROCESSES + 2];      /* whom a sleeper watches: a bit for each holder, and bits 0, 7 */
bit listens[PROCESSES + 2];     /* a sleeper has not heard yet that some slot can be borrowed */

byte kills = KILLS;
chan kill = [0] of { byte };

/* ---- What must hold at every moment ---- */

#define HOLDS(e) (ledger[e].token && !ledger[e].sent)
#define HELD (HOLDS(1) + HOLDS(2) + HOLDS(3) + HOLDS(4) + HOLDS(5))

#define LENT(e) (ledger[e].borrower != CLOSED && ledger[e].borrower != OPEN)
#ifdef BREAK_OPEN_WITHOUT_GENERATION
#define GEN_IN_OPEN(g) 0
#else
#define GEN_IN_OPEN(g) g
#endif
#ifdef BREAK_OPEN_WITHOUT_HOLDER
#define HOLDER_IN_OPEN(p) 0
#else
#define HOLDER_IN_OPEN(p) p
#endif
/* Open in the taking g of it, by its holder p. */
#define IS_OPEN(e, g, p) (ledger[e].borrower == OPEN && \
    ledger[e].borrower_gen == GEN_IN_OPEN(g) && ledger[e].open_to == HOLDER_IN_OPEN(p))
#define SET_OPEN(e, g, p) ledger[e].borrower = OPEN; \
    ledger[e].borrower_gen = GEN_IN_OPEN(g); ledger[e].open_to = HOLDER_IN_OPEN(p)
#define SET_CLOSED(e) ledger[e].borrower = CLOSED; ledger[e].borrower_gen = 0; ledger[e].open_to = 0

#define DEAD(e) (ledger[e].holder != FREE && dead[ledger[e].holder])

/* Whoever has lent its slot does not run, or leaves the running to a program below it. */
#define RUNS(p) (p <= PROCESSES && runs[p] && !LENT(slot[p]))
#define RUNNING (RUNS(1) + RUNS(2) + RUNS(3) + RUNS(4) + RUNS(5) + RUNS(6) + RUNS(7))
#define COMMON_FREE (COMMON && ledger[COMMON_ENTRY].borrower == OPEN)
#define CHECK assert(pipe + client_holds + HELD <= BYTES); \
    assert(pipe + client_holds + RUNNING + COMMON_FREE <= SLOTS + (IMPLICIT && forked[2]))

/* ---- take ---- */

/* Always the first free entry, so that each is used anew as soon as it can be. */
inline claim(e) {
    e = 1;
    do
    :: e <= ENTRIES && ledger[e].holder != FREE -> e++
    :: else -> break
    od;
    assert(e <= ENTRIES);
    assert(!ledger[e].token && !ledger[e].sent && !ledger[e].lender);
    assert(ledger[e].borrower == CLOSED);
    ledger[e].holder = me; ledger[e].gen = ledger[e].gen + 1; ledger[e].owner = me
}

/* The bell: an entry is about to have another holder, and all who sleep look again, since they
   watch the old one. To ring is a step of its own, after which we may be killed. */
inline ring_bell() {
    i = 0;
    do
    :: i <= PROCESSES -> watch[i] = 0; i++
    :: else -> i = 0; break
    od
}
#define RING atomic { ring_bell() }

/* The other bell: some slot can be borrowed now. */
inline ring_open() {
    i = 0;
    do
    :: i <= PROCESSES -> listens[i] = 0; i++
    :: else -> i = 0; break
    od
}
#define RING_OPEN atomic { ring_open() }

/* The holder runs on it from now on, and whoever is below may borrow it. */
inline open_to_borrowers(e) {
    d_step {
        if
        :: ledger[e].borrower == CLOSED ->
           SET_OPEN(e, ledger[e].gen, me)
        :: else -> skip
        fi
    };
#ifdef PROGRAMS
    RING_OPEN
#endif
}

/* take 2, after a claim: e becomes NONE if the pipe is empty. */
inline read_token(e) {
#ifndef BREAK_RING_AFTER_READ
    RING;
#endif
    if
#ifdef BREAK_READ_THEN_RECORD
    :: atomic { pipe > 0 -> pipe-- }; ledger[e].token = 1
#else
    :: atomic { pipe > 0 -> pipe--; ledger[e].token = 1 }
#endif
    :: pipe == 0 -> atomic { ledger[e].holder = FREE; e = NONE }
    fi
#ifdef BREAK_RING_AFTER_READ
    ; RING
#endif
}

/* ---- give_back and reclaim ---- */

/* What is to be done next. Each may lead to the other, on the next entry of a chain of loans, and
   never back: hence one loop, each of whose options is a step. */
#define LOOK_AT_HOLDER 1        /* reclaim: x, the lender of a loan that has ended */
#define LOOK_AT_BORROWER 2      /* reclaim: x, whose holder (h, hg) is known to be dead */
#define LOOK_AT_ITS_HOLDER 3
#define RING_FOR_X 4            /* and then take it over */
#define TAKE_OVER 5
#define GIVE_BACK 6             /* give_back: x, which is ours */
#define RING_FOR_PASS 7
#define PASS_ON 8
#define RETURN 9
#define MARK 10
#define RELEASE 11
#define SAY_OPEN 12
#define DISOWN_LENDER 13
#define RING_FOR_LENDER 14      /* and then finish for it */
#define FINISH_FOR_LENDER 15
#define END_PASS 16
#define CLEAR_TOKEN 17
#define CLEAR_CURSOR 18
#define CLEAR_LENDER 19
#define LEAVE 20

#define AFTER_BORROWER (HOLDS(x) -> RETURN : AFTER_RETURN)
#define AFTER_RETURN (ledger[x].lender -> RELEASE : AFTER_RELEASE)
#define AFTER_RELEASE (ledger[x].token -> CLEAR_TOKEN : AFTER_TOKEN)
#define AFTER_TOKEN (ledger[x].sent -> CLEAR_CURSOR : AFTER_CURSOR)
#define AFTER_CURSOR (ledger[x].lender -> CLEAR_LENDER : LEAVE)

#define X_LENT_TO(e) (ledger[e].borrower == x && ledger[e].borrower_gen == ledger[x].gen)
#define READ_HOLDER(e) h = ledger[e].holder; hg = ledger[e].gen; hn = ledger[e].nameless

/* What is lent to somebody below must be lent to whom it is given back for good. The change of the
   word is tried until it succeeds, and so is one step. */
#ifdef BREAK_PASS_ON_IN_SILENCE
#define BEFORE_PASS PASS_ON
#else
#define BEFORE_PASS RING_FOR_PASS
#endif

#ifdef BREAK_PASSED_ON_BUT_OWNED
#define BEFORE_FINISH RING_FOR_LENDER
#else
#define BEFORE_FINISH (ledger[b].owner == NONE -> RING_FOR_LENDER : DISOWN_LENDER)
#endif

/* `left`: x is not reclaimed, and will be by somebody else. */
inline settle() {
    do
    :: todo == NONE -> break

    /* reclaim 1 */
    :: d_step { todo == LOOK_AT_HOLDER ->
           if
           :: DEAD(x) -> READ_HOLDER(x); todo = LOOK_AT_BORROWER
           :: else -> todo = NONE; x = NONE
           fi
       }

    /* reclaim 2: the borrower is read only now, since a living holder may still set PASS. */
    :: d_step { todo == LOOK_AT_BORROWER ->
#ifndef BREAK_BORROWER_READ_EARLY
           if
           :: LENT(x) -> b = ledger[x].borrower; bg = ledger[x].borrower_gen; passed = ledger[x].pass
           :: else -> skip
           fi;
#endif
           todo = (b == NONE -> RING_FOR_X : LOOK_AT_ITS_HOLDER);
#ifdef BREAK_NO_LOOK_AT_BORROWER
           todo = TAKE_OVER
#endif
       }

    /* reclaim 2 and 3: while the borrower lives, the entry is left to it. If it is dead it is
       reclaimed first, and that leads on to this entry, by 3a or 3b of give_back. If it is not
       there any more, it has ended the loan, or has the entry by now. */
    :: d_step { todo == LOOK_AT_ITS_HOLDER ->
           if
#ifdef BREAK_TAKE_OVER_PASSED
           :: passed -> todo = TAKE_OVER
#endif
           :: ledger[b].holder != FREE && ledger[b].gen == bg && dead[ledger[b].holder] ->
              x = b; READ_HOLDER(x); todo = LOOK_AT_BORROWER; left = 1
           :: else ->
              if
              :: ledger[b].holder != FREE && ledger[b].gen == bg -> left = 1; todo = NONE
              :: else ->
                 if
                 :: passed -> left = (ledger[b].holder != FREE); todo = NONE
                 :: !passed && LENT(x) -> left = 1; todo = NONE
                 :: else -> todo = RING_FOR_X
                 fi
              fi;
              if
              :: todo == NONE -> x = NONE; h = 0; hg = 0; hn = 0
              :: else -> skip
              fi
           fi;
           b = NONE; bg = 0; passed = 0
       }

    /* reclaim 4 */
    :: d_step { todo == RING_FOR_X -> ring_bell(); todo = TAKE_OVER }
    :: d_step { todo == TAKE_OVER ->
           if
           :: ledger[x].holder == h && ledger[x].gen == hg && ledger[x].nameless == hn ->
              ledger[x].holder = me; ledger[x].launching = 0; ledger[x].nameless = 0;
              todo = GIVE_BACK
           :: else -> todo = NONE; x = NONE; left = 1
           fi;
#ifdef BREAK_NO_LOOK_AT_BORROWER
           if
           :: todo == GIVE_BACK -> SET_CLOSED(x);
              todo = AFTER_BORROWER
           :: else -> skip
           fi;
#endif
           h = 0; hg = 0; hn = 0; b = NONE; bg = 0; passed = 0
       }

    /* give_back 1 */
    :: d_step { todo == GIVE_BACK ->
           if
           :: LENT(x) -> todo = BEFORE_PASS
           :: else ->
#ifndef BREAK_GIVE_BACK_WITHOUT_CLOSING
              SET_CLOSED(x);
#endif
              todo = AFTER_BORROWER
           fi
       }
    :: d_step { todo == RING_FOR_PASS -> ring_bell(); todo = PASS_ON }
    :: d_step { todo == PASS_ON ->
           if
           :: LENT(x) -> ledger[x].pass = 1; todo = NONE; x = NONE
           :: else -> todo = GIVE_BACK
           fi
       }

    /* give_back 2 */
#ifdef BREAK_WRITE_THEN_MARK
    :: d_step { todo == RETURN -> pipe++; todo = MARK }
    :: d_step { todo == MARK -> ledger[x].sent = 1; todo = AFTER_RETURN }
#else
    :: d_step { todo == RETURN -> pipe++; ledger[x].sent = 1; CHECK; todo = AFTER_RETURN }
#endif

    /* give_back 3. From here on, b is the lender; `passed` if it is to be given back next. */
    :: d_step { todo == RELEASE ->
           b = ledger[x].lender;
           if
           :: X_LENT_TO(b) && !ledger[b].pass ->                                            /* a */
#ifdef BREAK_RING_OPEN_BEFORE
              ring_open(); todo = SAY_OPEN
#else
              SET_OPEN(b, ledger[x].lender_gen, ledger[b].holder); todo = SAY_OPEN; CHECK
#endif
           :: X_LENT_TO(b) && ledger[b].pass ->                                             /* b */
              passed = 1;
#ifdef BREAK_END_PASS_FIRST
              todo = END_PASS
#else
              todo = BEFORE_FINISH
#endif
           :: else -> todo = AFTER_RELEASE                                                  /* c */
           fi
       }
    :: d_step { todo == SAY_OPEN ->                                                         /* a */
#ifdef BREAK_RING_OPEN_BEFORE
           if
           :: !ledger[b].pass -> SET_OPEN(b, ledger[x].lender_gen, ledger[b].holder); todo = AFTER_RELEASE
           :: else -> passed = 1; todo = BEFORE_FINISH
           fi
#else
           ring_open(); todo = AFTER_RELEASE
#endif
       }
    /* Who was to hear of the end of the holder has heard of it by now, or never will. */
    :: d_step { todo == DISOWN_LENDER -> ledger[b].owner = NONE; todo = RING_FOR_LENDER }   /* b */
    :: d_step { todo == RING_FOR_LENDER -> ring_bell(); todo = FINISH_FOR_LENDER }          /* b */
    :: d_step { todo == FINISH_FOR_LENDER ->                                                /* b */
#ifdef BREAK_END_PASS_FIRST
           if
           :: ledger[b].holder != FREE && ledger[b].gen == ledger[x].lender_gen ->
              ledger[b].holder = me
           :: else -> b = NONE; passed = 0
           fi;
           todo = AFTER_RELEASE
#else
           assert(ledger[b].holder != FREE && ledger[b].gen == ledger[x].lender_gen);
           ledger[b].holder = me; ledger[b].launching = 0; ledger[b].nameless = 0;
           todo = END_PASS
#endif
       }
    :: d_step { todo == END_PASS ->                                                         /* b */
           SET_CLOSED(b); ledger[b].pass = 0;
#ifdef BREAK_END_PASS_FIRST
           todo = FINISH_FOR_LENDER
#else
           todo = AFTER_RELEASE
#endif
       }

    /* give_back 4 */
#ifdef BREAK_CLEAR_CURSOR_FIRST
    :: d_step { todo == CLEAR_TOKEN -> ledger[x].sent = 0; todo = CLEAR_CURSOR }
    :: d_step { todo == CLEAR_CURSOR -> ledger[x].token = 0; todo = AFTER_CURSOR }
#else
    :: d_step { todo == CLEAR_TOKEN -> ledger[x].token = 0; todo = CLEAR_CURSOR }
    :: d_step { todo == CLEAR_CURSOR -> ledger[x].sent = 0; todo = AFTER_CURSOR }
#endif
    :: d_step { todo == CLEAR_LENDER ->
           ledger[x].lender = NONE; ledger[x].lender_gen = 0; todo = LEAVE
       }
    :: d_step { todo == LEAVE ->
           ledger[x].holder = FREE; ledger[x].owner = NONE;
           x = b; b = NONE;
           todo = (x == NONE -> NONE : (passed -> GIVE_BACK : LOOK_AT_HOLDER));
           passed = 0
       }
    od
}

/* e may be what we run on. */
inline give_back(e) {
    atomic {
        x = e;
        if
        :: x == slot[me] -> runs[me] = 0; slot[me] = NONE
        :: else -> e = NONE
        fi;
        todo = (x == NONE -> NONE : GIVE_BACK)
    };
    settle()
}

/* ---- Looking for the dead ---- */

#define RECLAIMABLE(e) (DEAD(e) && ledger[e].owner != me && (!LENT(e) || DEAD(ledger[e].borrower)))
#define ANY_RECLAIMABLE \
    (RECLAIMABLE(1) || RECLAIMABLE(2) || RECLAIMABLE(3) || RECLAIMABLE(4) || RECLAIMABLE(5))

/* One entry of a look at all, when there is one that would not be left alone. Any of them: the
   order in which others are looked at, and when, is no matter. */
inline reclaim_one() {
    atomic {
        if
        :: t == NONE && RECLAIMABLE(1) -> x = 1
        :: t == NONE && RECLAIMABLE(2) -> x = 2
        :: t == NONE && RECLAIMABLE(3) -> x = 3
        :: t == NONE && RECLAIMABLE(4) -> x = 4
        :: t == NONE && RECLAIMABLE(5) -> x = 5
        fi;
        READ_HOLDER(x); todo = LOOK_AT_BORROWER
    };
    settle();
    left = 0
}

#ifdef BREAK_BORROWER_READ_EARLY
/* The same, but what we know of the borrower is older than the holder's death. */
#define LENT_BY_JOB(e) (ledger[e].holder != FREE && ledger[e].holder != me && !DEAD(e))
inline read_borrower_early() {
    atomic {
        if
        :: LENT_BY_JOB(1) -> x = 1
        :: LENT_BY_JOB(2) -> x = 2
        :: LENT_BY_JOB(3) -> x = 3
        fi;
        h = ledger[x].holder; hg = ledger[x].gen;
        if
        :: LENT(x) -> b = ledger[x].borrower; bg = ledger[x].borrower_gen; passed = ledger[x].pass
        :: else -> skip
        fi
    };
    atomic {
        if
        :: dead[h] -> todo = LOOK_AT_BORROWER
        :: !dead[h] -> x = NONE; h = 0; hg = 0; b = NONE; bg = 0; passed = 0
        fi
    };
    settle();
    left = 0
}
#endif

/* ---- Owners and jobs ---- */

/* The next process that is to be started by us. */
inline next_child() {
    n++;
    do
    :: n <= PROCESSES && owner[n] != me -> n++
    :: else -> break
    od
}

/* Start process n, to run on entry e. */
inline launch_on(e) {
#ifdef NAMES
    /* Our owner may give us our name meanwhile, and so change the word: then again. */
    hn = ledger[e].nameless;
#ifdef BREAK_LAUNCH_ONCE
    atomic {
        if
        :: ledger[e].nameless == hn -> ledger[e].owner = me; ledger[e].launching = 1
        :: else -> skip
        fi;
        hn = 0
    };
#else
    atomic { hn = 0; ledger[e].owner = me; ledger[e].launching = 1 };
#endif
#endif
    atomic {
        launch[n] = e; launch_gen[n] = ledger[e].gen;
#ifndef NAMES
        ledger[e].owner = me; ledger[e].launching = 1;
#endif
        forked[n] = 1; c = n; e = NONE; next_child();
#ifndef NAMES
        if
        :: kind[c] == JOB -> c = 0
        :: else -> skip
        fi
#endif
    };
#ifdef NAMES
    name_child()
#else
#ifdef PROGRAMS
    if
    :: c != 0 -> name_child()
    :: else -> skip
    fi
#endif
#endif
}

/* Say who holds the entry from now on. A job that adopts it has no name of its own until then; a
   command adopts nothing. Read and CAS are repeated until they succeed, and so are one step. */
#ifdef BREAK_NAME_ANY_LAUNCH
#define TO_BE_NAMED(e) true
#else
#define TO_BE_NAMED(e) (ledger[e].holder == me)     /* else the job is launching one of its own */
#endif
inline name_child() {
    if
#ifdef PROGRAMS
    :: kind[c] == COMMAND ->
#ifndef BREAK_OPENED_LATE
       open_launched();     /* as long as it is ours: later, it might be another taking of it */
#endif
       RING;
       d_step {
           if
           :: ledger[launch[c]].gen == launch_gen[c] && ledger[launch[c]].launching ->
              ledger[launch[c]].holder = c; ledger[launch[c]].launching = 0;
              if
              :: !dead[c] -> slot[c] = launch[c]; runs[c] = 1; CHECK
              :: else -> skip
              fi
           :: else -> skip
           fi
       };
#ifdef BREAK_OPENED_LATE
       open_launched();
#endif
       atomic { ring_open(); c = 0 }
#endif
#ifdef NAMES
    :: kind[c] == JOB ->
       RING;
       atomic {
           if
           :: ledger[launch[c]].gen == launch_gen[c] && ledger[launch[c]].holder != FREE &&
              ((ledger[launch[c]].launching && TO_BE_NAMED(launch[c])) ||
               (ledger[launch[c]].holder == c && ledger[launch[c]].nameless)) ->
              ledger[launch[c]].holder = c; ledger[launch[c]].nameless = 0
           :: else -> skip
           fi;
           c = 0
       }
#endif
    fi
}

inline open_launched() {
    d_step {
        if
        :: ledger[launch[c]].borrower == CLOSED -> SET_OPEN(launch[c], launch_gen[c], c)
        :: else -> skip
        fi
    }
}

#ifdef NAMES
#define BY_NAME (ledger[launch[me]].holder == me)
#else
#define BY_NAME true
#endif

/* The job's first act. A job whose entry was reclaimed leaves without running anything. (That the
   job then opens it to borrowers is part of the step: nobody is below it yet.) */
inline adopt() {
    d_step {
        if
#ifdef BREAK_ADOPT_STORES
        :: true ->
#else
        :: ledger[launch[me]].launching && ledger[launch[me]].gen == launch_gen[me] ->
#endif
           assert(!LENT(launch[me]));
           ledger[launch[me]].nameless = !BY_NAME;
           ledger[launch[me]].holder = me; ledger[launch[me]].launching = 0;
           slot[me] = launch[me];
           if
           :: ledger[slot[me]].borrower == CLOSED -> SET_OPEN(slot[me], ledger[slot[me]].gen, me)
           :: else -> skip
           fi;
           runs[me] = 1; CHECK
        :: else -> assert(dead[owner[me]])      /* a living owner's job does run */
        fi
    }
}

#define IS_JOB (me != ROOT && kind[me] == JOB)
#define MINE(j) (j <= PROCESSES && owner[j] == me && forked[j])
#define ENDED(j) (MINE(j) && kind[j] != PROGRAM && dead[j] && !told[j])
#define ALIVE(j) (MINE(j) && kind[j] != PROGRAM && !dead[j])
#define AWAITED(j) (ALIVE(j) && !result[j])
#define BELOW(j) (MINE(j) && kind[j] == PROGRAM)
#define BELOW_ALIVE(j) (BELOW(j) && !dead[j])
#define ANY(what) (what(2) || what(3) || what(4) || what(5) || what(6) || what(7))

/* Launched by us, and not adopted. (If it is not ours any more, but the job's, the job may have
   adopted it, and be launching one of its own on it.) */
#ifdef BREAK_SETTLE_ANY_LAUNCH
#define UNADOPTED(e) ledger[e].launching
#else
#define UNADOPTED(e) (ledger[e].launching && (ledger[e].holder == me || ledger[e].owner == me))
#endif

/* The owner is told of the end of a job. The entry may be its own still: the job ended before it
   could adopt. What it cannot reclaim then, it watches like any other from now on. */
#ifdef BREAK_OWNER_IGNORES_GEN
#define GIVEN_UP(e) (ledger[e].holder == j || ledger[e].holder == me)
#else
#ifdef BREAK_OWNER_FORGETS_UNADOPTED
#define GIVEN_UP(e) (ledger[e].gen == launch_gen[j] && ledger[e].holder == j)
#else
#define GIVEN_UP(e) (ledger[e].gen == launch_gen[j] && (ledger[e].holder == j || UNADOPTED(e)))
#endif
#endif

inline hear() {
    atomic {
        if
        :: t == NONE && ENDED(2) -> j = 2
        :: t == NONE && ENDED(3) -> j = 3
        :: t == NONE && ENDED(4) -> j = 4
        :: t == NONE && ENDED(5) -> j = 5
        :: t == NONE && ENDED(6) -> j = 6
        :: t == NONE && ENDED(7) -> j = 7
        fi;
        told[j] = 1;
        if
        :: GIVEN_UP(launch[j]) ->
           x = launch[j]; READ_HOLDER(x); todo = LOOK_AT_BORROWER
        :: else -> left = 1
        fi
    };
    settle();
    atomic {
        if
        :: left && ledger[launch[j]].gen == launch_gen[j] && ledger[launch[j]].holder != FREE ->
           ledger[launch[j]].owner = NONE
        :: else -> skip
        fi;
        launch[j] = NONE; launch_gen[j] = 0; j = 0; left = 0
    }
}

#ifdef RESULTS
/* The owner is told of the result of a job, which lives: by then, it must have adopted. */
#define TELLS(j) (ALIVE(j) && result[j] && !told_result[j])
inline hear_result() {
    atomic {
        if
        :: TELLS(2) -> j = 2
        :: TELLS(3) -> j = 3
        :: TELLS(4) -> j = 4
        fi;
        told_result[j] = 1;
        if
        :: ledger[launch[j]].gen == launch_gen[j] && UNADOPTED(launch[j]) ->
           x = launch[j]; READ_HOLDER(x); todo = LOOK_AT_BORROWER
        :: else -> skip
        fi
    };
    settle();
    atomic { j = 0; left = 0 }
}
#endif

#define TO_BE_WATCHED(e) \
    (ledger[e].holder != FREE && ledger[e].holder != POOL && !DEAD(e) && ledger[e].owner != me)
/* Somebody is launching a job, whose adoption may come after the bell that tells of it: whoever has
   seen that looks now and then, until it sees no more of it. */
#define LAUNCHING(e) (ledger[e].launching && ledger[e].owner != me)
#define ANY_LAUNCHING \
    (LAUNCHING(1) || LAUNCHING(2) || LAUNCHING(3) || LAUNCHING(4) || LAUNCHING(5))

inline watch_holders() {
    listens[me] = 1;
    watch[me] = (ANY_LAUNCHING -> 129 : 1);
    i = 1;
    do
    :: i <= ENTRIES && TO_BE_WATCHED(i) ->
       watch[me] = watch[me] | (1 << ledger[i].holder); i++
    :: i <= ENTRIES && !TO_BE_WATCHED(i) -> i++
    :: else -> i = 0; break
    od
}
#define WATCHED(p) (p <= PROCESSES && dead[p] && (watch[me] & (1 << p)))
#define WATCHED_DIED (WATCHED(1) || ANY(WATCHED))

/* ---- Slots to borrow ---- */

/* Does a process run on this entry, and can it be borrowed? If it is another, it may be just about
   to start a program on it. */
#define OPEN_BY(a, e) (ledger[e].holder == a && IS_OPEN(e, ledger[e].gen, a) && !ledger[e].launching)
#define RUN_BY(a, e) (ledger[e].holder == a && \
    (OPEN_BY(a, e) || (LENT(e) && !ledger[e].pass) || (a != me && ledger[e].launching)))
#define RUN_ANY(a) (a != 0 && \
    (RUN_BY(a, 1) || RUN_BY(a, 2) || RUN_BY(a, 3) || RUN_BY(a, 4) || RUN_BY(a, 5)))
#define OPEN_OF(a) (OPEN_BY(a, 1) -> 1 : (OPEN_BY(a, 2) -> 2 : \
    (OPEN_BY(a, 3) -> 3 : (OPEN_BY(a, 4) -> 4 : (OPEN_BY(a, 5) -> 5 : NONE)))))

/* The nearest process that runs on a slot, this one or one above it, lends it; or else it is the
   slot in common. A job has a slot of its own, and is lent none of a process above it. */
#define ABOVE owner[me]
#define ABOVE_THAT owner[owner[me]]
#define ABOVE_ALL owner[owner[owner[me]]]
#define COMMON_LENDER (COMMON_FREE -> COMMON_ENTRY : NONE)
#ifdef PROGRAMS
#define LENDER (kind[me] == JOB -> COMMON_LENDER : \
    (RUN_ANY(me) -> OPEN_OF(me) : (RUN_ANY(ABOVE) -> OPEN_OF(ABOVE) : \
    (RUN_ANY(ABOVE_THAT) -> OPEN_OF(ABOVE_THAT) : (RUN_ANY(ABOVE_ALL) -> OPEN_OF(ABOVE_ALL) : \
    COMMON_LENDER)))))
#else
#define LENDER NONE
#endif
#define CAN_BORROW (LENDER != NONE)

/* Nobody but processes above us runs on what we borrow. */
#define STRANGER(p) (p <= PROCESSES && runs[p] && slot[p] == l && \
    p != me && p != ABOVE && p != ABOVE_THAT && p != ABOVE_ALL)

/* Borrow entry l, in its taking lg by lp, for entry t, which we have just claimed: t becomes NONE if
   somebody was quicker, or if the holder has given it back. */
inline set_lender() {
    d_step { ledger[t].lender = l; ledger[t].lender_gen = lg }
}
#ifdef BREAK_BORROW_STORES
#define STILL_OPEN true
#else
#define STILL_OPEN IS_OPEN(l, lg, lp)
#endif
inline borrow() {
#ifndef BREAK_BORROWER_BEFORE_LENDER
    set_lender();
#endif
    if
    :: atomic { STILL_OPEN ->
           assert(!STRANGER(1) && !ANY(STRANGER));
           ledger[l].borrower = t; ledger[l].borrower_gen = ledger[t].gen; ledger[l].pass = 0;
           ledger[l].open_to = 0;
           if
           :: l == slot[me] && IS_JOB -> runs[me] = 0
           :: else -> skip
           fi;
#ifndef BREAK_BORROWER_BEFORE_LENDER
           l = NONE; lg = 0; lp = 0
#endif
       }
#ifdef BREAK_BORROWER_BEFORE_LENDER
       ; set_lender(); atomic { l = NONE; lg = 0; lp = 0 }
#endif
    :: else ->
       d_step {
           ledger[t].lender = NONE; ledger[t].lender_gen = 0;
           ledger[t].holder = FREE; ledger[t].owner = NONE; t = NONE;
           l = NONE; lg = 0; lp = 0
       }
    fi
}

/* ---- What processes do ---- */

#define OWN_OPEN (IS_JOB && slot[me] != NONE && IS_OPEN(slot[me], ledger[slot[me]].gen, me))

/* What was lent has come back, and we do not run. */
#define BACK (IS_JOB && !runs[me] && slot[me] != NONE && !LENT(slot[me]))

#define SEEN_NOTHING (!CAN_BORROW && pipe == 0 && !ANY_RECLAIMABLE)

#define WAKE watch[me] = 0; listens[me] = 0

/* Look for a slot, and sleep until there is one; look after the dead meanwhile. On return t is an
   entry to run something on, or NONE if what was lent has come back. A job that runs leaves its own
   slot to the job that t is for, and then does not run. */
inline seek() {
    do
    :: t != NONE || BACK -> break
#ifdef PROGRAMS
    :: atomic { t == NONE && CAN_BORROW -> l = LENDER; lg = ledger[l].gen; lp = ledger[l].holder; claim(t) }; borrow()
#endif
    :: atomic { t == NONE && !CAN_BORROW && pipe > 0 -> claim(t) }; read_token(t)
    :: reclaim_one()
    :: hear()
#ifdef TIMEOUT_0
    :: runs[me] && SEEN_NOTHING -> break        /* Blocked: the work is done in place */
#else
#ifndef BREAK_NO_LENDING
#ifdef HOLD
    :: atomic { runs[me] && OWN_OPEN && t == NONE && SEEN_NOTHING ->                    /* lending */
           l = slot[me]; lg = ledger[l].gen; lp = ledger[l].holder; claim(t)
       };
       borrow()
#else
    :: atomic { runs[me] && OWN_OPEN && t == NONE && SEEN_NOTHING ->
           runs[me] = 0; t = slot[me]; slot[me] = NONE;
#ifndef BREAK_HAND_OVER_OPEN
           SET_CLOSED(t)
#endif
       }
#endif
#endif
#endif
#ifdef BREAK_OWN_SLOT_MISSED
    :: else -> atomic { true -> watch_holders() };
#else
    :: atomic { else -> watch_holders() };
#endif
       if
       :: atomic { pipe > 0 -> WAKE }
       :: atomic { watch[me] == 0 -> WAKE }
       :: atomic { listens[me] == 0 -> WAKE }
       :: atomic { WATCHED_DIED -> WAKE }
       :: atomic { (watch[me] & 128) && !ANY_LAUNCHING -> WAKE }
       :: atomic { ANY(ENDED) -> WAKE }
#ifdef INTERRUPTS
       :: atomic { me != ROOT -> WAKE }; goto fn_ends
#endif
       fi
#ifdef BREAK_BORROWER_READ_EARLY
    :: read_borrower_early()
#endif
    od
}

/* What we run on is slot[me], which is open: go on. */
inline go_on() {
    atomic { runs[me] = 1; CHECK }
}

/* A job that has left its own slot to a job: go on when there is one. */
#ifdef HOLD
inline resume() {
    seek();
    if
    :: t != NONE ->
#ifndef BREAK_PASS_ON_IN_SILENCE
       RING;
#endif
       /* The CAS can fail only if it has come back meanwhile. */
#ifdef BREAK_PASS_STORES
       if
       :: !LENT(slot[me]) -> skip
       :: atomic { LENT(slot[me]) ->
              b = ledger[slot[me]].borrower; bg = ledger[slot[me]].borrower_gen };
          atomic {
              ledger[slot[me]].borrower = b; ledger[slot[me]].borrower_gen = bg;
              ledger[slot[me]].pass = 1;
              b = NONE; bg = 0; slot[me] = t; t = NONE
          }
       fi;
#else
       atomic {
           if
           :: LENT(slot[me]) -> ledger[slot[me]].pass = 1; slot[me] = t; t = NONE
           :: else -> skip
           fi
       };
#endif
       if
       :: t == NONE -> open_to_borrowers(slot[me])
       :: t != NONE -> give_back(t)
       fi
    :: t == NONE -> skip
    fi;
    go_on()
}
#else
inline resume() {
#ifdef BREAK_GO_ON_WITHOUT_SLOT
    do
    :: hear()
    :: pipe > 0 || !ANY(ALIVE) -> break
    od;
#else
    seek();
    atomic { slot[me] = t; t = NONE };
    open_to_borrowers(slot[me]);
#endif
    go_on()
}
#endif

inline submit() {
    seek();
    if
    :: t != NONE -> launch_on(t)
    :: t == NONE -> atomic { next_child() }
    fi
}

#ifdef LEAVES_YIELD
#define WAITS true          /* for something that is there at once, say */
#else
#define WAITS ANY(AWAITED)
#endif

#ifdef GIVES
/* A job that holds its slot gives it away all the same: for a job that has none to lend, say. It tells
   its owner first, who then must not keep the last. */
#define GAVE(j) (AWAITED(j) && gave[j])
#ifdef BREAK_KEEP_WHEN_TOLD
#define MUST_GIVE false
#else
#define MUST_GIVE ANY(GAVE)
#endif
inline give_away() {
    gave[me] = 1;
    if
    :: atomic { OWN_OPEN -> SET_CLOSED(slot[me]); runs[me] = 0 };
       give_back(slot[me])
    :: slot[me] != NONE && LENT(slot[me]) ->        /* to a program below: for good */
       RING;
       atomic {
           if
           :: LENT(slot[me]) -> ledger[slot[me]].pass = 1; slot[me] = NONE; runs[me] = 0
           :: else -> skip
           fi
       }
    fi
}
/* What we run on, be it here or lent. */
#define TO_GIVE (OWN_OPEN || (IS_JOB && runs[me] && slot[me] != NONE && LENT(slot[me])))
#endif

inline wait_for_results() {
#ifdef GIVES
    if
    :: ANY(AWAITED) ->
       do
       :: TO_GIVE -> give_away()
       :: !TO_GIVE -> break
       od
    :: true
    fi;
#endif
#ifdef YIELD
    if
    :: d_step { WAITS && OWN_OPEN ->
           SET_CLOSED(slot[me]); runs[me] = 0
       };
       give_back(slot[me])
    :: !WAITS || !OWN_OPEN -> skip
    fi;
#endif
    do
    :: hear()
    :: !ANY(AWAITED) -> break
#ifdef GIVES
    :: TO_GIVE && MUST_GIVE -> give_away()
#endif
    od;
#ifdef YIELD
    if
    :: slot[me] == NONE -> resume()
    :: slot[me] != NONE -> skip
    fi
#endif
#ifdef GIVES
    if
    :: slot[me] == NONE ->
       seek();
       atomic { slot[me] = t; t = NONE };
       open_to_borrowers(slot[me]);
       go_on()
    :: slot[me] != NONE -> skip
    fi
#endif
}

#define MAY_START (!IS_JOB || runs[me])

#define FORGET watch[me] = 0; listens[me] = 0; result[me] = 0; slot[me] = NONE; runs[me] = 0; \
    t = NONE; n = 0; j = 0; c = 0; l = NONE; lg = 0; lp = 0; \
    todo = NONE; x = NONE; h = 0; hg = 0; hn = 0; b = NONE; bg = 0; passed = 0; left = 0

proctype process(byte me) {
    unsigned t : 3;                 /* an entry that we have just claimed */
    unsigned n : 4;                 /* the next process to start */
    unsigned j : 4, c : 4;
    unsigned l : 3, lg : 3, lp : 4;
    byte i;
    unsigned todo : 5;              /* from here on: the registers of settle */
    unsigned x : 3, h : 4, hg : 3, b : 3, bg : 3;
    bit hn, passed, left;

end_unborn:
    {
        atomic { forked[me]; n = me; next_child() };
        if
        :: IS_JOB -> RING; adopt()
#ifdef PROGRAMS
        :: kind[me] == PROGRAM && n > PROCESSES ->      /* works itself, on what it can get */
           seek(); atomic { slot[me] = t; t = NONE; runs[me] = 1; CHECK }
#if IMPLICIT
        :: kind[me] == PROGRAM && n <= PROCESSES ->
           atomic { claim(t); slot[me] = t; t = NONE };
           open_to_borrowers(slot[me]);
           go_on()
#endif
#endif
        :: else -> skip
        fi;
        if
        :: IS_JOB && slot[me] == NONE -> skip
        :: else ->
           do
           :: atomic { MAY_START && n <= PROCESSES && kind[n] == PROGRAM -> forked[n] = 1; next_child() }
           :: IS_JOB && !runs[me] -> resume()
           :: MAY_START && n <= PROCESSES && kind[n] != PROGRAM -> submit()
           :: MAY_START && n > PROCESSES -> break
           od;
           if
#ifdef LEAVES_YIELD
           :: IS_JOB -> wait_for_results()
#else
           :: IS_JOB && ANY(MINE) -> wait_for_results()
#endif
           :: true                      /* returns at once, or is no job, and waits below */
           fi;
           if
           :: ANY(BELOW) -> !ANY(BELOW_ALIVE)
           :: true
           fi;
fn_ends:
           if
           :: kind[me] == COMMAND -> skip
           :: else -> give_back(slot[me])
           fi;
           result[me] = (kind[me] == JOB)
        fi;
        do
        :: hear()
#ifdef RESULTS
        :: hear_result()
#endif
        :: atomic { !ANY(ENDED) && !ANY(ALIVE) -> dead[me] = 1; FORGET }; break
        od
    } unless {
        atomic { kill ? eval(me) -> FORGET }
    }
}

/* make, say: takes bytes and returns them. */
proctype client() {
    byte turns = CLIENT;
    do
    :: d_step { turns > 0 && pipe > 0 -> pipe--; client_holds++; turns-- };
       d_step { client_holds--; pipe++; CHECK }
    :: atomic { turns = 0; client_left = 1 }; break
    od
}

/* SIGKILL: for any process at any moment, and for the jobs of the dead some time after that. */
#define LOST(p) (kind[p] == JOB && dead[owner[p]])
#define MORTAL(p) (p <= PROCESSES && forked[p] && !dead[p] && (kills > 0 || LOST(p)))
#define EXISTS(p) (p <= PROCESSES && forked[p] && !dead[p])

inline strike(p) {
    if
    :: LOST(p) -> skip
    :: else -> kills--
    fi;
    dead[p] = 1;
    kill ! p
}

init {
    byte p, me = PROCESSES + 1;
    byte i;
    unsigned todo : 5, x : 3, h : 4, hg : 3, b : 3, bg : 3;
    unsigned t : 3;
    bit hn, passed, left;

    atomic {
#if COMMON
        ledger[COMMON_ENTRY].holder = POOL; ledger[COMMON_ENTRY].gen = 1;
        SET_OPEN(COMMON_ENTRY, 1, POOL);
#endif
        p = 1;
        do
        :: p <= PROCESSES -> run process(p); p++
        :: else -> p = 0; break
        od;
        run client();
        forked[ROOT] = 1;
        /* Or fewer kills, lest a kill that may still come hides that nothing else can. */
        do
        :: kills > 0 -> kills--
        :: break
        od
    };
    do
    :: atomic { MORTAL(1) -> strike(1) }
    :: atomic { MORTAL(2) -> strike(2) }
    :: atomic { MORTAL(3) -> strike(3) }
    :: atomic { MORTAL(4) -> strike(4) }
    :: atomic { MORTAL(5) -> strike(5) }
    :: atomic { MORTAL(6) -> strike(6) }
    :: atomic { MORTAL(7) -> strike(7) }
    :: !EXISTS(1) && !ANY(EXISTS) && client_left -> break
    od;

    /* At rest. We are one more process of the pool, and reclaim what is left: no slot is lost. */
    do
    :: reclaim_one()
    :: else -> break
    od;
    assert(pipe == BYTES);
    p = 1;
    do
    :: p <= ENTRIES && COMMON && p == COMMON_ENTRY ->
       assert(ledger[p].holder == POOL && IS_OPEN(p, 1, POOL)); p++
    :: p <= ENTRIES && !(COMMON && p == COMMON_ENTRY) ->
       assert(ledger[p].holder == FREE && ledger[p].borrower == CLOSED); p++
    :: else -> break
    od
}
