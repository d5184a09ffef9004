"""Tests cannot vanish: an unlisted skip fails the run."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LISTED = {
    "passes": "def test_a(): pass",
    "called": "import pytest\ndef test_a(): pytest.skip('no GPU')",
    "marked": "import pytest\n@pytest.mark.skipif(True, reason='no Java: install a JRE')\ndef test_a(): pass",
}
UNLISTED = {
    "passes": "def test_a(): pass",
    "called": "import pytest\ndef test_a(): pytest.skip('slow today')",
    "marked": "import pytest\n@pytest.mark.skip\ndef test_a(): pass",
    "whole": "import pytest\npytest.importorskip('no_such_package')\ndef test_a(): pass",
    "expected": "import pytest\n@pytest.mark.xfail\ndef test_a(): assert False",
}


def _run(folder: Path, bodies: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(Path(__file__).with_name("conftest.py"), folder)
    for name, body in bodies.items():
        (folder / f"test_{name}.py").write_text(body)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_listed_skips_pass(tmp_path: Path) -> None:
    done = _run(tmp_path, LISTED)
    assert done.returncode == 0, done.stdout
    assert "1 passed, 2 skipped" in done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_each_unlisted_skip_fails_the_run_and_is_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = _run(tmp_path, UNLISTED, *options)
    assert done.returncode == 1, done.stdout
    assert "1 passed, 3 skipped, 1 xfailed" in done.stdout  # no test failed: the skips did it
    section = done.stdout[done.stdout.index("skips that tests/conftest.py does not list") :]
    assert all(f"test_{name}.py" in section for name in UNLISTED if name != "passes")


@pytest.mark.parametrize("options", [(), ("-n", "2", "--dist", "loadfile")])
def test_the_summary_tells_all_outcomes_and_all_that_was_fuzzed(tmp_path: Path, options: tuple[str, ...]) -> None:
    body = "def test_{0}(fuzzed): fuzzed['json'] += {1}; fuzzed['{0}'] += 1"
    bodies = {"a": body.format("a", 30), "b": body.format("b", 12), "fails": "def test_c(): assert False"}
    done = _run(tmp_path, bodies, *options, "--summary", "told.json")
    assert done.returncode == 1, done.stdout
    told = json.loads((tmp_path / "told.json").read_text())["figures"]
    assert told["tests"] == {"failed": 1, "passed": 2}
    assert told["fuzzed"] == {"a": 1, "b": 1, "json": 42}
    assert (told["fuzzed_in_all"], told["passed"]) == (44, False)


def test_make_test_all_still_knows_its_options_once_there_is_a_summary() -> None:
    # an option's value that is a file of ours would count as the folder of tests, whose conftest.py is then not read
    home = Path(__file__).parents[1]
    assert (home / "benchmarks/results/test_all.json").is_file()
    shown = subprocess.run(["make", "--dry-run", "test-all"], cwd=home, capture_output=True, text=True, check=True)
    line = next(own for own in shown.stdout.splitlines() if " -m pytest " in own)
    command = [sys.executable, *shlex.split(line)[1:], "--markers"]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
