"""Recipe ``realign``: a host of transformers after a swap, and the same treatment for the host as it was."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel, set_seed

from vislex.adapters.host_turns import host_batch, host_inputs, host_prompts
from vislex.adapters.hosts import HostFamily, host_family, load_host, outline_host
from vislex.adapters.instructions import CAPTION_PROMPT, Example, caption_examples
from vislex.adapters.swap_report import SWAP_FILE, SwapReport
from vislex.config import Config
from vislex.errors import VislexError
from vislex.hub import model_card
from vislex.recipes.vlm_data import Source, SourceSettings, load_source
from vislex.training.captions import generator
from vislex.training.draws import Draws
from vislex.training.parts import PartSettings
from vislex.training.recipe import Recipe
from vislex.training.records import command_line, finish_run, start_run
from vislex.training.settings import TrainingSettings, total_draws
from vislex.training.sketch import Sketch
from vislex.training.trainer import PartTrainer

__all__ = ["RECIPE", "HostParts", "RealignConfig", "run"]

CONTROL = "control"
SAMPLES = 64  # rows of each source that lengths are measured on
UNSEEN = (640, 480)  # width and height of images that are not here: photographs of COCO


class HostParts(Config):
    """How the parts are trained."""

    encoder: PartSettings = PartSettings(mode="frozen")
    connector: PartSettings = PartSettings()
    llm: PartSettings = PartSettings(mode="frozen")


class RealignConfig(TrainingSettings):
    """Configuration of ``realign``.

    Attributes:
        model: Folder or hub id of the host, as ``vislex swap`` left it.
        control: Folder or hub id of the host without the swap: it gets the same training, into ``control`` of the
            output folder. None leaves it out.
        parts: frozen | lora | full for each part, with a learning rate each; adapters are merged.
        mixture: What is trained on: the tasks "caption", "vqa" and "chat".
        train_split, val_split: Splits of the sources.
        train_size: Rows of each source that names no size of its own.
        val_size: Rows of each source that are validated on.
        max_length: Longest answer in tokens.
        save_dtype: Number format of the saved weights.
    """

    budget_table: ClassVar[str] = "realign"

    model: str
    control: str | None = None
    parts: HostParts = HostParts()
    mixture: list[SourceSettings] = Field(
        default_factory=lambda: [SourceSettings(), SourceSettings(task="vqa")], min_length=1
    )
    train_split: str = "train"
    val_split: str = "val"
    train_size: int | None = Field(10000, ge=1)
    val_size: int = Field(200, ge=1)
    max_length: int = Field(128, ge=1)
    save_dtype: Literal["float32", "bfloat16"] = "float32"


def run(config: RealignConfig) -> Path:
    """Trains a host, and its control.

    Returns:
        The output folder: the host, which ``AutoModelForImageTextToText`` opens.
    """
    output = start_run("realign", config)
    model, processor = load_host(config.model, torch.float32)
    family = host_family(model.config)
    set_seed(config.seed)
    train = [load_source(own, config.train_split, config.train_size) for own in config.mixture]
    sized = [own.model_copy(update={"size": config.val_size}) for own in config.mixture]
    val = [load_source(own, config.val_split, config.val_size) for own in sized]
    data = _HostData(family, processor, train, seed=config.seed, max_length=config.max_length)
    held_out = _HostData(family, processor, val, seed=config.seed, max_length=config.max_length)
    questions = [own.task == "vqa" for own in config.mixture]
    trainer = PartTrainer(
        model,
        config,
        parts=_parts(config, family),
        draws=Draws(len(data), total_draws(config), seed=config.seed, fetch=data.fetch),
        output_dir=output,
        validate=_Validation(held_out, questions),
        title=f"realign {config.model}",
    )
    figures = trainer.fit()
    if trainer.is_world_process_zero():
        _save(config, model, processor, figures, output)
        finish_run("realign", config, output, figures, trainer, suite=train[0].provenance)
    if config.control is not None:
        run(config.model_copy(update={"model": config.control, "control": None, "output_dir": output / CONTROL}))
    return output


def _parts(config: RealignConfig, family: HostFamily) -> dict[str, PartSettings]:
    return family.training_parts({part: getattr(config.parts, part) for part in family.parts})


class _HostData:
    """Examples of several sources as a host's batches."""

    def __init__(
        self, family: HostFamily, processor: Any, sources: Sequence[Source], *, seed: int, max_length: int
    ) -> None:
        self.family, self.processor, self.seed, self.max_length = family, processor, seed, max_length
        self.sources = sources
        self.groups = [(number, own) for number, source in enumerate(sources) for own in source.groups]

    def __len__(self) -> int:
        return len(self.groups)

    def fetch(self, rows: np.ndarray, positions: np.ndarray) -> dict[str, Any]:
        """One example of each row int64[B], drawn for its position int64[B]."""
        chosen = []
        for row, position in zip(rows, positions, strict=True):
            number, group = self.groups[row]
            chosen.append((number, group[int(generator(self.seed, int(position)).integers(len(group)))]))
        return self.batch(chosen)

    def batch(self, chosen: Sequence[tuple[int, Example]]) -> dict[str, Any]:
        """Inputs for examples with the numbers of their sources."""
        examples = [example for _, example in chosen]
        return host_batch(self.family, self.processor, examples, self.images(chosen), max_length=self.max_length)

    def images(self, chosen: Sequence[tuple[int, Example]]) -> list[list[Any]]:
        """The images of each example."""
        return [[self.sources[number].images[i]["image"] for i in example.images] for number, example in chosen]


class _Validation:
    """Loss on held-out examples, and questions answered in the words of the reference."""

    def __init__(self, data: _HostData, is_question: Sequence[bool]) -> None:
        self.data = data
        self.examples = [(number, own[0]) for number, own in data.groups]
        self.questions = [(number, own) for number, own in self.examples if is_question[number]]

    def __call__(self, model: nn.Module, *, batch_size: int = 32) -> dict[str, float]:
        assert isinstance(model, PreTrainedModel)
        losses, weights = [], []
        for begin in range(0, len(self.examples), batch_size):
            batch = self.data.batch(self.examples[begin : begin + batch_size])
            weights.append(int((batch["labels"] != -100).sum()))
            losses.append(float(model(**{name: value.to(model.device) for name, value in batch.items()}).loss))
        figures = {"loss": float(np.average(losses, weights=weights))}
        if self.questions:
            right: list[bool] = []
            for begin in range(0, len(self.questions), batch_size):
                right += self._answered(model, self.questions[begin : begin + batch_size])
            figures["vqa_exact"] = float(np.mean(right))
        return figures

    def _answered(self, model: Any, chosen: Sequence[tuple[int, Example]]) -> list[bool]:
        examples, processor = [example for _, example in chosen], self.data.processor
        prompts = [prompt for prompt, _ in host_prompts(processor, examples)]
        inputs = host_inputs(processor, prompts, self.data.images(chosen)).to(model.device)
        inputs.pop("labels", None)
        written = model.generate(**inputs, max_new_tokens=12, do_sample=False)[:, inputs["input_ids"].shape[1] :]
        texts = processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [
            text.strip().lower() == own.turns[-1].content.strip().lower()
            for text, own in zip(texts, examples, strict=True)
        ]


def _save(
    config: RealignConfig, model: PreTrainedModel, processor: Any, figures: dict[str, float], output: Path
) -> None:
    """Leaves model, processor, the report of the swap, and a card."""
    model.eval().to(getattr(torch, config.save_dtype)).save_pretrained(output)
    processor.save_pretrained(output)
    is_swapped = (Path(config.model) / SWAP_FILE).is_file()
    if is_swapped:
        SwapReport.load(config.model).save(output)
    modes = ", ".join(f"{part} {getattr(config.parts, part).mode}" for part in ("encoder", "connector", "llm"))
    shown = {"Host": f"`{config.model}`", "Trained": modes}
    shown |= {name: f"{value:.4g}" for name, value in figures.items() if math.isfinite(value)}
    usage = "import vislex.auto  # where the encoder is one of vislex\n" if is_swapped else ""
    usage += "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
    usage += 'model = AutoModelForImageTextToText.from_pretrained("THIS_FOLDER")\n'
    usage += 'processor = AutoProcessor.from_pretrained("THIS_FOLDER")'
    card = model_card("Realigned vision-language model", shown, usage, f"```\n{command_line('realign', config)}\n```")
    (output / "README.md").write_text(card, encoding="utf-8")


def sketch(config: RealignConfig) -> Iterator[Sketch]:
    """What ``run`` would train; see ``Recipe``. Config and processor of the host must be here."""
    with torch.device("cpu"):
        sources, told = _few(config)
    model, processor = outline_host(config.model, torch.float32)
    family = host_family(model.config)
    data = _HostData(family, processor, sources, seed=config.seed, max_length=config.max_length)
    examples = [(number, own) for number, group in data.groups for own in group]

    def alone(chosen: tuple[int, Example]) -> dict[str, Any]:
        with torch.device("cpu"):
            return data.batch([chosen])

    lengths = np.array([alone(own)["input_ids"].shape[1] for own in examples])
    order = lengths.argsort(kind="stable")

    def batch(samples: int, typical: bool) -> dict[str, Any]:
        # the others are padded to the longest of a batch, which stands at n / (n + 1) of all on average
        share = samples / (samples + 1) if typical else 1
        one = alone(examples[order[round(share * (len(order) - 1))]])
        # pixels too stay real in a plan: some hosts see by them which tiles are padding
        device = torch.device("cpu") if torch.get_default_device().type == "meta" else torch.get_default_device()
        return {name: own.repeat(samples, *[1] * (own.ndim - 1)).to(device) for name, own in one.items()}

    yield Sketch(config, model, _parts(config, family), batch, notes=told)
    if config.control is not None:
        for own in sketch(config.model_copy(update={"model": config.control, "control": None})):
            yield replace(own, title=CONTROL)


def _few(config: RealignConfig) -> tuple[list[Source], list[str]]:
    """Some rows of each source; one made-up example where they are not here, and what is assumed by it."""
    sizes = [min(own.size or config.train_size or SAMPLES, SAMPLES) for own in config.mixture]
    few = [own.model_copy(update={"size": size}) for own, size in zip(config.mixture, sizes, strict=True)]
    try:
        return [load_source(own, config.train_split, None) for own in few], []
    except (VislexError, OSError) as error:
        width, height = UNSEEN
        example = caption_examples(["a " * config.max_length], 0, CAPTION_PROMPT)
        images = Dataset.from_dict({"image": [Image.new("RGB", UNSEEN)]})
        told = f"images of {width} x {height} pixels and answers of {config.max_length} tokens are taken"
        return [Source([example], images, {})], [f"the mixture is not read here ({error}): {told}"]


RECIPE = Recipe(RealignConfig, run, sketch)
