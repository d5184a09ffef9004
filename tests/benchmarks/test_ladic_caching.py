from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from vislex.benchmarks import ladic_latency
from vislex.benchmarks.ladic_caching import NaiveLadic, compare, main
from vislex.benchmarks.ladic_latency import Scale, build
from vislex.encoders.factory import create_encoder

SCALE = Scale(64, 1, 40, 16, 64, 64, 1)  # the encoder's tokens are 64 wide


def test_the_naive_loop_encodes_at_every_call_and_gives_the_same_captions() -> None:
    torch.manual_seed(0)
    encoder = create_encoder("timm:test_vit").eval()
    _, decoder = build(dataclasses.replace(SCALE, vision_dim=encoder.spec.dim))
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if parameter.ndim > 1 and not name.startswith("codec."):
                parameter.normal_(std=0.5)  # or the image would change a latent, but no word
    calls = []
    encoder.register_forward_hook(lambda *_: calls.append(1))
    rows = compare(encoder, decoder, steps=5, runs=2, batch_size=2)
    # A naive call has ten passes; a cached one encodes once; each scope encodes its features once.
    assert len(calls) == 2 + 3 * (10 + 1)
    assert [row["scope"] for row in rows] == ["from pixels", "from features"]
    for row in rows:
        assert row["identical"]
        assert row["ratio"] == pytest.approx(row["seconds"]["naive"] / row["seconds"]["cached"])
    pixels = torch.randn(2, 3, *encoder.spec.image_size)
    naive = NaiveLadic.of(decoder, encoder)
    naive.image = pixels
    options = {"num_inference_steps": 3, "guidance_scale": 1.0, "length": 8}
    own = naive.generate(vision_tokens=encoder(pixels).tokens, **options)
    naive.image = pixels.flip(0)  # what it reads is the image, not the tokens that it was given
    assert not torch.equal(own, naive.generate(vision_tokens=encoder(pixels).tokens, **options))


def test_the_command_writes_both_ratios(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = create_encoder("timm:test_vit")
    monkeypatch.setitem(ladic_latency.SCALES, "small", dataclasses.replace(SCALE, vision_dim=encoder.spec.dim))
    out = tmp_path / "caching.json"
    main(["--encoder", "timm:test_vit", "--scale", "small", "--steps", "2", "--runs", "1", "--out", str(out)])
    assert [row["scope"] for row in json.loads(out.read_text())["rows"]] == ["from pixels", "from features"]
    assert capsys.readouterr().out.count("ratio") == 2
