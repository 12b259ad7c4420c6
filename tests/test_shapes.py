"""The three shapes beside the language model: padding changes nothing, and all is as the textbook's loops have it (float64)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import sigmoid

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.decoding import translate
from charrnn.decoding.engine import Engine
from charrnn.models.stepping import Decoder
from charrnn.models.weights import export_weights
from charrnn.text.examples import Examples, Ragged
from charrnn.text.tokenizers import BOS, EOS, PAD
from charrnn.training import classify, conditional, seq2seq
from charrnn.training.batching import Cursor
from charrnn.training.padding import Batches, Padded, by_length, padded, some
from charrnn.training.tasks import TASKS

CPU, PLAIN = torch.device("cpu"), TrainingConfig()
VOCABULARY, FEATURES, CLASSES, LENGTHS = 11, 3, 4, (5, 1, 7, 3, 7, 2)
CELLS, LAYERS, DIRECTIONS = ("lstm", "gru", "rnn"), (1, 2), (True, False)
INPUTS: tuple[dict[str, Any], ...] = ({}, {"embedding": "onehot"}, {"input": "rows", "features": FEATURES})
ATTENTIONS = ({"attention": "dot"}, {"attention": "additive"})
CONTEXTS = ({"context": "last"}, {"context": "transformed"}, *ATTENTIONS)


def shape(task: str, **more: Any) -> ModelConfig:
    classes = 0 if task == "seq2seq" else CLASSES
    about = {"vocab_size": VOCABULARY, "embedding_size": 5, "hidden_size": 6, "classes": classes, **more}
    return ModelConfig(task=task, **about)


def each(task: str) -> list[ModelConfig]:
    kinds: dict[str, Any] = {
        "classify": itertools.product(INPUTS, ({"pooling": kind} for kind in ("mean", "max", "last"))),
        "conditional": itertools.product(INPUTS[:2], ({"label_as": kind} for kind in ("both", "state", "step"))),
        "seq2seq": itertools.product(INPUTS[:1], CONTEXTS),
    }
    ways = DIRECTIONS if task != "conditional" else (True,)
    grid = itertools.product(CELLS, LAYERS, ways, list(kinds[task]))
    return [shape(task, cell=cell, layers=count, bidirectional=both, **one, **two) for cell, count, both, (one, two) in grid]


GRID = [config for task in ("classify", "conditional", "seq2seq") for config in each(task)]


def called(config: ModelConfig) -> str:
    kind = {"classify": config.pooling, "conditional": config.label_as, "seq2seq": f"{config.context}-{config.attention}"}
    entrance = "rows" if config.input == "rows" else config.embedding
    return f"{config.task}-{config.cell}-{config.layers}x{config.directions}-{entrance}-{kind[config.task]}"


def build(config: ModelConfig, seed: int = 4) -> Any:
    """A network with weights large enough that all of it matters."""
    torch.manual_seed(seed)
    network = TASKS[config.task].build(config, PLAIN).eval()
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return network


def some_examples(config: ModelConfig, lengths: tuple[int, ...] = LENGTHS, seed: int = 9) -> Examples:
    draw = np.random.default_rng(seed)
    if config.input == "rows":
        inputs = Ragged.of(draw.normal(size=(length, FEATURES)).astype(np.float32) for length in lengths)
    else:
        inputs = Ragged.of(draw.integers(4, VOCABULARY, length) for length in lengths)
    if config.task == "seq2seq":
        return Examples(inputs, Ragged.of(draw.integers(4, VOCABULARY, length) for length in reversed(lengths)))
    return Examples(inputs, None, draw.integers(0, CLASSES, len(lengths)))


def batch_of(examples: Examples, indices: Any = None) -> Padded:
    chosen = np.arange(len(examples)) if indices is None else np.asarray(indices)
    made = padded(examples, chosen, Cursor())
    return replace(made, inputs=made.inputs.astype(float) if made.inputs.dtype.kind == "f" else made.inputs)


def spoiled(batch: Padded, task: str) -> Padded:
    """More padding than is needed, and garbage in it wherever the lengths say that it is padding."""
    draw, behind = np.random.default_rng(2), 4
    inputs = np.concatenate([batch.inputs, np.full_like(batch.inputs[:1], PAD).repeat(behind, 0)])
    beyond = np.arange(len(inputs))[:, None] >= batch.lengths
    if task != "conditional":  # where inputs are targets, too, <pad> itself says where they end
        garbage = draw.normal(0, 1e6, inputs.shape) if inputs.ndim == 3 else draw.integers(0, VOCABULARY, inputs.shape)
        inputs[beyond] = garbage[beyond]
    targets = None if batch.targets is None else np.pad(batch.targets, ((0, behind), (0, 0)), constant_values=PAD)
    return replace(batch, inputs=inputs, targets=targets)


def costs(network: Any, batch: Padded) -> tuple[float, int, int, torch.Tensor]:
    """Nats, targets, right ones, and the gradient of all weights in a row."""
    network.zero_grad()
    found = TASKS[network.config.task].loss(network, batch, (), PLAIN, CPU)
    found.nats.backward()
    gradient = torch.cat([w.grad.flatten() if w.grad is not None else w.new_zeros(w.numel()) for w in network.parameters()])
    return float(found.nats.detach()), TASKS[network.config.task].count(batch), int(found.right), gradient


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # what ran before may have asked for more


@pytest.fixture
def exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is cast to 32 bits stays in 64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("config", GRID, ids=called)
def test_padding_changes_no_loss_and_no_gradient(config: ModelConfig) -> None:
    network, examples = build(config).double(), some_examples(config)
    alone = [costs(network, batch_of(examples, [number])) for number in range(len(examples))]
    nats, count, right, gradient = (sum(values) for values in zip(*alone, strict=True))
    for batch in (batch_of(examples), spoiled(batch_of(examples), config.task)):
        found = costs(network, batch)
        assert found[:3] == (pytest.approx(nats, rel=0, abs=1e-9), count, right)
        assert float((found[3] - gradient).abs().max()) < 1e-9
    assert nats > 1
    assert float(gradient.abs().max()) > 1e-3


@pytest.mark.parametrize("config", GRID[::5], ids=called)
def test_batched_equals_single(config: ModelConfig) -> None:
    network, examples = build(config), some_examples(config)
    singles = [examples.take(np.array([number])) for number in range(len(examples))]
    if config.task == "classify":
        found, alone = classify.log_odds(network, examples), [classify.log_odds(network, one) for one in singles]
        np.testing.assert_allclose(found, np.concatenate(alone), atol=1e-5)
    elif config.task == "conditional":
        nats, right = conditional.losses(network, examples)
        each_nats, each_right = zip(*(conditional.losses(network, one) for one in singles), strict=True)
        np.testing.assert_allclose(nats, np.concatenate(each_nats), rtol=1e-5)
        assert right == sum(each_right)
    else:
        sources = [examples.inputs[number] for number in range(len(examples))]
        found = translate.search(Decoder(network, sources), width=3, longest=9)
        for source, hypotheses in zip(sources, found, strict=True):
            alone = translate.search(Decoder(network, [source]), width=3, longest=9)[0]
            assert [one.ids for one in hypotheses] == [one.ids for one in alone]
            assert [one.logprob for one in hypotheses] == pytest.approx([one.logprob for one in alone], abs=1e-4)


# --- the textbook, a time step and an example at a time


class Textbook:
    """The equations in float64, for one example and one layer a direction."""

    def __init__(self, network: Any) -> None:
        self.config, self.w = network.config, {name: array.astype(float) for name, array in export_weights(network).items()}

    def through(self, name: str, x: Any, h: Any, c: Any = 0.0) -> Any:
        """The outputs (T, H) of a layer."""
        w, outputs = {key: self.w[f"{name}.{key}"] for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}, []
        for row in x:
            a = np.split(w["weight_ih"] @ row + w["bias_ih"], self.config.gates)
            b = np.split(w["weight_hh"] @ h + w["bias_hh"], self.config.gates)
            if self.config.cell == "lstm":
                i, f, g, o = (p + q for p, q in zip(a, b, strict=True))
                c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                h = sigmoid(o) * np.tanh(c)
            elif self.config.cell == "gru":
                r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
                h = (1 - z) * np.tanh(a[2] + r * b[2]) + z * h
            else:
                h = np.tanh(a[0] + b[0])
            outputs.append(h)
        return np.array(outputs)

    def stack(self, prefix: str, x: Any, size: int) -> Any:
        """The outputs (T, D*H) of all layers, each reading forwards, and backwards if so."""
        for number in range(self.config.layers):
            y = [self.through(f"{prefix}layers.{number}", x, np.zeros(size))]
            if self.config.bidirectional:
                y.append(self.through(f"{prefix}reverse.{number}", x[::-1], np.zeros(size))[::-1])
            x = np.concatenate(y, 1)
        return x

    def last(self, y: Any) -> Any:
        half = y.shape[1] // self.config.directions
        return np.concatenate([y[-1, :half], y[0, half:]])

    def linear(self, name: str, x: Any) -> Any:
        return x @ self.w[f"{name}.weight"].T + self.w.get(f"{name}.bias", 0.0)

    def embedded(self, ids: Any, prefix: str = "") -> Any:
        return self.w.get(f"{prefix}embedding.weight", np.eye(VOCABULARY))[ids]

    def classify(self, inputs: Any) -> Any:
        x = self.linear("input", inputs) if self.config.input == "rows" else self.embedded(inputs)
        y = self.stack("", x, self.config.hidden_size)
        return self.linear("output", {"mean": y.mean(0), "max": y.max(0), "last": self.last(y)}[self.config.pooling])

    def conditional(self, targets: Any, label: int) -> Any:
        x = self.embedded([EOS, *targets[:-1]])
        if "label.step.weight" in self.w:
            x = x + self.w["label.step.weight"][label]
        size, arrays = self.config.hidden_size, 2 if self.config.cell == "lstm" else 1
        begin = self.w.get("label.state.weight", np.zeros((CLASSES, arrays * self.config.layers * size)))[label]
        states = begin.reshape(self.config.layers, arrays, size)
        for number in range(self.config.layers):
            x = self.through(f"layers.{number}", x, *states[number])
        return self.linear("output", x)

    def seq2seq(self, source: Any, targets: Any) -> tuple[Any, Any]:
        """Logits (T, V) and, with attention, its weights (T, S)."""
        memory = self.stack("encoder.", self.embedded(source, "encoder."), self.config.hidden_size // self.config.directions)
        h = self.last(memory)
        h = h if self.config.context == "last" else np.tanh(self.linear("context", h))
        s, weights = self.embedded([BOS, *targets[:-1]]), None
        for number in range(self.config.layers):
            s = self.through(f"layers.{number}", s, h, np.zeros_like(h))
        if self.config.context == "attention":
            weights = self.attention(s, memory)
            s = np.tanh(self.linear("attention.combine", np.concatenate([weights @ memory, s], 1)))
        return self.linear("output", s), weights

    def attention(self, states: Any, memory: Any) -> Any:
        rows = []
        for s in states:
            if self.config.attention == "dot":
                scores = np.array([s @ h / np.sqrt(len(s)) for h in memory])
            else:
                q, v = self.linear("attention.query", s), self.w["attention.energy.weight"][0]
                scores = np.array([v @ np.tanh(q + self.linear("attention.key", h)) for h in memory])
            rows.append(np.exp(scores) / np.exp(scores).sum())
        return np.array(rows)


@pytest.mark.usefixtures("exactly")
@pytest.mark.parametrize("config", GRID[::2], ids=called)
def test_each_model_is_the_textbooks(config: ModelConfig) -> None:
    network, examples = build(config).double(), some_examples(config)
    book, batch = Textbook(build(config)), batch_of(examples)
    inputs, lengths = torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths)
    for number in range(len(examples)):
        one = examples.inputs[number]
        if config.task == "classify":
            expected, found = book.classify(one), network(inputs, lengths)[number]
        elif config.task == "conditional":
            labels = torch.from_numpy(examples.labels)
            expected = book.conditional(one, int(labels[number]))
            before = torch.cat([torch.full_like(inputs[:1], EOS), inputs[:-1]])
            found = network.read(before, labels, network.begin_with(labels))[0][: len(one), number]
        else:
            targets = examples.targets[number]  # type: ignore[index]
            expected, looks = book.seq2seq(one, targets)
            taught = torch.from_numpy(batch.targets)
            logits, _, weights = network.decode(
                torch.cat([torch.full_like(taught[:1], BOS), taught[:-1]]), *network.encode(inputs, lengths)
            )
            found = logits[: len(targets), number]
            if looks is not None:
                np.testing.assert_allclose(weights[number, : len(targets), : len(one)].detach(), looks, atol=1e-9)
        np.testing.assert_allclose(found.detach(), expected, atol=1e-9)


@pytest.mark.parametrize("kind", ATTENTIONS, ids=lambda kind: kind["attention"])
@pytest.mark.parametrize("lengths", [LENGTHS, (1,), (30, 1, 29)])
def test_attention_looks_at_what_is_there_alone(kind: dict[str, str], lengths: tuple[int, ...]) -> None:
    network = build(shape("seq2seq", **kind))
    for weight in network.parameters():
        weight.data *= 4  # so that some scores are far apart
    batch = spoiled(batch_of(some_examples(network.config, lengths)), "seq2seq")
    memory, first = network.encode(torch.from_numpy(batch.inputs), torch.from_numpy(batch.lengths))
    assert memory.real.sum(1).tolist() == list(lengths)
    _, _, weights = network.decode(torch.full((9, len(lengths)), 5), memory, first)
    for number, length in enumerate(lengths):
        assert weights[number, :, :length].sum(-1).tolist() == pytest.approx([1] * 9)
        assert not weights[number, :, length:].any()


@pytest.mark.parametrize("config", each("conditional"), ids=called)
def test_the_engine_with_a_label_is_the_network_with_it(config: ModelConfig) -> None:
    network, ids = build(config), np.random.default_rng(1).integers(4, VOCABULARY, 12)
    for label in range(CLASSES):
        chosen = torch.tensor([label])
        expected = network.read(torch.from_numpy(ids)[:, None], chosen, network.begin_with(chosen))[0][:, 0].detach()
        engine = Engine(config, export_weights(network), label=label)
        state = engine.begin()
        for token, logits in zip(ids, expected, strict=True):
            found, state = engine.step(np.array([token]), state)
            np.testing.assert_allclose(found[0], logits, atol=2e-5)


# --- weights of labels


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_a_label_counts_as_much_as_any_other_that_there_is(labels: list[int]) -> None:
    weights = classify.balanced(np.array(labels))
    shares = [sum(weights[label] for label in labels if label == one) for one in sorted(set(labels))]
    assert shares == pytest.approx([len(labels) / len(shares)] * len(shares), rel=1e-5)


def test_the_balanced_loss_is_its_definition() -> None:
    config = shape("classify")
    network, examples = build(config), replace(some_examples(config), labels=np.array([0, 0, 0, 1, 3, 0]))
    batches = classify.feed(examples, replace(PLAIN, balance=True, batch_size=4))
    odds, counts, total = classify.log_odds(network, examples), {0: 4, 1: 1, 3: 1}, 0.0
    for window in range(batches.windows_per_epoch):
        cost = classify.loss(network, batches.at(Cursor(0, window)), (), replace(PLAIN, label_smoothing=0.0), CPU)
        total += float(cost.nats.detach())
    assert examples.labels is not None
    expected = sum(-odds[n, label] * 6 / (3 * counts[label]) for n, label in enumerate(examples.labels.tolist()))
    assert total == pytest.approx(expected, rel=1e-5)
    plain = classify.feed(examples, PLAIN)
    assert plain.weights is None


# --- the order of examples


SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=90)


@settings(max_examples=60)
@given(SIZES, st.integers(1, 9), st.integers(0, 2**63 - 1), st.integers(0, 2**40))
def test_each_example_once_an_epoch_in_an_order_of_seed_and_epoch_alone(
    sizes: list[int], batch: int, seed: int, epoch: int
) -> None:
    examples = some_examples(shape("classify"), tuple(sizes))
    one, other = Batches(examples, batch, seed), Batches(examples, batch, seed)
    windows = range(one.windows_per_epoch)
    ahead = [one.at(Cursor(epoch, window)).indices.tolist() for window in windows]
    other.at(Cursor(epoch + 1, 0))
    behind = [other.at(Cursor(epoch, window)).indices.tolist() for window in reversed(windows)]
    assert ahead == behind[::-1]
    assert sorted(itertools.chain(*ahead)) == list(range(len(sizes)))
    assert max(map(len, ahead)) <= batch
    assert sorted(map(len, ahead))[1:] == [batch] * (len(windows) - 1) or len(sizes) > 32 * batch
    last = one.at(Cursor(epoch, windows[-1]))
    assert (last.after, one.at(Cursor(epoch, 0)).after) == (
        Cursor(epoch + 1, 0),
        Cursor(epoch, 1) if len(windows) > 1 else last.after,
    )


def test_seeds_and_epochs_differ() -> None:
    examples = some_examples(shape("classify"), tuple(range(1, 41)))
    orders = [Batches(examples, 8, seed).at(Cursor(epoch, 0)).indices.tolist() for seed in (1, 2) for epoch in (0, 1)]
    assert len(set(map(tuple, orders))) == 4


def test_little_is_padded() -> None:
    sizes = np.random.default_rng(3).geometric(1 / 60, 2000).tolist()
    examples = some_examples(shape("classify"), tuple(sizes))
    batches = Batches(examples, 16, 1)
    made = [batches.at(Cursor(0, window)) for window in range(batches.windows_per_epoch)]
    unsorted = [batch_of(examples, range(first, first + 16)) for first in range(0, 2000, 16)]
    real, (space, careless) = sum(sizes), (sum(batch.inputs.size for batch in order) for order in (made, unsorted))
    assert real / space > 0.85
    assert real / careless < 0.4


@given(SIZES)
def test_what_is_scored_is_scored_once(sizes: list[int]) -> None:
    examples = some_examples(shape("classify"), tuple(sizes))
    assert sorted(np.concatenate([batch.indices for batch in by_length(examples)]).tolist()) == list(range(len(sizes)))
    for batch in by_length(examples):
        for place, number in enumerate(batch.indices.tolist()):
            assert batch.inputs[: batch.lengths[place], place].tolist() == examples.inputs[number].tolist()
            assert not batch.inputs[batch.lengths[place] :, place].any()


@given(SIZES, st.integers(2, 500))
def test_some_are_about_as_many_steps(sizes: list[int], most: int) -> None:
    chosen = some(some_examples(shape("classify"), tuple(sizes)), most)
    assert 1 <= len(chosen) <= len(sizes)
    assert len(chosen) == len(sizes) or len(chosen) <= max(1, len(sizes) * most / sum(sizes))


def test_the_answer_of_a_seq2seq_network_is_scored_as_taught() -> None:
    config = shape("seq2seq")
    network, examples = build(config), some_examples(config)
    sources = [examples.inputs[number] for number in range(len(examples))]
    for source, found in zip(sources, translate.search(Decoder(network, sources), width=2, longest=30), strict=True):
        if found[0].logprob > -1e9 and len(found[0].ids) < 30:
            pair = Examples(Ragged.of([source]), Ragged.of([np.array([*found[0].ids, EOS])]))
            cost = seq2seq.loss(network, batch_of(pair), (), PLAIN, CPU)
            assert -found[0].logprob == pytest.approx(float(cost.nats.detach()), abs=1e-3)
