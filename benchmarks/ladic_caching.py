"""What it saves to compute once what does not change from step to step, against the loop of the reference release.

The naive loop has the same weights and gives the same captions, but encodes the image in every call of the network,
also for the pass without image, computes the cross-attention's keys and values anew and makes the two passes of
guidance one after the other. A second comparison gives the naive loop the encoded image. Random weights of BLIP-base's
sizes at 224 pixels; calls alternate.

    OMP_NUM_THREADS=1 python -m vislex.benchmarks.ladic_caching [--steps 30] [--runs 3] [--batch-size 1] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from vislex.benchmarks.ladic_arms import CACHING_TARGET, judge_caching
from vislex.benchmarks.ladic_latency import SCALES, build
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.diffusion.noise import NoiseSchedule
from vislex.encoders.base import VisionEncoder
from vislex.encoders.factory import create_encoder
from vislex.modules.denoiser import VisionState
from vislex.provenance import collect

__all__ = ["NaiveLadic", "compare", "main"]

RESULTS = Path(__file__).parent / "results" / "ladic_caching.json"


class NaiveLadic(LadicDecoder):
    """LaDiC that keeps nothing between two calls of the network.

    Attributes:
        encoder: Runs in every call; None where the vision tokens are given.
        image: float[B, 3, H, W], or the vision tokens float[B, N, D].
    """

    encoder: VisionEncoder | None = None
    image: Tensor

    @classmethod
    def of(cls, decoder: LadicDecoder, encoder: VisionEncoder | None) -> NaiveLadic:
        """The same weights; the encoder is no part of the module."""
        naive = cls(decoder.config).eval()
        naive.load_state_dict(decoder.state_dict(), assign=True)
        naive.__dict__["encoder"] = encoder
        return naive

    def denoise(
        self,
        x: Tensor,
        timesteps: Tensor,
        previous: Tensor | None,
        state: VisionState,
        schedule: NoiseSchedule,
        token_mask: Tensor | None = None,
    ) -> Tensor:
        """One pass with the images and, where the state has rows without them, another one."""
        answers = []
        for is_dropped in (False, True)[: len(state) // len(x)]:
            tokens = self.image if self.encoder is None else self.encoder(self.image).tokens
            dropped = torch.full((len(x),), is_dropped)
            anew = self.denoiser.vision_state(self._project(tokens), dropped)
            self.codec._mixture = None
            answers.append(super().denoise(x, timesteps, previous, anew, schedule, token_mask))
        return torch.cat(answers)


@torch.no_grad()
def compare(
    encoder: VisionEncoder, decoder: LadicDecoder, *, steps: int = 30, runs: int = 3, batch_size: int = 1
) -> list[dict[str, Any]]:
    """Times both loops in turn.

    Args:
        encoder: Image encoder.
        decoder: LaDiC for its tokens.
        steps: Guided steps.
        runs: Timed calls of each side, after one that warms up and checks the captions.
        batch_size: Images.

    Returns:
        Two rows ("from pixels", "from features"): medians of "seconds" and CPU seconds of both sides, their "ratio"
        (above 1: caching is faster) and whether the captions are "identical".
    """
    pixels = torch.randn(batch_size, 3, *encoder.spec.image_size, dtype=decoder.dtype)
    options = {"num_inference_steps": steps, "guidance_scale": 1.0, "length": 24}
    rows = []
    for scope in ("from pixels", "from features"):
        features = encoder(pixels).tokens
        naive = NaiveLadic.of(decoder, encoder if scope == "from pixels" else None)
        naive.image = pixels if scope == "from pixels" else features

        def cached(scope: str = scope, features: Tensor = features) -> Tensor:
            return decoder.generate(
                vision_tokens=encoder(pixels).tokens if scope == "from pixels" else features, **options
            )

        def plain(naive: NaiveLadic = naive, features: Tensor = features) -> Tensor:
            return naive.generate(vision_tokens=features, **options)

        sides = {"cached": cached, "naive": plain}
        captions = {name: side() for name, side in sides.items()}
        wall: dict[str, list[float]] = {name: [] for name in sides}
        cpu: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(runs):
            for name, side in sides.items():
                start, start_cpu = time.perf_counter(), time.process_time()
                side()
                wall[name].append(time.perf_counter() - start)
                cpu[name].append(time.process_time() - start_cpu)
        middle = {name: statistics.median(times) for name, times in wall.items()}
        middle_cpu = {name: statistics.median(times) for name, times in cpu.items()}
        rows.append(
            {
                "scope": scope,
                "batch size": batch_size,
                "steps": steps,
                "seconds": middle,
                "cpu seconds": middle_cpu,
                "ratio": middle["naive"] / middle["cached"],
                "cpu ratio": middle_cpu["naive"] / middle_cpu["cached"],
                "identical": torch.equal(captions["cached"], captions["naive"]),
            }
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs both comparisons, prints them and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--encoder", default="timm:vit_base_patch16_224", help="image encoder, with random weights")
    parser.add_argument("--scale", default="base", choices=list(SCALES))
    parser.add_argument("--steps", type=int, default=30, help="guided steps: two evaluations each")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    torch.manual_seed(0)
    encoder = create_encoder(given.encoder).eval()
    _, decoder = build(SCALES[given.scale])
    rows = compare(encoder, decoder, steps=given.steps, runs=given.runs, batch_size=given.batch_size)
    settings = {name: value for name, value in vars(given).items() if name != "out"} | {"weights": "random"}
    result = {
        "benchmark": "ladic_caching",
        "provenance": collect(config=settings, seed=0, device="cpu", dtype="float32"),
        "rows": rows,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        same = "identical captions" if row["identical"] else "CAPTIONS DIFFER"
        console.print(
            f"{row['scope']}, {row['steps']} guided steps: naive {row['seconds']['naive']:.2f} s, cached "
            f"{row['seconds']['cached']:.2f} s, ratio {row['ratio']:.1f} (CPU {row['cpu ratio']:.1f}), {same}"
        )
    console.print(f"at least {CACHING_TARGET:g}x with identical captions: {judge_caching(rows[0])}")


if __name__ == "__main__":
    main()
