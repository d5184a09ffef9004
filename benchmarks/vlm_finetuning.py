"""Is LoRA as good as full finetuning of a vision-language model, for a twentieth of the parameters?

Both arms start from one model whose connector was aligned, and train it by ``sft`` on the same data for as many steps;
the connector is trained in full in both, the language model in full or through adapters. Each tries the same learning
rates for the language model and takes the one that answers most of val. LoRA must train less than 5 % of the language
model's parameters (its embeddings count among them, the connector does not): more is refused before the training.

The claim: the lower end of the paired interval of the quotient of VQA accuracies on test_composition reaches 0.95; the
adapters' folder, opened anew, answers as the model in memory did; and folded into the weights and saved, as ``vislex
merge`` does, they give the same logits within 1e-5 (of the larger of 1 and the logit). How much of that is rounding is
told by the same difference computed in float64, which is reported, not judged.

    python -m vislex.benchmarks.vlm_finetuning                      two cores, about an hour and a half
    python -m vislex.benchmarks.vlm_finetuning --rank 4 --variant rslora --lrs 1e-3,3e-3,1e-2
    python -m vislex.benchmarks.vlm_finetuning --smoke              does it run here? a minute

The same command goes on where it was stopped.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel
from pydantic import Field
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor

from vislex.adapters.merging import merge_adapters
from vislex.adapters.vlm import VisionLanguageModel
from vislex.benchmarks.caption_models import read_json
from vislex.benchmarks.console_tables import print_rows
from vislex.benchmarks.noninferiority import LEAST_RATIO, quotient
from vislex.benchmarks.options import parse_options
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.trained_rows import best_of_each_seed
from vislex.benchmarks.verdicts import all_of
from vislex.benchmarks.vlm_experiment import SMOKE, Row, VlmArm, VlmExperiment
from vislex.benchmarks.vlm_measures import VQA, Measures, by_group, paired, scores_of
from vislex.benchmarks.vlm_plots import plot_groups
from vislex.data import load_suite, openmoji
from vislex.errors import ConfigError
from vislex.provenance import collect
from vislex.recipes import sft
from vislex.training.parts import prepare_parts
from vislex.training.recipe import Recipe

__all__ = [
    "MOST_TRAINED",
    "VlmFinetuning",
    "VlmFinetuningConfig",
    "adapter_share",
    "conclude",
    "main",
    "merge_error",
    "parts_of_claim",
]

RESULTS = Path(__file__).parent / "results" / "vlm_finetuning.json"
FULL, LORA = "full finetuning", "LoRA"
MOST_TRAINED = 0.05  # of the language model's parameters, fixed before the runs
MERGE_TOLERANCE = 1e-5
N_REMEMBERED = 64  # questions of val that the model in memory answers
N_LOGITS = 8  # of them whose logits are kept
SMOKE_SIZES = SMOKE | {"lrs": "[1.0e-2]", "rank": 1, "out": "runs/smoke/vlm_finetuning.json"}


class VlmFinetuningConfig(VlmExperiment):
    """Options of ``vlm_finetuning``."""

    encoder: str = Field("efficientnet-lite0", description="frozen encoder of both arms")
    connector: str = Field("mlp", description="connector of both arms, trained in full")
    lrs: list[float] = Field(
        [1e-3, 3e-3], min_length=1, description="learning rates of the language model, tried by both arms"
    )
    rank: int = Field(6, ge=1, description="of the adapters, on every linear layer of the language model but its head")
    variant: Literal["lora", "dora", "rslora", "pissa"] = Field("lora", description="kind of the adapters")
    out: Path = Field(RESULTS, description="result file; the plot stands beside it")

    def arms(self) -> list[VlmArm]:
        """Full finetuning and LoRA."""
        lora = {"parts.llm.mode": "lora", "parts.llm.lora_rank": self.rank, "parts.llm.lora_variant": self.variant}
        return [
            VlmArm(FULL, self.encoder, self.connector),
            VlmArm(LORA, self.encoder, self.connector, tuning={**lora, "adapters": "keep"}),
        ]


class VlmFinetuning:
    """Both models and their measurements, each made once.

    Args:
        config: Options.
        file: Receives the rows.
        log: Called with a line for each finished thing.
    """

    def __init__(self, config: VlmFinetuningConfig, file: RowFile, log: Callable[[str], None]) -> None:
        self.config, self.file, self.log = config, file, log
        self.measures = Measures(config, file)

    def run(self) -> list[Row]:
        """Makes what is missing; gives all rows: kinds "training", "measured" and "adapters".

        Raises:
            ConfigError: If the adapters have too many parameters.
        """
        full, lora = self.config.arms()
        self.log(check_share(self.config, lora))
        rows = []
        for arm, recipe in ((full, sft.RECIPE), (lora, REMEMBERED)):
            trained = self.config.trainings(self.file, arm, self.log, recipe)
            for row in best_of_each_seed(trained):
                rows.append(self.measures.answered(row))
                self.log(f"{arm.name}, seed {row['seed']}: {rows[-1]['scores'][VQA]:.1%} answered")
                if arm is lora:
                    rows.append(self._adapters(row))
            rows += trained
        return rows

    def _adapters(self, trained: Row) -> Row:
        """What became of the adapters on the way through their folder, and through ``vislex merge``."""
        folder = Path(trained["folder"])
        where = {"kind": "adapters", "arm": trained["arm"], "seed": trained["seed"], "training": trained["key"]}
        where |= {"questions": N_REMEMBERED, "tolerance": MERGE_TOLERANCE, "beside": "float64"}

        def make() -> Row:
            base = VisionLanguageModel.from_pretrained(
                read_json(folder / "adapter_config.json")["base_model_name_or_path"]
            )
            opened: Any = PeftModel.from_pretrained(base, str(folder)).eval()
            answers, logits = remember(opened.get_base_model())
            known = read_json(folder / "in_memory.json")["answers"]
            before = load_file(folder / "in_memory.safetensors")["logits"]
            target = folder / "merged"
            merge_adapters(folder).save_pretrained(target)  # as 'vislex merge' does
            folded = VisionLanguageModel.from_pretrained(target).eval()
            merged_answers, merged = remember(folded)
            return {
                "share": adapter_share(trained["parts"]),
                "reload": {"equal": _equal(answers, known), "logits": float((logits - before).abs().max())},
                "merge": {
                    "equal": _equal(merged_answers, known),
                    "logits": float((merged - logits).abs().max()),
                    "error": merge_error(merged, logits),
                    "float64 error": merge_error(
                        logits_of(folded.double()), logits_of(opened.double().get_base_model())
                    ),
                },
            }

        row = self.file.row(where, make)
        assert row is not None
        self.log(
            f"adapters, seed {row['seed']}: opened anew {row['reload']['equal']} of {N_REMEMBERED} answers are equal "
            f"(logits differ by {row['reload']['logits']:.1e}); merged {row['merge']['equal']}, error "
            f"{row['merge']['error']:.1e} (in float64 {row['merge']['float64 error']:.1e})"
        )
        return row


def check_share(config: VlmFinetuningConfig, arm: VlmArm) -> str:
    """What share of the language model the adapters are, counted before any of them is trained.

    Raises:
        ConfigError: If it is too large.
    """
    model = VisionLanguageModel.from_pretrained(config.aligned(arm, config.seeds[0]))
    parts = config.sft_config(arm, None, config.seeds[0], config.lrs[0]).parts
    named = {name: getattr(parts, name) for name in ("encoder", "connector", "llm")}
    rows = [asdict(row) for row in prepare_parts(model, named, lr=1.0, weight_decay=0.0).rows]
    share, counts = adapter_share(rows), next(row for row in rows if row["part"] == "llm")
    told = (
        f"rank {config.rank} trains {counts['trainable']:,} parameters beside the language model's "
        f"{counts['parameters'] - counts['trainable']:,}, {share:.2%}"
    )
    if share >= MOST_TRAINED:
        raise ConfigError(f"{told}; allowed is less than {MOST_TRAINED:.0%}: give a lower --rank")
    return told


def adapter_share(parts: Sequence[Mapping[str, Any]]) -> float:
    """Trained parameters of the language model's adapters in those of the language model without them.

    Args:
        parts: Rows of ``PartsPlan``: "part", "parameters", "trainable".
    """
    row = next(row for row in parts if row["part"] == "llm")
    return float(row["trainable"] / (row["parameters"] - row["trainable"]))


def remember(model: VisionLanguageModel) -> tuple[list[str], Tensor]:
    """Answers to questions of val, and ``logits_of`` the first of them in float32."""
    rows = _questions()
    answers = model.ask(rows["image"], rows["question"], batch_size=32, max_new_tokens=16)
    return [answer.text for answer in answers], logits_of(model).float()


@torch.no_grad()
def logits_of(model: VisionLanguageModel) -> Tensor:
    """Logits float[T, V] at every token of the first questions' prompts, in the number format of the model."""
    rows = _questions()
    assert model.processor is not None
    prompts = [model.processor.prompt(question) for question in rows["question"][:N_LOGITS]]
    inputs = model.processor(rows["image"][:N_LOGITS], prompts, add_special_tokens=False)
    training = model.training
    logits: Tensor = model.eval()(**inputs.to(model.device, model.dtype)).logits.cpu()
    model.train(training)
    return logits[inputs["attention_mask"].bool().cpu()]


@functools.cache
def _questions() -> Any:
    return load_suite("openmoji", "vqa", split="val", size=N_REMEMBERED, vocabulary="core")[:]


def merge_error(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two tensors, in the larger of 1 and the expected value."""
    return float(((found - expected).abs() / expected.abs().clamp(min=1)).max())


def _equal(found: Sequence[str], expected: Sequence[str]) -> int:
    return sum(a == b for a, b in zip(found, expected, strict=True))


def _run(config: sft.SftConfig) -> Path:
    """Recipe ``sft``, which leaves beside the adapters what the model in memory said."""
    made = sft.finetune(config)
    answers, logits = remember(made.model)
    save_file({"logits": logits.contiguous()}, made.output / "in_memory.safetensors")
    (made.output / "in_memory.json").write_text(json.dumps({"answers": answers}) + "\n", encoding="utf-8")
    return sft.save(config, made)


REMEMBERED = Recipe(sft.SftConfig, _run, sft.sketch)


def parts_of_claim(rows: Sequence[Row]) -> list[Row]:
    """Every part of the claim with its figure and verdict, seeds together: the worst of all for what must be exact.

    Args:
        rows: Of ``VlmFinetuning.run``.
    """
    found: list[Row] = []
    if (sides := paired(scores_of(rows, LORA, VQA), scores_of(rows, FULL, VQA))) is not None:
        scores = [float(side.mean()) for side in sides]
        found.append({"about": "quotient", VQA: scores, "least": LEAST_RATIO, **quotient(*sides)})
    if adapters := [row for row in rows if row["kind"] == "adapters"]:
        share = max(row["share"] for row in adapters)
        equal = min(row["reload"]["equal"] for row in adapters)
        error = max(row["merge"]["error"] for row in adapters)
        for about, value, asked, bound, holds in (
            ("share of the language model", share, "below", MOST_TRAINED, share < MOST_TRAINED),
            ("answers equal after reloading", equal / N_REMEMBERED, "all,", 1.0, equal == N_REMEMBERED),
            ("error of merging", error, "at most", MERGE_TOLERANCE, error <= MERGE_TOLERANCE),
        ):
            verdict = "holds" if holds else "does not hold"
            entry = {"about": about, "value": value, "asked": asked, "bound": bound}
            found.append({**entry, "seeds": len(adapters), "verdict": verdict})
    return found


def conclude(parts: Sequence[Row]) -> str:
    """The verdict on "LoRA is as good": every part must hold; "void" where there is no quotient to judge."""
    verdicts = [part["verdict"] for part in parts]
    return "void" if "void" in verdicts else all_of(verdicts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains and measures what is missing, and prints the table and the verdict."""
    config, as_json = parse_options(
        VlmFinetuningConfig, arguments, smoke=SMOKE_SIZES, description=str(__doc__).partition("    python")[0]
    )
    console = Console(highlight=False, soft_wrap=True, stderr=as_json, width=160)
    settings = config.model_dump(mode="json")
    facts = collect(config=settings, seed=config.seeds[0], device=config.device, suite=openmoji.provenance())
    file = RowFile(config.out, "vlm_finetuning", facts)
    finetuning = VlmFinetuning(config, file, console.print)
    rows = finetuning.run()
    parts = parts_of_claim(rows)
    found: dict[str, Any] = {
        "table": table(rows, finetuning.measures.types),
        "claim": parts,
        "verdict": conclude(parts),
    }
    file.conclude(**found)
    plot = plot_groups(found["table"], config.out.with_suffix(".png"))
    if as_json:
        Console(highlight=False, soft_wrap=True).print_json(json.dumps(found))
        return
    shown = [
        {name: 100 * v if isinstance(v, float) and name != "lr" else v for name, v in e.items()} for e in found["table"]
    ]
    print_rows(console, "LoRA against full finetuning (VQA, %)", [{**e, "lr": f"{e['lr']:g}"} for e in shown])
    for part in parts:
        if part["about"] == "quotient":
            interval = "no quotient" if part["ratio"] is None else "{ratio:.3f} [{low:.3f}, {high:.3f}]".format(**part)
            console.print(f"VQA of LoRA / of full finetuning: {interval}, at least {LEAST_RATIO}: {part['verdict']}")
        else:
            console.print(f"{part['about']}: {part['value']:.3g}: {part['verdict']}")
    console.print(f"LoRA is as good as full finetuning: {found['verdict']}")
    console.print(f"plot: {plot}")


def table(rows: Sequence[Row], types: Sequence[str]) -> list[Row]:
    """One entry for each arm: what it trained, and the accuracy by what is asked about, mean over seeds."""
    entries = []
    for arm in (FULL, LORA):
        chosen = best_of_each_seed(row for row in rows if row["kind"] == "training" and row["arm"] == arm)
        trained = {part["part"]: part["trainable"] for part in chosen[0]["parts"]}
        entry: Row = {"arm": arm, "seeds": len(chosen), "lr": chosen[0]["lr"]}
        entry |= {f"trained in the {name}": trained[name] for name in ("connector", "llm")}
        answers = np.mean(list(scores_of(rows, arm, VQA).values()), axis=0)
        entries.append({**entry, VQA: float(answers.mean()), **by_group(answers, types)})
    return entries


if __name__ == "__main__":
    main()
