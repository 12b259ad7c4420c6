"""A seq2seq model as whatever can be decoded from, so that a session can talk with it as with a language model.

Its one stream of tokens holds sources and answers in turn: <eos> begins a source, <bos> ends it and begins its answer.
While a source is read the state is what has been read of it; at its end it is encoded, and from there on the state is the
decoder's, with what it remembers of the source beside it. No source knows of those before it. While one is read, nothing
is to be said: the logits leave only <eos>. Knows nothing of sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn.models.seq2seq import Memory, Seq2seq
from charrnn.models.stepping import decoded
from charrnn.text.tokenizers import BOS, EOS, UNK, Tokenizer

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
State = tuple[NDArray[Any], ...]
UNLIKELY = -1e4  # nats; a finite score


class Replier:
    """A network that reads sources and answers them; B streams that have the same source, V vocabulary."""

    def __init__(self, network: Seq2seq) -> None:
        self.network = network.eval()
        self.device = next(network.parameters()).device
        self.vocab_size = network.config.vocab_size
        self._silence = np.full(self.vocab_size, UNLIKELY, np.float32)
        self._silence[EOS] = 0.0

    def begin(self, batch: int = 1, context: object = None) -> State:
        """The state before any source."""
        assert context is None
        return (np.zeros((batch, 0), np.int64),)

    def step(self, ids: Ints, state: State) -> tuple[Floats, State]:
        """Token ids (B,) and the state before them to logits (B, V) and the state after them."""
        if (ids == EOS).any():
            assert (ids == EOS).all(), "the streams have the same source"
            return self._quiet(self.begin(len(ids)))
        if len(state) > 1:
            return self._decode(ids, state)
        if ids[0] == BOS:
            return self._decode(ids, self._encoded(state[0]))
        return self._quiet((np.concatenate([state[0], ids[:, None]], 1),))

    def gather(self, state: State, indices: Sequence[int] | Ints) -> State:
        """The state whose stream k is stream `indices[k]` of `state`."""
        return tuple(part[np.asarray(indices, np.int64)] for part in state)

    def _quiet(self, state: State) -> tuple[Floats, State]:
        return np.broadcast_to(self._silence, (len(state[0]), self.vocab_size)), state

    def _encoded(self, source: Ints) -> State:
        """What the decoder begins with after a source (B, S): the encoder's outputs (B, S, H), and its state."""
        source = source if source.shape[1] else np.full((len(source), 1), UNK, np.int64)
        with torch.inference_mode():
            ids = torch.from_numpy(np.ascontiguousarray(source.T)).to(self.device)
            memory, first = self.network.encode(ids, torch.full((len(source),), source.shape[1]).to(self.device))
        return tuple(part.cpu().numpy() for part in (memory.outputs, *first))

    def _decode(self, ids: Ints, state: State) -> tuple[Floats, State]:
        with torch.inference_mode():
            outputs = torch.from_numpy(state[0]).to(self.device)
            memory = Memory(outputs, torch.ones(outputs.shape[:2], dtype=torch.bool, device=self.device))
            logits, after = decoded(self.network, ids, memory, state[1:])
        return logits, (state[0], *after)


def spelling(tokenizer: Tokenizer, text: str) -> Ints:
    """The tokens of a source that stands in a text on a line of its own: what surrounds it is no part of it."""
    ids = tokenizer.encode(text.removeprefix("\n").removesuffix("\n"))
    return np.concatenate([[EOS], ids, [BOS]]).astype(np.int64)
