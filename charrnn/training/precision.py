"""In which arithmetic a GPU learns fastest, for the network that is planned: asked of the timer, as the size was.

On a CPU one precision is known to be the fastest; on a GPU it depends on the shape. torch lets cuDNN keep the recurrent
weights in registers from one time step to the next ("persistent" kernels) for layers of their own in one direction, in
fp16 alone, on most GPUs from Ampere on with 98 multiprocessors or more, for an LSTM or a plain RNN, no GRU, whose hidden
size is a multiple of 128 up to 1024 and whose input is one too, with a batch that is a multiple of 8 up to 128 (get_algo of
torch's RNN.cpp; layers of at most 128 to 192 units, or 384 of a plain RNN, have kernels of that kind in any precision).
Our layers are single, and a planned batch is such a multiple wherever the text can fill it; the embedding is too narrow,
so one of WIDE is among the ways. No other rule is here: what is faster is measured. How many streams a GPU should have is
not chosen: what more of them save of the time, `charrnn bench speed` shows; what they cost in what is learnt has not been
measured on one.

Only where the time is the bound: who sets the steps wants the same run from the same command, not one that a measurement
decides. Knows of torch only the error for too little memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from charrnn.config import ModelConfig
from charrnn.errors import CharrnnError
from charrnn.training.recipe import LOOK, Plan, Timer

CLEAR = 1.05  # times as fast as what it is to replace: a look is no better than that
LEAST_MINUTES = 0.5  # in less the looks would take too much of it
OTHERS = {"bf16": ("fp16", "fp32"), "fp16": ("fp32",)}  # by the usual precision of a GPU, newer and older
WIDE, WIDEST = 128, 1024  # what the persistent kernels take multiples of, and the largest of them


@dataclass(frozen=True)
class Faster:
    """What to wish for in place of the usual, and how to say so."""

    wishes: Mapping[str, Any]
    note: str


def faster(plan: Plan, asked: Mapping[str, Any], timer: Timer) -> Faster | None:
    """The fastest way to learn what is planned; None if the usual one is, or if it is not to be looked for."""
    if asked.get("precision", "auto") != "auto" or plan.minutes is None or plan.minutes < LEAST_MINUTES:
        return None
    usual = best = timer(plan.model, plan.training, LOOK)
    chosen: Mapping[str, Any] = {}
    for way in _ways(plan, asked):
        seconds = _seconds(plan, way, timer)
        if seconds * CLEAR <= best:
            chosen, best = way, seconds
    return Faster(chosen, _note(plan, chosen, usual / best)) if chosen else None


def _ways(plan: Plan, asked: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All but the usual one, those that change nothing else first."""
    for precision in OTHERS.get(plan.training.precision, ()):
        yield {"precision": precision}
    if _may_persist(plan.model) and "embedding_size" not in asked and plan.model.embedding_size % WIDE:
        yield {"precision": "fp16", "embedding_size": WIDE}


def _may_persist(model: ModelConfig) -> bool:
    """Whether nothing but the width of a learned embedding stands between a network and the persistent kernels."""
    free = model.embedding == "learned" and not model.tie_weights
    return free and model.cell != "gru" and model.hidden_size % WIDE == 0 and model.hidden_size <= WIDEST


def _seconds(plan: Plan, way: Mapping[str, Any], timer: Timer) -> float:
    """Of a step in this way; endless where the device's memory does not suffice for it."""
    model = replace(plan.model, embedding_size=way.get("embedding_size", plan.model.embedding_size))
    try:
        return timer(model, replace(plan.training, precision=way["precision"]), LOOK)
    except (torch.OutOfMemoryError, CharrnnError):  # the latter where not even one stream fits, or nothing is finite
        return math.inf


def _note(plan: Plan, way: Mapping[str, Any], times: float) -> str:
    wide = f" with an embedding of {way['embedding_size']}" if "embedding_size" in way else ""
    return f"precision: {way['precision']}{wide}, {round(times, 2):g} times as fast as {plan.training.precision} here"
