"""A job that dies takes down one Future, its own, and that Future says how it died.

Four jobs die, each in another way, among others that do not: the four Futures tell the signal or
the exit code, the others give their results, and every slot can be used again. Nothing hangs and
nothing else breaks, which is not so in a pool that shares its workers.

Run:  python examples/ex3_death.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from jobserver import Jobserver, SubmissionDied


def die_by_signal(signum: int) -> None:
    os.kill(os.getpid(), signum)


def main(context: Any = None) -> None:
    slots = 2
    with Jobserver(context=context, slots=slots) as js:
        killed = js(die_by_signal, signal.SIGKILL)  # as the kernel does when memory is short
        first = js(pow, 2, 10)
        terminated = js(die_by_signal, signal.SIGTERM)
        left = js(os._exit, 3)  # what a C library may do
        second = js(pow, 3, 10)
        exited = js(sys.exit, 4)

        for future, signum, exitcode in (
            (killed, signal.SIGKILL, None),
            (terminated, signal.SIGTERM, None),
            (left, None, 3),
            (exited, None, 4),
        ):
            died = future.exception()
            print("told:", died)
            assert isinstance(died, SubmissionDied)
            assert died.pid == future.pid
            assert (died.signal, died.exitcode) == (signum, exitcode)

        # result() raises what exception() returns.
        try:
            killed.result()
        except SubmissionDied as died:
            assert died.signal == signal.SIGKILL
        else:
            raise AssertionError("the result of a killed job must raise")

        print("unharmed:", first.result(), second.result())
        assert (first.result(), second.result()) == (1024, 59049)

        # No slot was lost: as many jobs as ever get one.
        again = [js.submit(pow, args=(2, power), timeout=10) for power in range(2 * slots)]
        assert [future.result() for future in again] == [1, 2, 4, 8]
        print("slots still in use:", js.slots)


if __name__ == "__main__":
    main(*sys.argv[1:])
