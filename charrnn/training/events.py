"""What a training run says while it runs: plain facts, in order, for whoever listens.

Knows nothing of terminals or torch. The order is Started, then Step, Evaluated, Sampled, Saved and Adjusted as they come, then
exactly one Finished. Losses are nats per token unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Started:
    """The run is set up; nothing has been learnt yet. `notes` are sentences for the user (choices, warnings)."""

    name: str
    folder: Path
    settings: Mapping[str, Any]  # every resolved setting by field name
    parameters: int
    characters: int
    vocab_size: int
    train_tokens: int
    val_tokens: int
    steps: int
    step: int  # 0, or where a resumed run goes on
    device: str
    command: str  # the equal command with --steps
    notes: tuple[str, ...]
    estimated: bool = False  # whether the clock has still to settle the number of steps
    material: str = ""  # what it learns, in words


@dataclass(frozen=True)
class Step:
    """Means over the steps since the last Step event."""

    step: int
    steps: int
    epoch: float
    loss: float
    accuracy: float
    learning_rate: float
    gradient_norm: float
    tokens_per_second: float
    seconds: float  # since the process started
    eta_seconds: float
    memory_bytes: int
    skipped: int = 0  # steps that were not finite, since the run began


@dataclass(frozen=True)
class Evaluated:
    """A pass over (a prefix of) the validation part with the averaged weights; `best` if it is the lowest so far."""

    step: int
    loss: float
    bits_per_character: float
    bits_per_byte: float
    perplexity: float
    accuracy: float
    best: bool
    on: str  # "validation" or, without a validation part, "training"
    seconds: float
    measures: Mapping[str, float] = field(default_factory=dict)  # what else the task measures, by name


@dataclass(frozen=True)
class Sampled:
    """A glance at what the averaged weights do: a fresh text, or some answers."""

    step: int
    text: str


@dataclass(frozen=True)
class Saved:
    """A checkpoint file is on disk."""

    step: int
    path: Path


@dataclass(frozen=True)
class Finished:
    """The end, and why: "done", "early stop" or "interrupted"."""

    step: int
    reason: str
    best_step: int
    best_loss: float
    best_bits_per_character: float
    seconds: float
    folder: Path
    command: str = ""  # the command with --steps that repeats the run; where time was the bound, known only now


@dataclass(frozen=True)
class Adjusted:
    """Something had to be done otherwise than planned, said in a sentence."""

    step: int
    note: str


Event = Started | Step | Evaluated | Sampled | Saved | Adjusted | Finished
