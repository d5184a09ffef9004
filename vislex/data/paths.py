"""Paths that data files name: they stay inside the folder they belong to."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from vislex.errors import DataError

__all__ = ["check_relative", "safe_join"]


def check_relative(name: str, where: str = "a data file") -> str:
    """Refuses a path that leaves its folder by its spelling alone; touches no disk.

    Args:
        name: A path as a data file gives it, with forward slashes.
        where: What an error names, e.g. "rows.jsonl:3".

    Raises:
        DataError: If it is empty, absolute (here or on Windows), holds "..", a backslash or a NUL.
    """
    windows = PureWindowsPath(name)
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
