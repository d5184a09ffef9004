"""Throughput of the recipes ``sft`` and ``vilex_pretrain`` against a bare PyTorch loop over the same modules.

Both sides train the very same modules, from the same weights at every run, on the same batches in the same order and in
the same number format, and take the same optimizer steps, which their losses prove. The recipes' side is
``PartTrainer`` with its callbacks, its log and its meter; the other is a DataLoader, forward, backward, clipping, AdamW
and the schedule, and nothing else. They take their steps in turn, the values of one side's weights put aside meanwhile,
so that whatever else the machine does falls on both; the first step of a run is not timed:

    python -m vislex.benchmarks.training_throughput [--runs 6] [--steps 40] [--smoke] [--json] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, get_cosine_schedule_with_warmup

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.config import load_config
from vislex.metrics.statistics import paired_ratio
from vislex.provenance import collect
from vislex.recipes import sft, t2i_pretrain, vilex_pretrain
from vislex.recipes.lm_pretrain import LmPretrainConfig
from vislex.recipes.vlm_training import build_model, make_trainer
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.draws import identity_collate
from vislex.training.trainer import PartTrainer, bf16_call, plain_attention

__all__ = ["build", "compare", "main"]

RESULTS = Path(__file__).parent / "results" / "training_throughput.json"
RECIPES = ("sft", "vilex_pretrain")
SHARED = ["progress=false", "save_every=0", "resume=never", "log_every=10", "warmup_steps=2", "val_size=4"]
SIZES = {
    "full": ["batch_size=32", "train_size=512"],
    "smoke": ["batch_size=4", "train_size=8", "tiny=true", "pretrained=false"],
}


def _captions() -> list[str]:
    rows = vislex.data.load_suite("openmoji", "caption", split="train", size=512).with_format(None)
    questions = vislex.data.load_suite("openmoji", "vqa", split="train", size=512).with_format(None)
    return [*(text for own in rows["captions"] for text in own), *questions["question"], *questions["answer"]]


def _language_model(folder: Path, *, smoke: bool) -> None:
    """A Llama with random weights, of the size that ``lm_pretrain`` trains."""
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), _captions())[0])
    sizes = load_config(LmPretrainConfig, None, ["budget=smoke"] if smoke else [])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        num_key_value_heads=sizes.num_kv_heads,
        intermediate_size=sizes.intermediate_size,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _text_to_image(folder: Path, *, smoke: bool) -> None:
    """A text-to-image model with random weights, of the size that ``t2i_pretrain`` trains."""
    small = [
        "image_size=24",
        "denoiser={num_layers: 1, num_attention_heads: 2, attention_head_dim: 8, patch_size: 6}",
        "text={d_model: 16, num_layers: 1, num_heads: 2, d_kv: 8, d_ff: 32}",
    ]
    config = load_config(t2i_pretrain.T2IPretrainConfig, None, small if smoke else [])
    tokenizer, _ = prune_tokenizer(load_tokenizer(), _captions())
    tokenizer.model_max_length = config.text_length
    t2i_pretrain.build_model(config, tokenizer).save_pretrained(folder)


def build(recipe: str, folder: Path, *, steps: int, smoke: bool, precision: str = "auto") -> PartTrainer:
    """The recipe's trainer, whose model and data the bare loop takes too.

    Args:
        recipe: "sft" or "vilex_pretrain" (encoder and pooling from pixels).
        folder: For models and logs.
        steps: Steps of a run.
        smoke: Whether to take tiny models.
        precision: As the recipes take it.
    """
    torch.manual_seed(0)
    size = "smoke" if smoke else "full"
    values = [*SHARED, *SIZES[size], f"steps={steps}", f"eval_every={steps}", f"precision={precision}"]
    if recipe == "sft":
        _language_model(folder / "lm", smoke=smoke)
        config = load_config(sft.SftConfig, None, [f"llm=hf:{folder / 'lm'}", *values])
        parts = {name: getattr(config.parts, name) for name in ("encoder", "connector", "llm")}
        trainer = make_trainer(config, build_model(config), parts, folder / recipe, recipe)
    else:
        _text_to_image(folder / "t2i", smoke=smoke)
        own = [f"t2i={folder / 't2i'}", "stages=end_to_end", "n_tokens=4" if smoke else "n_tokens=16"]
        settings = load_config(vilex_pretrain.ViLexPretrainConfig, None, [*own, *values])
        model = vilex_pretrain.build_model(settings)
        trainer = vilex_pretrain.make_trainer(recipe, model, settings, folder / recipe, frozen=False)
    trainer.args.eval_strategy = type(trainer.args.eval_strategy)("no")
    return trainer


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


class _BareLoop:
    """A plain loop over a trainer's model, data and parameter groups."""

    def __init__(self, trainer: PartTrainer) -> None:
        settings = trainer.settings
        groups = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in trainer.plan.groups]
        self.trainer, self.device = trainer, trainer.args.device
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, settings.beta2), fused=True)
        self.trained = [parameter for group in groups for parameter in group["params"]]
        self.frozen: dict[str, Tensor] = {}
        self.losses: list[float] = []
        trainer.model.to(self.device)

    def steps(self) -> Iterator[None]:
        """Takes a step each time."""
        settings, optimizer = self.trainer.settings, self.optimizer
        scheduler = get_cosine_schedule_with_warmup(optimizer, self.trainer.args.warmup_steps, settings.steps)
        loader: DataLoader = DataLoader(
            self.trainer.train_dataset, batch_size=settings.batch_size, collate_fn=identity_collate
        )
        losses = []
        for step, batch in enumerate(loader, 1):
            with plain_attention(self.device):  # the trainer's kernel: loops are compared, not kernels
                loss = self._loss(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, settings.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            if step % settings.log_every == 0:
                self.losses.append(float(torch.stack(losses).mean()))
                losses.clear()
            yield

    def _loss(self, batch: dict[str, Any]) -> Tensor:
        model, device = self.trainer.model, self.device
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        loss: Tensor = (bf16_call(model, frozen=self.frozen, **moved) if self.trainer.bf16 else model(**moved)).loss
        return loss


class _Turns(TrainerCallback):
    """Lets the bare loop take its step after each of the trainer's, and times both.

    Attributes:
        own, bare: Wall and CPU seconds of every step of a run after the first.
        losses: What the trainer logged.
    """

    def __init__(self, trainer: PartTrainer) -> None:
        self.trainer, self.loop = trainer, _BareLoop(trainer)
        self.rates = [group["lr"] for group in trainer.plan.groups]
        self.start = [parameter.detach().clone() for parameter in self.loop.trained]
        self.aside = [weight.clone() for weight in self.start]
        self.own: list[tuple[float, float]] = []
        self.bare: list[tuple[float, float]] = []
        self.losses: list[float] = []
        self._steps: Iterator[None] = iter(())
        self._left: tuple[float, float] | None = None
        trainer.add_callback(self)

    def run(self) -> None:
        """Takes both sides through a training, from the same weights as every time."""
        for told in (self.own, self.bare, self.losses, self.loop.losses):
            told.clear()
        with torch.no_grad():
            for parameter, aside, weight in zip(self.loop.trained, self.aside, self.start, strict=True):
                parameter.copy_(weight)
                aside.copy_(weight)
        for optimizer in (self.trainer.optimizer, self.loop.optimizer):
            if optimizer is not None:
                optimizer.state.clear()
                for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                    group["lr"] = group["initial_lr"] = rate
        self._steps, self._left = self.loop.steps(), None
        self.trainer.train()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        end = _now()
        self._exchange()
        bare_begin = _now()
        next(self._steps)
        bare_end = _now()
        self._exchange()
        if self._left is not None:
            self.own.append((end[0] - self._left[0], end[1] - self._left[1]))
            self.bare.append((bare_end[0] - bare_begin[0], bare_end[1] - bare_begin[1]))
        self._left = _now()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])

    @torch.no_grad()
    def _exchange(self) -> None:
        """Puts one side's weights aside and takes the other's, where they lie: elsewhere they may be slower."""
        for parameter, aside in zip(self.loop.trained, self.aside, strict=True):
            other = aside.clone()
            aside.copy_(parameter)
            parameter.copy_(other)


def compare(recipe: str, *, runs: int, steps: int, smoke: bool, precision: str = "auto") -> dict[str, Any]:
    """Times both sides in turn.

    Returns:
        A row: samples a second of both sides, ``ratio`` (above 1: the recipe is faster), a mean over runs, with the
        bootstrap interval of runs and paired steps, the same of CPU time, "seconds" and "bare_seconds" of every step of
        every run, and the largest relative difference of their losses.

    Raises:
        RuntimeError: If the sides did not learn the same, and nothing can be compared.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(recipe, Path(folder), steps=steps, smoke=smoke, precision=precision)
        turns = _Turns(trainer)
        turns.run()  # warms up
        own, bare, apart = [], [], 0.0
        for _ in range(runs):
            turns.run()
            apart = max(apart, _check_losses(recipe, turns.losses, turns.loop.losses))
            own.append(list(turns.own))
            bare.append(list(turns.bare))
    (wall, cpu), (bare_wall, bare_cpu) = np.moveaxis(np.array(own), -1, 0), np.moveaxis(np.array(bare), -1, 0)
    return {
        "recipe": recipe,
        "batch_size": trainer.settings.batch_size,
        "bf16": trainer.bf16,
        "samples_per_second": trainer.settings.batch_size / float(wall.mean()),
        "bare_samples_per_second": trainer.settings.batch_size / float(bare_wall.mean()),
        "ratio": paired_ratio(bare_wall, wall).to_dict(),
        "cpu_ratio": paired_ratio(bare_cpu, cpu).to_dict(),
        "seconds": wall.tolist(),
        "bare_seconds": bare_wall.tolist(),
        "largest_loss_difference": apart,
    }


def _check_losses(recipe: str, own: Sequence[float], other: Sequence[float]) -> float:
    apart = max(abs(a - b) / abs(b) for a, b in zip(own, other, strict=True))
    if apart > 1e-3:
        raise RuntimeError(f"{recipe}: the sides learned differently ({list(own)} and {list(other)})")
    return apart


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison, prints it and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--recipes", default=",".join(RECIPES), help="which of sft, vilex_pretrain")
    parser.add_argument("--runs", type=int, default=6, help="timed runs, each from the same weights")
    parser.add_argument("--steps", type=int, default=40, help="steps of a run, the first of which is not timed")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--smoke", action="store_true", help="tiny models: does it work here?")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    given = parser.parse_args(arguments)
    logging.getLogger("vislex").setLevel(logging.WARNING)
    options = {"runs": given.runs, "steps": given.steps, "smoke": given.smoke, "precision": given.precision}
    rows = [compare(recipe, **options) for recipe in given.recipes.split(",")]
    settings = {**options, "threads": torch.get_num_threads(), "cores": os.cpu_count()}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    provenance = collect(config=settings, seed=0, device=device)
    result = {"benchmark": "training_throughput", "provenance": provenance, "rows": rows}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    console = Console(highlight=False)
    if given.json:
        console.print_json(data=result)
        return
    for row in rows:
        ratio = row["ratio"]
        interval = f"[{ratio['low']:.3f}, {ratio['high']:.3f}]"
        console.print(
            f"{row['recipe']}: {row['samples_per_second']:.1f} samples/s, bare loop "
            f"{row['bare_samples_per_second']:.1f}, ratio {ratio['ratio']:.3f} {interval}"
        )


if __name__ == "__main__":
    main()
