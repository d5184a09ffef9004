"""Each test has its own cache; a tiny text model for LaDiC; a tiny host with a swapped encoder."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_in: Callable[[Path], str]) -> None:
    monkeypatch.setenv("VISLEX_CACHE", cache_in(tmp_path))


def _load_runs() -> ModuleType:
    """tests/recipes/runs.py as a module."""
    spec = importlib.util.spec_from_file_location("runs", Path(__file__).with_name("runs.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_RUNS = _load_runs()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "run_name" in metafunc.fixturenames:
        metafunc.parametrize("run_name", _RUNS.RUNS)


@pytest.fixture(scope="session")
def runs() -> ModuleType:
    """tests/recipes/runs.py: a small run of every recipe."""
    return _RUNS


@pytest.fixture
def text_model(tmp_path: Path) -> Path:
    """A BERT of four layers of width 32 with the suite's word pieces."""
    _RUNS.make_text_model(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A LLaVA of width 32 with the suite's words after a swap, and as it was before."""
    folder = tmp_path_factory.mktemp("hosts")
    return _RUNS.make_start("swapped", folder), _RUNS.make_start("host", folder)
