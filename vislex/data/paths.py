"""Paths that data files name: they stay inside the folder they belong to."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from vislex.errors import DataError

__all__ = ["check_relative", "safe_join"]

_MOST_BYTES = 255  # of a name on every file system in use


def check_relative(name: str, where: str = "a data file") -> str:
    """Refuses a path that leaves its folder by its spelling alone; touches no disk.

    Args:
        name: A path as a data file gives it, with forward slashes.
        where: What an error names, e.g. "rows.jsonl:3".

    Raises:
        DataError: If it is empty, absolute (here or on Windows), too long, holds "..", a backslash, a NUL, or
            characters that no file name has.
    """
    windows = PureWindowsPath(name)
    try:
        longest = max(len(os.fsencode(part)) for part in name.split("/"))
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: path {name!r} holds characters that no file name has") from error
    if longest > _MOST_BYTES:
        raise DataError(f"{where}: path {name[:40]!r}... has a part of {longest:,} bytes; at most {_MOST_BYTES}")
    if not name or name != name.strip() or name in (".", "./"):
        raise DataError(f"{where}: {name!r} is no file name")
    if "\0" in name or "\\" in name:
        raise DataError(f"{where}: path {name!r} holds a backslash or a NUL; use forward slashes")
    if PurePosixPath(name).is_absolute() or windows.is_absolute() or windows.drive or name.startswith("~"):
        raise DataError(f"{where}: path {name!r} is absolute; paths must be relative to the data folder")
    if ".." in PurePosixPath(name).parts:
        raise DataError(f"{where}: path {name!r} holds '..'; paths must stay inside the data folder")
    return name


def safe_join(root: str | Path, name: str, where: str = "a data file") -> Path:
    """The file ``name`` inside ``root``.

    Args:
        root: The data folder.
        name: A relative path from a data file.
        where: What an error names.

    Raises:
        DataError: If the path leaves the folder by its spelling (``check_relative``) or through a link.
    """
    base = Path(root)
    path = base / check_relative(name, where)
    if not path.resolve().is_relative_to(base.resolve()):
        raise DataError(f"{where}: path {name!r} leads out of '{base}' through a link; move or copy the files in")
    return path
