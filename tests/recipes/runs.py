"""Small runs of every recipe, which several tests and the processes that they start share.

``python tests/recipes/runs.py [NAME ...]`` writes the losses of all runs, or of these, into tests/golden/losses.json
anew, after a change that is meant to change them.
"""

from __future__ import annotations

import importlib.util
import io
import json
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipImageProcessor,
)

import vislex
from vislex.adapters.chat import IMAGE_TOKEN, add_image_token, chat_tokenizer, multimodal_template
from vislex.adapters.hosts import load_host
from vislex.captioner import Captioner
from vislex.config import load_config
from vislex.decoders.ladic.codec import LatentCodec
from vislex.encoders.factory import create_encoder
from vislex.registry import registry
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.recipe import Recipe

SHARED = [
    "budget=smoke", "progress=false", "precision=fp32", "device=cpu", "batch_size=4", "val_size=4", "log_every=1",
    "warmup_steps=1", "steps=5", "eval_every=5", "save_every=3",
]  # fmt: skip
CAPTION = ["train_size=10", "encoder=siglip-tiny", "tiny=true", "pretrained=false"]  # 20 samples of 10: mid-epoch
SMALL_DECODER = "decoder_options={hidden_size: 32, num_layers: 1, num_heads: 2, dropout: 0.1}"
TOWER = "{hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}"
STREAM = ["stream=true", "data=shards:<shards>", "stream_window=1"]
VILEX = [
    "t2i=<t2i>", "train_size=10", "n_tokens=4", "render_workers=0", "tiny=true", "pretrained=false", "depth=1",
    "data_options={vocabulary: core, image_size: 16, style: dense}",
]  # fmt: skip

# <name> is the folder that ``make_start`` fills for it.
RUNS: dict[str, tuple[str, list[str]]] = {
    "caption": ("caption", [*CAPTION, SMALL_DECODER, "ema_decay=0.9"]),
    "caption, live": ("caption", [*CAPTION, SMALL_DECODER, "cache_features=false", "parts.encoder.mode=lora"]),
    "caption, accumulated": ("caption", [*CAPTION, SMALL_DECODER, "gradient_accumulation=2"]),
    "caption, bf16": ("caption", [*CAPTION, SMALL_DECODER, "precision=bf16"]),
    "caption, masked": ("caption", [*CAPTION, SMALL_DECODER, "decoder=masked"]),
    "caption, ladic": (
        "caption",
        [
            *CAPTION, "decoder=ladic", "tokenizer=<codec>", "ema_decay=0.9", "data_options={vocabulary: core}",
            "decoder_options={codec: <codec>, hidden_size: 16, num_layers: 1, num_heads: 2, dropout: 0.1}",
            "parts.others={decoder.codec: {mode: frozen}}", "validation_options={num_inference_steps: 2}",
        ],
    ),
    "caption, streamed": ("caption", [*CAPTION, *STREAM, SMALL_DECODER, "prune_vocabulary=false"]),
    "ladic_codec": ("ladic_codec", ["text_model=<text>", "train_size=10", "data_options={vocabulary: core}"]),
    "ladic_few_step": (
        "ladic_few_step",
        ["model=<ladic>", "train_size=10", "segments=2", "segment_steps=2", "data_options={vocabulary: core}"],
    ),
    "siglip_pretrain": (
        "siglip_pretrain",
        [
            "train_size=10", "text_length=12", "image_size=24", "render_workers=0", "render_sizes=[24]",
            f"vision={TOWER}", f"text={TOWER}",
        ],
    ),
    "siglip_pretrain, streamed": (
        "siglip_pretrain", [*STREAM, "text_length=12", "image_size=24", f"vision={TOWER}", f"text={TOWER}"],
    ),
    "mask_tokenizer": (
        "mask_tokenizer",
        [
            "train_size=24", "batch_size=8", "codebook.warmup=0.4", "codebook.restart_every=1",
            "model={channels: [4, 8, 8, 16], num_residual_blocks: 1, code_dim: 16, num_codes: 32}",
        ],
    ),
    "reader": (
        "reader",
        [
            "train_size=24", "image_size=24", "render_workers=0",
            "network={stem_channels: [8, 8], hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}",
        ],
    ),
    "lm_pretrain": (
        "lm_pretrain",
        [
            "train_size=40", "pack_length=96", "hidden_size=32", "num_layers=1", "num_heads=2", "num_kv_heads=1",
            "intermediate_size=64",
        ],
    ),
    "align": ("align", ["llm=hf:<lm>", "tiny=true", "pretrained=false"]),
    "realign": ("realign", ["model=<swapped>", "control=<host>", "train_size=10", "parts.llm.mode=lora"]),
    "sft": ("sft", ["llm=hf:<lm>", "tiny=true", "pretrained=false", "parts.llm.mode=lora"]),
    "sft, masks": (
        "sft",
        [
            "llm=hf:<lm>", "tiny=true", "pretrained=false", "train_size=10", "mixture=[{task: segmentation}]",
            "codec=seg_head", "codec_options={hidden_size: 16}",
        ],
    ),
    "t2i_pretrain": (
        "t2i_pretrain",
        [
            "train_size=10", "image_size=24", "render_workers=0", "text_length=40", "reader=null",
            "denoiser={num_layers: 1, num_attention_heads: 2, attention_head_dim: 8, patch_size: 6}",
            "text={d_model: 16, num_layers: 1, num_heads: 2, d_kv: 8, d_ff: 32}",
        ],
    ),
    "vilex_pretrain": ("vilex_pretrain", [*VILEX, "stages=frozen"]),
    "vilex_pretrain, streamed": (
        "vilex_pretrain",
        [
            *STREAM, "t2i=<t2i>", "n_tokens=4", "tiny=true", "pretrained=false", "depth=1", "cache=false",
            "stages=end_to_end", "use_captions=true",
        ],
    ),
    "dediffusion_pretrain": ("dediffusion_pretrain", [*VILEX, "stages=frozen", "temperature=[4.0, 0.5]"]),
}  # fmt: skip


STARTS = ("t2i", "lm", "text", "codec", "ladic", "shards", "swapped", "host")


def load_beside(name: str) -> ModuleType:
    """A module of the tests by its path from tests/."""
    path = Path(__file__).parents[1] / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prepared(name: str, folder: Path, *overrides: str, starts: Path | None = None) -> tuple[Recipe, Any]:
    """The recipe of a run and its configuration.

    What it starts from is made in ``starts``, beside ``folder`` by default, if it is not there.
    """
    recipe, own = RUNS[name]
    for start in STARTS:
        if any(f"<{start}>" in text for text in own):
            own = [text.replace(f"<{start}>", str(make_start(start, starts or folder.parent))) for text in own]
    loaded = registry("recipes").get(recipe).load()
    return loaded, load_config(loaded.config, None, [*SHARED, *own, f"output_dir={folder}", *overrides])


def make_start(name: str, parent: Path) -> Path:
    """The folder that a run starts from."""
    folder = parent / f"from-{name}"
    if folder.exists():
        return folder
    torch.manual_seed(0)
    if name == "t2i":
        load_beside("tiny_t2i.py").build("pixart-pixels").save_pretrained(folder)
    elif name == "lm":
        _language_model(folder)
    elif name == "shards":
        _shards(folder)
    elif name == "host":
        _host(folder)
    elif name == "swapped":
        host, processor = load_host(make_start("host", parent))
        encoder = vislex.create_encoder("dinov2-s14-registers", tiny=True, seed=0)
        vislex.swap_encoder(host, processor, encoder).save_pretrained(folder)
    elif name == "text":
        make_text_model(folder)
    else:
        text_model = make_start("text", parent)
        torch.manual_seed(0)  # whether that was there or not
        if name == "ladic":
            _ladic(folder, text_model)
        else:
            _codec(text_model).save_pretrained(folder)
            load_tokenizer(text_model).save_pretrained(folder)
    return folder


def _shards(folder: Path) -> None:
    """Tars of pairs, two of training and one of validation."""
    for split, number, size in (("train", 0, 6), ("train", 1, 5), ("val", 0, 4)):
        rows = vislex.data.load_suite("openmoji", "caption", split=split, size=11, vocabulary="core", image_size=24)
        (folder / split).mkdir(parents=True, exist_ok=True)
        with tarfile.open(folder / split / f"{number}.tar", "w") as tar:
            for row in range(6 * number, 6 * number + size):
                image = io.BytesIO()
                rows[row]["image"].save(image, "PNG")
                for end, data in (("png", image.getvalue()), ("txt", rows[row]["captions"][0].encode())):
                    member = tarfile.TarInfo(f"{row:04}.{end}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def make_text_model(folder: Path) -> None:
    """A BERT of four layers of width 32 with the suite's word pieces."""
    rows = vislex.data.load_suite("openmoji", "caption", split="train", size=32, vocabulary="core")
    captions = rows.with_format(None)["captions"]
    tokenizer = prune_tokenizer(load_tokenizer(), [".", *(text for own in captions for text in own)])[0]
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
    BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), initializer_range=0.1, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _chat_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of the suite's words with a chat template."""
    texts: list[str] = []
    for task, names in (("caption", ("captions",)), ("vqa", ("question", "answer"))):
        rows = vislex.data.load_suite("openmoji", task, split="train", size=40).with_format(None)
        texts += [text for name in names for own in rows[name] for text in ([own] if isinstance(own, str) else own)]
    return chat_tokenizer(prune_tokenizer(load_tokenizer(), texts)[0])


def _host(folder: Path) -> None:
    """A LLaVA of width 32 with the suite's words."""
    tokenizer = _chat_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    image_token_id = add_image_token(tokenizer)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=24, patch_size=12),
        text_config=LlamaConfig(**sizes, vocab_size=len(tokenizer), initializer_range=0.1),
        image_token_index=image_token_id,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.suppress_tokens = [image_token_id]
    processor = LlavaProcessor(
        SiglipImageProcessor(size={"height": 24, "width": 24}),
        tokenizer,
        patch_size=12,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE_TOKEN,
        chat_template=multimodal_template(tokenizer.chat_template),
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def _language_model(folder: Path) -> None:
    """A tiny Llama with the suite's words, as ``lm_pretrain`` leaves one."""
    tokenizer = _chat_tokenizer()
    vislex.create_llm("llama3.2-1b", tiny=True, vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _codec(text_model: Path) -> LatentCodec:
    return LatentCodec.create(load_tokenizer(text_model), ["two red drums.", "a dog"], text_model=text_model)


def _ladic(folder: Path, text_model: Path) -> None:
    """An untrained LaDiC captioner."""
    sampling = {"num_inference_steps": 4, "guidance_scale": 1.0, "refine_at": 0.5, "temperature": 0.5}
    Captioner.from_parts(
        encoder=create_encoder("siglip-tiny", tiny=True, seed=0), decoder="ladic",
        tokenizer=load_tokenizer(text_model), codec=_codec(text_model), hidden_size=16, num_layers=1, num_heads=2,
        dropout=0.0, max_length=40, sampling=sampling,
    ).save_pretrained(folder)  # fmt: skip


def main(names: Sequence[str]) -> None:
    """Writes the losses of these runs, or of all."""
    golden = Path(__file__).parents[1] / "golden" / "losses.json"
    losses = json.loads(golden.read_text(encoding="utf-8")) if names else {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names or RUNS):
            output = Path(folder) / f"run-{number}"
            recipe, config = prepared(name, output)
            recipe.run(config)
            entries = [json.loads(line) for line in (output / "training.jsonl").read_text().splitlines()]
            losses[name] = [entry["loss"] for entry in entries if "loss" in entry]
    lines = (f" {json.dumps(name)}: {json.dumps([round(loss, 6) for loss in losses[name]])}" for name in RUNS)
    golden.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
