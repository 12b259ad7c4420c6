"""The task of answering one text with another, N-M. Pairs stand alone; a target begins after <bos> and ends with <eos>."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.models.recurrent import State
from charrnn.models.seq2seq import Seq2seq
from charrnn.text.distance import edits
from charrnn.text.examples import Examples, Parts
from charrnn.text.tokenizers import BOS, Tokenizer
from charrnn.training import answering
from charrnn.training import device as machine
from charrnn.training.evaluate import Abandoned, Report
from charrnn.training.loss import DROPOUTS, Loss, of_targets, on, shifted
from charrnn.training.padding import Batches, Padded, by_length, some

SHOWN = 4  # pairs of a glance
ANSWERED = 256  # held-out sources that are answered at an evaluation during training, none of them longer than
ANSWERABLE = 400  # tokens


def build(model: ModelConfig, training: TrainingConfig) -> Seq2seq:
    """See tasks.Task."""
    return Seq2seq(model, **{name: getattr(training, name) for name in DROPOUTS})


def feed(data: Examples, training: TrainingConfig) -> Batches:
    """See tasks.Task."""
    return Batches(data, training.batch_size, training.seed)


def begin(network: Seq2seq, training: TrainingConfig) -> State:
    """See tasks.Task: nothing is carried."""
    return ()


def loss(network: Seq2seq, batch: Padded, state: State, training: TrainingConfig, device: torch.device) -> Loss:
    """See tasks.Task; counted over unpadded targets, each step knowing the true ones before it (teacher forcing)."""
    assert batch.targets is not None
    targets = on(device, batch.targets)
    memory, first = network.encode(on(device, batch.inputs), on(device, batch.lengths))
    logits, _, _ = network.decode(shifted(targets, BOS), memory, first)  # (T, B, V)
    return of_targets(logits, targets)


@dataclass(frozen=True)
class HeldPairs:
    """The pairs that are scored at an evaluation."""

    examples: Examples
    on: str  # "validation" or "training"
    whole: int  # how many there are to score

    def score(self, network: Seq2seq, tokenizer: Tokenizer, precision: str, stop: Callable[[], bool]) -> Report:
        """See evaluate.Held; some of the sources are answered, greedily."""
        report = taught(network, self.examples, tokenizer, precision, stop)
        few = self._few(ANSWERED)
        answers = answered(network, few, tokenizer, stop=stop)
        measures = compared(answers, [target for _, target in few.texts])
        return replace(report, measures={**measures, "scored": len(few), "held_out": self.whole})

    def sample(self, network: Seq2seq, tokenizer: Tokenizer, start: list[int], seed: int) -> str:
        """See evaluate.Held: some sources with what is answered."""
        few = self._few(SHOWN)
        answers = answered(network, few, tokenizer)
        return "\n".join(f"{source} -> {answer}" for (source, _), answer in zip(few.texts, answers, strict=True))

    def _few(self, number: int) -> Examples:
        """So many pairs, evenly out of all that can be answered in no time."""
        short = np.flatnonzero(self.examples.inputs.lengths <= ANSWERABLE)
        number = min(number, len(short))
        return self.examples.take(short[np.linspace(0, len(short) - 1, number).astype(np.int64)] if number else short)


def taught(
    network: Seq2seq, examples: Examples, tokenizer: Tokenizer, precision: str = "fp32", stop: Callable[[], bool] = lambda: False
) -> Report:
    """How well each target is predicted with the true tokens before it; raises Abandoned as soon as `stop()`."""
    where = next(network.parameters()).device
    nats, count, right = 0.0, 0, 0
    was_training = network.training
    network.eval()
    with torch.inference_mode():
        for batch in by_length(examples):
            if stop():
                raise Abandoned
            with machine.arithmetic(precision, where):
                cost = loss(network, batch, (), TrainingConfig(), where)
            nats, count, right = nats + float(cost.nats), count + int(cost.count), right + int(cost.right)
    network.train(was_training)
    texts = [target for _, target in examples.texts]
    hidden = sum(map(tokenizer.hidden, texts))
    nats += hidden * tokenizer.escape_nats
    return Report(nats, count, right, sum(map(len, texts)), sum(len(text.encode("utf-8")) for text in texts), hidden)


def answered(
    network: Seq2seq, examples: Examples, tokenizer: Tokenizer, width: int = 1, stop: Callable[[], bool] = lambda: False
) -> list[str]:
    """What a network answers to each source, found with a beam of `width`."""
    sources = [examples.inputs[index] for index in range(len(examples))]
    return [tokenizer.decode(found[0].ids) for found in answering.search(network, sources, width=width, stop=stop)]


def compared(answers: list[str], targets: list[str]) -> dict[str, Any]:
    """The share of answers that are right to the letter, and the edits needed for each character of the targets."""
    exact = sum(answer == target for answer, target in zip(answers, targets, strict=True))
    wrong = sum(edits(answer, target) for answer, target in zip(answers, targets, strict=True))
    characters = sum(map(len, targets))
    return {"exact_match": exact / max(1, len(targets)), "character_error_rate": wrong / max(1, characters)}


def hold(data: Parts, training: TrainingConfig) -> HeldPairs:
    """See tasks.Task."""
    kept = (data.val, "validation") if len(data.val) else (data.train, "training")
    return HeldPairs(some(kept[0], training.eval_tokens), kept[1], len(kept[0]))
