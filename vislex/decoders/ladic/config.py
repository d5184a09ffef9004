"""Config of ``LadicDecoder``: what differs between the released model, the paper and the fast variant is a field."""

from __future__ import annotations

from typing import Any

from transformers.configuration_utils import SubConfigSpec

from vislex.decoders.base import CaptionDecoderConfig
from vislex.decoders.ladic.codec import LatentCodecConfig
from vislex.errors import ConfigError

__all__ = ["CHOICES", "LadicConfig"]

CHOICES = {
    "self_conditioning": ("concat", "project", "none"),
    "time_embedding": ("add", "table", "none"),
    "time_norm": ("none", "always", "evaluation"),
    "noise_schedule": ("linear", "cosine", "logistic"),
    "latent_loss": ("l2", "mse"),
    "length": ("fixed", "predicted"),
    "preconditioning": ("none", "linear", "tokens"),
}


class LadicConfig(CaptionDecoderConfig):
    """Config of ``LadicDecoder``.

    Attributes:
        codec_config: Config of the latent codec.
        hidden_size: Width of the denoiser.
        num_layers: Its layers.
        num_heads: Its attention heads.
        intermediate_size: Width inside its MLPs.
        dropout: Its dropout.
        initializer_range: Standard deviation of its first weights.
        pre_norm: Whether it normalises before each sub-layer; False is BERT's order.
        layer_norm_eps: Of its LayerNorms.
        time_embedding: How it is told the time; see ``Denoiser``.
        time_norm: Whether a LayerNorm stands before the table of times; see there.
        vision_projection: Whether the vision tokens are normalised and projected to the denoiser's width on their way
            to it; False hands them over as they are.
        null_tokens: Tokens of the learned null image.
        self_conditioning: "concat" puts the previous prediction beside x_t on the channels, which makes the denoiser
            twice as wide as the latents, "project" adds a projection of it, "none" leaves it out.
        self_conditioning_p: Share of training batches that are shown a first prediction.
        preconditioning: What the network's output is added to. "none": nothing. "linear": the best linear guess
            alpha_t x_t. "tokens": the mean of x0 under the mixture of the word pieces' latents, of which the network
            learns the weights; the latents then need not fit through a narrow denoiser.
        neighbours: Whether each word is mixed with those beside it before the denoiser (``NeighbourMixing``).
        num_train_timesteps: T.
        noise_schedule: "linear", "cosine", or "logistic": time goes as the share of the words that the noise hides.
        log_snr: Median and scale of "logistic"; ``create`` measures them on the codec (``hidden_share``).
        noise_factor: F of training.
        sampling_noise_factor: F of sampling; None takes that of training.
        variance_preserving: Whether x_t is divided by its scale; the released model does not.
        time_shift: Timesteps by which the network is told more than the truth while sampling.
        latent_loss: "l2" is the mean over tokens of the un-squared norm (the paper's), "mse" the mean square.
        cross_entropy_weight: Weight of the cross-entropy of the decoded prediction.
        token_weight: Weight of the cross-entropy of the mixture's weights, with preconditioning "tokens".
        min_snr_gamma: Weighs the latent loss by min(SNR, gamma) (arXiv 2303.09556); None by 1.
        draws_per_caption: Times and noises that each training caption is shown at in one step; what is computed of its
            image serves all of them.
        drop_image: Share of training captions without their image, for guidance.
        keep_words: Share of training captions of which some words are shown clean, each with its own time 0: what
            Back&Refine and infilling ask for.
        time_skew: Largest skew of the words' times in training (``token_times``), drawn evenly from 0 on: words are
            then also learnt with those before them nearly clean. 0 gives all words of a caption the same time.
        length: "fixed" denoises ``max_length`` positions, "predicted" as many as a head reads from the image.
        fixed_ends: Whether the first and last position hold no word, as in every training caption, whatever the latents
            there say; the released model reads them too.
        length_bucket: Lengths are rounded up to a multiple of this.
        length_weight: Weight of the length head's cross-entropy.
        sampling: Options of ``SamplingConfig`` that ``generate`` takes unless told otherwise.
    """

    model_type = "vislex_ladic"
    sub_configs_defaults = {"codec_config": SubConfigSpec(LatentCodecConfig)}  # noqa: RUF012

    codec_config: Any = None
    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 6
    intermediate_size: int = 768
    dropout: float = 0.1
    initializer_range: float = 0.02
    pre_norm: bool = True
    layer_norm_eps: float = 1e-5
    time_embedding: str = "add"
    time_norm: str = "none"
    vision_projection: bool = True
    null_tokens: int = 1
    self_conditioning: str = "project"
    self_conditioning_p: float = 0.5
    preconditioning: str = "tokens"
    neighbours: bool = True
    num_train_timesteps: int = 1000
    noise_schedule: str = "linear"
    log_snr: tuple[float, float] = (-4.0, 0.75)
    noise_factor: float = 4.0
    sampling_noise_factor: float | None = None
    variance_preserving: bool = True
    time_shift: int = 0
    latent_loss: str = "mse"
    cross_entropy_weight: float = 0.2
    token_weight: float = 1.0
    min_snr_gamma: float | None = None
    draws_per_caption: int = 1
    drop_image: float = 0.1
    keep_words: float = 0.0
    time_skew: float = 0.0
    length: str = "fixed"
    fixed_ends: bool = True
    length_bucket: int = 8
    length_weight: float = 0.1
    sampling: dict[str, Any] | None = None

    def check(self) -> None:
        """Holds the choices against each other.

        Raises:
            ConfigError: Listing every value that does not fit.
        """
        problems = [
            f"{name} '{getattr(self, name)}' is none of {', '.join(allowed)}"
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        for name in ("self_conditioning_p", "drop_image", "keep_words"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} {getattr(self, name)} must be a share between 0 and 1")
        width = self.codec_config.text_config.hidden_size
        if self.self_conditioning == "concat" and self.hidden_size != 2 * width:
            problems.append(
                f"hidden_size {self.hidden_size} must be {2 * width}, twice the width of the latents, with "
                "self_conditioning 'concat'; 'project' leaves it free"
            )
        if self.self_conditioning == "concat" and self.preconditioning == "tokens":
            problems.append("preconditioning 'tokens' needs self_conditioning 'project' or 'none', not 'concat'")
        if self.time_skew < 0:
            problems.append(f"time_skew {self.time_skew} must be at least 0")
        for name in ("length_bucket", "draws_per_caption"):
            if getattr(self, name) < 1:
                problems.append(f"{name} {getattr(self, name)} must be at least 1")
        if problems:
            raise ConfigError("invalid LaDiC decoder: " + "; ".join(problems))
