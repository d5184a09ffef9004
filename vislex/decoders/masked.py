"""``masked``: captions by masked diffusion. Words are hidden in training and predicted from both sides; in generation
a caption of masks is written in a few steps, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationConfig, initialization

from vislex.decoders.base import CaptionDecoder, CaptionDecoderConfig, CaptionDecoderOutput, shared_fields
from vislex.decoders.infill import Filled, FilledCanvas, Template, infill_by_canvas
from vislex.decoders.mbr import consensus
from vislex.decoders.noise import caption_generators
from vislex.decoders.projection import VisionProjection
from vislex.decoders.unmasking import Canvas, Unmasked, UnmaskingConfig, gumbel, unmask
from vislex.errors import ConfigError
from vislex.modules.denoiser import Denoiser, VisionState, start_as_sines
from vislex.modules.length_head import LengthHead
from vislex.modules.neighbours import NeighbourMixing
from vislex.modules.repetition import RepetitionBias
from vislex.specs import EncoderSpec, VisionTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["MaskedConfig", "MaskedDecoder"]

Weighting = Literal["elbo", "uniform"]
INITIAL_SIZE = 0.1  # standard deviation


class MaskedConfig(CaptionDecoderConfig):
    """Config of ``MaskedDecoder``.

    Attributes:
        intermediate_size: Width inside the MLPs; None is four times ``hidden_size``.
        mask_token_id: Stands for a word that is not known.
        weighting: "elbo" weights a masked word by 1 / (share masked), which makes the loss a bound of the captions'
            negative log-likelihood (LLaDA, arXiv 2502.09992, eq. 3 and 6); "uniform" weights all masked words equally.
        draws_per_caption: Masks that each training caption is shown under in one step, with shares of masked words
            spread evenly; what is computed of its image serves all of them.
        image_dropout: Share of the training captions that see a learned null image, for guidance.
        label_smoothing: Share of the target that is spread over the vocabulary in training; evaluation takes none.
        pre_norm: Whether the network normalises before each sub-layer; False is BERT's order.
        repetition_bias: Whether a word's logit knows where else the word stands (``RepetitionBias``).
        initializer_range: Standard deviation of the first weights.
    """

    model_type = "vislex_masked"

    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 6
    intermediate_size: int | None = None
    dropout: float = 0.1
    mask_token_id: int = 103
    weighting: str = "elbo"
    draws_per_caption: int = 1
    image_dropout: float = 0.1
    label_smoothing: float = 0.0
    pre_norm: bool = True
    repetition_bias: bool = False
    initializer_range: float = 0.02


class MaskedDecoder(CaptionDecoder):
    """Masked diffusion over word pieces, as in DDCap (arXiv 2211.11694) and LLaDA (arXiv 2502.09992).

    The number of word pieces comes first, from the image; then the words, given their number. [CLS] and [SEP] are
    always known, so the network sees how long the caption is.
    """

    config_class = MaskedConfig
    config: MaskedConfig
    any_order = True

    def __init__(self, config: MaskedConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.projection = VisionProjection(config.vision_dim, width, config.vision_grid)
        self.length_head = LengthHead(width, config.max_length - 1)  # 0 to max_length - 2 words
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.neighbours = NeighbourMixing(width)
        self.denoiser = Denoiser(
            hidden_size=width,
            num_layers=config.num_layers,
            num_heads=config.num_heads,
            intermediate_size=config.intermediate_size or 4 * width,
            max_length=config.max_length,
            vision_dim=width,
            dropout=config.dropout,
            time_embedding="none",  # the masks tell how far a caption is
            pre_norm=config.pre_norm,
        )
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        if config.repetition_bias:
            self.repetition = RepetitionBias(config.vocab_size, width**0.5)
        self.post_init()

    @classmethod
    def create(
        cls,
        spec: EncoderSpec,
        tokenizer: PreTrainedTokenizerFast,
        *,
        hidden_size: int = 192,
        num_layers: int = 4,
        num_heads: int = 6,
        intermediate_size: int | None = None,
        max_length: int = 32,
        dropout: float = 0.1,
        label_smoothing: float = 0.0,
        weighting: Weighting = "elbo",
        draws_per_caption: int = 1,
        image_dropout: float = 0.1,
        pre_norm: bool = False,
        repetition_bias: bool = True,
    ) -> MaskedDecoder:
        """Builds the decoder for an encoder and a tokenizer.

        Args:
            spec: Spec of the encoder.
            tokenizer: Tokenizer whose ids the decoder writes; one without a mask token gets an id of its own for it.
            hidden_size: Width.
            num_layers: Number of layers.
            num_heads: Attention heads; they divide ``hidden_size``.
            intermediate_size: See ``MaskedConfig``.
            max_length: Longest caption in tokens, special tokens included.
            dropout: Dropout of attention and residual branches.
            label_smoothing: Label smoothing in training.
            weighting: See ``MaskedConfig``.
            draws_per_caption: See ``MaskedConfig``.
            image_dropout: See ``MaskedConfig``; 0 trains no guidance.

        Raises:
            ConfigError: If ``num_heads`` does not divide ``hidden_size``, the weighting is unknown, or
                ``draws_per_caption`` is below 1.
        """
        if weighting not in get_args(Weighting):
            raise ConfigError(f"unknown weighting '{weighting}'; allowed are {', '.join(get_args(Weighting))}")
        if draws_per_caption < 1:
            raise ConfigError(f"draws_per_caption {draws_per_caption} must be at least 1")
        shared = shared_fields(spec, tokenizer, max_length)
        mask = len(tokenizer) if tokenizer.mask_token_id is None else tokenizer.mask_token_id
        shared |= {"mask_token_id": mask, "vocab_size": max(len(tokenizer), mask + 1)}
        return cls(
            MaskedConfig(
                hidden_size=hidden_size,
                num_layers=num_layers,
                num_heads=num_heads,
                intermediate_size=intermediate_size,
                dropout=dropout,
                label_smoothing=label_smoothing,
                weighting=weighting,
                draws_per_caption=draws_per_caption,
                image_dropout=image_dropout,
                repetition_bias=repetition_bias,
                pre_norm=pre_norm,
                initializer_range=0.5 * hidden_size**-0.5,  # as of the autoregressive decoders
                **shared,
            )
        )

    def _init_weights(self, module: nn.Module) -> None:
        """Words and positions of equal size; positions begin as sines, in which a shift is one linear map."""
        super()._init_weights(module)
        if module is self.embedding or module in (self.neighbours.left, self.neighbours.right):
            initialization.normal_(module.weight, std=INITIAL_SIZE)
        elif module is self.denoiser.position:
            start_as_sines(module, INITIAL_SIZE)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value

    def forward(
        self,
        vision_tokens: VisionTokens | Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CaptionDecoderOutput:
        """Loss of captions whose words are masked at random, or without ``labels`` the logits of the ids as given.

        In evaluation the masks are the same in every call.

        Args:
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            input_ids: int64[B, L], [CLS] word pieces [SEP] [PAD]*.
            attention_mask: int64[B, L], 1 on real word pieces.
            labels: int64[B, L]; words with -100 are given, never masked.

        Returns:
            ``loss``: with "elbo" a bound of the negative log-likelihood of a token - the words, and the length in the
            place of [SEP] - so that it can be held against an autoregressive decoder's. ``logits`` float[B, L, V] of
            the token *at* each position.
        """
        self._check_length(input_ids)
        vision = self._project(vision_tokens)
        token_mask = torch.ones_like(input_ids).bool() if attention_mask is None else attention_mask.bool()
        if labels is None:
            return CaptionDecoderOutput(logits=self._logits(input_ids, self.denoiser.vision_state(vision), token_mask))
        is_word = token_mask & ~torch.isin(input_ids, self._specials(input_ids.device))
        maskable = is_word & (labels != -100)
        draws = self.config.draws_per_caption if self.training else 1
        ids, real, maskable = (rows.repeat(draws, 1) for rows in (input_ids, token_mask, maskable))
        masked = random_masks(maskable, None if self.training else torch.Generator().manual_seed(0))
        state = self.denoiser.vision_state(vision, self._dropped(len(input_ids), input_ids.device))
        if draws > 1:
            state = state.map(lambda value: value.repeat(draws, *[1] * (value.ndim - 1)))
        logits = self._logits(ids.masked_fill(masked, self.config.mask_token_id), state, real)
        smoothing = self.config.label_smoothing if self.training else 0.0
        losses = F.cross_entropy(logits[masked].float(), ids[masked], reduction="none", label_smoothing=smoothing)
        n_words, n_masked = maskable.sum(1), masked.sum(1)
        if self.config.weighting == "elbo":
            weights = n_words / n_masked.clamp(min=1)
        else:
            weights = (n_words.sum() / n_masked.sum().clamp(min=1)).expand_as(n_words)
        words = (losses * weights[:, None].expand_as(masked)[masked]).sum() / draws
        lengths = is_word.sum(1).clamp(max=self.config.max_length - 2)
        length = self.length_head.loss(vision, lengths, reduction="sum")
        loss = (words + length) / (n_words.sum() / draws + len(lengths))
        return CaptionDecoderOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def generate(
        self,
        pixel_values: Tensor | None = None,
        vision_tokens: VisionTokens | Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        input_ids: Tensor | None = None,
        indices: Tensor | None = None,
        num_candidates: int = 1,
        **kwargs: Any,
    ) -> Tensor:
        """Writes captions in ``num_inference_steps`` forwards.

        Args:
            pixel_values: Not accepted here; a ``Captioner`` encodes them.
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            generation_config: transformers' ``GenerationConfig``; see ``UnmaskingConfig.read``.
            input_ids: int64[B, P] beginning of every caption, with its first special token.
            indices: int64[B], number of each caption in the run: what is drawn for it follows from it and ``seed``;
                the position in the batch by default.
            num_candidates: Captions drawn for each image, of which the one that agrees most with the others is taken
                (minimum Bayes risk); it takes a ``temperature``.
            **kwargs: Fields of ``UnmaskingConfig``.

        Returns:
            int64[B, L] with first and last special token, padded. ``self.evaluations`` tells what it took.

        Raises:
            ConfigError: If an option is unknown or asks for more tokens than the decoder has positions for, or if
                candidates are asked for that are not drawn.
        """
        vision = self._vision(pixel_values, vision_tokens)
        config = UnmaskingConfig.read(generation_config, kwargs)
        if num_candidates < 1:
            raise ConfigError(f"num_candidates={num_candidates} must be at least 1")
        if num_candidates > 1 and config.temperature == 0:
            raise ConfigError(
                f"num_candidates={num_candidates} without a temperature: the candidates would all be the same caption; "
                "add do_sample=True, and temperature= if they differ too much"
            )
        batch, device = len(vision.tokens), vision.tokens.device
        if input_ids is None:
            input_ids = torch.full((batch, 1), self.config.bos_token_id, device=device, dtype=torch.long)
        numbers = range(batch) if indices is None else indices.tolist()
        generators = caption_generators(config.seed, numbers, num_candidates)  # [B * K]
        lengths, log_p = self._lengths(vision, config, input_ids.shape[1], generators)  # [B * K, N]
        tried = lengths.shape[1]
        rows = torch.arange(batch, device=device).repeat_interleave(num_candidates * tried)
        canvas = self._caption_canvas(input_ids[rows], lengths.flatten())
        draws = [generator for generator in generators for _ in range(tried)]
        written = self._unmask(vision, rows, canvas, config, draws)
        score = (log_p.flatten() + written.log_likelihood) / (lengths.flatten() + 1) ** config.length_penalty
        best = score.unflatten(0, (-1, tried)).argmax(1) + torch.arange(len(lengths), device=device) * tried
        chosen = best[consensus(written.ids[best], num_candidates, special_ids=self.special_ids)]
        steps = written.steps.unflatten(0, (batch, -1)).sum(1)
        self.evaluations = (steps * (2 if config.guidance_scale else 1)).cpu()
        self.trace = None if written.trace is None else [written.trace[row] for row in chosen.tolist()]
        longest = int(lengths.flatten()[chosen].max()) + 2
        return written.ids[chosen, :longest]

    @torch.no_grad()
    def infill(
        self,
        vision_tokens: VisionTokens | Tensor,
        templates: Sequence[Template],
        *,
        indices: Tensor | None = None,
        **options: Any,
    ) -> list[Filled]:
        """Fills blanks, all words of all of them in view; see ``CaptionDecoder.infill``.

        Lengths of blanks are compared by the likelihood of their words and of the caption's length.

        Args:
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            templates: B captions with blanks.
            indices: int64[B], number of each caption in the run, as in ``generate``.
            **options: Fields of ``UnmaskingConfig`` but for those about lengths.

        Raises:
            ConfigError: If an option is unknown, asks for a trace, or is about lengths, which the template fixes.
            SpecError: If a template is longer than the decoder's captions.
        """
        if about_length := {"num_lengths", "length_penalty", "max_new_tokens", "min_new_tokens"} & options.keys():
            raise ConfigError(f"{sorted(about_length)[0]} has no meaning with a template; blank_lengths= sets lengths")
        config = UnmaskingConfig.read(None, options)
        if config.trace:
            raise ConfigError("a trace is kept of captions that generate writes, not of filled blanks")
        vision = self._project(vision_tokens)
        length_log_p = self.length_head(vision)
        generators = caption_generators(config.seed, range(len(templates)) if indices is None else indices.tolist())

        def fill(rows: Tensor, canvas: Canvas) -> FilledCanvas:
            allowed = F.pad(canvas.allowed, (0, self.config.vocab_size - canvas.allowed.shape[1]))
            written = self._unmask(
                vision, rows, replace(canvas, allowed=allowed), config, [generators[row] for row in rows.tolist()]
            )
            score = written.log_likelihood + length_log_p[rows, canvas.token_mask.sum(1) - 2]
            return FilledCanvas(written.ids, score, written.steps * (2 if config.guidance_scale else 1))

        filled, self.evaluations = infill_by_canvas(
            fill,
            templates,
            mask_token_id=self.config.mask_token_id,
            pad_token_id=int(self.config.pad_token_id or 0),
            max_length=self.config.max_length,
            device=vision.tokens.device,
        )
        return filled

    def _unmask(
        self,
        vision: VisionTokens,
        rows: Tensor,
        canvas: Canvas,
        config: UnmaskingConfig,
        generators: Sequence[torch.Generator],
    ) -> Unmasked:
        """Writes a canvas of R rows, each of the image ``rows`` int64[R]; the image is looked at once."""
        guided = config.guidance_scale != 0
        if guided and not self.config.image_dropout:
            raise ConfigError("this decoder was trained with image_dropout=0 and knows no null image; guidance_scale=0")
        state = self.denoiser.vision_state(vision).select(rows)
        if not guided:
            return unmask(
                lambda ids: self._logits(ids, state, canvas.token_mask), canvas, self.config.mask_token_id, config,
                generators,
            )  # fmt: skip
        both = self.denoiser.guided_state(state)
        twice = canvas.token_mask.repeat(2, 1)

        def predict(ids: Tensor) -> Tensor:
            seen, blind = self._logits(ids.repeat(2, 1), both, twice).log_softmax(-1).chunk(2)
            return seen + config.guidance_scale * (seen - blind)

        return unmask(predict, canvas, self.config.mask_token_id, config, generators)

    def _lengths(
        self, vision: VisionTokens, config: UnmaskingConfig, n_given: int, generators: Sequence[torch.Generator]
    ) -> tuple[Tensor, Tensor]:
        """Numbers of words to try int64[R, N] and their log-probabilities, the likeliest (or drawn) first.

        The R captions are as many for each image as there are generators.
        """
        most = self.config.max_length - 2
        longest = most if config.max_new_tokens is None else config.max_new_tokens + n_given - 2
        shortest = max(config.min_new_tokens + n_given - 2, n_given - 1)
        if longest > most or shortest > longest:
            raise ConfigError(
                f"max_new_tokens={config.max_new_tokens} and min_new_tokens={config.min_new_tokens} after a beginning "
                f"of {n_given} do not fit: ask for at most {self.config.max_length - n_given}"
            )
        log_p = self.length_head(vision)
        log_p = log_p.repeat_interleave(len(generators) // len(log_p), 0)
        order = log_p.clone()
        if config.temperature > 0:
            noise = torch.stack([gumbel(log_p.shape[1:], generator) for generator in generators])
            order = order / config.temperature + noise.to(order.device)
        order[:, :shortest] = -torch.inf
        order[:, longest + 1 :] = -torch.inf
        lengths = order.topk(min(config.num_lengths, longest - shortest + 1)).indices
        return lengths, log_p.gather(1, lengths)

    def _caption_canvas(self, beginnings: Tensor, lengths: Tensor) -> Canvas:
        """Canvases of ``lengths`` int64[R] words that begin with int64[R, P]."""
        n_given = beginnings.shape[1]
        place = torch.arange(int(lengths.max()) + 2, device=lengths.device)
        end = lengths[:, None] + 1
        is_open = (place >= n_given) & (place < end)
        ids = torch.full(is_open.shape, self.config.pad_token_id, device=lengths.device, dtype=torch.long)
        ids[:, :n_given] = beginnings
        ids = ids.masked_fill(is_open, self.config.mask_token_id).masked_fill(place == end, self.config.eos_token_id)
        allowed = torch.ones(1, self.config.vocab_size, dtype=torch.bool, device=lengths.device)
        allowed[0, self._specials(lengths.device)] = False
        return Canvas(ids, is_open.long() - 1, allowed, place <= end)

    def _logits(self, ids: Tensor, state: VisionState, token_mask: Tensor) -> Tensor:
        hidden = self.denoiser(self.neighbours(self.embedding(ids), token_mask), state, token_mask)
        logits = F.linear(self.transform(hidden), self.embedding.weight, self.bias)
        if not self.config.repetition_bias:
            return logits
        return self.repetition(logits, ids, token_mask & (ids != self.config.mask_token_id))

    def _specials(self, device: torch.device) -> Tensor:
        config = self.config
        ids = (config.bos_token_id, config.eos_token_id, config.pad_token_id, config.mask_token_id)
        return torch.tensor([i for i in ids if i is not None], device=device)

    def _dropped(self, batch: int, device: torch.device) -> Tensor | None:
        """Which captions of a training batch see the null image, bool[B]."""
        if not (self.training and self.config.image_dropout):
            return None
        return torch.rand(batch, device=device) < self.config.image_dropout


def random_masks(maskable: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Masks k of the n words of each caption, k uniform in 1, ..., n.

    Against masking each word with probability t the loss has the same expectation and less variance (LLaDA, eq. 6). The
    shares k / n of a batch are spread evenly (Kingma et al. 2021, appendix I.1).

    Args:
        maskable: bool[B, L].
        generator: On the CPU; None draws from torch's own.
    """
    batch, device = len(maskable), maskable.device
    where = device if generator is None else torch.device("cpu")
    t = (torch.rand(1, generator=generator, device=where) + torch.arange(batch, device=where) / batch) % 1
    order = torch.rand(maskable.shape, generator=generator, device=where).to(device)
    n_masked = (t.to(device) * maskable.sum(1)).floor().long() + 1
    ranks = order.masked_fill(~maskable, torch.inf).argsort(1).argsort(1)
    return maskable & (ranks < n_masked[:, None])
