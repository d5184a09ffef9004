"""Opening a saved codec: checked before it is read, refused if a part is missing."""

from __future__ import annotations

from pathlib import Path

from vislex.decoders.ladic.codec import LatentCodec, LatentCodecConfig
from vislex.errors import CheckpointError
from vislex.hub import check_folder, check_weights, reading
from vislex.shipped import model_folder
from vislex.text import load_tokenizer

__all__ = ["load_codec"]


def load_codec(source: str | Path) -> LatentCodec:
    """Opens a codec: a folder, or the name of a shipped one.

    Raises:
        CheckpointError: If there is none, or it is incomplete (a codec without its statistics decodes noise).
    """
    import vislex.auto  # noqa: F401

    folder = model_folder(source)
    check_folder(folder)
    with reading(f"no codec can be read from '{folder}'"):
        config = LatentCodecConfig.from_pretrained(folder)
    if config.model_type != LatentCodecConfig.model_type or config.text_config is None:
        raise CheckpointError(f"'{folder}' holds no codec of latents; train one with 'vislex train ladic_codec'")
    with reading(f"no codec can be read from '{folder}'"):
        codec, info = LatentCodec.from_pretrained(folder, output_loading_info=True, use_safetensors=True)
    if missing := sorted(info["missing_keys"]):
        raise CheckpointError(f"the codec at '{folder}' is incomplete: {', '.join(missing)} are missing")
    check_weights(codec.state_dict(), folder)
    codec.tokenizer = load_tokenizer(folder)
    codec.config._name_or_path = codec.config.text_config._name_or_path = ""  # decoders save it: no folder of a machine
    return codec
