"""Probes on real encoders: labels, fits that must succeed, paired tables, and rows that are found again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vislex.benchmarks.probe import ProbeBench, ProbeData, file_of, load_data, open_encoder, probe_rows, tier_hits
from vislex.benchmarks.probe_tables import differences, floors, wide
from vislex.benchmarks.probe_targets import N_BINS, TIERS, class_counts, factor_labels
from vislex.benchmarks.probes import ProbeSettings, mean_tokens, run_probe
from vislex.data.openmoji.manifest import nouns
from vislex.data.openmoji.scenes import sample_scene
from vislex.errors import ConfigError, DataError
from vislex.specs import VisionTokens
from vislex.training.features import FeatureStore

CONCEPTS = list(nouns("core"))
SMALL = {"train_size": 40, "val_size": 20, "size": 30, "settings": ProbeSettings(epochs=2, lrs=[1e-2], hidden_size=16)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_in: Callable[[Path], str]) -> None:
    monkeypatch.setenv("VISLEX_CACHE", cache_in(tmp_path))


@pytest.fixture(scope="module")
def bench() -> ProbeBench:
    return ProbeBench(**SMALL)


@pytest.fixture(scope="module")
def data(bench: ProbeBench) -> ProbeData:
    return load_data(bench)


def test_labels_are_classes_of_the_true_factors() -> None:
    records = [sample_scene(0, "train", "core", index).factors() for index in range(2000)]
    labels = factor_labels(records, CONCEPTS)
    single = np.array([record["count"] == 1 for record in records])
    assert np.array_equal(labels["count"] + 1, [record["count"] for record in records])
    for name, count in class_counts(CONCEPTS).items():
        asked = labels[name][labels[name] >= 0]
        assert len(asked) == (len(records) if name in ("background", "count", "shade") else single.sum())
        assert asked.max() < count
        assert len(np.unique(asked)) >= min(count, 99)
        if count == N_BINS and name != "shade":  # drawn evenly, cut evenly
            assert np.bincount(asked).min() > 0.7 * len(asked) / N_BINS, name
    first = records[int(np.flatnonzero(single)[0])]
    turned = {**first, "objects": [{**first["objects"][0], "rotation": 29.0, "hue": -17.5}]}
    assert [factor_labels([turned], CONCEPTS)[name][0] for name in ("rotation", "hue")] == [N_BINS - 1, 0]
    with pytest.raises(DataError, match="has a single object"):
        factor_labels([record for record in records if record["count"] > 1][:3], CONCEPTS)


def test_the_exact_place_says_nothing_about_the_position() -> None:
    records = [sample_scene(0, "train", "core", index).factors() for index in range(4000)]
    labels = factor_labels(records, CONCEPTS)
    single = labels["concept"] >= 0
    table = np.zeros((9, N_BINS))
    np.add.at(table, (labels["position"][single], labels["offset x"][single]), 1)
    assert (table.max(axis=1) / table.sum(axis=1) < 0.35).all()


@pytest.mark.parametrize("probe", ["linear", "attentive", "knn"])
def test_every_probe_reads_what_is_there_and_not_what_is_not(probe: str) -> None:
    draws = np.random.default_rng(0)
    truth = {split: draws.integers(0, 3, size=240) for split in ("train", "val", "test")}

    def store(split: str) -> FeatureStore:
        tokens = draws.normal(size=(240, 4, 8)).astype(np.float32)
        tokens[:, 2] += 6 * np.eye(8)[truth[split]]
        return FeatureStore(split, tokens, None, torch.float32, True)

    stores = {split: store(split) for split in truth}
    labels = {split: {"there": values, "noise": draws.integers(0, 3, size=240)} for split, values in truth.items()}
    labels["train"]["there"] = np.where(draws.random(240) < 0.5, labels["train"]["there"], -1)  # asked of half
    settings = ProbeSettings(epochs=15, lrs=[1e-6, 2e-2], hidden_size=16, num_heads=2, batch_size=32)
    probed = run_probe(probe, stores, labels, {"there": 3, "noise": 3}, settings)
    assert (probed.predictions["there"] == truth["test"]).mean() > 0.9
    assert (probed.predictions["noise"] == labels["test"]["noise"]).mean() < 0.5
    assert probed.lr == (None if probe == "knn" else 2e-2)  # the better of the two on val
    again = run_probe(probe, stores, labels, {"there": 3, "noise": 3}, settings, lr=2e-2)
    assert np.array_equal(again.predictions["noise"], probed.predictions["noise"])
    other = run_probe(probe, stores, labels, {"there": 3, "noise": 3}, settings, lr=2e-2, seed=1)
    assert np.array_equal(other.predictions["noise"], probed.predictions["noise"]) == (probe == "knn")


def test_padding_is_no_token() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert mean_tokens(VisionTokens(tokens, torch.tensor([[True, True, False]]))).item() == 2.0
    assert mean_tokens(VisionTokens(tokens[:, :2])).item() == 2.0


def test_encoders_are_held_against_the_first_and_rows_are_found_again(
    bench: ProbeBench, data: ProbeData, tmp_path: Path
) -> None:
    names = ["siglip-tiny", "siglip-tiny@untrained"]
    bench = bench.model_copy(update={"seeds": 2})
    file = file_of(tmp_path / "probe.json")
    said: list[str] = []
    rows = probe_rows(names, bench, file, data=data, on_progress=said.append)
    assert len(rows) == 2 * 3 * 2
    assert "siglip-tiny: attentive, seed 1" in said
    content = json.loads(file.path.read_text())
    assert (content["benchmark"], len(content["rows"])) == ("probe", 12)
    assert probe_rows(names, bench, file, data=data) == rows
    assert len(json.loads(file.path.read_text())["rows"]) == 12

    table = differences(rows, data)
    assert len(table) == 2 * 3 * (len(TIERS) + 3)
    by = {(row["probe"], row["encoder"], row["factor"]): row for row in table}
    own, control = (by["linear", name, "background"] for name in names)
    assert "difference" not in own
    assert control["difference"] == pytest.approx(control["accuracy"] - own["accuracy"])
    assert control["low"] <= control["difference"] <= control["high"]
    assert (control["n"], control["seeds"], control["against"]) == (30, 2, "siglip-tiny")
    assert by["knn", "siglip-tiny", "concept"]["n"] == (data.labels["test"]["concept"] >= 0).sum()
    mean = np.mean(
        [row["scores"]["never named"] for row in rows if (row["encoder"], row["probe"]) == (names[0], "knn")]
    )
    assert by["knn", "siglip-tiny", "never named"]["accuracy"] == pytest.approx(mean)

    lines = wide(rows, data)
    assert [line["encoder"] for line in lines[-2:]] == ["floor: largest class", "floor: chance"]
    assert len(lines) == 6 + 2
    with pytest.raises(ConfigError, match="named twice"):
        probe_rows(["siglip-tiny", "siglip-tiny"], bench, file, data=data)


def test_tiers_are_means_over_images_with_one_object(data: ProbeData) -> None:
    labels = data.labels
    single = labels["test"]["concept"] >= 0
    hits = {name: np.ones(int((labels["test"][name] >= 0).sum()), dtype=bool) for name in TIERS}
    hits["background"][:] = False
    assert tier_hits(hits, labels, "sometimes") == pytest.approx(np.full(single.sum(), 2 / 3))
    assert tier_hits(hits, labels, "always") == pytest.approx(np.ones(single.sum()))


def test_floors_and_controls(data: ProbeData) -> None:
    largest, chance = floors(data)
    assert chance["scores"]["background"] == 1 / 8
    train, test = (data.labels[split]["count"] for split in ("train", "test"))
    assert largest["scores"]["count"] == (test == np.bincount(train).argmax()).mean()
    one, other = open_encoder("siglip-tiny@untrained"), open_encoder("siglip-tiny@untrained")
    pixels = torch.randn(1, 3, *one.spec.image_size)
    assert torch.equal(one(pixels).tokens, other(pixels).tokens)
    assert not torch.equal(one(pixels).tokens, open_encoder("siglip-tiny")(pixels).tokens)


def test_names_that_are_never_trained_on_are_refused(bench: ProbeBench) -> None:
    with pytest.raises(DataError, match="probe another split"):
        load_data(bench.model_copy(update={"split": "test_unknown"}))
