"""Three probes of frozen features: linear on the mean token, attentive over all tokens, and nearest neighbours."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from vislex.config import Config
from vislex.specs import VisionTokens
from vislex.training.features import FeatureStore

__all__ = ["PROBES", "ProbeSettings", "Probed", "mean_tokens", "run_probe"]

ProbeName = Literal["linear", "attentive", "knn"]
PROBES: tuple[ProbeName, ...] = ("linear", "attentive", "knn")
Labels = Mapping[str, np.ndarray]
_CHUNK = 512


class ProbeSettings(Config):
    """How frozen features are probed, the same for every encoder.

    Attributes:
        lrs: Learning rates of the linear and the attentive probe; each takes the best on val, with the first seed.
        epochs: Passes over the training images.
        batch_size: Images a step.
        weight_decay: Of AdamW.
        hidden_size: Width of the attentive probe.
        num_heads: Its attention heads.
        neighbours: Training images that vote, weighted by exp(cosine / 0.07).
    """

    lrs: list[float] = Field([1e-3, 4e-3], min_length=1)
    epochs: int = Field(12, ge=1)
    batch_size: int = Field(256, ge=1)
    weight_decay: float = Field(0.01, ge=0)
    hidden_size: int = Field(128, ge=1)
    num_heads: int = Field(4, ge=1)
    neighbours: int = Field(20, ge=1)


@dataclass(frozen=True)
class Probed:
    """What a probe said.

    Attributes:
        predictions: int64[N] a factor, for every image.
        lr: Learning rate that was chosen; None for neighbours.
    """

    predictions: dict[str, np.ndarray]
    lr: float | None = None


class LinearProbe(nn.Module):
    """One linear layer a factor on the standardised mean token."""

    def __init__(self, dim: int, classes: Mapping[str, int], settings: ProbeSettings) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(dim, count) for count in classes.values())

    def forward(self, vision: VisionTokens, mean: Tensor, std: Tensor) -> list[Tensor]:
        pooled = (mean_tokens(vision) - mean) / std
        return [head(pooled) for head in self.heads]


class AttentiveProbe(nn.Module):
    """One learned query a factor, which attends to the standardised tokens, and a linear layer on what it gathers."""

    def __init__(self, dim: int, classes: Mapping[str, int], settings: ProbeSettings) -> None:
        super().__init__()
        width = settings.hidden_size
        self.queries = nn.Parameter(torch.randn(len(classes), width) * width**-0.5)
        self.attention = nn.MultiheadAttention(width, settings.num_heads, kdim=dim, vdim=dim, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in classes.values())

    def forward(self, vision: VisionTokens, mean: Tensor, std: Tensor) -> list[Tensor]:
        tokens = (vision.tokens.float() - mean) / std  # [B, N, D]
        padding = None if vision.mask is None else ~vision.mask
        queries = self.queries.expand(len(tokens), -1, -1)
        gathered = self.norm(self.attention(queries, tokens, tokens, key_padding_mask=padding, need_weights=False)[0])
        return [head(gathered[:, i]) for i, head in enumerate(self.heads)]


def mean_tokens(vision: VisionTokens) -> Tensor:
    """Mean over the real tokens, float32[B, D]."""
    tokens = vision.tokens.float()
    if vision.mask is None:
        return tokens.mean(dim=1)
    real = vision.mask[..., None].to(tokens.dtype)
    mean: Tensor = (tokens * real).sum(dim=1) / real.sum(dim=1)
    return mean


def run_probe(
    name: ProbeName,
    features: Mapping[str, FeatureStore],
    labels: Mapping[str, Labels],
    classes: Mapping[str, int],
    settings: ProbeSettings,
    *,
    seed: int = 0,
    lr: float | None = None,
) -> Probed:
    """Fits a probe on "train" and asks it about "test".

    Args:
        name: "linear", "attentive" or "knn".
        features: Tokens of the splits "train", "val" and "test".
        labels: ``factor_labels`` of "train" and "val".
        classes: Number of classes of every factor.
        settings: Sizes and steps.
        seed: Of weights and order.
        lr: Learning rate; None chooses the best of ``settings.lrs`` on "val".
    """
    if name == "knn":
        return Probed(_nearest(features, labels["train"], classes, settings.neighbours))
    fit = functools.partial(_fit, name, features["train"], labels["train"], classes, settings, seed=seed)
    fitted: dict[float, Callable[[FeatureStore], dict[str, np.ndarray]]] = {}
    for rate in [lr] if lr is not None else settings.lrs:
        fitted[rate] = fit(lr=rate)
    best = max(fitted, key=lambda rate: _accuracy(fitted[rate](features["val"]), labels["val"])) if lr is None else lr
    return Probed(fitted[best](features["test"]), best)


def _accuracy(predictions: Labels, labels: Labels) -> float:
    """Mean over factors of the share of right answers."""
    asked = {name: values >= 0 for name, values in labels.items()}
    return float(np.mean([np.mean((predictions[n] == labels[n])[there]) for n, there in asked.items() if there.any()]))


def _fit(
    name: ProbeName,
    store: FeatureStore,
    labels: Labels,
    classes: Mapping[str, int],
    settings: ProbeSettings,
    *,
    seed: int,
    lr: float,
) -> Callable[[FeatureStore], dict[str, np.ndarray]]:
    """Trains a probe and gives the function that asks it."""
    mean, std = _statistics(store, pooled=name == "linear")
    kinds: dict[str, Any] = {"linear": LinearProbe, "attentive": AttentiveProbe}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        probe = kinds[name](store.array.shape[-1], classes, settings)
    optimizer = torch.optim.AdamW(probe.parameters(), lr=lr, weight_decay=settings.weight_decay, fused=True)
    order = np.random.default_rng([seed, len(store)])
    steps = settings.epochs * -(-len(store) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps + 1, pct_start=0.1)
    for _ in range(settings.epochs):
        shuffled = order.permutation(len(store))
        for start in range(0, len(store), settings.batch_size):
            rows = np.sort(shuffled[start : start + settings.batch_size])
            logits = probe(store.tokens(rows), mean, std)
            targets = [torch.from_numpy(labels[factor][rows]) for factor in classes]
            losses = [
                F.cross_entropy(out, target, ignore_index=-1, reduction="sum") / (target >= 0).sum().clamp(min=1)
                for out, target in zip(logits, targets, strict=True)
            ]
            optimizer.zero_grad(set_to_none=True)
            torch.stack(losses).sum().backward()
            optimizer.step()
            schedule.step()

    @torch.inference_mode()
    def ask(asked: FeatureStore) -> dict[str, np.ndarray]:
        answers: dict[str, list[np.ndarray]] = {factor: [] for factor in classes}
        for start in range(0, len(asked), _CHUNK):
            logits = probe(asked.tokens(np.arange(start, min(start + _CHUNK, len(asked)))), mean, std)
            for factor, out in zip(classes, logits, strict=True):
                answers[factor].append(out.argmax(dim=-1).numpy())
        return {factor: np.concatenate(parts) for factor, parts in answers.items()}

    return ask


def _statistics(store: FeatureStore, *, pooled: bool, most: int = 2048) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation float[D] over the first images: of their mean tokens, or of all their tokens."""
    vision = store.tokens(np.arange(min(len(store), most)))
    if pooled:
        values = mean_tokens(vision)
    else:
        tokens = vision.tokens.float()
        values = tokens.flatten(0, 1) if vision.mask is None else tokens[vision.mask]
    return values.mean(dim=0), values.std(dim=0).clamp(min=1e-6)


def _pooled(store: FeatureStore, mean: Tensor, std: Tensor) -> Tensor:
    chunks = (np.arange(start, min(start + _CHUNK, len(store))) for start in range(0, len(store), _CHUNK))
    pooled = torch.cat([mean_tokens(store.tokens(rows)) for rows in chunks])
    return F.normalize((pooled - mean) / std, dim=-1)


def _nearest(
    features: Mapping[str, FeatureStore], labels: Labels, classes: Mapping[str, int], neighbours: int
) -> dict[str, np.ndarray]:
    """Votes of the nearest training images that have the factor, by the cosine of standardised mean tokens."""
    statistics = _statistics(features["train"], pooled=True)
    known, asked = (_pooled(features[split], *statistics) for split in ("train", "test"))
    predictions = {}
    for factor, count in classes.items():
        rows = np.flatnonzero(labels[factor] >= 0)
        targets = F.one_hot(torch.from_numpy(labels[factor][rows]), count).float()
        candidates, answers = known[torch.from_numpy(rows)], []
        for chunk in asked.split(_CHUNK):
            cosines, places = (chunk @ candidates.T).topk(min(neighbours, len(rows)), dim=1)
            votes = ((cosines / 0.07).exp()[..., None] * targets[places]).sum(dim=1)
            answers.append(votes.argmax(dim=-1).numpy())
        predictions[factor] = np.concatenate(answers)
    return predictions
