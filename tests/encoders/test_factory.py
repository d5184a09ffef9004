"""Names, options and their errors."""

from __future__ import annotations

import pytest

import vislex
from vislex.errors import CheckpointError, ConfigError, SpecError, UnknownNameError


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("siglip_b16_256", "siglip-b16-256"),
        ("timm:vit_smal_patch16_224", "vit_small_patch16_224"),
        ("timm:vit_base_patch16_clip_224.opena", "vit_base_patch16_clip_224.openai"),
        ("hf:siglip-tinny", "siglip-tiny"),
        ("tim:resnet18", "timm:"),
        ("fused:siglip-tinny+clip-b32", "siglip-tiny"),
    ],
)
def test_unknown_names_say_what_was_meant(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match="did you mean") as error:
        vislex.create_encoder(name)
    assert hint in str(error.value)


def test_an_unknown_option_is_named_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"'imagesize'.*did you mean 'image_size'"):
        vislex.create_encoder("clip-b32", tiny=True, imagesize=32)


def test_tiny_variants_exist_for_catalog_names_only() -> None:
    with pytest.raises(ConfigError, match="no tiny variant"):
        vislex.create_encoder("timm:resnet18", tiny=True)
    with pytest.raises(ConfigError, match="pass one of pretrained and tiny"):
        vislex.create_encoder("clip-b32", tiny=True, pretrained=True)


def test_a_seed_is_for_random_weights() -> None:
    for seed, pretrained in ((0, True), (-1, False)):
        with pytest.raises(ConfigError, match=f"seed={seed} draws random weights"):
            vislex.create_encoder("siglip-tiny", pretrained=pretrained, seed=seed)


def test_missing_weights_are_one_clear_error() -> None:
    with pytest.raises(CheckpointError, match="google/siglip-base-patch16-224"):
        vislex.create_encoder("siglip-b16-224", pretrained=True)
    with pytest.raises(CheckpointError, match="no weights for 'timm:resnet18'"):
        vislex.create_encoder("timm:resnet18", pretrained=True)
    with pytest.raises(CheckpointError, match="cannot read"):
        vislex.create_encoder("vae:nobody/nothing", pretrained=True)


def test_an_image_of_another_size_is_refused() -> None:
    import torch

    encoder = vislex.create_encoder("clip-b32", tiny=True)
    with pytest.raises(SpecError, match=r"\(16, 16\) pixels"):
        encoder(torch.zeros(1, 3, 24, 24))
