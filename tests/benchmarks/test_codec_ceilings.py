"""The ceilings of the codecs: the script on a few masks, and its committed result against what the codecs state."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vislex.benchmarks.codec_ceilings import RESULTS, VARIANTS, main
from vislex.listing import list_codecs
from vislex.segmentation.factory import create_codec
from vislex.segmentation.loc_seg import LocSegCodec


def test_the_script_measures_every_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "ceilings.json"
    main(["--size", "6", "--image-sizes", "48", "--split", "val", "--out", str(out)])
    rows = json.loads(out.read_text())["rows"]
    assert [row["codec"] for row in rows if not row["options"]] == list_codecs()
    assert len(rows) == len(list_codecs()) + sum(map(len, VARIANTS.values()))
    by_name = {row["codec"]: row for row in rows if not row["options"]}
    assert by_name["box"]["symbols"] == 4
    assert by_name["loc_seg"]["symbols"] == 20
    assert all(0.3 < row["mIoU"] <= 1 and row["invalid"] == 0 and row["n"] == 6 for row in rows)
    shown = capsys.readouterr().out
    assert "masks of val at 48 px" in shown
    assert "every stated ceiling is reached" in shown


def test_every_codec_reaches_the_ceiling_that_it_states() -> None:
    result = json.loads(RESULTS.read_text())
    assert result["mask_tokenizer_sha256"] == LocSegCodec().tokenizer.digest()  # of the shipped weights
    for name in list_codecs():
        rows = [row for row in result["rows"] if row["codec"] == name and not row["options"]]
        assert {row["image size"] for row in rows} == {64, 256}
        stated = create_codec(name).ceiling
        assert all(row["n"] == 500 for row in rows)
        assert stated <= min(row["mIoU"] for row in rows) < stated + 0.011
