/*
 * The order of the waiters, over many takings: nobody starves.
 *
 * queue.pml has each waiter take one slot. Here each comes back as often as it likes, so that those
 * with lower numbers, which go first, could keep the others from the slots for ever. The rule: a
 * waiter that PATIENCE takings have passed over goes before all others, and of several such waiters
 * the one that was passed over most. A waiter decides whether it goes first in one step, and takes a
 * slot in a later one: others may do the same meanwhile. A foreign client takes slots by no rule. A
 * waiter may be killed, and one may be stopped; the others go before that one after a grace.
 *
 * What is checked: no waiter is passed over by more than BOUND takings of other waiters while it runs,
 * and no state is a dead end. run.py sets WAITERS, SLOTS, CLIENT, KILLS and STOPS, and perhaps
 * BREAK_NO_PATIENCE or BREAK_PATIENCE_ANEW.
 */

#define MOST 4
#define PATIENCE 3

/*
 * When its patience ends, each of the others may be past its own, and go before; and each may have
 * decided just before that. Each may also decide while this one is stopped.
 */
#define BOUND (PATIENCE + (2 + STOPS) * (WAITERS - 1))

bit queued[MOST];
bit halted[MOST];
bit dead[MOST];
byte passed[MOST];              /* how many takings have passed it over, as the rule counts them */
byte waited[MOST];              /* and as they are */

byte pipe = SLOTS;
byte kills = KILLS;
byte stops = STOPS;

/* Whether a goes before b. */
#ifdef BREAK_NO_PATIENCE
#define BEFORE(a, b) (a < b)
#else
#define IS_PATIENT(a) (passed[a] < PATIENCE)
#define BEFORE(a, b) ((IS_PATIENT(a) && IS_PATIENT(b) && a < b) || \
                      (!IS_PATIENT(a) && (passed[a] > passed[b] || (passed[a] == passed[b] && a < b))))
#endif
#define GOES_BEFORE(a, b) (a < WAITERS && a != b && queued[a] && !dead[a] && !halted[a] && BEFORE(a, b))
#define GOES_FIRST(b) (!GOES_BEFORE(0, b) && !GOES_BEFORE(1, b) && !GOES_BEFORE(2, b) && !GOES_BEFORE(3, b))

inline count_taking(me) {
    w = 0;
    do
    :: w < WAITERS && w != me && queued[w] && !dead[w] && !halted[w] ->
           passed[w]++;
           waited[w]++;
           assert(waited[w] <= BOUND);
           w++
    :: w < WAITERS && !(w != me && queued[w] && !dead[w] && !halted[w]) -> w++
    :: else -> break
    od;
    w = 0
}

proctype waiter(byte me) {
    byte w;
    do
    :: dead[me] -> break
    :: else ->
       if
       :: d_step { !dead[me] -> queued[me] = 1; passed[me] = 0; waited[me] = 0 }
       :: dead[me] -> break
       fi;
look:
       if
       :: dead[me] -> break
       :: atomic { !dead[me] && stops > 0 -> stops--; halted[me] = 1 };
          halted[me] = 0;
          goto look
#ifdef BREAK_PATIENCE_ANEW
       :: !dead[me] -> passed[me] = 0; goto look
#endif
       :: !dead[me] && pipe > 0 && GOES_FIRST(me) -> skip
       fi;
       if
       :: dead[me] -> break
       :: d_step { !dead[me] && pipe > 0 -> pipe--; queued[me] = 0; count_taking(me) }
       :: !dead[me] && pipe == 0 -> goto look
       fi;
       pipe++                           /* also if it is dead: somebody reclaims the slot */
    od
}

proctype client() {
    do
    :: atomic { pipe > 0 -> pipe-- }; pipe++
    od
}

init {
    byte p;
    atomic {
        do
        :: p < WAITERS -> run waiter(p); p++
        :: else -> p = 0; break
        od;
        if
        :: CLIENT -> run client()
        :: else -> skip
        fi
    };
    do
    :: atomic { kills > 0 && p < WAITERS -> kills--; dead[p] = 1; p = 0 }
    :: atomic { kills > 0 && p < WAITERS - 1 -> p++ }
    :: break
    od
}
