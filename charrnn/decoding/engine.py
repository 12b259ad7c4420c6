"""A recurrent language model in NumPy: ids and a state in, logits and a new state out.

`begin(batch) -> state`, `step(ids, state) -> (logits, state)` and `gather(state, indices) -> state` are all that a
stream, a batch, a beam or an undo tree need. A state is an immutable snapshot; scratch is the engine's own, so one
engine serves one thread at a time. Knows nothing of text, sampling or files; sets no threads (see `single_thread`).

What makes one stream fast is reading each weight once and calling NumPy seldom:
* embedding, W_ih and biases of the first layer are folded into one row per token, made when first needed;
* above the first layer W_ih and W_hh stand side by side, so that one product takes [x; h] (a GRU needs two);
* matrices lie transposed and contiguous, and `dot(..., out)` of one row is BLAS's matrix-vector product;
* sigmoid(x) = tanh(x/2)/2 + 1/2: the inner half is folded into weights and biases, so one tanh serves all gates;
* where kernel.c could be compiled, it takes the whole step of a single stream, and NumPy only keeps the states.

Shapes: B streams, V vocabulary, E embedding, H hidden, G gates, N tokens of one stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ModelConfig
from charrnn.decoding import kernel, labelled, sampling
from charrnn.decoding.cells import Cell, arranged, input_bias, make_cell
from charrnn.decoding.compiled import CompiledDraw, CompiledNet, Drawn
from charrnn.decoding.kernel import Library
from charrnn.errors import CharrnnError, CheckpointError
from charrnn.weights import state_arrays, weight_shapes

if TYPE_CHECKING:
    from charrnn.runs.model import Model

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
State = tuple[Floats, ...]  # flat, each (B, H); LSTM h0, c0, h1, c1, ...; GRU and RNN h0, h1, ...

READ_AHEAD = 64 << 20  # bytes of weights
TABLE_BYTES = 64 << 20  # most memory for folded rows of the first layer
ANOTHER_COPY = "Use another copy of the file, or train again."


class Draws(NamedTuple):
    """What tokens in a row are drawn with: what is added to the logits (V,), also compiled, and numbers (N,) in [0, 1)."""

    added: NDArray[np.float64]
    compiled: CompiledDraw | None
    temp: float
    numbers: NDArray[np.float64]


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
    """A Stepper that goes through one stream faster than by `step`; the states are the same to the last bit."""

    def step_one(self, token: int, state: State) -> tuple[Floats, State]:
        """One token of one stream: the logits (V,) after it, and the state."""

    def advance(self, ids: Ids, state: State) -> State:
        """Ids (N,) of one stream to the state after them."""

    def follow(self, ids: Ids, state: State) -> tuple[Floats, State]:
        """Ids (N,) of one stream to the logits after each of them, (N, V), and the state after the last."""


class Engine:
    """A language model's weights, ready to step: a Stepper and Follower."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, NDArray[Any]], *, kernel: Library | None = None, narrow: bool = False,
        table_bytes: int = TABLE_BYTES, label: int = 0,
    ) -> None:  # fmt: skip
        """Fold `weights`, named and shaped by `charrnn.weights`, float32 or float16, which must not change later.

        Of a conditional model, `label` is the number of the label it writes by.

        `kernel` (see kernel.find) serves single streams; `narrow` lets it round the weights to eight bits. Folded rows of
        the first layer take at most about `table_bytes`. Raises CheckpointError if the weights are not what `config` says.
        """
        config, named, self._begin = labelled.fold(config, _checked(config, weights), label)
        self._named = named
        self.config = config
        self.vocab_size = config.vocab_size
        self.kernel, self.narrow = kernel, narrow and kernel is not None
        self._arrays = state_arrays(config)
        self._input = _Input(config, named, table_bytes)
        # Tokens worth drawing in one go: as many as are read in a millisecond or two, and always some.
        self.ahead = max(4, min(64, READ_AHEAD // sum(array.nbytes for array in named.values())))
        self._fast = CompiledNet(kernel, config, named, narrow) if kernel else None
        self._batch = 0

    def begin(self, batch: int = 1, context: object = None) -> State:
        """The zero state, or that of the label; a language model takes no context. See Stepper."""
        assert batch >= 1
        assert context is None
        return self.gather(self._begin, [0] * batch)

    def step(self, ids: Ids, state: State) -> tuple[Floats, State]:
        """See Stepper; logits and state are fresh read-only arrays."""
        if len(ids) == 1:
            logits, state = self.step_one(int(ids[0]), state)
            return logits[None], state
        state = self._recur(ids, state)
        return self._scores(state[-self._arrays]), state

    def step_one(self, token: int, state: State) -> tuple[Floats, State]:
        """See Follower."""
        if self._fast is None:
            state = self._recur_one(token, state)
            return self._scores(state[-self._arrays])[0], state
        state = self._fast.step(self._input.address(token), state, True)
        logits = self._fast.logits.copy()
        logits.setflags(write=False)
        return logits, state

    def run(self, state: State, logits: Floats, draws: Draws) -> Drawn:
        """Draw tokens in a row, the first from `logits` (V,), and read each after `state`, with as little between as can be.

        In one call of the kernel if there is one. There may be fewer tokens than numbers, with a kernel even none.
        Raises CharrnnError (without a kernel) if there is nothing to choose from at the first.
        """
        table = self._input.table
        if self._fast is not None and draws.compiled is not None and table is not None:
            return self._fast.run(state, logits, table, self._input.known, draws.compiled, draws.temp, draws.numbers)
        drawn = Drawn([], [], [], [])
        for number in draws.numbers.tolist():
            try:
                token, logprob = sampling.draw(logits, draws.added, draws.temp, number)
            except CharrnnError:
                if not drawn.tokens:
                    raise
                return drawn  # those before it are good; whoever goes on meets it first
            logits, state = self.step_one(token, state)
            drawn.tokens.append(token)
            drawn.logprobs.append(logprob)
            drawn.states.append(state)
            drawn.logits.append(logits)
        return drawn

    def run_many(
        self, state: State, logits: Floats, draws: Draws
    ) -> Iterator[tuple[Ids, NDArray[np.float64], State, Floats]]:  # fmt: skip
        """As `run` for many streams: for each row of the numbers (N, B), tokens (B,), log-probabilities (B,), state, logits."""
        for row in draws.numbers:
            drawn = None if draws.compiled is None else draws.compiled.rows(logits, draws.temp, row)
            tokens, logprobs = drawn or sampling.draw_rows(logits, draws.added, draws.temp, row)
            logits, state = self.step(tokens, state)
            yield tokens, logprobs, state, logits

    def gather(self, state: State, indices: Sequence[int] | Ids) -> State:
        """See Stepper."""
        gathered = tuple(array[np.asarray(indices, np.int64)] for array in state)
        for array in gathered:
            array.setflags(write=False)
        return gathered

    def advance(self, ids: Ids, state: State) -> State:
        """See Follower."""
        for token in ids.tolist():
            state = self._recur_one(token, state)
        return state

    def follow(self, ids: Ids, state: State) -> tuple[Floats, State]:
        """See Follower; the output layer runs once for all ids, as a matrix product, unless its weights are rounded, too."""
        if self.narrow:
            rows = []
            for token in ids.tolist():
                logits, state = self.step_one(token, state)
                rows.append(logits)
            return np.array(rows, np.float32).reshape(len(rows), self.vocab_size), state
        outputs = np.empty((len(ids), self.config.hidden_size), np.float32)
        for place, token in enumerate(ids.tolist()):
            state = self._recur_one(token, state)
            outputs[place] = state[-self._arrays][0]
        return self._scores(outputs), state  # (N, V)

    @cached_property
    def _cells(self) -> list[Cell]:
        """The layers in NumPy, made when first needed: with a kernel, only for many streams."""
        return [make_cell(self.config, self._named, layer) for layer in range(self.config.layers)]

    @cached_property
    def _output(self) -> Floats:
        """The output layer, (H, V)."""
        weight = self._named["embedding.weight" if self.config.tie_weights else "output.weight"]
        return np.ascontiguousarray(weight.T)

    def _scores(self, outputs: Floats) -> Floats:
        """The logits (N, V), read-only, for outputs (N, H) of the last layer."""
        logits: Floats = outputs.dot(self._output)
        np.add(logits, self._named["output.bias"], logits)
        logits.setflags(write=False)
        return logits

    def _recur_one(self, token: int, state: State) -> State:
        """The recurrent layers for one stream."""
        if self._fast is not None:
            return self._fast.step(self._input.address(token), state, False)
        if self._batch != 1:
            self._prepare(1)
        return self._through_layers(self._input.row(token), state)

    def _recur(self, ids: Ids, state: State) -> State:
        """The recurrent layers: ids (B,) and the state before to the state after."""
        batch = len(ids)
        assert len(state) == self._arrays * self.config.layers
        assert state[0].shape == (batch, self.config.hidden_size)
        if batch != self._batch:
            self._prepare(batch)
        return self._through_layers(self._input.rows(ids), state)

    def _through_layers(self, x: Floats, state: State) -> State:
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
        self.table: Floats | None = None
        self.known = bytearray(config.vocab_size)
        if self._embedding is None:
            self.table = self._weight + self._bias
            self.known = bytearray(b"\1") * config.vocab_size
        elif config.vocab_size * row_bytes <= most_bytes:
            self.table = np.empty((config.vocab_size, len(self._bias)), np.float32)  # pages not touched take no memory
        self._stride, self._base = row_bytes, 0 if self.table is None else int(self.table.ctypes.data)

    def address(self, token: int) -> int:
        """Where the row of one token lies, until the next call."""
        assert token >= 0  # the kernel does not count from the end
        if self.table is None or not self.known[token]:
            row = self.row(token)
            return int(row.ctypes.data)
        return self._base + token * self._stride

    def row(self, token: int) -> Floats:
        """The row of one token, (G*H,)."""
        if self.table is None:
            return self._kept_row(token)
        if not self.known[token]:
            self.table[token] = self._folded(token)
            self.known[token] = 1
        row: Floats = self.table[token]
        return row

    def rows(self, ids: Ids) -> Floats:
        """The rows of many tokens, (B, G*H)."""
        if self.table is None:
            assert self._embedding is not None
            rows: Floats = self._embedding[ids].dot(self._weight)
            rows += self._bias
            return rows
        for token in set(ids.tolist()):
            self.row(token)
        return self.table[ids]

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


def of(model: Model, *, narrow: bool = False, label: int = 0) -> Engine:
    """The engine of a trained model, with the compiled kernel if there is one; asked to be `narrow` it waits for one."""
    found = kernel.make() if narrow else kernel.find()
    return Engine(model.config, model.weights, kernel=found, narrow=narrow, label=label)


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
