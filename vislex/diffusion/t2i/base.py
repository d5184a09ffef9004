"""``TextToImage``: a frozen text-to-image model of diffusers, seen from the places where ViLex touches it.

A family (one file each) says how its pipeline reads text, what else its denoiser is told, how latents are normalised
and which predictions it is trained for. Everything else - the sampling loop above all - stays the stock pipeline's,
built over the same components.
"""

from __future__ import annotations

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import SiglipImageProcessor
from transformers.image_utils import PILImageResampling

from vislex.diffusion.process import VP_PREDICTIONS, NoiseProcess
from vislex.diffusion.soft_tokens import INJECTIONS, Injection, Order, TextInputs, TextReader, write_vectors
from vislex.diffusion.t2i.folder import folder_digest
from vislex.errors import ConfigError, SpecError, did_you_mean
from vislex.modules.digest import values_digest

__all__ = ["Condition", "TextToImage", "merge_arguments", "to_dtype"]


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told of a prompt, under the names of the stock pipelines.

    Attributes:
        prompt_embeds: float[B, L, D].
        prompt_attention_mask: int64[B, L], 1 on real tokens, where the denoiser is given one.
        pooled_prompt_embeds: float[B, D'], where the denoiser is given one.
    """

    prompt_embeds: Tensor
    prompt_attention_mask: Tensor | None = None
    pooled_prompt_embeds: Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def map(self, change: Callable[[Tensor], Tensor]) -> Condition:
        """Applies a function of the rows to every tensor."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}
        return replace(self, **{name: change(value) for name, value in given.items() if value is not None})

    def expand(self, rows: int) -> Condition:
        """A condition of one row for ``rows`` images."""
        return self if len(self) == rows else self.map(lambda value: value.expand(rows, *value.shape[1:]))

    @staticmethod
    def join(conditions: Sequence[Condition]) -> Condition:
        """The rows of all, one after the other."""
        names = [item.name for item in fields(Condition) if getattr(conditions[0], item.name) is not None]
        return Condition(**{name: torch.cat([getattr(one, name) for one in conditions]) for name in names})


class TextToImage(nn.Module):
    """Base of the families: text encoders, tokenizers, denoiser, autoencoder (or none) and scheduler.

    It is frozen and in eval mode from the start; ``requires_grad_(True)`` of it or of a part, such as its denoiser,
    thaws that.

    Args:
        pipeline: Name of the stock pipeline; the family's first by default.
        image_size: Side in pixels of the images it makes; the denoiser's own by default.
        max_length: Tokens of a padded prompt; what the stock pipeline takes by default, but never more than the
            tokenizer's ``model_max_length``.
        **components: The parts by the names that the stock pipeline gives them.

    Attributes:
        source: ``{"kind", "location", "revision"}`` of the folder it was opened from; None for loose components.
        folder: Where that folder lies on this machine.

    Raises:
        ConfigError: If a part is missing or unknown, or the scheduler stands for another kind of prediction.
    """

    pipelines: ClassVar[tuple[str, ...]]
    parts: ClassVar[dict[str, tuple[str, ...]]]  # part -> classes that may stand there; a tokenizer has none
    optional: ClassVar[frozenset[str]] = frozenset()
    denoiser_part: ClassVar[str] = "transformer"
    predictions: ClassVar[tuple[str, ...]] = VP_PREDICTIONS
    default_density: ClassVar[str] = "uniform"
    guidance_argument: ClassVar[str] = "guidance_scale"
    default_guidance: ClassVar[float] = 4.5
    hides_padding: ClassVar[bool] = False  # whether neither text encoder nor denoiser looks at padding behind a prompt

    def __init__(
        self,
        *,
        pipeline: str | None = None,
        image_size: int | None = None,
        max_length: int | None = None,
        **components: Any,
    ) -> None:
        super().__init__()
        self.pipeline_name = pipeline or self.pipelines[0]
        if self.pipeline_name not in self.pipelines:
            raise ConfigError(
                f"{type(self).__name__} has no pipeline '{self.pipeline_name}'; it has {', '.join(self.pipelines)}"
            )
        self._check_parts(components)
        self.tokenizers: dict[str, Any] = {}
        for name in self.parts:
            part = components.get(name)
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif name.startswith("tokenizer"):
                self.tokenizers[name] = part
            elif part is None:
                setattr(self, name, None)
        self.scheduler = components["scheduler"]
        self.process = NoiseProcess.from_scheduler(self.scheduler, self.predictions)
        self.max_length = max_length
        self.texts: list[TextReader] = self.make_readers()
        self._image_size = image_size
        self.source: dict[str, Any] | None = None
        self.folder: Path | None = None
        self._sha256: str | None = None
        self.freeze()

    def _check_parts(self, components: dict[str, Any]) -> None:
        known = [*self.parts, "scheduler"]
        for name in components:
            if name not in known:
                raise ConfigError(
                    f"{type(self).__name__} has no part '{name}'{did_you_mean(name, known)} Its parts: "
                    + ", ".join(known)
                )
        missing = [name for name in known if components.get(name) is None and name not in self.optional]
        if missing:
            raise ConfigError(f"{self.pipeline_name} needs the parts {', '.join(missing)}, which are missing")

    # What a family says.

    @abstractmethod
    def make_readers(self) -> list[TextReader]:
        """Its text encoders in the order in which a soft token's channels are shared out."""

    @abstractmethod
    def read_texts(self, inputs: Sequence[TextInputs]) -> Condition:
        """The condition that the stock pipeline makes of these inputs, one for each reader."""

    def condition_arguments(self, condition: Condition) -> dict[str, Any]:
        """What the denoiser is told of a condition, by the denoiser's own names."""
        return {"encoder_hidden_states": condition.prompt_embeds}

    def extra_arguments(self, noisy: Tensor) -> dict[str, Any]:
        """What else the denoiser is told: sizes, guidance embeddings, positions."""
        return {}

    def network_time(self, timesteps: Tensor) -> Tensor:
        """The scheduler's timesteps as the denoiser takes them."""
        return timesteps

    def pack(self, latents: Tensor) -> Tensor:
        """Latents float[B, C, h, w] as the denoiser takes them."""
        return latents

    def unpack(self, output: Tensor, latents: Tensor) -> Tensor:
        """The denoiser's output as float[B, C', h, w]; ``latents`` is what was packed."""
        return output

    # What all share.

    @property
    def denoiser(self) -> Any:
        return getattr(self, self.denoiser_part)

    @property
    def vae_scale(self) -> int:
        """Pixels along a side of a latent; 1 without an autoencoder."""
        if self.vae is None:
            return 1
        config = self.vae.config
        stages = config.get("block_out_channels") or config.get("encoder_block_out_channels")
        return int(2 ** (len(stages) - 1))

    @property
    def image_size(self) -> int:
        """Side in pixels of the images that it makes and is trained on."""
        if self._image_size is not None:
            return self._image_size
        side = self.denoiser.config.get("sample_size")
        return int(side[0] if isinstance(side, list | tuple) else side or 128) * self.vae_scale

    @property
    def device(self) -> torch.device:
        return next(self.denoiser.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the denoiser."""
        found: torch.dtype = next(self.denoiser.parameters()).dtype
        return found

    @property
    def target_channels(self) -> int | None:
        """Channels of the denoiser's output that are the prediction; behind them may stand a learned variance."""
        return int(self.denoiser.config.in_channels)

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of a word embedding of each text encoder."""
        return tuple(text.width for text in self.texts)

    @property
    def max_soft_tokens(self) -> int:
        """Most soft tokens that every text encoder takes."""
        return min(text.capacity for text in self.texts)

    @property
    def sha256(self) -> str:
        """Digest of the weights: of the source's files, or of the values (as float32) of loose components; kept.

        On the meta device, where there are no values, of the pipeline's name alone.
        """
        if self._sha256 is None and self.folder is not None:
            self._sha256 = folder_digest(self.folder)
        if self._sha256 is None:
            values = "" if self.device.type == "meta" else values_digest(self)
            told = f"{self.pipeline_name} {self.process.prediction_type} {values}"
            self._sha256 = hashlib.sha256(told.encode()).hexdigest()
        return self._sha256

    def freeze(self) -> TextToImage:
        """No gradients for its own parameters, eval mode."""
        self.requires_grad_(False)
        return self.eval()

    def train(self, mode: bool = True) -> TextToImage:
        """Training mode for the parts that are not frozen; frozen ones stay in eval mode, without dropout."""
        super().train(mode and _has_trainable(self))
        for part in self.children():
            part.train(mode and _has_trainable(part))
        return self

    def condition(self, prompts: str | Sequence[str], *, padded: bool = True) -> Condition:
        """Conditions of B prompts, as the stock pipeline's ``encode_prompt`` gives them.

        Args:
            prompts: Texts.
            padded: See ``condition_from_soft_tokens``.
        """
        listed = [prompts] if isinstance(prompts, str) else list(prompts)
        return self.read_texts(self._shortened([text.tokenize(listed) for text in self.texts], padded))

    def _shortened(self, inputs: list[TextInputs], padded: bool) -> list[TextInputs]:
        return inputs if padded or not self.hides_padding else [own.trimmed() for own in inputs]

    def condition_from_soft_tokens(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        prompts: Sequence[str] | None = None,
        order: Order = "visual_first",
        inject: Injection = "input",
        *,
        padded: bool = True,
    ) -> Condition:
        """Conditions of soft tokens, alone or with words; see ``TextReader.compose``.

        Args:
            tokens: float[B, K, sum(widths)]: for each text encoder its own channels.
            mask: bool[B, K], False where a soft token is left out.
            prompts: B texts.
            order: "visual_first" or "text_first".
            inject: "input": the text encoder reads the tokens, as ViLex has it. "output": they replace its states at
                their places, past the text encoder (as IP-Adapter and its like do), to compare with.
            padded: Whether all conditions are as long as the stock pipeline's. False leaves out padding behind the
                longest prompt where the model does not look at it: the same prediction, sooner.

        Raises:
            SpecError: If they do not fit into a text encoder's context, have another width, or are to pass by the text
                encoders of a model that has several.
        """
        if tokens.ndim != 3 or tokens.shape[-1] != sum(self.widths):
            raise SpecError(
                f"soft tokens of shape {tuple(tokens.shape)}; {type(self).__name__} reads float[B, K, "
                f"{sum(self.widths)}], the word embeddings of its text encoders side by side ({self.widths})"
            )
        if inject not in INJECTIONS:
            raise ConfigError(f"unknown injection '{inject}' of soft tokens; allowed are {', '.join(INJECTIONS)}")
        parts = tokens.split(self.widths, dim=-1)
        inputs = [text.compose(part, mask, prompts, order) for text, part in zip(self.texts, parts, strict=True)]
        inputs = self._shortened(inputs, padded)
        if inject == "output" and len(self.texts) > 1:
            raise SpecError(
                f"{self.pipeline_name} has {len(self.texts)} text encoders, which tokens cannot pass by; use 'input'"
            )
        if inject == "input":
            return self.read_texts(inputs)
        own = inputs[0]
        condition = self.read_texts([replace(own, places=None, vectors=None)])
        if own.places is None or own.vectors is None or own.places.shape != condition.prompt_embeds.shape[:2]:
            raise SpecError(f"the states of {self.pipeline_name} are not those of its tokens one by one; use 'input'")
        return replace(condition, prompt_embeds=write_vectors(condition.prompt_embeds, own.places, own.vectors))

    def predict(self, noisy: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        """The denoiser's prediction, without channels of a learned variance.

        Args:
            noisy: float[B, C, h, w], latents (pixels without an autoencoder) at ``timesteps``.
            timesteps: [B] in the scheduler's unit: int64, or of a flow float32 T sigma.
            condition: B rows.

        Returns:
            float[B, C, h, w] of the denoiser's dtype.
        """
        arguments = merge_arguments(self.extra_arguments(noisy), self.condition_arguments(condition))
        output = self.denoiser(
            self.pack(noisy.to(self.dtype)),
            timestep=self.network_time(timesteps),
            return_dict=False,
            **to_dtype(arguments, self.dtype),
        )[0]
        return self.unpack(output, noisy)[:, : noisy.shape[1]]

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Normalised latents float[B, C, h, w] of pixels float[B, 3, H, W] in [-1, 1]; the pixels without autoencoder.

        Args:
            pixels: The images.
            generator: Draws from the autoencoder's distribution; None takes its mode.
        """
        if self.vae is None:
            return pixels
        encoded = self.vae.encode(pixels.to(next(self.vae.parameters())))
        if hasattr(encoded, "latent_dist"):
            spread = encoded.latent_dist
            latents = spread.mode() if generator is None else spread.sample(generator)
        else:
            latents = encoded.latent if hasattr(encoded, "latent") else encoded.latents
        config = self.vae.config
        normal: Tensor = (latents.float() - (config.get("shift_factor") or 0.0)) * (config.get("scaling_factor") or 1.0)
        return normal

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Pixels float32[B, 3, H, W] in [-1, 1] of normalised latents."""
        if self.vae is None:
            return latents.float()
        config = self.vae.config
        raw = latents / (config.get("scaling_factor") or 1.0) + (config.get("shift_factor") or 0.0)
        pixels: Tensor = self.vae.decode(raw.to(next(self.vae.parameters())), return_dict=False)[0]
        return pixels.float()

    def preprocess(self, images: Any) -> Tensor:
        """Images as ``prepare`` gives them, on the device of the model."""
        return self.prepare(images).to(self.device)

    def prepare(self, images: Any) -> Tensor:
        """Images (PIL, or uint8 [H, W, 3]) squashed to ``image_size``: float32[B, 3, H, W] in [-1, 1], on the cpu."""
        size = {"height": self.image_size, "width": self.image_size}
        processor = SiglipImageProcessor(
            size=size,
            resample=PILImageResampling.BICUBIC,
            image_mean=[0.5] * 3,
            image_std=[0.5] * 3,
            do_convert_rgb=True,
        )
        pixels: Tensor = processor(images, return_tensors="pt")["pixel_values"]
        return pixels

    # The stock pipeline.

    def pipeline(self, **options: Any) -> Any:
        """The stock pipeline over the same components (not copies), with a scheduler of its own."""
        import diffusers

        parts = {name: getattr(self, name, None) for name in self.parts if not name.startswith("tokenizer")}
        made = getattr(diffusers, self.pipeline_name)(
            **parts, **self.tokenizers, scheduler=copy.deepcopy(self.scheduler), **self.pipeline_options(), **options
        )
        made.set_progress_bar_config(disable=True)
        return made

    def pipeline_options(self) -> dict[str, Any]:
        """Arguments of the pipeline's constructor that are no parts."""
        return {}

    def prompt_arguments(self, condition: Condition, *, negative: bool = False) -> dict[str, Any]:
        """A condition as arguments of the stock pipeline's call."""
        prefix = "negative_" if negative else ""
        given = {
            f"{prefix}prompt_embeds": condition.prompt_embeds,
            f"{prefix}prompt_attention_mask": condition.prompt_attention_mask,
            f"{prefix}pooled_prompt_embeds": condition.pooled_prompt_embeds,
        }
        return {name: value for name, value in given.items() if value is not None}

    def call_arguments(self) -> dict[str, Any]:
        """What every call of the stock pipeline is given: sizes and the form of its output."""
        return {"height": self.image_size, "width": self.image_size, "output_type": "pt"}

    def images_of(self, output: Any) -> Tensor:
        """Images float32[B, 3, H, W] in [0, 1] of the pipeline's output."""
        images: Tensor = output.images.float().clamp(0, 1)
        return images

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the folder that ``load_t2i`` and the stock pipeline open, and takes it as its source."""
        self.pipeline().save_pretrained(folder, safe_serialization=True)
        self.folder, self._sha256 = Path(folder), None
        self.source = {"kind": "local", "location": str(folder), "revision": None}


def _has_trainable(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def merge_arguments(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Arguments of both; of a mapping in both the union."""
    merged = {**below, **above}
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(name), dict):
            merged[name] = {**below[name], **value}
    return merged


def to_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Floating-point tensors, also inside mappings, in a number format."""
    if isinstance(value, dict):
        return {key: to_dtype(item, dtype) for key, item in value.items()}
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
