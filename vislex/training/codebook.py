"""The codebook of a VQ-VAE: started from features, moved by averages, its dead entries put back to use.

van den Oord et al. (1711.00937), appendix A.1: each code is the moving average of the features that chose it. A
codebook that is drawn at random collapses to a single code; so the network first learns without quantisation, the codes
start from its features, and a code that fewer than one feature a batch chooses starts again from a feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from accelerate.utils import broadcast, reduce
from torch import Tensor
from transformers import TrainerControl, TrainerState, TrainingArguments

from vislex.training.checkpoints import KeptCallback

__all__ = ["CodebookCallback"]


class CodebookCallback(KeptCallback):
    """Moves a codebook in place; what it averages is stored in each checkpoint as ``codebook.safetensors``.

    Args:
        codebook: float[K, D].
        decay: Of the averages.
        warmup_steps: Steps without quantisation.
        dead_below: A code whose average count is lower starts again.
        restart_every: Steps between looks for dead codes.
        restart_until: Last step at which one starts again, so that the network has learnt what all mean in the end.
        seed: Of the features that codes start from.
    """

    file: ClassVar[str] = "codebook.safetensors"

    def __init__(
        self,
        codebook: Tensor,
        *,
        decay: float = 0.99,
        warmup_steps: int = 0,
        dead_below: float = 1.0,
        restart_every: int = 10,
        restart_until: int = 2**31,
        seed: int = 0,
    ) -> None:
        self.codebook = codebook
        self.decay, self.warmup_steps, self.dead_below = decay, warmup_steps, dead_below
        self.restart_every, self.restart_until, self.seed = restart_every, restart_until, seed
        self.count = torch.zeros(len(codebook), device=codebook.device)
        self.sum = torch.zeros_like(codebook)
        self.step = 0

    @property
    def quantizes(self) -> bool:
        """Whether the current step quantises."""
        return self.step >= self.warmup_steps

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.step = state.global_step

    def tensors(self) -> dict[str, Tensor]:
        return {"count": self.count, "sum": self.sum}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.count, self.sum = (tensors[name].to(self.codebook.device) for name in ("count", "sum"))

    @torch.no_grad()
    def update(self, features: Tensor, codes: Tensor | None) -> None:
        """Takes in one batch.

        Args:
            features: float[N, D].
            codes: int64[N]; None in the warm-up, whose last step starts the codebook.
        """
        features = features.float()
        if codes is None:
            if self.step == self.warmup_steps - 1:
                self._start(features, torch.ones(len(self.codebook), dtype=torch.bool, device=features.device))
            return
        if not self.count.any():  # no warm-up: the first batch starts the codebook
            self._start(features, torch.ones(len(self.codebook), dtype=torch.bool, device=features.device))
            return
        count = torch.bincount(codes, minlength=len(self.codebook)).float()
        total = torch.zeros_like(self.sum).index_add_(0, codes, features)
        self.count.lerp_(reduce(count, "sum"), 1 - self.decay)
        self.sum.lerp_(reduce(total, "sum"), 1 - self.decay)
        self.codebook.copy_(self.sum / self.count.clamp_min(1e-5)[:, None])
        dead = self.count < self.dead_below
        if self.step <= self.restart_until and (self.step + 1) % self.restart_every == 0 and dead.any():
            self._start(features, dead)

    def _start(self, features: Tensor, which: Tensor) -> None:
        """Puts features of the batch into the codes of ``which``, each with the count of a code of average use."""
        draw = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        wanted = int(which.sum())
        rounds = -(-wanted // len(features))
        places = torch.cat([torch.randperm(len(features), generator=draw) for _ in range(rounds)])[:wanted]
        chosen = broadcast(features[places.to(features.device)])
        self.codebook[which] = chosen
        self.count[which] = max(len(features) / len(self.codebook), 2 * self.dead_below)
        self.sum[which] = chosen * self.count[which][:, None]
