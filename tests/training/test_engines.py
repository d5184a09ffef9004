"""Engines: packaged configurations are what accelerate reads; what it would replace without a word is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, DistributedType, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy

from vislex.errors import ConfigError, MissingDependencyError
from vislex.training.engines import Engine, asked_engine, check_engine, is_lost_process, layer_classes
from vislex.training.records import start_run
from vislex.training.settings import TrainingSettings, training_arguments

ENGINES = Path(__file__).parents[2] / "recipes" / "configs" / "engines"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def launched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets the environment that ``accelerate launch`` gives its processes."""
    given = ["--config_file", str(ENGINES / f"{name}.yaml"), "-m", "vislex"]
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(given))
    if arguments.use_deepspeed:
        arguments.deepspeed_hostfile, arguments.deepspeed_fields_from_accelerate_config = None, ""
        _, made = prepare_deepspeed_cmd_env(arguments)
    else:
        made = prepare_multi_gpu_env(arguments)
    for key, value in made.items():
        if os.environ.get(key) != value and key.startswith(("ACCELERATE", "FSDP")):
            monkeypatch.setenv(key, value)
    monkeypatch.setenv("WORLD_SIZE", "8")


@pytest.mark.parametrize("path", sorted(ENGINES.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_each_configuration_and_its_header_says_how_it_is_launched(path: Path) -> None:
    config = load_config_from_file(str(path))
    assert config.num_processes == 8
    assert config.mixed_precision == "no"
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(
        f"accelerate launch --config_file recipes/configs/engines/{path.name} -m vislex train" in x for x in header
    )
    on_hardware = {"ddp": "Run on two CPU processes by the tests"}.get(path.stem, "Not run on")
    assert on_hardware in " ".join(header)


@pytest.mark.parametrize(("name", "offload"), [("fsdp2", False), ("fsdp2_offload", True)])
def test_fsdp_configurations_make_the_plugin_they_mean(
    name: str, offload: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(name, monkeypatch)
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert isinstance(plugin.cpu_offload, CPUOffloadPolicy) is offload
    assert not plugin.activation_checkpointing
    assert "SHARDED" in str(plugin.state_dict_type)
    assert asked_engine(CUDA) is Engine.FSDP
    with pytest.raises(ConfigError, match="asks for FSDP, which accelerate does not run on a cpu"):
        asked_engine(CPU)


@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_configurations_make_the_plugin_they_mean(stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(f"deepspeed_zero{stage}", monkeypatch)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == stage
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == stage
    with pytest.raises(ConfigError, match="asks for DeepSpeed, which accelerate does not run on a cpu"):
        asked_engine(CPU)
    with pytest.raises(MissingDependencyError, match="pip install deepspeed"):
        asked_engine(CUDA)


def test_a_recipe_refuses_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launched("fsdp2", monkeypatch)
    config = TrainingSettings(output_dir=tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError, match=r"torchrun or the packaged engines/ddp\.yaml"):
        start_run("caption", config)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="does not run on a cpu"):
        training_arguments(config, tmp_path)


def test_the_first_fsdp_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    launched("fsdp2", monkeypatch)
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(ConfigError, match="fsdp_version: 2"):
        asked_engine(CUDA)


def test_ddp_and_one_process_need_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked_engine(CPU) is Engine.SINGLE
    launched("ddp", monkeypatch)
    assert asked_engine(CPU) is Engine.DDP


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (Engine.FSDP, DistributedType.MULTI_CPU),
        (Engine.FSDP, DistributedType.NO),
        (Engine.DEEPSPEED, DistributedType.MULTI_GPU),
        (Engine.DDP, DistributedType.NO),
        (Engine.SINGLE, DistributedType.FSDP),
    ],
)
def test_what_accelerate_sets_up_is_compared_with_what_was_asked_for(asked: Engine, found: DistributedType) -> None:
    with pytest.raises(ConfigError, match=f"{asked.value} was asked for, but accelerate has set up"):
        check_engine(asked, found)
    check_engine(Engine.FSDP, DistributedType.FSDP)
    check_engine(Engine.DDP, DistributedType.MULTI_CPU)
    check_engine(Engine.SINGLE, DistributedType.NO)


def test_layers_are_the_outermost_repeated_blocks() -> None:
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList([nn.Linear(2, 2)])

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleList([Inner(), Inner()])

    class Opened(Block):
        called_in_parts = True

    opened = nn.ModuleDict({"layers": nn.ModuleList([Opened(), Opened()])})
    assert layer_classes(opened) == {"Inner"}  # the blocks inside take their place
    model = nn.ModuleDict({"layers": nn.ModuleList([Block(), Block()]), "heads": nn.ModuleList([nn.Linear(2, 2)])})
    assert layer_classes(model) == {"Block"}


def test_a_lost_process_is_told_from_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = RuntimeError("[pair.cc:534] Connection closed by peer [127.0.0.1]:29500")
    assert not is_lost_process(closed)  # there is one process
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert is_lost_process(closed)
    assert not is_lost_process(RuntimeError("size mismatch for weight"))
    assert not is_lost_process(OSError("Connection closed by peer"))
