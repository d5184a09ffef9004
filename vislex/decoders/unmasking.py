"""Writing captions by unmasking: all open positions are predicted at once, the most confident are kept, step by step.

The order of confidence and its schedules are MaskGIT's (arXiv 2202.04200) and LLaDA's (arXiv 2502.09992, section 2.4);
masking again what was written with little confidence is Mask-Predict's (arXiv 1904.09324).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import GenerationConfig

from vislex.decoders.trace import TraceStep
from vislex.errors import ConfigError, did_you_mean

__all__ = ["Canvas", "Unmasked", "UnmaskingConfig", "gumbel", "unmask"]

Schedule = Literal["linear", "cosine"]
Predict = Callable[[Tensor], Tensor]

# What a GenerationConfig may set: other fields would be accepted and ignored.
_SHARED = frozenset({"bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "transformers_version"})
_READ = frozenset({"max_new_tokens", "min_new_tokens", "num_beams", "do_sample", "temperature"})


@dataclass(frozen=True)
class UnmaskingConfig:
    """How captions are unmasked.

    Attributes:
        num_inference_steps: Forwards a caption; one of fewer open positions takes one for each.
        schedule: How many positions stay masked after each step: "linear" in the step, or "cosine", which writes few
            words at first.
        remasking: Whether words that were written at an earlier step may be masked again if others are more certain.
        temperature: Of the draws of words and of the length; 0 takes the most likely ones.
        guidance_scale: w in cond + w (cond - uncond), on log-probabilities; 0 needs no second evaluation.
        num_lengths: Lengths that are tried, the most likely ones; the best caption is kept.
        length_penalty: The log-likelihood of a caption is divided by its number of words to this power before lengths
            are compared: 0 compares likelihoods, 1 means a word.
        max_new_tokens: Most word pieces of a caption, [SEP] included; None is what the decoder has positions for.
        min_new_tokens: Fewest word pieces, [SEP] included.
        seed: Of the draws.
        trace: Whether the words are kept after every step.
    """

    num_inference_steps: int = 8
    schedule: Schedule = "linear"
    remasking: bool = False
    temperature: float = 0.0
    guidance_scale: float = 0.0
    num_lengths: int = 1
    length_penalty: float = 1.0
    max_new_tokens: int | None = None
    min_new_tokens: int = 1
    seed: int = 0
    trace: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in get_args(Schedule):
            raise ConfigError(f"unknown schedule '{self.schedule}'; allowed are {', '.join(get_args(Schedule))}")
        for name in ("num_inference_steps", "num_lengths"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.temperature < 0:
            raise ConfigError(f"temperature is {self.temperature}; it must be 0 (no draws) or more")

    @classmethod
    def read(cls, generation_config: GenerationConfig | None, options: dict[str, Any]) -> UnmaskingConfig:
        """Settings of a call of ``generate``: transformers' names where it has them, and this class's own.

        Args:
            generation_config: ``max_new_tokens``, ``min_new_tokens``, ``do_sample`` and ``temperature`` are read.
            options: What was given by keyword; it wins.

        Raises:
            ConfigError: If an option is unknown, or one that unmasking cannot follow, such as ``num_beams=4``.
        """
        own = {field.name for field in fields(cls)}
        shared = GenerationConfig() if generation_config is None else copy.deepcopy(generation_config)
        changes = {name: value for name, value in options.items() if name not in own or name in _READ}
        if unknown := shared.update(**changes):
            name = next(iter(unknown))
            raise ConfigError(f"unknown generation option '{name}'{did_you_mean(name, [*own, *vars(shared)])}")
        set_ = {name for name, value in shared.to_diff_dict().items() if value not in (None, False)}
        if refused := sorted(set_ - _SHARED - _READ):
            raise ConfigError(f"'{refused[0]}' has no meaning when captions are unmasked; known are {', '.join(own)}")
        if (shared.num_beams or 1) > 1:
            raise ConfigError(
                f"num_beams={shared.num_beams}: unmasking has no beams; num_lengths= tries several lengths"
            )
        temperature = options.get("temperature")
        if temperature is None:
            temperature = (shared.temperature or 1.0) if shared.do_sample else 0.0
        values = {name: value for name, value in options.items() if name in own and value is not None}
        values |= {
            "temperature": float(temperature),
            "max_new_tokens": shared.max_new_tokens,
            "min_new_tokens": shared.min_new_tokens or 1,
        }
        return cls(**values)


@dataclass(frozen=True)
class Canvas:
    """Captions with open positions.

    Attributes:
        ids: int64[R, L], the mask token at open positions, padding behind the end.
        kinds: int64[R, L], -1 where the token is given, else a row of ``allowed``.
        allowed: bool[K, V], the tokens that may stand at an open position of each kind.
        token_mask: bool[R, L], False on padding.
    """

    ids: Tensor
    kinds: Tensor
    allowed: Tensor
    token_mask: Tensor

    @property
    def is_open(self) -> Tensor:
        """bool[R, L]."""
        return self.kinds >= 0


@dataclass(frozen=True)
class Unmasked:
    """Captions without open positions.

    Attributes:
        ids: int64[R, L].
        log_likelihood: float32[R], sum of the log-probabilities that the written tokens had when they were written.
        steps: int64[R] forwards that each caption took.
        trace: For each caption its ids after each of its steps, if asked for.
    """

    ids: Tensor
    log_likelihood: Tensor
    steps: Tensor
    trace: list[list[TraceStep]] | None = None


def gumbel(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Gumbel noise float32: the argmax of logits with it is a draw from their softmax."""
    uniform = torch.rand(tuple(shape), generator=generator).clamp(1e-20, 1.0)
    return -(-uniform.log()).clamp(min=1e-20).log()


def unmask(
    predict: Predict, canvas: Canvas, mask_token_id: int, config: UnmaskingConfig, generators: Sequence[torch.Generator]
) -> Unmasked:
    """Writes the open positions of a canvas.

    Args:
        predict: int64[R, L] with masks -> float[R, L, V] logits of the token at each position.
        canvas: What is given and what may be written.
        mask_token_id: Stands at positions not yet written.
        config: ``num_inference_steps``, ``schedule``, ``remasking``, ``temperature`` and ``trace`` are used.
        generators: One a row, for the draws at ``temperature`` > 0.
    """
    is_open = canvas.is_open
    n_open = is_open.sum(1)
    allowed = canvas.allowed[canvas.kinds.clamp(min=0)]  # [R, L, V]
    ids, masked, left = canvas.ids.clone(), is_open.clone(), n_open
    confidence = torch.zeros(ids.shape, device=ids.device)
    steps = torch.zeros_like(n_open)
    trace: list[list[TraceStep]] | None = [[] for _ in ids] if config.trace else None
    for step in range(config.num_inference_steps):
        if not bool(masked.any()):
            break
        writing = masked.any(1)
        steps += writing
        log_p = predict(ids).float().log_softmax(-1)
        choices = log_p.masked_fill(~allowed, -torch.inf)
        if config.temperature > 0:
            choices = choices / config.temperature + _noise(masked, log_p.shape[-1], generators)
        chosen = choices.argmax(-1)
        ids = torch.where(masked, chosen, ids)
        confidence = torch.where(masked, log_p.gather(-1, chosen[..., None]).squeeze(-1), confidence)
        share = _share_masked((step + 1) / config.num_inference_steps, config.schedule)
        left = torch.minimum((n_open * share).floor().long(), (left - 1).clamp(min=0))
        may_be_masked = is_open if config.remasking else masked
        ranks = confidence.masked_fill(~may_be_masked, torch.inf).argsort(dim=1, stable=True).argsort(1)
        masked = may_be_masked & (ranks < left[:, None])
        ids = ids.masked_fill(masked, mask_token_id)
        if trace is not None:
            hidden = (masked.sum(1) / n_open.clamp(min=1)).tolist()
            for row in writing.nonzero()[:, 0].tolist():
                trace[row].append(TraceStep(ids[row], hidden[row]))
    return Unmasked(ids, (confidence * is_open).sum(1), steps, trace)


def _share_masked(progress: float, schedule: Schedule) -> float:
    """Share of the open positions that is still masked when ``progress`` of the steps are done; 0 at the end."""
    if progress >= 1:
        return 0.0
    return 1 - progress if schedule == "linear" else math.cos(math.pi / 2 * progress)


def _noise(masked: Tensor, vocabulary: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Gumbel noise at masked positions, as much for a caption alone as in a batch."""
    noise = torch.zeros(*masked.shape, vocabulary, device=masked.device)
    for row, generator in enumerate(generators):
        if count := int(masked[row].sum()):
            noise[row, masked[row]] = gumbel((count, vocabulary), generator).to(noise.device)
    return noise
