"""The weights of a model under the names that textbooks give them, gate by gate, and what can be said of each.

Of E, U, W, V, b and c (Goodfellow, Bengio and Courville, "Deep Learning", chapter 10): E embeds, U is input-to-hidden, W
hidden-to-hidden, V hidden-to-output, b and c are the biases of the hidden layer and of the output. A file holds b in two
parts, one beside U and one beside W: `b_U` and `b_W`. Knows names, shapes and the order of the gates; knows nothing of how
a network computes, nor which tensors a model must have: one that it has no name for keeps that of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GATES = {"lstm": ("input", "forget", "cell", "output"), "gru": ("reset", "update", "new"), "rnn": ("",)}
RECURRENT = {"weight_ih": "U", "weight_hh": "W", "bias_ih": "b_U", "bias_hh": "b_W"}
OTHERS = {  # in the order in which numbers flow; None is where the layers come
    "encoder.embedding.weight": "E embedding (encoder)",
    "encoder": None,
    "context.weight": "W context",
    "context.bias": "b context",
    "label.state.weight": "S initial state (label)",
    "label.step.weight": "S at each step (label)",
    "input.weight": "E input rows",
    "input.bias": "b input rows",
    "embedding.weight": "E embedding",
    "": None,
    "attention.query.weight": "W_a query (attention)",
    "attention.key.weight": "U_a key (attention)",
    "attention.energy.weight": "v_a energy (attention)",
    "attention.combine.weight": "W_c combine (attention)",
    "attention.combine.bias": "b_c combine (attention)",
    "output.weight": "V hidden-to-output",
    "output.bias": "c output",
}
MOST_UNITS = 4096  # of a block whose eigenvalues are computed: 20 s and 400 MB
_LAYER = re.compile(r"(?:(encoder)\.)?(layers|reverse)\.(\d{1,4})\.(weight_ih|weight_hh|bias_ih|bias_hh)")
_PLACES = {name: place for place, name in enumerate(OTHERS)}


@dataclass(frozen=True)
class Named:
    """A block of a tensor: its textbook name, the file's tensor, where in that it stands, and its numbers."""

    name: str
    tensor: str
    place: slice | None  # the rows; None is all of it
    recurrent: bool  # whether it leads from hidden to hidden
    values: NDArray[Any]

    @property
    def index(self) -> str:
        """Where it stands as Python writes an index: `:` is all, `16:32` are rows."""
        if self.place is None:
            return ":"
        return f"{self.place.start}:{self.place.stop}"

    @property
    def norm(self) -> float:
        """The Frobenius norm of a matrix, the Euclidean norm of a vector."""
        return float(np.sqrt(np.square(self.values, dtype=np.float64).sum()))

    def spectral_radius(self) -> float | None:
        """The largest absolute eigenvalue of a hidden-to-hidden block; None for others, and those that are too large.

        Below 1 what the layer once heard fades; above, nothing but the gates and the nonlinearity bounds it.
        """
        rows, columns = self.values.shape if self.values.ndim == 2 else (0, 1)
        if not self.recurrent or rows != columns or rows > MOST_UNITS:
            return None
        try:
            return float(np.abs(np.linalg.eigvals(self.values.astype(np.float64))).max(initial=0))
        except np.linalg.LinAlgError:  # it did not converge
            return None


def named(weights: Mapping[str, NDArray[Any]], cell: str, *, tied: bool = False) -> Iterator[Named]:
    """Every block of `weights`, from the input to the output; those of one tensor follow each other in their order.

    `tied` says that the embedding is the output's matrix too.
    """
    for tensor in sorted(weights, key=_place):
        values, layer = weights[tensor], _LAYER.fullmatch(tensor)
        name = _in_a_layer(layer) if layer else OTHERS.get(tensor) or tensor
        if tied and tensor == "embedding.weight":
            name += " = V hidden-to-output"
        if layer:
            yield from _gates(name, tensor, values, GATES[cell])
        else:
            yield Named(name, tensor, None, False, values)


def _gates(name: str, tensor: str, values: NDArray[Any], gates: tuple[str, ...]) -> Iterator[Named]:
    """The blocks of a tensor in which the gates are stacked."""
    size, recurrent = len(values) // len(gates), tensor.endswith("weight_hh")
    for number, gate in enumerate(gates):
        place = None if len(gates) == 1 else slice(number * size, (number + 1) * size)
        block = values if place is None else values[place]
        yield Named(" ".join(name.format(gate=gate).split()), tensor, place, recurrent, block)


def _in_a_layer(match: re.Match[str]) -> str:
    encoder, direction, number, kind = match.groups()
    where = f"{'encoder ' if encoder else ''}layer {int(number) + 1}{', backward' if direction == 'reverse' else ''}"
    return f"{RECURRENT[kind]} {{gate}} ({where})"


def _place(tensor: str) -> tuple[int, int, bool, int, str]:
    """The order of tensors: as in OTHERS, layer by layer, each forward and backward; strangers last."""
    match = _LAYER.fullmatch(tensor)
    if match is None:
        return _PLACES.get(tensor, len(_PLACES)), 0, False, 0, tensor
    encoder, direction, number, kind = match.groups()
    return _PLACES[encoder or ""], int(number), direction == "reverse", list(RECURRENT).index(kind), tensor
