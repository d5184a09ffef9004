"""Feature extractors: their weights are checked, and all images take one path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional
from torchvision.models.inception import Inception3

from vislex.errors import CheckpointError, UnknownNameError
from vislex.metrics.image_features import load_extractor


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inception") / "inception.pth"
    torch.save(Inception3(1008, aux_logits=False, init_weights=False).state_dict(), path)
    return path


def test_efficientnet_has_its_features_and_classes() -> None:
    extractor = load_extractor()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, size=(30, 40, 3), dtype=np.uint8))
    features, classes = extractor([image, image.resize((48, 48))])
    assert (features.shape, classes.shape) == ((2, extractor.dim), (2, 1000))
    assert classes.sum(axis=1) == pytest.approx([1, 1])
    again = extractor(np.asarray(image)[None], batch_size=1)[0]
    assert np.allclose(again[0], features[0], atol=1e-4)
    assert len(extractor.describe()["sha256"]) == 64
    assert not extractor.is_published_inception


def test_an_encoder_by_its_name_gives_pooled_features() -> None:
    extractor = load_extractor("siglip-tiny")
    features, classes = extractor([Image.new("RGB", (20, 20), (200, 10, 10)), Image.new("RGB", (60, 60))])
    assert features.shape == (2, extractor.dim) == (2, 192)
    assert classes.shape == (2, 0)
    with pytest.raises(UnknownNameError, match="unknown feature extractor 'eficientnet'"):
        load_extractor("eficientnet")


def test_inception_pools_as_the_published_network(inception_file: Path) -> None:
    extractor = load_extractor(f"inception:{inception_file}")
    assert (extractor.id, extractor.dim, extractor.n_classes) == ("inception", 2048, 1008)
    assert not extractor.is_published_inception  # other weights
    features, classes = extractor([Image.new("RGB", (48, 48), (250, 20, 20))])
    assert (features.shape, classes.shape) == ((1, 2048), (1, 1008))
    model = extractor.network.model
    hidden = torch.rand(1, 192, 5, 5)
    block = model.Mixed_5b
    pooled = functional.avg_pool2d(hidden, 3, 1, 1) * 9
    counts = functional.avg_pool2d(torch.ones(1, 1, 5, 5), 3, 1, 1) * 9
    seen: list[torch.Tensor] = []
    block.branch_pool.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block(hidden)
    torch.testing.assert_close(seen[0], pooled / counts)
    hidden = torch.rand(1, 2048, 3, 3)
    model.Mixed_7c.branch_pool.conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.Mixed_7c(hidden)
    torch.testing.assert_close(seen[1], functional.max_pool2d(hidden, 3, 1, 1))
    torch.testing.assert_close(
        torch.from_numpy(classes[0]),
        functional.linear(torch.from_numpy(features[0]), extractor.network.classifier.weight.double()).softmax(-1),
        atol=1e-6,
        rtol=1e-3,
    )


def test_files_of_other_networks_are_refused(inception_file: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no Inception file"):
        load_extractor("inception:nowhere.pth")
    state = torch.load(inception_file, weights_only=True)
    state["fc.weight"] = state["fc.weight"][:1000]
    torch.save(state, tmp_path / "torchvision.pth")
    with pytest.raises(CheckpointError, match=r"1 tensors differ, such as 'classifier\.weight'"):
        load_extractor(f"inception:{tmp_path / 'torchvision.pth'}")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(CheckpointError, match="damaged or no state dict"):
        load_extractor(f"inception:{tmp_path / 'text.pth'}")
