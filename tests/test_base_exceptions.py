"""SystemExit, GeneratorExit, KeyboardInterrupt and StopIteration, raised by what travels: they are
told like any other error, and end neither owner nor job. Ctrl-C itself stays what it is.

Not here: those that a job's function raises (test_results, test_deaths) and signals at any other
moment (test_interrupts).
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest
from conftest import DEADLINE, settle
from holding import free

from jobserver import Jobserver

KINDS = ["SystemExit(7)", "GeneratorExit()", "KeyboardInterrupt()", "StopIteration(7)"]


@pytest.fixture(params=[1, None], ids=["fresh", "warm"])
def js(request: pytest.FixtureRequest, make_jobserver: Callable[..., Jobserver]) -> Jobserver:
    return make_jobserver(slots=2, max_tasks_per_child=request.param)


@pytest.fixture(autouse=True)
def every_slot_is_left(js: Jobserver) -> Iterator[None]:
    yield
    settle(js)
    assert free(js) == 2


def load(what: str) -> NoReturn:
    raise eval(what)


class RaisesWhenLoaded:
    def __init__(self, what: str) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        return load, (self.what,)


class RaisesWhenSet(RaisesWhenLoaded):
    def __reduce__(self) -> Any:
        return object.__new__, (type(self),), {"what": self.what}

    def __setstate__(self, state: Any) -> None:
        load(state["what"])


class RaisesInC(RaisesWhenLoaded):
    """In a frame that is nobody's module."""

    def __reduce__(self) -> Any:
        return exec, (f"raise {self.what}",)


class RaisesWhenPickled(RaisesWhenLoaded):
    def __reduce__(self) -> Any:
        load(self.what)


class LoadsBadly(Exception):
    def __reduce__(self) -> Any:
        return load, self.args


class PicklesBadly(Exception):
    def __reduce__(self) -> Any:
        load(self.args[0])


class LoadsBadlyInTheOwner(Exception):
    def __reduce__(self) -> Any:
        return load_unless_in, (os.getpid(), *self.args)


def load_unless_in(pid: int, what: str) -> Exception:
    if os.getpid() == pid:
        return ValueError("here it can be loaded")
    load(what)


class SaysBadly(Exception):
    def __str__(self) -> str:
        load(self.args[0])

    __repr__ = __str__


def make(kind: Callable[[str], Any], what: str) -> Any:
    return kind(what)


def throw(kind: Callable[[str], BaseException], what: str) -> NoReturn:
    raise kind(what)


def ignore(it: Any) -> str:
    return "called"


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("kind", [RaisesWhenLoaded, RaisesWhenSet, RaisesInC])
def test_a_result_that_cannot_be_loaded_is_an_error_on_its_future(
    js: Jobserver, kind: Any, what: str
) -> None:
    error = js(make, kind, what).exception(DEADLINE)
    assert type(error) is pickle.UnpicklingError
    assert f"cannot be unpickled here: {what.partition('(')[0]}" in str(error)
    assert type(error.__cause__).__name__ == what.partition("(")[0]


@pytest.mark.parametrize("what", KINDS)
def test_a_result_that_cannot_be_pickled_is_an_error_on_its_future(
    js: Jobserver, what: str
) -> None:
    error = js(make, RaisesWhenPickled, what).exception(DEADLINE)
    assert type(error) is pickle.PicklingError
    assert what.partition("(")[0] in str(error)


@pytest.mark.parametrize("what", KINDS)
def test_an_argument_that_cannot_be_loaded_is_an_error_on_its_future(
    js: Jobserver, what: str, method: str
) -> None:
    for kind in (RaisesWhenLoaded, RaisesWhenSet, RaisesInC):
        future = js(ignore, kind(what))
        if method == "fork" and js._owner.options.max_tasks == 1:  # where nothing is loaded
            assert future.result(DEADLINE) == "called"
            continue
        error = future.exception(DEADLINE)
        assert type(error) is pickle.UnpicklingError
        told = f"the job could not load what it was to run: {what.partition('(')[0]}"
        assert told in str(error)


def load_only_in(pid: int) -> str:
    if os.getpid() != pid:
        raise ImportError("this is not for loading")
    return "loaded"


class NotLoadable:
    def __reduce__(self) -> Any:
        return load_only_in, (os.getpid(),)


@pytest.mark.parametrize("method", ["fork"])
def test_an_argument_that_a_process_which_stays_cannot_load_is_told_as_under_other_methods(
    js: Jobserver,
) -> None:
    future = js(ignore, NotLoadable())
    if js._owner.options.max_tasks == 1:
        assert future.result(DEADLINE) == "called"
        return
    error = future.exception(DEADLINE)
    assert type(error) is pickle.UnpicklingError
    assert "could not load what it was to run: ImportError: this is not for" in str(error)


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("method", ["forkserver"])
def test_an_argument_that_cannot_be_pickled_is_refused(js: Jobserver, what: str) -> None:
    with pytest.raises(pickle.PicklingError, match=what.partition("(")[0]):
        js(ignore, RaisesWhenPickled(what))


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("kind", [LoadsBadly, PicklesBadly, LoadsBadlyInTheOwner])
def test_an_exception_that_does_not_survive_the_journey_is_told_in_words(
    js: Jobserver, kind: Any, what: str
) -> None:
    error = js(throw, kind, what).exception(DEADLINE)
    assert isinstance(error, pickle.PickleError)
    assert f"the job raised test_base_exceptions.{kind.__name__}: {what}" in str(error)
    assert "in throw" in str(error.__cause__)


@pytest.mark.parametrize("what", KINDS)
def test_an_exception_that_cannot_say_what_it_is_arrives(js: Jobserver, what: str) -> None:
    error = js(throw, SaysBadly, what).exception(DEADLINE)
    assert type(error) is SaysBadly
    assert error.args == (what,)


@pytest.mark.parametrize("what", KINDS)
def test_a_call_of_map_has_its_own_error_and_the_others_their_results(
    js: Jobserver, what: str
) -> None:
    told: list[Any] = []
    kinds: list[Any] = [int, RaisesWhenLoaded, RaisesWhenPickled, RaisesWhenSet, int]
    results = js.map(make, [(kind, "7" if kind is int else what) for kind in kinds], chunksize=3)
    for _ in kinds:
        try:
            told.append(next(results))
        except pickle.PickleError as e:
            told.append(type(e).__name__)
    errors = ["UnpicklingError", "PicklingError", "UnpicklingError"]
    assert told == [7, *errors, 7]
    assert list(results) == []


def test_stop_iteration_of_a_call_of_map_does_not_end_its_results(js: Jobserver) -> None:
    results = js.map(next, [(iter([n] if n != 2 else []),) for n in range(5)], chunksize=2)
    told: list[Any] = []
    for _ in range(5):
        try:
            told.append(next(results))
        except RuntimeError as e:
            told.append(type(e.__cause__))
    assert told == [0, 1, StopIteration, 3, 4]
    assert list(results) == []


def test_stop_iteration_of_a_gate_of_map_does_not_end_its_results(js: Jobserver) -> None:
    answers = iter([None, None])
    results = js.map(abs, [(n,) for n in range(4)], sleep_fn=lambda: next(answers), chunksize=1)
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(results)
    results.close()


class TakesLong:
    """To load, in the owner."""

    def __init__(self, owner: int) -> None:
        self.owner = owner

    def __reduce__(self) -> Any:
        return take_long, (self.owner,)


def take_long(owner: int) -> None:
    if os.getpid() == owner:
        threading.Thread(target=os.kill, args=(owner, signal.SIGINT)).start()
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            pass


@pytest.mark.parametrize("what", ["result", "exception"])
def test_ctrl_c_while_a_result_is_loaded_leaves_the_call_as_it_is(js: Jobserver, what: str) -> None:
    future = js(TakesLong, os.getpid())
    with pytest.raises(KeyboardInterrupt):
        getattr(future, what)()
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join(DEADLINE)
