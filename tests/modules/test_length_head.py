from __future__ import annotations

import pytest
import torch

from vislex.modules.length_head import LengthHead, round_up
from vislex.specs import VisionTokens


@pytest.mark.parametrize("bucket", [1, 3])
def test_lengths_are_learned_in_their_buckets(bucket: int) -> None:
    torch.manual_seed(0)
    head = LengthHead(16, 10, bucket=bucket)
    vision = VisionTokens(torch.randn(64, 3, 16))
    lengths = torch.where(vision.tokens[..., 0].mean(1) > 0, 4, 9)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        head.loss(vision, lengths).backward()
        optimizer.step()
    expected = lengths if bucket == 1 else torch.where(lengths == 4, 5, 9)
    assert (head.predict(vision) == expected).float().mean() > 0.95
    assert head(vision).shape == (64, 10 if bucket == 1 else 4)
    torch.testing.assert_close(head(vision).exp().sum(1), torch.ones(64))


def test_the_loss_is_that_of_the_lengths_class() -> None:
    head = LengthHead(8, 10, bucket=4)
    vision = VisionTokens(torch.randn(2, 3, 8))
    log_p = head(vision)
    wanted = -log_p[[0, 1], [0, 2]]
    lengths = torch.tensor([3, 8])
    torch.testing.assert_close(head.loss(vision, lengths), wanted.mean())
    torch.testing.assert_close(head.loss(vision, lengths, reduction="sum"), wanted.sum())


def test_lengths_are_rounded_up() -> None:
    assert round_up(torch.tensor([1, 8, 9, 30]), 8, 20).tolist() == [8, 8, 16, 20]
