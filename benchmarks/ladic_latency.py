"""From which caption length on is denoising all words at once faster than writing them one by one?

Random weights of two sizes ("base": BLIP-base's, "small": the embedded suite's) and forced lengths. For each length all
contenders take turns, so that whatever else the machine does falls on all of them: the autoregressive decoder through
transformers' ``generate`` and through a bare greedy loop, and LaDiC with each number of network evaluations, with and
without guidance (an unconditional pass is an evaluation). LaDiC denoises the length rounded up to a multiple of 8
("bucketed"); "fixed" 24 or 64 positions are its times at those lengths. The vision tokens are given to all: encoding
the image costs the same on both sides and moves no crossing point.

    OMP_NUM_THREADS=1 python -m vislex.benchmarks.ladic_latency [--scales small,base] [--batch-sizes 1,16,64]

Each finished row is kept; the same command goes on where it was stopped. About half an hour on an idle core without the
rows that are too long (see ``--longest``). Wall and CPU times are both kept: with one thread they agree on an idle
machine, and on a busy one CPU times still tell.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import BertConfig, DynamicCache, EncoderDecoderCache

from vislex.benchmarks.crossing import CLOCKS, crossings
from vislex.benchmarks.crossing_plot import plot_crossings
from vislex.benchmarks.row_file import RowFile
from vislex.decoders.base import CaptionDecoder
from vislex.decoders.cross_attention import CrossAttentionConfig, CrossAttentionDecoder
from vislex.decoders.ladic.codec import LatentCodecConfig
from vislex.decoders.ladic.config import LadicConfig
from vislex.decoders.ladic.decoder import LadicDecoder
from vislex.decoders.ladic.presets import preset
from vislex.provenance import collect

__all__ = ["SCALES", "Scale", "build", "main", "measure"]

RESULTS = Path(__file__).parent / "results" / "ladic_latency.json"
LENGTHS = (8, 16, 24, 32, 40, 48, 56, 64)
EVALUATIONS = (4, 8, 16, 30)


@dataclass(frozen=True)
class Scale:
    """Sizes that both decoders share.

    Attributes:
        hidden_size: Width of the decoders.
        num_layers: Layers of the autoregressive decoder and of the denoiser.
        vocab_size: Word pieces.
        vision_tokens: Tokens an image.
        vision_dim: Width of one.
        latent_dim: Width of the split BERT.
        decoder_layers: Its upper layers, which read the latents.
    """

    hidden_size: int
    num_layers: int
    vocab_size: int
    vision_tokens: int
    vision_dim: int
    latent_dim: int
    decoder_layers: int


SCALES = {
    "small": Scale(192, 4, 1024, 64, 192, 384, 1),
    "base": Scale(768, 12, 30522, 196, 768, 768, 6),
}


def build(scale: Scale, dtype: torch.dtype = torch.float32) -> tuple[CrossAttentionDecoder, LadicDecoder]:
    """The two decoders with random weights."""
    torch.manual_seed(0)
    longest = max(LENGTHS) + 2
    shared = {"vision_dim": scale.vision_dim, "vocab_size": scale.vocab_size, "max_length": longest}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    shape = {"hidden_size": scale.hidden_size, "num_attention_heads": scale.hidden_size // 64}
    text = {**shape, "intermediate_size": 4 * scale.hidden_size, "num_hidden_layers": scale.num_layers}
    autoregressive = CrossAttentionDecoder(
        CrossAttentionConfig(
            text_config=BertConfig(
                vocab_size=scale.vocab_size,
                max_position_embeddings=longest,
                type_vocab_size=1,
                is_decoder=True,
                add_cross_attention=True,
                **text,
                **ids,
            ),
            **shared,
            **ids,
        )
    )
    bert = BertConfig(
        vocab_size=scale.vocab_size,
        hidden_size=scale.latent_dim,
        num_hidden_layers=2 * scale.decoder_layers,
        num_attention_heads=scale.latent_dim // 64,
        intermediate_size=4 * scale.latent_dim,
    )
    codec = LatentCodecConfig(
        text_config=bert,
        split_layer=scale.decoder_layers,
        decoder_layers=scale.decoder_layers,
        vocab_size=scale.vocab_size,
        stop_token_id=5,
        **ids,
    )
    ladic = LadicDecoder(
        LadicConfig(
            **preset("fast"),
            codec_config=codec,
            hidden_size=scale.hidden_size,
            num_layers=scale.num_layers,
            num_heads=scale.hidden_size // 64,
            intermediate_size=4 * scale.hidden_size,
            **shared,
            **ids,
        )
    )
    return autoregressive.to(dtype).eval(), ladic.to(dtype).eval()


def _stock_generate(decoder: CrossAttentionDecoder, vision: Tensor, length: int) -> Tensor:
    """The same network through transformers' own loop."""
    ids = torch.full((len(vision), 1), decoder.config.bos_token_id)
    written: Tensor = decoder.text_decoder.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        encoder_hidden_states=decoder.projection(vision),
        past_key_values=EncoderDecoderCache(DynamicCache(), DynamicCache()),
        do_sample=False,
        min_new_tokens=length,
        max_new_tokens=length,
    )
    return written


def contenders(
    autoregressive: CrossAttentionDecoder, ladic: LadicDecoder, vision: Tensor, length: int, evaluations: Sequence[int]
) -> dict[str, Callable[[], Tensor]]:
    """What is timed at one length, by name ("generate", "greedy", "ladic 8", "ladic 8 guided")."""
    forced = {"min_new_tokens": length, "max_new_tokens": length}
    sides: dict[str, Callable[[], Tensor]] = {
        "generate": partial(_stock_generate, autoregressive, vision, length),
        "greedy": partial(autoregressive.generate, vision_tokens=vision, **forced),
    }
    for count in evaluations:
        denoise = partial(ladic.generate, vision_tokens=vision, length=length)
        sides[f"ladic {count}"] = partial(denoise, num_inference_steps=count, guidance_scale=0.0)
        sides[f"ladic {count} guided"] = partial(denoise, num_inference_steps=count // 2, guidance_scale=1.0)
    return sides


@torch.no_grad()
def measure(
    decoders: tuple[CrossAttentionDecoder, LadicDecoder],
    vision: Tensor,
    length: int,
    *,
    evaluations: Sequence[int] = EVALUATIONS,
    runs: int = 30,
    least_runs: int = 5,
    seconds: float = 30.0,
    longest: float = 120.0,
) -> dict[str, Any] | None:
    """Times all contenders in turn at one length.

    Args:
        decoders: Of ``build``.
        vision: float[B, N, D].
        length: Words a caption.
        evaluations: Network evaluations of LaDiC.
        runs: Timed rounds.
        least_runs: Rounds below which ``seconds`` does not cut.
        seconds: What one row may take beyond them.
        longest: CPU seconds of a round above which nothing is timed.

    Returns:
        "wall" and "cpu" seconds and "evaluations" by contender; what belongs to one round stands at the same place of
        each list. None if a round takes too long.
    """
    sides = contenders(*decoders, vision, length, evaluations)
    counted: dict[str, int] = {}
    started = time.process_time()
    for name, side in sides.items():  # warms up, and checks that the work is what its name says
        if time.process_time() - started > longest:
            return None
        side()
        owner: CaptionDecoder = decoders[name.startswith("ladic")]
        counted[name] = length if name == "generate" else int(owner.evaluations[0])  # type: ignore[index]
        asked = length if name in ("generate", "greedy") else int(name.split()[1])
        if counted[name] != asked:
            raise RuntimeError(f"{name} took {counted[name]} evaluations instead of {asked}: nothing can be compared")
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    begun = time.perf_counter()
    for done in range(runs):
        if done >= least_runs and time.perf_counter() - begun > seconds:
            break
        for name, side in sides.items():
            start, start_cpu = time.perf_counter(), time.process_time()
            side()
            wall[name].append(round(time.perf_counter() - start, 6))
            cpu[name].append(round(time.process_time() - start_cpu, 6))
    return {"wall": wall, "cpu": cpu, "evaluations": counted}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is missing, prints the crossing points and writes them with a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scales", default="small,base", help=f"of {', '.join(SCALES)}")
    parser.add_argument("--batch-sizes", default="1,16,64", help="captions a call")
    parser.add_argument("--lengths", default=",".join(map(str, LENGTHS)), help="words a caption")
    parser.add_argument("--evaluations", default=",".join(map(str, EVALUATIONS)), help="even numbers")
    parser.add_argument("--runs", type=int, default=30, help="timed rounds of a row")
    parser.add_argument("--seconds", type=float, default=30.0, help="after which a row ends with five rounds or more")
    parser.add_argument("--longest", type=float, default=120.0, help="CPU seconds of a round; longer rows are left out")
    parser.add_argument("--clock", default="wall", choices=CLOCKS, help="of the printed crossing points and the plot")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=RESULTS, help="result file; the plots stand beside it")
    given = parser.parse_args(arguments)
    batch_sizes, lengths, evaluations = (
        [int(word) for word in text.split(",")] for text in (given.batch_sizes, given.lengths, given.evaluations)
    )
    console = Console(highlight=False, soft_wrap=True)
    settings = {"runs": given.runs, "seconds": given.seconds, "weights": "random"}
    file = RowFile(given.out, "ladic_latency", collect(config=settings, seed=0, device="cpu", dtype=given.dtype))
    decoders = functools.cache(lambda name: build(SCALES[name], getattr(torch, given.dtype)))

    def make(name: str, batch_size: int, length: int) -> dict[str, Any] | None:
        vision = torch.randn(batch_size, SCALES[name].vision_tokens, SCALES[name].vision_dim)
        limits = {"runs": given.runs, "seconds": given.seconds, "longest": given.longest}
        return measure(decoders(name), vision, length, evaluations=evaluations, **limits)

    for name in given.scales.split(","):
        for batch_size in batch_sizes:
            for length in lengths:
                identity = {
                    "scale": name,
                    "sizes": asdict(SCALES[name]),
                    "dtype": given.dtype,
                    "threads": torch.get_num_threads(),
                    "batch size": batch_size,
                    "length": length,
                    "contenders": evaluations,
                }
                row = file.row(identity, partial(make, name, batch_size, length))
                where = f"{name}, batch {batch_size}, {length} words"
                if row is None:
                    console.print(f"{where}: left out, a round takes more than {given.longest:.0f} s of CPU time")
                    continue
                middles = {side: 1000 * statistics.median(times) for side, times in row[given.clock].items()}
                console.print(f"{where}, ms: " + ", ".join(f"{side} {value:.1f}" for side, value in middles.items()))
    file.conclude(crossings={clock: crossings(file.rows, clock=clock) for clock in CLOCKS})
    for row in file.load()["crossings"][given.clock]:
        console.print(f"{row['case']}: {row['text']}")
    for path in plot_crossings(file.rows, given.out.with_suffix(""), clock=given.clock):
        console.print(f"plot: {path}")


if __name__ == "__main__":
    main()
