"""How a job's process is born: one file a start method, all behind `Starter`.

| method     | the job is                                   | its work arrives          |
|------------|----------------------------------------------|---------------------------|
| fork       | a copy of the owner                          | as it is, in memory       |
| forkserver | a copy of a small helper, which the owner of | as a message, pickled     |
|            | the whole tree started                       |                           |
| spawn      | a new interpreter                            | as a message, pickled     |
"""

from ._starter import Starter, starter

__all__ = ["Starter", "starter"]
