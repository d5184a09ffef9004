"""Names of parts: exact, by glob, near misses, duplicates, lazy and broken targets."""

from __future__ import annotations

import importlib

import pytest

import vislex
from vislex.catalog import CATALOG
from vislex.errors import DuplicateNameError, UnknownNameError, VislexError
from vislex.registry import KINDS, Registry, registry


def _filled() -> Registry:
    parts = Registry("encoders")
    parts.register("siglip-b16-256", "json:loads", "one", image_size=(256, 256))
    parts.register("siglip-b16-384", "json:dumps")
    parts.register("timm:", "json:JSONDecoder.decode")
    return parts


def test_names_are_exact_and_globs_sort() -> None:
    parts = _filled()
    assert parts.names() == ["siglip-b16-256", "siglip-b16-384", "timm:"]
    assert parts.names("*256") == ["siglip-b16-256"]
    assert parts.names("SIGLIP*") == []
    assert parts.get("siglip-b16-256").options == {"image_size": (256, 256)}
    for wrong in ("siglip", "siglip-b16-25", "SIGLIP-b16-256", ""):  # no substring, no case folding
        with pytest.raises(UnknownNameError):
            parts.get(wrong)


def test_a_near_miss_is_named_with_what_to_do() -> None:
    with pytest.raises(UnknownNameError) as caught:
        _filled().get("siglip_b16_256")
    expected = "unknown encoder 'siglip_b16_256'; did you mean 'siglip-b16-256' or 'siglip-b16-384'?"
    assert str(caught.value) == f"{expected} See 'vislex list encoders'"
    with pytest.raises(UnknownNameError, match="unknown kind 'encoder'; did you mean 'encoders'"):
        registry("encoder")


def test_a_taken_name_is_refused_and_kept() -> None:
    parts = _filled()
    with pytest.raises(DuplicateNameError, match=r"'timm:' from rival .* already registered by session"):
        parts.register("timm:", "json:other", origin="rival")
    assert parts.get("timm:").target == "json:JSONDecoder.decode"


def test_families_answer_for_what_follows_the_colon() -> None:
    parts = _filled()
    entry, rest = parts.resolve("timm:vit_tiny:x")
    assert (entry.name, entry.is_family, rest) == ("timm:", True, "vit_tiny:x")
    assert parts.resolve("siglip-b16-256")[1] is None
    assert parts.resolve("timm:") == (entry, None)
    with pytest.raises(UnknownNameError, match="unknown family 'tim:' in 'tim:vit'; did you mean 'timm:'"):
        parts.resolve("tim:vit")


def test_targets_load_when_asked_and_broken_ones_say_whose_they_are() -> None:
    import json

    parts = _filled()
    assert parts.get("siglip-b16-256").load() is json.loads
    assert parts.get("timm:").load() is json.JSONDecoder.decode
    parts.register("gone", "no_such_module_here:x", origin="some-package")  # registering imports nothing
    parts.register("bare", "json:no_such_attribute")
    with pytest.raises(VislexError, match=r"'gone' \(some-package\) points to 'no_such_module_here:x'"):
        parts.get("gone").load()
    with pytest.raises(VislexError, match="no_such_attribute"):
        parts.get("bare").load()


def test_every_kind_of_the_catalog_is_known_and_listed() -> None:
    assert set(CATALOG) <= set(KINDS)
    for kind in KINDS:
        lister = getattr(importlib.import_module("vislex.listing"), f"list_{kind}")
        assert set(CATALOG.get(kind, {})) <= set(lister())
        assert lister("no-such-*") == []


@pytest.mark.parametrize("kind", sorted(CATALOG))
def test_every_row_of_the_catalog_loads_and_has_a_line(kind: str) -> None:
    for name, (target, summary, _) in CATALOG[kind].items():
        assert summary, name
        assert "\n" not in summary
        assert len(summary) <= 120
        assert target.startswith("vislex."), name
        assert registry(kind).get(name).load() is not None, name


def test_public_names_resolve() -> None:
    for name in vislex.__all__:
        assert getattr(vislex, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vislex.nothing
