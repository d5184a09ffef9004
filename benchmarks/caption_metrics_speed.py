"""Wall time of the caption scores against the official program, pycocoevalcap, on the same captions.

Both sides start from raw captions and end with corpus scores (BLEU-1..4, ROUGE-L, CIDEr-D); both are timed in a
process that has imported them already, and ours with an empty token cache. Needs the extra ``java`` and a Java runtime:

    python -m vislex.benchmarks.caption_metrics_speed [--captions 5000] [--json] [--out benchmarks/results/...json]
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import io
import json
import platform
import random
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from vislex.metrics import captions, ptb

OPENINGS = ("A photo of", "There is", "Two people look at", "The picture shows", "Someone drew")
WORDS = tuple(
    word
    for phrase in (
        "a the red small woman's dog cat half-eaten cake table; isn't near under (left) riding an old-fashioned",
        "bicycle in front of 10:30 a.m. bright blue umbrella, standing next to don't children playing frisbee on grass",
    )
    for word in phrase.split()
)


def make_captions(n_images: int, n_references: int, seed: int = 0) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Seeded captions of 9 to 16 words over a vocabulary of 2,000 made-up nouns and some awkward words."""
    draw = random.Random(seed)
    nouns = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(2000)]

    def caption(topic: list[str]) -> str:
        words = [draw.choice(topic) if draw.random() < 0.4 else draw.choice(WORDS) for _ in range(draw.randint(6, 11))]
        return f"{draw.choice(OPENINGS)} {' '.join(words)} {draw.choice(topic)}{draw.choice(['.', '', ' .'])}"

    candidates, references = {}, {}
    for image in range(n_images):
        topic = draw.sample(nouns, 4)
        candidates[f"{image}"] = caption(topic)
        references[f"{image}"] = [caption(topic) for _ in range(n_references)]
    return candidates, references


def score_officially(candidates: dict[str, str], references: dict[str, list[str]]) -> dict[str, float]:
    """The official pipeline, as its documentation runs it."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stdout(io.StringIO()):
        targets = PTBTokenizer().tokenize({k: [{"caption": c} for c in group] for k, group in references.items()})
        hypotheses = PTBTokenizer().tokenize({k: [{"caption": c}] for k, c in candidates.items()})
        bleu = Bleu(4).compute_score(targets, hypotheses)[0]
        scores = {f"BLEU-{n}": float(value) for n, value in enumerate(bleu, start=1)}
        scores["ROUGE-L"] = float(Rouge().compute_score(targets, hypotheses)[0])
        scores["CIDEr-D"] = float(Cider().compute_score(targets, hypotheses)[0])
    return scores


def measure(n_images: int, n_references: int, repeats: int) -> dict[str, Any]:
    """Best wall time in seconds of either side, and their scores."""
    candidates, references = make_captions(n_images, n_references)
    best = {"vislex": float("inf"), "official": float("inf")}
    scores: dict[str, dict[str, float]] = {}
    for _ in range(repeats):
        for name, score in (("vislex", captions.score_captions), ("official", score_officially)):
            ptb.clear_cache()
            started = time.perf_counter()
            scores[name] = score(candidates, references)
            best[name] = min(best[name], time.perf_counter() - started)
    return {
        "seconds": best,
        "ratio": best["official"] / best["vislex"],
        "scores": scores,
        "largest_difference": max(abs(scores["vislex"][key] - scores["official"][key]) for key in scores["vislex"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=5000, help="number of images, with one candidate each")
    parser.add_argument("--references", type=int, default=5, help="references an image")
    parser.add_argument("--repeats", type=int, default=3, help="runs of either side; the fastest counts")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--out", type=Path, help="write the result there")
    options = parser.parse_args()
    packages = ("vislex", "numpy", "pycocoevalcap")
    result = {
        "benchmark": "caption_metrics_speed",
        "command": shlex.join(["python", "-m", "vislex.benchmarks.caption_metrics_speed", *sys.argv[1:]]),
        "captions": options.captions,
        "references_per_image": options.references,
        "repeats": options.repeats,
        "seed": 0,
        "device": f"cpu, {platform.machine()}",
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "scorers": [ptb.ID, captions.BLEU.id, captions.ROUGE_L.id, captions.CIDER_D.id],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **measure(options.captions, options.references, options.repeats),
    }
    text = json.dumps(result, indent=1)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text + "\n", encoding="utf-8")
    console = Console(soft_wrap=True)
    if options.json:
        console.print_json(text)
        return
    seconds = result["seconds"]
    console.print(
        f"{options.captions:,} captions x {options.references} references: vislex {seconds['vislex']:.2f} s, "
        f"official {seconds['official']:.2f} s, {result['ratio']:.1f} times as fast; "
        f"largest difference of a score {result['largest_difference']:.1e}"
    )


if __name__ == "__main__":
    main()
