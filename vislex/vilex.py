"""``ViLex``: an encoder whose tokens a frozen text-to-image model reads like words (arXiv 2412.06774)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel
from transformers.utils import ModelOutput

from vislex.data.images import open_images
from vislex.diffusion.objectives import NoiseDraw, ReconstructionObjective
from vislex.diffusion.soft_tokens import INJECTIONS, ORDERS
from vislex.diffusion.t2i import TextToImage, load_t2i
from vislex.diffusion.words import TokenWords, word_ids
from vislex.encoders.base import VisionEncoder, kept_attention
from vislex.encoders.factory import create_encoder
from vislex.encoders.vilex import ViLexEncoder
from vislex.errors import CheckpointError, ConfigError, SpecError
from vislex.hub import model_card, open_checkpoint, read_notes
from vislex.modules.discrete_tokens import ESTIMATORS, choose_words
from vislex.modules.tail_drop import TAIL_DROPS, keep_counts, keep_mask
from vislex.processing import create_image_processor
from vislex.specs import VisionTokens
from vislex.vilex_config import ViLexConfig
from vislex.vilex_generation import ViLexGeneration

__all__ = ["TokenWords", "ViLex", "ViLexOutput"]


@dataclass
class ViLexOutput(ModelOutput):
    """What a training step gives.

    Attributes:
        loss: float32[].
        per_image: float32[B].
        counts: int64[B], tokens that each image kept.
    """

    loss: Tensor | None = None
    per_image: Tensor | None = None
    counts: Tensor | None = None


class ViLex(ViLexGeneration, PreTrainedModel):
    """A vision encoder with attention pooling, trained through a frozen text-to-image model.

    The text-to-image model is attached, not owned: it moves with the model to a device, but is no part of its
    parameters or its checkpoint, which records its source and digest.

    Attributes:
        encoder: ``ViLexEncoder``; its parts for training are "encoder.backbone", "encoder.pooling" and
            "encoder.heads".
        image_processor: Prepares images for the backbone; saved beside the model.
        card_notes: Markdown that goes into the model card on saving; that of the folder which was loaded.
        progress: How far the training is, 0 to 1; a training of discrete tokens sets it.
    """

    config_class = ViLexConfig
    config: ViLexConfig
    main_input_name = "pixel_values"
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: ViLexConfig, encoder: ViLexEncoder | None = None) -> None:
        super().__init__(config)
        if encoder is None:
            import vislex.auto  # noqa: F401
        self.encoder: ViLexEncoder = AutoModel.from_config(config.encoder_config) if encoder is None else encoder
        self.image_processor: Any = None
        self.card_notes = ""
        self.progress = 0.0
        self.__dict__["_t2i"] = None  # not a module of its own: nothing may train or save it
        self.post_init()

    @classmethod
    def from_parts(
        cls,
        *,
        encoder: VisionEncoder | str,
        t2i: TextToImage | str | Path,
        n_tokens: int | None = None,
        depth: int = 2,
        hidden_size: int | None = None,
        num_heads: int | None = None,
        token_scale: float = 1.0,
        tail_drop: str = "uniform",
        order: str = "visual_first",
        inject: str = "input",
        caption_dropout: float = 0.1,
        objective: dict[str, Any] | None = None,
        vocabulary: Iterable[str] | None = None,
        estimator: str = "straight_through",
        temperature: Sequence[float] = (2.0, 0.3),
    ) -> Self:
        """A new pooling between an encoder and a text-to-image model.

        Args:
            encoder: Built encoder, or a name, which is created with its pretrained weights.
            t2i: Built text-to-image model, or what ``load_t2i`` opens.
            n_tokens: Most tokens of an image; as many as the text encoder reads by default.
            depth: Layers of the pooling, 1 to 5.
            hidden_size: Width of the pooling; the encoder's by default.
            num_heads: Its heads; one for 64 channels by default.
            token_scale: How large tokens are at the start, in typical words (``inject="output"``: in typical states of
                the text encoder). Above 1 the text encoder blends them less with their neighbours.
            tail_drop: See ``ViLexConfig``.
            order: See there.
            inject: See there.
            caption_dropout: See there.
            objective: See there.
            vocabulary: Texts whose words are all that a token may be: the discrete tokens of De-Diffusion (arXiv
                2311.00618), which ``describe`` reads out. None for ViLex's continuous tokens.
            estimator: See ``ViLexConfig``.
            temperature: See there.

        Raises:
            SpecError: If ``n_tokens`` do not fit into the text encoder, or words are asked for and there are several.
            ConfigError: If an option is unknown.
        """
        encoder = create_encoder(encoder, pretrained=True) if isinstance(encoder, str) else encoder
        t2i = t2i if isinstance(t2i, TextToImage) else load_t2i(t2i)
        _check(tail_drop=(tail_drop, TAIL_DROPS), order=(order, ORDERS), estimator=(estimator, ESTIMATORS))
        _check(inject=(inject, INJECTIONS))
        if len(temperature) != 2 or min(temperature) <= 0:
            raise ConfigError(f"temperature {tuple(temperature)} must be two numbers above 0: at the start and the end")
        if not token_scale > 0:
            raise ConfigError(f"token_scale {token_scale} must be above 0, in typical word embeddings")
        if not 0 <= caption_dropout <= 1:
            raise ConfigError(f"caption_dropout {caption_dropout} must be between 0 and 1")
        ReconstructionObjective(**_known_objective(objective))
        if inject == "input":
            neighbours = [text.embed(torch.arange(len(text.tokenizer))) for text in t2i.texts]
        else:
            neighbours = [t2i.condition("").prompt_embeds]
        pooled = ViLexEncoder.from_backbone(
            encoder,
            n_tokens=t2i.max_soft_tokens if n_tokens is None else n_tokens,
            depth=depth,
            num_heads=num_heads,
            widths=list(t2i.widths),
            token_scales=[token_scale * float(vectors.float().std()) for vectors in neighbours],
            vocabulary=None if vocabulary is None else word_ids(t2i, vocabulary),
            **({} if hidden_size is None else {"hidden_size": hidden_size}),
        )
        with kept_attention(pooled):
            config = ViLexConfig(
                encoder_config=pooled.config,
                tail_drop=tail_drop,
                order=order,
                inject=inject,
                caption_dropout=caption_dropout,
                objective=objective,
                estimator=estimator,
                temperature=list(temperature),
            )
        model = cls(config, pooled)
        model.image_processor = create_image_processor(pooled.spec)
        model.attach(t2i)
        return model

    # The frozen text-to-image model.

    @property
    def t2i(self) -> TextToImage:
        """The attached text-to-image model; opened from the recorded source where none is attached yet.

        Raises:
            CheckpointError: If the source is gone or has changed.
        """
        if self._t2i is None:
            source = (self.config.t2i or {}).get("source") or {}
            if source.get("location") is None:
                raise CheckpointError(
                    "this ViLex model was trained with loose components of a text-to-image model, which have no "
                    "source; pass the same ones to attach()"
                )
            self.attach(load_t2i(source["location"], revision=source.get("revision")))
        found: TextToImage = self._t2i
        return found

    def attach(self, t2i: TextToImage | str | Path, *, other: bool = False) -> Self:
        """Attaches the frozen text-to-image model.

        Args:
            t2i: The model, or what ``load_t2i`` opens.
            other: Whether it may be another one than the model was trained with; its text encoders must read words of
                the same widths. The recorded source stays.

        Raises:
            SpecError: If the tokens do not fit into its text encoders.
            CheckpointError: If its weights are not those that the model was trained with.
        """
        t2i = t2i if isinstance(t2i, TextToImage) else load_t2i(t2i)
        encoder = self.encoder.config
        if tuple(encoder.widths or ()) != t2i.widths:
            raise SpecError(
                f"these tokens have the widths {tuple(encoder.widths or ())}, but the text encoders of "
                f"{t2i.pipeline_name} read {t2i.widths}"
            )
        if encoder.n_tokens > t2i.max_soft_tokens:
            raise SpecError(
                f"n_tokens {encoder.n_tokens} do not fit: the text encoder of {t2i.pipeline_name} reads at most "
                f"{t2i.max_soft_tokens} tokens beside its special tokens"
            )
        recorded = ((self.config.t2i or {}).get("source") or {}).get("sha256")
        if recorded is None:
            nowhere = {"kind": "components", "location": None, "revision": None}
            source = {**(t2i.source or nowhere), "sha256": t2i.sha256}
            self.config.t2i = {"pipeline": t2i.pipeline_name, "source": source}
        elif t2i.sha256 != recorded and not other:
            raise CheckpointError(
                f"this text-to-image model (sha256 {t2i.sha256[:12]}) is not the one that the ViLex model was trained "
                f"with ({recorded[:12]}); attach(..., other=True) takes it all the same"
            )
        self.__dict__["_t2i"] = t2i.to(self.device)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Takes the text-to-image model along to another device or number format."""
        if self._t2i is not None:
            self._t2i._apply(fn, recurse)
        return super()._apply(fn, recurse)

    # Training.

    @property
    def objective(self) -> ReconstructionObjective:
        return ReconstructionObjective(**_known_objective(self.config.objective))

    def forward(
        self,
        pixel_values: Tensor | None = None,
        targets: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        vision_mask: Tensor | None = None,
        latents: Tensor | None = None,
        captions: Sequence[str] | None = None,
        counts: Tensor | int | None = None,
        timesteps: Tensor | None = None,
        noise: Tensor | None = None,
        spatial_shapes: Tensor | None = None,
        pixel_attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> ViLexOutput:
        """The denoising loss of the text-to-image model, told of an image by its tokens.

        Args:
            pixel_values: float[B, 3, H, W] for the encoder; or give ``vision_tokens``.
            targets: float[B, 3, S, S] in [-1, 1], the images to reconstruct (``t2i.preprocess``); or give ``latents``.
            vision_tokens: What the backbone gave, or its tokens float[B, N, D], for example from a cache.
            vision_mask: bool[B, N], where ``vision_tokens`` is a bare tensor.
            latents: float[B, C, h, w], normalised (``t2i.encode_pixels``).
            captions: B texts that stand with the tokens; in training each is left out with the config's probability.
            counts: Tokens kept of each image, int64[B] or one number; in training drawn by TailDrop by default, else
                all.
            timesteps: [B] in the scheduler's unit; drawn by default.
            noise: float[B, C, h, w]; drawn by default. Both or none must be given.
            spatial_shapes: int64[B, 2] of variable-length encoders.
            pixel_attention_mask: bool[B, N] of variable-length encoders.
            **kwargs: What trainers add; not used.

        Raises:
            SpecError: If an input is missing or given twice.
        """
        vision = self._vision(pixel_values, vision_tokens, vision_mask, spatial_shapes, pixel_attention_mask)
        if (targets is None) == (latents is None):
            raise SpecError("give ViLex either targets (pixels) or latents to reconstruct")
        if (timesteps is None) != (noise is None):
            raise SpecError("give ViLex both timesteps and noise, or neither")
        latents = self.t2i.encode_pixels(targets) if latents is None else latents
        drawn = self._counts(counts, len(latents)).to(latents.device)
        tokens = self.tokens(vision, int(drawn.max()))
        condition = self.t2i.condition_from_soft_tokens(
            tokens.tokens,
            keep_mask(drawn, tokens.tokens.shape[1]),
            self._drop_captions(captions),
            self.config.order,  # type: ignore[arg-type]
            self.config.inject,  # type: ignore[arg-type]
            padded=False,
        )
        draw = None if timesteps is None or noise is None else NoiseDraw(timesteps, noise)
        output = self.objective(self.t2i, latents, condition, draw)
        return ViLexOutput(loss=output.loss, per_image=output.per_image, counts=drawn)

    def loss(self, images: Any, *, captions: Sequence[str] | None = None, **inputs: Any) -> ViLexOutput:
        """``forward`` of images (PIL, paths): they are prepared for the encoder and for the text-to-image model."""
        opened = open_images(images)
        return self(
            **self.processor()(opened, return_tensors="pt").to(self.device),
            targets=self.t2i.preprocess(opened),
            captions=captions,
            **inputs,
        )

    @property
    def is_discrete(self) -> bool:
        """Whether every token is a word (De-Diffusion)."""
        return self.encoder.config.vocabulary is not None

    @property
    def temperature(self) -> float:
        """Softmax temperature of discrete tokens, falling geometrically with ``progress``."""
        start, end = self.config.temperature
        return float(start * (end / start) ** self.progress)

    def tokens(self, vision: VisionTokens, n_tokens: int | None = None) -> VisionTokens:
        """The first ``n_tokens`` tokens of what the backbone gave; see ``ViLexEncoder.pool``."""
        if not self.is_discrete:
            return self.encoder.pool(vision, n_tokens)
        return VisionTokens(self.words(vision, n_tokens)[0], pooled=vision.pooled)

    def words(self, vision: VisionTokens, n_tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """Word embeddings float[B, K, D] of discrete tokens, and their ids int64[B, K]."""
        vocabulary = torch.tensor(self.encoder.config.vocabulary, device=self.device)
        vectors, chosen = choose_words(
            self.encoder.logits(vision, n_tokens),
            self.t2i.texts[0].embed(vocabulary),
            estimator=self.config.estimator,  # type: ignore[arg-type]
            temperature=self.temperature,
            training=self.training,
        )
        return vectors, vocabulary[chosen]

    def _vision(
        self,
        pixel_values: Tensor | None,
        vision_tokens: VisionTokens | Tensor | None,
        vision_mask: Tensor | None,
        spatial_shapes: Tensor | None,
        pixel_attention_mask: Tensor | None,
    ) -> VisionTokens:
        if (pixel_values is None) == (vision_tokens is None):
            raise SpecError("give ViLex either pixel_values or vision_tokens")
        if isinstance(vision_tokens, Tensor):
            return VisionTokens(vision_tokens, vision_mask)
        if vision_tokens is not None:
            return vision_tokens
        more = {"spatial_shapes": spatial_shapes, "pixel_attention_mask": pixel_attention_mask}
        vision: VisionTokens = self.encoder.backbone(
            pixel_values, **{name: value for name, value in more.items() if value is not None}
        )
        return vision

    def _counts(self, counts: Tensor | int | None, batch: int) -> Tensor:
        most = self.encoder.config.n_tokens
        if counts is None:
            strategy = self.config.tail_drop if self.training else "none"
            return keep_counts(strategy, most, batch)  # type: ignore[arg-type]
        given = counts if isinstance(counts, Tensor) else torch.full((batch,), counts)
        if len(given) != batch or int(given.min()) < 1 or int(given.max()) > most:
            raise SpecError(f"counts {given.tolist()} must be one number of 1 to {most} for each of {batch} images")
        return given

    def _drop_captions(self, captions: Sequence[str] | None) -> list[str] | None:
        if captions is None or not self.training or not self.config.caption_dropout:
            return None if captions is None else list(captions)
        left_out = torch.rand(len(captions)) < self.config.caption_dropout
        return ["" if out else text for out, text in zip(left_out.tolist(), captions, strict=True)]

    def processor(self) -> Any:
        """The image processor of the backbone."""
        if self.image_processor is None:
            self.image_processor = create_image_processor(self.encoder.spec)
        return self.image_processor

    # Saving.

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Saves encoder, pooling and heads (safetensors), config, image processor and a model card."""
        super().save_pretrained(save_directory, *args, **kwargs)
        self.processor().save_pretrained(save_directory)
        (Path(save_directory) / "README.md").write_text(self._card(), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Any:
        """Loads a folder or hub id; the text-to-image model is opened when it is first needed, or attached.

        Raises:
            CheckpointError: If weights are missing or a config carries what no checkpoint may.
        """
        import vislex.auto  # noqa: F401

        wants_info = kwargs.pop("output_loading_info", False)
        kwargs.setdefault("dtype", torch.float32)
        load = super().from_pretrained
        model, info = open_checkpoint(load, pretrained_model_name_or_path, *args, what="ViLex model", **kwargs)
        model.card_notes = read_notes(pretrained_model_name_or_path)
        return (model, info) if wants_info else model

    def _card(self) -> str:
        encoder = self.encoder.config
        t2i = self.config.t2i or {}
        source = t2i.get("source") or {}
        facts = {
            "Backbone": f"`{self.encoder.backbone.config.name or self.encoder.backbone.config.model_type}`",
            "Tokens": f"{encoder.n_tokens} of width {' + '.join(map(str, encoder.widths or []))}, "
            f"TailDrop `{self.config.tail_drop}`",
            "Text-to-image model": f"`{t2i.get('pipeline')}` {source.get('location') or ''}, not part of this folder",
            "Parameters": f"{sum(p.numel() for p in self.parameters()):,}",
        }
        usage = 'import vislex\n\nmodel = vislex.ViLex.from_pretrained("THIS_FOLDER")\n'
        usage += 'model.reconstruct("image.png", n_tokens=4)[0].save("again.png")\n'
        usage += 'encoder = vislex.create_encoder("vilex:THIS_FOLDER", pretrained=True, n_tokens=4)'
        tags = ("vilex", "image-feature-extraction")
        return model_card("ViLex", facts, usage, self.card_notes, task="image-feature-extraction", tags=tags)


def _check(**given: tuple[str, Sequence[str]]) -> None:
    for name, (value, allowed) in given.items():
        if value not in allowed:
            raise ConfigError(f"unknown {name} '{value}'; allowed are {', '.join(allowed)}")


def _known_objective(objective: dict[str, Any] | None) -> dict[str, Any]:
    known = ReconstructionObjective.__dataclass_fields__
    for name in objective or {}:
        if name not in known:
            raise ConfigError(f"unknown option '{name}' of the objective; it has {', '.join(known)}")
    return dict(objective or {})
