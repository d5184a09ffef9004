"""``vislex bench`` and ``vislex report`` as a user calls them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vislex.benchmarks.results import read_results
from vislex.captioner import Captioner
from vislex.cli.main import main
from vislex.encoders.factory import create_encoder
from vislex.text import load_tokenizer, prune_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer = prune_tokenizer(load_tokenizer(), ["a cat and two dogs on a red background"])[0]
    encoder = create_encoder("siglip-tiny", tiny=True)
    options = {"hidden_size": 32, "num_layers": 1, "num_heads": 2}
    made = tmp_path_factory.mktemp("models") / "tiny"
    Captioner.from_parts(encoder=encoder, decoder="prefix", tokenizer=tokenizer, **options).save_pretrained(made)
    return made


def test_bench_captioning_appends_results_that_report_reads(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--size", "6", "--images", "2", "--max-new-tokens", "4", "--batch-size", "3", "--json"]
    assert main(["bench", "captioning", "--model", str(folder), *options, "--out", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["origin"] for row in rows} == {"local", "floor", "ceiling"}
    assert all(0 <= row["CIDEr-D"] <= 10 for row in rows)
    results = read_results([tmp_path])
    assert len(results.runs) == 4
    assert "bench captioning" in results.runs[0].provenance["command"] or results.runs[0].provenance["command"]
    assert main(["report", str(tmp_path), "--title", "Mine"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "<title>Mine</title>" in page
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")


def test_options_of_the_decoder_reach_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["bench", "captioning", "-m", str(folder), "--size", "2", "--images", "1", "--no-bounds", "--json"]
    assert main([*shared, "--option", "min_new_tokens=7", "--option", "max_new_tokens=7"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["evaluations"] == 7
    assert main([*shared, "--option", "min_new_token=7"]) == 2
    assert "did you mean 'min_new_tokens'" in capsys.readouterr().err


def test_two_models_of_the_same_parts_have_two_rows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Captioner.from_pretrained(folder)
    next(other.decoder.parameters()).data += 1.0
    other.save_pretrained(tmp_path / "other")
    both = ["-m", str(folder), "-m", str(tmp_path / "other")]
    assert main(["bench", "captioning", *both, "--size", "2", "--images", "0", "--no-bounds", "--json"]) == 0
    rows = [row["row"] for row in json.loads(capsys.readouterr().out)]
    assert sorted(row.split(" ")[-1] for row in rows) == ["(other)", "(tiny)"]


def test_options_of_the_data_reach_it(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["bench", "captioning", "-m", str(folder), "--size", "2", "--images", "0", "--no-bounds", "--json"]
    assert main([*shared, "--data-option", "vocabulary=core", "--out", str(tmp_path)]) == 0
    [record] = read_results([tmp_path]).data.values()
    assert record.provenance["vocabulary"] == "core"
    assert main([*shared, "--data-option", "vocabularie=core"]) == 2
    assert "did you mean 'vocabulary'" in capsys.readouterr().err
    assert main(["bench", "latency", "-m", str(folder), "--data-option", "vocabulary=core"]) == 2
    assert "takes no --data-option" in capsys.readouterr().err


def test_bench_latency_prints_a_row_a_batch_size(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--batch-sizes", "1,2", "--new-tokens", "3", "--repeats", "1", "--json"]
    assert main(["bench", "latency", "-m", str(folder), *options]) == 0
    assert [row["batch size"] for row in json.loads(capsys.readouterr().out)] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "captionning"], "did you mean 'captioning'"),
        (["bench", "captioning", "--model", "nowhere", "--size", "2"], "no captioner folder"),
        (["bench", "captioning", "--model", "x", "--data", "openmojy", "--size", "2"], "did you mean 'openmoji'"),
        (["bench", "latency", "--model", "x", "--batch-sizes", "1,many"], "positive numbers"),
        (["bench", "captioning", "ladic"], "takes no 'ladic'"),
        (["bench", "reproduce", "ladik"], "did you mean 'ladic'"),
        (["bench", "reproduce", "ladic"], "reports BLEU-4 38.2, CIDEr-D 126.2"),
        (["bench", "reproduce", "ladic", "--data", "coco:there"], "No model was given: train one with"),
        (["report"], "no result file given"),
        (["report", "nowhere"], "there is no result file"),
        (["report", "--judge-csv", "x.csv"], "--judge-key"),
        (["compare"], "nothing to compare"),
        (["compare", "--encoders", "siglip-tiny"], "belong together"),
        (["compare", "--models", "a", "sizze=3"], "size"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("verb", ["bench", "compare", "report"])
def test_help_shows_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"vislex {verb} " in out
    assert "\b" not in out


def test_bench_probe_prints_accuracies_and_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "cache"))
    words = ["bench", "probe", "-e", "siglip-tiny", "-e", "siglip-tiny@untrained", "--size", "20"]
    words += ["--out", str(tmp_path), "--option", "train_size=30", "--option", "val_size=20"]
    words += ["--option", "probes=[linear]", "--option", "settings.epochs=1"]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["encoder"] for row in printed["accuracies"][:2]] == ["siglip-tiny", "siglip-tiny@untrained"]
    assert (tmp_path / "probe.json").is_file()
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "difference from siglip-tiny" in text
    assert "never named" in text
    assert main(["bench", "probe"]) == 2
    assert "no encoder given" in capsys.readouterr().err
    assert main(["bench", "captioning", "-e", "siglip-tiny"]) == 2
    assert "takes no --encoder" in capsys.readouterr().err


def test_bench_lmms_says_what_is_missing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    assert main(["bench", "lmms", "vislex_openmoji_caption", "-m", str(folder)]) == 2
    assert "pip install 'vislex[eval]'" in capsys.readouterr().err
