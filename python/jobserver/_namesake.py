"""The distribution `jobserver` of PyPI, another project's package of our import name."""

from __future__ import annotations

import os
import warnings


def warn_if_beside() -> None:
    """Warns if it is installed where this package is: their files lie in one folder, so that what
    was installed last has replaced some of the other's, and to remove one breaks both."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        names = os.listdir(folder)
    except OSError:
        return  # in a zip file
    for name in names:
        if name.startswith("jobserver-") and name.endswith((".dist-info", ".egg-info")):
            warnings.warn(
                f"{folder} has another project's package of this name too ({name}): uninstall "
                "jobserver and nestable-jobserver, then install nestable-jobserver",
                RuntimeWarning,
                stacklevel=3,
            )
