"""How well a model predicts a text: exact sums, divided once.

`stream` is the headline: the state is carried from the first token to the last, over at most 16 parallel streams.
`cold256` cuts the text into windows of 256 tokens, each from a zero state, as transformers are scored. Losses are
nats per token; characters hidden behind <unk> are charged the tokenizer's escape cost, so that bits per character
compare between tokenizers. Subword figures are upper bounds: one segmentation of many is scored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charrnn.decoding.sampling import no_number
from charrnn.models.language import LanguageModel
from charrnn.models.precision import wide
from charrnn.models.weights import import_weights
from charrnn.runs.model import Model
from charrnn.text.tokenizers import Tokenizer
from charrnn.training import device as machine
from charrnn.training.distributed import ALONE, Ranks

SPAN = 256  # time steps computed at once, at most; only memory depends on it
FLOATS = 1 << 24  # logits held at once
STREAMS = 16
TOKENS_PER_STREAM = 4096  # a stream shorter than this would mostly measure its cold start
COLD_BATCH = 64


@dataclass(frozen=True)
class Report:
    """Sums over a text; everything else follows from them."""

    nats: float  # over all scored tokens, escape costs included
    tokens: int
    correct: int  # tokens whose likeliest prediction was right
    characters: int
    utf8_bytes: int
    hidden: int  # characters read as <unk>
    cold256: float | None = None  # nats per token; None if the text is shorter than a window
    measures: Mapping[str, Any] = field(default_factory=dict)  # what else a task measures, by name

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / max(1, self.tokens)

    @property
    def bits_per_character(self) -> float:
        """Total bits over the characters of the text, whatever the tokenizer; no number where no text is written."""
        return self.nats / math.log(2) / self.characters if self.characters else math.nan

    @property
    def bits_per_byte(self) -> float:
        """Total bits over the UTF-8 bytes of the text; no number where no text is written."""
        return self.nats / math.log(2) / self.utf8_bytes if self.utf8_bytes else math.nan

    @property
    def perplexity(self) -> float:
        """e to the loss, per token."""
        return math.exp(min(self.loss, 700.0))

    @property
    def accuracy(self) -> float:
        """Share of tokens predicted right."""
        return self.correct / max(1, self.tokens)


Sums = tuple[NDArray[np.float64], ...]  # each is to be added to that of other ranks


class Held(Protocol):
    """What is scored at an evaluation during training."""

    @property
    def on(self) -> str:
        """ "validation" or, where nothing is held out, "training"."""

    def sums(self, network: Any, tokenizer: Tokenizer, precision: str, stop: Callable[[], bool], ranks: Ranks) -> Sums:
        """This rank's share of what a report is made of; raises Abandoned as soon as `stop()`."""

    def report(self, sums: Sums, tokenizer: Tokenizer) -> Report:
        """The scores, from the sums over all ranks."""

    def sample(self, network: Any, tokenizer: Tokenizer, start: list[int], seed: int) -> str:
        """A glance at what the network does, for people."""


def evaluate_text(
    model: Model, documents: Sequence[str], *, streams: int = 0, device: str = "cpu", threads: int = 0, cold: bool = True
) -> Report:
    """Score `documents` with a saved model, after its start tokens; `streams` 0 chooses up to 16 by length.

    They are joined as in training, by <eos>; by a newline if the model has learnt from one document alone.
    """
    text = "".join(documents) if model.knows_ends else "\n".join(documents)
    where = machine.prepare(device, threads)
    network = LanguageModel(model.config).to(where)
    import_weights(network, model.weights)
    tokens = tokens_of(model, documents)
    hidden = model.tokenizer.hidden(text)
    escape = hidden * model.tokenizer.escape_nats
    nats, correct = stream_loss(network, tokens, streams or streams_for(len(tokens)), skip=len(model.start) - 1)
    if not math.isfinite(nats):
        raise no_number(nats)
    cold256 = cold_loss(network, tokens[len(model.start) :]) if cold else None
    count = len(tokens) - len(model.start)
    return Report(nats + escape, count, correct, len(text), len(text.encode("utf-8", "surrogatepass")), hidden, cold256)


def tokens_of(model: Model, documents: Sequence[str]) -> NDArray[np.int64]:
    """The tokens of `documents` after the model's start tokens."""
    return np.concatenate([np.array(model.start, dtype=np.int64), model.encode(documents)])


def streams_for(tokens: int) -> int:
    """How many parallel streams a text of `tokens` tokens is scored with."""
    return max(1, min(STREAMS, tokens // TOKENS_PER_STREAM))


class Abandoned(Exception):
    """The evaluation was stopped before its end."""


def scored(
    held: Held, network: Any, tokenizer: Tokenizer, precision: str, stop: Callable[[], bool] = lambda: False, ranks: Ranks = ALONE
) -> Report | None:
    """The scores of what is held, each rank having its share in it; None where one of them abandoned it."""
    sums: Sums = ()
    abandoned = False
    try:
        sums = held.sums(network, tokenizer, precision, stop, ranks)
    except Abandoned:
        abandoned = True
    if ranks.any(abandoned):
        return None
    for one in sums:
        ranks.add([torch.from_numpy(one)])  # in place: they share their memory
    return held.report(sums, tokenizer)


def stream_loss(
    network: LanguageModel, tokens: NDArray[Any], streams: int, skip: int = 0, precision: str = "fp32",
    stop: Callable[[], bool] = lambda: False, ranks: Ranks = ALONE,
) -> tuple[float, int]:  # fmt: skip
    """Sum of nats, and how many tokens were predicted right, over tokens[1 + skip:], each given all before it in its stream.

    The text is cut into `streams` contiguous parts, as equal as they can be; each begins with a zero state. Of several
    ranks each scores its share of them. Raises Abandoned as soon as `stop()`.
    """
    length = math.ceil((len(tokens) - 1) / streams)
    inputs, targets, counted = _columns(tokens, streams, length)
    if skip:
        counted[:skip, 0] = False
    mine = ranks.share(streams)
    if mine.start == mine.stop:
        return 0.0, 0
    return _run(network, inputs[:, mine], targets[:, mine], counted[:, mine], precision, stop)


def cold_loss(network: LanguageModel, tokens: NDArray[Any], window: int = 256) -> float | None:
    """Nats per token over all whole windows of `window` tokens, each from a zero state; None if there is none."""
    windows = (len(tokens) - 1) // window
    if windows == 0:
        return None
    nats = 0.0
    for first in range(0, windows, COLD_BATCH):
        batch = min(COLD_BATCH, windows - first)
        piece = tokens[first * window : (first + batch) * window + 1]
        inputs, targets, counted = _columns(piece, batch, window)
        nats += _run(network, inputs, targets, counted)[0]
    return nats / (windows * window)


def _columns(tokens: NDArray[Any], streams: int, length: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Inputs and targets (T, B), stream after stream, and which of them exist (the last stream may be shorter)."""
    count = len(tokens) - 1
    positions = np.arange(streams) * length + np.arange(length)[:, None]  # (T, B)
    counted = positions < count
    positions = np.minimum(positions, count - 1)
    return tokens[positions], tokens[positions + 1], counted


def _run(
    network: LanguageModel, inputs: NDArray[Any], targets: NDArray[Any], counted: NDArray[np.bool_], precision: str = "fp32",
    stop: Callable[[], bool] = lambda: False,
) -> tuple[float, int]:  # fmt: skip
    where = next(network.parameters()).device
    state = network.begin(inputs.shape[1])
    nats, correct = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.int64)
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        span = max(1, min(SPAN, FLOATS // (inputs.shape[1] * network.config.vocab_size)))
        for first in range(0, len(inputs), span):
            if stop():
                raise Abandoned
            rows = slice(first, first + span)
            with machine.arithmetic(precision, where):
                logits, state = network(_tensor(inputs[rows], where), state)
            state = tuple(wide(part) for part in state)
            more, right = _score(logits, _tensor(targets[rows], where), torch.from_numpy(counted[rows]).to(where))
            nats += more.cpu()
            correct += right.cpu()
    network.train(was_training)
    return float(nats), int(correct)


def _tensor(ids: NDArray[Any], where: torch.device) -> Tensor:
    return torch.from_numpy(ids.astype(np.int64)).to(where)


def _score(logits: Tensor, targets: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the counted positions of (T, B, V) logits: nats (in float64) and right predictions."""
    flat = wide(logits).reshape(-1, logits.shape[-1])
    losses = torch.nn.functional.cross_entropy(flat, targets.reshape(-1), reduction="none")
    keep = counted.reshape(-1)
    return losses[keep].cpu().double().sum(), (flat.argmax(-1) == targets.reshape(-1))[keep].sum()
