"""The language task, N-N: each token of a text from those before it, the state carried from window to window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charrnn.config import ModelConfig, SamplingConfig, TrainingConfig
from charrnn.decoding import generate, kernel
from charrnn.decoding.engine import Engine
from charrnn.models.language import LanguageModel
from charrnn.models.precision import wide
from charrnn.models.recurrent import State
from charrnn.models.weights import export_weights
from charrnn.text.corpus import TokenData
from charrnn.text.tokenizers import EOS, Tokenizer
from charrnn.training import evaluate
from charrnn.training.batching import Streams, Window
from charrnn.training.distributed import Ranks
from charrnn.training.evaluate import Report, Sums
from charrnn.training.loss import DROPOUTS, Loss, on

SAMPLE_TOKENS = 240


def build(model: ModelConfig, training: TrainingConfig) -> LanguageModel:
    """See tasks.Task."""
    return LanguageModel(model, **{name: getattr(training, name) for name in DROPOUTS})


def feed(data: NDArray[Any], training: TrainingConfig) -> Streams:
    """See tasks.Task; `data` are the tokens of the training part."""
    return Streams(data, training.batch_size, training.window, training.seed, training.reset)


def begin(network: LanguageModel, training: TrainingConfig) -> State:
    """See tasks.Task."""
    return network.begin(training.batch_size)


def loss(network: LanguageModel, batch: Window, state: State, training: TrainingConfig, device: torch.device) -> Loss:
    """See tasks.Task."""
    inputs, targets = on(device, batch.inputs), on(device, batch.targets)
    logits, after = network(inputs, restarted(state, batch.reset, device))  # (T, B, V)
    flat, wanted = wide(logits).reshape(-1, logits.shape[-1]), targets.reshape(-1)
    nats = torch.nn.functional.cross_entropy(flat, wanted, reduction="sum")
    return Loss(nats, (flat.detach().argmax(-1) == wanted).sum(), after)


def count(batch: Window) -> int:
    """See tasks.Task."""
    return len(batch.targets) * batch.width


@dataclass(frozen=True)
class HeldText:
    """The tokens that are scored at an evaluation, and what they amount to."""

    tokens: NDArray[Any]
    characters: int
    utf8_bytes: int
    hidden: int
    on: str  # "validation" or "training"

    def sums(self, network: LanguageModel, tokenizer: Tokenizer, precision: str, stop: Callable[[], bool], ranks: Ranks) -> Sums:
        """See evaluate.Held: nats, and right predictions."""
        streams = evaluate.streams_for(len(self.tokens))
        found = evaluate.stream_loss(network, self.tokens, streams, precision=precision, stop=stop, ranks=ranks)
        return (np.array(found, np.float64),)

    def report(self, sums: Sums, tokenizer: Tokenizer) -> Report:
        """See evaluate.Held."""
        nats, correct = sums[0].tolist()
        nats += self.hidden * tokenizer.escape_nats
        return Report(nats, len(self.tokens) - 1, int(correct), self.characters, self.utf8_bytes, self.hidden)

    def sample(self, network: LanguageModel, tokenizer: Tokenizer, start: list[int], seed: int) -> str:
        """See evaluate.Held."""
        return written(Engine(network.config, export_weights(network), kernel=kernel.find()), tokenizer, start, seed)


def written(engine: Engine, tokenizer: Tokenizer, start: list[int], seed: int, at_eos: generate.AtEos = "newline") -> str:
    """A fresh text that a model writes; `at_eos` for one that has learnt from several documents."""
    prefix = generate.prime(engine, start)
    tokens = generate.stream(
        engine, tokenizer, prefix, SamplingConfig(), seed=seed, length=SAMPLE_TOKENS, at_eos=at_eos if start == [EOS] else "never"
    )
    return "".join(token.text for token in tokens)


def hold(data: TokenData, training: TrainingConfig) -> HeldText:
    """See tasks.Task."""
    if len(data.val):
        whole = HeldText(np.asarray(data.val), data.val_characters, data.val_bytes, data.val_hidden, "validation")
    else:
        whole = HeldText(np.asarray(data.train), data.train_characters, data.train_bytes, data.train_hidden, "training")
    return first(whole, training.eval_tokens)


def first(held: HeldText, most: int) -> HeldText:
    """The first `most` tokens of what is held; the counts shrink in proportion."""
    share = min(1.0, most / max(1, len(held.tokens)))
    if share == 1.0:
        return held
    return replace(
        held, tokens=held.tokens[:most], characters=round(held.characters * share), utf8_bytes=round(held.utf8_bytes * share),
        hidden=round(held.hidden * share),
    )  # fmt: skip


def restarted(state: tuple[Tensor, ...], reset: NDArray[np.bool_], device: torch.device) -> tuple[Tensor, ...]:
    """A carried state with the marked streams back at zero (they learn to start cold, as a prompt does)."""
    if not reset.any():
        return state
    keep = on(device, ~reset).unsqueeze(1)
    return tuple(torch.where(keep, part, torch.zeros_like(part)) for part in state)
