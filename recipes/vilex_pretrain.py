"""Recipe ``vilex_pretrain``: an encoder learns to say an image to a frozen text-to-image model (arXiv 2412.06774).

In two stages by default: first the pooling on cached features, then the encoder with it, at a thirtieth of its learning
rate; training both from the start lets a fresh pooling spoil the encoder (GenHancer, arXiv 2503.19480).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed

from vislex.data.sources import describe_source
from vislex.diffusion.t2i import TextToImage, load_t2i
from vislex.encoders.base import VisionEncoder
from vislex.encoders.factory import create_encoder
from vislex.modules.tail_drop import keep_counts
from vislex.recipes.components import outline_t2i
from vislex.recipes.source import DataSettings, captions_if_here, column, load_splits, load_stream, load_validation
from vislex.recipes.vilex_data import ImagePairs
from vislex.training.captions import generator
from vislex.training.draws import Draws
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import command_line, finish_run, start_run
from vislex.training.settings import total_draws, uses_bf16
from vislex.training.sketch import Sketch, vision_shapes
from vislex.training.trainer import PartTrainer
from vislex.vilex import ViLex

__all__ = [
    "RECIPE",
    "ViLexPretrainConfig",
    "budgets_of",
    "build_model",
    "make_trainer",
    "paired_losses",
    "run",
    "sketch",
    "train",
]

LR_RATIO = 30  # of pooling and encoder: 3e-4 and 1e-5 in the paper
SHOWN = 8


class ViLexPretrainConfig(DataSettings):
    """Configuration of ``vilex_pretrain``.

    Attributes:
        encoder: Vision encoder.
        encoder_options: Options of ``create_encoder``.
        pretrained: Whether the encoder starts from its weights.
        tiny: Its tiny variant, for tests.
        t2i: The frozen text-to-image model: folder, hub id or shipped name.
        t2i_dtype: Its number format; "auto" is bf16 where the training computes in it.
        stages: "frozen" trains the pooling alone; "two_stage" the pooling for ``pooling_steps``, then both for
            ``steps``; "end_to_end" both for ``steps``.
        pooling_steps: Of the first of two stages.
        backbone_lr: Peak learning rate of the encoder; a thirtieth of ``lr`` by default.
        n_tokens: Most tokens of an image; as many as the text encoder reads by default.
        depth: Layers of the pooling.
        token_scale: How large its tokens are at the start, in typical word embeddings.
        tail_drop: How many tokens a training step keeps.
        order: Where the words of a prompt stand.
        inject: "input": the text encoder reads the tokens; "output": they stand past it, for comparison.
        use_captions: Whether captions stand with the tokens in training.
        caption_dropout: How often they do not.
        objective: Arguments of ``ReconstructionObjective``.
        cache: Whether images and the tokens of a frozen encoder are kept on disk.
        optimizer: Of all parts; Adafactor takes its learning rate as given, without scaling by parameters.
        save_dtype: Number format of the saved weights.
    """

    budget_table: ClassVar[str] = "vilex_pretrain"

    encoder: str = "siglip-tiny"
    encoder_options: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = True
    tiny: bool = False
    t2i: str = Field("t2i-tiny")
    t2i_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    stages: Literal["frozen", "two_stage", "end_to_end"] = "two_stage"
    pooling_steps: int = Field(1000, ge=1)
    backbone_lr: float | None = Field(None, gt=0)
    n_tokens: int | None = Field(16, ge=1)
    depth: int = Field(2, ge=1, le=5)
    token_scale: float = Field(1.0, gt=0)
    tail_drop: Literal["uniform", "pow2", "uniform_pow2", "none"] = "uniform"
    order: Literal["visual_first", "text_first"] = "visual_first"
    inject: Literal["input", "output"] = "input"
    use_captions: bool = False
    caption_dropout: float = Field(0.5, ge=0, le=1)
    objective: dict[str, Any] = Field(default_factory=dict)
    cache: bool = True
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    render_workers: int = Field(2, ge=0)
    save_dtype: Literal["float32", "bfloat16"] = "float32"


def build_model(config: ViLexPretrainConfig, **options: Any) -> ViLex:
    """The model with its frozen text-to-image model attached; ``options`` go to ``ViLex.from_parts``."""
    encoder = create_encoder(config.encoder, pretrained=config.pretrained, tiny=config.tiny, **config.encoder_options)
    return _join(config, encoder, load_t2i(config.t2i), **options)


def _join(config: ViLexPretrainConfig, encoder: VisionEncoder, t2i: TextToImage, **options: Any) -> ViLex:
    return ViLex.from_parts(
        encoder=encoder,
        t2i=t2i,
        n_tokens=config.n_tokens,
        depth=config.depth,
        token_scale=config.token_scale,
        tail_drop=config.tail_drop,
        order=config.order,
        inject=config.inject,
        caption_dropout=config.caption_dropout,
        objective=config.objective or None,
        **options,
    )


def run(config: ViLexPretrainConfig) -> Path:
    """Trains the model.

    Returns:
        The output folder: a ``ViLex`` with its image processor and card, ``samples.png``, ``training.jsonl``,
        ``run.json``; the first of two stages is in ``pooling``.
    """
    return train("vilex_pretrain", config, lambda: build_model(config))


def train(recipe: str, config: ViLexPretrainConfig, build: Callable[[], ViLex]) -> Path:
    """Trains a ViLex model in its stages and saves it.

    Args:
        recipe: Name of the recipe.
        config: Its configuration.
        build: Gives the model; it is called after seeding.
    """
    output = start_run(recipe, config)
    set_seed(config.seed)
    model = build()
    figures: dict[str, float] = {}
    if config.stages == "two_stage":
        figures = _pool_first(recipe, model, config, output)
    trainer = make_trainer(recipe, model, config, output, frozen=config.stages == "frozen")
    figures |= trainer.fit()
    if trainer.is_world_process_zero():
        model.config.caption_dropout = config.caption_dropout
        model.card_notes = _notes(recipe, config, figures)
        _write_samples(model.eval(), config, output)
        model.encoder.to(getattr(torch, config.save_dtype))
        model.save_pretrained(output)
        suite = describe_source(config.data).provenance
        finish_run(recipe, config, output, figures, trainer, suite=suite, t2i=model.config.t2i)
    return output


def budgets_of(n_tokens: int) -> list[int]:
    """Token budgets that are shown and validated: 1, 4, 16, ... and all."""
    return [*(k for k in (1, 4, 16, 64) if k < n_tokens), n_tokens]


@torch.no_grad()
def paired_losses(
    model: ViLex, pairs: ImagePairs, counts: list[int], *, draws: int = 1, batch_size: int = 64, seed: int = 0
) -> dict[int, np.ndarray]:
    """Denoising loss of every image at each budget, under the same times and noise at every budget.

    Args:
        model: A model with its text-to-image model attached.
        pairs: The images.
        counts: Token budgets.
        draws: Times and noises an image, averaged.
        batch_size: Images a forward.
        seed: Of times and noise.

    Returns:
        float64[N] a budget.
    """
    was_training = model.training
    model.eval()
    losses: dict[int, list[np.ndarray]] = {count: [] for count in counts}
    for start in range(0, len(pairs), batch_size):
        rows = np.arange(start, min(start + batch_size, len(pairs)))
        batch = {name: value.to(model.device) for name, value in pairs.batch(rows).items()}
        totals = dict.fromkeys(counts, 0.0)
        for draw in range(draws):
            made = torch.Generator().manual_seed((seed * 7919 + draw) * 1_000_003 + start)
            noise = model.objective.draw(model.t2i, batch["latents"], made)
            for count in counts:
                found = model(**batch, counts=count, timesteps=noise.timesteps, noise=noise.noise).per_image
                totals[count] = totals[count] + found.double().cpu().numpy() / draws
        for count in counts:
            losses[count].append(np.asarray(totals[count]))
    model.train(was_training)
    return {count: np.concatenate(parts) for count, parts in losses.items()}


def _pool_first(recipe: str, model: ViLex, config: ViLexPretrainConfig, output: Path) -> dict[str, float]:
    """The first of two stages, unless it is there already."""
    folder = output / "pooling"
    done = folder / "model.safetensors"
    if config.resume == "auto" and done.is_file():
        missing = model.load_state_dict(load_file(done), strict=False)
        assert not missing.unexpected_keys
        return {}
    stage = config.model_copy(update={"steps": config.pooling_steps})
    trainer = make_trainer(recipe, model, stage, folder, frozen=True)
    figures = trainer.fit()
    if trainer.is_world_process_zero():
        model.save_pretrained(folder)
    return {f"pooling_{name.removeprefix('eval_')}": value for name, value in figures.items()}


def make_trainer(recipe: str, model: ViLex, config: ViLexPretrainConfig, output: Path, *, frozen: bool) -> PartTrainer:
    """The trainer of a stage, with its data: of the pooling alone where the encoder is ``frozen``."""
    stream = load_stream(config)
    train, val = load_splits(config) if stream is None else (None, load_validation(config))
    facts = describe_source(config.data).provenance
    shared: dict[str, Any] = {"cache": config.cache, "provenance": facts, "workers": config.render_workers}
    processor = model.image_processor
    pairs, val_pairs = (
        ImagePairs(rows, model.encoder.backbone, processor, model.t2i, frozen=frozen, **shared) for rows in (train, val)
    )
    captions = column(train, "captions") if config.use_captions and train is not None else None
    n_tokens = model.encoder.config.n_tokens
    side = model.t2i.image_size
    shape = model.t2i.encode_pixels(torch.zeros(1, 3, side, side, device=model.t2i.device)).shape[1:]
    rows, order = (len(pairs), None) if stream is None else (len(stream), stream.order(config.seed))

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        generators = [generator(config.seed, int(position)) for position in positions]
        if stream is None:
            batch, references = pairs.pixel_batch(rows), [captions[row] for row in rows] if captions else None
        else:
            images, references = stream.read(rows)
            batch = pairs.prepare(images)
        drawing = torch.Generator().manual_seed(int(generators[0].integers(2**62)))
        noise = model.objective.draw(model.t2i, torch.empty(len(rows), *shape), drawing)
        batch |= {"timesteps": noise.timesteps, "noise": noise.noise}
        batch["counts"] = keep_counts(config.tail_drop, n_tokens, len(rows), generator=drawing)
        if config.use_captions:
            assert references is not None
            chosen = [own[int(g.integers(len(own)))] for own, g in zip(references, generators, strict=True)]
            kept = [g.random() >= config.caption_dropout for g in generators]
            batch["captions"] = [text if keep else "" for text, keep in zip(chosen, kept, strict=True)]
        return batch

    def validate(trained: nn.Module) -> dict[str, float]:
        assert isinstance(trained, ViLex)
        losses = paired_losses(trained, val_pairs, budgets_of(n_tokens), batch_size=config.batch_size)
        return {f"loss_{count}": float(values.mean()) for count, values in losses.items()}

    model.config.caption_dropout = 0.0  # captions are left out above, by the sample's own draws
    trainer = PartTrainer(
        model,
        config,
        parts=_parts(config, frozen=frozen),
        draws=Draws(rows, total_draws(config), seed=config.seed, fetch=fetch, order=order),
        output_dir=output,
        loss=_loss,
        validate=validate,
        title=recipe if config.stages != "two_stage" else f"{recipe}, {'pooling' if frozen else 'all'}",
        optimizer=config.optimizer,
        attached=[model.t2i],
    )
    trainer.add_callback(_Progress(model))
    if config.t2i_dtype == "bfloat16" or (config.t2i_dtype == "auto" and trainer.bf16):
        model.t2i.to(torch.bfloat16)
    return trainer


def _parts(config: ViLexPretrainConfig, *, frozen: bool) -> dict[str, PartSettings]:
    backbone = PartSettings(mode="frozen") if frozen else PartSettings(lr=config.backbone_lr or config.lr / LR_RATIO)
    return {"encoder.backbone": backbone, "encoder.pooling": PartSettings(), "encoder.heads": PartSettings()}


def _loss(model: Callable[..., Any], batch: dict[str, Any]) -> Tensor:
    found: Tensor = model(**batch).loss
    return found


class _Progress(TrainerCallback):
    """Tells the model how far its training is: the temperature of discrete tokens follows from it."""

    def __init__(self, model: ViLex) -> None:
        self.model = model

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.model.progress = state.global_step / max(state.max_steps - 1, 1)


def _write_samples(model: ViLex, config: ViLexPretrainConfig, output: Path) -> None:
    """``samples.png``: originals, and what the text-to-image model draws from more and more tokens."""
    val = load_validation(config)
    originals = [val[i]["image"] for i in range(min(SHOWN, len(val)))]
    budgets = budgets_of(model.encoder.config.n_tokens)
    model.reconstruction_sheet(originals, budgets, side=96).save(output / "samples.png")


def _notes(recipe: str, config: ViLexPretrainConfig, figures: dict[str, float]) -> str:
    rows = "\n".join(f"| {name.removeprefix('eval_')} | {value:.4g} |" for name, value in figures.items())
    return (
        f"Trained on {describe_source(config.data).trained_on}.\n\n"
        f"```\n{command_line(recipe, config)}\n```\n\n"
        "`loss_k`: denoising loss of validation images from k tokens, with the same times and noise at each k.\n\n"
        f"| figure | value |\n|---|---|\n{rows}\n"
    )


def sketch(config: ViLexPretrainConfig, **options: Any) -> Iterator[Sketch]:
    """What ``run`` would train, stage by stage; ``options`` go to ``ViLex.from_parts``. See ``Recipe``."""
    stages = {"frozen": [True], "two_stage": [True, False], "end_to_end": [False]}[config.stages]
    references = (captions_if_here(config) or [["a"]]) if config.use_captions else []
    texts = sorted((text for own in references for text in own), key=len)
    for frozen in stages:
        first = config.stages == "two_stage" and frozen
        stage = config.model_copy(update={"steps": config.pooling_steps}) if first else config
        encoder = create_encoder(config.encoder, tiny=config.tiny, **config.encoder_options)
        model = _join(config, encoder, outline_t2i(config.t2i), **options)
        if config.t2i_dtype == "bfloat16" or (config.t2i_dtype == "auto" and uses_bf16(config)):
            model.t2i.to(torch.bfloat16)
        model.config.caption_dropout = 0.0  # as in the training
        yield Sketch(
            stage,
            model,
            _parts(config, frozen=frozen),
            functools.partial(_shapes, config, model, texts, frozen),
            loss=_loss,
            optimizer=config.optimizer,
            title="" if len(stages) == 1 else "pooling" if frozen else "all",
            attached={f"t2i.{name}": part for name, part in model.t2i.named_children()},
        )


def _shapes(
    config: ViLexPretrainConfig, model: ViLex, texts: Sequence[str], frozen: bool, samples: int, typical: bool
) -> dict[str, Any]:
    side, scale = model.t2i.image_size, model.t2i.vae_scale
    channels = 3 if model.t2i.vae is None else model.t2i.denoiser.config.in_channels
    drawn = model.objective.draw(model.t2i, torch.rand(samples, channels, side // scale, side // scale))
    captions = {"captions": [texts[len(texts) // 2 if typical else -1]] * samples} if texts else {}
    return {
        **vision_shapes(model.encoder.backbone, samples, cached=frozen and config.cache),
        "targets": torch.rand(samples, 3, side, side),
        "timesteps": drawn.timesteps,
        "noise": drawn.noise,
        "counts": torch.full((samples,), model.encoder.config.n_tokens),
        **captions,
    }


RECIPE = Recipe(ViLexPretrainConfig, run, sketch)
