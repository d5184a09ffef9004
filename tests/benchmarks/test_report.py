"""The report is one file that asks for nothing, and says what the numbers are."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from vislex.benchmarks.report import render, write_report
from vislex.benchmarks.results import Results, Step
from vislex.errors import DataError


class _Tags(HTMLParser):
    VOID = frozenset({"meta", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.sources.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(results: Results) -> str:
    return render(results, title="A <b>title</b>")


def test_the_page_is_well_formed_and_makes_no_request(page: str) -> None:
    tags = _Tags()
    tags.feed(page)
    assert not tags.open
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in tags.sources)
    assert not re.search(r"@import|url\((?!#)|<script|<link|<iframe", page)
    assert "#010203" not in page
    assert "A &lt;b&gt;title" in page


def test_the_page_shows_rows_intervals_images_captions_and_provenance(page: str, results: Results) -> None:
    record = next(iter(results.data.values()))
    assert page.count("<img ") == len(record.images)
    assert "enc@untrained + prefix" in page
    assert record.references[record.ids[0]][0] in page
    assert "Paired differences of CIDEr-D" in page
    assert "no verdict is given" in page
    assert page.count("<svg") >= 2
    assert "vislex compare" in page
    assert "OpenMoji" in page
    assert "CC BY-SA" in page


def test_the_page_shows_a_caption_coming_about(results: Results, page: str) -> None:
    assert "Captions coming about" not in page
    record = next(iter(results.data.values()))
    run = next(run for run in results.runs if run.model.row == "enc + prefix")
    run.traces = {
        record.ids[1]: [
            Step(time=0.5, words=["a", "___"], pieces=[1, 2], changed=[True, False]),
            Step(time=0.0, words=["a", "<cat>", "!"], pieces=[1, 2, 1], changed=[False, True, False]),
        ]
    }
    page = render(results)
    tags = _Tags()
    tags.feed(page)
    assert not tags.open
    section = page[page.index("Captions coming about") : page.index("<h2>Captions</h2>")]
    assert section.count("<img ") == 1
    assert record.images[record.ids[1]] in section
    assert '<span class="word new">a</span>' in section
    assert '<span class="word">a</span>' in section
    assert '<td colspan="2"><span class="word new">&lt;cat&gt;</span></td>' in section
    assert '<td colspan="2"><span class="hidden"' in section
    assert '<td colspan="1"></td>' in section  # what the first step has not yet
    assert '<i style="width:50%">' in section
    assert record.references[record.ids[1]][0] + " now" in section  # the final caption


def test_a_margin_gives_verdicts(results: Results) -> None:
    results.config = {"margin": 0.1, "pairs": [["enc + prefix", "enc@untrained + prefix"]]}
    page = render(results)
    assert "<b>holds</b>" in page
    assert "margin was written before the runs" in page


def test_the_same_results_give_the_same_page(results: Results, page: str) -> None:
    assert render(results, title="A <b>title</b>") == page


def test_nothing_to_report_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished run"):
        write_report(Results(), tmp_path / "report.html")
