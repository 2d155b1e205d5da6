"""Jobs in an event loop: `await`, without a thread. `watch.py` says how."""

from .calls import asubmit, run, until_done
from .watch import Listener, Waiter, Watch, watch

__all__ = ["Listener", "Waiter", "Watch", "asubmit", "run", "until_done", "watch"]
