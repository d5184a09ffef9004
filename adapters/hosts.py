"""Host families: the vision-language models of transformers whose vision tower vislex swaps, one file each."""

from __future__ import annotations

import hashlib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig, PreTrainedModel

from vislex.adapters.tower import Tower
from vislex.errors import CheckpointError, UnknownNameError, did_you_mean
from vislex.hub import check_plain, open_checkpoint
from vislex.processing import RESAMPLE
from vislex.registry import registry
from vislex.specs import EncoderSpec
from vislex.training.parts import PartSettings

if TYPE_CHECKING:
    from vislex.adapters.swap_plan import TowerPlan

__all__ = [
    "HostFamily",
    "handed_over",
    "host_config",
    "host_family",
    "live_tensors",
    "load_host",
    "outline_host",
    "part_digests",
    "rebuilt",
    "stored_tensors",
]


class HostFamily(ABC):
    """How one family of hosts reads its vision tower; a subclass for each, in ``adapters/host_<family>.py``.

    Attributes:
        parts: Module names of each part. The deepest one that leads to a parameter owns it; what no part owns counts
            as "llm".
        vision_fields: What the host reads of its vision config; a tower whose config lacks one is wrapped.
        reads_layers: Whether the host takes ``hidden_states[vision_feature_layer]``, not ``last_hidden_state``.
        drops_cls: Whether it can drop one prefix token.
        answer_type: ``token_type_ids`` of an answer, for hosts that have them.
        tower_class: What wraps encoders for it.
        swapped_class: The host with a wrapped tower, for families whose own class builds towers of one kind only; such
            hosts take no bare tower of transformers but their own. None: the host's class stays.
        image_processor_class: Image processor that its swapped processor needs, where transformers has none.
        same_weights: Model types of other towers whose weights fit, under the same names, where sizes agree.
        no_matter: Fields of the vision config beside those, in which towers may differ whose weights fit.
    """

    parts: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "encoder": ("model.vision_tower",),
        "connector": ("model.multi_modal_projector",),
        "llm": ("model.language_model", "lm_head"),
    }
    vision_fields: ClassVar[tuple[str, ...]] = ("hidden_size", "image_size", "patch_size")
    reads_layers: ClassVar[bool] = False
    drops_cls: ClassVar[bool] = False
    answer_type: ClassVar[int] = 0
    tower_class: ClassVar[type[Tower]] = Tower
    swapped_class: ClassVar[type[PreTrainedModel] | None] = None
    image_processor_class: ClassVar[type[Any] | None] = None
    same_weights: ClassVar[frozenset[str]] = frozenset()
    no_matter: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def configure(self, config: PreTrainedConfig, plan: TowerPlan) -> None:
        """Changes every number of tokens in a host's config to another tower's.

        Args:
            config: The host's, which still holds the old ``vision_config``.
            plan: The tower; its config takes that place afterwards.

        Raises:
            SpecError: If the host cannot read this tower's tokens; the reason says what to do.
        """

    @abstractmethod
    def repair_processor(self, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
        """A processor for the changed config: image size, mean, std, resizing, and as many image tokens as features.

        Args:
            processor: The host's; left as it is.
            config: The host's, already changed.
            plan: The tower.
        """

    def image_tokens(self, config: PreTrainedConfig, plan: TowerPlan) -> int:
        """Tokens of the prompt that an image takes (a tile, for any-res hosts)."""
        return plan.n_tokens

    def notes(self, config: PreTrainedConfig, plan: TowerPlan) -> list[str]:
        """What a user should know of a swap."""
        return []

    def new_connector(self, old: nn.Module, config: PreTrainedConfig) -> nn.Module:
        """A connector of the host's own class for the changed config, with torch's initialisation.

        torch's scale for linear maps, not transformers' 0.02: that all but hides the image from narrow models.
        """
        return type(old)(config)

    def install(self, host: PreTrainedModel, part: str, module: nn.Module) -> None:
        """Puts a part in its place."""
        host.set_submodule(self.parts[part][0], module)

    def module(self, host: nn.Module, part: str) -> nn.Module:
        """The first module of a part."""
        return host.get_submodule(self.parts[part][0])

    def part_of(self, name: str) -> str:
        """The part that owns a parameter or a stored tensor: files of older layouts lack the leading ``model.``."""
        owners = [
            (len(path), part)
            for part, paths in self.parts.items()
            for path in paths
            if f".{path.removeprefix('model.')}." in f".{name}"
        ]
        return max(owners)[1] if owners else "llm"

    def training_parts(self, settings: Mapping[str, PartSettings]) -> dict[str, PartSettings]:
        """Settings by part as settings by module name, for ``prepare_parts``; a head beside its part gets no LoRA."""
        modules: dict[str, PartSettings] = {}
        for part, own in settings.items():
            first, *others = self.parts[part]
            beside = own.model_copy(update={"mode": "frozen"}) if own.mode == "lora" else own
            modules |= {first: own, **dict.fromkeys(others, beside)}
        return modules


def host_family(host: PreTrainedConfig | str) -> HostFamily:
    """The family of a host, by its config or the exact ``model_type`` in it.

    Raises:
        UnknownNameError: If vislex does not know it.
    """
    name = (host if isinstance(host, str) else str(host.model_type)).removeprefix("vislex_")
    hosts = registry("hosts")
    if name not in hosts:
        raise UnknownNameError(
            f"no host family '{name}'{did_you_mean(name, hosts.names())} Encoders can be swapped in: "
            f"{', '.join(hosts.names())}"
        )
    family: HostFamily = hosts.get(name).load()
    return family


def load_host(location: str | Path, dtype: str | torch.dtype = "auto") -> tuple[PreTrainedModel, Any]:
    """Opens a host and its processor: a hub id, a folder of transformers, or one that a swap wrote.

    Args:
        location: Folder or hub id.
        dtype: "auto" keeps that of the weights.

    Raises:
        CheckpointError: If a config carries what no checkpoint may, or weights are missing.
        UnknownNameError: If it is of no host family.
    """
    import vislex.auto  # noqa: F401

    host_config(location)
    model, _ = open_checkpoint(AutoModelForImageTextToText.from_pretrained, location, what="host", dtype=dtype)
    return model.eval(), AutoProcessor.from_pretrained(location, trust_remote_code=False)


def outline_host(location: str | Path, dtype: torch.dtype) -> tuple[PreTrainedModel, Any]:
    """A host of the sizes in its config, with random weights on the default device, and its processor.

    Args:
        location: As for ``load_host``; its weights are not read, and need not be there.
        dtype: Of the weights.

    Raises:
        CheckpointError: As ``load_host``.
        UnknownNameError: As ``load_host``.
    """
    import vislex.auto  # noqa: F401

    host_config(location)
    config = AutoConfig.from_pretrained(location, trust_remote_code=False)
    with torch.device("cpu"):
        processor = AutoProcessor.from_pretrained(location, trust_remote_code=False)
    return AutoModelForImageTextToText.from_config(config, dtype=dtype), processor


def host_config(location: str | Path) -> dict[str, Any]:
    """A host's config as it is written, with the ``_commit_hash`` of a hub id.

    Raises:
        CheckpointError: If there is none, or it carries what no checkpoint may.
        UnknownNameError: If it is of no host family.
    """
    try:
        stated, _ = PreTrainedConfig.get_config_dict(location)
        if "model_type" not in stated:
            raise ValueError("no config with a model_type")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no host can be read from '{location}': {str(error).strip().splitlines()[0]} (give a folder with a "
            "config.json, or ORG/REPO)"
        ) from error
    check_plain(stated, "config.json")
    host_family(str(stated["model_type"]))
    return dict(stated)


def part_digests(family: HostFamily, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, dict[str, Any]]:
    """``parameters`` and ``sha256`` of each part, from tensors in memory or in files.

    Names differ between the two, so that the digest is over types, shapes and values alone, in sorted order.
    """
    digests: dict[str, list[str]] = {part: [] for part in family.parts}
    counts = dict.fromkeys(family.parts, 0)
    for name, tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        part = family.part_of(name)
        head = f"{plain.dtype} {tuple(plain.shape)}".encode()
        values = plain.reshape(-1).view(torch.uint8).numpy() if plain.numel() else b""
        digests[part].append(hashlib.sha256(head + hashlib.sha256(values).digest()).hexdigest())
        counts[part] += plain.numel()
    return {
        part: {"parameters": counts[part], "sha256": hashlib.sha256("".join(sorted(own)).encode()).hexdigest()}
        for part, own in digests.items()
    }


def live_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a model would save: tensors that share their memory (a tied head) once."""
    seen: set[int] = set()
    for name, tensor in model.state_dict().items():
        if tensor.numel() and tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        yield name, tensor


def stored_tensors(folder: str | Path) -> Iterator[tuple[str, Tensor]]:
    """What a saved model's safetensors files hold, one tensor after the other.

    Raises:
        CheckpointError: If a file is damaged.
    """
    for path in sorted(Path(folder).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (no mapping)
                    yield name, tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"'{path}' is no whole safetensors file: {error}; copy it again") from error


def rebuilt(processor: Any, **changes: Any) -> Any:
    """A processor of the same class, built anew with some arguments changed: others are derived from them."""
    known = inspect.signature(type(processor).__init__).parameters
    same = {name: getattr(processor, name) for name in known if hasattr(processor, name)}
    return type(processor)(**{**same, **changes})


def handed_over(image_processor: Any, spec: EncoderSpec, **changes: Any) -> Any:
    """The host's own image (or video) processor with the encoder's mean, std and interpolation.

    Args:
        image_processor: Left as it is.
        spec: Spec of the encoder.
        **changes: Further fields: ``size``, ...
    """
    values = {"image_mean": list(spec.mean), "image_std": list(spec.std), "resample": RESAMPLE[spec.interpolation]}
    return type(image_processor).from_dict({**image_processor.to_dict(), **values, **changes})
