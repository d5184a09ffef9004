"""``vislex reconstruct``: draws images from a few ViLex tokens, side by side with the originals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vislex.cli.console import print_json, print_table, say
from vislex.cli.options import BatchSize, Device, DType, Json, Seed
from vislex.errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vislex.vilex import ViLex

__all__ = ["DEFAULT_MODEL", "command"]

DEFAULT_MODEL = "vilex-siglip-tiny"


def command(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders and quoted patterns.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A ViLex model's folder, or the name of a shipped one.")
    ] = DEFAULT_MODEL,
    tokens: Annotated[str, typer.Option("--tokens", help="Budgets, one column each: 1,4,16.")] = "1,4,16",
    prompt: Annotated[str | None, typer.Option("--prompt", help="Text that stands with the tokens.")] = None,
    tfg: Annotated[
        float, typer.Option("--tfg", min=0, help="Text-free guidance: 0 image alone, 1 both, more pushes the text.")
    ] = 1.0,
    guidance: Annotated[
        float, typer.Option("--guidance", min=0, help="Guidance by the image against the empty prompt; 1 is none.")
    ] = 1.0,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Denoising steps.")] = 30,
    t2i: Annotated[
        str | None, typer.Option("--t2i", help="Another text-to-image model with the same text encoder.")
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Show each token's nearest words and its length.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Picture to write.")] = Path("reconstruction.png"),
    batch_size: BatchSize = 16,
    device: Device = "auto",
    dtype: DType = "float32",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a sheet: original | 1 token | 4 tokens | ...

    \b
    vislex reconstruct photo.jpg --model runs/vilex --tokens 1,4,16
    vislex reconstruct photo.jpg --prompt "a watercolour" --tfg 1.5
    """
    from vislex.data.images import expand_images, load_image

    budgets = _budgets(tokens)
    if tfg != 1.0 and prompt is None:
        raise ConfigError("--tfg weighs the text of --prompt, which was not given")
    if out.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise ConfigError(f"--out '{out}' must end in .png, .jpg or .webp")
    paths = expand_images(images)
    originals = [load_image(path) for path in paths]
    vilex = _load(model, t2i, device, dtype)
    sheet = vilex.reconstruction_sheet(
        originals,
        budgets,
        prompt=prompt,
        tfg=tfg,
        guidance_scale=guidance,
        seed=seed,
        num_inference_steps=steps,
        batch_size=batch_size,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    rows = _word_rows(vilex, paths, originals, max(budgets)) if words else []
    if json:
        print_json({"sheet": str(out), "images": [str(path) for path in paths], "tokens": budgets, "words": rows})
        return
    if rows:
        print_table(rows, ["image", "token", "words", "similarity", "length"])
    say(f"sheet written to {out}")


def _budgets(tokens: str) -> list[int]:
    counts = [int(word) if word.strip().isdigit() else 0 for word in tokens.split(",")]
    if not all(count > 0 for count in counts):
        raise ConfigError(f"--tokens '{tokens}' must be counts above 0, such as 1,4,16")
    return counts


def _load(model: str, t2i: str | None, device: str, dtype: str) -> ViLex:
    """Opens a folder, else a shipped model, with its text-to-image model or another."""
    from vislex.hardware import resolve_device, resolve_dtype
    from vislex.shipped import model_folder
    from vislex.vilex import ViLex

    target = resolve_device(device)
    number_format = resolve_dtype(dtype, target)
    vilex: ViLex = ViLex.from_pretrained(model_folder(model))
    if t2i is not None:
        vilex.attach(t2i, other=True)
    _ = vilex.t2i  # opened before the cast, so that both have one number format
    return vilex.to(device=target, dtype=number_format).eval()


def _word_rows(vilex: ViLex, paths: list[Path], images: list[Image], budget: int) -> list[dict[str, Any]]:
    """One row a token and text encoder: its nearest words, their similarity, and its length in words' lengths."""
    rows = []
    for path, encoders in zip(paths, vilex.nearest_words(images, n_tokens=budget), strict=True):
        for found in encoders:
            for place, token in enumerate(found, start=1):
                rows.append(
                    {
                        "image": path.name,
                        "token": place,
                        "words": ", ".join(token.words),
                        "similarity": token.similarities[0],
                        "length": token.norm / token.word_norm,
                    }
                )
    return rows
