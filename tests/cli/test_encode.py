"""``vislex encode`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from vislex.cli.main import main


def test_tokens_are_saved_in_order_and_bad_images_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(3):
        Image.new("RGB", (20 + i, 30), (80 * i, 0, 0)).save(tmp_path / f"{i}.png")
    (tmp_path / "1b.png").write_text("<html></html>")
    out = tmp_path / "tokens.safetensors"
    arguments = ["encode", str(tmp_path), "--encoder", "timm:test_vit", "--untrained", "--out", str(out)]
    code = main([*arguments, "--dtype", "float32", "--batch-size", "2", "--json"])
    written = capsys.readouterr()
    assert code == 2
    assert "1b.png" in written.err
    rows = json.loads(written.out)
    assert [Path(row["image"]).name for row in rows if "row" in row] == ["0.png", "1.png", "2.png"]
    with safe_open(out, "pt") as file:
        tokens, metadata = file.get_tensor("tokens"), file.metadata()
    assert tokens.shape == (3, 100, 64)
    assert tokens.dtype == torch.float32
    assert json.loads(metadata["spec"])["dim"] == 64
    assert metadata["encoder"] == "timm:test_vit"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--encoder": "siglip-tinny"}, "did you mean 'siglip-tiny'"),
        ({"--out": "tokens.npz"}, "must end in .safetensors"),
        ({"images": "nowhere.png"}, "nowhere.png"),
    ],
)
def test_mistakes_are_one_line(
    changes: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    values = {"images": str(tmp_path / "a.png"), "--encoder": "timm:test_vit", "--out": str(tmp_path / "t.safetensors")}
    values |= changes
    arguments = ["encode", values.pop("images"), "--untrained"]
    code = main(arguments + [word for pair in values.items() for word in pair])
    errors = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len(errors) == 1
    assert message in errors[0]
