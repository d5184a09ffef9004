"""The experiments on ViLex: their verdicts on made-up rows, and each whole at smoke size behind one base."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vislex.benchmarks import encoder_gain, text_free_guidance, token_portability, vilex_base, vilex_tokens
from vislex.benchmarks.claims import judge_claims, page
from vislex.benchmarks.gain_arms import ARMS, CONTINUED, PIXELS, RANDOM, UNTOUCHED, VILEX, shuffled_t2i
from vislex.benchmarks.gain_arms import claims as gain_claims
from vislex.benchmarks.gain_arms import conclude as conclude_gain
from vislex.benchmarks.row_file import RowFile
from vislex.benchmarks.token_claims import (
    EMPTY,
    TAIL_DROP,
    budgets_by_objects,
    claims,
    conclude,
    factor_budgets,
    needed,
)
from vislex.benchmarks.verdicts import NOT_TESTABLE, TESTABLE, all_of
from vislex.benchmarks.vilex_experiment import NEVER_NAMED, Base
from vislex.diffusion.t2i import load_t2i
from vislex.errors import ConfigError, DataError
from vislex.metrics.factors import FACTORS
from vislex.provenance import collect
from vislex.recipes.obedience import Prompts
from vislex.vilex import ViLex

GOOD = Base("reader", "siglip-tiny", "t2i", TESTABLE)
POOR = Base("reader", "siglip-tiny", "t2i", NOT_TESTABLE)
N = 200


@pytest.mark.parametrize(
    ("concept", "background", "real", "verdict"),
    [
        (0.6, 0.9, 0.97, TESTABLE),
        (0.59, 1.0, 1.0, NOT_TESTABLE),
        (1.0, 0.89, 1.0, NOT_TESTABLE),
        (1, 1, 0.96, NOT_TESTABLE),
    ],
)
def test_the_base_is_testable_at_its_thresholds(concept: float, background: float, real: float, verdict: str) -> None:
    def hits(share: float) -> list[float]:
        return [float(i < round(100 * share)) for i in range(100)]

    drawn = {"kind": "drawn scenes", "per_image": {"concept": hits(concept), "background": hits(background)}}
    checks, found = vilex_base.conclude([{"kind": "real scenes", "per_image": {"concept": hits(real)}}, drawn])
    assert found == verdict
    assert len(checks) == 3
    assert all(check["low"] <= check["share"] <= check["high"] for check in checks)


def test_a_verdict_of_parts() -> None:
    assert all_of(["holds", "holds"]) == "holds"
    assert all_of(["holds", "inconclusive"]) == "inconclusive"
    assert all_of(["inconclusive", "does not hold"]) == "does not hold"
    assert all_of(["holds", "not tested"]) == "not tested"
    assert all_of([]) == "not tested"


def test_needed_tokens_are_interpolated() -> None:
    gains = np.array([[0.5, 1.0, 1.0], [0.95, 1.0, 1.0], [0.0, 0.8, 1.0], [0.0, 0.0, 0.0]])
    assert needed([1, 2, 4], gains).tolist() == pytest.approx([2**0.8, 1.0, 2**1.5, np.nan], nan_ok=True)


def rung(arm: str, tokens: int | None, loss: np.ndarray, never: float, *, discrete: bool = False) -> dict[str, Any]:
    draws = np.random.default_rng(len(arm))
    read = {name: (draws.random(N) < (never if name in NEVER_NAMED else 0.5)).astype(float) for name in FACTORS}
    return {"arm": arm, "tokens": tokens, "discrete": discrete, "per_image": {"loss": loss, **read}, "scores": {}}


def ladder(*, cost: float = 1.01, text: float = 0.8) -> tuple[list[dict[str, Any]], list[int]]:
    """TailDrop whose loss falls the longer, the more objects there are; a text, and models for a budget each."""
    draws = np.random.default_rng(0)
    objects = np.arange(N) % 4 + 1
    shared = 1 + 0.05 * draws.random(N)
    told = {k: shared - 0.5 * (1 - 2.0 ** (-1.6 * k / objects)) for k in (1, 2, 4, 8, 16)}
    rows = [rung(EMPTY, None, shared, 0.1), rung("true caption", None, text * shared, 0.2, discrete=True)]
    rows += [rung(TAIL_DROP, k, loss, 0.3 + 0.03 * k) for k, loss in told.items()]
    rows += [rung(f"trained with {k}", k, told[k] / cost, 0.5) for k in (1, 16)]
    return rows, objects.tolist()


def test_claims_on_tokens_hold_and_fail() -> None:
    rows, objects = ladder(text=0.95)
    found = claims(rows, objects, GOOD)
    assert conclude(found) == {
        "the loss falls with tokens": "holds",
        "more objects need more tokens": "holds",
        "TailDrop costs little": "holds",
        "one continuous token beats every text": "holds",
    }
    assert sum(entry["claim"] == "the loss falls with tokens" for entry in found) == 4
    dear, better = ladder(cost=1.03, text=0.5)[0], claims(ladder(cost=1.03, text=0.5)[0], objects, GOOD)
    assert (
        conclude(better)["TailDrop costs little"] == "does not hold"
    )  # above 2 % with all tokens, not above 5 % with 1
    assert [e["verdict"] for e in better if e["claim"] == "TailDrop costs little"] == ["holds", "does not hold"]
    assert conclude(better)["one continuous token beats every text"] == "does not hold"
    assert set(conclude(claims(dear, objects, POOR)).values()) == {NOT_TESTABLE}
    same = [row | {"per_image": rows[2]["per_image"]} if row["arm"] == TAIL_DROP else row for row in rows]
    flat = conclude(claims(same, objects, GOOD))
    assert flat["the loss falls with tokens"] == "inconclusive"
    assert flat["more objects need more tokens"] == "inconclusive"


def test_tables_by_objects_and_factors() -> None:
    rows, objects = ladder()
    groups = budgets_by_objects(rows, objects)
    by_count = [next(row["needed"] for row in groups if row["objects"] == count) for count in (1, 2, 3, 4)]
    assert by_count == sorted(by_count)
    assert {row["share"] for row in groups if row["tokens"] == 16} == {1.0}
    factors = factor_budgets(rows)
    assert {entry["factor"] for entry in factors} == set(FACTORS)
    assert [entry["needed"] for entry in factors if entry["needed"]] == sorted(
        e["needed"] for e in factors if e["needed"]
    )


def test_claims_on_encoders_need_both_rivals_and_every_probe() -> None:
    def row(arm: str, factor: str, low: float, probe: str = "linear") -> dict[str, Any]:
        ends = {"low": low, "difference": low + 0.01, "high": low + 0.02}
        facts = {"minimal detectable effect": 0.01, "n": 9, "seeds": 1}
        return {"encoder": arm, "probe": probe, "factor": factor, **ends, **facts}

    both = {rival: [row(VILEX, "never named", 0.06), row(VILEX, "concept", -0.02)] for rival in (UNTOUCHED, CONTINUED)}
    found = gain_claims({**both, RANDOM: [row(VILEX, "never named", -0.05)]}, GOOD)
    verdicts = conclude_gain(found, ["linear"])
    assert verdicts == {
        "ViLex: never named above +5%": "holds",
        "ViLex: concept above -1%": "inconclusive",
        "the text-to-image model's knowledge matters": "does not hold",
    }
    assert conclude_gain(found, ["linear", "knn"])["ViLex: never named above +5%"] == "not tested"
    alone = gain_claims({UNTOUCHED: both[UNTOUCHED]}, GOOD)
    assert conclude_gain(alone, ["linear"])["ViLex: never named above +5%"] == "not tested"
    assert {entry["verdict"] for entry in gain_claims(both, POOR)} == {NOT_TESTABLE}


def test_prompts_ask_for_what_is_not_there() -> None:
    item = {"concept": "apple", "position": "left", "size": "small", "artist": "openmoji"}
    record = {"background": "red", "objects": [item]}
    made = text_free_guidance.tasks(Prompts(["", ""], [record, record], []))
    assert len(made) == 12
    assert {task.subject for task in made} == {0, 1}
    for task in made:
        found = task.wanted if task.factor == "background" else task.wanted["objects"][0]
        assert found[task.factor] != (record if task.factor == "background" else item)[task.factor]
        assert "apple" not in task.prompt
        assert task.named.startswith("a")
        assert "apple" in task.named
    assert len({task.prompt for task in made[:6]}) == 6
    assert record == {"background": "red", "objects": [item]}


def test_slopes_of_guidance_decide() -> None:
    weights, subjects = [0.0, 1.0, 2.0], [0, 0, 1, 1, 2, 2]
    noise = np.random.default_rng(0).normal(0, 0.01, (3, 6))
    rising, falling = (np.array(weights)[:, None] * slope + noise for slope in (0.2, -0.1))
    assert text_free_guidance.slopes(weights, rising - noise, subjects).tolist() == pytest.approx([0.2] * 3)

    def rows(compliance: np.ndarray, identity: np.ndarray) -> list[dict[str, Any]]:
        per_image = [
            {"compliance": c.tolist(), "identity": i.tolist()} for c, i in zip(compliance, identity, strict=True)
        ]
        found = [{"w": w, "subjects": subjects, "per_image": own} for w, own in zip(weights, per_image, strict=True)]
        return [*found, {"w": None, "subjects": subjects, "per_image": per_image[0]}]

    found = text_free_guidance.claims(rows(rising, falling), GOOD)
    assert text_free_guidance.conclude(found) == "holds"
    assert text_free_guidance.conclude(text_free_guidance.claims(rows(rising, rising), GOOD)) == "does not hold"
    assert text_free_guidance.conclude(text_free_guidance.claims(rows(rising, falling), POOR)) == NOT_TESTABLE


def portable(kept: float) -> list[dict[str, Any]]:
    """Two denoisers told in four ways: A reads 0.8 with all tokens, B ``kept`` of that."""
    rows = []
    for denoiser, share in ((token_portability.A, 1.0), (token_portability.B, kept)):
        for told, tokens, read in (("empty prompt", None, 0.2), ("true caption", None, 0.7), ("1 tokens", 1, 0.5),
                                   ("16 tokens", 16, 0.8)):  # fmt: skip
            hits = [float(i < round(100 * share * read)) for i in range(100)]
            row = {"denoiser": denoiser, "told": told, "tokens": tokens, "per_image": dict.fromkeys(FACTORS, hits)}
            rows.append(row)
    return rows


def test_another_denoiser_is_held_to_what_the_first_reads() -> None:
    found = {entry["about"]: entry for entry in token_portability.claims(portable(0.95), GOOD)}
    assert list(found) == [
        "all factors, true caption: B / A", "all factors, 1 tokens: B / A", "all factors, 16 tokens: B / A",
        "all factors above the empty prompt, 16 tokens: B / A",
    ]  # fmt: skip
    decisive = found["all factors, 16 tokens: B / A"]
    assert [entry["decides"] for entry in found.values()].count(True) == 1
    assert (decisive["decides"], decisive["verdict"], decisive["ratio"]) == (True, "holds", 0.95)
    above = found["all factors above the empty prompt, 16 tokens: B / A"]
    assert above["ratio"] == pytest.approx((0.76 - 0.19) / (0.8 - 0.2))
    poor = token_portability.claims(portable(0.5), GOOD)
    assert {entry["verdict"] for entry in poor if entry["decides"]} == {"does not hold"}
    assert {entry["verdict"] for entry in token_portability.claims(portable(0.95), POOR)} == {NOT_TESTABLE}


def stated(folder: Path, ids: str) -> dict[str, str]:
    """Verdicts of the page of claims, by the letter of an experiment's claims."""
    judged = judge_claims(folder)
    assert page(judged)
    return {entry.claim.id: entry.finding.verdict for entry in judged if entry.claim.id.startswith(ids)}


def test_the_page_of_claims_reads_base_and_tokens(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "vilex_base.json", "vilex_base", collect(device="cpu"))
    hits = [float(i < 90) for i in range(100)]
    for kind, seed in (("real scenes", {}), ("drawn scenes", {"seed": 0})):
        file.row({"kind": kind, **seed}, lambda: {"per_image": {"concept": hits, "background": hits}})
    assert stated(tmp_path, "E0") == {"E0": "not measured"}
    checks, found = vilex_base.conclude(file.rows)
    file.conclude(checks=checks, verdict=found)
    assert stated(tmp_path, "E0") == {"E0": NOT_TESTABLE}
    assert "**not testable** · 90.0 [" in page(judge_claims(tmp_path))  # the real scenes' concept, not what is reached

    rows, objects = ladder(cost=1.03)
    tokens = RowFile(tmp_path / "vilex_tokens.json", "vilex_tokens", collect(device="cpu"))
    for row in rows:
        per_image = {name: np.asarray(values).tolist() for name, values in row["per_image"].items()}
        identity = {name: row[name] for name in ("arm", "tokens", "discrete")} | {"seed": 0}
        tokens.row(identity, lambda per_image=per_image: {"per_image": per_image})
    assert set(stated(tmp_path, "E1").values()) == {"not measured"}
    for base, told in ((GOOD, ("holds", "measured")), (POOR, (NOT_TESTABLE, NOT_TESTABLE))):
        pairs = claims(tokens.rows, objects, base)
        tokens.conclude(claims=pairs, verdicts=conclude(pairs), factors=factor_budgets(tokens.rows), base=base.verdict)
        verdicts = stated(tmp_path, "E1")
        assert verdicts.pop("E1e") == told[1]
        assert verdicts["E1a"] == told[0]
        assert verdicts == dict(zip(verdicts, conclude(pairs).values(), strict=True))
    tokens.conclude(claims=(pairs := claims(tokens.rows, objects, GOOD)), verdicts=conclude(pairs))
    told = next(entry for entry in judge_claims(tmp_path) if entry.claim.id == "E1c").finding
    assert told.verdict == "does not hold"
    assert told.deciding is not None
    assert told.deciding.about == "loss of TailDrop at 16 / trained with 16"
    assert told.deciding.figure.startswith("1.030 [")
    assert told.deciding.seeds == 1


def test_the_page_of_claims_reads_encoders_and_guidance(tmp_path: Path) -> None:
    def row(arm: str, factor: str, low: float) -> dict[str, Any]:
        ends = {"low": low, "difference": low + 0.01, "high": low + 0.02, "minimal detectable effect": 0.01}
        return {"encoder": arm, "probe": "linear", "factor": factor, **ends, "n": 9, "seeds": 2}

    gains = [row(VILEX, "never named", 0.06), row(VILEX, "sometimes named", 0.02), row(VILEX, "concept", -0.04)]
    against = {UNTOUCHED: gains, CONTINUED: gains, RANDOM: gains[:1], PIXELS: [row(VILEX, "never named", -0.01)]}
    found = gain_claims(against, GOOD)
    gain = RowFile(tmp_path / "encoder_gain.json", "encoder_gain", collect(device="cpu"))
    gain.row({"arm": VILEX}, dict)
    assert set(stated(tmp_path, "E2").values()) == {"not measured"}
    gain.conclude(claims=found, verdicts=conclude_gain(found, ["linear"]))
    assert stated(tmp_path, "E2") == {
        "E2a": "does not hold", "E2b": "not measured", "E2c": "holds", "E2d": "inconclusive",
    }  # fmt: skip
    assert "**does not hold** · -3.0 [-4.0, -2.0] points · 9 images · training seeds: 2" in page(judge_claims(tmp_path))

    guidance = RowFile(tmp_path / "text_free_guidance.json", "text_free_guidance", collect(device="cpu"))
    subjects, weights = [0, 0, 1, 1], [0.0, 1.0, 2.0]
    for w in weights:
        values = {"compliance": [0.1 + 0.2 * w] * 4, "identity": [0.9 - 0.1 * w] * 4}
        guidance.row({"w": w, "seed": 0}, lambda values=values: {"subjects": subjects, "per_image": values})
    assert stated(tmp_path, "E8") == {"E8a": "not measured", "E8b": "not measured"}
    slopes = text_free_guidance.claims(guidance.rows, GOOD)
    guidance.conclude(claims=slopes, verdict=text_free_guidance.conclude(slopes))
    assert stated(tmp_path, "E8") == {"E8a": "holds", "E8b": "not measured"}
    assert "+20.00 [+20.00, +20.00] points · 2 subjects · training seeds: 1" in page(judge_claims(tmp_path))

    portability = RowFile(tmp_path / "token_portability.json", "token_portability", collect(device="cpu"))
    for row in portable(0.95):
        portability.row({**row, "per_image": None, "seed": 0}, lambda row=row: {"per_image": row["per_image"]})
    pairs = token_portability.claims(portable(0.95), GOOD)
    assert stated(tmp_path, "E8b") == {"E8b": "not measured"}
    portability.conclude(claims=pairs, verdict="holds")
    told = next(entry for entry in judge_claims(tmp_path) if entry.claim.id == "E8b").finding
    assert (told.verdict, told.deciding.about) == ("holds", "all factors, 16 tokens: B / A")
    assert told.deciding.figure.startswith("0.950 [")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, cache_in: Callable[[Path], str]) -> Iterator[tuple[Path, list[str]]]:
    """Where a base was made, and the words with which the other experiments find it."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("vilex")
        patch.setenv("VISLEX_CACHE", cache_in(folder))
        vilex_base.main(["--smoke", "--out", str(folder / "base.json"), "--folder", str(folder / "runs")])
        yield folder, ["--smoke", "--base", str(folder / "base.json"), "--folder", str(folder / "runs")]


def test_the_base_is_made_once(runs: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, _ = runs
    first = json.loads((folder / "base.json").read_text())
    assert first["verdict"] == NOT_TESTABLE
    assert Base.read(folder / "base.json").t2i == first["parts"]["t2i"]
    assert (folder / "base.png").stat().st_size > 5_000
    given = [f"--{name}={first['parts'][name]}" for name in ("reader", "t2i")]
    vilex_base.main(["--smoke", "--json", "--out", str(folder / "base.json"), *given])
    printed = json.loads(capsys.readouterr().out)
    assert printed["parts"] == first["parts"]
    assert json.loads((folder / "base.json").read_text())["rows"] == first["rows"]
    with pytest.raises(DataError, match="run 'python -m vislex"):
        Base.read(folder / "none.json")


def test_tokens_run_and_go_on(runs: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = runs
    out = folder / "tokens.json"
    vilex_tokens.main([*words, "--out", str(out)])
    content = json.loads(out.read_text())
    told = [(row["arm"], row["tokens"]) for row in content["rows"]]
    assert told == [
        ("original", None), (EMPTY, None), ("true caption", None), ("a captioner's caption", None), ("De-Diffusion", 4),
        ("De-Diffusion, read as text", None), ("snapped to words", 1), ("snapped to words", 4), (TAIL_DROP, 1),
        (TAIL_DROP, 4), ("trained with 4", 4), ("trained with 1", 1), ("past the text encoder", 1),
        ("past the text encoder", 4),
    ]  # fmt: skip
    losses = [row["scores"]["loss"] for row in content["rows"][1:] if not row["arm"].endswith("read as text")]
    assert len(set(losses)) == len(losses)
    bits = {(row["arm"], row["tokens"]): row["bits"] for row in content["rows"]}
    assert bits[TAIL_DROP, 4] == 4 * bits[TAIL_DROP, 1] == 4 * 16 * 16
    assert 0 < bits["De-Diffusion", 4] < bits[TAIL_DROP, 4]
    assert set(content["verdicts"].values()) == {NOT_TESTABLE}
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "tokens that reach 90 % of the plateau" in capsys.readouterr().out
    fewer = ["--rivals", "past the text encoder", "--fixed", "4", "--captioner", "null", "--no-snap"]
    trained = [
        made for name in ("TailDrop", "trained", "past", "De-Diff") for made in (folder / "runs").glob(f"{name}*")
    ]
    assert len(trained) == 5
    for made in trained:
        made.rename(made.with_name(f"moved {made.name}"))
    vilex_tokens.main([*words, "--out", str(out), "--json", *fewer])  # nothing is measured again, nor trained
    assert not [made for made in trained if made.exists()]
    for made in trained:
        made.with_name(f"moved {made.name}").rename(made)
    left = json.loads(capsys.readouterr().out)
    assert {line["arm"] for line in left["table"]} == {
        "original", EMPTY, "true caption", TAIL_DROP, "trained with 4", "past the text encoder",
    }  # fmt: skip
    assert json.loads(out.read_text())["rows"] == content["rows"]
    vilex_tokens.main([*words, "--out", str(out), "--json", "--no-snap"])
    arms = [line["arm"] for line in json.loads(capsys.readouterr().out)["table"]]
    assert arms == [arm for arm, _ in told if arm != "snapped to words"]
    vilex_tokens.main([*words, "--out", str(out), "--json"])
    assert json.loads(capsys.readouterr().out)["verdicts"] == content["verdicts"]
    assert json.loads(out.read_text())["rows"] == content["rows"]
    with pytest.raises(ConfigError, match="must ascend"):
        vilex_tokens.main([*words, "--budgets", "1,3"])


@pytest.mark.slow
def test_encoders_run_and_go_on(runs: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = runs
    out = folder / "gain.json"
    arms = [UNTOUCHED, CONTINUED, VILEX, RANDOM, PIXELS]
    vilex_words = [*words, "--out", str(out), "--arms", ",".join(arms)]
    encoder_gain.main(vilex_words)
    content = json.loads(out.read_text())
    retrieved = {(row["arm"], row["head"]): row for row in content["rows"] if row.get("kind") == "retrieval"}
    assert set(retrieved) == {(arm, head) for arm in arms for head in ("as it is", "re-tuned")}
    assert len({row["sha256"] for row in retrieved.values()}) == len(retrieved)
    assert {entry["rival"] for entry in content["claims"]} == {UNTOUCHED, CONTINUED, RANDOM, PIXELS}
    assert set(content["verdicts"].values()) == {NOT_TESTABLE}
    assert out.with_suffix(".png").stat().st_size > 10_000
    capsys.readouterr()
    encoder_gain.main([*vilex_words, "--json"])
    assert json.loads(capsys.readouterr().out)["verdicts"] == content["verdicts"]
    assert json.loads(out.read_text())["rows"] == content["rows"]
    with pytest.raises(ConfigError, match=f"Arms are {ARMS[0]}"):
        encoder_gain.main([*words, "--arms", "vilex"])


def test_a_shuffled_model_keeps_its_scales_and_loses_what_it_knew(runs: tuple[Path, list[str]], tmp_path: Path) -> None:
    source = Base.read(runs[0] / "base.json").t2i
    folder = shuffled_t2i(source, tmp_path / "t2i", 0)
    before, after = (load_t2i(place).denoiser.state_dict() for place in (source, folder))
    weights = [name for name, value in before.items() if value.ndim > 1 and value.float().std() > 0]
    for name in weights:
        torch.testing.assert_close(before[name].flatten().sort().values, after[name].flatten().sort().values)
    assert any(not torch.equal(before[name], after[name]) for name in weights)


def test_guidance_runs_and_goes_on(runs: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    folder, words = runs
    out = folder / "guidance.json"
    text_free_guidance.main([*words, "--out", str(out)])
    content = json.loads(out.read_text())
    assert [point["w"] for point in content["curve"]] == [0.0, 1.5, None]
    assert all(len(row["per_image"]["compliance"]) == 12 for row in content["rows"])
    assert content["verdict"] == NOT_TESTABLE
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "identity for compliance: not testable" in capsys.readouterr().out
    [given] = (folder / "runs").glob("TailDrop-*")  # one training for both experiments
    assert ViLex.from_pretrained(given).encoder.config.n_tokens == 4
    text_free_guidance.main(
        [*words, "--out", str(out), "--model", str(given), "--json"]
    )  # the same model: all is there
    assert json.loads(capsys.readouterr().out)["curve"] == content["curve"]
    assert json.loads(out.read_text())["rows"] == content["rows"]
    with pytest.raises(ConfigError, match="must ascend"):
        text_free_guidance.main([*words, "--weights", "1,0"])


def test_portability_runs_and_goes_on(
    runs: tuple[Path, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, words = runs
    out = folder / "portability.json"
    token_portability.main([*words, "--out", str(out)])
    content = json.loads(out.read_text())
    told = ["true caption", "empty prompt", "1 tokens", "4 tokens"]
    assert [(row["denoiser"], row["told"]) for row in content["rows"]] == [
        (denoiser, way) for denoiser in (token_portability.A, token_portability.B) for way in told
    ]
    losses = [row["scores"]["loss"] for row in content["rows"]]
    assert len(set(losses)) == len(losses)
    assert content["verdict"] == NOT_TESTABLE
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "another denoiser reads the tokens: not testable" in capsys.readouterr().out
    [given] = (folder / "runs").glob("TailDrop-*")  # one training for all experiments
    [other] = (folder / "runs").glob("other-denoiser-*")
    token_portability.main([*words, "--out", str(out), f"--model={given}", f"--other={other}", "--json"])
    assert json.loads(capsys.readouterr().out)["verdict"] == NOT_TESTABLE
    assert json.loads(out.read_text())["rows"] == content["rows"]
    stranger = load_t2i(other)
    with torch.no_grad():
        next(stranger.text_encoder.parameters()).add_(1.0)
    stranger.save_pretrained(tmp_path)
    with pytest.raises(DataError, match="another text encoder than denoiser A"):
        token_portability.main([*words, "--out", str(out), f"--other={tmp_path}"])
    with pytest.raises(ConfigError, match="must ascend"):
        token_portability.main([*words, "--budgets", "4,1"])
