"""The recipes ``align`` and ``sft`` at smoke size: what is trained, adapters, packing, TailDrop, chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, Features, Image, List, Value
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.adapters.merging import merge_adapters, open_vlm
from vislex.adapters.vlm import VisionLanguageModel
from vislex.config import load_config
from vislex.errors import ConfigError, UnknownNameError
from vislex.modules.digest import weights_digest
from vislex.recipes.align import AlignConfig
from vislex.recipes.align import run as run_align
from vislex.recipes.sft import SftConfig, sketch
from vislex.recipes.sft import run as run_sft
from vislex.recipes.vlm_training import build_model
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.callbacks import read_log
from vislex.training.parts import PartSettings, prepare_parts

SMALL = [
    "budget=smoke", "tiny=true", "pretrained=false", "progress=false", "precision=fp32", "device=cpu", "log_every=1",
    "lr=1e-2", "steps=3", "eval_every=3",
]  # fmt: skip
ARCHITECTURES = ["llama3.2-1b", "qwen3-0.6b", "gemma2-2b", "gemma3-1b", "phi-2", "phi3-mini", "smollm3-3b"]


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory, beside: Any) -> Path:
    folder: Path = beside("tiny_lm").save(tmp_path_factory.mktemp("lm"))
    return folder


def align(folder: Path, lm: Path, *overrides: str) -> Path:
    return run_align(load_config(AlignConfig, None, [*SMALL, f"llm=hf:{lm}", f"output_dir={folder}", *overrides]))


def sft(folder: Path, model: Path, *overrides: str) -> Path:
    return run_sft(load_config(SftConfig, None, [*SMALL, f"model={model}", f"output_dir={folder}", *overrides]))


@pytest.fixture(scope="module")
def aligned(lm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return align(tmp_path_factory.mktemp("aligned") / "run", lm)


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_log(folder / "training.jsonl") if "loss" in entry]


def digests(folder: Path) -> dict[str, str]:
    model = VisionLanguageModel.from_pretrained(folder)
    return {name: weights_digest(getattr(model, name)) for name in ("encoder", "connector", "llm")}


def test_align_trains_the_connector_alone(aligned: Path, lm: Path) -> None:
    assert losses(aligned)[-1] < losses(aligned)[0]
    assert all(name.startswith("connector.") for name in load_file(aligned / "model.safetensors"))
    record = json.loads((aligned / "run.json").read_text())
    assert {row["part"]: row["trainable"] > 0 for row in record["parts"]} == {
        "encoder": False, "connector": True, "llm": False,
    }  # fmt: skip
    assert 0 <= record["figures"]["eval_vqa_exact"] <= 1
    assert record["suite"]["suite"] == "openmoji-v1"
    model = VisionLanguageModel.from_pretrained(aligned)
    assert weights_digest(model.llm) == weights_digest(vislex.create_llm(f"hf:{lm}", pretrained=True))
    rows = vislex.data.load_suite("openmoji", "vqa", split="val", size=2)
    assert len(model.ask(rows[:]["image"], rows[:]["question"], max_new_tokens=3)) == 2
    card = (aligned / "README.md").read_text()
    assert "vislex train align budget=smoke" in card
    assert "of openmoji (OpenMoji and Twemoji drawings; the weights are CC BY-SA 4.0)" in card


def test_sft_trains_what_it_is_told(aligned: Path, tmp_path: Path) -> None:
    before = digests(aligned)
    folder = sft(tmp_path / "run", aligned, "parts.llm.lr=1e-3")
    after = digests(folder)
    assert {name for name in before if before[name] != after[name]} == {"connector", "llm"}
    assert losses(folder)[-1] < losses(folder)[0]
    told, before_this, way = (folder / "README.md").read_text().partition(f"### Before this, `{aligned}`")
    assert "vislex train sft" in told
    assert before_this
    assert "vislex train align" in way
    assert "vislex train sft" not in way
    frozen = sft(tmp_path / "frozen", aligned, "parts.connector.mode=frozen", "parts.llm.mode=lora")
    assert {name for name in before if before[name] != digests(frozen)[name]} == {"llm"}
    whole = sft(
        tmp_path / "whole", aligned, "parts.encoder.mode=full", "parts.encoder.lr=1e-3", "parts.llm.mode=frozen"
    )
    assert {name for name in before if before[name] != digests(whole)[name]} == {"encoder", "connector"}


def test_cached_tokens_pixels_and_packed_rows_train_alike(aligned: Path, tmp_path: Path) -> None:
    cached, live, packed = (
        losses(sft(tmp_path / name, aligned, *own))
        for name, own in (("cached", []), ("live", ["cache_features=false"]), ("packed", ["pack_length=160"]))
    )
    assert cached == pytest.approx(live, abs=5e-3)  # the cache is bf16
    assert len(packed) == 3
    again = losses(sft(tmp_path / "again", aligned, "pack_length=160", "cache_features=false"))
    assert packed == pytest.approx(again, abs=5e-3)
    with pytest.raises(ConfigError, match="does not fit into pack_length=16"):
        sft(tmp_path / "short", aligned, "pack_length=16")


@pytest.mark.parametrize("variant", ["lora", "dora", "rslora", "pissa"])
def test_kept_adapters_open_with_plain_peft(aligned: Path, tmp_path: Path, variant: str) -> None:
    lora = ["parts.llm.mode=lora", f"parts.llm.lora_variant={variant}", "parts.llm.lora_rank=2", "adapters=keep"]
    folder = sft(tmp_path / "run", aligned, *lora)
    assert sorted(path.name for path in folder.glob("adapter*")) == ["adapter_config.json", "adapter_model.safetensors"]
    base = VisionLanguageModel.from_pretrained(aligned)
    rows = vislex.data.load_suite("openmoji", "vqa", split="val", size=2)
    inputs = base.processor(rows[:]["image"], [base.processor.prompt(q) for q in rows[:]["question"]])
    start = base(**inputs).logits
    opened = PeftModel.from_pretrained(base, str(folder)).eval()
    with torch.no_grad():
        adapted = opened(**inputs).logits
        merged = merge_adapters(folder)
        torch.testing.assert_close(merged(**inputs).logits, adapted, rtol=1e-5, atol=1e-5)
    assert (adapted - start).abs().max() > 1e-3
    assert not [name for name, module in merged.named_modules() if isinstance(module, BaseTunerLayer)]
    names = {name.split(".")[2] for name in load_file(folder / "adapter_model.safetensors")}
    assert names == {"connector", "llm"}
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert torch.equal(
            VisionLanguageModel.from_pretrained(tmp_path / "merged")(**inputs).logits, merged(**inputs).logits
        )


@pytest.mark.parametrize("part", ["encoder", "connector", "llm"])
@pytest.mark.parametrize("llm", ARCHITECTURES)
def test_adapters_never_leak_into_another_part(make_tiny: Any, llm: str, part: str) -> None:
    model = make_tiny(llm)
    frozen = PartSettings(mode="frozen")
    parts = dict.fromkeys(("encoder", "connector", "llm"), frozen) | {part: PartSettings(mode="lora", lora_rank=2)}
    linear = {
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith(part + ".") and module is not model.llm.lm_head
        if not isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.MultiheadAttention)
    }
    prepare_parts(model, parts, lr=1e-3, weight_decay=0.0)
    adapted = {name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
    assert adapted == linear
    assert (
        len(adapted)
        == {"encoder": 14, "connector": 2, "llm": 8 if llm == "phi3-mini" else 12 if llm == "phi-2" else 14}[part]
    )
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == {part}


@pytest.fixture
def make_tiny() -> Any:
    def make(llm: str) -> VisionLanguageModel:
        tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), ["a kite"])[0])
        return VisionLanguageModel.from_parts(
            encoder=vislex.create_encoder("siglip-tiny", tiny=True),
            llm=vislex.create_llm(llm, tiny=True, vocab_size=len(tokenizer)),
            tokenizer=tokenizer,
        )

    return make


def test_tail_drop_draws_a_budget_for_each_step(lm: Path, tmp_path: Path) -> None:
    pool = ["connector=attention_pool", "connector_options={n_tokens: 4, num_heads: 2, num_layers: 1}"]
    folder = align(tmp_path / "run", lm, *pool, "tail_drop=uniform_pow2")
    assert losses(folder) != losses(align(tmp_path / "plain", lm, *pool))
    model = VisionLanguageModel.from_pretrained(folder)
    assert len(model.ask(vislex.data.load_suite("openmoji", split="val", size=1)[0]["image"], "what?", n_tokens=1)) == 1
    with pytest.raises(ConfigError, match="tail_drop=pow2 needs a connector with a budget"):
        align(tmp_path / "wrong", lm, "tail_drop=pow2")


def test_variable_lengths_prefixes_and_chats_train(lm: Path, tmp_path: Path) -> None:
    from vislex.data import load_suite

    row = load_suite("openmoji", split="val", size=1)[0]
    (tmp_path / "hub").mkdir()
    for folder in (tmp_path, tmp_path / "hub"):
        row["image"].save(folder / "a.png")
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": row["captions"][0]}]
    (tmp_path / "chat.json").write_text(json.dumps([{"image": "a.png", "conversations": turns}] * 3))
    messages = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": row["captions"][0]}]
    hub = Dataset.from_dict(
        {"images": [[str(tmp_path / "hub" / "a.png")]] * 3, "messages": [messages] * 3},
        features=Features(
            {"images": List(Image()), "messages": List({"role": Value("string"), "content": Value("string")})}
        ),
    )
    hub.to_parquet(str(tmp_path / "hub" / "train.parquet"))
    runs = [
        losses(align(tmp_path / kind, lm, f"mixture=[{{task: chat, data: {place}}}]", "val_split=train", "val_size=2"))
        for kind, place in (("file", tmp_path / "chat.json"), ("data", tmp_path / "hub"))
    ]
    assert runs[0] == pytest.approx(runs[1], abs=1e-3)
    naflex = ["encoder=siglip2-b16-naflex", "connector=linear", "attention=prefix", "mixture=[{task: vqa}]"]
    cached, live = (
        losses(align(tmp_path / f"naflex{own}", lm, *naflex, f"cache_features={own}")) for own in ("true", "false")
    )
    assert cached == pytest.approx(live, abs=5e-3)


@pytest.mark.parametrize("codec", ["loc_seg", "text_rle", "seg_head"])
def test_captions_questions_and_masks_train_together(aligned: Path, tmp_path: Path, codec: str) -> None:
    mixture = "mixture=[{}, {task: vqa}, {task: segmentation}]"
    steps = 10 if codec == "seg_head" else 3  # batches with a mask have a higher loss than those without
    folder = sft(
        tmp_path / "run", aligned, mixture, f"codec={codec}", "val_size=2", f"steps={steps}", f"eval_every={steps}"
    )
    assert losses(folder)[-1] < losses(folder)[0]
    figures = json.loads((folder / "run.json").read_text())["figures"]
    assert 0 <= figures["eval_mIoU"] <= 1
    assert 0 <= figures["eval_invalid"] <= 1
    model = VisionLanguageModel.from_pretrained(folder)
    assert model.config.codec == codec
    assert len(model.processor.tokenizer) == model.get_input_embeddings().weight.shape[0]
    missing = set(vislex.segmentation.create_codec(codec).new_tokens) - set(model.processor.tokenizer.get_vocab())
    assert not missing
    row = vislex.data.load_suite("openmoji", "segmentation", split="val", size=1)[0]
    (found,) = model.segment(row["image"], row["expression"], max_new_tokens=4)
    assert (found.mask is None) == (found.invalid is not None)


def test_tokens_that_would_not_be_trained_are_refused(aligned: Path, tmp_path: Path) -> None:
    mixture = "mixture=[{task: segmentation}]"
    with pytest.raises(ConfigError, match="needs 1152 tokens that this language model does not have"):
        sft(tmp_path / "lora", aligned, mixture, "parts.llm.mode=lora")
    with pytest.raises(ConfigError, match="adapters=keep leaves the saved model as it is"):
        sft(tmp_path / "keep", aligned, mixture, "parts.encoder.mode=lora", "adapters=keep")
    with pytest.raises(ConfigError, match=r"codec=seg_head needs 1 tokens .* or take codec=text_rle"):
        sft(tmp_path / "head", aligned, mixture, "codec=seg_head", "parts.llm.mode=lora")


def test_activations_that_are_computed_again_change_nothing(aligned: Path, tmp_path: Path) -> None:
    masks = ["codec=seg_head", "codec_options={hidden_size: 16}", "mixture=[{task: segmentation}]", "val_size=2"]
    kept, again = (
        losses(sft(tmp_path / own, aligned, *masks, "cache_features=false", f"activation_checkpointing={own}"))
        for own in ("false", "true")
    )
    assert kept == pytest.approx(again, rel=1e-5)


def test_a_mask_head_is_trained_beside_the_parts(aligned: Path, tmp_path: Path) -> None:
    masks = ["codec=seg_head", "codec_options={hidden_size: 16}", "mixture=[{}, {task: segmentation}]", "val_size=2"]
    cached, live = (
        sft(tmp_path / f"cached {own}", aligned, *masks, "pack_length=160", f"cache_features={own}")
        for own in ("true", "false")
    )
    assert losses(cached) == pytest.approx(losses(live), abs=5e-3)
    rows = {row["part"]: row for row in json.loads((cached / "run.json").read_text())["parts"]}
    assert rows["mask_head"]["trainable"] == rows["mask_head"]["parameters"] > 0
    first = VisionLanguageModel.from_pretrained(cached)
    lora = ["parts.llm.mode=lora", "parts.llm.lora_rank=2"]
    kept = sft(tmp_path / "kept", cached, *masks[:1], *masks[2:], *lora, "adapters=keep")
    names = {name.split(".")[2] for name in load_file(kept / "adapter_model.safetensors")}
    assert names == {"connector", "llm", "mask_head"}
    merged = merge_adapters(kept)
    assert weights_digest(merged.mask_head) != weights_digest(first.mask_head)
    opened = PeftModel.from_pretrained(VisionLanguageModel.from_pretrained(cached), str(kept)).eval()
    held = opened.base_model.model.mask_head.modules_to_save["default"]
    assert weights_digest(held) == weights_digest(merged.mask_head)
    other = sft(tmp_path / "other", cached, "mixture=[{task: vqa}]")
    again = VisionLanguageModel.from_pretrained(other)
    assert weights_digest(again.mask_head) == weights_digest(first.mask_head)  # nothing was learned by it
    with pytest.raises(ConfigError, match="hidden_size 8 was asked for"):
        sft(tmp_path / "narrow", cached, *masks, "codec_options={hidden_size: 8}")


def test_a_model_learns_to_write_masks(aligned: Path, tmp_path: Path) -> None:
    options = ["steps=60", "eval_every=60", "val_size=4", "train_size=4", "val_split=train", "log_every=60"]
    folder = sft(tmp_path / "run", aligned, "mixture=[{task: segmentation}]", "codec=box", *options)
    figures = json.loads((folder / "run.json").read_text())["figures"]
    assert figures["eval_invalid"] < 1
    assert figures["eval_mIoU"] > 0


def test_what_cannot_be_trained_is_told(aligned: Path, lm: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="adapters=keep needs model=FOLDER"):
        run_sft(load_config(SftConfig, None, [*SMALL, f"llm=hf:{lm}", "adapters=keep"]))
    with pytest.raises(ConfigError, match=r"needs model=FOLDER, parts\.llm\.mode=lora and adapters=keep"):
        sft(tmp_path / "a", aligned, "quantize=nf4")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"QLoRA\) needs a CUDA GPU"):
            sft(tmp_path / "b", aligned, "quantize=nf4", "parts.llm.mode=lora", "adapters=keep")
    with pytest.raises(UnknownNameError, match="unknown codec 'nothing'"):
        align(tmp_path / "c", lm, "mixture=[{task: segmentation}]", "codec=nothing")


def test_a_training_goes_on_from_the_shipped_model(tmp_path: Path) -> None:
    mixture = "mixture=[{task: vqa, options: {vocabulary: core}}]"
    config = load_config(SftConfig, None, ["budget=smoke", "model=vlm", mixture, f"output_dir={tmp_path}"])
    model = build_model(config)
    assert weights_digest(model) == weights_digest(open_vlm("vlm"))
    (stage,) = sketch(config)
    assert stage.notes == []
    assert sum(p.numel() for p in stage.model.parameters()) == sum(p.numel() for p in model.parameters())
    lora = ["parts.llm.mode=lora", "parts.connector.mode=frozen", "adapters=keep", "steps=2", "precision=fp32"]
    small = ["train_size=2", "val_size=2", "batch_size=2", "eval_every=2", "cache_features=false", "model=vlm", mixture]
    kept = run_sft(load_config(SftConfig, None, ["budget=smoke", *small, *lora, f"output_dir={tmp_path / 'lora'}"]))
    merged = open_vlm(kept)
    assert merged.config.codec == "loc_seg"
    assert weights_digest(merged.llm) != weights_digest(model.llm)
