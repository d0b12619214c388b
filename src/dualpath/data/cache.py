"""Where computed things are kept between runs."""

import os
from pathlib import Path


def default_cache_folder() -> Path:
    """Return ``$DUALPATH_CACHE``, or ``dualpath`` in the user's cache folder."""
    chosen = os.environ.get("DUALPATH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dualpath"
