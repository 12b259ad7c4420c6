"""Run by test_compiled.py in a Python under gcc's sanitizers: every function of the kernel, each array as long as it must be."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from charrnn.config import ModelConfig
from charrnn.decoding import compiled
from charrnn.decoding.compiled import CompiledDraw, CompiledNet, uniforms
from charrnn.decoding.engine import Draws, Engine
from charrnn.decoding.kernel import Library
from charrnn.weights import weight_shapes


def exact(self: CompiledNet, shape: Sequence[int]) -> np.ndarray:
    """What CompiledNet._place gives, without the bytes around it."""
    return np.zeros(shape, np.float32)


def unaligned(array: np.ndarray) -> np.ndarray:
    """As a file may hold it."""
    return np.frombuffer(b"?" + array.astype(np.float32).tobytes(), np.float32, offset=1).reshape(array.shape)


def net(library: Library, cell: str, act: str, layers: int, size: int, vocabulary: int, narrow: bool) -> None:
    config = ModelConfig(cell=cell, nonlinearity=act, layers=layers, hidden_size=size, vocab_size=vocabulary, embedding="onehot")
    generator = np.random.default_rng(1)
    weights = {name: unaligned(generator.normal(0, 1, shape)) for name, shape in weight_shapes(config).items()}
    engine = Engine(config, weights, kernel=library, narrow=narrow)
    logits, state = engine.step_one(vocabulary - 1, engine.begin())
    added = np.zeros(vocabulary)
    for temp in (0.0, 0.8):
        engine.run(state, logits, Draws(added, CompiledDraw(library, added), temp, np.array([0.0, 0.5, 1 - 2.0**-53])))
    for bad in (np.nan, np.inf):
        engine.step_one(0, tuple(np.full_like(array, bad) for array in state))


def draws(library: Library, count: int) -> None:
    added = np.zeros(count)
    logits = np.zeros(count, np.float32)
    for scale, temp, number in itertools.product((0, 1, 1e30, np.inf, np.nan), (0.0, 5e-324, 0.8, 100.0), (0.0, 1 - 2.0**-53)):
        with np.errstate(invalid="ignore"):
            logits[:] = np.random.default_rng(2).normal(0, 1, count) * scale
        CompiledDraw(library, added)(logits, temp, number)
        CompiledDraw(library, added - np.inf)(logits, temp, number)


def main() -> None:
    library = Library(Path(sys.argv[1]))
    CompiledNet._place = exact  # type: ignore[method-assign]
    cells = (("lstm", "tanh"), ("gru", "tanh"), ("rnn", "tanh"), ("rnn", "relu"))
    for (cell, act), layers, size, narrow in itertools.product(cells, (1, 2), (1, 3, 64, 65), (False, True)):
        net(library, cell, act, layers, size, {1: 4, 3: 65, 64: 64, 65: 130}[size], narrow)
    net(library, "rnn", "tanh", 2, 1030, 4, True)  # more than one chunk
    for count in (1, 2, 63, 64, 65, 128, 129):
        draws(library, count)
    for count in (0, 1, 7):
        uniforms(library, 2**128 - 1, 2**64 - 1, 2**64 - 100, 2**64 - 1, count)
    print("done", compiled.PANEL)


if __name__ == "__main__":
    main()
