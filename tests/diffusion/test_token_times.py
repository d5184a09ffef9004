from __future__ import annotations

import torch

from vislex.diffusion.token_times import token_times


def test_first_words_are_ahead_by_the_skew() -> None:
    """T = 101, five words at shares 0, 1/4, ..., 1: (1 + s) u - s (1 - p), by hand."""
    moments = torch.tensor([100, 75, 50, 25, 0])
    by_hand = torch.tensor(
        [
            [100, 100, 100, 100, 100],
            [25, 75, 100, 100, 100],  # u = 3/4, s = 2: 1/4 + 2 p
            [0, 0, 50, 100, 100],  # -1/2 + 2 p
            [0, 0, 0, 25, 75],  # -5/4 + 2 p
            [0, 0, 0, 0, 0],
        ]
    )
    assert torch.equal(token_times(moments, 5, 2.0, 101), by_hand)


def test_without_skew_all_words_have_the_time_of_the_whole() -> None:
    moments = torch.tensor([0, 1, 500, 998, 999])
    assert torch.equal(token_times(moments, 7, 0.0, 1000), moments[:, None].expand(5, 7))
    assert torch.equal(token_times(moments, 1, 3.0, 1000)[[0, -1]], torch.tensor([[0], [999]]))


def test_each_sequence_may_have_its_own_skew() -> None:
    moments = torch.tensor([400, 400])
    both = token_times(moments, 6, torch.tensor([0.0, 5.0]), 1000)
    assert torch.equal(both[0], token_times(moments[:1], 6, 0.0, 1000)[0])
    assert torch.equal(both[1], token_times(moments[:1], 6, 5.0, 1000)[0])
    assert (both.diff(dim=1) >= 0).all()
