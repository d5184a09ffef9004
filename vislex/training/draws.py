"""Training data by position: the batch at step s depends on the seed and s alone, so a resumed run repeats nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset

__all__ = ["Draws", "identity_collate"]

Fetch = Callable[[np.ndarray, np.ndarray], dict[str, Any]]
Lengths = Callable[[np.ndarray, np.ndarray], np.ndarray]

# Batches among which samples of equal length are brought together: enough to save the padding, few enough to mix.
WINDOW = 16


class Draws(Dataset):
    """A map-style data set of all samples that a training will see, in their order.

    Position p lies in epoch ``p // n_rows``; each epoch is its own permutation of the rows.

    Args:
        n_rows: Rows of the underlying data.
        n_draws: Samples of the whole training, usually steps times batch size.
        seed: Seed of the permutations and of what ``fetch`` draws.
        fetch: Called with rows int64[B] and positions int64[B]; gives the collated batch. What it draws at random
            must come from ``generator(seed, position)``.
        lengths: Called with rows int64[N] and positions int64[N], gives their lengths int64[N]; samples of similar
            length then share a step. Only their order within a window of ``WINDOW`` steps changes.
        batch_size: Samples of an optimizer step, for ``lengths``: how they are split into batches changes nothing.
        order: Called with positions int64[N], gives their rows int64[N]; None permutes all rows, epoch by epoch.
    """

    def __init__(
        self,
        n_rows: int,
        n_draws: int,
        *,
        seed: int,
        fetch: Fetch,
        lengths: Lengths | None = None,
        batch_size: int = 1,
        order: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.order = order
        self.n_rows = n_rows
        self.n_draws = n_draws
        self.seed = seed
        self.fetch = fetch
        self.lengths = lengths
        self.batch_size = batch_size
        self._windows: dict[int, np.ndarray] = {}
        self._orders: dict[int, np.ndarray] = {}

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Rows int64[B] at positions int64[B]."""
        if self.order is not None:
            return self.order(positions)
        epochs, places = np.divmod(positions, self.n_rows)
        return np.array([self._order(int(epoch))[place] for epoch, place in zip(epochs, places, strict=True)])

    def _order(self, epoch: int) -> np.ndarray:
        if epoch not in self._orders:
            self._orders = {kept: order for kept, order in self._orders.items() if kept == epoch - 1}
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.n_rows)
        return self._orders[epoch]

    def _by_length(self, positions: np.ndarray) -> np.ndarray:
        """The positions int64[B] that take the places of these, so that a batch holds samples of similar length."""
        windows, places = np.divmod(positions, WINDOW * self.batch_size)
        return np.array([self._window(int(window))[place] for window, place in zip(windows, places, strict=True)])

    def _window(self, window: int) -> np.ndarray:
        if window not in self._windows:
            assert self.lengths is not None
            first = window * WINDOW * self.batch_size
            positions = np.arange(first, min(first + WINDOW * self.batch_size, self.n_draws))
            ordered = positions[np.argsort(self.lengths(self.rows(positions), positions), kind="stable")]
            whole = len(ordered) // self.batch_size * self.batch_size
            batches = ordered[:whole].reshape(-1, self.batch_size)
            batches = np.random.default_rng([self.seed, window, WINDOW]).permutation(batches)
            self._windows = {window: np.concatenate([batches.reshape(-1), ordered[whole:]])}
        return self._windows[window]

    def __len__(self) -> int:
        return self.n_draws

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[int]) -> dict[str, Any]:
        at = np.asarray(positions, dtype=np.int64)
        if self.lengths is not None:
            at = self._by_length(at)
        return self.fetch(self.rows(at), at)


def identity_collate(batch: dict[str, Any]) -> dict[str, Any]:
    """``Draws`` gives whole batches: nothing is left to collate."""
    return batch
