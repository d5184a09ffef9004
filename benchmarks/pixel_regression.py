"""The same pooling without diffusion: a small decoder regresses the pixels of an image from its tokens.

A control of ViLex: what an encoder gains here, it gains from reconstruction alone. Images, stages, learning rates and
numbers of kept tokens are those of a ViLex training with the same configuration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from vislex.data.sources import describe_source
from vislex.diffusion.t2i import TextToImage, load_t2i
from vislex.encoders.base import mark_initialized
from vislex.encoders.factory import create_encoder
from vislex.encoders.vilex import ViLexEncoder
from vislex.errors import ConfigError
from vislex.modules.tail_drop import keep_counts, keep_mask
from vislex.processing import create_image_processor
from vislex.recipes.source import load_splits
from vislex.recipes.vilex_data import ImagePairs
from vislex.recipes.vilex_pretrain import LR_RATIO, ViLexPretrainConfig
from vislex.specs import VisionTokens
from vislex.training.captions import generator
from vislex.training.draws import Draws
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import finish_run, start_run
from vislex.training.settings import total_draws
from vislex.training.trainer import PartTrainer

__all__ = ["RECIPE", "PixelRegression", "run"]

LAYERS, HEADS = 2, 4


class PixelRegression(PreTrainedModel):
    """An encoder with pooling, and a decoder whose queries, one a patch, attend to the tokens.

    Args:
        encoder: Backbone and pooling.
        channels: Of what is regressed: 3 for pixels.
        side: Its height and width.
        patch_size: Side of a patch.
    """

    config_class = PreTrainedConfig
    base_model_prefix = ""
    _supports_sdpa = True

    def __init__(self, encoder: ViLexEncoder, *, channels: int, side: int, patch_size: int) -> None:
        super().__init__(PreTrainedConfig())
        if side % patch_size:
            raise ConfigError(f"patches of {patch_size} do not cover a side of {side}")
        width = encoder.config.hidden_size
        self.patch_size, self.grid = patch_size, side // patch_size
        self.encoder = encoder
        self.queries = nn.Parameter(torch.randn(self.grid**2, width) * width**-0.5)
        layer = nn.TransformerDecoderLayer(width, HEADS, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, LAYERS, norm=nn.LayerNorm(width))
        self.pixels = nn.Linear(width, channels * patch_size**2)
        self.post_init()

    def init_weights(self) -> None:
        """Keeps the weights of the parts."""
        mark_initialized(self)

    def forward(
        self,
        latents: Tensor,
        counts: Tensor,
        pixel_values: Tensor | None = None,
        vision_tokens: Tensor | None = None,
        vision_mask: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error float32[] of a batch.

        Args:
            latents: float[B, C, S, S], what is regressed.
            counts: int64[B], tokens that are kept of each image.
            pixel_values: float[B, 3, H, W] for the encoder; or give ``vision_tokens``.
            vision_tokens: float[B, N, D] of the frozen backbone.
            vision_mask: bool[B, N].
        """
        cached = vision_tokens is not None
        vision = VisionTokens(vision_tokens, vision_mask) if cached else self.encoder.backbone(pixel_values)
        tokens = self.encoder.pool(vision, int(counts.max())).tokens
        dropped = ~keep_mask(counts, tokens.shape[1])
        queries = self.queries.expand(len(tokens), -1, -1)
        patches = self.pixels(self.decoder(queries, tokens, memory_key_padding_mask=dropped))  # [B, P, C p p]
        folded = patches.transpose(1, 2).unflatten(2, (self.grid, self.grid))
        return F.mse_loss(F.pixel_shuffle(folded, self.patch_size).float(), latents.float())


def run(config: ViLexPretrainConfig) -> Path:
    """Trains encoder, pooling and decoder in the stages of a ViLex training.

    Returns:
        The output folder: the ``ViLexEncoder``, ``training.jsonl``, ``run.json``; the first of two stages is in
        ``pooling``.
    """
    output = start_run("pixel_regression", config)
    set_seed(config.seed)
    t2i = load_t2i(config.t2i)  # for the size of the images alone
    backbone = create_encoder(config.encoder, pretrained=config.pretrained, tiny=config.tiny, **config.encoder_options)
    sample = t2i.encode_pixels(torch.zeros(1, 3, t2i.image_size, t2i.image_size))
    patch_size = next(size for size in (6, 4, 2, 1) if sample.shape[-1] % size == 0)
    encoder = ViLexEncoder.from_backbone(backbone, n_tokens=config.n_tokens or t2i.max_soft_tokens, depth=config.depth)
    model = PixelRegression(encoder, channels=sample.shape[1], side=sample.shape[-1], patch_size=patch_size)
    figures: dict[str, float] = {}
    first = output / "pooling" / "model.safetensors"
    if config.stages == "two_stage" and config.resume == "auto" and first.is_file():
        load_model(model, first)
    elif config.stages == "two_stage":
        stage = config.model_copy(update={"steps": config.pooling_steps})
        trainer = _trainer(model, t2i, stage, first.parent, frozen=True)
        figures |= {f"pooling_{name}": value for name, value in trainer.fit().items()}
        first.parent.mkdir(parents=True, exist_ok=True)
        save_model(model, str(first))
    trainer = _trainer(model, t2i, config, output, frozen=config.stages == "frozen")
    figures |= trainer.fit()
    if trainer.is_world_process_zero():
        model.encoder.save_pretrained(output)
        suite = describe_source(config.data).provenance
        finish_run("pixel_regression", config, output, figures, trainer, suite=suite)
    return output


def _trainer(
    model: PixelRegression, t2i: TextToImage, config: ViLexPretrainConfig, output: Path, *, frozen: bool
) -> PartTrainer:
    train, val = load_splits(config)
    backbone = model.encoder.backbone
    shared: dict[str, Any] = {"cache": config.cache, "provenance": describe_source(config.data).provenance}
    shared |= {"workers": config.render_workers, "frozen": frozen}
    pairs, val_pairs = (
        ImagePairs(rows, backbone, create_image_processor(backbone.spec), t2i, **shared) for rows in (train, val)
    )
    n_tokens = model.encoder.config.n_tokens

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        drawing = torch.Generator().manual_seed(int(generator(config.seed, int(positions[0])).integers(2**62)))
        counts = keep_counts(config.tail_drop, n_tokens, len(rows), generator=drawing)
        return {**pairs.batch(rows), "counts": counts}

    @torch.no_grad()
    def validate(trained: nn.Module) -> dict[str, float]:
        total = 0.0
        for start in range(0, len(val_pairs), config.batch_size):
            rows = np.arange(start, min(start + config.batch_size, len(val_pairs)))
            batch = {**val_pairs.batch(rows), "counts": torch.full((len(rows),), n_tokens)}
            total += len(rows) * float(trained(**{name: value.to(model.device) for name, value in batch.items()}))
        return {"loss": total / len(val_pairs)}

    rate = config.backbone_lr or config.lr / LR_RATIO
    return PartTrainer(
        model,
        config,
        parts={"encoder.backbone": PartSettings(mode="frozen") if frozen else PartSettings(lr=rate)},
        draws=Draws(len(pairs), total_draws(config), seed=config.seed, fetch=fetch),
        output_dir=output,
        loss=lambda called, batch: called(**batch),
        validate=validate,
        title="pixel_regression",
        optimizer=config.optimizer,
    )


RECIPE = Recipe(ViLexPretrainConfig, run)
