"""Tiny models for tests that need an engine but no training: fixed weights, drawn from a seed, or none at all."""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ModelConfig, TokenizerConfig
from charrnn.decoding import generate
from charrnn.decoding.engine import Engine, Ids, State
from charrnn.decoding.generate import Prefix
from charrnn.decoding.tree import Partner
from charrnn.errors import UsageError
from charrnn.text import tokenizers
from charrnn.text.tokenizers import EOS, ByteTokenizer, CharTokenizer, Tokenizer
from charrnn.weights import weight_shapes

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz,.;"
TALE = (
    "the harbour holds the evening in its hand and one by one the lamps come up like bread while the tide goes out to talk it "
    "over with the sand and leaves all of the boats to think of whatever it was that it said"
)
POEMS = Path(__file__).parent.parent / "corpora" / "poems.txt"


@functools.cache
def tokenizer(kind: str = "char") -> Tokenizer:
    if kind == "byte":
        return ByteTokenizer()
    if kind == "subword":
        text = POEMS.read_text(encoding="utf-8")[:30_000]
        return tokenizers.build(TokenizerConfig(tokenizer="subword", vocab_size=400), Counter(text), lambda: [text])[0]
    if kind == "talk":
        return letters(ALPHABET + "<>")
    return letters(ALPHABET)


def spaced(units: Tokenizer) -> Tokenizer:
    """The tokenizer, but that spaces are tokens of their own, so that a line end can stand for one."""
    if units.kind != "subword":
        return units

    class Spaced:
        def __getattr__(self, name: str) -> Any:
            return getattr(units, name)

        def encode(self, text: str) -> NDArray[np.int64]:
            parts = [units.encode(part) for word in text.split(" ") for part in (word, " ")][:-1]
            return np.concatenate(parts)

    return Spaced()  # type: ignore[return-value]


def letters(alphabet: str) -> Tokenizer:
    return CharTokenizer(np.array(sorted(map(ord, alphabet)), np.uint32))


def config(units: Tokenizer) -> ModelConfig:
    return ModelConfig(vocab_size=units.vocab_size, embedding_size=8, hidden_size=16, layers=2)


def weights(units: Tokenizer, end_bias: float = -1e4) -> dict[str, NDArray[np.float32]]:
    """Weights large enough that the state matters; `end_bias` says how likely a document's end is."""
    generator = np.random.Generator(np.random.PCG64(5))
    shapes = weight_shapes(config(units))
    drawn = {name: (0.8 * generator.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    drawn["output.bias"][EOS] = end_bias
    if units.kind == "byte":  # mostly letters, now and then the halves of others
        drawn["output.bias"][4 + ord("a") : 4 + ord("z")] += 3
    return drawn


def partner(kind: str = "char", end_bias: float = -1e4, digest: str = "d1" * 32) -> Partner:
    units = tokenizer(kind)
    start = (int(units.encode("\n")[0]),)
    return Partner(
        Engine(config(units), weights(units, end_bias)), units, start, "toy", digest, "newline", (("network", "lstm 2x16"),),
        adapting=lambda: Pupil(config(units), weights(units, end_bias)),
    )  # fmt: skip


class Pupil:
    """Learns without torch, so that transcripts are the same everywhere: what was read gets likelier, whatever came before."""

    def __init__(self, shape: ModelConfig, trained: dict[str, NDArray[np.float32]]) -> None:
        self.shape, self.trained, self.weights = shape, trained, trained
        self.heard: list[int] = []  # in all, also what was taken back
        self.saved: dict[str, dict[str, Any]] = {}

    def learn(self, ids: Ids, before: State) -> tuple[NDArray[np.float64], State]:
        engine = self.engine()
        _, state = engine.follow(ids[:-1], before)
        costs = -generate.logprobs(engine, ids[1:], generate.prime(engine, ids[:1], Prefix(before, np.empty(0, np.float32), 0)))
        bias = self.weights["output.bias"].copy()
        np.add.at(bias, ids[1:], np.float32(0.25))
        inner = self.weights["layers.0.bias_ih"] + np.float32(0.05)  # so that states change, too
        self.weights = {**self.weights, "output.bias": bias, "layers.0.bias_ih": inner}
        self.heard += ids[1:].tolist()
        return costs, state

    def mark(self) -> object:
        return self.weights

    def back(self, mark: Any) -> None:
        self.weights = self.trained if mark is None else mark

    def engine(self) -> Engine:
        return Engine(self.shape, self.weights)

    def save(self, name: str, learnt: dict[str, Any]) -> None:
        if name in self.saved:
            raise UsageError(f"there is a run {name!r} already.", "Choose another name.")
        self.saved[name] = learnt


LABELS = ("elegy", "night piece", "ode")


def labelled(units: Tokenizer, **shape: Any) -> tuple[ModelConfig, dict[str, NDArray[np.float32]]]:
    """A conditional model of LABELS, whose labels matter as much as its other weights."""
    wanted: dict[str, Any] = {"vocab_size": units.vocab_size, "embedding_size": 8, "hidden_size": 16, "layers": 2} | shape
    made = ModelConfig(task="conditional", classes=len(LABELS), **wanted)
    generator = np.random.Generator(np.random.PCG64(6))
    shapes = weight_shapes(made).items()
    return made, {name: (0.8 * generator.standard_normal(size)).astype(np.float32) for name, size in shapes}


def labelled_partner(end_bias: float, label: str = LABELS[0], digest: str = "e1" * 32) -> Partner:
    units = tokenizer()
    shape, drawn = labelled(units)
    drawn["output.bias"][EOS] = end_bias
    return Partner(
        Engine(shape, drawn, label=LABELS.index(label)), units, (EOS,), "toy", digest, "end", (("network", "lstm 2x16"),),
        label=label, labels=LABELS, by=lambda other: labelled_partner(end_bias, other, digest),
    )  # fmt: skip


class Teller:
    """A Stepper that tells one text and then ends; where it may not go on, it waits until what it wants to say comes.

    A line end in place of a space counts as the space. `length` of its state is how far it has come.
    """

    def __init__(self, text: str, units: Tokenizer, surely: float = 1e4) -> None:
        self.ids = [*units.encode(text).tolist(), EOS]
        self.vocab_size, self._surely = units.vocab_size, surely
        self._line_end = int(units.encode("\n")[0])
        self._spaces = {int(token) for token in self.ids if units.decode([int(token)]).startswith(" ")}
        self._spaces = {token for token in self._spaces if units.decode([token]) == " "}

    def begin(self, batch: int = 1, context: object = None) -> State:
        return (np.zeros((batch, 1), np.float32),)

    def step(self, ids: NDArray[np.int64], state: State) -> tuple[NDArray[np.float32], State]:
        places = [self._after(int(token), int(place)) for token, place in zip(ids, state[0][:, 0], strict=True)]
        logits = np.zeros((len(ids), self.vocab_size), np.float32)
        logits[np.arange(len(ids)), [self.ids[place] for place in places]] = self._surely
        return logits, (np.array(places, np.float32)[:, None],)

    def gather(self, state: State, indices: Sequence[int] | NDArray[np.int64]) -> State:
        return (state[0][np.asarray(indices)],)

    def _after(self, token: int, place: int) -> int:
        wanted = self.ids[place]
        told = token == wanted or (token == self._line_end and wanted in self._spaces)
        return min(place + told, len(self.ids) - 1)


class Copies:
    """What may be copied, by the definition."""

    def __init__(self, text: str, longest: int) -> None:
        self.text, self.longest = text, longest

    def offends(self, tail: str, piece: str) -> bool:
        text = tail[-self.longest :] + piece if self.longest else piece
        return any(text[start : start + self.longest + 1] in self.text for start in range(len(text) - self.longest))


def successors(units: Tokenizer, follow: dict[str, str]) -> tuple[ModelConfig, dict[str, NDArray[np.float32]]]:
    """A plain RNN that remembers one character and surely writes the one that follows it in `follow`; "" is the end."""
    shape = ModelConfig(cell="rnn", embedding="onehot", vocab_size=units.vocab_size, hidden_size=units.vocab_size)
    made = {name: np.zeros(size, np.float32) for name, size in weight_shapes(shape).items()}
    np.fill_diagonal(made["layers.0.weight_ih"], 10)
    for before, after in follow.items():
        made["output.weight"][int(units.encode(after)[0]) if after else EOS, int(units.encode(before)[0]) if before else EOS] = 50
    return shape, made


def talker() -> tuple[ModelConfig, dict[str, NDArray[np.float32]], Tokenizer]:
    """A model that has learnt turns: after a line of yours comes "< ok", and the end."""
    units = tokenizer("talk")
    shape, made = successors(units, {"\n": "<", "<": " ", " ": "o", "o": "k", "k": "", "": ">"})
    return shape, made, units


def teller() -> tuple[ModelConfig, dict[str, NDArray[np.float32]], Tokenizer, tuple[str, ...]]:
    """A classifier by the book: its odds are 10 times the share of a, b and c among the letters, for three labels."""
    units = tokenizer()
    shape = ModelConfig(
        task="classify", cell="rnn", nonlinearity="relu", embedding="onehot", vocab_size=units.vocab_size,
        hidden_size=units.vocab_size, bidirectional=False, classes=3,
    )  # fmt: skip
    made = {name: np.zeros(size, np.float32) for name, size in weight_shapes(shape).items()}
    np.fill_diagonal(made["layers.0.weight_ih"], 1)
    made["output.weight"][range(3), units.encode("abc")] = 10
    return shape, made, units, ("alpha", "beta", "gamma")


def answerer() -> tuple[ModelConfig, dict[str, NDArray[np.float32]], Tokenizer]:
    """A model that answers texts, with attention; what it answers means nothing, but soon ends."""
    units = tokenizer()
    shape = ModelConfig(task="seq2seq", vocab_size=units.vocab_size, embedding_size=8, hidden_size=16)
    generator = np.random.Generator(np.random.PCG64(5))
    made = {name: generator.standard_normal(size).astype(np.float32) for name, size in weight_shapes(shape).items()}
    made["output.bias"][EOS] = 3.0
    return shape, made, units


def found(finder: Any, text: str, cuts: Sequence[int]) -> tuple[str, bool]:
    """What a finder of stops lets through of `text` when it comes in pieces, cut anywhere, and whether it found one."""
    shown, stopped = "", False
    for start, end in itertools.pairwise([0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]):
        piece, stopped = finder.push(text[start:end])
        shown += piece
        assert text.startswith(shown)
        if stopped:
            return shown, True
    return shown + finder.flush(), False
