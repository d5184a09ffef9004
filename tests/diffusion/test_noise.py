from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from vislex.diffusion.noise import NoiseSchedule
from vislex.errors import ConfigError

T = torch.arange(1000)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_betas_are_those_of_diffusers_behind_clean_data(schedule: str) -> None:
    ours = NoiseSchedule.create(schedule=schedule)
    theirs = DDPMScheduler(beta_schedule={"linear": "linear", "cosine": "squaredcos_cap_v2"}[schedule])
    assert ours.alphas_cumprod[0] == 1
    np.testing.assert_allclose(ours.alphas_cumprod[1:], theirs.alphas_cumprod[:-1].numpy(), rtol=2e-4)
    alpha, sigma = ours.alpha_sigma(T)
    assert (alpha[0], sigma[0]) == (1, 0)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(1000, 1))


def test_cosine_is_the_published_formula() -> None:
    f = np.cos((np.arange(1000) / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2
    np.testing.assert_allclose(NoiseSchedule.create(schedule="cosine").alphas_cumprod, f / f[0], rtol=2e-3)


def test_logistic_time_is_the_share_that_is_hidden() -> None:
    schedule = NoiseSchedule.create(schedule="logistic", log_snr=(-4.0, 0.7), num_train_timesteps=200)
    times = torch.tensor([20, 100, 180])
    expected = -4.0 - 0.7 * torch.logit(torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(schedule.log_snr(times), expected, atol=1e-4, rtol=0)
    assert schedule.alphas_cumprod[0] == 1
    for wrong in (None, (-4.0, 0.0)):
        with pytest.raises(ConfigError, match=r"needs log_snr=\(median, scale above 0\)"):
            NoiseSchedule.create(schedule="logistic", log_snr=wrong)


def test_the_noise_factor_shifts_the_log_snr_and_is_the_published_form_up_to_its_scale() -> None:
    plain = NoiseSchedule.create()
    shifted = NoiseSchedule.create(noise_factor=4.0)
    raw = NoiseSchedule.create(noise_factor=4.0, variance_preserving=False)
    torch.testing.assert_close(shifted.log_snr(T)[1:], plain.log_snr(T)[1:] - 2 * math.log(4), atol=2e-4, rtol=0)
    x0, noise = torch.randn(1000, 3, 5), torch.randn(1000, 3, 5)
    abar = torch.from_numpy(plain.alphas_cumprod)[:, None, None]
    published = (abar.sqrt() * x0 + 4 * (1 - abar).sqrt() * noise).float()
    scale = (abar + 16 * (1 - abar)).sqrt().float()
    torch.testing.assert_close(raw.add_noise(x0, noise, T), published)
    torch.testing.assert_close(scale * shifted.add_noise(x0, noise, T), published, atol=1e-5, rtol=1e-4)
    assert (shifted.init_noise_sigma, raw.init_noise_sigma, raw.with_noise_factor(1.0).init_noise_sigma) == (1, 4, 1)


def test_a_time_of_each_token_equals_a_global_one_where_all_are_equal() -> None:
    schedule = NoiseSchedule.create(noise_factor=4.0)
    x0, noise, times = torch.randn(3, 4, 5), torch.randn(3, 4, 5), torch.tensor([0, 400, 999])
    every = times[:, None].expand(3, 4)
    assert torch.equal(schedule.add_noise(x0, noise, times), schedule.add_noise(x0, noise, every))
    mixed = every.clone()
    mixed[:, 1] = 0
    assert torch.equal(schedule.add_noise(x0, noise, mixed)[:, 1], x0[:, 1])


def test_a_schedule_survives_a_build_on_the_meta_device_and_keeps_the_dtype() -> None:
    with torch.device("meta"):
        schedule = NoiseSchedule.create()
        stock = schedule.scheduler("dpmsolver++", 8)
    assert schedule.alpha_sigma(torch.tensor([500]))[0].device.type == "cpu"
    assert stock.alphas_cumprod.device.type == "cpu"
    assert schedule.add_noise(torch.ones(1, 1, 1).bfloat16(), torch.ones(1, 1, 1), T[:1]).dtype == torch.bfloat16


def test_stock_schedulers_hold_the_shifted_betas_and_no_step_at_infinite_snr() -> None:
    schedule = NoiseSchedule.create(noise_factor=4.0)
    for name in ("ddim", "dpmsolver++"):
        stock = schedule.scheduler(name, 8)
        np.testing.assert_allclose(stock.alphas_cumprod.numpy(), schedule.shifted_alphas_cumprod, rtol=5e-4)
        assert stock.timesteps[0] == 999
        assert len(stock.timesteps) == 8
    assert all(min(schedule.scheduler("dpmsolver++", n).timesteps) > 0 for n in (1, 2, 7, 30, 500, 999))
    assert not schedule.scheduler("ddim", 8).config.clip_sample


def test_the_network_is_told_a_later_time_except_of_clean_tokens() -> None:
    told = NoiseSchedule.create(time_shift=5).told(torch.tensor([[0, 1, 500, 997]]))
    assert told.tolist() == [[0, 6, 505, 999]]
    assert NoiseSchedule.create().told(T[None]).tolist() == [T.tolist()]


def test_wrong_schedules_are_refused() -> None:
    with pytest.raises(ConfigError, match="unknown noise schedule 'cosin'; did you mean 'cosine'"):
        NoiseSchedule.create(schedule="cosin")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"noise_factor 0\.0 must be above 0; time_shift -1"):
        NoiseSchedule.create(noise_factor=0.0, time_shift=-1)
    with pytest.raises(ConfigError, match="alphas_cumprod must fall"):
        NoiseSchedule(np.array([0.5, 0.6]))
    with pytest.raises(ConfigError, match="between 1 and 999"):
        NoiseSchedule.create().scheduler("ddim", 1000)
    with pytest.raises(ConfigError, match="allowed are ddim and dpmsolver"):
        NoiseSchedule.create().scheduler("euler", 4)  # type: ignore[arg-type]
