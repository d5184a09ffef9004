from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, PreTrainedTokenizerFast

from vislex.decoders.factory import create_decoder
from vislex.decoders.ladic.codec import LatentCodec
from vislex.decoders.ladic.codec_loading import load_codec
from vislex.errors import CheckpointError, ConfigError
from vislex.specs import EncoderSpec
from vislex.text import encode_captions, load_tokenizer, prune_tokenizer

CORPUS = ["a red dog left of a blue cat.", "two unfathomable kites on a green background", "three rabbits and a drum"]


@pytest.fixture
def captions(tokenizer: PreTrainedTokenizerFast) -> dict[str, torch.Tensor]:
    return encode_captions(tokenizer, CORPUS)


def test_latents_are_the_normalised_hidden_states_of_the_lower_layers(
    codec: LatentCodec, tiny_bert: Path, captions: dict[str, torch.Tensor]
) -> None:
    ids, mask = captions["input_ids"], captions["attention_mask"]
    whole = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()
    raw = whole(codec.token_index[ids], attention_mask=mask, output_hidden_states=True).hidden_states[2]
    word = ~codec.is_special(ids)
    torch.testing.assert_close(codec.encode(ids, mask)[word], ((raw - codec.mean) / codec.std)[word])
    latents = codec.encode(ids, mask)
    torch.testing.assert_close(latents[word].mean(0), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents[word].std(0, correction=0), torch.ones(16), atol=1e-3, rtol=0)
    assert torch.equal(latents[~word], codec.stop.expand(int((~word).sum()), -1))


def test_the_statistics_of_word_pieces(codec: LatentCodec, captions: dict[str, torch.Tensor]) -> None:
    ids = captions["input_ids"]
    latents, word = codec.encode(ids, captions["attention_mask"]), ~codec.is_special(ids)
    around = latents - codec.token_latents[ids]
    around[ids == codec.config.stop_token_id] = 0  # stands once, so nothing around its own mean
    torch.testing.assert_close(around[word].square().mean(0), codec.token_variance, atol=2e-4, rtol=1e-2)
    rows = (ids == codec.tokenizer.get_vocab()["a"]) & word
    torch.testing.assert_close(latents[rows].mean(0), codec.token_latents[codec.tokenizer.get_vocab()["a"]])
    counts = codec.token_log_prior.exp()
    assert float(counts[codec.tokenizer.get_vocab()["a"]]) == pytest.approx(int(rows.sum()) + 0.1)
    assert float(counts[codec.config.stop_token_id]) == pytest.approx(16 + 16 + 8 - int(word.sum()))


def test_decoding_is_the_upper_layers_and_the_checkpoints_head(
    codec: LatentCodec, tiny_bert: Path, captions: dict[str, torch.Tensor]
) -> None:
    ids = captions["input_ids"][:1]
    whole = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()
    output = whole(codec.token_index[ids], output_hidden_states=True)
    latents = (output.hidden_states[2] - codec.mean) / codec.std
    expected = output.logits[..., codec.token_index]
    torch.testing.assert_close(codec.decode(latents), expected, atol=1e-4, rtol=1e-4)
    mask = torch.arange(ids.shape[1])[None] < 5
    torch.testing.assert_close(codec.decode(latents, mask)[:, :5], codec.decode(latents[:, :5]), atol=1e-4, rtol=1e-4)


def test_the_stop_latent_is_that_of_a_full_stop(codec: LatentCodec, tiny_bert: Path) -> None:
    own = load_tokenizer(tiny_bert)
    ids = torch.tensor([own(".")["input_ids"]])
    raw = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()(ids, output_hidden_states=True).hidden_states[2][0, 1]
    torch.testing.assert_close(codec.stop, (raw - codec.mean) / codec.std)
    assert codec.config.stop_token_id == codec.tokenizer.get_vocab()["."]
    quirk = LatentCodec.create(own, CORPUS, text_model=tiny_bert, normalize_stop=False)
    torch.testing.assert_close(quirk.stop, raw)
    without = prune_tokenizer(own, ["two kites"])[0]
    assert codec.for_tokenizer(without).config.stop_token_id == without.sep_token_id


def test_options_of_the_latent_space(tiny_bert: Path) -> None:
    tokenizer = load_tokenizer(tiny_bert)
    batch = encode_captions(tokenizer, CORPUS)
    ids, mask = batch["input_ids"], batch["attention_mask"]

    def latents(**options: object) -> torch.Tensor:
        return LatentCodec.create(tokenizer, CORPUS, text_model=tiny_bert, **options).encode(ids, mask)

    raw = latents(normalize=False)
    whole = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()(ids, mask, output_hidden_states=True).hidden_states
    torch.testing.assert_close(raw[0, 1:4], whole[2][0, 1:4])
    torch.testing.assert_close(latents(normalize=False, split_layer=0)[0, 1:4], whole[0][0, 1:4])
    random = latents(normalize=False, random_seed=1)
    assert not torch.allclose(random, raw)
    assert torch.equal(random, latents(normalize=False, random_seed=1))
    assert not torch.equal(random, latents(normalize=False, random_seed=2))
    codecs = [LatentCodec.create(tokenizer, CORPUS, text_model=tiny_bert, decoder_layers=n) for n in (0, 1, None)]
    assert [len(codec.upper) for codec in codecs] == [0, 1, 2]
    with pytest.raises(ConfigError, match="split_layer 3 and decoder_layers 2 do not fit a text model of 4 layers"):
        latents(split_layer=3, decoder_layers=2)


def test_noise_on_the_latents_is_what_training_asks_for(codec: LatentCodec, captions: dict[str, torch.Tensor]) -> None:
    inputs = {"input_ids": captions["input_ids"], "attention_mask": captions["attention_mask"]}
    clean = codec(**inputs).loss
    assert torch.equal(codec(**inputs, noise_scale=torch.zeros(3)).loss, clean)
    assert not torch.equal(codec(**inputs, noise_scale=torch.ones(3)).loss, clean)


def test_the_text_encoder_is_neither_saved_nor_trained_and_comes_back_verified(
    codec: LatentCodec, captions: dict[str, torch.Tensor], tmp_path: Path, tiny_bert: Path
) -> None:
    codec.save_pretrained(tmp_path / "codec")
    assert not [name for name in load_file(tmp_path / "codec" / "model.safetensors") if "layers" in name]
    loaded = load_codec(tmp_path / "codec")
    ids, mask = captions["input_ids"], captions["attention_mask"]
    assert torch.equal(loaded.encode(ids, mask), codec.encode(ids, mask))
    assert torch.equal(loaded.decode(loaded.encode(ids, mask)), codec.decode(codec.encode(ids, mask)))
    half = loaded.encode(ids, mask, dtype=torch.bfloat16)
    assert half.dtype == torch.float32
    assert torch.equal(loaded.encode(ids, mask), codec.encode(ids, mask))  # the cast left the original alone
    encoder = loaded.text_encoder(torch.device("cpu"), torch.float32)
    assert not encoder.train().training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())

    other = AutoModelForMaskedLM.from_pretrained(tiny_bert)
    other.bert.encoder.layer[0].output.dense.bias.data += 1
    other.save_pretrained(tmp_path / "other")
    load_tokenizer(tiny_bert).save_pretrained(tmp_path / "other")
    wrong = load_codec(tmp_path / "codec")
    wrong.config.source["location"] = str(tmp_path / "other")
    with pytest.raises(CheckpointError, match="is not the one that this codec was made with"):
        wrong.encode(ids, mask)
    wrong.config.source = None
    with pytest.raises(CheckpointError, match="can decode but not train"):
        wrong.encode(ids, mask)


def test_another_vocabulary_takes_its_rows(codec: LatentCodec) -> None:
    fewer = prune_tokenizer(codec.tokenizer, ["two kites and a dog"])[0]
    smaller = codec.for_tokenizer(fewer)
    text = ["a dog and two kites"]
    own, theirs = encode_captions(codec.tokenizer, text), encode_captions(fewer, text)
    first = codec.encode(own["input_ids"], own["attention_mask"])
    torch.testing.assert_close(smaller.encode(theirs["input_ids"], theirs["attention_mask"]), first)
    pieces = fewer.get_vocab()
    rows = torch.tensor([codec.tokenizer.get_vocab()[piece] for piece in sorted(pieces, key=pieces.get)])
    torch.testing.assert_close(smaller.decode(first), codec.decode(first)[..., rows])
    assert codec.for_tokenizer(codec.tokenizer) is codec
    with pytest.raises(ConfigError, match="train a codec on these captions"):
        codec.for_tokenizer(prune_tokenizer(load_tokenizer(), ["a zebra"])[0])


def test_a_wrong_codec_is_refused_with_the_reason(
    codec: LatentCodec, tmp_path: Path, spec: EncoderSpec, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = tmp_path / "codec"
    codec.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="no shipped model 'nowhere'"):
        create_decoder("ladic", spec, tokenizer, codec="nowhere")
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k not in ("mean", "std")}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="incomplete: mean, std are missing"):
        load_codec(folder)
    codec.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["hidden_size"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="no codec can be read from"):
        load_codec(folder)
    config["model_type"] = "bert"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="holds no codec"):
        load_codec(folder)


def test_the_tokenizer_must_belong_to_the_text_model(tiny_bert: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pass its own tokenizer"):
        LatentCodec.create(load_tokenizer(), CORPUS, text_model=tiny_bert)
    with pytest.raises(CheckpointError, match="no text model can be read"):
        LatentCodec.create(load_tokenizer(), CORPUS, text_model=tmp_path)
    with pytest.raises(ConfigError, match="need captions"):
        LatentCodec.create(load_tokenizer(tiny_bert), [], text_model=tiny_bert)


def test_a_decoder_names_no_folder_of_the_machine_that_its_codec_was_on(
    codec: LatentCodec, spec: EncoderSpec, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    codec.save_pretrained(tmp_path / "codec")
    decoder = create_decoder("ladic", spec, tokenizer, codec=tmp_path / "codec", hidden_size=16, num_heads=2)
    decoder.save_pretrained(tmp_path / "decoder")
    assert str(tmp_path / "codec") not in (tmp_path / "decoder" / "config.json").read_text()
