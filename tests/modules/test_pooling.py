"""Attention pooling and TailDrop."""

from __future__ import annotations

import pytest
import torch

from vislex.errors import ConfigError
from vislex.modules.attention_pooling import AttentionPooling
from vislex.modules.tail_drop import keep_counts, keep_mask
from vislex.specs import VisionTokens


def pooling(depth: int = 2, n_tokens: int = 6) -> AttentionPooling:
    return AttentionPooling(12, n_tokens, hidden_size=16, depth=depth, num_heads=4)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_fewer_tokens_are_the_first_of_more(depth: int) -> None:
    model, vision = pooling(depth), VisionTokens(torch.randn(2, 9, 12))
    whole = model(vision)
    assert whole.shape == (2, 6, 16)
    assert len(model.layers) == depth
    for count in range(1, 7):
        torch.testing.assert_close(model(vision, count), whole[:, :count])
    assert (whole[:, 0] - whole[:, 1]).abs().max() > 0.1


def test_masked_tokens_are_not_seen_and_order_does_not_matter() -> None:
    model, tokens = pooling(), torch.randn(2, 9, 12)
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[:, 6:] = False
    changed = tokens.clone()
    changed[:, 6:] = 5.0
    seen = model(VisionTokens(tokens, mask))
    torch.testing.assert_close(model(VisionTokens(changed, mask)), seen)
    torch.testing.assert_close(model(VisionTokens(tokens[:, :6])), seen)
    torch.testing.assert_close(model(VisionTokens(tokens.flip(1))), model(VisionTokens(tokens)))
    assert not torch.allclose(model(VisionTokens(changed)), model(VisionTokens(tokens)))


def test_gradients_reach_every_weight_and_the_tokens() -> None:
    model, tokens = pooling(3), torch.randn(2, 9, 12, requires_grad=True)
    model(VisionTokens(tokens)).square().sum().backward()
    assert tokens.grad is not None
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in model.named_parameters() if n != "norm.bias")


def test_queries_look_at_patches_of_their_own_from_the_start() -> None:
    """Of 64 random patches each query mostly looks at a few, and no two queries at the same."""
    torch.manual_seed(0)
    model = AttentionPooling(192, 16, hidden_size=192, depth=1, num_heads=3)
    tokens = torch.randn(8, 64, 192)
    layer = model.layers[0]
    query = layer._heads(layer.query(layer.norm_attention(model.queries[None])))
    key = layer._heads(layer.key_value(model.norm_tokens(tokens)).chunk(2, dim=-1)[0])
    looks = (query @ key.transpose(-1, -2) / 8).softmax(-1)  # [B, heads, n, N], heads of 64 channels
    seen = (-(looks * looks.log()).sum(-1)).exp().mean()  # patches that a query looks at, as it were
    assert seen < 16
    same = looks @ looks.transpose(-1, -2)
    assert same[..., ~torch.eye(16, dtype=torch.bool)].mean() < 0.1 * looks.square().sum(-1).mean()


@pytest.mark.parametrize(("change", "message"), [({"depth": 6}, "depth 6"), ({"num_heads": 3}, "num_heads 3")])
def test_sizes_that_do_not_fit(change: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        AttentionPooling(12, 6, **{"hidden_size": 16, "depth": 2, "num_heads": 4, **change})
    with pytest.raises(ConfigError, match="n_tokens 7 must be 1 to 6"):
        pooling()(VisionTokens(torch.randn(1, 3, 12)), 7)


def test_strategies_of_tail_drop() -> None:
    draw = lambda name, n=12: keep_counts(name, n, 6000, generator=torch.Generator().manual_seed(0))  # noqa: E731
    share = lambda counts: {int(k): float((counts == k).float().mean()) for k in counts.unique()}  # noqa: E731
    assert share(draw("none")) == {12: 1.0}
    uniform = share(draw("uniform"))
    assert set(uniform) == set(range(1, 13))
    assert max(uniform.values()) < 0.1
    pow2 = share(draw("pow2"))
    assert set(pow2) == {1, 2, 4, 8, 12}
    assert max(pow2.values()) < 0.23
    rounded = share(draw("uniform_pow2"))
    assert set(rounded) == {1, 2, 4, 8, 12}
    assert rounded[1] == pytest.approx(1 / 12, abs=0.02)
    assert rounded[8] == pytest.approx(4 / 12, abs=0.02)
    assert set(share(draw("pow2", 8))) == {1, 2, 4, 8}
    assert set(share(draw("uniform_pow2", 1))) == {1}
    with pytest.raises(ConfigError, match="did you mean 'uniform'"):
        draw("unifrom")


def test_the_mask_keeps_the_head() -> None:
    assert keep_mask(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]
