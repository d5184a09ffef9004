"""Recipe ``ladic_few_step``: a trained LaDiC captioner learns to write in one to four evaluations.

The captioner is its own teacher: from where the student's steps lead, a frozen copy of its decoder takes many steps of
the solver, guided if it is to be, in the place of one step of the student (multistep consistency distillation).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from transformers import set_seed

from vislex.captioner import Captioner
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.decoders.ladic.few_step import FewStepLoss
from vislex.errors import ConfigError
from vislex.recipes.caption_data import (
    CaptionData,
    Validation,
    image_inputs,
    save_captioner,
)
from vislex.recipes.components import outline_captioner
from vislex.recipes.source import PlannedCaptions, captions_if_here, column, load_splits
from vislex.shipped import model_folder
from vislex.text import special_tokens
from vislex.training.captions import CaptionBank, generator
from vislex.training.draws import Draws
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import start_run
from vislex.training.settings import samples_a_step, total_draws, uses_bf16
from vislex.training.sketch import Sketch, caption_shapes, vision_shapes
from vislex.training.trainer import PartTrainer

__all__ = ["RECIPE", "LadicFewStepConfig", "run", "sketch"]


class LadicFewStepConfig(CaptionData):
    """Configuration of ``ladic_few_step``, above what recipes of captioners share.

    Attributes:
        model: Folder or shipped name of a trained captioner with the decoder ``ladic``: the teacher, and where the
            student starts.
        segments: Evaluations of the result.
        segment_steps: DDIM steps of the teacher in the place of one step of the student.
        solver_steps: Steps that the teacher takes before the student's own prediction does the rest of a segment: 1
            is consistency distillation, which is cheaper a step; None lets the teacher take all of them.
        guidance_scale: Guidance of the teacher, which the student learns to do without; None takes the teacher's own.
        temperature: Scale of the noise that captions are made from; None takes the teacher's own.
    """

    budget_table: ClassVar[str] = "ladic_few_step"

    model: Path
    segments: int = Field(4, ge=1)
    segment_steps: int = Field(8, ge=1)
    solver_steps: int | None = Field(None, ge=1)
    guidance_scale: float | None = Field(None, ge=0)
    temperature: float | None = Field(None, ge=0)


def run(config: LadicFewStepConfig) -> Path:
    """Distils a captioner.

    Returns:
        The output folder: a ``Captioner`` whose config asks for ``segments`` evaluations, with its processor and card,
        ``training.jsonl``, ``run.json``.

    Raises:
        ConfigError: If the captioner's decoder is not LaDiC.
    """
    captioner, decoder = _captioner(config.model)
    output = start_run("ladic_few_step", config)
    set_seed(config.seed)
    objective = _objective(config, decoder)
    decoder.config.sampling = objective.sampling
    train, val = load_splits(config)
    assert captioner.processor is not None  # from_pretrained opens it
    tokenizer, max_length = captioner.processor.tokenizer, decoder.config.max_length
    inputs, val_inputs = (image_inputs(config, captioner, dataset) for dataset in (train, val))
    bank = CaptionBank(column(train, "captions"), tokenizer, max_length=max_length)

    def pick(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return bank.pick(rows, (generator(config.seed, int(position)) for position in positions))

    def loss(model: Any, batch: dict[str, Any]) -> Tensor:
        distance: Tensor = model(**batch, objective=objective).loss
        return distance

    trainer = PartTrainer(
        captioner,
        config,
        parts=_parts(decoder),
        draws=Draws(
            len(train),
            total_draws(config),
            seed=config.seed,
            fetch=lambda rows, positions: {**inputs(rows), **bank.batch(pick(rows, positions))},
            lengths=lambda rows, positions: bank.lengths[pick(rows, positions)],
            batch_size=samples_a_step(config),
        ),
        output_dir=output,
        loss=loss,
        validate=Validation(config, val, val_inputs, tokenizer, max_length, objective=objective),
        title=f"{config.model.name} in {config.segments}",
    )
    figures = trainer.fit()
    save_captioner(
        "ladic_few_step",
        captioner,
        config,
        trainer,
        figures,
        output=output,
        summary=f"Distilled from `{config.model.name}` to {config.segments} evaluations without guidance",
        encoder={"source": captioner.encoder.config.source, "spec": captioner.encoder.spec.to_dict()},
    )
    return output


def _objective(config: LadicFewStepConfig, decoder: LadicDecoder) -> FewStepLoss:
    own, scale, temperature = decoder.sampling(), config.guidance_scale, config.temperature
    return FewStepLoss(
        decoder,
        segments=config.segments,
        segment_steps=config.segment_steps,
        solver_steps=config.solver_steps,
        guidance_scale=own.guidance_scale if scale is None else scale,
        temperature=own.temperature if temperature is None else temperature,
        dtype=torch.bfloat16 if uses_bf16(config) else torch.float32,
    )


def _parts(decoder: LadicDecoder) -> dict[str, PartSettings]:
    """What only reads (codec, length head) stays as it is."""
    frozen = PartSettings(mode="frozen")
    readers = {f"decoder.{name}": frozen for name in ("codec", "length_head") if hasattr(decoder, name)}
    return {"encoder": frozen, "decoder": PartSettings(), **readers}


def _captioner(folder: Path) -> tuple[Captioner, LadicDecoder]:
    captioner = Captioner.from_pretrained(model_folder(folder))
    return captioner, _ladic(captioner, folder)


def _ladic(captioner: Captioner, folder: Path) -> LadicDecoder:
    decoder = captioner.decoder
    if not isinstance(decoder, LadicDecoder):
        raise ConfigError(
            f"the captioner '{folder}' has the decoder '{decoder.config.model_type.removeprefix('vislex_')}', which "
            "takes no few-step training; train one with 'vislex train caption decoder=ladic' and pass its folder as "
            "model="
        )
    return decoder


def sketch(config: LadicFewStepConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``."""
    captioner, tokenizer = outline_captioner(model_folder(config.model))
    decoder = _ladic(captioner, config.model)
    objective = _objective(config, decoder)
    length = decoder.config.max_length
    lengths = PlannedCaptions.of(captions_if_here(config), tokenizer, length, config.data)
    special = special_tokens(tokenizer)
    ids = {"bos": special.bos, "eos": special.eos, "word": len(tokenizer) // 2}

    def batch(samples: int, typical: bool) -> dict[str, Any]:
        shapes = caption_shapes(samples, lengths.typical if typical else lengths.longest, **ids)
        return {**shapes, **vision_shapes(captioner.encoder, samples, cached=config.cache_features)}

    def loss(model: Any, inputs: dict[str, Any]) -> Tensor:
        distance: Tensor = model(**inputs, objective=objective).loss
        return distance

    attached = {"teacher": objective.teacher}
    yield Sketch(config, captioner, _parts(decoder), batch, loss=loss, attached=attached, notes=lengths.notes)


RECIPE = Recipe(LadicFewStepConfig, run, sketch)
