"""``vislex train``: runs a recipe."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vislex.cli.console import say
from vislex.errors import ConfigError, VislexError, did_you_mean
from vislex.registry import registry

if TYPE_CHECKING:
    from vislex.training.recipe import Recipe

__all__ = ["command", "find_config"]


def command(
    recipe: Annotated[str, typer.Argument(help="A name of 'vislex list recipes'.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Values over those of the file.")
    ] = None,
    config: Annotated[
        str | None, typer.Option("--config", help="YAML file, or the name of a packaged one (see --configs).")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the resolved configuration and stop.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Print every key with its type and default, and stop.")] = False,
    configs: Annotated[bool, typer.Option("--configs", help="Print the packaged configurations and stop.")] = False,
) -> None:
    """Train a recipe.

    Values come in layers: the recipe's defaults, the file of --config, then key=value (dotted for inner keys).
    budget=smoke, demo, standard or long sets steps and sizes; what you write beside it wins. All mistakes are shown
    at once. A run that was interrupted continues when the same command is given again; on SIGTERM it saves where it is
    and exits with code 75.

    \b
    vislex train caption --keys                              what can be set
    vislex train caption --show encoder=siglip-tiny          what would run
    vislex train caption budget=smoke                        does it work here? (seconds)
    vislex train caption encoder=siglip-tiny decoder=prefix  a captioner in minutes, on the built-in suite
    vislex train caption parts.encoder.mode=lora parts.encoder.lr=1e-4
    torchrun --nproc-per-node 2 -m vislex train caption      several processes
    accelerate launch --config_file FILE -m vislex train ... FSDP2, DeepSpeed: recipes/configs/engines
    """
    loaded: Recipe = registry("recipes").get(recipe).load()
    if configs:
        _show_configs(recipe)
        return
    if keys:
        _show_keys(loaded.config)
        return
    from vislex.config import dump_config, load_config
    from vislex.hardware import denormals_as_zero

    settings = load_config(loaded.config, find_config(config) if config else None, overrides or [])
    if show:
        say(dump_config(settings).rstrip())
        return
    with denormals_as_zero():  # from the start: the threads that compute take it over when they are started
        folder = loaded.run(settings)
    if os.environ.get("RANK", "0") == "0":
        say(str(folder))
    _leave_process_group()


def find_config(name: str) -> Path:
    """A configuration by its path, or by the name of a packaged one.

    Raises:
        ConfigError: If there is neither; the nearest packaged names are told.
    """
    if Path(name).is_file():
        return Path(name)
    packaged = _packaged()
    stem = name.removesuffix(".yaml")
    if stem in packaged:
        return packaged[stem]
    raise ConfigError(
        f"no configuration '{name}': it is no file and no packaged configuration{did_you_mean(stem, packaged)} "
        f"Packaged are {', '.join(packaged)}"
    )


def _leave_process_group() -> None:
    """Without it, the processes that torchrun started wait for each other at exit."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def _packaged() -> dict[str, Path]:
    folder = resources.files("vislex.recipes") / "configs"
    if not isinstance(folder, Path):
        raise VislexError("the packaged configurations can only be read from an unpacked installation")
    return {path.stem: path for path in sorted(folder.glob("*.yaml")) if path.stem != "budgets"}


def _show_configs(recipe: str) -> None:
    packaged = _packaged()
    for name, path in packaged.items():
        if name.startswith(recipe):
            say(name)
            for line in path.read_text(encoding="utf-8").splitlines():
                if line.startswith("#"):
                    say(f"    {line.removeprefix('#').strip()}")
    say("for accelerate launch --config_file:")
    for path in sorted((next(iter(packaged.values())).parent / "engines").glob("*.yaml")):
        say(f"    {path}")


def _show_keys(model: type[Any], prefix: str = "") -> None:
    for name, field in model.model_fields.items():
        kind = getattr(field.annotation, "__name__", None)
        if hasattr(field.annotation, "model_fields"):
            _show_keys(field.annotation, f"{prefix}{name}.")
            continue
        shown = (
            str(field.annotation).replace("typing.", "").replace("pathlib.", "") if kind in (None, "Literal") else kind
        )
        default = "(required)" if field.is_required() else f"= {field.get_default(call_default_factory=True)}"
        say(f"{prefix}{name}: {shown} {default}")
