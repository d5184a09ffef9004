"""Where vislex keeps what it has computed or unpacked."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_dir"]


def cache_dir() -> Path:
    """``VISLEX_CACHE``, else ``vislex`` under the user's cache folder."""
    if chosen := os.environ.get("VISLEX_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vislex"
