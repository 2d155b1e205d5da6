/*
 * Waiters that need several slots, and gather them one by one.
 *
 * queue.pml has who listens and who wakes whom; here the first waiter wakes when there is a slot, and
 * a waiter wakes when it has become the first. As there, SIGKILL may fall between any two steps, a
 * step touches shared memory once, and a waiter with a lower number goes first, whenever it comes.
 * A waiter holds a part of what it needs only while it is the first. One that is not gives its part
 * back: it sees that another one goes first, or that one tells it. What a killed waiter has gathered
 * comes back as long as somebody waits (slots.pml).
 *
 * A waiter that is late, at any step, may be passed over by one behind it while a slot lies free, and
 * goes on later. It is in the queue no more then, until it comes in again.
 *
 * The search ends with an error if a waiter sleeps for ever.
 *
 * run.py sets WAITERS, NEEDS, SLOTS, KILLS, INTERRUPTS and PASSES, and perhaps one of the BREAK_...
 */

#define MOST 4

byte need[MOST] = NEEDS;

bit queued[MOST];
bit gathers[MOST];       /* its row says that it may hold a part */
bit told[MOST];
bit rang[MOST];          /* another waiter is about to take a slot */
bit dead[MOST];
byte has[MOST];
bit through[MOST];       /* it has left the queue, with its slots or without */

byte pipe = SLOTS;
byte owed;               /* slots of dead waiters */
byte kills = KILLS;
byte interrupts = INTERRUPTS;
byte passes = PASSES;    /* how often one is passed over */
byte done;               /* how many are through, or dead */
chan kill = [0] of { byte };

#define THERE(w) (queued[w] && !dead[w])

#define RING rang[0] = 1; rang[1] = 1; rang[2] = 1; rang[3] = 1

/* Whether no waiter goes before this one. Each waiter is a look of its own. */
inline look_who_is_first() {
    skip;
    w = 0;
    do
    :: d_step { w < me && !THERE(w) -> w++ }
    :: d_step { w < me && THERE(w) -> first = 0; w = 0 }; break
    :: d_step { w >= me -> first = 1; w = 0 }; break
    od
}

inline give_back() {
    do
    :: d_step { has[me] > 0 -> has[me]--; pipe++ }
    :: has[me] == 0 -> break
    od;
    gathers[me] = 0
}

/* The queue wakes the first waiter that lives, whoever was before it. */
#define FIRST ((me < 1 || !THERE(0)) && (me < 2 || !THERE(1)) && (me < 3 || !THERE(2)))

proctype waiter(byte me) {
    byte w;
    bit first;

    {
        skip;
come_in:
        queued[me] = 1;
#ifndef BREAK_TELL_NO_GATHERER
        w = me + 1;
        do
        :: d_step { w < WAITERS && !gathers[w] -> w++ }
        :: w < WAITERS && gathers[w] -> d_step { told[w] = 1; w++ }
        :: d_step { w >= WAITERS -> w = 0 }; break
        od;
#endif

look:
        gathers[me] = (need[me] > 1);
#ifndef BREAK_ALL_GATHER
        if
        :: pipe == 0 && has[me] == 0 -> first = 1   /* nothing to leave to others, it seems */
        :: pipe > 0 || has[me] > 0 -> look_who_is_first()
        fi;
        if
#ifdef BREAK_KEEP_THE_PART
        :: !first -> goto sleep
#else
        :: !first -> give_back(); goto sleep
#endif
        :: first -> skip
        fi;
#endif
        do
        :: d_step { has[me] < need[me] && pipe > 0 -> RING; pipe--; has[me]++ }
        :: has[me] < need[me] && pipe == 0 -> break
        :: has[me] == need[me] -> goto leave
        od;
        if
        :: has[me] == 0 -> gathers[me] = 0
        :: has[me] > 0 -> skip
        fi;

sleep:
        skip;
        told[me] = 0;
        if                                  /* `stand` */
        :: queued[me] -> skip
        :: !queued[me] -> goto come_in
        fi;
        rang[me] = 0;
#ifdef BREAK_SAY_IT_LATE
        gathers[me] = 0;
#endif
#if !defined(BREAK_SLEEP_WITHOUT_A_LOOK) && !defined(BREAK_ALL_GATHER) && !defined(BREAK_KEEP_THE_PART)
        look_who_is_first();
        if
        :: !first && has[me] > 0 -> give_back(); goto look
        :: first || has[me] == 0 -> skip
        fi;
#ifndef BREAK_SLEEP_OUT_OF_THE_QUEUE
        if
        :: has[me] > 0 && !queued[me] -> goto come_in
        :: has[me] == 0 || queued[me] -> skip
        fi;
#endif
#endif
#ifdef BREAK_SAY_IT_LATE
        gathers[me] = (has[me] > 0);
#endif
        if                                  /* asleep */
        :: told[me] -> goto look
        :: !queued[me] && rang[me] -> goto come_in
#ifdef BREAK_ALL_GATHER
        :: pipe > 0 -> goto look
#else
        :: FIRST && pipe > 0 -> goto look
#endif
        :: atomic { interrupts > 0 -> interrupts-- }; give_back()
        fi;

leave:
        gathers[me] = 0;
        queued[me] = 0;
        give_back();                        /* at the end of the job, if it has begun */
        d_step { through[me] = 1; done++ };
        done == WAITERS
    } unless {
        atomic { kill ? eval(me) }
    }
}

inline strike(p) {
    kills--; dead[p] = 1; done = done + !through[p];
    owed = owed + has[p]; has[p] = 0;
    kill ! p
}

/* In time of need a waiter behind it passes it over. */
#ifdef BREAK_PASS_OVER_AT_ANY_TIME
#define LATE(p) (p + 1 < WAITERS && passes > 0 && THERE(p) && (THERE((p + 1)) || THERE((WAITERS - 1))))
#else
#define LATE(p) (p + 1 < WAITERS && passes > 0 && pipe > 0 && THERE(p) && (THERE((p + 1)) || THERE((WAITERS - 1))))
#endif

#define MORTAL(p) (p < WAITERS && !dead[p] && kills > 0 && done < WAITERS)

init {
    byte p;
    atomic {
        do
        :: p < WAITERS -> run waiter(p); p++
        :: else -> p = 0; break
        od;
        /* Or fewer, lest what may still come hides that nothing else can. */
        do
        :: kills > 0 -> kills--
        :: interrupts > 0 -> interrupts--
        :: passes > 0 -> passes--
        :: break
        od
    };
    do
    :: atomic { MORTAL(0) -> strike(0) }
    :: atomic { MORTAL(1) -> strike(1) }
    :: atomic { MORTAL(2) -> strike(2) }
    :: atomic { MORTAL(3) -> strike(3) }
    :: atomic { LATE(0) -> passes--; queued[0] = 0 }
    :: atomic { LATE(1) -> passes--; queued[1] = 0 }
    :: atomic { LATE(2) -> passes--; queued[2] = 0 }
    :: atomic { owed > 0 && done < WAITERS -> owed--; pipe++ }
    :: done == WAITERS -> break
    od;
    assert(pipe + owed == SLOTS)
}
