"""PaliGemma and LLaVA become a ``VisionLanguageModel`` and go back: the same logits, prompts and texts."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

from vislex.adapters.instructions import Turn
from vislex.adapters.llms import create_llm
from vislex.adapters.turns import encode_turns
from vislex.adapters.vlm import VisionLanguageModel
from vislex.adapters.vlm_exchange import export_to_host, import_from_host, to_host
from vislex.cli.main import main
from vislex.errors import CheckpointError, ConfigError
from vislex.text import load_tokenizer, prune_tokenizer

WORDS = "what is left of the red dog? how many kites are there? two a yes no describe blue user assistant : what\n"
HALF = (0.5, 0.5, 0.5)
LLAVA_TEMPLATE = (  # of the released LLaVA-1.5: contents are lists
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% if message['role'] != 'assistant' %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% else %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{% generation %}{{ content['text'] + ' ' }}{% endgeneration %}{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
VISION = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
VISION |= {"image_size": 12, "patch_size": 6}
TEXT = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
TEXT |= {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
Save = Callable[..., Path]


def picture(seed: int, height: int = 20, width: int = 30) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def host_tokenizer(*, adds_bos: bool) -> PreTrainedTokenizerFast:
    tokenizer = prune_tokenizer(load_tokenizer(), [WORDS])[0]
    tokenizer.add_special_tokens({"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"})
    bos = [("<bos>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A" if adds_bos else "$A", pair="<bos> $A $B" if adds_bos else "$A $B:1", special_tokens=bos
    )
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return tokenizer


def ids_of(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def loud(model: PreTrainedModel) -> PreTrainedModel:
    """Weights, norms and biases large enough that every part of the model decides the logits."""
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.05 if "embed" in name or parameter.ndim == 1 else 0.2))
    return model.eval()


@pytest.fixture(scope="module")
def paligemma(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves a tiny PaliGemma of one language model, as it comes from a hub."""

    @functools.cache
    def save(language_model: str = "gemma2", **text: Any) -> Path:
        processor = PaliGemmaProcessor(
            SiglipImageProcessor(size={"height": 12, "width": 12}, image_seq_length=4, image_mean=HALF, image_std=HALF),
            host_tokenizer(adds_bos=False),
        )
        size = len(processor.tokenizer) + 7
        windows = {"sliding_window": 4} if language_model == "gemma2" else {}
        config = PaliGemmaConfig(
            vision_config={"model_type": "siglip_vision_model", **VISION, "vision_use_head": False},
            text_config={"model_type": language_model, "vocab_size": size, **TEXT, **windows, **text},
            image_token_index=processor.image_token_id,
            vocab_size=size,
            projection_dim=24,
            hidden_size=24,
        )
        for name, value in ids_of(processor.tokenizer).items():
            setattr(config.text_config, name, value)
        folder = tmp_path_factory.mktemp("paligemma")
        loud(PaliGemmaForConditionalGeneration(config)).save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Save:
    """Saves a tiny LLaVA with a CLIP tower; ``template`` is that of its processor."""

    def save(template: str | None = LLAVA_TEMPLATE, vision: str = "clip_vision_model", **changes: Any) -> Path:
        tokenizer = host_tokenizer(adds_bos=True)
        tokenizer.add_tokens(["<image>"], special_tokens=True)
        strategy = changes.get("vision_feature_select_strategy", "default")
        processor = LlavaProcessor(
            CLIPImageProcessor(size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}),
            tokenizer,
            patch_size=6,
            vision_feature_select_strategy=strategy,
            chat_template=template,
            num_additional_image_tokens=1,
        )
        text = {"model_type": "llama", "vocab_size": len(tokenizer) + 7, **TEXT, **ids_of(tokenizer)}
        config = LlavaConfig(
            vision_config={"model_type": vision, **VISION, "projection_dim": 8},
            text_config={**text, **changes.pop("text", {})},
            image_token_index=processor.image_token_id,
            **changes,
        )
        folder = tmp_path_factory.mktemp("llava")
        loud(LlavaForConditionalGeneration(config)).save_pretrained(folder)
        processor.save_pretrained(folder)
        return folder

    return save


QUESTIONS = ["how many kites are there?", "what is left of the red dog? blue?"]
IMAGES = [picture(1), picture(2, 30, 20)]


def reopened(folder: Path, out: Path) -> VisionLanguageModel:
    import_from_host(folder).save_pretrained(out)
    return VisionLanguageModel.from_pretrained(out).eval()


@torch.no_grad()
def agree(host_folder: Path, model: VisionLanguageModel, texts: list[str], **options: Any) -> None:
    """The host, opened by transformers alone, and the model see the same tokens and say the same."""
    host = AutoModelForImageTextToText.from_pretrained(host_folder).eval()
    processor = AutoProcessor.from_pretrained(host_folder)
    given = processor(images=IMAGES, text=texts, return_tensors="pt", padding=True, padding_side="left", **options)
    prompts = [model.processor.prompt(question) for question in QUESTIONS]
    own = model.processor(IMAGES, prompts, add_special_tokens=False)
    for name in ("input_ids", "attention_mask", "pixel_values"):
        assert torch.equal(own[name], given[name]), name
    assert (own["attention_mask"] == 0).any()
    given.pop("labels", None)
    real = given["attention_mask"].bool()
    expected, found = host(**given).logits, model(**own).logits
    assert expected[real].std() > 0.1
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)
    changed = model(**{**own, "pixel_values": own["pixel_values"].flip(0)}).logits
    assert (changed[real] - expected[real]).abs().max() > 1e-2
    written = host.generate(**given, max_new_tokens=6)[:, own["input_ids"].shape[1] :]
    texts = processor.tokenizer.batch_decode(written, skip_special_tokens=True)
    answers = model.ask(IMAGES, QUESTIONS, max_new_tokens=6)
    assert [answer.text for answer in answers] == [text.strip() for text in texts]
    assert len({answer.text for answer in answers}) == 2
    assert (
        model.generation_config.eos_token_id == host.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    )


@pytest.mark.parametrize("language_model", ["gemma2", pytest.param("gemma", marks=pytest.mark.slow)])
def test_a_paligemma_comes_and_goes_back(paligemma: Save, tmp_path: Path, language_model: str) -> None:
    folder = paligemma(language_model)
    model = reopened(folder, tmp_path / "vlm")
    texts = [f"<image>{question}" for question in QUESTIONS]
    agree(folder, model, texts)
    out, family = export_to_host(tmp_path / "vlm", tmp_path / "back")
    assert family == "paligemma"
    agree(out, model, texts)
    theirs, ours = (AutoModelForImageTextToText.from_pretrained(place).state_dict() for place in (folder, out))
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(value, ours[name]) for name, value in theirs.items())


def test_a_paligemma_sees_its_prompt_in_both_directions_and_its_answer_causally(
    paligemma: Save, tmp_path: Path
) -> None:
    folder = paligemma("gemma2")
    model = import_from_host(folder)
    host, processor = AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    given = processor(images=[IMAGES[0]], text=["<image>how many"], suffix=["two kites"], return_tensors="pt")
    labels = given["labels"].clone()
    assert processor.tokenizer.decode(labels[labels != -100]) == "two kites <eos>"
    with torch.no_grad():
        expected = host(**given)
        found = model(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            pixel_values=given["pixel_values"],
            labels=labels,
        )
    torch.testing.assert_close(found.loss, expected.loss, rtol=0, atol=1e-5)
    turns = [Turn("user", "<image>\nhow many"), Turn("assistant", "two kites")]
    ids, learned = encode_turns(model.processor.tokenizer, turns, model.processor.chat_template)
    image = model.config.image_token_id
    assert [i for i in ids if i != image] == [i for i in given["input_ids"][0].tolist() if i != image]
    assert [i for i, is_answer in zip(ids, learned, strict=True) if is_answer] == labels[labels != -100].tolist()


@pytest.mark.parametrize(
    ("layer", "strategy", "template"),
    [(-2, "default", LLAVA_TEMPLATE), (1, "full", None), (-1, "full", LLAVA_TEMPLATE)],
)
def test_a_llava_comes_and_goes_back(
    llava: Save, tmp_path: Path, layer: int, strategy: str, template: str | None
) -> None:
    folder = llava(template, vision_feature_layer=layer, vision_feature_select_strategy=strategy)
    model = reopened(folder, tmp_path / "vlm")
    assert model.encoder.spec.n_tokens == (4 if strategy == "default" else 5)
    texts = [f"USER: <image>\n{question} ASSISTANT:" for question in QUESTIONS]
    agree(folder, model, texts)
    out, family = export_to_host(tmp_path / "vlm", tmp_path / "back")
    assert family == "llava"
    agree(out, model, texts)
    assert model.processor.prompt("blue?", system="describe") == "<bos>" + ("describe USER: <image>\nblue? ASSISTANT:")
    again = AutoProcessor.from_pretrained(out)
    if template is not None:
        assert again.chat_template == template
    turns = [Turn("user", "<image>\nblue?"), Turn("assistant", "yes")]
    ids, learned = encode_turns(model.processor.tokenizer, turns, model.processor.chat_template)
    decoded = model.processor.tokenizer.decode([i for i, is_answer in zip(ids, learned, strict=True) if is_answer])
    assert decoded.removesuffix("<eos>").strip() == "yes"
    assert model.config.image_token_id in ids


def test_a_projector_without_bias_and_a_final_norm_that_is_read(llava: Save, tmp_path: Path) -> None:
    folder = llava(
        vision="siglip_vision_model",
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        multimodal_projector_bias=False,
    )
    processor = AutoProcessor.from_pretrained(folder)
    processor.num_additional_image_tokens = 0
    processor.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    unnormed = import_from_host(folder)
    config["vision_config"]["tie_last_hidden_states"] = True
    (folder / "config.json").write_text(json.dumps(config))
    model = reopened(folder, tmp_path / "vlm")
    assert model.encoder.config.layer is None
    assert unnormed.encoder.config.layer == -1
    texts = [f"USER: <image>\n{question} ASSISTANT:" for question in QUESTIONS]
    agree(folder, model, texts)
    agree(export_to_host(tmp_path / "vlm", tmp_path / "back")[0], model, texts)


def test_hosts_without_counterpart_are_refused_with_the_reason(llava: Save, paligemma: Save, tmp_path: Path) -> None:
    for changes, reason in (
        ({"vision_feature_layer": [-2, -1]}, r"it joins the layers \[-2, -1\] of its tower"),
        ({"vision_feature_layer": 0}, "before the first layer"),
        ({"projector_hidden_act": "silu"}, "the activation 'silu', vislex's has gelu"),
        ({"vision": "siglip_vision_model"}, "leaves out the first token of its tower, which has 0"),
        ({"text": {"model_type": "granite", "logits_scaling": 2.0}}, "the logits of a text differ by"),
        ({"text": {"model_type": "phi"}}, "the first that differs is lm_head.bias"),
    ):
        with pytest.raises(CheckpointError, match=reason):
            import_from_host(llava(**changes))
    with pytest.raises(CheckpointError, match="is a 'paligemma', not llava; nothing was imported"):
        import_from_host(paligemma(), "llava")
    folder = shutil.copytree(paligemma(), tmp_path / "copy")
    processor = AutoProcessor.from_pretrained(folder)
    processor.image_processor.image_seq_length = 9
    processor.image_processor.save_pretrained(folder)
    processor.save_pretrained(folder)
    with pytest.raises(CheckpointError, match="writes 9 tokens an image, its tower gives 4"):
        import_from_host(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))
    with pytest.raises(CheckpointError, match="auto_map"):
        import_from_host(folder)


def test_models_without_counterpart_are_refused_with_the_reason(
    make_vlm: Callable[..., VisionLanguageModel], paligemma: Save
) -> None:
    for options, reasons in (
        ({}, ("PaliGemma: its connector is one linear map", "LLaVA: its connector is two linear maps")),
        ({"encoder": "convnext-t"}, ("is no tower of transformers", "vislex.swap_encoder")),
        ({"connector": "linear", "norm": False}, ("PaliGemma: its prompts see each other", "LLaVA: its connector")),
        ({"norm": False, "hidden_size": 9}, ("LLaVA: its connector has no width of its own, this one is 9 wide",)),
        ({"norm": False, "attention": "prefix"}, ("LLaVA: it is causal, this model's attention is 'prefix'",)),
        ({"norm": False, "llm": "phi-2"}, ("LLaVA: the head of its language model has no bias",)),
        (
            {"connector": "linear", "norm": False, "attention": "prefix"},
            ("PaliGemma: its language model is gemma or gemma2, not 'llama'",),
        ),
        (
            {"connector": "linear", "norm": False, "attention": "prefix", "llm": "gemma2-2b"},
            ("PaliGemma: it writes prompts as '<image>",),
        ),
        ({"norm": False, "llm": "gemma2-2b"}, ("LLaVA does not compute what this model does: the logits of a text",)),
        ({"encoder": "siglip2-b16-naflex", "norm": False}, ("takes more than pixels",)),
    ):
        with pytest.raises(ConfigError) as raised:
            to_host(make_vlm(**options))
        assert all(reason in str(raised.value) for reason in reasons), str(raised.value)
    with pytest.raises(ConfigError, match="unknown host 'lava'; allowed are paligemma, llava"):
        to_host(make_vlm(), "lava")


@pytest.mark.parametrize("llm", ["llama3.2-1b", "qwen3-0.6b", "smollm2-135m"])
def test_a_model_made_here_becomes_a_llava(
    make_vlm: Callable[..., VisionLanguageModel], tmp_path: Path, llm: str
) -> None:
    model = make_vlm(llm, norm=False)
    loud(model)
    model.save_pretrained(tmp_path / "vlm")
    out, _ = export_to_host(tmp_path / "vlm", tmp_path / "host")
    host, processor = AutoModelForImageTextToText.from_pretrained(out).eval(), AutoProcessor.from_pretrained(out)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTIONS[0]}]}]
    text = processor.apply_chat_template(turn, add_generation_prompt=True)
    given = processor(images=IMAGES[:1], text=[text], return_tensors="pt", add_special_tokens=False)
    own = model.processor(IMAGES[:1], [model.processor.prompt(QUESTIONS[0])], add_special_tokens=False)
    assert torch.equal(given["input_ids"], own["input_ids"])
    with torch.no_grad():
        torch.testing.assert_close(host(**given).logits, model(**own).logits, rtol=0, atol=1e-5)
    assert host.generation_config.suppress_tokens == [model.config.image_token_id]


@pytest.mark.parametrize("family", ["llava", pytest.param("paligemma", marks=pytest.mark.slow)])
def test_the_command_line_imports_and_exports(
    request: pytest.FixtureRequest, family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = request.getfixturevalue(family)(), tmp_path / family
    assert main(["import", family, str(folder), "--out", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [part["part"] for part in report["parts"]] == ["encoder", "connector", "llm"]
    assert report["next"] == f"vislex ask IMAGE QUESTION --model {out}"
    assert main(["export", str(out), "--to", "host", "--json"]) == 0
    said = {"from": str(out), "to": "host", "family": family, "out": f"{out}-host"}
    assert json.loads(capsys.readouterr().out) == said
    assert json.loads(Path(f"{out}-host", "config.json").read_text())["model_type"] == family
    assert main(["import", family, str(folder), "--out", str(out)]) == 2
    assert "is there already; give a new folder" in capsys.readouterr().err
    assert main(["import", family, str(out), "--out", str(tmp_path / "x")]) == 2
    assert f"is a 'vislex_vlm', not {family}" in capsys.readouterr().err
    assert main(["import", family, str(folder), "--out", str(tmp_path / "x"), "--dtype", "int8"]) == 2
    assert "--dtype 'int8' is none of float32, bfloat16" in capsys.readouterr().err
    assert main(["import", family, str(folder), "--out", str(tmp_path / "half"), "--dtype", "bfloat16", "--json"]) == 0
    half = VisionLanguageModel.from_pretrained(tmp_path / "half", dtype="auto")
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}


def test_the_language_model_comes_out_alone_and_goes_into_another(paligemma: Save, tmp_path: Path) -> None:
    model = reopened(paligemma("gemma2"), tmp_path / "vlm")
    assert main(["export", str(tmp_path / "vlm"), "--to", "llm", "--out", str(tmp_path / "llm")]) == 0
    alone = AutoModelForCausalLM.from_pretrained(tmp_path / "llm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "llm")
    ids = tokenizer("how many kites", return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(alone(**ids).logits, model.llm(**ids).logits)
    again = create_llm(f"hf:{tmp_path / 'llm'}", pretrained=True)
    assert all(torch.equal(value, model.llm.state_dict()[name]) for name, value in again.state_dict().items())
    assert "AutoModelForCausalLM" in (tmp_path / "llm" / "README.md").read_text()
