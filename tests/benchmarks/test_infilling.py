from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vislex.benchmarks.caption_data import CaptionData
from vislex.benchmarks.caption_opening import open_caption_model
from vislex.benchmarks.infilling import FUNCTION_WORDS, Cloze, cloze, evaluate, main, table
from vislex.benchmarks.results import ModelInfo, Results, Run
from vislex.captioner import Captioner
from vislex.encoders.factory import create_encoder
from vislex.text import load_tokenizer, prune_tokenizer


@pytest.fixture(scope="module")
def folders(data: CaptionData, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    texts = [text for references in data.record.references.values() for text in references]
    tokenizer = prune_tokenizer(load_tokenizer(), texts)[0]
    made = []
    for name in ("masked", "cross_attention"):
        torch.manual_seed(0)
        sizes = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_length": 64}
        captioner = Captioner.from_parts(
            encoder=create_encoder("siglip-tiny", tiny=True), decoder=name, tokenizer=tokenizer, **sizes
        )
        made.append(str(tmp_path_factory.mktemp("captioners") / name))
        captioner.save_pretrained(made[-1])
    return made


def test_a_cloze_blanks_words_and_knows_them() -> None:
    one = Cloze("A red dog, and a cat.", [1, 5])
    assert (one.template, one.answers) == ("A ___ dog, and a ___.", ("red", "cat"))
    assert one.accuracy(["Red", "cow"]) == 0.5
    assert one.repeats(["dog", "cow"]) == 0.5
    assert one.repeats(["red", "and"]) == 0  # the answer itself, a function word
    assert one.is_kept("A blue dog, and a big cow.")
    assert not one.is_kept("a blue dog, and a cow.")
    assert not one.is_kept("A  dog and a cow.")


def test_content_words_are_chosen_once_and_for_all(data: CaptionData) -> None:
    references = next(iter(data.record.references.values()))
    made = [cloze(references, 2, np.random.default_rng([0, row])) for row in range(50)]
    again = [cloze(references, 2, np.random.default_rng([0, row])) for row in range(50)]
    assert [one.template for one in made] == [one.template for one in again]
    assert len({one.template for one in made}) > 5
    assert not FUNCTION_WORDS & {answer for one in made for answer in one.answers}
    assert cloze(["on a the of"], 1, np.random.default_rng(0)) is None
    assert cloze(["on a", "a dog"], 1, np.random.default_rng(0)).answers == ("dog",)


def test_it_measures_every_way_once(folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "infilling.json"
    arguments = ["--model", folders[0], "--model", folders[1], "--size", "6", "--out", str(out), "--json"]
    main(arguments)
    rows = json.loads(capsys.readouterr().out)
    assert {row["row"] for row in rows} == {
        "masked, both sides", "cross_attention, left to right", "cross_attention, rescored",
    }  # fmt: skip
    assert {row["blanks"] for row in rows} == {1, 2}
    assert all(row["kept"] == 1 and 0 <= row["accuracy"] <= 1 and row["evaluations"] >= 1 for row in rows)
    first = out.read_text()
    main(arguments[:-1])
    assert out.read_text() == first
    assert "kept" in capsys.readouterr().out


def test_templates_that_are_too_long_are_wrong_answers(folders: list[str], data: CaptionData) -> None:
    model = open_caption_model(folders[1])
    settings = {"n_blanks": 1, "way": "left to right", "options": {"mode": "left_to_right"}, "batch_size": 4}
    whole = evaluate(model, data, **settings)
    assert whole.scores["no_room"] == 0
    config = model.captioner.decoder.config.text_config
    config.max_position_embeddings = 16
    run = evaluate(model, data, **settings)
    config.max_position_embeddings = 64
    unfilled = [not caption for caption in run.captions]
    assert 0 < run.scores["no_room"] == np.mean(unfilled) < 1
    assert [a for a, empty in zip(run.per_image["accuracy"], unfilled, strict=True) if empty] == [0.0] * sum(unfilled)
    assert run.scores["kept"] == 1


def test_rows_are_held_against_the_best_autoregressive_one(data: CaptionData) -> None:
    results = Results()
    for row, right, generation in (("m", 9, {}), ("l", 3, {"mode": "left_to_right"}), ("r", 5, {"mode": "rescored"})):
        accuracy = [float(i < right) for i in range(12)]
        made = Run(
            key=row, task="infilling", model=ModelInfo(row=row), data=data.record.key, provenance={}, n=12,
            generation={"n_blanks": 1, **generation}, scores={"accuracy": right / 12, "kept": 1.0, "repeated": 0.0},
            per_image={"accuracy": accuracy},
        )  # fmt: skip
        results.add(made, data.record)
    rows = {row["row"]: row for row in table(results)}
    assert rows["m"]["against"] == rows["l"]["against"] == "r"
    assert rows["m"]["difference"] == pytest.approx(4 / 12)
    assert rows["m"]["low"] <= 4 / 12 <= rows["m"]["high"]
    assert "difference" not in rows["r"]
