"""The latent space of LaDiC: what the lower layers of a frozen BERT make of a caption, and the way back to words.

A latent is the hidden state of one word piece after ``split_layer`` layers, normalised by mean and standard deviation
of each dimension over training captions (two dimensions of BERT would otherwise rule an L2 loss). [CLS], [SEP] and
[PAD] have no meaning that a denoiser could find: the latent of "." stands in their place, and a caption ends where
only full stops follow.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.utils import ModelOutput

from vislex.decoders.ladic.mixture import TokenMixture
from vislex.decoders.ladic.text_encoder import TextEncoder, additive_mask, load_text_encoder, open_text_model
from vislex.errors import CheckpointError, ConfigError
from vislex.modules.digest import weights_digest
from vislex.text import encode_captions, load_tokenizer, special_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["LatentCodec", "LatentCodecConfig"]

STOP = "."
NEVER = -100.0  # log of a share that a word piece never gets


class LatentCodecConfig(PreTrainedConfig):
    """Config of a ``LatentCodec``.

    Attributes:
        text_config: Config of the text model whose layers are split; its ``num_hidden_layers`` is the whole number.
        source: Where the text encoder comes from, with the sha256 of its weights.
        split_layer: Layers of the text encoder; 0 makes the embeddings the latents.
        decoder_layers: Layers of the text decoder, those next above the split; 0 leaves only the head, as in the
            released model, whose upper layers are skipped.
        vocab_size: Number of word pieces.
        stop_token_id: The word piece that stands for "no word here": ".", or the end token where "." is no word piece.
        bos_token_id: [CLS].
        eos_token_id: [SEP].
        pad_token_id: [PAD].
        normalize: Whether latents are normalised.
        normalize_stop: Whether the stop latent is too; the released model leaves it raw.
        random_seed: Seed of a text encoder with random weights; None for a trained one.
    """

    model_type = "vislex_latent_codec"
    sub_configs_defaults = {"text_config": SubConfigSpec(AutoConfig, model_type="bert")}  # noqa: RUF012

    text_config: Any = None
    source: dict[str, Any] | None = None
    split_layer: int = 3
    decoder_layers: int = 1
    vocab_size: int = 30522
    stop_token_id: int = 102
    bos_token_id: int = 101
    eos_token_id: int = 102
    pad_token_id: int = 0
    normalize: bool = True
    normalize_stop: bool = True
    random_seed: int | None = None


class LatentCodec(PreTrainedModel):
    """Latents to word pieces, with the statistics of the latents; the frozen text encoder is attached for training.

    Attributes:
        upper: Layers of the text decoder.
        embeddings: float[V, D] word pieces, tied to the output of the head.
        mean: float[D] of the raw latents.
        std: float[D].
        stop: float[D] latent that stands at every position without a word.
        token_latents: float[V, D] mean latent of each word piece, whatever stands around it: what a given word is
            shown as where its sentence is not known yet.
        token_variance: float[D] of latents around the mean of their word piece.
        token_log_prior: float[V] log of how often each word piece is a target, up to a constant.
        token_index: int64[V] id of each word piece in the text model's own vocabulary.
    """

    config_class = LatentCodecConfig
    config: LatentCodecConfig
    main_input_name = "input_ids"
    base_model_prefix = ""
    _supports_sdpa = True

    def __init__(self, config: LatentCodecConfig) -> None:
        super().__init__(config)
        width, text_config = config.text_config.hidden_size, copy.deepcopy(config.text_config)
        text_config.num_hidden_layers = config.decoder_layers
        text_config.vocab_size = max(8, (text_config.pad_token_id or 0) + 1)  # its embeddings are not kept
        text_config.hidden_dropout_prob = text_config.attention_probs_dropout_prob = 0.0  # the latents are noisy enough
        text_config._attn_implementation = "sdpa"
        text_config.dtype = None  # that of this codec, not of the text model's checkpoint
        self.upper = AutoModel.from_config(text_config).encoder.layer
        norm = nn.LayerNorm(width, eps=text_config.layer_norm_eps)
        self.transform = nn.Sequential(nn.Linear(width, width), nn.GELU(), norm)
        self.embeddings = nn.Embedding(config.vocab_size, width)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("stop", torch.zeros(width))
        self.register_buffer("token_latents", torch.zeros(config.vocab_size, width))
        self.register_buffer("token_variance", torch.ones(width))
        self.register_buffer("token_log_prior", torch.zeros(config.vocab_size))
        self.register_buffer("token_index", torch.arange(config.vocab_size))
        self._text_encoder: tuple[TextEncoder, ...] = ()  # in a tuple: no part of the state dict, never trained
        self._copies: dict[tuple[torch.device, torch.dtype], TextEncoder] = {}
        self._mixture: tuple[tuple[tuple[int, int], ...], TokenMixture] | None = None
        self.tokenizer: PreTrainedTokenizerFast | None = None
        self.post_init()

    @property
    def latent_dim(self) -> int:
        return int(self.config.text_config.hidden_size)

    @classmethod
    def create(
        cls,
        tokenizer: PreTrainedTokenizerFast,
        captions: Iterable[str],
        *,
        text_model: str | Path = "minilm",
        split_layer: int | None = None,
        decoder_layers: int | None = None,
        max_length: int = 32,
        normalize: bool = True,
        normalize_stop: bool = True,
        random_seed: int | None = None,
        token_index: Tensor | None = None,
    ) -> Self:
        """Splits a text model and measures its latents; the head is that of its checkpoint, or to be trained.

        Args:
            tokenizer: Tokenizer whose ids are decoded.
            captions: Training captions, for the statistics.
            text_model: "minilm", a folder, or a hub id of a BERT-like model.
            split_layer: Lower layers; half of them by default.
            decoder_layers: Layers of the text decoder; all of the upper ones by default.
            max_length: Longest caption in word pieces.
            normalize: Whether latents are normalised.
            normalize_stop: Whether the stop latent is normalised too.
            random_seed: Takes a text model with random weights of this seed.
            token_index: The ``index_map`` of ``prune_tokenizer``, where the tokenizer is a pruned one.

        Raises:
            ConfigError: If the split does not fit the model, or the tokenizer does not.
        """
        model, missing = open_text_model(text_model, random_seed=random_seed)
        base = model.base_model
        n_layers = base.config.num_hidden_layers
        split = n_layers // 2 if split_layer is None else split_layer
        upper = n_layers - split if decoder_layers is None else decoder_layers
        if not (0 <= split <= n_layers and 0 <= upper <= n_layers - split):
            raise ConfigError(
                f"split_layer {split} and decoder_layers {upper} do not fit a text model of {n_layers} layers; both "
                f"are at least 0 and together at most {n_layers}"
            )
        index = torch.arange(len(tokenizer)) if token_index is None else token_index
        if len(index) != len(tokenizer) or int(index.max()) >= base.config.vocab_size:
            raise ConfigError(
                f"the tokenizer's {len(tokenizer)} entries are none of '{text_model}', which has "
                f"{base.config.vocab_size}; pass its own tokenizer, and token_index= if that one was pruned"
            )
        special = special_tokens(tokenizer)
        config = LatentCodecConfig(
            text_config=copy.deepcopy(base.config),  # a composite config resets how its parts attend
            split_layer=split,
            decoder_layers=upper,
            vocab_size=len(tokenizer),
            stop_token_id=tokenizer.get_vocab().get(STOP, special.eos),
            bos_token_id=special.bos,
            eos_token_id=special.eos,
            pad_token_id=special.pad,
            normalize=normalize,
            normalize_stop=normalize_stop,
            random_seed=random_seed,
        )
        codec = cls(config)
        codec.tokenizer = tokenizer
        codec.token_index.copy_(index)
        codec.upper.load_state_dict(base.encoder.layer[split : split + upper].state_dict())
        codec._take_head(model, missing)
        text_encoder = TextEncoder(base, split)
        kind = "package" if text_model == "minilm" else "local" if Path(text_model).is_dir() else "hub"
        config.source = {
            "kind": kind,
            "location": str(text_model),
            "revision": None,
            "sha256": weights_digest(text_encoder),
        }
        codec.attach(text_encoder)
        codec._measure(tokenizer, list(captions), _stop_ids(load_tokenizer(text_model)), max_length)
        return codec.eval()

    @torch.no_grad()
    def _take_head(self, model: PreTrainedModel, missing: set[str]) -> None:
        """Takes embeddings, and the head's transform and bias where the checkpoint has one."""
        self.embeddings.weight.copy_(model.get_input_embeddings().weight[self.token_index])
        dense, norm = self.transform[0], self.transform[2]
        dense.weight.normal_(std=0.02)
        dense.bias.zero_()
        head = getattr(getattr(model, "cls", None), "predictions", None)
        if head is None or any(name.startswith("cls.") and "transform" in name for name in missing):
            return
        dense.load_state_dict(head.transform.dense.state_dict())
        norm.load_state_dict(head.transform.LayerNorm.state_dict())
        self.bias.copy_(head.bias[self.token_index])

    @torch.no_grad()
    def _measure(
        self, tokenizer: PreTrainedTokenizerFast, captions: Sequence[str], stop_ids: Tensor, max_length: int
    ) -> None:
        """Mean and standard deviation over the words of captions, and the mean latent of each word piece."""
        if not captions:
            raise ConfigError("the statistics of the latents need captions; pass those of the training split")
        count, stops, total, square = 0, 0, torch.zeros(self.latent_dim, dtype=torch.float64), 0.0
        sums = torch.zeros(self.config.vocab_size, self.latent_dim)
        counts = torch.zeros(self.config.vocab_size)
        for start in range(0, len(captions), 256):
            batch = encode_captions(tokenizer, captions[start : start + 256], max_length=max_length)
            ids, mask = batch["input_ids"], batch["attention_mask"]
            raw = self._text_encoder[0](self.token_index[ids], mask)
            word = ~self.is_special(ids)
            raw, ids = raw[word].double(), ids[word]
            count, total, square = count + len(ids), total + raw.sum(0), square + (raw**2).sum(0)
            sums.index_add_(0, ids, raw.float())
            counts.index_add_(0, ids, torch.ones(len(ids)))
            stops += int((-(-mask.sum(1) // 8) * 8).sum()) - len(ids)  # captions are padded to a multiple of 8 or more
        seen = counts > 0
        latents = sums / counts.clamp(min=1)[:, None]
        around = (square - (counts.double()[:, None] * latents.double() ** 2).sum(0)) / count
        latents[~seen] = self._read_alone((~seen).nonzero()[:, 0])
        if self.config.normalize:
            self.mean.copy_(total / count)
            self.std.copy_((square / count - (total / count) ** 2).clamp(min=1e-6).sqrt())
        self.token_variance.copy_(around.clamp(min=1e-4) / self.std.double() ** 2)
        self.token_log_prior.copy_(torch.log(counts + 0.1))
        self._set_latents(latents, stop_ids)
        for special in (self.config.bos_token_id, self.config.eos_token_id, self.config.pad_token_id):
            self.token_log_prior[special] = NEVER
        self.token_log_prior[self.config.stop_token_id] = torch.log(torch.tensor(float(max(stops, 1))))

    @torch.no_grad()
    def measure_alone(self, mean: Tensor, std: Tensor) -> None:
        """Takes given statistics, and for each word piece the latent that it has by itself: no captions are needed.

        Args:
            mean: float[D] of raw latents.
            std: float[D] of them.
        """
        if self.tokenizer is None:
            raise ConfigError("the latents of word pieces need a tokenizer; set codec.tokenizer")
        self.mean.copy_(mean)
        self.std.copy_(std)
        self._set_latents(self._read_alone(torch.arange(self.config.vocab_size)), _stop_ids(self.tokenizer))

    def _read_alone(self, pieces: Tensor) -> Tensor:
        """Raw latents float[P, D] of word pieces int64[P], each read by itself."""
        bos, eos = (torch.full_like(pieces, i) for i in (self.config.bos_token_id, self.config.eos_token_id))
        rows = self.token_index[torch.stack([bos, pieces, eos], dim=1)]
        read = [self._text_encoder[0](batch)[:, 1].float() for batch in rows.split(256)]
        return torch.cat(read) if read else torch.empty(0, self.latent_dim)

    def _set_latents(self, raw: Tensor, stop_ids: Tensor) -> None:
        """Sets the latents of word pieces from raw ones float[V, D], and that of the stop from its ids int64[3]."""
        self.token_latents.copy_(self._normalize(raw))
        stop = self._text_encoder[0](stop_ids[None])[0, 1]
        self.stop.copy_(self._normalize(stop) if self.config.normalize_stop else stop)
        for special in (self.config.bos_token_id, self.config.eos_token_id, self.config.pad_token_id):
            self.token_latents[special] = self.stop
        self.token_latents[self.config.stop_token_id] = self.stop

    def _normalize(self, raw: Tensor) -> Tensor:
        return (raw - self.mean.to(raw.dtype)) / self.std.to(raw.dtype)

    def mixture(self) -> TokenMixture:
        """The latents of the word pieces as a mixture, made anew only where they have changed."""
        parts = (self.token_latents, self.token_variance, self.token_log_prior)
        state = tuple((part.data_ptr(), part._version) for part in parts)
        if self._mixture is None or self._mixture[0] != state:
            self._mixture = (state, TokenMixture(*parts))
        return self._mixture[1]

    def is_special(self, input_ids: Tensor) -> Tensor:
        """bool[B, L]: [CLS], [SEP] and [PAD]."""
        config = self.config
        return (
            (input_ids == config.bos_token_id) | (input_ids == config.eos_token_id) | (input_ids == config.pad_token_id)
        )

    def targets(self, input_ids: Tensor) -> Tensor:
        """int64[B, L]: what the latents decode to; the stop token at every position without a word."""
        return input_ids.masked_fill(self.is_special(input_ids), self.config.stop_token_id)

    def text_encoder(self, device: torch.device, dtype: torch.dtype) -> TextEncoder:
        """The frozen text encoder, loaded from its source and verified when it is first asked for.

        Raises:
            CheckpointError: If the source is gone or holds other weights.
        """
        if not self._text_encoder:
            if not self.config.source:
                raise CheckpointError(
                    "this codec does not say where its text encoder comes from, so it can decode but not train; train "
                    "a codec with 'vislex train ladic_codec'"
                )
            loaded = load_text_encoder(self.config.source, self.config.split_layer, random_seed=self.config.random_seed)
            self._text_encoder = (loaded,)
        place = (device, dtype)
        if place not in self._copies:  # beside the one of full precision, which a cast would spoil
            own = self._text_encoder[0]
            is_own = (next(own.parameters()).device, own.dtype) == place
            self._copies = {place: own if is_own else copy.deepcopy(own).to(device=device, dtype=dtype)}
        return self._copies[place]

    def attach(self, text_encoder: TextEncoder) -> None:
        """Takes a text encoder that is there already."""
        self._text_encoder, self._copies = (text_encoder,), {}

    @torch.no_grad()
    def encode(self, input_ids: Tensor, attention_mask: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
        """Latents of captions.

        Args:
            input_ids: int64[B, L], padded to the length that the latents shall have.
            attention_mask: int64[B, L], 1 on real tokens.
            dtype: What the text encoder computes in; that of the codec by default.

        Returns:
            float32[B, L, D], normalised, with the stop latent at every position without a word.
        """
        encoder = self.text_encoder(input_ids.device, dtype or self.embeddings.weight.dtype)
        with torch.autocast(input_ids.device.type, enabled=False):  # it has its own type
            raw = encoder(self.token_index[input_ids], attention_mask).float()
        return torch.where(self.is_special(input_ids)[..., None], self.stop.float(), self._normalize(raw))

    def decode(self, latents: Tensor, token_mask: Tensor | None = None) -> Tensor:
        """Logits float[B, L, V] of normalised latents float[B, L, D], all positions at once.

        Args:
            latents: float[B, L, D].
            token_mask: bool[B, L], False on positions behind the end of a caption's latents.
        """
        dtype = self.embeddings.weight.dtype
        hidden = (latents.float() * self.std.float() + self.mean.float()).to(dtype)
        mask = additive_mask(token_mask, dtype)
        for layer in self.upper:
            hidden = layer(hidden, mask)
        return F.linear(self.transform(hidden), self.embeddings.weight, self.bias)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, noise_scale: Tensor | None = None, **kwargs: Any
    ) -> ModelOutput:
        """Cross-entropy of the round trip, in training through noised latents.

        Args:
            input_ids: int64[B, L].
            attention_mask: int64[B, L].
            noise_scale: float[B] standard deviation of Gaussian noise on each caption's latents.
        """
        dtype = self.transform[0].weight.dtype
        latents = self.encode(input_ids, attention_mask, dtype=dtype)
        if noise_scale is not None:
            latents = latents + noise_scale.float()[:, None, None] * torch.randn_like(latents)
        logits = self.decode(latents)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), self.targets(input_ids).flatten())
        return ModelOutput(loss=loss, logits=logits)

    @torch.no_grad()
    def for_tokenizer(self, tokenizer: PreTrainedTokenizerFast) -> LatentCodec:
        """The same codec with the word pieces of another tokenizer, which must all be known to it.

        Raises:
            ConfigError: If the tokenizer has a piece that this codec does not decode to.
        """
        if self.tokenizer is None:
            raise CheckpointError("this codec has no tokenizer beside it; save it together with its tokenizer")
        own, theirs = self.tokenizer.get_vocab(), tokenizer.get_vocab()
        pieces = sorted(theirs, key=theirs.__getitem__)
        if pieces == sorted(own, key=own.__getitem__):
            return self
        if unknown := [piece for piece in pieces if piece not in own]:
            raise ConfigError(
                f"the codec knows none of {len(unknown)} word pieces of this tokenizer, among them '{unknown[0]}'; "
                "train a codec on these captions with 'vislex train ladic_codec' and pass its folder as codec="
            )
        rows = torch.tensor([own[piece] for piece in pieces])
        special = special_tokens(tokenizer)
        config = copy.deepcopy(self.config)
        config.vocab_size = len(pieces)
        config.bos_token_id, config.eos_token_id, config.pad_token_id = special
        config.stop_token_id = theirs.get(STOP, special.eos)
        codec = type(self)(config)
        by_piece = {"embeddings.weight", "bias", "token_latents", "token_log_prior", "token_index"}
        codec.load_state_dict(
            {name: value[rows] if name in by_piece else value for name, value in self.state_dict().items()}
        )
        codec.token_log_prior[[special.eos, config.stop_token_id]] = torch.tensor(
            [NEVER, float(self.token_log_prior[self.config.stop_token_id])]
        )
        codec._text_encoder, codec.tokenizer = self._text_encoder, tokenizer
        return codec.eval()

    def take(self, other: LatentCodec) -> None:
        """Takes weights, statistics and text encoder of a codec of the same config."""
        self.load_state_dict(other.state_dict())
        self._text_encoder, self.tokenizer, self._copies = other._text_encoder, other.tokenizer, {}

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Saves the weights and, beside them, the tokenizer."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)


def _stop_ids(tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """int64[3] of "[CLS] . [SEP]" in a text model's own vocabulary."""
    special = special_tokens(tokenizer)
    return torch.tensor([special.bos, tokenizer.get_vocab()[STOP], special.eos])
