"""``vislex caption`` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from vislex.captioner import Captioner
from vislex.cli.caption import _print_steps
from vislex.cli.console import console
from vislex.cli.main import main
from vislex.encoders.factory import create_encoder
from vislex.text import load_tokenizer, prune_tokenizer


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("models")

    def make(decoder: str) -> str:
        folder = root / decoder
        if not folder.is_dir():
            tokenizer = prune_tokenizer(load_tokenizer(), ["a cat and two dogs"])[0]
            options = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_length": 8}
            encoder = create_encoder("siglip-tiny", tiny=True)
            parts = {"encoder": encoder, "decoder": decoder, "tokenizer": tokenizer}
            Captioner.from_parts(**parts, **options).save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(scope="module")
def model(make_model: Callable[[str], str]) -> str:
    return make_model("cross_attention")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in ("1", "2", "3"):
        Image.fromarray(random.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def test_files_folders_and_globs(model: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, count in (([str(images / "1.png")], 1), ([str(images)], 3), ([str(images / "[12].png")], 2)):
        assert main(["caption", *given, "--model", model, "--json", "--batch-size", "2"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert [set(row) for row in rows] == [{"id", "caption", "evaluations", "seconds"}] * count
    assert main(["caption", str(images), "-m", model, "--num-beams", "2", "--max-new-tokens", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_blanks_are_filled(model: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["caption", str(images), "--model", model, "--template", "A ___ and a ___.", "--json"]
    assert main(given) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 3
    assert all(row["caption"].startswith("A ") and " and a " in row["caption"] for row in rows)
    assert main([*given, "--blank-lengths", "1,1"]) == 0


@pytest.mark.parametrize("decoder", ["cross_attention", "masked"])
def test_a_trace_is_printed_or_listed(
    make_model: Callable[[str], str], images: Path, capsys: pytest.CaptureFixture[str], decoder: str
) -> None:
    given = ["caption", str(images / "1.png"), "--model", make_model(decoder), "--trace"]
    assert main([*given, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)[0]
    steps = row["trace"]
    assert len(steps) == row["evaluations"]
    assert steps[-1]["time"] == 0
    assert all(len(step["words"]) == len(step["changed"]) == len(step["pieces"]) for step in steps)
    assert main(given) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "left", "words"]
    assert [line.split()[2:] for line in lines[1:-1]] == [step["words"] for step in steps]
    assert lines[-1].endswith(row["caption"])
    with console.capture() as captured:
        _print_steps([{"time": 0.5, "words": ["a", "___"], "changed": [True, False]}])
    assert captured.get().splitlines()[1] == "   1   50%  a ___"


def test_changed_words_are_highlighted(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = Console(force_terminal=True, color_system="standard", highlight=False)
    monkeypatch.setattr("vislex.cli.console.console", coloured, raising=False)
    with coloured.capture() as captured:
        _print_steps([{"time": 0.5, "words": ["one", "two", "___"], "changed": [True, False, False]}])
    assert "\x1b[1;32mone\x1b[0m two \x1b[2m___" in captured.get()


def test_options_and_the_seed_reach_the_decoder_whatever_the_batch(
    model: str, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ["--option", "do_sample=true", "--option", "min_new_tokens=6"]
    given = ["caption", str(images), "--model", model, "--json", *drawn]

    def captions(*more: str) -> list[str]:
        assert main([*given, *more]) == 0
        return [row["caption"] for row in json.loads(capsys.readouterr().out)]

    assert captions() == captions("--batch-size", "2") == captions("--seed", "0")
    assert captions() != captions("--seed", "1")
    assert main([*given, "--option", "num_candidates=3"]) == 0
    assert all(row["evaluations"] >= 18 for row in json.loads(capsys.readouterr().out))


def test_a_bad_image_does_not_lose_the_rest(model: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (images / "2.png").write_text("<html>404</html>")
    out = images / "captions.jsonl"
    assert main(["caption", str(images), "--model", model, "--out", str(out)]) == 0
    assert [Path(json.loads(line)["id"]).stem for line in out.read_text().splitlines()] == ["1", "3"]
    said = capsys.readouterr()
    assert "2 captions written" in said.out
    assert "2.png" in said.err
    assert "1 of 3 images could not be read" in said.err


def test_it_resumes_where_it_stopped(model: str, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = images / "captions.jsonl"
    arguments = ["caption", str(images), "--model", model, "--out", str(out)]
    assert main([*arguments[:1], str(images / "1.png"), *arguments[2:]]) == 0
    first = out.read_text()
    out.write_text(first + '{"id": "torn')  # killed while writing
    assert main(arguments) == 0
    assert out.read_text().startswith(first)
    assert len(out.read_text().splitlines()) == 3
    capsys.readouterr()
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "0 captions written" in said.out
    assert "3 of 3 images are already in" in said.err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere.png"], "no such image file"),
        (["{images}", "--model", "captioner-nowhere"], "no shipped model 'captioner-nowhere'"),
        (["{images}/bad.png", "--model", "{model}"], "1 of 1 images could not be read"),
        (["{images}", "--model", "{model}", "--max-new-tokens", "99"], "ask for at most 7"),
        (["{images}", "--model", "{model}", "--template", "a dog"], "has no blank"),
        (["{images}", "--template", "a ___", "--num-beams", "2"], "--template fixes the length"),
        (["{images}", "--template", "a ___", "--trace"], "nor --trace"),
        (["{images}", "--model", "{model}", "--option", "num_candidates=2"], "add do_sample=True"),
        (["{images}", "--blank-lengths", "2"], "belongs to --template"),
        (["{images}", "--template", "a ___", "--blank-lengths", "two"], "at least 1"),
    ],
)
def test_mistakes_are_one_line(
    model: str, images: Path, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    (images / "bad.png").write_bytes((images / "1.png").read_bytes()[:90])
    arguments = [word.format(images=images, model=model) for word in given]
    assert main(["caption", *arguments]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
