"""JobserverExecutor: the interface of concurrent.futures, on the slots of a jobserver.

A program for ProcessPoolExecutor needs another name only. What it gains: executors that its calls
make share the slots, and a call whose process dies takes down nothing but its own Future.

Run:  python examples/ex10_executor.py [fork | forkserver | spawn]
"""

from __future__ import annotations

import os
import signal
import sys
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from jobserver import Jobserver, JobserverExecutor, TimeLimitExceeded


def count_words(text: str) -> int:
    return len(text.split())


def count_all(texts: list[str]) -> int:
    """A call that makes an executor: without a number, it shares the slots of its own pool."""
    with JobserverExecutor() as executor:
        return sum(executor.map(count_words, texts))


def crash() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def loop() -> None:
    while True:
        pass


def main(context: Any = None) -> None:
    texts = ["to be or not to be", "that is the question", "whether"]

    with JobserverExecutor(max_workers=2, mp_context=context) as executor:
        futures = {executor.submit(count_words, text): text for text in texts}
        for future in as_completed(futures):
            print(f"{future.result()} words: {futures[future]}")

        nested = [executor.submit(count_all, texts) for _ in range(3)]
        assert [future.result() for future in nested] == [11, 11, 11]
        print("three calls with executors of their own, on two slots:", nested[0].result())

        died = executor.submit(crash)
        try:
            died.result()
        except BrokenProcessPool as error:  # which it is, for programs that expect it
            print("one call died:", error)
        assert executor.submit(count_words, "still here").result() == 2

    # Options for all calls: those of a Jobserver, which the executor shares.
    with Jobserver(context=context, slots=2, max_tasks_per_child=None) as js:
        with JobserverExecutor(jobserver=js.with_options(time_limit=0.2)) as executor:
            late = executor.submit(loop).exception()
            assert isinstance(late, TimeLimitExceeded)
            print("one took too long:", late)


if __name__ == "__main__":
    main(*sys.argv[1:])
