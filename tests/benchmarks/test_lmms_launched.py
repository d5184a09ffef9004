"""lmms-eval's own command line, alone and with two processes: the scores of ``vislex bench``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lmms_eval", reason="the extra 'eval' is not installed")

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.adapters.vlm import VisionLanguageModel
from vislex.adapters.vlm_segment import prepare_codec
from vislex.benchmarks import captioning, segmentation, vqa
from vislex.benchmarks.caption_data import load_suite_captions
from vislex.benchmarks.caption_opening import open_caption_model
from vislex.benchmarks.lmms_task import TASKS_FOLDER
from vislex.benchmarks.vlm_rows import open_model
from vislex.text import load_tokenizer, prune_tokenizer

SIZE = 9  # two processes get five and four
ALONE = [sys.executable]
LAUNCHED = {
    "accelerate launch": [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}  # fmt: skip


def lmms_eval(start: list[str], model: str | Path, tasks: str, out: Path, **generation: Any) -> dict[str, Any]:
    """Scores by task, of a run of lmms-eval."""
    settings = ",".join(f"{name}={value}" for name, value in generation.items())
    command = [*start, "-m", "lmms_eval", "--model", "vislex", "--model_args", f"pretrained={model}", "--tasks", tasks]
    command += ["--include_path", str(TASKS_FOLDER), "--limit", str(SIZE), "--batch_size", "3"]
    command += ["--gen_kwargs", settings, "--output_path", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=out.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(next(out.glob("*/*_results.json")).read_text())["results"]
    return {
        task: {name.partition(",")[0]: value for name, value in scores.items() if "," in name and "_stderr" not in name}
        for task, scores in found.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that answers yes and no, or writes boxes, at random."""
    torch.manual_seed(0)
    words = "segment describe the image. is there a red kite? yes no left right"
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), [words])[0])
    llm = vislex.create_llm("llama3.2-1b", tiny=True, vocab_size=len(tokenizer))
    encoder = vislex.create_encoder("siglip-tiny", tiny=True, seed=0)
    model = VisionLanguageModel.from_parts(encoder=encoder, llm=llm, tokenizer=tokenizer)
    prepare_codec(model, "box")
    with torch.no_grad():
        for parameter in model.llm.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    known = ["yes", "no", "left", "right", *(f"<loc{place:04d}>" for place in range(0, 1024, 64))]
    kept = set(model.processor.tokenizer.convert_tokens_to_ids(known))
    model.generation_config.suppress_tokens = [i for i in range(model.llm.config.vocab_size) if i not in kept]
    made = tmp_path_factory.mktemp("models") / "tiny"
    model.eval().save_pretrained(made)
    return made


@pytest.mark.slow
def test_a_shipped_captioner_scores_as_in_bench(tmp_path: Path) -> None:
    name = "captioner-cross-attention"
    data = load_suite_captions("openmoji", size=SIZE, n_images=0, n_train=1)
    ours = captioning.evaluate(open_caption_model(name), data, batch_size=3, n_latency=0, n_traces=0)
    task = "vislex_openmoji_caption"
    theirs = lmms_eval(ALONE, name, task, tmp_path / "out", num_beams=1)[task]
    assert theirs["CIDEr-D"] > 0.1
    assert theirs == pytest.approx({score: ours.scores[score] for score in theirs}, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", sorted(LAUNCHED))
def test_two_processes_score_as_bench(launcher: str, folder: Path, tmp_path: Path) -> None:
    names = [f"vislex_openmoji_{name}" for name in ("caption", "vqa", "refseg")]
    theirs = lmms_eval(LAUNCHED[launcher], folder, ",".join(names), tmp_path / "out", max_new_tokens=4)
    assert set(theirs) == set(names)
    model, info = open_model(str(folder))
    questions = vqa.load_vqa_data(size=SIZE, n_images=0, n_train=1)
    answered = vqa.evaluate(model, info, questions, batch_size=3, max_new_tokens=4)
    marks = segmentation.load_segmentation_data(size=SIZE, n_images=0)
    marked, _ = segmentation.evaluate(model, info, marks, batch_size=3, max_new_tokens=4)
    assert theirs[names[1]] == pytest.approx(answered.scores, abs=1e-6)
    assert theirs[names[2]] == pytest.approx(marked.scores, abs=1e-6)
