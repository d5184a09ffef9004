import re
import subprocess
import sys

import pytest

import vislex
from vislex.errors import DataError, MissingDependencyError, VislexError
from vislex.metrics import ptb, score_diversity, score_java
from vislex.metrics.base import Scorer
from vislex.registry import registry

CANDIDATES = {"a": "a red dog sits near a tree", "b": "two cats"}
REFERENCES = {"a": ["a red dog near a tree", "the dog sits"], "b": ["two cats", "a pair of cats"]}


def test_every_scorer_of_the_catalog_loads_and_carries_its_versioned_id():
    ours = [entry for entry in registry("scorers") if entry.origin == "vislex"]
    assert {"bleu@1", "rouge-l@1", "cider-d@1", "meteor@1", "clipscore@1"} <= {entry.name for entry in ours}
    for entry in ours:
        assert re.fullmatch(r"[a-z0-9-]+@\d+", entry.name)
        scorer = entry.load()
        if isinstance(scorer, Scorer):
            assert scorer.id == entry.name
            assert scorer.keys
    assert "cider-d@1" in vislex.list_scorers("cider*")


def test_a_scorer_returns_its_own_keys():
    scorer = registry("scorers").get("bleu@1").load()
    assert list(scorer(CANDIDATES, REFERENCES)) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4"]


def test_metrics_import_without_torch():
    code = (
        "import sys; import vislex.metrics as m; assert 'numpy' not in sys.modules; "
        "m.score_captions, m.paired_bootstrap, m.score_diversity; "
        "from vislex.registry import registry; registry('scorers').get('cider-d@1').load(); "
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        __import__("vislex.metrics").metrics.nothing  # noqa: B018


def test_diversity_counts_words_and_new_captions():
    candidates = {1: "A dog.", 2: "a dog", 3: "a red cat"}
    scores = score_diversity(candidates, ["A DOG !", "a bird"])
    assert scores == pytest.approx(
        {
            "distinct-1": 4 / 7,
            "distinct-2": 3 / 4,
            "unique": 2 / 3,
            "vocabulary": 4,
            "mean-length": 7 / 3,
            "novelty": 1 / 3,
        }
    )
    assert "novelty" not in score_diversity(candidates)
    assert score_diversity({1: ""})["distinct-2"] == 0
    with pytest.raises(DataError, match="no candidate"):
        score_diversity({})


def test_java_metrics_say_what_is_missing(monkeypatch):
    with pytest.raises(DataError, match="unknown Java metrics WMD"):
        score_java(CANDIDATES, REFERENCES, ["WMD"])
    monkeypatch.setitem(sys.modules, "pycocoevalcap", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"METEOR needs .*pip install 'vislex\[java\]'"):
        score_java(CANDIDATES, REFERENCES)


def test_a_missing_java_runtime_is_named(monkeypatch, tmp_path):
    _fake_package(monkeypatch, tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VislexError, match="METEOR needs Java"):
        score_java(CANDIDATES, REFERENCES)


def test_spice_refuses_a_silent_download(monkeypatch, tmp_path):
    _fake_package(monkeypatch, tmp_path)
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(VislexError, match=r"SPICE needs Stanford CoreNLP.*allow_download=True"):
        score_java(CANDIDATES, REFERENCES, ["SPICE"])


def _fake_package(monkeypatch, folder):
    """An importable but empty pycocoevalcap, so that the checks before it run on machines without the extra."""
    package = folder / "pycocoevalcap"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))
    for name in [name for name in sys.modules if name.split(".")[0] == "pycocoevalcap"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.slow
def test_meteor_equals_the_official_value():
    pytest.importorskip("pycocoevalcap", reason="the extra 'java' is not installed")
    import json
    import shutil
    from pathlib import Path

    if shutil.which("java") is None:
        pytest.skip("no Java")
    golden = Path(__file__).parents[1] / "golden" / "captions"
    captions = json.loads((golden / "input.json").read_text(encoding="utf-8"))
    expected = json.loads((golden / "expected.json").read_text(encoding="utf-8"))["corpus"]["METEOR"]
    got = score_java(captions["candidates"], captions["references"])
    assert got["METEOR"] == pytest.approx(expected, abs=1e-6)


def test_the_token_cache_can_be_emptied():
    ptb.tokenize("half-eaten")
    assert ptb._lex_chunk.cache_info().currsize
    ptb.clear_cache()
    assert not ptb._lex_chunk.cache_info().currsize
