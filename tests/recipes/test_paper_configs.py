"""ViLex at the paper's scale, built on the meta device from the published component configs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel, Trainer

from vislex.benchmarks.trainings import packaged_config
from vislex.config import load_config
from vislex.diffusion.t2i import TextToImage
from vislex.diffusion.t2i.deepfloyd_if import DeepFloydIF
from vislex.diffusion.t2i.stable_diffusion import StableDiffusion
from vislex.encoders.factory import create_encoder
from vislex.encoders.vilex import ViLexEncoder
from vislex.recipes.vilex_pretrain import LR_RATIO, ViLexPretrainConfig
from vislex.training.settings import training_arguments

COMPONENTS = Path(__file__).parents[1] / "golden" / "components"


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def stable_diffusion(parts: dict[str, Any], words: Callable[[str, int], Any], scheduler: Any) -> TextToImage:
    tokenizer = words("clip", 77)
    text = CLIPTextConfig(**parts["text_encoder"], eos_token_id=tokenizer.eos_token_id)
    return StableDiffusion(
        tokenizer=tokenizer,
        text_encoder=CLIPTextModel(text),
        unet=diffusers.UNet2DConditionModel(**parts["unet"]),
        vae=diffusers.AutoencoderKL(**parts["vae"]),
        scheduler=scheduler,
    )


def deepfloyd_if(parts: dict[str, Any], words: Callable[[str, int], Any], scheduler: Any) -> TextToImage:
    return DeepFloydIF(
        tokenizer=words("t5", 77),
        text_encoder=T5EncoderModel(T5Config(**parts["text_encoder"])),
        unet=diffusers.UNet2DConditionModel(**parts["unet"]),
        scheduler=scheduler,
    )


SCHEDULERS: dict[str, Any] = {"sd21": diffusers.DDIMScheduler, "if_xl": diffusers.DDPMScheduler}
CASES = {
    "sd21": (stable_diffusion, {"unet": 865_910_724, "text_encoder": 340_387_840, "vae": 83_653_863}, 0.0, 512, 1024),
    # The model's page says 4.3B of the U-Net; T5-v1.1-XXL's encoder is exact.
    "if_xl": (deepfloyd_if, {"unet": 4_300_000_000, "text_encoder": 4_762_310_656}, 0.02, 64, 4096),
}


@pytest.mark.parametrize("name", CASES)
def test_the_papers_models_have_their_published_sizes(name: str, tiny_words: Callable[[str, int], Any]) -> None:
    build, published, tolerance, side, width = CASES[name]
    config = load_config(ViLexPretrainConfig, packaged_config(f"vilex_pretrain_{name.partition('_')[0]}_paper"))
    parts = json.loads((COMPONENTS / f"{name}.json").read_text())
    with torch.device("meta"):
        with torch.device("cpu"):
            scheduler = SCHEDULERS[name](**parts["scheduler"])  # it computes with its tables
        t2i = build(parts, tiny_words, scheduler)
        backbone = create_encoder(config.encoder)
        widths = list(t2i.widths)
        options = {"n_tokens": config.n_tokens, "depth": config.depth, "widths": widths, "token_scales": [1.0]}
        encoder = ViLexEncoder.from_backbone(backbone, **options)
        pixels = torch.empty(1, 3, *backbone.spec.image_size)
        tokens = encoder(pixels).tokens
    for part, expected in published.items():
        assert count(getattr(t2i, part)) == pytest.approx(expected, rel=tolerance if part == "unet" else 0), part
    assert (t2i.image_size, t2i.widths, t2i.max_soft_tokens >= 75) == (side, (width,), True)
    assert tokens.shape == (1, 75, width)
    # So400m without its pooling head, 427.7 M with the final norm; the head is not part of an encoder.
    assert 410e6 < count(backbone) < 430e6
    assert (config.n_tokens, config.stages, config.cache) == (75, "end_to_end", False)


@pytest.mark.parametrize("name", ["sd21", "if"])
def test_the_papers_optimisation(name: str, tmp_path: Path) -> None:
    path = packaged_config(f"vilex_pretrain_{name}_paper")
    config = load_config(ViLexPretrainConfig, path, ["precision=fp32"])
    assert (config.lr, config.backbone_lr, round(config.lr / (config.backbone_lr or 1))) == (3e-4, 1e-5, LR_RATIO)
    assert (config.steps, config.batch_size * config.gradient_accumulation * 64) == (300_000, 2048)
    assert config.optimizer == "adafactor"
    arguments = training_arguments(config, tmp_path)
    arguments.optim = type(arguments.optim)("adafactor")
    options = Trainer.get_optimizer_cls_and_kwargs(arguments)[1]
    assert (options["scale_parameter"], options["relative_step"]) == (False, False)
    assert path.read_text().splitlines()[1].startswith("#   torchrun")
