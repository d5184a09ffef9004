"""``vislex import``: checkpoints of other programs become folders that every verb opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vislex.cli.console import error_console, print_json, print_table, say
from vislex.cli.options import Json
from vislex.errors import ConfigError

if TYPE_CHECKING:
    from vislex.captioner import Captioner

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None)

_TYPES = ("float32", "bfloat16", "float16", "auto")
HostSource = Annotated[str, typer.Argument(metavar="SRC", help="Folder or hub id of the checkpoint.")]
ModelFolder = Annotated[Path, typer.Option("--out", "-o", help="New folder for the vision-language model.")]
ImportType = Annotated[
    str, typer.Option("--dtype", help=f"Number format that is written: {', '.join(_TYPES)} (the checkpoint's own).")
]


@app.callback()
def group() -> None:
    """Turn the checkpoint of another program into a folder that vislex opens.

    Checkpoints are read as tensors alone: a file that could run code when it is opened is refused.
    """


@app.command("ladic", short_help="The released LaDiC: a captioner with BLIP's ViT and a diffusion decoder.")
def ladic(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="State dict of its evaluation model: .bin, .pt, .safetensors.")
    ],
    mean: Annotated[
        Path, typer.Argument(metavar="MEAN", help="Mean of its latents (mean_emb_split.pickle; also .npy, .pt, ...).")
    ],
    std: Annotated[Path, typer.Argument(metavar="STD", help="Their standard deviation (std_emb_split.pickle).")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the captioner.")],
    tokenizer: Annotated[
        str, typer.Option("--tokenizer", help="Folder or hub id; minilm is packaged: bert-base-uncased's word pieces.")
    ] = "minilm",
    text_model: Annotated[
        str, typer.Option("--text-model", help="Folder or hub id of its BERT; opened only if it is trained further.")
    ] = "bert-base-uncased",
    max_length: Annotated[int, typer.Option("--max-length", help="Positions that it was trained to denoise.")] = 24,
    num_heads: Annotated[int, typer.Option("--num-heads", help="Attention heads of the diffuser.")] = 16,
    vision_heads: Annotated[int, typer.Option("--vision-heads", help="Attention heads of the ViT.")] = 12,
    text_heads: Annotated[int, typer.Option("--text-heads", help="Attention heads of the BERT.")] = 12,
    time_norm: Annotated[
        bool, typer.Option("--time-norm/--no-time-norm", help="Whether the checkpoint holds time_layer_norm.")
    ] = True,
    json: Json = False,
) -> None:
    """Import the released LaDiC (arXiv 2404.10763) as a captioner that computes the same function.

    \b
    vislex import ladic pytorch_model.bin mean_emb_split.pickle std_emb_split.pickle --out ladic
    vislex caption --model ladic photo.png
    vislex bench reproduce ladic --model ladic --data coco:data/coco

    The mean and the std stand beside the checkpoint; without them its latents decode to noise. Weights do not tell the
    number of attention heads and of positions: the options' defaults are those of the release. A checkpoint that lacks
    a weight, has an unexpected one or one of another width is refused with its name.
    """
    from vislex.importers.ladic import import_ladic

    _check_new(out)
    error_console.print(f"reading {checkpoint}, and the latent of every word piece ...", markup=False)
    captioner = import_ladic(
        checkpoint,
        mean,
        std,
        tokenizer=tokenizer,
        text_model=text_model,
        max_length=max_length,
        num_heads=num_heads,
        vision_heads=vision_heads,
        text_heads=text_heads,
        time_norm=time_norm,
    )
    captioner.save_pretrained(out)
    _report(out, _ladic_parts(captioner), f"vislex caption --model {out} IMAGE", json)


@app.command("vae-oid", short_help="PaliGemma's mask tokenizer: the codes of its segmentation tokens.")
def vae_oid(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Its file, vae-oid.npz.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder for the mask tokenizer.")],
    json: Json = False,
) -> None:
    """Import PaliGemma's mask tokenizer (Ning et al., arXiv 2301.02229), so that 'loc_seg' reads PaliGemma's masks.

    \b
    vislex import vae-oid vae-oid.npz --out vae-oid
    python -c "import vislex; vislex.create_codec('loc_seg', tokenizer='vae-oid')"

    Sizes are read from the file; nothing in it is unpickled. A file that lacks a weight, has an unexpected one or one
    of another width is refused with its name.
    """
    from vislex.importers.mask_tokenizer import import_mask_tokenizer

    _check_new(out)
    model = import_mask_tokenizer(source)
    model.save_pretrained(out)
    sizes = model.config
    widths = ", ".join(map(str, sizes.channels))
    parts = [
        _part("encoder", model.encoder, f"{sizes.image_size} x {sizes.image_size} pixels, widths {widths}"),
        _part("decoder", model.decoder, f"the way back, {sizes.num_residual_blocks} residual blocks on each side"),
        {
            "part": "codebook",
            "parameters": model.codebook.numel(),
            "what": f"{sizes.num_codes} codes of {sizes.code_dim}, {model.num_tokens} a mask",
        },
    ]
    _report(out, parts, f"vislex.create_codec('loc_seg', tokenizer='{out}')", json)


@app.command("paligemma", short_help="A PaliGemma or PaliGemma 2 of transformers: a vision-language model.")
def paligemma(source: HostSource, out: ModelFolder, dtype: ImportType = "float32", json: Json = False) -> None:
    """Import a PaliGemma checkpoint as a vision-language model of vislex that computes the same function.

    \b
    vislex import paligemma google/paligemma2-3b-mix-224 --out paligemma --dtype bfloat16
    vislex ask photo.png "caption en" --model paligemma
    vislex export paligemma --to host          and back, also after training

    Image processor, tokenizer, prompt and generation settings are the host's own. Encoder, connector and language model
    can be trained, segmented with and exchanged like those of any other model.
    """
    _import_host(source, "paligemma", out, dtype, json)


@app.command("llava", short_help="A LLaVA of transformers: a vision-language model.")
def llava(source: HostSource, out: ModelFolder, dtype: ImportType = "float32", json: Json = False) -> None:
    """Import a LLaVA or LLaVA-1.5 checkpoint as a vision-language model of vislex that computes the same function.

    \b
    vislex import llava llava-hf/llava-1.5-7b-hf --out llava --dtype float16
    vislex ask photo.png "What is shown?" --model llava
    vislex export llava --to host              and back, also after training

    Image processor, tokenizer, prompt and generation settings are the host's own. A LLaVA that reads several layers of
    its tower, or another activation than gelu, is refused.
    """
    _import_host(source, "llava", out, dtype, json)


def _import_host(source: str, family: str, out: Path, dtype: str, json: bool) -> None:
    import torch

    from vislex.adapters.vlm_exchange import import_from_host

    _check_new(out)
    if dtype not in _TYPES:
        raise ConfigError(f"--dtype '{dtype}' is none of {', '.join(_TYPES)}")
    error_console.print(f"reading {source}, and comparing what comes out with it ...", markup=False)
    model = import_from_host(source, family, "auto" if dtype == "auto" else getattr(torch, dtype))
    model.save_pretrained(out)
    spec, connector = model.encoder.spec, model.connector.config
    parts = [
        _part("encoder", model.encoder, f"{model.encoder.backbone.config.model_type}, {spec.n_tokens} tokens an image"),
        _part("connector", model.connector, f"{connector.model_type.removeprefix('vislex_connector_')} without a norm"),
        _part("llm", model.llm, f"{model.llm.config.model_type}, {model.config.attention} attention"),
    ]
    _report(out, parts, f"vislex ask IMAGE QUESTION --model {out}", json)


def _check_new(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"--out '{out}' is there already; give a new folder, so that nothing is overwritten")


def _ladic_parts(captioner: Captioner) -> list[dict[str, Any]]:
    spec, decoder = captioner.encoder.spec, captioner.decoder
    config = decoder.config
    height, width = spec.image_size
    return [
        _part(
            "encoder",
            captioner.encoder,
            f"ViT, {height} x {width} pixels, {spec.n_tokens} tokens of {spec.dim} with the class token",
        ),
        _part(
            "denoiser",
            decoder.denoiser,
            f"{config.num_layers} layers of {config.hidden_size}, {config.num_heads} heads, {config.max_length} words, "
            f"{config.sampling['sampler']} with stride {config.sampling['stride']}",
        ),
        _part(
            "codec",
            decoder.codec,
            f"latents of {decoder.codec.latent_dim} after layer {config.codec_config.split_layer}, read by the head "
            f"alone: {config.vocab_size:,} word pieces",
        ),
    ]


def _part(name: str, module: Any, what: str) -> dict[str, Any]:
    return {"part": name, "parameters": sum(parameter.numel() for parameter in module.parameters()), "what": what}


def _report(out: Path, parts: list[dict[str, Any]], following: str, json: bool) -> None:
    total = sum(part["parameters"] for part in parts)
    if json:
        print_json({"folder": str(out), "parameters": total, "parts": parts, "next": following})
        return
    print_table(parts, ["part", "parameters", "what"])
    say(f"{total:,} parameters written to {out}; next: {following}")
