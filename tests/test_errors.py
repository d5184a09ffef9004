"""Errors a user can act on."""

from __future__ import annotations

import pytest

from vislex import errors
from vislex.errors import MissingDependencyError, VislexError, did_you_mean


def test_every_error_is_a_vislex_error_and_a_python_one() -> None:
    made = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]
    assert len(made) >= 9
    for kind in made:
        assert issubclass(kind, VislexError)
        assert kind is VislexError or kind.__mro__[-3] is Exception


def test_did_you_mean() -> None:
    assert did_you_mean("encodr", ["encoder", "decoder", "x"]) == "; did you mean 'encoder' or 'decoder'?"
    assert did_you_mean("zzz", ["encoder"]) == "."


def test_a_missing_package_says_how_to_install_it() -> None:
    with pytest.raises(ImportError, match=r"METEOR needs .*'pycocoevalcap'.* pip install 'vislex\[java\]'"):
        raise MissingDependencyError("pycocoevalcap", "METEOR", extra="java")
    assert str(MissingDependencyError("foo", "This")).endswith("pip install foo")
