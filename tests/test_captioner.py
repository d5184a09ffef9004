from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    pipeline,
)

import vislex.auto  # noqa: F401
from vislex.captioner import Captioner
from vislex.decoders.ladic.codec import LatentCodec
from vislex.encoders.factory import create_encoder
from vislex.errors import CheckpointError, ConfigError, ImageError, SpecError
from vislex.specs import VisionTokens
from vislex.text import load_tokenizer, prune_tokenizer

DECODERS = ["cross_attention", "prefix", "masked"]
SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_length": 12}


def image(seed: int, height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return prune_tokenizer(load_tokenizer(), ["a red dog left of two unfathomable kites"])[0]


def build(tokenizer: PreTrainedTokenizerFast, decoder: str = "cross_attention", encoder: object = None) -> Captioner:
    torch.manual_seed(0)
    encoder = create_encoder("siglip-tiny", tiny=True) if encoder is None else encoder
    captioner = Captioner.from_parts(encoder=encoder, decoder=decoder, tokenizer=tokenizer, **SIZES).eval()
    with torch.no_grad():
        for parameter in captioner.decoder.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return captioner


@pytest.fixture(scope="module")
def ladic(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    """A captioner with LaDiC, on a codec of a BERT of two layers."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    whole = prune_tokenizer(load_tokenizer(), ["a red dog left of two unfathomable kites."])[0]
    BertForMaskedLM(BertConfig(vocab_size=len(whole), initializer_range=0.4, **sizes)).save_pretrained(folder)
    whole.save_pretrained(folder)
    codec = LatentCodec.create(whole, ["a red dog left of two unfathomable kites."], text_model=folder)
    options = {**SIZES, "codec": codec, "length_bucket": 4, "dropout": 0.0}
    encoder = create_encoder("siglip-tiny", tiny=True)
    captioner = Captioner.from_parts(encoder=encoder, decoder="ladic", tokenizer=tokenizer, **options).eval()
    with torch.no_grad():
        for name, parameter in captioner.decoder.named_parameters():
            if parameter.ndim > 1 and not name.startswith("codec."):
                parameter.normal_(std=0.3)
    return captioner


def test_a_diffusion_captioner_is_saved_loaded_and_piped(ladic: Captioner, tmp_path: Path) -> None:
    ladic.save_pretrained(tmp_path)
    assert not [name for name in load_file(tmp_path / "model.safetensors") if "text_encoder" in name]
    for loaded in (Captioner.from_pretrained(tmp_path), AutoModelForImageTextToText.from_pretrained(tmp_path)):
        a, b = ladic.state_dict(), loaded.state_dict()
        assert a.keys() == b.keys()
        assert [name for name in a if not torch.equal(a[name], b[name])] == []
        batch = ladic.processor.encode_captions(["a red dog", "two kites"])
        assert torch.equal(ladic(pixels(ladic), **batch).loss, loaded(pixels(ladic), **batch).loss)
        assert torch.equal(ladic.generate(pixels(ladic)), loaded.generate(pixels(ladic)))
    pipe = pipeline("image-text-to-text", model=str(tmp_path), device="cpu")
    assert pipe(images=image(1), text="")[0]["generated_text"].strip() == ladic.caption(image(1))[0].text
    assert pipe(images=image(1), text="a red")[0]["generated_text"].startswith("a red")
    half = Captioner.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert len(half.caption([image(0), image(1)])) == 2


def test_a_seed_gives_the_same_captions_at_any_batch_size(ladic: Captioner) -> None:
    images = [image(i) for i in range(5)]
    together = ladic.caption(images, seed=1, num_inference_steps=3)
    assert [c.text for c in ladic.caption(images, seed=1, num_inference_steps=3, batch_size=2)] == [
        caption.text for caption in together
    ]
    assert [caption.evaluations for caption in together] == [3] * 5


@pytest.fixture(scope="module", params=DECODERS)
def captioner(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> Captioner:
    return build(tokenizer, request.param)


def pixels(captioner: Captioner, count: int = 2) -> torch.Tensor:
    return captioner.processor([image(i) for i in range(count)])["pixel_values"]


def two_candidates(captioner: Captioner) -> dict[str, int]:
    """Beam search, or what takes its place in a decoder that writes all words at once."""
    return {"num_lengths": 2} if captioner.decoder.config.model_type == "vislex_masked" else {"num_beams": 2}


def assert_equal_models(first: Captioner, second: Captioner) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert dict(first.named_buffers()).keys() == dict(second.named_buffers()).keys()
    batch = first.processor.encode_captions(["a red dog", "two kites"])
    assert torch.equal(first(pixels(first), **batch).logits, second(pixels(second), **batch).logits)
    several = two_candidates(first)
    assert torch.equal(first.generate(pixels(first), **several), second.generate(pixels(second), **several))


def test_pixels_and_their_tokens_give_the_same(captioner: Captioner) -> None:
    batch = captioner.processor.encode_captions(["a red dog", "two kites"])
    vision = captioner.encode(pixels(captioner))
    loss = captioner(pixels(captioner), **batch).loss
    assert torch.equal(loss, captioner(vision_tokens=vision, **batch).loss)
    assert torch.equal(loss, captioner(vision_tokens=vision.tokens, **batch).loss)
    assert torch.equal(captioner.generate(pixels(captioner)), captioner.generate(vision_tokens=vision))
    with pytest.raises(SpecError, match="either"):
        captioner(**batch)


def test_a_mask_of_bare_tokens_is_respected(captioner: Captioner) -> None:
    batch = captioner.processor.encode_captions(["a red dog", "two kites"])
    vision = captioner.encode(pixels(captioner))
    mask = torch.ones(vision.tokens.shape[:2], dtype=torch.bool)
    mask[:, 1:] = False
    bare = captioner(vision_tokens=vision.tokens, vision_mask=mask, **batch).loss
    assert torch.equal(bare, captioner(vision_tokens=VisionTokens(vision.tokens, mask), **batch).loss)
    assert not torch.equal(bare, captioner(vision_tokens=vision, **batch).loss)


def test_captions_of_paths_images_and_arrays(captioner: Captioner, tmp_path: Path) -> None:
    image(0).save(tmp_path / "a.png")
    captions = captioner.caption([tmp_path / "a.png", image(0), np.asarray(image(0)), image(1)], batch_size=3)
    assert len(captions) == 4
    assert len({caption.text for caption in captions[:3]}) == 1
    assert all(1 <= caption.evaluations <= 11 and caption.seconds > 0 for caption in captions)
    for one in (str(tmp_path / "a.png"), image(0), np.asarray(image(0))):
        assert [caption.text for caption in captioner.caption(one)] == [captions[0].text]
    beams = captioner.caption(image(0), **two_candidates(captioner), max_new_tokens=4, min_new_tokens=3)
    assert 2 <= beams[0].evaluations <= 8
    with pytest.raises(ImageError, match="no such"):
        captioner.caption(tmp_path / "b.png")


def test_blanks_are_filled_and_given_words_stay(captioner: Captioner, tmp_path: Path) -> None:
    image(0).save(tmp_path / "a.png")
    images = [tmp_path / "a.png", image(1), np.asarray(image(2))]
    filled = captioner.infill(images, "A Zebra ___ of ___.", batch_size=2)
    assert [infilled.text for infilled in filled] == ["A Zebra {} of {}.".format(*own.blanks) for own in filled]
    assert all(own.evaluations > 0 and own.seconds > 0 and len(own.blanks) == 2 for own in filled)
    assert all(len(word.split()) == 1 for own in filled for word in own.blanks)
    own = captioner.infill(images, ["a ___ dog", "two ___", "___ red"], batch_size=2, blank_lengths=1)
    assert [infilled.text.split()[0] for infilled in own[:2]] == ["a", "two"]
    alone = captioner.infill(image(1), "two ___", blank_lengths=1)[0]
    assert alone.text == own[1].text
    with pytest.raises(ConfigError, match="more images than templates"):
        captioner.infill(images, ["a ___"])
    with pytest.raises(ConfigError, match="more templates than images"):
        captioner.infill(image(0), ["a ___", "two ___"])


def test_draws_belong_to_the_caption_not_to_the_batch(tokenizer: PreTrainedTokenizerFast) -> None:
    captioner, images = build(tokenizer, "masked"), [image(0)] * 6
    one, many = (captioner.caption(images, temperature=1.0, batch_size=size) for size in (1, 4))
    assert [caption.text for caption in one] == [caption.text for caption in many]
    assert len({caption.text for caption in one}) > 1
    numbers = [4, 1, 2]
    some = captioner.caption(images[:3], indices=numbers, temperature=1.0, batch_size=2)
    assert [caption.text for caption in some] == [many[number].text for number in numbers]
    with pytest.raises(ConfigError, match="more images than indices"):
        captioner.caption(images, indices=numbers)
    one, many = (captioner.infill(images, "a ___ dog", temperature=2.0, batch_size=size) for size in (1, 4))
    assert [caption.text for caption in one] == [caption.text for caption in many]
    assert len({caption.text for caption in one}) > 1


def test_captioning_restores_training_mode(tokenizer: PreTrainedTokenizerFast) -> None:
    captioner = build(tokenizer).train()
    first = captioner.caption(image(0))[0].text
    assert captioner.training
    assert captioner.caption(image(0))[0].text == first  # no dropout in between


def test_saving_and_loading_is_exact(captioner: Captioner, tmp_path: Path) -> None:
    captioner.card_notes = "The weights are CC BY-SA 4.0."
    captioner.save_pretrained(tmp_path)
    loaded = Captioner.from_pretrained(tmp_path)
    assert_equal_models(captioner, loaded)
    assert loaded.encoder.spec == captioner.encoder.spec
    assert loaded.config.parts == captioner.config.parts
    loaded.save_pretrained(tmp_path / "again")
    assert_equal_models(captioner, Captioner.from_pretrained(tmp_path / "again"))
    card = (tmp_path / "again" / "README.md").read_text()
    assert "CC BY-SA 4.0" in card
    assert "siglip-tiny" in card
    assert "pipeline_tag: image-text-to-text" in card
    assert not list(tmp_path.glob("*.bin"))


def test_the_auto_classes_and_the_pipeline(captioner: Captioner, tmp_path: Path) -> None:
    captioner.save_pretrained(tmp_path)
    assert_equal_models(captioner, AutoModelForImageTextToText.from_pretrained(tmp_path))
    assert type(AutoProcessor.from_pretrained(tmp_path)).__name__ == "CaptionProcessor"
    pipe = pipeline("image-text-to-text", model=str(tmp_path), device="cpu")
    assert pipe(images=image(1), text="")[0]["generated_text"].strip() == captioner.caption(image(1))[0].text
    continued = pipe(images=image(1), text="a red", generate_kwargs={"min_new_tokens": 3, "max_new_tokens": 3})
    assert continued[0]["generated_text"].startswith("a red")
    batch = pipe(images=[image(0), image(1)], text=["", ""])
    assert len(batch) == 2


def test_dtype_and_generation_defaults_survive(captioner: Captioner, tmp_path: Path) -> None:
    captioner.generation_config.max_new_tokens = 4
    captioner.generation_config.min_new_tokens = 4
    captioner.save_pretrained(tmp_path)
    captioner.generation_config.max_new_tokens = 11
    captioner.generation_config.min_new_tokens = None
    loaded = Captioner.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert loaded.generation_config.max_new_tokens == 4
    assert loaded.generate(pixels(loaded).bfloat16()).shape[1] == 5


def test_weights_of_half_the_size_load_as_float32(captioner: Captioner, tmp_path: Path) -> None:
    saved = copy.deepcopy(captioner).to(torch.bfloat16)
    saved.save_pretrained(tmp_path)
    assert {value.dtype for value in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}
    loaded = Captioner.from_pretrained(tmp_path)
    assert {value.dtype for value in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(value, loaded.state_dict()[name].bfloat16()) for name, value in saved.state_dict().items())
    assert next(Captioner.from_pretrained(tmp_path, dtype="auto").parameters()).dtype == torch.bfloat16
    assert AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32
    pipe = pipeline("image-text-to-text", model=str(tmp_path), device="cpu")
    assert isinstance(pipe(images=image(1), text="")[0]["generated_text"], str)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "fused:siglip-tiny+efficientnet-lite0"])
def test_a_frozen_packaged_encoder_is_saved_by_reference(
    name: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    encoder = create_encoder(name, pretrained=True).requires_grad_(False)
    captioner = build(tokenizer, encoder=encoder)
    captioner.save_pretrained(tmp_path / "reference")
    assert captioner.config.saved_by_reference("encoder")
    names = load_file(tmp_path / "reference/model.safetensors").keys()
    assert not [name for name in names if name.startswith("encoder.")]
    loaded = Captioner.from_pretrained(tmp_path / "reference")
    assert_equal_models(captioner, loaded)

    captioner.save_pretrained(tmp_path / "standalone", standalone=True)
    assert not captioner.config.saved_by_reference("encoder")
    assert_equal_models(captioner, Captioner.from_pretrained(tmp_path / "standalone"))

    with torch.no_grad():  # trained, then frozen again: the source no longer gives these weights
        next(loaded.encoder.parameters()).add_(1.0)
    loaded.save_pretrained(tmp_path / "trained")
    assert not loaded.config.saved_by_reference("encoder")
    assert_equal_models(loaded, Captioner.from_pretrained(tmp_path / "trained"))


def test_a_frozen_untrained_encoder_is_saved_as_its_seed(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    encoder = create_encoder("efficientnet-lite0", tiny=True, seed=7).requires_grad_(False)
    captioner = build(tokenizer, encoder=encoder)
    captioner.save_pretrained(tmp_path)
    assert captioner.config.saved_by_reference("encoder")
    assert all(name.startswith("decoder.") for name in load_file(tmp_path / "model.safetensors"))
    before = torch.get_rng_state()
    loaded = Captioner.from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert_equal_models(captioner, loaded)
    assert_equal_models(captioner, AutoModelForImageTextToText.from_pretrained(tmp_path))
    assert "`efficientnet-lite0`, untrained, saved by reference" in (tmp_path / "README.md").read_text()
    loaded.to(torch.bfloat16).save_pretrained(tmp_path / "again")
    assert loaded.config.saved_by_reference("encoder")

    config = json.loads((tmp_path / "config.json").read_text())
    for seed, message in (
        (8, "seed 8 draws other random weights"),
        (-1, "records the seed -1"),
        (None, "seed None"),
    ):
        config["encoder_config"]["source"]["seed"] = seed
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=message):
            Captioner.from_pretrained(tmp_path)


def test_a_source_that_changed_is_refused(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    encoder = create_encoder("efficientnet-lite0", pretrained=True).requires_grad_(False)
    build(tokenizer, encoder=encoder).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    config["encoder_config"]["source"]["sha256"] = "0" * 64
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="have changed since"):
        Captioner.from_pretrained(tmp_path)


def test_an_incomplete_checkpoint_is_refused(captioner: Captioner, tmp_path: Path) -> None:
    captioner.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop(next(name for name in weights if name.startswith("encoder.")))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="incomplete"):
        Captioner.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no captioner can be read"):
        Captioner.from_pretrained(tmp_path)


@pytest.mark.parametrize("way", [Captioner, AutoModelForImageTextToText])
@pytest.mark.parametrize("place", [(), ("encoder_config",), ("decoder_config", "text_config")])
@pytest.mark.parametrize(("key", "value"), [("auto_map", {"AutoModel": "x.Y"}), ("attn_implementation", "org/kernel")])
def test_a_hostile_config_builds_nothing(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, way: type, place: tuple[str, ...], key: str, value: object
) -> None:
    build(tokenizer).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    inner = config
    for step in place:
        inner = inner[step]
    inner[key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=key) as caught:
        way.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_parts_that_do_not_fit_are_explained(tokenizer: PreTrainedTokenizerFast) -> None:
    captioner = build(tokenizer)
    wide = create_encoder("efficientnet-lite0", tiny=True)
    with pytest.raises(SpecError, match="of width 32"):
        Captioner.from_parts(encoder=wide, decoder=captioner.decoder, tokenizer=tokenizer)
    with pytest.raises(SpecError, match="30522 entries"):
        Captioner.from_parts(encoder=captioner.encoder, decoder=captioner.decoder)
    with pytest.raises(ConfigError, match="options hidden_size"):
        Captioner.from_parts(encoder=captioner.encoder, decoder=captioner.decoder, tokenizer=tokenizer, hidden_size=8)
    batch = captioner.processor(text=["a", "a red dog"])
    with pytest.raises(SpecError, match="equally long"):
        captioner.generate(pixels(captioner), **batch)


def test_variable_length_images(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    captioner = build(tokenizer, encoder=create_encoder("siglip2-b16-naflex", tiny=True))
    images = [image(0, 20, 60), image(1, 50, 30)]
    together = captioner.caption(images)
    assert [caption.text for caption in together] == [captioner.caption(one)[0].text for one in images]
    captioner.save_pretrained(tmp_path)
    assert [c.text for c in Captioner.from_pretrained(tmp_path).caption(images)] == [c.text for c in together]


def test_training_moves_both_parts(captioner: Captioner) -> None:
    model = captioner.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = {"pixel_values": pixels(model), **model.processor.encode_captions(["a red dog", "two kites"])}
    losses = []
    for _ in range(12):
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[-1] < losses[0]
