"""Published networks without their weights: their configurations, for sketches of trainings at full size.

``configs/components`` holds one file a model: configurations, the parameter counts that were published, and what of
its tokenizer matters for shapes.
"""

from __future__ import annotations

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

from vislex.captioner import Captioner
from vislex.captioner_config import CaptionerConfig
from vislex.decoders.ladic.codec import STOP, LatentCodec, LatentCodecConfig
from vislex.decoders.ladic.codec_loading import load_codec
from vislex.decoders.ladic.text_encoder import TextEncoder
from vislex.diffusion.t2i import TextToImage
from vislex.diffusion.t2i.loading import family_of, outline_folder
from vislex.errors import CheckpointError
from vislex.hub import check_folder
from vislex.registry import registry
from vislex.shipped import find_model, shipped
from vislex.text import load_tokenizer, minilm_folder, special_tokens

__all__ = [
    "attached_text_encoder",
    "codec_of",
    "component",
    "components",
    "network",
    "outline_captioner",
    "outline_codec",
    "outline_t2i",
    "text_model_config",
    "tokenizer_or_stand_in",
]


def components() -> dict[str, Path]:
    """Files of the published networks, by hub id."""
    folder = Path(str(resources.files("vislex.recipes"))) / "configs" / "components"
    return {path.stem.replace("--", "/"): path for path in sorted(folder.glob("*.json"))}


def component(hub_id: str) -> dict[str, Any]:
    """What is known of a published model.

    Raises:
        CheckpointError: If it has no file.
    """
    if hub_id not in components():
        raise CheckpointError(
            f"'{hub_id}' is neither a folder nor a model whose configuration ships with vislex "
            f"({', '.join(components())}); give the folder of a downloaded one"
        )
    known: dict[str, Any] = json.loads(components()[hub_id].read_text(encoding="utf-8"))
    return known


def network(hub_id: str, part: str) -> nn.Module:
    """A part of a published model with random weights, on torch's default device."""
    known = component(hub_id)
    name, values = known["classes"][part], known["configs"][part]
    if hasattr(diffusers, name):
        built: nn.Module = getattr(diffusers, name)(**values)
        return built
    found = getattr(transformers, name)
    ids = {}
    if part == "text_encoder" and name.startswith("CLIP"):
        ids = {"eos_token_id": values["vocab_size"] - 1}
    loaded: nn.Module = found(found.config_class(**values, **ids))
    return loaded


def outline_t2i(source: str) -> TextToImage:
    """A text-to-image model as ``load_t2i`` opens it, with random weights: of a folder, shipped, or published.

    Raises:
        CheckpointError: If there is neither a folder nor a published configuration of it.
    """
    if Path(source).is_dir():
        return outline_folder(Path(source))
    if source in registry("t2i"):
        weights = registry("t2i").get(source).options.get("weights")
        return outline_folder(shipped(str(weights or source)))
    known = component(source)
    parts: dict[str, Any] = {part: network(source, part) for part in known["classes"] if part != "scheduler"}
    with torch.device("cpu"):  # it computes with its tables
        parts["scheduler"] = network(source, "scheduler")
    family = family_of(known["pipeline"]).load()
    outlined: TextToImage = family(pipeline=known["pipeline"], tokenizer=_stand_in(known["tokenizer"]), **parts)
    return outlined


def outline_codec(source: str, text_model: str, tokenizer: PreTrainedTokenizerFast) -> tuple[LatentCodec, list[str]]:
    """A LaDiC codec: the one at ``source``, else the halves of a published text model, and what was assumed.

    Raises:
        CheckpointError: If there is neither.
    """
    if find_model(source) is not None:
        with torch.device("cpu"):  # its statistics decide on noise
            return load_codec(source), []
    codec = codec_of(text_model_config(text_model), tokenizer)
    return codec, [f"the codec '{source}' is not here: taken as the halves of {text_model}"]


def text_model_config(source: str) -> Any:
    """Config of a text model: "minilm", a folder, or a published one.

    Raises:
        CheckpointError: If it is none of these.
    """
    folder = minilm_folder() if source == "minilm" else Path(source)
    return AutoConfig.from_pretrained(folder) if folder.is_dir() else network(source, "model").config


def codec_of(text_config: Any, tokenizer: PreTrainedTokenizerFast, **options: Any) -> LatentCodec:
    """A codec over a text model with random weights, its text encoder attached.

    Args:
        text_config: Config of the text model.
        tokenizer: Whose ids are decoded.
        **options: ``split_layer`` (half of the layers by default), ``decoder_layers`` (the rest) and further fields of
            ``LatentCodecConfig``.
    """
    layers = text_config.num_hidden_layers
    split = layers // 2 if options.get("split_layer") is None else options["split_layer"]
    upper = layers - split if options.get("decoder_layers") is None else options["decoder_layers"]
    special = special_tokens(tokenizer)
    config = LatentCodecConfig(
        text_config=copy.deepcopy(text_config),
        vocab_size=len(tokenizer),
        stop_token_id=tokenizer.get_vocab().get(STOP, special.eos),
        bos_token_id=special.bos,
        eos_token_id=special.eos,
        pad_token_id=special.pad,
        **{**options, "split_layer": split, "decoder_layers": upper},
    )
    codec = LatentCodec(config)
    codec.tokenizer = tokenizer
    codec.attach(TextEncoder(AutoModel.from_config(text_config), split))
    return codec


def attached_text_encoder(decoder: Any, *, bf16: bool) -> dict[str, nn.Module]:
    """The frozen text encoder of a LaDiC decoder or codec that reads captions in training, in what it computes in."""
    codec: LatentCodec = getattr(decoder, "codec", decoder)
    ids = torch.zeros(1, dtype=torch.long)  # it runs where they are
    return {"text encoder": codec.text_encoder(ids.device, torch.bfloat16 if bf16 else torch.float32)}


def outline_captioner(folder: Path) -> tuple[Captioner, PreTrainedTokenizerFast]:
    """A saved captioner with random weights, and its tokenizer.

    Raises:
        CheckpointError: If the folder holds none.
    """
    import vislex.auto  # noqa: F401

    if not (folder / "config.json").is_file():
        raise CheckpointError(f"'{folder}' holds no saved captioner; give the folder of one as model=")
    check_folder(folder)
    return Captioner(CaptionerConfig.from_pretrained(folder)).float(), load_tokenizer(folder)


def tokenizer_or_stand_in(source: str) -> PreTrainedTokenizerFast:
    """The tokenizer at ``source``, or for a published model one of the same size and special tokens."""
    if source in components() and not Path(source).is_dir():
        return _stand_in(component(source)["tokenizer"])
    return load_tokenizer(source)


def _stand_in(facts: dict[str, Any]) -> PreTrainedTokenizerFast:
    """A tokenizer whose words mean nothing; its special tokens are the last ones, as in CLIP."""
    before, after, pad = facts["before"], facts["after"], facts["pad"]
    special = list(dict.fromkeys([*before, *after]))
    first = [pad] if pad not in special else []
    words = [f"word{i}" for i in range(facts["size"] - len(special) - len(first) - 1)]
    ids = {word: number for number, word in enumerate([*first, *words, "a", *special])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single=" ".join([*before, "$A", *after]), special_tokens=[(word, ids[word]) for word in special]
    )
    named = {"pad_token": pad, "unk_token": "a", "eos_token": after[-1]}
    if before:
        named |= {"bos_token": before[0], "cls_token": before[0], "sep_token": after[-1]}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=facts["length"], **named)
