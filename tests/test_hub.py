from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

import vislex.auto  # noqa: F401
from vislex.captioner import Captioner
from vislex.captioner_config import CaptionerConfig
from vislex.encoders.factory import create_encoder
from vislex.errors import CheckpointError
from vislex.hub import check_config, check_folder, drop_unknown_keys, model_card, read_notes
from vislex.text import load_tokenizer, prune_tokenizer


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    """The config of a captioner as it is written to disk."""
    tokenizer = prune_tokenizer(load_tokenizer(), ["a dog"])[0]
    encoder = create_encoder("siglip-tiny", tiny=True)
    sizes = {"hidden_size": 8, "num_layers": 1, "num_heads": 2}
    captioner = Captioner.from_parts(encoder=encoder, decoder="prefix", tokenizer=tokenizer, **sizes)
    return json.loads(captioner.config.to_json_string(use_diff=False))


def at(config: dict[str, Any], place: str) -> dict[str, Any]:
    for step in filter(None, place.split(".")):
        config = config[step]
    return config


def test_what_vislex_writes_passes(config: dict[str, Any]) -> None:
    check_config(config)


@pytest.mark.parametrize("name", ["siglip-tiny", "efficientnet-lite0", "dinov2-s14", "siglip2-b16-naflex"])
def test_configs_of_encoders_pass(name: str) -> None:
    raw = json.loads(create_encoder(name, tiny=True).config.to_json_string(use_diff=False))
    check_config(drop_unknown_keys(raw))  # as a captioner's config writes it


FORBIDDEN = (
    "trust_remote_code", "auto_map", "attn_implementation", "_attn_implementation_internal",
    "_experts_implementation_internal", "cache_dir", "revision", "weights_only", "code_revision", "checkpoint_path",
)  # fmt: skip


@pytest.mark.parametrize(
    "place",
    [
        "",
        "encoder_config",
        "encoder_config.backbone_config",
        "decoder_config.text_config",
        "parts",
        "encoder_config.spec",
    ],
)
def test_forbidden_keys_anywhere(config: dict[str, Any], place: str) -> None:
    for key in FORBIDDEN:
        for value in (True, False, None, "x"):
            hostile = copy.deepcopy(config) | {"parts": {"encoder": {"by": "value"}}}
            at(hostile, place)[key] = value
            with pytest.raises(CheckpointError, match=f"'{key}'") as caught:
                check_config(hostile)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["os:system", "my_module.sub:Class.method", "builtins:eval"])
@pytest.mark.parametrize(
    ("place", "key"), [("encoder_config", "name"), ("encoder_config.backbone_config", "hidden_act"), ("", "parts")]
)
def test_import_paths_are_no_values(config: dict[str, Any], path: str, place: str, key: str) -> None:
    hostile = copy.deepcopy(config)
    at(hostile, place)[key] = {"encoder": {"by": path}} if key == "parts" else path
    with pytest.raises(CheckpointError, match="import path"):
        check_config(hostile)


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224", "hf:models/mine", "fused:timm:a+timm:b", "siglip-tiny"])
def test_encoder_names_are_no_import_paths(config: dict[str, Any], name: str) -> None:
    named = copy.deepcopy(config)
    named["encoder_config"]["name"] = name
    check_config(named)


def test_unknown_keys_and_types_are_named(config: dict[str, Any]) -> None:
    hostile = copy.deepcopy(config)
    hostile["decoder_config"]["max_lenght"] = 3
    with pytest.raises(CheckpointError, match=r"'max_lenght'.*did you mean 'max_length'"):
        check_config(hostile)
    hostile = copy.deepcopy(config)
    hostile["decoder_config"]["model_type"] = "evil"
    with pytest.raises(CheckpointError, match="model type 'evil'"):
        check_config(hostile)
    hostile = copy.deepcopy(config)
    hostile["architectures"] = ["os.system"]
    with pytest.raises(CheckpointError, match="no class name"):
        check_config(hostile)
    with pytest.raises(CheckpointError, match="no model_type"):
        check_config({})


def test_a_source_has_its_own_keys(config: dict[str, Any]) -> None:
    named = copy.deepcopy(config)
    named["encoder_config"]["source"] = {"kind": "hub", "location": "org/x", "revision": "abc", "sha256": "0"}
    check_config(named)
    named["encoder_config"]["source"]["cache_dir"] = "/"
    with pytest.raises(CheckpointError, match="'cache_dir'"):
        check_config(named)


def test_nesting_is_bounded(config: dict[str, Any]) -> None:
    hostile = copy.deepcopy(config)
    inner: dict[str, Any] = {}
    hostile["parts"] = inner
    for _ in range(40):
        inner["encoder"] = inner = {}
    with pytest.raises(CheckpointError, match="levels deep"):
        check_config(hostile)


def test_every_way_to_a_config_is_checked(config: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**config, "trust_remote_code": True}))
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        CaptionerConfig.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="trust_remote_code"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        check_folder(tmp_path)


def test_leftovers_of_old_checkpoints_are_not_saved(config: dict[str, Any]) -> None:
    made = CaptionerConfig.from_dict(copy.deepcopy(config))
    made.decoder_config.text_config.n_ctx = 1024
    made.decoder_config.text_config.task_specific_params = {"text-generation": {"max_length": 50}}
    check_config(json.loads(made.to_json_string(use_diff=False)))


@pytest.mark.parametrize(
    "notes", ["", "Trained on drawings.", "| loss |\n|---|\n\n```python\nimport x\n```\n\nCC BY-SA 4.0."]
)
def test_the_notes_of_a_model_card_are_read_again(tmp_path: Path, notes: str) -> None:
    (tmp_path / "README.md").write_text(model_card("Mine", {"Encoder": "x"}, "import vislex", notes))
    assert read_notes(tmp_path) == notes


def test_there_are_no_notes_without_such_a_card(tmp_path: Path) -> None:
    assert read_notes(tmp_path) == read_notes("org/name") == ""
    (tmp_path / "README.md").write_bytes(b"# Mine \xff")
    assert read_notes(tmp_path) == ""
    (tmp_path / "README.md").write_text("# Mine\n\n```python\nx\n```\n")
    assert read_notes(tmp_path) == ""


def test_the_model_card_has_the_metadata_of_the_hub() -> None:
    card = model_card("Mine", {"Encoder": "x"}, "import vislex", "Trained on drawings.")
    assert card.startswith("---\nlibrary_name: vislex\n")
    assert "| Encoder | x |" in card
    assert "Trained on drawings." in card
