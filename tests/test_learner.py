"""One step and its bookkeeping: resumed equals uninterrupted, the schedule, the averages, the skipped steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CharrnnError
from charrnn.runs.checkpoint import tensor_digest
from charrnn.training.learner import Learner
from charrnn.training.optimizers import rate_share

CPU = torch.device("cpu")
TOKENS = np.random.default_rng(5).integers(4, 20, 3000).astype(np.uint8)


def make(steps: int = 30, model: dict[str, object] | None = None, device: torch.device = CPU, **training: object) -> Learner:
    torch.set_num_threads(1)
    shape = {"vocab_size": 20, "embedding_size": 6, "hidden_size": 16, **(model or {})}
    settings = {"batch_size": 4, "window": 12, "steps": steps, "dropout_output": 0.2, "dropout_embedding": 0.1, "reset": 0.2}
    return Learner(ModelConfig(**shape), TrainingConfig(**{**settings, **training}), TOKENS, device)  # type: ignore[arg-type]


def advance(learner: Learner, steps: int) -> Learner:
    for _ in range(steps):
        learner.advance()
    return learner


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("layers", [1, 2])
def test_resumed_equals_uninterrupted(cell: str, layers: int) -> None:
    shape = {"cell": cell, "layers": layers}
    straight = tensor_digest(advance(make(model=shape, dropout_layers=0.1), 30).tensors())
    first = advance(make(model=shape, dropout_layers=0.1), 13)
    tensors, progress = first.tensors(), first.progress()
    advance(first, 3)  # what has been saved must not move
    torch.manual_seed(999)
    second = make(model=shape, dropout_layers=0.1)
    second.restore(tensors, progress)
    assert second.epoch == pytest.approx(13 / second.feed.windows_per_epoch)
    assert tensor_digest(advance(second, 17).tensors()) == straight


def test_another_seed_gives_other_weights() -> None:
    assert tensor_digest(advance(make(seed=1), 3).tensors()) != tensor_digest(advance(make(seed=2), 3).tensors())


@pytest.mark.parametrize("schedule", ["trapezoid", "linear", "cosine", "constant"])
def test_the_learning_rate_rises_then_falls_to_nearly_nothing(schedule: str) -> None:
    training = TrainingConfig(steps=1000, warmup=100, schedule=schedule)
    rates = [rate_share(training, step) for step in range(1000)]
    assert rates[0] == pytest.approx(1 / 100)
    assert max(rates) == pytest.approx(1) == pytest.approx(rates[99])
    assert rates[:100] == sorted(rates[:100])
    assert rates[99:] == sorted(rates[99:], reverse=True)
    assert rates[-1] == 1 if schedule == "constant" else 0 < rates[-1] <= 1 / 500


def test_a_trapezoid_stands_then_falls_over_its_share() -> None:
    training = TrainingConfig(steps=1000, warmup=10, decay=0.2)
    rates = [rate_share(training, step) for step in range(1000)]
    assert set(rates[10:801]) == {1.0}
    assert rates[900] == pytest.approx(0.5)


def test_the_average_follows_its_definition() -> None:
    learner = make(ema=0.9)
    expected = {name: weight.detach().clone() for name, weight in learner.network.named_parameters()}
    for step in range(1, 16):
        learner.advance()
        decay = min(0.9, (1 + step) / (10 + step))
        for name, weight in learner.network.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * weight.detach()
    for name, weight in learner.average.named_parameters():
        torch.testing.assert_close(weight, expected[name])


def test_a_long_run_averages_every_fourth_step() -> None:
    learner = advance(make(steps=400, ema=0.9), 100)
    every_step = {name: weight.detach().clone() for name, weight in learner.average.named_parameters()}
    for _ in range(41):
        before = [weight.clone() for weight in learner.average.parameters()]
        learner.advance()
        same = all(torch.equal(one, other) for one, other in zip(before, learner.average.parameters(), strict=True))
        assert same == (learner.step % 4 != 0)
        for name, weight in learner.network.named_parameters():
            every_step[name] = 0.9 * every_step[name] + 0.1 * weight.detach()
    for (name, weight), current in zip(learner.average.named_parameters(), learner.network.parameters(), strict=True):
        assert (weight - every_step[name]).norm() < 0.3 * (weight - current).norm()


def test_without_averaging_the_average_is_the_network() -> None:
    learner = advance(make(ema=0.0), 3)
    for average, current in zip(learner.average.parameters(), learner.network.parameters(), strict=True):
        assert torch.equal(average, current)


def test_the_gradient_is_clipped_to_the_norm_asked_for() -> None:
    learner = make(clip=0.01)
    learner.advance()
    norm = torch.nn.utils.get_total_norm([w.grad for w in learner.network.parameters() if w.grad is not None])
    assert float(norm) == pytest.approx(0.01, rel=1e-3)
    assert learner.take_means().gradient_norm > 0.01


def test_it_learns_a_rule() -> None:
    tokens = np.tile(np.arange(4, 14, dtype=np.uint8), 200)
    torch.set_num_threads(1)
    training = TrainingConfig(batch_size=8, window=16, steps=400)
    learner = Learner(ModelConfig(vocab_size=14, embedding_size=8, hidden_size=24), training, tokens, CPU)
    before = advance(learner, 1).take_means().loss
    advance(learner, 389).take_means()
    after = advance(learner, 10).take_means()
    assert before > 2.0
    assert after.loss < 0.1
    assert after.accuracy > 0.97


def test_a_step_that_is_not_finite_is_skipped_and_ten_in_a_row_end_the_run() -> None:
    learner = advance(make(), 5)
    weights = [weight.detach().clone() for weight in learner.network.parameters()]
    state = learner.state
    learner.state = tuple(torch.full_like(part, float("nan")) for part in state)
    learner.advance()
    assert learner.progress()["skipped"] == 1
    assert all(torch.equal(a, b) for a, b in zip(weights, learner.network.parameters(), strict=True))
    with pytest.raises(CharrnnError, match="diverged"):
        advance(learner, 30)
    learner.check_finite()  # the weights themselves never went bad


def test_weights_that_are_not_finite_are_found_before_a_save() -> None:
    learner = make()
    with torch.no_grad():
        next(learner.network.parameters())[0, 0] = float("inf")
    with pytest.raises(CharrnnError, match="diverged"):
        learner.check_finite()
