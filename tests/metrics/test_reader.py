"""The reader: its targets and readings are inverse to each other, and a folder gives the same reader again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from transformers import AutoModel

from vislex.data.openmoji.manifest import nouns
from vislex.data.openmoji.scenes import sample_scene
from vislex.errors import CheckpointError, ConfigError, DataError
from vislex.metrics.factors import FACTORS, score_factors
from vislex.metrics.reader import Reader, ReaderConfig, load_reader
from vislex.metrics.reader_targets import BACKGROUNDS, SIZES, ReaderOutput, factor_targets, reader_loss, readings

TINY = {"image_size": 16, "stem_channels": [8, 8], "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
CONCEPTS = list(nouns("core"))
FACTOR_RECORDS = [sample_scene(0, "val", "core", index).factors() for index in range(12)]


@pytest.fixture
def reader() -> Reader:
    return Reader(ReaderConfig(concepts=CONCEPTS, **TINY)).eval()


def perfect() -> tuple[ReaderOutput, dict[str, torch.Tensor]]:
    """The output of a reader that is certain of the truth."""
    targets = {name: torch.from_numpy(value) for name, value in factor_targets(FACTOR_RECORDS, CONCEPTS).items()}
    logits = {
        name: 30.0 * functional.one_hot(targets[name], n).float()
        for name, n in (("concept", 1 + len(CONCEPTS)), ("size", 3), ("artist", 2), ("background", len(BACKGROUNDS)))
    }
    return ReaderOutput(**logits, measures=targets["measures"], shade=targets["shade"]), targets


def test_a_certain_output_reads_the_true_factors_at_no_loss() -> None:
    output, targets = perfect()
    read = readings(output, CONCEPTS, "suite")
    assert score_factors(read, FACTOR_RECORDS) == dict.fromkeys(FACTORS, 1.0)
    assert read[0]["background_rgb"] == FACTOR_RECORDS[0]["background_rgb"]
    assert set(read[0]["objects"][0]) == {*FACTOR_RECORDS[0]["objects"][0], "confidence"} - {"code"}
    assert reader_loss(output, targets) < 1e-6


@pytest.mark.parametrize("name", ["concept", "size", "artist", "measures", "background", "shade"])
def test_every_part_of_the_output_is_trained(name: str) -> None:
    output, targets = perfect()
    flat = torch.zeros_like(getattr(output, name), requires_grad=True)
    setattr(output, name, flat)
    loss = reader_loss(output, targets)
    assert loss > 0.1
    loss.backward()
    assert flat.grad is not None
    assert flat.grad.abs().sum() > 0


def test_places_without_an_object_train_the_concept_alone() -> None:
    output, targets = perfect()
    empty = targets["concept"] == 0
    output.size[empty], output.measures[empty] = 50.0, 9.0
    assert reader_loss(output, targets) < 1e-6


def test_at_least_one_and_at_most_four_objects_are_read() -> None:
    output, _ = perfect()
    output.concept = torch.zeros_like(output.concept)
    output.concept[0, :, 0] = 10.0
    output.concept[0, 5, 3] = 5.0  # nothing is likelier everywhere; place 5 is the least empty
    read = readings(output, CONCEPTS)
    assert [(item["concept"], item["position"]) for item in read[0]["objects"]] == [(CONCEPTS[2], "right")]
    assert read[0]["objects"][0]["confidence"] < 0.5
    assert [record["count"] for record in read[1:]] == [4] * 11


def test_images_of_any_size_are_read_and_order_is_kept(reader: Reader) -> None:
    image = Image.new("RGB", (40, 30), (232, 106, 98))
    image.paste((0, 0, 0), (3, 3, 20, 20))
    images = [image, Image.new("L", (16, 16), 200), Image.new("RGB", (16, 16), (144, 208, 136))]
    read = reader.read(images)
    alone = [one for image in images for one in reader.read([image])]
    assert score_factors(read, alone) == dict.fromkeys(FACTORS, 1.0)
    assert [r["objects"][0]["x"] for r in read] == pytest.approx([r["objects"][0]["x"] for r in alone], abs=1e-4)
    assert read[0] != read[2]
    assert all(record["objects"][0]["size"] in SIZES for record in read)
    array = np.stack([np.asarray(images[2]), 255 - np.asarray(images[2])])
    assert score_factors(reader.read(array, batch_size=1)[:1], read[2:]) == dict.fromkeys(FACTORS, 1.0)


def test_a_folder_gives_the_same_reader(reader: Reader, tmp_path: Path) -> None:
    pixels = torch.randn(2, 3, 16, 16)
    expected = reader(pixels)
    reader.save_pretrained(tmp_path)
    again = load_reader(tmp_path)
    assert again.config.concepts == CONCEPTS
    for name, value in vars(expected).items():
        assert torch.equal(getattr(again(pixels), name), value), name
    import vislex.auto  # noqa: F401

    assert isinstance(AutoModel.from_pretrained(tmp_path), Reader)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no reader can be read"):
        load_reader(tmp_path)
    with pytest.raises(CheckpointError, match="no shipped model"):
        load_reader("nothing")


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="concepts="):
        Reader(ReaderConfig(**TINY))
    with pytest.raises(ConfigError, match="cannot be halved 2 times"):
        Reader(ReaderConfig(concepts=["a"], **{**TINY, "image_size": 18}))
    with pytest.raises(ConfigError, match="does not divide hidden_size"):
        Reader(ReaderConfig(concepts=["a"], **{**TINY, "num_attention_heads": 3}))
    with pytest.raises(DataError, match="the reader knows no"):
        factor_targets(FACTOR_RECORDS, ["dog"])
