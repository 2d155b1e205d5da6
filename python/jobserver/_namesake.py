"""The distribution `jobserver` on PyPI, which is another project's package with the same import
name."""

from __future__ import annotations

import os
import warnings


def warn_if_beside() -> None:
    """Warns if that distribution is installed in this package's folder. The distribution installed
    last has then overwritten files of the other, and removing one breaks both."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        names = os.listdir(folder)
    except OSError:
        return  # this package is in a zip file
    for name in names:
        if name.startswith("jobserver-") and name.endswith((".dist-info", ".egg-info")):
            warnings.warn(
                f"{folder} has another project's package of this name too ({name}): uninstall "
                "jobserver and nestable-jobserver, then install nestable-jobserver",
                RuntimeWarning,
                stacklevel=3,
            )
