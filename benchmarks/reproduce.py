"""Published figures beside ours: one command runs the published evaluation on a model trained by the paper's recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vislex.benchmarks.results import Run
from vislex.errors import ConfigError, UnknownNameError, did_you_mean

__all__ = ["PUBLISHED", "Published", "comparison", "reproducible"]


@dataclass(frozen=True)
class Published:
    """What a paper reports.

    Attributes:
        source: Where.
        data: Data source that ``--data`` must name, with its split and number of images.
        split: Split.
        size: Images in it.
        recipe: Command that trains the model.
        settings: Generation settings, by row.
        rows: Scores on the official scales, by row.
    """

    source: str
    data: str
    split: str
    size: int
    recipe: str
    settings: dict[str, dict[str, Any]]
    rows: dict[str, dict[str, float]]


PUBLISHED = {
    "ladic": Published(
        source="LaDiC (arXiv 2404.10763), table 1",
        data="coco",
        split="test",
        size=5000,
        recipe="vislex train caption --config caption_ladic_paper.yaml data=coco:FOLDER",
        settings={"LaDiC, 5 steps": {"stride": 200}, "LaDiC, 30 steps": {"stride": 30}},
        rows={
            "LaDiC, 5 steps": {"BLEU-4": 0.351, "CIDEr-D": 1.152, "ROUGE-L": 0.567},
            "LaDiC, 30 steps": {"BLEU-4": 0.382, "CIDEr-D": 1.262, "ROUGE-L": 0.587},
        },
    ),
}


def reproducible(name: str | None, data: str, models: list[str]) -> Published:
    """Checks that the published evaluation can be run.

    Args:
        name: What is to be reproduced.
        data: "SOURCE:FOLDER".
        models: Folders of models.

    Raises:
        UnknownNameError: If no figures are kept under the name.
        ConfigError: If the data or the model is missing; the message says what is published and what to do.
    """
    if name not in PUBLISHED:
        near = did_you_mean(name or "", PUBLISHED)
        raise UnknownNameError(f"no published figures of '{name or ''}'{near} Known: {', '.join(PUBLISHED)}")
    paper = PUBLISHED[name]
    best = list(paper.rows)[-1]
    scores = ", ".join(f"{metric} {100 * value:.1f}" for metric, value in paper.rows[best].items())
    said = f"{paper.source} reports {scores} ({best}) on {paper.data} {paper.split}, {paper.size} images"
    if data.partition(":")[0] != paper.data or not data.partition(":")[2]:
        raise ConfigError(
            f"{said}. That data is not here: give --data {paper.data}:FOLDER with dataset_coco.json (Karpathy's "
            f"splits), train2014 and val2014"
        )
    if not models:
        raise ConfigError(
            f"{said}. No model was given: train one with '{paper.recipe}', or turn the released one into a folder with "
            f"'vislex import {name}', then pass --model FOLDER"
        )
    return paper


def comparison(paper: Published, row: str, run: Run) -> list[dict[str, Any]]:
    """Rows "metric", "published", "ours" and "difference", x100, for printing.

    Args:
        paper: The figures.
        row: Which of them.
        run: Our evaluation with its settings.
    """
    return [
        {
            "model": run.model.row,
            "row": row,
            "metric": metric,
            "published": round(100 * value, 1),
            "ours": round(100 * run.scores[metric], 1),
            "difference": round(100 * (run.scores[metric] - value), 1),
            "images": run.n,
            "evaluations": run.timing.evaluations,
        }
        for metric, value in paper.rows[row].items()
    ]
