"""Throughput of ``VisionLanguageModel`` against transformers' ``LlavaForConditionalGeneration``, with the same parts.

Both sides are wrapped around the very same modules, one SigLIP tower, one two-layer projector, one Llama, drawn at
random, so that not even the place of a weight in memory differs. They answer the same prompts with exactly as many new
tokens, and take training steps (forward, backward, AdamW) on the same batch.
Calls alternate, so that whatever else the machine does falls on both:

    python -m vislex.benchmarks.vlm_throughput [--runs 5] [--batch-sizes 1,8] [--new-tokens 32] [--json] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, LlavaConfig, LlavaForConditionalGeneration, SiglipVisionConfig

from vislex.adapters.chat import chat_tokenizer
from vislex.adapters.vlm import VisionLanguageModel
from vislex.benchmarks.interleaved import interleave
from vislex.encoders.hf import HFEncoder
from vislex.metrics.statistics import paired_ratio
from vislex.provenance import collect
from vislex.text import load_tokenizer

__all__ = ["SIZES", "build_pair", "compare", "main"]

RESULTS = Path(__file__).parent / "results" / "vlm_throughput.json"
SIZES = {
    "vision": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536},
    "image": {"image_size": 96, "patch_size": 12},
    "text": {"hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "intermediate_size": 1408},
}


def build_pair(sizes: dict[str, dict[str, int]] = SIZES) -> tuple[VisionLanguageModel, LlavaForConditionalGeneration]:
    """Both models, in eval mode, around the very same modules: tower, projector and language model, drawn at random."""
    torch.manual_seed(0)
    tokenizer = chat_tokenizer(load_tokenizer())
    vision = SiglipVisionConfig(**sizes["vision"], **sizes["image"])
    text = LlamaConfig(
        vocab_size=len(tokenizer), **sizes["text"], pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True
    )
    encoder = HFEncoder.from_backbone_config(vision, mean=(0.5,) * 3, std=(0.5,) * 3, layer=-1)
    ours = VisionLanguageModel.from_parts(
        encoder=encoder, connector="mlp", norm=False, llm=LlamaForCausalLM(text), tokenizer=tokenizer
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=ours.config.image_token_id,
        image_token_id=ours.config.image_token_id,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
        tie_word_embeddings=True,
    )
    theirs = LlavaForConditionalGeneration(config)
    theirs.model.vision_tower, theirs.model.language_model = encoder.backbone, ours.llm.model
    theirs.lm_head = ours.llm.lm_head
    projector = theirs.model.multi_modal_projector
    projector.linear_1, projector.linear_2 = ours.connector.mlp[0].linear, ours.connector.mlp[2]
    return ours.eval(), theirs.eval()


def inputs_of(model: VisionLanguageModel, batch_size: int) -> dict[str, Tensor]:
    """Prompts of one image and one question; the last eight tokens are what a training step learns."""
    height, width = model.encoder.spec.image_size
    text = model.processor.prompt("what is left of the red dog? how many kites are in the sky?", 1)
    pixels = torch.randn(batch_size, 3, height, width, generator=torch.Generator().manual_seed(0))
    expanded = text.replace("<image>", "<image>" * model.encoder.spec.n_tokens)
    encoded = model.processor.tokenizer([expanded] * batch_size, add_special_tokens=False, return_tensors="pt")
    return {
        "input_ids": encoded["input_ids"],
        "attention_mask": encoded["attention_mask"],
        "pixel_values": pixels.to(model.dtype),
    }


def compare(
    ours: VisionLanguageModel,
    theirs: LlavaForConditionalGeneration,
    *,
    batch_sizes: Sequence[int] = (1, 8),
    runs: int = 5,
    new_tokens: int = 32,
) -> list[dict[str, Any]]:
    """Times both sides in turn.

    Args:
        ours: Our side.
        theirs: The other, of the same dtype.
        batch_sizes: Prompts a call.
        runs: Timed calls of each side; one more is not timed.
        new_tokens: Tokens that each answer gets, no more and no fewer.

    Returns:
        One row a batch size and scope ("generation", "training step"): median seconds of both sides, the quotient of
        the medians (above 1: vislex is faster), the quotients of the single pairs, the quotient of the sums with its
        bootstrap interval over pairs, and the quotient of the CPU times' medians.
    """
    rows = []
    for batch_size in batch_sizes:
        inputs = inputs_of(ours, batch_size)
        options = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "do_sample": False}
        labels = inputs["input_ids"].clone()
        labels[:, :-8] = -100
        scopes: dict[str, list[Callable[[], Any]]] = {
            "generation": [partial(_generate, model, inputs, options) for model in (ours, theirs)],
            "training step": [_step(model, {**inputs, "labels": labels}) for model in (ours, theirs)],
        }
        for scope, sides in scopes.items():
            for side in sides:
                side()
            (own, own_cpu), (other, other_cpu) = interleave(sides, runs)
            rows.append(
                {
                    "batch size": batch_size,
                    "scope": scope,
                    "vislex seconds": statistics.median(own),
                    "LLaVA seconds": statistics.median(other),
                    "ratio": statistics.median(other) / statistics.median(own),
                    "ratios": [b / a for a, b in zip(own, other, strict=True)],
                    "interval": paired_ratio(np.array(other), np.array(own)).to_dict(),
                    "CPU time ratio": statistics.median(other_cpu) / statistics.median(own_cpu),
                }
            )
    return rows


def _generate(model: Any, inputs: dict[str, Tensor], options: dict[str, Any]) -> None:
    expected = inputs["input_ids"].shape[1] + options["max_new_tokens"]
    with torch.no_grad():
        found = model.generate(**inputs, **options).shape[1]
    if found != expected:
        raise RuntimeError(f"{type(model).__name__} gave {found} tokens instead of {expected}: nothing can be compared")


def _step(model: nn.Module, inputs: dict[str, Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        model.train()
        optimizer.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
        model.eval()

    return step


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison, prints it and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="timed calls of each side")
    parser.add_argument("--batch-sizes", default="1,8", help="prompts a call")
    parser.add_argument("--new-tokens", type=int, default=32, help="tokens of each answer")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file")
    given = parser.parse_args(arguments)
    ours, theirs = (model.to(getattr(torch, given.dtype)) for model in build_pair())
    sizes = [int(size) for size in given.batch_sizes.split(",")]
    rows = compare(ours, theirs, batch_sizes=sizes, runs=given.runs, new_tokens=given.new_tokens)
    parameters = {
        name: sum(parameter.numel() for parameter in model.parameters())
        for name, model in (("vislex", ours), ("LLaVA", theirs))
    }
    settings = {"runs": given.runs, "new_tokens": given.new_tokens, "decoding": "greedy", "weights": "random", **SIZES}
    provenance = collect(config=settings, seed=0, device="cpu", dtype=given.dtype, parameters=parameters)
    result = {"benchmark": "vlm_throughput", "provenance": provenance, "rows": rows}
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console = Console(highlight=False)
    if given.json:
        console.print_json(data=result)
        return
    for row in rows:
        console.print(
            f"batch {row['batch size']:>2}, {row['scope']}: vislex {row['vislex seconds']:.3f} s, "
            f"LLaVA {row['LLaVA seconds']:.3f} s, ratio {row['ratio']:.2f}; of all runs "
            "{ratio:.3f} [{low:.3f}, {high:.3f}]".format(**row["interval"])
        )


if __name__ == "__main__":
    main()
