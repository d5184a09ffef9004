"""``swap_encoder``: another vision encoder for an existing vision-language model."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from vislex.adapters.hosts import HostFamily, handed_over, host_family, live_tensors, part_digests, rebuilt
from vislex.adapters.swap_plan import TowerPlan, plan_tower
from vislex.adapters.swap_report import SwapReport, differences
from vislex.adapters.tower import Tower
from vislex.encoders.base import VisionEncoder
from vislex.encoders.factory import create_encoder
from vislex.encoders.sources import is_untrained
from vislex.hub import model_card

__all__ = ["SwapResult", "swap_encoder"]


@dataclass(frozen=True)
class SwapResult:
    """A host with another encoder.

    Attributes:
        model: The host.
        processor: A processor that counts the new encoder's tokens.
        report: What was done, and what is left to do.
    """

    model: PreTrainedModel
    processor: Any
    report: SwapReport

    def save_pretrained(self, folder: str | Path, **kwargs: Any) -> None:
        """Saves model, processor, report (``swap.json``) and a model card.

        ``AutoModelForImageTextToText`` and ``AutoProcessor`` open the folder; after ``import vislex.auto`` where the
        report says ``needs_vislex``.

        Args:
            folder: Folder.
            **kwargs: See ``PreTrainedModel.save_pretrained``.
        """
        self.model.save_pretrained(folder, **kwargs)
        self.processor.save_pretrained(folder)
        self.report.save(folder)
        (Path(folder) / "README.md").write_text(_card(self.report), encoding="utf-8")


def swap_encoder(host: PreTrainedModel, processor: Any, encoder: VisionEncoder | str, *, seed: int = 0) -> SwapResult:
    """Gives a vision-language model of transformers another vision encoder.

    Weights of the tower's own architecture are loaded into it. Any other encoder takes the tower's place, and the
    host's connector is built anew for its width. Everything that counts tokens follows the encoder's spec: config,
    processor, image size, mean and std, resizing, layer and selection strategy.

    Args:
        host: Model of a family of ``vislex list hosts``; changed in place, but only if the swap is possible.
        processor: Its processor; left as it is.
        encoder: Built encoder (left as it is), or a name, which is created with its pretrained weights.
        seed: Draws the new connector.

    Raises:
        UnknownNameError: If the host is of no known family.
        SpecError: If the host cannot read this encoder's tokens; the reason says why.
    """
    family = host_family(host.config)
    encoder = create_encoder(encoder, pretrained=True) if isinstance(encoder, str) else encoder
    plan = plan_tower(family, host, encoder)
    tried = copy.deepcopy(host.config)
    _configure(family, tried, plan)  # refuses before anything has changed
    new_processor = _processor(family, processor, tried, plan)

    before, digests = host.config.to_dict(), part_digests(family, live_tensors(host))
    new: list[str] = []
    if plan.kind == "own":
        _configure(family, host.config, plan)
        _load(family.module(host, "encoder"), encoder)
    else:
        tower = _tower(family, plan, encoder)
        if family.swapped_class is not None:
            host.__class__ = family.swapped_class
            host.model.config = host.config
        vars(host).pop("_weight_conversions", None)  # names that the old tower had in the file it was read from
        _configure(family, host.config, dataclasses.replace(plan, config=tower.config))
        connector = _new_connector(family, host, seed)
        for part, module in (("encoder", tower), ("connector", connector)):
            family.install(host, part, module.to(device=host.device, dtype=host.dtype).train(host.training))
        new = [f"{family.parts['connector'][0]}.{name}" for name, _ in connector.named_parameters()]
    report = SwapReport(
        host=str(host.config.model_type).removeprefix("vislex_"),
        encoder=encoder.config.name or encoder.config.model_type,
        kind=plan.kind,
        image_tokens=family.image_tokens(host.config, plan),
        needs_vislex=isinstance(family.module(host, "encoder"), Tower),
        changes=[
            *differences(before, host.config.to_dict(), "config."),
            *differences(processor.to_dict(), new_processor.to_dict(), "processor."),
        ],
        new=new,
        parts=_parts(plan, digests, part_digests(family, live_tensors(host))),
        notes=_notes(host, encoder, plan) + family.notes(host.config, plan),
    )
    return SwapResult(host, new_processor, report)


def _configure(family: HostFamily, config: PreTrainedConfig, plan: TowerPlan) -> None:
    if plan.layer is not None and family.reads_layers:
        config.vision_feature_layer = plan.layer
    if plan.kind != "own":
        family.configure(config, plan)
        config.vision_config = plan.config
        if family.swapped_class is not None:
            config.__class__ = family.swapped_class.config_class
            vars(config).pop("model_type", None)  # a config that was read from JSON holds the old one itself


def _processor(family: HostFamily, processor: Any, config: PreTrainedConfig, plan: TowerPlan) -> Any:
    if plan.kind != "own":
        return family.repair_processor(processor, config, plan)
    given: dict[str, Any] = {name: getattr(processor, name, None) for name in ("image_processor", "video_processor")}
    changed = {name: handed_over(part, plan.spec) for name, part in given.items() if part is not None}
    if all(part.to_dict() == given[name].to_dict() for name, part in changed.items()):
        return processor
    return rebuilt(processor, **changed)


def _tower(family: HostFamily, plan: TowerPlan, encoder: VisionEncoder) -> PreTrainedModel:
    if plan.kind == "stock":
        backbone: PreTrainedModel = copy.deepcopy(encoder.backbone)
        return backbone
    inner = copy.deepcopy(encoder)
    return family.tower_class(family.tower_class.config_class.of(inner), inner)


def _load(tower: nn.Module, encoder: VisionEncoder) -> None:
    """Puts an encoder's weights into a tower of its architecture; a pooling head that only one has stays as it is."""
    if isinstance(tower, Tower):
        tower.encoder.load_state_dict(encoder.state_dict())
    else:
        tower.load_state_dict(encoder.backbone.state_dict(), strict=False)


def _new_connector(family: HostFamily, host: PreTrainedModel, seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return family.new_connector(family.module(host, "connector"), host.config)


def _parts(plan: TowerPlan, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    is_changed = before["encoder"]["sha256"] != after["encoder"]["sha256"]
    weights = {"encoder": "the encoder's" if is_changed else "kept", "connector": "new", "llm": "kept"}
    retrain = {"encoder": "optional", "connector": "required", "llm": "optional"}
    if plan.kind == "own":
        weights["connector"] = "kept"
        retrain["connector"] = "advised: it was trained with the old weights"
        if not is_changed:
            retrain = dict.fromkeys(retrain, "no")
    return [{"part": part, "weights": weights[part], "retrain": retrain[part], **after[part]} for part in after]


def _notes(host: PreTrainedModel, encoder: VisionEncoder, plan: TowerPlan) -> list[str]:
    notes = []
    if encoder.spec.resize == "native":
        height, width = plan.spec.image_size
        notes.append(
            f"this host takes images of one size: the NaFlex encoder gets them squashed to {height} x {width} pixels"
        )
    if plan.kind == "stock" and plan.layer is not None:
        notes.append(f"the host reads hidden_states[{plan.layer}], before the tower's final norm")
    if is_untrained(encoder.config):
        notes.append("the encoder is untrained")
    if host.dtype != encoder.dtype:
        notes.append(f"the encoder's weights were cast from {encoder.dtype} to the host's {host.dtype}")
    return notes


def _card(report: SwapReport) -> str:
    facts = {
        "Host": f"`{report.host}`",
        "Encoder": f"`{report.encoder}` ({report.kind})",
        "Image tokens": report.image_tokens,
        **{f"Retrain {row['part']}": row["retrain"] for row in report.parts},
    }
    usage = "import vislex.auto\n" if report.needs_vislex else ""
    usage += "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
    usage += 'model = AutoModelForImageTextToText.from_pretrained("THIS_FOLDER")\n'
    usage += 'processor = AutoProcessor.from_pretrained("THIS_FOLDER")'
    library = "vislex" if report.needs_vislex else "transformers"
    notes = "\n".join(f"- {note}" for note in report.notes)
    return model_card("Vision-language model with another encoder", facts, usage, notes, library=library)
