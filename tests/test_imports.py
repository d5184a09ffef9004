"""Imports point one way: what stands lower in the tree knows nothing of what stands higher."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

# A file may import from its own rank and from lower ones. Longest prefix wins.
RANKS: dict[str, int] = {
    "vislex.errors": 0,
    "vislex.specs": 0,
    "vislex.catalog": 0,
    "vislex.catalog_encoders": 0,
    "vislex.catalog_llms": 0,
    "vislex.registry": 0,
    "vislex.listing": 0,
    "vislex.config": 0,
    "vislex.hardware": 0,
    "vislex.device_table": 0,
    "vislex.cli.console": 0,
    "vislex.cli.options": 0,
    "vislex.cache": 0,
    "vislex.hub": 1,
    "vislex.shipped": 1,
    "vislex.processing": 1,
    "vislex.provenance": 1,
    "vislex.text": 1,
    "vislex.modules": 1,
    "vislex.encoders": 2,
    "vislex.metrics": 3,
    "vislex.data": 3,
    "vislex.diffusion": 3,
    "vislex.segmentation": 3,
    "vislex.decoders": 4,
    "vislex.composite": 4,
    "vislex.captioner": 5,
    "vislex.captioner_config": 5,
    "vislex.captioner_processing": 5,
    "vislex.vilex": 5,
    "vislex.vilex_config": 5,
    "vislex.vilex_generation": 5,
    "vislex.importers": 6,
    "vislex.exporting": 6,
    "vislex.training": 6,
    "vislex.adapters": 7,
    "vislex.recipes": 8,
    "vislex.benchmarks": 9,
}
# These reach forward, at call time: the command line, the Auto classes, the lazy public names.
EXEMPT = ("vislex.cli", "vislex.auto", "vislex.__main__", "vislex")


def _files() -> Iterator[tuple[str, Path]]:
    for folder, package in (
        ("vislex", "vislex"),
        ("adapters", "vislex.adapters"),
        ("recipes", "vislex.recipes"),
        ("benchmarks", "vislex.benchmarks"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            yield ".".join(part for part in parts if part != "__init__"), path


def _rank(module: str) -> int | None:
    matches = [prefix for prefix in RANKS if module == prefix or module.startswith(prefix + ".")]
    return RANKS[max(matches, key=len)] if matches else None


@functools.cache
def _imports(path: Path) -> tuple[tuple[int, str, bool], ...]:
    """Line, module and whether the import runs at import time (not in a function, not under TYPE_CHECKING)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late: set[ast.AST] = set()
    for node in ast.walk(tree):
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if is_function or is_typing:
            late.update(ast.walk(node))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, node not in late) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}", node not in late) for alias in node.names]
    return tuple(found)


def _is_exempt(module: str) -> bool:
    return module in EXEMPT or module.startswith("vislex.cli.")


def test_every_module_has_a_rank() -> None:
    unranked = [module for module, _ in _files() if not _is_exempt(module) and _rank(module) is None]
    assert not unranked, f"give these a place in RANKS: {unranked}"


def test_no_module_imports_a_higher_one() -> None:
    wrong = []
    for module, path in _files():
        if _is_exempt(module):
            continue
        own = _rank(module)
        for line, target, at_import in _imports(path):
            theirs = _rank(target)
            where = f"{path.relative_to(ROOT)}:{line} imports {target}"
            if target.startswith("vislex.auto"):  # registering the Auto classes is asked for at call time
                wrong += [f"{where}: only inside a function"] if at_import else []
            elif target.startswith("vislex.cli") and theirs is None:
                wrong.append(f"{where}: the command line stands above everything")
            elif own is not None and theirs is not None and theirs > own:
                wrong.append(where)
    assert not wrong, "\n".join(wrong)


def test_the_rooms_are_never_imported_by_their_bare_name() -> None:
    wrong = [
        f"{path}:{line}: import {target}; write vislex.{target}"
        for path in [path for _, path in _files()] + sorted((ROOT / "tests").rglob("*.py"))
        for line, target, _ in _imports(path)
        if target.partition(".")[0] in ("adapters", "recipes", "benchmarks")
    ]
    assert not wrong, "\n".join(wrong)


def test_the_command_line_loads_nothing_heavy_at_the_top_of_its_files() -> None:
    heavy = {"torch", "transformers", "timm", "diffusers", "datasets", "numpy", "PIL", "matplotlib", "rich"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for module, path in _files()
        if module in ("vislex", "vislex.data", "vislex.metrics") or module.startswith("vislex.cli.")
        for line, target, at_import in _imports(path)
        if at_import and target.partition(".")[0] in heavy
    ]
    assert not wrong, "\n".join(wrong)
