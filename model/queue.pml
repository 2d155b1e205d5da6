/*
 * The queue of waiters: who listens for slots, and who wakes whom.
 *
 * slots.pml has the slots; here there are only as many as are free. As there, SIGKILL may fall
 * between any two steps, and a step touches shared memory once. A waiter with a lower number goes
 * first, whenever it comes. A waiter that does not listen sleeps until it is told, or until the one
 * before it is dead. The slot of a dead holder comes back only if somebody listens, who notices.
 *
 * The search ends with an error if a waiter sleeps for ever. A waiter that listens may be stopped:
 * then another one passes it over, after a grace in reality, and it goes on later, or never. A waiter
 * that is not stopped is not passed over here, because that would hide such errors.
 *
 * run.py sets WAITERS, LISTENERS, SLOTS, KILLS, INTERRUPTS and STOPS, perhaps OPEN, if another
 * process has the fifos open already (a fork of one that used the row before), and perhaps one of
 * the BREAK_...
 */

#define MOST 4

bit queued[MOST];        /* these three are one word */
bit listens[MOST];
bit entering[MOST];

bit open[MOST];          /* it has its fifo open, and so can be told */
bit told[MOST];
bit dead[MOST];
bit holds[MOST];

bit halted[MOST];
bit through[MOST];          /* it has left the queue, with or without a slot */

byte pipe = SLOTS;
byte owed;                  /* slots of dead holders */
byte kills = KILLS;
byte interrupts = INTERRUPTS;
byte stops = STOPS;
byte done;                  /* how many are through, or dead, or stopped for ever */
chan kill = [0] of { byte };

#define TELL(w) told[w] = open[w]

/*
 * Who is behind that place, and how many are not, is read one after the other, and only then is
 * anybody told: those who are to listen and do not; and the next one, if it does not listen, and
 * further ones until one of them will see to the rest (`again`).
 */
inline tell_behind(place) {
    w = 0;
    do
    :: d_step { w <= place && queued[w] -> before++; w++ }
    :: d_step { w <= place && !queued[w] -> w++ }
    :: d_step { w > place && w < WAITERS -> seen[w] = queued[w]; seen_listens[w] = listens[w];
                seen_entering[w] = entering[w]; w++ }
    :: w >= WAITERS -> break
    od;
    w = place + 1; again = 1;
    do
    :: w >= WAITERS -> break
    :: w < WAITERS && !seen[w] -> w++
    :: d_step { w < WAITERS && seen[w] && seen_listens[w] -> again = 0; before++; w++ }
    /* It may be dead. But then the one behind it watches it, because it told that one. */
#ifdef BREAK_STOP_AT_ENTERING
    :: d_step { w < WAITERS && seen[w] && !seen_listens[w] && (again || before < LISTENERS) ->
           TELL(w); again = 0; before++; w++ }
#else
    :: d_step { w < WAITERS && seen[w] && !seen_listens[w] && (again || before < LISTENERS) ->
           TELL(w); again = again && (seen_entering[w] || !open[w]); before++; w++ }
#endif
    :: w < WAITERS && seen[w] && !seen_listens[w] && !again && before >= LISTENERS -> break
    od;
    again = 0;
    skip;
    d_step {
        w = 0;
        do
        :: w < WAITERS -> seen[w] = 0; seen_listens[w] = 0; seen_entering[w] = 0; w++
        :: else -> break
        od;
        w = 0; before = 0
    }
}

/*
 * How many are before; the last of them; and the first, if all before are those who listen,
 * otherwise the last again.
 */
inline count_before() {
    w = 0; before = 0; last = 0; first = 0;
    do
    :: d_step { w < me && queued[w] ->
           before++; last = w; first = (before == 1 || before > LISTENERS -> w : first); w++ }
    :: d_step { w < me && !queued[w] -> w++ }
    :: w >= me -> break
    od;
    w = 0
}

proctype waiter(byte me) {
    byte w, f, before, last, first;
    bit again, seen[MOST], seen_listens[MOST], seen_entering[MOST];

    {
        skip;
come_in:
        skip;
#ifdef BREAK_ENTER_THEN_TELL
        queued[me] = 1;
        tell_behind(me);
#else
        d_step { queued[me] = 1; entering[me] = 1; listens[me] = 0 };
#ifndef BREAK_ENTER_IN_SILENCE
        tell_behind(me);
#endif
        entering[me] = 0;                   /* also if it has been passed over */
#endif

look:
#ifndef BREAK_DRAIN_LATE
        told[me] = 0;
#endif
        count_before();
        if
        :: before < LISTENERS ->
           if
           :: d_step { queued[me] -> listens[me] = 1; before = 0; last = 0; first = 0 };
              goto listen
           :: !queued[me] -> goto come_in
           fi
        :: else -> skip
        fi;
        if
        :: !queued[me] -> goto come_in
        :: queued[me] -> skip
        fi;
#ifndef BREAK_LISTEN_NO_MORE_LATE
        listens[me] = 0;
        count_before();
#endif
        if
        :: before < LISTENERS -> goto look
        :: before >= LISTENERS && !open[me] -> open[me] = 1; goto look
        :: else -> skip
        fi;
#ifdef BREAK_LISTEN_NO_MORE_LATE
        listens[me] = 0;
#endif
#ifdef BREAK_DRAIN_LATE
        told[me] = 0;
#endif
        if                                  /* both are watched from now on */
        :: d_step { dead[last] -> queued[last] = 0 }; goto look
        :: d_step { dead[first] -> queued[first] = 0 }; goto look
        :: !dead[last] && !dead[first] -> skip
        fi;
#ifndef BREAK_SLEEP_BEHIND_THE_GONE
        if
        :: queued[last] && queued[first] -> skip
        :: !queued[last] || !queued[first] -> goto look
        fi;
#endif
        if                                  /* asleep */
        :: d_step { told[me] || dead[last] || dead[first] -> before = 0; last = 0; first = 0 };
           goto look
        :: atomic { stops > 0 -> stops--; halted[me] = 1; through[me] = 1; done++ };
           if
           :: done == WAITERS -> skip
           :: atomic { !queued[me] && done < WAITERS ->
                  halted[me] = 0; through[me] = 0; done-- }; goto look
           fi;
           goto gone
        :: atomic { interrupts > 0 -> interrupts--; before = 0; last = 0; first = 0 }; goto leave
        fi;

listen:
        if                                  /* asleep */
        :: pipe > 0 -> skip
        :: atomic { stops > 0 -> stops--; halted[me] = 1; through[me] = 1; done++ };
           if
           :: done == WAITERS -> skip
           :: atomic { !queued[me] && done < WAITERS ->
                  halted[me] = 0; through[me] = 0; done-- }; goto look
           fi;
           goto gone
        :: atomic { interrupts > 0 -> interrupts-- }; goto leave
        fi;
        count_before();
        if
        :: before == 0 ->
           if
           :: atomic { pipe > 0 -> pipe--; holds[me] = 1 }
           :: pipe == 0 -> goto look
           fi
        :: before > 0 ->                    /* another goes first, and is awake, or must be woken */
           w = 0;
           do
           :: w < me && !queued[w] -> w++
           :: else -> break
           od;
           if
           :: w < me ->
              if
              :: d_step { dead[w] -> queued[w] = 0 }
#ifndef BREAK_PASS_NOBODY_OVER
              :: d_step { halted[w] && queued[w] -> queued[w] = 0; listens[w] = 0; f = w };
                 tell_behind(f);
                 f = 0
#endif
              :: pipe == 0 || !queued[w] -> skip
              fi
           :: else -> skip
           fi;
           w = 0;
           goto look
        fi;

leave:
        skip;
#ifdef BREAK_TELL_THEN_LEAVE
        tell_behind(me);
        d_step { queued[me] = 0; listens[me] = 0 };
#else
        d_step { queued[me] = 0; listens[me] = 0 };
        tell_behind(me);
#endif
        if
        :: atomic { holds[me] -> holds[me] = 0; pipe++ }
        :: !holds[me] -> skip
        fi;
        d_step { through[me] = 1; done++ };
        done == WAITERS;                    /* it lives on until all are through */
gone:   skip
    } unless {
        atomic { kill ? eval(me) }
    }
}

inline strike(p) {
    kills--; dead[p] = 1; done = done + !through[p];
    owed = owed + holds[p]; holds[p] = 0;
    kill ! p
}

#define MORTAL(p) (p < WAITERS && !dead[p] && kills > 0 && done < WAITERS)
#define HEARS(p) (p < WAITERS && queued[p] && listens[p] && !dead[p])

init {
    byte p;
    atomic {
        do
#ifdef OPEN
        :: p < WAITERS -> open[p] = 1; run waiter(p); p++
#else
        :: p < WAITERS -> run waiter(p); p++
#endif
        :: else -> p = 0; break
        od;
        /* Or fewer, lest what may still come hides that nothing else can. */
        do
        :: kills > 0 -> kills--
        :: interrupts > 0 -> interrupts--
        :: stops > 0 -> stops--
        :: break
        od
    };
    do
    :: atomic { MORTAL(0) -> strike(0) }
    :: atomic { MORTAL(1) -> strike(1) }
    :: atomic { MORTAL(2) -> strike(2) }
    :: atomic { MORTAL(3) -> strike(3) }
    :: atomic { owed > 0 && (HEARS(0) || HEARS(1) || HEARS(2) || HEARS(3)) -> owed--; pipe++ }
    :: done == WAITERS -> break
    od;
    assert(pipe + owed == SLOTS)
}
