"""A digest of a module's weights."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["weights_digest"]


def weights_digest(module: torch.nn.Module) -> str:
    """sha256 over names, types and values of all parameters and buffers, non-persistent ones included."""
    digest = hashlib.sha256()
    for name, value in sorted([*module.named_parameters(), *module.named_buffers()]):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
    return digest.hexdigest()
