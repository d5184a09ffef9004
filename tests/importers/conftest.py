"""The released LaDiC written down from its description, in plain torch under its own module names, at a tiny size.

It computes as the release does, faults included: the ViT runs in every call, also for the blank image, the text decoder
has layers that are never run, and the norm of the times is on. Nothing of vislex is used here but its tokenizer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.models.bert.modeling_bert import BertOnlyMLMHead

from vislex.captioner import Captioner
from vislex.importers.ladic import import_ladic
from vislex.text import load_tokenizer, prune_tokenizer

CORPUS = ["a red dog left of a blue cat.", "two unfathomable kites on a green background", "three rabbits and a drum"]
LATENT, VISION, LENGTH, STEPS = 16, 24, 10, 1000


def parts(**modules: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict(modules)


class Attention(nn.Module):
    """MED's: query from the words, key and value from the words or the image, then BERT's output with its norm."""

    def __init__(self, width: int, source: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.self = parts(query=nn.Linear(width, width), key=nn.Linear(source, width), value=nn.Linear(source, width))
        self.output = parts(dense=nn.Linear(width, width), LayerNorm=nn.LayerNorm(width, eps=1e-12))

    def forward(self, words: Tensor, source: Tensor) -> Tensor:
        given = {"query": words, "key": source, "value": source}
        query, key, value = (
            self.self[name](tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for name, tokens in given.items()
        )
        weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(-1)
        mixed = (weights @ value).transpose(1, 2).flatten(2)
        return self.output["LayerNorm"](self.output["dense"](mixed) + words)


class MedLayer(nn.Module):
    def __init__(self, width: int, vision: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention = Attention(width, width, heads)
        self.crossattention = Attention(width, vision, heads)
        self.intermediate = parts(dense=nn.Linear(width, inner))
        self.output = parts(dense=nn.Linear(inner, width), LayerNorm=nn.LayerNorm(width, eps=1e-12))

    def forward(self, words: Tensor, image: Tensor) -> Tensor:
        words = self.attention(words, words)
        words = self.crossattention(words, image)
        inner = nn.functional.gelu(self.intermediate["dense"](words))
        return self.output["LayerNorm"](self.output["dense"](inner) + words)


class MedBert(nn.Module):
    def __init__(self, width: int, vision: int, heads: int, layers: int, inner: int) -> None:
        super().__init__()
        self.embeddings = parts(
            word_embeddings=nn.Embedding(9, width),
            position_embeddings=nn.Embedding(32, width),
            LayerNorm=nn.LayerNorm(width, eps=1e-12),
        )
        self.embeddings.register_buffer("position_ids", torch.arange(32)[None])
        self.encoder = parts(layer=nn.ModuleList(MedLayer(width, vision, heads, inner) for _ in range(layers)))

    def forward(self, embedded: Tensor, image: Tensor) -> Tensor:
        places = self.embeddings["position_embeddings"].weight[: embedded.shape[1]]
        hidden = self.embeddings["LayerNorm"](embedded + places)
        for layer in self.encoder["layer"]:
            hidden = layer(hidden, image)
        return hidden


class VitBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = parts(qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        self.mlp = parts(fc1=nn.Linear(width, 2 * width), fc2=nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.attn["qkv"](self.norm1(tokens)).chunk(3, dim=-1)
        )
        weights = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        tokens = tokens + self.attn["proj"]((weights @ value).transpose(1, 2).flatten(2))
        return tokens + self.mlp["fc2"](nn.functional.gelu(self.mlp["fc1"](self.norm2(tokens))))


class Vit(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, cells: int, patch: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, cells + 1, width))
        self.patch_embed = parts(proj=nn.Conv2d(3, width, patch, patch))
        self.blocks = nn.ModuleList(VitBlock(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)


class ReleasedLadic(nn.Module):
    """The release's evaluation model."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        sizes = {"hidden_size": LATENT, "num_attention_heads": 2, "intermediate_size": 40, "initializer_range": 0.4}
        sizes |= {"vocab_size": vocab_size, "max_position_embeddings": 20}
        low, high = (BertConfig(num_hidden_layers=layers, **sizes) for layers in (2, 4))
        self.space_encoder = BertModel(low, add_pooling_layer=False)
        self.space_decoder = BertModel(high, add_pooling_layer=False)
        for bert in (self.space_encoder, self.space_decoder):  # transformers of its time saved these
            bert.embeddings.register_buffer("position_ids", torch.arange(20)[None])
        self.lm_head = BertOnlyMLMHead(high)
        self.lm_head.predictions.decoder.bias = self.lm_head.predictions.bias
        self.visual_encoder = Vit(VISION, heads=3, layers=2, cells=9, patch=4)
        self.diffuser = MedBert(2 * LATENT, VISION, heads=4, layers=2, inner=48)
        self.time_layer_norm = nn.LayerNorm(2 * LATENT, eps=1e-12)

    def forward(self, pixels: Tensor, x: Tensor, time: int) -> Tensor:
        frequency = torch.exp(torch.arange(0, 2 * LATENT, 2) * (-math.log(10000.0) / (2 * LATENT)))
        table = torch.zeros(2 * LATENT)
        table[0::2], table[1::2] = torch.sin(time * frequency), torch.cos(time * frequency)
        hidden = self.diffuser(x + self.time_layer_norm(table), self.visual_encoder(pixels))
        return hidden[..., :LATENT]

    def guided(self, pixels: Tensor, x: Tensor, previous: Tensor, time: int) -> Tensor:
        """One step's prediction: guidance of weight 1 against the blank image, and the time told five too late."""
        told, both = min(STEPS - 1, time + 5), torch.cat([x, previous], dim=-1)
        return 2 * self(pixels, both, told) - self(torch.zeros_like(pixels), both, told)

    def sample(self, pixels: Tensor, noise: Iterator[Tensor]) -> Tensor:
        """34 calls of stride 30, from noise of standard deviation 1 that is drawn anew after each."""
        kept = torch.cumprod(1 - torch.cat([torch.zeros(1), torch.linspace(1e-4, 0.02, STEPS)[:-1]]).double(), 0)
        x, x0, time = next(noise), torch.zeros(len(pixels), LENGTH, LATENT), STEPS - 1
        while time > 0:
            x0 = self.guided(pixels, x, x0, time)
            time -= 30
            if time > 0:
                x = (kept[time].sqrt() * x0 + (1 - kept[time]).sqrt() * next(noise)).float()
        return x0

    def caption(self, x0: Tensor, mean: Tensor, std: Tensor, tokenizer: PreTrainedTokenizerFast) -> list[str]:
        """The likeliest word pieces, without repeated words and without the full stops around them."""
        ids = self.lm_head(x0 * std + mean).argmax(-1)
        texts = tokenizer.batch_decode(ids)
        return [" ".join(word for word, _ in itertools.groupby(text.split())).strip(" .") for text in texts]


@dataclass
class Files:
    """A released checkpoint on disk."""

    model: ReleasedLadic
    mean: Tensor
    std: Tensor
    folder: Path
    tokenizer: PreTrainedTokenizerFast

    def run(self, **changes: object) -> Captioner:
        """Imports the files, or others in their place."""
        given: dict = {
            "checkpoint": self.folder / "pytorch_model.bin",
            "mean": self.folder / "mean_emb_split.pickle",
            "std": self.folder / "std_emb_split.pickle",
            "tokenizer": self.folder / "tokenizer",
            "text_model": self.folder / "bert",
            "max_length": LENGTH,
            "num_heads": 4,
            "vision_heads": 3,
            "text_heads": 2,
        }
        return import_ladic(**{**given, **changes})


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Weights large enough that image, time and noise decide the words."""
    folder = tmp_path_factory.mktemp("released")
    tokenizer = prune_tokenizer(load_tokenizer(), CORPUS)[0]
    torch.manual_seed(3)
    model = ReleasedLadic(len(tokenizer)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.diffuser.embeddings["position_embeddings"].weight.normal_(std=2.0)
        model.lm_head.predictions.bias[tokenizer.all_special_ids] = -50.0  # a trained head never reads them
    mean, std = torch.randn(LATENT) * 0.1, torch.rand(LATENT) + 0.5
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    torch.save(mean, folder / "mean_emb_split.pickle")
    torch.save(std, folder / "std_emb_split.pickle")
    tokenizer.save_pretrained(folder / "tokenizer")
    return Files(model, mean, std, folder, tokenizer)


@pytest.fixture(scope="session")
def imported(released: Files, tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    """What the import wrote, opened again."""
    folder = tmp_path_factory.mktemp("imported")
    released.run().save_pretrained(folder)
    return Captioner.from_pretrained(folder).eval()
