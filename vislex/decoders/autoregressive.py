"""What the decoders that write one word piece after another share: loss, generation, counting of evaluations."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec

from vislex.decoders.base import CaptionDecoder, CaptionDecoderConfig, CaptionDecoderOutput, shared_fields
from vislex.decoders.draws import WARPERS, Draws
from vislex.decoders.infill import Filled, Template
from vislex.decoders.language_model import load_language_model, start_from_embeddings
from vislex.decoders.left_to_right import InfillMode, fill_left_to_right, prompt_template
from vislex.decoders.mbr import consensus
from vislex.decoders.noise import caption_generators
from vislex.decoders.projection import VisionProjection
from vislex.decoders.trace import left_to_right_trace
from vislex.errors import ConfigError, did_you_mean
from vislex.specs import EncoderSpec, VisionTokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["AutoregressiveConfig", "AutoregressiveDecoder", "shifted_loss", "some_labels"]


class AutoregressiveConfig(CaptionDecoderConfig):
    """Config of an autoregressive decoder: the fields of all decoders and transformers' config of the text model.

    Attributes:
        text_config: Config of the transformers class that does the work.
        label_smoothing: Share of the target that is spread over the vocabulary in training; evaluation takes none.
        words_per_caption: Words of each caption that the loss counts in training, drawn anew at every step: what a
            caption teaches a decoder that does not learn all of its words at once; None counts all.
        blank_token_id: Stands for a blank in the prompts of a decoder that was trained to fill in the middle; None if
            it was not.
    """

    model_type = "vislex_autoregressive"
    sub_configs_defaults = {"text_config": SubConfigSpec(AutoConfig, model_type="bert")}  # noqa: RUF012

    text_config: Any = None
    label_smoothing: float = 0.0
    words_per_caption: int | None = None
    blank_token_id: int | None = None


def shifted_loss(logits: Tensor, labels: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the next token.

    Args:
        logits: float[B, L, V]; position i predicts token i + 1.
        labels: int64[B, L], not shifted, -100 where no loss is taken.
        label_smoothing: Share of the target that is spread over the vocabulary.
    """
    return F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), label_smoothing=label_smoothing
    )


def some_labels(labels: Tensor, number: int) -> Tensor:
    """Keeps ``number`` labels of each row, drawn from those that a shifted loss counts.

    Args:
        labels: int64[B, L], -100 where no loss is taken.
        number: Labels of a row; one with fewer keeps all.

    Returns:
        int64[B, L].
    """
    order = torch.rand(labels[:, 1:].shape, device=labels.device).masked_fill(labels[:, 1:] == -100, -1.0)
    kept = order.topk(min(number, order.shape[1])).indices + 1
    return torch.full_like(labels, -100).scatter(1, kept, labels.gather(1, kept))


class AutoregressiveDecoder(CaptionDecoder):
    """Base: a projection of the vision tokens and a transformers text model, ``text_decoder``.

    Subclasses say how the text model sees the vision tokens: ``_logits`` in training, ``_generate`` in generation; and
    which text model it is: ``language_model_class`` opens a pretrained one, ``_text_config`` sizes a new one.
    """

    config_class = AutoregressiveConfig
    language_model_class: ClassVar[Any]
    config: AutoregressiveConfig
    text_decoder: PreTrainedModel
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: AutoregressiveConfig) -> None:
        super().__init__(config)
        self.projection = VisionProjection(config.vision_dim, config.text_config.hidden_size, config.vision_grid)

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
        words_per_caption: int | None = None,
        word_embeddings: str | Path | None = None,
        language_model: str | Path | None = None,
        token_index: Tensor | None = None,
    ) -> Self:
        """Builds the decoder for an encoder and a tokenizer: a new text model, or a pretrained one.

        Args:
            spec: Spec of the encoder.
            tokenizer: Tokenizer whose ids the decoder writes.
            hidden_size: Width.
            num_layers: Number of layers.
            num_heads: Attention heads; they divide ``hidden_size``.
            intermediate_size: Width inside the MLPs; four times ``hidden_size`` by default.
            max_length: Longest caption in tokens, special tokens included.
            dropout: Dropout of a new text model; a pretrained one keeps its own unless the decoder says otherwise.
            label_smoothing: Label smoothing in training.
            words_per_caption: See ``AutoregressiveConfig``.
            word_embeddings: Folder or hub id of a text model, or "minilm", from whose word embeddings those of a new
                text model start, reduced to ``hidden_size``; random ones by default.
            language_model: Folder or hub id of a text model, whose weights and sizes the decoder starts from: a causal
                language model for ``prefix``; a BERT or "minilm" for ``cross_attention``, whose cross-attention is new.
            token_index: The ``index_map`` of ``prune_tokenizer``, where the tokenizer is a pruned one of that model.

        Raises:
            ConfigError: If ``num_heads`` does not divide ``hidden_size``, ``words_per_caption`` is below 1, or
                ``word_embeddings`` are asked for beside a ``language_model``, which has its own.
        """
        if words_per_caption is not None and words_per_caption < 1:
            raise ConfigError(f"words_per_caption {words_per_caption} must be at least 1, or None for all words")
        shared = shared_fields(spec, tokenizer, max_length)
        shared |= {"label_smoothing": label_smoothing, "words_per_caption": words_per_caption}
        if language_model is None:
            if hidden_size % num_heads:
                raise ConfigError(f"hidden_size {hidden_size} is not a multiple of num_heads {num_heads}")
            text_config = cls._text_config(
                spec,
                hidden_size=hidden_size,
                num_layers=num_layers,
                num_heads=num_heads,
                intermediate_size=4 * hidden_size if intermediate_size is None else intermediate_size,
                max_length=max_length,
                dropout=dropout,
                initializer_range=0.5 * hidden_size**-0.5,  # 0.02 at 768, as usual; 0.02 at 128 learns later and less
                **{name: shared[name] for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")},
            )
            decoder = cls(cls.config_class(text_config=text_config, **shared))
            if word_embeddings is not None:
                start_from_embeddings(
                    decoder.get_input_embeddings(), word_embeddings, vocab_size=len(tokenizer), token_index=token_index
                )
            return decoder
        if word_embeddings is not None:
            raise ConfigError(
                f"word_embeddings='{word_embeddings}' and language_model='{language_model}' were given; a language "
                "model brings its own word embeddings: give one of them"
            )
        model = load_language_model(
            cls.language_model_class,
            language_model,
            vocab_size=len(tokenizer),
            token_index=token_index,
            **cls._language_model_changes(dropout),
        )
        decoder = cls(cls.config_class(text_config=model.config, **shared | {"vocab_size": model.config.vocab_size}))
        decoder.text_decoder.load_state_dict(model.state_dict())
        return decoder

    @classmethod
    @abstractmethod
    def _text_config(
        cls,
        spec: EncoderSpec,
        *,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        intermediate_size: int,
        max_length: int,
        dropout: float,
        **fields: Any,
    ) -> PreTrainedConfig:
        """Config of a new text model; ``fields`` go into it as they are."""

    @classmethod
    def _language_model_changes(cls, dropout: float) -> dict[str, Any]:
        """Config fields of a pretrained text model that the decoder changes."""
        return {}

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.text_decoder.get_input_embeddings()

    def set_input_embeddings(self, value: torch.nn.Module) -> None:
        self.text_decoder.set_input_embeddings(value)

    @abstractmethod
    def _logits(self, vision: VisionTokens, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Next-token logits float[B, L, V] of whole captions; ``vision`` is already projected."""

    @abstractmethod
    def _generate(
        self, vision: VisionTokens, input_ids: Tensor, settings: GenerationConfig, draws: Draws | None
    ) -> Tensor:
        """Captions int64[B * K * num_return_sequences, L] with their beginning.

        Args:
            vision: Projected tokens of B images.
            input_ids: int64[B * K, P].
            settings: How to search.
            draws: For B * K captions; the search is then greedy, and this draws.
        """

    def forward(
        self,
        vision_tokens: VisionTokens | Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        **kwargs: Any,
    ) -> CaptionDecoderOutput:
        """Next-token loss and logits; see ``CaptionDecoder.forward``. Padding never counts, whatever ``labels`` say."""
        self._check_length(input_ids)
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        logits = self._logits(self._project(vision_tokens), input_ids, mask)
        if labels is None:
            return CaptionDecoderOutput(logits=logits)
        labels = labels.masked_fill(mask == 0, -100)
        if self.training and self.config.words_per_caption is not None:
            labels = some_labels(labels, self.config.words_per_caption)
        smoothing = self.config.label_smoothing if self.training else 0.0
        loss = shifted_loss(logits, labels, label_smoothing=smoothing)
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
        seed: int = 0,
        trace: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """Writes captions: greedy by default, beam search with ``num_beams``, sampling with ``do_sample``.

        Args:
            pixel_values: Not accepted here; a ``Captioner`` encodes them.
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            generation_config: transformers' ``GenerationConfig``.
            input_ids: int64[B, P] beginning that every caption continues, with its first special token; that token
                alone by default.
            indices: int64[B], number of each caption in the run: what is drawn for it follows from it and ``seed``;
                the position in the batch by default.
            num_candidates: Captions drawn for each image, of which the one that agrees most with the others is taken
                (minimum Bayes risk); it takes ``do_sample``.
            seed: Of the draws.
            trace: Whether ``self.trace`` is kept.
            **kwargs: Fields of ``GenerationConfig`` (``num_beams``, ``do_sample``, ``max_new_tokens``,
                ``min_new_tokens``, ...). Draws are from the whole distribution unless ``temperature``, ``top_k``,
                ``top_p`` or ``min_p`` change it.

        Returns:
            int64[B, L] with the beginning, padded with ``pad_token_id``. ``self.evaluations`` tells what it took.

        Raises:
            ConfigError: If an option is unknown or asks for more tokens than the decoder has positions for, or if
                candidates are asked for that are not drawn.
        """
        vision = self._vision(pixel_values, vision_tokens)
        batch = len(vision.tokens)
        if input_ids is None:
            input_ids = torch.full((batch, 1), self.config.bos_token_id, device=vision.tokens.device, dtype=torch.long)
        n_given = input_ids.shape[1]
        settings = self._settings(generation_config, kwargs, n_given)
        _check_draws(settings, kwargs, num_candidates)
        draws = None
        if settings.do_sample:
            copies = max(num_candidates, settings.num_return_sequences or 1)
            numbers = range(batch) if indices is None else indices.tolist()
            draws = Draws(settings, caption_generators(seed, numbers, copies))
            Draws.plain(settings)
            input_ids = input_ids.repeat_interleave(copies, 0)
        with self._count_forwards() as forwards:
            captions = self._generate(vision, input_ids, settings, draws)
        new = captions[:, n_given:]
        is_end = new == self.config.eos_token_id
        ended = is_end.cumsum(1) > is_end.long()  # behind the first end
        # transformers' beam search fills with the end token where the padding token is 0.
        new.masked_fill_(ended, self.config.pad_token_id)
        self.evaluations = self._evaluations(ended, settings, len(forwards)).view(-1, num_candidates).sum(1)
        captions = captions[consensus(captions, num_candidates, special_ids=self.special_ids)]
        self.trace = left_to_right_trace(captions, n_given, int(self.config.pad_token_id or 0)) if trace else None
        return captions

    @torch.no_grad()
    def infill(
        self,
        vision_tokens: VisionTokens | Tensor,
        templates: Sequence[Template],
        *,
        indices: Tensor | None = None,
        mode: InfillMode | None = None,
        num_candidates: int | None = None,
        **options: Any,
    ) -> list[Filled]:
        """Fills blanks from left to right; see ``CaptionDecoder.infill``.

        Args:
            vision_tokens: Encoder output, or its tokens float[B, N, D].
            templates: B captions with blanks.
            indices: int64[B], number of each caption in the run; nothing is drawn here, so nothing follows from it.
            mode: See ``vislex.decoders.left_to_right``. None is "fill_in_middle" after a training for it, else
                "rescored".
            num_candidates: Sentences that "rescored" compares, 8 by default; the other modes keep one.
            **options: None are known.

        Raises:
            ConfigError: For an unknown mode or option, or one that the decoder was not trained for.
            SpecError: If a template is longer than the decoder's captions.
        """
        own = self.config.blank_token_id
        mode = mode or ("rescored" if own is None else "fill_in_middle")
        if options or mode not in get_args(InfillMode):
            given = f"option '{next(iter(options))}'" if options else f"mode '{mode}'"
            raise ConfigError(
                f"unknown infilling {given}; known are mode= ({', '.join(get_args(InfillMode))}) and num_candidates="
            )
        if num_candidates is not None and (mode != "rescored" or num_candidates < 2):
            raise ConfigError(
                f"num_candidates={num_candidates} with mode '{mode}': only 'rescored' takes it, from 2 on"
            )
        asked = list(templates)
        if mode == "fill_in_middle":
            if own is None:
                raise ConfigError("this decoder was not trained to fill in the middle; train with fill_in_middle=0.5")
            asked = [prompt_template(template, own, int(self.config.eos_token_id or 0)) for template in asked]
        asked = [template.fitting(self.longest_caption) for template in asked]
        vision = self._project(vision_tokens)

        def score(rows: Sequence[int], beginnings: Sequence[Sequence[int]]) -> list[Tensor]:
            lengths = [len(ids) for ids in beginnings]
            device = vision.tokens.device
            ids = torch.full((len(lengths), max(lengths)), int(self.config.pad_token_id or 0), device=device)
            for row, beginning in enumerate(beginnings):
                ids[row, : lengths[row]] = torch.tensor(beginning, device=device)
            mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long().to(device)
            images = torch.tensor(rows, device=device)
            seen = VisionTokens(vision.tokens[images], None if vision.mask is None else vision.mask[images])
            log_p = self._logits(seen, ids, mask).float().log_softmax(-1)
            return [log_p[row, :length] for row, length in enumerate(lengths)]

        candidates = (num_candidates or 8) if mode == "rescored" else 1
        filled, self.evaluations = fill_left_to_right(score, asked, num_candidates=candidates)
        return [
            Filled(template, found.fillers, found.log_likelihood)
            for template, found in zip(templates, filled, strict=True)
        ]

    def _settings(
        self, generation_config: GenerationConfig | None, changes: dict[str, Any], n_prompt: int
    ) -> GenerationConfig:
        settings = GenerationConfig() if generation_config is None else copy.deepcopy(generation_config)
        if unknown := settings.update(**changes):
            name = next(iter(unknown))
            raise ConfigError(f"unknown generation option '{name}'{did_you_mean(name, vars(settings))}")
        settings.update(
            bos_token_id=self.config.bos_token_id,
            eos_token_id=self.config.eos_token_id,
            pad_token_id=self.config.pad_token_id,
        )
        room = self.longest_caption - n_prompt
        if settings.max_new_tokens is None:
            settings.max_new_tokens = min(self.config.max_length, self.longest_caption) - n_prompt
        elif settings.max_new_tokens > room:
            raise ConfigError(
                f"max_new_tokens={settings.max_new_tokens} is more than the {room} that this decoder has positions "
                f"for after a beginning of {n_prompt}; ask for at most {room}"
            )
        return settings

    @contextmanager
    def _count_forwards(self) -> Iterator[list[int]]:
        """Lists the batch size of each forward of the text model."""
        forwards: list[int] = []

        def count(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            forwards.append(1)

        handle = self.text_decoder.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield forwards
        finally:
            handle.remove()

    @staticmethod
    def _evaluations(ended: Tensor, settings: GenerationConfig, n_forwards: int) -> Tensor:
        """Forwards that each caption needed, int64[B]: a beam runs to the end of the search, other captions to theirs.

        What a batch computes for captions that have already ended is not counted: a batch counts as its singles do.
        """
        if (settings.num_beams or 1) > 1:
            return torch.full((ended.shape[0],), n_forwards * settings.num_beams)
        return (~ended).sum(1).cpu()


def _check_draws(settings: GenerationConfig, given: Mapping[str, Any], num_candidates: int) -> None:
    """Refuses candidates that would all be the same, and options of draws where nothing is drawn."""
    if num_candidates < 1:
        raise ConfigError(f"num_candidates={num_candidates} must be at least 1")
    if settings.do_sample:
        if (settings.num_beams or 1) > 1:
            raise ConfigError(f"do_sample=True with num_beams={settings.num_beams}: beams are searched; leave one out")
        if num_candidates > 1 and (settings.num_return_sequences or 1) > 1:
            raise ConfigError("num_return_sequences gives all captions, num_candidates one of them; leave one out")
        return
    if num_candidates > 1:
        raise ConfigError(
            f"num_candidates={num_candidates} without do_sample=True: the candidates would all be the same caption; "
            "add do_sample=True, and temperature= if they differ too much"
        )
    if ignored := [name for name in WARPERS if given.get(name) is not None]:
        raise ConfigError(f"{ignored[0]}={given[ignored[0]]} changes draws, and nothing is drawn; add do_sample=True")
