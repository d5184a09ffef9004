"""Captioning throughput of ``cross_attention`` against transformers' ``BlipForConditionalGeneration``.

Both sides have BLIP-base's sizes (ViT-B/16 at 224 pixels, a text decoder of 12 layers, width 768), random weights,
the same dtype and threads, caches on, and write exactly 20 new tokens greedily. Calls alternate, so that whatever else
the machine does falls on both:

    python -m vislex.benchmarks.captioning_throughput [--runs 5] [--batch-sizes 1,16] [--json] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import BlipConfig, BlipForConditionalGeneration

from vislex.benchmarks.interleaved import interleave
from vislex.captioner import Captioner
from vislex.encoders.factory import create_encoder
from vislex.provenance import collect

__all__ = ["build_blip", "build_vislex", "compare", "main"]

RESULTS = Path(__file__).parent / "results" / "captioning_throughput.json"
NEW_TOKENS = 20


def build_vislex(
    *, encoder: str = "timm:vit_base_patch16_224", hidden_size: int = 768, num_layers: int = 12
) -> Captioner:
    """A captioner of BLIP-base's sizes (196 vision tokens: vislex drops the CLS token, which BLIP keeps)."""
    torch.manual_seed(0)
    return Captioner.from_parts(
        encoder=create_encoder(encoder),
        decoder="cross_attention",
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=hidden_size // 64,
    ).eval()


def build_blip(*, image_size: int = 224, hidden_size: int = 768, num_layers: int = 12) -> BlipForConditionalGeneration:
    """BLIP-base with random weights, its text decoder with heads of 64 as in the released checkpoints."""
    torch.manual_seed(0)
    shape = {
        "hidden_size": hidden_size,
        "intermediate_size": 4 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": hidden_size // 64,
    }
    config = BlipConfig(
        text_config={**shape, "encoder_hidden_size": hidden_size}, vision_config={**shape, "image_size": image_size}
    )
    return BlipForConditionalGeneration(config).eval()


def _blip_decode(blip: BlipForConditionalGeneration, image_embeds: Tensor, **options: Any) -> Tensor:
    """BLIP's ``generate`` behind its vision tower."""
    text = blip.config.text_config
    return blip.text_decoder.generate(
        input_ids=torch.full((image_embeds.shape[0], 1), text.bos_token_id),
        eos_token_id=text.sep_token_id,
        pad_token_id=text.pad_token_id,
        encoder_hidden_states=image_embeds,
        encoder_attention_mask=torch.ones(image_embeds.shape[:2], dtype=torch.long),
        **options,
    )


@torch.no_grad()
def compare(
    captioner: Captioner,
    blip: BlipForConditionalGeneration,
    *,
    batch_sizes: Sequence[int] = (1, 16),
    runs: int = 5,
    new_tokens: int = NEW_TOKENS,
) -> list[dict[str, Any]]:
    """Times both sides in turn.

    Args:
        captioner: Our side.
        blip: The other, of the same dtype.
        batch_sizes: Images a call.
        runs: Timed calls of each side; one more is not timed.
        new_tokens: Tokens that each caption gets, no more and no fewer.

    Returns:
        One row a batch size and scope ("decoding", "encoding + decoding"): median seconds of both sides, the quotient
        of the medians (above 1: vislex is faster), the quotients of the single pairs, and the quotient of the CPU
        times, which other work on the machine hardly touches when there is one thread.
    """
    options: dict[str, Any] = {
        "max_new_tokens": new_tokens,
        "min_new_tokens": new_tokens,
        "do_sample": False,
        "num_beams": 1,
    }
    rows = []
    for batch_size in batch_sizes:
        pixels = torch.randn(batch_size, 3, *captioner.encoder.spec.image_size, dtype=captioner.dtype)
        vision = captioner.encode(pixels)
        image_embeds = blip.vision_model(pixels).last_hidden_state
        scopes: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
            "decoding": (
                partial(captioner.generate, vision_tokens=vision, **options),
                partial(_blip_decode, blip, image_embeds, **options),
            ),
            "encoding + decoding": (
                partial(captioner.generate, pixels, **options),
                partial(blip.generate, pixels, **options),
            ),
        }
        for scope, sides in scopes.items():
            _check(sides, (batch_size, new_tokens + 1))
            (ours, our_cpu), (theirs, their_cpu) = interleave(sides, runs)
            rows.append(
                {
                    "batch size": batch_size,
                    "scope": scope,
                    "vislex seconds": statistics.median(ours),
                    "BLIP seconds": statistics.median(theirs),
                    "ratio": statistics.median(theirs) / statistics.median(ours),
                    "ratios": [b / a for a, b in zip(ours, theirs, strict=True)],
                    "CPU time ratio": statistics.median(their_cpu) / statistics.median(our_cpu),
                    "vislex captions a second": batch_size / statistics.median(ours),
                }
            )
    return rows


def _check(sides: Sequence[Callable[[], Tensor]], shape: tuple[int, int]) -> None:
    """A first call of each side, not timed: both must write what is asked for."""
    for side in sides:
        if (found := tuple(side().shape)) != shape:
            raise RuntimeError(f"a side gave captions of shape {found} instead of {shape}: nothing can be compared")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison, prints it and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="timed calls of each side")
    parser.add_argument("--batch-sizes", default="1,16", help="images a call")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    given = parser.parse_args(arguments)
    dtype = getattr(torch, given.dtype)
    captioner, blip = build_vislex().to(dtype), build_blip().to(dtype)
    sizes = [int(size) for size in given.batch_sizes.split(",")]
    rows = compare(captioner, blip, batch_sizes=sizes, runs=given.runs)
    parameters = {
        "vislex": sum(parameter.numel() for parameter in captioner.parameters()),
        "BLIP": sum(parameter.numel() for parameter in blip.parameters()),
    }
    settings = {"runs": given.runs, "new_tokens": NEW_TOKENS, "decoding": "greedy", "weights": "random"}
    provenance = collect(config=settings, seed=0, device="cpu", dtype=given.dtype, parameters=parameters)
    result = {"benchmark": "captioning_throughput", "provenance": provenance, "rows": rows}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console = Console(highlight=False)
    if given.json:
        console.print_json(data=result)
        return
    for row in rows:
        console.print(
            f"batch {row['batch size']:>2}, {row['scope']}: vislex {row['vislex seconds']:.3f} s, "
            f"BLIP {row['BLIP seconds']:.3f} s, ratio {row['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
