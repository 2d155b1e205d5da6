/*
 * The slot protocol: a pipe of tokens, a ledger of who holds which slot, and loans.
 *
 * Whatever other processes do, and SIGKILL too, may fall between any two steps. A step is a
 * statement of its own, a d_step{} or an atomic{}. It touches shared memory once (one load, store,
 * CAS or system call of the protocol); what else it does is private to its process, or the model's
 * bookkeeping. The fields token, sent and lender of an entry are private to its holder as long as
 * it lives. Stores that change nothing are left out. README.md says what else is.
 *
 * run.py sets SLOTS, PROCESSES, OWNERS, KILLS, CLIENT, either HOLD or YIELD, perhaps
 * TIMEOUT_0, INTERRUPTS or LEAVES_YIELD, and, to see that flaws are found, one of the BREAK_...
 * that break the protocol.
 */

#define FREE 0      /* a holder that is nobody */
#define NONE 0      /* an entry that is none: those of the ledger are numbered from 1 */
#define ENTRIES 5   /* always enough: a claim asserts it */
#define ROOT 1      /* processes are numbered from 1 */

/* Who submits whom. The jobs of an owner have higher numbers than it. */
byte owner[PROCESSES + 1] = OWNERS;

/* A generation is one of 8 here, and one of very many in the protocol. */
typedef Entry {
    unsigned holder : 4;
    unsigned gen : 3;           /* one word with the holder */
    bit token;
    bit sent;                   /* the cursor: START or SENT */
    unsigned lender : 3;
    unsigned lender_gen : 3;
    unsigned borrower : 3;
    unsigned borrower_gen : 3;  /* one word with the borrower, and so is PASS */
    bit pass;
    unsigned owner : 4          /* who will hear of the holder's end, and does not watch for it */
};
Entry ledger[ENTRIES + 1];

byte pipe = SLOTS;              /* bytes in the pipe */
byte client_holds;              /* bytes that the foreign client has taken */
bit client_left;
byte running;                   /* jobs that run fn now */

bit forked[PROCESSES + 2];
bit dead[PROCESSES + 2];        /* exited or killed: the kernel's word, which anybody can ask for */
bit result[PROCESSES + 2];      /* a living job has sent its result */

/* What the owner of a job knows of it, and the job from its owner's memory. */
byte launch[PROCESSES + 2];     /* the entry that it was launched on */
byte launch_gen[PROCESSES + 2];
bit told[PROCESSES + 2];        /* the owner has been told of its end */

byte watch[PROCESSES + 2];      /* whom a sleeper watches: a bit for each holder, and bit 0 */

byte kills = KILLS;
chan kill = [0] of { byte };

/* ---- What must hold at every moment ---- */

#define HOLDS(e) (ledger[e].token && !ledger[e].sent)
#define HELD (HOLDS(1) + HOLDS(2) + HOLDS(3) + HOLDS(4) + HOLDS(5))
#define CHECK assert(pipe + client_holds + HELD <= SLOTS && pipe + client_holds + running <= SLOTS)

/* ---- take ---- */

/* Always the first free entry, so that each is used anew as soon as it can be. */
inline claim(e) {
    e = 1;
    do
    :: e <= ENTRIES && ledger[e].holder != FREE -> e++
    :: else -> break
    od;
    assert(e <= ENTRIES);
    assert(!ledger[e].token && !ledger[e].sent && !ledger[e].lender && !ledger[e].borrower);
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
#define LOOK_AT_BORROWER 1      /* reclaim: x, whose holder (h, hg) is known to be dead */
#define LOOK_AT_ITS_HOLDER 2
#define TAKE_OVER 3
#define GIVE_BACK 4             /* give_back: x, which is ours */
#define PASS_ON 5
#define RETURN 6
#define MARK 7
#define RELEASE 8
#define LOOK_AT_LENDER 9
#define FINISH_FOR_LENDER 10
#define END_PASS 11
#define CLEAR_TOKEN 12
#define CLEAR_CURSOR 13
#define CLEAR_LENDER 14
#define LEAVE 15
#define RING_FOR_X 16           /* and then take it over */
#define RING_FOR_LENDER 17      /* and then finish for it */

#define AFTER_BORROWER (HOLDS(x) -> RETURN : AFTER_RETURN)
#define AFTER_RETURN (ledger[x].lender -> RELEASE : AFTER_RELEASE)
#define AFTER_RELEASE (ledger[x].token -> CLEAR_TOKEN : AFTER_TOKEN)
#define AFTER_TOKEN (ledger[x].sent -> CLEAR_CURSOR : AFTER_CURSOR)
#define AFTER_CURSOR (ledger[x].lender -> CLEAR_LENDER : LEAVE)

/* Of an entry whose job has ended, and which somebody else is to give back: its owner watches it
   like any other from now on. */
#define DISOWN(e) if :: ledger[e].owner == me -> ledger[e].owner = NONE :: else -> skip fi

#define X_LENT_TO(e) (ledger[e].borrower == x && ledger[e].borrower_gen == ledger[x].gen)

inline settle() {
    do
    :: todo == NONE -> break

    /* reclaim 2: the borrower is read only now, since a living holder may still set PASS. */
    :: d_step { todo == LOOK_AT_BORROWER ->
#ifndef BREAK_BORROWER_READ_EARLY
           b = ledger[x].borrower; bg = ledger[x].borrower_gen; passed = ledger[x].pass;
#endif
           todo = (b == NONE -> RING_FOR_X : LOOK_AT_ITS_HOLDER);
#ifdef BREAK_NO_LOOK_AT_BORROWER
           todo = TAKE_OVER
#endif
       }

    /* reclaim 2 and 3: while the borrower lives, the entry is left to it. If it is dead it is
       reclaimed first, and that leads on to this entry, by 3a or 3b of give_back. */
    :: d_step { todo == LOOK_AT_ITS_HOLDER ->
           if
#ifdef BREAK_TAKE_OVER_PASSED
           :: passed -> todo = TAKE_OVER
#endif
           :: ledger[b].holder != FREE && ledger[b].gen == bg && dead[ledger[b].holder] ->
              x = b; h = ledger[b].holder; hg = bg; todo = LOOK_AT_BORROWER
           :: else -> DISOWN(x); todo = NONE; x = NONE; h = 0; hg = 0
           fi;
           b = NONE; bg = 0; passed = 0
       }

    /* reclaim 4 */
    :: d_step { todo == TAKE_OVER ->
           if
           :: ledger[x].holder == h && ledger[x].gen == hg ->
              ledger[x].holder = me; todo = GIVE_BACK
           :: else -> DISOWN(x); todo = NONE; x = NONE
           fi;
#ifdef BREAK_NO_LOOK_AT_BORROWER
           if
           :: todo == GIVE_BACK -> todo = AFTER_BORROWER
           :: else -> skip
           fi;
#endif
           h = 0; hg = 0; b = NONE; bg = 0; passed = 0
       }

    /* give_back 1: the CAS of PASS can fail only because the borrower is 0 by now. */
    :: d_step { todo == GIVE_BACK ->
           todo = (ledger[x].borrower == NONE -> AFTER_BORROWER : PASS_ON)
       }
    :: d_step { todo == PASS_ON ->
           if
           :: ledger[x].borrower != NONE -> ledger[x].pass = 1; todo = NONE; x = NONE
           :: else -> todo = AFTER_BORROWER
           fi
       }

    /* give_back 2 */
#ifdef BREAK_WRITE_THEN_MARK
    :: d_step { todo == RETURN -> pipe++; todo = MARK }
    :: d_step { todo == MARK -> ledger[x].sent = 1; todo = AFTER_RETURN }
#else
    :: d_step { todo == RETURN -> pipe++; ledger[x].sent = 1; CHECK; todo = AFTER_RETURN }
#endif

    /* give_back 3. From here on, b is the lender if it is to be reclaimed or given back next. */
    :: d_step { todo == RELEASE ->
           b = ledger[x].lender;
           if
           :: X_LENT_TO(b) && !ledger[b].pass ->                                            /* a */
              ledger[b].borrower = NONE; ledger[b].borrower_gen = 0; todo = LOOK_AT_LENDER
           :: X_LENT_TO(b) && ledger[b].pass ->                                             /* b */
#ifdef BREAK_END_PASS_FIRST
              todo = END_PASS
#else
              todo = RING_FOR_LENDER
#endif
           :: else -> b = NONE; todo = AFTER_RELEASE                                        /* c */
           fi
       }
    :: d_step { todo == LOOK_AT_LENDER ->                                                   /* a */
           h = ledger[b].holder; hg = ledger[b].gen;
           if
           :: h != FREE && hg == ledger[x].lender_gen && dead[h] -> skip
           :: else -> b = NONE; h = 0; hg = 0
           fi;
           todo = AFTER_RELEASE
       }
    :: d_step { todo == FINISH_FOR_LENDER ->                                                /* b */
           if
           :: ledger[b].holder != FREE && ledger[b].gen == ledger[x].lender_gen ->
              ledger[b].holder = me; todo = END_PASS
           :: else -> b = NONE; todo = AFTER_RELEASE
           fi;
#ifdef BREAK_END_PASS_FIRST
           todo = AFTER_RELEASE
#endif
       }
    :: d_step { todo == END_PASS ->                                                         /* b */
           ledger[b].borrower = NONE; ledger[b].borrower_gen = 0; ledger[b].pass = 0;
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
           todo = (x == NONE -> NONE : (h == 0 -> GIVE_BACK : LOOK_AT_BORROWER))
       }

    :: d_step { todo == RING_FOR_X -> ring_bell(); todo = TAKE_OVER }
    :: d_step { todo == RING_FOR_LENDER -> ring_bell(); todo = FINISH_FOR_LENDER }
    od
}

inline give_back(e) {
    atomic {
        running = running - runs; runs = 0; lent = 0;
        x = e; e = NONE; todo = (x == NONE -> NONE : GIVE_BACK)
    };
    settle()
}

/* ---- Looking for the dead ---- */

#define DEAD(e) (ledger[e].holder != FREE && dead[ledger[e].holder])
#define RECLAIMABLE(e) (DEAD(e) && ledger[e].owner != me && (ledger[e].borrower == NONE || DEAD(ledger[e].borrower)))

/* One entry of a look at all, when there is one that would not be left alone. Any of them: the
   order in which others are looked at, and when, is no matter. */
inline reclaim_one() {
    atomic {
        if
        :: RECLAIMABLE(1) -> x = 1
        :: RECLAIMABLE(2) -> x = 2
        :: RECLAIMABLE(3) -> x = 3
        :: RECLAIMABLE(4) -> x = 4
        :: RECLAIMABLE(5) -> x = 5
        fi;
        h = ledger[x].holder; hg = ledger[x].gen; todo = LOOK_AT_BORROWER
    };
    settle()
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
        b = ledger[x].borrower; bg = ledger[x].borrower_gen; passed = ledger[x].pass
    };
    atomic {
        if
        :: dead[h] -> todo = LOOK_AT_BORROWER
        :: !dead[h] -> x = NONE; h = 0; hg = 0; b = NONE; bg = 0; passed = 0
        fi
    };
    settle()
}
#endif

/* ---- Owners and jobs ---- */

/* The next job of ours that is to be submitted. */
inline next_job() {
    n++;
    do
    :: n <= PROCESSES && owner[n] != me -> n++
    :: else -> break
    od
}

/* Fork job n, to run on entry e. */
inline launch_on(e) {
    atomic {
        launch[n] = e; launch_gen[n] = ledger[e].gen; ledger[e].owner = me; forked[n] = 1;
        e = NONE; next_job()
    }
}

/* The job's first act. A job whose entry was reclaimed leaves without running anything. */
inline adopt() {
    d_step {
        if
#ifdef BREAK_ADOPT_STORES
        :: true ->
#else
        :: ledger[launch[me]].holder == owner[me] && ledger[launch[me]].gen == launch_gen[me] ->
#endif
           ledger[launch[me]].holder = me; slot = launch[me];
           runs = 1; running++; CHECK
        :: else -> assert(dead[owner[me]])      /* a living owner's job does run */
        fi
    }
}

#define MINE(j) (j <= PROCESSES && owner[j] == me && forked[j])
#define ENDED(j) (MINE(j) && dead[j] && !told[j])
#define ALIVE(j) (MINE(j) && !dead[j])
#define AWAITED(j) (ALIVE(j) && !result[j])
#define ANY(what) (what(2) || what(3) || what(4) || what(5) || what(6) || what(7))

/* The owner is told of the end of a job. The entry may be its own still: the job ended before it
   could adopt. It is tried again after a loan of it has been reclaimed, unless that led to it. */
#ifdef BREAK_OWNER_IGNORES_GEN
#define GIVEN_UP(e) (ledger[e].holder == j || ledger[e].holder == me)
#else
#ifdef BREAK_OWNER_FORGETS_UNADOPTED
#define GIVEN_UP(e) (ledger[e].gen == launch_gen[j] && ledger[e].holder == j)
#else
#define GIVEN_UP(e) (ledger[e].gen == launch_gen[j] && (ledger[e].holder == j || ledger[e].holder == me))
#endif
#endif
#define STILL_TO_GIVE_BACK(e) (GIVEN_UP(e) && ledger[e].owner == me)

inline hear() {
    atomic {
        if
        :: ENDED(2) -> j = 2
        :: ENDED(3) -> j = 3
        :: ENDED(4) -> j = 4
        :: ENDED(5) -> j = 5
        :: ENDED(6) -> j = 6
        :: ENDED(7) -> j = 7
        fi;
        told[j] = 1
    };
    do
    :: atomic { STILL_TO_GIVE_BACK(launch[j]) ->
           x = launch[j]; h = ledger[x].holder; hg = ledger[x].gen; todo = LOOK_AT_BORROWER
       };
       settle()
    :: atomic { else ->
           if
           :: ledger[launch[j]].gen == launch_gen[j] && ledger[launch[j]].holder != FREE ->
              DISOWN(launch[j])
           :: else -> skip
           fi;
           launch[j] = NONE; launch_gen[j] = 0; j = 0
       };
       break
    od
}

inline watch_holders() {
    watch[me] = 1;
    i = 1;
    do
    :: i <= ENTRIES && ledger[i].holder != FREE && !dead[ledger[i].holder] && ledger[i].owner != me ->
       watch[me] = watch[me] | (1 << ledger[i].holder); i++
    :: i <= ENTRIES &&
       (ledger[i].holder == FREE || dead[ledger[i].holder] || ledger[i].owner == me) -> i++
    :: else -> i = 0; break
    od
}
#define WATCHED(p) (p <= PROCESSES && dead[p] && (watch[me] & (1 << p)))
#define WATCHED_DIED (WATCHED(1) || ANY(WATCHED))

/* Sleep until there is a slot, and look after the dead meanwhile. On return t is an entry with a
   token, or NONE if what was lent has come back. */
inline sleep_for_slot() {
    do
    :: t != NONE -> break
    :: t == NONE ->
       if
       :: atomic { pipe > 0 -> claim(t) }; read_token(t)
       :: reclaim_one()
       :: hear()
       :: lent && ledger[slot].borrower == NONE -> break
       :: atomic { else -> watch_holders() };
          if
          :: pipe > 0
          :: watch[me] == 0
          :: WATCHED_DIED
          :: ANY(ENDED)
          :: lent && ledger[slot].borrower == NONE
#ifdef INTERRUPTS
          :: me != ROOT -> watch[me] = 0; goto fn_ends
#endif
          fi;
          watch[me] = 0
#ifdef BREAK_BORROWER_READ_EARLY
       :: read_borrower_early()
#endif
       fi
    od
}

inline go_on() {
    runs = 1; running++; lent = 0; CHECK
}

/* The pool is empty, and we run on a slot: job n is to run instead of us. */
#ifdef HOLD
inline make_way() {
    atomic { claim(t) };                                                            /* lending 1 */
#ifndef BREAK_BORROWER_BEFORE_LENDER
    d_step { ledger[t].lender = slot; ledger[t].lender_gen = ledger[slot].gen };
#endif
    d_step {                                                                        /* lending 2 */
        ledger[slot].borrower = t; ledger[slot].borrower_gen = ledger[t].gen;
        running--; runs = 0; lent = 1
    };
#ifdef BREAK_BORROWER_BEFORE_LENDER
    d_step { ledger[t].lender = slot; ledger[t].lender_gen = ledger[slot].gen };
#endif
    launch_on(t);                                                                   /* lending 3 */
    sleep_for_slot();                                                               /* lending 4 */
    if
    :: t != NONE ->
       /* As in give_back 1, the CAS can fail only because the borrower is 0 by now. */
#ifdef BREAK_PASS_STORES
       if
       :: ledger[slot].borrower == NONE -> skip
       :: atomic { ledger[slot].borrower != NONE ->
              b = ledger[slot].borrower; bg = ledger[slot].borrower_gen };
          atomic {
              ledger[slot].borrower = b; ledger[slot].borrower_gen = bg; ledger[slot].pass = 1;
              b = NONE; bg = 0; slot = t; t = NONE
          }
       fi;
#else
       atomic {
           if
           :: ledger[slot].borrower != NONE -> ledger[slot].pass = 1; slot = t; t = NONE
           :: else -> skip
           fi
       };
#endif
       give_back(t)
    :: t == NONE -> skip
    fi;
    atomic { go_on() }
}
#else
inline make_way() {
    atomic { running--; runs = 0; t = slot; slot = NONE };
    launch_on(t);
    regain_slot()
}

inline regain_slot() {
#ifdef BREAK_GO_ON_WITHOUT_SLOT
    do
    :: hear()
    :: pipe > 0 || !ANY(ALIVE) -> break
    od;
    atomic { go_on() }
#else
    sleep_for_slot();
    atomic { slot = t; t = NONE; go_on() }
#endif
}
#endif

inline submit() {
    atomic { claim(t) };
    read_token(t);
    do
    :: t != NONE -> launch_on(t); break
    :: t == NONE ->
       if
       :: reclaim_one(); atomic { claim(t) }; read_token(t)
#ifdef TIMEOUT_0
       :: else -> atomic { next_job() }; break      /* Blocked: the work is done in place */
#else
#ifdef BREAK_NO_LENDING
       :: else -> sleep_for_slot()
#else
       :: else ->
          if
          :: me == ROOT -> sleep_for_slot()
          :: me != ROOT -> make_way(); break
          fi
#endif
#endif
       fi
    od
}

inline wait_for_results() {
#ifdef YIELD
#ifdef LEAVES_YIELD
    give_back(slot);            /* for something that is there at once, say */
#else
    if
    :: ANY(AWAITED) -> give_back(slot)
    :: else -> skip
    fi;
#endif
#endif
    do
    :: hear()
    :: !ANY(AWAITED) -> break
    od;
#ifdef YIELD
    if
    :: slot == NONE -> regain_slot()
    :: slot != NONE -> skip
    fi
#endif
}

#define FORGET watch[me] = 0; result[me] = 0; \
    slot = NONE; t = NONE; n = 0; j = 0; lent = 0; runs = 0; \
    todo = NONE; x = NONE; h = 0; hg = 0; b = NONE; bg = 0; passed = 0

proctype process(byte me) {
    unsigned slot : 3;              /* the entry that we run on */
    unsigned t : 3;                 /* an entry that we have just claimed */
    unsigned n : 4;                 /* the next job to submit */
    unsigned j : 4;
    byte i;
    bit runs, lent;
    unsigned todo : 5;              /* from here on: the registers of settle */
    unsigned x : 3, h : 4, hg : 3, b : 3, bg : 3;
    bit passed;

end_unborn:
    {
        atomic { forked[me]; n = me; next_job() };
        if
        :: me != ROOT -> RING; adopt()
        :: me == ROOT -> skip
        fi;
        if
        :: me != ROOT && slot == NONE -> skip
        :: else ->
           do
           :: n <= PROCESSES -> submit()
           :: n > PROCESSES -> break
           od;
           if
#ifdef LEAVES_YIELD
           :: me != ROOT -> wait_for_results()
#else
           :: me != ROOT && ANY(MINE) -> wait_for_results()
#endif
           :: true                      /* returns at once, or is the root, which waits below */
           fi;
fn_ends:
           give_back(slot);
           result[me] = 1
        fi;
        do
        :: hear()
        :: atomic { !ANY(ENDED) && !ANY(ALIVE) -> dead[me] = 1; FORGET }; break
        od
    } unless {
        atomic { kill ? eval(me) -> running = running - runs; FORGET }
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
#define MORTAL(p) (p <= PROCESSES && forked[p] && !dead[p] && (kills > 0 || dead[owner[p]]))
#define EXISTS(p) (p <= PROCESSES && forked[p] && !dead[p])

inline strike(p) {
    if
    :: dead[owner[p]] -> skip
    :: else -> kills--
    fi;
    dead[p] = 1;
    kill ! p
}

init {
    byte p, me = PROCESSES + 1;
    byte i;
    unsigned todo : 5, x : 3, h : 4, hg : 3, b : 3, bg : 3;
    bit passed;

    atomic {
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
    assert(pipe == SLOTS);
    p = 1;
    do
    :: p <= ENTRIES -> assert(ledger[p].holder == FREE); p++
    :: else -> break
    od
}
