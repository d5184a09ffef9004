"""What masks keep on the way through each codec's text and back: the mIoU that no model writing it can pass.

Right masks of the suite's test split are encoded, decoded and compared at the resolution at which they were drawn. A
codec's stated ceiling (``MaskCodec.ceiling``) holds if it is reached with its default options at every resolution.

    python -m vislex.benchmarks.codec_ceilings [--split test_artist] [--size 500] [--image-sizes 64 256] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from vislex.benchmarks.console_tables import print_rows
from vislex.data import load_suite
from vislex.data.sources import describe_source
from vislex.listing import list_codecs
from vislex.metrics.masks import MASKS, score_masks
from vislex.provenance import collect
from vislex.segmentation.factory import create_codec
from vislex.segmentation.loc_seg import LocSegCodec

__all__ = ["VARIANTS", "main", "measure"]

RESULTS = Path(__file__).parent / "results" / "codec_ceilings.json"
# Beside each codec's default: shorter and longer texts of the same kind.
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "text_rle": [
        {"grid": 8},
        {"grid": 24},
        {"grid": 16, "scope": "image"},
        {"grid": 24, "scope": "image"},
        {"grid": 32, "scope": "image"},
    ],
    "polygon": [{"points": 8}, {"points": 24}],
}
_SYMBOL = re.compile(r"<[^>]*>|[^\s<>]+")


def measure(name: str, options: dict[str, Any], masks: Sequence[np.ndarray]) -> dict[str, Any]:
    """Sends masks through a codec.

    Args:
        name: Codec.
        options: Its options.
        masks: bool[H, W] each.

    Returns:
        A row: "codec", "options", "n", the scores of ``score_masks``, "symbols" (numbers, marks and new
        tokens of a text, on average), "ms" for a mask, "stated" and "holds" (None but for default options).
    """
    codec = create_codec(name, **options)
    codec.decode_ideal(codec.encode([masks[0]]), masks[0])  # opens the mask tokenizer
    start = time.perf_counter()
    texts = [codec.encode([mask]) for mask in masks]
    decoded = [codec.decode_ideal(text, mask).mask for text, mask in zip(texts, masks, strict=True)]
    seconds = time.perf_counter() - start
    scores = score_masks(decoded, masks)
    stated = None if options else codec.ceiling
    return {
        "codec": name,
        "options": options,
        "n": len(masks),
        **scores,
        "symbols": float(np.mean([len(_SYMBOL.findall(text)) for text in texts])),
        "ms": 1000 * seconds / len(masks),
        "stated": stated,
        "holds": None if stated is None else scores["mIoU"] >= stated,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures every codec of the catalog, prints the table and writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--split", default="test_artist")
    parser.add_argument("--vocabulary", default="default")
    parser.add_argument("--size", type=int, default=500, help="masks")
    parser.add_argument("--image-sizes", type=int, nargs="+", default=[64, 256], help="sides in pixels")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    rows = []
    for side in given.image_sizes:
        data = load_suite(
            "openmoji", "segmentation", split=given.split, size=given.size, image_size=side, vocabulary=given.vocabulary
        )
        masks = [row["mask"] for row in data if row["mask"].any()]
        for name in list_codecs():
            for options in ({}, *VARIANTS.get(name, ())):
                rows.append({"image size": side, **measure(name, options, masks)})
    settings = {key: value for key, value in vars(given).items() if key != "out"}
    result = {
        "benchmark": "codec_ceilings",
        "scorer": MASKS.id,
        "mask_tokenizer_sha256": LocSegCodec().tokenizer.digest(),
        "suite": describe_source("openmoji").provenance,
        "provenance": collect(config=settings, seed=0, device="cpu", dtype="float32"),
        "rows": rows,
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    console = Console(highlight=False)
    percent = {"mIoU": "mIoU %", "cIoU": "cIoU %", "P@0.9": "P@0.9 %"}
    for side in given.image_sizes:
        shown = [
            {
                "codec": " ".join([row["codec"], *(f"{key}={value}" for key, value in row["options"].items())]),
                **{title: 100 * row[key] for key, title in percent.items()},
                "symbols": row["symbols"],
                "ms": row["ms"],
                "stated": None if row["stated"] is None else 100 * row["stated"],
            }
            for row in rows
            if row["image size"] == side
        ]
        print_rows(console, f"codec ceilings, masks of {given.split} at {side} px", shown)
    missed = [f"{row['codec']} at {row['image size']} px" for row in rows if row["holds"] is False]
    console.print(f"every stated ceiling is reached: {'holds' if not missed else f'does not hold for {missed}'}")


if __name__ == "__main__":
    main()
