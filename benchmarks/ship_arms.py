"""Trains the captioners that the demo measures as shipped, and puts them into ``vislex/weights``.

    python -m vislex.benchmarks.ship_arms --out runs/arms
    python -m vislex.benchmarks.ship_arms --out runs/arms --only "siglip-tiny + prefix"

Finished trainings are found in ``--out`` and not repeated, a stopped one goes on from its last checkpoint; the tokens
of an encoder are cached, so its second arm starts at once. Two cores: 4 to 8 minutes an arm.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from vislex.benchmarks.arms import Arm, TrainedArm, train_arm
from vislex.benchmarks.caption_models import read_json
from vislex.benchmarks.compare import ComparisonConfig
from vislex.benchmarks.demo import demo_config
from vislex.cli.console import say
from vislex.errors import ConfigError, did_you_mean
from vislex.shipped import pack, weights_folder

__all__ = ["arms_to_ship", "main", "ship"]

LEFT_OUT = ("config.yaml",)  # run.json holds the same, without the paths of this machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains and ships the arms, one after the other; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m vislex.benchmarks.ship_arms", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/arms"), help="folder of the trainings")
    parser.add_argument("--only", action="append", metavar="ROW", help="row to train, e.g. 'siglip-tiny + prefix'")
    parser.add_argument("--budget", default="standard", help="budget of each training (the demo's is standard)")
    parser.add_argument("--into", type=Path, default=weights_folder(), help="folder that receives the models")
    options = parser.parse_args(arguments)
    config = demo_config(options.out, budget=options.budget)
    for arm in arms_to_ship(config, options.only):
        trained = train_arm(arm, budget=config.budget, folder=options.out, overrides=config.recipe_overrides)
        target = ship(trained, options.into)
        size = sum(file.stat().st_size for file in target.iterdir()) / 2**20
        say(f"{arm.title}: {trained.origin} ({trained.seconds:.0f} s), {size:.1f} MB at {target}")
    return 0


def arms_to_ship(config: ComparisonConfig, rows: Sequence[str] | None = None) -> list[Arm]:
    """The arms of a comparison, or those of some rows.

    Raises:
        ConfigError: If there is no such row.
    """
    arms = {arm.row: arm for arm in config.arms}
    if unknown := [row for row in rows or () if row not in arms]:
        raise ConfigError(f"no row '{unknown[0]}'{did_you_mean(unknown[0], arms)} Rows are {', '.join(arms)}")
    return [arms[row] for row in rows or arms]


def ship(trained: TrainedArm, into: Path) -> Path:
    """Copies and packs a trained arm's model, its learning curve and its record, without this machine's paths.

    Returns:
        The folder, named as ``Arm.shipped_name`` says.
    """
    target = into / trained.arm.shipped_name
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for file in sorted(trained.folder.iterdir()):
        if file.is_file() and file.name not in LEFT_OUT:
            shutil.copyfile(file, partial / file.name)  # not its mode: safetensors writes files for their owner only
    record = read_json(partial / "run.json")
    record["config"]["output_dir"] = None
    record.pop("command", None)
    (partial / "run.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    pack(partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target


if __name__ == "__main__":
    raise SystemExit(main())
