"""What stands behind the joblib backend in `joblib.py`: `pools.py` chooses the Jobserver,
`workers.py` starts the batches of one Parallel, and `jobs.py` or `threads.py` runs them; `batch.py`
sends them, with their arrays."""
