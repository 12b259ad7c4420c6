"""One recurrent layer at one time step, in NumPy: LSTM, GRU and plain RNN.

`step(x, before) -> after` takes what comes from below and the layer's state, and gives its new state as fresh read-only
arrays, h first. The first layer gets its input product ready-made, biases included (`x` is then (G*H,) or (B, G*H),
see engine.py); the layers above get the output (B, H) of the one below. Scratch is allocated by `prepare(batch)`.
Weights come arranged: gates in the order that lets one call serve most of them, those with a sigmoid halved, so that
sigmoid(x) = tanh(x/2)/2 + 1/2 needs no inner product with 1/2. Halving is exact in floating point.

Shapes: B streams, H hidden, G gates. The models' torch layers are the readable form of the same equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ModelConfig

Floats = NDArray[np.float32]
State = tuple[Floats, ...]

_HALF = np.array(0.5, np.float32)  # as an array: NumPy needs 0.4 us more for a Python number


class Cell(Protocol):
    """One layer."""

    arrays: int  # how many state arrays it has

    def prepare(self, batch: int) -> None:
        """Allocate scratch for `batch` streams; needed before `step`, and again when their number changes."""

    def step(self, x: Floats, before: State) -> State:
        """The state after one time step."""


def make_cell(config: ModelConfig, weights: Mapping[str, Floats], layer: int) -> Cell:
    """Layer number `layer` of the network that `config` and `weights` (named by `weight_shapes`) describe."""
    if config.cell == "gru":
        return _Gru(config, weights, layer)
    product = _Product(config, weights, layer)
    return _Lstm(product, config.hidden_size) if config.cell == "lstm" else _Rnn(product, config)


def arranged(array: Floats, config: ModelConfig) -> Floats:
    """A copy of a weight (G*H, ...) or bias (G*H,) with the gates as the cells want them: LSTM i f o g, sigmoids halved."""
    order = {"lstm": [0, 1, 3, 2], "gru": [0, 1, 2], "rnn": [0]}[config.cell]
    blocks = array.reshape(config.gates, config.hidden_size, *array.shape[1:])[order]
    blocks[: config.gates - 1] *= _HALF  # every gate but the last has a sigmoid
    return blocks.reshape(array.shape)


def input_bias(config: ModelConfig, weights: Mapping[str, Floats], layer: int) -> Floats:
    """What is added to the gates whatever the state, (G*H,), arranged; a GRU's recurrent bias of n is not in it."""
    recurrent = weights[f"layers.{layer}.bias_hh"].copy()
    if config.cell == "gru":
        recurrent[2 * config.hidden_size :] = 0
    return arranged(weights[f"layers.{layer}.bias_ih"] + recurrent, config)


class _Product:
    """W_ih x + W_hh h + b for all gates: x + W_hh h in the first layer, above it one product over [x; h]."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, Floats], layer: int) -> None:
        stacked = weights[f"layers.{layer}.weight_hh"]
        if layer:
            stacked = np.concatenate([weights[f"layers.{layer}.weight_ih"], stacked], axis=1)
        self._weight = np.ascontiguousarray(arranged(stacked, config).T)  # (H or 2H, G*H)
        self._bias = input_bias(config, weights, layer) if layer else None
        self.width = self._weight.shape[1]

    def prepare(self, batch: int) -> None:
        if self._bias is not None:
            both = self._both = np.empty((batch, self._weight.shape[0]), np.float32)
            self._x, self._h = np.hsplit(both, 2)

    def into(self, out: Floats, x: Floats, h: Floats) -> None:
        """Put the product, (B, G*H), into `out`."""
        if self._bias is None:
            h.dot(self._weight, out)
            np.add(out, x, out)
        else:
            self._x[:] = x
            self._h[:] = h
            self._both.dot(self._weight, out)
            np.add(out, self._bias, out)


class _Lstm:
    """c' = f c + i g, h' = o tanh(c') with sigmoid gates i f o and g a tanh (Gers et al. 2000)."""

    arrays = 2

    def __init__(self, product: _Product, hidden_size: int) -> None:
        self._product = product
        self._size = hidden_size

    def prepare(self, batch: int) -> None:
        self._product.prepare(batch)
        self._gates = gates = np.empty((batch, 4 * self._size), np.float32)
        self._i, self._f, self._o, self._g = np.hsplit(gates, 4)
        self._sigmoids = gates[:, : 3 * self._size]

    def step(self, x: Floats, before: State) -> State:
        gates, sigmoids, g = self._gates, self._sigmoids, self._g
        self._product.into(gates, x, before[0])
        np.tanh(gates, gates)
        np.multiply(sigmoids, _HALF, sigmoids)
        np.add(sigmoids, _HALF, sigmoids)
        c = np.multiply(self._f, before[1])
        np.multiply(self._i, g, g)
        np.add(c, g, c)
        np.tanh(c, g)
        h = np.multiply(self._o, g)
        c.setflags(write=False)
        h.setflags(write=False)
        return h, c


class _Gru:
    """h' = n + z (h - n) with n = tanh(W_in x + b_in + r (W_hn h + b_hn)), the form of cuDNN and torch."""

    arrays = 1

    def __init__(self, config: ModelConfig, weights: Mapping[str, Floats], layer: int) -> None:
        self._size = config.hidden_size
        self._recurrent = np.ascontiguousarray(arranged(weights[f"layers.{layer}.weight_hh"], config).T)  # (H, 3H)
        self._recurrent_bias = weights[f"layers.{layer}.bias_hh"][2 * self._size :].copy()  # of n, which r multiplies
        self._input: Floats | None = None
        if layer:
            self._input = np.ascontiguousarray(arranged(weights[f"layers.{layer}.weight_ih"], config).T)  # (H, 3H)
            self._bias = input_bias(config, weights, layer)

    def prepare(self, batch: int) -> None:
        size = self._size
        self._gates = gates = np.empty((batch, 3 * size), np.float32)
        self._below = np.empty_like(gates)
        self._r, self._z, self._n = np.hsplit(gates, 3)
        self._sigmoids = gates[:, : 2 * size]

    def step(self, x: Floats, before: State) -> State:
        h, sigmoids, n, size = before[0], self._sigmoids, self._n, self._size
        x = self._from_below(x)
        h.dot(self._recurrent, self._gates)
        np.add(sigmoids, x[..., : 2 * size], sigmoids)
        np.tanh(sigmoids, sigmoids)
        np.multiply(sigmoids, _HALF, sigmoids)
        np.add(sigmoids, _HALF, sigmoids)
        np.add(n, self._recurrent_bias, n)
        np.multiply(n, self._r, n)
        np.add(n, x[..., 2 * size :], n)
        np.tanh(n, n)
        after = np.subtract(h, n)
        np.multiply(after, self._z, after)
        np.add(after, n, after)
        after.setflags(write=False)
        return (after,)

    def _from_below(self, x: Floats) -> Floats:
        if self._input is None:
            return x
        x.dot(self._input, self._below)
        np.add(self._below, self._bias, self._below)
        return self._below


class _Rnn:
    """h' = tanh or relu of W_ih x + W_hh h + b (Elman 1990)."""

    arrays = 1

    def __init__(self, product: _Product, config: ModelConfig) -> None:
        self._product = product
        self._shape: tuple[int, int] = (0, config.hidden_size)
        self._relu = config.nonlinearity == "relu"

    def prepare(self, batch: int) -> None:
        self._product.prepare(batch)
        self._shape = (batch, self._shape[1])

    def step(self, x: Floats, before: State) -> State:
        after: NDArray[Any] = np.empty(self._shape, np.float32)
        self._product.into(after, x, before[0])
        if self._relu:
            np.maximum(after, 0, out=after)
        else:
            np.tanh(after, after)
        after.setflags(write=False)
        return (after,)
