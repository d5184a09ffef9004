"""``vislex info``: one part, suite or saved model in a table, without loading weights."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from vislex.cli.console import format_value, print_json, print_table, say
from vislex.cli.options import Json
from vislex.errors import ConfigError, UnknownNameError, did_you_mean
from vislex.registry import KINDS, Entry, registry

__all__ = ["command", "find"]


def command(
    name: Annotated[str, typer.Argument(metavar="NAME|KIND:NAME|DIR", help="A part, or the folder of a saved model.")],
    sheet: Annotated[
        Path | None, typer.Option("--sheet", metavar="PNG", help="Suites: write a picture of samples.")
    ] = None,
    json: Json = False,
) -> None:
    """Describe a part (spec, parameters, options), a suite (samples) or a saved model (parts, sources, checksums)."""
    if (Path(name) / "config.json").is_file() or (Path(name).is_dir() and not _is_part(name)):
        _refuse_sheet(sheet, name)
        _show_folder(Path(name), json)
        return
    kind, entry, rest = find(name)
    facts: dict[str, Any] = {
        "kind": kind,
        "name": entry.name + (rest or ""),
        "summary": entry.summary,
        "target": entry.target,
        "from": entry.origin,
    }
    if kind == "encoders":
        facts |= _encoder_facts(entry, rest)
    elif kind == "suites":
        facts |= _suite_facts(entry)
    else:
        facts |= dict(entry.options)
        facts["description"] = (inspect.getdoc(entry.load()) or "").partition("\n\n")[0].replace("\n", " ")
    if sheet is None:
        _show(facts, json)
        return
    if kind != "suites":
        _refuse_sheet(sheet, name)
    facts["sheet"] = str(_write_sheet(entry, sheet))
    _show(facts, json)


def find(name: str) -> tuple[str, Entry, str | None]:
    """The kind, entry and rest (behind a family's prefix) that a name means.

    Args:
        name: "siglip-tiny", "timm:vit_tiny_patch16_224", "suite:openmoji" or "encoders:siglip-tiny".

    Raises:
        UnknownNameError: If no kind has it.
        ConfigError: If several kinds have it and the name does not say which.
    """
    prefix, colon, rest = name.partition(":")
    for kind in KINDS:
        if colon and rest and prefix in (kind, kind.removesuffix("s")):
            return kind, *registry(kind).resolve(rest)
    found = []
    for kind in KINDS:
        try:
            found.append((kind, *registry(kind).resolve(name)))
        except UnknownNameError:
            continue
    if len(found) > 1:
        choices = " or ".join(f"'{kind.removesuffix('s')}:{name}'" for kind, _, _ in found)
        raise ConfigError(f"'{name}' is the name of several parts; say {choices}")
    if not found:
        known = [entry.name for kind in KINDS for entry in registry(kind)]
        raise UnknownNameError(
            f"no part and no folder is called '{name}'{did_you_mean(name, known)} See 'vislex list KIND'"
        )
    return found[0]


def _is_part(name: str) -> bool:
    try:
        find(name)
    except UnknownNameError:
        return False
    return True


def _encoder_facts(entry: Entry, rest: str | None) -> dict[str, Any]:
    """Spec and sizes; the encoder is built on the meta device, so that no memory or weights are needed."""
    if entry.is_family and rest is None:
        return {"description": f"a family: name one of its members, e.g. {entry.name}NAME"}
    import torch

    from vislex import create_encoder

    with torch.device("meta"):
        encoder = create_encoder(entry.name + (rest or ""))
    spec = encoder.spec.to_dict()
    return spec | {"parameters": sum(parameter.numel() for parameter in encoder.parameters())}


def _suite_facts(entry: Entry) -> dict[str, Any]:
    """Options, what ``provenance()`` beside the loader says (version, hashes), and the loader's first paragraph."""
    facts: dict[str, Any] = dict(entry.options)
    if hasattr(package := _package(entry), "provenance"):
        facts |= package.provenance()
    facts["description"] = (inspect.getdoc(entry.load()) or "").partition("\n\n")[0].replace("\n", " ")
    return facts


def _write_sheet(entry: Entry, sheet: Path) -> Path:
    package = _package(entry)
    if not hasattr(package, "contact_sheet"):
        raise ConfigError(f"suite '{entry.name}' has no sheet; 'vislex info suite:openmoji --sheet {sheet}' does")
    if sheet.suffix.lower() not in (".png", ".jpg", ".webp"):
        raise ConfigError(f"--sheet '{sheet}' must end in .png, .jpg or .webp")
    sheet.parent.mkdir(parents=True, exist_ok=True)
    package.contact_sheet().save(sheet)
    return sheet


def _package(entry: Entry) -> ModuleType:
    """The module that a suite's target names, or its package where the suite is one."""
    module = importlib.import_module(entry.target.partition(":")[0])
    parent = importlib.import_module(module.__package__ or module.__name__)
    return parent if hasattr(parent, "provenance") else module


def _refuse_sheet(sheet: Path | None, name: str) -> None:
    if sheet is not None:
        raise ConfigError(f"--sheet is for suites; '{name}' is none")


def _show(facts: dict[str, Any], json: bool) -> None:
    if json:
        print_json(facts)
        return
    width = max(len(key) for key in facts)
    for key, value in facts.items():
        text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else format_value(value)
        if text:
            say(f"{key.ljust(width)}  {text}")


def _show_folder(folder: Path, json: bool) -> None:
    from vislex.cli.saved import describe_saved

    facts, parts = describe_saved(folder)
    if json:
        print_json(facts | {"parts": parts})
        return
    _show(facts, False)
    if parts:
        say("")
        hosts = ["part", "weights", "retrain", "since the swap", "parameters", "sha256"]
        models = ["part", "class", "saved", "source", "trainable", "parameters", "sha256"]
        print_table(parts, hosts if "since the swap" in parts[0] else models)
