"""Referring segmentation: masks that a model writes, against its own boxes filled, below what its codec keeps.

A mask must beat the box that it comes with: both are scored on the same expressions, pair by pair. Where the text is no
mask, both score an IoU of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vislex.adapters.vlm_segment import codec_of
from vislex.benchmarks.caption_data import data_uri
from vislex.benchmarks.results import DataRecord, ModelInfo, Run
from vislex.benchmarks.vlm_rows import Progress, bound_run, chunks_of, model_run, rows_and_record, timing_of
from vislex.metrics.masks import MASKS, average_masks, score_masks_per_image
from vislex.segmentation.codec import MaskCodec
from vislex.segmentation.overlay import draw_masks

if TYPE_CHECKING:
    from vislex.adapters.vlm import VisionLanguageModel

__all__ = ["BOXES", "SegmentationData", "ceiling_run", "evaluate", "load_segmentation_data"]

BOXES = ": its boxes, filled"
SIDE = 160  # pixels, at least, of the pictures in a report


@dataclass
class SegmentationData:
    """Expressions with their masks.

    Attributes:
        record: What a result file keeps of them; its images show the right masks.
        rows: Rows with "image", "expression" and "mask", in the order of ``record.ids``.
    """

    record: DataRecord
    rows: Any


def load_segmentation_data(
    data: str = "openmoji",
    *,
    split: str = "test_composition",
    size: int = 1000,
    seed: int = 0,
    n_images: int = 24,
    **options: Any,
) -> SegmentationData:
    """Expressions of a suite or of ``SOURCE:FOLDER``.

    Args:
        data: Which.
        split: Its split.
        size: Expressions.
        seed: Of a drawn suite.
        n_images: Images that the result file keeps for its report, those of the first rows.
        **options: Further options of ``load_suite`` (``vocabulary``).
    """
    rows, record = rows_and_record(
        "segmentation", data, split=split, size=size, seed=seed, prompt="expression", **options
    )
    for i in range(min(n_images, len(rows))):
        row = rows[i]
        record.images[record.ids[i]] = data_uri(draw_masks(row["image"], [row["mask"]], min_side=SIDE))
    return SegmentationData(record, rows)


def evaluate(
    model: VisionLanguageModel,
    info: ModelInfo,
    data: SegmentationData,
    *,
    codec: MaskCodec | str | None = None,
    batch_size: int = 64,
    on_progress: Progress | None = None,
    **options: Any,
) -> list[Run]:
    """Segments all expressions.

    Args:
        model: The model.
        info: What it is.
        data: The expressions.
        codec: How its text is read; as it was trained by default.
        batch_size: Expressions a batch.
        on_progress: Called with the number of expressions since the last call.
        **options: Further options of ``VisionLanguageModel.segment``.

    Returns:
        The run of the model, and that of its boxes, filled.
    """
    reader = codec if isinstance(codec, MaskCodec) else codec_of(model, codec)
    masks, boxes = _Counts(), _Counts()
    found, pictures, texts = [], {}, []
    for chunk in chunks_of(data.rows, batch_size):
        made = model.segment(
            [row["image"] for row in chunk],
            [row["expression"] for row in chunk],
            codec=reader,
            batch_size=batch_size,
            **options,
        )
        right = [row["mask"] for row in chunk]
        masks.add([own.mask for own in made], right)
        boxes.add([own.decoded.filled_boxes for own in made], right)
        for row, own in zip(chunk, made, strict=True):
            if row["id"] in data.record.images:
                pictures[row["id"]] = data_uri(draw_masks(row["image"], [own.mask], min_side=SIDE))
            texts.append(own.text)
            found.append((own.seconds, own.new_tokens))
        if on_progress is not None:
            on_progress(len(chunk))
    generation = {"codec": reader.name, **reader.reading, **options}
    timing = timing_of([own for own, _ in found], [own for _, own in found], batch_size)
    shared: dict[str, Any] = {"captions": texts, "pictures": pictures, "timing": timing}
    return [
        model_run("segmentation", model, info, data.record, generation, **shared, **masks.figures()),
        bound_run("segmentation", info.row + BOXES, "floor", data.record, seed=info.seed, **boxes.figures()),
    ]


def ceiling_run(codec: MaskCodec, data: SegmentationData) -> Run:
    """The run of right masks that went to text and back, a mask head's at its resolution."""
    counts = _Counts()
    for row in data.rows:
        mask = row["mask"]
        present = [mask] if mask.any() else []
        counts.add([codec.decode_ideal(codec.encode(present), mask).mask], [mask])
    return bound_run("segmentation", f"ceiling: codec {codec.label}", "ceiling", data.record, **counts.figures())


class _Counts:
    """Overlaps of one kind of masks, a chunk at a time."""

    def __init__(self) -> None:
        self._parts: list[dict[str, np.ndarray]] = []

    def add(self, predicted: list[np.ndarray | None], target: list[np.ndarray]) -> None:
        self._parts.append(score_masks_per_image(predicted, target))

    def figures(self) -> dict[str, Any]:
        counts = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        per_image = {
            name: np.round(values.astype(float), 6).tolist() if name == "IoU" else values.astype(int).tolist()
            for name, values in counts.items()
        }
        scores = {name: round(value, 6) for name, value in average_masks(counts).items()}
        return {"scores": scores, "per_image": per_image, "scorers": [MASKS.id]}
