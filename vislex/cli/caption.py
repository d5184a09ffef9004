"""``vislex caption``: captions files, folders and globs; writes as it goes, resumes, and passes over bad images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vislex.cli.console import error_console, print_json, say
from vislex.cli.options import BatchSize, Device, DType, Json, Seed
from vislex.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vislex.captioner import Captioner

__all__ = ["DEFAULT_MODEL", "command"]

DEFAULT_MODEL = "captioner-cross-attention"


def command(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders and quoted patterns.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A captioner's folder, or the name of a shipped one.")
    ] = DEFAULT_MODEL,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSONL file to write; a second call skips the images it holds.")
    ] = None,
    num_beams: Annotated[int, typer.Option("--num-beams", min=1, help="Beams; 1 is greedy.")] = 1,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Most word pieces a caption; default: the model's.")
    ] = None,
    template: Annotated[
        str | None, typer.Option("--template", help='Caption with blanks to fill in: "a ___ on a ___ table".')
    ] = None,
    blank_lengths: Annotated[
        str | None, typer.Option("--blank-lengths", help="Word pieces of the blanks, e.g. 1,2; default: one word each.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", help="key=value of the decoder, e.g. num_candidates=8 do_sample=true. Repeatable."),
    ] = None,
    trace: Annotated[bool, typer.Option("--trace", help="Show the words after every step of the decoder.")] = False,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: DType = "float32",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Caption images. A bad image is reported and passed over; if all are bad, the exit code is 2.

    \b
    vislex caption photo.jpg 'pictures/*.png' --out captions.jsonl
    vislex caption photo.jpg -m captioner-masked --trace              how the caption came about
    vislex caption photo.jpg --option do_sample=true --option num_candidates=8    the consensus of eight
    vislex caption photo.jpg --template "a ___ on a ___ background"
    """
    from vislex.config import parse_overrides
    from vislex.data.images import expand_images
    from vislex.data.jsonl import JsonlWriter

    options = {
        **_options(template, blank_lengths, num_beams, max_new_tokens, trace),
        **parse_overrides(option or []),
    }
    paths = expand_images(images)
    with ExitStack() as stack:
        writer = stack.enter_context(JsonlWriter(out)) if out is not None else None
        waiting = [path for path in paths if writer is None or str(path) not in writer]
        if writer is not None and len(waiting) < len(paths):
            error_console.print(
                f"{len(paths) - len(waiting)} of {len(paths)} images are already in {out}", markup=False
            )
        rows: list[dict[str, Any]] = []
        failed: list[ImageError] = []
        if waiting:
            captioner = _load(model, device, dtype)
            if template is None or captioner.decoder.any_order:
                options.setdefault("seed", seed)
            numbered = [(number, path) for number, path in enumerate(paths) if path in waiting]
            for row in _caption(captioner, numbered, batch_size, options, failed):
                rows.append(row)
                if writer is not None:
                    writer.write(row)
                elif not json:
                    _print_steps(row.get("trace", []))
                    say(f"{row['id']}\t{row['caption']}")
    if json:
        print_json(rows)
    elif out is not None:
        say(f"{len(rows)} captions written to {out}")
    if failed:
        summary = f"{len(failed)} of {len(waiting)} images could not be read"
        if len(failed) == len(waiting):
            raise ImageError(f"{summary}; the first: {failed[0]}")
        error_console.print(f"{summary}; the others are captioned", markup=False)


def _options(
    template: str | None, blank_lengths: str | None, num_beams: int, max_new_tokens: int | None, trace: bool
) -> dict[str, Any]:
    """Options of ``Captioner.caption``, or with a template of ``Captioner.infill``."""
    if template is None:
        if blank_lengths is not None:
            raise ConfigError("--blank-lengths belongs to --template, which was not given")
        given = {"num_beams": num_beams, "max_new_tokens": max_new_tokens, "trace": trace or None}
        return {name: value for name, value in given.items() if value is not None}
    if num_beams != 1 or max_new_tokens is not None or trace:
        raise ConfigError("--template fixes the length and takes neither --num-beams, --max-new-tokens nor --trace")
    if blank_lengths is None:
        return {"templates": template}
    counts = [int(word) if word.strip().isdigit() else 0 for word in blank_lengths.split(",")]
    return {"templates": template, "blank_lengths": counts[0] if len(counts) == 1 else counts}


def _load(model: str, device: str, dtype: str) -> Captioner:
    """Opens a folder, else a shipped captioner."""
    from vislex.captioner import Captioner
    from vislex.hardware import resolve_device, resolve_dtype
    from vislex.shipped import model_folder

    target = resolve_device(device)
    number_format = resolve_dtype(dtype, target)
    folder = model_folder(model)
    captioner: Captioner = Captioner.from_pretrained(folder, dtype=number_format)
    return captioner.to(target).eval()


def _caption(
    captioner: Captioner,
    paths: Sequence[tuple[int, Path]],
    batch_size: int,
    options: dict[str, Any],
    failed: list[ImageError],
) -> Iterator[dict[str, Any]]:
    """Rows of the numbered images that can be read, a batch at a time; the errors of the others go to ``failed``."""
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("captioning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=error_console, disable=not error_console.is_terminal, transient=True) as progress:
        task = progress.add_task("captioning", total=len(paths))
        for start in range(0, len(paths), batch_size):
            batch = list(_read(paths[start : start + batch_size], failed))
            if batch:
                write = captioner.infill if "templates" in options else captioner.caption
                numbers, names, images = zip(*batch, strict=True)
                captions = write(list(images), batch_size=batch_size, indices=torch.tensor(numbers), **options)
                for path, caption in zip(names, captions, strict=True):
                    yield {
                        "id": str(path),
                        "caption": caption.text,
                        "evaluations": caption.evaluations,
                        "seconds": round(caption.seconds, 6),
                        **({"trace": [asdict(step) for step in caption.trace]} if caption.trace else {}),
                    }
            progress.update(task, completed=min(start + batch_size, len(paths)))


def _print_steps(steps: Sequence[Mapping[str, Any]]) -> None:
    """Writes the words after each step, those that changed highlighted."""
    if not steps:
        return
    from rich.text import Text

    from vislex.cli.console import console
    from vislex.decoders.trace import HIDDEN

    console.print(Text("step  left  words", style="bold"))
    for number, step in enumerate(steps, start=1):
        line = Text.assemble((f"{number:>4}  {100 * step['time']:>3.0f}% ", "dim"))
        for word, changed in zip(step["words"], step["changed"], strict=True):
            line.append(" ").append(word, style="bold green" if changed else "dim" if word == HIDDEN else "")
        console.print(line)


def _read(paths: Sequence[tuple[int, Path]], failed: list[ImageError]) -> Iterator[tuple[int, Path, Image]]:
    from vislex.data.images import load_image

    for number, path in paths:
        try:
            yield number, path, load_image(path)
        except ImageError as error:
            failed.append(error)
            error_console.print(f"skipped: {error}", markup=False)
