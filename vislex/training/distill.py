"""Captions that a trained captioner writes for a whole data set, once: the teacher of sequence-level distillation."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

from datasets import Dataset

from vislex.cache import cache_dir as user_cache
from vislex.captioner import Captioner
from vislex.errors import ConfigError
from vislex.modules.digest import weights_digest
from vislex.training.cache import content_key, in_batches, rows_digest
from vislex.training.files import write_whole

__all__ = ["caption_all"]


def caption_all(
    captioner: Captioner,
    dataset: Dataset,
    *,
    cache_dir: Path | None = None,
    batch_size: int = 64,
    provenance: dict[str, Any] | None = None,
    **options: Any,
) -> list[str]:
    """Captions every image of a data set, or reads what an earlier call wrote.

    Args:
        captioner: The teacher.
        dataset: Rows with an ``image`` (PIL).
        cache_dir: Cache folder; None is ``<cache>/captions``.
        batch_size: Images a batch.
        provenance: What the images are made of (a suite's version and hashes).
        **options: Options of ``generate`` (``num_beams``, ...).

    Raises:
        ConfigError: If the teacher writes nothing for an image.
    """
    describe = {
        "weights": weights_digest(captioner),
        "rows": rows_digest(dataset),
        "provenance": provenance,
        "options": options,
    }
    path = (user_cache() / "captions" if cache_dir is None else cache_dir) / f"{content_key(describe)[:32]}.json"
    if path.is_file():
        texts: list[str] = json.loads(path.read_text(encoding="utf-8"))
        return texts
    images = chain.from_iterable(dataset[rows]["image"] for rows in in_batches(len(dataset), batch_size))
    texts = [caption.text for caption in captioner.caption(images, batch_size=batch_size, **options)]
    if empty := sum(not text for text in texts):
        raise ConfigError(
            f"the teacher wrote no word for {empty} of {len(texts)} images; take a captioner that is trained"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(texts))
    return texts
