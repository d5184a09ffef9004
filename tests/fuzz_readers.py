"""Every reader of files that others wrote, with good inputs to start from, and a mutation of JSON by its values.

test_fuzz.py gives them mutations here, and those that coverage leads to in a process of its own (fuzz_coverage.py).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save

from vislex.adapters.instructions import from_llava, from_messages
from vislex.config import load_config, parse_overrides, read_yaml
from vislex.data.coco_masks import decode_segmentation
from vislex.data.images import decode_image
from vislex.data.jsonl import parse_json, read_jsonl
from vislex.data.paths import check_relative
from vislex.data.safe_pickle import read_plain_pickle
from vislex.diffusion.t2i.folder import folder_digest
from vislex.errors import VislexError
from vislex.hub import check_config, check_folder
from vislex.importers.tensor_file import read_state_dict, read_vector
from vislex.segmentation.factory import create_codec
from vislex.training.calibration import read_rates
from vislex.training.checkpoints import FILE, find_fault
from vislex.training.settings import TrainingSettings
from vislex.training.shards import ShardedPairs

Reader = Callable[[bytes], object]
SHAPE = (12, 16)
_ROOM = tempfile.TemporaryDirectory(prefix="vislex-fuzz-")  # goes with the process
# Bytes and values at which parsers have gone wrong.
TOKENS = [b"", b"\0", b"\xff", b'"', b"{", b"}", b"[", b"]", b"\n", b":", b"-1", b"1e999", b"NaN", b"*a", b"&a ",
          b"..", b"\xed\xa0\x80", b"99999999999999999999", b"null", b"true", b"<seg", b"<loc", b";"]  # fmt: skip
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    2.5,
    2**62,
    10**400,
    "",
    "a",
    "../a",
    "\0",
    "\ud800",
    "a" * 300,
    [],
    [1],
    ["a"],
    {},
    {"a": 1},
]


def holds(reader: Reader, data: bytes) -> None:
    """Reads; our own errors are the only ones."""
    with contextlib.suppress(VislexError):
        reader(data)


def replace_value(data: bytes, draw: random.Random) -> bytes | None:
    """JSON (or one line of JSONL) with a value in the place of another, or a field left out; None of anything else."""
    lines = data.split(b"\n")
    number = draw.randrange(len(lines))
    try:
        whole = json.loads(lines[number])
        places = list(_places([whole], 0))
    except (ValueError, RecursionError):
        return None
    holder, key = draw.choice(places)
    if isinstance(key, str) and draw.random() < 0.2:
        del holder[key]
    else:
        holder[key] = draw.choice(VALUES)
    lines[number] = json.dumps(places[0][0][0]).encode()
    return b"\n".join(lines)


def _places(holder: Any, key: Any) -> Iterator[tuple[Any, Any]]:
    """Every value as what holds it and under which key."""
    yield holder, key
    value = holder[key]
    if isinstance(value, dict | list):
        for inner in value if isinstance(value, dict) else range(len(value)):
            yield from _places(value, inner)


def _on_file(read: Callable[[Path], object], name: str, beside: dict[str, str] | None = None) -> Reader:
    folder = Path(tempfile.mkdtemp(dir=_ROOM.name))
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    for other, text in (beside or {}).items():
        (folder / other).parent.mkdir(exist_ok=True)
        (folder / other).write_text(text)

    def reader(data: bytes) -> object:
        path.unlink(missing_ok=True)  # file systems take care that a file which is cut to nothing is on the disk
        path.write_bytes(data)
        return read(path)

    return reader


def _as_json(read: Callable[[Any], object]) -> Reader:
    return lambda data: read(parse_json(data, "input"))


def _as_text(read: Callable[[str], object]) -> Reader:
    return lambda data: read(data.decode("utf-8", errors="surrogateescape"))


def _decoder(name: str) -> Reader:
    codec = create_codec(name)
    return _as_text(lambda text: codec.decode(text, SHAPE))


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {"value": value}


def _read_shards(path: Path) -> object:
    """The first pairs; the index of an earlier input is not taken for this one's, nor kept, nor its locks."""
    cache = path.parent / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    with (
        mock.patch.dict(os.environ, VISLEX_CACHE=str(cache)),
        mock.patch.object(tempfile, "tempdir", str(cache)),
        mock.patch.object(np.memmap, "flush"),  # waiting for the disk takes longer than all else
    ):
        pairs = ShardedPairs(path.parent)
        return pairs.read(range(min(len(pairs), 9)))


def _image(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(stream, kind)
    return stream.getvalue()


def _tar(kind: int) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for name, content in (("a/1.png", _image("PNG")), ("a/1.txt", b"a dog"), ("a/2.png", _image("PNG")),
                              ("a/2.json", b'{"caption": ["a cat", "it"]}')):  # fmt: skip
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def _table() -> bytes:
    stream = io.BytesIO()
    image = {"bytes": _image("PNG"), "path": "a.png"}
    pq.write_table(pa.table({"image": [image, image], "caption": ["a dog", "a cat"]}), stream)
    return stream.getvalue()


def _saved(write: Callable[[Any], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


_TURNS = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a dog"}]
_CONFIG = {"model_type": "siglip_vision_model", "hidden_size": 8, "source": {"kind": "hub"}, "architectures": ["A"]}
_MESSAGES = [
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image"}]},
                  {"role": "assistant", "content": "b"}], "images": ["a"]},
    {"texts": [{"user": "what?", "assistant": "a dog"}], "image": "a"},
]  # fmt: skip
_MASKS = [
    [[2.0, 1.0, 6.0, 1.0, 6.0, 5.0, 2.0, 5.0]],
    {"size": list(SHAPE), "counts": [5, 7, 180]},
    {"size": list(SHAPE), "counts": "57d5"},
]
_MANIFEST = {
    "trainer_state.json": {"bytes": 2, "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}
}
_RATES = {
    "device": "cpu",
    "bf16": True,
    "operators": {"aten::mm": [1e-6, 1e-12, 1e-10]},
    "kinds": {"memory": [0, 1e-12, 0]},
    "call": 1e-5,
    "overlaps": False,
    "optimizer": 1e-10,
    "measured_on": "reader",
}
_STATE = {"a": torch.ones(2, 2), "b": torch.zeros(1, dtype=torch.int64)}

# name -> (makes the reader, good inputs to start from)
READERS: dict[str, tuple[Callable[[], Reader], list[bytes]]] = {
    "json": (lambda: lambda data: parse_json(data, "input"), [b'{"a": [1, 2.5e3, "x\\u00e9", null]}']),
    "jsonl": (
        lambda: _on_file(lambda path: read_jsonl(path, key="id"), "file.jsonl"),
        [b'{"id": 1, "a": "b"}\n{"id": "1"}\n', b"\xef\xbb\xbf{}\n"],
    ),
    "yaml": (lambda: _on_file(read_yaml, "file.yaml"), [b"steps: 5\nlr: 1e-3\nparts: {a: [1, no], b: *x}\n"]),
    "overrides": (
        lambda: _as_text(lambda text: parse_overrides(text.split(" "))),
        [b"steps=5 parts.a.lr=1e-3 a={b: 1}"],
    ),
    "config": (
        lambda: _on_file(lambda path: load_config(TrainingSettings, path), "file.yaml"),
        [b"budget: smoke\nsteps: 5\nlr: 1.0e-3\nschedule: linear\noutput_dir: runs/x\nseed: 3\n"],
    ),
    "checkpoint config": (lambda: _as_json(lambda value: check_config(_object(value))), [json.dumps(_CONFIG).encode()]),
    "configs of a folder": (
        lambda: _on_file(lambda path: check_folder(path.parent), "config.json"),
        [json.dumps({**_CONFIG, "chat_template": [{"name": "a", "template": "x"}]}).encode()],
    ),
    "index of weights": (
        lambda: _on_file(lambda path: check_folder(path.parent), "model.safetensors.index.json"),
        [json.dumps({"metadata": {"total_size": 9}, "weight_map": {"a": "model-1.safetensors"}}).encode()],
    ),
    "pipeline": (
        lambda: _on_file(
            lambda path: folder_digest(path.parent), "model_index.json",
            {"scheduler/scheduler_config.json": "{}", "unet/diffusion_pytorch_model.safetensors": "x"},
        ),
        [b'{"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}'],
    ),
    "pipeline's index of weights": (
        lambda: _on_file(
            lambda path: folder_digest(path.parent.parent), "unet/diffusion_pytorch_model.safetensors.index.json",
            {"scheduler/scheduler_config.json": "{}", "model_index.json": '{"unet": ["diffusers", "A"]}',
             "unet/b.safetensors": "x"},
        ),
        [b'{"weight_map": {"a": "b.safetensors"}}'],
    ),
    "manifest": (lambda: _on_file(lambda path: find_fault(path.parent), FILE, {"trainer_state.json": "{}"}),
                 [json.dumps(_MANIFEST).encode()]),
    "rates": (lambda: _on_file(read_rates, "rates.json"), [json.dumps(_RATES).encode()]),
    "dialogue": (
        lambda: _as_json(lambda value: from_llava(value, "root")),
        [json.dumps({"image": "a/b.png", "conversations": _TURNS}).encode()],
    ),
    "messages": (
        lambda: _as_json(lambda value: from_messages(_object(value))),
        [json.dumps(row).encode() for row in _MESSAGES],
    ),
    "mask": (
        lambda: _as_json(lambda value: decode_segmentation(value, SHAPE, "input")),
        [json.dumps(value).encode() for value in _MASKS],
    ),
    "path": (lambda: _as_text(check_relative), [b"a/b.png", b"../a", b"C:\\x"]),
    "image": (
        lambda: lambda data: decode_image(data, "input", max_pixels=100_000),
        [_image(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")],
    ),
    "tar": (lambda: _on_file(_read_shards, "train-0.tar"), [_tar(tarfile.PAX_FORMAT), _tar(tarfile.GNU_FORMAT)]),
    "parquet": (lambda: _on_file(_read_shards, "train-0.parquet"), [_table()]),
    "pickle": (lambda: _on_file(read_plain_pickle, "file.p"), [b"\x80\x04]\x94(K\x01\x8c\x01a\x94e.", b"(lp0\nI1\na."]),
    "safetensors": (lambda: _on_file(read_state_dict, "file.safetensors"), [save(_STATE)]),
    "torch file": (
        lambda: _on_file(read_state_dict, "file.pt"),
        [_saved(lambda stream: torch.save(_STATE, stream)),
         _saved(lambda stream: torch.save(_STATE, stream, _use_new_zipfile_serialization=False))],
    ),
    "numpy": (
        lambda: _on_file(lambda path: read_vector(path, "mean", 3), "file.npy"),
        [_saved(lambda stream: np.save(stream, np.arange(3.0)))],
    ),
    "text_rle": (lambda: _decoder("text_rle"), [b"0 0 1023 1023 : 0 5 3 4", b"0 5 ; 3 4"]),
    "polygon": (lambda: _decoder("polygon"), [b"0 0 10 0 10 10 ; 5 5"]),
    "loc_seg": (
        lambda: _decoder("loc_seg"),
        [b"<loc0000><loc0010><loc0500><loc1023>" + b"".join(b"<seg%03d>" % i for i in range(16)) + b" dog ; "],
    ),
}  # fmt: skip
