"""Rows of trained captioners in a result file, and the choice of a learning rate among them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vislex.benchmarks.caption_models import learning_curve, read_json
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.trainings import identity, train_once
from vislex.recipes.caption import RECIPE, CaptionConfig

__all__ = ["best_of_each_seed", "sweep", "trained_row", "validation_curve"]

Row = dict[str, Any]


def trained_row(file: RowFile, where: Mapping[str, Any], config: CaptionConfig, folder: Path, name: str) -> Row:
    """The row of a training, which is made if it is missing.

    Args:
        file: Receives the row.
        where: What names it ("arm", "seed", "lr", ...).
        config: Of the training.
        folder: Where all trainings go.
        name: Begins the name of its folder.

    Returns:
        ``where`` with the "config", "folder", "steps", "seconds" of training without validations, "parameters", the
        "curve" of CIDEr-D on val and its last value, "val".
    """

    def make() -> Row:
        made = train_once(RECIPE, config, folder, name)
        record = read_json(made.folder / "run.json")
        values = {**validation_curve(made.folder), "folder": str(made.folder), "steps": config.steps}
        return {**values, "seconds": record["figures"]["seconds"], "parameters": record["parameters"]}

    row = file.row({"kind": "training", **where, "config": identity(config)}, make)
    assert row is not None
    return row


def sweep(train: Callable[[int, float], Row], seeds: Sequence[int], lrs: Sequence[float]) -> Iterator[Row]:
    """Trains with every learning rate and the first seed, and with the best one and the other seeds.

    Args:
        train: Gives the row of a seed and a learning rate.
        seeds: At least one.
        lrs: At least one.
    """
    tried = [train(seeds[0], lr) for lr in lrs]
    yield from tried
    best = best_of_each_seed(tried)[0]["lr"]
    for seed in seeds[1:]:
        yield train(seed, best)


def best_of_each_seed(rows: Iterable[Row]) -> list[Row]:
    """Of each seed the training with the highest CIDEr-D on val; the first of equally good ones."""
    best: dict[int, Row] = {}
    for row in rows:
        if row["seed"] not in best or row["val"] > best[row["seed"]]["val"]:
            best[row["seed"]] = row
    return list(best.values())


def validation_curve(folder: Path) -> Row:
    """CIDEr-D on val, validation by validation ("curve"), and the last one ("val", 0 if there is none)."""
    curve = [point["eval_CIDEr-D"] for point in learning_curve(folder) if "eval_CIDEr-D" in point]
    return {"curve": curve, "val": curve[-1] if curve else 0.0}
