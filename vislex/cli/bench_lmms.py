"""``vislex bench lmms``: tasks of lmms-eval, in this process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vislex.cli.console import print_table, say
from vislex.config import parse_overrides
from vislex.errors import ConfigError, MissingDependencyError

__all__ = ["lmms"]

COLUMNS = ["model", "task", "score", "value", "standard error", "n"]


def lmms(
    tasks: Sequence[str],
    models: Sequence[str],
    *,
    data: str | None,
    limit: int | None,
    generation: dict[str, Any],
    option: Sequence[str],
    out: Path | None,
    json: bool,
    **running: Any,
) -> None:
    """Runs tasks on models and prints their scores.

    Args:
        tasks: Names of tasks and groups.
        models: Folders, shipped models, ``hf:ORG/NAME``.
        data: Where data sets lie, ``NAME:PLACE,NAME:PLACE``.
        limit: Documents of each task, the first ones.
        generation: Settings above the tasks' own, None where not given.
        option: Further ones, key=value; ``codec``, ``n_tokens``, ``num_frames`` and ``system`` are the model's.
        out: Result file, or folder of ``lmms.json``.
        json: Whether to print JSON.
        **running: ``device``, ``dtype``, ``batch_size`` and ``seed``.

    Raises:
        ConfigError: If no task or model is named.
        MissingDependencyError: If lmms-eval is not installed.
    """
    if not tasks:
        raise ConfigError("no task given; write 'vislex bench lmms vislex_openmoji_caption --model FOLDER'")
    if not models:
        raise ConfigError("no model given; pass --model with a folder, a shipped model's name, or hf:ORG/NAME")
    try:
        import lmms_eval  # noqa: F401
        from loguru import logger

    except ImportError as error:
        raise MissingDependencyError("lmms-eval", "'vislex bench lmms'", extra="eval") from error
    from vislex.benchmarks import lmms_run
    from vislex.benchmarks.lmms_model import OPTIONS, VislexLMM
    from vislex.benchmarks.lmms_task import PLACES, read_places

    logger.remove()  # lmms-eval tells its progress on stdout; what goes wrong is raised
    if data is not None:
        read_places(data)
        os.environ[PLACES] = data
    settings = {name: value for name, value in generation.items() if value is not None} | parse_overrides(option)
    options = {name: settings.pop(name) for name in OPTIONS if name in settings}
    manager = lmms_run.task_manager(tasks)
    file = None if out is None else _file(out)
    rows = []
    for name in models:
        model = VislexLMM(name, **running, **options)
        for task in lmms_run.leaf_tasks(manager, tasks):
            asked: dict[str, Any] = {"limit": limit, "generation": settings, "seed": running["seed"]}

            def make(model: VislexLMM = model, task: str = task, asked: dict[str, Any] = asked) -> dict[str, Any]:
                return lmms_run.evaluate(model, task, manager, **asked)

            row = make() if file is None else file.row(lmms_run.identity(model, task, options=options, **asked), make)
            assert row is not None
            shared = {"model": model.responder.info.row, "task": task, "n": row["n"]}
            rows += [
                {**shared, "score": score, "value": value, "standard error": row["errors"].get(score)}
                for score, value in row["scores"].items()
            ]
    print_table(rows, COLUMNS, json, title="scores on the scales of their tasks")
    if file is not None and not json:
        say(f"results: {file.path}")


def _file(out: Path) -> Any:
    from vislex import provenance
    from vislex.benchmarks.row_file import RowFile

    path = out if out.suffix == ".json" else out / "lmms.json"
    return RowFile(path, "lmms", provenance.collect())
