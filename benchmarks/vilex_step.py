"""What a ViLex training step costs beside a plain training step of the denoiser that it goes through.

Three sides take steps (forward, backward, AdamW) on the same images, times and noise: the denoiser itself, told by the
true captions; ViLex's pooling on cached features of the encoder; encoder and pooling together. The text-to-image model
is frozen in the last two, which still go back through it. Steps alternate, so that whatever else the machine does falls
on all. Memory is counted, not sampled: weights, gradients, optimizer, and what autograd keeps for backward.

    python -m vislex.benchmarks.vilex_step [--runs 15] [--smoke] [--json] [--out FILE]
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor, nn

from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.interleaved import interleave
from vislex.benchmarks.options import parse_options
from vislex.config import Config
from vislex.data import load_suite, openmoji
from vislex.diffusion.objectives import NoiseDraw
from vislex.diffusion.t2i import load_t2i
from vislex.encoders.factory import create_encoder
from vislex.hardware import resolve_device
from vislex.provenance import collect
from vislex.training.shadow import Saved
from vislex.vilex import ViLex

__all__ = ["StepCost", "StepCostConfig", "main", "measure"]

RESULTS = Path(__file__).parent / "results" / "vilex_step.json"
SMOKE_SIZES = {"batch_size": 2, "runs": 1, "n_tokens": 2, "out": "runs/smoke/vilex_step.json"}
DENOISER, POOLING, BOTH = "the denoiser alone", "ViLex, its pooling", "ViLex, encoder and pooling"


class StepCostConfig(Config):
    """Options of ``vilex_step``."""

    t2i: str = Field("t2i-tiny", description="text-to-image model: folder, hub id or shipped name")
    encoder: str = Field("siglip-tiny", description="vision encoder")
    n_tokens: int = Field(16, ge=1, description="tokens of an image; all are kept")
    depth: int = Field(2, ge=1, le=5, description="layers of the pooling")
    batch_size: int = Field(32, ge=1, description="images a step")
    runs: int = Field(15, ge=1, description="timed steps of each side")
    image_size: int = Field(48, ge=16, description="side in pixels at which images are drawn")
    seed: int = Field(0, ge=0, description="of times, noise and the pooling")
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    out: Path = Field(RESULTS, description="result file")


@dataclass(frozen=True)
class StepCost:
    """A kind of step.

    Attributes:
        step: Takes one.
        optimizer: Of what it trains.
        modules: Everything whose weights it holds.
    """

    step: Callable[[], None]
    optimizer: torch.optim.Optimizer
    modules: list[nn.Module]


def sides(config: StepCostConfig) -> dict[str, StepCost]:
    """The three kinds of step, on one batch of the suite."""
    torch.manual_seed(config.seed)
    device = resolve_device(config.device)
    t2i = load_t2i(config.t2i)
    encoder = create_encoder(config.encoder, pretrained=True)
    model = ViLex.from_parts(encoder=encoder, t2i=t2i, n_tokens=config.n_tokens, depth=config.depth).to(device).train()
    rows = load_suite("openmoji", "caption", size=config.batch_size, image_size=config.image_size, style="dense")
    drawn = [rows[place] for place in range(len(rows))]
    images, captions = [row["image"] for row in drawn], [row["captions"][0] for row in drawn]
    latents = t2i.encode_pixels(t2i.preprocess(images))
    draw = model.objective.draw(t2i, latents, torch.Generator().manual_seed(config.seed))
    shared: dict[str, Any] = {"latents": latents, "timesteps": draw.timesteps, "noise": draw.noise}
    shared["counts"] = config.n_tokens
    pixels = model.processor()(images, return_tensors="pt").to(device)
    with torch.no_grad():
        tokens = encoder(**pixels)
    pooling = [*model.encoder.pooling.parameters(), *model.encoder.heads.parameters()]
    own = copy.deepcopy(t2i)
    own.denoiser.requires_grad_(True)
    own.train()
    plain = partial(_plain_loss, own, model.objective, latents, captions, draw)
    return {
        DENOISER: _side(plain, own.denoiser.parameters(), [own]),
        POOLING: _side(lambda: model(vision_tokens=tokens, **shared).loss, pooling, [model, t2i]),
        BOTH: _side(lambda: model(**pixels, **shared).loss, [*pooling, *encoder.parameters()], [model, t2i]),
    }


def _plain_loss(t2i: Any, objective: Any, latents: Tensor, captions: list[str], draw: NoiseDraw) -> Tensor:
    with torch.no_grad():
        told = t2i.condition(captions, padded=False)
    loss: Tensor = objective(t2i, latents, told, draw).loss
    return loss


def _side(loss: Callable[[], Tensor], trained: Iterable[nn.Parameter], modules: list[nn.Module]) -> StepCost:
    optimizer = torch.optim.AdamW(trained, lr=1e-5)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return StepCost(step, optimizer, modules)


def memory(side: StepCost) -> dict[str, int]:
    """Bytes by kind of a step; a gradient is as large as its parameter."""
    weights = {id(weight): weight for module in side.modules for weight in module.parameters()}
    saved = Saved([*weights.values(), *(buffer for module in side.modules for buffer in module.buffers())])
    with saved.hooks:
        side.step()
    states = side.optimizer.state
    return {
        "weights": sum(_bytes(weight) for weight in weights.values()),
        "gradients": sum(_bytes(parameter) for parameter in states),
        "optimizer": sum(_bytes(held) for own in states.values() for held in own.values()),
        "activations": saved.bytes,
    }


def measure(config: StepCostConfig) -> list[dict[str, Any]]:
    """Times and counts all sides.

    Returns:
        A row a side: median "seconds" a step, "ratio" to the denoiser's (the median over pairs, below 1: cheaper),
        "trained" parameters, "memory" in bytes by kind, "memory ratio" of their sums.
    """
    made = sides(config)
    counted = {name: memory(side) for name, side in made.items()}
    for side in made.values():
        side.step()
    timed = interleave([side.step for side in made.values()], config.runs)
    plain = timed[0][0]
    rows = []
    for (name, side), (seconds, _) in zip(made.items(), timed, strict=True):
        held = counted[name]
        row = {"side": name, "seconds": statistics.median(seconds)}
        row["ratio"] = statistics.median(a / b for a, b in zip(seconds, plain, strict=True))
        row["ratios"] = [a / b for a, b in zip(seconds, plain, strict=True)]
        row["trained"] = sum(parameter.numel() for parameter in side.optimizer.state)
        row["memory"] = held
        rows.append({**row, "memory ratio": sum(held.values()) / sum(counted[DENOISER].values())})
    return rows


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison, prints it and writes the result file."""
    config, as_json = parse_options(
        StepCostConfig, arguments, smoke=SMOKE_SIZES, description="what a ViLex step costs (see the module)"
    )
    rows = measure(config)
    settings = {**config.model_dump(mode="json"), "threads": torch.get_num_threads()}
    facts = collect(config=settings, seed=config.seed, device=config.device, suite=openmoji.provenance())
    result = {"benchmark": "vilex_step", "provenance": facts, "rows": rows}
    config.out.parent.mkdir(parents=True, exist_ok=True)
    config.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console = Console(highlight=False, soft_wrap=True, width=160)
    if as_json:
        console.print_json(data=result)
        return
    shown = [
        {
            "step": row["side"],
            "trained": row["trained"],
            "seconds": row["seconds"],
            "of the denoiser's": row["ratio"],
            **{f"{kind}, MB": held / 2**20 for kind, held in row["memory"].items()},
            "memory, of the denoiser's": row["memory ratio"],
        }
        for row in rows
    ]
    print_rows(console, f"a step of {config.batch_size} images", shown)


if __name__ == "__main__":
    main()
