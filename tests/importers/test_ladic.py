"""The imported captioner against the release written down independently: same tokens, latents and words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertForMaskedLM

from vislex.captioner import Captioner
from vislex.decoders.ladic.generation import sample_latents
from vislex.decoders.noise import caption_generators
from vislex.errors import CheckpointError, ConfigError, VislexError
from vislex.text import load_tokenizer

State = dict[str, Tensor]
WORD = "lm_head.predictions.decoder.weight"


def pixels(batch: int = 3) -> Tensor:
    return torch.randn(batch, 3, 12, 12, generator=torch.Generator().manual_seed(5))


def noise(batch: int, length: int, seed: int) -> Iterator[Tensor]:
    """What the sampler draws, in its order: one stream of noise for each caption."""
    generators = caption_generators(seed, range(batch))
    while True:
        yield torch.cat([torch.randn(1, length, 16, generator=generator) for generator in generators])


@torch.no_grad()
def test_the_encoder_gives_all_tokens_with_the_class_token(released: Any, imported: Captioner) -> None:
    assert imported.encoder.spec.n_tokens == 10
    expected = released.model.visual_encoder(pixels())
    torch.testing.assert_close(imported.encode(pixels()).tokens, expected, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("time", [9, 519, 999])
def test_one_guided_call_is_that_of_the_release(released: Any, imported: Captioner, time: int) -> None:
    decoder = imported.decoder
    x, previous = (torch.randn(3, 10, 16, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    vision = decoder._project(imported.encode(pixels()))
    state = decoder.denoiser.guided_state(decoder.denoiser.vision_state(vision))
    told = decoder.sampling_schedule.told(torch.full((6, 10), time))
    both = decoder.denoise(x.repeat(2, 1, 1), told, previous.repeat(2, 1, 1), state, decoder.sampling_schedule)
    guided = 2 * both[:3] - both[3:]
    torch.testing.assert_close(guided, released.model.guided(pixels(), x, previous, time), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1])
def test_all_34_calls_end_in_the_same_latents_and_words(released: Any, imported: Captioner, seed: int) -> None:
    expected = released.model.sample(pixels(), noise(3, 10, seed))
    decoder = imported.decoder
    vision = decoder._project(imported.encode(pixels()))
    sampling = decoder.sampling(seed=seed)
    state = decoder.denoiser.vision_state(vision)
    result = sample_latents(decoder, state, 10, sampling, caption_generators(seed, range(3)), None)
    torch.testing.assert_close(result.x0, expected, rtol=0, atol=1e-5)
    assert result.evaluations.tolist() == [68] * 3

    captions = imported.processor.decode_captions(imported.generate(pixels(), seed=seed))
    wanted = released.model.caption(expected, released.mean, released.std, released.tokenizer)
    assert captions == wanted
    assert len(set(captions)) == 3
    assert all(len(caption.split()) > 4 for caption in captions)
    ids, _ = decoder.read(expected)
    assert (ids[:, [0, -1]] != decoder.config.codec_config.stop_token_id).any(0).all()  # words at both ends are read


@torch.no_grad()
def test_times_are_normed_in_evaluation_only(imported: Captioner) -> None:
    denoiser = imported.decoder.denoiser
    row = denoiser._time(torch.tensor([[300]]))
    try:
        plain = denoiser.train()._time(torch.tensor([[300]]))
    finally:
        denoiser.eval()
    torch.testing.assert_close(row, denoiser.table_norm(plain))
    assert not torch.allclose(row, plain)


@torch.no_grad()
def test_given_words_are_shown_as_the_text_encoder_reads_them(released: Any, imported: Captioner) -> None:
    codec, tokenizer = imported.decoder.codec, released.tokenizer
    dog, stop = (tokenizer.get_vocab()[piece] for piece in ("dog", "."))
    for piece, latent in ((dog, codec.token_latents[dog] * released.std + released.mean), (stop, codec.stop)):
        ids = torch.tensor([[tokenizer.cls_token_id, piece, tokenizer.sep_token_id]])
        expected = released.model.space_encoder(ids).last_hidden_state[0, 1]
        torch.testing.assert_close(latent, expected, rtol=0, atol=1e-5)
    captions = imported.infill([np.zeros((12, 12, 3), np.uint8)], "a ___ dog")
    assert re.fullmatch(r"a \S+ dog", captions[0].text)


def test_it_can_be_trained_further_with_its_own_text_encoder(released: Any, imported: Captioner) -> None:
    folder = released.folder / "bert"
    config = imported.decoder.config.codec_config.text_config
    bert = BertForMaskedLM(config)
    own = {name.removeprefix("bert."): value for name, value in bert.state_dict().items()}
    theirs = released.model.space_encoder.state_dict()
    bert.bert.load_state_dict({name: theirs.get(name, own[name]) for name in bert.bert.state_dict()})
    bert.save_pretrained(folder)
    inputs = imported.processor.encode_captions(["a red dog", "two kites"])
    imported.train()
    try:
        imported(pixel_values=pixels(2), **inputs).loss.backward()
    finally:
        imported.eval()
    assert imported.decoder.denoiser.layers[0].mlp[0].weight.grad.abs().sum() > 0
    imported.zero_grad()


def test_the_packaged_tokenizer_has_the_words_of_bert_base_uncased() -> None:
    import hashlib

    vocabulary = load_tokenizer("minilm").get_vocab()
    lines = "".join(f"{piece}\n" for piece in sorted(vocabulary, key=vocabulary.__getitem__))
    published = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    assert hashlib.sha256(lines.encode()).hexdigest() == published


@pytest.mark.parametrize("kind", ["model", "state_dict", "module.", "safetensors", "npy", "half"])
def test_the_same_weights_in_other_wrappings(released: Any, tmp_path: Path, kind: str) -> None:
    state = {name: value.clone() for name, value in released.model.state_dict().items()}
    given: dict[str, Path] = {"checkpoint": tmp_path / "model.pt"}
    if kind == "safetensors":
        given["checkpoint"] = tmp_path / "model.safetensors"
        save_file(state, given["checkpoint"])
        given["std"] = tmp_path / "std.safetensors"
        save_file({"std": released.std}, given["std"])
    elif kind == "half":
        torch.save({name: value.half() if value.is_floating_point() else value for name, value in state.items()},
                   given["checkpoint"])  # fmt: skip
    elif kind == "module.":
        torch.save({f"module.{name}": value for name, value in state.items()}, given["checkpoint"])
    else:
        torch.save({kind: state, "epoch": 59} if kind != "npy" else state, given["checkpoint"])
    if kind == "npy":
        given["mean"] = tmp_path / "mean.npy"
        np.save(given["mean"], released.mean.double().numpy()[None, None])
    ours, expected = released.run(**given).state_dict(), released.run().state_dict()
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0.05 if kind == "half" else 0.0)
        assert ours[name].dtype == value.dtype


def test_a_checkpoint_without_a_norm_of_the_times(released: Any, tmp_path: Path) -> None:
    state = {name: value for name, value in released.model.state_dict().items() if "time_layer" not in name}
    torch.save(state, tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match=r"time_layer_norm\.weight is missing.*--no-time-norm"):
        released.run(checkpoint=tmp_path / "plain.pt")
    decoder = released.run(checkpoint=tmp_path / "plain.pt", time_norm=False).decoder
    assert not hasattr(decoder.denoiser, "table_norm")
    with pytest.raises(CheckpointError, match=r"unexpected time_layer_norm\.bias"):
        released.run(time_norm=False)


def without(prefix: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if not name.startswith(prefix)}


def other(name: str, *shape: int) -> Callable[[State], State]:
    return lambda state: {**state, name: torch.ones(shape)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without("diffuser."), "missing diffuser.embeddings.position_embeddings.weight"),
        (without("visual_encoder.norm."), "missing visual_encoder.norm.bias, visual_encoder.norm.weight$"),
        (without("diffuser.encoder.layer.0.crossattention"), "missing diffuser.*, diffuser.* and 7 more$"),
        (other("pooler.dense.weight", 2, 2), "unexpected pooler.dense.weight$"),
        (other("diffuser.encoder.layer.1.output.dense.weight", 32, 7), r"output.dense.weight has shape \(32, 7\), exp"),
        (
            other("diffuser.encoder.layer.1.attention.self.key.bias", 31),
            r"key.bias has shape \(31,\), expected \(32,\)",
        ),
        (other("space_encoder.embeddings.word_embeddings.weight", 36, 12), "of different BERTs"),
        (other("diffuser.embeddings.position_embeddings.weight", 32, 24), "24 wide.*must be 32.*another BERT"),
        (other("visual_encoder.pos_embed", 1, 9, 24), "9 positions; a class token and a square"),
        (other("visual_encoder.pos_embed", 1, 0, 24), "0 positions; a class token and a square"),
        (other(WORD, 5), "expected 2 dimensions"),
    ],
)
def test_checkpoints_that_do_not_fit(
    released: Any, tmp_path: Path, change: Callable[[State], State], reason: str
) -> None:
    torch.save(change(released.model.state_dict()), tmp_path / "wrong.pt")
    with pytest.raises(CheckpointError, match=reason) as error:
        released.run(checkpoint=tmp_path / "wrong.pt")
    assert "\n" not in str(error.value)
    assert "wrong.pt' is no released LaDiC" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_heads": 5}, "num_heads 5 does not divide the width 32"),
        ({"vision_heads": 0, "text_heads": 3}, "vision_heads 0 .* 24; text_heads 3 .* 16"),
        ({"max_length": 33}, "max_length 33 must be between 3 and the diffuser's 32 positions"),
        ({"tokenizer": "minilm"}, "'minilm' has 30522 word pieces, the checkpoint"),
        ({"checkpoint": "gone.pt"}, "there is no file 'gone.pt'"),
    ],
)
def test_what_is_stated_must_fit(released: Any, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(VislexError, match=reason):
        released.run(**changes)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (torch.ones(12), "has 12 values, but the latents of this checkpoint have 16"),
        (torch.full((16,), torch.nan), "not finite"),
        (-torch.ones(16), "not positive; is it the mean"),
        ({"mean": torch.ones(16), "std": torch.ones(16)}, "holds 2 entries; it must hold one tensor"),
        ([1.0] * 16, "holds a list; it must hold one tensor"),
    ],
)
def test_statistics_that_do_not_fit(released: Any, tmp_path: Path, value: Any, reason: str) -> None:
    torch.save(value, tmp_path / "std.pt")
    with pytest.raises(CheckpointError, match=reason):
        released.run(std=tmp_path / "std.pt")


def test_a_vocabulary_without_full_stop_is_refused(released: Any, tmp_path: Path) -> None:
    file = (released.folder / "tokenizer" / "tokenizer.json").read_text()
    released.tokenizer.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(file.replace('".":', '"~":'))
    with pytest.raises(ConfigError, match=r"no word piece '\.'"):
        released.run(tokenizer=tmp_path)
