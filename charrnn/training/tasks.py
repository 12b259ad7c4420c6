"""The four shapes as the trainer sees them: what each adds to the one loop. A new shape is one file and one line here.

A task is a module with `build`, `feed`, `begin`, `count`, `loss` and `hold`. Losses travel as a sum and a count, and are divided
once. Knows nothing of files or of when to stop.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.models.recurrent import State
from charrnn.training import classify, conditional, language, seq2seq
from charrnn.training.batching import Feed
from charrnn.training.evaluate import Held
from charrnn.training.loss import Loss, Network


class Task(Protocol):
    """What one of the four shapes knows."""

    def build(self, model: ModelConfig, training: TrainingConfig) -> Network:
        """The network, its weights as torch initialises them."""

    def feed(self, data: Any, training: TrainingConfig) -> Feed[Any]:
        """The order in which the training part is learnt."""

    def begin(self, network: Any, training: TrainingConfig) -> State:
        """What is carried from one window to the next, before the first; nothing, where examples stand alone."""

    def count(self, batch: Any) -> int:
        """Over how many targets the loss of a batch is a sum."""

    def loss(self, network: Any, batch: Any, state: State, training: TrainingConfig, device: torch.device) -> Loss:
        """What one batch costs."""

    def hold(self, data: Any, training: TrainingConfig) -> Held:
        """What is scored at an evaluation; the training part, where nothing is held out."""


TASKS: Mapping[str, Task] = {
    "language": language,
    "classify": classify,
    "conditional": conditional,
    "seq2seq": seq2seq,
}
