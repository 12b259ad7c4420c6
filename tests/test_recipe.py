"""What the recipe decides, with a made-up clock: no test here waits or measures."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from charrnn.config import ModelConfig, ReadingConfig, TokenizerConfig, TrainingConfig
from charrnn.errors import CorpusError, UsageError
from charrnn.models.language import LanguageModel
from charrnn.training import recipe, repeating
from charrnn.training.recipe import Bound, Facts

SHAKESPEARE = Facts(1_003_854, 111_540, 69)


def timer(model: ModelConfig, training: TrainingConfig, look: float = 0.4) -> float:
    """A machine that makes 60 GFLOP/s whatever the shape: six operations a weight and token."""
    return recipe.recurrent_parameters(model) * 6 * training.batch_size * training.window / 60e9


def plan(bound: Bound, facts: Facts = SHAKESPEARE, gone: float = 2.0, **asked: Any) -> recipe.Plan:
    return recipe.plan(asked, facts, bound, lambda: gone, timer)


def test_more_time_gives_a_larger_model_and_more_steps_of_it() -> None:
    sizes = [recipe.recurrent_parameters(plan(Bound(minutes=minutes)).model) for minutes in (0.2, 1, 3, 10)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


def test_the_time_is_filled_and_not_overrun() -> None:
    for minutes in (1.0, 5.0):
        made = plan(Bound(minutes=minutes))
        seconds = timer(made.model, made.training) * made.training.steps
        assert 0.8 * minutes * 60 < seconds < minutes * 60 - 2


def test_a_short_text_gets_a_small_model_and_heavy_dropout() -> None:
    small = plan(Bound(minutes=2), Facts(5_000, 500, 60))
    large = plan(Bound(minutes=2))
    assert small.model.hidden_size < large.model.hidden_size
    assert small.training.dropout_output == 0.5
    assert large.training.dropout_output < 0.2


def test_a_short_text_is_scored_at_every_pass_and_not_pressed_for_longer_than_it_bears() -> None:
    made = plan(Bound(minutes=30), Facts(4_500, 500, 60))
    tokens = made.training.batch_size * made.training.window
    assert made.training.eval_every * tokens <= 3 * 4_500
    assert made.training.steps * tokens <= recipe.MOST_PASSES * 4_500
    assert any("--epochs" in note for note in made.notes)


def test_a_long_text_gets_one_pass_or_less_and_a_large_model() -> None:
    made = plan(Bound(minutes=10), Facts(45_000_000, 5_000_000, 100))
    assert made.training.steps * made.training.batch_size * made.training.window < 45_000_000
    assert made.model.hidden_size > 128
    assert made.training.eval_tokens <= 65_536
    assert made.training.dropout_output == 0


def test_time_that_is_not_enough_for_the_least_of_steps_is_said() -> None:
    made = plan(Bound(minutes=0.05), hidden_size=1024, layers=2)
    assert made.training.steps == 20
    assert any("hardly enough" in note for note in made.notes)


@pytest.mark.parametrize("bound", [Bound(epochs=20), Bound(steps=1_000_000)])
def test_steps_and_passes_do_not_choose_days_of_work(bound: Bound) -> None:
    made = plan(bound, Facts(45_000_000, 5_000_000, 100))
    assert made.model.hidden_size <= recipe.UNTIMED
    assert any("without --minutes" in note for note in made.notes)


def test_the_warm_up_is_a_tenth_of_a_short_run() -> None:
    assert [plan(Bound(steps=steps)).training.warmup for steps in (1, 50, 5000)] == [1, 5, 100]
    assert plan(Bound(steps=50), warmup=20).training.warmup == 20


def test_a_size_is_measured_once_and_the_chosen_one_again() -> None:
    seen: list[ModelConfig] = []

    def counted(model: ModelConfig, training: TrainingConfig, look: float) -> float:
        seen.append(model)
        assert look <= recipe.LONGEST_LOOK
        return timer(model, training)

    made = recipe.plan({}, SHAKESPEARE, Bound(minutes=60), lambda: 2.0, counted)
    assert seen.count(made.model) == 2
    assert len(seen) == len(set(seen)) + 1


def test_what_was_asked_for_is_never_touched() -> None:
    asked = {"hidden_size": 100, "dropout_output": 0.33, "batch_size": 8, "learning_rate": 0.001, "eval_every": 7}
    made = plan(Bound(steps=1000), **asked)
    values = {**vars(made.model), **vars(made.training)}
    assert {name: values[name] for name in asked} == asked
    assert made.training.steps == 1000


def test_epochs_become_steps() -> None:
    assert plan(Bound(epochs=2)).training.steps == round(2 * 1_003_854 / (32 * 64))


def test_without_a_bound_it_chooses_a_time_and_says_so() -> None:
    notes = plan(Bound()).notes
    assert "min" in notes[0]
    assert recipe.default_minutes(10_000) < recipe.default_minutes(1_000_000)


@pytest.mark.parametrize("tokens", [5, 30, 200, 500])
def test_batch_and_window_shrink_to_the_text(tokens: int) -> None:
    made = plan(Bound(steps=10), Facts(tokens, 0, 30))
    assert made.training.batch_size * made.training.window < tokens
    assert len([note for note in made.notes if note.startswith("batch")]) == 1


def test_a_text_that_cannot_fill_a_window_is_refused() -> None:
    with pytest.raises(CorpusError, match="one window needs 101"):
        plan(Bound(steps=10), Facts(100, 0, 30), window=100)
    with pytest.raises(CorpusError, match="4 tokens"):
        plan(Bound(steps=10), Facts(4, 0, 30))


@pytest.mark.parametrize("bound", [{"steps": 1, "minutes": 1}, {"minutes": float("nan")}, {"epochs": -1}, {"minutes": 0}])
def test_bounds_that_make_no_sense(bound: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        Bound(**bound)


def test_tied_weights_widen_the_embedding_and_clashes_are_refused() -> None:
    made = plan(Bound(steps=5), tie_weights=True, hidden_size=48)
    assert made.model.embedding_size == 48
    for clash in ({"embedding": "onehot"}, {"embedding_size": 20}):
        with pytest.raises(UsageError, match="tie-weights"):
            plan(Bound(steps=5), tie_weights=True, hidden_size=48, **clash)


def test_the_command_names_what_a_repetition_needs() -> None:
    made = plan(Bound(minutes=1), cell="gru", seed=9)
    text = repeating.command(["my text.txt"], ReadingConfig(), TokenizerConfig(min_count=3), made.model, made.training)
    words = shlex.split(text)
    assert words[:3] == ["charrnn", "train", "my text.txt"]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    assert given["--steps"] == str(made.training.steps)
    assert given["--hidden-size"] == str(made.model.hidden_size)
    assert given["--cell"] == "gru"
    assert given["--seed"] == "9"
    assert given["--min-count"] == "3"
    assert given["--warmup"] == str(made.training.warmup)  # by the steps that were planned, not those that were made
    assert float(given["--learning-rate"]) == made.training.learning_rate


def test_the_command_names_what_was_asked_for_even_where_it_is_the_default() -> None:
    made = plan(Bound(steps=10), cell="lstm", window=64)
    configs = (ReadingConfig(), TokenizerConfig(), made.model, made.training)
    assert "--cell" not in repeating.command(["a"], *configs)
    asked = repeating.command(["-a.txt"], *configs, {"cell", "window"})
    assert "--cell lstm" in asked
    assert "--window 64" in asked
    assert asked.startswith("charrnn train ./-a.txt ")


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("embedding", ["learned", "onehot"])
def test_parameters_are_counted_as_torch_counts_them(cell: str, embedding: str) -> None:
    model = ModelConfig(cell=cell, embedding=embedding, vocab_size=30, embedding_size=7, hidden_size=11, layers=2)
    assert recipe.parameters(model) == sum(weight.numel() for weight in LanguageModel(model).parameters())
