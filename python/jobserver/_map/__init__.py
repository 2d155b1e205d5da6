"""`Jobserver.map`: see `results.py` for how its parts hang together."""

from .results import Results, results

__all__ = ["Results", "results"]
