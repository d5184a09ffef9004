"""Two processes train as one does: DDP through the trainer, FSDP2 on every recipe's model; what a lost one leaves."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from vislex.training.callbacks import read_log
from vislex.training.checkpoints import find_fault

SCRIPT = Path(__file__).with_name("processes.py")
ENGINES = Path(__file__).parents[2] / "recipes" / "configs" / "engines"
EVERYDAY = ("caption", "sft", "vilex_pretrain")
PATIENCE = 1200.0  # seconds until two processes that do not end fail the test


def fsdp_environment() -> dict[str, str]:
    """What ``accelerate launch`` tells its processes of the packaged fsdp2.yaml."""
    given = ["--config_file", str(ENGINES / "fsdp2.yaml"), "-m", "vislex"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    made = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in made.items() if name.startswith("FSDP_")}


def run_two(runs: ModuleType, folder: Path, jobs: Sequence[str]) -> tuple[list[int], str]:
    """Return codes of both processes, and what they wrote."""
    for job in jobs:  # here: models are saved by the first process only
        if job.startswith("sharded:"):
            runs.prepared(job.removeprefix("sharded:"), folder / "unused")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        **os.environ, **fsdp_environment(), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1", "VISLEX_CACHE": str(folder / "cache"),
    }  # fmt: skip
    command = [sys.executable, str(SCRIPT), str(folder), *jobs]
    started = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    told = [process.communicate(timeout=PATIENCE)[0] for process in started]
    return [process.returncode for process in started], "\n".join(told)


@pytest.fixture(scope="module")
def both(runs: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two processes that did all everyday jobs; the second one was killed in the last."""
    folder = tmp_path_factory.mktemp("both")
    codes, told = run_two(runs, folder, [*(f"sharded:{name}" for name in EVERYDAY), "ddp", "killed"])
    assert codes == [0, -signal.SIGKILL], told
    return folder


@pytest.fixture(scope="module")
def processes(beside: Callable[[str], ModuleType]) -> ModuleType:
    """processes.py as a module."""
    return beside("recipes/processes")


def losses(folder: Path) -> list[float]:
    return [entry["loss"] for entry in read_log(folder / "training.jsonl") if "loss" in entry]


@pytest.mark.parametrize("split", [{"batch_size": 8}, {"batch_size": 4, "gradient_accumulation": 2}])
def test_two_processes_learn_what_one_does(
    split: dict[str, int], both: Path, processes: ModuleType, tmp_path: Path
) -> None:
    alone = processes.make_trainer(tmp_path / "alone", **split)
    figures = alone.fit()
    assert losses(both / "ddp") == pytest.approx(losses(alone.folder), rel=1e-5)
    told = [json.loads((both / f"ddp-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["figures"]["eval_loss"] == pytest.approx(figures["eval_loss"], rel=1e-5)
    whole = [load_file(both / f"ddp-{rank}.safetensors") for rank in (0, 1)]
    for name, parameter in alone.model.named_parameters():
        assert torch.equal(whole[0][name], whole[1][name])
        torch.testing.assert_close(whole[0][name], parameter.data, rtol=1e-4, atol=1e-6)


def test_both_see_their_share_of_the_same_order(both: Path) -> None:
    seen = [json.loads((both / f"ddp-{rank}.json").read_text())["seen"] for rank in (0, 1)]
    assert seen[0] == [8 * step + i for step in range(6) for i in range(4)]
    assert seen[1] == [8 * step + i for step in range(6) for i in range(4, 8)]


def test_a_resumed_pair_ends_at_the_same_bytes(both: Path) -> None:
    for rank in (0, 1):
        assert json.loads((both / f"resumed-{rank}.json").read_text())["seen"] == [
            8 * step + 4 * rank + i for step in range(3, 6) for i in range(4)
        ]
        whole, resumed = (load_file(both / f"{name}-{rank}.safetensors") for name in ("ddp", "resumed"))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_last_batch_that_is_not_full_is_filled_up(both: Path) -> None:
    # 44 samples are five and a half steps of 8: the sixth is completed with the first ones, as accelerate does.
    seen = [json.loads((both / f"uneven-{rank}.json").read_text())["seen"] for rank in (0, 1)]
    assert seen[0][-4:] == [40, 41, 42, 43]
    assert seen[1][-4:] == [0, 1, 2, 3]
    assert len(losses(both / "uneven")) == 6
    ends = [load_file(both / f"uneven-{rank}.safetensors") for rank in (0, 1)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_killed_process_ends_the_training_with_a_whole_checkpoint(both: Path) -> None:
    told = json.loads((both / "killed.json").read_text())
    assert "another process of this training was lost after step 4" in told
    newest = both / "killed" / "checkpoints" / "checkpoint-3"
    assert f"the same command goes on from '{newest}'" in told
    assert find_fault(newest) is None


@pytest.mark.parametrize("name", EVERYDAY)
def test_a_sharded_model_takes_the_step_of_a_whole_one(name: str, both: Path) -> None:
    told = json.loads((both / f"sharded-{name}.json").read_text())
    assert told["layers"] > 1  # its layers, and itself
    assert told["saved"] > 1


@pytest.mark.slow
def test_every_other_recipe_shards(runs: ModuleType, tmp_path: Path) -> None:
    names = [name for name in runs.RUNS if name not in EVERYDAY]
    codes, told = run_two(runs, tmp_path, [f"sharded:{name}" for name in names])
    assert codes == [0, 0], told
    assert {path.stem for path in tmp_path.glob("sharded-*.json")} == {f"sharded-{name}" for name in names}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_the_launchers_run_the_command(launcher: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    start = {
        "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"],
        "accelerate": [
            sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ENGINES / "ddp.yaml"),
            "--num_processes", "2",
        ],
    }[launcher]  # fmt: skip
    recipe = [
        "-m", "vislex", "train", "caption", "budget=smoke", "encoder=siglip-tiny", "tiny=true", "pretrained=false",
        "device=cpu", "precision=fp32", "train_size=12", "val_size=2", "batch_size=2", "steps=3", "progress=false",
        "decoder_options={hidden_size: 32, num_layers: 1, num_heads: 2}", f"output_dir={tmp_path / 'run'}",
    ]  # fmt: skip
    done = subprocess.run([*start, *recipe], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(tmp_path / "run")]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["processes"], record["engine"]) == (2, "DDP")
