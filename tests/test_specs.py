"""The spec of an encoder: checked when made, counts tokens, survives JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from vislex.errors import SpecError
from vislex.specs import EncoderSpec, Grid, token_count


def _spec(**changes: Any) -> EncoderSpec:
    values: dict[str, Any] = {
        "dim": 192,
        "grid": (8, 6),
        "n_tokens": 48,
        "image_size": (128, 96),
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    return EncoderSpec(**(values | changes))


def test_fixed_encoders_count_their_grid() -> None:
    assert _spec().count() == Grid(8, 6)
    assert token_count(_spec().count()) == 48
    assert _spec(grid=None).count() == 48


def test_variable_encoders_count_from_the_processors_output() -> None:
    spec = _spec(grid=None, n_tokens=64, variable_length=True, resize="native")
    shapes = {"spatial_shapes": torch.tensor([[2, 3], [4, 5]])}
    assert [spec.count(shapes, i) for i in (0, 1)] == [Grid(2, 3), Grid(4, 5)]
    mask = torch.zeros(2, 64, dtype=torch.bool)
    mask[1, :7] = True
    assert [spec.count({"pixel_attention_mask": mask}, i) for i in (0, 1)] == [0, 7]
    with pytest.raises(SpecError, match="spatial_shapes"):
        spec.count()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"dim": 0}, "must be positive"),
        ({"grid": (8, 8)}, "has 64 tokens but n_tokens is 48"),
        ({"resize": "crop"}, "'crop' is none of squash, pad, native"),
        ({"interpolation": "cubic"}, "'cubic' is none of"),
        ({"std": (0.5, 0.0, 0.5)}, "std positive"),
        ({"mean": (0.5,)}, "as long as each other"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        _spec(**changes)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        _spec(resize="crop", interpolation="cubic", grid=(1, 1))
    assert str(caught.value).count(";") == 2


def test_kept_prefix_tokens_are_counted_and_form_no_map() -> None:
    spec = _spec(n_prefix=5)
    kept = spec.with_prefix()
    assert (kept.count(), kept.grid, kept.n_prefix) == (token_count(spec.count()) + 5, None, 0)
    with pytest.raises(SpecError, match="no prefix tokens"):
        kept.with_prefix()


def test_json_round_trip() -> None:
    spec = _spec(n_prefix=5, patch_size=16)
    assert EncoderSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert spec.replace(dim=7).dim == 7
    with pytest.raises(SpecError, match="unknown keys in an encoder spec: width"):
        EncoderSpec.from_dict(spec.to_dict() | {"width": 3})
    with pytest.raises(SpecError, match="incomplete encoder spec"):
        EncoderSpec.from_dict({"dim": 3})
