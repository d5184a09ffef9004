"""Text-free guidance inside the stock pipelines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from vislex.diffusion.guidance import Branch, generate, guided, text_free_guidance
from vislex.diffusion.t2i import TextToImage
from vislex.errors import ConfigError

FAMILIES = ["sd15", "sdxl", "sd3", "flux-dev", "pixart-alpha", "pixart-pixels", "sana", "if"]
Build = Callable[..., TextToImage]


def conditions(model: TextToImage) -> tuple[Any, Any, Any]:
    tokens = torch.randn(2, 3, sum(model.widths), generator=torch.Generator().manual_seed(2))
    visual = model.condition_from_soft_tokens(tokens)
    joint = model.condition_from_soft_tokens(tokens, prompts=["a red dog", "two cat"])
    return visual, joint, model.condition("")


@pytest.mark.parametrize("name", FAMILIES)
def test_above_one_it_is_the_stock_pipelines_guidance(tiny_t2i: Build, name: str) -> None:
    model = tiny_t2i(name)
    visual, joint, _ = conditions(model)
    ours = generate(model, text_free_guidance(visual, joint, 2.5), seeds=[5, 6], num_inference_steps=3)
    stock = model.pipeline()(
        **model.call_arguments(),
        **model.prompt_arguments(joint),
        **model.prompt_arguments(visual, negative=True),
        **{model.guidance_argument: 2.5},
        num_inference_steps=3,
        generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
    )
    side = model.image_size
    assert ours.shape == (2, 3, side, side)
    torch.testing.assert_close(ours, model.images_of(stock), rtol=1e-3, atol=1e-4)
    plain = generate(model, [Branch(joint, 1.0)], seeds=[5, 6], num_inference_steps=3)
    assert (plain - ours).abs().max() > 1e-3
    assert not model.denoiser._forward_hooks
    assert not model.denoiser._forward_pre_hooks


@pytest.mark.parametrize("name", ["sd15", "flux-schnell", "if"])
@pytest.mark.parametrize(("w", "g"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (3.0, 1.0), (1.5, 2.0), (0.0, 3.0)])
def test_any_scale_and_three_branches(tiny_t2i: Build, name: str, w: float, g: float) -> None:
    model = tiny_t2i(name)
    visual, joint, empty = conditions(model)
    latents = torch.randn(2, 3 if name == "if" else 4, 8, 8)
    t = torch.tensor([500.0, 40.0]) if model.process.is_flow else torch.tensor([50, 4])
    with torch.no_grad():
        of_v, of_vc = (model.predict(latents, t, condition) for condition in (visual, joint))
        of_nothing = model.predict(latents, t, empty.expand(2))
        with guided(model, text_free_guidance(visual, joint, w, empty=empty, guidance=g)):
            found = model.predict(latents, t, visual)
    expected = of_nothing + g * (of_v - of_nothing) + w * (of_vc - of_v)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_branches_without_weight_are_not_computed(tiny_t2i: Build) -> None:
    visual, joint, empty = conditions(tiny_t2i("sd15"))
    weights = lambda *args, **more: [branch.weight for branch in text_free_guidance(*args, **more)]  # noqa: E731
    assert weights(visual) == [1.0]
    assert weights(visual, joint, 0.0) == [1.0]
    assert weights(visual, joint, 1.0) == [1.0]
    assert weights(visual, joint, 2.0) == [-1.0, 2.0]
    assert weights(visual, None, 9.0, empty=empty, guidance=2.0) == [-1.0, 2.0]
    assert weights(visual, joint, 3.0, empty=empty, guidance=2.0) == [-1.0, -1.0, 3.0]
    with pytest.raises(ConfigError, match="at least 0"):
        text_free_guidance(visual, joint, -1.0)
    with pytest.raises(ConfigError, match="empty prompt"):
        text_free_guidance(visual, guidance=2.0)


def test_the_seed_is_the_start_noise(tiny_t2i: Build) -> None:
    model = tiny_t2i("pixart-pixels")
    visual, _, _ = conditions(model)
    same = model.condition("a red dog")
    first = generate(model, [Branch(same, 1.0)], seeds=[1, 2, 1], num_inference_steps=2)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[:2], generate(model, [Branch(visual, 1.0)], seeds=[1, 2], num_inference_steps=2))
