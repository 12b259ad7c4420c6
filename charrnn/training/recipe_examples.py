"""What size and schedule suit examples that are learnt one by one, for each of the tasks that do so.

The rules of recipe.py where they fit; the sizes and the dropout of a task are fixed here, as measured (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from charrnn.config import TrainingConfig, check, contradiction
from charrnn.errors import UsageError
from charrnn.training import recipe
from charrnn.training.recipe import Bound, Budget, Facts, Plan, Timer

LEAST_BATCH, STEPS_PER_PASS = 8, 40
ENOUGH_PASSES, MOST_PASSES = 40, 400  # where nobody says how long, and where only the time is the bound
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "classify": {"hidden_size": 64, "batch_size": 32, "dropout_embedding": 0.5, "dropout_output": 0.5, "learning_rate": 3e-3},
    "conditional": {"hidden_size": 256, "batch_size": 32, "dropout_embedding": 0.1, "dropout_output": 0.3},
    "seq2seq": {"hidden_size": 128, "batch_size": 64, "dropout_embedding": 0.0, "dropout_output": 0.1, "patience": 10},
}

FEW, FEW_PAIRS = 2_000, {"dropout_embedding": 0.3, "dropout_output": 0.4}  # examples, which are soon known by heart


def plan(asked: Mapping[str, Any], facts: Facts, bound: Bound, seconds_gone: Callable[[], float], timer: Timer) -> Plan:
    """Resolve all settings, as recipe.plan does; raises UsageError where they exclude each other."""
    notes: list[str] = []
    usual = {**DEFAULTS[asked["task"]], **(FEW_PAIRS if asked["task"] == "seq2seq" and facts.examples < FEW else {})}
    most = MOST_PASSES if bound.given else ENOUGH_PASSES
    bound = recipe.said(bound, facts, most, notes)
    wishes = {**usual, **asked}
    if "batch_size" not in asked:
        wishes["batch_size"] = _batch(usual["batch_size"], facts.examples)
    if wishes["batch_size"] > facts.examples:
        wishes["batch_size"] = facts.examples
        notes.append(f"batch: {facts.examples:,} examples, all that there are to learn from")
    if asked.get("input") == "rows" and "dropout_embedding" not in asked:
        wishes["dropout_embedding"] = 0.0  # a row is not redundant as a text is
    wishes["learning_rate"] = asked.get("learning_rate", min(usual.get("learning_rate", 1.0), recipe.learning_rate(asked)))
    names = {item.name for item in fields(TrainingConfig)}
    training = TrainingConfig(**{name: value for name, value in wishes.items() if name in names})
    model = recipe.model_of(wishes, facts, int(wishes["hidden_size"]), int(wishes.get("layers", 1)))
    if why := contradiction(model):
        raise UsageError(f"{why}.", "Change one of these options.")
    if model.layers > 1 and "dropout_layers" not in asked:
        training = replace(training, dropout_layers=training.dropout_output)
    budget = Budget(facts, bound, training, most, seconds_gone, timer)
    training = budget.filled(model, asked, notes)
    return Plan(check(model), check(training), tuple(notes), bound.minutes, budget.most_steps())


def _batch(usual: int, examples: int) -> int:
    """Fewer together where a pass would have too few steps."""
    return max(LEAST_BATCH, min(usual, examples // STEPS_PER_PASS // 8 * 8))
