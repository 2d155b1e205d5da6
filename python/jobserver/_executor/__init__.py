"""`JobserverExecutor`: the interface of :mod:`concurrent.futures` over a Jobserver. `executor.py`
has the class, and `runner.py` the thread that submits for it."""

from .executor import JobserverExecutor

__all__ = ["JobserverExecutor"]
