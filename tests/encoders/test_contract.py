"""What every registered encoder promises, at its full size on the meta device and otherwise at its tiny size."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel

import vislex
import vislex.auto
from vislex.encoders.base import VisionEncoder
from vislex.encoders.factory import rebuild_encoder
from vislex.modules.digest import weights_digest
from vislex.processing import create_image_processor
from vislex.registry import registry
from vislex.specs import EncoderSpec, Grid, token_count

NAMES = [entry.name for entry in registry("encoders") if not entry.is_family]
MORE = [
    "timm:test_convnext2",
    "timm:test_byobnet",
    "timm:test_nfnet",
    "timm:test_mambaout",
    "timm:swin_tiny_patch4_window7_224",
    "fused:siglip-tiny+efficientnet-lite0",
]
SIZES = [(40, 30), (8, 24), (1, 1)]

# Rows of one family share everything but numbers: the slower checks take one row of each.
SAMPLE = [
    "aimv2-l14",
    "clip-b32",
    "convnext-t",
    "dinov2-b14",
    "dinov2-b14-registers",
    "dinov3-b16",
    "efficientnet-lite0",
    "eva02-l14",
    "ijepa-h14",
    "mae-b16",
    "radio-h16",
    "resnet50",
    "siglip-tiny",
    "siglip2-b16-naflex",
    "vae-flux",
    "vae-taesd",
    "vilex-siglip-tiny",
    *MORE,
]


def build(name: str) -> VisionEncoder:
    """A small encoder of a name, with the same weights at each call."""
    torch.manual_seed(0)
    if name == "timm:swin_tiny_patch4_window7_224":
        small = {"depths": (1, 1), "num_heads": (2, 2), "embed_dim": 16}
        return vislex.create_encoder(name, image_size=56, model_args=small)
    if name.startswith("timm:"):
        return vislex.create_encoder(name, image_size=64)
    return vislex.create_encoder(name, tiny=True)


def inputs_of(encoder: VisionEncoder) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = [
        Image.fromarray(torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8).numpy())
        for size in SIZES
    ]
    return dict(create_image_processor(encoder.spec)(images, return_tensors="pt"))


@pytest.mark.parametrize("name", [*NAMES, *MORE])
def test_output_is_what_the_spec_says(name: str) -> None:
    encoder = build(name)
    spec, inputs = encoder.spec, inputs_of(encoder)
    assert encoder.config.name == name
    assert not encoder.training
    with torch.no_grad():
        output = encoder(**inputs)
    assert output.tokens.shape == (3, spec.n_tokens, spec.dim)
    assert output.tokens.isfinite().all()
    assert output.pooled is None or output.pooled.shape[0] == 3
    assert (output.mask is not None) == spec.variable_length
    for i in range(3):
        counted = token_count(spec.count(inputs, i))
        assert counted == (spec.n_tokens if output.mask is None else int(output.mask[i].sum()))
    different = output.tokens[0] - output.tokens[1]
    assert different.abs().max() > 1e-4  # not the same for every image
    assert EncoderSpec.from_dict(spec.to_dict()) == spec


def full_size(name: str) -> object:
    """One row of each family at once, the others in the long run: large towers take a second each to build."""
    quick = name in SAMPLE and name not in ("eva02-l14", "radio-h16")
    return name if quick else pytest.param(name, marks=pytest.mark.slow)


@pytest.mark.parametrize("name", [full_size(name) for name in NAMES])
def test_full_size_has_the_shape_of_its_spec(name: str) -> None:
    # Only the meta device can hold all of these: shapes without memory.
    with torch.device("meta"):
        encoder = vislex.create_encoder(name)
        spec = encoder.spec
        if spec.variable_length:
            assert spec.grid == Grid(16, 16)
            assert spec.n_tokens == 256
            return
        with torch.no_grad():
            tokens = encoder(torch.empty(1, 3, *spec.image_size)).tokens
    assert tokens.shape == (1, spec.n_tokens, spec.dim)
    if name == "vilex-siglip-tiny":  # pooled tokens form no map
        assert (spec.grid, spec.n_tokens) == (None, 16)
        return
    assert spec.grid is not None
    assert spec.n_tokens == spec.grid.height * spec.grid.width


@pytest.mark.parametrize("name", ["efficientnet-lite0", "dinov2-b14", "radio-h16", "vae-taesd", *MORE[:3], MORE[-1]])
def test_a_seed_gives_the_same_random_weights_again(name: str) -> None:
    options: dict[str, object] = {} if name.startswith("timm:") else {"tiny": True}
    before = torch.get_rng_state()
    encoder = vislex.create_encoder(name, seed=3, **options)
    source = encoder.config.source
    assert source is not None
    assert (source["kind"], source["seed"]) == ("untrained", 3)
    saved = type(encoder.config).from_dict(json.loads(encoder.config.to_json_string(use_diff=False)))
    again = rebuild_encoder(saved)
    assert torch.equal(torch.get_rng_state(), before)
    assert weights_digest(again) == weights_digest(encoder) == source["sha256"]
    assert weights_digest(vislex.create_encoder(name, seed=4, **options)) != source["sha256"]
    assert not again.training


@pytest.mark.parametrize("name", SAMPLE)
def test_reload_gives_the_same_outputs_and_buffers(name: str, tmp_path: Path) -> None:
    encoder = build(name)
    inputs = inputs_of(encoder)
    encoder.save_pretrained(tmp_path)
    torch.manual_seed(5)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert type(loaded) is type(encoder)
    assert loaded.spec == encoder.spec
    state, buffers = dict(loaded.named_parameters()), dict(loaded.named_buffers())
    for key, value in encoder.named_parameters():
        assert torch.equal(state[key], value), key
    for key, value in encoder.named_buffers():  # non-persistent ones too
        assert torch.equal(buffers[key], value), key
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).tokens, encoder(**inputs).tokens)
    reopened = vislex.create_encoder(f"hf:{tmp_path}", pretrained=True)
    with torch.no_grad():
        assert torch.equal(reopened(**inputs).tokens, encoder(**inputs).tokens)
    assert reopened.config.source["location"] == str(tmp_path)


@pytest.mark.parametrize("name", SAMPLE)
def test_a_batch_equals_its_singles(name: str) -> None:
    encoder = build(name)
    inputs = inputs_of(encoder)
    with torch.no_grad():
        together = encoder(**inputs)
        for i in range(3):
            alone = encoder(**{key: value[i : i + 1] for key, value in inputs.items()})
            real = slice(None) if together.mask is None else together.mask[i]
            torch.testing.assert_close(alone.tokens[0][real], together.tokens[i][real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLE)
def test_gradient_reaches_weights_and_pixels(name: str) -> None:
    encoder = build(name).train()
    inputs = inputs_of(encoder)
    inputs["pixel_values"].requires_grad_()
    output = encoder(**inputs)
    (output.tokens.float() ** 2).mean().backward()
    assert inputs["pixel_values"].grad.abs().max() > 0
    with_gradient = [p for p in encoder.parameters() if p.requires_grad and p.grad is not None and p.grad.any()]
    assert len(with_gradient) > 2


@pytest.mark.parametrize("name", SAMPLE)
def test_bfloat16(name: str) -> None:
    encoder = build(name)
    inputs = inputs_of(encoder)
    with torch.no_grad():
        full = encoder(**inputs).tokens
        half = copy.deepcopy(encoder).to(torch.bfloat16)(**inputs).tokens
    assert half.dtype == torch.bfloat16
    similarity = torch.nn.functional.cosine_similarity(full.flatten(), half.float().flatten(), dim=0)
    assert similarity > 0.98


@pytest.mark.parametrize("name", ["clip-b32", "resnet50", "vae-taesd"])
def test_random_weights_come_from_the_global_generator_only(name: str) -> None:
    first, second = build(name), build(name)
    other = vislex.create_encoder(name, tiny=True)  # the generator has moved on
    weights = [next(p for p in e.parameters() if p.ndim > 1) for e in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
