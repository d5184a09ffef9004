"""Models in the package are packed, and unpacked once into folders that every library opens."""

from __future__ import annotations

import lzma
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vislex.errors import CheckpointError
from vislex.shipped import find_model, model_folder, pack, shipped, shipped_models, shipped_name

WEIGHTS = {"a": torch.randn(3, 5).to(torch.bfloat16), "b": torch.arange(4)}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a package that ships one model of two parts, and a cache of its own."""
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vislex.shipped.weights_folder", lambda: tmp_path / "weights")
    folder = tmp_path / "weights" / "mine"
    (folder / "part").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    for file in (folder / "model.safetensors", folder / "part" / "model.safetensors"):
        save_file(WEIGHTS, file)
    return tmp_path / "weights"


def test_weights_come_out_of_the_package_as_they_went_in(package: Path) -> None:
    before = (package / "mine" / "model.safetensors").read_bytes()
    plain = shipped("mine")  # as it is while a model is being made
    pack(package / "mine")
    assert sorted(path.name for path in package.rglob("*model*")) == ["model.safetensors.xz"] * 2
    assert lzma.decompress((package / "mine" / "model.safetensors.xz").read_bytes()) == before
    folder = shipped("mine")
    assert folder != plain
    assert (folder.name, shipped_models(), shipped_models("other-*")) == ("mine", ["mine"], [])
    assert sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()) == [
        "config.json", "model.safetensors", "part/model.safetensors",
    ]  # fmt: skip
    for name, value in load_file(folder / "part" / "model.safetensors").items():
        assert torch.equal(value, WEIGHTS[name])


def test_a_model_is_unpacked_once_and_again_when_it_changes(package: Path) -> None:
    pack(package / "mine")
    folder = shipped("mine")
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert shipped("mine") == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    (package / "mine" / "config.json").write_text('{"changed": true}')
    assert shipped("mine") != folder
    assert (shipped("mine") / "config.json").read_text() == '{"changed": true}'
    assert not list(folder.parents[1].rglob("*partial*"))


def test_another_process_that_was_faster_is_no_error(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack(package / "mine")
    first, rename = shipped("mine"), Path.rename
    shutil.rmtree(first)

    def late(self: Path, target: Path) -> Path:
        shutil.copytree(self, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", late)
    assert shipped("mine") == first
    assert [path.name for path in first.parent.iterdir()] == ["mine"]


def test_only_a_folder_that_is_a_shipped_model_has_its_name(package: Path, tmp_path: Path) -> None:
    pack(package / "mine")
    assert shipped_name(shipped("mine")) == "mine"
    shutil.copytree(package / "mine", tmp_path / "elsewhere" / "mine")
    assert shipped_name(tmp_path / "elsewhere" / "mine") is None
    assert shipped_name(tmp_path) is None


@pytest.mark.parametrize("name", ["nowhere", "../weights", "", "."])
def test_shipped_models_have_plain_names(name: str) -> None:
    with pytest.raises(CheckpointError, match="no shipped model"):
        shipped(name)


def test_a_cache_that_cannot_be_written_is_told(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"cannot unpack the shipped model 'mine'.*set VISLEX_CACHE"):
        shipped("mine")


def test_a_model_is_given_by_its_folder_or_its_name(package: Path, tmp_path: Path) -> None:
    pack(package / "mine")
    assert model_folder(tmp_path) == model_folder(str(tmp_path)) == tmp_path
    assert model_folder("mine") == model_folder(Path("mine")) == shipped("mine")
    assert find_model("mine") == shipped("mine")
    assert find_model("org/mine") is None
    with pytest.raises(CheckpointError, match="no shipped model 'mime'; did you mean 'mine'"):
        model_folder("mime")
