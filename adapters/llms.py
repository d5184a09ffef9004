"""Language backbones by name: any causal language model of transformers, with pretrained or random weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from vislex.decoders.language_model import load_language_model
from vislex.encoders.base import check_variant
from vislex.encoders.sources import check_same
from vislex.errors import CheckpointError, ConfigError
from vislex.hub import check_folder
from vislex.modules.digest import weights_digest
from vislex.registry import registry
from vislex.shipped import shipped, shipped_name
from vislex.text import load_tokenizer

__all__ = [
    "build_llm",
    "create_llm",
    "embedding_rows",
    "grow_vocabulary",
    "llm_source",
    "load_llm_tokenizer",
    "rebuild_llm",
]


def create_llm(name: str, *, pretrained: bool = False, tiny: bool = False, **options: Any) -> PreTrainedModel:
    """Builds a language backbone, in eval mode.

    Args:
        name: A name of ``vislex list llms`` ("qwen3-0.6b"), ``hf:ORG/REPO`` or ``hf:DIR``.
        pretrained: Whether to load weights; otherwise they are random, drawn from torch's global generator.
        tiny: Whether to build the small variant that tests use (catalog names only).
        **options: Fields of the model's config, over those of its catalog row: ``vocab_size``, ...; with pretrained
            weights only what leaves their shapes as they are (``attention_dropout``).

    Raises:
        UnknownNameError: With the nearest names.
        ConfigError: If an option is no field of the config.
        CheckpointError: If weights are missing, unsafe or contradict the row.
    """
    entry, source = registry("llms").resolve(name)
    row: dict[str, Any] = copy.deepcopy(dict(entry.options))
    small = row.pop("tiny", {})
    if tiny:
        row["config"] = {**row.get("config", {}), **small}
    model: PreTrainedModel = entry.load()(source, pretrained=pretrained, tiny=tiny, changes=options, **row)
    return model.eval()


def build_llm(
    source: str | None = None,
    *,
    pretrained: bool = False,
    tiny: bool = False,
    config: Mapping[str, Any] | None = None,
    hub_id: str | None = None,
    weights: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> PreTrainedModel:
    """Any ``AutoModelForCausalLM``: a hub id, a folder, weights that ship with vislex, or a config with random weights.

    Args:
        source: What stands behind ``hf:``: ORG/REPO or a local folder.
        pretrained: Whether to load the weights of ``source``, ``weights`` or ``hub_id``.
        tiny: Whether ``config`` is that of a test.
        config: Config with its ``model_type``, for a catalog row.
        hub_id: Hub id of the row's weights.
        weights: Name of weights that ship with vislex.
        changes: Fields of the config that the caller sets.
    """
    name = source or weights or hub_id or str((config or {}).get("model_type"))
    check_variant(f"hf:{name}", source, pretrained=pretrained, tiny=tiny)
    location = None if tiny else source or (shipped(weights) if weights else hub_id if pretrained else None)
    if location is not None and Path(location).is_dir():
        check_folder(location)
    stated = _read_config(location) if location is not None else AutoConfig.for_model(**(config or {}))
    if location is not None:
        check_same(name, config or {}, stated.to_dict())
    for field, value in (changes or {}).items():
        if not hasattr(stated, field):
            raise ConfigError(f"'{field}' is no field of the config of '{name}' ({stated.model_type})")
        setattr(stated, field, value)
    if not pretrained:
        return AutoModelForCausalLM.from_config(stated)
    if location is None:
        raise CheckpointError(f"'{name}' has no pretrained weights; pass pretrained=False")
    return load_language_model(
        AutoModelForCausalLM, location, vocab_size=0, config=stated, dtype=torch.float32, use_safetensors=True
    )


def load_llm_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of a language backbone, from where its weights are.

    Raises:
        CheckpointError: If there is none.
    """
    entry, source = registry("llms").resolve(name)
    weights, hub_id = entry.options.get("weights"), entry.options.get("hub_id")
    location = source or (shipped(weights) if weights else hub_id)
    # transformers makes up an empty tokenizer of the model's class where a folder has none
    if location is None or (Path(location).is_dir() and not any(Path(location).glob("tokenizer*"))):
        raise CheckpointError(f"the language model '{name}' has no tokenizer; pass tokenizer=")
    return load_tokenizer(location)


@torch.no_grad()
def grow_vocabulary(model: PreTrainedModel, size: int) -> int:
    """Makes room for ``size`` token ids, if there is none; the rows that are there stay bit for bit.

    Many models have spare rows (Qwen pads its vocabulary), and then nothing changes. New rows are the mean of the old
    ones, of the tied or untied head too.

    Args:
        model: Changed in place.
        size: Number of entries of the tokenizer.

    Returns:
        The number of rows that were added.
    """
    known = model.get_input_embeddings().weight.shape[0]
    if size <= known:
        return 0
    tables = [model.get_input_embeddings(), model.get_output_embeddings()]
    means = [table.weight.mean(0) for table in tables]
    biases = [getattr(table, "bias", None) for table in tables]
    centres = [None if bias is None else bias.mean() for bias in biases]
    model.resize_token_embeddings(size, mean_resizing=False)
    for table, mean, centre in zip(
        (model.get_input_embeddings(), model.get_output_embeddings()), means, centres, strict=True
    ):
        table.weight[known:] = mean
        if centre is not None:
            table.bias[known:] = centre
    return size - known


def llm_source(model: PreTrainedModel) -> dict[str, Any] | None:
    """Where a loaded model came from: kind, location and revision; None if nothing gives it again."""
    location = model.config.name_or_path
    if not location:
        return None
    folder = Path(location)
    kind = "local" if folder.is_dir() else "hub"
    if name := shipped_name(folder):
        kind, location = "weights", name
    revision = getattr(model.config, "_commit_hash", None)
    return {"kind": kind, "location": str(location), "revision": revision}


def rebuild_llm(source: Mapping[str, Any], size: int) -> PreTrainedModel:
    """Loads a language model again from its record, grown to ``size`` token ids, and verifies it.

    Args:
        source: What ``llm_source`` gave, with the ``sha256`` of the weights (``weights_digest``); None: not verified.
        size: Token ids that it must have room for.

    Raises:
        CheckpointError: If the source is gone, or its weights have changed since.
    """
    location = shipped(source["location"]) if source["kind"] == "weights" else source["location"]
    model = build_llm(str(location), pretrained=True)
    grow_vocabulary(model, size)
    recorded = source.get("sha256")
    if recorded is not None and (found := weights_digest(model)) != recorded:
        raise CheckpointError(
            f"the weights of the language model '{source['location']}' have changed since the model was saved (sha256 "
            f"{found}, recorded {recorded}); restore them, or save with standalone=True next time"
        )
    return model


def embedding_rows(model: PreTrainedModel) -> int:
    """Token ids that a model has room for."""
    table: nn.Embedding = model.get_input_embeddings()
    return int(table.weight.shape[0])


def _read_config(location: str | Path) -> Any:
    try:
        return AutoConfig.from_pretrained(location, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"cannot read the config of the language model '{location}': {reason} (without a network, pass hf:DIR of a "
            "downloaded folder)"
        ) from error
