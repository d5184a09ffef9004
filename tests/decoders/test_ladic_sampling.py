"""The loop on a denoiser in closed form: the posterior mean over a handful of captions, each image with its prior."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from vislex.decoders.ladic.sampling import (
    Guided,
    SampleResult,
    SamplingConfig,
    sample,
    select_rows,
)
from vislex.decoders.noise import caption_generators
from vislex.diffusion.noise import NoiseSchedule
from vislex.diffusion.token_times import token_times
from vislex.errors import ConfigError, SpecError

SCHEDULE = NoiseSchedule.create(noise_factor=2.0)
VOCABULARY = torch.eye(6)  # latents of six words
CAPTIONS = torch.tensor([[0, 1, 2, 3], [0, 1, 4, 5], [3, 2, 1, 0], [5, 5, 2, 4]])
PRIORS = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.1, 0.1], [0.0, 0.5, 0.5, 0.0]])  # of three images


@dataclass
class Posterior:
    """E[x0 | x_t] under ``priors`` float[B, K]; rows from B on know no image. Notes what it was called with.

    Where it is asked for more rows than there are latents, the same latents are seen once more.
    """

    priors: Tensor
    schedule: NoiseSchedule = SCHEDULE
    timesteps: list[Tensor] = field(default_factory=list)
    previous: list[Tensor | None] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    answers: list[Tensor] = field(default_factory=list)

    def __call__(self, x: Tensor, timesteps: Tensor, previous: Tensor | None, rows: Tensor) -> Tensor:
        latents = VOCABULARY[CAPTIONS].double()  # [K, L, D]
        copies = len(rows) // len(x)
        x, timesteps = x.repeat(copies, 1, 1), timesteps.repeat(copies, 1)
        alpha, sigma = (part.double()[:, None] for part in self.schedule.alpha_sigma(timesteps))  # [R, 1, L, 1]
        distance = ((x[:, None].double() - alpha * latents) / sigma.clamp(min=1e-2)).square().sum((2, 3))
        no_image = torch.full_like(self.priors, 0.25)
        prior = torch.cat([self.priors, no_image])[rows].double()
        weights = (prior.log() - distance / 2).softmax(1)
        answer = torch.einsum("rk,kld->rld", weights, latents).float()
        for log, value in (
            (self.timesteps, timesteps), (self.previous, previous), (self.rows, rows), (self.answers, answer),
        ):  # fmt: skip
            log.append(value)
        return answer


def read(x0: Tensor) -> tuple[Tensor, Tensor]:
    return (x0 @ VOCABULARY.T).softmax(-1).max(-1)[::-1]


def run(
    config: SamplingConfig, priors: Tensor = PRIORS, indices: list[int] | None = None, **options: object
) -> tuple[SampleResult, Posterior]:
    denoise = Posterior(priors)
    n = len(priors)
    generator = caption_generators(config.seed, range(n) if indices is None else indices)
    return sample(denoise, read, SCHEDULE, config, shape=(n, 4, 6), generator=generator, **options), denoise


def shares(ids: Tensor) -> Tensor:
    """How often each caption was written, float[K]; all that is written must be one of them."""
    same = (ids[:, None] == CAPTIONS).all(-1)
    assert same.any(1).float().mean() > 0.99
    return same.float().mean(0)


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 50), ("dpmsolver++", 30)])
def test_solvers_recover_the_distribution(sampler: str, steps: int) -> None:
    config = SamplingConfig(sampler=sampler, num_inference_steps=steps, guidance_scale=0.0)
    for prior in PRIORS:
        result, _ = run(config, prior.expand(1000, 4))
        torch.testing.assert_close(shares(result.ids), prior, atol=0.06, rtol=0)
        assert ((result.x0 - VOCABULARY[result.ids]).abs() < 0.1).float().mean() > 0.99
    assert result.evaluations.tolist() == [steps] * 1000


def test_renoising_a_mean_prefers_likely_captions() -> None:
    """Noise of one draw added to a mean over draws: the more steps, the likelier the likeliest."""
    config = SamplingConfig(sampler="renoise", num_inference_steps=100, guidance_scale=0.0)
    assert shares(run(config, PRIORS[1].expand(400, 4))[0].ids)[0] > PRIORS[1, 0] + 0.06


OPTIONS = [
    {},
    {"sampler": "renoise", "early_exit": 2},
    {"sampler": "ddim", "refine_at": 0.5, "guidance_interval": (0.2, 0.7)},
    {"early_exit": 1, "refine_at": 0.5, "refine_fraction": 0.25, "refine_steps": 9},
    {"time_skew": 3.0, "early_exit": 2},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_batch_equals_its_singles_and_a_seed_repeats_itself(options: dict) -> None:
    config = SamplingConfig(num_inference_steps=12, **options)
    together, _ = run(config)
    assert torch.equal(run(config)[0].x0, together.x0)
    for i in range(3):
        alone, _ = run(config, PRIORS[i : i + 1], [i])
        torch.testing.assert_close(alone.x0[0], together.x0[i])
        assert torch.equal(alone.ids[0], together.ids[i])
        assert int(alone.evaluations) == int(together.evaluations[i])


def test_words_that_are_decided_one_after_the_other_belong_together() -> None:
    """In few steps without noise the likeliest word of each place is written, no caption; with a skew they agree."""
    few = {"num_inference_steps": 3, "guidance_scale": 0.0, "temperature": 0.0}
    priors = torch.tensor([[0.30, 0.0, 0.36, 0.34]])
    at_once, _ = run(SamplingConfig(**few), priors)
    assert at_once.ids.tolist() == [[3, 2, 2, 0]]
    skewed, denoise = run(SamplingConfig(**few, time_skew=2.0), priors)
    assert torch.equal(skewed.ids[0], CAPTIONS[2])
    moments = torch.tensor(SamplingConfig(**few).passes(SCHEDULE)[0])
    assert torch.equal(torch.cat(denoise.timesteps), token_times(moments, 4, 2.0, 1000))
    with pytest.raises(ConfigError, match="time_skew=2 needs token_times=True"):
        SamplingConfig(time_skew=2, token_times=False)


def test_another_seed_or_candidate_is_another_noise() -> None:
    draws = [torch.randn(3, generator=g) for s in (0, 1) for g in caption_generators(s, [0, 1], num_candidates=2)]
    assert len({tuple(draw.tolist()) for draw in draws}) == 8


def test_a_low_temperature_prefers_the_likely_captions_and_none_leaves_no_chance() -> None:
    priors = torch.tensor([[0.1, 0.2, 0.2, 0.5]]).expand(300, 4)
    likely = [
        shares(run(SamplingConfig(num_inference_steps=20, guidance_scale=0, temperature=temperature), priors)[0].ids)[3]
        for temperature in (1.0, 0.5, 0.0)
    ]
    assert 0.4 < likely[0] < 0.58 < 0.65 < likely[1] < likely[2] == 1
    ids = [run(SamplingConfig(temperature=0.0, seed=seed), priors[:2])[0].x0 for seed in (0, 1)]
    torch.testing.assert_close(*ids)


def test_guidance_extrapolates_from_without_to_with_image_and_feeds_the_self_conditioning() -> None:
    result, denoise = run(SamplingConfig(num_inference_steps=5, guidance_scale=1.5))
    assert result.evaluations.tolist() == [10, 10, 10]
    assert denoise.rows[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert denoise.previous[0] is None
    for answer, following in zip(denoise.answers, denoise.previous[1:], strict=False):
        guided = answer[:3] + 1.5 * (answer[:3] - answer[3:])
        assert torch.equal(following, guided)
    assert all(value is None for value in run(SamplingConfig(self_conditioning=False))[1].previous)


def test_guidance_sharpens_what_the_image_says() -> None:
    def share(scale: float) -> float:
        config = SamplingConfig(num_inference_steps=20, guidance_scale=scale, sampler="ddim")
        result, _ = run(config, PRIORS[1].expand(600, 4))
        return float((result.ids == CAPTIONS[0]).all(1).float().mean())

    assert share(0.0) < 0.76
    assert share(1.0) > share(0.0) + 0.1


def test_outside_its_interval_guidance_costs_nothing() -> None:
    config = SamplingConfig(num_inference_steps=10, guidance_interval=(0.25, 0.75), sampler="ddim")
    result, denoise = run(config)
    times = config.passes(SCHEDULE)[0]
    inside = [249.75 <= t <= 749.25 for t in times]
    assert [len(rows) for rows in denoise.rows] == [6 if guided else 3 for guided in inside]
    assert result.evaluations.tolist() == [10 + sum(inside)] * 3
    guided = Guided(denoise, 3, config, SCHEDULE)
    assert (guided.evaluations(999), guided.evaluations(500), guided.evaluations(10)) == (1, 2, 1)


@pytest.mark.parametrize(("fraction", "n_refined"), [(0.5, 2), (0.25, 1), (1.0, 4)])
def test_back_and_refine_keeps_the_confident_words_and_finds_the_others_anew(fraction: float, n_refined: int) -> None:
    config = SamplingConfig(
        num_inference_steps=10, refine_at=0.5, refine_fraction=fraction, refine_steps=6, guidance_scale=0.0
    )
    result, denoise = run(config)
    assert result.evaluations.tolist() == [11, 11, 11]
    assert [int(t.max()) for t in denoise.timesteps[:5]] == config.passes(SCHEDULE)[0]
    assert int(denoise.timesteps[5].max()) == 999
    half_way = denoise.answers[4]
    _, confidence = read(half_way)
    for times in denoise.timesteps[5:]:
        assert (times > 0).sum(1).tolist() == [n_refined] * 3
    refined = denoise.timesteps[5] > 0
    for row in range(3):
        if n_refined < 4:
            assert confidence[row][refined[row]].max() <= confidence[row][~refined[row]].min()
    assert torch.equal(result.x0[~refined], half_way[~refined])
    assert (denoise.previous[5][refined] == 0).all()
    assert torch.equal(denoise.previous[5][~refined], half_way[~refined])


def test_refinement_follows_the_whole_pass_by_default() -> None:
    passes = SamplingConfig(num_inference_steps=8, refine_at=1.0).passes(SCHEDULE)
    assert passes[0] == passes[1]
    assert len(passes[0]) == 8


@pytest.mark.parametrize("sampler", ["renoise", "ddim", "dpmsolver++"])
def test_infilling_samples_what_fits_the_given_words(sampler: str) -> None:
    n = 50 if sampler == "renoise" else 800
    config = SamplingConfig(sampler=sampler, num_inference_steps=50, guidance_scale=0.0)
    priors = PRIORS[0].expand(n, 4)
    mask = torch.tensor([False, False, True, False]).expand(n, 4)
    known = VOCABULARY[torch.full((n, 4), 2)]  # captions 0 and 3 have word 2 in third place
    result, denoise = run(config, priors, known=known, known_mask=mask)
    assert torch.equal(result.x0[mask], known[mask])
    assert all((times[:, 2] == 0).all() for times in denoise.timesteps)
    found = shares(result.ids)
    assert found[[1, 2]].tolist() == [0, 0]
    if sampler != "renoise":
        torch.testing.assert_close(found, torch.tensor([0.2, 0.0, 0.0, 0.8]), atol=0.07, rtol=0)


def test_given_words_are_held_through_back_and_refine() -> None:
    config = SamplingConfig(num_inference_steps=10, refine_at=0.5, refine_fraction=0.5)
    mask = torch.tensor([[True, True, False, False]]).expand(3, 4)
    known = VOCABULARY[CAPTIONS[:1, :].expand(3, 4)]
    result, denoise = run(config, known=known, known_mask=mask)
    assert torch.equal(result.x0[mask], known[mask])
    assert (denoise.timesteps[-1] > 0).sum(1).tolist() == [1] * 6  # half of the two free ones


def test_held_words_can_be_told_the_time_of_the_loop() -> None:
    config = SamplingConfig(num_inference_steps=4, refine_at=0.5, guidance_scale=0.0, token_times=False)
    result, denoise = run(config)
    assert all(times.unique().numel() == 1 for times in denoise.timesteps)
    refined = run(SamplingConfig(num_inference_steps=4, refine_at=0.5, guidance_scale=0.0))[1].timesteps[-1] > 0
    assert torch.equal(result.x0[~refined], denoise.answers[1][~refined])  # they are held all the same


def test_captions_leave_when_their_words_stay_the_same() -> None:
    certain, open_ = torch.eye(4)[[0, 3]], torch.full((20, 4), 0.25)
    priors = torch.cat([certain, open_])
    config = {"num_inference_steps": 30, "guidance_scale": 0.0, "sampler": "renoise"}
    full, _ = run(SamplingConfig(**config), priors)
    result, denoise = run(SamplingConfig(**config, early_exit=4), priors)
    assert result.evaluations[:2].tolist() == [5, 5]
    assert int(result.evaluations[2:].max()) == result.steps > 5
    assert torch.equal(result.ids[:2], full.ids[:2])
    assert [len(rows) for rows in denoise.rows] == [int((result.evaluations > i).sum()) for i in range(result.steps)]
    assert run(SamplingConfig(**config, early_exit=4, refine_at=0.5), priors)[0].evaluations.min() == 20


def test_a_trace_tells_the_words_of_every_step() -> None:
    config = SamplingConfig(num_inference_steps=9, trace=True, guidance_scale=0.0, early_exit=3)
    result, denoise = run(config)
    assert [len(steps) for steps in result.trace] == result.evaluations.tolist()
    assert max(map(len, result.trace)) == result.steps == len(denoise.answers)
    assert torch.equal(torch.stack([steps[-1].ids for steps in result.trace]), result.ids)
    assert torch.equal(torch.stack([steps[0].ids for steps in result.trace]), read(denoise.answers[0])[0])
    times = [step.time for step in max(result.trace, key=len)]
    assert times == sorted(times, reverse=True)
    assert 0 <= times[-1] < times[0] < 1
    assert run(SamplingConfig())[0].trace is None


def test_a_stride_counts_as_in_the_release() -> None:
    (thirty,) = SamplingConfig(sampler="renoise", stride=30).passes(SCHEDULE)
    assert (len(thirty), thirty[:2], thirty[-1]) == (34, [999, 969], 9)
    assert SamplingConfig(stride=200).passes(SCHEDULE) == [[999, 799, 599, 399, 199]]


def test_the_network_is_told_a_shifted_time() -> None:
    shifted = NoiseSchedule.create(noise_factor=2.0, time_shift=5)
    denoise = Posterior(PRIORS, shifted)
    config = SamplingConfig(stride=200, guidance_scale=0.0)
    sample(denoise, read, shifted, config, shape=(3, 4, 6), generator=caption_generators(0, range(3)))
    assert [int(times[0, 0]) for times in denoise.timesteps] == [999, 804, 604, 404, 204]


def test_the_raw_form_begins_with_the_noise_of_its_factor() -> None:
    raw = NoiseSchedule.create(noise_factor=4.0, variance_preserving=False)
    seen: list[Tensor] = []

    def denoise(x: Tensor, timesteps: Tensor, previous: Tensor | None, rows: Tensor) -> Tensor:
        seen.append(x)
        return x

    for schedule in (raw, raw.with_noise_factor(1.0)):
        config = SamplingConfig(num_inference_steps=1, guidance_scale=0.0)
        sample(denoise, read, schedule, config, shape=(2, 4, 6), generator=caption_generators(0, range(2)))
    torch.testing.assert_close(seen[0], 4 * seen[1])


def test_the_network_is_given_its_own_dtype() -> None:
    dtypes = []

    def denoise(x: Tensor, timesteps: Tensor, previous: Tensor | None, rows: Tensor) -> Tensor:
        dtypes.extend(value.dtype for value in (x, previous) if value is not None)
        return x

    config = SamplingConfig(num_inference_steps=3, guidance_scale=0.0)
    result = sample(
        denoise, lambda x0: (x0.argmax(-1), x0.amax(-1)), SCHEDULE, config,
        shape=(1, 4, 6), generator=caption_generators(0, [0]), dtype=torch.bfloat16,
    )  # fmt: skip
    assert set(dtypes) == {torch.bfloat16}
    assert result.x0.dtype == torch.float32


def test_a_state_is_selected_only_when_the_rows_change() -> None:
    class State(list):
        def select(self, rows: Tensor) -> State:
            return State(self[i] for i in rows.tolist())

    state = State("abcd")
    select, rows = select_rows(state), torch.tensor([1, 3])
    assert select(torch.arange(4)) is state
    assert select(rows) == ["b", "d"]
    assert select(rows) is select(rows)


def test_wrong_options_are_explained_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"unknown sampler 'dim'.*early_exit=-1.*") as error:
        SamplingConfig(sampler="dim", num_inference_steps=0, guidance_interval=(0.5, 0.2), refine_at=0.0, early_exit=-1)
    assert str(error.value).count(";") >= 4
    with pytest.raises(SpecError, match="2 generators for 3 captions"):
        run(SamplingConfig(), PRIORS, [0, 1])
    with pytest.raises(SpecError, match="known and known_mask"):
        run(SamplingConfig(), known=torch.zeros(3, 4, 6))
