"""``vislex reconstruct``: a sheet of reconstructions at several budgets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vislex.cli.main import main
from vislex.data.sheet import image_table
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError
from vislex.vilex import ViLex


@pytest.fixture(scope="module")
def folder(tiny_t2i: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViLex model with its text-to-image model, and two images."""
    base = tmp_path_factory.mktemp("reconstruct")
    for name in ("t2i", "other"):
        t2i = tiny_t2i("pixart-pixels")
        with torch.no_grad():
            next(t2i.transformer.parameters()).mul_(1.0 if name == "t2i" else -1.0)
        t2i.save_pretrained(base / name)
    torch.manual_seed(0)
    encoder = create_encoder("siglip-tiny", tiny=True)
    model = ViLex.from_parts(encoder=encoder, t2i=base / "t2i", n_tokens=4)
    with torch.no_grad():
        model.encoder.pooling.queries.normal_()
        model.encoder.heads[0].weight.mul_(10)
    model.save_pretrained(base / "vilex")
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(base / f"{number}.png")
    return base


def sheet(folder: Path, out: Path, *more: str) -> np.ndarray:
    words = [str(folder / "0.png"), str(folder / "1.png"), "--model", str(folder / "vilex"), "--out", str(out)]
    assert main(["reconstruct", *words, "--steps", "2", "--tokens", "1,4", *more]) == 0
    return np.asarray(Image.open(out), dtype=int)


def test_a_sheet_of_budgets(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = sheet(folder, tmp_path / "a.png")
    assert "sheet written to" in capsys.readouterr().out
    assert plain.shape == (12 + 34 + 2 * 204, 12 + 3 * 204, 3)
    squares = plain[46:238, 12:204], plain[46:238, 216:408], plain[46:238, 420:612]
    assert all(np.abs(one - two).mean() > 1 for one, two in ((squares[0], squares[1]), (squares[1], squares[2])))
    assert np.array_equal(plain, sheet(folder, tmp_path / "b.png", "--batch-size", "1"))
    for more in (
        ("--seed", "3"),
        ("--prompt", "a red dog"),
        ("--guidance", "3"),
        ("--steps", "4"),
        ("--t2i", str(folder / "other")),
    ):
        assert not np.array_equal(plain, sheet(folder, tmp_path / "c.png", *more)), more
    told = sheet(folder, tmp_path / "d.png", "--prompt", "a red dog", "--tfg", "4")
    assert not np.array_equal(told, sheet(folder, tmp_path / "e.png", "--prompt", "a red dog"))
    assert np.array_equal(plain, sheet(folder, tmp_path / "f.png", "--prompt", "a red dog", "--tfg", "0"))


def test_words_and_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet(folder, tmp_path / "a.png", "--words", "--json", "--dtype", "bfloat16")
    told = json.loads(capsys.readouterr().out)
    assert told["tokens"] == [1, 4]
    assert len(told["words"]) == 2 * 4
    assert {"image", "token", "words", "similarity", "length"} == set(told["words"][0])
    sheet(folder, tmp_path / "a.png", "--words")
    assert "similarity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tokens", "1,x"], "must be counts above 0"),
        (["--tokens", "9"], "n_tokens 9 must be 1 to 4"),
        (["--tfg", "2"], "--prompt, which was not given"),
        (["--out", "sheet.pdf"], "must end in .png"),
        (["--model", "nothing"], "no shipped model 'nothing'"),
        (["--t2i", "nowhere"], "neither a folder nor a hub id"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    words = ["reconstruct", str(folder / "0.png"), "--model", str(folder / "vilex"), "--out", str(tmp_path / "s.png")]
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err


def test_pictures_fit_their_squares() -> None:
    table = np.asarray(image_table([[Image.new("RGB", (2, 4), "red")]], ["one"], side=40), dtype=int)
    red = (table == (255, 0, 0)).all(-1)
    assert red.sum() == 20 * 40
    with pytest.raises(ConfigError, match="rows of 2 pictures"):
        image_table([[Image.new("RGB", (2, 4))]], ["one", "two"])
