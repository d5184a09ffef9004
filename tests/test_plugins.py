"""Another package adds parts of every kind through entry points; its encoder is listed, built and trained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from vislex.cli.main import main
from vislex.registry import KINDS, registry

MODULE = '''
"""A third-party encoder: average colours of a grid, projected."""

from __future__ import annotations

from torch import Tensor, nn

from vislex.encoders.base import VisionEncoder, VisionEncoderConfig
from vislex.specs import EncoderSpec, VisionTokens


class ColourConfig(VisionEncoderConfig):
    model_type = "acme_colours"


class ColourEncoder(VisionEncoder):
    config_class = ColourConfig

    def __init__(self, config: ColourConfig) -> None:
        super().__init__(config)
        self.backbone = nn.Linear(3, self.spec.dim)
        self.post_init()

    @classmethod
    def create(cls, source=None, *, pretrained=False, tiny=False, dim=16, **options):
        spec = EncoderSpec(dim=dim, grid=(4, 4), n_tokens=16, image_size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
        return cls(ColourConfig(name="acme-colours", spec=spec.to_dict()))

    def forward(self, pixel_values: Tensor, **image_inputs) -> VisionTokens:
        grid = nn.functional.adaptive_avg_pool2d(pixel_values, (4, 4))  # [B, 3, 4, 4]
        tokens = self.backbone(grid.flatten(2).transpose(1, 2))  # [B, 16, D]
        return VisionTokens(tokens, None, tokens.mean(1))
'''

LIGHT = '''
def anything(*args, **kwargs):
    """A part of another kind."""
    return "acme"
'''


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The package as an installer would leave it, in a folder of its own."""
    (tmp_path / "acme_parts.py").write_text(MODULE)
    (tmp_path / "acme_light.py").write_text(LIGHT)
    info = tmp_path / "acme_vislex_parts-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-vislex-parts\nVersion: 1.2\n")
    groups = {kind: {f"acme-{kind}": "acme_light:anything"} for kind in KINDS}
    groups["encoders"] = {"acme-colours": "acme_parts:ColourEncoder"}
    groups["codecs"]["acme-broken"] = "acme_light:Missing"
    (info / "entry_points.txt").write_text(
        "".join(
            f"[vislex.{kind}]\n" + "".join(f"{name} = {target}\n" for name, target in parts.items())
            for kind, parts in groups.items()
        )
    )
    return tmp_path


def _python(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env)


def test_parts_of_every_kind_are_listed_without_being_imported(installed: Path) -> None:
    code = textwrap.dedent("""
        import json, sys
        from vislex.registry import KINDS, registry
        found = {kind: registry(kind).names("acme-*") for kind in KINDS}
        assert "acme_parts" not in sys.modules and "torch" not in sys.modules
        print(json.dumps([found, registry("codecs").get("acme-codecs").load()()]))
    """)
    done = _python(installed, "-c", code)
    assert done.returncode == 0, done.stderr
    found, made = json.loads(done.stdout)
    assert found.pop("encoders") == ["acme-colours"]
    assert found.pop("codecs") == ["acme-broken", "acme-codecs"]
    assert found == {kind: [f"acme-{kind}"] for kind in KINDS if kind not in ("encoders", "codecs")}
    assert made == "acme"


def test_the_command_line_says_whose_a_part_is(installed: Path) -> None:
    done = _python(installed, "-m", "vislex", "list", "codecs", "acme-*")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("acme-vislex-parts") == 4  # summary and origin of both
    broken = _python(installed, "-m", "vislex", "info", "codec:acme-broken")
    assert broken.returncode == 2
    assert broken.stderr.startswith("error: 'acme-broken' (acme-vislex-parts) points to 'acme_light:Missing'")


def test_a_name_that_is_taken_is_refused(installed: Path) -> None:
    points = next(installed.glob("*.dist-info")) / "entry_points.txt"
    points.write_text("[vislex.suites]\ncoco = acme_light:anything\n")
    done = _python(installed, "-m", "vislex", "list", "suites")
    assert done.returncode == 2
    assert "'coco' from acme-vislex-parts (acme_light:anything) is already registered by vislex" in done.stderr


@pytest.fixture
def at_hand(installed: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package on this process's path; the registries are read again, and again after the test."""
    monkeypatch.syspath_prepend(str(installed))
    registry.cache_clear()
    yield
    for name in ("acme_parts", "acme_light"):
        sys.modules.pop(name, None)
    registry.cache_clear()


@pytest.mark.usefixtures("at_hand")
def test_its_encoder_is_built_and_trained(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from vislex import Captioner, create_encoder

    encoder = create_encoder("acme-colours")
    assert type(encoder).__module__ == "acme_parts"
    captioner = Captioner.from_parts(
        encoder=encoder, decoder="cross_attention", hidden_size=32, num_layers=1, num_heads=4, dropout=0.0
    )
    batch = captioner.processor.tokenizer(["a red square", "a blue square"], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    pixels = torch.stack([torch.full((3, 16, 16), -1.0), torch.full((3, 16, 16), 1.0)])
    optimizer = torch.optim.AdamW(captioner.parameters(), lr=1e-2)
    before = encoder.backbone.weight.detach().clone()
    losses = []
    for _ in range(40):
        loss = captioner(
            pixel_values=pixels,
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            labels=labels,
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0], losses
    assert not torch.equal(before, encoder.backbone.weight)

    assert main(["info", "acme-colours", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["parameters"], facts["n_tokens"], facts["from"]) == (4 * 16, 16, "acme-vislex-parts")
