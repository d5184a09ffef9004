"""The throughput comparison on tiny models: both sides are the same modules and do what is asked."""

from __future__ import annotations

import pytest
import torch

from vislex.benchmarks.vlm_throughput import build_pair, compare, inputs_of

TINY = {
    "vision": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "image": {"image_size": 16, "patch_size": 8},
    "text": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
}


def test_both_sides_answer_and_learn_the_same() -> None:
    ours, theirs = build_pair(TINY)
    rows = compare(ours, theirs, batch_sizes=[1, 2], runs=2, new_tokens=3)
    assert [(row["batch size"], row["scope"]) for row in rows] == [
        (1, "generation"), (1, "training step"), (2, "generation"), (2, "training step"),
    ]  # fmt: skip
    for row in rows:
        assert len(row["ratios"]) == 2
        assert row["ratio"] == pytest.approx(row["LLaVA seconds"] / row["vislex seconds"])
        assert min(row["ratios"]) <= row["interval"]["low"] <= row["interval"]["ratio"] <= row["interval"]["high"]


def test_both_sides_are_one_model() -> None:
    ours, theirs = build_pair(TINY)
    inputs = inputs_of(ours, 2)
    with torch.no_grad():
        torch.testing.assert_close(ours(**inputs).logits, theirs(**inputs).logits)
    assert {id(parameter) for parameter in ours.parameters()} == {id(parameter) for parameter in theirs.parameters()}
