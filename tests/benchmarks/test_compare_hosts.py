"""Encoders in hosts from swap to report at the smoke budget, what is made only once, and what is refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from vislex.benchmarks import compare_hosts, host_arms
from vislex.benchmarks.compare_hosts import HostComparisonConfig, load_host_comparison, run
from vislex.benchmarks.host_tables import host_pairs, host_rows, records_together, swap_rows
from vislex.benchmarks.lmms_responders import Question, open_responder
from vislex.benchmarks.results import Run, read_results
from vislex.cli.main import main
from vislex.encoders.factory import create_encoder

TRAIN = ["steps=2", "train_size=8", "val_size=2", "precision=fp32", "progress=false"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LLaVA of width 32 with the suite's words."""
    path = Path(__file__).parents[1] / "recipes" / "runs.py"
    spec = importlib.util.spec_from_file_location("runs", path)
    assert spec is not None
    assert spec.loader is not None
    runs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runs)
    made: Path = runs.make_start("host", tmp_path_factory.mktemp("hosts"))
    return made.rename(made.with_name("llava"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoders") / "clip"
    create_encoder("clip-b16", tiny=True, seed=0).save_pretrained(folder)
    return f"hf:{folder}"


def test_probe(host: Path, clip: str, tmp_path: Path) -> None:
    import time
    t = time.time()
    config = HostComparisonConfig(hosts=[str(host)], encoders=[clip, "siglip-tiny"], budget="smoke", size=6, image_size=32, n_latency=1, n_images=2, n_train=30, device="cpu", train=TRAIN, out=tmp_path / "c", generation={"max_new_tokens": 8}, max_answer_tokens=4)
    lines = []
    report = run(config, log=lines.append)
    print("\n".join(lines), time.time() - t)
    from vislex.benchmarks.show import show_hosts
    show_hosts(report)
