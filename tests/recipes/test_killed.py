"""A run that is killed at random moments, also while it writes a checkpoint, ends at the bytes of one that is not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vislex.training.checkpoints import find_fault, newest_whole_checkpoint

PATIENCE = 300.0  # seconds until a run that shows nothing fails the test
RUN = [
    "caption", "budget=smoke", "encoder=siglip-tiny", "progress=false", "precision=fp32", "device=cpu", "train_size=12",
    "val_size=2", "batch_size=4", "save_every=1", "log_every=1", "ema_decay=0.9", "eval_every=1000",
    "decoder_options={hidden_size: 32, num_layers: 1, num_heads: 2, dropout: 0.1}",
]  # fmt: skip


def start(folder: Path, steps: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vislex", "train", *RUN, f"steps={steps}", f"output_dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(folder: Path, steps: int) -> bytes:
    """Runs to the end, and gives the weights."""
    run = start(folder, steps)
    _, told = run.communicate(timeout=PATIENCE)
    assert run.returncode == 0, told.decode()
    return (folder / "model.safetensors").read_bytes()


def is_writing(checkpoints: Path, step: int) -> bool:
    """Whether a checkpoint of ``step`` or later is being written."""
    beside = (path.name for path in checkpoints.glob("checkpoint-*.tmp-*"))
    return any(int(name.split(".")[0].removeprefix("checkpoint-")) >= step for name in beside)


def kill(run: subprocess.Popen[bytes], checkpoints: Path, step: int, *, inside: bool, delay: float) -> None:
    """Kills a run ``delay`` seconds after it began, or ended, to write a checkpoint of ``step`` or later."""
    until = time.monotonic() + PATIENCE
    while True:
        assert run.poll() is None, "it ended before it was killed"
        assert time.monotonic() < until, f"no checkpoint of step {step}"
        if is_writing(checkpoints, step) if inside else (checkpoints / f"checkpoint-{step}").exists():
            time.sleep(delay)
            run.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, run.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if not inside or is_writing(checkpoints, step):
                break
            run.send_signal(signal.SIGCONT)
        time.sleep(0.001)
    run.kill()
    run.communicate()
    assert run.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="not Linux")
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_it_ends_at_the_same_bytes(kills: int, tmp_path: Path) -> None:
    steps = 4 * kills + 4
    whole = finish(tmp_path / "whole", steps)
    folder, draw = tmp_path / "killed", random.Random(kills)
    checkpoints, log = folder / "checkpoints", folder / "training.jsonl"
    kept: list[str] = []
    for number in range(kills):
        inside = number % 2 == 0
        delay = draw.uniform(0, 0.02 if inside else 0.1)
        run = start(folder, steps)
        kill(run, checkpoints, 4 * number + draw.randint(2, 4), inside=inside, delay=delay)
        lines = log.read_text().splitlines()
        assert lines[: len(kept)] == kept  # with their times: it went on from the checkpoint that was expected
        seen = [path for path in checkpoints.glob("checkpoint-*") if ".tmp-" not in path.name]
        assert [find_fault(path) for path in seen] == [None] * len(seen)
        assert not inside or list(checkpoints.glob("*.tmp-*"))
        newest = newest_whole_checkpoint(checkpoints)
        assert newest is not None
        kept = lines[: int(newest.name.removeprefix("checkpoint-"))]
    assert finish(folder, steps) == whole
    assert log.read_text().splitlines()[: len(kept)] == kept
    assert not list(checkpoints.glob("*.tmp-*"))
