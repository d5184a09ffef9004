"""Activation checkpointing: layers run again in backward, frozen ones in eval mode too, and no gradient changes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

import vislex
from vislex.errors import ConfigError
from vislex.training.recompute import checkpoint_activations


def saved_bytes(loss: Callable[[], Tensor]) -> tuple[Tensor, int]:
    """A loss, and the bytes of what autograd keeps for its backward."""
    total = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        return loss(), total


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("family", ["pixart-pixels", "sd21", "sana"])
def test_a_frozen_text_encoder_in_eval_mode_runs_its_layers_again(family: str, tiny_t2i: Callable[..., Any]) -> None:
    torch.manual_seed(0)
    t2i = tiny_t2i(family)
    encoder = vislex.create_encoder("siglip-tiny", tiny=True, seed=0)
    model = vislex.ViLex.from_parts(encoder=encoder, t2i=t2i, n_tokens=4).train()
    batch = {
        "pixel_values": torch.randn(2, 3, *encoder.spec.image_size),
        "targets": torch.rand(2, 3, t2i.image_size, t2i.image_size) * 2 - 1,
        "counts": torch.tensor([4, 2]),
    }
    draw = model.objective.draw(t2i, t2i.encode_pixels(batch["targets"]), torch.Generator().manual_seed(0))
    batch |= {"timesteps": draw.timesteps, "noise": draw.noise}
    layer = next(m for m in t2i.texts[0].model.modules() if isinstance(m, GradientCheckpointingLayer))
    ran: list[bool] = []
    layer.register_forward_hook(lambda *_: ran.append(layer.training))
    first = next(child for child in layer.modules() if not list(child.children()))
    calls: list[int] = []
    first.register_forward_hook(lambda *_: calls.append(1))

    plain, kept = saved_bytes(lambda: model(**batch).loss)
    plain.backward()
    expected = gradients(model)
    assert len(calls) == 1
    checkpoint_activations(model, [t2i])
    again, kept_less = saved_bytes(lambda: model(**batch).loss)
    assert len(calls) == 2
    again.backward()
    assert len(calls) == 3  # once more, in backward
    assert ran == [False, False]  # in eval mode: without dropout
    assert kept_less < 0.7 * kept
    assert torch.equal(again, plain)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)


def test_without_gradients_a_layer_runs_as_ever() -> None:
    encoder = vislex.create_encoder("vit-b16", tiny=True, seed=0)
    pixels = torch.randn(1, 3, *encoder.spec.image_size)
    with torch.no_grad():
        plain = encoder(pixels).tokens
        checkpoint_activations(encoder)
        assert torch.equal(encoder(pixels).tokens, plain)


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="Linear has no layers"):
        checkpoint_activations(nn.Linear(2, 2))


def test_a_training_that_recomputes_nothing_does_not_wait_for_libraries_that_it_does_not_need() -> None:
    code = "import sys, vislex.training.trainer; assert not {'timm', 'diffusers'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
