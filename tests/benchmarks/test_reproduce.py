from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from vislex.benchmarks.reproduce import PUBLISHED
from vislex.benchmarks.results import read_results
from vislex.cli.main import main


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Two test images and a training image in Karpathy's form."""
    images = []
    for number, split in enumerate(["test", "train", "test"]):
        (tmp_path / "val2014").mkdir(exist_ok=True)
        Image.new("RGB", (40, 32), (80 * number, 90, 20)).save(tmp_path / "val2014" / f"{number}.jpg")
        sentences = [{"raw": text} for text in ("A red dog.", "a dog that is red", "a cat")]
        images.append(
            {
                "filename": f"{number}.jpg", "filepath": "val2014", "cocoid": number, "split": split,
                "sentences": sentences,
            }
        )  # fmt: skip
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": images}))
    return tmp_path


def test_our_scores_stand_beside_the_published_ones(
    ladic_folder: Path, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", str(ladic_folder), "--data", f"coco:{coco}", "--json", "--out", str(tmp_path / "out.json")]
    assert main(["bench", "reproduce", "ladic", *arguments]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["row"], row["metric"]) for row in rows] == [
        (row, metric) for row in ("LaDiC, 5 steps", "LaDiC, 30 steps") for metric in ("BLEU-4", "CIDEr-D", "ROUGE-L")
    ]
    assert [row["published"] for row in rows] == [35.1, 115.2, 56.7, 38.2, 126.2, 58.7]
    assert [row["evaluations"] for row in rows] == [5.0] * 3 + [34.0] * 3
    assert all(row["images"] == 2 for row in rows)
    assert rows[0]["difference"] == pytest.approx(rows[0]["ours"] - 35.1, abs=0.11)
    assert [run.n for run in read_results([tmp_path / "out.json"]).runs] == [2, 2]


def test_every_published_row_has_its_settings() -> None:
    for paper in PUBLISHED.values():
        assert paper.settings.keys() == paper.rows.keys()
