"""``vislex segment``: what an expression refers to, as a mask drawn over the image."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vislex.cli.ask import DEFAULT_MODEL
from vislex.cli.console import print_json, say
from vislex.cli.options import BatchSize, Device, DType, GenerationOptions, Json, NTokens, NumBeams, Seed, VlmFolder
from vislex.errors import ConfigError

__all__ = ["command"]


def command(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.")],
    expressions: Annotated[
        list[str], typer.Argument(metavar="EXPR...", help="What to mark, quoted; several get a colour each.")
    ],
    model: VlmFolder = DEFAULT_MODEL,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Picture to write; IMAGE with '-segmented.png' by default.")
    ] = None,
    codec: Annotated[
        str | None, typer.Option("--codec", help="How the model writes masks; as it was trained by default.")
    ] = None,
    n_tokens: NTokens = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer.")] = 256,
    num_beams: NumBeams = 1,
    option: GenerationOptions = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: DType = "float32",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Mark what an expression refers to.

    \b
    vislex segment scene.png "the fox at the bottom"   by the small model that ships
    vislex segment desk.jpg "the red mug on the left" --model runs/vlm --out overlay.png
    vislex segment desk.jpg "the mug" "the pen"        two expressions, two colours
    vislex segment desk.jpg "the mug" --json           boxes, areas, and the text that the model wrote
    """
    import torch

    from vislex.adapters.merging import open_vlm
    from vislex.config import parse_overrides
    from vislex.data.images import load_image
    from vislex.hardware import resolve_device, resolve_dtype
    from vislex.segmentation.overlay import draw_masks

    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    options |= parse_overrides(option or [])
    opened = load_image(image)
    target = out or Path(image).with_name(f"{Path(image).stem}-segmented.png")
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise ConfigError(f"--out is '{target}'; write a .png, .jpg or .webp")
    place = resolve_device(device)
    vlm = open_vlm(model, dtype=resolve_dtype(dtype, place)).to(place)
    torch.manual_seed(seed)
    found = vlm.segment(opened, expressions, codec=codec, n_tokens=n_tokens, batch_size=batch_size, **options)
    target.parent.mkdir(parents=True, exist_ok=True)
    draw_masks(opened, [own.mask for own in found], expressions).save(target)
    if json:
        print_json([{**_plain(own), "overlay": str(target)} for own in found])
        return
    for own in found:
        if own.invalid is not None:
            say(f"{own.expression}: no mask ({own.invalid})")
        else:
            assert own.mask is not None
            say(f"{own.expression}: {len(own.decoded.segments)} marked, {own.mask.mean():.1%} of the image")
    say(str(target))


def _plain(found: Any) -> dict[str, Any]:
    """A segmentation as JSON values: boxes are y1, x1, y2, x2 in pixels."""
    return {
        "expression": found.expression,
        "text": found.text,
        "invalid": found.invalid,
        "boxes": [list(map(int, own.box)) for own in found.decoded.segments],
        "pixels": 0 if found.mask is None else int(found.mask.sum()),
        "size": list(found.decoded.size),
        "new_tokens": found.new_tokens,
        "seconds": found.seconds,
    }
