"""One instruction format: chat turns with images, from LLaVA's JSON, chat data sets of the hub, and suites."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from vislex.adapters.chat import IMAGE_TOKEN
from vislex.data.jsonl import read_json, read_jsonl
from vislex.data.paths import safe_join
from vislex.errors import DataError

__all__ = [
    "CAPTION_PROMPT",
    "SEGMENT_PROMPT",
    "Example",
    "Turn",
    "caption_examples",
    "from_llava",
    "from_messages",
    "read_llava",
    "segmentation_examples",
    "vqa_examples",
]

CAPTION_PROMPT = "describe the image."
SEGMENT_PROMPT = "segment"
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclass(frozen=True)
class Turn:
    """One turn of a dialogue; ``<image>`` in its text is where an image goes."""

    role: str
    content: str


@dataclass(frozen=True)
class Example:
    """A dialogue and its images, in the order of ``<image>`` in its turns.

    Attributes:
        turns: From the first to the last, which is an answer.
        images: Paths, PIL images, or what else stands for an image.
        mask: float[h, w] that ``<SEG>`` in its answer stands for, at the resolution of a mask head; None without one.
    """

    turns: tuple[Turn, ...]
    images: tuple[Any, ...] = ()
    mask: np.ndarray | None = field(default=None, compare=False, repr=False)

    def check(self, where: str) -> Example:
        """Itself, if it can be trained on.

        Raises:
            DataError: If it ends without an answer, or has other placeholders than images.
        """
        placeholders = sum(turn.content.count(IMAGE_TOKEN) for turn in self.turns)
        if not self.turns or self.turns[-1].role != "assistant":
            raise DataError(f"{where}: the dialogue does not end with an answer")
        if placeholders != len(self.images):
            raise DataError(f"{where}: {placeholders} {IMAGE_TOKEN} in the turns, but {len(self.images)} images")
        return self


def caption_examples(captions: Iterable[str], image: Any, prompt: str = CAPTION_PROMPT) -> list[Example]:
    """One example for each caption of an image."""
    return [_single(prompt, caption, image) for caption in captions]


def vqa_examples(row: Mapping[str, Any], image: Any) -> list[Example]:
    """The question of a row and its answer."""
    return [_single(row["question"], row["answer"], image)]


def segmentation_examples(
    row: Mapping[str, Any],
    image: Any,
    encode: Callable[[Sequence[np.ndarray]], str],
    target: Callable[[Sequence[np.ndarray]], np.ndarray] | None = None,
) -> list[Example]:
    """The expression of a row, and its mask as a codec writes it.

    Args:
        row: With ``expression`` and ``mask`` bool[H, W].
        image: The image.
        encode: ``MaskCodec.encode``.
        target: ``SegHeadCodec.target``, for masks that a head learns beside the text.
    """
    masks = [np.asarray(row["mask"])]
    example = _single(f"{SEGMENT_PROMPT} {row['expression']}", encode(masks), image)
    return [example if target is None else replace(example, mask=target(masks).astype(np.float16))]


def read_llava(file: str | Path, root: str | Path | None = None) -> list[Example]:
    """Reads LLaVA's JSON (or the same as JSONL).

    Args:
        file: A list of ``{"image": "a.png", "conversations": [{"from": "human", "value": "<image>..."}, ...]}``.
        root: Folder of the images; the file's own by default.

    Raises:
        DataError: For a damaged row, or a path that leaves the folder.
    """
    path = Path(file)
    rows = read_jsonl(path) if path.suffix == ".jsonl" else read_json(path)
    if not isinstance(rows, list):
        raise DataError(f"'{path}' holds no list of dialogues")
    folder = path.parent if root is None else Path(root)
    return [from_llava(row, folder, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def from_llava(row: Mapping[str, Any], root: str | Path, where: str = "a row") -> Example:
    """One row of LLaVA's JSON; an image without ``<image>`` stands before the first question.

    Raises:
        DataError: If a turn has no known speaker, the turns do not fit the images, or a path leaves the folder.
    """
    conversations = row.get("conversations") if isinstance(row, Mapping) else None
    if not isinstance(conversations, list) or not all(isinstance(turn, Mapping) for turn in conversations):
        raise DataError(f"{where}: no list 'conversations' of turns")
    named = row.get("image") or []
    files = [named] if isinstance(named, str) else named
    if not isinstance(files, list):
        raise DataError(f"{where}: 'image' must be a file name or a list of them, got {type(named).__name__}")
    turns = [_turn(turn.get("from"), turn.get("value"), where) for turn in conversations]
    return _placed(turns, [safe_join(root, str(name), where) for name in files]).check(where)


def from_messages(row: Mapping[str, Any], where: str = "a row") -> Example:
    """One row of a chat data set: ``messages`` (texts, or lists of parts) or ``texts`` (pairs ``user``, ``assistant``).

    Args:
        row: With the images in ``images`` (or ``image``), in the order in which the messages show them.
        where: What an error names.

    Raises:
        DataError: If there are no messages, or they do not fit the images.
    """
    images = row.get("images") or ([row["image"]] if row.get("image") is not None else [])
    if not isinstance(images, list | tuple):
        raise DataError(f"{where}: 'images' must be a list of images, got {type(images).__name__}")
    turns: list[Turn] = []
    if isinstance(row.get("messages"), list):
        for message in _mappings(row["messages"], "messages", where):
            turns.append(_turn(message.get("role"), _text(message.get("content"), where), where))
    elif isinstance(row.get("texts"), list):
        for pair in _mappings(row["texts"], "texts", where):
            turns += [_turn("user", pair.get("user"), where), _turn("assistant", pair.get("assistant"), where)]
    else:
        raise DataError(f"{where}: neither 'messages' nor 'texts'; it has {', '.join(map(str, row))}")
    return _placed(turns, list(images)).check(where)


def _single(question: str, answer: str, image: Any) -> Example:
    return Example((Turn("user", f"{IMAGE_TOKEN}{question}"), Turn("assistant", answer)), (image,))


def _placed(turns: list[Turn], images: list[Any]) -> Example:
    """Images that no turn mentions stand before the first question."""
    if images and not any(IMAGE_TOKEN in turn.content for turn in turns):
        for i, turn in enumerate(turns):
            if turn.role == "user":
                turns[i] = Turn("user", IMAGE_TOKEN * len(images) + turn.content)
                break
    return Example(tuple(turns), tuple(images))


def _turn(speaker: Any, text: Any, where: str) -> Turn:
    if not isinstance(speaker, str) or speaker not in _ROLES or not isinstance(text, str):
        raise DataError(f"{where}: a turn of {speaker!r} with {type(text).__name__}; speakers are {', '.join(_ROLES)}")
    return Turn(_ROLES[speaker], text.replace(f"{IMAGE_TOKEN}\n", IMAGE_TOKEN))


def _mappings(items: list[Any], what: str, where: str) -> list[Mapping[str, Any]]:
    if not all(isinstance(item, Mapping) for item in items):
        raise DataError(f"{where}: an item of '{what}' is no object with fields")
    return items


def _text(content: Any, where: str) -> Any:
    """The text of a message's content, with ``<image>`` for each image part."""
    if not isinstance(content, list):
        return content
    parts = _mappings(content, "content", where)
    return "".join(IMAGE_TOKEN if part.get("type") == "image" else str(part.get("text") or "") for part in parts)
