"""What the experiments on vision-language models share: their sizes, and their trainings by ``align`` and ``sft``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from vislex.benchmarks.caption_models import folder_hash, read_json
from vislex.benchmarks.host_arms import content_of_encoder
from vislex.benchmarks.results import content_key
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.summary import UNTRAINED
from vislex.benchmarks.trained_rows import sweep
from vislex.benchmarks.trainings import filled_config, identity, train_once
from vislex.config import Config
from vislex.recipes import align, lm_pretrain, sft
from vislex.training.recipe import Recipe

__all__ = ["SMOKE", "Row", "VlmArm", "VlmExperiment"]

Row = dict[str, Any]
# Values of an experiment that only shows that everything runs.
SMOKE: dict[str, Any] = {
    "budget": "smoke", "lm_steps": 2, "align_steps": 2, "steps": 2, "batch_size": 4, "train_size": 12, "val_size": 4,
    "size": 8, "ask_batch_size": 8, "ema_decay": 0.5, "precision": "fp32", "folder": "runs/smoke/vlm",
}  # fmt: skip


@dataclass(frozen=True)
class VlmArm:
    """One way to join and train the parts.

    Attributes:
        name: Of its rows.
        encoder: Name; "@untrained" behind it means frozen random weights, drawn from the seed.
        connector: Name.
        joining: Further fields of both recipes (``encoder_options``, ``connector_options``, ``tail_drop``).
        tuning: Further fields of ``sft`` ("parts.llm.mode", ...).
    """

    name: str
    encoder: str
    connector: str
    joining: Mapping[str, Any] = field(default_factory=dict)
    tuning: Mapping[str, Any] = field(default_factory=dict)


class VlmExperiment(Config):
    """Sizes of an experiment; the defaults are for two cores."""

    budget: Literal["smoke", "demo", "standard", "long"] = Field(
        "standard", description="row of budgets.yaml, below the values here"
    )
    llm: Path | None = Field(None, description="folder of a small language model; none trains one by lm_pretrain")
    lm_steps: int = Field(600, ge=1, description="training steps of that language model")
    align_steps: int = Field(300, ge=1, description="steps in which the connector alone trains")
    steps: int = Field(1200, ge=1, description="steps of finetuning")
    batch_size: int = Field(32, ge=1, description="dialogues a step")
    align_lr: float = Field(2e-3, gt=0, description="peak learning rate of the connector alone")
    connector_lr: float = Field(1e-3, gt=0, description="peak learning rate of the connector in finetuning")
    lrs: list[float] = Field(
        [1e-3], min_length=1, description="learning rates of the language model, tried by every arm with the first seed"
    )
    ema_decay: float = Field(0.998, ge=0, lt=1, description="of the average of the finetuned weights; 0 is off")
    seeds: list[int] = Field([0], min_length=1, description="of the trainings")
    vocabulary: Literal["core", "default", "large"] = Field("core", description="nouns: 100, 320 or all")
    codec: str = Field("loc_seg", description="how masks are written; seg_head needs maps of tokens")
    train_size: int = Field(10000, ge=1, description="training rows of each task")
    val_size: int = Field(200, ge=1, description="rows of val of each task: learning rates are chosen there")
    size: int = Field(1000, ge=2, description="rows of test_composition of each task")
    ask_batch_size: int = Field(64, ge=1, description="images a batch of the measurements")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="of the trainings")
    device: str = Field("auto", description="auto, cpu, cuda, ...")
    folder: Path = Field(Path("runs/vlm"), description="folder of the trainings")

    def language_model(self) -> Path:
        """Folder of the language model, which is trained if there is none."""
        if self.llm is not None:
            return self.llm
        values = {**self._shared(0, self.lm_steps), "vocabulary": self.vocabulary}
        config = filled_config(lm_pretrain.LmPretrainConfig, "lm_pretrain_embedded", values)
        return train_once(lm_pretrain.RECIPE, config, self.folder, "lm").folder

    def align_config(self, arm: VlmArm, llm: Path, seed: int) -> align.AlignConfig:
        """Configuration of an arm's first stage; arms differ in it by ``encoder`` and ``connector``."""
        values = {
            **self._shared(seed, self.align_steps),
            **self._sources("caption", "vqa"),
            "batch_size": self.batch_size,
            "lr": self.align_lr,
            "encoder": arm.encoder.removesuffix(UNTRAINED),
            "pretrained": not arm.encoder.endswith(UNTRAINED),
            "connector": arm.connector,
            "llm": f"hf:{llm}",
            **arm.joining,
        }
        return filled_config(align.AlignConfig, "align_embedded", values)

    def sft_config(self, arm: VlmArm, model: Path | None, seed: int, lr: float) -> sft.SftConfig:
        """Configuration of its second stage.

        Args:
            arm: The arm.
            model: What ``align`` left; None where it is not known yet.
            seed: Of the training.
            lr: Peak learning rate of the language model.
        """
        values = {
            **self._shared(seed, self.steps),
            **self._sources("caption", "vqa", "segmentation"),
            "batch_size": self.batch_size,
            "model": None if model is None else str(model),
            "codec": self.codec,
            "lr": self.connector_lr,
            "parts.llm.lr": lr,
            "ema_decay": self.ema_decay,
            "tail_drop": arm.joining.get("tail_drop", "none"),
            **arm.tuning,
        }
        return filled_config(sft.SftConfig, "sft_embedded", values)

    def aligned(self, arm: VlmArm, seed: int) -> Path:
        """Folder of an arm's model after the first stage, which is trained if it is missing."""
        llm = self.language_model()
        name = self._name(f"{arm.encoder}-{arm.connector}-align", arm, seed)  # arms may share it
        return train_once(align.RECIPE, self.align_config(arm, llm, seed), self.folder, name).folder

    def trainings(
        self, file: RowFile, arm: VlmArm, log: Callable[[str], None], recipe: Recipe = sft.RECIPE
    ) -> list[Row]:
        """The rows of an arm for all seeds and learning rates; see ``sweep`` and ``trained``."""

        def train(seed: int, lr: float) -> Row:
            row = self.trained(file, arm, seed, lr, recipe)
            log(f"{arm.name}, seed {seed}, lr {lr:g}: {row['seconds']:.0f} s, {row['val']:.1%} of val answered")
            return row

        return list(sweep(train, self.seeds, self.lrs))

    def trained(self, file: RowFile, arm: VlmArm, seed: int, lr: float, recipe: Recipe = sft.RECIPE) -> Row:
        """The row of an arm's two trainings, which are made if they are missing.

        Args:
            file: Receives the row.
            arm: The arm.
            seed: Of both trainings.
            lr: Peak learning rate of the language model.
            recipe: Of the second stage.

        Returns:
            "kind", "arm", "seed", "lr", the configurations, "folder", "seconds" of finetuning, "parts" with their
            trained parameters, and the share of questions of val that is answered as it should be, "val".
        """
        llm = self.language_model()
        configs = {
            "align": identity(self.align_config(arm, llm, seed)),
            "sft": identity(self.sft_config(arm, None, seed, lr)),
        }
        where = {"kind": "training", "arm": arm.name, "seed": seed, "lr": lr, "weights": self._weights(arm), **configs}

        def make() -> Row:
            config = self.sft_config(arm, self.aligned(arm, seed), seed, lr)
            made = train_once(recipe, config, self.folder, self._name(f"{arm.name}-sft", arm, seed))
            record = read_json(made.folder / "run.json")
            figures = {"val": record["figures"]["eval_vqa_exact"], "seconds": record["figures"]["seconds"]}
            return {"folder": str(made.folder), **figures, "parts": record["parts"]}

        row = file.row(where, make)
        assert row is not None
        return row

    def _weights(self, arm: VlmArm) -> dict[str, str]:
        """What tells the frozen weights apart that an arm starts from, wherever they lie."""
        return {"llm": folder_hash(self.language_model()), "encoder": content_of_encoder(arm.encoder)}

    def _name(self, name: str, arm: VlmArm, seed: int) -> str:
        short = re.sub(r"[^\w.@-]+", "-", name)[-60:]  # of a folder, its end
        return f"{short}-seed{seed}-{content_key(self._weights(arm))[:6]}"

    def _sources(self, *tasks: str) -> dict[str, Any]:
        return {
            "mixture": [{"task": task, "options": {"vocabulary": self.vocabulary}} for task in tasks],
            "max_length": 128,
            "save_dtype": "float32",
        }

    def _shared(self, seed: int, steps: int) -> dict[str, Any]:
        """Warm-up, validations and checkpoints at a fixed share of the steps."""
        return {
            "budget": self.budget,
            "seed": seed,
            "steps": steps,
            "warmup_steps": max(1, steps // 24),
            "eval_every": max(1, steps // 2),
            "save_every": max(1, steps // 6),
            "train_size": self.train_size,
            "val_size": self.val_size,
            "precision": self.precision,
            "device": self.device,
            "progress": False,
        }
