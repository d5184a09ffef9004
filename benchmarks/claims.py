"""The page of claims: what is claimed, how it is tested, and what the committed result files say of it.

    python -m vislex.benchmarks.claims            writes docs/claims.md
    python -m vislex.benchmarks.claims --check    exits with 1 if the page is not what the result files give

Verdicts and figures come from ``benchmarks/results``; the records of the claims stand in ``claim_records``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vislex.benchmarks.claim_readers import Finding, Part
from vislex.benchmarks.claim_records import CLAIMS, Claim
from vislex.cli.console import print_error, print_json, say
from vislex.errors import DataError, VislexError

__all__ = ["NOT_MEASURED", "Judged", "judge_claims", "main", "page"]

NOT_MEASURED = "not measured"
RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent.parent / "docs" / "claims.md"
HEAD = """\
# Claims

<!-- Made by 'python -m vislex.benchmarks.claims' from the files of benchmarks/results: change those, not this page. -->

What the papers behind vislex say, and what vislex asks of itself, tested on its own suite. Criteria and margins were
written down before the runs and are not moved afterwards; a claim that fails stays here like one that holds.

- **holds**, **does not hold**, **inconclusive**: in every part the 95 % interval (bootstrap, paired over images and
  seeds) lies where the criterion asks for it; in at least one it lies on the other side; neither.
- **void**: nothing can be concluded, for the reason given. **not testable**: the instruments do not reach what claims
  on ViLex need (E0). **not tested**: a part that the criterion asks for is missing.
- **measured**: the figure itself is the outcome. **not measured**: no result file has a conclusion yet.

Of several parts the figure is that of the first which gave the verdict. Seeds "1 of 3" are fewer than the experiment
has: the verdict is preliminary, as it is where "as run" is smaller than "command". [How numbers are made](numbers.md).
"""


@dataclass(frozen=True)
class Judged:
    """A claim and what is known of it.

    Attributes:
        claim: The record.
        finding: What its result file says; the verdict is "not measured" without one.
        commands: With which the rows of the file were made.
        environments: Device, versions and revisions of the same.
        has_file: Whether there is a result file at all.
    """

    claim: Claim
    finding: Finding
    commands: Sequence[str] = ()
    environments: Sequence[str] = ()
    has_file: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        names = ("id", "text", "source", "criterion", "command", "file", "planned", "change")
        shown = {name: getattr(self.claim, name) for name in names}
        made = {"commands": list(self.commands), "environments": list(self.environments)}
        return {**shown, **asdict(self.finding), "figure": _deciding(self).figure, **made}


def judge_claims(folder: Path = RESULTS, claims: Sequence[Claim] = CLAIMS) -> list[Judged]:
    """Reads the result files of all claims.

    Args:
        folder: With the result files.
        claims: Records.

    Raises:
        DataError: If a file is no JSON, or belongs to another benchmark.
    """
    contents = {name: _load(folder / name) for name in {claim.file for claim in claims} if name is not None}
    judged = []
    for claim in claims:
        content = contents[claim.file] if claim.file is not None else {}
        finding = claim.read(content)
        if finding is None:
            judged.append(Judged(claim, Finding(NOT_MEASURED), has_file=bool(content)))
        else:
            made = _provenance(content, finding.made_by)
            commands = tuple(dict.fromkeys(entry["command"] for entry in made))
            judged.append(Judged(claim, finding, commands, _environments(made), has_file=True))
    return judged


def page(judged: Sequence[Judged]) -> str:
    """The whole page, Markdown."""
    counts = Counter(entry.finding.verdict for entry in judged)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    rows = []
    for entry in judged:
        part = _deciding(entry)
        about = f"{part.about}: " if part.about else ""
        link = f"[{entry.claim.id}](#{_anchor(_title(entry.claim))}) {entry.claim.text}"
        rows.append((link, f"**{entry.finding.verdict}**", f"{about}{part.figure}", _seeds(entry)))
    overview = _table(("claim", "verdict", "figure", "seeds"), rows)
    return "\n".join([HEAD, f"{len(judged)} claims: {summary}.\n", overview, *map(_section, judged)]) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the page, or says whether it is what the result files give."""
    parser = argparse.ArgumentParser(prog="python -m vislex.benchmarks.claims", description=__doc__.split("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is another one")
    parser.add_argument("--json", action="store_true", help="print the claims with their findings as JSON")
    given = parser.parse_args(arguments)
    try:
        judged = judge_claims(given.results)
        if not given.out.parent.is_dir():
            raise DataError(f"there is no folder '{given.out.parent}' for the page; give --out FILE")
    except VislexError as error:
        print_error(str(error))
        return 1
    text = page(judged)
    if given.check:
        if not given.out.is_file() or given.out.read_text(encoding="utf-8") != text:
            print_error(f"{given.out} is not what the result files give; run 'python -m vislex.benchmarks.claims'")
            return 1
    else:
        given.out.write_text(text, encoding="utf-8")
    if given.json:
        print_json([entry.to_dict() for entry in judged])
        return 0
    for entry in judged:
        say(f"{entry.claim.id}: {entry.claim.text}: {entry.finding.verdict}")
    say(f"{'as the result files say' if given.check else 'written'}: {given.out}")
    return 0


def _section(entry: Judged) -> str:
    claim, finding = entry.claim, entry.finding
    part = _deciding(entry)
    facts = [f"**{finding.verdict}**"]
    if finding.parts:
        facts += [part.figure, *([part.n] if part.n else [])]
        facts += [f"{claim.seeds_of} seeds: {_seeds(entry)}"] if claim.seeds_of else ["random weights, nothing trained"]
    lines = [f"\n## {_title(claim)}\n", " · ".join(facts) + "\n"]
    lines += [f"Void or open because: {note}.\n" for note in finding.notes]
    lines += [f"- **Source.** {claim.source}", f"- **Criterion.** {claim.criterion}"]
    lines.append(f"- **Command.** `{claim.command}`" if claim.command else "- **Command.** None yet.")
    if claim.file is not None:
        name = f"benchmarks/results/{claim.file}"
        missing = "" if finding.parts else ": no conclusion on this claim yet"
        lines.append(
            f"- **Result.** [`{name}`](../{name}){missing}"
            if entry.has_file
            else f"- **Result.** `{name}`: not there yet"
        )
    lines += [f"- **As run.** `{command}`" for command in entry.commands]
    lines += [f"- **Made with.** {environment}" for environment in entry.environments]
    lines.append(f"- **What would change it.** {claim.change}")
    for counts, name in ((True, "part"), (False, "beside, not counting")):
        if shown := [_cells(part) for part in finding.parts if part.counts == counts]:
            lines += ["", _table((name, "figure [95 %]", "asked for", "verdict", "n", "seeds"), shown)]
    return "\n".join(lines)


def _cells(part: Part) -> tuple[str, ...]:
    seeds = "–" if part.seeds is None else str(part.seeds)
    return part.about, part.figure, part.asked or "–", f"**{part.verdict}**", part.n, seeds


def _deciding(entry: Judged) -> Part:
    return entry.finding.deciding or Part("", "–", "", entry.finding.verdict)


def _seeds(entry: Judged) -> str:
    seeds, planned = _deciding(entry).seeds, entry.claim.planned
    return "–" if seeds is None else f"{seeds} of {planned}" if seeds < planned else str(seeds)


def _title(claim: Claim) -> str:
    return f"{claim.id}. {claim.text}"


def _anchor(title: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _load(path: Path) -> dict[str, Any]:
    """The content of a result file, empty without one."""
    if not path.exists():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("benchmark", path.stem)
    except (json.JSONDecodeError, AttributeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is no result file: {error}; run its benchmark again") from error
    if found != path.stem:
        raise DataError(f"{path} holds results of '{found}', not of '{path.stem}'; move it away")
    return content


def _provenance(content: Mapping[str, Any], made_by: Sequence[int] | None) -> list[dict[str, Any]]:
    """The processes that made the rows, in their order."""
    if "runs" in content:
        return [run["provenance"] for run in content["runs"]]
    made = content["provenance"]
    if isinstance(made, dict):
        return [made]
    return made if made_by is None else [made[number] for number in made_by]


def _environments(made: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Device, versions and revisions: a line for each device with its versions."""
    revisions: dict[str, dict[str, None]] = {}
    for entry in made:
        git = entry.get("git")
        named = f"{git['revision'][:9]}{' (changed)' if git['dirty'] else ''}" if git else "no checkout"
        revisions.setdefault(", ".join(_facts(entry)), {})[named] = None
    return tuple(f"{line}; revision {', '.join(found)}" for line, found in revisions.items())


def _facts(entry: Mapping[str, Any]) -> Iterator[str]:
    """Device and versions of one process."""
    yield from (f"{name} {entry[name]}" for name in ("device", "dtype") if entry.get(name) is not None)
    yield entry["processor"]
    if entry.get("threads") is not None:
        yield f"{entry['threads']} thread{'s' if entry['threads'] > 1 else ''}"
    yield f"Python {entry['python']}"
    yield f"vislex {entry['vislex']}"
    yield from (f"{name} {entry['packages'][name]}" for name in ("torch", "transformers") if name in entry["packages"])


if __name__ == "__main__":
    sys.exit(main())
