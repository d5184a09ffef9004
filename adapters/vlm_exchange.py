"""A ``VisionLanguageModel`` from models of transformers and back, whole or its language model: equal weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel

from vislex.adapters import vlm_llava, vlm_paligemma
from vislex.adapters.chat import IMAGE_TOKEN
from vislex.adapters.vlm import VisionLanguageModel
from vislex.encoders.sources import read_preprocessing
from vislex.errors import CheckpointError, ConfigError
from vislex.hub import model_card, open_checkpoint

__all__ = ["HOSTS", "export_llm", "export_to_host", "from_host", "import_from_host", "to_host"]

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}
_WORDS = 8


@dataclass(frozen=True)
class Counterpart:
    """One family of transformers that a ``VisionLanguageModel`` can be.

    Attributes:
        title: Its name in errors and cards.
        parts_of: Host, processor and preprocessing to the arguments of ``_assemble``.
        refusal: Why a model cannot be written as this family; None if it can.
        build: A model to the host, which shares its weights, and the host's processor.
    """

    title: str
    parts_of: Callable[[Any, Any, dict[str, Any]], dict[str, Any]]
    refusal: Callable[[VisionLanguageModel], str | None]
    build: Callable[[VisionLanguageModel], tuple[PreTrainedModel, Any]]


HOSTS = {
    "paligemma": Counterpart("PaliGemma", vlm_paligemma.parts_of, vlm_paligemma.refusal, vlm_paligemma.build),
    "llava": Counterpart("LLaVA", vlm_llava.parts_of, vlm_llava.refusal, vlm_llava.build),
}


def import_from_host(
    source: str | Path, family: str | None = None, dtype: torch.dtype | str = torch.float32
) -> VisionLanguageModel:
    """Reads a checkpoint of transformers as a ``VisionLanguageModel`` that computes the same function.

    Args:
        source: Folder or hub id.
        family: A name of ``HOSTS`` that it must be; None takes what its config says.
        dtype: Number format; "auto" is the checkpoint's own.

    Returns:
        The model in eval mode, every part saved by value, its processor the host's own image processor and tokenizer.

    Raises:
        CheckpointError: If it cannot be read, is of another family, or computes what vislex's parts do not.
    """
    model, _ = open_checkpoint(
        AutoModelForImageTextToText.from_pretrained, source, what="vision-language model", dtype=dtype
    )
    found = model.config.model_type
    if found not in HOSTS or (family is not None and family != found):
        wanted = [family] if family is not None else list(HOSTS)
        raise CheckpointError(f"'{source}' is a '{found}', not {' or '.join(wanted)}; nothing was imported")
    try:
        processor = AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{source}' has no processor: {str(error).splitlines()[0]}") from error
    return from_host(model, processor, read_preprocessing(source) or {})


def from_host(host: PreTrainedModel, processor: Any, preprocessing: dict[str, Any]) -> VisionLanguageModel:
    """The same as ``import_from_host``, for a host in memory; the two share their weights.

    Args:
        host: ``PaliGemmaForConditionalGeneration`` or ``LlavaForConditionalGeneration``.
        processor: Its processor.
        preprocessing: What ``vislex.encoders.sources.read_preprocessing`` says of its image processor.

    Raises:
        CheckpointError: If vislex's parts do not compute what it does.
    """
    import vislex.auto  # noqa: F401

    family = HOSTS[host.config.model_type]
    if processor.image_token != IMAGE_TOKEN:
        raise CheckpointError(
            f"its image token is '{processor.image_token}'; prompts of vislex hold images as '{IMAGE_TOKEN}'"
        )
    model = _assemble(host, **family.parts_of(host.eval(), copy.deepcopy(processor), preprocessing))
    if processor.image_token_id != model.config.image_token_id:
        raise CheckpointError("the tokenizer gives another id to the image token than the processor; it is damaged")
    _check_equal(host, model, f"this {family.title} computes what a VisionLanguageModel does not")
    return model


def to_host(model: VisionLanguageModel, family: str | None = None) -> tuple[PreTrainedModel, Any]:
    """The host that computes what a model does, and its processor; the two share their weights.

    Args:
        model: Any ``VisionLanguageModel``.
        family: A name of ``HOSTS``; None takes the first that fits.

    Raises:
        ConfigError: If there is none, saying what each lacks.
    """
    if family is not None and family not in HOSTS:
        raise ConfigError(f"unknown host '{family}'; allowed are {', '.join(HOSTS)}")
    if model.processor is None:
        raise ConfigError("this model has no processor, without which its prompts cannot be compared")
    if model.mask_head is not None:
        raise ConfigError(
            "this model has a mask head, which no model of transformers has a place for; train it with a codec of text "
            "(codec=loc_seg) from a model without one"
        )
    reasons = []
    for name in [family] if family is not None else HOSTS:
        counterpart = HOSTS[name]
        reason = counterpart.refusal(model)
        if reason is None:
            host, processor = counterpart.build(model.eval())
            _check_equal(host, model, f"{counterpart.title} does not compute what this model does", ConfigError)
            return host, processor
        reasons.append(f"{counterpart.title}: {reason}")
    raise ConfigError(f"this model has no counterpart in transformers. {'. '.join(reasons)}")


def export_to_host(folder: str | Path, out: str | Path, family: str | None = None) -> tuple[Path, str]:
    """Writes a saved ``VisionLanguageModel`` as a checkpoint that opens without vislex.

    Args:
        folder: Folder or hub id of the model.
        out: Folder to write: ``AutoModelForImageTextToText`` and ``AutoProcessor`` open it.
        family: See ``to_host``.

    Returns:
        ``out``, and the family that was written.

    Raises:
        ConfigError: If it has no counterpart.
        CheckpointError: If there is no such model.
    """
    model = VisionLanguageModel.from_pretrained(folder, dtype="auto")
    host, processor = to_host(model, family)
    target = Path(out)
    host.save_pretrained(target)
    processor.save_pretrained(target)
    name = type(host).__name__
    usage = f'from transformers import {name}\n\nmodel = {name}.from_pretrained("THIS_FOLDER")'
    facts = {
        "Family": HOSTS[host.config.model_type].title,
        "Encoder": f"`{host.config.vision_config.model_type}`",
        "Language model": f"`{host.config.text_config.model_type}`",
        "Parameters": f"{sum(parameter.numel() for parameter in host.parameters()):,}",
    }
    card = model_card("Vision-language model", facts, usage, model.card_notes, library="transformers")
    (target / "README.md").write_text(card, encoding="utf-8")
    return target, host.config.model_type


def export_llm(folder: str | Path, out: str | Path) -> Path:
    """Writes the language model of a saved ``VisionLanguageModel`` alone, with its tokenizer and a model card.

    Args:
        folder: Folder or hub id of the model.
        out: Folder to write: ``AutoModelForCausalLM`` and ``AutoTokenizer`` open it, and ``llm=hf:OUT`` of the recipes.

    Returns:
        ``out``.

    Raises:
        CheckpointError: If there is no such model.
    """
    model = VisionLanguageModel.from_pretrained(folder, dtype="auto")
    target = Path(out)
    model.llm.save_pretrained(target)
    model.processor.tokenizer.save_pretrained(target)
    usage = (
        'from transformers import AutoModelForCausalLM\n\nmodel = AutoModelForCausalLM.from_pretrained("THIS_FOLDER")'
    )
    facts = {
        "Language model": f"`{model.llm.config.model_type}`, out of a vision-language model that it was trained in",
        "Parameters": f"{sum(parameter.numel() for parameter in model.llm.parameters()):,}",
    }
    card = model_card(
        "Language model",
        facts,
        usage,
        model.card_notes,
        task="text-generation",
        tags=("text-generation",),
        library="transformers",
    )
    (target / "README.md").write_text(card, encoding="utf-8")
    return target


def _assemble(
    host: PreTrainedModel, *, encoder: Any, connector: Any, llm: Any, processor: Any, attention: str
) -> VisionLanguageModel:
    """The model of a host's parts, which writes answers by the host's own generation config."""
    model = VisionLanguageModel.from_parts(
        encoder=encoder, connector=connector, llm=llm, tokenizer=processor.tokenizer, attention=attention
    )
    model.processor = processor
    own = copy.deepcopy(host.generation_config)
    if own.eos_token_id is None:
        own.eos_token_id = processor.tokenizer.eos_token_id
    if own.pad_token_id is None:
        own.pad_token_id = processor.tokenizer.pad_token_id
    model.generation_config = own
    return model.eval()


@torch.no_grad()
def _check_equal(
    host: Any, model: VisionLanguageModel, what: str, error: type[CheckpointError] | type[ConfigError] = CheckpointError
) -> None:
    """Compares both on one random image and a few words: the zoo of towers and language models is too large for rules.

    Raises:
        CheckpointError: If they differ (or ``error``).
    """
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(1, 3, *model.encoder.spec.image_size, generator=generator).to(model.device, model.dtype)
    theirs = host.get_image_features(pixel_values=pixels).pooler_output
    vision = model.see(pixels)
    assert vision is not None
    _compare(theirs[0], vision.tokens[0], f"{what}: the tokens of an image differ", error)
    ids = torch.arange(_WORDS, device=model.device)[None]
    ids = ids[ids != model.config.image_token_id][None]
    mask = torch.ones_like(ids)
    prefix = {"token_type_ids": torch.zeros_like(ids)} if model.config.attention == "prefix" else {}
    logits = host(input_ids=ids, attention_mask=mask, **prefix).logits
    _compare(logits, model(input_ids=ids, attention_mask=mask).logits, f"{what}: the logits of a text differ", error)


def _compare(theirs: Tensor, own: Tensor, what: str, error: type[CheckpointError] | type[ConfigError]) -> None:
    if theirs.shape != own.shape:
        raise error(f"{what}, {tuple(theirs.shape)} there and {tuple(own.shape)} here")
    off = float((theirs - own).abs().max() / theirs.abs().max().clamp(min=1e-6))
    if off > _TOLERANCE.get(own.dtype, 3e-2):
        raise error(f"{what} by {off:.1e} of their size")
