"""Callbacks: told when a job is done, in the thread that looks, errors one at a time.

There is no background thread to run callbacks: any call into the library that sees a job's end
runs them, in the order of registration, before it returns. When a callback raises, that call
raises CallbackRaised, with the callback's number and the cause; the next call goes on with the
callbacks that remain. So no error is lost, and none hides another.

Run:  python examples/ex5_callbacks.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import multiprocessing
import sys
from multiprocessing.connection import Connection
from typing import List, Optional

from jobserver import CallbackRaised, Jobserver


def reply(connection: Connection) -> str:
    """Wait for a word on the connection: the job ends when its owner says so."""
    return f"heard {connection.recv()}"


def complain(about: str) -> None:
    raise ValueError(about)


def main(context: Optional[str] = None) -> None:
    ours, theirs = multiprocessing.Pipe()
    seen: List[str] = []
    with Jobserver(context=context, slots=2) as js:
        future = js(reply, theirs)
        # when_done() takes the callback and its arguments, and gives the callback's number.
        numbers = [
            future.when_done(seen.append, "first"),
            future.when_done(complain, "the printer is on fire"),
            future.when_done(seen.append, "second"),
            future.when_done(complain, "the printer is gone"),
            future.when_done(seen.append, "third"),
        ]
        assert numbers == [0, 1, 2, 3, 4]
        assert not future.done() and seen == []  # nothing runs before the job's end
        ours.send("go")

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
        # The callbacks' errors are no errors of the job.
        print(f"all callbacks have run: {seen}; the job's result: {future.result()!r}")
        assert future.result() == "heard go"


if __name__ == "__main__":
    main(*sys.argv[1:])
