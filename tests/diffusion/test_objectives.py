"""Noise processes, time densities and loss weights of text-to-image models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import pytest
import torch

from vislex.diffusion.objectives import NoiseDraw, ReconstructionObjective
from vislex.diffusion.process import NoiseProcess
from vislex.errors import ConfigError


def process(prediction: str) -> NoiseProcess:
    if prediction == "flow":
        return NoiseProcess.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0))
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, prediction_type=prediction)
    return NoiseProcess.from_scheduler(scheduler)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_a_perfect_prediction_gives_the_data_back(prediction: str) -> None:
    own = process(prediction)
    clean, noise = torch.randn(2, 5, 3, 4, 4).unbind(0)
    t = own.draw_times(5, generator=torch.Generator().manual_seed(0))
    noisy = own.add_noise(clean, noise, t)
    torch.testing.assert_close(own.to_clean(own.target(clean, noise, t), noisy, t), clean, rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("weighting", ["epsilon", "v", "sample", "min_snr"])
def test_a_weighting_means_the_same_for_every_kind_of_prediction(weighting: Any) -> None:
    t = torch.tensor([300, 500, 700])
    clean, noise, wrong = torch.randn(3, 3, 1, 2, 2).unbind(0)
    losses = []
    for prediction in ("epsilon", "v_prediction", "sample"):
        own = process(prediction)
        noisy = own.add_noise(clean, noise, t)
        alpha, sigma = own.alpha_sigma(t)
        guess = {  # three ways to say that x0 is ``wrong``
            "sample": wrong,
            "epsilon": (noisy - alpha * wrong) / sigma,
            "v_prediction": (alpha * noisy - wrong) / sigma,
        }[prediction]
        error = (guess - own.target(clean, noise, t)).square().flatten(1).mean(1)
        losses.append(error * own.weight(t, weighting))
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(losses[2], losses[0], rtol=1e-3, atol=1e-5)
    assert not torch.allclose(process("sample").weight(t, weighting), torch.full((3,), 7.0))


def test_weights_of_a_flow_and_close_to_the_data() -> None:
    flow, sample = process("flow"), process("sample")
    t = torch.tensor([250.0, 500.0])
    assert torch.equal(flow.weight(t, "v"), torch.ones(2))
    torch.testing.assert_close(flow.weight(t, "sample"), torch.tensor([0.0625, 0.25]))
    early = torch.tensor([0])
    assert sample.weight(early, "v", min_sigma=0.1).item() == pytest.approx(100.0)
    assert sample.weight(early, "v", min_sigma=0.05).item() == pytest.approx(400.0)
    assert sample.weight(early, "min_snr", min_snr_gamma=3.0).item() == pytest.approx(3.0)
    with pytest.raises(ConfigError, match="unknown weighting 'snr'"):
        sample.weight(early, "snr")  # type: ignore[arg-type]


def test_times_follow_density_shift_and_seed() -> None:
    own, flow = process("epsilon"), process("flow")
    seeded = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    uniform = own.draw_times(4000, generator=seeded())
    assert (uniform.dtype, int(uniform.min()) < 5, int(uniform.max()) > 995) == (torch.int64, True, True)
    assert torch.equal(uniform, own.draw_times(4000, generator=seeded()))
    middle = own.draw_times(4000, density="logit_normal", generator=seeded()).float()
    assert middle.std() < 0.8 * uniform.float().std()
    late = own.draw_times(4000, density="logit_normal", logit_mean=1.0, generator=seeded()).float()
    assert late.mean() > middle.mean() + 100
    narrow = own.draw_times(4000, density="logit_normal", logit_std=0.3, generator=seeded()).float()
    assert narrow.std() < 0.5 * middle.std()
    shifted = flow.draw_times(4000, generator=seeded())
    assert shifted.median().item() == pytest.approx(1000 * 2 / 3, abs=20)  # 2 u / (1 + u) at u = 1/2
    with pytest.raises(ConfigError, match="unknown density"):
        own.draw_times(2, density="cosine")  # type: ignore[arg-type]


def test_the_objective_weighs_draws_and_repeats(tiny_t2i: Callable[..., Any]) -> None:
    model = tiny_t2i("pixart-pixels")
    pixels = torch.rand(3, 3, 8, 8) * 2 - 1
    condition = model.condition(["a red dog", "a cat", "two kite"])
    plain, weighted = ReconstructionObjective(), ReconstructionObjective(weighting="v", min_sigma=0.1)
    first = plain(model, pixels, condition, generator=torch.Generator().manual_seed(1))
    again = plain(model, pixels, condition, generator=torch.Generator().manual_seed(1))
    assert torch.equal(first.per_image, again.per_image)
    torch.testing.assert_close(first.loss, first.per_image.mean())
    same = weighted(model, pixels, condition, first.draw)
    torch.testing.assert_close(
        same.per_image, first.per_image * model.process.weight(first.draw.timesteps, "v", min_sigma=0.1)
    )
    later = NoiseDraw(torch.tensor([99] * 3), first.draw.noise)
    assert not torch.equal(plain(model, pixels, condition, later).per_image, first.per_image)


def test_schedulers_of_other_processes_are_refused() -> None:
    edm = diffusers.EDMEulerScheduler()
    with pytest.raises(ConfigError, match="no alphas_cumprod"):
        NoiseProcess.from_scheduler(edm)
    with pytest.raises(ConfigError, match=r"'sample'.*trained with epsilon"):
        NoiseProcess.from_scheduler(diffusers.DDPMScheduler(prediction_type="sample"), ("epsilon",))
