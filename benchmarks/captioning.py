"""Captioning: quality, wall time and network evaluations of a captioner, with a floor below and a ceiling above."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vislex import provenance
from vislex.benchmarks.caption_cost import time_captions
from vislex.benchmarks.caption_data import (
    CaptionData,
    constant_caption,
    held_out_references,
    nearest_captions,
    training_captions,
)
from vislex.benchmarks.caption_models import CaptionModel
from vislex.benchmarks.results import ModelInfo, Run, Step, Timing, content_key

__all__ = ["FLOORS", "Generation", "bound_runs", "evaluate", "run_key", "score"]

FLOORS = ("floor: one caption for all", "floor: nearest image's caption")
CEILING = "ceiling: a held-out reference"
DIGITS = 6


class Generation(BaseModel):
    """How captions are generated: the same for every row of a table.

    Attributes:
        num_beams: Beams; 1 is greedy.
        max_new_tokens: Most word pieces of a caption; None is what the decoder has positions for, 40 in a stock model.
        prompt: Text that a stock captioner starts from; vislex decoders take none.
        options: Further options of the decoder's ``generate`` (``num_inference_steps``, ``guidance_scale``, ...).
    """

    model_config = ConfigDict(extra="forbid")

    num_beams: int = Field(default=1, ge=1)
    max_new_tokens: int | None = Field(default=None, ge=1)
    prompt: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """All of it as keyword arguments of ``CaptionModel.caption``."""
        return {**self.model_dump(exclude={"options"}), **self.options}


def run_key(
    model: dict[str, Any] | str | None, data: CaptionData, generation: Generation, batch_size: int, dtype: str
) -> str:
    """Key of a captioning run.

    Args:
        model: Hash of the weights, or the config of the training that makes them.
        data: What is captioned.
        generation: How.
        batch_size: Batch size of the throughput.
        dtype: Of the weights.
    """
    return content_key(
        {
            "task": "captioning",
            "model": model,
            "data": data.record.key,
            "generation": generation.settings(),
            "batch_size": batch_size,
            "dtype": dtype,
            "scorers": scorer_ids(),
        }
    )


def evaluate(
    model: CaptionModel,
    data: CaptionData,
    *,
    generation: Generation | None = None,
    batch_size: int = 64,
    n_latency: int = 16,
    n_traces: int = 3,
    key: str | None = None,
    config: dict[str, Any] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Run:
    """Captions a data set and scores the captions.

    Args:
        model: Model to measure.
        data: Images and references.
        generation: Generation settings.
        batch_size: Images a batch for the captions and the throughput.
        n_latency: Captions timed one by one at batch 1, after two that warm up.
        n_traces: Images, the first of those that are kept for reports, for which the words after every step are kept
            if the decoder writes in any order.
        key: Key of the run; made of the weights' hash if None.
        config: Config to keep with the result.
        on_progress: Called with the number of images captioned since the last call.

    Returns:
        The run, with per-image scores and captions in the order of ``data.record.ids``.
    """
    generation = generation or Generation()
    settings = generation.settings()
    begun = time.perf_counter()
    captions: list[str] = []
    evaluations: list[int] = []
    busy = 0.0
    model.caption(data.images(min(2, len(data))), batch_size=2, **settings)  # warms up kernels and caches
    for chunk in data.chunks():
        started = time.perf_counter()
        numbers = range(len(captions), len(captions) + len(chunk))
        made = model.caption(chunk, batch_size=batch_size, indices=numbers, **settings)
        busy += time.perf_counter() - started
        captions += [caption.text for caption in made]
        evaluations += [caption.evaluations for caption in made]
        if on_progress is not None:
            on_progress(len(chunk))
    timed = time_captions(model, data.images(n_latency), **settings)
    latencies = [caption.milliseconds for caption in timed]
    scores, per_image = score(dict(zip(data.record.ids, captions, strict=True)), data)
    low, middle, high = np.quantile(latencies, [0.25, 0.5, 0.75]) if latencies else (None, None, None)
    timing = Timing(
        latency_ms=_rounded(middle),
        latency_low_ms=_rounded(low),
        latency_high_ms=_rounded(high),
        n_latency=len(latencies),
        throughput=_rounded(len(captions) / busy) if busy else None,
        batch_size=batch_size,
        evaluations=float(np.mean(evaluations)) if evaluations else None,
        seconds=round(time.perf_counter() - begun, 3),
    )
    dtype = str(model.dtype).removeprefix("torch.")
    return Run(
        key=key or run_key(model.info.sha256, data, generation, batch_size, dtype),
        task="captioning",
        model=model.info,
        data=data.record.key,
        provenance=provenance.collect(seed=model.info.seed, device=str(model.device), dtype=dtype, config=config),
        generation=settings,
        scorers=scorer_ids(),
        n=len(captions),
        scores=scores,
        per_image=per_image,
        captions=captions,
        traces=_traces(model, data, n_traces, settings),
        timing=timing,
    )


def score(
    candidates: dict[str, str], data: CaptionData, references: dict[str, list[str]] | None = None
) -> tuple[dict[str, float], dict[str, list[Any]]]:
    """Corpus and per-image scores of captions.

    Args:
        candidates: Captions by id.
        data: Their references and, in a suite, their true factors.
        references: References to use instead of the data's.

    Returns:
        Scores on the official scales, and lists in the order of ``candidates``.
    """
    from vislex.metrics import score_captions, score_captions_per_image
    from vislex.metrics.diversity import score_diversity

    references = references or {identity: data.record.references[identity] for identity in candidates}
    scores = {name: float(value) for name, value in score_captions(candidates, references).items()}
    per_image = {
        name: np.round(np.asarray(values, dtype=np.float64), DIGITS).tolist()
        for name, values in score_captions_per_image(candidates, references).items()
        if np.ndim(values) == 1 and len(values) == len(candidates)
    }
    if data.factors is not None:
        from vislex.metrics.scene import score_scenes

        factors = {identity: data.factors[identity] for identity in candidates}
        scenes = score_scenes(candidates, factors, per_image=True)
        images = scenes.pop("images")
        scores |= {name: float(value) for name, value in scenes.items()}
        per_image["scene-F1"] = [round(images[identity]["scene-F1"], DIGITS) for identity in candidates]
    scores |= {name: float(value) for name, value in score_diversity(candidates, data.known_captions).items()}
    return {name: round(value, DIGITS) for name, value in scores.items() if math.isfinite(value)}, per_image


def bound_runs(data: CaptionData, *, floors: bool = True, done: Container[str] = ()) -> list[Run]:
    """Runs of the two floors and of the ceiling.

    Args:
        data: Images and references.
        floors: Whether to make the floors, which need training rows.
        done: Keys of runs that are finished and are not made again.
    """
    runs = []
    if floors and data.train is not None:
        if bound_key(FLOORS[0], data) not in done:
            constant = constant_caption(training_captions(data))
            runs.append(_bound(FLOORS[0], "floor", [constant] * len(data), data))
        if bound_key(FLOORS[1], data) not in done:
            runs.append(_bound(FLOORS[1], "floor", nearest_captions(data), data))
    candidates, rest = held_out_references(data.record)
    if len(candidates) == len(data) and bound_key(CEILING, data) not in done:
        runs.append(_bound(CEILING, "ceiling", [candidates[identity] for identity in data.record.ids], data, rest))
    return runs


def bound_key(name: str, data: CaptionData) -> str:
    """Key of the run of a floor or of the ceiling."""
    known = 0 if data.train is None else len(data.train)
    values = {"task": "captioning", "bound": name, "data": data.record.key, "n_train": known, "scorers": scorer_ids()}
    return content_key(values)


def scorer_ids() -> list[str]:
    """Ids and versions of the scorers that ``score`` uses."""
    from vislex.metrics.captions import BLEU, CIDER_D, ROUGE_L
    from vislex.metrics.diversity import DIVERSITY
    from vislex.metrics.scene import ID

    return [*(scorer.id for scorer in (BLEU, CIDER_D, ROUGE_L, DIVERSITY)), ID]


def _bound(
    name: str, origin: Any, captions: Sequence[str], data: CaptionData, references: dict[str, list[str]] | None = None
) -> Run:
    scores, per_image = score(dict(zip(data.record.ids, captions, strict=True)), data, references)
    return Run(
        key=bound_key(name, data),
        task="captioning",
        model=ModelInfo(row=name, origin=origin),
        data=data.record.key,
        provenance=provenance.collect(seed=None, device=None, dtype=None),
        scorers=scorer_ids(),
        n=len(captions),
        scores=scores,
        per_image=per_image,
        captions=list(captions),
    )


def _traces(model: CaptionModel, data: CaptionData, n: int, settings: dict[str, Any]) -> dict[str, list[Step]]:
    """Steps of the first captions by id; none of a decoder that writes from left to right."""
    count = min(n, len(data.record.images))
    if not (model.any_order and count):
        return {}
    made = model.caption(data.images(count), batch_size=count, trace=True, **settings)
    return {
        identity: [Step(**{**asdict(step), "time": round(step.time, 4)}) for step in caption.trace]
        for identity, caption in zip(data.record.ids, made, strict=False)
    }


def _rounded(value: Any) -> float | None:
    return None if value is None else round(float(value), 4)
