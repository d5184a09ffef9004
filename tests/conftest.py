"""What all tests share: no network, one seed, few threads, and skips that cannot hide a test."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
from hypothesis import settings

# The only reasons for which a test may be skipped or expected to fail; a run with another one fails.
ALLOWED_SKIPS = (
    r"no (CUDA )?GPU",
    r"needs \d+ GPUs",
    r"no Java",
    r"the extra '(eval|fuzz|java|video|qlora|train)' is not installed",
    r"not Linux",
    r"runs as root",
)

settings.register_profile("vislex", derandomize=True, deadline=None)
settings.load_profile("vislex")

_STARTED = time.time()
_modules = 0
_unlisted: list[str] = []
_outcomes: Counter[str] = Counter()
_fuzzed: Counter[str] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--summary", type=Path, help="Write what was run, and how it ended, to this JSON file.")


@pytest.fixture(scope="session")
def fuzzed() -> Counter[str]:
    """Inputs that each reader was given, for the summary."""
    return _fuzzed


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes outcomes, and every skip and expected failure whose reason is not listed."""
    if report.when == "call" or report.outcome != "passed":
        _outcomes[report.outcome] += 1
    if not report.skipped:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(getattr(report, "wasxfail", ""))
    _note(report.nodeid, reason)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """The same for whole files (``pytest.importorskip`` at the top)."""
    if report.skipped:
        _note(report.nodeid, report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr))


def _note(test: str, reason: str) -> None:
    reason = reason.removeprefix("Skipped: ")
    if not any(re.match(allowed, reason) for allowed in ALLOWED_SKIPS):
        _unlisted.append(f"{test}: {reason or 'no reason'}")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes over what a worker of pytest-xdist met while it collected, and what it fuzzed; outcomes are reported."""
    told = getattr(node, "workeroutput", {})  # a worker that was lost tells nothing
    _unlisted.extend(test for test in told.get("unlisted", []) if test not in _unlisted)
    _fuzzed.update(told.get("fuzzed", {}))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fails a run that would have passed with a test hidden."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput |= {"unlisted": _unlisted, "fuzzed": dict(_fuzzed)}
        return
    if _unlisted and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if file := session.config.getoption("--summary"):
        _write_summary(file, session)


def _write_summary(file: Path, session: pytest.Session) -> None:
    from vislex.provenance import collect

    figures = {
        "tests": dict(sorted(_outcomes.items())),
        "skips_not_listed": _unlisted,
        "fuzzed": dict(sorted(_fuzzed.items())),
        "fuzzed_in_all": sum(_fuzzed.values()),
        "seconds": round(time.time() - _STARTED),
        "passed": int(session.exitstatus) == 0,
    }
    file.write_text(json.dumps(collect(figures=figures), indent=1, default=str) + "\n", encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which skips failed the run."""
    if _unlisted:
        terminalreporter.section("skips that tests/conftest.py does not list", red=True)
        for line in _unlisted:
            terminalreporter.write_line(line, red=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """The same random numbers for every test, whatever ran before it; torch only where a test has imported it."""
    random.seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


@pytest.fixture(autouse=True)
def _little_to_collect() -> None:
    """Takes imported modules out of what Python's garbage collector walks over: each training calls it."""
    global _modules
    if len(sys.modules) > _modules + 50:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)


def _beside(name: str) -> Any:
    """tests/NAME.py as a module."""
    path = Path(__file__).parent / f"{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_t2i() -> Callable[..., Any]:
    """``build`` of tests/tiny_t2i.py: a text-to-image model of a family by name."""
    build: Callable[..., Any] = _beside("tiny_t2i").build
    return build


@pytest.fixture(scope="session")
def tiny_words() -> Callable[[str, int], Any]:
    """``tokenizer`` of tests/tiny_t2i.py: a tokenizer of whole words of a kind and length."""
    tokenizer: Callable[[str, int], Any] = _beside("tiny_t2i").tokenizer
    return tokenizer


@pytest.fixture(scope="session")
def tiny_sources() -> Any:
    """tests/tiny_sources.py: writers of published data sets with a handful of rows."""
    return _beside("tiny_sources")


@pytest.fixture(scope="session")
def tiny_hosts() -> Any:
    """tests/adapters/tiny_hosts.py: ``build`` of a host by name, and ``ENCODERS``."""
    return _beside("adapters/tiny_hosts")


@pytest.fixture(scope="session")
def beside() -> Callable[[str], Any]:
    """Gives tests/NAME.py as a module."""
    return _beside


@pytest.fixture(scope="session")
def cache_in() -> Callable[[Path], str]:
    """Makes a cache in a folder that holds nothing but the models that ship, unpacked once for all tests."""
    from vislex.cache import cache_dir

    weights = cache_dir() / "weights"
    weights.mkdir(parents=True, exist_ok=True)

    def make(folder: Path) -> str:
        cache = folder / "cache"
        cache.mkdir()
        (cache / "weights").symlink_to(weights, target_is_directory=True)
        return str(cache)

    return make
