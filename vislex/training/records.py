"""What a run leaves beside its weights: the folder, ``run.json`` and the model card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from vislex.config import dump_config, load_config
from vislex.errors import ConfigError
from vislex.hardware import resolve_device
from vislex.provenance import collect
from vislex.training.cache import content_key
from vislex.training.engines import asked_engine
from vislex.training.files import write_whole
from vislex.training.settings import TrainingSettings
from vislex.training.trainer import PartTrainer

__all__ = ["command_line", "finish_run", "model_card", "start_run"]

NOT_IDENTITY = (
    "output_dir", "resume", "progress", "device", "save_every", "log_every", "render_workers", "data_workers",
)  # fmt: skip


def start_run(recipe: str, config: TrainingSettings) -> Path:
    """Makes the output folder (``runs/<recipe>-<hash of the config>`` by default) and writes ``config.yaml`` into it.

    Raises:
        ConfigError: If the folder holds a run of another configuration and the run would resume it, or the launcher
            asks for an engine that does not run here.
    """
    asked_engine(resolve_device(config.device))
    values = config.model_dump(mode="json", exclude=set(NOT_IDENTITY))
    output = config.output_dir or Path("runs") / f"{recipe}-{content_key(values)[:10]}"
    known = output / "config.yaml"
    if config.resume == "auto" and known.is_file() and (output / "checkpoints").is_dir():
        before = yaml.safe_load(known.read_text(encoding="utf-8")) or {}
        changed = sorted(key for key in values if before.get(key) != values[key])
        if changed:
            raise ConfigError(
                f"'{output}' holds a run with other values of {', '.join(changed)}; choose another output_dir, or "
                "resume=never to overwrite it"
            )
    output.mkdir(parents=True, exist_ok=True)
    write_whole(known, dump_config(config))
    return output


def finish_run(
    recipe: str,
    config: TrainingSettings,
    output: Path,
    figures: dict[str, float],
    trainer: PartTrainer,
    *,
    suite: dict[str, Any] | None,
    **extra: Any,
) -> dict[str, Any]:
    """Writes ``run.json``: configuration, figures, parts, what the training cost, and where all of it came from."""
    record = collect(
        recipe=recipe,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        figures=figures,
        parts=trainer.plan.to_dict(),
        processes=trainer.args.world_size,
        engine=trainer.engine.value,
        cost={"mfu": None, **trainer.cost},
        suite=suite,
        **extra,
    )
    write_whole(output / "run.json", json.dumps(record, indent=1, default=str) + "\n")
    return record


OPENMOJI = "OpenMoji and Twemoji drawings (the suite `openmoji-v1`); the weights are CC BY-SA 4.0"


def model_card(
    recipe: str,
    config: TrainingSettings,
    figures: dict[str, float],
    *,
    summary: str,
    tags: list[str],
    trained_on: str = OPENMOJI,
) -> str:
    """A model card in Markdown with the command, the seed and the figures; ``trained_on`` also names the licence."""
    record = collect(seed=config.seed)
    licence = {"license": "cc-by-sa-4.0"} if "CC BY-SA 4.0" in trained_on else {}
    header = {**licence, "library_name": "transformers", "tags": ["vislex", *tags]}
    rows = "\n".join(f"| {name.removeprefix('eval_')} | {value:.4g} |" for name, value in figures.items())
    versions = ", ".join(
        f"{name} {record['packages'][name]}" for name in ("torch", "transformers") if name in record["packages"]
    )
    return (
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n# {recipe}\n\n{summary}\n\n"
        f"Trained on {trained_on}.\n\n"
        f"```\n{command_line(recipe, config)}\n```\n\nSeed {config.seed}; {versions}; {record['processor']}.\n\n"
        f"| figure | value |\n|---|---|\n{rows}\n"
    )


def command_line(recipe: str, config: TrainingSettings) -> str:
    """The shortest ``vislex train`` that gives this configuration."""
    values = config.model_dump(mode="json", exclude={"budget", "seed", *NOT_IDENTITY})
    required = [
        f"{key}={_inline(values[key])}" for key, field in type(config).model_fields.items() if field.is_required()
    ]
    words = [f"budget={config.budget}", f"seed={config.seed}", *required]
    budget = load_config(type(config), None, [f"budget={config.budget}", *required]).model_dump(mode="json")
    for key, value in values.items():
        words += _changes(key, value, budget[key])
    return " ".join(["vislex train", recipe, *words])


def _changes(key: str, value: Any, default: Any) -> list[str]:
    if isinstance(value, dict) and isinstance(default, dict) and default:
        return [word for inner in value for word in _changes(f"{key}.{inner}", value[inner], default.get(inner))]
    return [] if value == default else [f"{key}={_inline(value)}"]


def _inline(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
    return f"'{text}'" if set(text) & set(" {}[]'\"") else text
