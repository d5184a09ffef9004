"""Trained adapters as a folder that plain ``PeftModel.from_pretrained`` opens, with parts that were trained whole."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from vislex.errors import CheckpointError, ConfigError
from vislex.training.parts import PartsPlan

__all__ = ["adapter_base", "open_adapters", "save_adapters"]

_PREFIX = "base_model.model."


def save_adapters(model: PreTrainedModel, plan: PartsPlan, folder: Path, *, base: str | Path) -> None:
    """Writes adapters, and parts that were trained in full, as PEFT does.

    PiSSA's adapters start from the largest singular vectors, which it takes out of the frozen weights; they are written
    as plain LoRA of twice the rank, which fits the weights as they were.

    Args:
        model: With its adapters in place (``PartTrainer.fit(merge=False)``).
        plan: Of its training.
        folder: Receives ``adapter_config.json`` and ``adapter_model.safetensors``.
        base: Folder or hub id of the model before the training.

    Raises:
        ConfigError: If there are no adapters, or a part was trained in full whose name is also that of an inner module.
    """
    if plan.adapters is None:
        raise ConfigError("there are no adapters to save: no part was trained in mode 'lora'")
    whole = [row.part for row in plan.rows if row.mode == "full" and row.trainable]
    names = [name for name, _ in model.named_modules()]
    for part in whole:  # peft finds modules to save by the end of their names
        if sum(name == part or name.endswith("." + part) for name in names) != 1:
            raise ConfigError(
                f"the part '{part}' was trained in full and cannot be saved beside adapters, because an inner module "
                "has its name too; train it as lora or frozen, or merge the adapters"
            )
    config = copy.deepcopy(plan.adapters)
    state = get_peft_model_state_dict(model, adapter_name="default", save_embedding_layers=False)
    if plan.initial:
        config, state = _as_plain_lora(config, state, plan.initial)
    for name, value in model.state_dict().items():
        if name.startswith(tuple(f"{part}." for part in whole)):
            state[name] = value
    config.modules_to_save = whole or None
    config.base_model_name_or_path = str(base)
    config.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(str(folder))
    tensors = {_PREFIX + name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(tensors, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})


def adapter_base(folder: Path) -> str | None:
    """The model that a folder's adapters belong to; None if it holds no adapters.

    Raises:
        CheckpointError: If its weights are no safetensors file, or its configuration is none of PEFT's LoRA.
    """
    if not (folder / "adapter_config.json").is_file():
        return None
    if not (folder / SAFETENSORS_WEIGHTS_NAME).is_file():
        raise CheckpointError(f"'{folder}' has adapters, but no {SAFETENSORS_WEIGHTS_NAME}; other files are not opened")
    try:
        config = LoraConfig.from_pretrained(str(folder))
    except (TypeError, ValueError, KeyError) as error:
        raise CheckpointError(f"'{folder}/adapter_config.json' is no configuration of LoRA: {error}") from error
    if not config.base_model_name_or_path:
        raise CheckpointError(f"'{folder}' does not say which model its adapters belong to (base_model_name_or_path)")
    return str(config.base_model_name_or_path)


def open_adapters(model: PreTrainedModel, folder: Path, *, name: str = "default") -> PeftModel:
    """Puts saved adapters on a model; ``load_adapter`` and ``set_adapter`` of the result switch between several."""
    return PeftModel.from_pretrained(model, str(folder), adapter_name=name).eval()


def _as_plain_lora(
    config: LoraConfig, state: dict[str, Tensor], initial: dict[str, Tensor]
) -> tuple[LoraConfig, dict[str, Tensor]]:
    """W + BA - B0 A0 as one adapter of rank 2r: [B, -B0] [A; A0], with twice the alpha."""
    plain = {}
    for name, value in state.items():
        start = initial[name.replace(".weight", ".default.weight")].to(value.device)
        plain[name] = torch.cat([value, start]) if ".lora_A." in name else torch.cat([value, -start], dim=1)
    config.init_lora_weights = True
    config.rank_pattern = {name: 2 * rank for name, rank in (config.rank_pattern or {}).items()}
    config.alpha_pattern = {name: 2 * alpha for name, alpha in (config.alpha_pattern or {}).items()}
    return config, plain
