"""Registries of parts: exact names, lazy targets, glob listing; duplicates and unknown names are errors.

A target is a string ``"module:attribute"`` that is imported only when the part is used. Built-in parts stand in
``vislex.catalog``; other packages add theirs through the entry-point group ``vislex.<kind>``. Nothing registers
itself by being imported.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vislex.errors import DuplicateNameError, UnknownNameError, VislexError, did_you_mean

__all__ = ["KINDS", "Entry", "Registry", "registry"]

KINDS = ("encoders", "connectors", "decoders", "llms", "t2i", "codecs", "scorers", "hosts", "recipes", "suites")


@dataclass(frozen=True)
class Entry:
    """One registered part.

    Attributes:
        name: Exact name. A name that ends in ":" is a family: ``timm:`` answers for every ``timm:NAME``.
        target: ``"module:attribute"``, imported by ``load``.
        summary: One line of text for ``vislex list``.
        options: Keyword arguments that belong to the name, handed to the part's ``create``.
        origin: "vislex", the distribution that registered it, or "session" for a call to ``register``.
    """

    name: str
    target: str
    summary: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "vislex"

    @property
    def is_family(self) -> bool:
        return self.name.endswith(":")

    def load(self) -> Any:
        """Imports the target.

        Raises:
            VislexError: If the module or the attribute is not there.
        """
        module, _, attribute = self.target.partition(":")
        try:
            loaded = importlib.import_module(module)
            return functools.reduce(getattr, attribute.split("."), loaded)
        except (ModuleNotFoundError, AttributeError) as error:
            raise VislexError(
                f"'{self.name}' ({self.origin}) points to '{self.target}', which fails: {error}"
            ) from error


class Registry:
    """The parts of one kind by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry] = {}

    def register(self, name: str, target: str, summary: str = "", *, origin: str = "session", **options: Any) -> Entry:
        """Adds a part.

        Raises:
            DuplicateNameError: If the name is taken; the message says by whom.
        """
        if taken := self._entries.get(name):
            raise DuplicateNameError(
                f"{self.kind}: '{name}' from {origin} ({target}) is already registered by {taken.origin} "
                f"({taken.target}); choose another name"
            )
        entry = Entry(name, target, summary, options, origin)
        self._entries[name] = entry
        return entry

    def names(self, pattern: str = "*") -> list[str]:
        """Sorted names that match a glob pattern; families are listed by their prefix."""
        return sorted(name for name in self._entries if fnmatch.fnmatchcase(name, pattern))

    def get(self, name: str) -> Entry:
        """The entry of an exact name.

        Raises:
            UnknownNameError: With the nearest names.
        """
        if name in self._entries:
            return self._entries[name]
        singular = self.kind.removesuffix("s")
        raise UnknownNameError(
            f"unknown {singular} '{name}'{did_you_mean(name, self._entries)} See 'vislex list {self.kind}'"
        )

    def resolve(self, name: str) -> tuple[Entry, str | None]:
        """The entry that answers for a name, and the part of the name behind a family's prefix.

        ``"timm:vit_tiny"`` gives the entry ``"timm:"`` and ``"vit_tiny"``; an exact name gives its entry and None.

        Raises:
            UnknownNameError: If neither the name nor its family is registered.
        """
        prefix, colon, rest = name.partition(":")
        if name not in self._entries and colon and rest and (family := self._entries.get(prefix + ":")):
            return family, rest
        families = [known for known in self._entries if known.endswith(":")]
        if name not in self._entries and colon and (near := did_you_mean(prefix + ":", families)) != ".":
            raise UnknownNameError(f"unknown family '{prefix}:' in '{name}'{near} See 'vislex list {self.kind}'")
        return self.get(name), None

    def __iter__(self) -> Iterator[Entry]:
        return (self._entries[name] for name in sorted(self._entries))

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)


@functools.cache
def registry(kind: str) -> Registry:
    """The registry of a kind: the built-in catalog, then the entry points of ``vislex.<kind>``.

    Raises:
        UnknownNameError: If there is no such kind.
        DuplicateNameError: If an installed package claims a name that is taken.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"unknown kind '{kind}'{did_you_mean(kind, KINDS)} Kinds are {', '.join(KINDS)}")
    from vislex.catalog import CATALOG

    filled = Registry(kind)
    for name, (target, summary, options) in CATALOG.get(kind, {}).items():
        filled.register(name, target, summary, origin="vislex", **options)
    for point in importlib.metadata.entry_points(group=f"vislex.{kind}"):
        origin = point.dist.name if point.dist else "an installed package"
        filled.register(point.name, point.value, f"from the package {origin}", origin=origin)
    return filled
