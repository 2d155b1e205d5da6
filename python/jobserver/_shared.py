"""Values that many jobs share: written once, into a memory file, which each job maps.

A `Shared` in the work of a job is sent as a descriptor of its file. The file's memory is freed with
the last descriptor and the last mapping, whichever process is killed.
"""

from __future__ import annotations

import os
from typing import Any, Generic, TypeVar, cast
from weakref import WeakValueDictionary

from . import _multiprocessing as mp
from . import _native
from ._wire import pickling

T = TypeVar("T")


class Shared(Generic[T]):
    """A value that jobs share: :func:`share` makes it.

    It can be an argument of jobs, also deep inside other arguments, and of jobs of jobs. It can be
    sent to a job only, and not returned from one.
    """

    def __init__(self, file: _native.MemoryFile) -> None:
        self._file = file
        #: The value, in a list, once it has been loaded.
        self._loaded: list[T] = []
        _known[_inode(file)] = self

    @property
    def value(self) -> T:
        """The value: the same object each time in one process.

        Large buffers (NumPy arrays, data frames, bytes of 1 MiB or more) are views of the file and
        are not copied. What a process writes to them changes its own copy of these pages; later
        jobs of the same process may see that, so do not write to a value that others still read.
        """
        if not self._loaded:
            self._loaded.append(pickling.load(self._file.map() or self._file))
        return self._loaded[0]

    def __repr__(self) -> str:
        size = os.fstat(self._file.fileno()).st_size
        return f"<Shared: {size:,} bytes>"

    def __copy__(self) -> Shared[T]:
        return self

    def __deepcopy__(self, memo: Any) -> Shared[T]:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if mp.context.get_spawning_popen() is None:
            raise TypeError(
                "a Shared can be pickled only as part of the work of a new process; return "
                "its value instead, which arrives mapped"
            )
        return _received, (mp.reduction.DupFd(self._file.fileno()), _inode(self._file))


#: What this process shares, by the file.
_known: WeakValueDictionary[tuple[int, int], Shared[Any]] = WeakValueDictionary()


def _inode(file: _native.MemoryFile) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _received(duplicate: Any, identity: tuple[int, int]) -> Shared[Any]:
    """In a job: the Shared that was pickled; the same object for all pickles of one."""
    fd = duplicate.detach()
    try:
        return _known.get(identity) or Shared(_native.MemoryFile.received(fd))
    finally:
        os.close(fd)


def share(value: T) -> Shared[T]:
    """Writes a value once, for many jobs: each job that gets the Shared maps it and copies nothing.

    Use it for an array, a model or a data frame that many jobs read. Under forkserver and spawn the
    value would otherwise be pickled and sent for each job; with it, 100 jobs with an array of
    200 MiB take 200 MiB. Under fork, a global that the jobs read costs even less.

        data = jobserver.share(numpy.random.rand(5000, 5000))

        def fit(data, parameter):
            return train(data.value, parameter)

        futures = [js(fit, data, parameter) for parameter in grid]

    The memory is freed when nothing refers to the Shared, or to views of its value, in any process.

    Raises:
        pickle.PicklingError: the value cannot be pickled.
        OSError: the system refused, for example because memory is short.
    """
    file = pickling.dump_to_file(value)
    file.seal()
    return cast("Shared[T]", Shared(file))
