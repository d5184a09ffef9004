"""The claims that are tested: source, criterion as fixed before the runs, command, and where the answer stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from vislex.benchmarks import claim_readers as read
from vislex.benchmarks.ladic_arms import CLAIMS as SAMPLING

__all__ = ["CLAIMS", "Claim"]


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        id: E0 to E8 by experiment, a letter for each of its claims; R for a stated requirement.
        text: What is claimed.
        source: Where it comes from, in our own words.
        criterion: What counts.
        command: Makes the result file; None where no benchmark measures the claim yet.
        file: Result file; None as above.
        read: From the file's content ({} without one) to the finding; None where the file holds no conclusion.
        change: What would change the verdict.
        planned: Seeds of the experiment.
        seeds_of: What is seeded; "" where nothing is.
    """

    id: str
    text: str
    source: str
    criterion: str
    command: str | None
    file: str | None
    read: Callable[[Mapping[str, Any]], read.Finding | None]
    change: str
    planned: int = 1
    seeds_of: str = "training"


LADIC, VILEX = "LaDiC (arXiv 2404.10763)", "ViLex (arXiv 2412.06774)"
BENCHMARK = "python -m vislex.benchmarks"
AGAINST_AR = f"{BENCHMARK}.ladic_against_ar --hidden-size 256 --num-layers 4 --num-heads 8 --steps 4500"
AGAINST_AR += " --vocabulary default --seeds 0,1,2 --styles lossy,dense"
SAMPLE = f"{BENCHMARK}.ladic_sampling --model FOLDER --vocabulary core --arms claims --seeds 0,1,2"
DOWNSTREAM = "vislex compare --encoders siglip-tiny,hf:CONTINUED,hf:VILEX --decoders cross_attention --seeds 3 "
DOWNSTREAM += "--size 5000 --margin 0 'pairs=[[hf:VILEX + cross_attention, siglip-tiny + cross_attention], "
DOWNSTREAM += "[hf:VILEX + cross_attention, hf:CONTINUED + cross_attention]]' --out FOLDER"
DOWNSTREAM += " && cp FOLDER/results.json benchmarks/results/encoder_downstream.json"
REFINE = "Back&Refine helps at equal evaluations"
FEW_STEPS = tuple(dict.fromkeys(claim.text for claim in SAMPLING if claim.share == 0.97))
OTHER_SAMPLING = tuple(dict.fromkeys(c.text for c in SAMPLING if c.text not in (REFINE, *FEW_STEPS)))
LARGER_BASE = "A text-to-image model with more bandwidth: larger, trained longer, or one of the public ones."

CLAIMS = (
    Claim(
        "E0",
        "The instruments suffice for claims on ViLex",
        "Ours: a token can carry no more than its frozen decoder can draw, and nothing can be read from a poor reader.",
        "The reader names at least 97 % of the objects in real scenes; in drawings of one object it reads at least 60 "
        "% of the names and 90 % of the backgrounds. Below that, claims on ViLex are not testable, not false.",
        f"{BENCHMARK}.vilex_base",
        "vilex_base.json",
        read.base,
        LARGER_BASE,
    ),
    Claim(
        "E1a",
        "Every further ViLex token lowers the reconstruction loss",
        f"{VILEX}, reconstruction by number of tokens: quality rises from 1 to 16 to 75 tokens.",
        "On the same images, times and noise the denoising loss falls from each budget to the next, from 1 to 16 "
        "tokens, and every paired interval excludes 0.",
        f"{BENCHMARK}.vilex_tokens",
        "vilex_tokens.json",
        partial(read.tokens, claim="the loss falls with tokens"),
        LARGER_BASE,
    ),
    Claim(
        "E1b",
        "Scenes with more objects need more tokens",
        f"{VILEX}, TailDrop: the number of tokens is a budget that can follow the image. By how much is ours to ask.",
        "The budget that reaches 90 % of the plateau grows over scenes of 1, 2, 3 and 4 objects: the slope's interval "
        "lies above 0.",
        f"{BENCHMARK}.vilex_tokens",
        "vilex_tokens.json",
        partial(read.tokens, claim="more objects need more tokens"),
        "Finer budgets, more than four objects, or a text-to-image model that draws several objects better.",
    ),
    Claim(
        "E1c",
        "One model with TailDrop serves every budget almost as well as a model trained for it",
        f"{VILEX}, TailDrop: dropping the last tokens in training makes their number a choice at run time.",
        "At 1 and 4 tokens its loss is at most 5 % above that of a model trained with exactly so many, with all tokens "
        "at most 2 %.",
        f"{BENCHMARK}.vilex_tokens",
        "vilex_tokens.json",
        partial(read.tokens, claim="TailDrop costs little"),
        "Another distribution of dropped tokens (powers of two), or longer training.",
    ),
    Claim(
        "E1d",
        "One continuous token says more than any text",
        f"{VILEX}, comparison with De-Diffusion: a single ViLex token reconstructs better than its 75 words.",
        "One token beats the best discrete rung (true caption, a captioner's, De-Diffusion, snapped words) in loss and "
        "in factors that captions never name, every paired interval above 0.",
        f"{BENCHMARK}.vilex_tokens",
        "vilex_tokens.json",
        partial(read.tokens, claim="one continuous token beats every text"),
        "A stronger text rung: De-Diffusion with more words or longer training, or denser captions.",
    ),
    Claim(
        "E1e",
        "Which comes first in the tokens, category or colour?",
        f"{VILEX}, TailDrop: early tokens are said to carry the semantics.",
        "Reported, not judged: for each factor the budget that reaches 90 % of what all tokens reach.",
        f"{BENCHMARK}.vilex_tokens",
        "vilex_tokens.json",
        read.factors,
        LARGER_BASE,
    ),
    *(
        Claim(
            id,
            f"Training through a frozen text-to-image model makes a better encoder ({how})",
            f"{VILEX}, table of encoders in a vision-language model: SigLIP after ViLex is above SigLIP everywhere.",
            "With every probe, against the untouched SigLIP and against SigLIP's own loss continued on the same "
            "images: never-named factors gain more than 5 points, sometimes-named ones more than 1, the concept loses "
            "less than 1; each interval lies above its margin.",
            f"{BENCHMARK}.encoder_gain",
            "encoder_gain.json",
            partial(read.gain, claim=arm),
            "More steps, another ratio of learning rates, or a text-to-image model that knows more.",
        )
        for id, how, arm in (
            ("E2a", "pooling first, then both", "ViLex: "),
            ("E2b", "end to end", "ViLex end to end: "),
        )
    ),
    Claim(
        "E2c",
        "It is the text-to-image model's knowledge that helps",
        f"{VILEX}: the encoder is said to learn from what the frozen text-to-image model knows.",
        "ViLex is better than ViLex through a model with random, non-zero weights, in never-named factors and with "
        "every probe. If it is not, reconstruction helped and not the model.",
        f"{BENCHMARK}.encoder_gain",
        "encoder_gain.json",
        partial(read.gain, claim="the text-to-image model's knowledge matters"),
        "A text-to-image model that knows more than the encoder's own training data.",
    ),
    Claim(
        "E2d",
        "It is diffusion that helps, not reconstruction as such",
        "Ours: the paper does not hold diffusion against plain regression of pixels.",
        "ViLex is better than the same pooling with a small decoder that regresses pixels, in never-named factors and "
        "with every probe.",
        f"{BENCHMARK}.encoder_gain",
        "encoder_gain.json",
        partial(read.gain, claim="diffusion matters"),
        "A better or a worse pixel decoder, or larger images.",
    ),
    Claim(
        "E3a",
        "A captioner on the ViLex encoder writes better captions",
        f"{VILEX}, table of encoders in a vision-language model: captions improve with the encoder alone.",
        "The paired interval of CIDEr-D excludes 0 against the untouched and against the continued SigLIP; 5,000 "
        "images. Gains are expected in position and count, none in naming.",
        DOWNSTREAM,
        "encoder_downstream.json",
        read.encoder_pairs,
        "An encoder that gains more in E2, or a captioner that is trained longer.",
        planned=3,
    ),
    Claim(
        "E3b",
        "A vision-language model on the ViLex encoder answers and segments better",
        f"{VILEX}, the same table: question answering and referring segmentation improve too.",
        "With the connector mlp the paired interval excludes 0 against SigLIP's patches, untouched and continued, in "
        "answers on position, in answers on number and in masks, where gains are expected. Other types of question "
        "(none is expected in naming), captions and other connectors are reported.",
        f"{BENCHMARK}.vlm_encoders --vilex DIR --continued hf:DIR",
        "vlm_encoders.json",
        read.vlm_encoders,
        "An encoder that gains more in E2, longer training of the vision-language models, or a larger language model.",
    ),
    *(
        Claim(
            id,
            f"LaDiC is no worse than an autoregressive decoder on the same features ({what})",
            f"{LADIC}, table 1: diffusion comes near autoregressive captioners, which have other features, data and "
            "sizes. The like-for-like rival is ours.",
            "Features, data, size and post-processing are shared; arm and way of writing are chosen on val on both "
            "sides. It holds if the lower end of the interval of the quotient of CIDEr-D on test_composition reaches "
            "0.95; it is void if the autoregressive arm is above 95 % of the ceiling of the references, or if LaDiC "
            "still rises on val.",
            AGAINST_AR,
            "ladic_against_ar.json",
            partial(read.against_ar, style=style),
            "A decoder that names each object once, longer training of both sides, or larger data.",
            planned=3,
        )
        for id, what, style in (
            ("E4a", "short captions", "lossy"),
            ("E4b", "dense captions", "dense"),
        )
    ),
    Claim(
        "E5",
        "The middle of a language model is the best place to diffuse in",
        f"{LADIC}, latent space: the hidden states of BERT's lower half are diffused, neither embeddings nor the top.",
        "LaDiC in layer 3 of MiniLM has a higher scene-F1 on test_composition than in its embeddings and than in "
        "layer 3 of a BERT with random weights; both paired intervals exclude 0.",
        f"{BENCHMARK}.ladic_latent_space --seeds 0,1",
        "ladic_latent_space.json",
        read.latent_space,
        "A deeper language model, or a denoiser that is large enough to learn the embeddings' space.",
        planned=2,
    ),
    Claim(
        "E6",
        "Back&Refine helps at equal evaluations",
        f"{LADIC}, Back&Refine: half-way, the least confident words become noise again and are denoised anew.",
        "15 + 30 evaluations have a higher CIDEr-D than 45 plain ones, with the paper's sampler and with the fast one; "
        "both paired intervals exclude 0. The other comparisons have their own verdicts and do not count here.",
        SAMPLE,
        "ladic_sampling.json",
        partial(read.sampling, claims=(REFINE,), beside=OTHER_SAMPLING),
        "Another share of words that are kept, another time at which it happens, or a network trained for it.",
        planned=3,
        seeds_of="sampling",
    ),
    *(
        Claim(
            id,
            f"From some caption length on LaDiC is faster than autoregression ({what})",
            f"{LADIC}, latency by caption length: LaDiC's stays flat, BLIP's grows, and they cross at about ten words.",
            "Reported, not judged: the length from which on LaDiC is faster than the faster of two autoregressive "
            "loops (transformers' generate and a bare greedy one), with its interval, wherever it lies; medians of "
            "30 rounds if they end in time.",
            f"OMP_NUM_THREADS=1 {BENCHMARK}.ladic_latency",
            "ladic_latency.json",
            partial(read.crossings, scale=scale),
            "Another machine (a GPU hides the work of long sequences), other sizes, or a faster autoregressive loop.",
            seeds_of="",
        )
        for id, what, scale in (
            ("E7a", "small decoders", "small"),
            ("E7b", "decoders of BLIP-base's size", "base"),
        )
    ),
    Claim(
        "E8a",
        "Text-free guidance trades identity for compliance",
        f"{VILEX}, text-free guidance: a weight of 0 keeps the image alone, larger ones push the text.",
        "Over the weights 0 to 3 compliance with the prompt rises and the subject's identity falls, read by the "
        "reader: both slopes' intervals, paired over subjects, exclude 0.",
        f"{BENCHMARK}.text_free_guidance",
        "text_free_guidance.json",
        read.guidance,
        LARGER_BASE,
    ),
    Claim(
        "E8b",
        "Tokens trained on one denoiser are read by another with the same text encoder",
        "Ours: tokens live in the text encoder's input space, so they should belong to it and not to one denoiser.",
        "With all tokens denoiser B keeps at least 80 % of the factor accuracy of denoiser A, through which the tokens "
        "were trained: the lower end of the quotient's interval, paired over images. The other quotients are reported.",
        f"{BENCHMARK}.token_portability",
        "token_portability.json",
        read.portability,
        "A denoiser B that draws better or worse by itself, or tokens trained through several denoisers.",
    ),
    Claim(
        "R1",
        "Caching makes LaDiC at least four times as fast as the release's loop",
        "A requirement: the release runs the image encoder in every step, and the cross-attention's keys and values "
        "too.",
        "At 30 guided steps from pixels at least 4 times as fast as a loop that keeps nothing, with identical "
        "captions.",
        f"OMP_NUM_THREADS=1 {BENCHMARK}.ladic_caching",
        "ladic_caching.json",
        read.caching,
        "Another encoder (the larger, the more is saved), another batch size or device.",
        seeds_of="",
    ),
    Claim(
        "R2",
        "Eight evaluations keep 97 % of the quality of thirty steps",
        f"A requirement. {LADIC}, table 1, has CIDEr 115.2 with 5 steps and 126.2 with 30.",
        "CIDEr-D with 8 evaluations exceeds 0.97 times that of 30 steps: plain ones, guided ones (60 evaluations), and "
        "the paper's sampler with guidance; all three paired intervals exclude 0.",
        SAMPLE,
        "ladic_sampling.json",
        partial(read.sampling, claims=FEW_STEPS),
        "A captioner distilled for few steps (recipe ladic_few_step), or one for which guidance gains more.",
        planned=3,
        seeds_of="sampling",
    ),
    Claim(
        "R3",
        "LoRA is as good as full finetuning of a vision-language model",
        "A requirement, after LoRA (arXiv 2106.09685): adapters of small rank match full finetuning.",
        "From one aligned model, with the same data, steps and connector: the lower end of the interval of the "
        "quotient of VQA accuracies reaches 0.95, LoRA trains less than 5 % of the language model's parameters, its "
        "folder opened anew answers as the model in memory did, and merging changes no logit by more than 1e-5 of the "
        "larger of 1 and the logit.",
        f"{BENCHMARK}.vlm_finetuning",
        "vlm_finetuning.json",
        read.finetuning,
        "Another rank or kind of adapters, longer training, or a language model that knows more beforehand.",
    ),
    Claim(
        "R4",
        "One connector with TailDrop serves 4, 16 and 64 tokens an image",
        f"A requirement, after {VILEX}, TailDrop: the number of tokens becomes a choice at run time.",
        "At each budget the lower end of the interval of the quotient of VQA accuracies, TailDrop in a model trained "
        "for exactly that budget, reaches 0.95. Answers a second are reported.",
        f"{BENCHMARK}.vlm_budgets",
        "vlm_budgets.json",
        read.budgets,
        "Another distribution of dropped tokens, longer training, or questions that need more of the image.",
    ),
)
