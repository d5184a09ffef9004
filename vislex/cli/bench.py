"""``vislex bench``: measures saved models; it never trains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vislex.cli.bench_progress import progress
from vislex.cli.console import print_table, say
from vislex.cli.options import BatchSize, Device, DType, Json, Seed
from vislex.errors import ConfigError, UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from vislex.benchmarks.caption_data import CaptionData
    from vislex.benchmarks.results import DataRecord, Run

__all__ = ["TASKS", "command"]

TASKS = ("captioning", "retrieval", "latency", "reproduce", "probe", "reconstruction", "vqa", "segmentation", "lmms")
COLUMNS = {
    "captioning": [
        "row", "origin", "CIDEr-D", "BLEU-4", "ROUGE-L", "scene-F1", "ms a caption", "captions a second", "evaluations",
    ],
    "retrieval": [
        "row", "origin", *(f"{way} R@{k}" for way in ("text-to-image", "image-to-text") for k in (1, 5, 10)),
    ],
    "latency": ["row", "batch size", "ms a batch", "quartiles", "captions a second", "evaluations", "new tokens"],
}  # fmt: skip


def command(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(TASKS)}.")],
    names: Annotated[
        list[str] | None,
        typer.Argument(help="reproduce: whose published figures, e.g. ladic. lmms: tasks and groups of lmms-eval."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A folder, a shipped model, or hf:ORG/CAPTIONER. May be repeated."),
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option("--encoder", "-e", help="probe: a name of 'vislex list encoders', timm:NAME, hf:DIR. Repeatable."),
    ] = None,
    data: Annotated[
        str,
        typer.Option(
            "--data",
            help="The suite openmoji, or SOURCE:FOLDER with photographs, e.g. coco:data/coco. lmms: several of these, "
            "with commas.",
        ),
    ] = "openmoji",
    data_option: Annotated[
        list[str] | None,
        typer.Option("--data-option", help="key=value of the data, e.g. vocabulary=core or style=dense. Repeatable."),
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="test_composition, test_artist, test_seen, test_unknown, val, test, ...")
    ] = "test_composition",
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="Images to score: 1000, or the paper's; claims take 5,000.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="lmms: documents a task, the first ones.")] = None,
    num_beams: Annotated[int, typer.Option("--num-beams", min=1, help="Beams; 1 is greedy.")] = 1,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Most word pieces a caption; the model's own limit.")
    ] = None,
    blind: Annotated[
        list[str] | None,
        typer.Option("--blind", help="vqa: a model that is asked without the images: the floor. Repeatable."),
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text that a stock captioner starts from.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option", help="key=value of the decoder (captioning), or of probe or reconstruction. Repeatable."
        ),
    ] = None,
    bounds: Annotated[bool, typer.Option("--bounds/--no-bounds", help="captioning: floors and ceiling too.")] = True,
    images: Annotated[int, typer.Option("--images", min=0, help="Images kept in the result file for reports.")] = 24,
    batch_sizes: Annotated[str, typer.Option("--batch-sizes", help="latency: images a batch.")] = "1,4,16,64",
    new_tokens: Annotated[int, typer.Option("--new-tokens", min=1, help="latency: forced length of a caption.")] = 20,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="latency: timed calls a batch size.")] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", help="Result file (or folder of results.json) to append to.")
    ] = None,
    batch_size: BatchSize = 64,
    device: Device = "auto",
    dtype: DType = "float32",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Measure saved models; never trains.

    \b
    vislex bench captioning --model runs/mine                         CIDEr-D, BLEU, ROUGE-L, scene-F1, time
    vislex bench captioning -m runs/a -m hf:Salesforce/blip-image-captioning-base --data coco:data/coco --split test
    vislex bench captioning -m runs/vlm -m captioner-prefix           a vision-language model beside a captioner
    vislex bench captioning -m captioner-masked --option num_candidates=8 --option do_sample=true
    vislex bench retrieval --model siglip-tiny                        recall at 1, 5, 10 in both directions
    vislex bench latency -m runs/a -m runs/b --batch-sizes 1,16       the same number of tokens on both sides
    vislex bench probe -e siglip-tiny -e siglip-tiny@untrained        what frozen features hold of the suite's factors
    vislex bench reconstruction -m runs/vilex --size 2000             what is drawn from 1, 4, 16 ... tokens
    vislex bench vqa -m runs/vlm --blind runs/vlm                     accuracy by question type, floors, intervals
    vislex bench segmentation -m runs/vlm --size 500                  cIoU, mIoU, against filling the same boxes
    vislex bench reproduce ladic -m runs/paper --data coco:data/coco  our scores beside the published ones
    vislex bench lmms vislex_openmoji_vqa pope -m runs/vlm --limit 50 tasks of lmms-eval (pip install 'vislex[eval]')
    vislex bench lmms vislex_refcoco_res -m runs/vlm --data refcoco:data/refcoco

    Results with per-image scores and provenance are appended to --out; 'vislex report' makes a page of them.
    """
    if task not in TASKS:
        raise UnknownNameError(f"unknown benchmark '{task}'{did_you_mean(task, TASKS)} Allowed are {', '.join(TASKS)}")
    if names and (task not in ("reproduce", "lmms") or (task == "reproduce" and len(names) > 1)):
        raise ConfigError(f"'vislex bench {task}' takes no '{names[-1]}'; give models by --model")
    if encoder and task != "probe":
        raise ConfigError(f"'vislex bench {task}' takes no --encoder; give models by --model")
    if blind and task != "vqa":
        raise ConfigError(f"'vislex bench {task}' takes no --blind; it is for 'vislex bench vqa'")
    if data_option and task not in ("captioning", "retrieval", "vqa", "segmentation"):
        raise ConfigError(f"'vislex bench {task}' takes no --data-option")
    if limit is not None and task != "lmms":
        raise ConfigError(f"'vislex bench {task}' takes no --limit; write --size {limit}")
    if task == "lmms":
        from vislex.cli.bench_lmms import lmms

        given = {name for name in ("split", "size", "data", "num_beams") if _is_given(context, name)}
        if wrong := given & {"split", "size"}:
            raise ConfigError(f"'vislex bench lmms' takes no --{min(wrong)}: tasks name their split; --limit cuts them")
        lmms(
            names or [],
            model or [],
            data=data if "data" in given else None,
            limit=limit,
            generation={
                "num_beams": num_beams if "num_beams" in given else None,
                "max_new_tokens": max_new_tokens,
            },
            option=option or [],
            out=out,
            json=json,
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            seed=seed,
        )
        return
    from vislex.config import parse_overrides

    rows: dict[str, Any] = {"split": split, "size": size or 1000, "seed": seed, "n_images": images}
    rows |= parse_overrides(data_option or [])
    if task in ("vqa", "segmentation"):
        from vislex.cli import bench_vlm

        asked = {"data": data, **rows}
        settings: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "option": option or []}
        running: dict[str, Any] = {"device": device, "dtype": dtype, "batch_size": batch_size, "out": out, "json": json}
        if task == "vqa":
            bench_vlm.vqa(model or [], blind or [], asked, settings, bounds, **running)
        else:
            bench_vlm.segmentation(model or [], asked, settings, bounds, **running)
        return
    if task in ("probe", "reconstruction"):
        from vislex.cli import bench_images

        overrides = [f"split={split}", *([] if size is None else [f"size={size}"]), *(option or [])]
        shared: dict[str, Any] = {"out": out, "device": device, "batch_size": batch_size, "json": json}
        if task == "probe":
            bench_images.probe(encoder or [], overrides, **shared)
        else:
            bench_images.reconstruction(model or [], overrides, seed=seed, **shared)
        return
    models = list(model or []) if task == "reproduce" else model or _shipped(task)
    options: dict[str, Any] = {"device": device, "dtype": dtype, "seed": seed, "batch_size": batch_size}
    if task == "latency":
        sizes = _sizes(batch_sizes)
        runs = _latency(models, sizes, new_tokens, repeats, num_beams, **options)
        record: DataRecord | None = None
    elif task == "reproduce":
        _reproduce(names[0] if names else None, models, data, size, out, json, **options)
        return
    else:
        from vislex.benchmarks.caption_data import load_caption_data

        loaded = load_caption_data(data, **rows)
        record = loaded.record
        if task == "retrieval":
            runs = _retrieval(models, loaded, **options)
        else:
            generation = {
                "num_beams": num_beams,
                "max_new_tokens": max_new_tokens,
                "prompt": prompt,
                "options": parse_overrides(option or []),
            }
            runs = _captioning(models, loaded, generation, bounds, **options)
    _show(task, runs, record, out, json)


def _captioning(
    names: Sequence[str], data: CaptionData, generation: Mapping[str, Any], bounds: bool, *,
    device: str, dtype: str, seed: int, batch_size: int,
) -> list[Run]:  # fmt: skip
    import torch

    from vislex.benchmarks.caption_opening import open_caption_model
    from vislex.benchmarks.captioning import Generation, bound_runs, evaluate

    drawn = {"seed": seed} if seed else {}  # 0 is every decoder's own
    settings = Generation(**{**generation, "options": {**drawn, **generation["options"]}})
    runs = []
    for name in names:
        torch.manual_seed(seed)
        model = open_caption_model(name, device=device, dtype=dtype)
        with progress(f"captioning {name}", len(data)) as advance:
            runs.append(evaluate(model, data, generation=settings, batch_size=batch_size, on_progress=advance))
    rows = Counter(run.model.row for run in runs)
    for name, run in zip(names, runs, strict=True):
        if rows[run.model.row] > 1:  # of the same parts: their folders tell them apart
            run.model = run.model.model_copy(update={"row": f"{run.model.row} ({Path(name).name})"})
    return runs + (bound_runs(data) if bounds else [])


def _reproduce(
    paper: str | None, names: list[str], data: str, size: int | None, out: Path | None, json: bool, **options: Any
) -> None:
    from vislex.benchmarks.caption_data import load_caption_data
    from vislex.benchmarks.reproduce import comparison, reproducible
    from vislex.benchmarks.results import ResultsFile

    wanted = reproducible(paper, data, names)
    loaded = load_caption_data(data, split=wanted.split, size=size or wanted.size, seed=options["seed"], n_images=0)
    rows = []
    for row, settings in wanted.settings.items():
        for run in _captioning(names, loaded, {"options": settings}, False, **options):
            rows += comparison(wanted, row, run)
            if out is not None:
                ResultsFile(out if out.suffix == ".json" else out / "results.json").append(run, loaded.record)
    columns = ["model", "row", "metric", "published", "ours", "difference", "evaluations"]
    print_table(rows, columns, json, title=f"{wanted.source}; {data} {wanted.split}, n = {len(loaded)}; scores x 100")


def _retrieval(
    names: list[str], data: CaptionData, *, device: str, dtype: str, seed: int, batch_size: int
) -> list[Run]:
    from vislex.benchmarks.retrieval import evaluate

    return [evaluate(name, data, device=device, dtype=dtype, batch_size=batch_size) for name in names]


def _latency(
    names: list[str], sizes: list[int], new_tokens: int, repeats: int, num_beams: int, *, device: str, dtype: str,
    seed: int, batch_size: int,
) -> list[Run]:  # fmt: skip
    from vislex.benchmarks.caption_opening import open_caption_model
    from vislex.benchmarks.latency import measure

    return [
        measure(
            open_caption_model(name, device=device, dtype=dtype),
            batch_sizes=sizes,
            new_tokens=new_tokens,
            repeats=repeats,
            num_beams=num_beams,
            seed=seed,
        )
        for name in names
    ]


def _show(task: str, runs: list[Run], record: DataRecord | None, out: Path | None, json: bool) -> None:
    from vislex.benchmarks.results import Results, ResultsFile
    from vislex.benchmarks.summary import summarise

    results = Results()
    for run in runs:
        results.add(run, record)
    if task == "latency":
        rows = [{"row": run.model.row, **entry} for run in runs for entry in run.table]
    else:
        rows = [row.as_dict() for row in summarise(results, record, task)]
    shown = [column for column in COLUMNS[task] if any(row.get(column) is not None for row in rows)]
    where = f"{record.name} {record.split}, n = {len(record.ids)}; scores on the official scales" if record else None
    print_table(rows, shown, json, title=where)
    if out is not None:
        file = ResultsFile(out if out.suffix == ".json" else out / "results.json")
        for run in runs:
            file.append(run, record)
        if not json:
            say(f"results: {file.path}")


def _shipped(task: str) -> list[str]:
    from vislex.shipped import shipped_models

    names = ["siglip-tiny"] if task == "retrieval" else shipped_models("captioner-*")
    if not names:
        raise ConfigError(f"no model given; write 'vislex bench {task} --model FOLDER'")
    return names


def _sizes(text: str) -> list[int]:
    sizes = [int(word) if word.strip().isdigit() else 0 for word in text.split(",")]
    if not all(sizes):
        raise ConfigError(f"--batch-sizes is '{text}'; write positive numbers with commas, e.g. 1,16,64")
    return sizes


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option was written, not left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
