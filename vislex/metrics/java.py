"""METEOR and SPICE by the official Java programs in pycocoevalcap, for those who have Java.

Tokens come from ``vislex.metrics.ptb``, which gives what the official tokenizer gives. SPICE fetches Stanford CoreNLP
(370 MB) at its first use; offline, that is refused here with a message instead of failing half-way.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vislex.errors import DataError, MissingDependencyError, VislexError
from vislex.metrics import ptb
from vislex.metrics.base import Scorer, check_captions

__all__ = ["METEOR", "SPICE", "score_java"]

NAMES = ("METEOR", "SPICE")
SPICE_JARS = ("stanford-corenlp-3.6.0.jar", "stanford-corenlp-3.6.0-models.jar")


def score_java(
    candidates: Mapping[Any, str],
    references: Mapping[Any, Sequence[str]],
    metrics: Iterable[str] = ("METEOR",),
    *,
    allow_download: bool = False,
) -> dict[str, float]:
    """Corpus scores of the Java programs.

    Args:
        candidates: One caption an image.
        references: One or more captions an image, under the same ids.
        metrics: "METEOR", "SPICE" or both.
        allow_download: Whether SPICE may fetch CoreNLP from nlp.stanford.edu if it is not there.

    Returns:
        The scores asked for, in [0, 1].

    Raises:
        MissingDependencyError: If pycocoevalcap is not installed.
        VislexError: If Java is missing, or SPICE lacks CoreNLP and may not fetch it.
        DataError: If a metric is unknown or the captions cannot be scored.
    """
    names = list(metrics)
    if unknown := [name for name in names if name not in NAMES]:
        raise DataError(f"unknown Java metrics {', '.join(unknown)}; known are {', '.join(NAMES)}")
    check_captions(candidates, references)
    package = _require_java(" and ".join(names))
    hypotheses = {name: [" ".join(ptb.tokenize(caption))] for name, caption in candidates.items()}
    targets = {name: [" ".join(ptb.tokenize(caption)) for caption in references[name]] for name in candidates}
    scores = {}
    for name in names:
        if name == "METEOR":
            from pycocoevalcap.meteor.meteor import Meteor

            scores[name] = float(Meteor().compute_score(targets, hypotheses)[0])
        else:
            _require_corenlp(package, allow_download)
            from pycocoevalcap.spice.spice import Spice

            with contextlib.redirect_stdout(io.StringIO()):
                scores[name] = float(Spice().compute_score(targets, hypotheses)[0])
    return scores


def _require_java(purpose: str) -> Path:
    """The folder of pycocoevalcap."""
    found = importlib.util.find_spec("pycocoevalcap")
    if found is None or not found.submodule_search_locations:
        raise MissingDependencyError("pycocoevalcap", purpose, extra="java")
    if shutil.which("java") is None:
        raise VislexError(
            f"{purpose} needs Java, and there is no 'java' on the path; install a Java runtime (Debian: apt install "
            "default-jre-headless) or leave the metric out: BLEU, ROUGE-L and CIDEr-D need none"
        )
    return Path(next(iter(found.submodule_search_locations)))


def _require_corenlp(package: Path, allow_download: bool) -> None:
    library = package / "spice" / "lib"
    missing = [jar for jar in SPICE_JARS if not (library / jar).exists()]
    if missing and (not allow_download or os.environ.get("HF_HUB_OFFLINE") == "1"):
        raise VislexError(
            f"SPICE needs Stanford CoreNLP 3.6.0, and {library} lacks {', '.join(missing)}; pass allow_download=True "
            "(370 MB from nlp.stanford.edu, unless HF_HUB_OFFLINE=1) or copy the files there"
        )


METEOR = Scorer("meteor@1", ("METEOR",), ("candidates", "references"), score_java)
SPICE = Scorer("spice@1", ("SPICE",), ("candidates", "references"), functools.partial(score_java, metrics=("SPICE",)))
