"""Ending on time, with a clock of our own."""

from __future__ import annotations

import pytest

from charrnn.config import TrainingConfig
from charrnn.training import deadline
from charrnn.training.deadline import EXIT_SECONDS, Deadline
from charrnn.training.learner import rate_share


def run(
    monkeypatch: pytest.MonkeyPatch, planned: int, seconds_per_step: float, most: int = 2**40, **settings: object
) -> tuple[TrainingConfig, list[float]]:
    """The settings at the end, and the rate of every step, of a run that has 100 seconds."""
    now = 0.0
    monkeypatch.setattr(deadline.time, "monotonic", lambda: now)
    training = TrainingConfig(steps=planned, **settings)  # type: ignore[arg-type]
    limit, step, rates = Deadline(0.0, 100.0 + EXIT_SECONDS, most), 0, []
    while step < training.steps:
        rates.append(rate_share(training, step))
        step, now = step + 1, now + seconds_per_step
        training = limit.settle(training, step, 0.0)
    return training, rates


@pytest.mark.parametrize("speed", [0.25, 0.7, 1.0, 1.5, 4.0])
def test_a_machine_of_any_speed_ends_on_time(monkeypatch: pytest.MonkeyPatch, speed: float) -> None:
    training, _ = run(monkeypatch, 5000, 100 / 5000 / speed)
    assert training.steps == pytest.approx(5000 * speed, abs=3)


@pytest.mark.parametrize("speed", [0.25, 0.7, 1.0, 1.5, 4.0])
@pytest.mark.parametrize("decay", [0.2, 0.5, 0.9])
def test_the_rates_are_those_of_the_plain_command_with_that_many_steps(
    monkeypatch: pytest.MonkeyPatch, speed: float, decay: float
) -> None:
    training, rates = run(monkeypatch, 5000, 100 / 5000 / speed, decay=decay)
    assert rates == [rate_share(training, step) for step in range(training.steps)]
    assert rates[-1] < 0.01


@pytest.mark.parametrize("settings", [{"schedule": "linear"}, {"warmup": 1000}])
def test_where_the_rates_depend_on_the_number_of_steps_it_stays(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, object]
) -> None:
    assert run(monkeypatch, 5000, 100 / 5000 / 0.5, **settings)[0].steps == 5000


def test_it_never_settles_below_what_the_warm_up_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    training, rates = run(monkeypatch, 1200, 100 / 300)
    assert training.steps == 1000
    assert rates == [rate_share(training, step) for step in range(1000)]


@pytest.mark.parametrize("most", [5000, 5500])
def test_a_fast_machine_makes_no_more_than_the_most(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    training, rates = run(monkeypatch, 5000, 100 / 20_000, most)
    assert training.steps == most
    assert rates == [rate_share(training, step) for step in range(most)]
