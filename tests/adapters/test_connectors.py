"""What every connector promises, for every encoder at its tiny size: it connects, or says why it cannot."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModel

import vislex
import vislex.auto
from vislex.adapters.connectors import Connector
from vislex.encoders.base import VisionEncoder
from vislex.errors import ConfigError, SpecError
from vislex.processing import create_image_processor
from vislex.registry import registry
from vislex.specs import EncoderSpec, Grid, VisionTokens, token_count

CONNECTORS = [entry.name for entry in registry("connectors")]
ENCODERS = [entry.name for entry in registry("encoders") if not entry.is_family]
WIDTH = 24
OPTIONS: dict[str, dict[str, Any]] = {
    name: {"n_tokens": 3, "num_heads": 2} for name in ("attention_pool", "perceiver", "q_former")
}
NEED_MAP = ("pixel_shuffle", "average_pool")
SPEC = EncoderSpec(dim=8, grid=Grid(4, 6), n_tokens=24, image_size=(8, 12), mean=(0.5,) * 3, std=(0.5,) * 3)


@functools.cache
def encoded(name: str) -> tuple[VisionEncoder, dict[str, torch.Tensor], VisionTokens]:
    """A tiny encoder, its inputs of three images of different shapes, and their tokens."""
    torch.manual_seed(0)
    encoder = vislex.create_encoder(name, tiny=True)
    generator = torch.Generator().manual_seed(1)
    images = [
        Image.fromarray(torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).numpy())
        for size in ((40, 30), (8, 24), (20, 20))
    ]
    inputs = dict(create_image_processor(encoder.spec)(images, return_tensors="pt"))
    with torch.no_grad():
        return encoder, inputs, encoder(**inputs)


def build(name: str, spec: EncoderSpec, **options: Any) -> Connector:
    torch.manual_seed(0)
    return vislex.create_connector(name, spec, WIDTH, **{**OPTIONS.get(name, {}), **options}).eval()


@pytest.mark.parametrize("encoder_name", ENCODERS)
@pytest.mark.parametrize("name", CONNECTORS)
def test_it_connects_every_encoder_or_refuses_it(name: str, encoder_name: str) -> None:
    encoder, inputs, vision = encoded(encoder_name)
    spec = encoder.spec
    grid = spec.grid
    fits = grid is not None and not spec.variable_length
    if name == "pixel_shuffle":
        fits = fits and grid is not None and grid.height % 2 == 0 and grid.width % 2 == 0
    if name in NEED_MAP and not fits:
        with pytest.raises(SpecError, match=r"map of tokens|cannot divide"):
            build(name, spec)
        return
    connector = build(name, spec)
    with torch.no_grad():
        output = connector(vision)
    assert output.tokens.shape[0] == 3
    assert output.tokens.shape[2] == WIDTH
    assert torch.isfinite(output.tokens).all()
    for i in range(3):
        counted = token_count(connector.count(spec.count(inputs, i)))
        real = output.tokens.shape[1] if output.mask is None else int(output.mask[i].sum())
        assert counted == real
        alone = VisionTokens(vision.tokens[i : i + 1], None if vision.mask is None else vision.mask[i : i + 1])
        with torch.no_grad():
            torch.testing.assert_close(connector(alone).tokens[0], output.tokens[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CONNECTORS if name not in NEED_MAP])
def test_masked_tokens_are_not_seen(name: str) -> None:
    spec = SPEC.replace(variable_length=True, grid=None)
    connector = build(name, spec)
    tokens = torch.randn(2, 24, 8)
    mask = torch.arange(24) < torch.tensor([[5], [24]])
    other = torch.where(mask[..., None], tokens, torch.randn_like(tokens))
    first, second = (connector(VisionTokens(t, mask)) for t in (tokens, other))
    real = slice(None) if first.mask is None else first.mask
    torch.testing.assert_close(first.tokens[real], second.tokens[real])
    short = connector(VisionTokens(tokens[:1, :5], mask[:1, :5]))  # a batch that is padded less
    torch.testing.assert_close(short.tokens[0], first.tokens[0][real if isinstance(real, slice) else real[0]])


@pytest.mark.parametrize("name", CONNECTORS)
def test_a_reload_is_exact_and_gradients_reach_every_weight(name: str, tmp_path: Path) -> None:
    connector = build(name, SPEC)
    vision = torch.randn(2, 24, 8, requires_grad=True)
    output = connector(vision)
    (output.tokens * torch.randn_like(output.tokens)).sum().backward()
    assert vision.grad is not None
    assert vision.grad.abs().max() > 0
    assert [n for n, p in connector.named_parameters() if p.grad is None or not p.grad.any()] == []
    connector.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(connector)
    with torch.no_grad():
        assert torch.equal(loaded(vision).tokens, connector(vision).tokens)
        half = loaded.to(torch.bfloat16)(vision).tokens
    assert half.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(half.float().flatten(), output.tokens.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("name", [name for name in CONNECTORS if "n_tokens" in OPTIONS.get(name, {})])
def test_no_two_queries_see_the_same(name: str) -> None:
    tokens = build(name, SPEC)(torch.randn(2, 24, 8)).tokens
    assert (tokens[:, 0] - tokens[:, 1]).abs().max() > 1e-3
    assert (tokens[0] - tokens[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in CONNECTORS if name != "attention_pool"])
def test_a_budget_is_for_those_who_have_one(name: str) -> None:
    connector = build(name, SPEC)
    full = token_count(connector.count(SPEC.count()))
    assert connector(torch.randn(1, 24, 8), n_tokens=full).tokens.shape[1] == full
    with pytest.raises(SpecError, match="take attention_pool"):
        connector(torch.randn(1, 24, 8), n_tokens=full - 1)
    with pytest.raises(SpecError, match="take attention_pool"):
        connector.count(SPEC.count(), full - 1)


def test_the_first_tokens_of_attention_pool_are_those_of_every_budget() -> None:
    connector = build("attention_pool", SPEC)
    vision = torch.randn(2, 24, 8)
    whole = connector(vision).tokens
    for budget in (1, 2, 3):
        assert connector.count(SPEC.count(), budget) == budget
        torch.testing.assert_close(connector(vision, n_tokens=budget).tokens, whole[:, :budget])
    for wrong in (0, 4):
        with pytest.raises(SpecError, match=f"n_tokens {wrong} must be 1 to 3"):
            connector(vision, n_tokens=wrong)


def test_pixel_shuffle_keeps_every_value_and_average_pool_the_means() -> None:
    position = torch.arange(24.0).reshape(1, 24, 1).expand(1, 24, 8)
    shuffle = build("pixel_shuffle", SPEC)
    assert shuffle.count(SPEC.count()) == Grid(2, 3)
    seen: list[torch.Tensor] = []
    shuffle.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    shuffle(position)
    assert sorted(seen[0][0, 0].unique().tolist()) == [0.0, 1.0, 6.0, 7.0]  # the first 2 x 2 of a map 6 wide
    pool = build("average_pool", SPEC, output_grid=[2, 2])
    assert pool.count(SPEC.count()) == Grid(2, 2)
    pool.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    pool(position)
    assert seen[1][0, 0].unique().tolist() == [4.0]
    assert build("average_pool", SPEC).count(SPEC.count()) == Grid(2, 3)


def test_without_its_norm_a_linear_connector_is_one_map() -> None:
    tokens = torch.randn(2, 24, 8)
    connector = build("linear", SPEC, norm=False)
    weight, bias = connector.projection.linear.weight, connector.projection.linear.bias
    torch.testing.assert_close(connector(tokens).tokens, tokens @ weight.T + bias)
    for name, norm in (("linear", True), ("mlp", True), ("mlp", False)):
        connector = build(name, SPEC, norm=norm)
        change = float((connector(3 * tokens).tokens - connector(tokens).tokens).detach().abs().max())
        assert (change < 1e-3) is norm


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    with pytest.raises(SpecError, match=r"factor 3 cannot divide 4 x 6 tokens"):
        build("pixel_shuffle", SPEC, factor=3)
    with pytest.raises(SpecError, match=r"cannot make a map of 5 x 5 tokens of the encoder's 4 x 6"):
        build("average_pool", SPEC, output_grid=5)
    with pytest.raises(SpecError, match=r"reads 24 tokens of width 8 an image and got 23 of 8"):
        build("linear", SPEC)(torch.randn(1, 23, 8))
    with pytest.raises(ConfigError, match=r"'hiden_size' of the connector 'mlp'; did you mean 'hidden_size'"):
        build("mlp", SPEC, hiden_size=3)
    with pytest.raises(ConfigError, match=r"5 heads do not divide the connector's width 24"):
        build("perceiver", SPEC, num_heads=5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"hidden_size": 7}),
        ("pixel_shuffle", {"hidden_size": 7}),
        ("average_pool", {"hidden_size": 7}),
        ("attention_pool", {"hidden_size": 8}),
        ("attention_pool", {"num_layers": 1}),
        ("perceiver", {"hidden_size": 8}),
        ("perceiver", {"num_layers": 1}),
        ("q_former", {"hidden_size": 8}),
        ("q_former", {"num_layers": 1}),
        ("q_former", {"cross_attention_frequency": 1}),
    ],
)
def test_every_size_changes_the_parameters(name: str, options: dict[str, int]) -> None:
    plain, changed = (sum(p.numel() for p in build(name, SPEC, **o).parameters()) for o in ({}, options))
    assert plain != changed
