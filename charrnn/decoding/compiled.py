"""A network laid out for the compiled kernel: one stream's time step, the draw of its next token, and runs of both.

The same equations as cells.py, from the same arranged weights. Exact to float32's rounding; with `narrow`, weights are
rounded to eight bits, one scale for each output unit, which makes them a quarter as many bytes to read. One net serves
one thread at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ModelConfig
from charrnn.decoding.cells import Floats, State, arranged, input_bias
from charrnn.decoding.kernel import Layer, Library, Matrix, Net
from charrnn.weights import state_arrays

PANEL = 64  # columns; of kernel.c, too
STEEPEST = 1e100
_LINE = 64  # bytes of a cache line
_CELLS = {"lstm": 0, "gru": 1, "rnn": 2}


class Drawn(NamedTuple):
    """Tokens in a row, their log-probabilities (nats), and the states and logits (V,) after each; perhaps more of these."""

    tokens: list[int]
    logprobs: list[float]
    states: list[State]
    logits: list[Floats]


class CompiledNet:
    """One stream of a network: weights in the kernel's layout, and a place for its state."""

    def __init__(self, library: Library, config: ModelConfig, weights: Mapping[str, Floats], narrow: bool) -> None:
        self._library, self._narrow = library, narrow
        self._kept: list[NDArray[Any]] = []  # whatever the kernel has addresses of
        size, gates = config.hidden_size, config.gates * config.hidden_size
        arrays = state_arrays(config)
        self._now = self._place((arrays * config.layers, 1, size))
        self._logits = self._place((_padded(config.vocab_size),))
        self.logits: Floats = self._logits[: config.vocab_size]
        self._before: State | None = None  # the state that stands in `_now`
        layers = (Layer * config.layers)(*(self._layer(config, weights, layer) for layer in range(config.layers)))
        relu = config.cell == "rnn" and config.nonlinearity == "relu"
        output = weights["embedding.weight" if config.tie_weights else "output.weight"]
        self._net = Net(
            3 if relu else _CELLS[config.cell], config.layers, size, config.vocab_size, layers, self._matrix(output),
            self._address(weights["output.bias"]), self._address(self._now),
            self._address(self._place((4 * size + PANEL + 2 * _padded(gates),))), self._address(self._logits),
        )  # fmt: skip
        self._where = ctypes.addressof(self._net)

    def step(self, row: int, state: State, wants_logits: bool) -> State:
        """The state (read-only) after a token whose folded row (G*H,) lies at address `row`; then `logits` holds (V,)."""
        self._stand_at(state)
        self._library.step(self._where, row, wants_logits)
        fresh = self._now.copy()
        fresh.setflags(write=False)
        self._before = tuple(fresh)
        return self._before

    def run(
        self, state: State, logits: Floats, rows: Floats, known: bytearray, draw: CompiledDraw, temp: float,
        uniforms: NDArray[np.float64],
    ) -> Drawn:  # fmt: skip
        """Draw tokens at `uniforms` (N,), the first from `logits` (V,) after `state`, and read each; fewer than N, perhaps
        none, if the row of one in `rows` (V, G*H) is not `known` or there is nothing to choose from."""
        self._stand_at(state)
        self.logits[:] = logits
        uniforms, count = np.ascontiguousarray(uniforms, np.float64), len(uniforms)
        tokens, logprobs = np.empty(count, np.int64), np.empty(count)
        states = np.empty((count, *self._now.shape), np.float32)
        after = np.empty((count, len(self.logits)), np.float32)
        held = (ctypes.c_uint8 * len(known)).from_buffer(known)
        done = self._library.run(
            self._where, rows.ctypes.data, ctypes.addressof(held), draw.bias, steepness(temp), uniforms.ctypes.data, count,
            draw.work, tokens.ctypes.data, logprobs.ctypes.data, states.ctypes.data, after.ctypes.data,
        )  # fmt: skip
        states.setflags(write=False)
        after.setflags(write=False)
        self._before = None
        return Drawn(tokens[:done].tolist(), logprobs[:done].tolist(), [tuple(one) for one in states], list(after))

    def _stand_at(self, state: State) -> None:
        if state is not self._before:
            for place, array in zip(self._now, state, strict=True):
                place[:] = array

    def _layer(self, config: ModelConfig, weights: Mapping[str, Floats], layer: int) -> Layer:
        recurrent, nothing = weights[f"layers.{layer}.weight_hh"], Matrix()
        below = weights[f"layers.{layer}.weight_ih"] if layer else None
        bias = self._address(input_bias(config, weights, layer)) if layer else None
        if config.cell != "gru":
            stacked = recurrent if below is None else np.concatenate([below, recurrent], axis=1)
            return Layer(self._matrix(arranged(stacked, config)), nothing, bias, None)
        bias_n = self._address(weights[f"layers.{layer}.bias_hh"][2 * config.hidden_size :])
        entering = nothing if below is None else self._matrix(arranged(below, config))
        return Layer(self._matrix(arranged(recurrent, config)), entering, bias, bias_n)

    def _matrix(self, weight: Floats) -> Matrix:
        """A weight (out, in) in the layout of kernel.c."""
        columns, rows = weight.shape
        if self._narrow:
            return self._narrow_matrix(weight)
        panels = self._place((_padded(columns) // PANEL, rows, PANEL))
        for number in range(len(panels)):
            part = weight[number * PANEL : (number + 1) * PANEL]
            panels[number, :, : len(part)] = part.T
        return Matrix(self._address(panels), None, rows, columns)

    def _narrow_matrix(self, weight: Floats) -> Matrix:
        """The same in eight bits: the largest weight of each output unit becomes 127 or -127."""
        columns, rows = weight.shape
        scale = self._place((_padded(columns),))
        scale[:columns] = np.maximum(np.abs(weight).max(axis=1), 1e-30) / 127
        rounded = np.zeros((_padded(columns), rows + rows % 2), np.int8)
        with np.errstate(invalid="ignore"):  # weights that are no numbers have such a scale, and so such a product
            rounded[:columns, :rows] = np.rint(weight / scale[:columns, None])
        paired = rounded.reshape(-1, PANEL, rounded.shape[1] // 2, 2).transpose(0, 2, 1, 3)
        return Matrix(self._address(paired), self._address(scale), rows, columns)

    def _place(self, shape: Sequence[int]) -> Floats:
        """Zeros (float32) that begin with a cache line: a vector that lies across two costs two reads."""
        count = int(np.prod(shape))
        room = np.zeros(4 * count + _LINE, np.uint8)
        start = -room.ctypes.data % _LINE
        placed: Floats = room[start : start + 4 * count].view(np.float32).reshape(shape)
        return placed

    def _address(self, array: NDArray[Any]) -> int:
        array = np.require(array, requirements=("C", "ALIGNED"))  # what was read from a file may lie anywhere
        self._kept.append(array)
        return int(array.ctypes.data)


class CompiledDraw:
    """The plain draw (no filter but temperature) from logits (V,) and what is added to them."""

    def __init__(self, library: Library, added: NDArray[np.float64]) -> None:
        """`added` (V,): 0, a bias, or -inf for a token that is never drawn."""
        count = len(added)
        self._draw, self._draw_rows, self._count = library.draw, library.draw_rows, count
        self._added = np.array(added, np.float64)
        self._logits = np.zeros(count, np.float32)
        self._work = np.zeros(2 * count + PANEL)
        self._logprob = ctypes.c_double()
        self.work, self.bias = self._work.ctypes.data, self._added.ctypes.data
        self._from, self._to = self._logits.ctypes.data, ctypes.addressof(self._logprob)

    def __call__(self, logits: Floats, temp: float, uniform: float) -> tuple[int, float] | None:
        """The token at `uniform` and its log-probability (nats; temperature 1, all tokens); None where NumPy has to say why."""
        self._logits[:] = logits
        token = self._draw(self._from, self.bias, self._count, steepness(temp), uniform, self.work, self._to)
        return None if token < 0 else (token, self._logprob.value)

    def rows(
        self, logits: Floats, temp: float, uniforms: NDArray[np.float64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]] | None:
        """The same for each row of logits (B, V) with its number of `uniforms` (B,): tokens (B,), log-probabilities (B,)."""
        logits, uniforms = np.ascontiguousarray(logits), np.ascontiguousarray(uniforms)
        tokens, logprobs = np.empty(len(logits), np.int64), np.empty(len(logits))
        drawn = self._draw_rows(
            logits.ctypes.data, self.bias, self._count, steepness(temp), uniforms.ctypes.data, self.work, len(logits),
            tokens.ctypes.data, logprobs.ctypes.data,
        )  # fmt: skip
        return (tokens, logprobs) if drawn == len(logits) else None


def steepness(temp: float) -> float:
    """1 / temperature for kernel.c: bounded, and 0 for greedy."""
    return min(1 / temp, STEEPEST) if temp else 0.0


def uniforms(library: Library, seed: int, stream: int, position: int, attempt: int, count: int) -> NDArray[np.float64]:
    """`count` numbers as sampling.uniform gives them, from `position` on."""
    numbers = np.empty(count)
    mask = (1 << 64) - 1
    library.uniforms(seed & mask, seed >> 64, stream, position, attempt, count, numbers.ctypes.data)
    return numbers


def _padded(columns: int) -> int:
    return -(-columns // PANEL) * PANEL
