"""Where a data set lies: folders, annotation files, hub ids, and the image of each row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vislex.data.paths import check_relative
from vislex.errors import ConfigError, DataError, did_you_mean

__all__ = ["ImageFinder", "check_task", "find_file", "is_hub_id", "local_root", "unknown_split"]


def check_task(name: str, task: str, allowed: Sequence[str] = ("caption",)) -> None:
    """Refuses a task that a source does not have.

    Raises:
        ConfigError: With the tasks it has.
    """
    if task not in allowed:
        raise ConfigError(f"data set '{name}' has no task '{task}'; it has {', '.join(allowed)}")


def find_file(root: Path, names: Sequence[str], what: str) -> Path:
    """The first of some names (globs allowed) that is in a folder.

    Raises:
        DataError: If none is; the message says which were looked for.
    """
    for name in names:
        if matches := sorted(path for path in root.glob(name) if path.is_file()):
            return matches[0]
    raise DataError(f"'{root}' has no {what}; looked for {', '.join(names)}")


def local_root(name: str, root: str | Path | None) -> Path:
    """Checks that the place of a data set is a folder.

    Raises:
        ConfigError: If no place is given.
        DataError: If it is not there or is a file.
    """
    if root is None:
        raise ConfigError(f"data set '{name}' needs its place: a local folder or a hub id, e.g. '{name}:/data/{name}'")
    path = Path(root)
    if not path.is_dir():
        state = "is a file" if path.exists() else "is not there"
        raise DataError(f"data set '{name}': '{path}' {state}; give a folder with the images and annotations")
    return path


def is_hub_id(root: str | Path) -> bool:
    """Whether a place is a hub id: "ORG/NAME" or "hub:ORG/NAME", and no local path."""
    text = str(root)
    return text.startswith("hub:") or (
        isinstance(root, str)
        and not Path(root).exists()
        and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", text) is not None
    )


def unknown_split(name: str, split: str, known: Iterable[Any]) -> ConfigError:
    """The error for a split that a source does not have."""
    listed = sorted(set(map(str, known)))
    return ConfigError(
        f"data set '{name}' has no split '{split}'{did_you_mean(split, listed)} It has {', '.join(listed) or 'none'}"
    )


class ImageFinder:
    """Finds the image of each row among the places where people unpack a data set.

    Args:
        root: The data folder.
        folders: Folders below it to try, "" for itself; the first that has the file wins.
    """

    def __init__(self, root: Path, folders: Sequence[str]) -> None:
        self.root = root
        self.folders = [folder for folder in folders if (root / folder).is_dir()]
        self.given = folders
        self.asked = 0
        self.found = 0

    def __call__(self, name: str, where: str, *alternatives: str) -> str:
        """Path relative to the root; the first place where nothing is found, so that reading it names it.

        Raises:
            DataError: If the name leaves the folder.
        """
        self.asked += 1
        names = [check_relative(candidate, where) for candidate in (name, *alternatives)]
        for candidate in names:
            for folder in self.folders:
                relative = f"{folder}/{candidate}" if folder else candidate
                if (self.root / relative).is_file():
                    self.found += 1
                    return relative
        return f"{self.folders[0]}/{name}" if self.folders and self.folders[0] else name

    def check(self, source: str) -> None:
        """Raises where not one image is there.

        Raises:
            DataError: With the folders that were looked through.
        """
        if self.asked and not self.found:
            places = ", ".join(repr(folder or ".") for folder in self.given)
            raise DataError(f"{source}: none of {self.asked} images is in '{self.root}'; looked in {places}")
