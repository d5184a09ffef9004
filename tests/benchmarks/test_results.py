"""Result files: append-only, found by key, whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest

from vislex import provenance
from vislex.benchmarks.caption_data import CaptionData
from vislex.benchmarks.results import ModelInfo, Results, ResultsFile, Run, content_key, read_results
from vislex.errors import DataError


def _run(key: str) -> Run:
    return Run(key=key, task="captioning", model=ModelInfo(row=key), provenance={}, n=1, scores={"CIDEr-D": 1.0})


def _append(path: Path, start: int) -> None:
    for number in range(start, start + 5):
        ResultsFile(path).append(_run(f"run-{number}"))


def test_key_ignores_the_order_of_keys_and_sees_every_value() -> None:
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})


def test_appended_runs_are_found_again_with_their_data(tmp_path: Path, data: CaptionData) -> None:
    file = ResultsFile(tmp_path / "deep" / "results.json")
    file.append(_run("a"), data.record)
    file.append(_run("b"), data.record)
    loaded = ResultsFile(file.path).load()
    assert [run.key for run in loaded.runs] == ["a", "b"]
    assert loaded.data[data.record.key] == data.record
    assert file.find("b") is not None
    assert file.find("c") is None
    assert json.loads(file.path.read_text())["format"] == "vislex-results@1"


def test_a_finished_run_is_never_replaced(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "results.json")
    file.append(_run("a"))
    file.append(_run("a").model_copy(update={"scores": {"CIDEr-D": 9.0}}))
    assert [run.scores["CIDEr-D"] for run in file.load().runs] == [1.0]


def test_processes_that_append_at_once_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_append, args=(tmp_path / "results.json", start)) for start in (0, 5)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(ResultsFile(tmp_path / "results.json").load().runs) == 10
    assert not list(tmp_path.glob(".results.json.tmp*"))


def test_files_are_joined_and_folders_stand_for_their_file(tmp_path: Path) -> None:
    for name in "ab":
        ResultsFile(tmp_path / name / "results.json").append(_run(name))
    joined = read_results([tmp_path / "a", tmp_path / "b" / "results.json"])
    assert [run.key for run in joined.runs] == ["a", "b"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other"}', '{"runs": [{"key": 1}]}'])
def test_another_file_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DataError, match="not a result file of vislex"):
        ResultsFile(path).load()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no result file"):
        read_results([tmp_path / "none.json"])


def test_merge_keeps_the_first_config_and_every_run() -> None:
    first, second = Results(config={"margin": 1}, runs=[_run("a")]), Results(config={"margin": 2}, runs=[_run("b")])
    merged = first.merge(second)
    assert merged.config == {"margin": 1}
    assert [run.key for run in merged.runs] == ["a", "b"]


def test_provenance_says_how_a_number_was_made() -> None:
    collected = provenance.collect(seed=3, config={"a": 1})
    assert collected["seed"] == 3
    assert collected["config"] == {"a": 1}
    assert collected["packages"]["torch"]
    assert collected["command"]
    assert collected["time"].endswith("+00:00")
    json.dumps(collected)
