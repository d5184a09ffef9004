"""Neighbours of latent spaces, the verdict on them, and the whole at smoke size."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from vislex.benchmarks.caption_data import CaptionData
from vislex.benchmarks.experiment import Experiment
from vislex.benchmarks.ladic_latent_space import main
from vislex.benchmarks.latent_arms import LATENT_ARMS, MIDDLE, RIVALS, compare_arms, conclude
from vislex.benchmarks.latent_neighbours import compare_neighbours, mean_latents, nearest, telling_captions
from vislex.decoders.ladic.codec import LatentCodec
from vislex.errors import ConfigError
from vislex.text import load_tokenizer

CAPTIONS = [
    "a cat to the left of a dog", "a dog to the left of a cat", "two apples above a car", "a car below two apples",
    "a train", "a green train",
]  # fmt: skip


def test_neighbours_are_other_captions_nearest_about_the_mean() -> None:
    latents = torch.tensor([[10.0, 11.0], [10.0, 12.0], [11.0, 10.0], [13.0, 10.0]])
    assert nearest(latents).tolist() == [1, 0, 3, 2]


def test_what_neighbours_share_is_held_against_strangers() -> None:
    found = compare_neighbours(CAPTIONS, np.array([1, 0, 3, 2, 5, 4]))
    assert found["objects"]["nearest"] == 1.0
    assert found["objects"]["random"] < 0.5
    assert found["objects"]["low"] > 0
    assert found["objects"]["n"] == 6
    assert found["relations"]["n"] == 4  # those that state one
    assert found["relations"]["nearest"] == pytest.approx(0.5)  # above and below are not the same
    wrong = compare_neighbours(CAPTIONS, np.array([4, 4, 4, 4, 0, 0]))
    assert wrong["objects"]["nearest"] == 0.0
    assert wrong["objects"]["high"] < 0
    with pytest.raises(ConfigError, match="at least 3"):
        compare_neighbours(CAPTIONS[:2], np.array([1, 0]))


def test_latents_are_averaged_over_words(ladic_folder: Path) -> None:
    bert = ladic_folder.parent / "bert"
    codec = LatentCodec.create(load_tokenizer(bert), ["a cat"], text_model=bert)
    together = mean_latents(codec, ["a big cat", "a cat"], max_length=12)
    alone = mean_latents(codec, ["a cat"], max_length=12)
    torch.testing.assert_close(together[1], alone[0])
    assert not torch.allclose(together[0], together[1])


def test_the_longest_reference_of_each_image_tells_most(data: CaptionData) -> None:
    texts = telling_captions({"a": ["a cat", "a big cat"], "b": ["a big cat"], "c": ["a dog"]})
    assert texts == ["a big cat", "a dog"]


def scores(**means: float) -> dict[str, dict[int, np.ndarray]]:
    noise = np.random.default_rng(0).normal(0, 0.02, (2, 200))
    own = {name: np.random.default_rng(len(name)).normal(0, 0.01, (2, 200)) for name in means}
    return {name: {seed: noise[seed] + own[name][seed] + mean for seed in (0, 1)} for name, mean in means.items()}


@pytest.mark.parametrize(
    ("embeddings", "random", "verdict"),
    [
        (0.5, 0.5, "holds"),
        (0.7, 0.5, "does not hold"),
        (0.6, 0.5, "inconclusive"),
        (0.6, 0.7, "does not hold"),
        (None, 0.5, "not tested"),
    ],
)
def test_the_middle_layer_must_beat_both(embeddings: float | None, random: float, verdict: str) -> None:
    means = {MIDDLE: 0.6, RIVALS[1]: random} | ({} if embeddings is None else {RIVALS[0]: embeddings})
    assert conclude(compare_arms(scores(**means))) == verdict


def test_seeds_that_only_one_arm_has_are_left_out() -> None:
    given = scores(**{MIDDLE: 0.6, RIVALS[0]: 0.5})
    del given[RIVALS[0]][1]
    (pair,) = compare_arms(given)
    assert pair["seeds"] == 1
    assert pair["difference"] == pytest.approx(0.1, abs=0.01)


def test_arms_are_other_codecs_and_options() -> None:
    experiment = Experiment()
    made = {name: experiment.codec_config(**arm.codec) for name, arm in LATENT_ARMS.items()}
    assert {name: (c.split_layer, c.decoder_layers, c.random_text_model, c.normalize) for name, c in made.items()} == {
        "layer 3": (3, 1, False, True),
        "layer 0": (0, 1, False, True),
        "layer 6": (6, 0, False, True),
        "layer 3 of a random BERT": (3, 1, True, True),
        "layer 3 read by a head alone": (3, 0, False, True),
        "layer 3 not normalised": (3, 1, False, False),
        "layer 3 with cross-entropy": (3, 1, False, True),
    }
    weights = {
        name: experiment.caption("ladic", seed=0, lr=1e-3, decoder_options=arm.options).decoder_options
        for name, arm in LATENT_ARMS.items()
    }
    assert {name for name, own in weights.items() if own["cross_entropy_weight"]} == {"layer 3 with cross-entropy"}


@pytest.mark.slow
def test_it_runs_and_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "latent.json"
    shared = ["--smoke", "--out", str(out), "--folder", str(tmp_path / "runs")]
    main([*shared, "--arms", "layer 3"])
    first = json.loads(out.read_text())
    assert first["verdict"] == "not tested"
    arms = "layer 3,layer 0,layer 3 of a random BERT,layer 3 with cross-entropy"
    main([*shared, "--arms", arms])
    content = json.loads(out.read_text())
    assert content["rows"][: len(first["rows"])] == first["rows"]
    codecs = {row["arm"]: row for row in content["rows"] if row["kind"] == "codec"}
    splits = {}
    for name, row in codecs.items():
        config = LatentCodec.config_class.from_pretrained(row["folder"])
        splits[name] = (config.split_layer, config.random_seed)
        assert set(row["round trip"]) == {"0", "0.25", "0.5", "0.75", "1"}
        assert set(row["neighbours"]) >= {"objects"}
    assert splits["layer 0"] == (0, None)
    assert splits["layer 3 of a random BERT"] == (3, 0)
    assert codecs["layer 3 with cross-entropy"]["folder"] == codecs["layer 3"]["folder"]
    assert {pair["rival"] for pair in content["pairs"]} == {*RIVALS, "layer 3 with cross-entropy"}
    printed = capsys.readouterr().out
    assert "layer 3 is better than the embeddings" in printed
    assert out.with_suffix(".png").stat().st_size > 10_000
    main([*shared, "--arms", arms])
    assert json.loads(out.read_text())["rows"] == content["rows"]
