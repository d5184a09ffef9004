"""Guidance by several conditions at once, inside the stock pipelines; text-free guidance of ViLex is one case.

The stock pipelines know two branches and only scales above 1. Here the pipeline is called without guidance, and hooks
on its denoiser ask the denoiser for every branch in one batch and hand back their weighted sum: any weights, any number
of branches, every family, while sampling loop, scheduler and autoencoder stay the pipeline's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vislex.diffusion.t2i.base import Condition, TextToImage, merge_arguments, to_dtype
from vislex.errors import ConfigError

__all__ = ["Branch", "generate", "guided", "text_free_guidance"]

_SHARED = frozenset({"img_ids", "txt_ids"})  # arguments of denoisers without a batch dimension


@dataclass(frozen=True)
class Branch:
    """One condition and its share of the prediction; the weights of all branches add up to 1."""

    condition: Condition
    weight: float


def text_free_guidance(
    visual: Condition,
    joint: Condition | None = None,
    tfg: float = 1.0,
    *,
    empty: Condition | None = None,
    guidance: float = 1.0,
) -> list[Branch]:
    """Branches of eps(0) + g (eps(v) - eps(0)) + w (eps([v, c]) - eps(v)).

    With g = 1 it is ViLex's text-free guidance: w = 0 shows the image alone, 1 image and text as they were trained,
    more pushes the text. Without ``joint`` it is the usual guidance by the image. Branches of weight 0 are left out.

    Args:
        visual: Of the visual tokens alone.
        joint: Of the visual tokens with a text; None for none.
        tfg: w, at least 0.
        empty: Of the empty prompt; needed where g is not 1.
        guidance: g, at least 0.

    Raises:
        ConfigError: If a scale is negative, or ``empty`` is missing.
    """
    if tfg < 0 or guidance < 0:
        raise ConfigError(f"tfg {tfg} and guidance {guidance} must be at least 0")
    w = tfg if joint is not None else 0.0
    shares = [(empty, 1 - guidance), (visual, guidance - w), (joint, w)]
    branches = []
    for condition, weight in shares:
        if weight == 0:
            continue
        if condition is None:
            raise ConfigError(f"guidance {guidance} also needs the condition of the empty prompt; pass empty=")
        branches.append(Branch(condition, weight))
    return branches


@contextmanager
def guided(t2i: TextToImage, branches: Sequence[Branch]) -> Iterator[None]:
    """While open, every call of the denoiser gives the weighted sum of its predictions under the branches.

    The condition that the caller passes is not used. Channels of a learned variance are those of the last branch, as
    in the stock pipelines.
    """
    if not branches:
        raise ConfigError("guidance needs at least one branch")

    def expand(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict]:
        first = args[0] if args else kwargs["hidden_states" if "hidden_states" in kwargs else "sample"]
        rows, copies = len(first), len(branches)
        repeated = {name: value if name in _SHARED else _repeat(value, rows, copies) for name, value in kwargs.items()}
        joined = Condition.join([branch.condition.expand(rows) for branch in branches])
        own = to_dtype(t2i.condition_arguments(joined), first.dtype)
        return tuple(_repeat(value, rows, copies) for value in args), merge_arguments(repeated, own)

    def combine(module: nn.Module, args: Any, kwargs: Any, output: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        parts = output[0].chunk(len(branches))
        total = sum(branch.weight * part for branch, part in zip(branches, parts, strict=True))
        channels = t2i.target_channels
        if channels is not None and parts[0].shape[1] > channels:
            total = torch.cat([total[:, :channels], parts[-1][:, channels:]], dim=1)
        return (total, *output[1:])

    handles = [
        t2i.denoiser.register_forward_pre_hook(expand, with_kwargs=True),
        t2i.denoiser.register_forward_hook(combine, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def generate(
    t2i: TextToImage, branches: Sequence[Branch], *, seeds: Sequence[int], num_inference_steps: int = 30
) -> Tensor:
    """Images out of the stock pipeline.

    Args:
        t2i: The text-to-image model.
        branches: See ``text_free_guidance``; their conditions have one row each image, or a single one for all.
        seeds: One for each image: the same seed is the same start noise, whatever the conditions.
        num_inference_steps: Steps of the pipeline's scheduler.

    Returns:
        float32[B, 3, H, W] in [0, 1].
    """
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    condition = branches[-1].condition.expand(len(seeds))
    with guided(t2i, branches):
        output = t2i.pipeline()(
            **t2i.call_arguments(),
            **t2i.prompt_arguments(condition),
            **{t2i.guidance_argument: 1.0},
            num_inference_steps=num_inference_steps,
            generator=generators,
        )
    return t2i.images_of(output)


def _repeat(value: Any, rows: int, copies: int) -> Any:
    """The batch several times over, of tensors that have one."""
    if isinstance(value, dict):
        return {key: _repeat(item, rows, copies) for key, item in value.items()}
    if isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows:
        return torch.cat([value] * copies)
    return value
