"""Files of strangers: configurations that would run code, weights that are cut, poisoned or no numbers, paths."""

from __future__ import annotations

import contextlib
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vislex.adapters.instructions import read_llava
from vislex.data.safe_pickle import read_plain_pickle
from vislex.errors import CheckpointError, DataError, ImageError, VislexError
from vislex.hub import check_config, check_folder
from vislex.importers.tensor_file import read_state_dict
from vislex.metrics.reader import Reader, ReaderConfig, load_reader
from vislex.recipes.vlm_data import SourceSettings, load_source


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """The smallest model that vislex saves and opens."""
    sizes = {"stem_channels": [8], "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    folder = tmp_path / "reader"
    Reader(ReaderConfig(concepts=["dog"], image_size=16, **sizes)).save_pretrained(folder)
    load_reader(folder)
    return folder


# One configuration for each published hole: what it carried, at the depth at which it was not looked for.
HOLES: dict[str, dict[str, Any]] = {
    # CVE-2026-4372: a private field names a repository of attention kernels, which is fetched and run.
    "CVE-2026-4372": {"model_type": "vislex_captioner", "decoder_config": {
        "model_type": "vislex_prefix", "_attn_implementation_internal": "someone/kernels"}},
    # CVE-2026-5241: a nested configuration says yes in the caller's place (LightGlue's keypoint detector).
    "CVE-2026-5241": {"model_type": "lightglue", "keypoint_detector_config": {
        "model_type": "superpoint", "trust_remote_code": True}},
    # CVE-2026-4944: the code of a sub-model is taken from its own repository.
    "CVE-2026-4944": {"model_type": "vislex_vlm", "encoder_config": {
        "model_type": "vislex_hf", "backbone_config": {
            "model_type": "siglip_vision_model", "auto_map": {"AutoModel": "modeling_x.Model"}}}},
}  # fmt: skip


@pytest.mark.parametrize("name", HOLES)
def test_published_holes_are_closed(name: str, reader: Path) -> None:
    import vislex.auto  # noqa: F401

    with pytest.raises(CheckpointError, match="which no checkpoint may set"):
        check_config(HOLES[name])
    (reader / "config.json").write_text(json.dumps(HOLES[name]))
    with pytest.raises(CheckpointError, match="which no checkpoint may set"):
        load_reader(reader)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors.index.json", {"weight_map": {"a": "../../secret.safetensors"}}),
        ("model.safetensors.index.json", {"weight_map": {"a": "/etc/passwd"}}),
        ("model.safetensors.index.json", {"weight_map": {"a": "..\\up.safetensors"}}),
        # CVE-2026-9856: the names of templates become names of files when a processor is saved.
        ("tokenizer_config.json", {"chat_template": {"../../../.bashrc": "x"}}),
        ("processor_config.json", {"chat_template": [{"name": "../up", "template": "x"}]}),
    ],
)
def test_names_of_files_stay_in_their_folder(reader: Path, file: str, content: dict[str, Any]) -> None:
    (reader / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        check_folder(reader)
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        load_reader(reader)


def test_weights_cut_at_every_byte_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, file)
    whole = file.read_bytes()
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="damaged"):
            read_state_dict(file)


def test_every_bit_of_the_header_flipped_gives_our_error_or_other_numbers(tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    save_file({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2)}, file)
    whole = file.read_bytes()
    refused = 0
    for place in range(8 + struct.unpack("<Q", whole[:8])[0]):
        for bit in range(8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                state = read_state_dict(file)
            except CheckpointError:
                refused += 1
            else:
                assert sum(value.nbytes for value in state.values()) <= len(whole)
    assert refused > 4 * place


def poisoned(header: dict[str, Any] | bytes, size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + b"\0" * 16


@pytest.mark.parametrize(
    "content",
    [
        poisoned(b"{}", 2**63),
        poisoned(b"{" * 100_000),
        poisoned({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]}}),
        poisoned({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 2**62]}}),
        poisoned({"a": {"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}}),
        poisoned({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                  "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}),
        poisoned({"a": {"dtype": "PICKLE", "shape": [4], "data_offsets": [0, 16]}}),
    ],
)  # fmt: skip
def test_poisoned_headers_are_refused(reader: Path, content: bytes) -> None:
    (reader / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError):
        read_state_dict(reader / "model.safetensors")
    with pytest.raises(CheckpointError):
        load_reader(reader)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_model_is_refused(reader: Path, share: float) -> None:
    file = reader / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError):
        load_reader(reader)


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_in_the_place_of_weights_is_not_opened(reader: Path, name: str) -> None:
    place = reader / "ran"
    (reader / "model.safetensors").unlink()
    (reader / name).write_bytes(pickle.dumps(Bomb(place)))
    with pytest.raises(CheckpointError):
        load_reader(reader)
    assert not place.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_no_numbers_are_refused(reader: Path, value: float) -> None:
    file = reader / "model.safetensors"
    state = load_file(file)
    name = sorted(state)[0]
    state[name].view(-1)[-1] = value
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"weights '{name}' hold values that are not finite"):
        load_reader(reader)
    with pytest.raises(CheckpointError, match="not finite"):
        read_state_dict(file)


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "stem_channels", "concepts", "image_size"])
@pytest.mark.parametrize("value", [-1, 0, 2.5, "x", [], None, {"a": 1}, True, 10**30])
def test_a_configuration_of_nonsense_raises_our_errors_alone(reader: Path, key: str, value: Any) -> None:
    file = reader / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    with contextlib.suppress(VislexError):  # some of it is a model all the same
        load_reader(reader)


# Data.


def test_a_pickle_that_asks_for_memory_gets_none(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="not Linux")
    file = tmp_path / "refs.p"
    file.write_bytes(b"\x80\x02]r\xff\xff\xff\x3f.")  # an empty list, remembered under the number 2^30
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_plain_pickle(file) == []
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def llava(folder: Path, bad: int, good: int) -> Path:
    for number in range(good):
        Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(folder / f"{number}.png")
    for number in range(good, good + bad):
        (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    turns = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a dog"}]
    rows = [{"image": f"{number}.png", "conversations": turns} for number in range(good + bad)]
    file = folder / "chat.json"
    file.write_text(json.dumps(rows))
    return file


def test_a_run_does_not_train_on_the_little_that_can_be_read(tmp_path: Path) -> None:
    file = llava(tmp_path, bad=3, good=7)
    chat: dict[str, Any] = {"task": "chat", "data": str(file)}
    raising = load_source(SourceSettings(**chat), "train", None)
    with pytest.raises(ImageError, match="damaged"):
        [raising.images[row] for row in range(10)]
    with pytest.raises(DataError, match=r"3 of 10 rows .* more than max_bad_fraction = 0.2 allows; the first: .*7.png"):
        load_source(SourceSettings(**chat, bad_images="skip", max_bad_fraction=0.2), "train", None)
    kept = load_source(SourceSettings(**chat, bad_images="skip", max_bad_fraction=0.3), "train", None)
    assert (len(kept.groups), len(kept.images)) == (7, 7)
    for (example,) in kept.groups:
        assert kept.images[example.images[0]]["image"].size == (8, 8)


def test_the_images_of_dialogues_have_our_caps(tmp_path: Path) -> None:
    file = llava(tmp_path, bad=0, good=1)
    Image.new("1", (9_000, 9_000)).save(tmp_path / "0.png")
    source = load_source(SourceSettings(task="chat", data=str(file)), "train", None)
    with pytest.raises(ImageError, match="at most"):
        source.images[0]


@pytest.mark.parametrize("name", ["../up.png", "/etc/passwd", "a\\b.png", "~/x.png", ""])
def test_images_of_dialogues_stay_in_their_folder(tmp_path: Path, name: str) -> None:
    turns = [{"from": "human", "value": "<image>what?"}, {"from": "gpt", "value": "a dog"}]
    file = tmp_path / "chat.json"
    file.write_text(json.dumps([{"image": [name], "conversations": turns}]))
    with pytest.raises(DataError):
        read_llava(file)


@pytest.mark.parametrize("row", [1, None, [], {"conversations": [1]}, {"conversations": [{"from": [], "value": 1}]},
                                 {"image": 3, "conversations": []}])  # fmt: skip
def test_rows_of_another_shape_are_data_errors(tmp_path: Path, row: Any) -> None:
    file = tmp_path / "chat.json"
    file.write_text(json.dumps([row]))
    with pytest.raises(DataError, match="row 1"):
        read_llava(file)
