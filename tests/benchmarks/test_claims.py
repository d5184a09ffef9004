"""The page of claims: the committed one, and what each reader makes of small result files that its benchmark wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vislex.benchmarks.against_ar_tables import verdicts
from vislex.benchmarks.claim_records import CLAIMS
from vislex.benchmarks.claims import NOT_MEASURED, Judged, judge_claims, main, page
from vislex.benchmarks.crossing import CLOCKS, crossings
from vislex.benchmarks.ladic_arms import CLAIMS as SAMPLING
from vislex.benchmarks.ladic_arms import judge
from vislex.benchmarks.latent_arms import MIDDLE, RIVALS, compare_arms, conclude, scene_scores
from vislex.benchmarks.results import Results, ResultsFile
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.vlm_encoder_pairs import JUDGED, PATCHES
from vislex.benchmarks.vlm_encoder_pairs import conclude as vlm_conclude
from vislex.errors import DataError
from vislex.provenance import collect

NOISE = np.random.default_rng(0).normal(0, 0.05, 200)
BASE = np.random.default_rng(1).uniform(0.5, 1.5, 200)


def row_file(folder: Path, benchmark: str) -> RowFile:
    return RowFile(folder / f"{benchmark}.json", benchmark, collect(device="cpu"))


def judged(folder: Path, claim: str) -> Judged:
    return next(entry for entry in judge_claims(folder) if entry.claim.id == claim)


def verdict(folder: Path, claim: str) -> str:
    return judged(folder, claim).finding.verdict


def section(folder: Path, claim: str) -> str:
    (found,) = re.findall(rf"(?ms)^## {claim}\. .*?(?=^## |\Z)", page(judge_claims(folder)))
    return found


def test_the_committed_page_is_what_the_result_files_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err
    entries = judge_claims()
    assert {entry.claim.id.rstrip("abcde") for entry in entries} == {f"E{n}" for n in range(9)} | {
        f"R{n}" for n in range(1, 5)
    }
    assert {entry.finding.verdict for entry in entries if entry.claim.id in ("R1", "E7a")} <= {
        "holds", "does not hold", "measured",
    }  # fmt: skip
    against_ar = next(entry for entry in entries if entry.claim.id == "E4a")
    assert all("ladic_against_ar" in command for command in against_ar.commands)
    assert any("torch 2" in line for line in against_ar.environments)


def test_without_files_nothing_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "claims.md"
    assert main(["--results", str(tmp_path / "none"), "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [entry["id"] for entry in found] == [claim.id for claim in CLAIMS]
    assert {entry["verdict"] for entry in found} == {NOT_MEASURED}
    text = out.read_text()
    assert f"{len(CLAIMS)} claims: {len(CLAIMS)} not measured" in text
    for claim in CLAIMS:
        assert claim.criterion in text
        assert claim.change in text
        assert claim.file is None or f"`benchmarks/results/{claim.file}`: not there yet" in text
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    anchors = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert re.findall(r"^\| \[\w+\]\(#(.*?)\)", text, flags=re.MULTILINE) == anchors
    assert len(set(anchors)) == len(CLAIMS)


def test_a_stale_page_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--results", str(tmp_path), "--out", str(tmp_path / "claims.md")]
    assert main([*words, "--check"]) == 1
    assert not (tmp_path / "claims.md").exists()
    assert main(words) == 0
    assert main([*words, "--check"]) == 0
    caching(tmp_path)
    capsys.readouterr()
    assert main([*words, "--check"]) == 1
    assert re.fullmatch(r"error: .*claims.md is not what the result files give; run .*\n", capsys.readouterr().err)
    assert main(["--results", str(tmp_path), "--out", str(tmp_path / "none" / "claims.md")]) == 1
    assert "give --out FILE" in capsys.readouterr().err


def test_a_file_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row_file(tmp_path, "ladic_latency").conclude(crossings={})
    (tmp_path / "ladic_latency.json").rename(tmp_path / "ladic_sampling.json")
    with pytest.raises(DataError, match="holds results of 'ladic_latency', not of 'ladic_sampling'"):
        judge_claims(tmp_path)
    (tmp_path / "ladic_sampling.json").write_text('{"rows": [')
    assert main(["--results", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def against_ar(folder: Path, share: float, seeds: Iterable[int] = (0,), style: str = "lossy") -> RowFile:
    """LaDiC at a share of the score of ``prefix``."""
    file = row_file(folder, "ladic_against_ar")
    for arm, scores in (("prefix", BASE), ("ladic", share * BASE)):
        for seed in seeds:
            shared = {"style": style, "arm": arm, "seed": seed}
            made = file.row({"kind": "training", **shared}, lambda: {"curve": [0.9, 0.9]})
            assert made is not None
            for split in ("val", "test_composition"):
                values = {"scores": {"CIDEr-D": float(scores.mean())}, "per_image": {"CIDEr-D": scores.tolist()}}
                where = {"kind": "captions", **shared, "way": "8 steps", "split": split, "training": made["key"]}
                file.row(where, lambda values=values: values)
    return file


def test_ladic_against_autoregression(tmp_path: Path) -> None:
    file = against_ar(tmp_path, 0.8)
    assert verdict(tmp_path, "E4a") == NOT_MEASURED  # half-finished: the better rival is not known yet
    assert "no conclusion on this claim yet" in section(tmp_path, "E4a")
    file.conclude(verdicts=verdicts(file.rows))
    text = section(tmp_path, "E4a")
    assert "**does not hold** · 0.800 [0.800, 0.800] · 200 images · training seeds: 1 of 3" in text
    assert f"Python {collect()['python']}" in text
    assert f"torch {collect()['packages']['torch']}" in text
    assert "best of equal samples" in text.partition("beside, not counting")[2]
    assert verdict(tmp_path, "E4b") == NOT_MEASURED
    dense = against_ar(tmp_path, 0.97, seeds=(0, 1, 2), style="dense")
    rows = [row for row in dense.rows if row["style"] == "dense"]
    dense.conclude(verdicts=[*verdicts(file.rows[:6]), *verdicts(rows)])
    assert verdict(tmp_path, "E4b") == "holds"
    assert "training seeds: 3\n" in section(tmp_path, "E4b")
    file.conclude(verdicts=[{**entry, "verdict": "void", "reasons": ["it rises"]} for entry in verdicts(file.rows[:6])])
    assert "Void or open because: it rises." in section(tmp_path, "E4a")


def test_latent_spaces(tmp_path: Path) -> None:
    file = row_file(tmp_path, "ladic_latent_space")

    def add(arm: str, mean: float) -> None:
        values = {"per_image": {"scene-F1": (BASE + mean + NOISE).tolist()}}
        file.row({"kind": "captions", "arm": arm, "seed": 0}, lambda: values)

    add(MIDDLE, 0.6)
    assert verdict(tmp_path, "E5") == NOT_MEASURED
    add(RIVALS[0], 0.5)
    assert verdict(tmp_path, "E5") == "not tested"
    add(RIVALS[1], 0.4)
    add("layer 6", 0.7)
    before = judged(tmp_path, "E5").finding
    assert (before.verdict, [part.counts for part in before.parts]) == ("holds", [True, True, False])
    pairs = compare_arms(scene_scores(file.rows))
    file.conclude(pairs=pairs, verdict=conclude(pairs))
    assert judged(tmp_path, "E5").finding == before
    assert "+10.00 [+10.00, +10.00] scene-F1 x 100 · 200 images · training seeds: 1 of 2" in section(tmp_path, "E5")


def test_sampling(tmp_path: Path) -> None:
    file = row_file(tmp_path, "ladic_sampling")

    def add(arm: str, mean: float, seed: int = 0, model: str = "new") -> None:
        scores = BASE + mean + np.random.default_rng([len(arm), seed]).normal(0, 0.01, len(BASE))
        values = {"evaluations": 45.0, "per_image": {"CIDEr-D": scores.tolist()}}
        file.row({"model": model, "data": "d", "n": len(BASE), "arm": arm, "seed": seed}, lambda: values)

    for sampler in ("renoise", "dpmsolver++"):
        add(f"{sampler} 15+30 back&refine", -0.1, model="old")
        add(f"{sampler} 45", 0.0, model="old")
    assert verdict(tmp_path, "E6") == "does not hold"
    file = RowFile(file.path, "ladic_sampling", collect(device="cpu") | {"command": "of the new model"})
    for seed in (0, 1):
        add("renoise 45", 0.0, seed)
        add("renoise 15+30 back&refine", 0.1, seed)
    assert verdict(tmp_path, "E6") == "not tested"  # the last model has one sampler of two
    add("dpmsolver++ 45", 0.0)
    add("dpmsolver++ 15+30 back&refine", 0.2)
    add("renoise 5x9 consensus", -0.2)
    finding = judged(tmp_path, "E6").finding
    assert finding.verdict == "holds"
    assert [(part.counts, part.seeds, part.verdict) for part in finding.parts] == [
        (True, 2, "holds"), (True, 1, "holds"), (False, 1, "does not hold"),
    ]  # fmt: skip
    assert "sampling seeds: 2 of 3" in section(tmp_path, "E6")
    assert judged(tmp_path, "E6").commands == ("of the new model",)
    file.conclude(claims=judge([row for row in file.rows if row["model"] == "new"]))
    assert judged(tmp_path, "E6").finding == finding


def test_few_steps_must_hold_against_all(tmp_path: Path) -> None:
    file = row_file(tmp_path, "ladic_sampling")
    rows = [
        {"arm": arm, "seed": 0, "evaluations": 8.0, "per_image": {"CIDEr-D": (share * BASE).tolist()}}
        for arm, share in (
            ("dpmsolver++ 8", 0.98), ("dpmsolver++ 30", 1.0), ("dpmsolver++ 60 guided", 0.99),
            ("renoise 60 guided", 1.1),
        )
    ]  # fmt: skip
    file.conclude(claims=judge(rows[:3], SAMPLING))
    assert verdict(tmp_path, "R2") == "not tested"
    file.conclude(claims=judge(rows, SAMPLING))
    text = section(tmp_path, "R2")
    assert "**does not hold** · -" in text  # of three parts that which fails is shown
    assert text.count("- 0.97 x ") == 3


def test_crossing_points(tmp_path: Path) -> None:
    file = row_file(tmp_path, "ladic_latency")
    for length in (8, 16, 24):
        seconds = {"generate": 2 * length, "greedy": length, "ladic 8": 12.0, "ladic 16": 30.0}
        values = {clock: {name: [float(value)] * 5 for name, value in seconds.items()} for clock in CLOCKS}
        shared = {"scale": "small", "dtype": "float32", "threads": 1, "batch size": 1}
        file.row({**shared, "length": length}, lambda values=values: values)
    assert verdict(tmp_path, "E7a") == NOT_MEASURED
    file.conclude(crossings={clock: crossings(file.rows, clock=clock) for clock in CLOCKS})
    finding = judged(tmp_path, "E7a").finding
    assert finding.verdict == "measured"
    assert finding.deciding is not None
    assert (finding.deciding.value, finding.deciding.n) == (12.0, "at least 5 rounds a length")
    assert "from 12.0 words on (95 %: 12.0 to 12.0)" in section(tmp_path, "E7a")
    assert "not faster than the faster autoregressive loop up to 24 words" in section(tmp_path, "E7a")
    assert verdict(tmp_path, "E7b") == NOT_MEASURED


def caching(folder: Path, ratio: float = 4.2, *, steps: int = 30, identical: bool = True) -> None:
    row: dict[str, Any] = {"steps": steps, "batch size": 1, "ratio": ratio, "cpu ratio": 4.1, "identical": identical}
    rows = [{"scope": scope, **row} for scope in ("from pixels", "from features")]
    made = {"benchmark": "ladic_caching", "provenance": collect(config={"runs": 3}), "rows": rows}
    (folder / "ladic_caching.json").write_text(json.dumps(made))


def test_caching(tmp_path: Path) -> None:
    caching(tmp_path)
    assert "**holds** · 4.2 times as fast (CPU time 4.1), no interval" in section(tmp_path, "R1")
    caching(tmp_path, 3.9)
    assert verdict(tmp_path, "R1") == "does not hold"
    caching(tmp_path, identical=False)
    assert "**does not hold** · 4.2 times as fast (CPU time 4.1), no interval, the captions differ" in section(
        tmp_path, "R1"
    )
    caching(tmp_path, steps=8)
    assert verdict(tmp_path, "R1") == NOT_MEASURED


def test_encoders_in_a_captioner(tmp_path: Path, results: Results) -> None:
    file = ResultsFile(tmp_path / "encoder_downstream.json")
    (data,) = results.data.values()
    for run in results.runs:
        file.append(run.model_copy(update={"provenance": collect(device="cpu")}), data)
    assert verdict(tmp_path, "E3a") == NOT_MEASURED  # no pairs were fixed
    pairs = [["enc + prefix", "enc@untrained + prefix"], ["enc + prefix", "continued + prefix"]]
    file.set_config({"pairs": pairs[:1]})
    assert verdict(tmp_path, "E3a") == "not tested"
    file.set_config({"pairs": pairs})
    assert "enc + prefix - continued + prefix is not finished" in section(tmp_path, "E3a")
    for run in results.runs[1:4:2]:
        assert run.model.row == "enc@untrained + prefix"
        model = run.model.model_copy(update={"row": "continued + prefix"})
        file.append(run.model_copy(update={"key": f"{run.key} again", "model": model, "provenance": collect()}))
    assert verdict(tmp_path, "E3a") == "holds"
    assert "12 images · training seeds: 2 of 3" in section(tmp_path, "E3a")


def test_encoders_of_vision_language_models(tmp_path: Path) -> None:
    file = row_file(tmp_path, "vlm_encoders")

    def pairs(verdict: str) -> list[dict[str, Any]]:
        arm, interval = f"{PATCHES} + mlp", {"difference": 0.1, "low": 0.05, "high": 0.15, "n": 90, "seeds": 1}
        rivals = {"untouched": "siglip-tiny + mlp", "continued": "SigLIP continued + mlp"}
        judged = [
            {"arm": arm, "rival": rivals[role], "about": about, **interval, "verdict": verdict, "judged": [role, about]}
            for role, about in JUDGED
        ]
        others = [
            {**judged[0], "about": "naming", "verdict": "does not hold", "judged": None},
            {**judged[0], "rival": "majority answer", "judged": None},
            {**judged[0], "arm": "other + mlp", "judged": None},
        ]
        return [*others, *judged]

    file.conclude(pairs=pairs("holds")[:1], verdict="not tested")
    assert verdict(tmp_path, "E3b") == NOT_MEASURED  # without the claim's arm
    file.conclude(pairs=pairs("holds")[:-1], verdict="not tested")
    assert "an arm that the claim asks for is missing" in section(tmp_path, "E3b")
    for wanted in ("holds", "inconclusive"):
        file.conclude(pairs=pairs(wanted), verdict=vlm_conclude(pairs(wanted)))
        finding = judged(tmp_path, "E3b").finding
        assert finding.verdict == wanted
        assert [part.counts for part in finding.parts] == [False, *[True] * len(JUDGED)]
    assert "+10.00 [+5.00, +15.00] x 100 · 90 rows" in section(tmp_path, "E3b")


def test_lora_and_budgets(tmp_path: Path) -> None:
    sides = {"VQA": [0.45, 0.5], "n": 100, "seeds": 1}
    quotient = {**sides, "ratio": 0.9, "low": 0.85, "high": 0.96, "verdict": "inconclusive"}
    exact = {"about": "error of merging", "value": 2e-6, "asked": "at most", "bound": 1e-5, "seeds": 1}
    parts = [{"about": "quotient", **quotient}, {**exact, "verdict": "holds"}]
    row_file(tmp_path, "vlm_finetuning").conclude(claim=parts, verdict="inconclusive")
    text = section(tmp_path, "R3")
    assert "LoRA (VQA 45.0) / full finetuning (50.0) | 0.900 [0.850, 0.960] | lower end at least 0.95" in text
    assert "error of merging | 2e-06 | at most 1e-05 | **holds**" in text
    void = {**quotient, "tokens": 64, "ratio": None, "low": None, "high": None, "verdict": "void"}
    speed = {"batch size": 1, "tokens": 4, "answers a second": 9.0, "low": 8.0, "high": 10.0}
    pairs = [{**quotient, "tokens": 4}, void]
    row_file(tmp_path, "vlm_budgets").conclude(pairs=pairs, speeds=[speed], verdict="void")
    text = section(tmp_path, "R4")
    assert "**void** · no interval · 100 questions" in text
    assert "4 tokens, batch 1 | 9.0 answers a second, quartiles 8.0 to 10.0" in text.partition("not counting")[2]
