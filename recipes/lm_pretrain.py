"""Recipe ``lm_pretrain``: a small Llama-shaped language model on the text of a suite, from scratch.

It reads what a vision-language model will be asked to say: captions, and questions about a scene that is described in
words. Its tokenizer has the suite's word pieces, the tokens of a dialogue, and PaliGemma's <loc> and <seg> tokens.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

import vislex.data
from vislex.adapters.chat import chat_tokenizer, location_tokens
from vislex.adapters.instructions import CAPTION_PROMPT, Turn
from vislex.adapters.turns import TurnBank
from vislex.data import openmoji
from vislex.data.openmoji.captions import captions
from vislex.data.openmoji.draws import Draws as SuiteDraws
from vislex.data.openmoji.scenes import Scene
from vislex.recipes.source import column
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.draws import Draws
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import finish_run, model_card, start_run
from vislex.training.settings import TrainingSettings, total_draws
from vislex.training.sketch import Sketch
from vislex.training.trainer import PartTrainer, label_tokens

__all__ = ["RECIPE", "LmPretrainConfig", "build_model", "run", "sketch", "suite_dialogues"]


class LmPretrainConfig(TrainingSettings):
    """Configuration of ``lm_pretrain``.

    Attributes:
        vocabulary: Nouns of the suite.
        tokenizer: Whose word pieces are taken, those that occur in the text: "minilm", a folder or a hub id.
        location_tokens: Whether the vocabulary has <loc0000> ... <seg127>, for answers with boxes and masks.
        numbers: Whether the vocabulary has the numbers 0 to 1023, for masks as ``text_rle`` and ``polygon`` write them.
        num_kv_heads: Heads of keys and values, shared by groups of the others.
        pack_length: Tokens of a row, which several texts share without seeing each other.
        train_size: Scenes; each gives a short and a long caption, and a question on its description.
    """

    budget_table: ClassVar[str] = "lm_pretrain"

    vocabulary: Literal["core", "default", "large"] = "default"
    tokenizer: str = "minilm"
    location_tokens: bool = True
    numbers: bool = False
    hidden_size: int = Field(256, ge=8)
    num_layers: int = Field(6, ge=1)
    num_heads: int = Field(8, ge=1)
    num_kv_heads: int = Field(2, ge=1)
    intermediate_size: int = Field(480, ge=8)
    pack_length: int = Field(128, ge=16)
    train_size: int = Field(20000, ge=1)
    val_size: int = Field(500, ge=1)
    data_seed: int = Field(0, ge=0)


def run(config: LmPretrainConfig) -> Path:
    """Trains the model.

    Returns:
        The output folder: a ``LlamaForCausalLM`` in bf16 with tokenizer and card, ``training.jsonl``, ``run.json``.
    """
    output = start_run("lm_pretrain", config)
    set_seed(config.seed)
    train, val = (
        list(suite_dialogues(config, *part)) for part in (("train", config.train_size), ("val", config.val_size))
    )
    tokenizer = build_tokenizer(config, train)
    model = build_model(config, tokenizer)
    bank, held_out = (TurnBank(part, tokenizer, answers_only=False) for part in (train, val))
    answers = TurnBank(val, tokenizer)

    def fetch(rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        return {**bank.packed(rows, [[]] * len(rows), config.pack_length), "use_cache": False}

    trainer = PartTrainer(
        model,
        config,
        parts={"model": PartSettings()},
        draws=Draws(len(bank), total_draws(config), seed=config.seed, fetch=fetch),
        output_dir=output,
        validate=lambda model: {"loss": mean_loss(model, held_out), "answer_loss": mean_loss(model, answers)},
        title="lm_pretrain",
        items=label_tokens,
    )
    figures = trainer.fit()
    if trainer.is_world_process_zero():
        figures["eval_perplexity"] = math.exp(figures["eval_loss"])
        model.to(torch.bfloat16).save_pretrained(output)
        tokenizer.save_pretrained(output)
        card = model_card(
            "lm_pretrain",
            config,
            figures,
            tags=["llama", "text-generation"],
            summary=(
                f"A Llama-shaped language model of {sum(p.numel() for p in model.parameters()):,} parameters over "
                f"{len(tokenizer)} tokens, trained on captions and on questions about described scenes. `answer_loss` "
                "is the loss on answers alone."
            ),
        )
        (output / "README.md").write_text(card, encoding="utf-8")
        finish_run("lm_pretrain", config, output, figures, trainer, suite=openmoji.provenance())
    return output


def suite_dialogues(config: LmPretrainConfig, split: str, size: int) -> Iterator[list[Turn]]:
    """The suite's text as dialogues: short captions, long ones, and questions on a description.

    Args:
        config: Vocabulary and seed of the suite.
        split: Of the suite.
        size: Scenes of each kind.
    """
    shared = {"split": split, "size": size, "seed": config.data_seed, "vocabulary": config.vocabulary}
    for style, prompt in (("lossy", CAPTION_PROMPT), ("dense", "describe the image in detail.")):
        rows = vislex.data.load_suite("openmoji", "caption", style=style, **shared)
        for index, own in enumerate(column(rows, "captions")):
            yield [Turn("user", prompt), Turn("assistant", own[index % len(own)])]
    rows = vislex.data.load_suite("openmoji", "vqa", **shared).with_format(None)
    for index, (question, answer, factors) in enumerate(
        zip(rows["question"], rows["answer"], rows["factors"], strict=True)
    ):
        draws = SuiteDraws(config.data_seed, split, config.vocabulary, "described", index=index)
        described = captions(Scene.from_factors(json.loads(factors)), draws, "dense")[0]
        yield [Turn("user", f"{described} {question}"), Turn("assistant", answer)]


def build_tokenizer(config: LmPretrainConfig, dialogues: list[list[Turn]]) -> PreTrainedTokenizerFast:
    """The word pieces that occur in the text, and the tokens of a dialogue."""
    texts = [turn.content for turns in dialogues for turn in turns]
    own = [*map(str, range(1024)), ": ; /"] if config.numbers else []
    tokenizer, _ = prune_tokenizer(load_tokenizer(config.tokenizer), [*texts, "segment yes no.", *own])
    return chat_tokenizer(tokenizer, location_tokens() if config.location_tokens else ())


def build_model(config: LmPretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama with random weights whose input and output embeddings are one."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            intermediate_size=config.intermediate_size,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


@torch.no_grad()
def mean_loss(model: nn.Module, bank: TurnBank, *, batch_size: int = 64) -> float:
    """Mean loss a supervised token over a bank of texts."""
    device = next(model.parameters()).device
    total, count = 0.0, 0
    for begin in range(0, len(bank), batch_size):
        chosen = np.arange(begin, min(begin + batch_size, len(bank)))
        batch = {name: value.to(device) for name, value in bank.batch(chosen, [[]] * len(chosen)).items()}
        tokens = int((batch["labels"][:, 1:] != -100).sum())
        total += float(model(**batch, use_cache=False).loss) * tokens
        count += tokens
    return total / max(count, 1)


def sketch(config: LmPretrainConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``."""
    dialogues = list(suite_dialogues(config, "train", config.train_size))
    tokenizer = build_tokenizer(config, dialogues)
    bank = TurnBank(dialogues[:: max(1, len(dialogues) // 500)], tokenizer, answers_only=False)

    def batch(samples: int, typical: bool) -> dict[str, Any]:
        chosen = np.linspace(0, len(bank) - 1, samples).astype(int)  # captions and questions as they are mixed
        if not typical:
            chosen = np.full(samples, int(bank.lengths().argmax()))
        return {**bank.packed(chosen, [[]] * samples, config.pack_length), "use_cache": False}

    yield Sketch(config, build_model(config, tokenizer), {"model": PartSettings()}, batch)


RECIPE = Recipe(LmPretrainConfig, run, sketch)
