"""``load_suite``: every data set by one call, drawn in memory, from a local folder or from a hub id."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.data.schemas import BAD_IMAGE_POLICIES, SourceFacts, drop_bad_images
from vislex.errors import ConfigError, did_you_mean
from vislex.registry import registry

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["describe_source", "load_suite"]


def load_suite(
    name: str,
    task: str = "caption",
    *,
    split: str = "train",
    root: str | Path | None = None,
    bad_images: str = "raise",
    max_bad_fraction: float = 0.01,
    **options: Any,
) -> Dataset:
    """Loads a data set with the schema of a task (``vislex.data.schemas.COLUMNS``).

    Args:
        name: A name of ``vislex list suites`` ("openmoji", "coco", "flickr30k", ...), the same with its place behind
            a colon ("coco:/data/coco"), or a folder with ``captions.jsonl``.
        task: "caption", "vqa", "segmentation" or "images"; an error names those that a data set has. The OpenMoji suite
            has all four.
        split: Split name: "train", "val", "test", ...
        root: Where stored data lies: a local folder, or a hub id "ORG/NAME".
        bad_images: "raise" when an unreadable image is met, or "skip": open all once now and leave such rows out.
        max_bad_fraction: With "skip", the largest share of rows that may be left out.
        **options: Options of the source: ``size`` everywhere; the OpenMoji suite has ``seed``, ``image_size``,
            ``vocabulary``, ``style`` and ``augment``.

    Returns:
        Plain rows whose images are drawn or opened when a row is read.

    Raises:
        UnknownNameError, ConfigError, DataError: With what was given, what is allowed, what to do.
    """
    if bad_images not in BAD_IMAGE_POLICIES:
        raise ConfigError(f"unknown bad_images '{bad_images}'; use {' or '.join(BAD_IMAGE_POLICIES)}")
    if not re.fullmatch(r"\w+", split):
        raise ConfigError(f"split '{split}' is no identifier; use letters, digits and underscores")
    suites = registry("suites")
    if name not in suites and root is None:
        prefix, _, place = name.partition(":")
        if prefix in suites and place:
            name, root = prefix, place
        elif Path(name).is_dir():
            name, root = "folder", name
    place_option = {} if root is None else {"root": root}
    load = suites.get(name).load()
    _check_options(name, inspect.signature(load).parameters, options)
    dataset = load(task, split=split, **place_option, **options)
    if bad_images == "skip":
        dataset, _ = drop_bad_images(dataset, max_bad_fraction=max_bad_fraction)
    return dataset


def _check_options(name: str, known: Mapping[str, inspect.Parameter], options: Iterable[str]) -> None:
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return  # whom the loader calls will say
    if unknown := [option for option in options if option not in known]:
        allowed = [option for option in known if option not in ("task", "split", "root")]
        raise ConfigError(
            f"unknown option '{unknown[0]}' of the data '{name}'{did_you_mean(unknown[0], allowed)} "
            f"Allowed are {', '.join(allowed)}"
        )


def describe_source(name: str) -> SourceFacts:
    """What identifies a data set and who is to be credited, by its name as ``load_suite`` takes it.

    A source says so in a function ``describe() -> SourceFacts`` beside its ``load``; of the others the name is known.
    """
    suites = registry("suites")
    source = name if name in suites else name.partition(":")[0]
    if source in suites:
        describe = getattr(sys.modules[suites.get(source).load().__module__], "describe", None)
        if describe is not None:
            facts: SourceFacts = describe()
            return facts
    return SourceFacts(provenance={"suite": name}, trained_on=name)
