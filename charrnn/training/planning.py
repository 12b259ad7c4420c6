"""From wishes and a text to a plan: the facts a recipe reckons with, the threads, the timer it asks.

Knows the machine; the rules are in recipe.py and recipe_examples.py.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from charrnn.config import ModelConfig, PresetConfig, ReadingConfig, TokenizerConfig, TrainingConfig
from charrnn.errors import UsageError
from charrnn.text.examples import Parts
from charrnn.training import device as machine
from charrnn.training import precision, recipe, recipe_examples
from charrnn.training.material import Material, part
from charrnn.training.probe import seconds_per_step
from charrnn.training.recipe import Bound, Facts, Plan

LEAST_DEVIATION = 1e-30  # of rows of numbers, that they can be divided by it in float32
BUSY_LOOK = 3.0  # times as long as one thread took, after which more threads are known to be slower


def check_asked(asked: Mapping[str, Any]) -> None:
    """Raise UsageError for a setting that there is not."""
    known = {
        item.name for kind in (PresetConfig, ReadingConfig, TokenizerConfig, ModelConfig, TrainingConfig) for item in fields(kind)
    }
    unknown = sorted(set(asked) - (known - {*recipe.FOUND} | {"vocab_size"}))
    if unknown:
        raise UsageError(f"there is no setting {unknown[0]!r}.", f"Known settings: {', '.join(sorted(known))}.")


def check_model(asked: Mapping[str, Any]) -> None:
    """Raise UsageError for a wish about the model that no text could fulfil."""
    part(ModelConfig, {name: value for name, value in asked.items() if name not in recipe.FOUND} | {"vocab_size": 4})
    if asked.get("input") == "rows" and asked.get("task") != "classify":
        raise UsageError("--input rows is for --task classify: nothing else reads numbers.", "Add --task classify.")


def with_preset(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The wishes with those of a --size put in where there is none."""
    size = part(PresetConfig, asked).size
    return {**recipe.PRESETS.get(size, {}), **{name: value for name, value in asked.items() if name != "size"}}


def facts_of(material: Material) -> Facts:
    """What a recipe has to know of a text."""
    data, vocabulary = material.data, material.tokenizer.vocab_size
    if isinstance(data, Parts):
        return Facts(int(data.train.sizes.sum()), int(data.val.sizes.sum()), vocabulary, len(data.train))
    return Facts(len(data.train), len(data.val), vocabulary)


def make(
    asked: Mapping[str, Any], material: Material, device: torch.device, bound: Bound, started_at: float, ranks: int = 1
) -> Plan:
    """Every setting; measures where the time is the bound, of so many ranks what one of them will do."""
    wishes = {name: value for name, value in asked.items() if name != "vocab_size"} | _found(material)
    plan_of = recipe.plan if material.task == "language" else recipe_examples.plan
    timed, notes = bound.minutes is not None or not bound.given, tuple[str, ...]()
    wishes["precision"] = machine.resolve_precision(wishes.get("precision", "auto"), device)
    wishes["device"] = device.type
    facts = facts_of(material)
    if not wishes.get("threads"):
        wishes["threads"] = torch.get_num_threads()
        if timed and device.type == "cpu" and wishes["threads"] > 1 and _busy(wishes, material, device, ranks):
            wishes["threads"], notes = 1, ("threads: 1, faster here and now",)
            torch.set_num_threads(1)
    timer = lambda model, training, seconds: seconds_per_step(  # noqa: E731
        model, one_of(ranks, training), material.data.train, device, seconds
    )
    gone = lambda: time.monotonic() - started_at  # noqa: E731
    plan = plan_of(wishes, facts, bound, gone, timer)
    if device.type == "cuda" and (better := precision.faster(plan, asked, timer)):
        plan, notes = plan_of({**wishes, **better.wishes}, facts, bound, gone, timer), (*notes, better.note)
    return replace(plan, notes=(*notes, *plan.notes))


def one_of(ranks: int, training: TrainingConfig) -> TrainingConfig:
    """The settings of what one of so many ranks computes in a step: its share of the streams."""
    return replace(training, batch_size=-(-training.batch_size // ranks))


def _found(material: Material) -> dict[str, Any]:
    """What the text says of the model, beside its vocabulary."""
    data = material.data
    if not isinstance(data, Parts):
        return {}
    found: dict[str, Any] = {"task": material.task, "classes": len(data.names)}
    values = data.train.inputs.values
    if values.dtype.kind == "f":
        deviation = float(values.std(dtype=float))
        deviation = deviation if deviation > LEAST_DEVIATION else 1.0
        found |= {"features": values.shape[1], "input_mean": float(values.mean(dtype=float)), "input_deviation": deviation}
    return found


def _busy(wishes: Mapping[str, Any], material: Material, device: torch.device, ranks: int) -> bool:
    """Whether one thread outruns all of them: so small are the products, or another program holds a core."""
    if isinstance(material.data, Parts):
        forever = Bound(steps=1000)
        plan = recipe_examples.plan(wishes, facts_of(material), forever, lambda: 0.0, lambda *_: 1.0)
        model, training = plan.model, plan.training
    else:
        model, training = ModelConfig(vocab_size=material.tokenizer.vocab_size), TrainingConfig(steps=1000)
        if len(material.data.train) <= training.batch_size * training.window:  # too little to measure with, and soon learnt
            return False
    seconds, most, threads = dict[int, float](), math.inf, wishes["threads"]
    for count in (1, threads):
        torch.set_num_threads(count)
        seconds[count] = seconds_per_step(model, one_of(ranks, training), material.data.train, device, most=most)
        most = BUSY_LOOK * seconds[count]
    return seconds[1] < seconds[threads]
