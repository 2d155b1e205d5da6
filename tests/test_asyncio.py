"""Awaiting jobs in event loops: what tasks, loops and slots must survive."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import time
from typing import Any

import pytest

from jobserver import Blocked, CallbackRaised, Jobserver

#: For each whole test, in seconds: most take less than one.
DEADLINE = 20


def run(main: Any) -> Any:
    async def limited() -> Any:
        return await asyncio.wait_for(main, DEADLINE)

    return asyncio.run(limited())


def same(value: Any = None) -> Any:
    return value


def work(seconds: Any) -> Any:
    time.sleep(seconds)


def read(fd: Any) -> Any:
    return os.read(fd, 1)


class Held:
    """A job that runs until `release`."""

    def __init__(self, js: Any) -> None:
        self._ends = os.pipe()
        self.job = js.submit(read, args=self._ends[:1])

    def release(self) -> None:
        os.write(self._ends[1], b"x")

    def close(self) -> None:
        for end in self._ends:
            os.close(end)


@pytest.fixture
def js() -> Any:
    with Jobserver("fork", 1) as made:
        yield made


@pytest.fixture
def held(js: Any) -> Any:
    held = Held(js)
    yield held
    held.release()
    held.job.wait(DEADLINE)
    held.close()


async def turns() -> None:
    """Lets other tasks run until each of them waits."""
    for _ in range(5):
        await asyncio.sleep(0)


def cpu() -> Any:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def test_several_submissions_with_gates_all_start(js: Any, held: Any) -> None:
    asked = []

    async def main() -> Any:
        waiting = [js.asubmit(same, args=(i,), sleep_fn=lambda: asked.append(1)) for i in range(3)]
        tasks = [asyncio.ensure_future(each) for each in waiting]
        await turns()
        held.release()
        return [await (await task) for task in tasks]

    assert run(main()) == [0, 1, 2]
    assert len(asked) >= 3


def test_a_job_without_a_slot_waits_for_nobody(js: Any, held: Any) -> None:
    async def main() -> Any:
        waits = asyncio.ensure_future(js.run(same, "later"))
        await turns()
        gated = await js.asubmit(same, args=("gated",), consume=0, sleep_fn=lambda: None)
        plain = await js.asubmit(same, args=("plain",), consume=0)
        assert (await gated, await plain) == ("gated", "plain")
        assert not waits.done()
        held.release()
        return await waits

    assert run(main()) == "later"


def test_to_wait_for_several_slots_costs_no_cpu_time_while_one_is_free() -> None:
    with Jobserver("fork", 2) as js:
        held = Held(js)

        async def main() -> Any:
            several = asyncio.ensure_future(js.asubmit(same, args=(5,), consume=2))
            await turns()
            before = cpu()
            await asyncio.sleep(1)  # a busy loop would take most of it
            taken = cpu() - before
            held.release()
            assert await (await several) == 5
            return taken

        assert run(main()) < 0.3
        held.close()


def awaits(js: Any, fn: Any, consume: Any) -> Any:
    async def main() -> Any:
        return await (await js.asubmit(fn, args=(js,), consume=consume))

    return run(main())


def submits_plainly(js: Any) -> Any:
    return js.submit(same, args=(3,)).result()


def awaits_plainly(js: Any) -> Any:
    async def main() -> Any:
        return await js.run(same, 3)

    return run(main())


def three(js: Any) -> Any:
    return 3


@pytest.mark.parametrize("waiting", ["hold", "yield"])
@pytest.mark.parametrize("fn", [submits_plainly, awaits_plainly])
@pytest.mark.parametrize("consume", [0, 1])
def test_nested_jobs_that_await_end_on_one_slot(waiting: Any, fn: Any, consume: Any) -> None:
    with Jobserver("fork", 1, waiting=waiting) as js:
        job = js.submit(awaits, args=(js, fn, consume), time_limit=DEADLINE)
        assert job.result() == 3


def test_a_job_that_awaits_a_job_of_all_slots_gives_its_own_away() -> None:
    with Jobserver("fork", 2) as js:
        assert js.submit(awaits, args=(js, three, 2), time_limit=DEADLINE).result() == 3


def asks_gate(js: Any) -> Any:
    asked = []

    async def main() -> Any:
        return await (await js.asubmit(same, args=(1,), sleep_fn=lambda: asked.append(1)))

    return run(main()), len(asked)


def test_a_job_of_several_slots_asks_the_gate_too() -> None:
    with Jobserver("fork", 2) as js:
        assert js.submit(asks_gate, args=(js,), consume=2).result() == (1, 1)


def test_each_error_of_callbacks_is_told_once(js: Any, held: Any) -> None:
    def fail(number: Any) -> Any:
        raise ValueError(number)

    async def main() -> Any:
        told = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: told.append(context["exception"]))
        for number in range(3):
            held.job.when_done(fail, number)
        held_task = asyncio.ensure_future(until(held.job))
        await turns()
        held.release()
        with pytest.raises(CallbackRaised) as raised:
            await held_task
        assert await held.job == b"x"
        return [error.__cause__.args[0] for error in [raised.value, *told]]

    assert run(main()) == [0, 1, 2]


async def until(future: Any) -> Any:
    return await future


@pytest.mark.parametrize("waits", ["for a job", "for a slot"])
def test_a_loop_that_was_closed_while_tasks_waited_is_in_nobodys_way(waits: Any) -> None:
    js = Jobserver("fork", 1)
    held = Held(js)
    loop = asyncio.new_event_loop()

    async def begin() -> Any:
        waiting = until(held.job) if waits == "for a job" else js.asubmit(same)
        task: Any = asyncio.ensure_future(waiting)
        task._log_destroy_pending = False
        await turns()
        return task

    task = loop.run_until_complete(begin())
    loop.close()
    held.release()
    assert run(js.run(same, 4)) == 4
    js.close()
    held.close()
    del task


def test_a_callback_may_close_the_jobserver(js: Any, held: Any) -> None:
    errors = []

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: errors.append(context))
        held.job.when_done(js.close)
        # The first one may get the held job's slot before the callback runs.
        first, second = [asyncio.ensure_future(js.run(same)) for _ in range(2)]
        task = asyncio.ensure_future(until(held.job))
        await turns()
        held.release()
        assert await task == b"x"
        with pytest.raises(RuntimeError, match="closed"):
            await second
        with contextlib.suppress(RuntimeError):
            await first

    run(main())
    assert errors == []


def test_as_completed_goes_on_in_another_loop() -> None:
    with Jobserver("fork", 2) as js:
        first, second = Held(js), Held(js)
        results = js.as_completed([first.job, second.job])

        async def following(held: Any) -> Any:
            task = asyncio.ensure_future(results.__anext__())
            await turns()
            held.release()
            return await task

        assert run(following(first)) is first.job
        assert run(following(second)) is second.job
        first.close()
        second.close()


def test_a_map_whose_task_is_cancelled_holds_no_slot(js: Any, held: Any) -> None:
    async def main() -> Any:
        results = js.map(work, [(0.1,), (0.1,)], chunksize=1)
        task = asyncio.ensure_future(results.__anext__())
        await turns()
        # It is cancelled when the next chunk has its slot, and before the task goes on.
        loop = asyncio.get_running_loop()
        held.job.when_done(lambda: loop.call_soon(task.cancel))
        held.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        try:
            assert js.submit(same, args=(5,), timeout=5).result() == 5
        except Blocked:
            pytest.fail("the slot is lost")
        return [result async for result in results]

    assert run(main()) == [None, None]


def test_a_jobserver_that_is_dropped_is_freed_while_the_loop_runs() -> None:
    async def use() -> Any:
        return await Jobserver("fork", 1).run(same, 1)

    async def main() -> Any:
        counts = []
        for _ in range(3):
            for _ in range(5):
                await use()
            gc.collect()
            await turns()
            # CPython 3.8 frees in the second what a finalizer was called for in the first.
            gc.collect()
            counts.append(len(os.listdir("/proc/self/fd")))
        assert counts[-1] <= counts[0] + 5

    run(main())


def test_a_coroutine_of_run_that_is_closed_ends_its_job(js: Any) -> None:
    async def main() -> Any:
        coroutine = js.run(work, DEADLINE)
        coroutine.send(None)
        coroutine.close()
        before = time.monotonic()
        assert await js.run(same, 1) == 1
        assert time.monotonic() - before < DEADLINE / 2

    run(main())


def awaits_in_asyncio(js: Any) -> Any:
    return run(js.run(same, 5))


def test_a_job_that_trio_has_forked_may_use_asyncio() -> None:
    trio = pytest.importorskip("trio")

    async def main() -> Any:
        with Jobserver("fork", 2) as js, trio.fail_after(DEADLINE):
            return await js.run(awaits_in_asyncio, js)

    assert trio.run(main) == 5


def test_trio_survives_a_close_at_once_and_an_exit_in_a_callback() -> None:
    trio = pytest.importorskip("trio")

    def leave() -> Any:
        raise SystemExit(3)

    async def main() -> Any:
        with Jobserver("fork", 1) as js:
            job = await js.asubmit(same, args=(1,))
        await trio.sleep(0)
        with Jobserver("fork", 1) as js, trio.fail_after(DEADLINE):
            late = await js.asubmit(work, args=(0.2,))
            late.when_done(leave)
            with pytest.raises(SystemExit):
                await late
        return job.result()

    assert trio.run(main) == 1
