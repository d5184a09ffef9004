"""Generation with LaDiC: settings, lengths, sampling of all captions of one length together, choice of candidates."""

from __future__ import annotations

import copy
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from vislex.decoders.ladic.sampling import SampleResult, SamplingConfig, sample, select_rows
from vislex.decoders.ladic.words import given_words, whole_captions
from vislex.decoders.mbr import consensus
from vislex.decoders.noise import caption_generators
from vislex.decoders.trace import TraceStep
from vislex.errors import ConfigError, did_you_mean
from vislex.modules.denoiser import VisionState
from vislex.modules.length_head import round_up
from vislex.specs import VisionTokens

if TYPE_CHECKING:
    from vislex.decoders.ladic.decoder import LadicDecoder

__all__ = ["generate", "sample_latents", "sampling_config"]

_SAMPLING = frozenset(field.name for field in fields(SamplingConfig))
# What a GenerationConfig may hold without asking for something that this decoder does not do.
_GENERATION = frozenset({"bos_token_id", "eos_token_id", "pad_token_id", "max_new_tokens", "transformers_version"})


def generate(
    decoder: LadicDecoder,
    vision: VisionTokens,
    generation_config: GenerationConfig | None,
    options: dict[str, Any],
    *,
    input_ids: Tensor | None,
    known_mask: Tensor | None,
    length: int | None,
    indices: Tensor | None,
    num_candidates: int,
) -> Tensor:
    """Captions int64[B, L] of projected vision tokens; see ``LadicDecoder.generate`` for the arguments.

    ``decoder.evaluations`` and ``decoder.trace`` then tell what they took and how they came about.
    """
    if num_candidates < 1:
        raise ConfigError(f"num_candidates={num_candidates} must be at least 1")
    options = dict(options)
    sampling = sampling_config(decoder, {key: options.pop(key) for key in _SAMPLING & set(options)})
    limit = _limit(generation_config, options)
    batch, pad = len(vision.tokens), decoder.config.pad_token_id
    indices = torch.arange(batch) if indices is None else indices
    lengths = _lengths(decoder, vision, 1 if input_ids is None else input_ids.shape[1], length, limit)
    state = decoder.denoiser.vision_state(vision)
    captions = torch.full((batch, int(lengths.max())), pad, device=decoder.device)
    evaluations = torch.zeros(batch, dtype=torch.long)
    trace: list[list[TraceStep]] | None = [[] for _ in range(batch)] if sampling.trace else None
    for each in lengths.unique().tolist():
        rows = (lengths == each).nonzero()[:, 0]
        copies = rows.repeat_interleave(num_candidates)
        known = given_words(decoder.codec, input_ids, known_mask, copies, each)
        generators = caption_generators(sampling.seed, indices[rows.cpu()].tolist(), num_candidates)
        result = sample_latents(decoder, state.select(copies), each, sampling, generators, known)
        finished = whole_captions(decoder.codec, result.ids, known)
        chosen = consensus(finished, num_candidates, special_ids=decoder.special_ids)
        captions[rows, :each] = finished[chosen]
        evaluations[rows.cpu()] = result.evaluations.view(-1, num_candidates).sum(1)
        if trace is not None and result.trace is not None:
            for row, place in zip(rows.tolist(), chosen.tolist(), strict=True):
                own = None if known is None else (known[0][place : place + 1], known[1][place : place + 1])
                trace[row] = [
                    TraceStep(whole_captions(decoder.codec, step.ids[None], own)[0], step.time)
                    for step in result.trace[place]
                ]
    decoder.evaluations, decoder.trace = evaluations, trace
    longest = (captions != pad).sum(1).max()
    return captions[:, : int(longest)]


def sampling_config(decoder: LadicDecoder, options: dict[str, Any]) -> SamplingConfig:
    """The config's sampling options with those of a call above them."""
    settings = {**(decoder.config.sampling or {}), **options}
    if decoder.config.self_conditioning == "none":
        settings["self_conditioning"] = False
    if "guidance_interval" in settings:
        settings["guidance_interval"] = tuple(settings["guidance_interval"])
    return SamplingConfig(**settings)


def sample_latents(
    decoder: LadicDecoder,
    state: VisionState,
    length: int,
    sampling: SamplingConfig,
    generators: list[torch.Generator],
    known: tuple[Tensor, Tensor] | None,
) -> SampleResult:
    """Denoises R captions of ``length`` positions.

    Args:
        decoder: The decoder.
        state: Of their images.
        length: L.
        sampling: Options.
        generators: One a caption.
        known: Given words int64[R, L] and bool[R, L] where they are given (``given_words``).
    """
    states = select_rows(decoder.denoiser.guided_state(state) if sampling.guidance_scale else state)

    def denoise(x: Tensor, timesteps: Tensor, previous: Tensor | None, rows: Tensor) -> Tensor:
        return decoder.denoise(x, timesteps, previous, states(rows), decoder.sampling_schedule)

    return sample(
        denoise,
        decoder.read,
        decoder.sampling_schedule,
        sampling,
        shape=(len(state), length, decoder.codec.latent_dim),
        generator=generators,
        known=None if known is None else decoder.codec.token_latents[known[0]].float(),
        known_mask=None if known is None else known[1],
        device=decoder.device,
    )


def _lengths(
    decoder: LadicDecoder, vision: VisionTokens, n_given: int, length: int | None, limit: int | None
) -> Tensor:
    """Positions of each caption, int64[B]."""
    config, batch = decoder.config, len(vision.tokens)
    longest = config.max_length if limit is None else min(config.max_length, n_given + limit)
    if max(n_given, length or 0) > config.max_length or (length is not None and length < n_given):
        raise ConfigError(
            f"{n_given} given tokens and length {length} do not fit this decoder: length must be at least the "
            f"given tokens, and both at most {config.max_length}"
        )
    if length is not None:
        return torch.full((batch,), min(length, longest), device=vision.tokens.device)
    if config.length == "fixed":
        return torch.full((batch,), longest, device=vision.tokens.device)
    least = round_up(torch.tensor(n_given), config.length_bucket, config.max_length)
    behind_first = decoder.length_head.predict(vision)
    return (1 + behind_first).clamp(min=int(least)).clamp(max=longest)


def _limit(generation_config: GenerationConfig | None, changes: dict[str, Any]) -> int | None:
    """``max_new_tokens`` of generation settings that ask for nothing else.

    Raises:
        ConfigError: If they do, or an option is unknown.
    """
    settings = GenerationConfig() if generation_config is None else copy.deepcopy(generation_config)
    if unknown := settings.update(**changes):
        name = next(iter(unknown))
        raise ConfigError(f"unknown generation option '{name}'{did_you_mean(name, [*_SAMPLING, *vars(settings)])}")
    asked = {key for key, value in settings.to_diff_dict().items() if value not in (None, False)} - _GENERATION
    if (settings.num_beams or 1) == 1:
        asked.discard("num_beams")
    if asked:
        raise ConfigError(
            f"a diffusion decoder does not know {', '.join(sorted(asked))}; its options are max_new_tokens, "
            f"num_candidates, {', '.join(sorted(_SAMPLING))}"
        )
    limit: int | None = settings.max_new_tokens
    return limit
