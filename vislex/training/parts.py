"""Parts of a model that are frozen, trained through LoRA or trained in full, each with its own learning rate."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from pydantic import Field
from rich.table import Table
from torch import Tensor, nn
from transformers import PreTrainedModel

from vislex.config import Config
from vislex.errors import ConfigError, did_you_mean

__all__ = ["PartSettings", "PartsPlan", "has_running_means", "merge_lora", "parts_table", "prepare_parts"]

REST = "(rest)"


class PartSettings(Config):
    """How one part is trained.

    Attributes:
        mode: "frozen", "lora" (adapters on the part's linear layers) or "full".
        lr: Peak learning rate; None takes the recipe's.
        lora_rank: Rank of the adapters.
        lora_alpha: Scale of the adapters; None is twice the rank.
        lora_targets: Last names of the linear layers that get adapters (``q_proj``); empty means all of them but the
            output head.
        lora_variant: "lora"; "dora", which learns directions and lengths apart (arXiv 2402.09353); "rslora", scaled by
            the root of the rank (arXiv 2312.03732); "pissa", which starts from the largest singular vectors
            (arXiv 2404.02948). The same for all parts of a training.
        lora_plus_ratio: Learning rate of the second matrices in those of the first (LoRA+, arXiv 2402.12354).
    """

    mode: Literal["frozen", "lora", "full"] = "full"
    lr: float | None = Field(None, gt=0)
    lora_rank: int = Field(8, ge=1)
    lora_alpha: float | None = Field(None, gt=0)
    lora_targets: list[str] = Field(default_factory=list)
    lora_variant: Literal["lora", "dora", "rslora", "pissa"] = "lora"
    lora_plus_ratio: float = Field(1.0, ge=1)


@dataclass(frozen=True)
class PartRow:
    """One row of the table that a training prints first."""

    part: str
    mode: str
    parameters: int
    trainable: int
    lr: float | None


@dataclass(frozen=True)
class PartsPlan:
    """Optimizer parameter groups, the table of parts, and what saving adapters needs.

    Attributes:
        groups: Parameter groups.
        rows: The table.
        adapters: Configuration of the adapters; None if there are none.
        initial: For adapters that do not start at zero (PiSSA), what they were then.
        still: What stays in eval mode: modules of frozen parts, and norms of adapted ones that would follow the data.
    """

    groups: list[dict[str, Any]]
    rows: list[PartRow]
    adapters: LoraConfig | None = None
    initial: dict[str, Tensor] = field(default_factory=dict)
    still: list[nn.Module] = field(default_factory=list)

    def hold(self) -> None:
        """To be called after ``model.train()``: what is frozen drops nothing out, and its running means stay."""
        for module in self.still:
            module.training = False

    def to_dict(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]


def prepare_parts(model: nn.Module, parts: Mapping[str, PartSettings], *, lr: float, weight_decay: float) -> PartsPlan:
    """Freezes, adapts and groups the parameters of ``model`` in place.

    A parameter belongs to the part with the longest name that leads to it; those outside every part are trained in
    full. Weight decay goes to matrices only, not to biases, norms, scales and embeddings.

    Args:
        model: The model to train.
        parts: Dotted module name -> settings.
        lr: Learning rate of the parts that name none.
        weight_decay: Decay of matrices.

    Raises:
        ConfigError: If a part names no module, LoRA finds no linear layer, or nothing is left to train.
    """
    modules = dict(model.named_modules())
    for name in parts:
        if name not in modules:
            raise ConfigError(
                f"no part '{name}' in {type(model).__name__}{did_you_mean(name, modules)} "
                f"Its parts are {', '.join(child for child, _ in model.named_children())}"
            )
    owner = {name: _owner(name, parts) for name, _ in model.named_parameters()}
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(owner[name] == REST or parts[owner[name]].mode == "full")
    adapters = _add_lora(model, parts)
    groups, rows = _group(model, parts, lr=lr, weight_decay=weight_decay)
    if not groups:
        raise ConfigError(f"every part is frozen ({', '.join(parts)}); give one of them mode: full or lora")
    initial = {}
    if adapters is not None and adapters.init_lora_weights == "pissa":
        initial = {name: p.detach().clone() for name, p in model.named_parameters() if ".lora_" in name}
    return PartsPlan(groups, rows, adapters, initial, _still(model, parts))


def has_running_means(module: nn.Module) -> bool:
    """Whether it is a norm that follows the data while it is in training mode."""
    return getattr(module, "running_mean", None) is not None


def parts_table(plan: PartsPlan) -> Table:
    """The table that is printed before the first step."""
    table = Table("part", "mode")
    for name in ("parameters", "trainable", "learning rate"):
        table.add_column(name, justify="right")
    for row in plan.rows:
        rate = f"{row.lr:g}" if row.trainable and row.lr is not None else "-"
        table.add_row(row.part, row.mode, f"{row.parameters:,}", f"{row.trainable:,}", rate)
    total = [sum(getattr(row, name) for row in plan.rows) for name in ("parameters", "trainable")]
    table.add_section()
    table.add_row("total", "", *(f"{count:,}" for count in total), "")
    return table


def merge_lora(model: nn.Module) -> int:
    """Folds every LoRA adapter into its layer and removes it.

    Returns:
        The number of layers that had one.
    """
    adapted = [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    for name, module in adapted:
        module.merge(adapter_names=list(module.lora_A))  # type: ignore[operator,arg-type]
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module.get_base_layer())
    if adapted and hasattr(model, "peft_config"):
        del model.peft_config
    return len(adapted)


def _owner(name: str, parts: Mapping[str, PartSettings]) -> str:
    leading = [part for part in parts if part == "" or name.startswith(part + ".")]
    return max(leading, key=len, default=REST)


def _still(model: nn.Module, parts: Mapping[str, PartSettings]) -> list[nn.Module]:
    found = []
    for name, module in model.named_modules():
        owner = _owner(f"{name}.", parts)
        mode = "full" if owner == REST else parts[owner].mode
        if mode == "frozen" or (mode == "lora" and has_running_means(module)):
            found.append(module)
    return found


def _add_lora(model: nn.Module, parts: Mapping[str, PartSettings]) -> LoraConfig | None:
    """Injects all adapters at once: a second injection would switch off the first one's."""
    variants = {settings.lora_variant for settings in parts.values() if settings.mode == "lora"}
    if len(variants) > 1:
        raise ConfigError(f"lora_variant differs between parts ({', '.join(sorted(variants))}); give all the same")
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for part, settings in parts.items():
        if settings.mode == "lora":
            for name in _lora_layers(model, part, settings, parts):
                ranks[re.escape(name)] = settings.lora_rank
                alphas[re.escape(name)] = settings.lora_alpha or 2.0 * settings.lora_rank
    if not ranks:
        return None
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # peft matches a string against the whole name of a module
    variant = variants.pop()
    config = LoraConfig(
        target_modules="|".join(ranks),
        rank_pattern=ranks,
        alpha_pattern=alphas,
        use_dora=variant == "dora",
        use_rslora=variant == "rslora",
        init_lora_weights="pissa" if variant == "pissa" else True,
    )
    inject_adapter_in_model(config, model)
    for parameter in trainable:  # peft freezes all that is not an adapter
        parameter.requires_grad_(True)
    return config


def _lora_layers(model: nn.Module, part: str, settings: PartSettings, parts: Mapping[str, PartSettings]) -> list[str]:
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    # torch's own attention reads the weights of its output layer without calling it: an adapter would do nothing
    unused = {f"{name}.out_proj" for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention)}
    targets = settings.lora_targets
    linear = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or name in unused:
            continue
        if id(module.weight) in embeddings:  # an adapter on a tied head would change the input embeddings on merging
            if name.rpartition(".")[2] in targets:
                raise ConfigError(f"'{name}' shares its weights with the input embeddings and can have no adapter")
        elif module is not head or targets:
            linear.append(name)
    wanted = [
        name
        for name in linear
        if _owner(name + ".weight", parts) == part and (not targets or name.rpartition(".")[2] in targets)
    ]
    if not wanted:
        raise ConfigError(
            f"LoRA finds no linear layer in '{part}' for lora_targets {targets or 'all'}; "
            f"there are {', '.join(sorted({name.rpartition('.')[2] for name in linear})) or 'none'}"
        )
    return wanted


def _group(
    model: nn.Module, parts: Mapping[str, PartSettings], *, lr: float, weight_decay: float
) -> tuple[list[dict[str, Any]], list[PartRow]]:
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    groups, rows = [], []
    for part in [*parts, REST]:
        settings = parts.get(part, PartSettings())
        rate = settings.lr or lr
        own = [(name, p) for name, p in model.named_parameters() if _owner(name, parts) == part]
        if not own and part == REST:
            continue
        trained = [p for _, p in own if p.requires_grad]
        second = {id(p) for name, p in own if ".lora_B." in name and settings.lora_plus_ratio != 1.0}
        for matrices, is_second in ((True, False), (True, True), (False, False)):
            chosen = [
                p
                for p in trained
                if (p.ndim >= 2 and id(p) not in embeddings) == matrices and (id(p) in second) == is_second
            ]
            if chosen:
                decay = weight_decay if matrices else 0.0
                own_rate = rate * settings.lora_plus_ratio if is_second else rate
                groups.append({"params": chosen, "lr": own_rate, "weight_decay": decay, "part": part})
        mode = settings.mode
        rows.append(PartRow(part, mode, sum(p.numel() for _, p in own), sum(p.numel() for p in trained), rate))
    return groups, rows
