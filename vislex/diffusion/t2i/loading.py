"""``load_t2i``: a text-to-image model from a diffusers folder, a hub id, or the name of a shipped model.

Only classes of diffusers and transformers that a family names are built, only safetensors are read, and a folder that
lacks a part is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vislex.diffusion.t2i.base import TextToImage
from vislex.diffusion.t2i.folder import INDEX, read_index
from vislex.errors import CheckpointError, ConfigError, UnknownNameError, did_you_mean
from vislex.hub import check_folder, check_weights, reading
from vislex.registry import Entry, registry
from vislex.shipped import shipped

__all__ = ["family_of", "load_t2i", "outline_folder"]

_PATTERNS = [INDEX, "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
_VARIANTS = ["*.fp16.*", "*.bf16.*", "*non_ema*", "*/*flax*", "safety_checker/*", "image_encoder/*"]


def load_t2i(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    image_size: int | None = None,
    **options: Any,
) -> TextToImage:
    """Opens a frozen text-to-image model.

    Args:
        source: A folder that a diffusers pipeline wrote, a hub id (ORG/REPO), or a name of ``list_t2i()`` with weights.
        dtype: Number format of all components.
        revision: Of a hub id.
        image_size: Side in pixels; the denoiser's own by default.
        **options: Further options of the family, such as ``max_length``.

    Raises:
        CheckpointError: If the folder cannot be read, lacks a part, or names classes that no family has.
        UnknownNameError: If its pipeline belongs to no family.
        ConfigError: If its scheduler stands for a prediction that the family is not trained for.
    """
    folder, kind, location = _resolve(str(source), revision)
    index = read_index(folder)
    entry = family_of(str(index.get("_class_name")))
    family: type[TextToImage] = entry.load()
    components = _load_components(folder, index, family, lambda part, name: _load(part, name, dtype))
    try:
        model = family(pipeline=str(index["_class_name"]), image_size=image_size, **components, **options)
    except ConfigError as error:
        raise ConfigError(f"'{source}': {error}") from error
    model.folder = folder
    model.source = {"kind": kind, "location": location, "revision": revision}
    return model


def outline_folder(folder: Path) -> TextToImage:
    """The model of a folder with random weights, on torch's default device; see ``load_t2i``."""
    index = read_index(folder)
    family: type[TextToImage] = family_of(str(index.get("_class_name"))).load()
    model = family(pipeline=str(index["_class_name"]), **_load_components(folder, index, family, _outline))
    model.folder = folder
    return model


def _resolve(source: str, revision: str | None) -> tuple[Path, str, str]:
    """Local folder, kind of source and its location."""
    if Path(source).is_dir():
        return Path(source), "local", source
    if source in registry("t2i"):
        weights = registry("t2i").get(source).options.get("weights")
        if weights is None:
            raise CheckpointError(
                f"'{source}' is a family without weights of its own; give a folder or a hub id of one"
            )
        return shipped(str(weights)), "weights", source
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise UnknownNameError(
            f"'{source}' is neither a folder nor a hub id (ORG/REPO){did_you_mean(source, registry('t2i').names())} "
            "See 'vislex list t2i'"
        )
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(source, revision=revision, allow_patterns=_PATTERNS, ignore_patterns=_VARIANTS)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot fetch '{source}': {str(error).strip().splitlines()[0]}") from error
    return Path(folder), "hub", source


def family_of(pipeline: str) -> Entry:
    """The family whose models a stock pipeline runs.

    Raises:
        UnknownNameError: If there is none.
    """
    known: dict[str, Entry] = {}
    for entry in registry("t2i"):
        for name in entry.options.get("pipelines", ()):
            known.setdefault(name, entry)
    if pipeline not in known:
        raise UnknownNameError(
            f"the pipeline '{pipeline}' belongs to no text-to-image family of vislex{did_you_mean(pipeline, known)} "
            f"Known are {', '.join(sorted(known))}"
        )
    return known[pipeline]


def _load_components(
    folder: Path, index: Mapping[str, Any], family: type[TextToImage], load: Callable[[Path, str], Any]
) -> dict[str, Any]:
    named = {part: _class_of(folder, part, index.get(part), family) for part in [*family.parts, "scheduler"]}
    missing = [part for part, name in named.items() if name is None and part not in family.optional]
    if missing:
        raise CheckpointError(
            f"'{folder}' is incomplete: {index['_class_name']} needs {', '.join(missing)}, which it does not hold; "
            "save or download the whole pipeline"
        )
    return {part: load(folder / part, name) for part, name in named.items() if name is not None}


def _class_of(folder: Path, part: str, entry: Any, family: type[TextToImage]) -> str | None:
    """Name of the class that an index states for a part; None if the folder has no such part.

    Raises:
        CheckpointError: If the class may not stand there.
    """
    if not (isinstance(entry, list) and len(entry) == 2 and entry[1]) or not (folder / part).is_dir():
        return None
    name = str(entry[1])
    allowed = family.parts.get(part, ())
    if allowed and name not in allowed:
        raise CheckpointError(
            f"'{folder}': {part} is a '{name}', but {family.__name__} takes {' or '.join(allowed)}"
            f"{did_you_mean(name, allowed)}"
        )
    return name


def _load(folder: Path, name: str, dtype: torch.dtype) -> Any:
    import diffusers
    import transformers

    check_folder(folder)
    with reading(f"cannot load '{folder}'"):
        if folder.name.startswith("tokenizer"):
            return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        if folder.name == "scheduler":
            scheduler: Any = getattr(diffusers, name, None)
            if not _is_scheduler(scheduler):
                raise CheckpointError(f"'{folder}' names the scheduler '{name}', which diffusers does not have")
            return scheduler.from_pretrained(folder)
        library = transformers if hasattr(transformers, name) else diffusers
        number_format = {"dtype": dtype} if library is transformers else {"torch_dtype": dtype}
        part, info = getattr(library, name).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **number_format
        )
    check_weights(dict(part.named_parameters()), folder)
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"'{folder}' lacks {len(missing)} weights, the first is {missing[0]}")
    return part


def _outline(folder: Path, name: str) -> Any:
    import diffusers
    import transformers

    if folder.name == "scheduler" or folder.name.startswith("tokenizer"):
        with torch.device("cpu"):  # they compute with their tables
            return _load(folder, name, torch.float32)
    check_folder(folder)
    if hasattr(transformers, name):
        found = getattr(transformers, name)
        return found(found.config_class.from_pretrained(folder))
    found = getattr(diffusers, name)
    return found.from_config(found.load_config(folder))


def _is_scheduler(found: object) -> bool:
    from diffusers import SchedulerMixin

    return isinstance(found, type) and issubclass(found, SchedulerMixin)
