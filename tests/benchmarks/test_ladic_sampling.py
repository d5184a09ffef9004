"""The sampling benchmark on an untrained captioner, and its verdicts on made-up scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vislex.benchmarks.caption_data import CaptionData
from vislex.benchmarks.encoded import encode
from vislex.benchmarks.ladic_arms import ARMS, CLAIMS, Claim, judge
from vislex.benchmarks.ladic_sampling import chosen_arms, main, measure
from vislex.captioner import Captioner
from vislex.decoders.ladic.sampling import SamplingConfig
from vislex.diffusion.noise import NoiseSchedule
from vislex.errors import ConfigError

SCHEDULE = NoiseSchedule.create()


def evaluations(arm: str) -> int:
    options = {name: value for name, value in ARMS[arm].items() if name != "sampling_noise_factor"}
    candidates = options.pop("num_candidates", 1)
    config = SamplingConfig(**options)
    steps = sum(map(len, config.passes(SCHEDULE)))
    return steps * candidates * (2 if config.guidance_scale else 1)


def test_arms_cost_what_their_names_say() -> None:
    for arm in ARMS:
        count = arm.split()[1].rstrip(",")
        first, plus, second = count.partition("+")
        k, times, each = count.partition("x")
        asked = int(first) + int(second) if plus else int(k) * int(each) if times else int(count)
        assert evaluations(arm) == asked, arm
    for claim in CLAIMS:
        assert {claim.arm, claim.rival} <= set(ARMS)
        if "equal evaluations" in claim.text:
            assert evaluations(claim.arm) == evaluations(claim.rival)


def test_options_reach_the_decoder_and_the_schedule_comes_back(ladic_folder: Path, data: CaptionData) -> None:
    captioner = Captioner.from_pretrained(ladic_folder).eval()
    batches = encode(captioner, data, 5)
    assert [len(vision.tokens) for vision in batches] == [5, 5, 2]
    own = captioner.decoder.sampling_schedule
    plain = measure(captioner, batches, data, {"num_inference_steps": 4, "guidance_scale": 0.0}, 0)
    assert plain["evaluations"] == 4
    assert len(plain["per_image"]["CIDEr-D"]) == len(data)
    assert measure(captioner, encode(captioner, data, 12), data, {"num_inference_steps": 4, "guidance_scale": 0.0}, 0)[
        "examples"
    ] == plain["examples"]  # fmt: skip
    other = measure(
        captioner, batches, data,
        {"num_inference_steps": 4, "guidance_scale": 0.0, "sampler": "renoise", "sampling_noise_factor": 0.1}, 0,
    )  # fmt: skip
    assert other["examples"] != plain["examples"]
    assert captioner.decoder.sampling_schedule is own


def row(arm: str, seed: int, values: np.ndarray) -> dict:
    return {"arm": arm, "seed": seed, "evaluations": 9.0, "per_image": {"CIDEr-D": values.tolist()}}


def test_a_claim_holds_only_where_its_interval_says_so() -> None:
    rng = np.random.default_rng(0)
    base = rng.uniform(0, 2, (2, 300))
    rows = [row("a", seed, base[seed] + 0.2 + rng.normal(0, 0.1, 300)) for seed in (0, 1)]
    rows += [row("b", seed, base[seed]) for seed in (0, 1)] + [row("c", 5, base[0])]
    claims = (
        Claim("more", "a", "b"),
        Claim("less", "b", "a"),
        Claim("nearly", "b", "a", 0.8),
        Claim("unpaired", "a", "c"),
    )
    found = {entry["claim"]: entry for entry in judge(rows, claims)}
    assert {name: entry["verdict"] for name, entry in found.items()} == {
        "more": "holds", "less": "does not hold", "nearly": "holds",
    }  # fmt: skip
    assert found["more"]["interval"]["difference"] == pytest.approx(0.2, abs=0.02)
    assert found["more"]["interval"]["n_seeds"] == 2


def test_the_command_goes_on_where_it_stopped(
    ladic_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "sampling.json"
    shared = ["--model", str(ladic_folder), "--size", "6", "--out", str(out)]
    main([*shared, "--arms", "renoise 4"])
    first = json.loads(out.read_text())["rows"]
    main([*shared, "--arms", "renoise 4*"])
    content = json.loads(out.read_text())
    assert content["rows"][0] == first[0]
    assert {entry["arm"] for entry in content["rows"]} == {arm for arm in ARMS if arm.startswith("renoise 4")}
    assert [claim["claim"] for claim in content["claims"]] == ["guidance helps at many evaluations"]
    printed = capsys.readouterr().out
    assert "45.0 evaluations" in printed
    assert (tmp_path / "sampling.svg").is_file()
    main([*shared, "--size", "2", "--arms", "renoise 4", "--vocabulary", "core"])
    assert len({entry["data"] for entry in json.loads(out.read_text())["rows"]}) == 2


def test_arms_are_chosen_by_a_pattern_or_by_the_claims() -> None:
    assert set(chosen_arms("renoise 4")) == {"renoise 4"}
    assert all(claim.arm in chosen_arms("claims") and claim.rival in chosen_arms("claims") for claim in CLAIMS)
    assert len(chosen_arms("claims")) < len(chosen_arms("*")) == len(ARMS)
    with pytest.raises(ConfigError, match="no arm is named"):
        chosen_arms("claim")


def test_only_ladic_is_sampled(captioner_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is PrefixDecoder; give a LaDiC captioner"):
        main(["--model", str(captioner_folder), "--out", str(tmp_path / "x.json")])
    with pytest.raises(ConfigError, match="no arm is named 'ddim 9'; did you mean 'ddim"):
        main(["--model", str(captioner_folder), "--arms", "ddim 9"])
