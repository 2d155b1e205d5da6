"""The types that users see, for mypy --strict: nothing here has to run.

An `assert_type` fails where a type is lost. A `type: ignore` that is not needed is an error,
so each of them says that mypy finds the mistake in its line.
"""

from __future__ import annotations

import multiprocessing
from concurrent import futures
from typing import TYPE_CHECKING, Any

import pytest

from jobserver import Future, Jobserver, JobserverExecutor

if TYPE_CHECKING:
    from typing_extensions import assert_type


def power(base: int, exponent: int = 2, *, modulus: int | None = None) -> float:
    return pow(base, exponent, modulus)


if TYPE_CHECKING:

    def results_have_the_functions_type(js: Jobserver) -> None:
        assert_type(js(power, 2), Future[float])
        assert_type(js(power, 2, modulus=7).result(), float)
        assert_type(js.submit(power, args=(2,)), Future[float])
        assert_type(js(str).exception(), "BaseException | None")
        assert_type(js(str).when_done(print, "done"), int)
        assert_type(js.submit(power, args=(2,), output="capture").output(), str)

    def maps_have_the_functions_type(js: Jobserver) -> None:
        assert_type(next(js.map(power, [(2,), (3,)])), float)
        assert_type(list(js.map(power, kwargses=iter([{"base": 2}]))), "list[float]")
        for future in js.as_completed([js(power, 2)], timeout=1):
            assert_type(future, Future[float])

    async def what_is_awaited_has_the_functions_type(js: Jobserver) -> None:
        assert_type(await js.run(power, 2, modulus=7), float)
        assert_type(await js.asubmit(power, args=(2,)), Future[float])
        assert_type(await js(power, 2), float)
        async for result in js.map(power, [(2,), (3,)]):
            assert_type(result, float)
        async for future in js.as_completed([js(power, 2)]):
            assert_type(future, Future[float])
        await js.run(power, "2")  # type: ignore[arg-type]
        await js.run(power)  # type: ignore[call-arg]
        await js.asubmit(power, args=2)  # type: ignore[arg-type]
        await js.asubmit(power, timeout=2)  # type: ignore[call-arg]
        assert_type(js.fileno(), int)

    def executors_have_the_functions_type(executor: JobserverExecutor, js: Jobserver) -> None:
        assert_type(executor.submit(power, 2), futures.Future[float])
        assert_type(executor.submit(power, 2, modulus=7).result(), float)
        assert_type(next(executor.map(power, [2, 3], buffersize=2)), float)
        assert_type(JobserverExecutor(2, "spawn", print, ("a",)), JobserverExecutor)
        assert_type(JobserverExecutor(jobserver=js).shutdown(), None)
        taken: futures.Executor = executor
        with executor as entered:
            assert_type(entered, JobserverExecutor)
        assert taken

    def wrong_arguments_of_executors_are_found(executor: JobserverExecutor) -> None:
        executor.submit(power)  # type: ignore[call-arg]
        executor.submit(power, "2")  # type: ignore[arg-type]
        executor.submit(power, 2, modulo=7)  # type: ignore[call-arg]
        executor.map(power, 2)  # type: ignore[arg-type]
        executor.map(power, [2], chunksize="large")  # type: ignore[arg-type]
        JobserverExecutor("2")  # type: ignore[arg-type]
        JobserverExecutor(jobserver=executor)  # type: ignore[arg-type]

    def wrong_arguments_are_found(js: Jobserver) -> None:
        js(power)  # type: ignore[call-arg]
        js(power, "2")  # type: ignore[arg-type]
        js(power, 2, modulo=7)  # type: ignore[call-arg]
        js.submit(power, args=2)  # type: ignore[arg-type]
        js.submit(power, (2,))  # type: ignore[arg-type]
        js.submit(power, env={"A": 1})  # type: ignore[arg-type]
        js.submit(power, output="away")  # type: ignore[arg-type]
        js.submit(power, faulthandler=2)  # type: ignore[arg-type]
        js(power, 2).when_done(power, "2")  # type: ignore[arg-type]
        js.map(power, [2, 3])  # type: ignore[list-item]
        js.map(power, [(2,)], chunksize="large")  # type: ignore[arg-type]
        js.map(power, [(2,)], timeouts=1)  # type: ignore[arg-type]
        js.as_completed([power])  # type: ignore[arg-type]
        Jobserver(slots="2")  # type: ignore[arg-type]


def test_a_context_of_multiprocessing_can_be_given(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    with Jobserver(context, 1) as js:
        assert js.context is context
        assert js(power, 3).result() == 9


def test_the_default_context_is_that_of_multiprocessing() -> None:
    with Jobserver(slots=1) as js, Jobserver("fork", 1) as forking:
        assert js(multiprocessing.get_start_method).result() == js.context.get_start_method()
        # The default has not been fixed by our asking: it can still be chosen.
        assert forking(choose_start_method, "spawn").result() == "spawn"


def choose_start_method(method: str) -> str:
    multiprocessing.set_start_method(method, force=True)
    with Jobserver(slots=1) as js:
        return js.context.get_start_method()


@pytest.mark.parametrize(
    "context, told",
    [(2, "did you mean slots=2"), ("thread", "one of (fork|forkserver), "), (b"fork", "bytes|b'")],
)
def test_a_wrong_context_is_refused_with_what_it_can_be(context: Any, told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        Jobserver(context)
