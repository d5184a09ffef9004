"""The tasks that vislex brings to lmms-eval: their data, their scores, and what their answers look like."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lmms_eval", reason="the extra 'eval' is not installed")

from lmms_eval.tasks import get_task_dict
from lmms_eval.utils import load_yaml_config
from pycocotools.mask import encode

from vislex.adapters.instructions import CAPTION_PROMPT, SEGMENT_PROMPT
from vislex.adapters.vlm_segment import MAX_MASK_TOKENS
from vislex.benchmarks import lmms_run
from vislex.benchmarks.lmms_scores import read_masks, scores_of
from vislex.benchmarks.lmms_task import PLACES, TASKS_FOLDER, read_places
from vislex.errors import ConfigError
from vislex.metrics import score_captions
from vislex.metrics.masks import score_masks

RES = {
    f"vislex_{task}_res_{split}": (suite, split)
    for task, suite, splits in (
        ("refcoco", "refcoco", ("val", "testA", "testB")),
        ("refcoco_plus", "refcoco+", ("val", "testA", "testB")),
        ("refcocog", "refcocog", ("val", "test")),
    )
    for split in splits
}


def load(name: str) -> Any:
    return get_task_dict([name], lmms_run.task_manager([name]), "chat")[name]


def score(task: Any, answers: list[str]) -> dict[str, float]:
    """What lmms-eval makes of answers, whose records come in another order."""
    documents = list(task.eval_docs)
    records: dict[str, list[Any]] = {}
    for document, answer in reversed(list(zip(documents, answers, strict=True))):
        for name, record in task.process_results(document, [answer]).items():
            records.setdefault(name, []).append(json.loads(json.dumps(record)))
    return {name: task.aggregation()[name](own) for name, own in records.items()}


def as_answer(mask: np.ndarray) -> str:
    runs = encode(np.asfortranarray(mask.astype(np.uint8)))
    return json.dumps({"masks": [{"size": list(mask.shape), "counts": runs["counts"].decode()}]})


@pytest.fixture
def refcoco(tmp_path: Path, tiny_sources: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, by, splits in (
        ("refcoco", "unc", ("val", "testA", "testB")),
        ("refcoco+", "unc", ("val", "testA", "testB")),
        ("refcocog", "umd", ("val", "test")),
    ):
        tiny_sources.refcoco(tmp_path, name, by, splits)
    monkeypatch.setenv(PLACES, ",".join(f"{name}:{tmp_path}" for name in ("refcoco", "refcoco+", "refcocog")))
    return tmp_path


@pytest.mark.parametrize("name", sorted(RES))
def test_masks_of_refcoco_are_scored(name: str, refcoco: Path) -> None:
    task = load(name)
    suite, split = RES[name]
    assert (task.config.dataset_path, task.config.test_split) == (suite, split)
    documents = list(task.eval_docs)
    assert [task.doc_to_text(own) for own in documents] == [f"{SEGMENT_PROMPT} thing {i} of {split}" for i in (0, 1)]
    assert task.doc_to_messages(documents[0])[0]["content"][0]["url"].size == (10, 8)
    right = task.rows[0]["mask"]
    assert right.sum() == 16
    half = right.copy()
    half[:, :4] = False
    found = score(task, [as_answer(half), "the red one"])
    assert found == score_masks([half, None], [right, right])
    assert found["mIoU"] == 0.25
    assert found["invalid"] == 0.5
    assert score(task, [as_answer(right)] * 2)["cIoU"] == 1


def test_groups_hold_the_splits() -> None:
    names = ["vislex_refcoco_res", "vislex_refcoco_plus_res", "vislex_refcocog_res"]
    assert set(lmms_run.leaf_tasks(lmms_run.task_manager(names), names)) == set(RES)


@pytest.mark.parametrize(
    "text",
    ["", "<loc0001>", "[]", "{}", '{"masks": null}', '{"masks": [3]}', '{"masks": [{"size": [4, 4], "counts": "1"}]}',
     '{"masks": [{"size": [8, 10], "counts": [3]}]}', '{"masks": [{"counts": {}}]}', "[" * 100_000],
)  # fmt: skip
def test_any_other_text_is_no_mask(text: str) -> None:
    assert read_masks(text, (8, 10)) is None


def test_no_object_is_an_empty_mask() -> None:
    masks = read_masks('{"masks": []}', (8, 10))
    assert masks is not None
    assert not masks.any()


def test_videos_and_figures(tmp_path: Path, tiny_sources: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("msrvtt", "msvd", "scicap"):
        getattr(tiny_sources, name)(tmp_path / name)
    monkeypatch.setenv(PLACES, ",".join(f"{name}:{tmp_path / name}" for name in ("msrvtt", "msvd", "scicap")))
    captions = load("vislex_msrvtt_cap")
    part = captions.doc_to_messages(captions.eval_docs[1])[0]["content"][0]
    assert (part["type"], Path(part["url"]).name) == ("video", "video7011.mp4")
    assert score(captions, ["a man sings 0", "a man sings 1"])["BLEU-4"] == pytest.approx(1, abs=1e-6)
    questions = load("vislex_msrvtt_qa")
    assert score(questions, ["Sing."]) == {"accuracy": 1, "accuracy: what": 1}
    assert score(load("vislex_msvd_qa"), ["Bird."]) == {"accuracy": 1, "accuracy: who": 1}
    for split in ("val", "test"):
        assert score(load(f"vislex_scicap_{split}"), [f"the {split} loss ."])["ROUGE-L"] == 1


def test_the_score_of_many_languages_is_the_mean_of_each(
    tmp_path: Path, tiny_sources: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_sources.coco35l(tmp_path)
    monkeypatch.setenv(PLACES, f"coco35l:{tmp_path}")
    task = load("vislex_coco35l_cap")
    documents = list(task.eval_docs)
    assert "the language de." in task.doc_to_text(documents[0])
    answers = ["eine katze sitzt da 1" if own["language"] == "de" else "a cat 2 sits" for own in documents]
    found = score(task, answers)
    own = {}
    for language in ("de", "en", "fr"):
        chosen = [i for i, document in enumerate(documents) if document["language"] == language]
        candidates = {i: answers[i] for i in chosen}
        own[language] = score_captions(candidates, {i: documents[i]["captions"] for i in chosen})["CIDEr-D"]
        assert found[f"CIDEr-D: {language}"] == own[language]
    assert found["CIDEr-D"] == pytest.approx(np.mean(list(own.values())))
    assert own["de"] > own["fr"]


def test_prompts_and_settings_are_those_of_bench() -> None:
    names = ("caption", "vqa", "refseg")
    configs = {name: load_yaml_config(str(TASKS_FOLDER / f"vislex_openmoji_{name}.yaml")) for name in names}
    assert configs["caption"]["doc_to_text"] == CAPTION_PROMPT
    assert configs["refseg"]["doc_to_text"] == f"{SEGMENT_PROMPT} {{{{expression}}}}"
    assert configs["refseg"]["generation_kwargs"]["max_new_tokens"] == MAX_MASK_TOKENS
    for config in configs.values():
        assert config["test_split"] == "test_composition"
        assert config["dataset_kwargs"]["size"] == 1000


def test_every_score_says_whether_higher_is_better(refcoco: Path) -> None:
    task = load("vislex_refcocog_res_val")
    assert task.higher_is_better()["invalid"] is False
    assert all(better for name, better in task.higher_is_better().items() if name != "invalid")
    assert set(task.higher_is_better()) == set(scores_of("segmentation", task.eval_docs))


def test_places_of_data_sets() -> None:
    assert read_places("refcoco+:/a, msvd:hub:ORG/NAME,") == {"refcoco+": "/a", "msvd": "hub:ORG/NAME"}
    with pytest.raises(ConfigError, match="names no place"):
        read_places("refcoco")
