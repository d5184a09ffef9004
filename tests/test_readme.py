"""The README's Python runs, and every command that it shows exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vislex.cli.main import VERBS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL))
def test_python_of_the_readme_runs(code: str) -> None:
    names: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert set(names["scores"]) >= {"CIDEr-D", "BLEU-4", "ROUGE-L"}  # type: ignore[call-overload]


def test_commands_of_the_readme_exist() -> None:
    shown = set(re.findall(r"^\$ vislex (\w+)", README, flags=re.MULTILINE))
    assert len(shown) >= 4
    assert shown <= set(VERBS)
