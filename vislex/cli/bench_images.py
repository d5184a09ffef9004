"""``vislex bench probe`` and ``vislex bench reconstruction``: what features hold, and what they let be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vislex.cli.console import error_console, print_json, print_table, say
from vislex.cli.reconstruct import DEFAULT_MODEL
from vislex.errors import ConfigError

__all__ = ["probe", "reconstruction"]

STEPS = ["model", "tokens", "against", "score", "difference", "low", "high", "n"]
DIFFERENCES = ["probe", "encoder", "factor", "difference", "low", "high", "minimal detectable effect", "n", "seeds"]


def probe(
    names: Sequence[str], overrides: Sequence[str], *, out: Path | None, device: str, batch_size: int, json: bool
) -> None:
    """Probes encoders and prints accuracies in percent, and paired differences against the first.

    Args:
        names: Encoders.
        overrides: key=value of ``ProbeBench``.
        out: Result file, or folder of ``probe.json``.
        device: Where the encoders run.
        batch_size: Images a forward.
        json: Whether to print JSON.

    Raises:
        ConfigError: If no encoder is named.
    """
    from vislex.benchmarks.probe import ProbeBench, file_of, load_data, probe_rows
    from vislex.benchmarks.probe_tables import differences, wide
    from vislex.config import load_config

    if not names:
        raise ConfigError("no encoder given; write 'vislex bench probe --encoder siglip-tiny --encoder OTHER'")
    bench = load_config(ProbeBench, None, overrides)
    file = file_of(out, config=bench.model_dump(mode="json"), device=device)
    data = load_data(bench)
    with error_console.status("probing") as status:
        shown: Any = status.update
        rows = probe_rows(names, bench, file, data=data, device=device, batch_size=batch_size, on_progress=shown)
    accuracies, paired = wide(rows, data), differences(rows, data)
    if json:
        print_json({"accuracies": accuracies, "differences": paired, "results": str(file.path)})
        return
    title = f"openmoji {bench.split}, {bench.vocabulary} vocabulary, n = {bench.size}; accuracy in percent"
    print_table(accuracies, list(accuracies[0]), title=title)
    against = [row for row in paired if "difference" in row]
    if against:
        say("")
        print_table(against, DIFFERENCES, title=f"difference from {names[0]}, 95 % intervals over images and seeds")
    say(f"results: {file.path}")


def reconstruction(
    folders: Sequence[str],
    overrides: Sequence[str],
    *,
    out: Path | None,
    device: str,
    batch_size: int,
    seed: int,
    json: bool,
) -> None:
    """Measures ViLex models against their token budgets; writes sheets and curves beside the result file.

    Args:
        folders: ViLex models; the shipped one where none is named.
        overrides: key=value of ``ReconstructionBench``.
        out: Result file, or folder of ``reconstruction.json``.
        device: Where the models run.
        batch_size: Images a forward.
        seed: Of start noise, times and noise.
        json: Whether to print JSON.

    Raises:
        ConfigError: If two folders have one name.
    """
    from vislex.benchmarks import reconstruction as bench_module
    from vislex.benchmarks.reconstruction_tables import budget_steps, plot_curves, table, write_sheet
    from vislex.config import load_config

    folders = folders or [DEFAULT_MODEL]
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        raise ConfigError(f"two models have one name among {', '.join(names)}; rename a folder")
    bench = load_config(bench_module.ReconstructionBench, None, overrides)
    file = bench_module.file_of(out, config=bench.model_dump(mode="json"), device=device, seed=seed)
    tools = bench_module.load_tools(bench)
    rows: list[dict[str, Any]] = []
    written = []
    with error_console.status("reconstruction") as status:
        update: Any = status.update
        for name, folder in zip(names, folders, strict=True):
            model = bench_module.open_model(folder, device)
            scenes = bench_module.load_scenes(bench, model.t2i.image_size)
            options = {"batch_size": batch_size, "seed": seed, "on_progress": update}
            made, shown = bench_module.reconstruction_rows(name, model, bench, file, scenes, tools, **options)
            rows += made
            written.append(write_sheet(shown, file.path.with_name(f"{file.path.stem}-{name}.png")))
    written.append(plot_curves(rows, file.path.with_name(f"{file.path.stem}-curves.png")))
    lines, steps = table(rows), budget_steps(rows)
    if json:
        print_json({"rows": lines, "steps": steps, "results": str(file.path), "images": [str(p) for p in written]})
        return
    title = f"openmoji {bench.split}, n = {bench.size} drawn, {bench.loss_images} x {bench.loss_draws} losses; %"
    print_table(lines, list(lines[0]), title=title)
    if steps:
        say("")
        print_table(steps, STEPS, title="difference from the next smaller budget, paired 95 % intervals over images")
    refused = (entry["refused"] for row in rows for entry in row["sets"].values() if "refused" in entry)
    for reason in dict.fromkeys(refused):
        say(f"left out: {reason}")
    say(f"results: {', '.join(map(str, [file.path, *written]))}")
