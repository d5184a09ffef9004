"""What the experiments on LaDiC share: their sizes, and the configurations of their trainings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vislex.benchmarks.trainings import filled_config
from vislex.config import Config
from vislex.recipes.caption import CaptionConfig
from vislex.recipes.ladic_codec import LadicCodecConfig

__all__ = ["LENGTHS", "SMOKE", "Experiment"]

LENGTHS = {"lossy": 40, "dense": 56}  # word pieces of the longest caption with both special tokens
# Values of an experiment that only shows that everything runs.
SMOKE: dict[str, Any] = {
    "budget": "smoke", "steps": 2, "batch_size": 4, "codec_steps": 2, "lrs": "[2.0e-3]", "hidden_size": 32,
    "num_layers": 1, "num_heads": 2, "encoder": "siglip-tiny", "tiny": "true", "image_size": 32, "train_size": 32,
    "val_size": 4, "size": 8, "precision": "fp32",
}  # fmt: skip


class Experiment(Config):
    """Sizes of an experiment; the defaults are for two cores."""

    budget: Literal["smoke", "demo", "standard", "long"] = Field(
        "standard", description="row of budgets.yaml, below the values here"
    )
    steps: int = Field(1500, ge=2, description="training steps of a captioner")
    codec_steps: int = Field(600, ge=2, description="training steps of a codec")
    batch_size: int = Field(64, ge=1, description="captions a step, and images a batch of the measurements")
    hidden_size: int = Field(128, ge=8, description="width of every decoder")
    num_layers: int = Field(3, ge=1, description="layers of every decoder")
    num_heads: int = Field(4, ge=1, description="attention heads of every decoder")
    lrs: list[float] = Field(
        [1e-3, 2e-3, 4e-3], min_length=1, description="learning rates that every arm tries with the first seed"
    )
    ema_decay: float = Field(0.998, ge=0, lt=1, description="of the average of the weights, for every arm; 0 is off")
    seeds: list[int] = Field([0], min_length=1, description="of the trainings")
    encoder: str = Field("efficientnet-lite0", description="frozen encoder of all arms")
    tiny: bool = Field(False, description="the encoder's tiny variant with random weights")
    vocabulary: Literal["core", "default", "large"] = Field("core", description="nouns: 100, 320 or all")
    image_size: int = Field(64, ge=16, description="side in pixels at which images are drawn")
    train_size: int = Field(10000, ge=1, description="training images")
    val_size: int = Field(200, ge=2, description="images of val: learning rates and ways to sample are chosen there")
    size: int = Field(1000, ge=2, description="images of test_composition")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="of the trainings")
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    folder: Path = Field(Path("runs/ladic"), description="folder of the trainings")

    def caption(
        self,
        decoder: str,
        *,
        seed: int,
        lr: float,
        style: str = "lossy",
        steps: int | None = None,
        decoder_options: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> CaptionConfig:
        """Configuration of a captioner's training: the packaged one of its decoder, at this experiment's sizes.

        Args:
            decoder: Name.
            seed: Of the training.
            lr: Peak learning rate.
            style: Of the captions.
            steps: Training steps; the experiment's by default. Warm-up and validations keep their share.
            decoder_options: Above the sizes.
            **values: Further fields of ``CaptionConfig``.
        """
        steps = self.steps if steps is None else steps
        sizes = {"hidden_size": self.hidden_size, "num_layers": self.num_layers, "num_heads": self.num_heads}
        fields = {
            **self._shared(style, seed),
            "steps": steps,
            "warmup_steps": max(1, steps // 15),
            "eval_every": max(1, steps // 6),
            "save_every": max(1, steps // 6),
            "lr": lr,
            "ema_decay": self.ema_decay,
            "encoder": self.encoder,
            "pretrained": not self.tiny,
            "tiny": self.tiny,
            "save_dtype": "float32",
            **values,
        }
        fields |= {f"decoder_options.{name}": value for name, value in {**sizes, **(decoder_options or {})}.items()}
        return filled_config(CaptionConfig, f"caption_{decoder}_embedded", fields)

    def codec_config(self, style: str = "lossy", **values: Any) -> LadicCodecConfig:
        """Configuration of a codec's training on the same captions; it is the same for all seeds of captioners."""
        fields = {
            **self._shared(style, 0),
            "steps": self.codec_steps,
            "warmup_steps": max(1, self.codec_steps // 10),
            "eval_every": self.codec_steps,
            **values,
        }
        return filled_config(LadicCodecConfig, "ladic_codec_embedded", fields)

    def data_options(self, style: str) -> dict[str, Any]:
        """Options of the suite."""
        return {"vocabulary": self.vocabulary, "image_size": self.image_size, "style": style}

    def _shared(self, style: str, seed: int) -> dict[str, Any]:
        return {
            "budget": self.budget,
            "seed": seed,
            "batch_size": self.batch_size,
            "data_options": self.data_options(style),
            "train_size": self.train_size,
            "val_size": self.val_size,
            "max_length": LENGTHS[style],
            "precision": self.precision,
            "device": self.device,
            "progress": False,
        }
