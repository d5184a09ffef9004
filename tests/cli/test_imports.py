"""``vislex import``: a folder that the other verbs open, and one line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel

from vislex.cli.main import main
from vislex.text import load_tokenizer, prune_tokenizer


def checkpoint(folder: Path) -> list[str]:
    """A tiny released LaDiC of random weights on disk, and the arguments that import it."""
    tokenizer = prune_tokenizer(load_tokenizer(), ["a red dog.", "two kites"])[0]
    tokenizer.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), max_position_embeddings=8, **sizes), add_pooling_layer=False)
    state = {f"space_encoder.{name}": value for name, value in bert.state_dict().items()}

    def linear(name: str, out: int, into: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.randn(out, into), torch.randn(out)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(width), torch.zeros(width)

    linear("lm_head.predictions.transform.dense", 8, 8)
    norm("lm_head.predictions.transform.LayerNorm", 8)
    linear("lm_head.predictions.decoder", len(tokenizer), 8)
    state["lm_head.predictions.bias"] = state["lm_head.predictions.decoder.bias"]
    state["visual_encoder.cls_token"], state["visual_encoder.pos_embed"] = torch.randn(1, 1, 8), torch.randn(1, 5, 8)
    state["visual_encoder.patch_embed.proj.weight"] = torch.randn(8, 3, 4, 4)
    state["visual_encoder.patch_embed.proj.bias"] = torch.randn(8)
    block = "visual_encoder.blocks.0"
    for name, out, into in (("attn.qkv", 24, 8), ("attn.proj", 8, 8), ("mlp.fc1", 8, 8), ("mlp.fc2", 8, 8)):
        linear(f"{block}.{name}", out, into)
    for name in (f"{block}.norm1", f"{block}.norm2", "visual_encoder.norm"):
        norm(name, 8)
    state["diffuser.embeddings.position_embeddings.weight"] = torch.randn(8, 16)
    norm("diffuser.embeddings.LayerNorm", 16)
    layer = "diffuser.encoder.layer.0"
    for part, source in (("attention", 16), ("crossattention", 8)):
        linear(f"{layer}.{part}.self.query", 16, 16)
        linear(f"{layer}.{part}.self.key", 16, source)
        linear(f"{layer}.{part}.self.value", 16, source)
        linear(f"{layer}.{part}.output.dense", 16, 16)
        norm(f"{layer}.{part}.output.LayerNorm", 16)
    linear(f"{layer}.intermediate.dense", 8, 16)
    linear(f"{layer}.output.dense", 16, 8)
    norm(f"{layer}.output.LayerNorm", 16)
    norm("time_layer_norm", 16)
    torch.save(state, folder / "pytorch_model.bin")
    torch.save(torch.zeros(8), folder / "mean.pickle")
    torch.save(torch.ones(8), folder / "std.pickle")
    files = [str(folder / name) for name in ("pytorch_model.bin", "mean.pickle", "std.pickle")]
    heads = ["--num-heads", "2", "--vision-heads", "2", "--text-heads", "1", "--max-length", "6"]
    return ["import", "ladic", *files, *heads, "--tokenizer", str(folder / "tokenizer")]


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return checkpoint(tmp_path_factory.mktemp("released"))


def test_an_imported_model_captions(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 10), (200, 30, 30)).save("photo.png")
    assert main([*arguments, "--out", "ladic"]) == 0
    shown = capsys.readouterr().out
    assert "8 x 8 pixels, 5 tokens of 8 with the class token" in shown
    assert "parameters written to ladic; next: vislex caption --model ladic IMAGE" in shown

    assert main([*arguments, "--text-model", "some/bert", "--out", "again", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [part["part"] for part in told["parts"]] == ["encoder", "denoiser", "codec"]
    assert told["folder"] == "again"
    assert main(["info", "again", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] > told["parameters"]  # buffers too
    source = json.loads(Path("again/config.json").read_text())["decoder_config"]["codec_config"]["source"]
    assert (source["kind"], source["location"]) == ("hub", "some/bert")

    assert main(["caption", "--model", "ladic", "photo.png", "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["evaluations"] == 68
    assert row["caption"]


def test_mistakes_are_one_line(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    out = ["--out", str(tmp_path / "new")]
    for given, reason in (
        (["import"], "Missing command. See 'vislex import --help'"),
        (["import", "ladi"], "Did you mean 'ladic'? See 'vislex import --help'"),
        (arguments[:3], "Missing argument 'MEAN'"),
        ([*arguments[:3], *arguments[3:], "--num-heads", "3", *out], "num_heads 3 does not divide the width 16"),
        ([*arguments, "--no-time-norm", *out], "unexpected time_layer_norm.bias"),
        ([*arguments, "--out", str(tmp_path / "full")], "is there already; give a new folder"),
    ):
        assert main(given) == 2
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert reason in errors[0]
        assert captured.out == ""
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
