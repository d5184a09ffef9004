"""``ladic``: a caption is denoised as a sequence of latents, all words at once, and read off at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, initialization

from vislex.decoders.base import CaptionDecoder, CaptionDecoderOutput, as_vision_tokens, shared_fields
from vislex.decoders.ladic.codec import LatentCodec
from vislex.decoders.ladic.codec_loading import load_codec
from vislex.decoders.ladic.config import LadicConfig
from vislex.decoders.ladic.generation import generate
from vislex.decoders.ladic.infill import infill
from vislex.decoders.ladic.losses import cross_entropy, draw, latent_loss
from vislex.decoders.ladic.presets import preset as preset_fields
from vislex.decoders.ladic.sampling import SamplingConfig
from vislex.decoders.ladic.words import whole_captions
from vislex.decoders.projection import VisionProjection
from vislex.diffusion.noise import NoiseSchedule
from vislex.diffusion.token_times import token_times
from vislex.errors import ConfigError, did_you_mean
from vislex.modules.denoiser import Denoiser, VisionState, start_as_sines
from vislex.modules.length_head import LengthHead, round_up
from vislex.modules.neighbours import NeighbourMixing
from vislex.specs import EncoderSpec, VisionTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from vislex.decoders.infill import Filled, Template

__all__ = ["LadicDecoder"]

INITIAL_SIZE = 0.1  # standard deviation
# (decoder, vision tokens, input_ids int64[B, L] at the length of the latents, token_mask bool[B, L]) -> loss float[]
Objective = Callable[["LadicDecoder", VisionTokens | Tensor, Tensor, Tensor | None], Tensor]


class LadicDecoder(CaptionDecoder):
    """LaDiC (arXiv 2404.10763): diffusion in the latent space of a split BERT.

    Attributes:
        projection: Of the vision tokens, as in every decoder, unless the config leaves it out.
        denoiser: Bidirectional transformer; the image's keys and values are computed once.
        codec: Latents to words; saved with the decoder. Its frozen text encoder is fetched when training asks for it.
        schedule: Noise of training.
        sampling_schedule: Noise of sampling.
    """

    config_class = LadicConfig
    config: LadicConfig
    any_order = True
    _supports_sdpa = True

    def __init__(self, config: LadicConfig) -> None:
        super().__init__(config)
        config.check()
        vision_width = config.hidden_size if config.vision_projection else config.vision_dim
        if config.vision_projection:
            self.projection = VisionProjection(config.vision_dim, vision_width, config.vision_grid)
        self.denoiser = Denoiser(
            hidden_size=config.hidden_size,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            intermediate_size=config.intermediate_size,
            max_length=config.max_length,
            vision_dim=vision_width,
            dropout=config.dropout,
            pre_norm=config.pre_norm,
            time_embedding=config.time_embedding,  # type: ignore[arg-type]
            time_norm=config.time_norm,  # type: ignore[arg-type]
            null_tokens=config.null_tokens,
            layer_norm_eps=config.layer_norm_eps,
        )
        self.codec = LatentCodec(config.codec_config)
        width = self.codec.latent_dim
        if config.self_conditioning != "concat":
            self.input = nn.Linear(width, config.hidden_size)
            self.output = nn.Linear(config.hidden_size, width)
        if config.preconditioning == "tokens":
            self.words = nn.Embedding(config.vocab_size, config.hidden_size)
            self.words_bias = nn.Parameter(torch.zeros(config.vocab_size))
        if config.neighbours:
            self.neighbours = NeighbourMixing(config.hidden_size)
        if config.self_conditioning == "project":
            self.previous = nn.Linear(width, config.hidden_size, bias=False)
        if config.length == "predicted":
            # Of the tokens behind the first one.
            self.length_head = LengthHead(vision_width, config.max_length, bucket=config.length_bucket)
        self.schedule = NoiseSchedule.create(
            num_train_timesteps=config.num_train_timesteps,
            schedule=config.noise_schedule,  # type: ignore[arg-type]
            log_snr=config.log_snr,
            noise_factor=config.noise_factor,
            variance_preserving=config.variance_preserving,
            time_shift=config.time_shift,
        )
        factor = config.sampling_noise_factor
        self.sampling_schedule = self.schedule if factor is None else self.schedule.with_noise_factor(factor)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Where words are mixed: words, positions, predictions and times of equal size, positions as sines at first."""
        super()._init_weights(module)
        if self.config.preconditioning != "tokens":
            return
        if module is self.words:
            initialization.normal_(module.weight, std=INITIAL_SIZE)
        elif module in (self.input, getattr(self, "previous", None)):
            initialization.normal_(module.weight, std=INITIAL_SIZE * self.codec.latent_dim**-0.5)
        elif module is self.denoiser.position:
            start_as_sines(module, INITIAL_SIZE)
        elif self.config.time_embedding == "add" and module is self.denoiser.time[2]:
            initialization.normal_(module.weight, std=2 * INITIAL_SIZE * self.config.hidden_size**-0.5)

    @classmethod
    def create(
        cls,
        spec: EncoderSpec,
        tokenizer: PreTrainedTokenizerFast,
        *,
        codec: str | Path | LatentCodec = "ladic-codec",
        preset: str = "fast",
        hidden_size: int | None = None,
        num_layers: int = 4,
        num_heads: int = 6,
        intermediate_size: int | None = None,
        max_length: int = 32,
        **options: Any,
    ) -> LadicDecoder:
        """Builds the decoder for an encoder and a tokenizer.

        Args:
            spec: Spec of the encoder.
            tokenizer: Tokenizer whose ids the decoder writes.
            codec: A trained codec, its folder, or the name of a shipped one.
            preset: "fast", "paper" or "released".
            hidden_size: Width of the denoiser; by default 192, and twice the width of the latents where the preset
                puts predictions side by side.
            num_layers: Its layers.
            num_heads: Its attention heads; they divide ``hidden_size``.
            intermediate_size: Width inside its MLPs; four times ``hidden_size`` by default.
            max_length: Longest caption in tokens, special tokens included.
            **options: Further fields of ``LadicConfig``, above those of the preset.

        Raises:
            ConfigError: If an option is unknown or does not fit, or the codec does not know the tokenizer's pieces.
            CheckpointError: If there is no codec, or it is incomplete.
        """
        chosen = {**preset_fields(preset), **options}
        known = {field.name for field in fields(LadicConfig)}
        if unknown := sorted(set(chosen) - known):
            raise ConfigError(f"unknown option '{unknown[0]}' of the decoder ladic{did_you_mean(unknown[0], known)}")
        given = codec if isinstance(codec, LatentCodec) else load_codec(codec)
        fitting = given.for_tokenizer(tokenizer)
        if hidden_size is None:
            hidden_size = 2 * fitting.latent_dim if chosen["self_conditioning"] == "concat" else 192
        if chosen.get("noise_schedule") == "logistic" and "log_snr" not in chosen:
            chosen["log_snr"] = fitting.mixture().hidden_share()
        chosen.setdefault("initializer_range", 0.5 * hidden_size**-0.5)  # as of the autoregressive decoders
        config = LadicConfig(
            codec_config=fitting.config,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            intermediate_size=4 * hidden_size if intermediate_size is None else intermediate_size,
            **shared_fields(spec, tokenizer, max_length),
            **chosen,
        )
        decoder = cls(config)
        decoder.codec.take(fitting)
        return decoder

    def denoise(
        self,
        x: Tensor,
        timesteps: Tensor,
        previous: Tensor | None,
        state: VisionState,
        schedule: NoiseSchedule,
        token_mask: Tensor | None = None,
    ) -> Tensor:
        """The prediction of x0, float32[B, L, D]; see ``predict``."""
        return self.predict(x, timesteps, previous, state, schedule, token_mask)[0]

    def predict(
        self,
        x: Tensor,
        timesteps: Tensor,
        previous: Tensor | None,
        state: VisionState,
        schedule: NoiseSchedule,
        token_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Denoises once.

        Args:
            x: float[B, L, D] noised latents.
            timesteps: int64[B, L] that the network is told.
            previous: float[B, L, D], an earlier prediction, or None.
            state: Of the images, of B rows, or of K B: the same latents are then seen with the first B images, with
                the next B, and so on (guidance), and what depends on the latents alone is computed once.
            schedule: Of ``x``.
            token_mask: bool[B, L], False on positions behind the end of a caption's latents.

        Returns:
            The prediction of x0, float32[K B, L, D], and with preconditioning "tokens" the logits float32[K B, L, V] of
            the mixture's weights.
        """
        config, dtype = self.config, self.denoiser.position.weight.dtype
        copies = len(state) // len(x)

        def each(value: Tensor) -> Tensor:
            return value if copies == 1 else value.repeat(copies, *[1] * (value.ndim - 1))

        x = x.float()
        alpha, sigma = schedule.alpha_sigma(timesteps)
        evidence = None
        if config.self_conditioning == "concat":
            second = torch.zeros_like(x) if previous is None else previous.float()
            hidden = torch.cat([x, second], dim=-1).to(dtype)
        elif config.preconditioning == "tokens":
            mixture = self.codec.mixture()
            evidence = mixture.evidence(x, alpha, sigma)
            posterior = evidence.softmax(-1)
            # Not x itself: its noise would drown what is known of the word.
            guess = mixture.mean(x, alpha, sigma, posterior)
            hidden = self.input(guess.to(dtype)) + posterior.to(dtype) @ self.words.weight
        else:
            hidden = self.input(x.to(dtype))
        if config.self_conditioning == "project" and previous is not None:
            hidden = hidden + self.previous(previous.to(dtype))
        if config.neighbours:
            hidden = self.neighbours(hidden, hidden.new_ones(hidden.shape[:2]) if token_mask is None else token_mask)
        mask = None if token_mask is None else each(token_mask)
        output = self.denoiser(each(hidden), state, mask, each(timesteps))
        x, alpha, sigma = (each(value) for value in (x, alpha, sigma))
        if config.self_conditioning == "concat":
            residual = output[..., : x.shape[-1]].float()
        else:
            residual = self.output(output).float()
        if evidence is not None:
            logits = each(evidence) + F.linear(output, self.words.weight, self.words_bias).float()
            return mixture.mean(x, alpha, sigma, logits.softmax(-1)) + sigma * residual, logits
        if config.preconditioning == "linear":
            return (alpha * x + sigma * residual) / (alpha**2 + sigma**2), None
        return residual, None

    def forward(
        self,
        vision_tokens: VisionTokens | Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        latents: Tensor | None = None,
        objective: Objective | None = None,
        **kwargs: Any,
    ) -> CaptionDecoderOutput:
        """Denoising loss at random times of each caption; in eval mode always at the same times and noise.

        ``labels`` only ask for the loss: every position of a caption counts, its end included. See
        ``CaptionDecoder.forward`` for these and the following.

        Args:
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            input_ids: int64[B, L].
            attention_mask: int64[B, L].
            labels: int64[B, L].
            latents: float[B, L, D] of the words, from a cache; what stands at special tokens is not read. By default
                the codec's text encoder gives them.
            objective: What takes the place of the denoising loss (``FewStepLoss``).
            **kwargs: Not read.
        """
        config = self.config
        self._check_length(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        input_ids, mask, token_mask = self._pad(input_ids, mask)
        if objective is not None:
            return CaptionDecoderOutput(loss=objective(self, vision_tokens, input_ids, token_mask))
        vision = self._project(vision_tokens)
        x0 = self._latents(input_ids, mask, latents, vision.tokens.dtype)
        draws = config.draws_per_caption if self.training else 1
        if draws > 1:
            input_ids, x0 = input_ids.repeat_interleave(draws, 0), x0.repeat_interleave(draws, 0)
            token_mask = None if token_mask is None else token_mask.repeat_interleave(draws, 0)
        drawn = draw(
            (len(x0), x0.shape[1], x0.shape[2]),
            config.num_train_timesteps,
            drop_image=config.drop_image if self.training else 0.0,
            keep_words=config.keep_words,
            self_conditioning=0.0 if config.self_conditioning == "none" else config.self_conditioning_p,
            time_skew=config.time_skew,
            device=x0.device,
            generator=None if self.training else torch.Generator().manual_seed(0),
        )
        timesteps = token_times(drawn.timesteps, x0.shape[1], drawn.skew, config.num_train_timesteps)
        timesteps = timesteps.masked_fill(drawn.kept, 0)
        clean = timesteps == 0
        noised = self.schedule.add_noise(x0, drawn.noise, timesteps)
        shown = torch.where(drawn.by_token[:, None, None], self.codec.token_latents[input_ids].to(x0), x0)
        noised = torch.where(clean[..., None], shown, noised)
        state = self.denoiser.vision_state(vision, drawn.dropped[::draws])
        if draws > 1:
            state = state.repeat(draws)
        previous = None
        if drawn.shows_prediction:
            with torch.no_grad():
                previous = self.denoise(noised, timesteps, None, state, self.schedule, token_mask)
                previous = torch.where(clean[..., None], noised, previous)
        prediction, words = self.predict(noised, timesteps, previous, state, self.schedule, token_mask)
        reads = labels is None or config.cross_entropy_weight > 0
        logits = self.codec.decode(prediction, token_mask) if reads else None
        if labels is None:
            return CaptionDecoderOutput(logits=logits)
        counts = ~clean if token_mask is None else token_mask & ~clean
        loss = latent_loss(
            prediction,
            x0,
            counts,
            timesteps,
            self.schedule,
            kind=config.latent_loss,
            min_snr_gamma=config.min_snr_gamma,
        )
        targets = self.codec.targets(input_ids)
        if logits is not None:
            loss = loss + config.cross_entropy_weight * cross_entropy(logits, targets, counts)
        if words is not None:
            loss = loss + config.token_weight * cross_entropy(words, targets, counts)
        if config.length == "predicted":
            loss = loss + config.length_weight * self.length_head.loss(vision, mask.sum(1) - 1)
        return CaptionDecoderOutput(loss=loss, logits=logits)

    def _pad(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Ids and mask int64[B, L] at the length of the latents, and bool[B, L] where captions have other lengths."""
        config = self.config
        input_ids = input_ids.masked_fill(mask == 0, config.pad_token_id)
        own = torch.full((len(mask),), config.max_length, device=mask.device)
        if config.length == "predicted":
            own = round_up(mask.sum(1), config.length_bucket, config.max_length)
        length = int(own.max())
        more = length - input_ids.shape[1]
        input_ids = F.pad(input_ids, (0, more), value=config.pad_token_id)
        mask = F.pad(mask, (0, more))
        token_mask = torch.arange(length, device=mask.device) < own[:, None]
        return input_ids, mask, None if bool(token_mask.all()) else token_mask

    def _latents(self, input_ids: Tensor, mask: Tensor, latents: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Latents float32[B, L, D] of padded captions: those that are known, or the text encoder's."""
        if latents is None:
            return self.codec.encode(input_ids, mask, dtype=dtype)
        padded = F.pad(latents.float(), (0, 0, 0, input_ids.shape[1] - latents.shape[1]))
        return torch.where(self.codec.is_special(input_ids)[..., None], self.codec.stop.float(), padded)

    def read(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Words int64[B, L] of latents float[B, L, D], and the probability float[B, L] of each."""
        confidence, ids = self.codec.decode(latents).float().softmax(-1).max(-1)
        return ids, confidence

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: Tensor | None = None,
        known_mask: Tensor | None = None,
        length: int | None = None,
        indices: Tensor | None = None,
        num_candidates: int = 1,
        **options: Any,
    ) -> Tensor:
        """Denoises captions.

        Args:
            pixel_values: Not accepted here; a ``Captioner`` encodes them.
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            generation_config: transformers' ``GenerationConfig``, of which ``max_new_tokens`` is read: the most
                positions beside those of ``input_ids`` (or the first).
            input_ids: int64[B, P], given words from the first special token on.
            known_mask: bool[B, P], which of them are given; all by default. What is behind them is free.
            length: Positions to denoise; by default those that the length head predicts, or ``max_length``.
            indices: int64[B], number of each caption in the run: its noise follows from it and ``seed``; the position
                in the batch by default.
            num_candidates: Captions sampled for each image, of which the one that agrees most with the others is
                taken (minimum Bayes risk); the image's state is shared.
            **options: Fields of ``SamplingConfig`` (``num_inference_steps``, ``guidance_scale``, ``sampler``,
                ``refine_at``, ``seed``, ...), above those of the config, and ``max_new_tokens``.

        Returns:
            int64[B, L]: [CLS], words, [SEP], padding. ``self.evaluations`` tells what it took.

        Raises:
            ConfigError: If an option is unknown or does not fit.
        """
        return generate(
            self,
            self._vision(pixel_values, vision_tokens),
            generation_config,
            options,
            input_ids=input_ids,
            known_mask=known_mask,
            length=length,
            indices=indices,
            num_candidates=num_candidates,
        )

    @torch.no_grad()
    def infill(
        self, vision_tokens: VisionTokens | Tensor, templates: Sequence[Template], **options: Any
    ) -> list[Filled]:
        """Fills blanks around the given words; see ``vislex.decoders.ladic.infill``."""
        return infill(self, vision_tokens, templates, **options)

    def sampling(self, **options: Any) -> SamplingConfig:
        """How ``generate`` samples with these options above those of the config."""
        settings = {**(self.config.sampling or {}), **options}
        if self.config.self_conditioning == "none":
            settings["self_conditioning"] = False
        if "guidance_interval" in settings:
            settings["guidance_interval"] = tuple(settings["guidance_interval"])
        return SamplingConfig(**settings)

    def whole(self, ids: Tensor, known: tuple[Tensor, Tensor] | None) -> Tensor:
        """Captions of ids int64[B, L] as ``read`` gives them; see ``whole_captions``."""
        return whole_captions(self.codec, ids, known, fixed_ends=self.config.fixed_ends)

    def _project(self, vision_tokens: VisionTokens | Tensor) -> VisionTokens:
        if self.config.vision_projection:
            return super()._project(vision_tokens)
        vision = as_vision_tokens(vision_tokens)
        return VisionTokens(vision.tokens.to(self.denoiser.null_vision.dtype), vision.mask)
