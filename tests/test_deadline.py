"""Ending on time, with a clock of our own."""

from __future__ import annotations

import json

import pytest

from charrnn.config import TrainingConfig
from charrnn.training import deadline
from charrnn.training.deadline import EXIT_SECONDS, Deadline
from charrnn.training.optimizers import rate_share


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


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_where_the_rates_depend_on_the_number_of_steps_it_stays(monkeypatch: pytest.MonkeyPatch, schedule: str) -> None:
    assert run(monkeypatch, 5000, 100 / 5000 / 0.5, schedule=schedule)[0].steps == 5000


@pytest.mark.parametrize(("planned", "possible"), [(1200, 300), (20, 8), (20, 1140), (76, 200)])
@pytest.mark.parametrize("schedule", ["trapezoid", "constant"])
def test_a_short_run_ends_on_time_too(monkeypatch: pytest.MonkeyPatch, planned: int, possible: int, schedule: str) -> None:
    training, rates = run(monkeypatch, planned, 100 / possible, schedule=schedule, warmup=planned // 10)
    assert training.steps == pytest.approx(possible, abs=2)
    assert rates == [rate_share(training, step) for step in range(training.steps)]


@pytest.mark.parametrize(("planned", "possible"), [(5000, 300), (100, 900)])
def test_a_warm_up_longer_than_the_run_neither_changes_on_the_way_nor_stops_the_clock(
    monkeypatch: pytest.MonkeyPatch, planned: int, possible: int
) -> None:
    training, rates = run(monkeypatch, planned, 100 / possible, warmup=400)
    assert training.steps == pytest.approx(possible, abs=2)
    assert rates == [rate_share(training, step) for step in range(training.steps)]


def test_a_run_that_was_interrupted_has_the_time_left_that_it_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadline.time, "monotonic", lambda: 30.0)
    saved = json.loads(json.dumps(Deadline(10.0, 100.0, 500).as_json()))
    monkeypatch.setattr(deadline.time, "monotonic", lambda: 1030.0)
    assert Deadline.from_json(saved) == Deadline(1010.0, 1100.0, 500)
    assert Deadline.from_json(None) is None


@pytest.mark.parametrize("most", [5000, 5500])
def test_a_fast_machine_makes_no_more_than_the_most(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    training, rates = run(monkeypatch, 5000, 100 / 20_000, most)
    assert training.steps == most
    assert rates == [rate_share(training, step) for step in range(most)]
