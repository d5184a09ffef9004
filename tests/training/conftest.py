"""A tiny transformers model whose training takes milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from vislex.training.draws import Draws
from vislex.training.parts import PartSettings
from vislex.training.settings import TrainingSettings
from vislex.training.trainer import PartTrainer

VOCABULARY = 13


def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
    ids = torch.from_numpy((rows[:, None] + np.arange(6)) % VOCABULARY)
    return {"input_ids": ids, "labels": ids}


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., PartTrainer]:
    """Builds a trainer of a tiny GPT-2 on counting sequences; keywords are settings and ``folder``."""

    def make(folder: str = "run", validate: Any = None, **settings: Any) -> PartTrainer:
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=8, n_embd=16, n_layer=1, n_head=2))
        values = {"steps": 6, "batch_size": 4, "warmup_steps": 1, "save_every": 3, "eval_every": 3, "log_every": 1}
        config = TrainingSettings(**{**values, "progress": False, "precision": "fp32", "device": "cpu", **settings})
        draws = Draws(10, config.steps * config.batch_size, seed=config.seed, fetch=fetch)
        parts = {"transformer": PartSettings()}
        output = tmp_path / folder
        return PartTrainer(model, config, parts=parts, draws=draws, output_dir=output, validate=validate)

    return make
