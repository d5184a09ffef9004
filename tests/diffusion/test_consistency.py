"""The target of few-step distillation, against steps of DDIM that are done and undone by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vislex.diffusion.consistency import Segments, Target, consistency_target
from vislex.diffusion.noise import NoiseSchedule
from vislex.diffusion.samplers import DDIM
from vislex.errors import ConfigError

SCHEDULE = NoiseSchedule.create(noise_factor=4.0)
SEGMENTS = Segments.create(SCHEDULE, 2, 4)
NOTHING = torch.zeros(1, 2, 3)
FREE = torch.zeros(1, 2, dtype=torch.bool)


def teacher(x: Tensor, timesteps: Tensor, previous: Tensor) -> Target:
    x0 = torch.sin(2 * x) + timesteps[..., None] / 1000 + 0.3 * previous
    return Target(x0, x0.softmax(-1))


def student(x: Tensor, timesteps: Tensor, previous: Tensor) -> Target:
    x0 = torch.cos(x) - timesteps[..., None] / 500 + 0.5 * previous
    return Target(x0, x0.softmax(-1))


def wanted(x: Tensor, place: int, solver_steps: int, previous: Tensor = NOTHING, kept: Tensor = FREE) -> Target:
    return consistency_target(
        x,
        torch.tensor([place]),
        previous,
        kept,
        segments=SEGMENTS,
        schedule=SCHEDULE,
        teacher=teacher,
        student=student,
        solver_steps=solver_steps,
    )


def go(x: Tensor, x0: Tensor, now: int, then: int) -> Tensor:
    """A step of DDIM in double precision."""
    (a, s), (b, r) = (SCHEDULE.alpha_sigma(torch.tensor(t)) for t in (now, then))
    return b.double() * x0 + r.double() * (x - a.double() * x0) / s.double()


def undo(x: Tensor, end: Tensor, now: int, then: int) -> Tensor:
    """The x0 with which one step of DDIM leads from x to ``end``."""
    (a, s), (b, r) = (
        tuple(float(v) for v in pair) for pair in (SCHEDULE.alpha_sigma(torch.tensor(t)) for t in (now, then))
    )
    return (end - r / s * x) / (b - a * r / s)


def everywhere(t: int) -> Tensor:
    return torch.full((1, 2), t)


def test_segments_begin_where_ddim_of_as_many_steps_asks() -> None:
    assert SEGMENTS.times.tolist() == [999, 874, 749, 624, 499, 374, 250, 125, 0]
    assert SEGMENTS.times[::4].tolist() == [*DDIM(SCHEDULE).timesteps(2), 0]
    assert SEGMENTS.ends(torch.tensor([0, 3, 4, 7])).tolist() == [4, 4, 8, 8]
    assert SEGMENTS.trained(4).tolist() == [0, 4]
    assert SEGMENTS.trained(3).tolist() == [0, 3, 4, 7]
    assert SEGMENTS.trained(1).tolist() == list(range(8))
    with pytest.raises(ConfigError, match="50 segments of 20 steps do not fit 999 timesteps"):
        Segments.create(SCHEDULE, 50, 20)


def test_one_step_of_the_teacher_and_the_students_prediction_for_the_rest() -> None:
    x = torch.randn(1, 2, 3).double()
    first = teacher(x, everywhere(874), NOTHING).x0
    between = go(x, first, 874, 749)
    rest = student(between, everywhere(749), NOTHING).x0
    end = go(between, rest, 749, 499)
    torch.testing.assert_close(wanted(x.float(), 1, 1).x0, undo(x, end, 874, 499).float(), rtol=1e-4, atol=1e-4)


def test_at_clean_data_only_the_last_prediction_counts() -> None:
    x, previous = torch.randn(1, 2, 3), torch.randn(1, 2, 3)
    given = wanted(x, 5, 1, previous)
    between = go(x, teacher(x, everywhere(374), previous).x0, 374, 250)
    expected = student(between.float(), everywhere(250), previous)
    torch.testing.assert_close(given.x0, expected.x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(given.words, expected.words, rtol=1e-4, atol=1e-4)


def test_all_steps_of_the_teacher_each_shown_the_one_before() -> None:
    start = torch.randn(1, 2, 3).double()
    x, last = start, NOTHING
    for now, then in ((999, 874), (874, 749), (749, 624), (624, 499)):
        last = teacher(x, everywhere(now), last).x0
        x = go(x, last, now, then)
    given = wanted(start.float(), 0, 4)
    torch.testing.assert_close(given.x0, undo(start, x, 999, 499).float(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(given.words.sum(-1), torch.ones(1, 2))


def test_a_walk_stops_at_the_end_of_its_own_segment() -> None:
    x = torch.randn(2, 2, 3)
    nothing, free = torch.zeros_like(x), torch.zeros(2, 2, dtype=torch.bool)
    shared = {"segments": SEGMENTS, "schedule": SCHEDULE, "teacher": teacher, "student": student, "solver_steps": 3}
    both = consistency_target(x, torch.tensor([3, 4]), nothing, free, **shared)
    for row, place in enumerate((3, 4)):
        torch.testing.assert_close(both.x0[row : row + 1], wanted(x[row : row + 1], place, 3).x0)
    torch.testing.assert_close(both.x0[:1], teacher(x[:1], everywhere(624), NOTHING).x0)  # one step is left


def test_words_that_are_shown_clean_keep_their_time_and_their_latent() -> None:
    x, kept = torch.randn(1, 2, 3), torch.tensor([[True, False]])
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def watching(*given: Tensor) -> Target:
        seen.append(given)
        return teacher(*given)

    consistency_target(
        x,
        torch.tensor([4]),
        NOTHING,
        kept,
        segments=SEGMENTS,
        schedule=SCHEDULE,
        teacher=watching,
        student=student,
        solver_steps=4,
    )
    assert [given[1].tolist() for given in seen] == [[[0, t]] for t in (499, 374, 250, 125)]
    assert all(torch.equal(given[0][0, 0], x[0, 0]) for given in seen)
    assert all(torch.equal(given[2][0, 0], x[0, 0]) for given in seen[1:])
