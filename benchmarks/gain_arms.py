"""The encoders that ``encoder_gain`` compares, and the rules of its verdicts, fixed before the runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vislex.benchmarks.verdicts import all_of
from vislex.benchmarks.vilex_experiment import Base, judge
from vislex.diffusion.t2i import load_t2i

__all__ = [
    "ARMS", "CONTINUED", "END_TO_END", "MARGINS", "PIXELS", "RANDOM", "UNTOUCHED", "VILEX", "claims", "conclude",
    "shuffled_t2i",
]  # fmt: skip

UNTOUCHED, CONTINUED, VILEX = "untouched", "SigLIP continued", "ViLex"
RANDOM, PIXELS, END_TO_END = "ViLex through a random model", "pixel regression", "ViLex end to end"
ARMS = (UNTOUCHED, CONTINUED, VILEX, RANDOM, PIXELS, END_TO_END)
# Tier of factors -> least gain over the untouched and over the continued encoder.
MARGINS = {"never named": 0.05, "sometimes named": 0.01, "concept": -0.01}
RIVALS = (UNTOUCHED, CONTINUED)
MATTERS = {RANDOM: "the text-to-image model's knowledge matters", PIXELS: "diffusion matters"}
Row = Mapping[str, Any]


def claims(against: Mapping[str, Sequence[Row]], base: Base) -> list[dict[str, Any]]:
    """Every comparison with its interval, margin and verdict.

    Args:
        against: Of each arm that others are held against, rows of ``probe_tables.differences``.
        base: The parts; on parts that cannot be tested every verdict says so.
    """
    found = []
    for rival, rows in against.items():
        for row in rows:
            if "difference" in row:
                for claim, margin in _claimed(str(row["encoder"]), rival, str(row["factor"])):
                    names = ("probe", "factor", "difference", "low", "high", "minimal detectable effect", "n", "seeds")
                    entry = {
                        "claim": claim,
                        "arm": row["encoder"],
                        "rival": rival,
                        **{name: row[name] for name in names},
                    }
                    verdict = base.judged(judge(row["low"], row["high"], margin))
                    found.append({**entry, "margin": margin, "verdict": verdict})
    return found


def conclude(found: Sequence[Row], probes: Sequence[str]) -> dict[str, str]:
    """One verdict a claim: it must hold with every probe, and against both rivals; one failure refutes it."""
    verdicts = {}
    for claim in dict.fromkeys(entry["claim"] for entry in found):
        own = [entry for entry in found if entry["claim"] == claim]
        rivals = RIVALS if own[0]["factor"] in MARGINS and own[0]["rival"] in RIVALS else (own[0]["rival"],)
        asked = {(probe, rival) for probe in probes for rival in rivals}
        missing = asked - {(entry["probe"], entry["rival"]) for entry in own}
        verdicts[claim] = all_of([*(entry["verdict"] for entry in own), *("not tested" for _ in missing)])
    return verdicts


def _claimed(arm: str, rival: str, factor: str) -> Iterator[tuple[str, float]]:
    """Claims that a difference speaks to, with their margins."""
    if arm in (VILEX, END_TO_END) and rival in RIVALS and factor in MARGINS:
        yield f"{arm}: {factor} above {MARGINS[factor]:+.0%}", MARGINS[factor]
    if arm == VILEX and rival in MATTERS and factor == "never named":
        yield MATTERS[rival], 0.0


def shuffled_t2i(source: str, folder: Path, seed: int) -> Path:
    """A text-to-image model that knows nothing: the entries of each of its weights in random order.

    Every layer keeps the scale of the trained one, and none is zero, as some of a new model are.

    Args:
        source: The trained model.
        folder: Where it is saved, and found again.
        seed: Of the order.
    """
    if (folder / "model_index.json").is_file():
        return folder
    t2i = load_t2i(source)
    order = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (t2i.denoiser, *(text.model for text in t2i.texts)):
            for _, weight in sorted(part.named_parameters()):
                places = torch.randperm(weight.numel(), generator=order)
                weight.copy_(weight.flatten()[places].view_as(weight))
    t2i.save_pretrained(folder)
    return folder
