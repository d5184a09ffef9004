"""Few-step LaDiC: a captioner that needs one to four evaluations learns from one that takes many (``FewStepLoss``)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vislex.decoders.base import as_vision_tokens
from vislex.decoders.ladic.losses import draw, latent_loss
from vislex.diffusion.consistency import Predict, Segments, Target, consistency_target, of_tokens
from vislex.diffusion.samplers import DDIM
from vislex.errors import ConfigError
from vislex.specs import VisionTokens

if TYPE_CHECKING:
    from vislex.decoders.ladic.decoder import LadicDecoder

__all__ = ["FewStepLoss"]


class FewStepLoss:
    """Distils a LaDiC into one of few evaluations; called by ``LadicDecoder.forward`` in place of its own loss.

    Args:
        teacher: The trained decoder; it is copied, and never changed.
        segments: Evaluations of the student.
        segment_steps: DDIM steps of the teacher in each segment.
        solver_steps: Steps that the teacher takes before the student's own prediction does the rest of a segment (one
            is consistency distillation); None takes all, and then only the starts of segments are trained.
        guidance_scale: w of the teacher's guided prediction, cond + w (cond - uncond); the student needs no guidance.
        temperature: Scale of the noise, in training as in sampling: the student sees what it will start from.
        dtype: What the teacher computes in.

    Raises:
        ConfigError: If an option does not fit.
    """

    def __init__(
        self,
        teacher: LadicDecoder,
        *,
        segments: int = 4,
        segment_steps: int = 8,
        solver_steps: int | None = None,
        guidance_scale: float = 0.0,
        temperature: float = 1.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if solver_steps is not None and not 1 <= solver_steps <= segment_steps:
            raise ConfigError(f"solver_steps={solver_steps} must be between 1 and segment_steps={segment_steps}")
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        for parameter in self.teacher.parameters():  # not the statistics of the latents
            parameter.data = parameter.data.to(dtype)
        self.segments = Segments.create(teacher.sampling_schedule, segments, segment_steps)
        self.solver_steps = segment_steps if solver_steps is None else solver_steps
        self.trained = self.segments.trained(self.solver_steps)
        self.guidance_scale, self.temperature = guidance_scale, temperature
        self.dtype = dtype

    @property
    def sampling(self) -> dict[str, Any]:
        """What the student is made for, as ``LadicConfig.sampling`` holds it."""
        kept = {"token_times", "self_conditioning", "seed"}
        return {name: value for name, value in (self.teacher.config.sampling or {}).items() if name in kept} | {
            "sampler": "ddim",
            "num_inference_steps": (len(self.segments.times) - 1) // self.segments.steps,
            "guidance_scale": 0.0,
            "temperature": self.temperature,
        }

    def __call__(
        self, student: LadicDecoder, vision_tokens: VisionTokens | Tensor, input_ids: Tensor, token_mask: Tensor | None
    ) -> Tensor:
        """The loss float[] on images; in eval mode always at the same times and noise.

        Captions start from noise, as in sampling. Of given captions only their lengths are read and, for the share
        ``keep_words`` of them, words that stand fixed.

        Args:
            student: What is trained.
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            input_ids: int64[B, L] of captions, at the length of the latents.
            token_mask: bool[B, L], False behind the end of a caption's latents; None where there is none such.
        """
        config, schedule = student.config, student.sampling_schedule
        vision = student._project(vision_tokens)
        drawn = draw(
            (*input_ids.shape, student.codec.latent_dim),
            config.num_train_timesteps,
            drop_image=config.drop_image if student.training else 0.0,
            keep_words=config.keep_words,
            self_conditioning=0.0,
            device=input_ids.device,
            generator=None if student.training else torch.Generator().manual_seed(0),
        )
        noise = self.temperature * schedule.init_noise_sigma * drawn.noise
        start = torch.where(drawn.kept[..., None], student.codec.token_latents[input_ids].float(), noise)
        state = student.denoiser.vision_state(vision, drawn.dropped)

        def predict(x: Tensor, timesteps: Tensor, previous: Tensor) -> tuple[Tensor, Tensor | None]:
            return student.predict(x, schedule.told(timesteps), previous, state, schedule, token_mask)

        times, trained = (value.to(start.device) for value in (self.segments.times, self.trained))
        places = trained[(drawn.timesteps - 1) * len(trained) // (config.num_train_timesteps - 1)]
        x, previous = self._arrive(start, places, drawn.kept, student, predict)
        wanted = consistency_target(
            x,
            places,
            previous,
            drawn.kept,
            segments=self.segments,
            schedule=schedule,
            teacher=self._teach(vision_tokens, drawn.dropped, token_mask),
            student=lambda *asked: _target(*predict(*asked)),
            solver_steps=self.solver_steps,
        )
        timesteps = of_tokens(times[places], drawn.kept)
        prediction, logits = predict(x, timesteps, previous)
        counts = ~drawn.kept if token_mask is None else token_mask & ~drawn.kept
        loss = latent_loss(prediction, wanted.x0, counts, timesteps, schedule, kind=config.latent_loss)
        if logits is not None and wanted.words is not None:
            each = F.kl_div(logits.float().log_softmax(-1), wanted.words, reduction="none").sum(-1)
            loss = loss + config.token_weight * (each * counts).sum() / counts.sum().clamp(min=1)
        return loss

    @torch.no_grad()
    def _arrive(
        self, x: Tensor, places: Tensor, kept: Tensor, student: LadicDecoder, predict: Callable[..., Any]
    ) -> tuple[Tensor, Tensor]:
        """Where the student's own steps lead: latents float32[B, L, D] at places int64[B], and its last prediction.

        In their place noised captions would say more of their words than the student will have found.
        """
        times, steps = self.segments.times.to(x.device), self.segments.steps
        remembers = student.sampling().self_conditioning
        sampler, previous, place = DDIM(student.sampling_schedule), torch.zeros_like(x), torch.zeros_like(places)
        for _ in range((len(times) - 1) // steps):
            if not bool((place < places).any()):
                break
            following = torch.minimum(place + steps, places)
            now, then = (of_tokens(times[at], kept) for at in (place, following))
            x0 = torch.where(kept[..., None], x, predict(x, now, previous)[0])
            x = sampler.step(x, x0, now, then)
            if remembers:  # inside a segment it is shown what it was at the start
                previous = torch.where((following == place + steps)[:, None, None], x0, previous)
            place = following
        return x, previous

    def _teach(self, vision_tokens: VisionTokens | Tensor, dropped: Tensor, token_mask: Tensor | None) -> Predict:
        """The teacher's guided prediction for these images."""
        given = as_vision_tokens(vision_tokens)
        teacher = self.teacher = self.teacher.to(given.tokens.device)
        schedule, scale = teacher.sampling_schedule, self.guidance_scale
        device = given.tokens.device.type
        with torch.no_grad(), _in_own_format(device):
            vision = teacher._project(VisionTokens(given.tokens.to(self.dtype), given.mask))
            state = teacher.denoiser.vision_state(vision, dropped)
            both = teacher.denoiser.guided_state(state) if scale else state

        def predict(x: Tensor, timesteps: Tensor, previous: Tensor) -> Target:
            told = schedule.told(timesteps)
            with _in_own_format(device):
                x0, logits = teacher.predict(x, told, previous, both, schedule, token_mask)
            if not scale:
                return _target(x0, logits)
            with_image, without = x0.chunk(2)
            if logits is not None:
                seen, unseen = logits.log_softmax(-1).chunk(2)
                logits = seen + scale * (seen - unseen)
            return _target(with_image + scale * (with_image - without), logits)

        return predict


def _target(x0: Tensor, logits: Tensor | None) -> Target:
    return Target(x0.float(), None if logits is None else logits.float().softmax(-1))


def _in_own_format(device: str) -> contextlib.AbstractContextManager[Any]:
    """The teacher computes in its own number format; a device of shapes alone knows no other."""
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
