"""A trained backbone as an ordinary checkpoint of transformers or timm, which opens without vislex."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor
from transformers import AutoModel, PreTrainedModel, SiglipVisionModel

from vislex.encoders.base import VisionEncoder
from vislex.encoders.hf import HFEncoder
from vislex.encoders.timm import TimmEncoder
from vislex.encoders.vilex import ViLexEncoder
from vislex.errors import CheckpointError, ConfigError
from vislex.hub import model_card, open_checkpoint
from vislex.processing import create_image_processor
from vislex.vilex import ViLex

__all__ = ["FORMATS", "backbone_of", "export_backbone"]

FORMATS = ("hf", "timm")
_ACTIVATIONS = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}  # transformers -> timm
_VILEX_NOTES = """
The weights are those of the vision tower after training with ViLex (arXiv 2412.06774): reconstruction through a frozen
text-to-image model. **Only the tower was trained.** Its own pooling head{head} and the text tower that it was once
aligned with were not: their scores no longer match these patch tokens, so do not use this checkpoint for zero-shot
retrieval or classification without re-tuning a head.
"""


def backbone_of(folder: str | Path) -> tuple[VisionEncoder, bool]:
    """The vision encoder inside a saved model, and whether ViLex trained it.

    Args:
        folder: A ViLex model, a captioner or an encoder; a folder or hub id.

    Raises:
        CheckpointError: If it holds none of these.
    """
    import vislex.auto  # noqa: F401

    model, _ = open_checkpoint(AutoModel.from_pretrained, str(folder), what="vislex model", dtype=torch.float32)
    encoder = model if isinstance(model, VisionEncoder) else getattr(model, "encoder", None)
    if not isinstance(encoder, VisionEncoder):
        raise CheckpointError(f"'{folder}' is a '{model.config.model_type}', which has no vision encoder to export")
    if isinstance(encoder, ViLexEncoder):
        return encoder.backbone, True
    return encoder, isinstance(model, ViLex)


def export_backbone(folder: str | Path, to: str, out: str | Path) -> Path:
    """Writes the backbone of a saved model as an ordinary checkpoint, with preprocessing and a model card.

    Args:
        folder: See ``backbone_of``.
        to: "hf": for the tower's own class in transformers (``TimmWrapperModel`` for timm's). "timm": for
            ``timm.create_model("local-dir:OUT", pretrained=True)``.
        out: Folder to write.

    Returns:
        ``out``.

    Raises:
        ConfigError: If there is no such format, or the backbone has no counterpart there.
    """
    if to not in FORMATS:
        raise ConfigError(f"unknown format '{to}'; allowed are {', '.join(FORMATS)}")
    encoder, by_vilex = backbone_of(folder)
    target = Path(out)
    if not isinstance(encoder, HFEncoder | TimmEncoder):
        raise ConfigError(
            f"'{encoder.config.name or encoder.config.model_type}' has no counterpart in {to}: only towers of "
            "transformers ('hf:') and timm ('timm:') are exported"
        )
    usage = _to_transformers(encoder, target) if to == "hf" else _to_timm(encoder, target)
    facts = {"From": f"`{encoder.config.name}`", "Trained by": "ViLex" if by_vilex else "see the original model"}
    head = " (kept as it was)" if isinstance(encoder.backbone, SiglipVisionModel) else ""
    card = model_card(
        "Vision tower",
        facts,
        usage,
        _VILEX_NOTES.format(head=head) if by_vilex else "",
        task="image-feature-extraction",
        tags=("image-feature-extraction",),
        library="transformers" if to == "hf" else "timm",
    )
    (target / "README.md").write_text(card, encoding="utf-8")
    return target


def _to_transformers(encoder: HFEncoder | TimmEncoder, out: Path) -> str:
    tower: PreTrainedModel = encoder.backbone
    tower.save_pretrained(out)
    create_image_processor(encoder.spec).save_pretrained(out)
    name = type(tower).__name__
    return f'from transformers import {name}\n\ntower = {name}.from_pretrained("THIS_FOLDER")'


def _to_timm(encoder: HFEncoder | TimmEncoder, out: Path) -> str:
    if isinstance(encoder, TimmEncoder):
        architecture, arguments = encoder.config.architecture, dict(encoder.config.model_args or {})
        model = encoder.backbone.timm_model
    else:
        architecture, arguments = _siglip_in_timm(encoder)
        model = timm.create_model(architecture, pretrained=False, **arguments)
        model.load_state_dict(_siglip_weights(encoder.backbone))
    spec = encoder.spec
    preprocessing = {
        "input_size": [3, *spec.image_size],
        "interpolation": spec.interpolation,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "num_classes": 0,
    }
    described = {"architecture": architecture, "num_classes": 0, "pretrained_cfg": preprocessing}
    save_for_hf(model.eval(), str(out), model_config=described, model_args=_plain(arguments), safe_serialization=True)
    return 'import timm\n\ntower = timm.create_model("local-dir:THIS_FOLDER", pretrained=True)'


def _siglip_in_timm(encoder: HFEncoder) -> tuple[str, dict[str, Any]]:
    """timm's architecture and arguments of a SigLIP tower.

    Raises:
        ConfigError: If it is another tower, or timm has nothing equal.
    """
    tower: Any = encoder.backbone
    config = tower.config
    refused = None
    if not isinstance(tower, SiglipVisionModel):
        refused = f"a '{config.model_type}' has no counterpart in timm that vislex knows; only SigLIP towers have one"
    elif config.hidden_act not in _ACTIVATIONS:
        refused = f"timm's SigLIP has no activation '{config.hidden_act}'"
    elif config.layer_norm_eps != 1e-6:
        refused = f"timm's SigLIP has layer_norm_eps 1e-6, this tower {config.layer_norm_eps}"
    if refused:
        raise ConfigError(f"'{encoder.config.name}': {refused}; use --to hf")
    arguments = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.hidden_size,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": (config.intermediate_size + 0.5) / config.hidden_size,  # timm rounds down
        "act_layer": _ACTIVATIONS[config.hidden_act],
        "num_classes": 0,
    }
    if not getattr(config, "vision_use_head", True):
        arguments["global_pool"] = ""
    return "vit_base_patch16_siglip_224", arguments


def _siglip_weights(tower: Any) -> dict[str, Tensor]:
    """The state dict of a ``SiglipVisionModel`` under timm's names, queries, keys and values stacked."""
    own = tower.state_dict()
    weights = {
        "pos_embed": own["embeddings.position_embedding.weight"][None],
        **_renamed(own, {"embeddings.patch_embedding": "patch_embed.proj", "post_layernorm": "norm"}),
    }
    names = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    for layer in range(tower.config.num_hidden_layers):
        before, after = f"encoder.layers.{layer}", f"blocks.{layer}"
        weights |= _renamed(own, {f"{before}.{name}": f"{after}.{new}" for name, new in names.items()})
        for kind in ("weight", "bias"):
            parts = [own[f"{before}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            weights[f"{after}.attn.qkv.{kind}"] = torch.cat(parts)
    if "head.probe" in own:
        weights["attn_pool.latent"] = own["head.probe"]
        for kind, joint in (("weight", "in_proj_weight"), ("bias", "in_proj_bias")):
            query, *key_value = own[f"head.attention.{joint}"].chunk(3)
            weights[f"attn_pool.q.{kind}"] = query
            weights[f"attn_pool.kv.{kind}"] = torch.cat(key_value)
        head = {"attention.out_proj": "proj", "layernorm": "norm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        weights |= _renamed(own, {f"head.{name}": f"attn_pool.{new}" for name, new in head.items()})
    return {name: value.clone() for name, value in weights.items()}


def _renamed(own: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """Weights and biases of modules under new names."""
    return {f"{new}.{kind}": own[f"{old}.{kind}"] for old, new in names.items() for kind in ("weight", "bias")}


def _plain(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in arguments.items()}
