"""What the tasks share whose examples stand alone: nothing is carried from one to the next, and they are scored by length."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from charrnn.config import TrainingConfig
from charrnn.models.recurrent import State
from charrnn.text.examples import Examples
from charrnn.text.tokenizers import Tokenizer
from charrnn.training.distributed import ALONE, Ranks
from charrnn.training.evaluate import Abandoned, Report
from charrnn.training.loss import Network
from charrnn.training.padding import Batches, Padded, by_length


def feed(data: Examples, training: TrainingConfig) -> Batches:
    """See tasks.Task."""
    return Batches(data, training.batch_size, training.seed)


def begin(network: Network, training: TrainingConfig) -> State:
    """See tasks.Task: nothing is carried."""
    return ()


def scored(network: Network, examples: Examples, stop: Callable[[], bool], ranks: Ranks = ALONE) -> Iterator[Padded]:
    """All examples once, the network without dropout meanwhile; raises Abandoned as soon as `stop()`.

    Of several ranks each gets one batch of so many.
    """
    was_training = network.training
    network.eval()
    try:
        for number, batch in enumerate(by_length(examples)):
            if stop():
                raise Abandoned
            if number % ranks.count == ranks.rank:
                yield batch
    finally:
        network.train(was_training)


def report_of(texts: Sequence[str], tokenizer: Tokenizer, nats: float, tokens: int, right: int) -> Report:
    """The scores of texts that cost `nats`; characters that are hidden from the model are charged for."""
    hidden = sum(map(tokenizer.hidden, texts))
    nats += hidden * tokenizer.escape_nats
    return Report(nats, tokens, right, sum(map(len, texts)), sum(len(text.encode("utf-8")) for text in texts), hidden)
