"""The reconstruction benchmark on a tiny ViLex: pairing, references, refusals, and files that are found again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vislex.benchmarks.reconstruction import (
    ReconstructionBench,
    Scenes,
    Tools,
    file_of,
    load_scenes,
    load_tools,
    open_model,
    reconstruction_rows,
)
from vislex.benchmarks.reconstruction_tables import budget_steps, plot_curves, table, write_sheet
from vislex.cli.main import main
from vislex.config import load_config
from vislex.data.openmoji.manifest import nouns
from vislex.encoders.factory import create_encoder
from vislex.errors import CheckpointError, ConfigError
from vislex.metrics.factors import FACTORS
from vislex.metrics.reader import Reader, ReaderConfig
from vislex.metrics.reconstruction import psnr
from vislex.recipes.t2i_pretrain import T2IPretrainConfig, build_model
from vislex.text import load_tokenizer
from vislex.vilex import ViLex

T2I = [
    "image_size=24", "text={d_model: 16, num_layers: 1, num_heads: 2, d_kv: 8, d_ff: 32}",
    "denoiser={num_layers: 1, num_attention_heads: 2, attention_head_dim: 8, patch_size: 6}",
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A ViLex model and a reader."""
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("models")
    tokenizer = load_tokenizer()
    tokenizer.model_max_length = 40
    build_model(load_config(T2IPretrainConfig, None, T2I), tokenizer).save_pretrained(made / "t2i")
    encoder = create_encoder("siglip-tiny", tiny=True)
    model = ViLex.from_parts(encoder=encoder, t2i=made / "t2i", n_tokens=3, depth=1)
    model.save_pretrained(made / "vilex")
    sizes = {"image_size": 16, "stem_channels": [8, 8], "hidden_size": 16, "num_hidden_layers": 1}
    Reader(ReaderConfig(concepts=list(nouns("core")), num_attention_heads=2, **sizes)).save_pretrained(made / "reader")
    return made / "vilex", made / "reader"


@pytest.fixture(scope="module")
def bench(folders: tuple[Path, Path]) -> ReconstructionBench:
    small = {"size": 20, "loss_images": 6, "loss_draws": 2, "num_inference_steps": 2, "shown": 2}
    return ReconstructionBench(**small, reader=str(folders[1]), extractor="siglip-tiny")


@pytest.fixture(scope="module")
def model(folders: tuple[Path, Path]) -> ViLex:
    return open_model(str(folders[0]))


@pytest.fixture(scope="module")
def scenes(bench: ReconstructionBench, model: ViLex) -> Scenes:
    return load_scenes(bench, model.t2i.image_size)


@pytest.fixture(scope="module")
def tools(bench: ReconstructionBench) -> Tools:
    return load_tools(bench)


def test_every_budget_is_measured_beside_its_references(
    model: ViLex, bench: ReconstructionBench, scenes: Scenes, tools: Tools, tmp_path: Path
) -> None:
    file = file_of(tmp_path / "rows.json")
    said: list[str] = []
    rows, shown = reconstruction_rows("mine", model, bench, file, scenes, tools, on_progress=said.append)
    assert [row["rung"] for row in rows] == ["original", "true caption", "empty prompt", "1 tokens", "3 tokens"]
    assert "mine: 3 tokens" in said
    assert set(rows[0]["scores"]) == set(FACTORS)
    for row in rows[1:]:
        assert set(row["scores"]) == {"loss", "PSNR", "SSIM", "feature cosine", "retrieval R@1", *FACTORS}
        assert (row["n"]["loss"], row["n"]["PSNR"]) == (6, 20)
        assert row["sets"]["kernel"]["n"] == 20
        assert row["sets"]["kernel"]["extractor"]["extractor"] == "siglip-tiny"
        assert "cannot give a Frechet distance in 192" in row["sets"]["frechet"]["refused"]
        assert "no classes" in row["sets"]["inception"]["refused"]
    told = {row["rung"]: row for row in rows}
    assert told["1 tokens"]["per_image"]["loss"] != told["3 tokens"]["per_image"]["loss"]
    assert told["true caption"]["per_image"]["loss"] != told["empty prompt"]["per_image"]["loss"]

    again, _ = reconstruction_rows("mine", model, bench, file_of(tmp_path / "rows.json"), scenes, tools)
    assert again == rows
    assert len(json.loads(file.path.read_text())["rows"]) == 5
    smaller, _ = reconstruction_rows("mine", model, bench, file_of(tmp_path / "b.json"), scenes, tools, batch_size=3)
    assert smaller[3]["per_image"]["PSNR"] == pytest.approx(rows[3]["per_image"]["PSNR"], abs=0.05)
    other, _ = reconstruction_rows("mine", model, bench, file_of(tmp_path / "c.json"), scenes, tools, seed=5)
    assert other[3]["per_image"]["loss"] != rows[3]["per_image"]["loss"]

    lines = table(rows)
    assert len(lines) == 5
    assert "kernel distance" in lines[-1]
    assert "FID" not in json.dumps(lines)
    steps = budget_steps(rows)
    assert {(step["tokens"], step["against"]) for step in steps} == {(3, 1)}
    loss = next(step for step in steps if step["score"] == "loss")
    assert loss["difference"] == pytest.approx(rows[4]["scores"]["loss"] - rows[3]["scores"]["loss"], abs=1e-4)
    assert loss["low"] <= loss["difference"] <= loss["high"]

    sheet = Image.open(write_sheet(shown, tmp_path / "sheet.png"))
    assert sheet.width == 4 * 102 + 6
    first = [shown[name][0] for name in ("original", "3 tokens")]
    assert psnr(first[1:], first[:1])[0] == pytest.approx(rows[4]["per_image"]["PSNR"][0], abs=0.01)
    assert Image.open(plot_curves(rows, tmp_path / "curves.png")).height > 200


def test_guidance_and_budgets_are_options(
    model: ViLex, bench: ReconstructionBench, scenes: Scenes, tools: Tools, tmp_path: Path
) -> None:
    few = bench.model_copy(update={"budgets": [2], "size": 2, "loss_images": 1, "reader": None})
    blind = Tools(None, tools.extractor)
    plain, shown = reconstruction_rows("mine", model, few, file_of(tmp_path / "a.json"), scenes, blind)
    assert [row["tokens"] for row in plain] == [None, None, None, 2]
    assert "concept" not in plain[-1]["scores"]
    guided = few.model_copy(update={"guidance_scale": 3.0})
    _, other = reconstruction_rows("mine", model, guided, file_of(tmp_path / "b.json"), scenes, blind)
    assert not np.array_equal(shown["2 tokens"][0], other["2 tokens"][0])
    wrong = few.model_copy(update={"budgets": [1, 4]})
    with pytest.raises(ConfigError, match=r"budgets \[4\] are not among 1 to 3"):
        reconstruction_rows("mine", model, wrong, file_of(tmp_path / "c.json"), scenes, blind)


def test_the_command_writes_results_sheet_and_curves(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "reconstruction", "-m", str(folders[0]), "--size", "4", "--out", str(tmp_path)]
    for option in (f"reader={folders[1]}", "extractor=siglip-tiny", "loss_images=2", "num_inference_steps=2"):
        words += ["--option", option]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [line["told"] for line in printed["rows"]][-1] == "3 tokens"
    assert {path.name for path in tmp_path.iterdir()} >= {
        "reconstruction.json", "reconstruction-vilex.png", "reconstruction-curves.png",
    }  # fmt: skip
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "difference from the next smaller budget" in text
    assert text.count("left out: 4 images are too few for a kernel distance") == 1
    with pytest.raises(CheckpointError, match="no folder of a ViLex model"):
        open_model(str(tmp_path))


def test_without_a_model_the_shipped_one_is_measured(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "reconstruction", "--size", "4", "--out", str(tmp_path), "--json", "--option", "budgets=[4]"]
    for option in (f"reader={folders[1]}", "extractor=siglip-tiny", "loss_images=4", "num_inference_steps=2"):
        words += ["--option", option]
    assert main(words) == 0
    lines = {line["told"]: line for line in json.loads(capsys.readouterr().out)["rows"]}
    assert lines["4 tokens"]["model"] == "vilex-siglip-tiny"
    assert lines["4 tokens"]["loss"] < lines["empty prompt"]["loss"]
