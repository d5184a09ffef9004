"""``vislex ask``: questions on images, answered by a vision-language model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from vislex.cli.console import print_json, say
from vislex.cli.options import BatchSize, Device, DType, GenerationOptions, Json, NTokens, NumBeams, Seed, VlmFolder

__all__ = ["DEFAULT_MODEL", "command"]

DEFAULT_MODEL = "vlm"


def command(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.")],
    questions: Annotated[list[str], typer.Argument(metavar="QUESTION...", help="One question or more, quoted.")],
    model: VlmFolder = DEFAULT_MODEL,
    also: Annotated[
        list[str] | None, typer.Option("--also", help="A further image of the same question. Repeatable.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="What stands before the question.")] = None,
    n_tokens: NTokens = None,
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", min=1, help="Most tokens of an answer.")] = 64,
    num_beams: NumBeams = 1,
    option: GenerationOptions = None,
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: DType = "float32",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Ask questions about an image.

    \b
    vislex ask scene.png "what color is the background?"                       the small model that ships
    vislex ask photo.jpg "What is left of the dog?" --model runs/vlm
    vislex ask photo.jpg "how many kites?" "what colour is the background?"    several questions
    vislex ask before.jpg "What has changed?" --also after.jpg                 several images of one question
    """
    import torch

    from vislex.adapters.merging import open_vlm
    from vislex.config import parse_overrides
    from vislex.data.images import load_image
    from vislex.hardware import resolve_device, resolve_dtype

    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "num_beams": num_beams}
    options |= parse_overrides(option or [])
    images = [load_image(path) for path in [image, *(also or [])]]
    target = resolve_device(device)
    opened = open_vlm(model, dtype=resolve_dtype(dtype, target)).to(target)
    torch.manual_seed(seed)
    answers = opened.ask(
        [images] * len(questions), questions, system=system, n_tokens=n_tokens, batch_size=batch_size, **options
    )
    if json:
        print_json([{"question": asked, **asdict(answer)} for asked, answer in zip(questions, answers, strict=True)])
        return
    for answer in answers:
        say(answer.text)
