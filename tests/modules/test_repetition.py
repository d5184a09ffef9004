from __future__ import annotations

import torch

from vislex.modules.repetition import RepetitionBias


def test_a_word_counts_at_all_positions_but_its_own() -> None:
    bias = RepetitionBias(3, scale=2.0)
    shares = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.5, 0.0]]])
    assert torch.equal(bias(shares), torch.zeros(1, 3, 3))  # says nothing before it has learned
    bias.weight.data = torch.tensor([-1.0, 0.5, 3.0])
    expected = [[[-1.0, 0.5, 0.0], [-3.0, 0.5, 0.0], [-2.0, 0.0, 0.0]]]
    torch.testing.assert_close(bias(shares), torch.tensor(expected))
