"""De-Diffusion, the baseline: the same pooling with tokens that are words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from vislex.diffusion.t2i import TextToImage
from vislex.diffusion.words import snap_to_words, word_ids
from vislex.encoders.factory import create_encoder
from vislex.errors import CheckpointError, ConfigError, SpecError
from vislex.modules.digest import weights_digest
from vislex.vilex import ViLex

Build = Callable[..., TextToImage]
TEXTS = ["a red dog", "two blue kite on the left"]


def build(t2i: TextToImage, **options: Any) -> ViLex:
    torch.manual_seed(0)
    backbone = create_encoder("siglip-tiny", tiny=True)
    options = {"n_tokens": 5, "vocabulary": TEXTS, "tail_drop": "none", **options}
    model = ViLex.from_parts(encoder=backbone, t2i=t2i, **options).eval()
    with torch.no_grad():
        model.encoder.pooling.queries.normal_()
    return model


def pictures(count: int = 3) -> list[Image.Image]:
    return [
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (20, 20, 3), dtype=np.uint8)) for i in range(count)
    ]


@pytest.mark.parametrize("estimator", ["straight_through", "gumbel"])
def test_it_trains_through_words(tiny_t2i: Build, estimator: str) -> None:
    t2i = tiny_t2i("pixart-pixels")
    model = build(t2i, estimator=estimator).train()
    before = weights_digest(t2i)
    model.loss(pictures()).loss.backward()
    head = model.encoder.heads[0]
    assert head.weight.shape[0] == len(word_ids(t2i, TEXTS)) == 9
    assert head.weight.grad.abs().sum() > 0
    assert model.encoder.pooling.queries.grad.abs().sum() > 0
    assert next(model.encoder.backbone.parameters()).grad is not None
    assert weights_digest(t2i) == before


def test_its_text_is_its_prompt(tiny_t2i: Build, tmp_path: Path) -> None:
    t2i = tiny_t2i("sd15")
    model = build(t2i)
    texts = model.describe(pictures(), n_tokens=4)
    assert all(len(text.split()) == 4 for text in texts)
    assert {word for text in texts for word in text.split()} <= {word for text in TEXTS for word in text.split()}
    assert len(set(texts)) > 1
    tokens = model.encode(pictures(), n_tokens=4).tokens
    torch.testing.assert_close(
        t2i.condition_from_soft_tokens(tokens).prompt_embeds, t2i.condition(texts).prompt_embeds, rtol=1e-4, atol=1e-5
    )
    assert [text.split()[0] for text in texts] == [text for text in model.describe(pictures(), n_tokens=1)]
    assert model.reconstruct(pictures(1), num_inference_steps=1)[0].size == (16, 16)

    model.save_pretrained(tmp_path)
    loaded = ViLex.from_pretrained(tmp_path).attach(t2i)
    assert loaded.describe(pictures(), n_tokens=4) == texts
    with pytest.raises(CheckpointError, match="gives words"):
        create_encoder(f"vilex:{tmp_path}", pretrained=True)


def test_the_temperature_falls_with_progress(tiny_t2i: Build) -> None:
    model = build(tiny_t2i("sd15"), temperature=(4.0, 0.25))
    assert model.temperature == pytest.approx(4.0)
    model.progress = 0.5
    assert model.temperature == pytest.approx(1.0)
    model.progress = 1.0
    assert model.temperature == pytest.approx(0.25)
    gradients = []
    for progress in (0.0, 1.0):
        model.progress = progress
        model.zero_grad()
        torch.manual_seed(1)
        model.train().loss(pictures()).loss.backward()
        gradients.append(model.encoder.heads[0].weight.grad.clone())
    assert not torch.allclose(*gradients)


def test_continuous_tokens_snap_to_the_nearest_words(tiny_t2i: Build) -> None:
    t2i = tiny_t2i("sdxl")
    words = [text.embed(torch.tensor(text.word_ids(["red dog"]))) for text in t2i.texts]
    exact = torch.cat(words, dim=-1)
    torch.testing.assert_close(snap_to_words(t2i, 3 * exact + 1e-4), exact)
    one = tiny_t2i("sd15")
    allowed = word_ids(one, ["cat", "boat"])
    snapped = snap_to_words(one, torch.randn(2, 3, 16), allowed)
    table = one.texts[0].embed(torch.tensor(allowed))
    assert all(any(torch.equal(token, word) for word in table) for token in snapped.flatten(0, 1))


def test_bad_input_is_refused(tiny_t2i: Build) -> None:
    with pytest.raises(SpecError, match="2 text encoders with vocabularies of their own"):
        build(tiny_t2i("sdxl"))
    t2i = tiny_t2i("sd15")
    with pytest.raises(ConfigError, match="no word"):
        build(t2i, vocabulary=["xyzzy"])
    with pytest.raises(ConfigError, match="unknown estimator"):
        build(t2i, estimator="hard")
    with pytest.raises(ConfigError, match="two numbers above 0"):
        build(t2i, temperature=(1.0, 0.0))
    with pytest.raises(ConfigError, match="continuous"):
        build(t2i, vocabulary=None).describe(pictures(1))
