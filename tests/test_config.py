"""Configuration: layers, budgets, and errors that name every problem at once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from vislex.config import BUDGETS, Config, dump_config, load_budgets, load_config, parse_overrides, read_yaml
from vislex.errors import ConfigError


class Inner(Config):
    name: str = "a"
    lr: float = Field(1e-3, gt=0)


class Outer(Config):
    budget_table: ClassVar[str] = "siglip_pretrain"  # its rows hold the fields below

    budget: Literal["smoke", "demo", "standard", "long"] = "standard"
    steps: int = 1
    batch_size: int = 1
    warmup_steps: int = 0
    eval_every: int = 1
    train_size: int = 1
    val_size: int = 1
    encoder: Inner = Inner()
    parts: dict[str, Inner] = Field(default_factory=dict)


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_lie_above_the_file_and_the_file_above_defaults(tmp_path: Path) -> None:
    config = load_config(Outer, write(tmp_path, "steps: 7\nencoder: {name: no}\n"), ["encoder.lr=1e-4"])
    assert (config.steps, config.encoder.name, config.encoder.lr) == (7, "no", 1e-4)


def test_a_budget_fills_its_layer_below_the_other_keys(tmp_path: Path) -> None:
    smoke = load_budgets()["siglip_pretrain"]["smoke"]
    path = write(tmp_path, "budget: demo\nsteps: 5000\n")
    assert load_config(Outer, path).steps == 5000
    assert load_config(Outer, path).batch_size == load_budgets()["siglip_pretrain"]["demo"]["batch_size"]
    assert load_config(Outer, path, ["budget=smoke"]).steps == smoke["steps"]
    assert load_config(Outer, path, ["budget=smoke", "steps=3"]).steps == 3


def test_all_errors_come_at_once_and_unknown_keys_name_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "stepz: 7\nencoder: {nmae: x, lr: -1}\nbudget: huge\n")
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path, ["batch_size=many", "parts.head.lrr=1"])
    message = str(caught.value)
    assert "6 errors" in message
    for expected in (
        "'stepz'; did you mean 'steps'",
        "'encoder.nmae'; did you mean 'name'",
        "encoder.lr",
        "budget",
        "'many'",
    ):
        assert expected in message
    assert "'parts.head.lrr'; did you mean 'lr'" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "line 3"),
        ("steps: 1\nsteps: 2\n", "line 2"),
        ("steps: 1\n  bad: 2\n", "line 2"),
        ("- 1\n- 2\n", "holds a list"),
        ("? [a]\n: 1\n", "line 1"),
        ("steps: !!python/object/apply:os.system ['true']\n", "line 1"),
        ("steps: \x01\n", "malformed YAML"),
    ],
)
def test_malformed_yaml_is_one_line_that_says_where(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        read_yaml(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_missing_or_binary_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "binary.yaml")


def test_every_bad_override_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(["steps", "=3", "a=1", "a.b=2", "c=[1"])
    for bad in ("'steps'", "'=3'", "'a.b=2'", "'c=[1'"):
        assert bad in str(caught.value)


def test_numbers_without_a_point_are_numbers() -> None:
    assert parse_overrides(["lr=1e-3", "n=12", "f=.5", "on=on", "t=true", "x=null", "v=1.2.3"]) == {
        "lr": 1e-3, "n": 12, "f": 0.5, "on": "on", "t": True, "x": None, "v": "1.2.3",
    }  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 10**6),
    st.floats(1e-9, 1e3),
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P")), min_size=1),
)
def test_a_dumped_config_reads_back(tmp_path_factory: pytest.TempPathFactory, steps: int, lr: float, name: str) -> None:
    config = Outer(steps=steps, encoder=Inner(name=name, lr=lr), parts={"head": Inner(name=name)})
    path = write(tmp_path_factory.mktemp("dump"), dump_config(config))
    assert load_config(Outer, path) == config


def test_budgets_are_known_names() -> None:
    for table in load_budgets().values():
        assert set(table) <= set(BUDGETS)


def test_aliases_are_counted_as_what_they_stand_for(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("a: &a {x: [1, 2]}\nb: [*a, *a]\n")
    assert read_yaml(file) == {"a": {"x": [1, 2]}, "b": [{"x": [1, 2]}] * 2}
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)]
    file.write_text("a0: &a0 [x, x]\n" + "".join(levels))  # two billion values in ten lines
    with pytest.raises(ConfigError, match=r"line 6.* more than 100,000 values"):
        read_yaml(file)
