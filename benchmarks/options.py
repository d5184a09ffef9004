"""Options of a benchmark's command from the fields of its configuration, each with its default and its help."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_origin

from pydantic.fields import FieldInfo

from vislex.config import Config, load_config

__all__ = ["ascending", "parse_options"]

ConfigT = TypeVar("ConfigT", bound=Config)
NumberT = TypeVar("NumberT", int, float)


def ascending(name: str, values: list[NumberT], least: float) -> list[NumberT]:
    """Gives back the values of a field, if they ascend from at least ``least``.

    Raises:
        ValueError: If they do not; pydantic makes it one of a configuration's problems.
    """
    if values != sorted(set(values)) or values[0] < least:
        raise ValueError(f"{name} {values} must ascend from at least {least:g}")
    return values


def parse_options(
    config: type[ConfigT], arguments: Sequence[str] | None, *, smoke: Mapping[str, Any], description: str
) -> tuple[ConfigT, bool]:
    """Reads a command line.

    A field ``hidden_size`` is ``--hidden-size``; lists are written with commas, mappings as NAME=VALUE, once for each.
    ``--smoke`` changes the defaults, ``--json`` asks for JSON on stdout.

    Args:
        config: The configuration; its fields' descriptions are the help.
        arguments: Words of the command line; None takes those of the process.
        smoke: Defaults under ``--smoke``.
        description: First line of ``--help``.

    Returns:
        The configuration, and whether JSON is wanted.

    Raises:
        ConfigError: With every value that does not fit.
    """
    parser = argparse.ArgumentParser(description=description, argument_default=argparse.SUPPRESS)
    for name, field in config.model_fields.items():
        _add(parser, name, field)
    parser.add_argument("--smoke", action="store_true", help="everything at a tiny size: does it run here?")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    given = vars(parser.parse_args(arguments))
    as_json, is_smoke = given.pop("json", False), given.pop("smoke", False)
    words = [f"{name}={value}" for name, value in given.items() if isinstance(value, str)]
    values = {name: value for name, value in given.items() if not isinstance(value, str)}
    for name, pairs in values.items():
        words += [f"{name}.{pair}" for pair in pairs] if isinstance(pairs, list) else [f"{name}={str(pairs).lower()}"]
    defaults = [f"{name}={value}" for name, value in smoke.items() if name not in given] if is_smoke else []
    return load_config(config, None, [*defaults, *words]), as_json


def _add(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    flag = f"--{name.replace('_', '-')}"
    default = field.get_default(call_default_factory=True)
    kind = get_origin(field.annotation) or field.annotation
    shown = ",".join(map(str, default)) if isinstance(default, list | tuple) else default
    text = f"{field.description or ''} (default: {shown or 'none'})".replace("%", "%%")
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
    elif kind is dict:
        parser.add_argument(flag, action="append", metavar="NAME=VALUE", help=text)
    elif kind is list:
        parser.add_argument(flag, type=lambda word: f"[{word}]", metavar="A,B", help=text)
    else:
        parser.add_argument(flag, help=text)
