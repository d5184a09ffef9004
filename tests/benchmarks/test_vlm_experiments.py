"""Experiments on vision-language models: their arms, how these are paired and judged, and the whole at smoke size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vislex
from vislex.benchmarks import vlm_budgets, vlm_encoders, vlm_finetuning
from vislex.benchmarks.noninferiority import quotient
from vislex.benchmarks.summary import UNTRAINED
from vislex.benchmarks.trainings import identity
from vislex.benchmarks.vlm_encoder_pairs import CONTINUED, JUDGED, PATCHES, arm_name, conclude, encoder_pairs
from vislex.benchmarks.vlm_encoders import VlmEncodersConfig
from vislex.benchmarks.vlm_measures import BLIND, CAPTIONS, GROUPS, MAJORITY, MASK, VQA
from vislex.data.openmoji.questions import QUESTION_TYPES
from vislex.errors import ConfigError, UnknownNameError
from vislex.vilex import ViLex

N = 120
TYPES = [names[i % len(names)] for i, names in zip(range(N), [*GROUPS.values()] * N, strict=False)]


@pytest.fixture(scope="module")
def vilex(tiny_t2i: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped SigLIP with a pooling of four tokens."""
    folder = tmp_path_factory.mktemp("vilex") / "model"
    encoder = vislex.create_encoder("siglip-tiny", pretrained=True)
    ViLex.from_parts(encoder=encoder, t2i=tiny_t2i("sd15"), n_tokens=4).save_pretrained(folder)
    return folder


def measured(arm: str, gain: float, seed: int = 0, *, blind: float = 0.2) -> dict[str, Any]:
    """A row in which ``gain`` comes on top of what all arms share."""
    common = np.random.default_rng(seed).uniform(0, 0.5, N)
    per_image = {task: (common + gain).tolist() for task in (VQA, MASK, CAPTIONS)} | {BLIND: (common + blind).tolist()}
    scores = {task: float(np.mean(values)) for task, values in per_image.items()}
    return {"kind": "measured", "arm": arm, "seed": seed, "tokens": 64, "scores": scores, "per_image": per_image}


def floor() -> dict[str, Any]:
    values = {VQA: np.full(N, 0.3).tolist()}
    return {"kind": "measured", "arm": MAJORITY, "scores": {VQA: 0.3}, "per_image": values}


def test_the_questions_of_the_suite_are_grouped_whole() -> None:
    assert sorted(kind for kinds in GROUPS.values() for kind in kinds) == sorted(QUESTION_TYPES)


def test_another_encoder_is_one_changed_word(tmp_path: Path, vilex: Path) -> None:
    config = VlmEncodersConfig(vilex=vilex, vilex_budgets=[1, 4], continued="hf:x", folder=tmp_path)
    arms = config.arms()
    assert len(arms) == 2 * 7
    own = [arm for arm in arms if arm.connector == "mlp"]
    first = identity(config.align_config(own[0], tmp_path, 0))
    for arm in own[1:]:
        found = identity(config.align_config(arm, tmp_path, 0))
        changed = {name for name in first if found[name] != first[name]}
        expected = {"pretrained"} if arm.encoder.endswith(UNTRAINED) else {"encoder"}
        assert changed - {"encoder_options"} == expected
    second, last = (identity(config.sft_config(arm, None, 0, 1e-3)) for arm in (own[0], own[-1]))
    assert second == last
    tokens = [arm for arm in arms if arm.name.startswith("ViLex, ")]
    assert [arm.joining["encoder_options"] for arm in tokens[:2]] == [{"n_tokens": 1}, {"n_tokens": 4}]
    (patches, _) = (arm for arm in arms if arm.name.startswith(PATCHES))
    tower = vislex.create_encoder(patches.encoder, pretrained=True)
    assert tower.spec.n_tokens == 64
    with pytest.raises(ConfigError, match="n_tokens 16 must be 1 to 4"):
        VlmEncodersConfig(vilex=vilex, folder=tmp_path).arms()
    with pytest.raises(UnknownNameError, match="siglip-tinny"):
        VlmEncodersConfig(encoders=["siglip-tinny"]).arms()


def test_every_encoder_is_held_against_its_rivals() -> None:
    encoders = ["siglip", f"siglip{UNTRAINED}", "other", CONTINUED, PATCHES]
    gains = dict(zip(encoders, (0.4, 0.1, 0.5, 0.4, 0.6), strict=True))
    rows = [floor(), *(measured(arm_name(name, c), gains[name], s) for name in encoders for c in "mp" for s in (0, 1))]
    rows = [{**row, "arm": row["arm"].replace("+ m", "+ mlp").replace("+ p", "+ pool")} for row in rows[1:]] + rows[:1]
    pairs = encoder_pairs(rows, TYPES, encoders, ["mlp", "pool"])
    found = {(pair["arm"], pair["rival"], pair["about"]): pair for pair in pairs}
    other = found["other + mlp", f"siglip{UNTRAINED} + mlp", VQA]
    assert (other["difference"], other["seeds"], other["n"]) == (pytest.approx(0.4), 2, N)
    assert found["other + pool", "other + mlp", CAPTIONS]["verdict"] == "inconclusive"
    assert found["siglip + mlp", BLIND, "naming"]["difference"] == pytest.approx(0.2)
    assert found["siglip + mlp", BLIND, "naming"]["n"] == TYPES.count("what")
    assert ("siglip + mlp", BLIND, MASK) not in found
    mean = np.mean([np.mean(row["per_image"][VQA]) for row in rows if row["arm"] == "siglip + mlp"])
    assert found["siglip + mlp", MAJORITY, VQA]["difference"] == pytest.approx(mean - 0.3)
    assert not [pair for pair in pairs if pair["arm"] == f"siglip{UNTRAINED} + mlp" and pair["rival"] == "siglip + mlp"]
    judged = [pair for pair in pairs if pair["judged"]]
    assert {tuple(pair["judged"]) for pair in judged} == set(JUDGED)
    assert {pair["arm"] for pair in judged} == {f"{PATCHES} + mlp"}
    assert conclude(pairs) == "holds"


def test_the_claim_needs_both_rivals_and_every_group() -> None:
    encoders = ["siglip", CONTINUED, PATCHES]

    def verdict(continued: float | None, chosen: list[str] = encoders) -> str:
        gains = {"siglip": 0.1, CONTINUED: continued, PATCHES: 0.2}
        rows = [measured(f"{name} + mlp", gain) for name, gain in gains.items() if gain is not None]
        return conclude(encoder_pairs(rows, TYPES, chosen, ["mlp"]))

    assert verdict(0.1) == "holds"
    assert verdict(0.2) == "inconclusive"
    assert verdict(0.3) == "does not hold"
    assert verdict(None, ["siglip", PATCHES]) == "not tested"
    assert conclude([]) == "not tested"


def test_a_table_has_a_line_for_each_arm() -> None:
    rows = [floor(), measured("a + mlp", 0.2), measured("a + mlp", 0.2, 1), {"kind": "training", "arm": "a + mlp"}]
    first, last = vlm_encoders.table(rows, TYPES)
    assert (first["arm"], first["seeds"], last["arm"], last["seeds"]) == ("a + mlp", 2, MAJORITY, 1)
    assert last["naming"] == pytest.approx(0.3)
    answers = np.mean([row["per_image"][VQA] for row in rows[1:3]], axis=0)
    assert first["number"] == pytest.approx(answers[np.isin(TYPES, GROUPS["number"])].mean())
    assert {VQA, BLIND, MASK, CAPTIONS, *GROUPS} <= set(first)


def test_a_quotient_without_a_rival_is_void() -> None:
    scores = np.random.default_rng(0).uniform(0.4, 0.6, (2, 200))
    assert quotient(0.96 * scores, scores)["verdict"] == "holds"
    assert quotient(0.9 * scores, scores)["verdict"] == "does not hold"
    assert quotient(scores[:, ::-1], 1.04 * scores)["verdict"] == "inconclusive"
    assert quotient(scores, 0 * scores) == {"ratio": None, "low": None, "high": None, "verdict": "void"}


def adapters(share: float = 0.03, equal: int = vlm_finetuning.N_REMEMBERED, error: float = 1e-6) -> dict[str, Any]:
    shown = {"reload": {"equal": equal, "logits": 0.0}, "merge": {"equal": equal, "error": error}}
    return {"kind": "adapters", "arm": vlm_finetuning.LORA, "seed": 0, "share": share, **shown}


def test_lora_must_be_as_good_small_and_exact() -> None:
    def verdict(gain: float = 0.0, **found: Any) -> str:
        rows = [
            measured(vlm_finetuning.FULL, 0.2),
            measured(vlm_finetuning.LORA, 0.2 + gain),
            adapters(),
            adapters(**found),
        ]
        return vlm_finetuning.conclude(vlm_finetuning.parts_of_claim(rows))

    assert verdict() == "holds"
    assert verdict(-0.1) == "does not hold"
    assert verdict(share=0.05) == "does not hold"
    assert verdict(equal=vlm_finetuning.N_REMEMBERED - 1) == "does not hold"
    assert verdict(error=2e-5) == "does not hold"
    assert vlm_finetuning.conclude([]) == "not tested"
    assert vlm_finetuning.conclude([{"verdict": "holds"}, {"verdict": "void"}]) == "void"


def test_shares_and_errors_are_counted() -> None:
    parts = [{"part": "connector", "parameters": 9, "trainable": 9}, {"part": "llm", "parameters": 105, "trainable": 5}]
    assert vlm_finetuning.adapter_share(parts) == 0.05
    found, expected = torch.tensor([1.0, -20.0, 0.1]), torch.tensor([1.0, -20.2, 0.101])
    assert vlm_finetuning.merge_error(found, expected) == pytest.approx(0.2 / 20.2, rel=1e-4)


def test_each_budget_is_held_against_its_own_model() -> None:
    gains = {4: (0.2, 0.2), 64: (0.2, 0.4)}
    rows = [
        measured(name, gain, seed)
        for budget, pair in gains.items()
        for name, gain in zip((vlm_budgets.run_at(budget), vlm_budgets.trained_for(budget)), pair, strict=True)
        for seed in (0, 1)
    ]
    four, all_tokens = vlm_budgets.compare_budgets(rows, [4, 16, 64])
    assert (four["tokens"], four["ratio"], four["verdict"], four["seeds"]) == (4, 1.0, "holds", 2)
    assert all_tokens["verdict"] == "does not hold"
    assert all_tokens["difference"]["difference"] == pytest.approx(-0.2)
    speed = {"kind": "speed", "wall": {"16": {"4": [2.0, 1.0, 4.0], "64": [8.0, 8.0, 8.0]}}}
    fast, slow = vlm_budgets.speeds([*rows, speed])
    assert (fast["answers a second"], slow["answers a second"], slow["tokens"]) == (8.0, 2.0, 64)
    assert fast["low"] < 8 < fast["high"]
    table = vlm_budgets.table([four, all_tokens], [fast, slow])
    assert [entry["answers a second, batch 16"] for entry in table] == [8.0, 2.0]
    tail, first, *_ = vlm_budgets.VlmBudgetsConfig(budgets=[2, 8]).arms()
    assert (tail.joining["connector_options"], first.joining) == (
        {"n_tokens": 8}, {"connector_options": {"n_tokens": 2}},
    )  # fmt: skip
    with pytest.raises(ValueError, match="must ascend"):
        vlm_budgets.VlmBudgetsConfig(budgets=[16, 4])


def resumes(main: Any, words: list[str], out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Runs a benchmark twice and gives its file; the second time nothing is made."""
    main(words)
    content: dict[str, Any] = json.loads(out.read_text())
    capsys.readouterr()
    main([*words, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert all(printed[name] == content[name] for name in printed)
    assert json.loads(out.read_text())["rows"] == content["rows"]
    assert out.with_suffix(".png").stat().st_size > 10_000
    return content


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_in: Callable[[Path], str]) -> list[str]:
    monkeypatch.setenv("VISLEX_CACHE", cache_in(tmp_path))
    return ["--smoke", "--folder", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json")]


@pytest.mark.slow
def test_encoders_run_and_go_on(
    words: list[str], vilex: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vlm_encoders.main([*words, "--encoders", f"siglip-tiny{UNTRAINED}", "--connectors", "mlp"])
    assert "without --vilex DIR" in capsys.readouterr().out
    words += ["--vilex", str(vilex), "--encoders", "siglip-tiny"]
    content = resumes(vlm_encoders.main, words, tmp_path / "out.json", capsys)
    names = ["siglip-tiny", PATCHES, "ViLex, 1 token", "ViLex, 4 tokens"]
    tokens = {entry["arm"]: entry["tokens"] for entry in content["table"]}
    assert tokens == {
        **{arm_name(name, "mlp"): count for name, count in zip(names, (64, 64, 1, 4), strict=True)},
        **{arm_name(name, "attention_pool"): 4 for name in names},
        MAJORITY: None,
    }
    assert content["verdict"] == "not tested"  # no continued SigLIP
    kinds = {(row["kind"], row["arm"]) for row in content["rows"]}
    assert len(kinds) == len(content["rows"]) == 2 * (2 * 4 + 1) + 1


@pytest.mark.slow
def test_finetuning_runs_and_goes_on(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = resumes(vlm_finetuning.main, words, tmp_path / "out.json", capsys)
    (row,) = (row for row in content["rows"] if row["kind"] == "adapters")
    assert row["reload"] == {"equal": vlm_finetuning.N_REMEMBERED, "logits": 0.0}
    assert row["merge"]["error"] < vlm_finetuning.MERGE_TOLERANCE
    full, lora = content["table"]
    assert full["trained in the connector"] == lora["trained in the connector"]
    assert lora["trained in the llm"] < 0.05 * full["trained in the llm"]
    assert len(list((tmp_path / "runs").glob("*align*"))) == 1
    with pytest.raises(ConfigError, match=r"rank 8 trains 8,192 parameters .* allowed is less than 5%"):
        vlm_finetuning.main([*words, "--rank", "8"])


@pytest.mark.slow
def test_budgets_run_and_go_on(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = resumes(vlm_budgets.main, words, tmp_path / "out.json", capsys)
    tokens = {row["arm"]: row["tokens"] for row in content["rows"] if row["kind"] == "measured"}
    assert tokens == {"TailDrop at 1": 1, "TailDrop at 4": 4, "trained for 1": 1, "trained for 4": 4}
    assert {(entry["batch size"], entry["tokens"]) for entry in content["speeds"]} == {(1, 1), (1, 4), (2, 1), (2, 4)}
