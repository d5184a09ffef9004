"""Sides in turn: each as often as asked, every other round backwards."""

from __future__ import annotations

from functools import partial

from vislex.benchmarks.interleaved import interleave


def test_every_other_round_runs_backwards() -> None:
    order: list[str] = []
    seconds = interleave([partial(order.append, name) for name in "abc"], 3)
    assert "".join(order) == "abccbaabc"
    assert [(len(wall), len(cpu)) for wall, cpu in seconds] == [(3, 3)] * 3
