"""``vislex ask``, ``vislex segment`` and ``vislex merge`` on a tiny model and its adapters."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.adapters.merging import open_vlm
from vislex.adapters.vlm import VisionLanguageModel
from vislex.adapters.vlm_segment import prepare_codec
from vislex.cli.main import main
from vislex.errors import ConfigError
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.adapters import save_adapters
from vislex.training.parts import PartSettings, prepare_parts

Out = Callable[[], tuple[str, str]]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, adapters that belong to it, and an image."""
    folder = tmp_path_factory.mktemp("vlm")
    torch.manual_seed(0)
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), ["what is red? a blue kite"])[0])
    llm = vislex.create_llm("llama3.2-1b", tiny=True, vocab_size=len(tokenizer))
    with torch.no_grad():
        for parameter in llm.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
    encoder = vislex.create_encoder("siglip-tiny", tiny=True)
    options = {"n_tokens": 3, "num_heads": 2}
    model = VisionLanguageModel.from_parts(
        encoder=encoder, connector="attention_pool", llm=llm, tokenizer=tokenizer, **options
    )
    model.eval().save_pretrained(folder / "model")
    parts = {name: PartSettings(mode="frozen") for name in ("encoder", "connector")}
    plan = prepare_parts(model, parts | {"llm": PartSettings(mode="lora")}, lr=1.0, weight_decay=0.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.3)
    save_adapters(model, plan, folder / "adapters", base=folder / "model")
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    return folder


def test_questions_are_answered(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, model = str(saved / "a.png"), ["--model", str(saved / "model")]
    short = ["--max-new-tokens", "3", "--option", "min_new_tokens=3"]
    assert main(["ask", image, "what is red?", "blue?", *model, *short]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert main(["ask", image, "what is red?", *model, *short, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["question"], row["text"], row["new_tokens"]) == ("what is red?", lines[0], 3)
    for more in (["--also", image], ["--n-tokens", "1"], ["--system", "a kite"], ["--num-beams", "2"]):
        assert main(["ask", image, "what is red?", *model, *short, *more]) == 0
    capsys.readouterr()
    assert main(["ask", image, "what is red?", *model, "--n-tokens", "4"]) == 2
    assert "n_tokens 4 must be 1 to 3" in capsys.readouterr().err
    assert main(["ask", "nothing.png", "what is red?", *model]) == 2
    assert "no such image" in capsys.readouterr().err


def test_masks_are_drawn(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = VisionLanguageModel.from_pretrained(saved / "model")
    image, short = str(saved / "a.png"), ["--max-new-tokens", "6"]
    assert main(["segment", image, "a kite", "--model", str(saved / "model"), *short]) == 2
    assert "was not trained to segment" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="its tokenizer lacks 1024 tokens"):
        model.segment(image, "a kite", codec="box")
    with pytest.raises(ConfigError, match="this tokenizer cannot write codec 'text_rle'"):
        prepare_codec(model, "text_rle")
    codec, added = prepare_codec(model, "box")
    assert added == 1024
    text = codec.encode_one(np.pad(np.ones((5, 10), dtype=bool), ((2, 13), (4, 16))))
    spoken = torch.tensor(model.processor.tokenizer(text, add_special_tokens=False)["input_ids"])
    assert len(spoken) == 4
    with torch.no_grad():  # the model always says this box, whatever it sees
        for parameter in model.llm.model.layers.parameters():
            parameter.zero_()
        width = model.get_input_embeddings().weight.shape[1]
        table = torch.nn.Linear(width, len(model.processor.tokenizer), bias=False)
        chain = [model.processor.tokenizer.convert_tokens_to_ids("<|assistant|>"), *spoken.tolist()]
        chain.append(model.processor.tokenizer.eos_token_id)
        model.get_input_embeddings().weight.zero_()
        table.weight.zero_()
        for place, (now, after) in enumerate(itertools.pairwise(chain)):
            model.get_input_embeddings().weight[now, place] = 1.0
            table.weight[after, place] = 1.0
    model.llm.config.tie_word_embeddings = False
    model.llm.lm_head = table
    (found, other) = model.segment([image, np.zeros((20, 30, 3), dtype=np.uint8)], "a kite")
    assert found.invalid is None
    assert found.mask is not None
    assert found.mask[2:7, 4:14].all()
    assert found.mask.sum() == 50
    assert (found.new_tokens, other.decoded.size) == (5, (20, 30))
    model.save_pretrained(tmp_path / "model")
    out = tmp_path / "overlay.png"
    shared = ["segment", image, "a kite", "red", "--model", str(tmp_path / "model"), "--out", str(out)]
    assert main([*shared, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["boxes"] for row in rows] == [[[2, 4, 7, 14]]] * 2
    assert rows[0]["pixels"] == 50
    drawn = np.asarray(Image.open(out))
    assert drawn.shape[1] % 30 == 0
    assert main([*shared, *short[:1], "2"]) == 0
    assert "a kite: no mask (2 location tokens" in capsys.readouterr().out
    assert main([*shared[:-1], str(tmp_path / "a.txt")]) == 2
    assert "write a .png" in capsys.readouterr().err


def test_a_mask_head_marks(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = VisionLanguageModel.from_pretrained(saved / "model")
    prepare_codec(model, "seg_head", hidden_size=16)
    token, end = model.mask_head.settings.token_id, model.processor.tokenizer.eos_token_id
    model.generation_config.sequence_bias = [[[token], 1e4], [[token, end], 1e6]]
    model.eval().save_pretrained(tmp_path / "model")
    image, out = str(saved / "a.png"), tmp_path / "overlay.png"
    shared = ["segment", image, "a kite", "red", "--model", str(tmp_path / "model"), "--out", str(out)]
    assert main([*shared, "--json", "--n-tokens", "1"]) == 0
    rows = json.loads(capsys.readouterr().out)
    found = model.segment(image, ["a kite", "red"], n_tokens=1)
    assert [row["pixels"] for row in rows] == [int(own.mask.sum()) for own in found]
    assert [(row["text"], row["invalid"], row["size"]) for row in rows] == [("<SEG>", None, [20, 30])] * 2
    assert out.is_file()
    assert main([*shared, "--codec", "box"]) == 2
    assert "its tokenizer lacks 1024 tokens" in capsys.readouterr().err
    assert main([*shared, "--max-new-tokens", "1", "--option", f"suppress_tokens=[{token}]"]) == 0
    assert "no mask (the text is not <SEG>)" in capsys.readouterr().out


def test_adapters_are_merged(saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "merged"
    assert main(["merge", str(saved / "adapters"), "--out", str(out), "--standalone"]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    ask = ["ask", str(saved / "a.png"), "what is red?", "--max-new-tokens", "6", "--option", "min_new_tokens=6"]
    answers = []
    for folder in (out, saved / "adapters", saved / "model"):
        assert main([*ask, "--model", str(folder)]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]
    assert main(["merge", str(saved / "adapters"), "--out", str(out)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["merge", str(saved / "model"), "--out", str(tmp_path / "other")]) == 2
    assert "nothing to merge" in capsys.readouterr().err


@pytest.fixture(scope="module")
def scenes() -> list[dict[str, Any]]:
    """Questions of val that no training saw."""
    rows = vislex.data.load_suite("openmoji", "vqa", split="val", size=80, vocabulary="core")
    return [rows[i] for i in range(len(rows))]


def test_the_shipped_model_answers_and_marks(
    scenes: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes[0]["image"].save(tmp_path / "a.png")
    assert main(["ask", str(tmp_path / "a.png"), scenes[0]["question"], "what color is the background?"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert main(["segment", str(tmp_path / "a.png"), "the largest object", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["invalid"] is None
    assert Image.open(tmp_path / "a-segmented.png").size >= scenes[0]["image"].size


def test_the_shipped_model_sees(scenes: list[dict[str, Any]]) -> None:
    model = open_vlm("vlm")
    images, questions = ([row[name] for row in scenes] for name in ("image", "question"))
    seen, blind = (
        np.mean([given.text == row["answer"] for given, row in zip(answers, scenes, strict=True)])
        for answers in (model.ask(images, questions), model.ask([None] * len(scenes), questions))
    )
    assert seen > blind + 0.15
