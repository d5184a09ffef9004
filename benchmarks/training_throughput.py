"""Throughput of the recipes ``sft`` and ``vilex_pretrain`` against a bare PyTorch loop over the same modules.

Both sides train the very same modules, from the same weights at every run, on the same batches in the same order and in
the same number format, and take the same optimizer steps, which their losses prove. The recipes' side is
``PartTrainer`` with its callbacks, its log and its meter; the other is a DataLoader, forward, backward, clipping, AdamW
and the schedule, and nothing else. Runs alternate in one process, so that whatever else the machine does falls on both;
the first step of a run is not timed:

    python -m vislex.benchmarks.training_throughput [--runs 14] [--steps 15] [--smoke] [--json] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
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

__all__ = ["bare_loop", "build", "compare", "main"]

RESULTS = Path(__file__).parent / "results" / "training_throughput.json"
RECIPES = ("sft", "vilex_pretrain")
SHARED = ["progress=false", "save_every=0", "resume=never", "log_every=10", "warmup_steps=2", "val_size=4"]
SIZES = {
    "full": ["batch_size=32", "train_size=512"],
    "smoke": ["batch_size=4", "train_size=8", "tiny=true", "pretrained=false"],
}
Run = Callable[[], tuple[float, float, list[float]]]


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
    """The recipe's trainer, whose model and data ``bare_loop`` takes too.

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


class _Clock(TrainerCallback):
    """Wall and CPU time of the steps after the first, and the losses that were logged."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.marks.append(_now())

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])


def _now() -> tuple[float, float]:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter(), time.process_time()


class _Start:
    """Where every run begins: the weights as they are now, an optimizer without state, its first learning rates."""

    def __init__(self, trainer: PartTrainer) -> None:
        self.rates = [group["lr"] for group in trainer.plan.groups]
        trained = [parameter for group in trainer.plan.groups for parameter in group["params"]]
        self.weights = [(parameter, parameter.detach().clone()) for parameter in trained]

    @torch.no_grad()
    def take(self, optimizer: torch.optim.Optimizer | None) -> None:
        for parameter, weight in self.weights:
            parameter.copy_(weight)
        if optimizer is not None:
            optimizer.state.clear()
            for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
                group["lr"] = group["initial_lr"] = rate


def recipe_loop(trainer: PartTrainer, begin: _Start) -> Run:
    """A run of the recipe's side: wall seconds, CPU seconds, losses."""
    clock = _Clock()
    trainer.add_callback(clock)

    def run() -> tuple[float, float, list[float]]:
        clock.marks.clear()
        clock.losses.clear()
        begin.take(trainer.optimizer)
        trainer.train()
        (start, start_cpu), (end, end_cpu) = clock.marks[0], clock.marks[-1]
        return end - start, end_cpu - start_cpu, list(clock.losses)

    return run


def bare_loop(trainer: PartTrainer, begin: _Start) -> Run:
    """A run of a plain loop over a trainer's model, data and parameter groups."""
    model, settings, args = trainer.model, trainer.settings, trainer.args
    groups = [{key: group[key] for key in ("params", "lr", "weight_decay")} for group in trainer.plan.groups]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, settings.beta2), fused=True)
    trained = [parameter for group in groups for parameter in group["params"]]
    device, frozen = args.device, dict[str, Tensor]()
    model.to(device)

    def call(batch: dict[str, Any]) -> Tensor:
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        loss: Tensor = (bf16_call(model, frozen=frozen, **moved) if trainer.bf16 else model(**moved)).loss
        return loss

    def run() -> tuple[float, float, list[float]]:
        begin.take(optimizer)
        scheduler = get_cosine_schedule_with_warmup(optimizer, args.warmup_steps, settings.steps)
        loader: DataLoader = DataLoader(
            trainer.train_dataset, batch_size=settings.batch_size, collate_fn=identity_collate
        )
        model.train()
        losses, logged = [], []
        start = _now()
        for step, batch in enumerate(loader, 1):
            with plain_attention(device):  # the trainer's kernel: loops are compared, not kernels
                loss = call(batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            if step % settings.log_every == 0:
                logged.append(float(torch.stack(losses).mean()))
                losses.clear()
            if step == 1:
                start = _now()
        end = _now()
        return end[0] - start[0], end[1] - start[1], logged

    return run


def compare(recipe: str, *, runs: int, steps: int, smoke: bool, precision: str = "auto") -> dict[str, Any]:
    """Times both sides in turn.

    Returns:
        A row: samples a second of both sides, ``ratio`` (above 1: the recipe is faster) with the bootstrap interval of
        the paired runs, the same of CPU time, and the largest relative difference of their losses.

    Raises:
        RuntimeError: If the sides did not learn the same, and nothing can be compared.
    """
    with tempfile.TemporaryDirectory() as folder:
        trainer = build(recipe, Path(folder), steps=steps, smoke=smoke, precision=precision)
        begin = _Start(trainer)
        sides = [recipe_loop(trainer, begin), bare_loop(trainer, begin)]
        warm = [side() for side in sides]
        _check_losses(recipe, warm[0][2], warm[1][2])
        wall: list[list[float]] = [[], []]
        cpu: list[list[float]] = [[], []]
        apart = 0.0
        for number in range(runs):
            told: list[list[float]] = [[], []]
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                seconds, cpu_seconds, told[which] = sides[which]()
                wall[which].append(seconds)
                cpu[which].append(cpu_seconds)
            apart = max(apart, _check_losses(recipe, *told))
    samples = (steps - 1) * trainer.settings.batch_size
    ratio, cpu_ratio = (paired_ratio(np.array(other), np.array(own)) for own, other in (wall, cpu))
    return {
        "recipe": recipe,
        "batch_size": trainer.settings.batch_size,
        "bf16": trainer.bf16,
        "samples_per_second": samples / float(np.mean(wall[0])),
        "bare_samples_per_second": samples / float(np.mean(wall[1])),
        "ratio": ratio.to_dict(),
        "cpu_ratio": cpu_ratio.to_dict(),
        "seconds": wall[0],
        "bare_seconds": wall[1],
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
    parser.add_argument("--runs", type=int, default=14, help="timed runs of each side")
    parser.add_argument("--steps", type=int, default=15, help="steps of a run, the first of which is not timed")
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
