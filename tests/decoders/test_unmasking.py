"""The unmasking loop on a known distribution: what it writes, in which order, and what every option does."""

from __future__ import annotations

import pytest
import torch
from transformers import GenerationConfig

from vislex.decoders.noise import caption_generators
from vislex.decoders.unmasking import Canvas, UnmaskingConfig, unmask
from vislex.errors import ConfigError

MASK, VOCABULARY = 7, 8
CERTAINTY = torch.tensor([0.0, 3.0, 1.0, 4.0, 2.0, 5.0, 6.0, 0.0])  # of the positions: they are written 6, 5, 3, ...


def canvas(rows: int = 1, kinds: tuple[int, ...] = (-1, 0, 0, 0, 0, 0, 0, -1)) -> Canvas:
    kind = torch.tensor(kinds).expand(rows, -1)
    allowed = torch.ones(2, VOCABULARY, dtype=torch.bool)
    allowed[:, MASK] = False
    allowed[1, 1:] = False
    return Canvas(torch.full(kind.shape, 6).masked_fill(kind >= 0, MASK), kind, allowed, torch.ones_like(kind).bool())


class Model:
    """Token 3 everywhere, more certain at some positions; where a word is written, its right neighbour wants 4."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor] = []

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        self.seen.append(ids.clone())
        logits = torch.zeros(*ids.shape, VOCABULARY)
        logits[..., 3] = CERTAINTY[: ids.shape[1]]
        after = torch.nn.functional.pad(ids[:, :-1] != MASK, (1, 0)) & (torch.arange(ids.shape[1]) > 1)
        logits[..., 4] += 10.0 * after
        return logits


def run(rows: int = 1, first_index: int = 0, **options: object) -> tuple[torch.Tensor, torch.Tensor, Model]:
    config, model = UnmaskingConfig(**options), Model()
    generators = caption_generators(config.seed, range(first_index, first_index + rows))
    made = unmask(model, canvas(rows), MASK, config, generators)
    return made.ids, made.steps, model


def test_the_most_certain_positions_come_first_one_a_step() -> None:
    ids, steps, model = run(num_inference_steps=6)
    assert steps.tolist() == [6]
    written = [(seen[0] != MASK).nonzero().flatten().tolist() for seen in model.seen]
    assert written[:3] == [[0, 7], [0, 6, 7], [0, 5, 6, 7]]
    assert ids[0].tolist() == [6, 3, 4, 4, 4, 4, 4, 6] or ids[0, 6] == 3
    assert MASK not in ids


@pytest.mark.parametrize(
    ("steps", "schedule", "masked"),
    [(1, "linear", [6]), (2, "linear", [6, 3]), (3, "linear", [6, 4, 2]), (3, "cosine", [6, 5, 3])],
)
def test_the_schedule_says_how_many_stay_masked(steps: int, schedule: str, masked: list[int]) -> None:
    _, taken, model = run(num_inference_steps=steps, schedule=schedule)
    assert [int((seen == MASK).sum()) for seen in model.seen] == masked
    assert taken.tolist() == [steps]


def test_more_steps_than_positions_take_a_forward_for_each() -> None:
    _, steps, model = run(num_inference_steps=50)
    assert steps.tolist() == [6]
    assert len(model.seen) == 6


def test_only_allowed_tokens_are_written_and_given_ones_stay() -> None:
    mixed = canvas(kinds=(-1, 1, 0, 1, -1, 0, 1, -1))
    ids = unmask(Model(), mixed, MASK, UnmaskingConfig(), caption_generators(0, [0])).ids[0]
    assert ids[[1, 3, 6]].tolist() == [0, 0, 0]
    assert ids[[0, 4, 7]].tolist() == [6, 6, 6]
    assert set(ids[[2, 5]].tolist()) <= {3, 4}


def test_the_likelihood_is_that_of_the_words_when_they_were_written() -> None:
    made = unmask(Model(), canvas(), MASK, UnmaskingConfig(num_inference_steps=1), caption_generators(0, [0]))
    log_p = Model()(canvas().ids).log_softmax(-1)
    expected = log_p.gather(-1, made.ids[..., None]).squeeze(-1)[0, 1:7].sum()
    torch.testing.assert_close(made.log_likelihood, expected[None])


def test_remasking_changes_words_that_were_written_with_little_confidence() -> None:
    """The first step is certain of nothing at position 1, the later ones of everything else."""

    def predict(ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, VOCABULARY)
        first = bool((ids[0, 1:7] == MASK).all())
        logits[..., 3] = torch.tensor([0, 1.5, 1, 1, 1, 1, 1, 0]) if first else 5.0
        if not first:
            logits[:, 1, 5] = 9.0
        return logits

    plain = unmask(predict, canvas(), MASK, UnmaskingConfig(num_inference_steps=6), [])
    again = unmask(predict, canvas(), MASK, UnmaskingConfig(num_inference_steps=6, remasking=True), [])
    assert plain.ids[0, 1] == 3
    assert again.ids[0, 1] == 5
    assert again.steps.tolist() == [6]


def test_draws_depend_on_the_caption_and_the_seed_not_on_the_batch() -> None:
    together = run(5, temperature=1.0, num_inference_steps=4)[0]
    assert torch.equal(together, run(5, temperature=1.0, num_inference_steps=4)[0])
    for row in range(5):
        assert torch.equal(run(1, first_index=row, temperature=1.0, num_inference_steps=4)[0][0], together[row])
    assert len({tuple(row) for row in together.tolist()}) > 1
    assert not torch.equal(together, run(5, temperature=1.0, num_inference_steps=4, seed=1)[0])
    assert torch.equal(run(1, temperature=1e-4)[0], run(1)[0])


def test_draws_follow_the_distribution() -> None:
    ids = run(4000, temperature=1.0, num_inference_steps=1)[0]
    expected = Model()(canvas().ids)[0, 3].masked_fill(torch.arange(VOCABULARY) == MASK, -torch.inf).softmax(-1)
    found = torch.bincount(ids[:, 3], minlength=VOCABULARY) / 4000
    torch.testing.assert_close(found, expected, atol=0.03, rtol=0)


def test_settings_are_read_from_transformers_and_from_keywords() -> None:
    shared = GenerationConfig(max_new_tokens=9, do_sample=True, temperature=0.5)
    config = UnmaskingConfig.read(shared, {"num_inference_steps": 3, "max_new_tokens": 5})
    assert (config.max_new_tokens, config.temperature, config.num_inference_steps) == (5, 0.5, 3)
    assert UnmaskingConfig.read(shared, {"temperature": 0.0}).temperature == 0
    assert UnmaskingConfig.read(None, {"num_beams": 1}) == UnmaskingConfig()
    assert shared.max_new_tokens == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 4}, "num_lengths"),
        ({"num_inference_step": 4}, "did you mean 'num_inference_steps'"),
        ({"top_p": 0.5}, "'top_p' has no meaning"),
        ({"schedule": "square"}, "linear, cosine"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"temperature": -1.0}, "0 .no draws. or more"),
    ],
)
def test_wrong_settings_are_explained(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        UnmaskingConfig.read(None, options)
