"""Tiny hosts for the swap matrix: real classes of transformers at small sizes, with real processors, built offline.

A family joins the matrix by one entry of ``HOSTS``: a function that gives a model and its processor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    GemmaConfig,
    GotOcr2ImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2Config,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

import vislex
from vislex.encoders.base import VisionEncoder
from vislex.encoders.vilex import ViLexEncoder

WORDS = ("[PAD]", "[UNK]", "<bos>", "<eos>", "what", "is", "shown", "a", "red", "dog", "two", "kites", "?", ".")
VISION = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def words(*extra: str, **named: str) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words; ``named`` are tokens that a processor asks for, such as ``image_token="<image>"``."""
    vocabulary = list(dict.fromkeys([*WORDS, *extra, *named.values()]))
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<bos>", "eos_token": "<eos>"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", extra_special_tokens=named, **specials
    )
    fast.add_special_tokens({"additional_special_tokens": [*extra, *named.values()]})
    return fast


def llava() -> tuple[PreTrainedModel, Any]:
    """LLaVA-1.5: CLIP without its first token, from the layer before the last."""
    tokenizer = words("<image>")
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=20, patch_size=5, projection_dim=16),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    image_processor = CLIPImageProcessor(size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20})
    processor = LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=5,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return LlavaForConditionalGeneration(config), processor


def paligemma() -> tuple[PreTrainedModel, Any]:
    """PaliGemma: SigLIP without its pooling head."""
    image_processor = SiglipImageProcessor(size={"height": 12, "width": 12})
    image_processor.image_seq_length = 9
    processor = PaliGemmaProcessor(image_processor, words())
    tokenizer = processor.tokenizer
    config = PaliGemmaConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=12, patch_size=4, vision_use_head=False),
        text_config=GemmaConfig(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=TEXT["hidden_size"],
        hidden_size=TEXT["hidden_size"],
    )
    return PaliGemmaForConditionalGeneration(config), processor


TILES = {"size": {"longest_edge": 40}, "max_image_size": {"longest_edge": 20}}
MARKS = [
    "<image>",
    "<fake_token_around_image>",
    "<global-img>",
    "<end_of_utterance>",
    *(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)),
]


def tiled(config_class: type[Any], tokenizer: PreTrainedTokenizerFast) -> Any:
    """Config of Idefics3 and SmolVLM: 16 patches a tile, of which four become one token."""
    return config_class(
        vision_config={**VISION, "image_size": 20, "patch_size": 5},
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
    )


def idefics3() -> tuple[PreTrainedModel, Any]:
    """Idefics3, images cut into at most four tiles."""
    processor = Idefics3Processor(Idefics3ImageProcessor(**TILES), words(*MARKS), image_seq_len=4)
    return Idefics3ForConditionalGeneration(tiled(Idefics3Config, processor.tokenizer)), processor


def smolvlm() -> tuple[PreTrainedModel, Any]:
    """SmolVLM, the same with videos."""
    images, videos = SmolVLMImageProcessor(**TILES), SmolVLMVideoProcessor(**TILES, num_frames=2, fps=1)
    processor = SmolVLMProcessor(images, words(*MARKS, "<video>"), videos, image_seq_len=4)
    return SmolVLMForConditionalGeneration(tiled(SmolVLMConfig, processor.tokenizer)), processor


def internvl() -> tuple[PreTrainedModel, Any]:
    """InternVL: InternViT without its class token, at most two tiles."""
    tokenizer = words(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<IMG_CONTEXT>", video_token="<video>"
    )
    size = {"height": 20, "width": 20}
    processor = InternVLProcessor(
        GotOcr2ImageProcessor(size=size, min_patches=1, max_patches=2),
        tokenizer,
        InternVLVideoProcessor(size=size),
        image_seq_length=4,
    )
    config = InternVLConfig(
        vision_config={**VISION, "image_size": 20, "patch_size": 5},
        text_config={"model_type": "qwen2", **TEXT, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return InternVLForConditionalGeneration(config), processor


PIXELS = {"shortest_edge": 16 * 16, "longest_edge": 24 * 24}
PATCHES = {"size": PIXELS, "patch_size": 4, "temporal_patch_size": 2, "merge_size": 2}
PATCHES |= {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def qwen(config_class: type[Any], model: type[Any], processor: type[Any], videos: type[Any], **vision: Any) -> Any:
    """A Qwen-VL: patches of 4 pixels, of which four become one token."""
    tokenizer = words("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    config = config_class(
        vision_config={"depth": 2, "num_heads": 2, "patch_size": 4, **vision},
        text_config={
            **TEXT,
            "vocab_size": len(tokenizer),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
        },
        **{f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{pad}|>") for name, pad in PADS.items()},
    )
    return model(config), processor(Qwen2VLImageProcessor(**PATCHES), tokenizer, videos(**PATCHES))


PADS = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}


def qwen2_vl() -> tuple[PreTrainedModel, Any]:
    """Qwen2-VL."""
    parts = (Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLProcessor, Qwen2VLVideoProcessor)
    return qwen(*parts, embed_dim=16, hidden_size=TEXT["hidden_size"], mlp_ratio=2)


def qwen2_5_vl() -> tuple[PreTrainedModel, Any]:
    """Qwen2.5-VL: windows in the first layer."""
    parts = (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": TEXT["hidden_size"]}
    return qwen(*parts, **sizes, window_size=16, fullatt_block_indexes=[1])


def qwen3_vl() -> tuple[PreTrainedModel, Any]:
    """Qwen3-VL: the first layer's features go to the language model too."""
    parts = (Qwen3VLConfig, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "out_hidden_size": TEXT["hidden_size"]}
    return qwen(*parts, **sizes, num_position_embeddings=16, deepstack_visual_indexes=[0])


def llava_next() -> tuple[PreTrainedModel, Any]:
    """LLaVA-NeXT: CLIP's maps of up to two by two tiles."""
    tokenizer = words("<image>")
    tiles = [[20, 40], [40, 20], [40, 40]]
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**VISION, image_size=20, patch_size=5, projection_dim=16),
        text_config=LlamaConfig(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=tiles,
        image_seq_length=16,
    )
    processor = LlavaNextProcessor(
        LlavaNextImageProcessor(
            size={"shortest_edge": 20}, crop_size={"height": 20, "width": 20}, image_grid_pinpoints=tiles
        ),
        tokenizer,
        patch_size=5,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    return LlavaNextForConditionalGeneration(config), processor


def llava_onevision() -> tuple[PreTrainedModel, Any]:
    """LLaVA-OneVision: SigLIP's maps of up to two by two tiles, at most two tiles' tokens."""
    tokenizer = words("<image>", "<video>")
    tiles = [[12, 24], [24, 12], [24, 24]]
    size = {"height": 12, "width": 12}
    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**VISION, image_size=12, patch_size=4, vision_use_head=False),
        text_config=Qwen2Config(**TEXT, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=tiles,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
    )
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=tiles),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=9,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def gemma3() -> tuple[PreTrainedModel, Any]:
    """Gemma 3: SigLIP's map of four by four tokens, pooled to two by two."""
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    tokenizer = words(**named)
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}
    config = Gemma3Config(
        vision_config=SiglipVisionConfig(**VISION, image_size=16, patch_size=4, vision_use_head=False),
        text_config=Gemma3TextConfig(**TEXT, vocab_size=len(tokenizer), sliding_window=16),
        mm_tokens_per_image=4,
        image_token_index=ids["image_token"],
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
    )
    processor = Gemma3Processor(Gemma3ImageProcessor(size={"height": 16, "width": 16}), tokenizer, image_seq_length=4)
    return Gemma3ForConditionalGeneration(config), processor


HOSTS: dict[str, Callable[[], tuple[PreTrainedModel, Any]]] = {
    "gemma3": gemma3,
    "idefics3": idefics3,
    "internvl": internvl,
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "paligemma": paligemma,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen2_vl": qwen2_vl,
    "qwen3_vl": qwen3_vl,
    "smolvlm": smolvlm,
}


def build(name: str) -> tuple[PreTrainedModel, Any]:
    """A host of a family and its processor, with weights large enough that images and words matter."""
    torch.manual_seed(0)
    host, processor = HOSTS[name]()
    with torch.no_grad():
        for key, parameter in host.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.5 if "embed_tokens" in key else parameter.shape[-1] ** -0.5)
    host.generation_config.pad_token_id = 0
    host.generation_config.suppress_tokens = [host.config.image_token_id]
    return host.eval(), processor


def _vilex(n_tokens: int) -> VisionEncoder:
    encoder = ViLexEncoder.from_backbone(vislex.create_encoder("siglip-tiny", tiny=True), n_tokens=16, widths=[20])
    encoder.config.with_budget(n_tokens)
    return encoder.eval()


# One of each kind: without prefix tokens, with CLS, with registers, a conv net, NaFlex, tokens that form no map.
_BUILDERS: dict[str, Callable[[], VisionEncoder]] = {
    "siglip": lambda: vislex.create_encoder("siglip-b16-256", tiny=True),
    "clip": lambda: vislex.create_encoder("clip-b16", tiny=True),
    "registers": lambda: vislex.create_encoder("dinov2-s14-registers", tiny=True),
    "conv": lambda: vislex.create_encoder("convnext-t", tiny=True),
    "naflex": lambda: vislex.create_encoder("siglip2-b16-naflex", tiny=True),
    "vilex-1": lambda: _vilex(1),
    "vilex-16": lambda: _vilex(16),
}
# Each is built once: a swap leaves its encoder as it was.
ENCODERS = {name: functools.cache(build) for name, build in _BUILDERS.items()}
