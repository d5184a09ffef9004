from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from transformers import BertConfig, BertLMHeadModel, BertModel, GenerationConfig, GPT2Config, GPT2LMHeadModel

from vislex.decoders.autoregressive import some_labels
from vislex.decoders.base import CaptionDecoder
from vislex.decoders.factory import create_decoder
from vislex.decoders.ladic.codec import LatentCodec
from vislex.errors import CheckpointError, ConfigError, SpecError, UnknownNameError
from vislex.specs import EncoderSpec, Grid, VisionTokens
from vislex.text import encode_captions, load_tokenizer, minilm_folder, prune_tokenizer

MASK = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0]]).bool()


def tokens(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 6, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def batch(tokenizer: object) -> dict[str, torch.Tensor]:
    return encode_captions(tokenizer, ["a red dog", "two unfathomable kites on a green background", "a drum"])


def test_the_loss_is_that_of_the_next_token(decoder: CaptionDecoder, batch: dict[str, torch.Tensor]) -> None:
    output = decoder(tokens(), **batch)
    losses = []
    for row, ids in enumerate(batch["input_ids"]):
        n = int(batch["attention_mask"][row].sum())
        losses += [F.cross_entropy(output.logits[row, i], ids[i + 1]) for i in range(n - 1)]
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())


def test_a_word_sees_no_later_word(decoder: CaptionDecoder, batch: dict[str, torch.Tensor]) -> None:
    changed = batch["input_ids"].clone()
    changed[:, 3:] = 5
    before = decoder(tokens(), batch["input_ids"]).logits
    after = decoder(tokens(), changed).logits
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_padding_takes_no_loss_and_changes_none(decoder: CaptionDecoder, batch: dict[str, torch.Tensor]) -> None:
    loss = decoder(tokens(), **batch).loss
    padded = {name: F.pad(value, (0, 2), value=0) for name, value in batch.items()}
    torch.testing.assert_close(decoder(tokens(), **padded).loss, loss)  # labels of 0, not -100, on the new padding


def test_the_vision_tokens_matter(decoder: CaptionDecoder, batch: dict[str, torch.Tensor]) -> None:
    assert not torch.allclose(decoder(tokens(), **batch).logits, decoder(tokens().flip(0), **batch).logits)


def test_masked_vision_tokens_do_not_matter(decoder: CaptionDecoder, batch: dict[str, torch.Tensor]) -> None:
    other = torch.where(MASK[..., None], tokens(), torch.full((), 50.0))
    first = decoder(VisionTokens(tokens(), MASK), **batch).logits
    torch.testing.assert_close(first, decoder(VisionTokens(other, MASK), **batch).logits)
    assert not torch.allclose(first, decoder(tokens(), **batch).logits)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "length_penalty": 2.0}])
@pytest.mark.parametrize("mask", [None, MASK])
def test_a_batch_equals_its_singles(decoder: CaptionDecoder, options: dict, mask: torch.Tensor | None) -> None:
    together = decoder.generate(vision_tokens=VisionTokens(tokens(), mask), **options)
    evaluations = decoder.evaluations
    for row in range(3):
        kept = tokens()[row : row + 1, : 6 if mask is None else int(mask[row].sum())]
        alone = decoder.generate(vision_tokens=kept, **options)
        assert torch.equal(together[row, : alone.shape[1]], alone[0])
        assert (together[row, alone.shape[1] :] == decoder.config.pad_token_id).all()
        if not options:
            assert int(decoder.evaluations) == int(evaluations[row])


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}])
def test_cached_equals_uncached(decoder: CaptionDecoder, options: dict) -> None:
    vision = VisionTokens(tokens(), MASK)
    cached = decoder.generate(vision_tokens=vision, min_new_tokens=10, **options)
    assert torch.equal(cached, decoder.generate(vision_tokens=vision, min_new_tokens=10, use_cache=False, **options))


def test_greedy_is_the_argmax_of_the_training_logits(decoder: CaptionDecoder) -> None:
    vision = VisionTokens(tokens(), MASK)
    ids = decoder.generate(vision_tokens=vision, min_new_tokens=12, max_new_tokens=12)
    logits = decoder(vision, ids).logits[:, :-1]
    logits[..., decoder.config.eos_token_id] = -torch.inf  # what min_new_tokens forbids
    assert torch.equal(logits.argmax(-1), ids[:, 1:])


def test_beams_find_captions_at_least_as_likely(decoder: CaptionDecoder) -> None:
    def likelihood(ids: torch.Tensor) -> torch.Tensor:
        log_p = decoder(tokens(), ids).logits[:, :-1].log_softmax(-1)
        return log_p.gather(-1, ids[:, 1:, None]).sum((1, 2))

    fixed = {"min_new_tokens": 8, "max_new_tokens": 8}
    greedy = decoder.generate(vision_tokens=tokens(), **fixed)
    beams = decoder.generate(vision_tokens=tokens(), num_beams=6, **fixed)
    assert likelihood(beams).sum() > likelihood(greedy).sum()


def test_evaluations_count_forwards(decoder: CaptionDecoder) -> None:
    fixed = {"min_new_tokens": 7, "max_new_tokens": 7}
    decoder.generate(vision_tokens=tokens(), **fixed)
    assert decoder.evaluations.tolist() == [7, 7, 7]
    decoder.generate(vision_tokens=tokens(), num_beams=4, **fixed)
    assert decoder.evaluations.tolist() == [28, 28, 28]
    ids = decoder.generate(vision_tokens=tokens(), do_sample=True)
    ended = [
        row.index(decoder.config.eos_token_id) if decoder.config.eos_token_id in row else 15 for row in ids.tolist()
    ]
    assert decoder.evaluations.tolist() == ended


def test_a_beginning_is_continued(decoder: CaptionDecoder) -> None:
    whole = decoder.generate(vision_tokens=tokens(), min_new_tokens=8, max_new_tokens=8)
    rest = decoder.generate(vision_tokens=tokens(), input_ids=whole[:, :4], min_new_tokens=5, max_new_tokens=5)
    assert torch.equal(rest, whole)


def test_settings_come_from_a_generation_config_and_are_not_changed(decoder: CaptionDecoder) -> None:
    config = GenerationConfig(max_new_tokens=3, min_new_tokens=3)
    assert decoder.generate(vision_tokens=tokens(), generation_config=config).shape[1] == 4
    assert (
        decoder.generate(vision_tokens=tokens(), generation_config=config, max_new_tokens=5, min_new_tokens=5).shape[1]
        == 6
    )
    assert config.max_new_tokens == 3


def test_wrong_calls_are_explained(decoder: CaptionDecoder) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens=99 is more than the 15"):
        decoder.generate(vision_tokens=tokens(), max_new_tokens=99)
    with pytest.raises(ConfigError, match="'num_beam'; did you mean 'num_beams'"):
        decoder.generate(vision_tokens=tokens(), num_beam=2)
    with pytest.raises(SpecError, match="20 tokens"):
        decoder(tokens(1), torch.ones(1, 20, dtype=torch.long))
    with pytest.raises(SpecError, match="Captioner"):
        decoder.generate(pixel_values=torch.zeros(1, 3, 8, 8))


def test_label_smoothing_acts_in_training_only(make_decoder: Callable, batch: dict[str, torch.Tensor]) -> None:
    plain = make_decoder("cross_attention", dropout=0.0)
    smooth = make_decoder("cross_attention", dropout=0.0, label_smoothing=0.3)
    assert torch.equal(plain(tokens(), **batch).loss, smooth(tokens(), **batch).loss)
    assert not torch.allclose(plain.train()(tokens(), **batch).loss, smooth.train()(tokens(), **batch).loss)


def test_some_labels_are_drawn_from_those_that_count() -> None:
    labels = torch.tensor([[5, 6, -100, 8, 9], [5, 6, -100, -100, -100], [5, -100, -100, -100, -100]])
    drawn = torch.stack([some_labels(labels, 2) for _ in range(50)])
    counts = (drawn != -100).sum(-1)
    assert (counts == torch.tensor([2, 1, 0])).all()
    assert ((drawn == labels) | (drawn == -100)).all()
    assert (drawn[:, 0, 0] == -100).all()  # the first token is never predicted
    assert (drawn[:, 0, [1, 3, 4]] != -100).any(0).all()


def test_words_per_caption_counts_in_training_only(make_decoder: Callable, batch: dict[str, torch.Tensor]) -> None:
    one = {name: value[:1] for name, value in batch.items()}
    decoder = make_decoder("prefix", dropout=0.0, words_per_caption=1)
    plain = make_decoder("prefix", dropout=0.0)
    assert torch.equal(decoder(tokens(1), **one).loss, plain(tokens(1), **one).loss)
    logits = plain(tokens(1), **one).logits[0]
    losses = F.cross_entropy(logits[:-1], one["input_ids"][0, 1:], reduction="none").detach()
    losses = losses[one["attention_mask"][0, 1:].bool()]
    found = {round(float(decoder.train()(tokens(1), **one).loss.detach()), 4) for _ in range(60)}
    assert found == {round(float(loss), 4) for loss in losses}
    with pytest.raises(ConfigError, match="words_per_caption 0"):
        make_decoder("prefix", words_per_caption=0)


@pytest.mark.parametrize("name", ["cross_attention", "prefix"])
def test_a_map_of_tokens_gets_positions(make_decoder: Callable, spec: EncoderSpec, name: str) -> None:
    decoder = make_decoder(name, spec=spec.replace(grid=Grid(2, 3)))
    assert decoder.projection.row.shape == (2, 1, 32)
    with pytest.raises(SpecError, match="2 x 3"):
        decoder.generate(vision_tokens=tokens()[:, :5])


@pytest.mark.parametrize("name", ["cross_attention", "prefix"])
def test_every_weight_learns(
    make_decoder: Callable, batch: dict[str, torch.Tensor], spec: EncoderSpec, name: str
) -> None:
    decoder = make_decoder(name, spec=spec.replace(grid=Grid(2, 3)))
    decoder(tokens(), **batch).loss.backward()
    # The query and key biases of a softmax over equal shifts have no gradient of note, but they are in the graph.
    assert [key for key, value in decoder.named_parameters() if value.grad is None] == []


def test_starting_from_language_models(tmp_path, make_decoder: Callable, tokenizer: object) -> None:
    sizes = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = BertLMHeadModel(BertConfig(**sizes, intermediate_size=32, max_position_embeddings=20, is_decoder=True))
    bert.save_pretrained(tmp_path / "bert")
    gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer) + 3, n_embd=16, n_layer=1, n_head=2, n_positions=40))
    gpt2.save_pretrained(tmp_path / "gpt2")

    from vislex.decoders.factory import create_decoder

    spec = EncoderSpec(dim=24, grid=None, n_tokens=6, image_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    crossing = create_decoder("cross_attention", spec, tokenizer, language_model=tmp_path / "bert")
    own = crossing.text_decoder.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in bert.state_dict().items())
    assert any("crossattention" in name for name in own)
    prefix = create_decoder("prefix", spec, tokenizer, language_model=tmp_path / "gpt2")
    assert torch.equal(prefix.text_decoder.transformer.wte.weight, gpt2.transformer.wte.weight)
    for decoder in (crossing, prefix):
        assert decoder.generate(vision_tokens=tokens(), max_new_tokens=4).shape[0] == 3
    with pytest.raises(ConfigError, match="the tokenizer that belongs to it"):
        create_decoder("prefix", spec, load_tokenizer(), language_model=tmp_path / "gpt2")
    with pytest.raises(CheckpointError, match="no language model"):
        create_decoder("prefix", spec, tokenizer, language_model=tmp_path / "nowhere")


def test_starting_from_minilm_with_a_pruned_vocabulary(spec: EncoderSpec) -> None:
    from vislex.decoders.factory import create_decoder

    pruned, index_map = prune_tokenizer(load_tokenizer(), ["two kites"])
    decoder = create_decoder("cross_attention", spec, pruned, language_model="minilm", token_index=index_map)
    embedding = decoder.get_input_embeddings().weight
    assert decoder.config.vocab_size == len(pruned) == len(embedding)
    with safe_open(minilm_folder() / "model.safetensors", "pt") as weights:
        assert torch.equal(embedding, weights.get_tensor("embeddings.word_embeddings.weight")[index_map])


def test_names_are_exact(spec: EncoderSpec, tokenizer: object) -> None:
    from vislex.decoders.factory import create_decoder

    with pytest.raises(UnknownNameError, match="did you mean 'cross_attention'"):
        create_decoder("cross_attentoin", spec, tokenizer)
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        create_decoder("prefix", spec, tokenizer, hidden_size=30, num_heads=4)


def test_word_embeddings_start_from_a_text_model(
    make_decoder: Callable[..., CaptionDecoder], spec: EncoderSpec, tokenizer: object
) -> None:
    wide = load_tokenizer().get_vocab()
    index = torch.tensor([wide[piece] for piece in sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)])
    theirs = BertModel.from_pretrained(minilm_folder()).get_input_embeddings().weight.detach()[index]
    sizes = {"hidden_size": 32, "num_layers": 1, "num_heads": 4, "max_length": 16, "token_index": index}
    for name in ("cross_attention", "prefix"):
        random = create_decoder(name, spec, tokenizer, **sizes).get_input_embeddings().weight.detach()
        made = create_decoder(name, spec, tokenizer, word_embeddings="minilm", **sizes)
        own = made.get_input_embeddings().weight.detach()
        assert own.std() == pytest.approx(float(random.std()), rel=0.2)
        # With fewer word pieces than dimensions, all their distances would fit; 32 components keep most of them.
        assert torch.corrcoef(torch.stack([torch.pdist(own), torch.pdist(theirs)]))[0, 1] > 0.9
    with pytest.raises(ConfigError, match="cannot fill hidden_size 400"):
        create_decoder("prefix", spec, tokenizer, word_embeddings="minilm", **{**sizes, "hidden_size": 400})
    with pytest.raises(ConfigError, match="brings its own word embeddings"):
        create_decoder("cross_attention", spec, tokenizer, word_embeddings="minilm", language_model="minilm", **sizes)


@pytest.mark.parametrize("name", ["cross_attention", "prefix", "masked", "ladic"])
def test_the_width_of_the_mlps_is_an_option(
    make_decoder: Callable[..., CaptionDecoder], name: str, codec: LatentCodec
) -> None:
    own = {"codec": codec} if name == "ladic" else {}
    counts = [
        sum(p.numel() for p in make_decoder(name, intermediate_size=size, **own).parameters())
        for size in (None, 128, 136)
    ]
    assert counts[0] == counts[1]
    assert counts[2] - counts[1] == 2 * 8 * (2 * 32 + 1)  # two layers, both matrices and the inner bias
