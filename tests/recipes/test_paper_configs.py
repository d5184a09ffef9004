"""Trainings at the papers' scale, without weights, from the published configurations of their components."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import Trainer

from vislex.adapters.llms import create_llm
from vislex.benchmarks.trainings import packaged_config
from vislex.catalog_llms import LLMS
from vislex.cli.main import main
from vislex.config import load_config
from vislex.recipes.components import component, components, network, outline_t2i
from vislex.recipes.vilex_pretrain import LR_RATIO, ViLexPretrainConfig
from vislex.training.settings import training_arguments
from vislex.training.trace import outline

IMAGES = {  # side, width of a token
    "stabilityai/stable-diffusion-2-1-base": (512, 1024),
    "DeepFloyd/IF-I-XL-v1.0": (64, 4096),
}
# Every published training, the accelerators that its file names, and parameters of its parts.
PAPER = {
    "vilex_pretrain_sd21_paper": {"encoder.backbone": 428_225_600, "t2i.unet": 865_910_724, "t2i.vae": 83_653_863},
    "vilex_pretrain_if_paper": {"encoder.backbone": 428_225_600, "t2i.text_encoder": 4_762_310_656},
    "caption_ladic_paper": {"encoder": 86_090_496, "decoder.codec.upper": 42_527_232},
    "ladic_codec_paper": {"upper": 42_527_232},
    "align_eight_gpu": {"encoder": 428_225_600, "llm": 1_235_814_400 + 2048},  # with a row for <image>
    "sft_one_gpu": {"encoder": 428_225_600},
    "sft_eight_gpu": {"encoder": 428_225_600, "llm": 1_235_814_400 + 2048},
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("hub_id", list(components()))
def test_components_have_their_published_sizes(hub_id: str) -> None:
    known = component(hub_id)
    llms = {row[2].get("hub_id"): name for name, row in LLMS.items()}
    for part, published in known["published"].items():
        with torch.device("meta"):
            built = create_llm(llms[hub_id]) if hub_id in llms else network(hub_id, part)
        # The page of IF says 4.3B of its U-Net.
        assert count(built) == pytest.approx(published, rel=0.02 if published == 4_300_000_000 else 0), part


@pytest.mark.parametrize("hub_id", IMAGES)
def test_published_text_to_image_models_read_75_tokens(hub_id: str) -> None:
    with outline():
        t2i = outline_t2i(hub_id)
    assert (t2i.image_size, t2i.widths) == (IMAGES[hub_id][0], (IMAGES[hub_id][1],))
    assert t2i.max_soft_tokens >= 75


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_trainings_of_the_papers_can_be_planned(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", name, "--gpus", "8", "--device", "h100", "--json", "batch_size=2"]) == 0
    (plan,) = json.loads(capsys.readouterr().out)
    counted = {row["part"]: row["parameters"] for row in plan["parts"]}
    assert {part: counted[part] for part in PAPER[name]} == PAPER[name]
    assert plan["engine"] is not None
    assert 0 < plan["seconds"][0] < plan["seconds"][1]
    frozen = [row for row in plan["parts"] if not row["trainable"] and row["part"].startswith("t2i.u")]
    assert all(row["backward"] > 0.9 * row["forward"] > 0 for row in frozen)  # gradients pass, none for its weights


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
