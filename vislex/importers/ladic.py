"""The released LaDiC (arXiv 2404.10763): its evaluation checkpoint as a ``Captioner`` that computes the same function.

Its text decoder is left out, because the release skips all of its layers; its image encoder is run once a caption
instead of once a step, and the tokens that it gives for the blank image, the release's "no image", are kept as the null
image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertConfig, BertModel, BlipVisionConfig, PreTrainedTokenizerFast

from vislex.captioner import Captioner
from vislex.catalog_encoders import ENCODERS
from vislex.decoders.ladic.codec import STOP, LatentCodec, LatentCodecConfig
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.decoders.ladic.text_encoder import TextEncoder
from vislex.encoders.hf import HFEncoder
from vislex.encoders.sources import file_sha256
from vislex.errors import CheckpointError, ConfigError
from vislex.importers.ladic_names import (
    DENOISER,
    TIME_NORM,
    ReleasedSizes,
    codec_names,
    denoiser_names,
    is_unused,
    text_names,
    vision_names,
)
from vislex.importers.names import check_names, load_renamed
from vislex.importers.tensor_file import read_state_dict, read_vector
from vislex.modules.digest import weights_digest
from vislex.text import load_tokenizer, special_tokens

__all__ = ["import_ladic"]

_POSITIONS = f"{DENOISER}embeddings.position_embeddings.weight"
_BLANK = "(tokens of the blank image)"


def import_ladic(
    checkpoint: str | Path,
    mean: str | Path,
    std: str | Path,
    *,
    tokenizer: str | Path = "minilm",
    text_model: str | Path = "bert-base-uncased",
    max_length: int = 24,
    num_heads: int = 16,
    vision_heads: int = 12,
    text_heads: int = 12,
    time_norm: bool = True,
) -> Captioner:
    """Reads a released LaDiC.

    Args:
        checkpoint: State dict of its evaluation model: .safetensors, .pt, .pth or .bin.
        mean: The mean of its latents, one value a dimension: .npy, .safetensors or a torch file.
        std: Their standard deviation.
        tokenizer: Folder or hub id of a tokenizer with its word pieces; "minilm" has those of bert-base-uncased.
        text_model: Folder or hub id that gives its frozen text encoder again when the captioner is trained further;
            recorded with the digest of the checkpoint's own text encoder, and not opened here.
        max_length: Positions that it was trained to denoise.
        num_heads: Attention heads of the denoiser; weights do not tell.
        vision_heads: Of the ViT.
        text_heads: Of the text encoder.
        time_norm: Whether the checkpoint has the LayerNorm of the times, which the release's evaluation applies.

    Returns:
        A captioner with the decoder preset "released".

    Raises:
        CheckpointError: If a file cannot be read, or lacks weights, or has unexpected ones, or ones of another width.
        ConfigError: If the tokenizer or a number of heads does not fit.
    """
    state = read_state_dict(checkpoint)
    what = f"'{checkpoint}' is no released LaDiC"
    sizes = ReleasedSizes.read(state, what)
    vision, text = vision_names(sizes.vision_layers), text_names(sizes.text_layers)
    denoiser = denoiser_names(sizes.num_layers, has_time_norm=time_norm)
    expected = {name for names in (vision, text, codec_names(), denoiser) for own in names.values() for name in own}
    if time_norm and f"{TIME_NORM}weight" not in state:
        raise CheckpointError(
            f"{what}: {TIME_NORM}weight is missing; a checkpoint that was trained and evaluated without a norm of the "
            "times needs time_norm=False (--no-time-norm)"
        )
    check_names(state.keys(), expected, {name for name in state if is_unused(name)}, what)
    _check_numbers(sizes, max_length, {"num_heads": num_heads, "vision_heads": vision_heads, "text_heads": text_heads})
    statistics = [read_vector(path, name, sizes.latent_dim) for path, name in ((mean, "mean"), (std, "std"))]
    if not bool((statistics[1] > 0).all()):
        raise CheckpointError(f"the std '{std}' has values that are not positive; is it the mean?")
    pieces = _tokenizer(tokenizer, sizes.vocab_size)

    encoder = _encoder(sizes, vision_heads)
    load_renamed(encoder.backbone, state, vision, what)
    codec = _codec(sizes, pieces, text_heads, text_model, state, what)
    codec.measure_alone(*statistics)
    decoder = LadicDecoder.create(
        encoder.spec,
        pieces,
        codec=codec,
        preset="released",
        hidden_size=2 * sizes.latent_dim,
        num_layers=sizes.num_layers,
        num_heads=num_heads,
        intermediate_size=sizes.intermediate_size,
        max_length=max_length,
        null_tokens=encoder.spec.n_tokens,
        time_norm="evaluation" if time_norm else "none",
    )
    with torch.no_grad():
        blank = encoder(torch.zeros(1, 3, sizes.image_size, sizes.image_size)).tokens[0]
    given = {**state, _BLANK: blank, _POSITIONS: state[_POSITIONS][:max_length]}
    load_renamed(decoder.denoiser, given, {**denoiser, "null_vision": (_BLANK,)}, what)
    captioner = Captioner.from_parts(encoder=encoder, decoder=decoder, tokenizer=pieces).eval()
    captioner.card_notes = (
        f"The released LaDiC (arXiv 2404.10763), imported from `{Path(checkpoint).name}` (sha256 "
        f"{file_sha256(Path(checkpoint))}); its weights have the licence under which they were given out."
    )
    return captioner


def _check_numbers(sizes: ReleasedSizes, max_length: int, heads: Mapping[str, int]) -> None:
    """Checks what was stated and cannot be read from the weights.

    Raises:
        ConfigError: Naming each that does not fit.
    """
    widths = {"num_heads": 2 * sizes.latent_dim, "vision_heads": sizes.vision_dim, "text_heads": sizes.latent_dim}
    problems = [
        f"{name} {count} does not divide the width {widths[name]}"
        for name, count in heads.items()
        if count < 1 or widths[name] % count
    ]
    if not 3 <= max_length <= sizes.positions:
        problems.append(f"max_length {max_length} must be between 3 and the diffuser's {sizes.positions} positions")
    if problems:
        raise ConfigError(f"these do not fit the checkpoint: {'; '.join(problems)}")


def _tokenizer(source: str | Path, vocab_size: int) -> PreTrainedTokenizerFast:
    tokenizer = load_tokenizer(source)
    if len(tokenizer) != vocab_size:
        raise ConfigError(
            f"the tokenizer '{source}' has {len(tokenizer)} word pieces, the checkpoint {vocab_size}; pass the one "
            "that it was trained with"
        )
    if STOP not in tokenizer.get_vocab():
        raise ConfigError(f"the tokenizer '{source}' has no word piece '{STOP}', which ends the captions of LaDiC")
    return tokenizer


def _encoder(sizes: ReleasedSizes, heads: int) -> HFEncoder:
    """BLIP's ViT with all of its tokens, and BLIP's preprocessing; its norms have timm's epsilon."""
    config = BlipVisionConfig(
        hidden_size=sizes.vision_dim,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=heads,
        intermediate_size=sizes.vision_intermediate,
        patch_size=sizes.patch_size,
        image_size=sizes.image_size,
        layer_norm_eps=1e-6,
    )
    _, _, row = ENCODERS["blip-b16"]
    stated = {key: row[key] for key in ("mean", "std", "interpolation")}
    return HFEncoder.from_backbone_config(config, keep_prefix=True, **stated).eval()


def _codec(
    sizes: ReleasedSizes,
    tokenizer: PreTrainedTokenizerFast,
    heads: int,
    text_model: str | Path,
    state: Mapping[str, Tensor],
    what: str,
) -> LatentCodec:
    """The release's codec, still without statistics: the lower half of a BERT, no upper layer, and the head."""
    shape = {
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.latent_dim,
        "num_attention_heads": heads,
        "intermediate_size": sizes.text_intermediate,
        "max_position_embeddings": sizes.text_positions,
        "type_vocab_size": sizes.text_types,
    }
    lower = BertModel(BertConfig(num_hidden_layers=sizes.text_layers, **shape), add_pooling_layer=False)
    load_renamed(lower, state, text_names(sizes.text_layers), what)
    text_encoder = TextEncoder(lower, sizes.text_layers)
    special = special_tokens(tokenizer)
    codec = LatentCodec(
        LatentCodecConfig(
            text_config=BertConfig(num_hidden_layers=2 * sizes.text_layers, **shape),
            source={
                "kind": "local" if Path(text_model).is_dir() else "hub",
                "location": str(text_model),
                "revision": None,
                "sha256": weights_digest(text_encoder),
            },
            split_layer=sizes.text_layers,
            decoder_layers=0,
            vocab_size=sizes.vocab_size,
            stop_token_id=tokenizer.get_vocab()[STOP],
            bos_token_id=special.bos,
            eos_token_id=special.eos,
            pad_token_id=special.pad,
            normalize_stop=False,
        )
    )
    load_renamed(codec, state, codec_names(), what, strict=False)
    codec._text_encoder, codec.tokenizer = (text_encoder,), tokenizer
    return codec.eval()
