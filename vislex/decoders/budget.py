"""Parameters of a decoder as a comparison counts them."""

from __future__ import annotations

from torch import nn

__all__ = ["decoder_parameters"]


def decoder_parameters(decoder: nn.Module) -> dict[str, int]:
    """Counts by what requires gradients; works on the meta device.

    Returns:
        "decoder": all; "decoder_frozen": what is not trained (the codec of ladic, unless it is trained on);
        "decoder_budget": what is trained, without embeddings and the heads tied to them, which follow from the
        vocabulary and not from the design.
    """
    embeddings = {id(module.weight) for module in decoder.modules() if isinstance(module, nn.Embedding)}
    own = list(decoder.parameters())
    return {
        "decoder": sum(p.numel() for p in own),
        "decoder_frozen": sum(p.numel() for p in own if not p.requires_grad),
        "decoder_budget": sum(p.numel() for p in own if p.requires_grad and id(p) not in embeddings),
    }
