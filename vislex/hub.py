"""Checkpoints as files: what a config may carry, and the model card.

A config that comes with weights is data of a stranger. It names registered parts and sizes, nothing else: its keys are
held against an allow-list before any class is built.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vislex.errors import CheckpointError, VislexError, did_you_mean
from vislex.registry import registry

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "allowed_keys",
    "check_config",
    "check_folder",
    "check_plain",
    "check_weights",
    "drop_unknown_keys",
    "model_card",
    "open_checkpoint",
    "read_notes",
    "reading",
]

_FORBIDDEN = frozenset(
    {
        "trust_remote_code",
        "auto_map",
        "custom_pipelines",
        "custom_generate",
        "attn_implementation",
        "experts_implementation",
        "cache_dir",
        "revision",
        "code_revision",
        "weights_only",
        "use_safetensors",
        "checkpoint_path",
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "use_pretrained_backbone",
        "_target_",
    }
)
# What transformers writes into every config beside the fields of its class.
_WRITTEN = frozenset({"model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path"})
_SOURCE = frozenset({"kind", "location", "revision", "sha256", "seed"})
# A card that ``model_card`` wrote: behind its table the notes, then the usage.
_CARD = re.compile(r"\n\| \| \|\n\|---\|---\|\n(?:\|[^\n]*\n)+\n(.*)```python\n", re.DOTALL)
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")
_CLASS_NAME = re.compile(r"[A-Za-z_]\w*")
_MAX_DEPTH = 12
# What files of a stranger make readers raise, beside what these raise on purpose.
_DAMAGED = (
    OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError,
    MemoryError, EOFError, SyntaxError,
)  # fmt: skip


def allowed_keys(model_type: str) -> frozenset[str]:
    """Keys that a config of a model type may carry: the fields of its class and what transformers writes.

    Raises:
        CheckpointError: If no registered config has this model type.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise CheckpointError(
            f"the checkpoint's config names the model type '{model_type}', which nothing installed here knows"
            f"{did_you_mean(str(model_type), CONFIG_MAPPING)} Install the package that registers it"
        )
    fields = {field.name for field in dataclasses.fields(CONFIG_MAPPING[model_type])}
    return (frozenset(fields) | _WRITTEN) - _FORBIDDEN


def check_config(config: Mapping[str, Any], *, where: str = "config.json") -> None:
    """Refuses a checkpoint's config that carries more than sizes and names of registered parts, at any depth.

    Args:
        config: Parsed JSON, before any class is built from it.
        where: What an error names.

    Raises:
        CheckpointError: For a key that could load or run code or change how weights are read, a key that the config's
            class does not know, an import path as a value, or a model type that is not registered.
    """
    _check(config, where, 0)


def check_folder(folder: str | Path) -> None:
    """Checks the forbidden keys and values in every JSON config of a local folder.

    Raises:
        CheckpointError: As ``check_config``, or for a file that is no JSON object.
    """
    for path in sorted(Path(folder).glob("*config.json")):
        config = _read_object(path)
        check_plain(config, path.name, 0)
        _check_file_names(config.get("chat_template"), f"{path.name}: chat_template")  # saved as files of these names
    for path in sorted(Path(folder).glob("*.index.json")):
        indexed_files(path)


def indexed_files(index: Path) -> list[str]:
    """Names of the weight files of an index, sorted.

    Raises:
        CheckpointError: If it is no index, or one leads out of its folder.
    """
    places = _read_object(index).get("weight_map")
    if not isinstance(places, dict):
        raise CheckpointError(f"'{index}' says of no weight where it lies; the checkpoint is damaged")
    names = {str(name): None for name in places.values()}
    _check_file_names(names, f"{index.name}: weight_map")
    return sorted(names)


def check_weights(tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Refuses weights that are no numbers: a model with one NaN says nothing, or what its maker wants.

    Args:
        tensors: By name; those of whole numbers are passed over.
        where: What an error names.

    Raises:
        CheckpointError: Naming the first that is not finite.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel() or tensor.element_size() == 1:
            continue
        low, high = (float(end) for end in tensor.detach().aminmax())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise CheckpointError(f"'{where}': the weights '{name}' hold values that are not finite; it is damaged")


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turns what a damaged or hostile checkpoint makes its reader raise into one line.

    Args:
        what: What cannot be read: "no captioner can be read from 'DIR'".

    Raises:
        CheckpointError: In the place of the reader's errors; those of vislex pass.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except VislexError:
        raise
    except (SafetensorError, StrictDataclassError, *_DAMAGED) as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        raise CheckpointError(f"{what}: {reason}") from error


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is not JSON: {error}; the checkpoint is damaged") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"'{path}' holds no JSON object; the checkpoint is damaged")
    return found


def _check_file_names(names: Any, where: str) -> None:
    """Names that are joined to a folder: nothing but names."""
    listed = [item.get("name") for item in names if isinstance(item, dict)] if isinstance(names, list) else names
    for name in listed if isinstance(listed, list | dict) else ():
        if name is None or set(str(name)) & set("/\\\0:") or str(name) in ("", ".", ".."):
            raise CheckpointError(f"{where} names the file {name!r}, which leads out of the folder; it is refused")


def drop_unknown_keys(config: dict[str, Any]) -> dict[str, Any]:
    """A config to be saved, without what ``check_config`` would refuse: leftovers of old checkpoints in sub-configs."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        return config
    allowed = allowed_keys(model_type)
    return {
        key: drop_unknown_keys(value) if isinstance(value, dict) and value.get("model_type") else value
        for key, value in config.items()
        if key in allowed
    }


def _check(config: Mapping[str, Any], where: str, depth: int) -> None:
    _check_depth(where, depth)
    # Forbidden keys first: they deserve their own message, also where the class would not know them either.
    _check_keys(config, where)
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        raise CheckpointError(f"{where} has no model_type; it is not the config of a model")
    allowed = allowed_keys(model_type)
    for key, value in config.items():
        if key not in allowed:
            raise CheckpointError(
                f"{where} carries '{key}', which a config of type '{model_type}' does not have"
                f"{did_you_mean(str(key), allowed)} Remove the key if you trust the rest of the file"
            )
        place = f"{where}: {key}"
        if key == "architectures":
            _check_class_names(value, place)
        elif key == "source" and isinstance(value, Mapping):
            _check_source(value, place)
        elif isinstance(value, Mapping) and "model_type" in value:
            _check(value, place, depth + 1)
        else:
            check_plain(value, place, depth + 1)


def check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Checks values that no config class describes: numbers, texts, lists and mappings of them."""
    _check_depth(where, depth)
    if isinstance(value, Mapping):
        _check_keys(value, where)
        for key, item in value.items():
            if key == "source" and isinstance(item, Mapping):
                _check_source(item, f"{where}: {key}")
            else:
                check_plain(item, f"{where}: {key}", depth + 1)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            check_plain(item, where, depth + 1)
    elif isinstance(value, str) and _IMPORT_PATH.fullmatch(value) and not _is_encoder_name(value):
        raise CheckpointError(
            f"{where} is the import path '{value}'; a checkpoint may only name registered parts, so it is refused"
        )


def _check_keys(config: Mapping[str, Any], where: str) -> None:
    for key in config:
        if key in _FORBIDDEN or (str(key).startswith("_") and str(key).endswith("_internal")):
            raise CheckpointError(
                f"{where} carries '{key}', which no checkpoint may set: it changes how code or weights are loaded; "
                "do not use this checkpoint unless you know who made it, and then remove the key"
            )


def _check_source(source: Mapping[str, Any], where: str) -> None:
    if unknown := sorted(set(map(str, source)) - _SOURCE):
        raise CheckpointError(f"{where} carries '{unknown[0]}'; a source has {', '.join(sorted(_SOURCE))} only")
    for key, value in source.items():
        wanted, name = (int, "a whole number") if key == "seed" else (str, "a text")
        if value is not None and (not isinstance(value, wanted) or isinstance(value, bool)):
            raise CheckpointError(f"{where}: {key} is {value!r}; it must be {name}")


def _check_class_names(names: Any, where: str) -> None:
    listed = names if isinstance(names, list) else [names]
    for name in listed:
        if name is not None and not (isinstance(name, str) and _CLASS_NAME.fullmatch(name)):
            raise CheckpointError(f"{where} is {name!r}, which is no class name; the checkpoint is refused")


def _check_depth(where: str, depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise CheckpointError(f"{where} is nested more than {_MAX_DEPTH} levels deep; no config of a model is")


def _is_encoder_name(value: str) -> bool:
    return value.partition(":")[0] + ":" in registry("encoders")


def open_checkpoint(
    load: Callable[..., Any], location: str | Path, *args: Any, what: str, **kwargs: Any
) -> tuple[Any, dict[str, Any]]:
    """Opens a saved model by its class's ``from_pretrained``: safetensors, checked configs, no code, nothing missing.

    Args:
        load: ``from_pretrained`` of transformers.
        location: Folder or hub id.
        *args: See there.
        what: What an error calls the model.
        **kwargs: See there.

    Returns:
        The model and transformers' loading info.

    Raises:
        CheckpointError: If it cannot be read, carries what no checkpoint may, or lacks weights.
    """
    if Path(location).is_dir():
        check_folder(location)
    kwargs.pop("trust_remote_code", None)
    kwargs |= {"output_loading_info": True, "use_safetensors": True}
    with reading(f"no {what} can be read from '{location}'"):
        model, info = load(location, *args, **kwargs)
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(
            f"'{location}' is incomplete: {len(missing)} weights are missing, the first is {missing[0]}"
        )
    # A part that is saved by reference holds what memory held, until its source fills it.
    is_filled_later = getattr(model.config, "saved_by_reference", lambda part: False)
    read = {name: own for name, own in model.named_parameters() if not is_filled_later(name.partition(".")[0])}
    check_weights(read, location)
    return model, info


def model_card(
    title: str,
    facts: Mapping[str, Any],
    usage: str,
    notes: str = "",
    *,
    task: str = "image-text-to-text",
    tags: Sequence[str] = ("image-captioning",),
    library: str = "vislex",
) -> str:
    """README.md of a saved model.

    Args:
        title: Heading.
        facts: Lines of the table.
        usage: Python that loads and calls the model.
        notes: Markdown under the table: data, recipe, figures, licence.
        task: The hub's name of what the model does.
        tags: The hub's tags, besides "vislex".
        library: The library that opens it.
    """
    listed = "\n".join(f"- {tag}" for tag in ("vislex", *tags))
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return (
        f"---\nlibrary_name: {library}\npipeline_tag: {task}\ntags:\n{listed}\n---\n"
        f"# {title}\n\n| | |\n|---|---|\n{rows}\n\n{notes.strip()}{chr(10) * 2 if notes.strip() else ''}"
        f"```python\n{usage.strip()}\n```\n"
    )


def read_notes(source: str | Path) -> str:
    """The notes that ``model_card`` put into a saved model's card; empty where there is no such card.

    Args:
        source: Folder; a hub id has no card here.
    """
    try:
        card = (Path(source) / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    found = _CARD.search(card)
    return found.group(1).strip() if found else ""
