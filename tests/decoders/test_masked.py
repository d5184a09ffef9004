from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from vislex.decoders.masked import MaskedDecoder, random_masks
from vislex.errors import ConfigError, SpecError
from vislex.specs import EncoderSpec, Grid, VisionTokens
from vislex.text import encode_captions

MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]).bool()


def tokens(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 6, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def decoder(make_decoder: Callable[..., MaskedDecoder]) -> MaskedDecoder:
    return make_decoder("masked")


@pytest.fixture
def batch(tokenizer: object) -> dict[str, torch.Tensor]:
    return encode_captions(tokenizer, ["a red dog", "two unfathomable kites on a green background", "a drum"])


def shares(n: int, rows: int) -> list[int]:
    """How many of n words are masked in a batch of captions of n words."""
    return sorted(random_masks(torch.ones(rows, n, dtype=torch.bool)).sum(1).tolist())


def test_every_number_of_masked_words_is_equally_likely_and_spread_over_the_batch() -> None:
    assert shares(4, 8) == [1, 1, 2, 2, 3, 3, 4, 4]
    where = random_masks(torch.ones(4000, 5, dtype=torch.bool)).float().mean(0)
    torch.testing.assert_close(where, torch.full((5,), 0.6), atol=0.04, rtol=0)
    maskable = torch.tensor([[False, True, True, False], [False] * 4])
    assert not (random_masks(maskable) & ~maskable).any()


def test_the_loss_bounds_the_likelihood_of_words_and_length(decoder: MaskedDecoder, tokenizer: object) -> None:
    """Two words: the bound is the mean over both orders in which they can be written, which can be summed by hand."""
    ids = encode_captions(tokenizer, ["red dog"])["input_ids"]
    mask = decoder.config.mask_token_id
    vision = tokens(1)

    @torch.no_grad()
    def log_p(given: list[int], place: int) -> float:
        seen = ids.clone()
        seen[0, [i for i in (1, 2) if i not in given]] = mask
        return float(decoder(vision, seen).logits.log_softmax(-1)[0, place, ids[0, place]])

    orders = [log_p([], 1) + log_p([1], 2), log_p([], 2) + log_p([2], 1)]
    length = float(decoder.length_head(decoder._project(vision))[0, 2].detach())
    expected = -(sum(orders) / 2 + length) / 3
    many = {"input_ids": ids.expand(400, -1), "labels": ids.expand(400, -1)}
    found = float(decoder(vision.expand(400, -1, -1), **many).loss.detach())
    assert found == pytest.approx(expected, rel=0.03)


def test_uniform_weighting_is_the_mean_over_masked_words(
    make_decoder: Callable, decoder: MaskedDecoder, batch: dict[str, torch.Tensor]
) -> None:
    uniform = make_decoder("masked", weighting="uniform")
    assert torch.equal(uniform.embedding.weight, decoder.embedding.weight)
    first, second = uniform(tokens(), **batch), decoder(tokens(), **batch)
    assert torch.equal(first.logits, second.logits)
    assert not torch.equal(first.loss, second.loss)
    words = torch.tensor([3, 11, 2])
    assert batch["attention_mask"].sum(1).tolist() == (words + 2).tolist()
    maskable = F.pad(torch.arange(11) < words[:, None], (1, 1))
    masked = random_masks(maskable, torch.Generator().manual_seed(0))
    mean = F.cross_entropy(first.logits[masked], batch["input_ids"][masked])
    length = -uniform.length_head(uniform._project(tokens()))[range(3), words].sum()
    torch.testing.assert_close(first.loss, (mean * words.sum() + length) / (words.sum() + 3))


def test_evaluation_repeats_itself_and_training_draws(decoder: MaskedDecoder, batch: dict[str, torch.Tensor]) -> None:
    assert torch.equal(decoder(tokens(), **batch).loss, decoder(tokens(), **batch).loss)
    decoder.train()
    losses = {float(decoder(tokens(), **batch).loss) for _ in range(3)}
    decoder.eval()
    assert len(losses) == 3


def test_words_without_labels_are_given(decoder: MaskedDecoder, batch: dict[str, torch.Tensor]) -> None:
    some = batch["labels"].clone()
    some[1, 2:] = -100
    decoder(tokens(), batch["input_ids"], batch["attention_mask"], some)
    seen = []
    handle = decoder.embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    decoder(tokens(), batch["input_ids"], batch["attention_mask"], some)
    handle.remove()
    assert torch.equal(seen[0][1, 2:], batch["input_ids"][1, 2:])


def test_padding_and_masked_vision_tokens_do_not_matter(decoder: MaskedDecoder, batch: dict[str, torch.Tensor]) -> None:
    ids, mask = batch["input_ids"], batch["attention_mask"]
    logits = decoder(VisionTokens(tokens(), MASK), ids, mask).logits
    padded = decoder(VisionTokens(tokens(), MASK), F.pad(ids, (0, 3), value=9), F.pad(mask, (0, 3))).logits
    torch.testing.assert_close(padded[:, : ids.shape[1]][mask.bool()], logits[mask.bool()])
    other = torch.where(MASK[..., None], tokens(), torch.full((), 50.0))
    torch.testing.assert_close(decoder(VisionTokens(other, MASK), ids, mask).logits, logits)
    assert not torch.allclose(decoder(tokens(), ids, mask).logits, logits)
    lengths = decoder.length_head(decoder._project(VisionTokens(tokens(), MASK)))
    torch.testing.assert_close(decoder.length_head(decoder._project(VisionTokens(other, MASK))), lengths)


def test_a_word_sees_both_sides(decoder: MaskedDecoder, batch: dict[str, torch.Tensor]) -> None:
    before = decoder(tokens(), batch["input_ids"], batch["attention_mask"]).logits
    for place in (1, 6):
        changed = batch["input_ids"].clone()
        changed[1, place] = 5
        after = decoder(tokens(), changed, batch["attention_mask"]).logits
        assert not torch.allclose(before[1, 4], after[1, 4])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"guidance_scale": 1.5},
        {"num_lengths": 3},
        {"temperature": 1.0, "seed": 3},
        {"num_inference_steps": 3, "remasking": True, "schedule": "cosine", "num_lengths": 2, "temperature": 0.5},
    ],
)
@pytest.mark.parametrize("mask", [None, MASK])
def test_a_batch_equals_its_singles(decoder: MaskedDecoder, options: dict, mask: torch.Tensor | None) -> None:
    together = decoder.generate(vision_tokens=VisionTokens(tokens(), mask), **options)
    evaluations = decoder.evaluations
    for row in range(3):
        kept = tokens()[row : row + 1, : 6 if mask is None else int(mask[row].sum())]
        alone = decoder.generate(vision_tokens=kept, indices=torch.tensor([row]), **options)
        assert torch.equal(together[row, : alone.shape[1]], alone[0])
        assert (together[row, alone.shape[1] :] == decoder.config.pad_token_id).all()
        assert int(decoder.evaluations) == int(evaluations[row])


def test_captions_are_whole_and_hold_words_only(decoder: MaskedDecoder) -> None:
    ids = decoder.generate(vision_tokens=tokens(8), temperature=1.0)
    config = decoder.config
    for row in ids.tolist():
        end = row.index(config.eos_token_id)
        assert row[0] == config.bos_token_id
        assert set(row[end + 1 :]) <= {config.pad_token_id}
        special = {config.bos_token_id, config.eos_token_id, config.pad_token_id, config.mask_token_id}
        assert not special & set(row[1:end])


def test_one_step_is_the_argmax_of_the_logits(decoder: MaskedDecoder) -> None:
    fixed = {"min_new_tokens": 6, "max_new_tokens": 6}
    ids = decoder.generate(vision_tokens=tokens(), num_inference_steps=1, **fixed)
    empty = ids.clone()
    empty[:, 1:6] = decoder.config.mask_token_id
    logits = decoder(tokens(), empty).logits
    logits[..., decoder._specials(ids.device)] = -torch.inf
    assert torch.equal(logits.argmax(-1)[:, 1:6], ids[:, 1:6])


def test_guidance_is_linear_in_the_log_probabilities(decoder: MaskedDecoder) -> None:
    fixed = {"min_new_tokens": 6, "max_new_tokens": 6, "num_inference_steps": 1}
    ids = decoder.generate(vision_tokens=tokens(), guidance_scale=2.0, **fixed)
    empty = ids.clone()
    empty[:, 1:6] = decoder.config.mask_token_id
    projected = decoder._project(tokens())
    whole = torch.ones_like(ids).bool()
    dropped = decoder.denoiser.vision_state(projected, torch.ones(3, dtype=torch.bool))
    seen = decoder(tokens(), empty).logits.log_softmax(-1)
    blind = decoder._logits(empty, dropped, whole).log_softmax(-1)
    guided = seen + 2 * (seen - blind)
    guided[..., decoder._specials(ids.device)] = -torch.inf
    assert torch.equal(guided.argmax(-1)[:, 1:6], ids[:, 1:6])
    assert not torch.equal(ids, decoder.generate(vision_tokens=tokens(), **fixed))


def test_evaluations_count_forwards(decoder: MaskedDecoder) -> None:
    fixed = {"min_new_tokens": 11, "max_new_tokens": 11}
    for options, expected in (({}, 8), ({"num_inference_steps": 4}, 4), ({"num_inference_steps": 99}, 10)):
        decoder.generate(vision_tokens=tokens(), **fixed, **options)
        assert decoder.evaluations.tolist() == [expected] * 3
    decoder.generate(vision_tokens=tokens(), **fixed, num_inference_steps=4, guidance_scale=1.0)
    assert decoder.evaluations.tolist() == [8] * 3
    decoder.generate(vision_tokens=tokens(), max_new_tokens=11, min_new_tokens=9, num_inference_steps=4, num_lengths=3)
    assert decoder.evaluations.tolist() == [12] * 3


def test_the_image_is_looked_at_once(decoder: MaskedDecoder) -> None:
    calls = []
    handle = decoder.denoiser.layers[0].crossing.key_value.register_forward_hook(lambda *_: calls.append(1))
    decoder.generate(vision_tokens=tokens(), min_new_tokens=9, max_new_tokens=9)
    handle.remove()
    assert len(calls) == 1


def test_lengths_come_from_the_image_and_the_likeliest_caption_wins(decoder: MaskedDecoder) -> None:
    log_p = decoder.length_head(decoder._project(tokens()))
    ids = decoder.generate(vision_tokens=tokens())
    assert ((ids != decoder.config.pad_token_id).sum(1) - 2).tolist() == log_p[:, 1:].argmax(1).add(1).tolist()
    most = {"num_lengths": 14}
    short = decoder.generate(vision_tokens=tokens(), length_penalty=-3.0, **most)
    long = decoder.generate(vision_tokens=tokens(), length_penalty=9.0, **most)
    assert short.shape[1] < long.shape[1]
    drawn = decoder.generate(vision_tokens=tokens(1).expand(20, -1, -1), temperature=2.0)
    assert len(set((drawn == decoder.config.eos_token_id).int().argmax(1).tolist())) > 1


def test_a_beginning_is_continued(decoder: MaskedDecoder) -> None:
    beginning = torch.tensor([[decoder.config.bos_token_id, 7, 8]]).expand(3, -1)
    ids = decoder.generate(vision_tokens=tokens(), input_ids=beginning, max_new_tokens=4, min_new_tokens=4)
    assert torch.equal(ids[:, :3], beginning)
    assert (ids[:, 6] == decoder.config.eos_token_id).all()
    assert ids.shape == (3, 7)


def test_image_dropout_and_label_smoothing_act_in_training_only(
    make_decoder: Callable, batch: dict[str, torch.Tensor]
) -> None:
    def loss(training: bool, **options: float) -> float:
        decoder = make_decoder("masked", dropout=0.0, **{"image_dropout": 0.0, **options}).train(training)
        torch.manual_seed(3)
        return float(decoder(tokens(), **batch).loss)

    for option in ({"image_dropout": 1.0}, {"label_smoothing": 0.3}):
        assert loss(True, **option) != loss(True)
        assert loss(False, **option) == loss(False)


@pytest.mark.parametrize("weighting", ["elbo", "uniform"])
def test_more_draws_show_a_caption_under_more_masks_and_its_image_once(
    make_decoder: Callable, batch: dict[str, torch.Tensor], weighting: str
) -> None:
    seen = []

    def loss(copies: int, draws: int) -> torch.Tensor:
        decoder = make_decoder("masked", dropout=0.0, image_dropout=0.0, weighting=weighting, draws_per_caption=draws)
        decoder.denoiser.layers[0].crossing.key_value.register_forward_hook(lambda _m, given, _o: seen.append(given[0]))
        torch.manual_seed(3)
        several = {name: value.repeat(copies, 1) for name, value in batch.items()}
        return decoder.train()(tokens().repeat(copies, 1, 1), **several).loss

    torch.testing.assert_close(loss(1, 4), loss(4, 1))
    assert [len(images) for images in seen] == [3, 12]
    decoder = make_decoder("masked", draws_per_caption=4)
    assert torch.equal(decoder(tokens(), **batch).loss, make_decoder("masked")(tokens(), **batch).loss)
    with pytest.raises(ConfigError, match="draws_per_caption 0"):
        make_decoder("masked", draws_per_caption=0)


def test_every_weight_learns(make_decoder: Callable, batch: dict[str, torch.Tensor], spec: EncoderSpec) -> None:
    decoder = make_decoder("masked", spec=spec.replace(grid=Grid(2, 3))).train()
    decoder(tokens(), **batch).loss.backward()
    assert [key for key, value in decoder.named_parameters() if value.grad is None] == []


def test_a_visible_word_speaks_against_itself_elsewhere(
    make_decoder: Callable, batch: dict[str, torch.Tensor], spec: EncoderSpec
) -> None:
    decoder = make_decoder("masked", repetition_bias=True)
    ids = batch["input_ids"].clone()
    word = int(ids[0, 2])
    ids[0, 3] = decoder.config.mask_token_id
    given = {"input_ids": ids, "attention_mask": batch["attention_mask"]}
    before = decoder(tokens(), **given).logits
    decoder.repetition.weight.data[word] = -3 / decoder.repetition.scale
    changed = decoder(tokens(), **given).logits - before
    others = int(((ids[0] == word) & (torch.arange(ids.shape[1]) != 3)).sum())
    torch.testing.assert_close(changed[0, 3, word], torch.tensor(-3.0 * others))
    assert not hasattr(make_decoder("masked", repetition_bias=False), "repetition")


def test_positions_begin_as_sines(spec: EncoderSpec, tokenizer: object) -> None:
    decoder = MaskedDecoder.create(spec, tokenizer, hidden_size=32, num_layers=1, num_heads=4)
    position = decoder.denoiser.position.weight
    # The product of two positions depends on their distance only.
    torch.testing.assert_close(position[3] @ position[5], position[10] @ position[12])
    assert 0.05 < float(decoder.embedding.weight.std()) < 0.2


def test_wrong_calls_are_explained(make_decoder: Callable, decoder: MaskedDecoder) -> None:
    with pytest.raises(ConfigError, match="at most 15"):
        decoder.generate(vision_tokens=tokens(), max_new_tokens=99)
    with pytest.raises(ConfigError, match="do not fit"):
        decoder.generate(vision_tokens=tokens(), max_new_tokens=4, min_new_tokens=5)
    with pytest.raises(ConfigError, match="num_lengths"):
        decoder.generate(vision_tokens=tokens(), num_beams=2)
    with pytest.raises(SpecError, match="20 tokens"):
        decoder(tokens(1), torch.ones(1, 20, dtype=torch.long))
    with pytest.raises(SpecError, match="Captioner"):
        decoder.generate(pixel_values=torch.zeros(1, 3, 8, 8))
    with pytest.raises(ConfigError, match="elbo, uniform"):
        make_decoder("masked", weighting="linear")
    blind = make_decoder("masked", image_dropout=0.0)
    with pytest.raises(ConfigError, match="image_dropout=0"):
        blind.generate(vision_tokens=tokens(), guidance_scale=1.0)
