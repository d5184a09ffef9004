"""Text-to-image models of every family from the real classes at tiny sizes, with random weights; for fixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from vislex.diffusion.t2i import TextToImage
from vislex.registry import registry

WORDS = ["a", "red", "blue", "green", "dog", "cat", "kite", "boat", "two", "on", "the", "left", "right", "of", "above"]
VP = {"num_train_timesteps": 100, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def tokenizer(kind: str, length: int) -> PreTrainedTokenizerFast:
    """Whole words; "clip" begins and ends prompts, with the largest ids, "t5" ends them, "gemma" begins them."""
    if kind == "clip":
        vocabulary = ["[UNK]", *WORDS, "<bos>", "<eos>"]
        special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<eos>", "unk_token": "[UNK]"}
        template = "<bos> $A <eos>"
    elif kind == "clip2":  # pads with an ordinary word, as OpenCLIP's does with "!"
        vocabulary = ["a", "[UNK]", *WORDS[1:], "<bos>", "<eos>"]
        special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "a", "unk_token": "[UNK]"}
        template = "<bos> $A <eos>"
    elif kind == "t5":
        vocabulary = ["<pad>", "</s>", "<unk>", *WORDS]
        special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
        template = "$A </s>"
    else:
        vocabulary = ["<pad>", "<eos>", "<bos>", "<unk>", *WORDS]
        special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
        template = "<bos> $A"
    ids = {word: number for number, word in enumerate(vocabulary)}
    backend = Tokenizer(models.WordLevel(ids, unk_token=special["unk_token"]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    used = [word for word in template.split() if word != "$A"]
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[(w, ids[w]) for w in used])
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=length, **special)


def clip(words: PreTrainedTokenizerFast, *, projected: bool = False, legacy: bool = False, width: int = 16) -> Any:
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        projection_dim=12,
        eos_token_id=2 if legacy else words.eos_token_id,
        bos_token_id=words.bos_token_id,
        pad_token_id=words.pad_token_id,
    )
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config)


def t5(words: PreTrainedTokenizerFast, width: int = 20) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
    )
    return T5EncoderModel(config)


def vae(channels: int = 4, **more: Any) -> diffusers.AutoencoderKL:
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=2,
        layers_per_block=1,
        **more,
    )


def unet(cross: int, *, channels: int = 4, out: int | None = None, **more: Any) -> diffusers.UNet2DConditionModel:
    return diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=out or channels,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=2,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=cross,
        **more,
    )


def pixart(caption: int, **more: Any) -> diffusers.PixArtTransformer2DModel:
    sizes = {"in_channels": 4, "out_channels": 8, "sample_size": 8, "patch_size": 2} | more
    return diffusers.PixArtTransformer2DModel(
        num_attention_heads=3,
        attention_head_dim=8,
        num_layers=2,
        cross_attention_dim=24,
        caption_channels=caption,
        norm_num_groups=2,
        **sizes,
    )


def sd(prediction: str = "epsilon", legacy: bool = False) -> dict[str, Any]:
    words = tokenizer("clip", 16)
    return {
        "tokenizer": words,
        "text_encoder": clip(words, legacy=legacy),
        "unet": unet(16),
        "vae": vae(),
        "scheduler": diffusers.DDIMScheduler(**VP, clip_sample=False, prediction_type=prediction),
    }


def sdxl() -> dict[str, Any]:
    words, more = tokenizer("clip", 16), tokenizer("clip2", 16)
    return {
        "tokenizer": words,
        "tokenizer_2": more,
        "text_encoder": clip(words, legacy=True),
        "text_encoder_2": clip(more, projected=True, width=24),
        "unet": unet(
            40,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12 + 6 * 4,
        ),
        "vae": vae(),
        "scheduler": diffusers.EulerDiscreteScheduler(**VP),
    }


def sd3(with_t5: bool = True) -> dict[str, Any]:
    words, more, third = tokenizer("clip", 16), tokenizer("clip2", 16), tokenizer("t5", 24)
    return {
        "tokenizer": words,
        "tokenizer_2": more,
        "text_encoder": clip(words, projected=True),
        "text_encoder_2": clip(more, projected=True, width=24),
        "tokenizer_3": third if with_t5 else None,
        "text_encoder_3": t5(third, 48) if with_t5 else None,
        "transformer": diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=48,
            caption_projection_dim=16,
            pooled_projection_dim=24,
            pos_embed_max_size=8,
        ),
        "vae": vae(scaling_factor=1.5, shift_factor=0.06),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def flux(guided: bool = True) -> dict[str, Any]:
    words, more = tokenizer("clip", 16), tokenizer("t5", 24)
    return {
        "tokenizer": words,
        "text_encoder": clip(words),
        "tokenizer_2": more,
        "text_encoder_2": t5(more),
        "transformer": diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=20,
            pooled_projection_dim=16,
            guidance_embeds=guided,
            axes_dims_rope=(4, 4, 8),
        ),
        "vae": vae(scaling_factor=0.36, shift_factor=0.11),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


def pixart_alpha(**more: Any) -> dict[str, Any]:
    words = tokenizer("t5", 24)
    return {
        "tokenizer": words,
        "text_encoder": t5(words),
        "transformer": pixart(20, **more),
        "vae": vae(),
        "scheduler": diffusers.DPMSolverMultistepScheduler(**VP),
    }


def pixart_pixels() -> dict[str, Any]:
    parts = pixart_alpha(in_channels=3, out_channels=3)
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="sample"
    )
    return parts | {"vae": None, "scheduler": scheduler}


def pixart_latents() -> dict[str, Any]:
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(0, 1),
        num_decoder_blocks=(1, 0),
        latent_channels=4,
    )
    scheduler = diffusers.DDIMScheduler(
        num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False
    )
    return pixart_alpha(out_channels=4) | {"vae": vae, "scheduler": scheduler}


def sana() -> dict[str, Any]:
    words = tokenizer("gemma", 24)
    sizes = {"hidden_size": 20, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
    config = Gemma2Config(
        vocab_size=len(words), num_attention_heads=2, num_key_value_heads=1, query_pre_attn_scalar=8, **sizes
    )
    return {
        "tokenizer": words,
        "text_encoder": Gemma2Model(config),
        "transformer": diffusers.SanaTransformer2DModel(
            in_channels=4,
            out_channels=4,
            num_attention_heads=2,
            attention_head_dim=8,
            num_layers=1,
            num_cross_attention_heads=2,
            cross_attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=20,
            sample_size=16,
            timestep_scale=0.5,
        ),
        "vae": diffusers.AutoencoderDC(
            latent_channels=4,
            attention_head_dim=2,
            encoder_block_types=("ResBlock", "EfficientViTBlock"),
            decoder_block_types=("ResBlock", "EfficientViTBlock"),
            encoder_block_out_channels=(8, 8),
            decoder_block_out_channels=(8, 8),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)),
            scaling_factor=0.41,
        ),
        "scheduler": diffusers.DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }


def deepfloyd_if() -> dict[str, Any]:
    words = tokenizer("t5", 24)
    return {
        "tokenizer": words,
        "text_encoder": t5(words),
        "unet": unet(16, channels=3, out=6, encoder_hid_dim=20),
        "scheduler": diffusers.DDPMScheduler(
            num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", variance_type="learned_range"
        ),
    }


# name -> (family, pipeline, components, further options)
FAMILIES: dict[str, tuple[str, str, Callable[[], dict[str, Any]], dict[str, Any]]] = {
    "sd15": ("stable-diffusion", "StableDiffusionPipeline", lambda: sd(legacy=True), {}),
    "sd21": ("stable-diffusion", "StableDiffusionPipeline", lambda: sd("v_prediction"), {}),
    "sdxl": ("stable-diffusion-xl", "StableDiffusionXLPipeline", sdxl, {}),
    "sd3": ("stable-diffusion-3", "StableDiffusion3Pipeline", sd3, {}),
    "sd3-no-t5": ("stable-diffusion-3", "StableDiffusion3Pipeline", lambda: sd3(False), {"max_length": 24}),
    "flux-dev": ("flux", "FluxPipeline", flux, {"image_size": 16}),
    "flux-schnell": ("flux", "FluxPipeline", lambda: flux(False), {"image_size": 16}),
    "pixart-alpha": ("pixart", "PixArtAlphaPipeline", pixart_alpha, {}),
    "pixart-alpha-1024": ("pixart", "PixArtAlphaPipeline", lambda: pixart_alpha(sample_size=128), {"image_size": 16}),
    "pixart-sigma": ("pixart", "PixArtSigmaPipeline", pixart_alpha, {}),
    "pixart-pixels": ("pixart", "PixArtAlphaPipeline", pixart_pixels, {}),
    "pixart-latents": ("pixart", "PixArtAlphaPipeline", pixart_latents, {}),
    "sana": ("sana", "SanaPipeline", sana, {}),
    "if": ("deepfloyd-if", "IFPipeline", deepfloyd_if, {}),
}


def build(name: str, **options: Any) -> TextToImage:
    """A model of ``FAMILIES``, the same at each call; its weights are large enough for prompts to matter."""
    family, pipeline, components, more = FAMILIES[name]
    state = torch.get_rng_state()
    torch.manual_seed(0)
    model: TextToImage = registry("t2i").get(family).load()(pipeline=pipeline, **components(), **more, **options)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            if not parameter.any():  # outputs that start at zero
                parameter.normal_(std=0.1)
    torch.set_rng_state(state)
    return model
