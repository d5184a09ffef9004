from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast

from vislex.decoders.ladic.codec import LatentCodec
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.decoders.ladic.losses import draw, latent_loss
from vislex.decoders.ladic.mixture import TokenMixture
from vislex.decoders.ladic.words import whole_captions
from vislex.diffusion.noise import NoiseSchedule
from vislex.diffusion.token_times import token_times
from vislex.errors import ConfigError, SpecError
from vislex.specs import EncoderSpec, Grid, VisionTokens
from vislex.text import encode_captions

PRESETS = ["fast", "paper", "released"]
MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]).bool()


def tokens(batch: int = 3) -> Tensor:
    return torch.randn(batch, 6, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def make(make_ladic: Callable[..., LadicDecoder]) -> Callable[..., LadicDecoder]:
    return make_ladic


@pytest.fixture(params=PRESETS)
def decoder(request: pytest.FixtureRequest, make: Callable[..., LadicDecoder]) -> LadicDecoder:
    return make(request.param)


@pytest.fixture
def batch(tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    return encode_captions(tokenizer, ["a red dog", "two unfathomable kites on a green background", "a drum"])


FEW = {"num_inference_steps": 3, "stride": None}


def test_the_loss_is_that_of_one_drawn_time(make: Callable[..., LadicDecoder], batch: dict[str, Tensor]) -> None:
    decoder = make(
        cross_entropy_weight=0.0, token_weight=0.0, length_weight=0.0, keep_words=0.0, self_conditioning="none"
    )
    ids = torch.nn.functional.pad(batch["input_ids"], (0, 16 - batch["input_ids"].shape[1]))
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, 16 - batch["attention_mask"].shape[1]))
    x0 = decoder.codec.encode(ids, mask)
    generator = torch.Generator().manual_seed(0)
    drawn = draw(
        tuple(x0.shape), 1000, drop_image=0, keep_words=0, self_conditioning=0, device=x0.device, generator=generator
    )
    times = drawn.timesteps[:, None].expand(3, 16)
    noised = decoder.schedule.add_noise(x0, drawn.noise, times)
    state = decoder.denoiser.vision_state(VisionTokens(decoder.projection(tokens())))
    counts = torch.arange(16) < torch.tensor([8, 16, 8])[:, None]
    prediction = decoder.denoise(noised, times, None, state, decoder.schedule, counts)
    expected = (prediction - x0).square().mean(-1)[counts].mean()
    torch.testing.assert_close(decoder(tokens(), **batch).loss, expected)


def test_the_same_latents_with_several_images_are_seen_as_one_by_one(decoder: LadicDecoder) -> None:
    """The states of guidance: twice as many rows as latents."""
    x = torch.randn(3, 16, decoder.codec.latent_dim, generator=torch.Generator().manual_seed(2))
    times = torch.full((3, 16), 400)
    both = decoder.denoiser.guided_state(decoder.denoiser.vision_state(decoder._project(tokens())))
    together = decoder.predict(x, times, x.flip(0), both, decoder.schedule)
    halves = [
        decoder.predict(x, times, x.flip(0), both.select(rows), decoder.schedule)
        for rows in (torch.arange(3), torch.arange(3, 6))
    ]
    for one, parts in zip(together, zip(*halves, strict=True), strict=True):
        if one is not None:
            torch.testing.assert_close(one, torch.cat(parts), rtol=1e-4, atol=1e-4)


def test_words_with_a_skew_are_trained_at_their_own_times(
    make: Callable[..., LadicDecoder], batch: dict[str, Tensor]
) -> None:
    """Words that are clean already do not count, and the loss is that of ``token_times``."""
    decoder = make(
        cross_entropy_weight=0.0,
        token_weight=0.0,
        length_weight=0.0,
        keep_words=0.0,
        self_conditioning="none",
        time_skew=5.0,
    )
    ids = torch.nn.functional.pad(batch["input_ids"], (0, 16 - batch["input_ids"].shape[1]))
    x0 = decoder.codec.encode(ids, (ids != 0).long())
    generator = torch.Generator().manual_seed(0)
    draws = {"drop_image": 0, "keep_words": 0, "self_conditioning": 0, "time_skew": 5.0}
    drawn = draw(tuple(x0.shape), 1000, device=x0.device, generator=generator, **draws)
    assert ((drawn.skew >= 0) & (drawn.skew <= 5)).all()
    times = token_times(drawn.timesteps, 16, drawn.skew, 1000)
    shown = torch.where(drawn.by_token[:, None, None], decoder.codec.token_latents[ids], x0)
    noised = torch.where((times == 0)[..., None], shown, decoder.schedule.add_noise(x0, drawn.noise, times))
    state = decoder.denoiser.vision_state(VisionTokens(decoder.projection(tokens())))
    real = torch.arange(16) < torch.tensor([8, 16, 8])[:, None]
    prediction = decoder.denoise(noised, times, None, state, decoder.schedule, real)
    expected = (prediction - x0).square().mean(-1)[real & (times > 0)].mean()
    torch.testing.assert_close(decoder(tokens(), **batch).loss, expected)
    with pytest.raises(ConfigError, match="time_skew -1 must be at least 0"):
        make(time_skew=-1)


def test_a_caption_may_be_shown_at_several_times(make: Callable[..., LadicDecoder], batch: dict[str, Tensor]) -> None:
    """Three draws of a batch are the draws of the same batch three times over, every caption's side by side."""
    fields = {"length_weight": 0.0, "keep_words": 0.0, "drop_image": 0.0}
    several = make(draws_per_caption=3, **fields).train()
    torch.manual_seed(5)
    loss = several(tokens(), **batch).loss
    once = make(**fields).train()
    torch.manual_seed(5)
    repeated = {name: value.repeat_interleave(3, 0) for name, value in batch.items()}
    torch.testing.assert_close(loss, once(tokens().repeat_interleave(3, 0), **repeated).loss)
    torch.testing.assert_close(several.eval()(tokens(), **batch).loss, once.eval()(tokens(), **batch).loss)
    with pytest.raises(ConfigError, match="draws_per_caption 0 must be at least 1"):
        make(draws_per_caption=0)


def test_losses_by_hand() -> None:
    schedule = NoiseSchedule.create(noise_factor=4.0)
    x0 = torch.zeros(2, 2, 4)
    prediction = torch.ones(2, 2, 4) * torch.tensor([1.0, 3.0])[:, None, None]
    counts = torch.tensor([[True, True], [True, False]])
    times = torch.tensor([[10, 10], [900, 900]])
    shared = {"counts": counts, "timesteps": times, "schedule": schedule}
    assert float(latent_loss(prediction, x0, kind="l2", **shared)) == pytest.approx((2 + 2 + 6) / 3)
    assert float(latent_loss(prediction, x0, kind="mse", **shared)) == pytest.approx((1 + 1 + 9) / 3)
    snr = schedule.log_snr(times).exp().clamp(max=5)
    weights = snr * 3 / snr[counts].sum()
    expected = (2 * weights[0, 0] + 9 * weights[1, 0]) / 3
    assert float(latent_loss(prediction, x0, kind="mse", min_snr_gamma=5, **shared)) == pytest.approx(float(expected))


def test_draws_spread_the_times_and_keep_their_shares() -> None:
    torch.manual_seed(0)
    drawn = draw((400, 8, 2), 1000, drop_image=0.1, keep_words=0.25, self_conditioning=1.0, device=torch.device("cpu"))
    even = 1 + torch.arange(400) * 998 / 400
    assert (drawn.timesteps.sort().values - even).abs().max() < 4
    assert 20 <= int(drawn.dropped.sum()) <= 60
    assert 60 <= int(drawn.kept.any(1).sum()) <= 110
    assert drawn.shows_prediction


def test_the_image_and_the_words_matter(decoder: LadicDecoder, batch: dict[str, Tensor]) -> None:
    logits = decoder(tokens(), **batch).logits
    assert not torch.allclose(logits, decoder(tokens().flip(0), **batch).logits)
    other = torch.where(MASK[..., None], tokens(), torch.full((), 50.0))
    masked = decoder(VisionTokens(tokens(), MASK), **batch)
    torch.testing.assert_close(masked.loss, decoder(VisionTokens(other, MASK), **batch).loss)


def test_words_see_their_neighbours_before_the_denoiser(make: Callable[..., LadicDecoder]) -> None:
    decoder = make(neighbours=True, self_conditioning="none")
    seen: list[Tensor] = []
    decoder.denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    x = torch.randn(1, 8, decoder.codec.latent_dim, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[:, 3] = -other[:, 3]
    state = decoder.denoiser.vision_state(VisionTokens(decoder.projection(tokens(1))))
    for latents in (x, other):
        decoder.denoise(latents, torch.full((1, 8), 300), None, state, decoder.schedule)
    changed = (seen[0] != seen[1]).any(-1)[0]
    assert changed.nonzero()[:, 0].tolist() == [2, 3, 4]
    assert not hasattr(make(neighbours=False), "neighbours")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_weight_learns(make: Callable[..., LadicDecoder], batch: dict, spec: EncoderSpec, preset: str) -> None:
    decoder = make(preset, spec=spec.replace(grid=Grid(2, 3)), self_conditioning_p=1.0, drop_image=0.5).train()
    decoder(tokens(), **batch).loss.backward()
    assert [name for name, value in decoder.named_parameters() if value.grad is None and value.requires_grad] == []
    frozen = {name for name, value in decoder.named_parameters() if not value.requires_grad}
    assert frozen == ({f"denoiser.table_norm.{name}" for name in ("weight", "bias")} if preset == "released" else set())


def test_validation_computes_under_autocast_as_training_does(decoder: LadicDecoder, batch: dict[str, Tensor]) -> None:
    images = [torch.randn_like(tokens()) for _ in range(12)]  # weights are wild: one batch alone differs by chance
    with torch.autocast("cpu", torch.bfloat16):
        losses = [decoder(own, **batch).loss.item() for own in images]
        assert decoder.generate(vision_tokens=tokens(), **FEW).shape[0] == 3
    exact = [decoder(own, **batch).loss.item() for own in images]
    assert sum(losses) == pytest.approx(sum(exact), rel=0.05)


def test_narrow_networks_start_wider(make: Callable[..., LadicDecoder]) -> None:
    assert make(hidden_size=64).config.initializer_range == pytest.approx(0.0625)
    assert make(hidden_size=64, initializer_range=0.5).config.initializer_range == 0.5


def test_validation_repeats_itself_and_training_does_not(decoder: LadicDecoder, batch: dict[str, Tensor]) -> None:
    assert torch.equal(decoder(tokens(), **batch).loss, decoder(tokens(), **batch).loss)
    decoder.train()
    assert not torch.equal(decoder(tokens(), **batch).loss, decoder(tokens(), **batch).loss)


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 1.0}, {"sampler": "renoise"}, {"refine_at": 0.5}])
@pytest.mark.parametrize("mask", [None, MASK])
def test_a_batch_equals_its_singles(decoder: LadicDecoder, options: dict, mask: Tensor | None) -> None:
    together = decoder.generate(vision_tokens=VisionTokens(tokens(), mask), **FEW, **options)
    evaluations = decoder.evaluations
    for row in range(3):
        kept = tokens()[row : row + 1, : 6 if mask is None else int(mask[row].sum())]
        alone = decoder.generate(vision_tokens=kept, indices=torch.tensor([row]), **FEW, **options)
        assert torch.equal(together[row, : alone.shape[1]], alone[0])
        assert (together[row, alone.shape[1] :] == decoder.config.pad_token_id).all()
        assert int(decoder.evaluations) == int(evaluations[row])


def test_the_seed_decides(decoder: LadicDecoder) -> None:
    first = decoder.generate(vision_tokens=tokens(), seed=3, **FEW, temperature=1.0)
    assert torch.equal(first, decoder.generate(vision_tokens=tokens(), seed=3, **FEW, temperature=1.0))
    others = [decoder.generate(vision_tokens=tokens(), seed=seed, **FEW, temperature=1.0) for seed in range(4, 10)]
    assert any(first.shape != other.shape or not torch.equal(first, other) for other in others)


def test_captions_are_well_formed(decoder: LadicDecoder) -> None:
    ids = decoder.generate(vision_tokens=tokens(), **FEW)
    config = decoder.config
    assert (ids[:, 0] == config.bos_token_id).all()
    for row in ids.tolist():
        words = row[1 : row.index(config.eos_token_id)]
        assert not {config.bos_token_id, config.pad_token_id} & set(words)
        assert set(row[len(words) + 2 :]) <= {config.pad_token_id}


def test_evaluations_count_guided_steps_twice(make: Callable[..., LadicDecoder]) -> None:
    decoder = make(length="fixed")
    for options, expected in (
        ({"guidance_scale": 0.0}, 4),
        ({"guidance_scale": 1.0}, 8),
        ({"guidance_scale": 1.0, "guidance_interval": [0.0, 0.6]}, 6),
        ({"guidance_scale": 0.0, "refine_at": 0.5, "refine_steps": 3}, 5),
    ):
        decoder.generate(vision_tokens=tokens(), sampler="ddim", num_inference_steps=4, **options)
        assert decoder.evaluations.tolist() == [expected] * 3
    released = make("released")
    released.generate(vision_tokens=tokens(1))
    assert released.evaluations.tolist() == [68]


def test_given_words_are_kept(decoder: LadicDecoder, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = encode_captions(tokenizer, ["a red dog left of a cat"])["input_ids"].expand(3, -1)
    mask = torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    mask[:, 0] = mask[:, -1] = True
    made = decoder.generate(vision_tokens=tokens(), input_ids=ids, known_mask=mask, **FEW)
    assert made.shape == ids.shape  # the end is given: nothing follows
    for row in range(3):  # in their order, whatever is put between them
        words, wanted = made[row].tolist(), ids[row][mask[row]].tolist()
        assert [w for w in words if w in wanted][-1] == wanted[-1]
    begun = decoder.generate(vision_tokens=tokens(), input_ids=ids[:, :4], **FEW)
    assert torch.equal(begun[:, :4], ids[:, :4])


def test_lengths(make: Callable[..., LadicDecoder], batch: dict[str, Tensor]) -> None:
    decoder = make()
    vision = tokens()
    lengths = 1 + decoder.length_head.predict(VisionTokens(decoder.projection(vision)))  # [CLS] comes first
    assert set(lengths.tolist()) <= {8, 16}
    decoder.length_head.mlp[-1].bias.data = torch.tensor([50.0, 0.0])
    assert decoder.generate(vision_tokens=vision, **FEW).shape[1] <= 8
    assert decoder.generate(vision_tokens=vision, max_new_tokens=3, **FEW).shape[1] <= 4
    seen = []
    decoder.denoiser.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape[1]))
    decoder.generate(vision_tokens=vision, length=13, **FEW)
    assert set(seen) == {13}
    seen.clear()
    decoder(vision, **{name: value[:1].expand(3, -1)[:, :5] for name, value in batch.items()})
    decoder(vision, **batch)
    assert set(seen) == {8, 16}
    with pytest.raises(ConfigError, match="at most 16"):
        decoder.generate(vision_tokens=vision, length=17)


def test_a_trace_shows_every_step(decoder: LadicDecoder) -> None:
    decoder.generate(vision_tokens=tokens(), trace=True, **FEW)
    assert [len(steps) for steps in decoder.trace] == [3] * 3 or decoder.config.sampling.get("refine_at")
    assert all(step.ids[0] == decoder.config.bos_token_id for steps in decoder.trace for step in steps)


@pytest.mark.parametrize("kind", ["linear", "tokens"])
def test_preconditioning_is_exact_where_there_is_no_noise(make: Callable[..., LadicDecoder], kind: str) -> None:
    decoder = make(preconditioning=kind)
    state = decoder.denoiser.vision_state(VisionTokens(decoder.projection(tokens())))
    x = torch.randn(3, 8, decoder.codec.latent_dim)
    clean = torch.zeros(3, 8, dtype=torch.long)
    torch.testing.assert_close(decoder.denoise(x, clean, None, state, decoder.schedule), x)
    plain = make(preconditioning="none")
    assert not torch.allclose(plain.denoise(x, clean, None, state, plain.schedule), x)


def test_the_mixture_by_brute_force() -> None:
    generator = torch.Generator().manual_seed(0)
    means, variance = torch.randn(5, 3, generator=generator), torch.tensor([0.2, 0.5, 1.0])
    prior = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25])
    alpha, sigma = torch.tensor([[[0.6]]]), torch.tensor([[[0.8]]])
    x = torch.randn(1, 1, 3, generator=generator)
    mixture = TokenMixture(means, variance, prior.log())
    posterior = mixture.evidence(x, alpha, sigma).softmax(-1)
    # Monte Carlo: latents drawn from the mixture, weighed by how likely they made x.
    pieces = torch.multinomial(prior, 400_000, replacement=True, generator=generator)
    x0 = means[pieces] + variance.sqrt() * torch.randn(400_000, 3, generator=generator)
    weights = (-((x[0] - 0.6 * x0) ** 2).sum(1) / (2 * 0.8**2)).softmax(0)
    share = torch.zeros(5).index_add_(0, pieces, weights)
    torch.testing.assert_close(posterior[0, 0], share, atol=0.01, rtol=0)
    mean = mixture.mean(x, alpha, sigma, posterior)
    torch.testing.assert_close(mean[0, 0], weights @ x0, atol=0.02, rtol=0)


def test_time_follows_the_share_of_the_words_that_the_noise_hides(make: Callable[..., LadicDecoder]) -> None:
    """Two pieces at distance 2 d along one dimension: half of a bit is left where d alpha / sigma is about 1.05."""
    d = 8.0
    means = torch.zeros(2, 4)
    means[:, 0] = torch.tensor([d, -d])
    median, scale = TokenMixture(means, torch.full((4,), 1e-6), torch.zeros(2)).hidden_share(n_samples=4000)
    z, shares = torch.linspace(-8, 8, 4001), []
    for value in (median, median + 2.197 * scale, median - 2.197 * scale):
        ratio = d * math.exp(value / 2)  # of signal to noise; the entropy of the sign's posterior by quadrature:
        entropy = torch.distributions.Bernoulli(logits=2 * ratio * (ratio + z)).entropy()
        shares.append(float((entropy * (-(z**2) / 2).softmax(0)).sum()) / math.log(2))
    assert shares == pytest.approx([0.5, 0.1, 0.9], abs=0.08)
    decoder = make("fast", noise_factor=1.0)
    assert decoder.config.log_snr == decoder.codec.mixture().hidden_share()
    assert decoder.schedule.log_snr(torch.tensor([500])).item() == pytest.approx(decoder.config.log_snr[0], abs=1e-3)
    assert make("fast", log_snr=(-3.0, 0.5)).config.log_snr == (-3.0, 0.5)


def test_the_words_of_the_mixture_are_learned_and_weighed(
    make: Callable[..., LadicDecoder], batch: dict[str, Tensor]
) -> None:
    with_words, without = make(token_weight=1.0), make(token_weight=0.0)
    assert with_words(tokens(), **batch).loss > without(tokens(), **batch).loss
    silent = make(cross_entropy_weight=0.0)(tokens(), **batch)
    assert silent.logits is None
    assert silent.loss < make(cross_entropy_weight=0.5)(tokens(), **batch).loss


def test_quirks_of_the_release_are_switches(make: Callable[..., LadicDecoder]) -> None:
    paper, released = make("paper"), make("released")
    assert paper.config.hidden_size == 2 * paper.codec.latent_dim
    times = torch.tensor([500])
    assert float(released.schedule.alpha_sigma(times)[1]) > 1 > float(paper.schedule.alpha_sigma(times)[1])
    assert released.sampling_schedule.noise_factor == 1.0
    assert paper.sampling_schedule.noise_factor == 4.0
    assert int(released.sampling_schedule.told(torch.tensor([10]))) == 15
    assert (released.denoiser.time_norm, paper.denoiser.time_norm) == ("evaluation", "none")
    assert [decoder.denoiser.norm.eps for decoder in (released, paper)] == [1e-12, 1e-5]
    assert released.denoiser.null_vision.shape[1] == 24  # the encoder's width: nothing projects its tokens
    assert paper.denoiser.null_vision.shape[1] == 32


def test_the_ends_of_a_caption_hold_words_only_if_they_may(codec: LatentCodec) -> None:
    config = codec.config
    stop, bos, eos, pad = config.stop_token_id, config.bos_token_id, config.eos_token_id, config.pad_token_id
    dog, cat = codec.tokenizer.convert_tokens_to_ids(["dog", "cat"])
    ids = torch.tensor([[dog, cat, stop, dog], [stop, stop, cat, stop], [stop] * 4, [bos, dog, cat, eos]])
    stops = [] if stop == eos else [stop]
    fixed = [[bos, cat, eos], [bos, *stops, cat, eos], [bos, eos], [bos, dog, cat, eos]]
    free = [[bos, dog, cat, *stops, dog, eos], [bos, cat, eos], [bos, eos], [bos, dog, cat, eos]]
    for is_fixed, rows, width in ((True, fixed, 4), (False, free, 6)):
        expected = [row + [pad] * (width - len(row)) for row in rows]
        assert whole_captions(codec, ids, None, fixed_ends=is_fixed).tolist() == expected


def test_wrong_calls_are_explained(decoder: LadicDecoder, make: Callable[..., LadicDecoder]) -> None:
    with pytest.raises(ConfigError, match="'num_inference_step'; did you mean 'num_inference_steps'"):
        decoder.generate(vision_tokens=tokens(), num_inference_step=2)
    with pytest.raises(ConfigError, match="does not know num_beams"):
        decoder.generate(vision_tokens=tokens(), num_beams=2)
    with pytest.raises(ConfigError, match="does not know top_p"):
        decoder.generate(vision_tokens=tokens(), generation_config=GenerationConfig(top_p=0.5))
    with pytest.raises(SpecError, match="Captioner"):
        decoder.generate(pixel_values=torch.zeros(1, 3, 8, 8))
    with pytest.raises(SpecError, match="20 tokens"):
        decoder(tokens(1), torch.ones(1, 20, dtype=torch.long))
    with pytest.raises(ConfigError, match="'preconditionin' of the decoder ladic; did you mean"):
        make(preconditionin=True)
    with pytest.raises(ConfigError, match="unknown preset 'papers'; did you mean 'paper'"):
        make("papers")
    with pytest.raises(
        ConfigError, match=r"hidden_size 48 must be 32.*length 'guessed'|length 'guessed'.*hidden_size 48"
    ):
        make("paper", hidden_size=48, length="guessed")
