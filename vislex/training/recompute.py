"""Activation checkpointing of every layer that gradients pass through, also of frozen ones.

transformers checkpoints layers in training mode only: a frozen text encoder, which is in eval mode to be without
dropout, would keep all its activations. Here a layer is run again in backward whatever its mode.
"""

from __future__ import annotations

import contextlib
import functools
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer

from vislex.errors import ConfigError

__all__ = ["checkpoint_activations"]

_KERNELS = {
    SDPBackend.MATH: torch.backends.cuda.math_sdp_enabled,
    SDPBackend.FLASH_ATTENTION: torch.backends.cuda.flash_sdp_enabled,
    SDPBackend.EFFICIENT_ATTENTION: torch.backends.cuda.mem_efficient_sdp_enabled,
    SDPBackend.CUDNN_ATTENTION: torch.backends.cuda.cudnn_sdp_enabled,
}


def checkpoint_activations(model: nn.Module, attached: Sequence[nn.Module] = ()) -> int:
    """Lets the layers keep their inputs only, and run again in backward.

    Args:
        model: The model that is trained.
        attached: Frozen modules beside it that gradients pass through.

    Returns:
        The number of layers, a diffusers or timm model counting as one.

    Raises:
        ConfigError: If there is none.
    """
    from diffusers import ModelMixin  # these two take seconds: only who asks for this pays

    from vislex.encoders.timm import TimmEncoder

    found = 0
    for module in (module for root in (model, *attached) for module in root.modules()):
        if isinstance(module, ModelMixin) and module._supports_gradient_checkpointing:
            module.enable_gradient_checkpointing()
        elif isinstance(module, TimmEncoder):
            module.gradient_checkpointing = True
        elif isinstance(module, GradientCheckpointingLayer):
            module.forward = types.MethodType(_forward, module)  # type: ignore[method-assign]
        else:
            continue
        found += 1
    if not found:
        raise ConfigError(
            f"activation_checkpointing: {type(model).__name__} has no layers that can run twice; leave it off"
        )
    return found


def _forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    plain = functools.partial(type(self).forward, self)
    if not torch.is_grad_enabled():
        return plain(*args, **kwargs)
    args = tuple(None if isinstance(value, Cache) else value for value in args)  # a second run would append to it again
    kwargs = {name: None if isinstance(value, Cache) else value for name, value in kwargs.items()}
    options: dict[str, Any] = {}
    if len(kernels := _attention_kernels()) < len(_KERNELS):  # backward runs outside of what has chosen them
        options["context_fn"] = lambda: (contextlib.nullcontext(), sdpa_kernel(kernels))
    return checkpoint(functools.partial(plain, **kwargs), *args, use_reentrant=False, **options)


def _attention_kernels() -> list[SDPBackend]:
    """The kernels of attention that may be taken now, on any device."""
    return [kernel for kernel, is_enabled in _KERNELS.items() if is_enabled()]
