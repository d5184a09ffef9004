"""Numbers too small for full precision, which slow a training down on a CPU."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch

from vislex.hardware import denormals_as_zero
from vislex.training.trainer import PartTrainer


def keeps_denormals() -> bool:
    return bool(torch.tensor([1e-40]) * 0.5)


def test_denormals_are_zero_inside_and_as_they_were_after() -> None:
    assert keeps_denormals()
    with denormals_as_zero():
        assert not keeps_denormals()
        with denormals_as_zero():
            pass
        assert not keeps_denormals()  # the outer one still holds
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(keeps_denormals()))
        thread.start()
        thread.join()
        assert seen == [False]
    assert keeps_denormals()
    with pytest.raises(RuntimeError), denormals_as_zero():
        raise RuntimeError
    assert keeps_denormals()


def test_a_training_has_none(make_trainer: Callable[..., PartTrainer]) -> None:
    seen: list[bool] = []
    make_trainer(validate=lambda model: seen.append(keeps_denormals()) or {"figure": 0.0}).fit()
    assert set(seen) == {False}
    assert keeps_denormals()
