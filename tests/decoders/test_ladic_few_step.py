"""Few-step training of LaDiC: the loss by hand, who learns from it, and what its options change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.decoders.ladic.few_step import FewStepLoss
from vislex.decoders.ladic.losses import draw
from vislex.diffusion.samplers import DDIM
from vislex.errors import ConfigError
from vislex.modules.denoiser import VisionState
from vislex.specs import VisionTokens
from vislex.text import encode_captions

PLAIN = {"length": "fixed", "keep_words": 0.0, "time_shift": 3, "token_weight": 2.0}
TOKENS = torch.randn(3, 6, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batch(tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    captions = ["a red dog", "two unfathomable kites on a green background", "a drum"]
    encoded = encode_captions(tokenizer, captions)
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


@pytest.fixture
def student(make_ladic: Callable[..., LadicDecoder]) -> LadicDecoder:
    return make_ladic(**PLAIN)


@pytest.fixture
def teacher(make_ladic: Callable[..., LadicDecoder]) -> LadicDecoder:
    """As the student, with other weights."""
    decoder = make_ladic(**PLAIN)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim > 1 and not name.startswith("codec."):
                parameter.normal_(std=0.2)
    return decoder


def loss(student: LadicDecoder, objective: FewStepLoss, batch: dict[str, Tensor]) -> Tensor:
    return student(TOKENS, **batch, objective=objective).loss


def start(decoder: LadicDecoder, temperature: float = 1.0) -> Tensor:
    """The noise that ``FewStepLoss`` starts from in eval mode."""
    none = {"drop_image": 0, "keep_words": 0, "self_conditioning": 0}
    shape, generator = (3, 16, decoder.codec.latent_dim), torch.Generator().manual_seed(0)
    drawn = draw(shape, 1000, **none, device=torch.device("cpu"), generator=generator)
    assert drawn.timesteps.tolist() == [696, 44, 436]  # of two places the last, the first, the first
    return temperature * drawn.noise


def state_of(decoder: LadicDecoder) -> VisionState:
    return decoder.denoiser.vision_state(VisionTokens(decoder.projection(TOKENS)))


def everywhere(times: list[int]) -> Tensor:
    return torch.tensor(times)[:, None].expand(3, 16)


@torch.no_grad()
def test_the_loss_by_hand(student: LadicDecoder, teacher: LadicDecoder, batch: dict[str, Tensor]) -> None:
    """One segment of two steps, one step of the teacher: captions at 500, where the student led them, 999 and 999."""
    given = float(loss(student, FewStepLoss(teacher, segments=1, segment_steps=2, solver_steps=1), batch))
    schedule, noise, times = student.schedule, start(student), [500, 999, 999]
    first = student.denoise(noise, everywhere([999] * 3), None, state_of(student), schedule)
    x = DDIM(schedule).step(noise, first, everywhere([999] * 3), everywhere(times))
    told = everywhere([503, 999, 999])  # three more than the truth, as far as there are timesteps
    x0, words = teacher.predict(x, told, None, state_of(teacher), schedule)
    x0, words = x0.clone(), words.softmax(-1)
    later = DDIM(schedule).step(x, x0, everywhere(times), everywhere([0, 500, 500]))
    rest, logits = student.predict(later, everywhere([503] * 3), None, state_of(student), schedule)
    x0[1:], words[1:] = rest[1:], logits.softmax(-1)[1:]
    prediction, logits = student.predict(x, told, None, state_of(student), schedule)
    divergence = (words.xlogy(words) - words * logits.log_softmax(-1)).sum(-1).mean()
    assert given == pytest.approx(float((prediction - x0).square().mean() + 2 * divergence), rel=1e-4)


@torch.no_grad()
def test_guidance_and_noise_are_those_of_sampling(
    student: LadicDecoder, teacher: LadicDecoder, batch: dict[str, Tensor]
) -> None:
    """One segment of one step: the target is the guided prediction at the same time."""
    objective = FewStepLoss(teacher, segments=1, segment_steps=1, guidance_scale=2.0, temperature=0.25)
    assert objective.sampling["num_inference_steps"] == 1
    given = float(loss(student, objective, batch))
    x, told = start(student, 0.25), everywhere([999] * 3)
    seen, words = teacher.predict(x, told, None, state_of(teacher), student.schedule)
    null = teacher.denoiser.vision_state(VisionTokens(teacher.projection(TOKENS)), torch.ones(3, dtype=torch.bool))
    unseen, other = teacher.predict(x, told, None, null, student.schedule)
    wanted = (3 * words.log_softmax(-1) - 2 * other.log_softmax(-1)).log_softmax(-1)
    prediction, logits = student.predict(x, told, None, state_of(student), student.schedule)
    divergence = (wanted.exp() * (wanted - logits.log_softmax(-1))).sum(-1).mean()
    distance = (prediction - (3 * seen - 2 * unseen)).square().mean()
    assert given == pytest.approx(float(distance + 2 * divergence), rel=1e-4)


def test_only_the_student_learns(student: LadicDecoder, teacher: LadicDecoder, batch: dict[str, Tensor]) -> None:
    objective = FewStepLoss(teacher, segments=2, segment_steps=2, solver_steps=1, guidance_scale=1.0)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student.train()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    loss(student, objective, batch).backward()
    missing = {name for name, p in student.named_parameters() if p.grad is None}
    assert all(name.startswith("codec.") for name in missing)
    optimizer.step()
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    for decoder in (teacher, objective.teacher):
        assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [
        {"segments": 1},
        {"segment_steps": 4},
        {"solver_steps": 1},
        {"guidance_scale": 1.0},
        {"temperature": 0.5},
    ],
    ids=lambda change: next(iter(change)),
)
@torch.no_grad()
def test_every_option_changes_the_loss(
    student: LadicDecoder, teacher: LadicDecoder, batch: dict[str, Tensor], change: dict[str, Any]
) -> None:
    base: dict[str, Any] = {"segments": 2, "segment_steps": 2}
    first = float(loss(student, FewStepLoss(teacher, **base), batch))
    assert float(loss(student, FewStepLoss(teacher, **base), batch)) == first
    assert float(loss(student, FewStepLoss(teacher, **{**base, **change}), batch)) != pytest.approx(first, rel=1e-3)


def test_later_segments_are_shown_what_was_predicted_at_the_start_of_the_one_before(
    student: LadicDecoder, teacher: LadicDecoder, batch: dict[str, Tensor]
) -> None:
    seen: list[Tensor] = []
    student.previous.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        loss(student, FewStepLoss(teacher, segments=2, segment_steps=2), batch)  # captions at 499, 999 and 999
        earlier = student.denoise(start(student), everywhere([999] * 3), None, state_of(student), student.schedule)
    first, last = seen  # of that earlier prediction, and of the one that is trained
    assert not first.any()
    torch.testing.assert_close(last[0], earlier[0])
    assert not last[1:].any()


@pytest.mark.parametrize("preset", ["fast", "paper", "released"])
def test_every_preset_can_be_distilled(
    make_ladic: Callable[..., LadicDecoder], batch: dict[str, Tensor], preset: str
) -> None:
    decoder = make_ladic(preset, keep_words=1.0).train()
    objective = FewStepLoss(decoder, segments=2, segment_steps=2, solver_steps=1, guidance_scale=1.0)
    loss(decoder, objective, batch).backward()
    assert all(p.grad.isfinite().all() for p in decoder.parameters() if p.grad is not None)
    decoder.config.sampling = objective.sampling
    decoder.eval().generate(vision_tokens=TOKENS)
    assert decoder.evaluations.tolist() == [2, 2, 2]


def test_what_does_not_fit_is_refused(teacher: LadicDecoder) -> None:
    with pytest.raises(ConfigError, match="solver_steps=3 must be between 1 and segment_steps=2"):
        FewStepLoss(teacher, segment_steps=2, solver_steps=3)
