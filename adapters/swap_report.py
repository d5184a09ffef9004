"""``SwapReport``: what a swap changed, what is new, what must be retrained, and which weights are live."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vislex.errors import CheckpointError

__all__ = ["SWAP_FILE", "SwapReport", "differences"]

SWAP_FILE = "swap.json"


@dataclass(frozen=True)
class SwapReport:
    """What a swap did.

    Attributes:
        host: Host family.
        encoder: Name of the encoder.
        kind: "own", "stock" or "wrapped", see ``TowerPlan``.
        image_tokens: Tokens of the prompt that an image of the encoder's size takes (a tile, for any-res hosts).
        needs_vislex: Whether the saved folder opens after ``import vislex.auto`` only.
        changes: Rows of ``where``, ``before`` and ``after``: all that differs in config and processor.
        new: Names of the newly initialised weights.
        parts: Rows of ``part``, ``weights`` ("kept", "loaded", "new"), ``retrain``, ``parameters`` and ``sha256``.
        notes: What else to know.
    """

    host: str
    encoder: str
    kind: str
    image_tokens: int
    needs_vislex: bool
    changes: list[dict[str, Any]] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    def save(self, folder: str | Path) -> None:
        """Writes ``swap.json`` beside the model."""
        (Path(folder) / SWAP_FILE).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> SwapReport:
        """The report beside a model that a swap wrote.

        Raises:
            CheckpointError: If there is none, or it is damaged.
        """
        path = Path(folder) / SWAP_FILE
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(f"'{path}' is no report of a swap: {error}; swap again, or remove it") from error


def differences(before: Mapping[str, Any], after: Mapping[str, Any], where: str = "") -> Iterator[dict[str, Any]]:
    """Rows of what differs between two nested configs; one row for a sub-config of another ``model_type``."""
    for key in sorted({*before, *after}):
        old, new = before.get(key), after.get(key)
        place = f"{where}{key}"
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            if old.get("model_type") != new.get("model_type"):
                yield {"where": place, "before": old.get("model_type"), "after": new.get("model_type")}
            else:
                yield from differences(old, new, f"{place}.")
        else:
            yield {"where": place, "before": _plain(old), "after": _plain(new)}


def _plain(value: Any) -> Any:
    """A value as JSON reads it back."""
    return json.loads(json.dumps(value, default=str))
