"""The recipe ``ladic_few_step`` on an untrained captioner: the student nears its teacher and needs few evaluations."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vislex.captioner import Captioner
from vislex.cli.train import find_config
from vislex.config import load_config
from vislex.data import load_suite
from vislex.decoders.ladic.codec import LatentCodec
from vislex.encoders.factory import create_encoder
from vislex.errors import ConfigError
from vislex.recipes.ladic_few_step import LadicFewStepConfig, run
from vislex.text import load_tokenizer
from vislex.training.callbacks import read_log

SMALL = [
    "budget=smoke", "progress=false", "precision=fp32", "device=cpu", "data_options={vocabulary: core}",
    "train_size=12", "val_size=4", "batch_size=4", "steps=4", "eval_every=4", "warmup_steps=0", "log_every=1",
    "segments=2", "segment_steps=2", "lr=1e-2",
]  # fmt: skip


@pytest.fixture
def teacher(tmp_path: Path, text_model: Path) -> Path:
    """Folder of a captioner that asks for guidance and eight evaluations."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(text_model)
    captions = ["two red drums.", "a dog"]
    codec = LatentCodec.create(tokenizer, captions, text_model=text_model, max_length=40)
    sampling = {"num_inference_steps": 4, "guidance_scale": 1.0, "refine_at": 0.5, "temperature": 0.5}
    captioner = Captioner.from_parts(
        encoder=create_encoder("siglip-tiny", tiny=True, seed=0), decoder="ladic", tokenizer=tokenizer, codec=codec,
        hidden_size=16, num_layers=1, num_heads=2, dropout=0.0, max_length=40, sampling=sampling,
    )  # fmt: skip
    captioner.save_pretrained(tmp_path / "teacher")
    return tmp_path / "teacher"


@pytest.fixture
def distil(tmp_path: Path, teacher: Path) -> Callable[..., Path]:
    def train(name: str, *overrides: str) -> Path:
        folder = tmp_path / name
        return run(
            load_config(LadicFewStepConfig, None, [*SMALL, f"model={teacher}", f"output_dir={folder}", *overrides])
        )

    return train


def losses(folder: Path, key: str = "loss") -> list[float]:
    return [entry[key] for entry in read_log(folder / "training.jsonl") if key in entry]


def test_the_student_nears_its_teacher_and_asks_for_few_evaluations(
    distil: Callable[..., Path], teacher: Path, tmp_path: Path
) -> None:
    before = (teacher / "model.safetensors").read_bytes()
    folder = distil("run", "steps=30", "eval_every=15", "ema_decay=0.5", "val_size=8", "lr=3e-3")
    seen = losses(folder, "eval_loss")
    assert len(seen) == 2
    assert seen[-1] < 0.97 * losses(folder)[0]
    assert seen == sorted(seen, reverse=True)
    assert (teacher / "model.safetensors").read_bytes() == before
    record = json.loads((folder / "run.json").read_text())
    assert {"eval_CIDEr-D", "eval_loss"} <= record["figures"].keys()
    modes = {row["part"]: row["mode"] for row in record["parts"]}
    assert modes == {"encoder": "frozen", "decoder": "full"} | {
        f"decoder.{name}": "frozen" for name in ("codec", "length_head")
    }
    student = Captioner.from_pretrained(folder)
    sampling = student.decoder.sampling()
    assert (sampling.sampler, sampling.guidance_scale, sampling.refine_at) == ("ddim", 0.0, None)
    assert sampling.temperature == 0.5
    images = load_suite("openmoji", "caption", split="val", size=2, vocabulary="core")[:]["image"]
    assert [caption.evaluations for caption in student.caption(images)] == [2, 2]
    assert [caption.evaluations for caption in Captioner.from_pretrained(teacher).caption(images)] == [12, 12]
    assert "vislex train ladic_few_step" in (folder / "README.md").read_text()


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(distil: Callable[..., Path]) -> None:
    options = ("save_every=2", "ema_decay=0.9", "solver_steps=1")
    whole, cut = distil("whole", *options), distil("cut", *options)
    shutil.rmtree(cut / "checkpoints" / "checkpoint-4")
    (cut / "model.safetensors").unlink()
    distil("cut", *options)
    kept, again = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    assert all(torch.equal(value, again[name]) for name, value in kept.items())
    assert losses(whole) == losses(cut)


@pytest.mark.slow
def test_the_options_reach_the_training(distil: Callable[..., Path]) -> None:
    short = ("steps=1", "eval_every=1")
    base = losses(distil("base", *short))
    for change in ("segments=1", "segment_steps=3", "solver_steps=1", "guidance_scale=0", "temperature=1"):
        assert losses(distil(change, *short, change)) != pytest.approx(base, rel=1e-4), change
    assert losses(distil("own", *short, "guidance_scale=1.0", "temperature=0.5")) == base  # the teacher's own


def test_another_decoder_is_refused(tmp_path: Path, distil: Callable[..., Path]) -> None:
    encoder = create_encoder("siglip-tiny", tiny=True, seed=0)
    other = Captioner.from_parts(encoder=encoder, decoder="masked", hidden_size=16, num_layers=1, num_heads=2)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ConfigError, match="has the decoder 'masked', which takes no few-step training"):
        distil("run", f"model={tmp_path / 'other'}")
    assert not (tmp_path / "run").exists()


def test_the_packaged_configuration_is_whole() -> None:
    config = load_config(LadicFewStepConfig, find_config("ladic_few_step_embedded"))
    assert (config.segments, config.segment_steps, config.ema_decay) == (4, 8, 0.99)
