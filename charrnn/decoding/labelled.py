"""A conditional model with its label chosen is a language model: other biases, and another state to begin in.

What is added to the input at each step, W_ih (x + s) = W_ih x + W_ih s, is the same at all of them, and so a part of the
first layer's bias. Whoever steps through the rest need not know that there are labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ModelConfig
from charrnn.decoding.settings import did_you_mean
from charrnn.errors import UsageError
from charrnn.weights import state_arrays

Floats = NDArray[np.float32]
BIAS = "layers.0.bias_ih"
NAMED = 20  # labels that a message lists
EXCERPT = 40  # characters of each


def fold(
    config: ModelConfig, weights: dict[str, Floats], label: int
) -> tuple[ModelConfig, dict[str, Floats], tuple[Floats, ...]]:
    """The config and weights of the language model that writes texts of `label`, and the state, each (1, H), it begins in.

    A language model is that already, and begins at zero.
    """
    width, arrays = config.hidden_size, state_arrays(config) * config.layers
    begin = np.zeros((arrays, 1, width), np.float32)
    if config.task == "language":
        return config, weights, tuple(begin)
    assert config.task == "conditional"
    assert 0 <= label < config.classes
    plain = {name: weight for name, weight in weights.items() if not name.startswith("label.")}
    if (step := weights.get("label.step.weight")) is not None:
        plain[BIAS] = plain[BIAS] + plain["layers.0.weight_ih"].dot(step[label])
    if (first := weights.get("label.state.weight")) is not None:
        begin = first[label].reshape(arrays, 1, width)
    return replace(config, task="language"), plain, tuple(begin)


def number_of(label: str, labels: Sequence[str]) -> int:
    """Which of a model's labels this is; raises UsageError, with the labels there are, if it is none of them."""
    if label in labels:
        return labels.index(label)
    meant = did_you_mean(label, labels)
    raise UsageError(f"there is no label {label[:EXCERPT]!r}.", f"{meant} {listed(labels)}".strip())


def listed(labels: Sequence[str]) -> str:
    """The labels there are, in a sentence."""
    more = f" and {len(labels) - NAMED:,} more" if len(labels) > NAMED else ""
    return f"The labels are: {', '.join(label[:EXCERPT] for label in labels[:NAMED])}{more}."
