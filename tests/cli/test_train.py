"""``vislex train``: what it shows, and mistakes as one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from vislex.cli.main import main
from vislex.cli.train import find_config
from vislex.config import load_budgets, load_config
from vislex.registry import registry


def test_show_prints_the_resolved_configuration_which_reads_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "caption", "--show", "budget=smoke", "steps=5", "parts.encoder.mode=lora"]) == 0
    shown = capsys.readouterr().out
    path = tmp_path / "shown.yaml"
    path.write_text(shown)
    config = load_config(registry("recipes").get("caption").load().config, path)
    assert (config.steps, config.batch_size) == (5, load_budgets()["caption"]["smoke"]["batch_size"])
    assert config.parts.encoder.mode == "lora"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["captoin"], "did you mean 'caption'"),
        (["caption", "stepz=3", "lr=fast"], "2 errors"),
        (["caption", "stepz=3", "lr=fast"], "did you mean 'steps'"),
        (["caption", "--config", "caption_prefix_embeded"], "did you mean 'caption_prefix_embedded'"),
        (["caption", "encoder=siglip-tyni", "budget=smoke"], "did you mean 'siglip-tiny'"),
        (["caption", "steps"], "write key=value"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(
    arguments: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_keys_and_configs_teach(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "caption", "--keys"]) == 0
    assert "parts.encoder.lora_rank: int = 8" in capsys.readouterr().out
    assert main(["train", "caption", "--configs"]) == 0
    told = capsys.readouterr().out
    assert "vislex train caption --config caption_prefix_embedded" in told
    assert str(find_config("caption_prefix_embedded").parent / "engines" / "fsdp2.yaml") in told


@pytest.mark.parametrize("recipe", ["caption", "siglip_pretrain"])
def test_packaged_configurations_are_valid_and_say_how_they_are_run(recipe: str) -> None:
    model = registry("recipes").get(recipe).load().config
    names = [path for path in find_config("caption_prefix_embedded").parent.glob(f"{recipe}_*.yaml")]
    assert names
    for path in names:
        load_config(model, path)
        assert f"vislex train {recipe} --config {path.stem}" in path.read_text()


@pytest.mark.parametrize("recipe", ["caption", "siglip_pretrain"])
def test_every_budget_is_valid(recipe: str) -> None:
    model = registry("recipes").get(recipe).load().config
    for budget, values in load_budgets()[recipe].items():
        config = load_config(model, None, [f"budget={budget}"])
        assert {key: getattr(config, key) for key in values} == values
