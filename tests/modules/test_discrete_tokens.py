"""Discrete tokens: the forward pass is a word, the gradient is a softmax's."""

from __future__ import annotations

import pytest
import torch

from vislex.errors import ConfigError
from vislex.modules.discrete_tokens import Estimator, choose_words


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel"])
def test_a_word_forward_a_softmax_backward(estimator: Estimator) -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    table = torch.randn(5, 4)
    vectors, chosen = choose_words(logits, table, estimator=estimator, temperature=0.7, training=True)
    torch.testing.assert_close(vectors, table[chosen])
    vectors.square().sum().backward()
    assert logits.grad is not None
    assert (logits.grad.abs() > 0).all()
    fixed, likeliest = choose_words(logits, table, estimator=estimator, temperature=0.7, training=False)
    assert torch.equal(likeliest, logits.argmax(-1))
    assert torch.equal(fixed, table[likeliest])


def test_straight_through_passes_the_softmax_of_the_temperature() -> None:
    logits, table = torch.randn(1, 1, 5), torch.randn(5, 4)
    gradients = []
    for temperature in (0.1, 1.0):
        own = logits.clone().requires_grad_()
        choose_words(own, table, estimator="straight_through", temperature=temperature, training=True)[
            0
        ].sum().backward()
        soft = logits.clone().requires_grad_()
        ((soft / temperature).softmax(-1) @ table).sum().backward()
        torch.testing.assert_close(own.grad, soft.grad)
        gradients.append(own.grad)
    assert not torch.allclose(*gradients)


def test_gumbel_draws_by_the_logits() -> None:
    logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(1, 4000, 3)
    _, chosen = choose_words(logits, torch.eye(3), estimator="gumbel", temperature=1.0, training=True)
    shares = torch.bincount(chosen.flatten(), minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.7, 0.2, 0.1]), atol=0.03, rtol=0)
    _, first = choose_words(logits, torch.eye(3), estimator="straight_through", temperature=1.0, training=True)
    assert (first == 0).all()
    with pytest.raises(ConfigError, match="unknown estimator 'reinforce'"):
        choose_words(logits, torch.eye(3), estimator="reinforce", temperature=1.0, training=True)  # type: ignore[arg-type]
