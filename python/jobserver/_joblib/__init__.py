"""What stands behind the joblib backend in `joblib.py`: `pools.py` chooses the Jobserver,
`workers.py` submits the batches of one Parallel, and `batch.py` sends them, with their arrays."""
