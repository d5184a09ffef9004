from __future__ import annotations

import itertools
import math

import pytest
import torch

from vislex.diffusion.noise import NoiseSchedule
from vislex.diffusion.samplers import SAMPLERS, create_sampler
from vislex.errors import ConfigError

SCHEDULE = NoiseSchedule.create(noise_factor=4.0)


def everywhere(t: int, like: torch.Tensor) -> torch.Tensor:
    return torch.full(like.shape[:2], t)


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [4, 8, 20])
def test_with_one_time_for_all_tokens_a_sampler_equals_that_of_diffusers(name: str, schedule: str, steps: int) -> None:
    noise = NoiseSchedule.create(schedule=schedule, noise_factor=4.0)
    ours, theirs = create_sampler(name, noise), noise.scheduler(name, steps)
    x = their_x = torch.randn(2, 3, 4)
    times = ours.timesteps(steps)
    assert times == theirs.timesteps.tolist()
    for t, following in itertools.pairwise(times):
        x0 = torch.sin(3 * x) + t / 1000
        x = ours.step(x, x0, everywhere(t, x), everywhere(following, x))
        their_x = theirs.step(torch.sin(3 * their_x) + t / 1000, t, their_x).prev_sample
        torch.testing.assert_close(x, their_x, atol=2e-4, rtol=2e-4)


def numbers(t: int) -> tuple[float, float, float]:
    """alpha, sigma and lambda in Python floats."""
    abar = float(SCHEDULE.alphas_cumprod[t])
    power = abar + 16 * (1 - abar)
    alpha, sigma = math.sqrt(abar / power), math.sqrt(16 * (1 - abar) / power)
    return alpha, sigma, math.log(alpha / sigma)


def two_steps(name: str, noise: list[float]) -> float:
    """x at 200 from x = 0.7 at 900 by way of 500, with predictions -0.4 and 1.1: one token, computed by hand."""
    x, first, second = 0.7, -0.4, 1.1
    (a9, s9, l9), (a5, s5, l5), (a2, s2, l2) = (numbers(t) for t in (900, 500, 200))
    if name == "renoise":
        return a2 * second + s2 * noise[1]
    if name == "ddim":
        x = a5 * first + s5 * (x - a9 * first) / s9
        return a2 * second + s2 * (x - a5 * second) / s5
    x = s5 / s9 * x - a5 * (math.exp(-(l5 - l9)) - 1) * first
    r0 = (l5 - l9) / (l2 - l5)
    return s2 / s5 * x - a2 * (math.exp(-(l2 - l5)) - 1) * ((1 + 1 / (2 * r0)) * second - first / (2 * r0))


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_two_steps_by_hand(name: str) -> None:
    sampler, noise = create_sampler(name, SCHEDULE), [0.3, -1.2]
    x = torch.full((1, 1, 1), 0.7)
    for (t, following), x0, fresh in zip([(900, 500), (500, 200)], [-0.4, 1.1], noise, strict=True):
        fresh_noise = torch.full_like(x, fresh) if sampler.stochastic else None
        x = sampler.step(x, torch.full_like(x, x0), everywhere(t, x), everywhere(following, x), fresh_noise)
    assert float(x) == pytest.approx(two_steps(name, noise), abs=1e-5)


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_tokens_keep_their_own_time(name: str) -> None:
    """A mixed sentence equals, token by token, sentences with one time each; held tokens do not move."""
    start, predictions, noise = torch.randn(1, 3, 4), torch.randn(2, 1, 3, 4), torch.randn(2, 1, 3, 4)
    paths = torch.tensor([[900, 500, 200], [700, 300, 100], [0, 0, 0]])

    def run(path: torch.Tensor) -> torch.Tensor:
        sampler, x = create_sampler(name, SCHEDULE), start
        for i in range(2):
            x = sampler.step(x, predictions[i], path[None, :, i], path[None, :, i + 1], noise[i])
        return x

    mixed = run(paths)
    assert mixed.isfinite().all()
    for token in range(2):
        torch.testing.assert_close(mixed[:, token], run(paths[token].expand(3, 3))[:, token])
    assert torch.equal(mixed[:, 2], start[:, 2])


@pytest.mark.parametrize("name", ["ddim", "dpmsolver++"])
def test_the_raw_form_is_the_shifted_one_up_to_its_scale(name: str) -> None:
    raw = NoiseSchedule.create(noise_factor=4.0, variance_preserving=False)
    samplers = create_sampler(name, SCHEDULE), create_sampler(name, raw)
    vp = torch.randn(1, 2, 3)

    def scale(t: int) -> torch.Tensor:
        return raw.alpha_sigma(torch.tensor(t))[1] / SCHEDULE.alpha_sigma(torch.tensor(t))[1]

    x = vp * scale(900)
    for t, following in ((900, 500), (500, 200)):
        x0 = torch.randn(1, 2, 3)
        vp = samplers[0].step(vp, x0, everywhere(t, vp), everywhere(following, vp))
        x = samplers[1].step(x, x0, everywhere(t, vp), everywhere(following, vp))
    torch.testing.assert_close(x, vp * scale(200), atol=1e-4, rtol=1e-4)


def test_a_token_set_back_in_time_forgets_the_step_before() -> None:
    sampler, fresh = create_sampler("dpmsolver++", SCHEDULE), create_sampler("dpmsolver++", SCHEDULE)
    x, x0 = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
    sampler.step(x, torch.randn(1, 2, 3), everywhere(500, x), everywhere(300, x))
    args = (x, x0, everywhere(999, x), everywhere(600, x))
    assert torch.equal(sampler.step(*args), fresh.step(*args))


def test_captions_that_leave_take_their_history_with_them() -> None:
    together, alone = create_sampler("dpmsolver++", SCHEDULE), create_sampler("dpmsolver++", SCHEDULE)
    x, predictions = torch.randn(3, 2, 4), torch.randn(2, 3, 2, 4)
    whole = together.step(x, predictions[0], everywhere(900, x), everywhere(500, x))[1:2]
    single = alone.step(x[1:2], predictions[0, 1:2], everywhere(900, x[1:2]), everywhere(500, x[1:2]))
    together.select(torch.tensor([1]))
    args = (predictions[1, 1:2], everywhere(500, x[1:2]), everywhere(200, x[1:2]))
    torch.testing.assert_close(together.step(whole, *args), alone.step(single, *args))


def test_wrong_calls_are_explained() -> None:
    with pytest.raises(ConfigError, match="unknown sampler 'dpmsolver'; did you mean 'dpmsolver\\+\\+'"):
        create_sampler("dpmsolver", SCHEDULE)
    x = torch.zeros(1, 1, 1)
    with pytest.raises(ConfigError, match="pass noise="):
        create_sampler("renoise", SCHEDULE).step(x, x, everywhere(9, x), everywhere(5, x))
