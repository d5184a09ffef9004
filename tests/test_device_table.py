"""The table of accelerators."""

from __future__ import annotations

import pytest

from vislex.device_table import DEVICES, device_by_cuda_name, get_device
from vislex.errors import UnknownNameError


def test_every_row_is_in_range_and_found_by_its_cuda_names() -> None:
    seen: set[str] = set()
    for name, device in DEVICES.items():
        assert device.name == name
        assert 8 <= device.memory_gib <= 512
        assert 1e12 < device.fp32 < (device.bf16 or 2e13) < 1e16
        assert 1e11 < device.bandwidth < 1e13
        assert 1e10 < device.link < device.bandwidth
        assert 0.1 < device.price < 20
        assert not seen & set(device.cuda_names)
        seen |= set(device.cuda_names)
        assert all(device_by_cuda_name(own) is device for own in device.cuda_names)


def test_peaks_are_those_of_dense_products() -> None:
    h100 = get_device("h100")
    assert (h100.peak("bfloat16"), h100.peak("float32"), h100.memory_gib) == (989.4e12, 66.9e12, 80)
    assert get_device("t4").peak("bfloat16") is None
    assert h100.peak("int4") is None
    assert device_by_cuda_name("NVIDIA GeForce GTX 1080") is None


def test_an_unknown_device_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'h100'"):
        get_device("h10")
