"""Captioning, latency and retrieval on real classes with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoImageProcessor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    GitConfig,
    GitForCausalLM,
    GitProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from vislex.benchmarks import captioning, latency, retrieval
from vislex.benchmarks.caption_data import CaptionData, constant_caption, nearest_captions
from vislex.benchmarks.caption_models import parameter_counts
from vislex.benchmarks.caption_opening import open_caption_model
from vislex.decoders.trace import HIDDEN
from vislex.errors import CheckpointError
from vislex.text import load_tokenizer

TEXT = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
VISION = {**TEXT, "image_size": 32, "patch_size": 16}


def test_a_captioner_is_scored_image_by_image_with_its_cost(captioner_folder: Path, data: CaptionData) -> None:
    model = open_caption_model(captioner_folder)
    settings = captioning.Generation(max_new_tokens=5)
    run = captioning.evaluate(model, data, generation=settings, batch_size=5, n_latency=3)
    assert run.n == len(run.captions) == len(run.per_image["CIDEr-D"]) == len(data)
    assert run.scores["CIDEr-D"] == pytest.approx(np.mean(run.per_image["CIDEr-D"]), abs=1e-5)
    assert {"BLEU-4", "ROUGE-L"} <= set(run.scores)
    assert run.timing.latency_low_ms <= run.timing.latency_ms <= run.timing.latency_high_ms
    assert run.timing.n_latency == 3
    assert 1 <= run.timing.evaluations <= 5
    assert run.timing.throughput > 0
    assert run.generation["max_new_tokens"] == 5
    assert run.provenance["dtype"] == "float32"
    assert run.model.row == "siglip-tiny + prefix"
    again = captioning.evaluate(model, data, generation=settings, batch_size=12, n_latency=0)
    assert again.captions == run.captions


def test_what_is_drawn_follows_from_the_place_in_the_run(
    captioner_folder: Path, data: CaptionData, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, cut = open_caption_model(captioner_folder), data.chunks
    settings = captioning.Generation(max_new_tokens=5, options={"do_sample": True})
    whole = captioning.evaluate(model, data, generation=settings, n_latency=0)
    monkeypatch.setattr(data, "chunks", lambda: cut(4))
    assert captioning.evaluate(model, data, generation=settings, n_latency=0).captions == whole.captions
    assert len(set(whole.captions)) > 1


def test_the_steps_of_a_few_captions_are_kept_where_words_are_written_in_any_order(
    captioner_folder: Path, ladic_folder: Path, data: CaptionData
) -> None:
    settings = captioning.Generation(options={"num_inference_steps": 3})
    run = captioning.evaluate(open_caption_model(ladic_folder), data, generation=settings, n_latency=0, n_traces=2)
    assert list(run.traces) == data.record.ids[:2]
    for steps, caption in zip(run.traces.values(), run.captions, strict=False):
        assert len(steps) == 3
        assert steps[-1].time == 0
        written = [word for word in steps[-1].words if word != HIDDEN]  # random weights may write a [MASK]
        assert written[:1] == caption.split()[:1]
        assert len(steps[0].words) == len(steps[0].pieces) == len(steps[0].changed)
    assert type(run).model_validate_json(run.model_dump_json()) == run
    assert not captioning.evaluate(open_caption_model(captioner_folder), data, n_latency=0).traces


def test_keys_differ_by_all_that_changes_numbers(data: CaptionData) -> None:
    plain = captioning.run_key("w", data, captioning.Generation(), 8, "float32")
    assert plain == captioning.run_key("w", data, captioning.Generation(), 8, "float32")
    assert plain != captioning.run_key("w", data, captioning.Generation(num_beams=2), 8, "float32")
    assert plain != captioning.run_key("v", data, captioning.Generation(), 8, "float32")


def test_a_true_reference_lies_above_copying_and_copying_above_saying_one_thing(data: CaptionData) -> None:
    runs = {run.model.row: run for run in captioning.bound_runs(data)}
    assert set(runs) == {*captioning.FLOORS, captioning.CEILING}
    ceiling = runs[captioning.CEILING].scores["CIDEr-D"]
    assert all(ceiling > runs[floor].scores["CIDEr-D"] for floor in captioning.FLOORS)
    assert len(set(runs[captioning.FLOORS[0]].captions)) == 1
    assert [runs[floor].scores["novelty"] for floor in captioning.FLOORS] == [0, 0]  # both copy
    assert runs[captioning.CEILING].scores["novelty"] > 0
    assert not captioning.bound_runs(data, done={run.key for run in runs.values()})
    assert all(run.n == len(data) for run in runs.values())


def test_constant_caption_is_the_most_central_one() -> None:
    assert constant_caption(["a red cat", "a red dog", "a red cat here", "blue sky"]) in ("a red cat", "a red dog")


def test_nearest_caption_of_a_training_image_is_its_own(data: CaptionData) -> None:
    rows = [data.train[index] for index in range(6)]
    same = CaptionData(data.record.model_copy(update={"ids": [row["id"] for row in rows]}), rows, train=data.train)
    assert nearest_captions(same) == [row["captions"][0] for row in rows]


def test_parameters_of_a_budget_leave_out_tied_token_embeddings() -> None:
    table, head = torch.nn.Embedding(300, 4), torch.nn.Linear(4, 300, bias=False)
    head.weight = table.weight
    frozen = torch.nn.Linear(3, 3).requires_grad_(False)
    counts = parameter_counts(torch.nn.ModuleList([table, head, torch.nn.Linear(2, 2), frozen]))
    assert counts == {"total": 1200 + 6 + 12, "trainable": 1206, "frozen": 12, "budgeted": 6}


def _blip(folder: Path) -> None:
    tokenizer = load_tokenizer()
    text = {**TEXT, "vocab_size": len(tokenizer), "bos_token_id": 101, "sep_token_id": 102, "pad_token_id": 0}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION))
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)


def _git(folder: Path) -> None:
    tokenizer = load_tokenizer()
    config = GitConfig(
        **TEXT, vision_config=VISION, vocab_size=len(tokenizer), bos_token_id=101, eos_token_id=102, pad_token_id=0
    )
    GitForCausalLM(config).save_pretrained(folder)
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32})
    GitProcessor(images, tokenizer).save_pretrained(folder)


@pytest.mark.parametrize("build", [_blip, _git])
def test_stock_captioners_run(build: object, data: CaptionData, tmp_path: Path) -> None:
    build(tmp_path / "stock")
    model = open_caption_model(f"hf:{tmp_path / 'stock'}")
    assert model.info.origin == "stock"
    run = captioning.evaluate(
        model, data, generation=captioning.Generation(max_new_tokens=4), batch_size=5, n_latency=1
    )
    assert len(run.captions) == len(data)
    assert 1 <= run.timing.evaluations <= 5
    assert all("[" not in caption for caption in run.captions)
    single = model.caption(data.images(1), batch_size=1, max_new_tokens=4)
    assert single[0].text == run.captions[0]


def test_a_folder_without_a_captioner_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no captioner folder.*hf:NAME"):
        open_caption_model(tmp_path)
    with pytest.raises(CheckpointError, match="transformers cannot open"):
        open_caption_model(f"hf:{tmp_path}")
    for broken in ("{", "[1]", "{}", "[" * 100_000):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(CheckpointError):
            open_caption_model(tmp_path)


def test_latency_forces_the_length(captioner_folder: Path) -> None:
    run = latency.measure(open_caption_model(captioner_folder), batch_sizes=[1, 3], new_tokens=4, repeats=2)
    assert [row["batch size"] for row in run.table] == [1, 3]
    assert all(row["evaluations"] == 4 for row in run.table)
    assert all(row["captions a second"] > 0 for row in run.table)


def test_retrieval_ranks_both_ways(data: CaptionData, tmp_path: Path) -> None:
    tokenizer = load_tokenizer()
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 32}
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    run = retrieval.evaluate(str(tmp_path), data, batch_size=5)
    assert list(run.scores) == [f"{way} R@{k}" for way in ("text-to-image", "image-to-text") for k in (1, 5, 10)]
    assert 0 <= run.scores["text-to-image R@1"] <= run.scores["text-to-image R@10"] <= 1
    assert AutoImageProcessor.from_pretrained(tmp_path).size["height"] == 32


def test_retrieval_needs_a_dual_encoder(captioner_folder: Path, data: CaptionData) -> None:
    with pytest.raises(CheckpointError, match="no folder of a text-aligned model"):
        retrieval.evaluate("nothing", data)
    with pytest.raises(CheckpointError):
        retrieval.evaluate(str(captioner_folder), data)
