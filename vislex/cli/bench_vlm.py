"""``vislex bench vqa`` and ``vislex bench segmentation``: what vision-language models answer and mark."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.cli.bench_progress import progress
from vislex.cli.console import print_json, print_table, say

if TYPE_CHECKING:
    from vislex.benchmarks.results import DataRecord, Run

__all__ = ["segmentation", "vqa"]

MASKS = ["row", "origin", "mIoU", "cIoU", "P@0.5", "P@0.7", "P@0.9", "invalid", "answers a second", "tokens"]
PAIRS = ["a", "b", "difference", "low", "high", "minimal detectable effect", "n", "seeds"]


def vqa(
    names: Sequence[str],
    blind: Sequence[str],
    asked: dict[str, Any],
    settings: dict[str, Any],
    bounds: bool,
    *,
    device: str,
    dtype: str,
    batch_size: int,
    out: Path | None,
    json: bool,
) -> None:
    """Asks models and prints accuracies by question type, and paired differences from the floors.

    Args:
        names: Models.
        blind: Models that are asked without the images.
        asked: Keywords of ``load_vqa_data``.
        settings: ``num_beams``, ``max_new_tokens``, and ``option`` with further key=value of generation.
        bounds: Whether to score the most common answers too.
        device: Where the models run.
        dtype: Of their weights.
        batch_size: Questions a batch.
        out: Result file, or folder of ``results.json``.
        json: Whether to print JSON.

    Raises:
        ConfigError: If no model is named, or two have one name.
    """
    from vislex.benchmarks import vqa as bench
    from vislex.benchmarks.vlm_rows import check_names, open_model

    check_names(names)
    if blind:
        check_names(blind)
    data = bench.load_vqa_data(**asked)
    runs = []
    for name, images in [*((name, True) for name in names), *((name, False) for name in blind)]:
        model, info = open_model(name, device=device, dtype=dtype)
        with progress(f"asking {name}", len(data.record.ids)) as advance:
            options: dict[str, Any] = {"images": images, "batch_size": batch_size, "on_progress": advance}
            runs.append(bench.evaluate(model, info, data, **options, **_generation(settings, asked)))
    if bounds and data.train:
        runs.append(bench.floor_run(data))
    kinds = [name for name in runs[0].scores if name.startswith(bench.TYPE)]
    _show("vqa", runs, data.record, ["row", "origin", "accuracy", *kinds, "answers a second"], out, json)


def segmentation(
    names: Sequence[str],
    asked: dict[str, Any],
    settings: dict[str, Any],
    bounds: bool,
    *,
    device: str,
    dtype: str,
    batch_size: int,
    out: Path | None,
    json: bool,
) -> None:
    """Has models segment and prints their scores, and paired differences from their own boxes, filled.

    Args:
        names: Models.
        asked: Keywords of ``load_segmentation_data``.
        settings: See ``vqa``; the option ``codec`` names another codec than the model was trained with.
        bounds: Whether to score the ceilings of the codecs too.
        device: Where the models run.
        dtype: Of their weights.
        batch_size: Expressions a batch.
        out: Result file, or folder of ``results.json``.
        json: Whether to print JSON.

    Raises:
        ConfigError: If no model is named, two have one name, or one was not trained to segment.
    """
    from vislex.adapters.vlm_segment import codec_of
    from vislex.benchmarks import segmentation as bench
    from vislex.benchmarks.vlm_rows import check_names, open_model

    check_names(names)
    options = _generation(settings, asked)
    wanted = options.pop("codec", None)
    data = bench.load_segmentation_data(**asked)
    runs, codecs = [], {}
    for name in names:
        model, info = open_model(name, device=device, dtype=dtype)
        codec = codec_of(model, wanted)
        codecs[codec.label] = codec
        with progress(f"segmenting with {name}", len(data.record.ids)) as advance:
            shared: dict[str, Any] = {"codec": codec, "batch_size": batch_size, "on_progress": advance}
            runs += bench.evaluate(model, info, data, **shared, **options)
    if bounds:
        runs += [bench.ceiling_run(codec, data) for codec in codecs.values()]
    _show("segmentation", runs, data.record, MASKS, out, json)


def _generation(settings: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Options of ``ask`` or ``segment``; what is drawn is drawn from the seed."""
    import torch

    from vislex.config import parse_overrides

    torch.manual_seed(asked["seed"])
    given = {"num_beams": settings["num_beams"], "max_new_tokens": settings["max_new_tokens"]}
    return {key: value for key, value in given.items() if value is not None} | parse_overrides(settings["option"])


def _show(task: str, runs: list[Run], record: DataRecord, columns: Sequence[str], out: Path | None, json: bool) -> None:
    from vislex.benchmarks.results import Results, ResultsFile
    from vislex.benchmarks.summary import floor_pairs, summarise

    results = Results()
    for run in runs:
        results.add(run, record)
    rows = [
        {**row.as_dict(), "answers a second": row.timing("throughput"), "tokens": row.timing("evaluations")}
        for row in summarise(results, record, task)
    ]
    pairs = [pair.as_dict() for pair in floor_pairs(results, record, task)]
    file = None if out is None else ResultsFile(out if out.suffix == ".json" else out / "results.json")
    if file is not None:
        for run in runs:
            file.append(run, record)
    if json:
        print_json({"rows": rows, "pairs": pairs})
        return
    print_table(rows, columns, title=f"{record.name} {record.split}, n = {len(record.ids)}")
    if pairs:
        say("")
        print_table(pairs, PAIRS, title=f"{pairs[0]['metric']}: differences, 95 % intervals over rows")
    if file is not None:
        say(f"results: {file.path}")
