"""`Jobserver.map`: `results.py` describes its parts."""

from .results import Results, results

__all__ = ["Results", "results"]
