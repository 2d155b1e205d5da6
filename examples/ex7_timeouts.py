"""Timeouts: how long to wait for a slot, and how long for a job.

Every timeout is in seconds; None waits for ever, 0 does not wait. submit() and result() raise
Blocked when the time is over, done() and wait() answer False. None of them stops the job: a job
that has become unwelcome is sent a signal.

Run:  python examples/ex7_timeouts.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

from jobserver import Blocked, Jobserver, SubmissionDied


def main(context: Any = None) -> None:
    with Jobserver(context=context, slots=1) as js:
        # One slot, held by a job that would take a minute.
        long = js(time.sleep, 60)

        for timeout in (0, 0.05):
            start = time.monotonic()
            try:
                js.submit(pow, args=(2, 5), timeout=timeout)
            except Blocked as blocked:
                print(f"no slot within {timeout} s: {blocked}")
                assert time.monotonic() - start >= timeout
            else:
                raise AssertionError("the only slot is held")

        assert not long.done()  # done() just looks: its timeout is 0
        assert not long.wait(timeout=0.05)
        try:
            long.result(timeout=0.05)
        except Blocked as blocked:
            print(f"no result within 0.05 s: {blocked}")
        else:
            raise AssertionError("the job cannot have a result yet")

        # Enough: send a signal, wait for the end. The slot is free for the next job.
        assert long.wait(timeout=10, signal=signal.SIGTERM)
        assert long.done()
        died = long.exception()
        assert isinstance(died, SubmissionDied) and died.signal == signal.SIGTERM
        print("ended early:", died)

        short = js.submit(pow, args=(2, 5), timeout=10)
        assert short.result(timeout=10) == 32
        print("the next job had its slot:", short.result())


if __name__ == "__main__":
    main(*sys.argv[1:])
