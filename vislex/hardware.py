"""Devices and number formats: what "auto" means, and whether bfloat16 is fast here."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vislex.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    import torch

__all__ = ["denormals_as_zero", "has_fast_bfloat16", "resolve_device", "resolve_dtype"]

DTYPES = ("auto", "float32", "bfloat16", "float16")
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "half": "float16"}


def resolve_device(name: str | torch.device = "auto") -> torch.device:
    """The device a name stands for: "auto" is cuda, else mps, else cpu.

    Raises:
        ConfigError: If torch does not know the name or the machine has no such device.
    """
    import torch

    mps = torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown device '{name}'; use auto, cpu, cuda, cuda:N or mps") from error
    available = {"cpu": 1, "meta": 1, "cuda": torch.cuda.device_count(), "mps": int(mps)}.get(device.type, 0)
    if (device.index or 0) >= available:
        raise ConfigError(f"device '{name}' is not on this machine; use auto or cpu ('vislex env' lists the devices)")
    return device


def resolve_dtype(name: str = "auto", device: str | torch.device = "auto") -> torch.dtype:
    """The number format a name stands for: "auto" is bfloat16 where it is fast on the device, else float32.

    Raises:
        ConfigError: For an unknown name, and for float16 on a cpu, where it is slower than float32.
    """
    import torch

    name = _SHORT.get(name, name)
    if name not in DTYPES:
        raise ConfigError(f"unknown dtype '{name}'{did_you_mean(name, DTYPES)} Use {', '.join(DTYPES)}")
    place = resolve_device(device)
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(place) else torch.float32
    if name == "float16" and place.type == "cpu":
        raise ConfigError("float16 is slower than float32 on a cpu; use float32 or bfloat16")
    return getattr(torch, name)


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Takes float32 below 1.2e-38 for zero, in this thread and in those that it starts meanwhile.

    A CPU computes with such numbers many times more slowly, and a training has more and more of them: in gradients
    through attention that has become sure, in the optimizer's moments of what is seldom seen. A ViLex pooling for four
    tokens took 2.0 s a step with them, 0.54 s without.
    """
    import torch

    was_on = not bool(torch.tensor([1e-40]) * 0.5)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)


def has_fast_bfloat16(device: str | torch.device = "auto") -> bool:
    """Whether matrix products are faster in bfloat16: Ampere and later, or a cpu with AMX or AVX512-BF16."""
    import torch

    place = resolve_device(device)
    if place.type == "cuda":
        return torch.cuda.get_device_capability(place)[0] >= 8
    return place.type == "cpu" and bool({"amx_bf16", "avx512_bf16"} & _cpu_flags())


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """Instruction sets of the first core as Linux names them; empty where there is no /proc."""
    listing = Path("/proc/cpuinfo")
    if not listing.is_file():
        return frozenset()
    for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
