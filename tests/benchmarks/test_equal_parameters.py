"""Equal parameters and equal time: sizes that are found, step counts that follow from measured times."""

from __future__ import annotations

from pathlib import Path

import pytest

from vislex.benchmarks.caption_data import CaptionData
from vislex.benchmarks.equal_parameters import check_equal, fit, planned_codec, trained_parameters
from vislex.benchmarks.equal_time import measure_step_seconds, steps_of_equal_time
from vislex.benchmarks.experiment import Experiment
from vislex.decoders.factory import create_decoder
from vislex.decoders.ladic.codec import LatentCodec
from vislex.errors import ConfigError
from vislex.specs import EncoderSpec, Grid
from vislex.text import load_tokenizer, prune_tokenizer

SPEC = EncoderSpec(dim=320, grid=Grid(4, 4), n_tokens=16, image_size=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.mark.parametrize("sizes", [(128, 3, 4), (256, 4, 8)])
def test_every_decoder_gets_as_many_trained_parameters_as_ladic(data: CaptionData, sizes: tuple[int, ...]) -> None:
    tokenizer = prune_tokenizer(load_tokenizer(), [text for own in data.record.references.values() for text in own])[0]
    options = dict(zip(("hidden_size", "num_layers", "num_heads"), sizes, strict=True)) | {"max_length": 40}
    codec = planned_codec(Experiment().codec_config(), tokenizer)
    ladic = fit("ladic", SPEC, tokenizer, {**options, "preset": "fast", "codec": codec})
    assert ladic.intermediate_size == 4 * sizes[0]
    assert ladic.counts["decoder_frozen"] == sum(parameter.numel() for parameter in codec.parameters())
    fitted = {
        name: fit(name, SPEC, tokenizer, options, target=ladic.budget)
        for name in ("cross_attention", "prefix", "masked")
    }
    plain = {name: fit(name, SPEC, tokenizer, options).budget for name in fitted}
    check_equal({"ladic": ladic.budget, **{name: own.budget for name, own in fitted.items()}})
    with pytest.raises(ConfigError, match="5% are allowed"):
        check_equal({"ladic": ladic.budget, **plain})
    # What was counted without weights is what a real decoder has.
    real = create_decoder("prefix", SPEC, tokenizer, **options, intermediate_size=fitted["prefix"].intermediate_size)
    assert trained_parameters(real) == fitted["prefix"].counts


def test_five_per_cent_are_five_per_cent() -> None:
    check_equal({"a": 1000, "b": 1050})
    with pytest.raises(ConfigError, match=r"differ by 5\.1%.*a 1,000, b 1,051"):
        check_equal({"a": 1000, "b": 1051})


def test_a_planned_codec_has_the_sizes_of_the_trained_one(ladic_folder: Path) -> None:
    bert = ladic_folder.parent / "bert"
    tokenizer = load_tokenizer(bert)
    real = LatentCodec.create(tokenizer, ["a cat"], text_model=bert, split_layer=0, decoder_layers=1)
    config = Experiment().codec_config(text_model=str(bert), split_layer=0)
    planned = planned_codec(config, tokenizer)
    assert {name: p.shape for name, p in planned.named_parameters()} == {
        name: p.shape for name, p in real.named_parameters()
    }


def test_equal_time_counts_the_mean_step() -> None:
    seconds = {"ladic": [0.1, 0.3], "prefix": [0.1, 0.1], "slow": [9.0, 9.0]}
    assert steps_of_equal_time(1500, seconds, of="prefix", like="ladic") == 3000
    assert steps_of_equal_time(1500, seconds, of="ladic", like="ladic") == 1500
    assert steps_of_equal_time(10, seconds, of="slow", like="ladic") == 1


def test_steps_are_timed_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VISLEX_CACHE", str(tmp_path))
    sizes = {"encoder": "siglip-tiny", "tiny": True, "image_size": 32, "train_size": 8, "val_size": 2, "batch_size": 4}
    experiment = Experiment(hidden_size=16, num_layers=1, num_heads=2, steps=8, precision="fp32", **sizes)
    small, large = (
        experiment.caption("prefix", seed=0, lr=1e-3, decoder_options={"intermediate_size": size})
        for size in (16, 30000)
    )
    seconds = measure_step_seconds({"small": small, "large": large}, rounds=3)
    assert [len(times) for times in seconds.values()] == [3, 3]
    assert min(seconds["large"]) > min(seconds["small"]) > 0
