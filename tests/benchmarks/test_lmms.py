"""The lmms-eval plug-in: the numbers of ``vislex bench``, for captioners, vision-language models and hosts."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

pytest.importorskip("lmms_eval", reason="the extra 'eval' is not installed")

import lmms_eval
from lmms_eval.api.instance import Instance
from lmms_eval.evaluator import simple_evaluate
from lmms_eval.models import get_model

import vislex
from vislex.adapters.chat import chat_tokenizer
from vislex.adapters.vlm import VisionLanguageModel
from vislex.adapters.vlm_segment import prepare_codec
from vislex.benchmarks import captioning, lmms_run, segmentation, vqa
from vislex.benchmarks.caption_data import load_suite_captions
from vislex.benchmarks.caption_opening import open_caption_model
from vislex.benchmarks.lmms_model import VislexLMM
from vislex.benchmarks.vlm_rows import open_model
from vislex.cli.main import main
from vislex.errors import CheckpointError, ConfigError, DataError
from vislex.text import load_tokenizer, postprocess_caption, prune_tokenizer

OPENMOJI = {name: f"vislex_openmoji_{name}" for name in ("caption", "vqa", "refseg")}
SIZE = 16
WORDS = "segment describe the image. is there a red kite? yes no one two three four dog cat left right"


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    torch.manual_seed(0)
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), [WORDS])[0])
    llm = vislex.create_llm("llama3.2-1b", tiny=True, vocab_size=len(tokenizer))
    encoder = vislex.create_encoder("siglip-tiny", tiny=True, seed=0)
    model = VisionLanguageModel.from_parts(encoder=encoder, llm=llm, tokenizer=tokenizer)
    prepare_codec(model, "box")
    with torch.no_grad():
        for parameter in model.llm.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model.eval()


def _saved(model: VisionLanguageModel, folder: Path, words: list[str]) -> Path:
    """The model, which says nothing but some words."""
    kept = set(model.processor.tokenizer.convert_tokens_to_ids(words))
    model.generation_config.suppress_tokens = [i for i in range(model.llm.config.vocab_size) if i not in kept]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def answering(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _saved(vlm, tmp_path_factory.mktemp("models") / "answering", ["yes", "no", "left", "right"])


@pytest.fixture(scope="module")
def describing(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose captions need the cleaning that every caption of a benchmark gets."""
    return _saved(vlm, tmp_path_factory.mktemp("models") / "describing", ["left", "."])


@pytest.fixture(scope="module")
def marking(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    places = [f"<loc{place:04d}>" for place in range(0, 1024, 64)]
    return _saved(vlm, tmp_path_factory.mktemp("models") / "marking", places)


@pytest.fixture(scope="module")
def with_head(vlm: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that says <SEG> to half of the images, else "yes"."""
    model = copy.deepcopy(vlm)
    prepare_codec(model, "seg_head", hidden_size=16)
    rows = segmentation.load_segmentation_data(size=SIZE, n_images=0).rows[:]
    prompts = [model.processor.prompt(f"segment {own}", 1) for own in rows["expression"]]
    inputs = model.processor([[image] for image in rows["image"]], prompts, add_special_tokens=False)
    mark, yes = model.processor.tokenizer.convert_tokens_to_ids(["<SEG>", "yes"])
    with torch.no_grad():
        logits = model(**inputs).logits[:, -1]
    model.generation_config.sequence_bias = [[[mark], float((logits[:, yes] - logits[:, mark]).quantile(0.5))]]
    return _saved(model, tmp_path_factory.mktemp("models") / "head", ["<SEG>", "yes"])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock LLaVA that would draw its answers if a harness did not forbid it."""
    torch.manual_seed(0)
    tokenizer = chat_tokenizer(prune_tokenizer(load_tokenizer(), [WORDS])[0])
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=32, patch_size=16),
        text_config=LlamaConfig(**sizes, vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.5),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.update(do_sample=True, temperature=5.0, eos_token_id=tokenizer.eos_token_id)
    size = {"height": 32, "width": 32}
    template = (
        "{% for message in messages %}<|{{ message.role }}|>{% for part in message.content %}"
        "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size=size, do_center_crop=False),
        tokenizer=tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    folder = tmp_path_factory.mktemp("models") / "host"
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def run(model: VislexLMM | Path, task: str, limit: int = SIZE, **generation: Any) -> dict[str, Any]:
    opened = model if isinstance(model, VislexLMM) else VislexLMM(str(model), batch_size=8)
    manager = lmms_run.task_manager([task])
    return lmms_run.evaluate(opened, task, manager, limit=limit, generation=generation)


def test_lmms_eval_finds_the_model() -> None:
    assert get_model("vislex") is VislexLMM


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "min_new_tokens": 3}])
def test_captions_score_as_in_bench(captioner_folder: Path, options: dict[str, Any]) -> None:
    data = load_suite_captions("openmoji", size=SIZE, n_images=0, n_train=1)
    model = open_caption_model(captioner_folder)
    settings = captioning.Generation(max_new_tokens=6, options=options)
    ours = captioning.evaluate(model, data, generation=settings, batch_size=5, n_latency=0, n_traces=0)
    theirs = run(captioner_folder, OPENMOJI["caption"], max_new_tokens=6, **options)
    assert theirs["answers"] == ours.captions
    assert len(set(ours.captions)) > (1 if options else 0)
    assert theirs["n"] == SIZE
    for name in ("CIDEr-D", "BLEU-1", "BLEU-4", "ROUGE-L", "scene-F1"):
        assert theirs["scores"][name] == pytest.approx(ours.scores[name], abs=1e-6)
    assert theirs["scores"]["BLEU-1"] > 0


def test_captions_of_an_answering_model_score_as_in_bench(describing: Path) -> None:
    data = load_suite_captions("openmoji", size=SIZE, n_images=0, n_train=1)
    settings = captioning.Generation(max_new_tokens=6)
    model = open_caption_model(describing)
    ours = captioning.evaluate(model, data, generation=settings, batch_size=5, n_latency=0, n_traces=0)
    theirs = run(describing, OPENMOJI["caption"], max_new_tokens=6)
    assert theirs["answers"] != ours.captions  # as the model wrote them
    assert [postprocess_caption(own) for own in theirs["answers"]] == ours.captions
    for name in ("CIDEr-D", "BLEU-1", "ROUGE-L", "scene-F1"):
        assert theirs["scores"][name] == pytest.approx(ours.scores[name], abs=1e-6)


def test_answers_score_as_in_bench(answering: Path) -> None:
    model, info = open_model(str(answering))
    data = vqa.load_vqa_data(size=SIZE, n_images=0, n_train=1)
    ours = vqa.evaluate(model, info, data, batch_size=8, max_new_tokens=1)
    theirs = run(answering, OPENMOJI["vqa"], max_new_tokens=1)
    assert theirs["answers"] == ours.captions
    assert 0 < theirs["scores"]["accuracy"] < 1
    assert theirs["scores"] == pytest.approx(ours.scores, abs=1e-6)
    assert theirs["errors"]["accuracy"] == pytest.approx(
        np.std(ours.per_image["accuracy"], ddof=1) / SIZE**0.5, abs=1e-6
    )


@pytest.mark.parametrize(("name", "length"), [("marking", 4), ("with_head", 1)])
def test_masks_score_as_in_bench(name: str, length: int, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(name)
    model, info = open_model(str(folder))
    data = segmentation.load_segmentation_data(size=SIZE, n_images=0)
    ours, _ = segmentation.evaluate(model, info, data, batch_size=8, max_new_tokens=length)
    theirs = run(folder, OPENMOJI["refseg"], max_new_tokens=length)
    answers = [json.loads(answer) for answer in theirs["answers"]]
    assert [answer["text"] for answer in answers] == ours.captions
    assert [answer["masks"] is None for answer in answers] == [bool(own) for own in ours.per_image["invalid"]]
    assert 0 < theirs["scores"]["invalid"] < 1
    assert theirs["scores"]["mIoU"] > 0
    assert theirs["scores"] == pytest.approx(ours.scores, abs=1e-6)


def test_draws_follow_from_the_seed_and_the_question(answering: Path) -> None:
    drawn = {}
    for size, seed in ((1, 0), (8, 0), (8, 1)):
        model = VislexLMM(str(answering), batch_size=size, seed=seed)
        drawn[size, seed] = run(model, OPENMOJI["vqa"], 8, do_sample=True, max_new_tokens=3)["answers"]
    assert drawn[1, 0] == drawn[8, 0] != drawn[8, 1]
    greedy = run(answering, OPENMOJI["vqa"], 8, max_new_tokens=3)["answers"]
    assert greedy != drawn[8, 0]
    assert greedy == run(answering, OPENMOJI["vqa"], 8, max_new_tokens=3, temperature=0, do_sample=True)["answers"]


def test_a_host_is_asked_by_its_own_template(host: Path) -> None:
    lmm = VislexLMM(str(host), batch_size=3)
    answers = run(lmm, OPENMOJI["vqa"], 4, max_new_tokens=5)["answers"]
    assert len(set(answers)) > 1
    rows = vqa.load_vqa_data(size=4, n_images=0, n_train=1).rows
    model, processor = lmm.responder.model, lmm.responder.processor
    for row, answer in zip(rows, answers, strict=True):
        prompt = f"<|user|><image>{row['question']}<|end|><|assistant|>"
        inputs = processor(images=row["image"], text=prompt, return_tensors="pt", add_special_tokens=False)
        ids = model.generate(**inputs, do_sample=False, max_new_tokens=5)[0, inputs["input_ids"].shape[1] :]
        assert processor.tokenizer.decode(ids, skip_special_tokens=True).strip() == answer
    with pytest.raises(ConfigError, match="name the codec"):
        run(lmm, OPENMOJI["refseg"], 2, max_new_tokens=2)
    with pytest.raises(ConfigError, match="has no mask head, which codec 'seg_head' needs"):
        run(VislexLMM(str(host), codec="seg_head"), OPENMOJI["refseg"], 2, max_new_tokens=2)
    invalid = run(VislexLMM(str(host), codec="polygon"), OPENMOJI["refseg"], 2, max_new_tokens=2)
    assert invalid["scores"]["invalid"] == 1


def test_what_goes_wrong_is_raised(captioner_folder: Path, answering: Path, host: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no option 'nonsense'"):
        run(answering, OPENMOJI["vqa"], 2, nonsense=1)
    with pytest.raises(ConfigError, match="a captioner marks nothing"):
        run(captioner_folder, OPENMOJI["refseg"], 2)
    with pytest.raises(ConfigError, match="no option 'nonsense'"):
        VislexLMM(str(answering), nonsense=1)
    with pytest.raises(ConfigError, match="batch_size is 'auto'"):
        VislexLMM(str(answering), batch_size="auto")
    with pytest.raises(ConfigError, match="this is a captioner"):
        VislexLMM(str(captioner_folder), codec="box")
    with pytest.raises(CheckpointError):
        VislexLMM(str(tmp_path / "nowhere"))
    poisoned = shutil.copytree(host, tmp_path / "poisoned")
    config = json.loads((poisoned / "config.json").read_text())
    (poisoned / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Model"}}))
    with pytest.raises(CheckpointError, match="auto_map"):
        VislexLMM(str(poisoned))


def asked(model: VislexLMM, *content: dict[str, Any], **options: Any) -> str:
    """The answer to one message."""
    model.task_dict = {"talk": {"test": [{}]}}
    messages = [{"role": "user", "content": list(content)}]
    arguments = ("", lambda document: messages, options, 0, "talk", "test")
    metadata = {"task": "talk", "doc_id": 0, "repeats": 1}
    answer: str = model.generate_until([Instance("generate_until", arguments, 0, metadata)])[0].text
    return answer


def test_messages_become_turns(answering: Path, vlm: VisionLanguageModel) -> None:
    frames = [Image.new("RGB", (40, 40), (shade, 90, 255 - shade)) for shade in range(0, 250, 50)]
    question = {"type": "text", "text": "is there a cat?"}
    opened, _ = open_model(str(answering))
    model = VislexLMM(str(answering), num_frames=2, system="be brief")
    film = asked(model, {"type": "video", "url": frames}, question, max_new_tokens=6)
    assert film == opened.ask([[frames[1], frames[3]]], [question["text"]], system="be brief", max_new_tokens=6)[0].text
    grey = frames[0].convert("L")
    whole = asked(model, {"type": "image", "url": grey}, question, max_new_tokens=6)
    assert whole == opened.ask([grey.convert("RGB")], [question["text"]], system="be brief", max_new_tokens=6)[0].text
    first = asked(model, {"type": "image", "url": grey}, question, max_new_tokens=6, until=[" "])
    assert first == whole.split()[0] != whole
    assert asked(model, question, max_new_tokens=2)
    with pytest.raises(DataError, match="this task has audio"):
        asked(model, {"type": "audio", "url": "a.wav"}, question)


def test_every_round_gets_the_answers_before_it(answering: Path) -> None:
    model = VislexLMM(str(answering), batch_size=2)
    seen = []

    def to_messages(
        document: dict[str, Any], *, round_idx: int, previous_output: list[str], previous_round_info: Any
    ) -> Any:
        seen.append((document["name"], round_idx, len(previous_output), previous_round_info))
        if round_idx == document["rounds"]:
            return None, True, previous_output, None
        content = [{"type": "text", "text": f"is there a {' '.join(previous_output)}?"}]
        return [{"role": "user", "content": content}], False, None, round_idx

    model.task_dict = {"talk": {"test": [{"name": "a", "rounds": 1}, {"name": "b", "rounds": 3}]}}
    requests = [
        Instance(
            request_type="generate_until_multi_round",
            arguments=("", to_messages, {"max_new_tokens": 2}, place, "talk", "test"),
            idx=0,
            metadata={"task": "talk", "doc_id": place, "repeats": 1},
        )
        for place in (0, 1)
    ]
    answers = model.generate_until_multi_round(requests)
    assert [len(own) for own in answers] == [1, 3]
    assert ("b", 2, 2, 1) in seen
    assert all(answers[1])


def _rank(rank: int, folder: Path, meeting: Path, out: Path) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    model = VislexLMM(str(folder), batch_size=4)
    tasks = [OPENMOJI["vqa"]]
    found = simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=lmms_run.task_manager(tasks),
        limit=7,
        gen_kwargs="max_new_tokens=3,do_sample=True",
        bootstrap_iters=0,
        distributed_executor_backend="torchrun",
    )
    if rank == 0:
        answers = {own["doc_id"]: own["filtered_resps"][0] for own in found["samples"][tasks[0]]}
        scores = {name.partition(",")[0]: value for name, value in found["results"][tasks[0]].items()}
        out.write_text(json.dumps({"answers": [answers[i] for i in sorted(answers)], "accuracy": scores["accuracy"]}))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_answer_as_one(answering: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [
        context.Process(target=_rank, args=(rank, answering, tmp_path / "meeting", tmp_path / "two.json"))
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    two = json.loads((tmp_path / "two.json").read_text())
    one = run(answering, OPENMOJI["vqa"], 7, max_new_tokens=3, do_sample=True)
    assert two == {"answers": one["answers"], "accuracy": one["scores"]["accuracy"]}


def test_the_group_of_fifteen_names_tasks_that_there_are() -> None:
    own = lmms_run.task_manager([OPENMOJI["vqa"]])
    names = lmms_run.leaf_tasks(own, ["vislex_vilex15"])
    assert len(names) == 15 - 1 + 3  # RefCOCO's three splits are one of the fifteen
    stock = [name for name in names if name not in own.task_index]
    assert len(stock) == 8
    folder = Path(lmms_eval.__file__).parent / "tasks"
    found = {
        match
        for file in sorted(folder.glob("*/*.yaml"))
        for match in re.findall(r'^task: *"?([\w+-]+)', file.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert set(stock) <= found
    assert not [name for name in own.task_index if name in found]


def test_bench_lmms_keeps_finished_rows(answering: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "lmms", OPENMOJI["vqa"], "-m", str(answering), "--limit", "4", "--max-new-tokens", "2"]
    assert main([*command, "--json", "--out", str(tmp_path)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {(row["model"], row["task"], row["n"]) for row in rows} == {("answering", OPENMOJI["vqa"], 4)}
    written = json.loads((tmp_path / "lmms.json").read_text())
    assert written["provenance"][0]["packages"]["torch"] == torch.__version__.partition("+")[0]
    assert written["rows"][0]["lmms-eval"]["generation"]["max_new_tokens"] == 2
    assert len(written["rows"][0]["answers"]) == 4
    written["rows"][0]["scores"]["accuracy"] = 0.123
    (tmp_path / "lmms.json").write_text(json.dumps(written))
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert "0.123" in capsys.readouterr().out
    assert main([*command[:-1], "3", "--option", "system=be brief", "--out", str(tmp_path), "--json"]) == 0
    assert len(json.loads((tmp_path / "lmms.json").read_text())["rows"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no task given"),
        ([OPENMOJI["vqa"]], "no model given"),
        ([OPENMOJI["vqa"], "-m", "x", "--size", "3"], "--limit cuts them"),
        ([OPENMOJI["vqa"], "-m", "x", "--data", "refcoco"], "NAME:PLACE"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "lmms", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert main(["bench", "vqa", "--limit", "3"]) == 2
    assert "write --size 3" in capsys.readouterr().err
