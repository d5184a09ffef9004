"""The whole model: images in their places, masks, caches, batches, budgets, videos, saving, Auto classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

import vislex
from vislex.adapters.chat import IMAGE_TOKEN
from vislex.adapters.vlm import VisionLanguageModel
from vislex.errors import CheckpointError, ConfigError, ImageError, MissingDependencyError, SpecError
from vislex.specs import VisionTokens

Make = Callable[..., VisionLanguageModel]
ARCHITECTURES = [
    "llama3.2-1b", "qwen2.5-0.5b", "qwen3-0.6b", "gemma2-2b", "gemma3-1b", "smollm2-135m", "smollm3-3b", "phi-2",
    "phi3-mini",
]  # fmt: skip
QUESTIONS = ["how many kites are there?", "what is left of the red dog?", "blue?"]


def picture(seed: int, height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def prepared(model: VisionLanguageModel, counts: list[int], **options: Any) -> dict[str, Any]:
    """Inputs of prompts with so many images each."""
    texts = [model.processor.prompt(QUESTIONS[i], n) for i, n in enumerate(counts)]
    images = [[picture(10 * i + j) for j in range(n)] for i, n in enumerate(counts)]
    return dict(model.processor(images, texts, add_special_tokens=False, **options))


@pytest.fixture(scope="module")
def vlm(make_vlm: Make) -> VisionLanguageModel:
    return make_vlm()


@pytest.mark.parametrize("attention", ["causal", "prefix"])
@pytest.mark.parametrize("llm", ARCHITECTURES)
def test_a_padded_batch_equals_its_singles_and_the_cache_changes_nothing(
    make_vlm: Make, llm: str, attention: str
) -> None:
    model = make_vlm(llm, attention=attention)
    inputs = prepared(model, [1, 2, 0])
    assert inputs["attention_mask"][0, 0] == 0  # padded on the left
    together = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5)[:, inputs["input_ids"].shape[1] :]
    for i, n in enumerate([1, 2, 0]):
        alone = prepared(model, [1, 2, 0][: i + 1])
        first = sum([1, 2, 0][:i])
        real = inputs["attention_mask"][i].bool()
        ids = inputs["input_ids"][i : i + 1, real]
        pixels = {} if n == 0 else {"pixel_values": alone["pixel_values"][first : first + n]}
        written = ids
        for _ in range(5):  # no cache: everything anew at each token
            labels = None
            if attention == "prefix":  # what was written is an answer, which stays causal
                labels = written.clone()
                labels[:, : ids.shape[1]] = -100
                labels = labels if written.shape[1] > ids.shape[1] else None
            mask = torch.ones_like(written)
            embeds = model.embed(written, model.see(**pixels))
            logits = uncached(model, embeds, mask, labels)
            logits[:, model.generation_config.eos_token_id] = -torch.inf
            logits[:, model.config.image_token_id] = -torch.inf
            written = torch.cat([written, logits.argmax(-1, keepdim=True)], 1)
        assert written[0, ids.shape[1] :].tolist() == together[i].tolist()


@torch.no_grad()
def uncached(
    model: VisionLanguageModel, embeds: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor | None
) -> torch.Tensor:
    """Logits float[1, V] behind the last token; ``labels`` say where an answer begins."""
    from vislex.adapters.vlm_masks import positions_of, prefix_mask

    positions = positions_of(mask)
    seen: Any = mask
    if model.config.attention == "prefix":
        seen = prefix_mask(model.llm.config, embeds, mask, positions, None, labels)
    return model.llm(inputs_embeds=embeds, attention_mask=seen, position_ids=positions, use_cache=False).logits[:, -1]


def test_images_stand_in_their_places_and_matter(vlm: VisionLanguageModel) -> None:
    inputs = prepared(vlm, [1, 2])
    vision = vlm.see(inputs["pixel_values"])
    assert vision is not None
    embeds = vlm.embed(inputs["input_ids"], vision)
    is_image = inputs["input_ids"] == vlm.config.image_token_id
    assert torch.equal(embeds[is_image], vision.tokens.flatten(0, 1))
    words = vlm.get_input_embeddings()(inputs["input_ids"])
    assert torch.equal(embeds[~is_image], words[~is_image])
    swapped = {**inputs, "pixel_values": inputs["pixel_values"].flip(0)}
    assert (vlm(**inputs).logits - vlm(**swapped).logits).abs().max() > 1e-2


def test_tokens_and_features_cannot_disagree(vlm: VisionLanguageModel) -> None:
    inputs = prepared(vlm, [1, 2])
    with pytest.raises(SpecError, match=r"room for \[4, 8\] image tokens, the images give \[4, 4\]"):
        vlm(**{**inputs, "pixel_values": inputs["pixel_values"][:2]})
    with pytest.raises(SpecError, match=r"the images give \[0\]"):
        vlm(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    moved = inputs["input_ids"].clone()  # the sums agree, the prompts do not
    moved[0, (moved[0] == vlm.config.image_token_id).nonzero()[0]] = 5
    moved[1, (moved[1] != vlm.config.image_token_id).nonzero()[-1]] = vlm.config.image_token_id
    with pytest.raises(SpecError, match=r"room for \[3, 9\]"):
        vlm(**{**inputs, "input_ids": moved})
    with pytest.raises(SpecError, match=r"1 <image> and 0 <video>, but there are 0 images"):
        vlm.processor(text=f"{IMAGE_TOKEN} what?")
    with pytest.raises(SpecError, match="input_ids or inputs_embeds"):
        vlm()


def test_cached_features_train_as_pixels_do_and_frozen_towers_have_no_graph(make_vlm: Make) -> None:
    model = make_vlm()
    model.encoder.requires_grad_(False)
    inputs = prepared(model, [1, 2])
    inputs["labels"] = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)
    loss = model(**inputs).loss
    seen = model.encoder(inputs["pixel_values"])
    for vision in (seen, seen.tokens):
        cached = {name: value for name, value in inputs.items() if name != "pixel_values"}
        assert torch.equal(model(vision_tokens=vision, **cached).loss, loss)
    graph: list[bool] = []
    hook = model.encoder.register_forward_hook(lambda module, args, output: graph.append(output.tokens.requires_grad))
    loss = model(**inputs).loss
    loss.backward()
    model.encoder.requires_grad_(True)
    model(**inputs)
    hook.remove()
    assert graph == [False, True]
    assert all(p.grad is not None for p in model.connector.parameters())
    assert all(p.grad is None for p in model.encoder.parameters())


def test_the_loss_is_that_of_the_language_model(vlm: VisionLanguageModel) -> None:
    inputs = prepared(vlm, [1, 2, 0])
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[:, :-4] = -100
    full = vlm(**inputs)
    assert full.loss is None
    expected = vlm.llm.loss_function(full.logits, labels, vocab_size=full.logits.shape[-1])
    output = vlm(**inputs, labels=labels)
    torch.testing.assert_close(output.loss, expected)
    assert output.logits.shape[1] == 4 < full.logits.shape[1]
    count = int((labels[:, 1:] != -100).sum())
    summed = vlm(**inputs, labels=labels, num_items_in_batch=2 * count).loss
    torch.testing.assert_close(summed, expected / 2)


@pytest.mark.parametrize("attention", ["causal", "prefix"])
@pytest.mark.parametrize("llm", ["llama3.2-1b", "gemma3-1b", "phi-2"])
def test_packed_logits_equal_separate_ones(make_vlm: Make, llm: str, attention: str) -> None:
    model = make_vlm(llm, attention=attention)
    alone = [prepared(model, [1]), prepared(model, [2])]
    for inputs in alone:
        inputs["labels"] = inputs["input_ids"].clone()
        inputs["labels"][:, :-3] = -100
    packed = {name: torch.cat([inputs[name] for inputs in alone], 1) for name in ("input_ids", "labels")}  # one row
    lengths = [inputs["input_ids"].shape[1] for inputs in alone]
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    pixels = torch.cat([inputs["pixel_values"] for inputs in alone])
    hidden = model(**packed, pixel_values=pixels, position_ids=positions, output_hidden_states=True).hidden_states[-1]
    head = model.get_output_embeddings()
    for part, inputs in zip(head(hidden).split(lengths, dim=1), alone, strict=True):
        separate = head(model(**inputs, output_hidden_states=True).hidden_states[-1])
        torch.testing.assert_close(part, separate, rtol=1e-4, atol=1e-4)


def test_prefixes_look_in_both_directions_and_answers_do_not(make_vlm: Make) -> None:
    for attention, sees_ahead in (("causal", False), ("prefix", True)):
        model = make_vlm(attention=attention)
        inputs = prepared(model, [1])
        labels = inputs["input_ids"].clone()
        labels[:, :-3] = -100

        def states(ids: torch.Tensor, model: Any = model, inputs: Any = inputs, labels: Any = labels) -> torch.Tensor:
            changed = {**inputs, "input_ids": ids, "labels": labels}
            return model(**changed, output_hidden_states=True).hidden_states[-1]

        plain = states(inputs["input_ids"])
        question, answer = inputs["input_ids"].clone(), inputs["input_ids"].clone()
        question[0, -5], answer[0, -1] = 3, 3
        assert ((states(question) - plain)[0, 0].abs().max() > 1e-5) == sees_ahead
        assert torch.equal(states(answer)[0, :-1], plain[0, :-1])
    with pytest.raises(ConfigError, match="allowed are causal and prefix"):
        make_vlm(attention="full")


def test_beams_keep_several_images_apart(vlm: VisionLanguageModel) -> None:
    inputs = prepared(vlm, [2, 1])
    together = vlm.generate(**inputs, max_new_tokens=4, min_new_tokens=4, num_beams=3)
    second = dict(vlm.processor([[picture(10)]], [vlm.processor.prompt(QUESTIONS[1], 1)], add_special_tokens=False))
    alone = vlm.generate(**second, max_new_tokens=4, min_new_tokens=4, num_beams=3)
    assert together[1, -4:].tolist() == alone[0, -4:].tolist()


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"do_sample": True}])
def test_no_answer_holds_an_image_token(vlm: VisionLanguageModel, options: dict[str, Any]) -> None:
    inputs, image, word = prepared(vlm, [1, 1]), vlm.config.image_token_id, 9
    loved = {"sequence_bias": [[[image], 2e4], [[word], 1e4]], "max_new_tokens": 3, "min_new_tokens": 3, **options}
    asked = inputs["input_ids"].shape[1]
    assert (vlm.generate(**inputs, **loved)[:, asked:] == word).all()
    seen: list[float] = []

    def watch(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(float(scores[:, image].max()))
        return scores

    vlm.generate(**inputs, max_new_tokens=2, min_new_tokens=2, logits_processor=[watch])
    assert seen == [-float("inf")] * 2


def test_any_budget_at_run_time(make_vlm: Make) -> None:
    model = make_vlm(connector="attention_pool", n_tokens=6, num_heads=2)
    lengths = []
    for budget in (None, 1, 4):
        options = {} if budget is None else {"n_tokens": budget}
        inputs = prepared(model, [1, 1], **options)
        assert (inputs["input_ids"][0] == model.config.image_token_id).sum() == (budget or 6)
        lengths.append(model.generate(**inputs, max_new_tokens=2, min_new_tokens=2).shape[1])
        model.ask(picture(0), "blue?", n_tokens=budget, max_new_tokens=2)
    assert lengths[0] - lengths[1] == 5
    inputs = prepared(model, [1], n_tokens=2)
    with pytest.raises(SpecError, match="with the n_tokens that the model is given"):
        model(**{**inputs, "n_tokens": 3})


@pytest.mark.parametrize("encoder", ["siglip2-b16-naflex", "efficientnet-lite0", "dinov2-b14"])
def test_another_encoder_is_one_word(make_vlm: Make, encoder: str) -> None:
    model = make_vlm(encoder=encoder, connector="linear")
    texts = [model.processor.prompt("blue?", 1)] * 2
    images = [picture(0, 40, 20), picture(1, 16, 48)]
    inputs = model.processor(images, texts, add_special_tokens=False)
    output = model(**inputs).logits
    for i in range(2):
        alone = model.processor([images[i]], texts[:1], add_special_tokens=False)
        torch.testing.assert_close(model(**alone).logits[0, -1], output[i, -1], rtol=1e-3, atol=1e-4)


def test_a_video_is_its_frames(vlm: VisionLanguageModel, tmp_path: Path) -> None:
    frames = np.random.default_rng(0).integers(0, 255, (20, 16, 24, 3), dtype=np.uint8)
    vlm.processor.num_frames = 4
    text = vlm.processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "video"}, {"type": "text", "text": "how many?"}]}],
        add_generation_prompt=True,
    )
    expected = [Image.fromarray(frames[i]) for i in (2, 7, 12, 17)]
    for video in (frames, list(frames), [Image.fromarray(frame) for frame in frames]):
        inputs = vlm.processor([picture(0)], [text], videos=[video])
        by_hand = vlm.processor(
            [picture(0), *expected], [text.replace("<video>", IMAGE_TOKEN * 4)], add_special_tokens=False
        )
        assert torch.equal(inputs["pixel_values"], by_hand["pixel_values"])
        assert torch.equal(inputs["input_ids"], by_hand["input_ids"])
    short = vlm.processor(text=["<video>"], videos=[frames[:3]])
    assert len(short["pixel_values"]) == 3
    with pytest.raises(ImageError, match="without frames"):
        vlm.processor(text=["<video>"], videos=[[]])
    vlm.processor.num_frames = 8


def test_a_video_file_is_decoded(tmp_path: Path) -> None:
    from vislex.adapters.video import sample_frames

    try:
        import av
    except ImportError:
        with pytest.raises(MissingDependencyError, match=r"pip install 'vislex\[video\]'"):
            sample_frames(tmp_path / "a.mp4", 2)
        return
    with av.open(str(tmp_path / "a.mp4"), mode="w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for shade in (0, 80, 160, 240):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), shade, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    shades = [np.asarray(frame).mean() for frame in sample_frames(tmp_path / "a.mp4", 2)]
    assert shades == pytest.approx([80, 240], abs=12)
    with pytest.raises(ImageError, match="no such video"):
        sample_frames(tmp_path / "b.mp4", 2)


def test_questions_to_images(vlm: VisionLanguageModel, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "a.png")
    vlm.train()
    one = vlm.ask(tmp_path / "a.png", QUESTIONS[:2], max_new_tokens=4, min_new_tokens=4)
    assert vlm.training
    vlm.eval()
    each = vlm.ask([picture(0), picture(0)], QUESTIONS[:2], max_new_tokens=4, min_new_tokens=4, batch_size=1)
    assert [answer.text for answer in one] == [answer.text for answer in each]
    assert [answer.new_tokens for answer in one] == [4, 4]
    several = vlm.ask([[picture(0), picture(1)], None], "blue?", max_new_tokens=4, system="two")
    assert len(several) == 2
    assert IMAGE_TOKEN not in "".join(answer.text for answer in [*one, *several])
    with pytest.raises(ConfigError, match="2 images and 3 questions"):
        vlm.ask([picture(0), picture(1)], QUESTIONS)
    with pytest.raises(ImageError, match="no such"):
        vlm.ask(tmp_path / "b.png", "blue?")


def assert_equal_models(first: VisionLanguageModel, second: VisionLanguageModel) -> None:
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    inputs, again = prepared(first, [1, 2]), prepared(second, [1, 2])
    assert torch.equal(inputs["input_ids"], again["input_ids"])
    assert torch.equal(first(**inputs).logits, second(**again).logits)
    assert torch.equal(first.generate(**inputs, max_new_tokens=3), second.generate(**again, max_new_tokens=3))


@pytest.mark.parametrize("llm", ["llama3.2-1b", "gemma3-1b", "phi-2"])
def test_saving_and_loading_is_exact(make_vlm: Make, llm: str, tmp_path: Path) -> None:
    model = make_vlm(llm, connector="attention_pool", n_tokens=3, num_heads=2)
    model.save_pretrained(tmp_path)
    loaded = VisionLanguageModel.from_pretrained(tmp_path)
    assert_equal_models(model, loaded)
    assert_equal_models(model, AutoModelForImageTextToText.from_pretrained(tmp_path))
    tied = model.llm.config.tie_word_embeddings
    assert ("llm.lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (not tied)
    loaded.save_pretrained(tmp_path / "again")
    assert_equal_models(model, VisionLanguageModel.from_pretrained(tmp_path / "again"))
    assert "attention_pool" in (tmp_path / "README.md").read_text()
    half = VisionLanguageModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.ask(picture(0), "blue?", max_new_tokens=2)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_the_pipeline_answers_as_ask_does(vlm: VisionLanguageModel, tmp_path: Path) -> None:
    vlm.save_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path)).__name__ == "VisionLanguageProcessor"
    pipe = pipeline("image-text-to-text", model=str(tmp_path), device="cpu")
    turns = [{"role": "user", "content": [{"type": "image", "image": picture(0)}, {"type": "text", "text": "blue?"}]}]
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    answer = pipe(text=turns, return_full_text=False, generate_kwargs=options)[0]["generated_text"]
    assert answer.strip() == vlm.ask(picture(0), "blue?", **options)[0].text
    batch = pipe(images=[picture(0), picture(1)], text=[f"{IMAGE_TOKEN} blue?"] * 2, max_new_tokens=2)
    assert len(batch) == 2


def test_frozen_parts_are_saved_by_reference_and_verified(make_vlm: Make, chat: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vislex.create_llm("qwen3-0.6b", tiny=True).save_pretrained(tmp_path / "llm")
    chat.save_pretrained(tmp_path / "llm")
    model = VisionLanguageModel.from_parts(
        encoder=vislex.create_encoder("siglip-tiny", tiny=True, seed=0), llm=f"hf:{tmp_path / 'llm'}"
    )
    model.encoder.requires_grad_(False)
    model.llm.requires_grad_(False)
    model.save_pretrained(tmp_path / "vlm")
    assert all(name.startswith("connector.") for name in load_file(tmp_path / "vlm" / "model.safetensors"))
    with CaptureLogger(logging.get_logger("transformers.modeling_utils")) as heard:
        loaded = VisionLanguageModel.from_pretrained(tmp_path / "vlm")
    assert "corrupted" not in heard.out  # for want of the tied weights that the source gives
    assert_equal_models(model, loaded)
    assert loaded.llm.lm_head.weight is loaded.llm.model.embed_tokens.weight
    assert not any(p.requires_grad for p in loaded.llm.parameters())
    parts = json.loads((tmp_path / "vlm" / "config.json").read_text())["parts"]
    assert [parts[name]["by"] for name in ("encoder", "connector", "llm")] == ["reference", "value", "reference"]
    assert [parts[name]["trainable"] for name in ("encoder", "connector", "llm")] == [False, True, False]
    loaded.save_pretrained(tmp_path / "again")
    assert_equal_models(model, VisionLanguageModel.from_pretrained(tmp_path / "again"))
    loaded.save_pretrained(tmp_path / "alone", standalone=True)
    assert "llm.model.norm.weight" in load_file(tmp_path / "alone" / "model.safetensors")
    with torch.no_grad():
        loaded.llm.model.norm.weight.add_(1.0)  # trained, then frozen again
    loaded.save_pretrained(tmp_path / "trained")
    assert loaded.config.parts["llm"]["by"] == "value"
    assert_equal_models(loaded, VisionLanguageModel.from_pretrained(tmp_path / "trained"))
    other = vislex.create_llm("qwen3-0.6b", tiny=True)
    other.save_pretrained(tmp_path / "llm")
    with pytest.raises(CheckpointError, match=r"weights of the language model .* have changed"):
        VisionLanguageModel.from_pretrained(tmp_path / "vlm")


def test_memory_that_a_reference_is_yet_to_fill_is_no_damage(
    chat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vislex.encoders.vilex import ViLexEncoder

    backbone = vislex.create_encoder("siglip-tiny", tiny=True)
    ViLexEncoder.from_backbone(backbone, n_tokens=3).save_pretrained(tmp_path / "vilex")
    encoder = vislex.create_encoder(f"vilex:{tmp_path / 'vilex'}", pretrained=True, n_tokens=2).requires_grad_(False)
    llm = vislex.create_llm("qwen3-0.6b", tiny=True)
    model = VisionLanguageModel.from_parts(encoder=encoder, llm=llm, tokenizer=chat)
    model.save_pretrained(tmp_path / "vlm")
    assert model.config.parts["encoder"]["by"] == "reference"
    empty_like = torch.empty_like

    def damaged(*given: Any, **options: Any) -> torch.Tensor:
        made = empty_like(*given, **options)
        return made.fill_(torch.nan) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty_like", damaged)
    loaded = VisionLanguageModel.from_pretrained(tmp_path / "vlm")
    assert_equal_models(model, loaded)
    assert loaded.encoder.spec.n_tokens == 2


def test_info_tells_which_weights_are_live(
    vlm: VisionLanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vislex.cli.main import main
    from vislex.modules.digest import weights_digest

    vlm.save_pretrained(tmp_path)
    assert main(["info", str(tmp_path), "--json"]) == 0
    rows = {row["part"]: row for row in json.loads(capsys.readouterr().out)["parts"]}
    assert set(rows) == {"encoder", "connector", "llm"}
    for name, row in rows.items():
        assert row["sha256"] == weights_digest(getattr(vlm, name))
        assert (row["saved"], row["trainable"]) == ("by value", True)
    assert rows["llm"]["class"] == "llama"
    assert rows["encoder"]["source"] == "untrained, seed 0"


def test_parts_that_do_not_fit_are_refused(make_vlm: Make, vlm: VisionLanguageModel, chat: Any) -> None:
    encoder = vislex.create_encoder("siglip-tiny", tiny=True)
    narrow = vislex.create_connector("mlp", encoder.spec, 8)
    with pytest.raises(SpecError, match="language model of width 8 instead of 32"):
        VisionLanguageModel.from_parts(encoder=encoder, connector=narrow, llm=vlm.llm, tokenizer=chat)
    with pytest.raises(ConfigError, match="pass its tokenizer"):
        VisionLanguageModel.from_parts(encoder=encoder, llm=vlm.llm)
    fitting = vislex.create_connector("mlp", encoder.spec, 32)
    with pytest.raises(ConfigError, match="options hidden_size are for a connector given by name"):
        VisionLanguageModel.from_parts(encoder=encoder, connector=fitting, llm=vlm.llm, tokenizer=chat, hidden_size=3)
    with pytest.raises(CheckpointError, match="no vision-language model can be read"):
        VisionLanguageModel.from_pretrained("/nowhere/at/all")


def test_a_mask_of_bare_tokens_is_respected(make_vlm: Make) -> None:
    model = make_vlm(connector="attention_pool", n_tokens=2, num_heads=2)
    inputs = prepared(model, [1])
    seen = model.encoder(inputs.pop("pixel_values")).tokens
    mask = torch.ones(seen.shape[:2], dtype=torch.bool)
    mask[:, 1:] = False
    bare = model(vision_tokens=seen, vision_mask=mask, **inputs).logits
    assert torch.equal(bare, model(vision_tokens=VisionTokens(seen, mask), **inputs).logits)
    assert not torch.equal(bare, model(vision_tokens=seen, **inputs).logits)
