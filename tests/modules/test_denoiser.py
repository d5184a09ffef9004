from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vislex.errors import ConfigError, SpecError
from vislex.modules.denoiser import Denoiser, sinusoidal_embedding
from vislex.specs import VisionTokens

SIZES: dict[str, Any] = {
    "hidden_size": 16,
    "num_layers": 2,
    "num_heads": 4,
    "intermediate_size": 32,
    "max_length": 12,
    "vision_dim": 8,
}


def make(**options: Any) -> Denoiser:
    torch.manual_seed(0)
    denoiser = Denoiser(**{**SIZES, **options}).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
    return denoiser


@pytest.fixture(params=[True, False])
def denoiser(request: pytest.FixtureRequest) -> Denoiser:
    return make(pre_norm=request.param)


def inputs(batch: int = 3, length: int = 7) -> tuple[Tensor, VisionTokens, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(batch, length, 16, generator=generator)
    vision = VisionTokens(torch.randn(batch, 5, 8, generator=generator))
    return hidden, vision, torch.tensor([3, 500, 999])[:batch]


def test_a_batch_equals_its_singles_with_padding(denoiser: Denoiser) -> None:
    hidden, vision, timesteps = inputs()
    lengths, seen = torch.tensor([7, 4, 2]), torch.tensor([5, 3, 4])
    mask = torch.arange(7) < lengths[:, None]
    masked = VisionTokens(vision.tokens, torch.arange(5) < seen[:, None])
    together = denoiser(hidden, denoiser.vision_state(masked), mask, timesteps)
    for row in range(3):
        length = int(lengths[row])
        kept = VisionTokens(vision.tokens[row : row + 1, : int(seen[row])])
        alone = denoiser(hidden[row : row + 1, :length], denoiser.vision_state(kept), None, timesteps[row : row + 1])
        torch.testing.assert_close(together[row : row + 1, :length], alone)


def test_equal_times_of_all_words_are_one_time(denoiser: Denoiser) -> None:
    hidden, vision, timesteps = inputs()
    state = denoiser.vision_state(vision)
    one = denoiser(hidden, state, None, timesteps)
    torch.testing.assert_close(denoiser(hidden, state, None, timesteps[:, None].expand(-1, 7)), one)
    each = timesteps[:, None].repeat(1, 7)
    each[:, 2] = 0
    assert not torch.allclose(denoiser(hidden, state, None, each), one)


def test_every_word_sees_every_word_and_the_image(denoiser: Denoiser) -> None:
    hidden, vision, timesteps = inputs()
    state = denoiser.vision_state(vision)
    before = denoiser(hidden, state, None, timesteps)
    changed = hidden.clone()
    changed[:, -1, ::2] += 1  # a shift of all channels would be taken out by a norm
    after = denoiser(changed, state, None, timesteps)
    assert (before - after).abs().amax((0, 2)).min() > 1e-4
    other = denoiser(hidden, denoiser.vision_state(VisionTokens(vision.tokens.flip(1) * 2)), None, timesteps)
    assert (before - other).abs().amax((0, 2)).min() > 1e-4


def test_rows_of_a_state_are_selected_repeated_and_joined(denoiser: Denoiser) -> None:
    hidden, vision, timesteps = inputs()
    mask = torch.arange(5) < torch.tensor([5, 3, 4])[:, None]
    state = denoiser.vision_state(VisionTokens(vision.tokens, mask))
    whole = denoiser(hidden, state, None, timesteps)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(denoiser(hidden[rows], state.select(rows), None, timesteps[rows]), whole[rows])
    twice = denoiser(hidden.repeat_interleave(2, 0), state.repeat(2), None, timesteps.repeat_interleave(2))
    torch.testing.assert_close(twice, whole.repeat_interleave(2, 0))
    without_mask = denoiser.vision_state(VisionTokens(vision.tokens))
    both = state.join(without_mask)
    assert len(both) == 6
    joined = denoiser(hidden.repeat(2, 1, 1), both, None, timesteps.repeat(2))
    torch.testing.assert_close(joined[:3], whole)
    torch.testing.assert_close(joined[3:], denoiser(hidden, without_mask, None, timesteps))


@pytest.mark.parametrize("null_tokens", [1, 5])
def test_a_dropped_image_is_the_null_image_of_guidance(null_tokens: int) -> None:
    denoiser = make(null_tokens=null_tokens)
    hidden, vision, timesteps = inputs()
    mask = torch.arange(5) < torch.tensor([5, 3, 4])[:, None]
    masked = VisionTokens(vision.tokens, mask)
    guided = denoiser(
        hidden.repeat(2, 1, 1), denoiser.guided_state(denoiser.vision_state(masked)), None, timesteps.repeat(2)
    )
    kept = denoiser(hidden, denoiser.vision_state(masked), None, timesteps)
    torch.testing.assert_close(guided[:3], kept)
    dropped = torch.tensor([True, False, True])
    some = denoiser(hidden, denoiser.vision_state(masked, dropped), None, timesteps)
    torch.testing.assert_close(some, torch.where(dropped[:, None, None], guided[3:], kept))


def test_the_time_is_told_in_three_ways() -> None:
    hidden, vision, timesteps = inputs()
    for kind in ("add", "table"):
        denoiser = make(time_embedding=kind)
        state = denoiser.vision_state(vision)
        assert not torch.allclose(
            denoiser(hidden, state, None, timesteps), denoiser(hidden, state, None, timesteps // 2)
        )
        with pytest.raises(SpecError, match="timesteps="):
            denoiser(hidden, state)
    denoiser = make(time_embedding="none")
    assert denoiser(hidden, denoiser.vision_state(vision)).shape == hidden.shape
    embedding = sinusoidal_embedding(torch.tensor([0, 7]), 6)
    assert embedding[0].tolist() == [0, 0, 0, 1, 1, 1]
    torch.testing.assert_close(embedding[1, 1], torch.sin(torch.tensor(7 / 10000 ** (1 / 3))))


def test_the_table_of_times_has_sines_and_cosines_in_turn_and_its_norm() -> None:
    row = sinusoidal_embedding(torch.tensor([7]), 6, interleaved=True)[0]
    expected = [wave(torch.tensor(7 / 10000 ** (i / 3))) for i in range(3) for wave in (torch.sin, torch.cos)]
    torch.testing.assert_close(row, torch.stack(expected))
    hidden, vision, timesteps = inputs()
    plain = make(time_embedding="table", layer_norm_eps=1e-12)
    for kind, normed in (("none", (False, False)), ("always", (True, True)), ("evaluation", (True, False))):
        denoiser = make(time_embedding="table", time_norm=kind, layer_norm_eps=1e-12)
        denoiser.load_state_dict(plain.state_dict(), strict=False)
        for training, is_normed in zip((False, True), normed, strict=True):
            rows = denoiser.train(training)._time(timesteps[:, None])
            assert torch.allclose(rows.mean(-1), torch.zeros(3, 1), atol=1e-6) == is_normed
            output = denoiser(hidden, denoiser.vision_state(vision), None, timesteps)
            same = torch.allclose(output, plain(hidden, plain.vision_state(vision), None, timesteps))
            assert same != is_normed
    with pytest.raises(ConfigError, match="time_norm 'always' needs time_embedding 'table', not 'add'"):
        make(time_norm="always")


def test_every_norm_has_the_epsilon_asked_for() -> None:
    denoiser = make(time_embedding="table", time_norm="always", layer_norm_eps=0.25)
    norms = [module.eps for module in denoiser.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert norms == [0.25] * 8


def test_dropout_acts_in_training_and_every_weight_learns(denoiser: Denoiser) -> None:
    hidden, vision, timesteps = inputs()
    dropping = make(dropout=0.5)
    state = dropping.vision_state(vision)
    assert torch.equal(dropping(hidden, state, None, timesteps), dropping(hidden, state, None, timesteps))
    dropping.train()
    assert not torch.equal(dropping(hidden, state, None, timesteps), dropping(hidden, state, None, timesteps))
    state = denoiser.vision_state(vision, torch.tensor([True, False, False]))
    (denoiser(hidden, state, None, timesteps) ** 3).sum().backward()
    assert [name for name, value in denoiser.named_parameters() if value.grad is None] == []


def test_wrong_shapes_are_explained() -> None:
    hidden, vision, timesteps = inputs(length=13)
    denoiser = make(null_tokens=4)
    with pytest.raises(SpecError, match="13 words are more than the 12"):
        denoiser(hidden, denoiser.vision_state(vision), None, timesteps)
    with pytest.raises(SpecError, match="null image has 4 tokens, the images have 5"):
        denoiser.guided_state(denoiser.vision_state(vision))
    with pytest.raises(ConfigError, match="num_heads 3"):
        make(num_heads=3)
