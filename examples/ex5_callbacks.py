"""Callbacks: told when a job is done, in the thread that looks, errors one at a time.

There is no background thread to run callbacks: any call into the library that sees a job's end
runs them, in the order of registration, before it returns. When a callback raises, that call
raises CallbackRaised, with the callback's number and the cause; the next call goes on with the
callbacks that remain. So no error is lost, and none hides another.

Run:  python examples/ex5_callbacks.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import sys
from typing import Any

from jobserver import CallbackRaised, Jobserver


def complain(about: str) -> None:
    raise ValueError(about)


def main(context: Any = None) -> None:
    seen: list[str] = []
    with Jobserver(context=context, slots=2) as js:
        future = js(pow, 2, 10)
        # when_done() takes the callback and its arguments, and gives the callback's number.
        numbers = [
            future.when_done(seen.append, "first"),
            future.when_done(complain, "the printer is on fire"),
            future.when_done(seen.append, "second"),
            future.when_done(complain, "the printer is gone"),
            future.when_done(seen.append, "third"),
        ]
        assert numbers == [0, 1, 2, 3, 4]
        assert seen == []  # the job may well have ended, but no call has looked yet

        for seqno, before in ((1, ["first"]), (3, ["first", "second"])):
            try:
                future.wait()
            except CallbackRaised as raised:
                print(f"callback {raised.seqno} raised: {raised.__cause__}; so far: {seen}")
                assert raised.seqno == seqno and seen == before
                assert isinstance(raised.__cause__, ValueError)
            else:
                raise AssertionError("each callback's error must be told")

        # The third call meets no further error, runs what is left and answers.
        assert future.wait()
        assert seen == ["first", "second", "third"]
        # A callback's error is none of the job's.
        print(f"all callbacks have run: {seen}; the job's result: {future.result()}")
        assert future.result() == 1024

        # The job's end has been seen already: a callback registered now runs at once.
        assert future.when_done(seen.append, "late") == 5
        assert seen[-1] == "late"


if __name__ == "__main__":
    main(*sys.argv[1:])
