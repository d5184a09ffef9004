"""The swap matrix: every host family, real classes at tiny sizes, with every kind of encoder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, SiglipConfig, Trainer, TrainingArguments

import vislex
from vislex.adapters.hosts import host_family, live_tensors, load_host, part_digests
from vislex.adapters.swap import SwapResult
from vislex.adapters.swap_report import SwapReport
from vislex.cli.main import main
from vislex.errors import CheckpointError, SpecError, UnknownNameError
from vislex.training.parts import PartSettings, prepare_parts

HOSTS = vislex.list_hosts()
ENCODERS = ("siglip", "clip", "registers", "conv", "naflex", "vilex-1", "vilex-16")
# Pairs that cannot work, and words of the reason; docs/hosts.md lists them too.
REFUSED = {(host, "vilex-16"): "lays the tokens of square tiles" for host in ("llava_next", "llava_onevision")}
PAIRS = [(host, encoder) for host in HOSTS for encoder in ENCODERS]


def pictures(count: int = 1) -> list[Image.Image]:
    """Random images of several shapes."""
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 255, (30 + 9 * i, 44, 3), dtype=np.uint8)) for i in range(count)]


def swapped(tiny_hosts: ModuleType, host: str, encoder: str, **options: Any) -> SwapResult:
    return vislex.swap_encoder(*tiny_hosts.build(host), tiny_hosts.ENCODERS[encoder](), **options)


def prepare(processor: Any, count: int = 1) -> dict[str, Any]:
    """The same prompt for each image."""
    prompts = [f"{processor.image_token} what is shown ?"] * count
    images = [[image] for image in pictures(count)]
    return dict(processor(images=images, text=prompts, padding=True, return_tensors="pt"))


def image_tokens(result: SwapResult, inputs: dict[str, Any]) -> int:
    return int((inputs["input_ids"] == result.model.config.image_token_id).sum())


def features(output: Any) -> int:
    """Tokens that the host's connector gave for a batch of images."""
    return sum(image.reshape(-1, image.shape[-1]).shape[0] for image in output.image_outputs.pooler_output)


@pytest.mark.parametrize(("host", "encoder"), PAIRS)
@torch.no_grad()
def test_every_pair_gives_as_many_features_as_its_prompt_has_room_for(
    tiny_hosts: ModuleType, host: str, encoder: str
) -> None:
    if reason := REFUSED.get((host, encoder)):
        with pytest.raises(SpecError, match=reason):
            swapped(tiny_hosts, host, encoder)
        return
    result = swapped(tiny_hosts, host, encoder)
    inputs = prepare(result.processor, 2)
    output = result.model(**inputs)
    assert image_tokens(result, inputs) == features(output)
    assert output.logits.isfinite().all()
    assert (output.logits[0] - output.logits[1])[-1].abs().max() > 1e-3  # the image reaches the last word
    assert [row["retrain"] for row in result.report.parts] == ["optional", "required", "optional"]


def reopened(result: SwapResult, folder: Path) -> None:
    """Generates with cache and without, saves, opens again, and compares."""
    inputs = prepare(result.processor)
    logits = result.model(**inputs).logits
    written = result.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(written, result.model.generate(**inputs, max_new_tokens=4, do_sample=False, use_cache=False))
    result.save_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    again = prepare(AutoProcessor.from_pretrained(folder))
    assert again.keys() == inputs.keys()
    assert all(torch.equal(again[key], inputs[key]) for key in inputs)
    assert torch.equal(model(**again).logits, logits)
    assert torch.equal(model.generate(**again, max_new_tokens=4, do_sample=False), written)
    digests = part_digests(host_family(model.config), live_tensors(model))
    assert [row["sha256"] for row in result.report.parts] == [row["sha256"] for row in digests.values()]
    assert SwapReport.load(folder) == result.report
    assert ("vislex" in (folder / "config.json").read_text()) == result.report.needs_vislex


@pytest.mark.parametrize("host", HOSTS)
@torch.no_grad()
def test_a_swapped_host_writes_and_opens_again(tiny_hosts: ModuleType, host: str, tmp_path: Path) -> None:
    reopened(swapped(tiny_hosts, host, "registers"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("host", "encoder"), [pair for pair in PAIRS if pair not in REFUSED])
@torch.no_grad()
def test_every_swapped_host_writes_and_opens_again(
    tiny_hosts: ModuleType, host: str, encoder: str, tmp_path: Path
) -> None:
    reopened(swapped(tiny_hosts, host, encoder), tmp_path)


@pytest.mark.parametrize("host", HOSTS)
@torch.no_grad()
def test_a_hosts_own_encoder_leaves_its_logits_bit_equal(tiny_hosts: ModuleType, host: str, tmp_path: Path) -> None:
    model, processor = tiny_hosts.build(host)
    inputs = prepare(processor)
    before = model(**inputs).logits
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    result = vislex.swap_encoder(model, processor, f"hf:{tmp_path}")
    again = prepare(result.processor)
    assert all(torch.equal(again[key], inputs[key]) for key in inputs)
    assert torch.equal(result.model(**again).logits, before)
    assert (result.report.kind, result.report.new, result.report.changes) == ("own", [], [])
    assert {row["retrain"] for row in result.report.parts} == {"no"}

    # Other weights of the same architecture, with another mean: the connector stays, and the processor follows.
    encoder = vislex.create_encoder(f"hf:{tmp_path}")
    encoder.config.spec["mean"] = [0.1, 0.2, 0.3]
    connector = part_digests(host_family(model.config), live_tensors(model))["connector"]
    result = vislex.swap_encoder(model, processor, encoder)
    assert result.report.kind == "own"
    assert [row["weights"] for row in result.report.parts] == ["the encoder's", "kept", "kept"]
    assert result.report.parts[1]["sha256"] == connector["sha256"]
    assert list(result.processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
    assert list(processor.image_processor.image_mean) != [0.1, 0.2, 0.3]
    assert not torch.equal(result.model(**prepare(result.processor)).logits, before)


def test_a_refused_swap_leaves_the_host_as_it_was(tiny_hosts: ModuleType) -> None:
    host, processor = tiny_hosts.build("llava_next")
    config, weights = host.config.to_dict(), part_digests(host_family("llava_next"), live_tensors(host))
    with pytest.raises(SpecError, match="this encoder gives 16 tokens that form no map"):
        vislex.swap_encoder(host, processor, tiny_hosts.ENCODERS["vilex-16"]())
    assert host.config.to_dict() == config
    assert part_digests(host_family("llava_next"), live_tensors(host)) == weights
    with pytest.raises(UnknownNameError, match=r"no host family 'siglip'. Encoders can be swapped in: gemma3, "):
        host_family(SiglipConfig())


@torch.no_grad()
def test_a_tower_gives_the_encoders_very_tokens(tiny_hosts: ModuleType) -> None:
    pixels = torch.randn(2, 3, 42, 42)
    encoder = tiny_hosts.ENCODERS["registers"]()
    tower = vislex.swap_encoder(*tiny_hosts.build("llava"), encoder).model.model.vision_tower
    output = tower(pixels, output_hidden_states=[-1])
    assert torch.equal(output.last_hidden_state, encoder(pixels).tokens)
    assert torch.equal(output.hidden_states[-1], encoder(pixels).tokens)
    assert torch.equal(output.pooler_output, encoder(pixels).pooled)

    # NaFlex: an image of the very size goes the same way as through its own processor.
    encoder = tiny_hosts.ENCODERS["naflex"]()
    result = vislex.swap_encoder(*tiny_hosts.build("llava"), encoder)
    image = pictures()[0].resize((16, 16))
    own = encoder(**vislex.create_image_processor(encoder.spec)(image, return_tensors="pt"))
    pixels = result.processor.image_processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(result.model.model.vision_tower(pixels).last_hidden_state, own.tokens)
    assert any("squashed to 16 x 16 pixels" in note for note in result.report.notes)


@torch.no_grad()
def test_a_layer_of_a_stock_tower_is_the_hosts_own_choice_or_wrapped(tiny_hosts: ModuleType) -> None:
    encoder = vislex.create_encoder("clip-b16", tiny=True, layer=0)
    result = vislex.swap_encoder(*tiny_hosts.build("llava"), encoder)
    model = result.model
    assert (result.report.kind, model.config.vision_feature_layer) == ("stock", 1)
    assert model.config.vision_feature_select_strategy == "default"
    pixels = torch.randn(1, 3, 16, 16)
    expected = model.model.multi_modal_projector(encoder(pixels).tokens)
    torch.testing.assert_close(model.get_image_features(pixels).pooler_output[0], expected[0])

    encoder = vislex.create_encoder("siglip-b16-256", tiny=True, layer=0)
    result = vislex.swap_encoder(*tiny_hosts.build("paligemma"), encoder)
    assert result.report.kind == "wrapped"
    assert torch.equal(result.model.model.vision_tower(pixels).last_hidden_state, encoder(pixels).tokens)


def test_gemma3_pools_to_no_more_tokens_than_it_had(tiny_hosts: ModuleType) -> None:
    host, processor = tiny_hosts.build("gemma3")
    result = vislex.swap_encoder(host, processor, "siglip-tiny")  # 8 x 8 tokens, cells of 4 x 4
    assert (host.config.mm_tokens_per_image, result.processor.image_seq_length, result.report.notes) == (4, 4, [])
    host, processor = tiny_hosts.build("gemma3")
    result = vislex.swap_encoder(host, processor, tiny_hosts.ENCODERS["registers"]())
    assert host.config.mm_tokens_per_image == 1  # 3 x 3 tokens in one cell
    assert host.model.multi_modal_projector.mm_input_projection_weight.std() > 0.1
    wide = vislex.create_encoder("siglip-b16-256", tiny=True, image_size=(16, 24))
    with pytest.raises(SpecError, match=r"in a square, this encoder gives 24 in a map of \(4, 6\)"):
        vislex.swap_encoder(host, processor, wide)


@torch.no_grad()
def test_maps_that_are_no_square_fit_hosts_that_take_any_tokens(tiny_hosts: ModuleType) -> None:
    for host in ("llava", "paligemma"):
        wide = vislex.create_encoder("siglip-b16-256", tiny=True, image_size=(16, 24))
        result = vislex.swap_encoder(*tiny_hosts.build(host), wide)
        inputs = prepare(result.processor)
        assert inputs["pixel_values"].shape[-2:] == (16, 24)
        tokens = features(result.model(**inputs))
        assert image_tokens(result, inputs) == tokens == result.report.image_tokens == 24
    with pytest.raises(SpecError, match=r"a map of \(4, 6\) for \(16, 24\) pixels"):
        vislex.swap_encoder(*tiny_hosts.build("llava_next"), wide)


@torch.no_grad()
def test_onevision_counts_several_images_and_videos_too(tiny_hosts: ModuleType) -> None:
    for encoder in ("clip", "registers", "vilex-1"):
        result = swapped(tiny_hosts, "llava_onevision", encoder)
        model, processor = result.model, result.processor
        video = np.random.default_rng(0).integers(0, 255, (3, 30, 44, 3), dtype=np.uint8)
        inputs = processor(
            images=[pictures(2)], videos=[video], text="<image> red <image> dog <video> ?", return_tensors="pt"
        )
        assert model(**inputs).logits.isfinite().all()  # transformers compares both counts here
        assert list(processor.video_processor.image_mean) == list(processor.image_processor.image_mean)
        side = int(result.report.image_tokens**0.5)
        assert int((inputs["input_ids"] == model.config.video_token_id).sum()) == 3 * (-(-side // 2)) ** 2 + 1


def test_the_connector_is_drawn_from_the_seed_and_the_encoder_is_left_alone(tiny_hosts: ModuleType) -> None:
    encoder = tiny_hosts.ENCODERS["siglip"]()
    first, second, other = (
        vislex.swap_encoder(*tiny_hosts.build("llava"), encoder, seed=seed).report for seed in (1, 1, 2)
    )
    assert first == second
    assert first.parts[1]["sha256"] != other.parts[1]["sha256"]
    assert [row["part"] for row in first.parts if row not in other.parts] == ["connector"]
    host, processor = tiny_hosts.build("llava")
    assert first.new == [
        f"model.multi_modal_projector.{n}" for n, _ in host.model.multi_modal_projector.named_parameters()
    ]
    result = vislex.swap_encoder(host.to(torch.bfloat16), processor, encoder)
    assert {p.dtype for p in result.model.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert "the encoder's weights were cast from torch.float32 to the host's torch.bfloat16" in result.report.notes


def test_the_same_wrapped_encoder_again_keeps_the_connector(tiny_hosts: ModuleType) -> None:
    encoder = tiny_hosts.ENCODERS["registers"]()
    result = vislex.swap_encoder(*tiny_hosts.build("gemma3"), encoder)
    again = vislex.swap_encoder(result.model, result.processor, encoder)
    assert (again.report.kind, again.report.changes) == ("own", [])
    assert [row["sha256"] for row in again.report.parts] == [row["sha256"] for row in result.report.parts]


def test_what_is_padded_stays_padded_where_the_host_can(tiny_hosts: ModuleType) -> None:
    encoder = vislex.create_encoder("timm:test_vit.r160_in1k", resize="pad")
    result = vislex.swap_encoder(*tiny_hosts.build("paligemma"), encoder)
    theirs = vislex.create_image_processor(encoder.spec)(pictures(), return_tensors="pt")["pixel_values"]
    assert torch.equal(prepare(result.processor)["pixel_values"], theirs)
    for host in ("gemma3", "llava_next"):
        result = vislex.swap_encoder(*tiny_hosts.build(host), encoder)
        assert "not padded" in str(result.report.notes)


@pytest.mark.parametrize("host", HOSTS)
def test_each_part_trains_alone(tiny_hosts: ModuleType, host: str) -> None:
    result = swapped(tiny_hosts, host, "registers")
    family, model = host_family(host), result.model
    settings = {part: PartSettings(mode="full" if part == "connector" else "frozen") for part in family.parts}
    plan = prepare_parts(model, family.training_parts(settings), lr=0.1, weight_decay=0.0)
    inputs = prepare(result.processor)
    inputs["labels"] = inputs["input_ids"]
    model(**inputs).loss.backward()
    torch.optim.AdamW(plan.groups).step()
    after = part_digests(family, live_tensors(model))
    changed = [row["part"] for row in result.report.parts if after[row["part"]]["sha256"] != row["sha256"]]
    assert changed in (["connector"], ["connector", "llm"])  # the newline of any-res hosts is no module's
    moved = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(family.part_of(name) == "connector" or name == "model.image_newline" for name in moved)


def test_a_trainer_trains_a_swapped_host(tiny_hosts: ModuleType, tmp_path: Path) -> None:
    result = swapped(tiny_hosts, "paligemma", "naflex")
    rows = [{**(inputs := prepare(result.processor)), "labels": inputs["input_ids"]}] * 4
    arguments = TrainingArguments(
        str(tmp_path), max_steps=3, learning_rate=0.02, report_to=[], use_cpu=True, remove_unused_columns=False
    )
    trainer = Trainer(result.model, arguments, train_dataset=rows, data_collator=lambda batch: dict(batch[0]))
    before = trainer.train().training_loss
    assert result.model(**rows[0]).loss.item() < before


def poisoned(config: dict[str, Any], place: str) -> dict[str, Any]:
    """The config of a folder with one key more, at a place."""
    name, _, value = place.partition("=")
    *path, key = name.split(".")
    inner = config
    for step in path:
        inner = inner[step]
    inner[key] = json.loads(value)
    return config


POISONS = (
    'vision_config.auto_map={"AutoModel": "evil.Model"}',
    "vision_config.trust_remote_code=true",
    'vision_config.encoder_config.backbone_config.auto_map={"AutoModel": "evil.Model"}',
    'vision_config.encoder_config.name="os:system"',
    "vision_config.encoder_config.trust_remote_code=true",
    'vision_config.encoder_config.surprise="x"',
)


@pytest.fixture(scope="module")
def folder(tiny_hosts: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swapped")
    swapped(tiny_hosts, "llava", "registers").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("poison", [*POISONS, 'auto_map={"AutoModel": "evil.Model"}', 'text_config.x="os:system"'])
def test_a_poisoned_config_is_refused(
    folder: Path, poison: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(poisoned(config, poison)))
    with pytest.raises(CheckpointError, match=r"no checkpoint may set|does not have|is the import path"):
        load_host(tmp_path)
    if poison in POISONS:  # the rest is transformers' to refuse: it runs none of it without trust_remote_code
        with pytest.raises(CheckpointError, match=r"no checkpoint may set|does not have|is the import path"):
            AutoModelForImageTextToText.from_pretrained(tmp_path)
    if "surprise" not in poison:
        assert main(["info", str(tmp_path)]) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_folder_of_stock_parts_opens_without_vislex(tiny_hosts: ModuleType, tmp_path: Path) -> None:
    result = swapped(tiny_hosts, "llava", "clip")
    result.save_pretrained(tmp_path)
    assert not result.report.needs_vislex
    assert "import vislex" not in (tmp_path / "README.md").read_text()
    assert not any("vislex" in (tmp_path / name).read_text() for name in ("config.json", "processor_config.json"))


@pytest.mark.slow
@torch.no_grad()
def test_a_folder_of_stock_parts_in_a_process_without_vislex(tiny_hosts: ModuleType, tmp_path: Path) -> None:
    result = swapped(tiny_hosts, "paligemma", "siglip")
    result.save_pretrained(tmp_path)
    code = f"""
import sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained({str(tmp_path)!r})
processor = AutoProcessor.from_pretrained({str(tmp_path)!r})
inputs = processor(images=[Image.new("RGB", (9, 7), "red")], text=["<image> red dog"], return_tensors="pt")
assert not any(name.startswith("vislex") for name in sys.modules)
print(float(model(**inputs).logits.double().sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    image = Image.new("RGB", (9, 7), "red")
    inputs = result.processor(images=[image], text=["<image> red dog"], return_tensors="pt")
    assert float(done.stdout) == pytest.approx(float(result.model(**inputs).logits.double().sum()), rel=1e-6)


def test_the_guide_lists_every_host_and_what_it_refuses() -> None:
    text = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text(encoding="utf-8")
    cells = [line.split("|") for line in text.splitlines() if line.startswith("| `") and line.count("|") == 4]
    refuses = {host: row[3].strip() for row in cells for host in row[1].split("`")[1::2]}
    assert set(refuses) >= set(HOSTS)
    for host, encoder in REFUSED:
        assert refuses[host] != "nothing", host
        assert "ViLex with 16 tokens" in refuses[host] or refuses[host].startswith("as `"), (host, encoder)
