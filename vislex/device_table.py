"""Accelerators: peak speed, memory, links and price, for plans and for utilisation.

Speeds are those of the vendors' data sheets, dense (without sparsity), with fp32 accumulation where a sheet tells it
apart. Prices are rounded on-demand list prices an hour, as of 2025; clouds differ by a factor of three.
"""

from __future__ import annotations

from dataclasses import dataclass

from vislex.errors import UnknownNameError, did_you_mean

__all__ = ["DEVICES", "Device", "device_by_cuda_name", "get_device"]


@dataclass(frozen=True)
class Device:
    """One accelerator.

    Attributes:
        name: As ``--device`` takes it.
        cuda_names: What ``torch.cuda.get_device_name`` calls it.
        bf16: Peak FLOP/s of bfloat16 matrix products; None where the hardware has none.
        fp32: Peak FLOP/s of float32 as torch multiplies by default, without TF32.
        memory_gib: Memory in GiB.
        bandwidth: Of the memory, bytes/s.
        link: Bytes/s that a device sends to the others of its machine, one way.
        price: US dollars an hour.
    """

    name: str
    cuda_names: tuple[str, ...]
    bf16: float | None
    fp32: float
    memory_gib: int
    bandwidth: float
    link: float
    price: float

    def peak(self, dtype: str) -> float | None:
        """Peak FLOP/s in "bfloat16" or "float32"; None for a number format the hardware has not."""
        return {"bfloat16": self.bf16, "float32": self.fp32}.get(dtype)


_PCIE3, _PCIE4, _PCIE5 = 16e9, 32e9, 64e9  # 16 lanes
# fmt: off
_ROWS = (
    # name, CUDA names, bf16, fp32, GiB, memory bytes/s, link bytes/s, dollars an hour
    ("t4", ("Tesla T4",), None, 8.1e12, 16, 0.32e12, _PCIE3, 0.5),
    ("v100-16", ("Tesla V100-SXM2-16GB",), None, 15.7e12, 16, 0.9e12, 150e9, 2.5),
    ("v100-32", ("Tesla V100-SXM2-32GB",), None, 15.7e12, 32, 0.9e12, 150e9, 3.0),
    ("rtx3090", ("NVIDIA GeForce RTX 3090",), 71e12, 35.6e12, 24, 0.936e12, _PCIE4, 0.3),
    ("a10", ("NVIDIA A10",), 125e12, 31.2e12, 24, 0.6e12, _PCIE4, 0.75),
    ("a10g", ("NVIDIA A10G",), 70e12, 35e12, 24, 0.6e12, _PCIE4, 1.0),
    ("a6000", ("NVIDIA RTX A6000",), 154.8e12, 38.7e12, 48, 0.768e12, _PCIE4, 0.8),
    ("a100-40", ("NVIDIA A100-SXM4-40GB",), 312e12, 19.5e12, 40, 1.555e12, 300e9, 1.3),
    ("a100-pcie-40", ("NVIDIA A100-PCIE-40GB",), 312e12, 19.5e12, 40, 1.555e12, _PCIE4, 1.3),
    ("a100", ("NVIDIA A100-SXM4-80GB",), 312e12, 19.5e12, 80, 2.039e12, 300e9, 1.8),
    ("a100-pcie", ("NVIDIA A100 80GB PCIe",), 312e12, 19.5e12, 80, 1.935e12, _PCIE4, 1.6),
    ("l4", ("NVIDIA L4",), 121e12, 30.3e12, 24, 0.3e12, _PCIE4, 0.8),
    ("l40s", ("NVIDIA L40S",), 362e12, 91.6e12, 48, 0.864e12, _PCIE4, 1.8),
    ("rtx4090", ("NVIDIA GeForce RTX 4090",), 165.2e12, 82.6e12, 24, 1.008e12, _PCIE4, 0.5),
    ("rtx6000-ada", ("NVIDIA RTX 6000 Ada Generation",), 364.2e12, 91.1e12, 48, 0.96e12, _PCIE4, 0.9),
    ("rtx5090", ("NVIDIA GeForce RTX 5090",), 209.5e12, 104.8e12, 32, 1.792e12, _PCIE5, 0.8),
    ("h100", ("NVIDIA H100 80GB HBM3",), 989.4e12, 66.9e12, 80, 3.35e12, 450e9, 3.0),
    ("h100-pcie", ("NVIDIA H100 PCIe",), 756e12, 51.2e12, 80, 2.0e12, _PCIE5, 2.5),
    ("h100-nvl", ("NVIDIA H100 NVL",), 835.5e12, 60e12, 94, 3.9e12, 300e9, 2.8),
    ("h200", ("NVIDIA H200",), 989.4e12, 66.9e12, 141, 4.8e12, 450e9, 3.5),
    ("b200", ("NVIDIA B200",), 2250e12, 75e12, 180, 7.7e12, 900e9, 5.0),
    ("mi300x", ("AMD Instinct MI300X",), 1307.4e12, 163.4e12, 192, 5.3e12, 448e9, 3.0),
)
# fmt: on

DEVICES: dict[str, Device] = {row[0]: Device(*row) for row in _ROWS}


def get_device(name: str) -> Device:
    """The row of a name.

    Raises:
        UnknownNameError: If the table has none.
    """
    if name in DEVICES:
        return DEVICES[name]
    raise UnknownNameError(f"no device '{name}' in the table{did_you_mean(name, DEVICES)} It has {', '.join(DEVICES)}")


def device_by_cuda_name(name: str) -> Device | None:
    """The row of what ``torch.cuda.get_device_name`` gives; None where the table has none."""
    return next((device for device in DEVICES.values() if name in device.cuda_names), None)
