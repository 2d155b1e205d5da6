"""From the moment that closing begins, nothing new is started: by whichever thread, in whichever
process, and however it is submitted; what runs is finished.

Not here: what is left after closing (test_close), callbacks (test_callbacks), and Ctrl-C
(test_interrupts).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import DEADLINE, children, wait_until
from holding import Hold, held
from terminals import until_asleep

from jobserver import Jobserver

CLOSED = "this Jobserver is closed"


def go_on(js: Jobserver) -> None:
    while True:
        js(int, 7).result()


def map_on(js: Jobserver) -> None:
    while True:
        list(js.map(int, [(n,) for n in range(20)], chunksize=1))


def go_on_without_slots(js: Jobserver) -> None:
    while True:
        js.submit(int, consume=0).result()


def go_on_when_let(js: Jobserver) -> None:
    while True:
        js.submit(int, sleep_fn=lambda: None).result()


class Thread(threading.Thread):
    """A daemon thread that notes by which error it ends."""

    def __init__(self, run: Callable[..., object], *args: Any) -> None:
        super().__init__(daemon=True)
        self._run_this = run
        self._arguments = args
        self.error: str | None = None

    def run(self) -> None:
        try:
            self._run_this(*self._arguments)
        except RuntimeError as e:
            self.error = str(e)

    def came_to(self) -> str | None:
        self.join(DEADLINE)
        assert not self.is_alive()
        return self.error


@pytest.mark.parametrize("tasks", [1, None])
def test_threads_that_go_on_submitting_do_not_keep_a_jobserver_open(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    begun = js(int)
    ways = [go_on, map_on, go_on_without_slots, go_on_when_let]
    threads = [Thread(way, js) for way in ways]
    for thread in threads:
        thread.start()
    begun.result()
    js.close()
    assert [thread.came_to() for thread in threads] == [CLOSED] * 4


WAITS: list[Callable[[Jobserver], object]] = [
    lambda js: js(int),
    lambda js: js.submit(int, timeout=1e6),
    lambda js: js.submit(int, sleep_fn=lambda: None),
    lambda js: js.submit(int, consume=0, sleep_fn=lambda: 1e6),
    lambda js: next(js.map(int, [()])),
]


@pytest.mark.parametrize("wait", WAITS, ids=["submit", "timed", "gated", "pause", "map"])
def test_who_waits_for_a_slot_when_closing_begins_is_told_at_once(
    make_jobserver: Callable[..., Jobserver], hold: Hold, wait: Callable[[Jobserver], object]
) -> None:
    js = make_jobserver(slots=1)
    future = js(held, hold.end)
    waiting, closing = Thread(wait, js), Thread(js.close)
    waiting.start()
    until_asleep(waiting.native_id)  # type: ignore[arg-type]
    closing.start()
    assert waiting.came_to() == CLOSED
    assert not future.done()
    for refused in WAITS:
        with pytest.raises(RuntimeError, match=CLOSED):
            refused(js)
    with pytest.raises(RuntimeError, match=CLOSED), js:
        pass
    hold.let_go()
    assert closing.came_to() is None
    assert future.result() == future.pid


def test_results_under_way_are_finished_and_no_others_begun(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(slots=2)
    results = js.map(held, [(hold.end,)] * 4, chunksize=1)
    closing = Thread(js.close)
    closing.start()
    wait_until(lambda: js._owner.here().closing)
    hold.let_go(2)
    assert len({next(results), next(results)}) == 2
    assert closing.came_to() is None
    with pytest.raises(RuntimeError, match=CLOSED):
        next(results)


def test_futures_under_way_are_finished_as_they_are_awaited(
    make_jobserver: Callable[..., Jobserver], hold: Hold
) -> None:
    js = make_jobserver(slots=2)
    futures = {js(held, hold.end), js(held, hold.end)}
    completed = js.as_completed(futures)
    closing = Thread(js.close)
    closing.start()
    wait_until(lambda: js._owner.here().closing)
    hold.let_go(2)
    assert set(completed) == futures
    assert closing.came_to() is None


def submit_below(js: Jobserver, end: Any, levels: int) -> int:
    held(end)
    return js(submit_below, js, end, levels - 1).result() + 1 if levels else 0


def test_a_job_may_submit_what_it_needs_while_its_owner_closes(js: Jobserver, hold: Hold) -> None:
    future = js(submit_below, js, hold.end, 3)
    closing = Thread(js.close)
    closing.start()
    wait_until(lambda: js._owner.here().closing)
    hold.let_go(4)
    assert closing.came_to() is None
    assert future.result() == 3


def start_threads_that_go_on(js: Jobserver) -> None:
    js.submit(int, consume=0).result()
    for way in (go_on, map_on, go_on_without_slots, go_on_when_let):
        Thread(way, js).start()


@pytest.mark.parametrize("tasks", [1, None])
def test_a_jobs_threads_that_go_on_submitting_do_not_keep_it(
    make_jobserver: Callable[..., Jobserver], tasks: int | None
) -> None:
    js = make_jobserver(max_tasks_per_child=tasks)
    before = children()
    js(start_threads_that_go_on, js).result()
    closing = Thread(js.close)
    closing.start()
    assert closing.came_to() is None
    assert children() <= before


class ClosesWhilePickled:
    """Has another thread begin to close a Jobserver, and is pickled when that has begun."""

    def __init__(self, js: Jobserver) -> None:
        self.js = js

    def __reduce__(self) -> tuple[Any, ...]:
        threading.Thread(target=self.js.close).start()
        wait_until(lambda: self.js._owner.here().closing)
        return int, ()


@pytest.mark.parametrize("method", ["forkserver", "spawn"])  # fork pickles nothing
def test_a_submission_that_is_pickled_while_closing_begins_says_so(js: Jobserver) -> None:
    with pytest.raises(RuntimeError, match=CLOSED):
        js(print, ClosesWhilePickled(js), js)


def test_closing_goes_on_in_a_thread_while_another_is_within_with(
    make_jobserver: Callable[..., Jobserver],
) -> None:
    js = make_jobserver()
    with js:
        future = js(int, 7)
        closing = Thread(js.close)
        closing.start()
        assert closing.came_to() is None
        with pytest.raises(RuntimeError, match=CLOSED):
            js(int)
    assert future.result() == 7


def test_a_forked_child_may_close_and_use_what_its_parent_uses(hold: Hold) -> None:
    with Jobserver("fork", 2) as js:
        future = js(held, hold.end)
        pid = os.fork()
        if pid == 0:
            try:
                right = js(int, 7).result() == 7
                js.close()
                os._exit(0 if right else 1)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert not future.done()
        hold.let_go()
        assert future.result() == future.pid
        assert js(int, 7).result() == 7


SCRIPT = """
import os, sys, threading, time
from jobserver import Jobserver

def go_on(js):
    try:
        while True:
            js(int, 7).result()
    except RuntimeError as e:
        os.write(1, f"{e}\\n".encode())

if __name__ == "__main__":
    method, tasks = sys.argv[1:]
    made = [Jobserver(method, 2, max_tasks_per_child=eval(tasks)) for _ in range(2)]
    begun = [js(int, 7) for js in made]
    for js in made * 2:
        threading.Thread(target=go_on, args=(js,), daemon=True).start()
    for future in begun:
        future.result()
"""


@pytest.mark.parametrize("tasks", [1, None])
def test_threads_that_go_on_submitting_do_not_keep_the_interpreter(
    tmp_path: Path, method: str, tasks: int | None
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), method, str(tasks)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert ended.returncode == 0, ended.stderr
    # Its threads may have had no time to say so.
    assert set(ended.stdout.splitlines()) <= {CLOSED}


def test_an_exit_waits_for_threads_that_submit_and_are_no_daemons(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import threading, time\n"
        "from jobserver import Jobserver\n"
        "js = Jobserver('fork', 1)\n"
        "def later():\n"
        "    time.sleep(0.2)\n"
        "    print(js(int, 7).result())\n"
        "threading.Thread(target=later).start()\n"
    )
    command = [sys.executable, str(script)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
    assert (ended.stdout, ended.returncode) == ("7\n", 0), ended.stderr
