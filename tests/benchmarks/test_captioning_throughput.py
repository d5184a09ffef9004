"""The throughput comparison on tiny models: both sides write what is asked for, and the rows say what was timed."""

from __future__ import annotations

import pytest

from vislex.benchmarks.captioning_throughput import build_blip, build_vislex, compare


def test_both_sides_write_the_same_number_of_tokens() -> None:
    captioner = build_vislex(encoder="timm:test_vit", hidden_size=64, num_layers=1)
    height, _ = captioner.encoder.spec.image_size
    blip = build_blip(image_size=height, hidden_size=64, num_layers=1)
    rows = compare(captioner, blip, batch_sizes=[1, 2], runs=2, new_tokens=4)
    assert [(row["batch size"], row["scope"]) for row in rows] == [
        (1, "decoding"), (1, "encoding + decoding"), (2, "decoding"), (2, "encoding + decoding"),
    ]  # fmt: skip
    for row in rows:
        assert len(row["ratios"]) == 2
        assert row["ratio"] == pytest.approx(row["BLIP seconds"] / row["vislex seconds"])
