"""Tasks of lmms-eval in this process: one after the other on one model, each a row of a result file."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager
from lmms_eval.utils import load_yaml_config

from vislex.benchmarks.lmms_model import VislexLMM
from vislex.benchmarks.lmms_task import TASKS_FOLDER
from vislex.benchmarks.results import content_key
from vislex.errors import UnknownNameError, did_you_mean

__all__ = ["evaluate", "identity", "leaf_tasks", "task_manager"]


def task_manager(names: Sequence[str]) -> TaskManager:
    """vislex's own tasks, and lmms-eval's two thousand where one is asked for, which takes a while.

    Raises:
        UnknownNameError: If there is no such task or group.
    """
    manager = TaskManager("WARNING", include_path=str(TASKS_FOLDER), include_defaults=False)
    if all(name in manager.task_index for name in [*names, *leaf_tasks(manager, names)]):
        return manager
    own = list(manager.task_index)
    manager = TaskManager("WARNING", include_path=str(TASKS_FOLDER))
    for name in names:
        if name not in manager.task_index:
            known = did_you_mean(name, manager.task_index)
            raise UnknownNameError(f"unknown task '{name}'{known} vislex's own are {', '.join(sorted(own))}")
    return manager


def leaf_tasks(manager: TaskManager, names: Sequence[str]) -> list[str]:
    """Tasks in the place of groups and tags, each once."""
    return list(dict.fromkeys(leaf for name in names for leaf in _leaves(manager, name)))


def evaluate(
    model: VislexLMM,
    task: str,
    manager: TaskManager,
    *,
    limit: int | None = None,
    generation: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Runs one task.

    Args:
        model: The model; it is kept.
        task: Name.
        manager: What knows it.
        limit: Documents, the first ones; None takes all.
        generation: Settings above the task's own.
        seed: Of Python, numpy and torch.

    Returns:
        "scores" by name, "errors" (standard errors where lmms-eval has them), "n", "answers" in the order of the
        documents, and "lmms-eval" with the version and the task's settings.
    """
    model.keep = True
    given = ",".join(f"{name}={value}" for name, value in (generation or {}).items())
    found = simple_evaluate(
        model=model,
        tasks=[task],
        task_manager=manager,
        limit=limit,
        batch_size=model.batch_size,
        gen_kwargs=given or None,
        bootstrap_iters=0,
        random_seed=seed,
        numpy_random_seed=seed,
        torch_random_seed=seed,
        verbosity="WARNING",
    )
    values = {name.partition(",")[0]: value for name, value in found["results"][task].items() if "," in name}
    samples = sorted(found["samples"][task], key=lambda own: own["doc_id"])
    errors = {name.removesuffix("_stderr_clt"): value for name, value in values.items() if name.endswith("_stderr_clt")}
    settings = found["configs"][task].get("generation_kwargs")
    return {
        "scores": {name: float(value) for name, value in values.items() if "_stderr" not in name and _finite(value)},
        "errors": {name: float(value) for name, value in errors.items() if _finite(value)},
        "n": len(samples),
        "answers": [own["filtered_resps"][0] for own in samples],
        "lmms-eval": {"version": importlib.metadata.version("lmms-eval"), "generation": settings},
    }


def identity(
    model: VislexLMM,
    task: str,
    *,
    limit: int | None,
    generation: Mapping[str, Any],
    seed: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """What determines a row of a result file, as plain values; ``options`` are the model's own."""
    info = model.responder.info
    place = load_yaml_config(str(TASKS_FOLDER / f"{task}.yaml"), mode="simple") if _is_own(task) else {}
    return {
        "task": task,
        "model": info.row,
        "sha256": info.sha256,
        "dtype": str(next(model.responder.model.parameters()).dtype).removeprefix("torch."),
        "batch_size": model.batch_size,
        "limit": limit,
        "generation": dict(generation),
        "options": dict(options),
        "seed": seed,
        "definition": content_key({"version": importlib.metadata.version("lmms-eval"), "yaml": place}),
    }


def _leaves(manager: TaskManager, name: str) -> Iterator[str]:
    entry = manager.task_index.get(name)
    if entry is None or entry["type"] in ("task", "python_task"):
        yield name
        return
    inner = entry["task"] if entry["task"] != -1 else load_yaml_config(entry["yaml_path"], mode="simple")["task"]
    for own in inner:
        yield from _leaves(manager, own if isinstance(own, str) else own["task"])


def _is_own(task: str) -> bool:
    return (TASKS_FOLDER / f"{task}.yaml").is_file()


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
