"""Training a left-to-right decoder to fill blanks: captions become a template followed by its missing words.

"a [MASK] on a [MASK] table [SEP] dog [MASK] red [SEP]" (Donahue et al. 2020, arXiv 2005.05339). Only the missing words
and the tokens that end them are learned; the template is given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from vislex.decoders.infill import Template, WordPieces
from vislex.decoders.left_to_right import prompt_template

__all__ = ["FillInMiddle"]

MOST_BLANKS = 3


class FillInMiddle:
    """Turns a share of the captions of a batch into templates with fillers.

    Args:
        share: Probability that a caption is turned into one; one that would grow too long stays a caption.
        pieces: Which tokens begin and continue words.
        blank: Token that stands for a blank, [MASK].
        end: Token that ends a caption, [SEP].
        pad: Padding.
        max_length: Longest sequence of the decoder.
    """

    def __init__(self, share: float, pieces: WordPieces, *, blank: int, end: int, pad: int, max_length: int) -> None:
        self.share, self.pieces = share, pieces
        self.blank, self.end, self.pad, self.max_length = blank, end, pad, max_length

    def __call__(self, batch: dict[str, Tensor], generators: Sequence[np.random.Generator]) -> dict[str, Tensor]:
        """Batch with ``input_ids``, ``attention_mask`` and ``labels`` int64[B, L]; one generator a caption."""
        rows = []
        for ids, mask, generator in zip(batch["input_ids"], batch["attention_mask"], generators, strict=True):
            caption = ids[: int(mask.sum())].tolist()
            made = self.transform(caption, generator) if generator.random() < self.share else None
            rows.append(made or (caption, 0))
        longest = max(len(ids) for ids, _ in rows)
        input_ids = torch.full((len(rows), longest), self.pad)
        labels = torch.full((len(rows), longest), -100)
        for row, (made_ids, n_given) in enumerate(rows):
            input_ids[row, : len(made_ids)] = torch.tensor(made_ids)
            labels[row, n_given : len(made_ids)] = torch.tensor(made_ids[n_given:])
        lengths = torch.tensor([len(ids) for ids, _ in rows])
        return {"input_ids": input_ids, "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
                "labels": labels}  # fmt: skip

    def transform(self, caption: list[int], generator: np.random.Generator) -> tuple[list[int], int] | None:
        """A caption as template and fillers, and how many of the ids are given; None if that is too long or empty."""
        words = self.pieces.words(caption)
        if not words:
            return None
        count = min(int(generator.integers(1, MOST_BLANKS + 1)), len(words))
        chosen = sorted(generator.choice(len(words), size=count, replace=False).tolist())
        places = [words[index] for index in chosen]
        edges = [0, *(edge for place in places for edge in (place.start, place.stop)), len(caption)]
        fixed = tuple(tuple(caption[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True))
        fillers = [caption[place.start : place.stop] for place in places]
        lengths = tuple((len(filler),) for filler in fillers)
        prompt = prompt_template(Template(("",) * (count + 1), fixed, lengths, True, self.pieces), self.blank, self.end)
        ids = prompt.join(fillers)
        return (ids, len(prompt.fixed[0])) if len(ids) <= self.max_length else None
