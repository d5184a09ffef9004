"""Scores of answers to questions on images; each has an id and a version, and says which evaluation it repeats.

The functions named after an evaluation score one answer. ``SCORERS`` holds the corpus scores that the catalog lists:
they take a list of predictions and a list of references, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vislex.errors import DataError
from vislex.metrics.base import Scorer
from vislex.metrics.vqa_text import edit_distance, extract_choice, normalize_answer, normalize_official, says_yes

__all__ = [
    "SCORERS",
    "anls",
    "by_type",
    "chartqa_relaxed",
    "gqa_match",
    "mmvp_pairs",
    "pair_accuracy",
    "pope",
    "scienceqa",
    "vqa_official",
    "vqa_soft",
]


def vqa_official(prediction: str, answers: Sequence[str]) -> float:
    """Accuracy of one answer as the official VQAv2 evaluation computes it, bit for bit.

    Both sides are normalised only where the human answers are not all equal. Each human answer is left out in turn:
    the mean of min(1, matches / 3). Antol et al., 1505.00468.

    Args:
        prediction: The answer.
        answers: The human answers, usually ten.

    Returns:
        Accuracy in [0, 1].

    Raises:
        DataError: If there is no human answer, or something is no string.
    """
    _check(prediction, answers)
    said, truths = _one_line(prediction), [_one_line(answer) for answer in answers]
    if len(set(truths)) > 1:
        said, truths = normalize_official(said), [normalize_official(truth) for truth in truths]
    matches = truths.count(said)
    return sum(min(1.0, (matches - (truth == said)) / 3) for truth in truths) / len(truths)


def vqa_soft(prediction: str, answers: Sequence[str]) -> float:
    """min(1, equal human answers / 3), in [0, 1]: no leaving out, no normalisation (OKVQA, VizWiz in some harnesses).

    Raises:
        DataError: As ``vqa_official``.
    """
    _check(prediction, answers)
    return min(1.0, list(answers).count(prediction) / 3)


def gqa_match(prediction: str, answer: str) -> float:
    """1 if both are equal without case, punctuation and surplus spaces, else 0 (as lmms-eval scores GQA)."""
    _check(prediction, [answer])
    return float(normalize_answer(prediction) == normalize_answer(answer))


def scienceqa(prediction: str, choices: Sequence[str], answer: int) -> float:
    """1 if the answer means the right choice (``extract_choice``), else 0.

    Args:
        prediction: The answer: a letter, an index from 0, the text of a choice, or a sentence with one of them.
        choices: The texts of the choices.
        answer: Index of the right one.

    Raises:
        DataError: If there are no choices or the index is none of theirs.
    """
    _check(prediction, choices)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(f"the right choice is {answer!r}; it must be an index below {len(choices)}")
    return float(extract_choice(prediction, choices) == answer)


def anls(prediction: str, answers: Sequence[str], *, threshold: float = 0.5) -> float:
    """Average normalised Levenshtein similarity of one answer (Biten et al., 1907.00490, equation 1), in [0, 1].

    Args:
        prediction: The answer.
        answers: Right answers; the most similar counts.
        threshold: A normalised distance of at least this scores 0.

    Raises:
        DataError: As ``vqa_official``.
    """
    _check(prediction, answers)
    said, best = " ".join(prediction.lower().split()), 0.0
    for answer in answers:
        truth = " ".join(answer.lower().split())
        longest = max(len(said), len(truth))
        if longest and abs(len(said) - len(truth)) / longest >= threshold:
            continue  # the distance is at least the difference of the lengths
        distance = edit_distance(said, truth) / longest if longest else 0.0
        best = max(best, 1 - distance if distance < threshold else 0.0)
    return best


def chartqa_relaxed(prediction: str, answer: str, *, tolerance: float = 0.05) -> float:
    """Relaxed accuracy of ChartQA (Methani et al., 1909.00997): numbers may be 5 % off, other answers are equal.

    "12%" is 0.12. A right answer of 0 must be met as text, for nothing is within a share of it.

    Args:
        prediction: The answer.
        answer: The right one.
        tolerance: Largest relative error of a number.
    """
    _check(prediction, [answer])
    said, truth = _number(prediction), _number(answer)
    if said is not None and truth:
        return float(abs(said - truth) <= tolerance * abs(truth))
    return float(prediction.strip().lower() == answer.strip().lower())


def pope(predictions: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """POPE (Li et al., 2305.10355): "accuracy", "precision", "recall", "F1" of "yes", and the share of "yes".

    Args:
        predictions: Free text; read by ``says_yes``.
        answers: "yes" or "no" each.

    Raises:
        DataError: If there is nothing to score, the numbers differ, or an answer is neither.
    """
    _check_lists(predictions, answers)
    truths = [answer.strip().lower() for answer in answers]
    if wrong := [truth for truth in truths if truth not in ("yes", "no")]:
        raise DataError(f"the answers of POPE are 'yes' or 'no'; one is '{wrong[0]}'")
    said = [says_yes(prediction) for prediction in predictions]
    right = sum(yes and truth == "yes" for yes, truth in zip(said, truths, strict=True))
    precision = right / sum(said) if any(said) else 0.0
    recall = right / truths.count("yes") if "yes" in truths else 0.0
    return {
        "accuracy": sum(yes == (truth == "yes") for yes, truth in zip(said, truths, strict=True)) / len(truths),
        "precision": precision,
        "recall": recall,
        "F1": 2 * precision * recall / (precision + recall) if right else 0.0,
        "yes": sum(said) / len(said),
    }


def mmvp_pairs(predictions: Sequence[str], answers: Sequence[tuple[Sequence[str], int]]) -> dict[str, float]:
    """MMVP (Tong et al., 2401.06209): a pair of questions counts where both are answered right.

    Args:
        predictions: Free text; read by ``extract_choice``. Rows 2k and 2k + 1 are a pair.
        answers: The choices and the index of the right one, each.

    Returns:
        "pairs": share of the pairs, "accuracy": share of the questions.
    """
    _check_lists(predictions, answers)
    right = [scienceqa(said, *truth) for said, truth in zip(predictions, answers, strict=True)]
    return {"pairs": pair_accuracy(right), "accuracy": sum(right) / len(right)}


def pair_accuracy(scores: Sequence[float]) -> float:
    """Share of the pairs (rows 2k and 2k + 1) whose two scores are both 1.

    Raises:
        DataError: If there is no pair, or a row without one.
    """
    if not scores or len(scores) % 2:
        raise DataError(f"there are {len(scores)} scores; pairs need an even number of rows, two of each pair in turn")
    both = [first == second == 1 for first, second in zip(scores[::2], scores[1::2], strict=True)]
    return sum(both) / len(both)


def by_type(scores: Sequence[float], types: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean score and number of questions of each question type, sorted by name: {"type": {"accuracy", "n"}}."""
    _check_lists(scores, types)
    groups: dict[str, list[float]] = {}
    for score, kind in zip(scores, types, strict=True):
        groups.setdefault(kind, []).append(score)
    return {kind: {"accuracy": sum(own) / len(own), "n": len(own)} for kind, own in sorted(groups.items())}


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.removesuffix("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def _check(prediction: Any, answers: Any) -> None:
    if not isinstance(prediction, str):
        raise DataError(f"the prediction is {type(prediction).__name__}; allowed is a string")
    if isinstance(answers, str) or not len(answers) or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"the right answers are {answers!r}; allowed is a list of at least one string")


def _check_lists(predictions: Sequence[Any], answers: Sequence[Any]) -> None:
    if not predictions or len(predictions) != len(answers):
        raise DataError(f"{len(predictions)} predictions and {len(answers)} answers; give one each, and at least one")


def _mean(score: Callable[..., float], unpack: bool = False) -> Callable[..., Mapping[str, float]]:
    """The corpus score of a score of one answer."""

    def corpus(predictions: Sequence[str], answers: Sequence[Any]) -> dict[str, float]:
        _check_lists(predictions, answers)
        pairs = zip(predictions, answers, strict=True)
        scores = [score(said, *truth) if unpack else score(said, truth) for said, truth in pairs]
        return {"accuracy": sum(scores) / len(scores)}

    return corpus


def _scorer(name: str, score: Callable[..., Mapping[str, float]], *keys: str) -> Scorer:
    return Scorer(name, keys or ("accuracy",), ("predictions", "answers"), score)


VQA_OFFICIAL = _scorer("vqa-official@1", _mean(vqa_official))
VQA_SOFT = _scorer("vqa-soft@1", _mean(vqa_soft))
GQA = _scorer("gqa@1", _mean(gqa_match))
SCIENCEQA = _scorer("scienceqa@1", _mean(scienceqa, unpack=True))
ANLS = _scorer("anls@1", _mean(anls))
CHARTQA = _scorer("chartqa@1", _mean(chartqa_relaxed))
POPE = _scorer("pope@1", pope, "accuracy", "precision", "recall", "F1", "yes")
MMVP = _scorer("mmvp@1", mmvp_pairs, "pairs", "accuracy")

SCORERS = {scorer.id: scorer for scorer in (VQA_OFFICIAL, VQA_SOFT, GQA, SCIENCEQA, ANLS, CHARTQA, POPE, MMVP)}
