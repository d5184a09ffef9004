"""The mask head: its loss, which image and tokens it looks at, batches, saving, adapters, refusals, learning."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModelForImageTextToText

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.adapters.instructions import Turn
from vislex.adapters.mask_head import MaskHead, MaskHeadSettings, mask_loss, place_masks
from vislex.adapters.turns import TurnBank
from vislex.adapters.vlm import VisionLanguageModel
from vislex.adapters.vlm_exchange import to_host
from vislex.adapters.vlm_segment import codec_of, prepare_codec
from vislex.cli.main import main
from vislex.errors import ConfigError, SpecError
from vislex.metrics.masks import score_masks
from vislex.modules.digest import weights_digest
from vislex.recipes.vlm_data import Mixture, SourceSettings, load_source
from vislex.segmentation.seg_head import SEG_TOKEN
from vislex.specs import EncoderSpec, VisionTokens
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.parts import PartSettings, merge_lora, prepare_parts

Make = Callable[..., VisionLanguageModel]
EXPRESSIONS = ["the red dog", "how many kites", "blue"]


def picture(seed: int, height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def make(make_vlm: Make) -> Make:
    """Builds a tiny model with a mask head, whose weights are large enough that states and tokens matter."""

    def with_head(**options: Any) -> VisionLanguageModel:
        head = {"hidden_size": 16, **options.pop("head", {})}
        model = make_vlm(**options)
        prepare_codec(model, "seg_head", **head)
        with torch.no_grad():
            for parameter in model.mask_head.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2.0)
            if model.connector.config.model_type == "vislex_connector_mlp":  # half of a mask is inside
                logits = model(**trained_on(model, [0, 1, 2], masks=False)).mask_logits
                model.mask_head.product[-1].bias[-1] -= logits.median()
        return model.eval()

    return with_head


@pytest.fixture(scope="module")
def vlm(make: Make) -> VisionLanguageModel:
    return make()


def trained_on(
    model: VisionLanguageModel, chosen: list[int], *, images: int = 1, pack: int = 0, masks: bool = True
) -> dict[str, Any]:
    """Inputs with labels and masks of the expressions with these numbers, with so many images each."""
    turns = [(Turn("user", f"{'<image>' * images}segment {own}"), Turn("assistant", SEG_TOKEN)) for own in EXPRESSIONS]
    bank = TurnBank(turns, model.processor.tokenizer, template=model.processor.chat_template)
    counts = [[4] * images for _ in chosen]
    text = bank.packed(np.array(chosen), counts, pack) if pack else bank.batch(np.array(chosen), counts)
    pixels = model.processor.image_processor(
        [picture(10 * i + j) for i in chosen for j in range(images)], return_tensors="pt"
    )["pixel_values"]
    size = model.mask_head.frame.size
    drawn = torch.stack([torch.rand(size, generator=torch.Generator().manual_seed(i)) for i in chosen])
    return {**text, "pixel_values": pixels, **({"masks": drawn} if masks else {})}


def always_marks(model: VisionLanguageModel) -> VisionLanguageModel:
    """The model, which now writes <SEG> and the end, whatever it sees."""
    token, end = model.mask_head.settings.token_id, model.processor.tokenizer.eos_token_id
    model.generation_config.sequence_bias = [[[token], 1e4], [[token, end], 1e6]]
    return model


def test_the_losses_are_those_of_text_and_of_masks(make: Make) -> None:
    model = make(head={"bce_weight": 3.0, "dice_weight": 0.25})
    inputs = trained_on(model, [0, 1, 2])
    output = model(**inputs)
    assert output.hidden_states is None
    logits, masks = output.mask_logits.detach(), inputs["masks"]
    assert logits.shape == (3, 16, 16)
    assert logits.std(0).min() > 1e-3  # of each their own
    chances = 1 / (1 + np.exp(-logits.double().numpy()))
    right = masks.double().numpy()
    bce = -(right * np.log(chances) + (1 - right) * np.log(1 - chances)).mean()
    dice = np.mean([1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1) for p, t in zip(chances, right, strict=True)])
    assert [float(own) for own in mask_loss(logits, masks)] == pytest.approx([bce, dice], rel=1e-5)
    text = model(**{name: value for name, value in inputs.items() if name != "masks"})
    assert torch.equal(text.mask_logits, logits)
    assert output.loss.item() == pytest.approx(text.loss.item() + 3 * bce + 0.25 * dice, rel=1e-5)
    count = int((inputs["labels"] != -100).sum())
    split = model(**inputs, num_items_in_batch=2 * count)  # half of what a step accumulates
    assert split.loss.item() == pytest.approx(output.loss.item() / 2, rel=1e-5)
    sharp = {**inputs, "masks": masks > 0.5}
    assert torch.equal(model(**sharp).loss, model(**{**sharp, "masks": sharp["masks"].float()}).loss)
    words = model(**inputs, output_hidden_states=True)
    assert len(words.hidden_states) == model.config.llm_config.num_hidden_layers + 1


def test_gradients_go_through_the_state_of_the_token(make: Make) -> None:
    model = make()
    inputs = trained_on(model, [0, 1])
    output = model(**inputs)
    model.mask_head.loss(output.mask_logits, inputs["masks"]).backward()
    for part in (model.mask_head, model.connector, model.encoder.backbone.encoder, model.llm.model):
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters()), type(part)
    token = model.mask_head.settings.token_id
    assert model.get_input_embeddings().weight.grad[token].abs().max() > 0


@pytest.mark.parametrize("attention", ["causal", "prefix"])
def test_a_batch_packed_rows_and_cached_tokens_equal_single_examples(make: Make, attention: str) -> None:
    model = make(attention=attention)
    together = trained_on(model, [0, 1, 2])
    assert together["attention_mask"].min() == 0
    batch = model(**together)
    packed = model(**trained_on(model, [0, 1, 2], pack=64))
    seen = model.encoder(together["pixel_values"])
    cached = model(vision_tokens=seen.tokens, **{k: v for k, v in together.items() if k != "pixel_values"})
    assert torch.equal(cached.mask_logits, batch.mask_logits)
    for i in range(3):
        alone = model(**trained_on(model, [i]))
        torch.testing.assert_close(batch.mask_logits[i], alone.mask_logits[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(packed.mask_logits[i], alone.mask_logits[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(packed.loss, batch.loss, rtol=1e-4, atol=1e-5)


def test_a_mask_is_of_the_last_image_before_it(make: Make) -> None:
    model = make()
    inputs = trained_on(model, [0, 2], images=2)
    plain = model(**inputs).mask_logits
    calls: list[torch.Tensor] = []
    hook = model.mask_head.register_forward_pre_hook(lambda module, given: calls.append(given[1]))
    model(**inputs)
    hook.remove()
    assert torch.equal(calls[0], model.encoder(inputs["pixel_values"]).tokens[[1, 3]])
    flipped = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    assert (model(**flipped).mask_logits - plain).abs().max() > 1e-3
    is_image = torch.tensor([[1, 1, 0, 0, 1, 0], [1, 1, 1, 0, 0, 0]]).bool()
    is_mask = torch.tensor([[0, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 0]]).bool()
    counts = torch.tensor([2, 1, 3])
    assert place_masks(is_mask, is_image, None, counts).tolist() == [0, 1, 2]
    starts = torch.tensor([[1, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0]]).bool()
    assert place_masks(is_mask, is_image, starts, counts).tolist() == [0, 1, 2]
    starts[1, 3] = True  # a dialogue that has a mask and no image
    with pytest.raises(SpecError, match="a <SEG> stands in a dialogue without an image before it"):
        place_masks(is_mask, is_image, starts, counts)
    text = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
    text["input_ids"] = text["input_ids"].masked_fill(text["input_ids"] == model.config.image_token_id, 5)
    with pytest.raises(SpecError, match="a <SEG> stands in a dialogue without an image before it"):
        model(**text)


def test_the_head_sees_the_encoder_not_the_connector(make: Make) -> None:
    model = always_marks(make(connector="attention_pool", n_tokens=3, num_heads=2))
    few, all_ = (model.segment(picture(0), "the red dog", n_tokens=own) for own in (1, None))
    assert few[0].text == all_[0].text == SEG_TOKEN
    calls: list[tuple[int, ...]] = []
    hook = model.mask_head.register_forward_pre_hook(lambda module, given: calls.append(tuple(given[1].shape)))
    model.segment(picture(0), "the red dog", n_tokens=1)
    hook.remove()
    assert calls == [(1, 4, 32)]
    with pytest.raises(SpecError, match=r"takes a grid of \(2, 2\) tokens an image, 3 were given"):
        model.mask_head(torch.zeros(1, 32), torch.zeros(1, 3, 32))


@pytest.mark.parametrize("attention", ["causal", "prefix"])
def test_what_is_marked_is_what_was_trained(make: Make, attention: str) -> None:
    model = always_marks(make(attention=attention))
    images = [picture(0), picture(10, 40, 18), picture(20, 16, 16)]
    encoded: list[int] = []
    hook = model.encoder.register_forward_hook(lambda module, args, output: encoded.append(len(args[0])))
    found = model.segment(images, EXPRESSIONS)
    hook.remove()
    assert encoded == [3]  # once, for the text and the masks
    assert [(own.text, own.new_tokens, own.invalid) for own in found] == [(SEG_TOKEN, 2, None)] * 3
    assert 0 < np.mean([own.mask.mean() for own in found]) < 1
    codec = codec_of(model)
    pixels = model.processor.image_processor(images, return_tensors="pt")["pixel_values"]
    logits = model(**{**trained_on(model, [0, 1, 2], masks=False), "pixel_values": pixels}).mask_logits
    for i, (own, image) in enumerate(zip(found, images, strict=True)):
        size = (image.height, image.width)
        resized = F.interpolate(logits[i].sigmoid()[None, None], size, mode="bilinear", antialias=True)[0, 0] > 0.5
        assert own.mask.shape == size
        assert (own.mask != resized.numpy()).mean() < 0.01  # rounding at the threshold
        (alone,) = model.segment(image, EXPRESSIONS[i], num_beams=1 + i)
        assert (alone.mask != own.mask).mean() < 0.01
    assert codec.frame == model.mask_head.frame
    assert model.segment(images[0], "blue", max_new_tokens=1)[0].mask is not None


def test_other_texts_are_invalid(vlm: VisionLanguageModel) -> None:
    model = copy.deepcopy(vlm)
    found = model.segment([picture(0), picture(1)], "the red dog", max_new_tokens=3, min_new_tokens=3)
    assert [own.invalid for own in found] == ["the text is not <SEG>"] * 2
    assert [own.mask for own in found] == [None, None]
    always_marks(model)
    twice = model.segment(picture(0), "the red dog", max_new_tokens=3, min_new_tokens=3)
    assert twice[0].text.count(SEG_TOKEN) > 1
    assert twice[0].mask is None


def test_saving_and_loading_is_exact(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = always_marks(make(head={"upscale": 8, "dice_weight": 1.0}))
    model.save_pretrained(tmp_path)
    again = VisionLanguageModel.from_pretrained(tmp_path)
    assert again.config.mask_head == model.config.mask_head == model.mask_head.settings.to_dict()
    assert again.mask_head.settings == model.mask_head.settings
    assert AutoModelForImageTextToText.from_pretrained(tmp_path).mask_head.frame.size == (16, 16)
    inputs = trained_on(model, [0, 1])
    assert torch.equal(model(**inputs).mask_logits, again(**inputs).mask_logits)
    assert torch.equal(model(**inputs).loss, again(**inputs).loss)
    assert np.array_equal(model.segment(picture(0), "blue")[0].mask, again.segment(picture(0), "blue")[0].mask)
    assert main(["info", str(tmp_path), "--json"]) == 0
    rows = {row["part"]: row for row in json.loads(capsys.readouterr().out)["parts"]}
    own = rows["mask_head"]
    assert own["parameters"] == sum(p.numel() for p in model.mask_head.parameters())
    assert (own["saved"], own["trainable"], own["sha256"]) == ("by value", True, weights_digest(model.mask_head))
    assert "codec `seg_head`" in (tmp_path / "README.md").read_text()
    with pytest.raises(ConfigError, match="this model has a mask head, which no model of transformers"):
        to_host(model)
    half = VisionLanguageModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert half.segment(picture(0), "blue")[0].mask is not None
    config = json.loads((tmp_path / "config.json").read_text())
    for values in ({"hidden_size": 16}, {**config["mask_head"], "depth": 3}):
        (tmp_path / "config.json").write_text(json.dumps({**config, "mask_head": values}))
        with pytest.raises(ConfigError, match="a mask head is not made of"):
            VisionLanguageModel.from_pretrained(tmp_path)


def test_adapters_leave_the_head_alone(make: Make) -> None:
    model = make()
    before, inputs = weights_digest(model.mask_head), trained_on(model, [0, 1])
    plan = prepare_parts(
        model,
        {"encoder": PartSettings(mode="frozen"), "connector": PartSettings(mode="frozen"),
         "llm": PartSettings(mode="lora"), "mask_head": PartSettings()},
        lr=1e-2, weight_decay=0.0,
    )  # fmt: skip
    rows = {row.part: row for row in plan.rows}
    count = sum(p.numel() for p in model.mask_head.parameters())
    assert (rows["mask_head"].parameters, rows["mask_head"].trainable) == (count, count)
    assert not [name for name, _ in model.named_parameters() if "lora" in name and not name.startswith("llm.")]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    adapted = model(**inputs).mask_logits
    assert merge_lora(model) > 0
    torch.testing.assert_close(model(**inputs).mask_logits, adapted, rtol=1e-4, atol=1e-5)
    assert weights_digest(model.mask_head) == before
    wrapped = get_peft_model(make(), LoraConfig(target_modules=r"llm\..*q_proj"))
    assert weights_digest(wrapped.merge_and_unload().mask_head) == before


def test_wrong_uses_are_told(make: Make, make_vlm: Make, vlm: VisionLanguageModel) -> None:
    inputs = trained_on(vlm, [0, 1])
    for wrong, message in (
        ({"masks": inputs["masks"][:1]}, r"masks are \[1, 16, 16\]; for 2 <SEG> in the labels .* \[2, 16, 16\]"),
        ({"masks": torch.rand(2, 8, 8)}, r"masks are \[2, 8, 8\]"),
        ({"labels": None}, "this model needs labels with their input_ids"),
    ):
        with pytest.raises(SpecError, match=message):
            vlm(**{**inputs, **wrong})
    bare = make_vlm()
    assert bare.mask_head is None
    assert bare.config.mask_head is None
    with pytest.raises(SpecError, match="needs a mask head: train with codec=seg_head"):
        bare(**inputs)
    with pytest.raises(ConfigError, match=r"codec 'seg_head': its tokenizer lacks 1 tokens \(<SEG> to <SEG>\)"):
        bare.segment(picture(0), "blue", codec="seg_head")
    bare.processor.tokenizer.add_tokens([SEG_TOKEN])
    with pytest.raises(ConfigError, match="this model has no mask head"):
        bare.segment(picture(0), "blue", codec="seg_head")
    naflex = make_vlm(encoder="siglip2-b16-naflex", connector="linear")
    known = len(naflex.processor.tokenizer)
    with pytest.raises(ConfigError, match="this one's are of variable length; take an encoder of patches"):
        prepare_codec(naflex, "seg_head")
    assert len(naflex.processor.tokenizer) == known
    spec = vlm.encoder.spec
    for other, given in (
        (spec.replace(grid=None), "4 tokens without a place"),
        (spec.replace(grid=None, resize="native", max_patches=9), "4 tokens without a place"),
    ):
        with pytest.raises(ConfigError, match=f"this one's are {given}"):
            MaskHead(MaskHeadSettings(3), other, 8)
    for options, message in (
        ({"upscale": 3}, "upscale 3 of a mask head must be a power of two"),
        ({"hidden_size": 0}, "hidden_size 0 of a mask head must be at least 1"),
        ({"bce_weight": -1.0}, "must not be negative"),
        ({"bce_weight": 0.0, "dice_weight": 0.0}, "nor both 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            prepare_codec(make_vlm(), "seg_head", **options)


def test_a_head_that_is_there_stays(make: Make) -> None:
    model = make()
    before = weights_digest(model.mask_head)
    _, added = prepare_codec(model, "seg_head", dice_weight=2.0)
    assert (added, weights_digest(model.mask_head)) == (0, before)
    assert model.mask_head.settings.dice_weight == model.config.mask_head["dice_weight"] == 2.0
    with pytest.raises(ConfigError, match="hidden_size 8 was asked for, but this model has a mask head with"):
        prepare_codec(model, "seg_head", hidden_size=8)
    prepare_codec(model, "box")
    assert (model.config.codec, weights_digest(model.mask_head)) == ("box", before)


@pytest.mark.parametrize(
    ("grid", "upscale", "size"),
    [
        ((8, 8), 4, (32, 32)),
        ((2, 3), 4, (16, 24)),
        ((1, 1), 1, (16, 16)),
        ((16, 12), 1, (32, 24)),
        ((20, 24), 1, (20, 24)),
        ((7, 7), 2, (28, 28)),
    ],
)
@pytest.mark.parametrize("resize", ["squash", "pad"])
def test_the_resolution_follows_the_grid(
    grid: tuple[int, int], upscale: int, size: tuple[int, int], resize: str
) -> None:
    spec = EncoderSpec(
        dim=6, grid=grid, n_tokens=grid[0] * grid[1], image_size=(48, 48), mean=(0.5,) * 3, std=(0.5,) * 3,
        resize=resize,
    )  # fmt: skip
    head = MaskHead(MaskHeadSettings(3, hidden_size=20, upscale=upscale), spec, 10)
    assert head.frame.size == size
    assert head.frame.padded_to == ((48, 48) if resize == "pad" else None)
    tokens = VisionTokens(torch.randn(2, grid[0] * grid[1], 6)).tokens
    assert head(torch.randn(2, 10), tokens).shape == (2, *size)


@pytest.mark.parametrize("encoder", ["efficientnet-lite0", "dinov2-b14", "siglip-tiny"])
def test_cells_lie_where_tokens_do(make_vlm: Make, encoder: str) -> None:
    model = make_vlm(encoder=encoder, connector="linear")
    prepare_codec(model, "seg_head", hidden_size=16)
    grid, size = model.encoder.spec.grid, model.mask_head.frame.size
    tokens = torch.randn(1, grid.height * grid.width, model.encoder.spec.dim)
    states = torch.randn(1, model.get_output_embeddings().in_features)
    plain = model.mask_head(states, tokens)
    twice = model.mask_head(states.repeat(2, 1), tokens.repeat(2, 1, 1))
    torch.testing.assert_close(twice[1], plain[0], rtol=1e-4, atol=1e-5)
    for row, column in ((0, 0), (grid.height - 1, 0), (0, grid.width - 1)):
        changed = tokens.clone()
        changed[0, row * grid.width + column] *= -1
        moved = (model.mask_head(states, changed) - plain).abs()[0]
        cells = moved.unflatten(0, (grid.height, -1)).unflatten(2, (grid.width, -1)).mean((1, 3))  # [h, w] of the grid
        assert moved.shape == size
        assert divmod(int(cells.argmax()), grid.width) == (row, column)


@pytest.mark.slow
def test_a_few_images_are_learned() -> None:
    rows = vislex.data.load_suite("openmoji", "segmentation", split="train", size=5)
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), ["segment", *rows[:]["expression"]])[0])
    torch.manual_seed(0)
    model = VisionLanguageModel.from_parts(
        encoder=vislex.create_encoder("siglip-tiny", tiny=True, seed=0),
        llm=vislex.create_llm("llama3.2-1b", tiny=True, vocab_size=len(tokenizer)),
        tokenizer=tokenizer,
    )
    codec, _ = prepare_codec(model, "seg_head", hidden_size=32)
    model.encoder.requires_grad_(False)
    source = load_source(SourceSettings(task="segmentation"), "train", 5, codec)
    batch = Mixture(model, [source], cached=False).batch(np.arange(5))
    batch["vision_tokens"] = model.encode(batch.pop("pixel_values"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    found = model.segment(rows[:]["image"], rows[:]["expression"])
    assert [own.text for own in found] == [SEG_TOKEN] * 5
    right = rows[:]["mask"]
    box = vislex.create_codec("box")
    filled = [box.decode(box.encode([mask]), mask.shape).mask for mask in right]
    learned = score_masks([own.mask for own in found], right)["mIoU"]
    assert learned > score_masks(filled, right)["mIoU"] + 0.1
    elsewhere = [found[i].mask for i in (1, 2, 3, 4, 0)]
    assert learned > score_masks(elsewhere, right)["mIoU"] + 0.3  # of each expression its own
