"""A digest of a module's weights."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["values_digest", "weights_digest"]


def weights_digest(module: torch.nn.Module) -> str:
    """sha256 over names, types and values of all parameters and buffers, non-persistent ones included."""
    digest = hashlib.sha256()
    for name, value in sorted([*module.named_parameters(), *module.named_buffers()]):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()


def values_digest(module: torch.nn.Module) -> str:
    """sha256 over names and values, as float32, of all parameters: the same for weights that were widened exactly."""
    digest = hashlib.sha256()
    for name, value in sorted(module.named_parameters()):
        plain = value.detach().cpu().float().contiguous()
        digest.update(f"{name} {tuple(plain.shape)}".encode())
        digest.update(plain.numpy().tobytes())
    return digest.hexdigest()
