"""Videos as a few frames, evenly spaced: from a file by PyAV, or from frames that are already there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vislex.data.images import MAX_FRAMES
from vislex.errors import ConfigError, ImageError, MissingDependencyError

__all__ = ["sample_frames"]


def sample_frames(video: str | Path | Sequence[Any] | np.ndarray, count: int) -> list[Image.Image]:
    """Takes ``count`` frames from the middles of as many equal stretches of a video; all if it has fewer.

    Args:
        video: A file, or its frames: PIL images, or uint8[T, H, W, 3].
        count: Most frames.

    Returns:
        PIL images of mode RGB.

    Raises:
        ImageError: If the file is missing, no video, or longer than ``MAX_FRAMES`` frames.
        MissingDependencyError: If it is a file and PyAV is not installed.
        ConfigError: If ``count`` is not positive.
    """
    if count < 1:
        raise ConfigError(f"num_frames is {count}; it must be at least 1")
    if isinstance(video, str | Path):
        return _decode(Path(video), count)
    frames = [frame if isinstance(frame, Image.Image) else Image.fromarray(np.asarray(frame)) for frame in video]
    if not frames:
        raise ImageError("a video without frames was given")
    return [frames[i].convert("RGB") for i in _positions(len(frames), count)]


def _positions(total: int, count: int) -> list[int]:
    return list(range(total)) if total <= count else [int((i + 0.5) * total / count) for i in range(count)]


def _decode(file: Path, count: int) -> list[Image.Image]:
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("av", "reading video files", extra="video") from error
    if not file.is_file():
        raise ImageError(f"no such video file: '{file}'")
    try:
        with av.open(str(file)) as container:
            total = sum(1 for _ in container.decode(video=0))  # what containers state is often wrong
        if not 1 <= total <= MAX_FRAMES:
            raise ImageError(f"'{file}' has {total:,} frames; allowed are 1 to {MAX_FRAMES:,}: cut it first")
        wanted = set(_positions(total, count))
        with av.open(str(file)) as container:
            frames = [f.to_image() for i, f in enumerate(container.decode(video=0)) if i in wanted]
    except (av.error.FFmpegError, IndexError) as error:
        raise ImageError(f"'{file}' is no video that can be decoded: {error}") from error
    return frames
