"""``vislex encode``: the tokens that an encoder gives for images, saved as safetensors."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vislex.cli.console import error_console, print_error, print_table, say
from vislex.cli.options import BatchSize, Device, DType, Json, Seed
from vislex.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from PIL import Image

    from vislex.encoders.base import VisionEncoder
    from vislex.specs import VisionTokens

__all__ = ["command"]


def command(
    images: Annotated[list[str], typer.Argument(help="Image files, folders and glob patterns.")],
    encoder: Annotated[str, typer.Option("--encoder", help="A name of 'vislex list encoders', timm:NAME, hf:DIR ...")],
    out: Annotated[Path, typer.Option("--out", help="File to write, FILE.safetensors.")],
    layer: Annotated[int | None, typer.Option("--layer", help="Take the tokens from this layer.")] = None,
    untrained: Annotated[bool, typer.Option("--untrained", help="Random weights, drawn with --seed.")] = False,
    device: Device = "auto",
    dtype: DType = "auto",
    batch_size: BatchSize = 32,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Save the tokens that an encoder gives for images.

    The file holds "tokens" [images, tokens, width], "pooled" and "mask" where the encoder gives them, and as metadata
    the encoder's name, spec and source and the list of images. An image that cannot be read is reported and left out;
    the exit code then is 2.
    """
    import torch

    from vislex.data.images import expand_images
    from vislex.encoders.encode import encode_images
    from vislex.encoders.factory import create_encoder
    from vislex.hardware import resolve_device, resolve_dtype

    if out.suffix != ".safetensors":
        raise ConfigError(f"--out '{out}' must end in .safetensors")
    if not out.parent.is_dir():
        raise ConfigError(f"--out '{out}': there is no folder '{out.parent}'")
    place = resolve_device(device)
    paths = expand_images(images)
    torch.manual_seed(seed)
    options: dict[str, Any] = {} if layer is None else {"layer": layer}
    model = create_encoder(encoder, pretrained=not untrained, **options)
    read: list[Path] = []
    errors: list[str] = []
    start = time.perf_counter()
    with _progress(len(paths)) as advance:
        pixels = _open(paths, read, errors, advance)
        first = next(pixels, None)
        if first is None:
            raise ImageError(f"none of {len(paths)} images can be read; the first: {errors[0]}")
        encoded = encode_images(
            model, _chain(first, pixels), batch_size=batch_size, device=place, dtype=resolve_dtype(dtype, place)
        )
    seconds = time.perf_counter() - start
    _save(out, model, encoded, read)
    rows = [{"image": str(path), "row": row} for row, path in enumerate(read)]
    rows += [{"image": None, "error": error} for error in errors]
    if json:
        print_table(rows, ["image", "row", "error"], json=True)
    else:
        shape = "x".join(str(side) for side in encoded.tokens.shape)
        say(f"{out}: {shape} tokens ({encoded.tokens.dtype}) of {encoder}, {len(read) / seconds:.3g} images/s")
    for error in errors:
        print_error(error)
    if errors:
        raise typer.Exit(2)


class _progress:  # noqa: N801 (reads as a function)
    """A progress bar on stderr, gone when done; nothing where stderr is no terminal."""

    def __init__(self, total: int) -> None:
        from rich.progress import Progress

        self._bar = Progress(console=error_console, transient=True, disable=not error_console.is_terminal)
        self._task = self._bar.add_task("encoding", total=total)

    def __enter__(self) -> _progress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self) -> None:
        self._bar.advance(self._task)


def _open(paths: list[Path], read: list[Path], errors: list[str], advance: _progress) -> Iterator[Image.Image]:
    from vislex.data.images import load_image

    for path in paths:
        try:
            image = load_image(path)
        except ImageError as error:
            errors.append(str(error))
            continue
        finally:
            advance()
        read.append(path)
        yield image


def _chain(first: Image.Image, rest: Iterator[Image.Image]) -> Iterator[Image.Image]:
    yield first
    yield from rest


def _save(out: Path, encoder: VisionEncoder, encoded: VisionTokens, paths: list[Path]) -> None:
    from safetensors.torch import save_file

    named = {"tokens": encoded.tokens, "mask": encoded.mask, "pooled": encoded.pooled}
    metadata = {
        "encoder": encoder.config.name or "",
        "spec": json_module.dumps(encoder.spec.to_dict()),
        "source": json_module.dumps(encoder.config.source),
        "images": json_module.dumps([str(path) for path in paths]),
    }
    save_file({key: value.contiguous() for key, value in named.items() if value is not None}, out, metadata=metadata)
