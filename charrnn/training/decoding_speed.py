"""How fast tokens are drawn: the engine beside the bare matrix products it cannot do without, and beside torch.

All ways are measured in turn, one after the other, round after round on one thread, so that whatever else the machine
does meets them alike; a figure is the median of its rounds. Weights are random: speed does not depend on them. "Bare" is
NumPy's fp32 product over the same bytes as a step reads (recurrent and output layers), and nothing else.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charrnn.config import ModelConfig, SamplingConfig
from charrnn.decoding import engine as engines
from charrnn.decoding import generate, kernel
from charrnn.decoding.compiled import CompiledDraw
from charrnn.decoding.engine import Draws, Engine
from charrnn.models.language import LanguageModel
from charrnn.models.weights import import_weights
from charrnn.text.tokenizers import RESERVED, CharTokenizer
from charrnn.weights import weight_shapes

CHARACTERS = 65  # of the alphabet, as many as tinyshakespeare has
STREAMS = 64
SLICE = 0.15  # seconds of one measurement
START = RESERVED
Way = Callable[[int], None]  # draws so many tokens


@dataclass(frozen=True)
class Row:
    """Tokens a second of one network, the median of the rounds; None for what could not be measured here.

    `many` and `many_bare` are for STREAMS streams together, counted over all of them; `many_text` is with the text of each.
    """

    cell: str
    layers: int
    hidden_size: int
    vocab_size: int
    bare: float
    stepped: float  # torch's own layer, called once a token
    fused: float  # a plain step of torch calls
    numpy: float
    compiled: float | None
    int8: float | None
    many_bare: float
    many: float
    many_text: float


def measure(shapes: Sequence[tuple[int, int]], cell: str, rounds: int) -> Iterator[Row]:
    """One row for each (layers, hidden size), with a step and a draw for each token."""
    torch.set_num_threads(1)
    with engines.single_thread(), torch.inference_mode():
        for layers, hidden in shapes:
            yield _row(ModelConfig(cell=cell, vocab_size=RESERVED + CHARACTERS, layers=layers, hidden_size=hidden), rounds)


def _row(model: ModelConfig, rounds: int) -> Row:
    ways = _ways(model)
    sizes = {name: _size(way) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way(sizes[name])
            times[name].append((time.perf_counter() - began) / sizes[name])
    speeds = {name: 1 / statistics.median(values) for name, values in times.items()}
    speeds |= {name: STREAMS * speeds[name] for name in ("many_bare", "many", "many_text")}
    best = {name: speeds.get(name) for name in ("compiled", "int8")}
    return Row(model.cell, model.layers, model.hidden_size, model.vocab_size, **{**speeds, **best})  # type: ignore[arg-type]


def _size(way: Way) -> int:
    """How many tokens take about SLICE seconds; everything that happens once has then happened."""
    way(2)
    count = 1
    while True:
        began = time.perf_counter()
        way(count)
        seconds = time.perf_counter() - began
        if seconds > SLICE / 4:
            return max(1, round(count * SLICE / seconds))
        count *= 2


def _ways(model: ModelConfig) -> dict[str, Way]:
    weights = _weights(model)
    library = kernel.make()
    plain = Engine(model, weights)
    ways = {
        "bare": _bare(model, 1), "stepped": _stepped(model, weights), "fused": _fused(model, weights), "numpy": _stream(plain),
    }  # fmt: skip
    if library is not None:
        ways["compiled"] = _stream(Engine(model, weights, kernel=library))
        ways["int8"] = _stream(Engine(model, weights, kernel=library, narrow=True))
    fast = Engine(model, weights, kernel=library)
    return ways | {"many_bare": _bare(model, STREAMS), "many": _many(fast), "many_text": _many_text(fast)}


def _weights(model: ModelConfig) -> dict[str, NDArray[Any]]:
    generator = np.random.default_rng(1)
    return {name: generator.normal(0, 0.05, shape).astype(np.float32) for name, shape in weight_shapes(model).items()}


def product_shapes(model: ModelConfig) -> list[tuple[int, int]]:
    """The matrices that a step must read: of the first layer the recurrent one (its input is a look-up), of others both."""
    hidden, gates = model.hidden_size, model.gates * model.hidden_size
    recurrent = [(hidden if layer == 0 else 2 * hidden, gates) for layer in range(model.layers)]
    return [*recurrent, (hidden, model.vocab_size)]


def _bare(model: ModelConfig, batch: int) -> Way:
    generator, shapes = np.random.default_rng(1), product_shapes(model)
    matrices = [generator.normal(0, 1, shape).astype(np.float32) for shape in shapes]
    vectors = [generator.normal(0, 1, (batch, shape[0])).astype(np.float32) for shape in shapes]
    products = [np.empty((batch, shape[1]), np.float32) for shape in shapes]

    def way(count: int) -> None:
        for _ in range(count):
            for vector, matrix, product in zip(vectors, matrices, products, strict=True):
                vector.dot(matrix, product)

    return way


def _stream(engine: Engine) -> Way:
    tokenizer = _tokenizer()
    prefix = generate.prime(engine, [START])

    def way(count: int) -> None:
        for _ in generate.stream(engine, tokenizer, prefix, SamplingConfig(), seed=1, length=count, at_eos="never"):
            pass

    return way


def _many(engine: Engine) -> Way:
    """A step and a draw of many streams, without what makes text of them."""
    prefix = generate.prime(engine, [START])
    state, logits = engine.gather(prefix.state, [0] * STREAMS), np.repeat(prefix.logits[None], STREAMS, axis=0)
    added = np.zeros(engine.vocab_size)
    compiled = None if engine.kernel is None else CompiledDraw(engine.kernel, added)

    def way(count: int) -> None:
        numbers = np.random.default_rng(1).random((count, STREAMS))
        for _ in engine.run_many(state, logits, Draws(added, compiled, SamplingConfig().temp, numbers)):
            pass

    return way


def _many_text(engine: Engine) -> Way:
    tokenizer = _tokenizer()
    prefix = generate.prime(engine, [START])

    def way(count: int) -> None:
        for _ in generate.draw_many(
            engine, tokenizer, prefix, SamplingConfig(), seed=1, count=STREAMS, length=count, at_eos="never"
        ):  # fmt: skip
            pass

    return way


def _stepped(model: ModelConfig, weights: dict[str, NDArray[Any]]) -> Way:
    """torch's layer (nn.LSTM, nn.GRU, nn.RNN) called with one time step, as most programs sample."""
    network = LanguageModel(model).eval()
    import_weights(network, weights)

    def way(count: int) -> None:
        ids, state = torch.tensor([START]), network.begin(1)
        for _ in range(count):
            logits, state = network.step(ids, state)
            ids = _drawn(logits)

    return way


def _fused(model: ModelConfig, weights: dict[str, NDArray[Any]]) -> Way:
    """One product for all gates of an LSTM, then its equations call by call; other cells by torch's own step."""
    cell: Any = {"lstm": _lstm, "gru": torch.gru_cell, "rnn": torch.rnn_tanh_cell}[model.cell]
    tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
    parts = [
        [tensors[f"layers.{layer}.{part}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for layer in range(model.layers)
    ]

    def way(count: int) -> None:
        ids, zero = torch.tensor([START]), torch.zeros(1, model.hidden_size)
        states: list[Any] = [(zero, zero) if model.cell == "lstm" else zero] * model.layers
        for _ in range(count):
            x = tensors["embedding.weight"][ids]
            for layer, part in enumerate(parts):
                states[layer] = cell(x, states[layer], *part)
                x = states[layer][0] if model.cell == "lstm" else states[layer]
            ids = _drawn(functional.linear(x, tensors["output.weight"], tensors["output.bias"]))

    return way


def _lstm(
    x: Tensor, state: tuple[Tensor, Tensor], w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
) -> tuple[Tensor, Tensor]:
    h, c = state
    i, f, g, o = (functional.linear(x, w_ih, b_ih) + functional.linear(h, w_hh, b_hh)).chunk(4, 1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _drawn(logits: Tensor) -> Tensor:
    return torch.multinomial(torch.softmax(logits / SamplingConfig().temp, 1), 1)[0]


def _tokenizer() -> CharTokenizer:
    return CharTokenizer(np.arange(32, 32 + CHARACTERS, dtype=np.uint32))
