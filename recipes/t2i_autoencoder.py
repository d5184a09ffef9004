"""The autoencoder in front of ``t2i_pretrain``: trained on the same images, before the text-to-image model."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import set_seed

from vislex.cache import cache_dir
from vislex.config import Config
from vislex.errors import CheckpointError, ConfigError
from vislex.hub import check_folder
from vislex.metrics.image_features import as_uint8
from vislex.modules.digest import values_digest
from vislex.training.autoencoder import AutoencoderTraining
from vislex.training.cache import array_on_disk, content_key
from vislex.training.captions import generator
from vislex.training.draws import Draws
from vislex.training.images import normalize_images
from vislex.training.parts import PartSettings
from vislex.training.settings import TrainingSettings, total_draws
from vislex.training.sheets import image_sheet
from vislex.training.trainer import PartTrainer

__all__ = [
    "AutoencoderSettings",
    "build_autoencoder",
    "cached_latents",
    "decoded",
    "encoded",
    "open_autoencoder",
    "train_autoencoder",
]

SHOWN = 16
WEIGHTS = "diffusion_pytorch_model.safetensors"


class AutoencoderSettings(Config):
    """Sizes and training of a diffusers ``AutoencoderTiny``; each stage but the first halves the side.

    Attributes:
        folder: Of a trained one, which is then taken as it is; a plain string in place of the settings means this.
        width: Channels of every stage of the encoder.
        decoder_width: The same of the decoder.
        num_encoder_blocks: Blocks of each stage, from the image to the latents.
        num_decoder_blocks: From the latents to the image.
        latent_channels: Channels of the latents.
        noise: Largest standard deviation of the noise on the latents, which have 1; each sample draws its own up to it.
        crop: Side in pixels of the part of an image that a training sample is: many small parts teach more than a few
            whole images, which None takes.
        batch_size: Samples a step and process.
        lr: Peak learning rate; it decays by a cosine.
        warmup_steps: Of it.
        ema_decay: As in the recipe.
    """

    folder: str | None = None
    width: int = Field(32, ge=4)
    decoder_width: int = Field(32, ge=4)
    num_encoder_blocks: tuple[int, ...] = Field((0, 1, 2), min_length=2)
    num_decoder_blocks: tuple[int, ...] = Field((2, 1, 0), min_length=2)
    latent_channels: int = Field(8, ge=1)
    noise: float = Field(0.4, ge=0)
    crop: int | None = Field(24, ge=4)
    batch_size: int = Field(16, ge=1)
    lr: float = Field(2e-3, gt=0)
    warmup_steps: int = Field(100, ge=0)
    ema_decay: float = Field(0.998, ge=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _read_folder(cls, given: Any) -> Any:
        return {"folder": given} if isinstance(given, str) else given


def build_autoencoder(settings: AutoencoderSettings) -> AutoencoderTiny:
    """An autoencoder with random weights.

    Raises:
        ConfigError: If encoder and decoder differ in their number of stages.
    """
    stages = len(settings.num_encoder_blocks)
    if len(settings.num_decoder_blocks) != stages:
        raise ConfigError(
            f"autoencoder: num_encoder_blocks has {stages} stages and num_decoder_blocks "
            f"{len(settings.num_decoder_blocks)}; they must have as many"
        )
    return AutoencoderTiny(
        encoder_block_out_channels=(settings.width,) * stages,
        decoder_block_out_channels=(settings.decoder_width,) * stages,
        num_encoder_blocks=settings.num_encoder_blocks,
        num_decoder_blocks=settings.num_decoder_blocks,
        latent_channels=settings.latent_channels,
    )


def open_autoencoder(folder: Path) -> AutoencoderTiny:
    """A frozen autoencoder that ``train_autoencoder`` (or diffusers) has written.

    Raises:
        CheckpointError: If the folder holds none, or one of another class.
    """
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(
            f"autoencoder: '{folder}' holds no '{WEIGHTS}'; give the folder 'autoencoder' of an earlier run, settings, "
            "or null for pixels"
        )
    check_folder(folder)
    try:
        vae, info = AutoencoderTiny.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"cannot load '{folder}': {str(error).strip().splitlines()[0]}") from error
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"'{folder}' lacks {len(missing)} weights, the first is {missing[0]}")
    found: AutoencoderTiny = vae.requires_grad_(False).eval()
    return found


def train_autoencoder(
    settings: AutoencoderSettings, run: TrainingSettings, output: Path, images: np.ndarray, val_images: np.ndarray
) -> AutoencoderTiny:
    """Trains an autoencoder, or opens the one of ``settings.folder`` or what an earlier call has trained.

    Args:
        settings: Its sizes.
        run: Steps, seed, device and checkpoints.
        output: Receives the autoencoder, ``samples.png`` and ``training.jsonl``.
        images: uint8[N, H, W, 3] to train on.
        val_images: uint8[M, H, W, 3].

    Returns:
        It, frozen; its scaling factor gives the latents of the training images variance 1.

    Raises:
        ConfigError: If the crops do not fit.
    """
    if settings.folder is not None:
        return open_autoencoder(Path(settings.folder))
    if run.resume == "auto" and (output / WEIGHTS).is_file():
        return open_autoencoder(output)
    set_seed(run.seed)
    model = AutoencoderTraining(build_autoencoder(settings))
    own = settings.model_dump(include={"batch_size", "lr", "warmup_steps", "ema_decay"})
    run = run.model_copy(update={**own, "schedule": "cosine", "gradient_accumulation": 1})
    scale = 2 ** (len(settings.num_encoder_blocks) - 1)
    side = min(settings.crop or images.shape[1], images.shape[1])
    if side % scale:
        raise ConfigError(f"autoencoder: crop {side} is no multiple of {scale}, the pixels along a side of a latent")
    shape = (settings.latent_channels, side // scale, side // scale)

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        draws = [generator(run.seed, int(position), "autoencoder") for position in positions]
        corners = [g.integers(0, images.shape[1] - side + 1, 2) for g in draws]
        parts = [images[row, y : y + side, x : x + side] for row, (y, x) in zip(rows, corners, strict=True)]
        noise = [settings.noise * g.random() * g.standard_normal(shape, np.float32) for g in draws]
        return {
            "pixel_values": normalize_images(np.stack(parts)),
            "noise": torch.from_numpy(np.stack(noise).astype(np.float32)),
        }

    def validate(trained: nn.Module) -> dict[str, float]:
        assert isinstance(trained, AutoencoderTraining)
        total = 0.0
        for start in range(0, len(val_images), settings.batch_size):
            pixels = normalize_images(val_images[start : start + settings.batch_size]).to(trained.device)
            total += float(trained(pixels, torch.zeros(1, 1, 1, 1, device=pixels.device))) * len(pixels)
        return {"loss": total / len(val_images)}

    trainer = PartTrainer(
        model,
        run,
        parts={"vae": PartSettings()},
        draws=Draws(len(images), total_draws(run), seed=run.seed, fetch=fetch),
        output_dir=output,
        loss=lambda trained, batch: trained(**batch),
        validate=validate,
        title="t2i_pretrain, autoencoder",
    )
    trainer.fit()
    vae = model.eval().fold().to(memory_format=torch.contiguous_format).requires_grad_(False)
    vae.register_to_config(scaling_factor=1 / float(encoded(vae, images).std()))
    if trainer.is_world_process_zero():
        shown = val_images[:SHOWN]
        pairs = [list(pair) for pair in zip(shown, decoded(vae, encoded(vae, shown)), strict=True)]
        image_sheet(pairs, columns=["scene", "decoded"]).save(output / "samples.png")
        vae.save_pretrained(output)
    return vae


@torch.no_grad()
def encoded(vae: AutoencoderTiny, images: np.ndarray, *, batch_size: int = 100) -> Tensor:
    """Latents float32[N, C, h, w], scaled, of images uint8[N, H, W, 3]."""
    where, scale = next(vae.parameters()), vae.config["scaling_factor"]
    latents = []
    for start in range(0, len(images), batch_size):
        pixels = normalize_images(images[start : start + batch_size]).to(where)
        made = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latents  # faster on a CPU
        latents.append(scale * made.float().cpu().contiguous())
    return torch.cat(latents)


def cached_latents(vae: AutoencoderTiny, images: np.ndarray) -> np.ndarray:
    """Scaled latents float16[N, C, h, w], memory-mapped, of images uint8[N, H, W, 3]; computed once an autoencoder."""
    describe = {
        "autoencoder": values_digest(vae),
        "scaling_factor": vae.config["scaling_factor"],
        "images": hashlib.sha256(np.ascontiguousarray(images).data).hexdigest(),
    }
    shape = (len(images), *encoded(vae, images[:1]).shape[1:])

    def fill(array: np.ndarray, _: Path) -> None:
        array[:] = encoded(vae, images).half().numpy()

    folder = cache_dir() / "latents" / content_key(describe)[:32]
    latents, _ = array_on_disk(folder, shape=shape, dtype=np.float16, fill=fill, describe=describe)
    return latents


@torch.no_grad()
def decoded(vae: AutoencoderTiny, latents: Tensor, *, batch_size: int = 100) -> np.ndarray:
    """Images uint8[N, H, W, 3] of scaled latents."""
    where, raw = next(vae.parameters()), latents / vae.config["scaling_factor"]
    pixels = torch.cat([vae.decode(part.to(where)).sample.float().cpu() for part in raw.split(batch_size)])
    return np.stack(as_uint8((pixels / 2 + 0.5).clamp(0, 1)))
