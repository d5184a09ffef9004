"""``bench vqa`` and ``bench segmentation``: floors, paired differences, ceilings, and the report's sections."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.adapters.instructions import CAPTION_PROMPT
from vislex.adapters.vlm import VisionLanguageModel
from vislex.adapters.vlm_ask import Answer
from vislex.adapters.vlm_segment import prepare_codec
from vislex.benchmarks.caption_data import load_suite_captions
from vislex.benchmarks.caption_models import STOCK_LENGTH
from vislex.benchmarks.caption_opening import VlmCaptioner, open_caption_model
from vislex.benchmarks.demo_vlm import measure_vlm
from vislex.benchmarks.results import ModelInfo, read_results
from vislex.benchmarks.segmentation import BOXES, ceiling_run, evaluate, load_segmentation_data
from vislex.benchmarks.show import show
from vislex.benchmarks.vqa import FLOOR, TYPE, floor_run, load_vqa_data, majority_answers
from vislex.cli.main import main
from vislex.segmentation import create_codec
from vislex.text import load_tokenizer, postprocess_caption, prune_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), ["segment is there a red kite? yes no"])[0])
    llm = vislex.create_llm("llama3.2-1b", tiny=True, vocab_size=len(tokenizer))
    model = VisionLanguageModel.from_parts(
        encoder=vislex.create_encoder("siglip-tiny", tiny=True, seed=0), llm=llm, tokenizer=tokenizer
    )
    prepare_codec(model, "box")
    made = tmp_path_factory.mktemp("models") / "tiny"
    model.eval().save_pretrained(made)
    return made


def test_the_floor_answers_by_template() -> None:
    train = [(f"is there a thing{i}?", "yes" if i % 3 else "no", "exists") for i in range(40)]
    train += [(f"which is larger, the a{i} or the b{i}?", f"b{i}" if i % 4 else f"a{i}", "size") for i in range(40)]
    train += [("is it red?", "no", "exists")] * 30
    asked = [
        ("is there a dog?", "exists"),
        ("is it red?", "exists"),
        ("which is larger, the dog or the cat?", "size"),
        ("what?", "unheard"),
    ]
    assert majority_answers(asked, train) == ["yes", "no", "cat", "no"]
    assert majority_answers([("what?", "x")], []) == [""]


def test_questions_of_the_suite_are_not_guessed() -> None:
    data = load_vqa_data(size=200, n_images=1, n_train=400)
    run = floor_run(data)
    kinds = {name.removeprefix(TYPE) for name in run.scores} - {"accuracy"}
    assert kinds == set(data.record.types.values())
    assert run.scores["accuracy"] == pytest.approx(np.mean(run.per_image["accuracy"]), abs=1e-5)
    assert 0.1 < run.scores["accuracy"] < 0.5
    assert data.score([data.record.references[identity][0] for identity in data.record.ids])["scores"]["accuracy"] == 1
    data.record.references = {identity: own[:1] for identity, own in data.record.references.items()}
    assert data.scorer == "gqa@1"


class _Teller:
    """A model that writes the right mask of every second expression, and else nothing of use."""

    def __init__(self, data: Any) -> None:
        self.rows, self.codec = {row["expression"]: row["mask"] for row in data.rows}, create_codec("text_rle")
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def segment(self, images: list[Any], expressions: list[str], **options: Any) -> list[Any]:
        from vislex.adapters.vlm_segment import Segmentation

        texts = [self.codec.encode([self.rows[own]]) if i % 2 else "what?" for i, own in enumerate(expressions)]
        return [
            Segmentation(own, text, self.codec.decode(text, (64, 64)), 3, 0.5)
            for own, text in zip(expressions, texts, strict=True)
        ]


def test_masks_are_compared_with_their_own_boxes_and_the_codec() -> None:
    data = load_segmentation_data(size=12, n_images=3)
    teller: Any = _Teller(data)
    run, boxes = evaluate(teller, ModelInfo(row="teller"), data, codec=teller.codec, batch_size=6)
    ceiling = ceiling_run(teller.codec, data)
    assert run.scores["invalid"] == boxes.scores["invalid"] == 0.5
    assert run.per_image["IoU"][1::2] == ceiling.per_image["IoU"][1::2]
    assert run.scores["mIoU"] > boxes.scores["mIoU"] > 0
    assert boxes.model.row == "teller" + BOXES
    assert set(run.pictures) == set(data.record.ids[:3])
    assert run.timing.throughput == 2.0
    assert run.key != boxes.key


def test_a_mask_head_has_the_ceiling_of_its_resolution(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = VisionLanguageModel.from_pretrained(folder)
    prepare_codec(model, "seg_head", hidden_size=16)
    token, end = model.mask_head.settings.token_id, model.processor.tokenizer.eos_token_id
    model.generation_config.sequence_bias = [[[token], 1e4], [[token, end], 1e6]]
    model.eval().save_pretrained(tmp_path / "head")
    short = ["--size", "8", "--images", "0", "--batch-size", "8"]
    assert main(["bench", "segmentation", "-m", str(tmp_path / "head"), *short, "--json"]) == 0
    rows = {row["row"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    own, ceiling = rows["head"], rows["ceiling: codec seg_head, 16 x 16 cells"]
    assert (own["invalid"], own["tokens"]) == (0, 2)
    assert rows["head" + BOXES]["mIoU"] > 0
    fine = create_codec("seg_head")
    data = load_segmentation_data(size=8, n_images=0)
    assert own["mIoU"] < ceiling["mIoU"] < ceiling_run(fine, data).scores["mIoU"]


def test_bench_writes_what_the_report_shows(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--size", "8", "--images", "2", "--batch-size", "8", "--max-new-tokens", "5", "--out", str(tmp_path)]
    assert main(["bench", "vqa", "-m", str(folder), "--blind", str(folder), *short, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert {row["row"] for row in shown["rows"]} == {"tiny", "tiny, without images", FLOOR}
    assert {(pair["a"], pair["b"]) for pair in shown["pairs"]} == {("tiny", "tiny, without images"), ("tiny", FLOOR)}
    assert main(["bench", "segmentation", "-m", str(folder), *short]) == 0
    assert f"results: {tmp_path / 'results.json'}" in capsys.readouterr().out
    results = read_results([tmp_path])
    assert [run.task for run in results.runs] == ["vqa"] * 3 + ["segmentation"] * 3
    ceiling = results.runs[-1]
    assert ceiling.model.row == "ceiling: codec box"
    assert 0.4 < ceiling.scores["mIoU"] < 0.8
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Accuracy by question type" in page
    assert "Paired differences of IoU" in page
    links = re.findall(r'<a href="#([^"]+)">(\w+)', page.partition("<nav>")[2].partition("</nav>")[0])
    assert [first for _, first in links] == ["Questions", "Segmentation", "How"]  # not the split of each, the same
    assert all(f'id="{place}"' in page for place, _ in links)
    assert page.count("<b>data</b>") == 1
    assert page.count("<img ") == 2 + 2 * 2
    for record in results.data.values():
        assert record.prompts[record.ids[0]] in page
    capsys.readouterr()
    assert main(["bench", "vqa"]) == 2
    assert "no model given" in capsys.readouterr().err
    assert main(["bench", "vqa", "-m", str(folder), "-m", str(folder)]) == 2
    assert "two models have one name" in capsys.readouterr().err
    assert main(["bench", "captioning", "--blind", "x"]) == 2
    assert "takes no --blind" in capsys.readouterr().err


def test_the_demo_asks_a_model_once(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[str] = []
    for _ in range(2):
        measure_vlm(tmp_path / "report.html", str(folder), size=3, log=lines.append)
    assert len(lines) == 2
    assert "asked and had segment 3 images" in lines[0]
    assert lines[1].endswith("finished before, skipped")
    show(tmp_path / "report.html", json=True)
    tables = {table["task"]: table for table in json.loads(capsys.readouterr().out)["tables"]}
    assert set(tables) == {"vqa", "segmentation"}
    assert {row["origin"] for row in tables["vqa"]["rows"]} == {"local", "floor"}
    assert tables["segmentation"]["pairs"][0]["metric"] == "IoU"
    show(tmp_path / "report.html")
    assert "answers a second" in capsys.readouterr().out
    assert "Questions on" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_captions_of_a_model_that_is_asked(folder: Path, tmp_path: Path) -> None:
    """``bench captioning`` asks a vision-language model as its recipes do, or with a prompt of the user's."""
    out = tmp_path / "results.json"
    asked = ["--size", "6", "--no-bounds", "--max-new-tokens", "5", "--batch-size", "4", "--out", str(out)]
    assert main(["bench", "captioning", "--model", str(folder), *asked]) == 0
    run = read_results([out]).runs[0]
    images = load_suite_captions(size=6, n_images=0, n_train=1).images(6)
    told = vislex.VisionLanguageModel.from_pretrained(folder).ask(images, CAPTION_PROMPT, max_new_tokens=5)
    assert run.captions == [postprocess_caption(answer.text) for answer in told]
    assert run.timing.evaluations == np.mean([answer.new_tokens for answer in told])
    assert run.model.row == "tiny"
    assert run.model.decoder == "mlp + llama"
    assert isinstance(open_caption_model(folder), VlmCaptioner)


def test_a_prompt_of_the_users_own_is_asked() -> None:
    asked: list[Any] = []

    class Model:
        device, dtype = torch.device("cpu"), torch.float32

        def ask(self, images: Any, prompts: Any, **options: Any) -> list[Answer]:
            asked.append((prompts, options))
            return [Answer("A  Dog .", 3, 0.5) for _ in images]

    captioner = VlmCaptioner(Model(), ModelInfo(row="one", origin="local"))
    made = captioner.caption([None, None], batch_size=2, prompt="what is there?", num_beams=2)  # type: ignore[list-item]
    assert asked == [(["what is there?"] * 2, {"batch_size": 2, "num_beams": 2, "max_new_tokens": STOCK_LENGTH})]
    assert [(caption.text, caption.evaluations, caption.seconds) for caption in made] == [("A Dog", 6, 0.5)] * 2
