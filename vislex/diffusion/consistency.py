"""Multistep consistency distillation (arXiv 2403.06807) of a denoiser that predicts x0, and words beside it.

A student that is to take k evaluations is asked at k timesteps only, the starts of k segments. It learns to cross a
segment in one DDIM step where its teacher takes many. With u = x / sigma and r = alpha / sigma, a step of DDIM is
u' = u + x0 (r' - r): the x0 that crosses a segment at once is the mean of all x0 on the way, each weighted by its share
of the way in r, and the last x0 alone where the segment ends at clean data. The target of the paper, DDIM undone from
the end of the segment, is the same x0; as a mean it needs no difference of small numbers, and distributions of words
can take the same weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vislex.diffusion.noise import NoiseSchedule
from vislex.diffusion.samplers import DDIM
from vislex.errors import ConfigError

__all__ = ["Predict", "Segments", "Target", "consistency_target", "of_tokens"]


@dataclass(frozen=True)
class Target:
    """A prediction, or the mean of several.

    Attributes:
        x0: float32[B, L, D].
        words: float32[B, L, V] distribution over the word pieces; None where none is predicted.
    """

    x0: Tensor
    words: Tensor | None

    def towards(self, other: Target, share: Tensor) -> Target:
        """The mean that gives ``other`` the weight ``share`` float32[B, 1, 1]."""
        words = None
        if self.words is not None and other.words is not None:
            words = torch.lerp(self.words, other.words, share)
        return Target(torch.lerp(self.x0, other.x0, share), words)


# (x_t float32[B, L, D], timesteps int64[B, L], previous x0 float32[B, L, D]) -> what is predicted.
Predict = Callable[[Tensor, Tensor, Tensor], Target]


@dataclass(frozen=True)
class Segments:
    """The timesteps of a student, and those of its teacher between them.

    Attributes:
        times: int64[k * n + 1], the teacher's timesteps from T - 1 down, and 0; every n-th is one of the student's.
        steps: n, DDIM steps of the teacher in a segment.
    """

    times: Tensor
    steps: int

    @classmethod
    def create(cls, schedule: NoiseSchedule, count: int, steps: int) -> Segments:
        """Splits time into segments that begin where DDIM of ``count`` steps asks the network.

        Args:
            schedule: Of sampling.
            count: k.
            steps: n.

        Raises:
            ConfigError: If there are not enough timesteps.
        """
        most = schedule.num_train_timesteps - 1
        if count < 1 or steps < 1 or count * steps > most:
            raise ConfigError(
                f"{count} segments of {steps} steps do not fit {most} timesteps; both must be at least 1 and their "
                f"product at most {most}"
            )
        starts = [*DDIM(schedule).timesteps(count), 0]
        share = torch.arange(steps) / steps
        parts = [(high + (low - high) * share).round().long() for high, low in itertools.pairwise(starts)]
        return cls(torch.cat([*parts, torch.tensor([0])]), steps)

    def ends(self, places: Tensor) -> Tensor:
        """Where the segments end that hold the places int64[B] in ``times``."""
        return (places // self.steps + 1) * self.steps

    def trained(self, solver_steps: int) -> Tensor:
        """Places int64[P] at which a student is asked: starts of segments, and where its teacher hands over to it."""
        places = torch.arange(len(self.times) - 1)
        return places[places % self.steps % solver_steps == 0]


@torch.no_grad()
def consistency_target(
    x: Tensor,
    places: Tensor,
    previous: Tensor,
    kept: Tensor,
    *,
    segments: Segments,
    schedule: NoiseSchedule,
    teacher: Predict,
    student: Predict,
    solver_steps: int,
) -> Target:
    """What crosses the rest of a segment in one DDIM step.

    The teacher takes ``solver_steps`` steps; where they do not reach the end of the segment, the student's prediction
    from there does the rest.

    Args:
        x: float32[B, L, D], noised latents.
        places: int64[B] in ``segments.times``.
        previous: float32[B, L, D], the earlier prediction that the student is shown, zeros for none; the teacher is
            shown it too, and then its own predictions.
        kept: bool[B, L], words that are shown clean and keep timestep 0.
        segments: The timesteps.
        schedule: Of ``x``.
        teacher: Its prediction, guided if it is to be.
        student: Its prediction.
        solver_steps: Most steps of the teacher.
    """
    times, sampler = segments.times.to(x.device), DDIM(schedule)
    start, ends = times[places], segments.ends(places)
    place, last = places, previous
    mean: Target | None = None
    for _ in range(min(solver_steps, segments.steps)):
        following = torch.minimum(place + 1, ends)
        now, then = (of_tokens(times[at], kept) for at in (place, following))
        step = teacher(x, now, last)
        mean = step if mean is None else mean.towards(step, _share(schedule, start, times[place], times[following]))
        last = torch.where(kept[..., None], x, step.x0)
        x = sampler.step(x, step.x0, now, then)
        place = following
    assert mean is not None
    if bool((place < ends).any()):
        rest = student(x, of_tokens(times[place], kept), previous)
        mean = mean.towards(rest, _share(schedule, start, times[place], times[ends]))
    return mean


def of_tokens(timesteps: Tensor, kept: Tensor) -> Tensor:
    """Timesteps int64[B, L] of captions at int64[B]."""
    return timesteps[:, None].expand(kept.shape).masked_fill(kept, 0)


def _share(schedule: NoiseSchedule, start: Tensor, now: Tensor, then: Tensor) -> Tensor:
    """Share float32[B, 1, 1] of the step from ``now`` to ``then`` in the way from ``start`` to ``then``."""
    first, before, after = ((schedule.log_snr(t).double() / 2).exp() for t in (start, now, then))
    share = torch.where(then == 0, 1.0, (after - before) / (after - first).clamp(min=1e-300))
    return share.masked_fill(now == then, 0.0).float()[:, None, None]
