"""Files from elsewhere: no code of theirs runs, and what is no tensor is refused in one line."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vislex.errors import CheckpointError
from vislex.importers.names import count_layers
from vislex.importers.tensor_file import read_state_dict, read_vector


class Payload:
    """What an attacker would put into a checkpoint: unpickling it writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.write_text, (self.target, "run"))


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "model.bin", "mean.pickle"])
@pytest.mark.parametrize("by", ["torch", "pickle"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, name: str, by: str) -> None:
    trace, file = tmp_path / "trace", tmp_path / name
    content = {"weight": torch.ones(2), "evil": Payload(trace)}
    if by == "torch":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    for read in (read_state_dict, lambda path: read_vector(path, "mean", 2)):
        with pytest.raises(CheckpointError, match="may run code when it is opened, and was not opened") as error:
            read(file)
        assert "\n" not in str(error.value)
    assert not trace.exists()
    pickle.loads(pickle.dumps(content))
    assert trace.exists()  # as it would have


def test_an_array_of_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "mean.npy", np.array([Payload(tmp_path / "trace")], dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="damaged or no file of tensors"):
        read_vector(tmp_path / "mean.npy", "mean", 1)
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors", "a.npy"])
@pytest.mark.parametrize("content", [b"", b"no tensors at all", bytes(range(256))])
def test_damaged_files_are_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        read_vector(tmp_path / name, "mean", 4)
    assert "\n" not in str(error.value)
    assert name in str(error.value)


def test_a_torch_file_that_was_cut(tmp_path: Path) -> None:
    torch.save({"weight": torch.randn(400)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:900])
    with pytest.raises(CheckpointError, match=r"cut\.pt' is damaged"):
        read_state_dict(tmp_path / "cut.pt")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (torch.ones(3), "holds no state dict but a Tensor"),
        ({}, "holds no state dict"),
        ({"model": {"weight": torch.ones(2), "step": 3}}, "'step' is a int; save model.state_dict"),
    ],
)
def test_what_is_no_state_dict(tmp_path: Path, content: Any, reason: str) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=reason):
        read_state_dict(tmp_path / "model.pt")


def test_only_files_of_tensors_are_opened(tmp_path: Path) -> None:
    (tmp_path / "mean.json").write_text("[1, 2]")
    np.save(tmp_path / "model.npy", np.ones(2))
    with pytest.raises(CheckpointError, match=r"'.*mean.json' is no file of tensors; allowed are \.pt, .*\.npy"):
        read_vector(tmp_path / "mean.json", "mean", 2)
    with pytest.raises(CheckpointError, match="is no file of tensors"):
        read_state_dict(tmp_path / "model.npy")


def test_prefixes_come_off_only_if_all_names_have_them(tmp_path: Path) -> None:
    torch.save({"module.model.a": torch.ones(1), "module.model.b": torch.ones(1)}, tmp_path / "model.pt")
    assert list(read_state_dict(tmp_path / "model.pt")) == ["a", "b"]
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "model.pt")
    assert list(read_state_dict(tmp_path / "model.pt")) == ["module.a", "b"]


def test_layers_are_counted_by_their_highest_number() -> None:
    assert count_layers(["x.0.a", "x.10.a", "x.two.a", "y.12.a"], "x.") == 11
    assert count_layers(["y.12.a"], "x.") == 0


@pytest.mark.parametrize(
    "tensor",
    [torch.eye(2).to_sparse(), torch.ones(2, device="meta"), torch.ones(1).expand(2**40),
     torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)],
)  # fmt: skip
def test_what_looks_like_a_tensor_and_is_none(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"weight": tensor}, tmp_path / "model.pt")
    for read in (read_state_dict, lambda path: read_vector(path, "mean", 2)):
        with pytest.raises(CheckpointError, match=r"no plain tensor|1,099,511,627,776 values"):
            read(tmp_path / "model.pt")


def test_a_header_that_asks_for_memory_or_is_no_python(tmp_path: Path) -> None:
    file = tmp_path / "mean.npy"
    np.save(file, np.ones(3))
    good = file.read_bytes()
    for old, new in ((b"(3,), }" + b" " * 12, b"(3000000000000,), }"), (b"(3,), }", b"(3,), ({"[:7])):
        file.write_bytes(good.replace(old, new))
        assert file.read_bytes() != good
        with pytest.raises(CheckpointError, match="damaged or no file of tensors"):
            read_vector(file, "mean", 3)


def test_a_storage_that_is_not_there(tmp_path: Path) -> None:
    """torch answers with an AssertionError."""
    file = tmp_path / "model.pt"
    torch.save({"a": torch.ones(2)}, file, _use_new_zipfile_serialization=False)
    key = re.search(rb"X\x0e\x00\x00\x00(\d{14})q", good := file.read_bytes())
    assert key is not None
    file.write_bytes(good.replace(key[1], b"1" * 14, 1))
    with pytest.raises(CheckpointError, match="damaged or no file of tensors"):
        read_state_dict(file)
