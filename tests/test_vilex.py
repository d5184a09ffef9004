"""ViLex: what trains and what does not, budgets, prompts, saving, and the encoder that comes out of it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel

import vislex
import vislex.auto
from vislex.diffusion.objectives import NoiseDraw, ReconstructionObjective
from vislex.diffusion.t2i import TextToImage
from vislex.encoders.factory import create_encoder
from vislex.errors import CheckpointError, ConfigError, SpecError
from vislex.modules.digest import weights_digest
from vislex.specs import VisionTokens
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.draws import Draws
from vislex.training.parts import PartSettings, prepare_parts
from vislex.training.settings import TrainingSettings, total_draws
from vislex.training.trainer import PartTrainer
from vislex.vilex import ViLex

Build = Callable[..., TextToImage]


def picture(seed: int, size: int = 20) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def build(t2i: TextToImage, n_tokens: int = 6, encoder: str = "siglip-tiny", **options: Any) -> ViLex:
    torch.manual_seed(0)
    backbone = create_encoder(encoder, tiny=True)
    model = ViLex.from_parts(encoder=backbone, t2i=t2i, n_tokens=n_tokens, **options).eval()
    with torch.no_grad():
        for head in model.encoder.heads:  # tokens far enough from each other to be told apart
            head.weight.mul_(20)
    return model


def batch(model: ViLex, rows: int = 3) -> dict[str, Any]:
    images = [picture(seed) for seed in range(rows)]
    pixels = model.processor()(images, return_tensors="pt")
    return {**pixels, "latents": model.t2i.encode_pixels(model.t2i.preprocess(images))}


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sd3", "flux-dev", "pixart-pixels", "sana", "if"])
def test_gradients_reach_all_of_vilex_and_nothing_frozen(tiny_t2i: Build, family: str) -> None:
    t2i = tiny_t2i(family)
    model = build(t2i).train()
    before = weights_digest(t2i)
    own = {name: value.clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        model(**batch(model), counts=6, captions=["a red dog"] * 3).loss.backward()
        assert all(parameter.grad is None for parameter in t2i.parameters())
        optimizer.step()
    assert weights_digest(t2i) == before
    assert not t2i.training
    # A backbone's pooling head gives the descriptor, not the tokens; a key's bias changes no attention.
    still = {name for name, value in model.named_parameters() if torch.equal(value, own[name])}
    assert all(".head." in name or "k_proj.bias" in name for name in still), still
    assert {name.split(".")[0] for name in own} == {"encoder"}


def test_two_stages_train_the_pooling_first(tiny_t2i: Build) -> None:
    model = build(tiny_t2i("sd15")).train()
    plan = prepare_parts(model, {"encoder.backbone": PartSettings(mode="frozen")}, lr=1e-3, weight_decay=0.0)
    before = weights_digest(model.encoder.backbone)
    optimizer = torch.optim.SGD(plan.groups, lr=1.0)
    model(**batch(model)).loss.backward()
    optimizer.step()
    assert weights_digest(model.encoder.backbone) == before
    trained = [row for row in plan.rows if row.trainable]
    assert [row.part for row in trained] == ["(rest)"]
    assert all(p.grad is not None for p in model.encoder.pooling.parameters())
    slower = prepare_parts(model, {"encoder.backbone": PartSettings(lr=1e-5)}, lr=3e-4, weight_decay=0.0)
    assert {group["lr"] for group in slower.groups} == {1e-5, 3e-4}


def test_k_tokens_are_a_prompt_of_k_tokens(tiny_t2i: Build) -> None:
    t2i = tiny_t2i("sd15")
    model, inputs = build(t2i), None
    inputs = batch(model)
    draw = ReconstructionObjective().draw(t2i, inputs["latents"])
    fixed = {"timesteps": draw.timesteps, "noise": draw.noise}
    counts = torch.tensor([1, 4, 6])
    found = model(**inputs, counts=counts, **fixed)
    assert found.counts.tolist() == [1, 4, 6]
    tokens = model.encode([picture(seed) for seed in range(3)]).tokens
    text = t2i.texts[0]
    for row, count in enumerate(counts.tolist()):
        ids = [text.tokenizer.bos_token_id, *[0] * count, text.tokenizer.eos_token_id]
        embedded = text.embed(torch.tensor([ids + [text.tokenizer.pad_token_id] * (16 - len(ids))]))
        embedded[0, 1 : 1 + count] = tokens[row, :count]
        handle = text.model.get_input_embeddings().register_forward_hook(lambda *_, e=embedded: e)
        hidden = text.model(torch.tensor([ids + [text.tokenizer.eos_token_id] * (16 - len(ids))])).last_hidden_state
        handle.remove()
        alone = ReconstructionObjective()(
            t2i,
            inputs["latents"][row : row + 1],
            t2i.condition("").map(lambda _, h=hidden: h),
            NoiseDraw(draw.timesteps[row : row + 1], draw.noise[row : row + 1]),
        )
        torch.testing.assert_close(found.per_image[row], alone.loss, rtol=1e-4, atol=1e-6)


def test_tail_drop_is_for_training_only(tiny_t2i: Build) -> None:
    model = build(tiny_t2i("sd15"))
    inputs = batch(model, 8)
    assert model(**inputs).counts.tolist() == [6] * 8
    assert len(set(model.train()(**inputs).counts.tolist())) > 2
    powers = build(model.t2i, tail_drop="pow2").train()
    assert set(torch.cat([powers(**inputs).counts for _ in range(3)]).tolist()) <= {1, 2, 4, 6}
    assert build(model.t2i, tail_drop="none").train()(**inputs).counts.tolist() == [6] * 8


def test_the_objective_of_the_config_is_used(tiny_t2i: Build) -> None:
    t2i = tiny_t2i("pixart-pixels")
    plain, weighted = build(t2i), build(t2i, objective={"weighting": "v"})
    inputs = batch(plain)
    draw = ReconstructionObjective().draw(t2i, inputs["latents"])
    fixed = {"timesteps": draw.timesteps, "noise": draw.noise}
    ratio = weighted(**inputs, **fixed).per_image / plain(**inputs, **fixed).per_image
    torch.testing.assert_close(ratio, t2i.process.weight(draw.timesteps, "v"), rtol=1e-4, atol=0)
    with pytest.raises(ConfigError, match="unknown option 'weights'"):
        build(t2i, objective={"weights": "v"})


def test_images_targets_and_cached_tokens_give_the_same(tiny_t2i: Build, tmp_path: Path) -> None:
    model = build(tiny_t2i("sd15"))
    images = [picture(seed) for seed in range(3)]
    picture(0).save(tmp_path / "0.png")
    inputs = batch(model)
    draw = ReconstructionObjective().draw(model.t2i, inputs["latents"])
    fixed = {"timesteps": draw.timesteps, "noise": draw.noise}
    expected = model(**inputs, **fixed).loss
    torch.testing.assert_close(model.loss([tmp_path / "0.png", *images[1:]], **fixed).loss, expected)
    cached = model.encoder.backbone(inputs["pixel_values"]).tokens.detach()
    torch.testing.assert_close(model(vision_tokens=cached, latents=inputs["latents"], **fixed).loss, expected)
    half = torch.arange(cached.shape[1])[None].expand(3, -1) < 2
    masked = model(vision_tokens=cached, vision_mask=half, latents=inputs["latents"], **fixed).loss
    again = model(vision_tokens=VisionTokens(cached[:, :2]), latents=inputs["latents"], **fixed).loss
    torch.testing.assert_close(masked, again)
    with pytest.raises(SpecError, match="either pixel_values or vision_tokens"):
        model(latents=inputs["latents"])
    with pytest.raises(SpecError, match="either targets"):
        model(pixel_values=inputs["pixel_values"])
    with pytest.raises(SpecError, match="both timesteps and noise"):
        model(**inputs, noise=draw.noise)
    with pytest.raises(SpecError, match="one number of 1 to 6"):
        model(**inputs, counts=7)


def test_captions_stand_with_the_tokens_and_are_dropped_in_training(tiny_t2i: Build) -> None:
    t2i = tiny_t2i("pixart-pixels")  # a T5: words before the tokens change them too
    model, behind = build(t2i, caption_dropout=1.0), build(t2i, order="text_first", caption_dropout=0.0)
    inputs = batch(model)
    draw = ReconstructionObjective().draw(t2i, inputs["latents"])
    fixed = {"timesteps": draw.timesteps, "noise": draw.noise, "counts": 6}
    captions = ["a red dog on the left"] * 3
    bare = model(**inputs, **fixed).loss
    told = model(**inputs, **fixed, captions=captions).loss
    assert abs(told - bare) > 1e-5
    assert abs(behind(**inputs, **fixed, captions=captions).loss - told) > 1e-6
    torch.testing.assert_close(model.train()(**inputs, **fixed, captions=captions).loss, bare)
    kept = behind.train()(**inputs, **fixed, captions=captions).loss
    torch.testing.assert_close(kept, behind.eval()(**inputs, **fixed, captions=captions).loss)


def test_saving_and_loading(tiny_t2i: Build, tmp_path: Path) -> None:
    t2i = tiny_t2i("sd15")
    t2i.save_pretrained(tmp_path / "t2i")
    model = build(t2i, tail_drop="pow2", depth=3)
    model.save_pretrained(tmp_path / "vilex")
    names = load_file(tmp_path / "vilex/model.safetensors").keys()
    assert {name.split(".")[1] for name in names} == {"backbone", "pooling", "heads"}
    assert model.state_dict().keys() == names
    config = json.loads((tmp_path / "vilex/config.json").read_text())
    assert config["t2i"]["source"]["location"] == str(tmp_path / "t2i")
    assert "not part of this folder" in (tmp_path / "vilex/README.md").read_text()

    loaded = ViLex.from_pretrained(tmp_path / "vilex")
    assert type(AutoModel.from_pretrained(tmp_path / "vilex")) is ViLex
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    images = [picture(1), picture(2)]
    assert torch.equal(loaded.encode(images).tokens, model.encode(images).tokens)
    ours, theirs = (m.reconstruct(images, num_inference_steps=2) for m in (model, loaded))  # opens the recorded source
    assert [np.asarray(image).tolist() for image in ours] == [np.asarray(image).tolist() for image in theirs]

    changed = copy.deepcopy(t2i)
    with torch.no_grad():
        next(changed.unet.parameters()).add_(1.0)
    changed.folder = changed._sha256 = None
    with pytest.raises(CheckpointError, match="is not the one"):
        ViLex.from_pretrained(tmp_path / "vilex").attach(changed)
    assert ViLex.from_pretrained(tmp_path / "vilex").attach(changed, other=True).t2i is changed
    with pytest.raises(SpecError, match="widths"):
        loaded.attach(tiny_t2i("pixart-alpha"), other=True)


def test_loose_components_must_be_attached_again(tiny_t2i: Build, tmp_path: Path) -> None:
    model = build(tiny_t2i("sd15"))
    model.save_pretrained(tmp_path)
    loaded = ViLex.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="loose components"):
        loaded.reconstruct(picture(0))
    loaded.attach(tiny_t2i("sd15"))
    with pytest.raises(CheckpointError, match="is not the one"):
        loaded.attach(tiny_t2i("sd21"))


def test_number_formats_and_devices_take_the_text_to_image_model_along(tiny_t2i: Build) -> None:
    model = build(tiny_t2i("sd15")).to(torch.bfloat16)
    assert model.t2i.dtype == torch.bfloat16
    inputs = {key: value.bfloat16() for key, value in batch(model).items()}
    assert model(**inputs).loss.dtype == torch.float32


def test_reconstruction_at_any_budget_with_text_and_several_images(tiny_t2i: Build) -> None:
    model = build(tiny_t2i("pixart-pixels"))
    steps = {"num_inference_steps": 3}

    def pixels(images: Any, **options: Any) -> np.ndarray:
        return np.stack([np.asarray(image, dtype=np.int64) for image in model.reconstruct(images, **steps, **options)])

    one, two = picture(1), picture(2)
    whole = pixels([one, two])
    assert whole.shape == (2, 8, 8, 3)
    assert np.array_equal(whole, pixels([one, two], batch_size=1))
    assert np.array_equal(whole[:1], pixels(one))
    assert not np.array_equal(whole, pixels([one, two], seed=3))
    assert not np.array_equal(whole, pixels([one, two], n_tokens=1))
    assert not np.array_equal(whole, pixels([one, two], guidance_scale=3.0))
    assert not np.array_equal(pixels(one, prompt="a dog"), whole[:1])
    assert np.array_equal(pixels(one, prompt="a dog", tfg=0.0), whole[:1])
    assert not np.array_equal(pixels(one, prompt="a dog", tfg=3.0), pixels(one, prompt="a dog"))
    each = pixels([one, two], prompt=["a dog", "two kite"])
    assert np.array_equal(each[:1], pixels(one, prompt="a dog"))

    both = pixels([[one, two], one], n_tokens=2)
    tokens = model.encode([one, two], n_tokens=2).tokens.reshape(1, 4, -1)
    expected = model.t2i.condition_from_soft_tokens(tokens)
    joined, mask = model._joined([[one, two], [one]], 2)
    torch.testing.assert_close(
        model.t2i.condition_from_soft_tokens(joined, mask).prompt_embeds[:1], expected.prompt_embeds
    )
    assert np.array_equal(both[1:], pixels([two, one], n_tokens=2)[1:])
    assert not np.array_equal(both[:1], pixels(one, n_tokens=2))
    with pytest.raises(SpecError, match="do not fit"):
        pixels([[one] * 4])
    with pytest.raises(ConfigError, match="2 prompts for 1 images"):
        pixels([one], prompt=["a", "b"])


def test_nearest_words_of_a_words_own_embedding(tiny_t2i: Build) -> None:
    model = build(tiny_t2i("sdxl"), n_tokens=2)
    wanted = [text.embed(torch.tensor(text.word_ids(["dog"])))[0, 0] for text in model.t2i.texts]
    with torch.no_grad():
        for head, vector, scale in zip(model.encoder.heads, wanted, model.encoder.config.token_scales, strict=True):
            head.weight.zero_()
            head.bias.copy_(2 * vector / scale)
    words = model.nearest_words(picture(0), n_tokens=1, k=2)
    assert len(words) == 1
    assert len(words[0]) == 2
    for encoder, vector in zip(words[0], wanted, strict=True):
        assert len(encoder) == 1
        assert encoder[0].words[0] == "dog"
        assert encoder[0].similarities[0] == pytest.approx(1.0, abs=1e-4)
        assert encoder[0].similarities[1] < 0.999
        assert encoder[0].norm == pytest.approx(2 * float(vector.norm()), rel=1e-4)
        assert 0.2 < encoder[0].word_norm / float(vector.norm()) < 5


def test_tokens_may_start_larger_than_words(tiny_t2i: Build) -> None:
    def start(**options: Any) -> Any:
        torch.manual_seed(0)
        model = build(tiny_t2i("flux-dev"), n_tokens=2, **options)
        with torch.no_grad():
            return model.encoder(model.processor()(picture(0), return_tensors="pt")["pixel_values"]).tokens

    torch.testing.assert_close(start(token_scale=3.0), 3 * start())
    with pytest.raises(ConfigError, match="token_scale 0 must be above 0"):
        build(tiny_t2i("flux-dev"), token_scale=0)


def test_tokens_start_as_large_as_words(tiny_t2i: Build) -> None:
    t2i = tiny_t2i("flux-dev")
    torch.manual_seed(0)
    model = ViLex.from_parts(encoder=create_encoder("siglip-tiny", tiny=True), t2i=t2i, n_tokens=4)
    for encoder in model.nearest_words(picture(0))[0]:
        assert all(0.4 < token.norm / token.word_norm < 2.5 for token in encoder)
    assert (
        ViLex.from_parts(encoder=model.encoder.backbone, t2i=t2i).encoder.config.n_tokens == t2i.max_soft_tokens == 14
    )


@pytest.mark.parametrize("encoder", ["siglip-tiny", "efficientnet-lite0", "siglip2-b16-naflex", "dinov2-b14"])
def test_the_encoder_that_comes_out(tiny_t2i: Build, encoder: str, tmp_path: Path) -> None:
    model = build(tiny_t2i("sd15"), encoder=encoder)
    model.save_pretrained(tmp_path / "vilex")
    name = f"vilex:{tmp_path / 'vilex'}"
    images = [picture(0), picture(1, 30)]
    for budget in (None, 1, 4, 6):
        opened = create_encoder(name, pretrained=True, n_tokens=budget)
        assert (opened.spec.n_tokens, opened.spec.dim, opened.spec.grid) == (budget or 6, 16, None)
        inputs = vislex.create_image_processor(opened.spec)(images, return_tensors="pt")
        assert opened.spec.count(inputs, 0) == (budget or 6)
        with torch.no_grad():
            tokens = opened(**inputs).tokens
        torch.testing.assert_close(tokens, model.encode(images, n_tokens=budget).tokens)
        assert opened.config.name == name
    opened.save_pretrained(tmp_path / "encoder")
    again = create_encoder(f"hf:{tmp_path / 'encoder'}", pretrained=True)
    with torch.no_grad():
        assert torch.equal(again(**inputs).tokens, tokens)
    random = create_encoder(name)
    assert random.spec.n_tokens == 6
    assert weights_digest(random) != weights_digest(create_encoder(name, pretrained=True))


def test_bad_encoders_are_refused(tiny_t2i: Build, tmp_path: Path) -> None:
    build(tiny_t2i("sd15")).save_pretrained(tmp_path / "vilex")
    create_encoder("siglip-tiny", tiny=True).save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="n_tokens 7 must be 1 to 6"):
        create_encoder(f"vilex:{tmp_path / 'vilex'}", pretrained=True, n_tokens=7)
    with pytest.raises(CheckpointError, match="not a ViLex model"):
        create_encoder(f"vilex:{tmp_path / 'other'}", pretrained=True)
    with pytest.raises(CheckpointError, match="cannot read"):
        create_encoder(f"vilex:{tmp_path}", pretrained=True)
    with pytest.raises(CheckpointError, match="no model_type"):
        ViLex.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "vilex/config.json").read_text())
    config["encoder_config"]["backbone_config"]["auto_map"] = {"AutoModel": "x.Y"}
    (tmp_path / "vilex/config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="auto_map"):
        ViLex.from_pretrained(tmp_path / "vilex")


@pytest.mark.parametrize("decoder", ["prefix", "masked"])
def test_captioners_take_it_at_any_budget(tiny_t2i: Build, decoder: str, tmp_path: Path) -> None:
    build(tiny_t2i("sd15")).save_pretrained(tmp_path / "vilex")
    encoder = create_encoder(f"vilex:{tmp_path / 'vilex'}", pretrained=True, n_tokens=3).requires_grad_(False)
    tokenizer = prune_tokenizer(load_tokenizer(), ["a red dog left of two kites"])[0]
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_length": 12}
    captioner = vislex.Captioner.from_parts(encoder=encoder, decoder=decoder, tokenizer=tokenizer, **sizes)
    captioner.save_pretrained(tmp_path / "captioner")
    assert captioner.config.saved_by_reference("encoder")
    loaded = vislex.Captioner.from_pretrained(tmp_path / "captioner")
    assert loaded.encoder.spec.n_tokens == 3
    texts = [[c.text for c in m.caption([picture(0), picture(1)])] for m in (captioner, loaded)]
    assert texts[0] == texts[1]


def test_parts_that_do_not_fit_are_explained(tiny_t2i: Build) -> None:
    t2i = tiny_t2i("sd15")
    with pytest.raises(SpecError, match=r"n_tokens 15 do not fit.*at most 14"):
        build(t2i, n_tokens=15)
    with pytest.raises(ConfigError, match="depth 6"):
        build(t2i, depth=6)
    with pytest.raises(ConfigError, match="unknown tail_drop 'half'"):
        build(t2i, tail_drop="half")
    with pytest.raises(ConfigError, match="unknown order"):
        build(t2i, order="mixed")
    with pytest.raises(ConfigError, match="unknown inject"):
        build(t2i, inject="middle")
    with pytest.raises(SpecError, match="cannot pass by"):
        tiny_t2i("sdxl").condition_from_soft_tokens(torch.zeros(1, 2, 40), inject="output")
    with pytest.raises(ConfigError, match="caption_dropout 2"):
        build(t2i, caption_dropout=2)
    assert build(t2i, hidden_size=24, num_heads=3).encode(picture(0)).tokens.shape == (1, 6, 16)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_trainer_trains_saves_and_resumes_it(tiny_t2i: Build, tmp_path: Path, precision: str) -> None:
    model = build(tiny_t2i("pixart-pixels"))
    whole = batch(model, 4)
    captions = ["a red dog", "two kite", "a cat", "the boat"]

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        chosen = {name: value[torch.from_numpy(rows)] for name, value in whole.items()}
        return {**chosen, "captions": [captions[row] for row in rows]}

    settings = TrainingSettings(
        steps=3, batch_size=4, warmup_steps=1, save_every=2, progress=False, precision=precision
    )
    before = weights_digest(model.t2i)
    trainer = PartTrainer(
        model,
        settings,
        parts={"encoder.backbone": PartSettings(lr=1e-5)},
        draws=Draws(4, total_draws(settings), seed=0, fetch=fetch),
        output_dir=tmp_path,
    )
    figures = trainer.fit()
    assert 0 < figures["loss"] < 10
    assert weights_digest(model.t2i) == before
    saved = ViLex.from_pretrained(tmp_path / "checkpoints/checkpoint-2")
    assert saved.state_dict().keys() == model.state_dict().keys()


@pytest.mark.parametrize("family", ["sd15", "pixart-pixels", "sana", "if"])
def test_tokens_may_stand_past_the_text_encoder(tiny_t2i: Build, family: str) -> None:
    t2i = tiny_t2i(family)
    model = build(t2i, inject="output")
    start = {"sd15": 1, "sana": 1}.get(family, 0)  # behind a first special token
    tokens = model.encode([picture(0), picture(1)], n_tokens=3).tokens
    condition = t2i.condition_from_soft_tokens(tokens, prompts=["a red dog", ""], inject="output")
    torch.testing.assert_close(condition.prompt_embeds[:, start : start + 3], tokens)
    inside = t2i.condition_from_soft_tokens(tokens, prompts=["a red dog", ""])
    assert (inside.prompt_embeds - condition.prompt_embeds).abs().max() > 1e-2
    if inside.prompt_attention_mask is not None:
        assert torch.equal(inside.prompt_attention_mask, condition.prompt_attention_mask)
    inputs = batch(model)
    draw = ReconstructionObjective().draw(t2i, inputs["latents"])
    fixed = {"timesteps": draw.timesteps, "noise": draw.noise}
    found = model(**inputs, **fixed).loss
    found.backward()
    assert all(p.grad is not None for p in model.encoder.pooling.parameters())
    model.config.inject = "input"
    assert abs(model(**inputs, **fixed).loss - found) > 1e-6
    before = np.asarray(model.reconstruct(picture(0), num_inference_steps=2)[0])
    model.config.inject = "output"
    assert not np.array_equal(before, np.asarray(model.reconstruct(picture(0), num_inference_steps=2)[0]))
