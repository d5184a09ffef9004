"""Cached features: equal to encoding directly, and another key for everything that they are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from vislex.cache import cache_dir
from vislex.data import load_suite
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError
from vislex.modules.digest import weights_digest
from vislex.processing import create_image_processor
from vislex.training.features import cached_features


def suite(size: int = 5, **options: int) -> Dataset:
    return load_suite("openmoji", "caption", split="train", size=size, image_size=16, **options)


def test_features_are_the_encoders_tokens_and_are_computed_once(tmp_path: Path) -> None:
    encoder = create_encoder("siglip-tiny", tiny=True)
    processor = create_image_processor(encoder.spec)
    first = cached_features(encoder, suite(), processor, cache_dir=tmp_path, batch_size=2, dtype=torch.float32)
    again = cached_features(encoder, suite(), processor, cache_dir=tmp_path, batch_size=3, dtype=torch.float32)
    assert (first.was_cached, again.was_cached) == (False, True)
    with torch.no_grad():
        direct = encoder(**processor(suite()[:]["image"], return_tensors="pt")).tokens
    rows = np.array([3, 0, 3])
    torch.testing.assert_close(again.tokens(rows).tokens, direct[rows])
    half = cached_features(encoder, suite(), processor, cache_dir=tmp_path)
    assert half.tokens(rows).tokens.dtype == torch.bfloat16
    torch.testing.assert_close(half.tokens(rows).tokens, direct[rows].bfloat16(), atol=0.02, rtol=0.02)


def test_everything_that_matters_changes_the_key(tmp_path: Path) -> None:
    encoder = create_encoder("siglip-tiny", tiny=True)
    processor = create_image_processor(encoder.spec)

    def key(dataset: Dataset | None = None, **options: object) -> str:
        return cached_features(encoder, dataset or suite(), processor, cache_dir=tmp_path, **options).key

    keys = [key(), key(suite(6)), key(suite(seed=1)), key(provenance={"render": "x"}), key(dtype=torch.float32)]
    larger = load_suite("openmoji", "caption", split="train", size=5, image_size=20)
    keys.append(key(larger))
    processor.image_mean = [0.4, 0.5, 0.5]
    keys.append(key())
    with torch.no_grad():
        next(encoder.parameters()).flatten()[0].add_(1e-3)
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_the_digest_covers_buffers_that_are_not_saved() -> None:
    module = torch.nn.Linear(2, 2)
    module.register_buffer("hidden", torch.zeros(2), persistent=False)
    before = weights_digest(module)
    module.hidden += 1
    assert weights_digest(module) != before


def test_variable_lengths_keep_their_masks(tmp_path: Path) -> None:
    encoder = create_encoder("siglip2-b16-naflex", tiny=True)
    processor = create_image_processor(encoder.spec)
    wide = suite().with_format(None).remove_columns(["captions", "factors"])

    def stretch(batch: dict) -> dict:
        from PIL import Image

        images = [Image.new("RGB", (16 + 24 * (i % 2), 16), (i * 40, 0, 0)) for i in batch["index"]]
        return {**batch, "image": images}

    dataset = wide.with_transform(stretch)
    store = cached_features(encoder, dataset, processor, cache_dir=tmp_path, dtype=torch.float32)
    inputs = processor(dataset[:]["image"], return_tensors="pt")
    with torch.no_grad():
        direct = encoder(**inputs)
    cached = store.tokens(np.arange(5))
    assert torch.equal(cached.mask, direct.mask)
    torch.testing.assert_close(cached.tokens[cached.mask], direct.tokens[direct.mask], atol=1e-5, rtol=1e-4)


def test_mistakes_are_config_errors(tmp_path: Path) -> None:
    encoder = create_encoder("siglip-tiny", tiny=True)
    processor = create_image_processor(encoder.spec)
    with pytest.raises(ConfigError, match="cannot be stored"):
        cached_features(encoder, suite(), processor, cache_dir=tmp_path, dtype=torch.int8)


def test_the_cache_lies_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("VISLEX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert cache_dir() == tmp_path / "user" / "vislex"
