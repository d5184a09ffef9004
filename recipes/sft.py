"""Recipe ``sft``: a vision-language model on instructions; each part frozen, with adapters, or in full."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from vislex.adapters.llms import embedding_rows
from vislex.adapters.vlm import VisionLanguageModel
from vislex.config import Config
from vislex.errors import ConfigError, MissingDependencyError
from vislex.recipes.vlm_sketch import sketch_vlm
from vislex.recipes.vlm_training import VlmSettings, build_model, make_trainer, notes, record_run, save_model
from vislex.training.adapters import save_adapters
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import start_run
from vislex.training.sketch import Sketch
from vislex.training.trainer import PartTrainer

__all__ = ["RECIPE", "Finetuned", "SftConfig", "VlmParts", "finetune", "run", "save", "sketch"]


class VlmParts(Config):
    """How the parts are trained."""

    encoder: PartSettings = PartSettings(mode="frozen")
    connector: PartSettings = PartSettings()
    llm: PartSettings = PartSettings()


class SftConfig(VlmSettings):
    """Configuration of ``sft``, above what recipes of vision-language models share.

    Attributes:
        parts: frozen | lora | full for each part, with a learning rate each.
        adapters: "merge" folds adapters into the weights; "keep" writes them, with the connector, into a folder that
            ``PeftModel.from_pretrained`` opens on ``model``.
        quantize: "nf4" holds the language model in 4 bits while its adapters are trained (QLoRA); needs a GPU.
    """

    budget_table: ClassVar[str] = "sft"

    parts: VlmParts = VlmParts()
    adapters: Literal["merge", "keep"] = "merge"
    quantize: Literal["none", "nf4"] = "none"


@dataclass(frozen=True)
class Finetuned:
    """A model after its training, its adapters still in place where they are kept.

    Attributes:
        model: The model.
        trainer: What trained it.
        figures: Of the training and its last validation.
        output: Where it will be saved.
    """

    model: VisionLanguageModel
    trainer: PartTrainer
    figures: dict[str, float]
    output: Path


def run(config: SftConfig) -> Path:
    """Trains a model.

    Returns:
        The output folder: a ``VisionLanguageModel``, or adapters for the one it started from.

    Raises:
        ConfigError: If adapters are to be kept without a saved model to keep them for, or QLoRA cannot run here.
    """
    return save(config, finetune(config))


def finetune(config: SftConfig) -> Finetuned:
    """Trains a model and leaves it in memory; see ``run``."""
    if config.adapters == "keep" and config.model is None:
        raise ConfigError("adapters=keep needs model=FOLDER, the saved model that the adapters will belong to")
    loading = {} if config.quantize == "none" else quantization(config)
    output = start_run("sft", config)
    model = build_model(config, **loading)
    known = _written(model)
    trainer = make_trainer(config, model, _parts(config), output, "sft")
    if config.adapters == "keep" and _written(model) != known:
        raise ConfigError(
            f"codec={config.codec} adds tokens to the vocabulary, and adapters=keep leaves the saved model as it is; "
            "use adapters=merge, codec=text_rle, or a model that has these tokens"
        )
    return Finetuned(model, trainer, trainer.fit(merge=config.adapters == "merge"), output)


def save(config: SftConfig, made: Finetuned) -> Path:
    """Saves what ``finetune`` has made, with card and ``run.json``, and gives its folder."""
    model, trainer, figures, output = made.model, made.trainer, made.figures, made.output
    modes = ", ".join(f"{name} {own.mode}" for name, own in _parts(config).items())
    summary = f"Finetuned on instructions ({modes})"
    if config.adapters == "merge":
        save_model("sft", model, config, trainer, figures, output, summary=summary)
    elif trainer.is_world_process_zero():
        assert config.model is not None
        save_adapters(model, trainer.plan, output, base=config.model)
        title = "---\nlibrary_name: peft\n---\n# Adapters of a vision-language model\n\n"
        (output / "README.md").write_text(title + notes("sft", config, figures, summary), encoding="utf-8")
        record_run("sft", config, trainer, figures, output)
    return output


def _written(model: VisionLanguageModel) -> tuple[int, int, bool]:
    """What a model can write: rows of its vocabulary, tokens that it knows, whether it has a mask head."""
    return embedding_rows(model.llm), len(model.processor.tokenizer), model.mask_head is not None


def _parts(config: SftConfig) -> dict[str, PartSettings]:
    return {name: getattr(config.parts, name) for name in ("encoder", "connector", "llm")}


def quantization(config: SftConfig) -> dict[str, Any]:
    """Keywords that load the language model in 4 bits (arXiv 2305.14314, section 3).

    Raises:
        ConfigError: If there is no CUDA GPU, or the language model would not be trained by adapters that are kept.
        MissingDependencyError: If bitsandbytes is not installed.
    """
    if config.parts.llm.mode != "lora" or config.adapters != "keep" or config.model is None:
        raise ConfigError(
            "quantize=nf4 trains adapters on a language model in 4 bits: it needs model=FOLDER, parts.llm.mode=lora "
            "and adapters=keep"
        )
    if not torch.cuda.is_available():
        raise ConfigError("quantize=nf4 (QLoRA) needs a CUDA GPU, and there is none; use quantize=none")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingDependencyError("bitsandbytes", "quantize=nf4 (QLoRA)", extra="qlora")
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=["encoder", "connector", "mask_head", "lm_head"],
    )
    return {"quantization_config": settings, "device_map": {"": 0}}


def sketch(config: SftConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``.

    Raises:
        ConfigError: For a language model in 4 bits, whose memory is not modelled.
    """
    if config.quantize != "none":
        raise ConfigError(f"quantize={config.quantize} is not planned; plan with quantize=none, an upper bound")
    yield sketch_vlm(config, _parts(config))


RECIPE = Recipe(SftConfig, run, sketch)
