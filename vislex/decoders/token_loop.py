"""Greedy search and draws through transformers' BERT decoder, without what ``generate`` does again at every step.

``generate`` builds masks, grows caches by concatenation and runs lists of logits processors for each token. None of it
is needed here: the vision tokens' keys and values are computed once an image, the words' go into a buffer of the final
size, and every caption of a batch is as long as the others until it ends. The layers' own modules do the work, so that
there is one definition of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import BertLMHeadModel, GenerationConfig

from vislex.decoders.draws import Draws
from vislex.specs import VisionTokens

__all__ = ["is_plain", "write_tokens"]

# What a GenerationConfig may set for this loop to be all there is to it.
PLAIN_SETTINGS = frozenset(
    {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "do_sample",
        "max_new_tokens",
        "min_new_tokens",
        "num_beams",
        "use_cache",
        "transformers_version",
    }
)


def is_plain(settings: GenerationConfig) -> bool:
    """Whether the settings ask for one next token after another with a cache, and for nothing else."""
    return (
        (settings.num_beams or 1) == 1
        and not settings.do_sample
        and settings.use_cache is not False
        and {key for key, value in settings.to_diff_dict().items() if value is not None} <= PLAIN_SETTINGS
    )


@dataclass
class _LayerState:
    """Keys and values of one layer: float[B, heads, length, head_dim], the words' buffer filled up to ``length``."""

    word_keys: Tensor
    word_values: Tensor
    vision_keys: Tensor
    vision_values: Tensor


def write_tokens(
    model: BertLMHeadModel,
    vision: VisionTokens,
    input_ids: Tensor,
    settings: GenerationConfig,
    draws: Draws | None = None,
) -> Tensor:
    """Writes the most likely next token, or the one that is drawn, until every caption has ended.

    Args:
        model: Decoder with cross-attention.
        vision: Projected tokens float[B, N, D] and their mask.
        input_ids: int64[B * K, P] beginnings, the K of an image one after the other.
        settings: ``max_new_tokens``, ``min_new_tokens`` and the special tokens.
        draws: For B * K captions.

    Returns:
        int64[B * K, L] with the beginnings, padded.
    """
    batch, n_prompt = input_ids.shape
    copies = batch // len(vision.tokens)
    captions = input_ids.new_full((batch, n_prompt + settings.max_new_tokens), settings.pad_token_id)
    captions[:, :n_prompt] = input_ids
    layers = model.bert.encoder.layer
    states = [_layer_state(layer, vision.tokens, captions.shape[1], copies) for layer in layers]
    mask = None if vision.mask is None else vision.mask[:, None, None].repeat_interleave(copies, 0)  # [B * K, 1, 1, N]
    ended = torch.zeros(batch, dtype=torch.bool, device=captions.device)
    begin, end = 0, n_prompt
    while end < captions.shape[1]:
        logits = _step(model, captions[:, begin:end], begin, states, mask)
        if end - n_prompt < (settings.min_new_tokens or 0):
            logits[:, settings.eos_token_id] = -torch.inf
        chosen = logits.argmax(-1) if draws is None else draws.choose(logits.float())
        captions[:, end] = chosen.masked_fill(ended, settings.pad_token_id)
        ended |= captions[:, end] == settings.eos_token_id
        begin, end = end, end + 1
        if ended.all():
            break
    return captions[:, :end]


def _step(
    model: BertLMHeadModel, input_ids: Tensor, begin: int, states: list[_LayerState], mask: Tensor | None
) -> Tensor:
    """Logits float[B, V] of the token after ``input_ids`` int64[B, L], which stand at position ``begin``."""
    embeddings = model.bert.embeddings
    positions = torch.arange(begin, begin + input_ids.shape[1], device=input_ids.device)[None]
    hidden = embeddings(input_ids, position_ids=positions)
    for layer, state in zip(model.bert.encoder.layer, states, strict=True):
        words = _attend_words(layer.attention.self, hidden, begin, state)
        hidden = layer.attention.output(words, hidden)
        queries = _heads(layer.crossattention.self, layer.crossattention.self.query, hidden)
        seen = F.scaled_dot_product_attention(queries, state.vision_keys, state.vision_values, attn_mask=mask)
        hidden = layer.crossattention.output(_join(seen), hidden)
        hidden = layer.feed_forward_chunk(hidden)
    logits: Tensor = model.cls(hidden[:, -1])
    return logits


def _attend_words(attention: nn.Module, hidden: Tensor, begin: int, state: _LayerState) -> Tensor:
    """Causal self-attention float[B, L, D] -> float[B, L, D], with the words before them from the buffer."""
    end = begin + hidden.shape[1]
    state.word_keys[:, :, begin:end] = _heads(attention, attention.key, hidden)
    state.word_values[:, :, begin:end] = _heads(attention, attention.value, hidden)
    queries = _heads(attention, attention.query, hidden)
    keys, values = state.word_keys[:, :, :end], state.word_values[:, :, :end]
    return _join(F.scaled_dot_product_attention(queries, keys, values, is_causal=hidden.shape[1] > 1))


def _layer_state(layer: nn.Module, vision: Tensor, length: int, copies: int) -> _LayerState:
    words, crossing = layer.attention.self, layer.crossattention.self
    shape = (copies * len(vision), words.num_attention_heads, length, words.attention_head_size)
    return _LayerState(
        word_keys=vision.new_empty(shape),
        word_values=vision.new_empty(shape),
        vision_keys=_heads(crossing, crossing.key, vision).repeat_interleave(copies, 0).contiguous(),
        vision_values=_heads(crossing, crossing.value, vision).repeat_interleave(copies, 0).contiguous(),
    )


def _heads(attention: nn.Module, projection: nn.Module, hidden: Tensor) -> Tensor:
    """float[B, L, D] -> float[B, heads, L, head_dim]."""
    projected: Tensor = projection(hidden)
    return projected.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)


def _join(heads: Tensor) -> Tensor:
    """float[B, heads, L, head_dim] -> float[B, L, D]."""
    return heads.transpose(1, 2).flatten(2)
