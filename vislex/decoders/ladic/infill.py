"""Filling blanks with LaDiC: the given words are known latents of the denoising loop, which fills the others around
them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vislex.decoders.infill import Filled, FilledCanvas, Template, infill_by_canvas
from vislex.decoders.ladic.length import bucket
from vislex.decoders.ladic.words import given_words
from vislex.decoders.noise import caption_generators
from vislex.decoders.unmasking import Canvas
from vislex.specs import VisionTokens

if TYPE_CHECKING:
    from vislex.decoders.ladic.decoder import LadicDecoder

__all__ = ["infill"]


def infill(
    decoder: LadicDecoder,
    vision_tokens: VisionTokens | Tensor,
    templates: Sequence[Template],
    *,
    indices: Tensor | None = None,
    **options: Any,
) -> list[Filled]:
    """Fills blanks; see ``CaptionDecoder.infill``.

    The words of a blank are the likeliest ones that may stand there, read from the last prediction of its latents.
    Lengths of blanks are compared by the likelihood of their words.

    Args:
        decoder: The decoder.
        vision_tokens: Encoder output, or its tokens float[B, N, D].
        templates: B captions with blanks.
        indices: int64[B], number of each caption in the run, as in ``generate``.
        **options: Fields of ``SamplingConfig``.
    """
    config = decoder.config
    sampling = decoder.sampling(**options)
    state = decoder.denoiser.vision_state(decoder._project(vision_tokens))
    numbers = torch.arange(len(templates)) if indices is None else indices

    def fill(rows: Tensor, canvas: Canvas) -> FilledCanvas:
        lengths = torch.full_like(rows, config.max_length)
        if config.length == "predicted":
            lengths = bucket(canvas.token_mask.sum(1), config.length_bucket, config.max_length)
        allowed = F.pad(canvas.allowed, (0, config.vocab_size - canvas.allowed.shape[1]))
        given = canvas.token_mask & ~canvas.is_open
        ids, score = canvas.ids.clone(), torch.zeros(len(rows), device=rows.device)
        evaluations = torch.zeros(len(rows), dtype=torch.long)
        for length in lengths.unique().tolist():
            own = (lengths == length).nonzero()[:, 0]
            known = given_words(decoder.codec, canvas.ids, given, own, length)
            generators = caption_generators(sampling.seed, numbers[rows[own].cpu()].tolist())
            result = decoder._sample(state.select(rows[own]), length, sampling, generators, known)
            width = min(length, ids.shape[1])
            log_p = decoder.codec.decode(result.x0).float().log_softmax(-1)[:, :width]
            kinds = canvas.kinds[own, :width]
            best = log_p.masked_fill(~allowed[kinds.clamp(min=0)], -torch.inf).max(-1)
            ids[own, :width] = torch.where(kinds >= 0, best.indices, ids[own, :width])
            score[own] = best.values.masked_fill(kinds < 0, 0.0).sum(1)
            evaluations[own.cpu()] = result.evaluations.cpu()
        return FilledCanvas(ids, score, evaluations)

    pad = int(config.pad_token_id or 0)
    filled, decoder.evaluations = infill_by_canvas(
        fill, templates, mask_token_id=pad, pad_token_id=pad, max_length=config.max_length, device=decoder.device
    )
    return filled
