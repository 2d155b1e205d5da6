"""The insides of multiprocessing that this package relies on, named in one place.

They are not documented, but CPython 3.8 to 3.14 have them and so do loky and others that
start processes; the tests run on every version that the machine has. Types are Any, since
typeshed leaves most of them out.
"""

from __future__ import annotations

import multiprocessing.context
import multiprocessing.process
import multiprocessing.reduction
import multiprocessing.resource_tracker
import multiprocessing.spawn
import multiprocessing.util
from typing import Any

context: Any = multiprocessing.context
process: Any = multiprocessing.process
reduction: Any = multiprocessing.reduction
resource_tracker: Any = multiprocessing.resource_tracker
spawn: Any = multiprocessing.spawn
util: Any = multiprocessing.util
