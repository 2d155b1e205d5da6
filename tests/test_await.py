"""Jobs that tasks of an event loop await: without a thread, and while the loop goes on. Each test
runs in asyncio and in trio, by anyio."""

from __future__ import annotations

import asyncio
import contextlib
import io
import multiprocessing
import os
import select
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from conftest import DEADLINE, OWNERS_METHODS, descriptors, take_slot, wait_until
from holding import Hold, free, held

from jobserver import Blocked, CallbackRaised, Future, Jobserver, SubmissionDied

anyio: Any = pytest.importorskip("anyio")
pytest.importorskip("trio")


@pytest.fixture(params=OWNERS_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    """The loop is the owner's."""
    return str(request.param)


@pytest.fixture(params=["asyncio", "trio"])
def run_in(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a function in each kind of loop, with a deadline."""

    async def limited(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        with anyio.fail_after(DEADLINE):
            return await function(*args)

    def run(function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        return anyio.run(limited, function, *args, backend=request.param)

    return run


def double(x: int) -> int:
    return 2 * x


def fail() -> None:
    raise LookupError("on purpose")


def ends_with(code: int) -> None:
    os._exit(code)


def start_below(js: Jobserver, begun: Any, end: Any) -> None:
    """A job with a job below it, which both run until they are let go."""
    below = js(held, end)
    begun.send([os.getpid(), below.pid])
    below.result()


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Results.


def test_run_returns_what_the_function_returns(js: Jobserver, run_in: Any) -> None:
    assert run_in(js.run, double, 21) == 42


def test_run_raises_what_the_function_raises(js: Jobserver, run_in: Any) -> None:
    with pytest.raises(LookupError, match="on purpose"):
        run_in(js.run, fail)


def test_run_tells_a_death(js: Jobserver, run_in: Any) -> None:
    with pytest.raises(SubmissionDied, match="exited with code 3"):
        run_in(js.run, ends_with, 3)


def test_a_future_can_be_awaited_again_and_by_several_tasks(js: Jobserver, run_in: Any) -> None:
    async def several(hold: Hold) -> list[int]:
        future = await js.asubmit(held, args=(hold.end,))
        came = []

        async def waits() -> None:
            came.append(await future)

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(waits)
            await anyio.lowlevel.checkpoint()
            hold.let_go()
        return [*came, await future, future.result()]

    hold = Hold()
    came = run_in(several, hold)
    hold.close()
    assert len(came) == 5
    assert len(set(came)) == 1


def test_the_loop_goes_on_while_tasks_wait(js: Jobserver, hold: Hold, run_in: Any) -> None:
    async def main() -> int:
        turns = 0
        async with anyio.create_task_group() as tasks:
            for _ in range(4):  # two more than the slots
                tasks.start_soon(js.run, held, hold.end)
            while turns < 100:
                await anyio.lowlevel.checkpoint()
                turns += 1
            hold.let_go(4)
        return turns

    assert run_in(main) == 100


def test_a_thousand_tasks_can_wait(make_jobserver: Any, run_in: Any) -> None:
    js = make_jobserver(max_tasks_per_child=None)
    came = []

    async def one(n: int) -> None:
        came.append(await js.run(double, n))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for n in range(1000):
                tasks.start_soon(one, n)

    run_in(main)
    assert sorted(came) == [2 * n for n in range(1000)]


def test_awaiting_starts_no_thread(js: Jobserver, run_in: Any) -> None:
    threads = threading.active_count(), len(os.listdir("/proc/self/task"))

    async def main() -> tuple[int, int]:
        await js.run(double, 1)
        assert [each async for each in js.map(double, zip(range(5)))] == [0, 2, 4, 6, 8]
        return threading.active_count(), len(os.listdir("/proc/self/task"))

    assert run_in(main) == threads


def test_a_call_in_a_task_delivers_to_other_tasks(js: Jobserver, run_in: Any) -> None:
    async def main() -> tuple[int, int]:
        first, second = await js.asubmit(double, args=(1,)), await js.asubmit(double, args=(2,))
        came: list[int] = []

        async def waits() -> None:
            came.append(await first)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits)
            await anyio.lowlevel.checkpoint()
            while not first.done():
                first.wait(DEADLINE)  # not in the loop: it blocks
        return came[0], second.result(DEADLINE)

    assert run_in(main) == (2, 4)


def test_without_a_loop_there_is_a_clear_error(js: Jobserver) -> None:
    work = js.run(double, 1)
    with pytest.raises(RuntimeError, match="no running event loop"):
        work.send(None)


# Slots.


def test_a_submission_waits_for_a_slot_of_another_process(js: Jobserver, run_in: Any) -> None:
    taken = [take_slot(js), take_slot(js)]

    async def main() -> int:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(give_back)
            future: Future[int] = await js.asubmit(double, args=(4,))
        return await future

    async def give_back() -> None:
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        assert js._owner.native.unfinished == 0
        taken.clear()

    assert run_in(main) == 8


def test_submissions_get_slots_in_their_order(make_jobserver: Any, run_in: Any) -> None:
    js = make_jobserver(1)  # (trio resumes tasks that can go on at once in no order)
    taken = [take_slot(js)]
    order: list[int] = []

    async def one(n: int) -> None:
        future = await js.asubmit(double, args=(n,))
        order.append(n)
        await future

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for n in range(20):
                tasks.start_soon(one, n)
                await anyio.lowlevel.checkpoint()
                await anyio.lowlevel.checkpoint()
            taken.clear()

    run_in(main)
    assert order == sorted(order)


class Alarm(BaseException):
    pass


class Rings:
    def __reduce__(self) -> Any:
        signal.raise_signal(signal.SIGALRM)
        return (int, ())


def test_a_handler_that_raises_in_a_pickling_fails_that_submission_only(
    js: Jobserver, run_in: Any, method: str
) -> None:
    def ring(number: int, frame: Any) -> None:
        raise Alarm

    taken = [take_slot(js), take_slot(js)]
    before = signal.signal(signal.SIGALRM, ring)
    got: list[Any] = []

    async def one(*args: Any) -> None:
        try:
            got.append(await js.run(*args))
        except Alarm as e:
            got.append(type(e))

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for args in ([double, 1], [bool, Rings()], [double, 3]):
                tasks.start_soon(one, *args)
                for _ in range(3):
                    await anyio.lowlevel.checkpoint()
            taken.clear()

    try:
        run_in(main)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert sorted(got, key=str) == [2, 6, True if method == "fork" else Alarm]


def test_submissions_that_wait_have_no_descriptors(js: Jobserver, run_in: Any) -> None:
    taken: list[Any] = []
    count = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(js.run, len, b"x" * 200_000)  # sent as a memory file
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            count.append(len(descriptors()) - before)
            taken.clear()

    run_in(js.run, double, 1)
    before = len(descriptors())
    taken += [take_slot(js), take_slot(js)]
    run_in(main)
    assert count[0] < 25


def await_below(js: Jobserver, depth: int) -> int:
    """A job that awaits two jobs, which do the same; so deep."""
    if depth == 0:
        return 1

    async def main() -> int:
        return sum(await asyncio.gather(*[js.run(await_below, js, depth - 1) for _ in range(2)]))

    return asyncio.run(main())


@pytest.mark.parametrize("slots", [1, 2])
def test_nested_awaits_need_no_more_slots_than_there_are(
    make_jobserver: Any, slots: int, run_in: Any
) -> None:
    js = make_jobserver(slots)
    assert run_in(js.run, await_below, js, 3) == 8
    wait_until(lambda: free(js) == slots)


def test_a_gate_is_asked_until_it_lets_the_job_go(js: Jobserver, run_in: Any) -> None:
    answers = [0.01, 0.02]
    gated = js.with_options(sleep_fn=lambda: answers.pop() if answers else None)
    assert run_in(gated.run, double, 3) == 6
    assert answers == []


# Cancellation.


def test_a_cancelled_run_kills_the_job_and_all_below_it(
    js: Jobserver, hold: Hold, run_in: Any
) -> None:
    begun, jobs_end = multiprocessing.Pipe(duplex=False)

    async def main() -> Any:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(js.run, start_below, js, jobs_end, hold.end)
                while not begun.poll():
                    await anyio.lowlevel.checkpoint()
                scope.cancel()
        return begun.recv()

    pids = run_in(main)
    assert js._owner.native.unfinished == 0
    assert len(pids) == 2
    wait_until(lambda: not any(map(is_there, pids)))
    js.reclaim_resources()
    wait_until(lambda: free(js) == 2)
    begun.close()
    jobs_end.close()


def test_a_submission_that_is_cancelled_starts_no_job(js: Jobserver, run_in: Any) -> None:
    taken = [take_slot(js), take_slot(js)]

    async def main() -> None:
        with anyio.move_on_after(0.01):
            await js.run(double, 1)
            raise AssertionError("there was no slot")
        assert js._owner.native.unfinished == 0
        taken.clear()
        assert await js.run(double, 2) == 4

    run_in(main)
    wait_until(lambda: free(js) == 2)


def test_a_run_that_is_cancelled_twice_ends_with_its_job(js: Jobserver, hold: Hold) -> None:
    async def main() -> None:
        task = asyncio.ensure_future(js.run(held, hold.end))
        while not js._owner.here().unfinished:
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=DEADLINE)
        assert task.cancelled()
        assert js._owner.here().unfinished == 0

    asyncio.run(main())


@pytest.mark.parametrize("pause", [0.0, 0.0005, 0.002])
def test_no_slot_and_no_job_is_left_of_tasks_cancelled_at_any_moment(
    make_jobserver: Any, pause: float, run_in: Any
) -> None:
    js = make_jobserver(max_tasks_per_child=None)

    async def main() -> None:
        for n in range(30):
            with anyio.move_on_after(pause * (n % 5)):
                async with anyio.create_task_group() as tasks:
                    for _ in range(4):
                        tasks.start_soon(js.run, double, n)
        assert await js.run(double, 7) == 14

    run_in(main)
    assert js._owner.native.unfinished == 0
    wait_until(lambda: free(js) == 2)


# Iteration.


def test_results_of_map_come_in_their_order(js: Jobserver, run_in: Any) -> None:
    async def main() -> list[int]:
        return [each async for each in js.map(double, zip(range(200)), chunksize=7)]

    assert run_in(main) == [2 * n for n in range(200)]


def divide(a: int, b: int) -> float:
    return a / b


def test_after_the_error_of_a_call_map_goes_on(js: Jobserver, run_in: Any) -> None:
    async def main() -> list[float]:
        results = js.map(divide, [(1, 1), (1, 0), (1, 2)], chunksize=1)
        first = await results.__anext__()
        with pytest.raises(ZeroDivisionError):
            await results.__anext__()
        rest = [each async for each in results]
        return [first, *rest]

    assert run_in(main) == [1, 0.5]


def stop(kind: type[Exception]) -> None:
    raise kind


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration])
def test_a_call_that_raises_what_would_end_a_loop_does_not_end_it(
    js: Jobserver, kind: type[Exception], run_in: Any
) -> None:
    async def main() -> None:
        results = js.map(stop, [(kind,), (kind,)], chunksize=1)
        for _ in range(2):
            with pytest.raises(RuntimeError) as raised:
                await results.__anext__()
            assert isinstance(raised.value.__cause__, kind)
        assert [each async for each in results] == []

    run_in(main)


def test_a_result_of_map_that_is_late_is_told(js: Jobserver, hold: Hold, run_in: Any) -> None:
    async def main() -> int:
        results = js.map(held, [(hold.end,)], timeout=0.01)
        with pytest.raises(Blocked):
            await results.__anext__()
        hold.let_go()
        with contextlib.suppress(Blocked):
            return await results.__anext__()
        return 1

    assert run_in(main)


def map_below(js: Jobserver) -> list[int]:
    async def main() -> list[int]:
        return [each async for each in js.map(double, zip(range(6)), chunksize=1)]

    return asyncio.run(main())


def test_a_map_in_a_job_needs_no_slot_more(make_jobserver: Any, run_in: Any) -> None:
    js = make_jobserver(1)
    assert run_in(js.run, map_below, js) == [0, 2, 4, 6, 8, 10]
    wait_until(lambda: free(js) == 1)


def test_a_map_with_a_gate_asks_it(js: Jobserver, run_in: Any) -> None:
    answers = [0.01, 0.01]

    def gate() -> float | None:
        return answers.pop() if answers else None

    async def main() -> list[int]:
        results = js.map(double, zip(range(6)), chunksize=2, sleep_fn=gate)
        return [each async for each in results]

    assert run_in(main) == [0, 2, 4, 6, 8, 10]
    assert answers == []


def test_futures_come_as_their_jobs_finish(js: Jobserver, hold: Hold, run_in: Any) -> None:
    async def main() -> list[bool]:
        slow, quick = js(held, hold.end), js(double, 1)
        came = []
        async for future in js.as_completed([slow, quick]):
            came.append(future is quick)
            hold.let_go()
        return came

    assert run_in(main) == [True, False]


# Callbacks.


def test_the_error_of_a_callback_is_raised_where_its_future_is_awaited(
    js: Jobserver, hold: Hold, run_in: Any
) -> None:
    async def main() -> int:
        future = js(held, hold.end)
        future.when_done(fail)
        hold.let_go()
        with pytest.raises(CallbackRaised) as raised:
            await future
        assert isinstance(raised.value.__cause__, LookupError)
        return await future

    assert run_in(main)


def test_the_error_of_a_callback_goes_to_the_loop_if_nobody_awaits(
    js: Jobserver, hold: Hold
) -> None:
    told: list[Any] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
        first, second = js(held, hold.end), js(held, hold.end)
        first.when_done(fail)
        hold.let_go(2)
        await second
        while not told:
            await asyncio.sleep(0)
        await js.run(double, 1)

    asyncio.run(asyncio.wait_for(main(), DEADLINE))
    assert [type(each["exception"]) for each in told] == [CallbackRaised]


# Ends.


def test_nothing_is_left_of_many_loops(make_jobserver: Any, run_in: Any) -> None:
    js = make_jobserver(max_tasks_per_child=None)
    run_in(js.run, double, 1)
    before = descriptors()
    for n in range(20):
        assert run_in(js.run, double, n) == 2 * n
    assert len(descriptors()) <= len(before)
    js.close()
    left = [file for file in descriptors().values() if "eventpoll" in file or "timerfd" in file]
    assert left == []


def test_a_jobserver_can_be_closed_while_tasks_wait_for_it(
    make_jobserver: Any, run_in: Any
) -> None:
    js = make_jobserver()

    async def main() -> list[Any]:
        taken = [take_slot(js), take_slot(js)]
        came: list[Any] = []

        async def waits() -> None:
            try:
                await js.run(double, 1)
            except RuntimeError as e:
                came.append(e)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(waits)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            taken.clear()
            js._owner.begin_close()
            js.close()
        return came

    [error] = run_in(main)
    assert "closed" in str(error)


def test_a_jobserver_can_be_closed_by_another_thread(make_jobserver: Any, run_in: Any) -> None:
    js = make_jobserver()
    hold = Hold()

    async def main() -> int:
        future = await js.asubmit(held, args=(hold.end,))
        closer = threading.Thread(target=js.close)
        closer.start()
        hold.let_go()
        pid: int = await future
        while closer.is_alive():
            await anyio.lowlevel.checkpoint()
        closer.join()
        return pid

    assert run_in(main)
    hold.close()


def test_two_loops_can_await_jobs_of_one_jobserver(make_jobserver: Any, run_in: Any) -> None:
    js = make_jobserver(max_tasks_per_child=None)
    came: list[int] = []

    async def main() -> None:
        for n in range(50):
            assert await js.run(double, n) == 2 * n
            came.append(n)

    if js.context.get_start_method() == "fork":
        pytest.skip("threads and fork do not go together")
    threads = [threading.Thread(target=run_in, args=(main,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert len(came) == 150


def print_and_hold(end: Any) -> None:
    print("said", flush=True)
    os.read(end.fileno(), 1)


def test_output_is_forwarded_while_tasks_wait(js: Jobserver, hold: Hold, run_in: Any) -> None:
    out = io.StringIO()

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(js.with_options(output="forward").run, print_and_hold, hold.end)
            while "said" not in out.getvalue():
                await anyio.sleep(0.01)
            hold.let_go()

    with contextlib.redirect_stdout(out):
        run_in(main)


# The descriptor itself.


def readable(fd: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


def test_the_descriptor_is_readable_when_there_is_something_to_do(
    js: Jobserver, hold: Hold
) -> None:
    future = js(held, hold.end)
    fd = js.fileno()
    js.reclaim_resources()
    assert not readable(fd, 0)
    hold.let_go()
    assert readable(fd, DEADLINE)
    assert future.done()
    js.reclaim_resources()
    assert not readable(fd, 0)


def test_the_descriptor_is_quiet_while_nothing_happens(js: Jobserver, hold: Hold) -> None:
    js(held, hold.end)
    fd, looks = js.fileno(), 0
    js.reclaim_resources()
    # A second after the last change, the owner checks once that no descriptor has been closed.
    while readable(fd, 1.5):
        js.reclaim_resources()
        looks += 1
    assert looks <= 2


def test_the_descriptor_tells_a_death(js: Jobserver, hold: Hold) -> None:
    future = js(held, hold.end)
    fd = js.fileno()
    js.reclaim_resources()
    os.kill(future.pid, 9)
    while not future._outcome:
        assert readable(fd, DEADLINE)
        js.reclaim_resources()


def test_a_closed_jobserver_has_no_descriptor(make_jobserver: Any) -> None:
    js = make_jobserver()
    fd = js.fileno()
    js.close()
    with pytest.raises(OSError):
        os.fstat(fd)
    with pytest.raises(RuntimeError, match="closed"):
        js.fileno()
