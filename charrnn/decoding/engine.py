"""A recurrent language model in NumPy: ids and a state in, logits and a new state out.

`begin(batch) -> state`, `step(ids, state) -> (logits, state)` and `gather(state, indices) -> state` are all that a
stream, a batch, a beam or an undo tree need. A state is an immutable snapshot; scratch is the engine's own, so one
engine serves one thread at a time. Knows nothing of text, sampling or files; sets no threads (see `single_thread`).

What makes one stream fast is reading each weight once and calling NumPy seldom:
* embedding, W_ih and biases of the first layer are folded into one row per token, made when first needed;
* above the first layer W_ih and W_hh stand side by side, so that one product takes [x; h] (a GRU needs two);
* matrices lie transposed and contiguous, and `dot(..., out)` of one row is BLAS's matrix-vector product;
* sigmoid(x) = tanh(x/2)/2 + 1/2: the inner half is folded into weights and biases, so one tanh serves all gates.

Shapes: B streams, V vocabulary, E embedding, H hidden, G gates, N tokens of one stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ModelConfig, weight_shapes
from charrnn.decoding.cells import Cell, arranged, input_bias, make_cell
from charrnn.errors import CheckpointError

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
State = tuple[Floats, ...]  # flat, each (B, H); LSTM h0, c0, h1, c1, ...; GRU and RNN h0, h1, ...

TABLE_BYTES = 64 << 20  # most memory for folded rows of the first layer
ANOTHER_COPY = "Use another copy of the file, or train again."


class Stepper(Protocol):
    """Whatever can be decoded from."""

    @property
    def vocab_size(self) -> int:
        """V."""

    def begin(self, batch: int = 1, context: object = None) -> State:
        """The state of `batch` streams that have read nothing but, where a model takes one, the `context`."""

    def step(self, ids: Ids, state: State) -> tuple[Floats, State]:
        """Token ids (B,) and the state before them to logits (B, V) and the state after them."""

    def gather(self, state: State, indices: Sequence[int] | Ids) -> State:
        """The state whose stream k is stream `indices[k]` of `state`; indices may repeat."""


@runtime_checkable
class Follower(Stepper, Protocol):
    """A Stepper that reads given text faster than step by step; the states are the same to the last bit."""

    def advance(self, ids: Ids, state: State) -> State:
        """Ids (N,) of one stream to the state after them."""

    def follow(self, ids: Ids, state: State) -> tuple[Floats, State]:
        """Ids (N,) of one stream to the logits after each of them, (N, V), and the state after the last."""


class Engine:
    """A language model's weights, ready to step: a Stepper and Follower."""

    def __init__(self, config: ModelConfig, weights: Mapping[str, NDArray[Any]], *, table_bytes: int = TABLE_BYTES) -> None:
        """Fold `weights`, named and shaped by `config.weight_shapes`, float32 or float16, which must not change later.

        Folded rows of the first layer take at most about `table_bytes`. Raises CheckpointError if the weights are not
        what `config` says.
        """
        named = _checked(config, weights)
        self.config = config
        self.vocab_size = config.vocab_size
        self._cells: list[Cell] = [make_cell(config, named, layer) for layer in range(config.layers)]
        self._arrays = self._cells[0].arrays
        self._input = _Input(config, named, table_bytes)
        output = named["embedding.weight" if config.tie_weights else "output.weight"]
        self._output = np.ascontiguousarray(output.T)  # (H, V)
        self._output_bias = named["output.bias"]
        self._batch = 0

    def begin(self, batch: int = 1, context: object = None) -> State:
        """The zero state; a language model takes no context. See Stepper."""
        assert batch >= 1
        assert context is None
        zero = np.zeros((batch, self.config.hidden_size), np.float32)
        zero.setflags(write=False)
        return (zero,) * (self._arrays * self.config.layers)

    def step(self, ids: Ids, state: State) -> tuple[Floats, State]:
        """See Stepper; logits and state are fresh read-only arrays."""
        state = self._recur(ids, state)
        logits = state[-self._arrays].dot(self._output)  # (B, V)
        logits += self._output_bias
        logits.setflags(write=False)
        return logits, state

    def gather(self, state: State, indices: Sequence[int] | Ids) -> State:
        """See Stepper."""
        gathered = tuple(array[np.asarray(indices, np.int64)] for array in state)
        for array in gathered:
            array.setflags(write=False)
        return gathered

    def advance(self, ids: Ids, state: State) -> State:
        """See Follower."""
        for start in range(len(ids)):
            state = self._recur(ids[start : start + 1], state)
        return state

    def follow(self, ids: Ids, state: State) -> tuple[Floats, State]:
        """See Follower; the output layer runs once for all ids, as a matrix product."""
        outputs = np.empty((len(ids), self.config.hidden_size), np.float32)
        for start in range(len(ids)):
            state = self._recur(ids[start : start + 1], state)
            outputs[start] = state[-self._arrays][0]
        logits: Floats = outputs.dot(self._output)  # (N, V)
        logits += self._output_bias
        return logits, state

    def _recur(self, ids: Ids, state: State) -> State:
        """The recurrent layers: ids (B,) and the state before to the state after."""
        batch = len(ids)
        assert len(state) == self._arrays * self.config.layers
        assert state[0].shape == (batch, self.config.hidden_size)
        if batch != self._batch:
            self._prepare(batch)
        x = self._input.row(int(ids[0])) if batch == 1 else self._input.rows(ids)
        after: State = ()
        for cell in self._cells:
            after += cell.step(x, state[len(after) : len(after) + self._arrays])
            x = after[-self._arrays]
        return after

    def _prepare(self, batch: int) -> None:
        for cell in self._cells:
            cell.prepare(batch)
        self._batch = batch


class _Input:
    """The first layer's input product with its biases, (G*H,) for each token: W_ih embedding[token] + b.

    One-hot input makes W_ih itself the table. A learned embedding fills a table row by row, each when it is first
    needed and always by the same product, so that nothing depends on what came before. Where a table would take more
    than `most_bytes`, single streams keep that many rows and batches multiply.
    """

    def __init__(self, config: ModelConfig, named: Mapping[str, Floats], most_bytes: int) -> None:
        self._weight = np.ascontiguousarray(arranged(named["layers.0.weight_ih"], config).T)  # (E or V, G*H)
        self._bias = input_bias(config, named, 0)
        self._embedding = named.get("embedding.weight")
        row_bytes = self._bias.nbytes
        self._most_rows = max(most_bytes // row_bytes, 1)
        self._kept: dict[int, Floats] = {}
        self._table: Floats | None = None
        self._known = bytearray(config.vocab_size)
        if self._embedding is None:
            self._table = self._weight + self._bias
            self._known = bytearray(b"\1") * config.vocab_size
        elif config.vocab_size * row_bytes <= most_bytes:
            self._table = np.empty((config.vocab_size, len(self._bias)), np.float32)  # pages not touched take no memory

    def row(self, token: int) -> Floats:
        """The row of one token, (G*H,)."""
        if self._table is None:
            return self._kept_row(token)
        if not self._known[token]:
            self._table[token] = self._folded(token)
            self._known[token] = 1
        row: Floats = self._table[token]
        return row

    def rows(self, ids: Ids) -> Floats:
        """The rows of many tokens, (B, G*H)."""
        if self._table is None:
            assert self._embedding is not None
            rows: Floats = self._embedding[ids].dot(self._weight)
            rows += self._bias
            return rows
        for token in set(ids.tolist()):
            self.row(token)
        return self._table[ids]

    def _folded(self, token: int) -> Floats:
        assert self._embedding is not None
        row: Floats = self._embedding[token].dot(self._weight)
        row += self._bias
        return row

    def _kept_row(self, token: int) -> Floats:
        row = self._kept.get(token)
        if row is None:
            if len(self._kept) >= self._most_rows:
                del self._kept[next(iter(self._kept))]  # the oldest
            row = self._kept[token] = self._folded(token)
        return row


@contextlib.contextmanager
def single_thread() -> Iterator[None]:
    """Let BLAS use one thread inside: a matrix-vector product of this size only waits for more.

    For whoever owns the process; an engine never does it by itself.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(limits=1):
        yield


def _checked(config: ModelConfig, weights: Mapping[str, NDArray[Any]]) -> dict[str, Floats]:
    """The weights as float32 if they are what `config` says; raises CheckpointError."""
    tied = config.embedding == "learned" and config.embedding_size == config.hidden_size
    if config.tie_weights and not tied:
        raise CheckpointError("tied weights need a learned embedding as wide as the hidden layer.", ANOTHER_COPY)
    shapes = weight_shapes(config)
    if odd := sorted(set(weights) ^ set(shapes)):
        raise CheckpointError(f"tensor {odd[0]!r} is {'not expected' if odd[0] in weights else 'missing'}.", ANOTHER_COPY)
    for name, shape in shapes.items():
        found = weights[name]
        if found.shape != shape or found.dtype not in (np.float32, np.float16):
            expected = f"expected {shape}, float32 or float16"
            raise CheckpointError(f"tensor {name!r} is {found.shape}, {found.dtype}; {expected}.", ANOTHER_COPY)
    return {name: np.asarray(weights[name], np.float32) for name in shapes}
