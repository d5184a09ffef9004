"""The codebook: started from features, moved by averages, dead codes restarted, and the same after a resumed run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import TrainerControl, TrainerState

from vislex.training.codebook import CodebookCallback


def begin(callback: CodebookCallback, step: int) -> None:
    callback.on_step_begin(None, TrainerState(global_step=step), TrainerControl())


def test_the_last_step_of_the_warm_up_starts_it() -> None:
    codebook = torch.zeros(4, 3)
    callback = CodebookCallback(codebook, warmup_steps=2)
    features = torch.randn(10, 3)
    begin(callback, 0)
    assert not callback.quantizes
    callback.update(features, None)
    assert not codebook.any()
    begin(callback, 1)
    callback.update(features, None)
    assert torch.cdist(codebook, features).min(-1).values.max() == 0  # features, and four different ones
    assert len(codebook.unique(dim=0)) == 4
    begin(callback, 2)
    assert callback.quantizes


def test_without_warm_up_the_first_batch_starts_it() -> None:
    codebook = torch.zeros(2, 3)
    callback = CodebookCallback(codebook)
    begin(callback, 0)
    assert callback.quantizes
    features = torch.randn(5, 3)
    callback.update(features, torch.zeros(5, dtype=torch.int64))
    assert torch.cdist(codebook, features).min(-1).values.max() == 0


def test_codes_are_moving_averages() -> None:
    codebook = torch.zeros(2, 1)
    callback = CodebookCallback(codebook, decay=0.9, dead_below=0.0)
    callback.count, callback.sum = torch.tensor([2.0, 4.0]), torch.tensor([[2.0], [8.0]])
    begin(callback, 1)
    callback.update(torch.tensor([[5.0], [7.0], [1.0]]), torch.tensor([0, 0, 1]))
    assert callback.count.tolist() == pytest.approx([2.0, 3.7])
    assert codebook[:, 0].tolist() == pytest.approx([(0.9 * 2 + 0.1 * 12) / 2.0, (0.9 * 8 + 0.1) / 3.7])


@pytest.mark.parametrize(("step", "until", "restarts"), [(9, 100, True), (8, 100, False), (9, 5, False)])
def test_dead_codes_start_again_in_time(step: int, until: int, restarts: bool) -> None:
    codebook = torch.tensor([[0.0], [50.0]])
    callback = CodebookCallback(codebook, dead_below=1.0, restart_every=10, restart_until=until)
    callback.count, callback.sum = torch.tensor([8.0, 0.5]), torch.tensor([[0.0], [25.0]])
    begin(callback, step)
    callback.update(torch.full((8, 1), 3.0), torch.zeros(8, dtype=torch.int64))
    assert (codebook[1].item() == 3.0) == restarts
    assert (callback.count[1].item() >= 1) == restarts


def test_all_codes_come_to_use_where_a_random_codebook_collapses() -> None:
    torch.manual_seed(0)
    centres = 5 * torch.randn(16, 8)

    def used(started: bool) -> int:
        codebook = torch.randn(16, 8)
        callback = CodebookCallback(codebook, decay=0.9, dead_below=1.0 if started else 0.0, restart_every=1)
        if not started:
            callback.count, callback.sum = torch.ones(16), codebook.clone()
        for step in range(60):
            features = centres[torch.randint(16, (160,))] + 0.1 * torch.randn(160, 8) + 40
            begin(callback, step)
            callback.update(features, torch.cdist(features, codebook).argmin(-1))
        return len(torch.cdist(centres + 40, codebook).argmin(-1).unique())

    assert used(started=True) >= 12
    assert used(started=False) <= 4


def test_a_resumed_run_goes_on_with_the_same_averages(tmp_path: Path) -> None:
    callback = CodebookCallback(torch.randn(4, 3))
    callback.count, callback.sum = torch.rand(4), torch.randn(4, 3)
    callback.save(tmp_path, callback.tensors())
    again = CodebookCallback(torch.zeros(4, 3))
    again.load(tmp_path)
    assert F.mse_loss(again.sum, callback.sum) == 0
    assert torch.equal(again.count, callback.count)
