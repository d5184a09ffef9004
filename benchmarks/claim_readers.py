"""What a result file says of a claim: one reader for each benchmark, from the content of its file to a verdict.

The verdict is the one that the benchmark wrote, or that its own rule gives from its rows; nothing is judged here. A
reader gives None where the file holds no conclusion.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vislex.benchmarks.ladic_arms import CACHING_TARGET, CLAIMS, judge, judge_caching
from vislex.benchmarks.latent_arms import RIVALS, compare_arms, conclude, scene_scores
from vislex.benchmarks.noninferiority import LEAST_RATIO
from vislex.benchmarks.results import Results
from vislex.benchmarks.summary import compare_rows, summarise
from vislex.benchmarks.verdicts import NOT_TESTABLE, all_of

__all__ = [
    "MEASURED", "Finding", "Part", "against_ar", "base", "budgets", "caching", "crossings", "encoder_pairs", "factors",
    "finetuning", "gain", "guidance", "latent_space", "portability", "sampling", "tokens", "vlm_encoders",
]  # fmt: skip

MEASURED = "measured"  # where the figure itself is the outcome
STEPS = 30  # of the claim on caching
EVALUATIONS = 8  # of the crossing point that stands for all
SAME = ("model", "data", "n")  # of rows whose scores can be paired
GOOD = ("holds", "reached", MEASURED)
Content = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One comparison.

    Attributes:
        about: What is compared.
        figure: The figure with its interval, as it is printed.
        asked: What the criterion asks of it; "" where it is only reported.
        verdict: What the benchmark made of it.
        n: What the interval is over, e.g. "1,000 images".
        seeds: Number of seeds; None where nothing was trained or drawn.
        counts: Whether it counts for the claim's verdict.
        value: The figure, as the file has it; None where it has none.
        low: Lower end of its interval.
        high: Upper end.
    """

    about: str
    figure: str
    asked: str
    verdict: str
    n: str = ""
    seeds: int | None = None
    counts: bool = True
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Finding:
    """What was found on a claim.

    Attributes:
        verdict: Of the benchmark.
        parts: The comparisons behind it.
        notes: Reasons that the benchmark gave.
        made_by: Numbers of the processes that made the rows behind it; None for all of the file.
    """

    verdict: str
    parts: Sequence[Part] = ()
    notes: Sequence[str] = ()
    made_by: Sequence[int] | None = None

    @property
    def deciding(self) -> Part | None:
        """The first part with the claim's verdict, else the first that is not as asked, else the first."""
        counting = [part for part in self.parts if part.counts] or list(self.parts)
        same = [part for part in counting if part.verdict == self.verdict]
        return next(iter([*same, *(part for part in counting if part.verdict not in GOOD), *counting]), None)


def base(content: Content) -> Finding | None:
    """Of ``vilex_base``: every threshold."""
    if "verdict" not in content:
        return None
    parts = []
    for check in content["checks"]:
        about, asked = f"{check['measured']}: {check['factor']}", f"at least {check['least']:.0%}"
        seeds = _seeds(content)
        parts.append(_part(check, about, asked, "scenes", name="share", spec=".1f", unit=" %", seeds=seeds))
    return Finding(content["verdict"], parts)


def tokens(content: Content, claim: str) -> Finding | None:
    """Of ``vilex_tokens``: one of its claims."""
    if claim not in content.get("verdicts", {}):
        return None
    own = [entry for entry in content["claims"] if entry["claim"] == claim]
    parts = []
    for entry in own:
        asked = "above 0"
        shown: dict[str, Any] = {"scale": 1000, "unit": " (loss x 1,000)"}
        if "ratio" in entry:
            asked, shown = f"at most {entry['margin']:g}", {"name": "ratio", "scale": 1, "spec": ".3f"}
        elif entry["about"].startswith("never named"):
            shown = {"spec": "+.1f", "unit": " points"}
        elif entry["about"].startswith("log2"):
            shown = {"scale": 1}
        parts.append(_part(entry, entry["about"], asked, "images", seeds=_seeds(content), **shown))
    return Finding(content["verdicts"][claim], parts, [entry["reason"] for entry in own if "reason" in entry])


def factors(content: Content) -> Finding | None:
    """Of ``vilex_tokens``: which factors come first, which is reported and not judged."""
    if not content.get("factors"):
        return None
    verdict = NOT_TESTABLE if content["base"] == NOT_TESTABLE else MEASURED
    n = f"{max(len(row['per_image']['concept']) for row in content['rows']):,} images"
    parts = []
    for entry in content["factors"]:
        told = "all tokens gain nothing" if entry["needed"] is None else f"{entry['needed']:.1f} tokens"
        parts.append(Part(f"{entry['factor']} ({entry['tier']} named)", told, "", verdict, n, _seeds(content)))
    return Finding(verdict, parts)


def gain(content: Content, claim: str) -> Finding | None:
    """Of ``encoder_gain``: a claim, or all of an arm, whose names begin with ``claim``."""
    names = [name for name in content.get("verdicts", {}) if name.startswith(claim)]
    if not names:
        return None
    parts = []
    for entry in content["claims"]:
        if entry["claim"] in names:
            about = f"{entry['factor']}, {entry['probe']} probe: {entry['arm']} - {entry['rival']}"
            asked = f"above {100 * entry['margin']:+g}"
            parts.append(_part(entry, about, asked, "images", spec="+.1f", unit=" points"))
    return Finding(all_of(content["verdicts"][name] for name in names), parts)


def encoder_pairs(content: Content) -> Finding | None:
    """Of ``compare``: the pairs that its config fixed before the runs, each of which must exclude 0."""
    results = Results.model_validate(content) if content else Results()
    wanted = (results.config or {}).get("pairs") or []
    data = next((record for record in results.data.values() if record.split == "test_composition"), None)
    if not wanted or data is None:
        return None
    there = {row.name for row in summarise(results, data) if row.is_model}
    parts, missing = [], []
    for a, b in wanted:
        if {a, b} <= there:
            pair = compare_rows(results, data, a, b, margin=0.0).as_dict()
            parts.append(_part(pair, f"{a} - {b}", "above 0", "images", unit=" CIDEr-D x 100"))
        else:
            missing.append(f"{a} - {b} is not finished")
    untested = ["not tested"] * (len(missing) + (len(wanted) < 2))  # both rivals are asked for
    return Finding(all_of([*(part.verdict for part in parts), *untested]), parts, missing) if parts else None


def vlm_encoders(content: Content) -> Finding | None:
    """Of ``vlm_encoders``: the arm that the claim is on; what it was judged by counts, its other differences do not."""
    pairs = content.get("pairs", ())
    arm = next((pair["arm"] for pair in pairs if pair["judged"]), None)
    if arm is None:
        return None
    parts = []
    for pair in pairs:
        if pair["arm"] == arm and pair["rival"].endswith(arm.rpartition(" + ")[2]):  # floors have no connector
            about = f"{pair['about']}: {pair['arm']} - {pair['rival']}"
            parts.append(_part(pair, about, "above 0", "rows", unit=" x 100", counts=bool(pair["judged"])))
    notes = ["an arm that the claim asks for is missing"] if content["verdict"] == "not tested" else []
    return Finding(content["verdict"], parts, notes)


def finetuning(content: Content) -> Finding | None:
    """Of ``vlm_finetuning``: the quotient of accuracies, and what must be exact."""
    if "verdict" not in content:
        return None
    parts = []
    for entry in content["claim"]:
        if entry["about"] == "quotient":
            parts.append(_quotient(entry, "LoRA", "full finetuning"))
        else:
            figure = f"{entry['value']:.3g}"
            asked = f"{entry['asked']} {entry['bound']:g}"
            shown = {"seeds": entry["seeds"], "value": entry["value"]}
            parts.append(Part(entry["about"], figure, asked, entry["verdict"], **shown))
    return Finding(content["verdict"], parts)


def budgets(content: Content) -> Finding | None:
    """Of ``vlm_budgets``: every budget, and beside it the speeds."""
    if "verdict" not in content:
        return None
    parts = [_quotient(entry, f"{entry['tokens']} tokens: TailDrop", "trained for them") for entry in content["pairs"]]
    for entry in content["speeds"]:
        about = f"{entry['tokens']} tokens, batch {entry['batch size']}"
        value, low, high = (entry[name] for name in ("answers a second", "low", "high"))
        figure = f"{value:.1f} answers a second, quartiles {low:.1f} to {high:.1f}"
        parts.append(Part(about, figure, "", MEASURED, counts=False, value=value, low=low, high=high))
    return Finding(content["verdict"], parts)


def against_ar(content: Content, style: str) -> Finding | None:
    """Of ``ladic_against_ar``: captions of one style; the best LaDiC arm against the best of all decides."""
    own = [entry for entry in content.get("verdicts", ()) if entry["style"] == style]
    parts = []
    for place, entry in enumerate(own):
        ours, theirs = (100 * score for score in entry["CIDEr-D"])
        about = f"{entry['arm']} ({entry['way']}, CIDEr-D {ours:.1f}) / {entry['rival']} ({entry['rival way']}, "
        about += f"{theirs:.1f}), best of {'all' if entry['against'] == 'any' else entry['against']}"
        asked = f"lower end at least {LEAST_RATIO:g}"
        parts.append(_part(entry, about, asked, "images", name="ratio", scale=1, spec=".3f", counts=place == 0))
    made_by = _made_by(row for row in content.get("rows", ()) if row["style"] == style)
    return Finding(own[0]["verdict"], parts, own[0]["reasons"], made_by) if own else None


def latent_space(content: Content) -> Finding | None:
    """Of ``ladic_latent_space``: the middle layer against every other space; two of them decide."""
    pairs = content["pairs"] if "verdict" in content else compare_arms(scene_scores(content.get("rows", ())))
    parts = []
    for pair in pairs:
        about, counts = f"{pair['arm']} - {pair['rival']}", pair["rival"] in RIVALS
        parts.append(_part(pair, about, "above 0", "images", unit=" scene-F1 x 100", counts=counts))
    return Finding(content.get("verdict") or conclude(pairs), parts) if parts else None


def sampling(content: Content, claims: Sequence[str], beside: Sequence[str] = ()) -> Finding | None:
    """Of ``ladic_sampling``: the comparisons of some claims, which must all hold, and of others beside them.

    Before the benchmark has come to its end its rule is applied to the rows of the last model and data.
    """
    rows = [row for row in content.get("rows", ()) if all(row[k] == content["rows"][-1][k] for k in SAME)]
    judged = {(entry["claim"], entry["arm"]): entry for entry in content.get("claims", judge(rows))}
    wanted = [claim for text in (*claims, *beside) for claim in CLAIMS if claim.text == text]
    parts, verdicts = [], []
    for claim in wanted:
        known = judged.get((claim.text, claim.arm))
        counts = claim.text in claims
        if counts:
            verdicts.append("not tested" if known is None else known["verdict"])
        if known is not None:
            ours, theirs = (100 * score for score in known["CIDEr-D"])
            share = "" if known["share"] == 1 else f"{known['share']:g} x "
            about = f"{known['arm']} ({ours:.1f}) - {share}{known['rival']} ({theirs:.1f})"
            about = about if counts and len(claims) == 1 else f"{claim.text}: {about}"
            entry = {**known["interval"], "seeds": known["interval"]["n_seeds"], "verdict": known["verdict"]}
            parts.append(_part(entry, about, "above 0", "images", unit=" CIDEr-D x 100", counts=counts))
    return Finding(all_of(verdicts), parts, made_by=_made_by(rows)) if any(part.counts for part in parts) else None


def crossings(content: Content, scale: str) -> Finding | None:
    """Of ``ladic_latency``: crossing points at one scale; the batch of one and eight evaluations stand for all."""
    rows = [row for row in content.get("rows", ()) if row["scale"] == scale]
    rounds = [len(times) for row in rows for times in row["wall"].values()]
    parts = [
        Part(
            entry["case"],
            entry["text"],
            "",
            MEASURED,
            f"at least {min(rounds)} rounds a length",
            counts=entry["case"].endswith(f"batch 1, ladic {EVALUATIONS}, bucketed"),
            value=entry["crossing"],
            low=entry["low"],
            high=entry["high"],
        )
        for entry in content.get("crossings", {}).get("wall", ())
        if entry["case"].startswith(f"{scale} ")
    ]
    return Finding(MEASURED, parts, made_by=_made_by(rows)) if parts else None


def caching(content: Content) -> Finding | None:
    """Of ``ladic_caching``: the comparison from pixels decides."""
    parts = []
    for row in content.get("rows", ()):
        if row["steps"] == STEPS:
            decides = row["scope"] == "from pixels"
            same = "identical captions" if row["identical"] else "the captions differ"
            about = f"{row['scope']}, {row['steps']} guided steps, batch {row['batch size']}"
            figure = f"{row['ratio']:.1f} times as fast (CPU time {row['cpu ratio']:.1f}), no interval, {same}"
            asked = f"at least {CACHING_TARGET:g}, identical captions" if decides else ""
            verdict = judge_caching(row) if decides else MEASURED
            n = f"median of {content['provenance']['config']['runs']} runs"
            parts.append(Part(about, figure, asked, verdict, n, counts=decides, value=row["ratio"]))
    decisive = next((part for part in parts if part.counts), None)
    return None if decisive is None else Finding(decisive.verdict, parts)


def guidance(content: Content) -> Finding | None:
    """Of ``text_free_guidance``: both slopes."""
    if "verdict" not in content:
        return None
    parts = []
    for entry in content["claims"]:
        about = f"{entry['claim']} ({entry['about']}; positive as claimed)"
        parts.append(_part(entry, about, "above 0", "subjects", unit=" points", seeds=_seeds(content)))
    return Finding(content["verdict"], parts)


def portability(content: Content) -> Finding | None:
    """Of ``token_portability``: what another denoiser keeps, told in each way; with all tokens it counts."""
    if "verdict" not in content:
        return None
    seeds, parts = _seeds(content), []
    for entry in content["claims"]:
        asked = f"lower end at least {entry['margin']:g}" if entry["decides"] else ""
        shown: dict[str, Any] = {"name": "ratio", "scale": 1, "spec": ".3f", "seeds": seeds}
        parts.append(_part(entry, entry["about"], asked, "images", counts=entry["decides"], **shown))
    return Finding(content["verdict"], parts, [entry["reason"] for entry in content["claims"] if "reason" in entry])


def _quotient(entry: Content, ours: str, theirs: str) -> Part:
    """A quotient of two accuracies."""
    first, second = (100 * score for score in entry["VQA"])
    about, asked = f"{ours} (VQA {first:.1f}) / {theirs} ({second:.1f})", f"lower end at least {LEAST_RATIO:g}"
    return _part(entry, about, asked, "questions", name="ratio", scale=1, spec=".3f")


def _part(
    entry: Content,
    about: str,
    asked: str,
    of: str,
    *,
    name: str = "difference",
    scale: float = 100,
    spec: str = "+.2f",
    unit: str = "",
    seeds: int | None = None,
    counts: bool = True,
) -> Part:
    """A comparison as benchmarks keep it: a value ``name`` with "low" and "high", "n" of something, "verdict"."""
    value, low, high = (entry.get(key) for key in (name, "low", "high"))
    shown = [f"{scale * number:{spec}}" for number in (value, low, high) if number is not None]
    figure = f"{shown[0]} [{shown[1]}, {shown[2]}]{unit}" if len(shown) == 3 else "no interval"
    n = f"{entry['n']:,} {of}" if "n" in entry else ""
    return Part(about, figure, asked, entry["verdict"], n, entry.get("seeds", seeds), counts, value, low, high)


def _seeds(content: Content) -> int:
    """How many seeds the rows have."""
    return len({row["seed"] for row in content["rows"] if "seed" in row})


def _made_by(rows: Iterable[Content]) -> list[int]:
    return sorted({row["provenance"] for row in rows})
