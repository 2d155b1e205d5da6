"""`Jobserver.map`: `results.py` describes its parts."""

from .results import Results

__all__ = ["Results"]
