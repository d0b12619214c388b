"""The folder in which computed data is cached between runs."""

import os
from pathlib import Path


def default_cache_folder() -> Path:
    """Return ``$DUALPATH_CACHE``, or ``dualpath`` in the cache folder of the user."""
    folder = os.environ.get("DUALPATH_CACHE")
    if folder:
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualpath"
