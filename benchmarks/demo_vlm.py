"""The demo's part on vision-language models: the shipped one answers questions and marks what expressions refer to."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from vislex.benchmarks import segmentation, vqa
from vislex.benchmarks.report import write_report
from vislex.benchmarks.results import ResultsFile
from vislex.benchmarks.vlm_rows import open_model

__all__ = ["measure_vlm"]


def measure_vlm(report: Path, name: str, *, size: int, log: Callable[[str], None]) -> None:
    """Asks a model questions with and without the images, has it segment, and writes the report again.

    Args:
        report: Page of a comparison; its result file lies beside it.
        name: A shipped model, or a folder.
        size: Questions, and expressions.
        log: Called with a line of progress.
    """
    file = ResultsFile(report.parent / "results.json")
    model, info = open_model(name)
    if any(run.model.sha256 == info.sha256 for run in file.load().runs):
        log(f"{name}: finished before, skipped")
        return
    begun = time.perf_counter()
    questions = vqa.load_vqa_data(size=size, vocabulary="core")
    for run in (
        vqa.evaluate(model, info, questions),
        vqa.evaluate(model, info, questions, images=False),
        vqa.floor_run(questions),
    ):
        file.append(run, questions.record)
    expressions = segmentation.load_segmentation_data(size=size, vocabulary="core")
    for run in segmentation.evaluate(model, info, expressions):
        file.append(run, expressions.record)
    log(f"{name} ({info.origin}): asked and had segment {size} images each in {time.perf_counter() - begun:.0f} s")
    write_report(file.load(), report)
