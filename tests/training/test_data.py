"""Training data by position: order, captions, cached and shifted images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from vislex.data import load_suite
from vislex.text import load_tokenizer, prune_tokenizer
from vislex.training.captions import CaptionBank, generator
from vislex.training.draws import Draws, identity_collate
from vislex.training.images import cached_images, normalize_images, shift_images
from vislex.training.settings import TrainingSettings, samples_a_step, total_draws


@given(st.integers(1, 40), st.integers(0, 5))
def test_every_epoch_holds_every_row_once_whatever_the_batches(n_rows: int, seed: int) -> None:
    draws = Draws(n_rows, 3 * n_rows, seed=seed, fetch=lambda rows, positions: {"rows": rows})
    rows = draws.rows(np.arange(3 * n_rows))
    for epoch in range(3):
        assert sorted(rows[epoch * n_rows : (epoch + 1) * n_rows]) == list(range(n_rows))
    late = Draws(n_rows, 3 * n_rows, seed=seed, fetch=draws.fetch)
    assert late.__getitems__([3 * n_rows - 1])["rows"][0] == rows[-1]


def test_captions_are_drawn_from_their_own_row_and_padded_to_the_batch() -> None:
    references = [["a red cat", "a cat"], ["two blue dogs on the left side"], ["a cat"]]
    tokenizer, _ = prune_tokenizer(load_tokenizer(), [text for own in references for text in own])
    bank = CaptionBank(references, tokenizer, max_length=6)
    assert bank.text_ids[1] == bank.text_ids[3] != bank.text_ids[0]
    rows = np.array([0, 1, 2] * 10)
    chosen = bank.pick(rows, (generator(0, i) for i in range(30)))
    assert all(bank.starts[row] <= c < bank.starts[row + 1] for row, c in zip(rows, chosen, strict=True))
    assert set(chosen) == {0, 1, 2, 3}
    batch = bank.batch(np.array([1, 0]))
    assert batch["input_ids"].shape == (2, 5)
    assert tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True) == "a cat"
    assert batch["labels"][0].tolist() == [*batch["input_ids"][0, :4].tolist(), -100]
    assert bank.batch(np.array([2]))["input_ids"].shape == (1, 6)  # cut
    assert bank.input_ids[2, -1] == tokenizer.sep_token_id


def test_cached_images_are_the_rendered_ones_and_renderings_take_turns(tmp_path: Path) -> None:
    small, large = (load_suite("openmoji", "caption", split="train", size=4, image_size=s) for s in (16, 32))
    images = cached_images([small, large], 16, folder=tmp_path)
    assert images.shape == (4, 16, 16, 3)
    assert np.array_equal(images[0], np.asarray(small[0]["image"]))
    assert np.array_equal(images[3], np.asarray(large[3]["image"].resize((16, 16), 3)))
    cached_images([small, large], 16, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    cached_images(small, 16, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_shift_moves_pixels_and_repeats_the_border() -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    moved = shift_images(images, np.array([[1, -2], [0, 0]]))
    assert np.array_equal(moved[0, 1:, :2], images[0, :-1, 2:])
    assert np.array_equal(moved[0, 0], moved[0, 1])
    assert np.array_equal(moved[1], images[1])
    pixels = normalize_images(np.array([[[[0, 255, 51]]]], dtype=np.uint8))
    assert torch.allclose(pixels.flatten(), torch.tensor([-1.0, 1.0, -0.6]))


@given(st.integers(1, 6), st.integers(1, 300), st.integers(0, 3))
def test_batches_of_similar_length_hold_the_same_samples(batch_size: int, n_draws: int, seed: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 40, size=50)

    def draws(by_length: bool) -> Draws:
        return Draws(
            50,
            n_draws,
            seed=seed,
            fetch=lambda rows, positions: {"rows": rows, "positions": positions},
            lengths=(lambda rows, positions: lengths[rows]) if by_length else None,
            batch_size=batch_size,
        )

    starts = range(0, n_draws, batch_size)
    batches = [draws(True).__getitems__(range(s, min(s + batch_size, n_draws))) for s in starts]
    positions = np.concatenate([batch["positions"] for batch in batches])
    assert sorted(positions) == list(range(n_draws))
    plain = draws(False)
    assert all(np.array_equal(batch["rows"], plain.rows(batch["positions"])) for batch in batches)
    whole = [lengths[batch["rows"]] for batch in batches if len(batch["rows"]) == batch_size]
    random = [lengths[plain.rows(np.arange(s, s + batch_size))] for s in starts if s + batch_size <= n_draws]
    assert sum(map(np.ptp, whole)) <= sum(map(np.ptp, random))


@pytest.mark.parametrize("split", [(8, 1, 1, 0), (8, 1, 1, 2), (4, 2, 1, 0), (2, 4, 1, 2), (4, 1, 2, 0), (2, 2, 2, 2)])
def test_workers_batches_and_processes_do_not_change_what_a_step_sees(
    split: tuple[int, int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_size, accumulation, processes, workers = split
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    settings = TrainingSettings(steps=20, batch_size=batch_size, gradient_accumulation=accumulation)
    lengths = np.random.default_rng(0).integers(3, 40, size=50)

    def order(draws: Draws) -> np.ndarray:
        """int64[processes, batches, batch_size], positions as accelerate shares them out."""
        loader: Any = DataLoader(draws, batch_size=batch_size, num_workers=workers, collate_fn=identity_collate)
        shares = [prepare_data_loader(loader, None, processes, rank, put_on_device=False) for rank in range(processes)]
        return np.array([[batch["positions"].numpy() for batch in share] for share in shares])

    draws = Draws(
        50,
        total_draws(settings),
        seed=0,
        fetch=lambda rows, positions: {"positions": torch.from_numpy(positions)},
        lengths=lambda rows, positions: lengths[rows],
        batch_size=samples_a_step(settings),
    )
    found = order(draws).reshape(processes, 20, accumulation, batch_size)
    whole = Draws(50, 160, seed=0, fetch=draws.fetch, lengths=draws.lengths, batch_size=8)
    for step in range(20):
        alone = whole.__getitems__(range(8 * step, 8 * step + 8))["positions"]
        assert found[:, step].transpose(1, 0, 2).reshape(-1).tolist() == alone.tolist()
