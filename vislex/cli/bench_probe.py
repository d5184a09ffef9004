"""``vislex bench probe``: what frozen features hold of the suite's factors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vislex.cli.console import error_console, print_json, print_table, say
from vislex.errors import ConfigError

__all__ = ["probe"]

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
