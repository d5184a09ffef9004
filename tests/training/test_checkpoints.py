"""Checkpoints: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from vislex.errors import CheckpointError, ConfigError, StoppedError
from vislex.training.callbacks import read_log
from vislex.training.checkpoints import check_space, claimed, find_fault, newest_whole_checkpoint
from vislex.training.trainer import PartTrainer

Make = Callable[..., PartTrainer]


def steps(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir() if path.name != ".lock")


def assert_equal_weights(first: PartTrainer, second: PartTrainer) -> None:
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


class AtStep(TrainerCallback):
    """Calls a function before a step."""

    def __init__(self, step: int, call: Callable[[], Any]) -> None:
        self.step, self.call = step, call

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            self.call()


def test_the_two_newest_are_kept_and_nothing_else(make_trainer: Make) -> None:
    trainer = make_trainer(save_every=1, ema_decay=0.9)
    trainer.fit()
    assert steps(trainer.folder) == ["checkpoint-5", "checkpoint-6"]
    manifest = json.loads((trainer.folder / "checkpoints" / "checkpoint-6" / "manifest.json").read_text())
    assert {"model.safetensors", "ema.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} < manifest.keys()


def test_a_torn_checkpoint_is_passed_over_with_a_word(make_trainer: Make, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_trainer()
    trainer.fit()
    folder = trainer.folder / "checkpoints"
    newest, older = folder / "checkpoint-6", folder / "checkpoint-3"
    assert newest_whole_checkpoint(folder) == newest
    file = newest / "model.safetensors"
    data = bytearray(file.read_bytes())
    file.write_bytes(data[:-1])
    assert "has" in str(find_fault(newest))
    data[-1] ^= 1
    file.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        assert newest_whole_checkpoint(folder) == older
    assert "checkpoint-6' is not whole (model.safetensors was altered)" in caplog.text
    (newest / "optimizer.pt").unlink()
    (newest / "model.safetensors").unlink()
    assert "is missing" in str(find_fault(newest))
    for broken in ("{", "[1]", '{"a": 3}', "{}", "[" * 100_000, '{"a": {"bytes": 1e999}}'):
        (older / "manifest.json").write_text(broken)
        assert "manifest.json" in str(find_fault(older))
    (older / "manifest.json").unlink()
    assert newest_whole_checkpoint(folder) is None


def test_a_run_goes_on_past_a_torn_checkpoint_and_replaces_it(make_trainer: Make) -> None:
    whole = make_trainer("whole")
    whole.fit()
    cut = make_trainer("cut")
    cut.fit()
    folder = cut.folder / "checkpoints"
    os.truncate(folder / "checkpoint-6" / "optimizer.pt", 100)
    shutil.copytree(folder / "checkpoint-3", folder / "checkpoint-9.tmp-12345678")  # as a kill leaves one
    again = make_trainer("cut")
    again.fit()
    assert again.meter.total_samples == 3 * 4
    assert steps(again.folder) == ["checkpoint-3", "checkpoint-6"]
    assert find_fault(folder / "checkpoint-6") is None
    assert_equal_weights(whole, again)


def test_never_resuming_removes_what_a_later_run_would_resume(make_trainer: Make) -> None:
    make_trainer(lr=1e-1).fit()
    anew = make_trainer(resume="never", steps=5, save_every=2)
    seen: list[list[str]] = []
    anew.add_callback(AtStep(3, lambda: seen.append(steps(anew.folder))))
    anew.fit()
    assert anew.meter.total_samples == 5 * 4
    assert seen == [["checkpoint-2"]]


def test_a_full_disk_leaves_the_checkpoint_before_and_the_training_goes_on_from_it(make_trainer: Make) -> None:
    whole = make_trainer("whole", ema_decay=0.9)
    whole.fit()
    trainer = make_trainer("full", ema_decay=0.9)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel itself refuses to write on: no file may grow beyond 12 kB (the weights are 15).
    trainer.add_callback(AtStep(4, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_288, before[1]))))
    try:
        with pytest.raises(CheckpointError, match=r"step 6 could not .*the same command goes on from '.*-3'"):
            trainer.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert steps(trainer.folder) == ["checkpoint-3"]
    again = make_trainer("full", ema_decay=0.9)
    again.fit()
    assert again.meter.total_samples == 3 * 4
    assert_equal_weights(whole, again)


def test_a_log_that_cannot_be_written_is_named(make_trainer: Make) -> None:
    trainer = make_trainer()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    trainer.add_callback(AtStep(2, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))))
    try:
        with pytest.raises(OSError, match=r"training\.jsonl"):
            trainer.fit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [entry["step"] for entry in read_log(trainer.folder / "training.jsonl")] == [1, 2]


def test_too_little_space_is_told_before_anything_is_written(
    make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OSError, match=r"MB are needed and .* MB free"):
        check_space(tmp_path, [torch.empty(2**60, device="meta")])
    trainer = make_trainer()
    usage = shutil.disk_usage(tmp_path)
    needed = 2**20 + 3 * 4 * sum(p.numel() for p in trainer.model.parameters())  # with both moments of Adam
    needed += sum(buffer.nbytes for buffer in trainer.model.buffers())
    free = [needed - 1]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free[0]))
    with pytest.raises(CheckpointError, match=r"step 3 could not be written .*starts anew: there is no checkpoint"):
        trainer.fit()
    assert steps(trainer.folder) == []
    free[0] = needed + 2**10  # the optimizer also counts its steps
    make_trainer().fit()


def test_sigterm_saves_and_stops_and_the_next_run_ends_where_an_unstopped_one_does(make_trainer: Make) -> None:
    whole = make_trainer("whole", ema_decay=0.9, save_every=0)
    whole.fit()
    assert steps(whole.folder) == []
    handler = signal.getsignal(signal.SIGTERM)
    stopped = make_trainer("stopped", ema_decay=0.9, save_every=0)
    stopped.add_callback(AtStep(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(StoppedError, match=r"after step 4; the same command goes on from '.*checkpoint-4'"):
        stopped.fit()
    assert signal.getsignal(signal.SIGTERM) == handler
    assert stopped.meter.total_samples == 4 * 4
    again = make_trainer("stopped", ema_decay=0.9, save_every=0)
    again.fit()
    assert again.meter.total_samples == 2 * 4
    assert_equal_weights(whole, again)
    losses = [[e["loss"] for e in read_log(t.folder / "training.jsonl") if "loss" in e] for t in (whole, again)]
    assert losses[0] == losses[1]


def test_two_trainings_do_not_write_into_one_folder(make_trainer: Make) -> None:
    trainer = make_trainer()
    assert trainer.is_world_process_zero()  # the others of a job claim nothing
    with claimed(trainer.folder / "checkpoints"), pytest.raises(ConfigError, match="another training writes into"):
        trainer.fit()
    assert steps(trainer.folder) == []
    trainer.fit()
    assert steps(trainer.folder) == ["checkpoint-3", "checkpoint-6"]


def test_a_claim_ends_with_the_process_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import pathlib, sys, time; from vislex.training.checkpoints import claimed\n"
        "with claimed(pathlib.Path(sys.argv[1])): print('claimed', flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "claimed\n"
        with pytest.raises(ConfigError), claimed(tmp_path):
            pass
        other.kill()
    with claimed(tmp_path):
        pass


def test_a_finished_run_that_is_given_again_tells_the_same_validation(make_trainer: Make) -> None:
    first = make_trainer(validate=lambda model: {"figure": 0.25}).fit()
    again = make_trainer(validate=lambda model: {"figure": 0.5}).fit()
    assert first["eval_figure"] == again["eval_figure"] == 0.25
