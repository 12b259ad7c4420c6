"""Many sources and what a network answers to them: searched together, by length, in as much memory as was meant.

A source's answers are those it would have alone, but for the last digits of their scores. Knows ids; knows nothing of
text or of who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn.decoding import translate
from charrnn.decoding.translate import ALPHA, Found
from charrnn.models.seq2seq import Seq2seq
from charrnn.models.stepping import Decoder
from charrnn.text.examples import Ints
from charrnn.text.tokenizers import BOS
from charrnn.training.evaluate import Abandoned

MOST_NUMBERS = 1 << 24  # in the scores of a step, and in what is remembered of the sources
TOGETHER = 256  # sources


def search(
    network: Seq2seq, sources: Sequence[Ints], *, width: int, alpha: float = ALPHA, stop: Callable[[], bool] = lambda: False
) -> list[list[Found]]:
    """The best answers to each source, none of which is empty; raises Abandoned as soon as `stop()`."""
    was_training = network.training
    answers: list[list[Found]] = [[] for _ in sources]
    for group in groups(network, [len(source) for source in sources], width):
        if stop():
            raise Abandoned
        longest = [translate.bound(len(sources[index])) for index in group]
        found = translate.search(Decoder(network, [sources[index] for index in group]), width=width, longest=longest, alpha=alpha)
        for index, several in zip(group, found, strict=True):
            answers[index] = several
    network.train(was_training)
    return answers


def groups(network: Seq2seq, lengths: Sequence[int], width: int) -> Iterator[list[int]]:
    """Which sources are searched together: those of about the same length, the shortest first."""
    config, group = network.config, list[int]()
    for index in np.argsort(np.asarray(lengths), kind="stable").tolist():
        each = width * max(config.vocab_size, (lengths[index] + 2) * config.hidden_size)
        if group and (len(group) == TOGETHER or (len(group) + 1) * each > MOST_NUMBERS):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def attention(network: Seq2seq, source: Ints, answer: Sequence[int]) -> NDArray[np.float32]:
    """How much each token of an answer looked at each of its source, (T, S); only of a network with attention."""
    weights = Decoder(network, [source]).attend(0, (BOS, *answer[:-1]))
    found: NDArray[np.float32] = weights.float().numpy()[: len(answer)]
    return found
