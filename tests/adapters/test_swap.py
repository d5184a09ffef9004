"""The swap matrix: every host family, real classes at tiny sizes, with every kind of encoder."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

import vislex
from vislex.adapters.hosts import host_family, live_tensors, part_digests
from vislex.adapters.swap import SwapResult
from vislex.adapters.swap_report import SwapReport
from vislex.errors import SpecError

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
    """One prompt an image."""
    prompts = [f"{processor.image_token} what is shown ?", f"{processor.image_token} red dog ."][:count]
    return dict(
        processor(images=[[image] for image in pictures(count)], text=prompts, padding=True, return_tensors="pt")
    )


def image_tokens(result: SwapResult, inputs: dict[str, Any]) -> int:
    return int((inputs["input_ids"] == result.model.config.image_token_id).sum())


def features(result: SwapResult, inputs: dict[str, Any]) -> int:
    """Tokens that the host's connector gives for a batch of images."""
    given = {key: inputs[key] for key in result.processor.image_processor.model_input_names if key in inputs}
    output = result.model.get_image_features(**given).pooler_output
    return sum(image.reshape(-1, image.shape[-1]).shape[0] for image in output)


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
    assert image_tokens(result, inputs) == features(result, inputs)
    logits = result.model(**inputs).logits
    assert logits.isfinite().all()
    other = {**inputs, "pixel_values": inputs["pixel_values"].flip(-1)}
    assert (result.model(**other).logits - logits)[:, -1].abs().max() > 1e-3  # the image reaches the last word
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
