"""Recipe ``t2i_pretrain``: a small text-to-image model from stock classes, the frozen half of an embedded ViLex.

A diffusers ``PixArtTransformer2DModel`` and a transformers ``T5EncoderModel`` are trained together on dense captions of
the suite: on latents of a diffusers ``AutoencoderTiny``, which is trained first on the same images, or on pixels. There
the network should predict x0 and be trained with the weights of v, which makes large patches learnable. What counts is
not the loss but what the reader reads from images that it draws.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from datasets import Dataset
from diffusers import AutoencoderTiny, DDIMScheduler, PixArtTransformer2DModel
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel, set_seed

import vislex.data
from vislex.config import Config
from vislex.data import openmoji
from vislex.diffusion.objectives import ReconstructionObjective
from vislex.diffusion.t2i import TextToImage, load_t2i
from vislex.diffusion.t2i.pixart import PixArt
from vislex.errors import ConfigError
from vislex.metrics.image_features import as_uint8
from vislex.metrics.reader import Reader, load_reader
from vislex.recipes.obedience import Prompts, draw_images, obedience, single_object_prompts
from vislex.recipes.source import column
from vislex.recipes.t2i_autoencoder import (
    AutoencoderSettings,
    build_autoencoder,
    cached_latents,
    decoded,
    encoded,
    open_autoencoder,
    train_autoencoder,
)
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.captions import CaptionBank, generator
from vislex.training.draws import Draws
from vislex.training.images import cached_images, normalize_images
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import finish_run, model_card, start_run
from vislex.training.settings import TrainingSettings, samples_a_step, total_draws
from vislex.training.sheets import image_sheet
from vislex.training.sketch import Sketch, caption_shapes
from vislex.training.t2i import TextToImageTraining
from vislex.training.trainer import PartTrainer

__all__ = ["RECIPE", "DenoiserSizes", "T2IPretrainConfig", "TextSizes", "build_model", "run", "sketch"]


class DenoiserSizes(Config):
    """Sizes of the transformer."""

    num_layers: int = Field(8, ge=1)
    num_attention_heads: int = Field(6, ge=1)
    attention_head_dim: int = Field(32, ge=2)
    patch_size: int = Field(6, ge=1)


class TextSizes(Config):
    """Sizes of the T5; its width is what a soft token of ViLex has."""

    d_model: int = Field(192, ge=2)
    num_layers: int = Field(3, ge=1)
    num_heads: int = Field(6, ge=1)
    d_kv: int = Field(32, ge=1)
    d_ff: int = Field(512, ge=1)


class T2IPretrainConfig(TrainingSettings):
    """Configuration of ``t2i_pretrain``.

    Attributes:
        autoencoder: Settings of an autoencoder to train first, into ``autoencoder`` of the output folder, or the folder
            of a trained one; None puts the transformer on pixels.
        autoencoder_steps: Optimizer steps of its training.
        denoiser: Its ``patch_size`` is in latents, or in pixels without autoencoder.
        prediction: What the network predicts; the loss has the weights that ``weighting`` says in either case.
        text_from: Folder or name of a trained model of the same family whose text encoder and tokenizer are taken and
            stay as they are, in place of ``text``: two denoisers then read the same words, and the same soft tokens.
        text_length: Tokens of a padded prompt with special tokens; what does not fit is cut off.
        caption_dropout: Share of training images without caption, for guidance.
        density: How times are drawn.
        logit_mean: Of logit-normal times; above 0 prefers noisy ones.
        weighting: Weights of the loss (``NoiseProcess.weight``).
        reader: The reader, shipped or a folder, that reads what is drawn; None draws and reads nothing.
        val_images: Single-object scenes of val that each validation draws.
        final_images: The same after the training.
        guidance_scale: Of the drawing; on val 3 gave half as many names again as 1.5, and 5 fewer than 3.
        num_inference_steps: Of the drawing.
        save_dtype: Number format of the saved weights.
    """

    budget_table: ClassVar[str] = "t2i_pretrain"

    vocabulary: Literal["core", "default", "large"] = "core"
    image_size: int = Field(48, ge=16)
    autoencoder: AutoencoderSettings | None = None
    autoencoder_steps: int = Field(2000, ge=1)
    denoiser: DenoiserSizes = DenoiserSizes()
    prediction: Literal["sample", "v_prediction"] = "sample"
    text: TextSizes = TextSizes()
    text_from: str | None = None
    text_length: int = Field(64, ge=4)
    train_size: int = Field(40000, ge=1)
    val_size: int = Field(500, ge=1)
    data_seed: int = Field(0, ge=0)
    render_workers: int = Field(2, ge=0)
    caption_dropout: float = Field(0.1, ge=0, lt=1)
    density: Literal["uniform", "logit_normal"] = "logit_normal"
    logit_mean: float = 0.0
    weighting: Literal["native", "epsilon", "v", "sample", "min_snr"] = "v"
    reader: str | None = "reader"
    val_images: int = Field(100, ge=1)
    final_images: int = Field(500, ge=1)
    guidance_scale: float = Field(3.0, ge=1)
    num_inference_steps: int = Field(30, ge=1)
    batch_size: int = Field(64, ge=1)
    weight_decay: float = Field(0.01, ge=0)
    ema_decay: float = Field(0.999, ge=0, lt=1)
    save_dtype: Literal["float32", "bfloat16"] = "bfloat16"


def build_model(
    config: T2IPretrainConfig,
    tokenizer: PreTrainedTokenizerFast,
    vae: AutoencoderTiny | None = None,
    text_encoder: T5EncoderModel | None = None,
) -> TextToImage:
    """A text-to-image model with random weights, behind an autoencoder or on pixels; a given text encoder keeps its.

    Raises:
        ConfigError: If the patches do not cover the image or its latents.
    """
    scale = 1 if vae is None else 2 ** (len(vae.config["block_out_channels"]) - 1)
    if config.image_size % (scale * config.denoiser.patch_size):
        latents = "" if vae is None else f" / {scale}, the side of its latents"
        raise ConfigError(
            f"denoiser.patch_size {config.denoiser.patch_size} does not divide image_size {config.image_size}{latents}"
        )
    channels = 3 if vae is None else vae.config["latent_channels"]
    if text_encoder is None:
        text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer),
                **config.text.model_dump(),
                feed_forward_proj="gated-gelu",
                dropout_rate=0.0,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.sep_token_id,
            )
        )
    transformer = PixArtTransformer2DModel(
        **config.denoiser.model_dump(),
        in_channels=channels,
        out_channels=channels,
        sample_size=config.image_size // scale,
        cross_attention_dim=config.denoiser.num_attention_heads * config.denoiser.attention_head_dim,
        caption_channels=text_encoder.config.d_model,
    )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=config.prediction,
        clip_sample=vae is None,  # pixels lie in [-1, 1], latents do not
        timestep_spacing="trailing",
    )
    parts = {"text_encoder": text_encoder, "transformer": transformer, "vae": vae}
    return PixArt(tokenizer=tokenizer, scheduler=scheduler, **parts)


def run(config: T2IPretrainConfig) -> Path:
    """Trains the model.

    Returns:
        The output folder: an ordinary diffusers pipeline (``model_index.json``), ``samples.png``, a card,
        ``training.jsonl`` and ``run.json``.
    """
    output = start_run("t2i_pretrain", config)
    reader = load_reader(config.reader) if config.reader is not None else None
    train, val = _suite(config, "train", config.train_size), _suite(config, "val", config.val_size)
    cached = {"provenance": openmoji.provenance(), "workers": config.render_workers}
    images, val_images = (cached_images(rows, config.image_size, **cached) for rows in (train, val))
    vae, latents, val_latents = None, images, val_images
    if config.autoencoder is not None:
        stage = config.model_copy(update={"steps": config.autoencoder_steps})
        vae = train_autoencoder(config.autoencoder, stage, output / "autoencoder", images, val_images)
        latents, val_latents = (cached_latents(vae, pixels) for pixels in (images, val_images))
    captions = column(train, "captions")
    tokenizer, text_encoder = _text(config, captions)
    set_seed(config.seed)  # here: rendering draws random numbers too, unless the images are cached
    model = _build(config, tokenizer, vae, text_encoder)
    bank, val_bank, empty = (
        CaptionBank(texts, tokenizer, max_length=config.text_length)
        for texts in (captions, column(val, "captions"), [[""]])
    )

    def pick(rows: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The caption of each sample, and whether it is left out."""
        generators = [generator(config.seed, int(position)) for position in positions]
        chosen = bank.pick(rows, iter(generators))
        return chosen, np.array([g.random() < config.caption_dropout for g in generators])

    def lengths(rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        return bank.lengths[pick(rows, positions)[0]]

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        chosen, dropped = pick(rows, positions)
        ids = bank.input_ids[chosen]
        ids[dropped] = empty.input_ids
        clean = _clean(latents[rows])
        seed = int(generator(config.seed, int(positions[0]), "noise").integers(2**62))
        return {"latents": clean, **_prompts(ids, tokenizer), **model.draw(clean, seed)}

    prompts = None
    if reader is not None:
        n = max(config.val_images, config.final_images)
        prompts = single_object_prompts(n, vocabulary=config.vocabulary, image_size=config.image_size)

    def validate(trained: nn.Module, n: int | None = None) -> dict[str, float]:
        assert isinstance(trained, TextToImageTraining)
        figures = {"loss": _loss(trained, val_latents, val_bank, tokenizer, config.batch_size)}
        if reader is not None and prompts is not None:
            figures |= _draw_and_read(trained.t2i, reader, prompts, config, output, n or config.val_images)
        return figures

    trainer = PartTrainer(
        model,
        config,
        parts=_parts(config, vae),
        draws=Draws(
            len(latents),
            total_draws(config),
            seed=config.seed,
            fetch=fetch,
            lengths=lengths,
            batch_size=samples_a_step(config),
        ),
        output_dir=output,
        validate=validate,
        loss=_loss_of,
        title="t2i_pretrain",
    )
    figures = trainer.fit()
    if trainer.is_world_process_zero():
        t2i = model.t2i.freeze()
        if reader is not None and prompts is not None:
            final = _draw_and_read(t2i, reader, prompts, config, output, config.final_images)
            figures |= {f"eval_{name}": value for name, value in final.items()} | {"eval_images": config.final_images}
            if vae is not None and prompts is not None:
                figures |= {
                    f"eval_decoded_{name}": value for name, value in _read_decoded(vae, reader, prompts).items()
                }
        t2i.to(getattr(torch, config.save_dtype)).save_pretrained(output)
        (output / "README.md").write_text(_card(config, t2i, tokenizer, figures), encoding="utf-8")
        finish_run("t2i_pretrain", config, output, figures, trainer, suite=openmoji.provenance())
    return output


def _parts(config: T2IPretrainConfig, vae: AutoencoderTiny | None) -> dict[str, PartSettings]:
    text = PartSettings(mode="full" if config.text_from is None else "frozen")
    parts = {"t2i.transformer": PartSettings(), "t2i.text_encoder": text}
    return parts if vae is None else {**parts, "t2i.vae": PartSettings(mode="frozen")}


def _text(
    config: T2IPretrainConfig, captions: list[list[str]]
) -> tuple[PreTrainedTokenizerFast, T5EncoderModel | None]:
    """Tokenizer and text encoder of ``text_from``; without one a tokenizer of the captions' word pieces.

    Raises:
        ConfigError: If ``text_from`` is of another family.
    """
    if config.text_from is None:
        tokenizer, _ = prune_tokenizer(load_tokenizer("minilm"), (text for own in captions for text in own))
        tokenizer.model_max_length = config.text_length
        return tokenizer, None
    source = load_t2i(config.text_from)
    if not isinstance(source, PixArt):
        raise ConfigError(
            f"text_from: '{config.text_from}' is a {source.pipeline_name}; a PixArtAlphaPipeline is needed"
        )
    tokenizer = source.tokenizers["tokenizer"]
    tokenizer.model_max_length = config.text_length
    return tokenizer, source.text_encoder


def _build(
    config: T2IPretrainConfig,
    tokenizer: PreTrainedTokenizerFast,
    vae: AutoencoderTiny | None,
    text_encoder: T5EncoderModel | None,
) -> TextToImageTraining:
    objective = ReconstructionObjective(
        density=config.density, logit_mean=config.logit_mean, weighting=config.weighting
    )
    return TextToImageTraining(build_model(config, tokenizer, vae, text_encoder), objective)


def _loss_of(trained: Any, batch: dict[str, Any]) -> Tensor:
    found: Tensor = trained(**batch)
    return found


def _prompts(ids: np.ndarray, tokenizer: PreTrainedTokenizerFast) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask``, int64[B, L], cut where all are padding: it is masked everywhere."""
    input_ids = torch.from_numpy(ids)
    attention_mask = (input_ids != tokenizer.pad_token_id).long()
    longest = int(attention_mask.sum(dim=1).max())
    return {"input_ids": input_ids[:, :longest], "attention_mask": attention_mask[:, :longest]}


def _clean(stored: np.ndarray) -> Tensor:
    """float32[B, C, h, w] of latents, or of pixels uint8[B, H, W, 3]."""
    return normalize_images(stored) if stored.dtype == np.uint8 else torch.from_numpy(stored.astype(np.float32))


def _loss(
    model: TextToImageTraining,
    stored: np.ndarray,
    bank: CaptionBank,
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int,
) -> float:
    """Mean loss of images with their first captions; times and noise are the same in every call."""
    device, total = model.device, 0.0
    for start in range(0, len(stored), batch_size):
        latents = _clean(stored[start : start + batch_size])
        ids = bank.input_ids[bank.starts[start : start + len(latents)]]
        batch = {"latents": latents, **_prompts(ids, tokenizer), **model.draw(latents, start)}
        total += float(model(**{name: value.to(device) for name, value in batch.items()})) * len(latents)
    return total / len(stored)


def _draw_and_read(
    t2i: TextToImage, reader: Reader, prompts: Prompts, config: T2IPretrainConfig, output: Path, n: int
) -> dict[str, float]:
    """Draws the first ``n`` prompts, writes ``samples.png``, and gives the accuracy of each nameable factor."""
    chosen = Prompts(prompts.texts[:n], prompts.factors[:n], prompts.images[:n])
    options = {"guidance_scale": config.guidance_scale, "num_inference_steps": config.num_inference_steps}
    drawn = as_uint8(draw_images(t2i, chosen.texts, **options))
    shown = [[image for pair in zip(chosen.images[i : i + 4], drawn[i : i + 4], strict=True) for image in pair]
             for i in range(0, min(n, 32), 4)]  # fmt: skip
    image_sheet(shown, columns=["scene", "drawn"] * min(n, 4)).save(output / "samples.png")
    return {name: float(values.mean()) for name, values in obedience(reader, drawn, chosen).items()}


def _read_decoded(vae: AutoencoderTiny, reader: Reader, prompts: Prompts) -> dict[str, float]:
    """The same of the prompts' own scenes, encoded and decoded: what the best drawing could reach."""
    images = decoded(vae, encoded(vae, np.stack(prompts.images)))
    return {name: float(values.mean()) for name, values in obedience(reader, images, prompts).items()}


def _suite(config: T2IPretrainConfig, split: str, size: int) -> Dataset:
    options = {"seed": config.data_seed, "image_size": config.image_size, "vocabulary": config.vocabulary}
    return vislex.data.load_suite("openmoji", "caption", split=split, size=size, style="dense", **options)


def _card(
    config: T2IPretrainConfig, t2i: TextToImage, tokenizer: PreTrainedTokenizerFast, figures: dict[str, float]
) -> str:
    parts = [name for name in ("transformer", "text_encoder", "vae") if getattr(t2i, name) is not None]
    count = {name: sum(p.numel() for p in getattr(t2i, name).parameters()) for name in parts}
    side = f"{config.image_size} x {config.image_size} pixels"
    where, stock = side, " (with `vae=None` and `output_type='latent'`: there is no autoencoder)"
    if t2i.vae is not None:
        where, stock = f"the latents of an autoencoder of {count['vae']:,} for {side}", ""
    together = "trained together" if config.text_from is None else f"taken from {config.text_from}, the first trained"
    predicted = {"sample": "x0", "v_prediction": "v"}[config.prediction]
    return model_card(
        "t2i_pretrain",
        config,
        figures,
        tags=["text-to-image", "diffusers"],
        summary=(
            f"A PixArt transformer of {count['transformer']:,} parameters on {where} and a T5 of "
            f"{count['text_encoder']:,} over {len(tokenizer)} word pieces, {together} on {config.train_size:,} "
            f"scenes with dense captions; it predicts {predicted}. Opens with `vislex` as a frozen text-to-image model "
            f"and with diffusers' `PixArtAlphaPipeline`{stock}. Figures: what the reader reads from drawn scenes with "
            "one object" + ("." if t2i.vae is None else "; `decoded_*`: from the true ones, encoded and decoded.")
        ),
    )


def sketch(config: T2IPretrainConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``."""
    captions = column(_suite(config, "train", config.train_size), "captions")
    tokenizer, text_encoder = _text(config, captions)
    vae = None
    if config.autoencoder is not None:
        folder = config.autoencoder.folder
        vae = build_autoencoder(config.autoencoder) if folder is None else open_autoencoder(Path(folder))
    model = _build(config, tokenizer, vae, text_encoder)
    denoiser = model.t2i.denoiser.config
    lengths = CaptionBank(captions[:500], tokenizer, max_length=config.text_length).lengths
    ids = {"bos": tokenizer.cls_token_id, "eos": tokenizer.sep_token_id, "word": len(tokenizer) // 2}

    def batch(samples: int, typical: bool) -> dict[str, Any]:
        shapes = caption_shapes(samples, round(float(lengths.mean())) if typical else int(lengths.max()), **ids)
        del shapes["labels"]
        latents = torch.rand(samples, denoiser["in_channels"], denoiser["sample_size"], denoiser["sample_size"])
        drawn = model.objective.draw(model.t2i, latents)
        return {"latents": latents, **shapes, "timesteps": drawn.timesteps, "noise": drawn.noise}

    yield Sketch(config, model, _parts(config, vae), batch, loss=_loss_of)


RECIPE = Recipe(T2IPretrainConfig, run, sketch)
