"""The denoising loop of LaDiC: guidance, self-conditioning, Back&Refine, infilling and early exit in one place.

Infilling and Back&Refine are one mechanism: tokens that are held stay at timestep 0, where the data is clean, and the
network is told so for each token, while the others come down from pure noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from vislex.decoders.trace import TraceStep
from vislex.diffusion.noise import NoiseSchedule
from vislex.diffusion.samplers import SAMPLERS, create_sampler
from vislex.diffusion.token_times import token_times
from vislex.errors import ConfigError, SpecError, did_you_mean

__all__ = [
    "Denoise",
    "Guided",
    "Read",
    "SampleResult",
    "SamplingConfig",
    "sample",
    "select_rows",
]

# (x_t float[R, L, D], timesteps int64[R, L], previous x0 float[R, L, D] | None, rows int64[K R]) -> x0 [K R, L, D].
# Row i < B is caption i with its image, row B + i is caption i without: with K = 2 the same latents are seen both ways.
# ``rows`` stays the same object while the same captions are denoised, so that what is kept for each row is selected
# once (``select_rows``).
Denoise = Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]
# x0 float[B, L, D] -> ids int64[B, L] and the confidence float[B, L] in each.
Read = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SamplingConfig:
    """How captions are sampled.

    Attributes:
        sampler: "renoise", "ddim" or "dpmsolver++".
        num_inference_steps: Calls of the network in one pass.
        stride: Steps of a fixed stride from T - 1 down instead of ``num_inference_steps`` (the release's "30 steps"
            are a stride: 34 calls at T = 1000).
        guidance_scale: w in x0 = cond + w (cond - uncond); 0 is off and halves the evaluations.
        guidance_interval: Share of T between which guidance is on; outside it a step is one evaluation.
        refine_at: Back&Refine after this share of the pass; None is off.
        refine_fraction: Share of the tokens, the least confident ones, that go back to pure noise.
        refine_steps: Calls of the network after it; None takes those of a whole pass.
        early_exit: A caption is finished when its words have stayed the same for this many steps of the last pass;
            0 is off. Where the image leaves much open, words can rest at high noise and change later: a small number
            trades quality for steps.
        time_skew: By how much the first words are ahead of the last ones (``token_times``): 0 denoises all at the same
            time, more lets a word see those before it nearly clean. It needs a network that was trained so.
        token_times: Whether held tokens are told timestep 0; False tells all tokens the time of the loop, as a network
            expects that was never trained on tokens with their own times.
        self_conditioning: Whether the network sees its last prediction.
        temperature: Scale of all noise that is drawn. 1 samples captions, less prefers the likely ones, as greedy
            search does where words are written one by one; 0 leaves no chance.
        seed: Of the noise.
        trace: Whether the words are kept after every step.
    """

    sampler: str = "dpmsolver++"
    num_inference_steps: int = 8
    stride: int | None = None
    guidance_scale: float = 1.0
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    refine_at: float | None = None
    refine_fraction: float = 0.5
    refine_steps: int | None = None
    early_exit: int = 0
    time_skew: float = 0.0
    token_times: bool = True
    self_conditioning: bool = True
    temperature: float = 1.0
    seed: int = 0
    trace: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.sampler not in SAMPLERS:
            problems.append(f"unknown sampler '{self.sampler}'{did_you_mean(self.sampler, SAMPLERS)}")
        for name in ("num_inference_steps", "stride", "refine_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name}={value} must be at least 1")
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            problems.append(f"guidance_interval={self.guidance_interval} must be two shares of T, the lower one first")
        if self.refine_at is not None and not 0 < self.refine_at <= 1:
            problems.append(f"refine_at={self.refine_at} must be above 0 and at most 1, or None")
        if not 0 < self.refine_fraction <= 1:
            problems.append(f"refine_fraction={self.refine_fraction} must be above 0 and at most 1")
        if self.temperature < 0:
            problems.append(f"temperature={self.temperature} must not be negative")
        if self.time_skew < 0:
            problems.append(f"time_skew={self.time_skew} must not be negative")
        if self.time_skew and not self.token_times:
            problems.append(f"time_skew={self.time_skew} needs token_times=True: each word is told its own time")
        if self.early_exit < 0:
            problems.append(f"early_exit={self.early_exit} must not be negative")
        if problems:
            raise ConfigError("invalid sampling options: " + "; ".join(problems))

    def passes(self, schedule: NoiseSchedule) -> list[list[int]]:
        """Timesteps at which the network is called: one list, and with Back&Refine a second one."""
        whole = self._timesteps(schedule, self.num_inference_steps)
        if self.refine_at is None:
            return [whole]
        again = whole if self.refine_steps is None else self._timesteps(schedule, self.refine_steps)
        return [whole[: max(1, round(self.refine_at * len(whole)))], again]

    def _timesteps(self, schedule: NoiseSchedule, steps: int) -> list[int]:
        if self.stride is not None:
            return list(range(schedule.num_train_timesteps - 1, 0, -self.stride))
        return create_sampler(self.sampler, schedule).timesteps(steps)


@dataclass
class SampleResult:
    """What sampling gave.

    Attributes:
        x0: float32[B, L, D], the last prediction.
        ids: int64[B, L], its words.
        confidence: float[B, L] in each of them.
        evaluations: int64[B]; a guided step counts two.
        steps: Steps of the loop.
        trace: For each caption its words int64[L] after each of its steps, if asked for.
    """

    x0: Tensor
    ids: Tensor
    confidence: Tensor
    evaluations: Tensor
    steps: int
    trace: list[list[TraceStep]] | None = None


class _State(Protocol):
    def __len__(self) -> int: ...

    def select(self, rows: Tensor) -> Self: ...


StateT = TypeVar("StateT", bound=_State)


def select_rows(state: StateT) -> Callable[[Tensor], StateT]:
    """A function that gives the state of some rows, and selects anew only when it is given other ones."""
    known: Tensor | None = None
    chosen = state

    def select(rows: Tensor) -> StateT:
        nonlocal known, chosen
        if rows is not known:
            whole = torch.arange(len(state), device=rows.device)
            known, chosen = rows, state if torch.equal(rows, whole) else state.select(rows)
        return chosen

    return select


class Guided:
    """Classifier-free guidance, the passes with and without the image in one batch.

    Args:
        denoise: The network.
        batch_size: B, the number of captions with which sampling began.
        config: Scale and interval.
        schedule: For the length of time.
    """

    def __init__(self, denoise: Denoise, batch_size: int, config: SamplingConfig, schedule: NoiseSchedule) -> None:
        self.denoise = denoise
        self.batch_size = batch_size
        self.scale = config.guidance_scale
        self.low, self.high = (share * (schedule.num_train_timesteps - 1) for share in config.guidance_interval)
        self._rows: tuple[Tensor, Tensor] | None = None

    def evaluations(self, time: int) -> int:
        """Network evaluations of a step at a timestep."""
        return 2 if self.scale != 0 and self.low <= time <= self.high else 1

    def __call__(self, x: Tensor, timesteps: Tensor, previous: Tensor | None, rows: Tensor, time: int) -> Tensor:
        """The guided prediction of x0, float[R, L, D].

        Args:
            x: float[R, L, D].
            timesteps: int64[R, L] that the network is told.
            previous: float[R, L, D] prediction of the step before.
            rows: int64[R], the captions among the first B.
            time: Timestep of the loop.
        """
        if self.evaluations(time) == 1:
            return self.denoise(x, timesteps, previous, rows)
        if self._rows is None or self._rows[0] is not rows:
            self._rows = (rows, torch.cat([rows, rows + self.batch_size]))
        with_image, without = self.denoise(x, timesteps, previous, self._rows[1]).chunk(2)
        return with_image + self.scale * (with_image - without)


@torch.no_grad()
def sample(
    denoise: Denoise,
    read: Read,
    schedule: NoiseSchedule,
    config: SamplingConfig,
    *,
    shape: tuple[int, int, int],
    generator: Sequence[torch.Generator],
    known: Tensor | None = None,
    known_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SampleResult:
    """Denoises captions from pure noise.

    A caption depends on its own generator only: a batch gives what its captions give alone.

    Args:
        denoise: The network's prediction of x0; see ``Denoise``.
        read: Words of a prediction; see ``Read``.
        schedule: Of the sampling.
        config: Options.
        shape: B, L and D.
        generator: One for each caption, on the CPU (``caption_generators``).
        known: float[B, L, D], latents of given words.
        known_mask: bool[B, L], True where the word is given; it is kept exactly.
        device: Of the tensors.
        dtype: Of what the network is given; the loop itself computes in float32.

    Raises:
        SpecError: If the sizes contradict each other.
    """
    if len(generator) != shape[0]:
        raise SpecError(f"{len(generator)} generators for {shape[0]} captions; give one for each (caption_generators)")
    if (known is None) != (known_mask is None) or (known is not None and known.shape != shape):
        raise SpecError(f"known and known_mask belong together, known with the shape {shape}")
    loop = _Loop(denoise, read, schedule, config, shape, list(generator), torch.device(device), dtype)
    if known is not None and known_mask is not None:
        loop.hold(known.to(loop.x), known_mask.to(loop.x.device))
    passes = config.passes(schedule)
    for number, timesteps in enumerate(passes):
        loop.run(timesteps, is_last=number == len(passes) - 1)
        if number < len(passes) - 1:
            loop.back(config.refine_fraction)
    ids, confidence = read(loop.result.to(dtype))
    return SampleResult(loop.result, ids, confidence, loop.evaluations, loop.steps, loop.trace)


class _Loop:
    """State of the captions that are still being denoised; ``rows`` says which ones they are."""

    def __init__(
        self,
        denoise: Denoise,
        read: Read,
        schedule: NoiseSchedule,
        config: SamplingConfig,
        shape: tuple[int, int, int],
        generators: list[torch.Generator],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.guided = Guided(denoise, shape[0], config, schedule)
        self.read, self.schedule, self.config, self.dtype = read, schedule, config, dtype
        self.sampler = create_sampler(config.sampler, schedule)
        self.generators = generators
        self.rows = torch.arange(shape[0], device=device)
        self.x = torch.empty(shape, device=device)
        self.x = self._noise() * schedule.init_noise_sigma
        self.previous: Tensor | None = None
        self.held = torch.zeros(shape[:2], dtype=torch.bool, device=device)
        self.held_x0 = torch.zeros_like(self.x)
        self.words: Tensor | None = None
        self.unchanged = torch.zeros_like(self.rows)  # steps for which the words have stayed the same
        self.result = torch.zeros_like(self.x)
        self.evaluations = torch.zeros(shape[0], dtype=torch.long)
        self.steps = 0
        self.trace: list[list[TraceStep]] | None = [[] for _ in generators] if config.trace else None

    def _noise(self) -> Tensor:
        from diffusers.utils.torch_utils import randn_tensor

        noise: Tensor = randn_tensor(tuple(self.x.shape), generator=self.generators, device=self.x.device)
        return noise * self.config.temperature

    def hold(self, x0: Tensor, mask: Tensor) -> None:
        """Fixes the tokens of ``mask`` bool[R, L] at clean latents float32[R, L, D]."""
        self.held = mask
        self.held_x0 = x0
        self.x = self._clamp(self.x)

    def _clamp(self, x: Tensor) -> Tensor:
        return torch.where(self.held[..., None], self.held_x0, x)

    def run(self, timesteps: list[int], *, is_last: bool) -> None:
        """One pass; its last prediction becomes the result."""
        for time, following in zip(timesteps, [*timesteps[1:], 0], strict=True):
            if len(self.rows) == 0:
                return
            now, then = (self._times(moment) for moment in (time, following))
            x0 = self._predict(now, time)
            self.result[self.rows] = x0
            if self.trace is not None or (is_last and self.config.early_exit):
                self._watch(x0, following / self.schedule.num_train_timesteps)
            if following:
                noise = self._noise() if self.sampler.stochastic else None
                self.x = self.sampler.step(self.x, x0, now, then, noise)
            if is_last and self.config.early_exit:
                self._let_go(self.unchanged < self.config.early_exit)

    def _times(self, moment: int) -> Tensor:
        """Timesteps int64[R, L] of the tokens when the captions are at ``moment``; held ones are clean."""
        moments = torch.full((len(self.held),), moment, device=self.held.device)
        times = token_times(moments, self.held.shape[1], self.config.time_skew, self.schedule.num_train_timesteps)
        return times.masked_fill(self.held, 0)

    def _predict(self, timesteps: Tensor, time: int) -> Tensor:
        previous = None if self.previous is None else self.previous.to(self.dtype)
        told = self.schedule.told(timesteps if self.config.token_times else torch.full_like(timesteps, time))
        x0 = self.guided(self.x.to(self.dtype), told, previous, self.rows, time)
        x0 = torch.where((timesteps == 0)[..., None], self.x, x0.float())  # what is clean stays
        if self.config.self_conditioning:
            self.previous = x0
        self.evaluations[self.rows.cpu()] += self.guided.evaluations(time)
        self.steps += 1
        return x0

    def _watch(self, x0: Tensor, time: float) -> None:
        words, _ = self.read(x0.to(self.dtype))
        if self.words is None:
            self.words = torch.full_like(self.result[..., 0], -1, dtype=torch.long)
        same = (self.words[self.rows] == words).all(1)
        self.unchanged = torch.where(same, self.unchanged + 1, 0)
        self.words[self.rows] = words
        if self.trace is not None:
            for row, ids in zip(self.rows.tolist(), words, strict=True):
                self.trace[row].append(TraceStep(ids, time))

    def _let_go(self, stays: Tensor) -> None:
        """Takes finished captions out of the batch."""
        if bool(stays.all()):
            return
        kept = stays.nonzero()[:, 0]
        self.rows, self.x, self.held, self.held_x0 = (
            value[kept] for value in (self.rows, self.x, self.held, self.held_x0)
        )
        self.unchanged = self.unchanged[kept]
        self.previous = None if self.previous is None else self.previous[kept]
        self.generators = [self.generators[i] for i in kept.tolist()]
        self.sampler.select(kept)

    def back(self, fraction: float) -> None:
        """Back&Refine (section 3.4): the least confident free tokens become pure noise, the others are held."""
        x0 = self.result[self.rows]
        _, confidence = self.read(x0.to(self.dtype))
        free = ~self.held
        count = (fraction * free.sum(1, keepdim=True)).round()
        doubt = confidence.float().masked_fill(self.held, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
        refined = (doubt < count) & free
        self.x = self._noise() * self.schedule.init_noise_sigma
        self.hold(x0, ~refined)
        if self.previous is not None:  # else the network would be shown the words that it shall find anew
            self.previous = self.previous.masked_fill(refined[..., None], 0.0)
        self.words, self.unchanged = None, torch.zeros_like(self.unchanged)
