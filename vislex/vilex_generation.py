"""``ViLexGeneration``: what a trained ViLex model gives: tokens, words, and images drawn from tokens."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vislex.data.images import image_batches, open_images
from vislex.data.sheet import image_table
from vislex.diffusion.guidance import generate, text_free_guidance
from vislex.diffusion.t2i import TextToImage
from vislex.diffusion.words import TokenWords, nearest_words
from vislex.errors import ConfigError
from vislex.modules.tail_drop import keep_mask
from vislex.specs import VisionTokens

__all__ = ["ViLexGeneration"]


class ViLexGeneration:
    """The inference half of ``ViLex``, as ``GenerationMixin`` is of a language model."""

    config: Any
    encoder: Any
    device: Any
    training: bool
    eval: Any
    train: Any

    @property
    @abstractmethod
    def is_discrete(self) -> bool:
        """Whether every token is a word."""

    @property
    @abstractmethod
    def t2i(self) -> TextToImage:
        """The attached text-to-image model."""

    @abstractmethod
    def tokens(self, vision: VisionTokens, n_tokens: int | None = None) -> VisionTokens:
        """The first tokens of what the backbone gave."""

    @abstractmethod
    def words(self, vision: VisionTokens, n_tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """Word embeddings and ids of discrete tokens."""

    @abstractmethod
    def processor(self) -> Any:
        """The image processor of the backbone."""

    @torch.no_grad()
    def encode(self, images: Any, *, n_tokens: int | None = None, batch_size: int = 16) -> VisionTokens:
        """Tokens of images.

        Args:
            images: One image or many (PIL, paths, uint8 arrays [H, W, 3]).
            n_tokens: Budget, 1 to the number that was trained; all by default.
            batch_size: Images a forward pass.

        Returns:
            float[B, n_tokens, sum(widths)].
        """
        parts = [self.tokens(vision, n_tokens) for vision in self._encoded(images, batch_size)]
        pooled = None if parts[0].pooled is None else torch.cat([part.pooled for part in parts])
        return VisionTokens(torch.cat([part.tokens for part in parts]), pooled=pooled)

    def _encoded(self, images: Any, batch_size: int) -> Iterator[VisionTokens]:
        """What the backbone gives, batch by batch, in eval mode."""
        training = self.training
        self.eval()
        try:
            for batch in image_batches(images, batch_size):
                yield self.encoder.backbone(**self.processor()(batch, return_tensors="pt").to(self.device))
        finally:
            self.train(training)

    @torch.no_grad()
    def describe(self, images: Any, *, n_tokens: int | None = None, batch_size: int = 16) -> list[str]:
        """The discrete tokens of images as text, which any text-to-image model can read.

        Raises:
            ConfigError: If the tokens are continuous.
        """
        if not self.is_discrete:
            raise ConfigError("these tokens are continuous and no words; use nearest_words, or train with vocabulary=")
        tokenizer = self.t2i.texts[0].tokenizer
        texts: list[str] = []
        for vision in self._encoded(images, batch_size):
            texts += tokenizer.batch_decode(self.words(vision, n_tokens)[1])
        return texts

    @torch.no_grad()
    def reconstruct(
        self,
        images: Any,
        *,
        n_tokens: int | None = None,
        prompt: str | Sequence[str] | None = None,
        tfg: float = 1.0,
        guidance_scale: float = 1.0,
        seed: int = 0,
        num_inference_steps: int = 30,
        batch_size: int = 16,
    ) -> list[Image.Image]:
        """Draws images from their tokens, through the stock pipeline.

        Args:
            images: One image or many. A list inside the list is several images in one prompt: their tokens stand one
                after the other.
            n_tokens: Budget for each image; all by default.
            prompt: A text that stands with the tokens, one for all or one for each.
            tfg: Weight of the text (text-free guidance): 0 shows the image alone, 1 both as trained, more the text.
            guidance_scale: Guidance by the image against the empty prompt; 1 is none.
            seed: The start noise of image i is drawn from ``seed + i``, whatever the budget.
            num_inference_steps: Steps of the scheduler.
            batch_size: Images a batch.

        Raises:
            SpecError: If the tokens of several images do not fit into one prompt.
            ConfigError: If there is not one prompt for each image, or a scale is negative.
        """
        listed = list(images) if isinstance(images, list | tuple) else open_images(images)
        groups = [list(item) if isinstance(item, list | tuple) else [item] for item in listed]
        prompts = [prompt] * len(groups) if isinstance(prompt, str) or prompt is None else list(prompt)
        if len(prompts) != len(groups):
            raise ConfigError(f"{len(prompts)} prompts for {len(groups)} images; give one, or one for each")
        drawn: list[Image.Image] = []
        for start in range(0, len(groups), batch_size):
            chosen = groups[start : start + batch_size]
            texts = prompts[start : start + batch_size]
            tokens, mask = self._joined(chosen, n_tokens)
            placed = {"order": self.config.order, "inject": self.config.inject}
            visual = self.t2i.condition_from_soft_tokens(tokens, mask, **placed)
            joint = None
            if any(texts):
                joint = self.t2i.condition_from_soft_tokens(tokens, mask, [text or "" for text in texts], **placed)
            empty = None if guidance_scale == 1 else self.t2i.condition("")
            branches = text_free_guidance(visual, joint, tfg, empty=empty, guidance=guidance_scale)
            seeds = range(seed + start, seed + start + len(chosen))
            pixels = generate(self.t2i, branches, seeds=seeds, num_inference_steps=num_inference_steps)
            drawn += [_to_pil(image) for image in pixels]
        return drawn

    def reconstruction_sheet(
        self, images: Sequence[Any], budgets: Sequence[int], *, side: int = 192, **drawing: Any
    ) -> Image.Image:
        """A table: each image beside what is drawn from more and more of its tokens.

        Args:
            images: One row each.
            budgets: Numbers of tokens, one column each.
            side: Side in pixels of a picture.
            **drawing: Keywords of ``reconstruct``.

        Returns:
            RGB.

        Raises:
            ConfigError: If a budget was not trained, or there is no image.
        """
        originals = open_images(images)
        columns = [originals, *(self.reconstruct(originals, n_tokens=budget, **drawing) for budget in budgets)]
        headings = ["original", *(f"{budget} token{'s' if budget > 1 else ''}" for budget in budgets)]
        return image_table([list(row) for row in zip(*columns, strict=True)], headings, side=side)

    def _joined(self, groups: Sequence[Sequence[Any]], n_tokens: int | None) -> tuple[Tensor, Tensor]:
        """Tokens of all images of each prompt, one after the other, and which are real."""
        flat = self.encode([image for group in groups for image in group], n_tokens=n_tokens).tokens
        lengths = [len(group) * flat.shape[1] for group in groups]
        rows = flat.flatten(0, 1).split(lengths)
        padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)
        return padded, keep_mask(torch.tensor(lengths, device=flat.device), padded.shape[1])

    def nearest_words(self, images: Any, *, n_tokens: int | None = None, k: int = 3) -> list[list[list[TokenWords]]]:
        """The ``k`` words nearest to each token of each image; see ``vislex.diffusion.words.nearest_words``."""
        return nearest_words(self.t2i, self.encode(images, n_tokens=n_tokens).tokens, k)


def _to_pil(image: Tensor) -> Image.Image:
    pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels)
