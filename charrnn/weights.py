"""The tensors of a model by their names in a file, with shapes: these tables *are* the weight format.

G gates are stacked in the order LSTM i f g o, GRU r z n (its reset gate multiplies W_hn h + b_hn, as in cuDNN).
Shapes: V vocabulary, E embedding, H hidden, I width of the input, D directions, C labels, F numbers in a row, A arrays of
a layer's state (2 for an LSTM, else 1), L layers. Knows nothing of torch or of what is computed with them.

* all: `embedding.weight` (V, E), absent when one-hot; for each layer l `layers.<l>.weight_ih` (G*H, I or H),
  `layers.<l>.weight_hh` (G*H, H), `layers.<l>.bias_ih` and `layers.<l>.bias_hh` (G*H,); `output.weight` (V, H), absent
  when tied; `output.bias` (V,).
* classify: `reverse.<l>.*` are the layers that read backwards; above the first, both take (G*H, D*H); `output.weight`
  is (C, D*H). With --input rows `input.weight` (E, F) and `input.bias` (E,) stand in place of the embedding.
* conditional: `label.state.weight` (C, A*L*H), the initial states in the order h0, c0, h1, ...; `label.step.weight`
  (C, E or V), added to the input of every step.
* seq2seq: `encoder.embedding.weight`, `encoder.layers.<l>.*` and `encoder.reverse.<l>.*` of H/D units; the names of all are
  the decoder's; `context.weight` (H, H) and `context.bias` (H,) unless the last state is taken as it is; with attention
  `attention.combine.weight` (H, 2*H) and `attention.combine.bias` (H,), and if it is additive `attention.query.weight`,
  `attention.key.weight` (H, H) and `attention.energy.weight` (1, H).
"""

from __future__ import annotations

from collections.abc import Iterator

from charrnn.config import ModelConfig

Shape = tuple[str, tuple[int, ...]]


def weight_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The tensors of a model by their file names, with shapes."""
    tables = {"language": _language, "classify": _classify, "conditional": _conditional, "seq2seq": _seq2seq}
    return dict(tables[model.task](model))


def state_arrays(model: ModelConfig) -> int:
    """A: arrays in the state of one layer."""
    return 2 if model.cell == "lstm" else 1


def _language(model: ModelConfig) -> Iterator[Shape]:
    yield from _embedding(model)
    yield from _layers("layers", model, model.input_size, model.hidden_size, model.hidden_size)
    if not model.tie_weights:
        yield "output.weight", (model.vocab_size, model.hidden_size)
    yield "output.bias", (model.vocab_size,)


def _classify(model: ModelConfig) -> Iterator[Shape]:
    if model.input == "rows":
        yield "input.weight", (model.embedding_size, model.features)
        yield "input.bias", (model.embedding_size,)
    else:
        yield from _embedding(model)
    yield from _read_layers("", model, model.hidden_size)
    yield "output.weight", (model.classes, model.directions * model.hidden_size)
    yield "output.bias", (model.classes,)


def _conditional(model: ModelConfig) -> Iterator[Shape]:
    yield from _language(model)
    if model.label_as in ("both", "state"):
        yield "label.state.weight", (model.classes, state_arrays(model) * model.layers * model.hidden_size)
    if model.label_as in ("both", "step"):
        yield "label.step.weight", (model.classes, model.input_size)


def _seq2seq(model: ModelConfig) -> Iterator[Shape]:
    yield from ((f"encoder.{name}", shape) for name, shape in _embedding(model))
    yield from _read_layers("encoder.", model, model.hidden_size // model.directions)
    yield from _language(model)
    size = model.hidden_size
    if model.context != "last":
        yield "context.weight", (size, size)
        yield "context.bias", (size,)
    if model.context == "attention":
        yield "attention.combine.weight", (size, 2 * size)
        yield "attention.combine.bias", (size,)
        if model.attention == "additive":
            yield "attention.query.weight", (size, size)
            yield "attention.key.weight", (size, size)
            yield "attention.energy.weight", (1, size)


def _embedding(model: ModelConfig) -> Iterator[Shape]:
    if model.embedding == "learned":
        yield "embedding.weight", (model.vocab_size, model.embedding_size)


def _read_layers(prefix: str, model: ModelConfig, hidden: int) -> Iterator[Shape]:
    """Of a stack that reads in one direction or in both."""
    for direction in ("layers", "reverse")[: model.directions]:
        yield from _layers(f"{prefix}{direction}", model, model.input_size, hidden, model.directions * hidden)


def _layers(name: str, model: ModelConfig, width: int, hidden: int, above: int) -> Iterator[Shape]:
    rows = model.gates * hidden
    for layer in range(model.layers):
        yield f"{name}.{layer}.weight_ih", (rows, above if layer else width)
        yield f"{name}.{layer}.weight_hh", (rows, hidden)
        yield f"{name}.{layer}.bias_ih", (rows,)
        yield f"{name}.{layer}.bias_hh", (rows,)
