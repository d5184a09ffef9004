"""Encoders in hosts from swap to report at the smoke budget, what is made only once, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vislex.adapters.host_turns import host_inputs, host_prompts
from vislex.adapters.instructions import CAPTION_PROMPT, Example, Turn
from vislex.adapters.swap_report import SwapReport
from vislex.benchmarks.arms import validation_loss
from vislex.benchmarks.compare_hosts import run
from vislex.benchmarks.host_arms import HostArm, content_of_encoder, content_of_host, realign, swap_once
from vislex.benchmarks.host_comparison import HostComparisonConfig, load_host_comparison
from vislex.benchmarks.host_model import HostModel
from vislex.benchmarks.host_tables import host_pairs, host_rows, records_together, swap_rows
from vislex.benchmarks.lmms_responders import ChatResponder
from vislex.benchmarks.results import ModelInfo, read_results
from vislex.benchmarks.show import show_hosts
from vislex.cli.main import main
from vislex.encoders.factory import create_encoder
from vislex.errors import CheckpointError
from vislex.text import postprocess_caption

TRAIN = ["steps=2", "train_size=8", "val_size=2", "precision=fp32", "progress=false"]
SMALL = "siglip-tiny@untrained"


@pytest.fixture(scope="module")
def host(beside: Callable[[str], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of width 32 with the suite's words."""
    made: Path = beside("recipes/runs").make_start("host", tmp_path_factory.mktemp("hosts"))
    return made.rename(made.with_name("llava"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoders") / "clip"
    create_encoder("clip-b16", tiny=True, seed=0).save_pretrained(folder)
    return f"hf:{folder}"


def config_of(host: Path, encoder: str, out: Path, **changes: Any) -> HostComparisonConfig:
    values = {
        "hosts": [str(host)], "encoders": [encoder], "budget": "smoke", "size": 6, "image_size": 32, "n_latency": 1,
        "n_images": 2, "n_train": 30, "vocabulary": "core", "generation": {"max_new_tokens": 6}, "max_answer_tokens": 3,
        "device": "cpu", "train": TRAIN, "out": out,
    }  # fmt: skip
    return HostComparisonConfig(**{**values, **changes})


def test_from_swap_to_report_and_nothing_twice(
    host: Path,
    clip: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache_in: Callable[[Path], str],
) -> None:
    monkeypatch.setenv("VISLEX_CACHE", cache_in(tmp_path))
    lines: list[str] = []
    report = run(config_of(host, clip, tmp_path / "c"), log=lines.append)
    results = read_results([report.parent])
    rows = ["llava, as it was", "llava, realigned (control)", "llava + hf:clip, before realigning"]
    rows.append("llava + hf:clip, realigned")
    made = {(own.task, own.model.row): own for own in results.runs if own.model.origin not in ("floor", "ceiling")}
    assert set(made) == {(task, row) for task in ("captioning", "vqa") for row in rows}
    assert sum("trained in" in line for line in lines) == 2

    # The control is the host with the same training; only the new connector of the swap must be retrained.
    control, swapped = (made["vqa", row].model for row in (rows[1], rows[3]))
    assert control.training is not None
    assert swapped.training is not None
    assert control.training["config"] == {**swapped.training["config"], "model": str(host)}
    assert control.training["config"]["steps"] == 2
    assert control.training["config"]["mixture"][0]["options"] == {"vocabulary": "core", "image_size": 32}
    assert "swap" not in control.training
    assert 0 < swapped.parameters["trainable"] < swapped.parameters["total"]
    assert len({own.model.sha256 for own in made.values()}) == 4
    assert [own["retrain connector"] for own in swap_rows(results)] == ["required"]

    # One table of captions and answers; each difference is taken from the control.
    [records] = records_together(results)
    table = {row["row"]: row for row in host_rows(results, records)}
    assert list(table)[:4] == rows
    for row in rows:
        assert {"CIDEr-D", "ROUGE-L", "scene-F1", "accuracy"} <= set(table[row])
        assert any(name.startswith("accuracy: ") for name in table[row])
        assert table[row]["accuracy"] == made["vqa", row].scores["accuracy"]
        assert table[row]["image tokens"] == (16 if "hf:clip" in row else None)
    pairs = host_pairs(results, records)
    assert [(own["a"], own["b"]) for own in pairs] == [(rows[3], rows[1])] * 3
    assert [own["metric"] for own in pairs] == ["CIDEr-D", "scene-F1", "accuracy"]
    page = report.read_text()
    assert "What each swap left to retrain" in page
    assert "Paired differences of accuracy" in page

    # The same command again makes nothing; another length of answers asks the models that are there.
    words = ["image_size=32", "n_latency=1", "n_images=2", "n_train=30", "vocabulary=core"]
    words += ["generation.max_new_tokens=6", "max_answer_tokens=3", *TRAIN]
    options = ["--budget", "smoke", "--size", "6", "--device", "cpu", "--out", str(tmp_path / "c"), "--json"]
    capsys.readouterr()
    assert main(["compare", "--hosts", str(host), "--encoders", clip, *options, *words]) == 0
    said = capsys.readouterr()
    assert said.err.count("finished before, skipped") == 4
    printed = json.loads(said.out)
    assert [row["row"] for row in printed["tables"][0]["rows"]][:4] == rows
    assert printed["tables"][0]["pairs"] == pairs
    assert printed["swaps"] == swap_rows(results)
    assert read_results([report.parent]).runs == results.runs
    lines.clear()
    run(config_of(host, clip, tmp_path / "c", max_answer_tokens=2), log=lines.append)
    assert sum("trained before" in line for line in lines) == 2
    assert not any("trained in" in line for line in lines)
    assert len(read_results([report.parent]).runs) == len(results.runs) + 4
    show_hosts(report)
    shown = capsys.readouterr().out
    assert "llava + hf:clip  stock" in shown
    assert "paired differences a - b from the control" in shown


def test_what_changes_the_weights_changes_the_run(host: Path, clip: str, tmp_path: Path) -> None:
    arm = HostArm(str(host), clip, 0, is_realigned=True)
    contents = {str(host): content_of_host(str(host)), clip: content_of_encoder(clip)}
    assert all(len(own) == 64 for own in contents.values())
    known = arm.identity(contents, TRAIN, [])
    assert known == arm.identity(contents, [*TRAIN, "device=cpu"], [])
    others = [
        arm.identity(contents, [*TRAIN, "parts.llm.mode=lora"], []),
        arm.identity(contents, TRAIN, [1e-3]),
        arm.identity({**contents, clip: "retrained"}, TRAIN, []),
        dataclasses.replace(arm, seed=1).identity(contents, TRAIN, []),
        dataclasses.replace(arm, encoder=None).identity(contents, TRAIN, []),
        dataclasses.replace(arm, is_realigned=False).identity(contents, TRAIN, []),
    ]
    assert all(known != other for other in others)
    untrained = [swap_once(HostArm(str(host), SMALL, seed), {**contents, SMALL: SMALL}, tmp_path) for seed in (0, 0, 1)]
    assert untrained[0] == untrained[1]
    digests = [{row["part"]: row["sha256"] for row in SwapReport.load(own).parts} for own in untrained]
    assert digests[0]["encoder"] != digests[2]["encoder"]
    assert digests[0]["connector"] != digests[2]["connector"]
    assert digests[0]["llm"] == digests[2]["llm"]


def test_the_best_learning_rate_on_val_is_taken(
    host: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_in: Callable[[Path], str]
) -> None:
    monkeypatch.setenv("VISLEX_CACHE", cache_in(tmp_path))
    arm, contents = HostArm(str(host), None, 0, is_realigned=True), {str(host): content_of_host(str(host))}
    words = [*config_of(host, "a", tmp_path).recipe_overrides, "steps=3", "eval_every=3", "warmup_steps=0"]
    made = realign(arm, host, contents, tmp_path / "models", overrides=words, lrs=[1e-7, 3e-2])
    losses = {own.name: validation_loss(own) for own in (tmp_path / "models").iterdir()}
    assert len(set(losses.values())) == 2
    assert losses[made.folder.name] == min(losses.values())


def test_keys_reach_the_comparison_or_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("hosts: [a]\nencoders: [b, c]\ntrain: [steps=7]\nseeds: 2\n")
    config = load_host_comparison(file, ["lr=1e-2", "parts.llm.mode=lora", "size=9", "train=[batch_size=3]"])
    assert config.train == ["steps=7", "lr=1e-2", "parts.llm.mode=lora", "batch_size=3"]
    assert (config.size, config.batch_size) == (9, 64)
    assert config.pairs == [
        ["a + b, realigned", "a, realigned (control)"],
        ["a + c, realigned", "a, realigned (control)"],
    ]
    assert [(arm.encoder, arm.seed) for arm in config.arms if arm.is_realigned] == [
        (None, 0), ("b", 0), ("c", 0), (None, 1), ("b", 1), ("c", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--encoders", "siglip-tiny", "--decoders", "prefix"], "--hosts cannot be combined with 'decoders'"),
        (["--models", "a"], "--hosts cannot be combined with 'models'"),
        ([], "nothing to swap: give --encoders"),
        (["--encoders", "siglip-tiny", "marginn=0.1"], "unknown key 'marginn'; did you mean 'margin'"),
        (["--encoders", "siglip-tiny", "steps=0"], "steps: "),
        (["--encoders", "siglip-tiny", "control=a"], "'control' of the recipe is set by the comparison"),
        (["--encoders", "siglip-tiny,siglip-tiny"], "two encoders have one name"),
        (["--encoders", "siglip-tiny"], "no host can be read from"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "nothing").mkdir()
    out = ["--out", str(tmp_path / "c")]
    assert main(["compare", "--hosts", str(tmp_path / "nothing"), *words, *out]) == 2
    [error] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert reason in error
    assert not (tmp_path / "c").exists()


def test_every_swap_comes_before_the_first_training(host: Path, clip: str, tmp_path: Path) -> None:
    config = config_of(host, clip, tmp_path / "c", encoders=[clip, f"hf:{tmp_path}"])
    with pytest.raises(CheckpointError):
        run(config)
    assert len(list((tmp_path / "c" / "swapped").iterdir())) == 1
    assert not (tmp_path / "c" / "models").exists()


@pytest.mark.parametrize("family", ["gemma3", "llava", "paligemma"])
def test_a_host_without_a_template_is_asked_as_it_is_trained(tiny_hosts: Any, family: str) -> None:
    model, processor = tiny_hosts.build(family)
    asked = HostModel(ChatResponder(model, processor, ModelInfo(row=family)))
    images = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "green")]
    questions = ["what is shown ?", "a red dog", "two kites ."]
    answers = asked.ask(images, questions, batch_size=2, max_new_tokens=4)
    examples = [Example((Turn("user", f"<image>{own}"), Turn("assistant", "")), (0,)) for own in questions]
    texts = []
    for image, (prompt, _) in zip(images, host_prompts(processor, examples), strict=True):
        inputs = host_inputs(processor, [prompt], [[image]])
        inputs.pop("labels", None)
        written = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        texts.append(processor.tokenizer.decode(written, skip_special_tokens=True).strip())
    assert [own.text for own in answers] == texts
    assert len(set(texts)) > 1
    options = {"num_beams": 2, "max_new_tokens": 3}
    spoken = asked.ask(images, [CAPTION_PROMPT] * 3, **options)
    captions = asked.caption(images, batch_size=3, **options)
    assert [own.evaluations for own in captions] == [2 * own.new_tokens for own in spoken]
    assert [own.text for own in captions] == [postprocess_caption(own.text) for own in spoken]
