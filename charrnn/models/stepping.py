"""The decoder of a seq2seq model, step by step, for whoever searches: begin, step and gather on NumPy arrays.

The sources are encoded once, together. A state's first array says which source each row belongs to, so that branches of
one source share what the encoder made of it. Knows nothing of searching.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from charrnn.models.seq2seq import Memory, Seq2seq

Ints = NDArray[np.int64]
State = tuple[NDArray[Any], ...]


class Decoder:
    """A network that has read some sources; B rows at a time, V vocabulary."""

    def __init__(self, network: Seq2seq, sources: Sequence[Ints]) -> None:
        """Encode sources, each a row of token ids, none of them empty."""
        self.network = network.eval()
        self.device = next(network.parameters()).device
        self.vocab_size = network.config.vocab_size
        self._rows: Ints | None = None
        with torch.inference_mode():
            ids = pad_sequence([torch.from_numpy(np.asarray(source, np.int64)) for source in sources])  # (S, B)
            lengths = torch.tensor([len(source) for source in sources])
            self.memory, self._first = network.encode(ids.to(self.device), lengths.to(self.device))
        self._seen = self.memory

    def begin(self) -> State:
        """The state before the first step, one row for each source."""
        return (np.arange(len(self.memory.real)), *(part.cpu().numpy() for part in self._first))

    def step(self, ids: Ints, state: State) -> tuple[NDArray[np.float32], State]:
        """Token ids (B,) and the state before them to logits (B, V) and the state after them."""
        with torch.inference_mode():
            logits, after = decoded(self.network, ids, self._memory(state[0]), state[1:])
        return logits, (state[0], *after)

    def gather(self, state: State, indices: Ints) -> State:
        """The state whose row k is row `indices[k]` of `state`."""
        return tuple(part[indices] for part in state)

    def attend(self, source: int, before: Sequence[int]) -> Tensor:
        """How much each step, which follows the tokens `before` it (T,), looks at each token of a source: (T, S)."""
        with torch.inference_mode():
            row = np.array([source])
            state = tuple(part[source : source + 1] for part in self._first)
            ids = torch.tensor(before, device=self.device).unsqueeze(1)
            _, _, weights = self.network.decode(ids, self._memory(row), state)
        assert weights is not None
        return weights[0][:, self.memory.real[source]].cpu()

    def _memory(self, rows: Ints) -> Memory:
        """What the rows have of their sources; kept until the rows change."""
        if self._rows is None or not np.array_equal(rows, self._rows):
            self._rows, index = rows, torch.from_numpy(rows).to(self.device)
            self._seen = Memory(self.memory.outputs[index], self.memory.real[index])
        return self._seen


def decoded(network: Seq2seq, ids: Ints, memory: Memory, state: State) -> tuple[NDArray[np.float32], State]:
    """One step of the decoder on NumPy arrays: ids (B,) and the state before them to logits (B, V) and the state after them."""
    device = memory.outputs.device
    before = tuple(torch.from_numpy(part).to(device) for part in state)
    logits, after, _ = network.decode(torch.from_numpy(np.asarray(ids)).to(device).unsqueeze(0), memory, before)
    return logits[0].float().cpu().numpy(), tuple(part.cpu().numpy() for part in after)
