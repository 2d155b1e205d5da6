"""Pickling: objects to a message between owner and job, and back.

A small message is bytes. A large one is a memory file, with the large buffers of its objects (for
example NumPy arrays) beside the pickle and not inside it (PEP 574). One message can hold several
objects, which are loaded one after the other.

If the system can map it, a memory file is received as a mapping (MemoryMap), and a very large
buffer as a view of the mapping, which lives as long as such a view. So a large array is copied
once, by its sender into the file. On other systems the file itself is received, and is read.

multiprocessing's reducers are used, so its connections, locks and queues can be arguments. If
pickle refuses an object, cloudpickle is tried if it is installed (`by_value.py`). pickle comes
first because it is several times faster and refers to functions by name.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import sys
import types
from collections import Counter
from typing import Any, Callable, List, Mapping, Sequence

from .. import _main, _native, _wording
from .. import _multiprocessing as mp
from .._exceptions import OwnersOnly
from .._signals import raised_by_handler
from . import by_value
from .segments import Payload, Received, segments_of, to_memory

#: Smaller buffers, in bytes, cost less inside the pickle.
_LARGE = 16 * 1024
Buffers = List[pickle.PickleBuffer]
#: How objects of some types are reduced for pickle.
Reducers = Mapping[type, Callable[[Any], Any]]


class Passed:
    """Stands for a descriptor in a pickle: its index among the descriptors that are sent with the
    message."""

    def __init__(self, index: int) -> None:
        self.index = index

    def detach(self) -> int:
        """In the job: the descriptor, as a new duplicate, because its user will close it."""
        return received.duplicate(self.index)


class Descriptors:
    """Collects the descriptors that an object needs while it is pickled.

    It stands for multiprocessing's Popen, which multiprocessing's reducers call. So the reducers
    pass and get exactly the objects that they expect.
    """

    DupFd = Passed

    #: How errors name what is pickled, and whether they say what is at fault, which takes long.
    what = "the function or an argument"
    explains = True

    def __init__(self, starter: Any = None, progress: _native.Progress | None = None) -> None:
        """For a process of this starter. The descriptor of `progress` comes first."""
        self.starter = starter
        self._progress = progress
        self.refused: OSError | None = None
        self.begin()

    def begin(self) -> None:
        """Drops the descriptors that have been collected."""
        self.held = _native.Descriptors(self._progress)

    def duplicate_for_child(self, fd: int) -> int:
        try:
            return self.held.add(fd)
        except OSError as e:
            self.refused = e
            raise


#: In a job: the descriptors that came with its launch.
received = _native.Descriptors()


#: The reducers of multiprocessing's locks, after its module has been imported.
_of_locks: dict[type, Callable[[Any], Any]] = {}


def _reduce_lock(lock: Any) -> Any:
    """Refuses a fork context's lock. CPython before 3.11 pickles its address, as if the process had
    its memory."""
    if lock._semlock.name is None:
        raise RuntimeError(
            "a lock of multiprocessing's fork context cannot be sent to a job: make it, or "
            "the queue or event that it belongs to, by the Jobserver's `context`"
        )
    return lock.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def _reducers() -> dict[type, Callable[[Any], Any]]:
    """multiprocessing's reducers, and `_reduce_lock` for its locks."""
    module = sys.modules.get("multiprocessing.synchronize")
    if module is not None and not _of_locks:
        for name in ("Lock", "RLock", "Semaphore", "BoundedSemaphore"):
            _of_locks[getattr(module, name)] = _reduce_lock
    return {**mp.reduction.ForkingPickler._extra_reducers, **_of_locks}


def dump(outcome: Any) -> Payload:
    """A job's outcome as a message. Raises PicklingError, with advice, if it cannot be pickled."""
    return _dump_each([outcome], by_value.OUTCOME)


def dump_plain(value: Any) -> Payload:
    """One object that needs none of multiprocessing's reducers, by the quickest pickling."""
    stream = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return stream if len(stream) <= _native.INLINE else to_memory([memoryview(stream)])


def _dump_each(objects: Sequence[Any], purpose: int) -> Payload:
    """Several objects as one message, with multiprocessing's reducers."""
    stream, buffers = _pickle_somehow(objects, True, purpose)
    if not buffers and len(stream) <= _native.INLINE:
        return bytes(stream)
    return to_memory([stream, *(buffer.raw() for buffer in buffers)])


def dump_to_file(value: Any) -> _native.MemoryFile:
    """One object as a memory file, however small it is."""
    stream, buffers = _pickle_somehow([apart(value)], True, by_value.OTHER)
    return to_memory([stream, *(buffer.raw() for buffer in buffers)])


def apart(value: Any) -> Any:
    """Large bytes, or a large bytearray, as a buffer that is sent beside the pickle and loaded as
    its original type; any other value unchanged. For values that no other object refers to."""
    if type(value) in (bytes, bytearray) and len(value) > _native.INLINE:
        return pickle.PickleBuffer(value)
    return value


#: Types whose objects refer to no other object.
_ATOMS = frozenset({type(None), bool, int, float, str, bytes, bytearray})


def arguments_apart(
    args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], Mapping[str, Any] | None]:
    """The same for a function's arguments. An object that is passed twice must arrive as one
    object, so it stays in the pickle. So does a bytearray if another argument may refer to it."""
    values = (*args, *(kwargs or {}).values())
    if not any(apart(value) is not value for value in values):
        return args, kwargs
    times = Counter(map(id, values))
    alone = all(type(value) in _ATOMS for value in values)

    def one(value: Any) -> Any:
        once = times[id(value)] == 1 and (alone or type(value) is bytes)
        return apart(value) if once else value

    named = kwargs and {name: one(value) for name, value in kwargs.items()}
    return tuple(map(one, args)), named


def dump_apart(value: Any, purpose: int, reducers: Reducers) -> tuple[memoryview, Buffers]:
    """One object, a part of a larger one that is being pickled for this purpose, as a pickle; and
    its large buffers, which the caller sends beside it. These reducers are used too."""
    return _pickle_somehow([value], True, purpose, reducers)


def dump_whole(outcome: Any) -> bytes:
    """A job's outcome as one pickle, with its large buffers inside."""
    return bytes(_pickle_somehow([outcome], False, by_value.OUTCOME)[0])


#: Types for the quickest pickling: they need none of multiprocessing's reducers.
SIMPLE = frozenset({type(None), bool, int, float, str})
_FUNCTIONS = frozenset({types.FunctionType, types.BuiltinFunctionType})

#: How many values are looked at, whether the quickest pickling serves them. A look costs 10 ns for
#: each value; the quickest pickling saves some 10 us.
FEW = 1000


def are_simple(fn: Any, args: tuple[Any, ...]) -> bool:
    """Whether a function and its arguments need none of multiprocessing's reducers, and are few."""
    return type(fn) in _FUNCTIONS and _native.is_plain(args, FEW)


def dump_simply(value: Any, copied: bool = False) -> bytes | None:
    """An object of simple types as a message; None if it cannot be pickled so, or is large.
    `copied`: it is for a copy of this process."""
    try:
        message = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    except BaseException as e:
        if raised_by_handler(e):
            raise
        return None  # the slower way may still pickle it, or reports the reason
    if len(message) >= _native.INLINE // 2:
        return None
    return None if _main.MARK in message and _main.out_of_reach(message, copied) else message


def _keep(buffers: Buffers) -> Callable[[pickle.PickleBuffer], bool]:
    """A function that says whether a buffer stays inside the pickle, and otherwise appends it to
    `buffers`."""

    def inside(buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < _LARGE:
            return True
        buffers.append(buffer)
        return False

    return inside


def _pickler(reducers: Reducers | None, stream: io.BytesIO, inside: Any) -> Any:
    # Not a ForkingPickler, which is slow to make and adds only these reducers.
    made = pickle.Pickler(stream, pickle.HIGHEST_PROTOCOL, buffer_callback=inside)
    made.dispatch_table = {**copyreg.dispatch_table, **_reducers(), **(reducers or {})}
    return made


def dump_launch(
    *objects: Any,
    starter: Any = None,
    progress: _native.Progress | None = None,
    what: str = Descriptors.what,
    explains: bool = True,
) -> tuple[Payload, _native.Descriptors]:
    """A message to a process of this starter, and the descriptors to send with it."""
    descriptors = Descriptors(starter, progress)
    descriptors.what, descriptors.explains = what, explains
    spawning = mp.context._tls
    before = getattr(spawning, "spawning_popen", None)
    try:
        # Assigned, and not set by multiprocessing's function: no signal handler can run just before
        # an assignment in a `finally`, but one can run when a function is entered.
        spawning.spawning_popen = descriptors
        return _dump_each(objects, by_value.WORK), descriptors.held
    except BaseException:
        descriptors.held.clear()  # also if the traceback is kept
        if descriptors.refused is not None:
            raise descriptors.refused from None  # the system refused, not pickle
        raise
    finally:
        spawning.spawning_popen = before


def _pickle_somehow(
    objects: Sequence[Any], apart: bool, purpose: int, reducers: Reducers | None = None
) -> tuple[memoryview, Buffers]:
    """Pickles by pickle, or by cloudpickle if pickle cannot. With `apart`, large buffers are not in
    the stream."""
    try:
        pickled = _pickle(functools.partial(_pickler, reducers), objects, apart)
    except BaseException as e:
        if raised_by_handler(e):
            raise
        if isinstance(e, RecursionError):
            raise _unpicklable(e) from e  # cloudpickle would need an even deeper recursion
        if not by_value.is_possible():
            raise _unpicklable(e, _HELP if _is_of_code(e) else "") from e
        return _pickle_by_value(objects, apart, purpose, reducers)
    if purpose != by_value.WORK:
        return pickled
    starter = getattr(mp.context.get_spawning_popen(), "starter", None)
    reason = _main.out_of_reach(pickled[0], starter is not None and starter.copies)
    if reason is None:
        return pickled
    if not by_value.is_possible():
        raise pickle.PicklingError(f"{reason}: {_main.remedy()}")
    return _pickle_by_value(objects, apart, purpose, reducers)


def _pickle(
    pickler: Callable[..., Any], objects: Sequence[Any], apart: bool
) -> tuple[memoryview, Buffers]:
    stream = io.BytesIO()
    buffers: Buffers = []

    made = pickler(stream, _keep(buffers) if apart else None)
    for each in objects:
        made.dump(each)
        made.clear_memo()
    return stream.getbuffer(), buffers


def _pickle_by_value(
    objects: Sequence[Any], apart: bool, purpose: int, reducers: Reducers | None
) -> tuple[memoryview, Buffers]:
    """Pickles by cloudpickle."""
    spawning = mp.context.get_spawning_popen()
    if isinstance(spawning, Descriptors) and reducers is None:
        spawning.begin()  # (A part of a larger object must leave those of the other parts.)
    make = by_value.picklers({**_reducers(), **(reducers or {})})
    protocol = pickle.HIGHEST_PROTOCOL

    def pickler(stream: io.BytesIO, inside: Any) -> Any:
        made = make(stream, protocol, buffer_callback=inside)
        made.purpose = purpose
        return made

    def fails(it: Any) -> bool:
        try:
            _pickle(pickler, [it], apart)
        except BaseException as e:
            if raised_by_handler(e):
                raise
            return True
        return False

    try:
        return _pickle(pickler, objects, apart)
    except BaseException as e:
        if raised_by_handler(e):
            raise
        explains = isinstance(spawning, Descriptors) and spawning.explains
        raise _unpicklable(e, by_value.culprit(objects, fails) if explains else "") from e


#: Advice to install cloudpickle.
_HELP = (
    "; only functions and classes that can be imported by name can be sent to another process; "
    "with cloudpickle installed (`pip install cloudpickle`), lambdas and closures can too"
)


def _is_of_code(error: BaseException) -> bool:
    """Whether pickle failed at an object that cloudpickle can pickle: a function, class or
    module."""
    text = _wording.converted(str, error)
    if isinstance(error, TypeError):
        return "'module'" in text
    return isinstance(error, (pickle.PicklingError, AttributeError)) and any(
        word in text for word in ("function", "class", "local object", "lookup")
    )


def _unpicklable(error: BaseException, advice: str = "") -> pickle.PicklingError:
    what = ""
    if _submission():
        what = f"{mp.context.get_spawning_popen().what} cannot be pickled: "
        if not isinstance(error, OwnersOnly):
            advice += '; with context="fork" nothing must be pickled for a job'
    return pickle.PicklingError(f"{what}{_wording.in_words(error)}{advice}")


def _submission() -> bool:
    return isinstance(mp.context.get_spawning_popen(), Descriptors)


class MessageReader:
    """Loads the objects of a message, one after the other."""

    def __init__(self, message: Received) -> None:
        self._pickles, *buffers = segments_of(message)
        self._stream = io.BytesIO(self._pickles)
        self._buffers = iter(buffers)

    def load(self) -> Any:
        return pickle.Unpickler(self._stream, buffers=self._buffers).load()


def loads_after(known: bytes, message: Received) -> Callable[[], Any] | None:
    """A function that loads the last object of a short message that begins with `known`; None if
    the message does not."""
    if type(message) is bytes and message.startswith(known):
        return functools.partial(pickle.loads, message[len(known) :])
    return None


def load(message: Received) -> Any:
    """The one object of a message."""
    if type(message) is bytes:
        return pickle.loads(message)  # most results, of which each step costs page faults
    pickles, *buffers = segments_of(message)
    return pickle.loads(pickles, buffers=buffers)
