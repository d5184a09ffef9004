"""Whatever bytes come in, only our own errors come out: every reader of foreign text, configurations, images, weights.

1,000 inputs for each reader, by Hypothesis or by mutation of good ones; ``make test-all`` adds a million mutations.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from vislex.adapters.instructions import from_llava, from_messages
from vislex.config import load_config, parse_overrides, read_yaml
from vislex.data.images import decode_image
from vislex.data.jsonl import parse_json, read_jsonl
from vislex.data.paths import check_relative
from vislex.data.safe_pickle import read_plain_pickle
from vislex.errors import VislexError
from vislex.hub import check_config
from vislex.importers.tensor_file import read_state_dict
from vislex.segmentation.factory import create_codec
from vislex.training.settings import TrainingSettings

CASES, MILLION = 1_000, 1_000_000
Reader = Callable[[bytes], object]
SHAPE = (12, 16)


def _on_file(read: Callable[[Path], object], suffix: str) -> Reader:
    path = Path(tempfile.mkdtemp(prefix="fuzz")) / f"file{suffix}"

    def reader(data: bytes) -> object:
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


def _image(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(stream, kind)
    return stream.getvalue()


_TURNS = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a dog"}]
_CONFIG = {"model_type": "siglip_vision_model", "hidden_size": 8, "source": {"kind": "hub"}, "architectures": ["A"]}
_MESSAGES = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "images": ["a"]}

# name -> (makes the reader, good inputs to start from)
READERS: dict[str, tuple[Callable[[], Reader], list[bytes]]] = {
    "json": (lambda: lambda data: parse_json(data, "input"), [b'{"a": [1, 2.5e3, "x\\u00e9", null]}']),
    "jsonl": (
        lambda: _on_file(lambda path: read_jsonl(path, key="id"), ".jsonl"),
        [b'{"id": 1, "a": "b"}\n{"id": "1"}\n', b"\xef\xbb\xbf{}\n"],
    ),
    "yaml": (lambda: _on_file(read_yaml, ".yaml"), [b"steps: 5\nlr: 1e-3\nparts: {a: [1, no], b: *x}\n"]),
    "overrides": (
        lambda: _as_text(lambda text: parse_overrides(text.split(" "))),
        [b"steps=5 parts.a.lr=1e-3 a={b: 1}"],
    ),
    "config": (
        lambda: _on_file(lambda path: load_config(TrainingSettings, path), ".yaml"),
        [b"budget: smoke\nsteps: 5\nlr: 1.0e-3\nschedule: linear\noutput_dir: runs/x\nseed: 3\n"],
    ),
    "checkpoint config": (lambda: _as_json(lambda value: check_config(_object(value))), [json.dumps(_CONFIG).encode()]),
    "dialogue": (
        lambda: _as_json(lambda value: from_llava(value, "root")),
        [json.dumps({"image": "a/b.png", "conversations": _TURNS}).encode()],
    ),
    "messages": (lambda: _as_json(lambda value: from_messages(_object(value))), [json.dumps(_MESSAGES).encode()]),
    "path": (lambda: _as_text(check_relative), [b"a/b.png", b"../a", b"C:\\x"]),
    "image": (
        lambda: lambda data: decode_image(data, "input", max_pixels=100_000),
        [_image(kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")],
    ),
    "pickle": (lambda: _on_file(read_plain_pickle, ".p"), [b"\x80\x04]\x94(K\x01\x8c\x01a\x94e.", b"(lp0\nI1\na."]),
    "safetensors": (
        lambda: _on_file(read_state_dict, ".safetensors"),
        [save({"a": torch.ones(2, 2), "b": torch.zeros(1, dtype=torch.int64)})],
    ),
    "text_rle": (lambda: _decoder("text_rle"), [b"<loc0000><loc0010><loc0500><loc1023> 0 5 3 4", b"0 5 ; 3 4"]),
    "polygon": (lambda: _decoder("polygon"), [b"0 0 10 0 10 10 ; 5 5"]),
    "loc_seg": (
        lambda: _decoder("loc_seg"),
        [b"<loc0000><loc0010><loc0500><loc1023>" + b"".join(b"<seg%03d>" % i for i in range(16)) + b" dog ; "],
    ),
}  # fmt: skip


def holds(reader: Reader, data: bytes) -> None:
    """Reads; our own errors are the only ones."""
    with contextlib.suppress(VislexError):
        reader(data)


@pytest.mark.parametrize("name", READERS)
def test_anything_is_read_or_refused(name: str, fuzzed: Counter[str]) -> None:
    make, seeds = READERS[name]
    reader = make()

    @settings(max_examples=CASES // 10, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.one_of(st.binary(max_size=200), st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))))
    def anything(data: bytes) -> None:
        holds(reader, data)

    for seed in seeds:
        holds(reader, seed)
    anything()
    mutate(name, reader, seeds, CASES - CASES // 10)
    fuzzed[name] += CASES


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_million_mutations(name: str, fuzzed: Counter[str]) -> None:
    make, seeds = READERS[name]
    each = -(-MILLION // len(READERS))
    mutate(name, make(), seeds, each)
    fuzzed[name] += each


def mutate(name: str, reader: Reader, seeds: list[bytes], cases: int) -> None:
    """Reads good inputs with bytes flipped, cut out, doubled, and pieces of one another put in."""
    draw = random.Random(f"{name} {cases}")
    tokens = [b"", b"\0", b"\xff", b'"', b"{", b"}", b"[", b"]", b"\n", b":", b"-1", b"1e999", b"NaN", b"*a", b"&a ",
              b"..", b"\xed\xa0\x80", b"99999999999999999999", b"null", b"true", b"<seg", b"<loc", b";"]  # fmt: skip
    for _ in range(cases):
        data = bytearray(draw.choice(seeds))
        for _ in range(draw.randint(1, 4)):
            begin = draw.randrange(len(data) + 1)
            end = min(len(data), begin + draw.randint(0, 8))
            kind = draw.randrange(5)
            if kind == 0 and begin < len(data):
                data[begin] ^= 1 << draw.randrange(8)
            elif kind == 1:
                del data[begin:end]
            elif kind == 2:
                data[begin:begin] = data[begin:end] * draw.randint(1, 3)
            elif kind == 3:
                data[begin:end] = draw.choice(tokens)
            else:
                other = draw.choice(seeds)
                place = draw.randrange(len(other) + 1)
                data[begin:end] = other[place : place + draw.randint(0, 16)]
        holds(reader, bytes(data))
