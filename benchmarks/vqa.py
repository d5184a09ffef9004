"""Questions on images: accuracy by question type, and what can be answered without looking.

Every question is scored by the official VQAv2 accuracy where there are several human answers, by GQA's exact match
where there is one. The floor gives each question the most common answer of its template in the training rows. A model
can also be asked without the images: what it then knows is not seen.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vislex.benchmarks.caption_data import data_uri
from vislex.benchmarks.results import DataRecord, ModelInfo, Run
from vislex.benchmarks.vlm_rows import (
    AnsweringModel,
    Progress,
    bound_run,
    chunks_of,
    model_run,
    rows_and_record,
    rows_of_files,
    timing_of,
)
from vislex.data import load_suite
from vislex.metrics.vqa import GQA, VQA_OFFICIAL, gqa_match, vqa_official

__all__ = ["FLOOR", "TYPE", "WITHOUT_IMAGES", "VqaData", "evaluate", "floor_run", "load_vqa_data", "majority_answers"]

FLOOR = "floor: most common answer to the template"
WITHOUT_IMAGES = ", without images"
TYPE = "accuracy: "  # before a question type in ``Run.scores``
COMMON = 0.05  # words in this share of a type's questions belong to templates; others fill their blanks
_WORD = re.compile(r"[\w'-]+|[^\w\s]")

Asked = tuple[str, str, str]  # question, answer, type


@dataclass
class VqaData:
    """Questions with their answers.

    Attributes:
        record: What a result file keeps of them; ``references`` are the human answers.
        rows: Rows with "image", in the order of ``record.ids``.
        train: Questions, answers and types of training rows, for the floor; empty for files.
    """

    record: DataRecord
    rows: Any
    train: list[Asked]

    @property
    def scorer(self) -> str:
        """Id of the scorer."""
        return VQA_OFFICIAL.id if self._several else GQA.id

    @property
    def _several(self) -> bool:
        return any(len(answers) > 1 for answers in self.record.references.values())

    def score(self, answers: Sequence[str]) -> dict[str, Any]:
        """``scores``, ``per_image`` and ``captions`` of answers in the order of ``record.ids``."""
        references = [self.record.references[identity] for identity in self.record.ids]
        right = [
            vqa_official(given, own) if self._several else gqa_match(given, own[0])
            for given, own in zip(answers, references, strict=True)
        ]
        grouped = defaultdict(list)
        for identity, value in zip(self.record.ids, right, strict=True):
            grouped[self.record.types[identity]].append(value)
        scores = {"accuracy": float(np.mean(right))}
        scores |= {f"{TYPE}{kind}": float(np.mean(values)) for kind, values in sorted(grouped.items())}
        return {
            "scores": {name: round(value, 6) for name, value in scores.items()},
            "per_image": {"accuracy": [round(value, 6) for value in right]},
            "captions": list(answers),
            "scorers": [self.scorer],
        }


def load_vqa_data(
    data: str = "openmoji",
    *,
    split: str = "test_composition",
    size: int = 1000,
    seed: int = 0,
    n_images: int = 24,
    n_train: int = 5000,
    **options: Any,
) -> VqaData:
    """Questions of a suite or of ``SOURCE:FOLDER``.

    Args:
        data: Which.
        split: Its split.
        size: Questions.
        seed: Of a drawn suite.
        n_images: Images that the result file keeps for its report, those of the first rows.
        n_train: Training questions that the floor may look at.
        **options: Further options of ``load_suite`` (``vocabulary``).
    """
    rows, record = rows_and_record(
        "vqa", data, split=split, size=size, seed=seed, prompt="question", kind="question_type", **options
    )
    record.references = {
        identity: list(answers or [answer])
        for identity, answers, answer in zip(
            record.ids, *(rows.with_format(None)[name] for name in ("answers", "answer")), strict=True
        )
    }
    record.images = {record.ids[i]: data_uri(rows[i]["image"]) for i in range(min(n_images, len(rows)))}
    if rows_of_files(data):
        return VqaData(record, rows, [])
    known = load_suite(data, "vqa", split="train", size=n_train, seed=seed, **options).with_format(None)
    return VqaData(record, rows, list(zip(known["question"], known["answer"], known["question_type"], strict=True)))


def evaluate(
    model: AnsweringModel,
    info: ModelInfo,
    data: VqaData,
    *,
    images: bool = True,
    batch_size: int = 64,
    max_new_tokens: int = 16,
    key: str | None = None,
    on_progress: Progress | None = None,
    **options: Any,
) -> Run:
    """Asks a model all questions.

    Args:
        model: The model.
        info: What it is.
        data: The questions.
        images: False asks without the images: a floor.
        batch_size: Questions a batch.
        max_new_tokens: Most tokens of an answer.
        key: Key of the run; made of the weights' hash if None.
        on_progress: Called with the number of questions answered since the last call.
        **options: Further options of ``model.ask``.
    """
    answers = []
    for chunk in chunks_of(data.rows, batch_size):
        shown = [row["image"] if images else [] for row in chunk]
        asked = [row["question"] for row in chunk]
        answers += model.ask(shown, asked, batch_size=batch_size, max_new_tokens=max_new_tokens, **options)
        if on_progress is not None:
            on_progress(len(chunk))
    if not images:
        info = info.model_copy(update={"row": info.row + WITHOUT_IMAGES, "origin": "floor"})
    generation = {"max_new_tokens": max_new_tokens, "images": images, **options}
    timing = timing_of([own.seconds for own in answers], [own.new_tokens for own in answers], batch_size)
    scored = data.score([own.text for own in answers])
    return model_run("vqa", model, info, data.record, generation, key=key, timing=timing, **scored)


def floor_run(data: VqaData) -> Run:
    """The run of the most common answers."""
    asked = [(data.record.prompts[identity], data.record.types[identity]) for identity in data.record.ids]
    return bound_run("vqa", FLOOR, "floor", data.record, **data.score(majority_answers(asked, data.train)))


def majority_answers(asked: Sequence[tuple[str, str]], train: Sequence[Asked]) -> list[str]:
    """The most common answer to each question's template in training questions; that of its type where it has none.

    A template is the question with blanks for its rare words. An answer that stands in a blank ("the dog or the cat?")
    counts as that blank: the floor may prefer what is named first.

    Args:
        asked: Questions and their types.
        train: Questions, answers and types.
    """
    questions = defaultdict(list)
    for question, _, kind in train:
        questions[kind].append(set(_WORD.findall(question.lower())))
    common = {
        kind: {word for word, n in Counter(w for own in sets for w in own).items() if n >= COMMON * len(sets)}
        for kind, sets in questions.items()
    }
    counts: dict[Any, Counter[Any]] = defaultdict(Counter)
    for question, answer, kind in train:
        template, blanks = _template(question, common[kind])
        label = blanks.index(answer.lower()) if answer.lower() in blanks else answer
        for key in ((kind, template), kind, None):
            counts[key][label] += 1
    given = []
    for question, kind in asked:
        template, blanks = _template(question, common.get(kind, set()))
        found: Counter[Any] = next((counts[k] for k in ((kind, template), kind, None) if k in counts), Counter())
        allowed = (own for own, _ in found.most_common() if isinstance(own, str) or own < len(blanks))
        label = next(allowed, "")
        given.append(label if isinstance(label, str) else blanks[label])
    return given


def _template(question: str, common: set[str]) -> tuple[str, list[str]]:
    """A question with "_" for each run of words that are not common, and these."""
    words: list[str] = []
    blanks: list[str] = []
    for word in _WORD.findall(question.lower()):
        if word in common:
            words.append(word)
        elif words and words[-1] == "_":
            blanks[-1] += f" {word}"
        else:
            words.append("_")
            blanks.append(word)
    return " ".join(words), blanks
