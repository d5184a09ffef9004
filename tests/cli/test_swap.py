"""``vislex swap``: a host's folder and an encoder's name give a folder that opens; mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

from vislex.cli.main import main


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("host")
    words = ["[PAD]", "<image>", "red", "dog"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[PAD]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", extra_special_tokens=["<image>"])
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=8, patch_size=4),
        text_config=LlamaConfig(**sizes, vocab_size=4),
        image_token_index=1,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    image_processor = SiglipImageProcessor(size={"height": 8, "width": 8})
    LlavaProcessor(
        image_processor, fast, patch_size=4, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    return str(folder)


def test_a_folder_an_encoder_and_what_info_says_later(
    host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "swapped"
    assert main(["swap", host, "siglip-tiny", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "siglip-tiny in llava, as a tower of transformers: 64 tokens an image" in shown
    assert "config.vision_feature_select_strategy" in shown
    assert "newly initialised: model.multi_modal_projector.linear_1.weight" in shown
    assert "opens it without vislex" in shown
    assert AutoModelForImageTextToText.from_pretrained(out).config.vision_config.hidden_size == 192

    assert main(["info", str(out), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["encoder"], facts["image tokens"]) == ("siglip-tiny (stock)", 64)
    assert {row["since the swap"] for row in facts["parts"]} == {"unchanged"}
    assert sum(row["parameters"] for row in facts["parts"]) == facts["parameters"]
    swap = json.loads((out / "swap.json").read_text())
    assert [row["sha256"] for row in facts["parts"]] == [row["sha256"] for row in swap["parts"]]

    weights = load_file(out / "model.safetensors")
    weights["multi_modal_projector.linear_1.bias"] += 1
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    assert main(["info", str(out)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "unchanged" in lines["encoder"]
    assert "unchanged" in lines["llm"]
    assert " changed " in lines["connector"]


def test_json_and_options(host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["swap", host, "dinov2-s14-registers", "--untrained", "--layer", "2", "--seed", "3", "--dtype", "bfloat16"]
    assert main([*given, "--out", str(tmp_path / "swapped"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["needs_vislex"], told["image_tokens"]) == ("wrapped", True, 256)
    assert "the encoder is untrained" in told["notes"]
    config = json.loads((tmp_path / "swapped" / "config.json").read_text())
    assert config["vision_config"]["encoder_config"]["layer"] == 2
    assert config["dtype"] == "bfloat16"


def test_mistakes_are_one_line(host: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new = ["--out", str(tmp_path / "new")]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    for given, reason in (
        ([host, "siglip-tiny", "--out", str(tmp_path / "full")], "is not empty; give a new folder"),
        ([host, "siglip-tinny", *new], "did you mean 'siglip-tiny' or 'vilex-siglip-tiny'?"),
        ([host, "siglip-tiny", "--n-tokens", "4", *new], "unknown option 'n_tokens' of the encoder 'siglip-tiny'"),
        ([str(tmp_path / "full"), "siglip-tiny", *new], "no host can be read from"),
        ([host, "siglip-tiny", "--dtype", "int8", *new], "unknown dtype 'int8'"),
        ([host], "Missing argument 'ENCODER'"),
    ):
        assert main(["swap", *given]) == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert reason in errors[0]
    assert not (tmp_path / "new").exists()
