"""``vislex report``: pages from result files, and rating pages for people."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from vislex.cli.console import print_table, say
from vislex.cli.options import Json, Seed
from vislex.errors import ConfigError

__all__ = ["command"]


def command(
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Result files, or folders that hold a results.json.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="HTML file to write; beside the first result file by default.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Headline of the report.")] = None,
    images: Annotated[int, typer.Option("--images", min=0, help="Most images in the grid.")] = 24,
    judge: Annotated[bool, typer.Option("--judge", help="Write a blinded A/B page for raters instead.")] = False,
    rows: Annotated[
        list[str] | None,
        typer.Option("--row", help="With --judge: a row to compare; give it twice. Default: the best two."),
    ] = None,
    items: Annotated[int, typer.Option("--items", min=1, help="With --judge: most items on the page.")] = 50,
    judge_csv: Annotated[
        list[Path] | None,
        typer.Option("--judge-csv", help="Answers that raters downloaded: print the win rate. May be repeated."),
    ] = None,
    judge_key: Annotated[
        Path | None, typer.Option("--judge-key", help="The page's key; needed where the results are not given.")
    ] = None,
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Write a report from result files.

    \b
    vislex report runs/first                    a self-contained page: tables, intervals, plots, captions
    vislex report a/results.json b --out ab.html    several files on one page
    vislex report runs/first --judge            a blinded A/B page for people, and its key
    vislex report runs/first --judge-csv ratings.csv    win rates with exact binomial intervals
    """
    if judge_csv:
        _ratings(judge_csv, judge_key or _beside(results, "judge.key.json"), json)
        return
    if not results:
        raise ConfigError("no result file given; write 'vislex report runs/first' or see 'vislex report --help'")
    from vislex.benchmarks.report import write_report
    from vislex.benchmarks.results import read_results

    merged = read_results(results)
    if judge:
        from vislex.benchmarks.judge import write_page

        if rows and len(rows) != 2:
            raise ConfigError(
                f"--row was given {len(rows)} times; give it twice, or not at all for the best two models"
            )
        pair = (rows[0], rows[1]) if rows else None
        page, key = write_page(merged, out or _beside(results, "judge.html"), pair, n=items, seed=seed)
        say(f"{page}  (the key, to be opened after rating: {key})")
        return
    say(str(write_report(merged, out or _beside(results, "report.html"), title=title, n_images=images)))


def _beside(results: list[Path] | None, name: str) -> Path:
    if not results:
        raise ConfigError("give the result file too, or the key of the rating page with --judge-key")
    return (results[0] if results[0].is_dir() else results[0].parent) / name


def _ratings(files: list[Path], key: Path, json: bool) -> None:
    from vislex.benchmarks.judge import read_ratings

    rates = [dataclasses.asdict(rate) for rate in read_ratings(files, key)]
    columns = ["question", "a", "b", "wins", "losses", "ties", "rate", "low", "high", "raters"]
    print_table(rates, columns, json, title="how often raters preferred a (exact 95 % interval, ties left out)")
