from __future__ import annotations

import torch

from vislex.modules.repetition import RepetitionBias


def test_a_word_counts_at_all_positions_but_its_own() -> None:
    bias = RepetitionBias(3, scale=2.0)
    ids, visible = torch.tensor([[0, 2, 0, 1]]), torch.tensor([[True, False, True, True]])
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(bias(logits, ids, visible), logits)  # says nothing before it has learned
    bias.weight.data = torch.tensor([-1.0, 0.5, 3.0])
    expected = [[[-2.0, 1.0, 0.0], [-4.0, 1.0, 0.0], [-2.0, 1.0, 0.0], [-4.0, 0.0, 0.0]]]
    torch.testing.assert_close(bias(logits, ids, visible) - logits, torch.tensor(expected))
