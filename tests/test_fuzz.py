"""Whatever bytes come in, only our own errors come out: every reader of foreign text, configurations, images, weights.

1,000 inputs for each reader, by Hypothesis or by mutation of good ones; ``make test-all`` adds a million mutations and,
where atheris is installed, those that follow the coverage.
"""

from __future__ import annotations

import importlib.util
import os
import random
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CASES, MILLION, FOLLOWED = 1_000, 1_000_000, 10_000
SCRIPT = Path(__file__).with_name("fuzz_coverage.py")
NAMES = (
    "json", "jsonl", "yaml", "overrides", "config", "checkpoint config", "configs of a folder", "index of weights",
    "pipeline", "pipeline's index of weights", "manifest", "rates", "dialogue", "messages", "mask", "path", "image",
    "tar", "parquet", "pickle", "safetensors", "torch file", "numpy", "text_rle", "polygon", "loc_seg",
)  # fmt: skip


@pytest.fixture(scope="module")
def readers(beside: Callable[[str], ModuleType]) -> ModuleType:
    """fuzz_readers.py as a module."""
    return beside("fuzz_readers")


def test_every_reader_is_fuzzed(readers: ModuleType) -> None:
    assert tuple(readers.READERS) == NAMES


@pytest.mark.filterwarnings("ignore")  # what libraries say of damaged files
@pytest.mark.parametrize("name", NAMES)
def test_anything_is_read_or_refused(name: str, readers: ModuleType, fuzzed: Counter[str]) -> None:
    make, seeds = readers.READERS[name]
    reader = make()

    @settings(max_examples=CASES // 10, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.one_of(st.binary(max_size=200), st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))))
    def anything(data: bytes) -> None:
        readers.holds(reader, data)

    for seed in seeds:
        readers.holds(reader, seed)
    anything()
    for data in mutations(name, readers, CASES - CASES // 10):
        readers.holds(reader, data)
    fuzzed[name] += CASES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_a_million_mutations(name: str, readers: ModuleType, fuzzed: Counter[str]) -> None:
    reader = readers.READERS[name][0]()
    each = -(-MILLION // len(NAMES))
    for data in mutations(name, readers, each):
        readers.holds(reader, data)
    fuzzed[name] += each


def mutations(name: str, readers: ModuleType, cases: int) -> Iterator[bytes]:
    """Good inputs with values replaced, or bytes flipped, cut out, doubled, and pieces of one another put in."""
    seeds = readers.READERS[name][1]
    draw = random.Random(f"{name} {cases}")
    for _ in range(cases):
        data = bytearray(draw.choice(seeds))
        if draw.random() < 0.3 and (replaced := readers.replace_value(bytes(data), draw)) is not None:
            yield replaced
            continue
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
                data[begin:end] = draw.choice(readers.TOKENS)
            else:
                other = draw.choice(seeds)
                place = draw.randrange(len(other) + 1)
                data[begin:end] = other[place : place + draw.randint(0, 16)]
        yield bytes(data)


class Follower:
    """A process of fuzz_coverage.py, which fuzzes one reader after the other."""

    def __init__(self, script: Path, root: Path, runs: int) -> None:
        self.root = root
        options = [f"-runs={runs}", "-max_len=2048", "-seed=1", "-timeout=300"]
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(root), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "0"},
            text=True,
        )

    def __call__(self, name: str) -> int:
        """Fuzzes a reader and says how many inputs it was given; fails with log and input where one was too much."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(name, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline().strip()
        folder = self.root / name
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
        inputs = [f"{file.name}: {file.read_bytes()!r}" for file in sorted(folder.glob("*-*"))]
        assert answer == "0", "\n".join([log[-6000:], *inputs])
        return int(re.findall(r"number_of_executed_units: (\d+)", log)[-1])


@pytest.fixture(scope="module")
def follow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path, int], Follower]]:
    """Starts a ``Follower`` of a script with a number of runs; one serves all tests that ask for the same."""
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("the extra 'fuzz' is not installed")
    started: dict[tuple[Path, int], Follower] = {}

    def start(script: Path, runs: int) -> Follower:
        if (script, runs) not in started:
            started[script, runs] = Follower(script, tmp_path_factory.mktemp("fuzz"), runs)
        return started[script, runs]

    yield start
    for follower in started.values():
        follower.process.communicate()  # it ends with its input


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_inputs_that_follow_the_coverage(
    name: str, follow: Callable[[Path, int], Follower], fuzzed: Counter[str]
) -> None:
    runs = follow(SCRIPT, FOLLOWED)(name)
    assert runs >= FOLLOWED
    fuzzed[f"{name}, by coverage"] += runs


BROKEN = """
import random
TOKENS = [b"(["]
def replace_value(data: bytes, draw: random.Random) -> None: ...
def holds(reader, data: bytes) -> None: reader(data)
def read(data: bytes) -> None:
    if data[:1] == b"(" and data[1:2] == b"[" and data[2:3] == b"x":
        raise KeyError("nobody catches this")
READERS = {"broken": (lambda: read, [b"a"]), "good": (lambda: len, [b"a"])}
"""


def test_a_reader_that_raises_is_found_with_its_input(follow: Callable[[Path, int], Follower], tmp_path: Path) -> None:
    script = tmp_path / SCRIPT.name
    shutil.copy(SCRIPT, script)
    (tmp_path / "fuzz_readers.py").write_text(BROKEN)
    follower = follow(script, FOLLOWED)
    with pytest.raises(AssertionError, match=r"(?s)KeyError: 'nobody catches this'.*crash-\w+: b'\(\[x"):
        follower("broken")
    assert follower("good") >= FOLLOWED  # after a failure, too
