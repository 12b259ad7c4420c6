"""The classifier, shape N-1: a whole sequence in, the logits of its label out.

Embedding (or one-hot, or a linear layer for rows of numbers), a stack that reads in one direction or both, one vector
made of its outputs, an output layer. Steps behind the end of a sequence take no part in anything. Knows nothing of what
the labels are called.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charrnn.config import ModelConfig
from charrnn.models.dropout import dropout
from charrnn.models.embedding import embed, make_table
from charrnn.models.precision import wide
from charrnn.models.recurrent import Recurrent

FARTHEST = 1e6  # deviations from the mean: a file may say any of both, and what overflows becomes nan


class Classifier(nn.Module):
    """B sequences of up to T steps; E embedding, F numbers in a row, D directions, H hidden, C labels."""

    def __init__(
        self, config: ModelConfig, *, dropout_embedding: float = 0.0, dropout_layers: float = 0.0, dropout_output: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.dropout_embedding = dropout_embedding
        self.dropout_output = dropout_output
        if config.input == "rows":
            self.input = nn.Linear(config.features, config.embedding_size)
        else:
            self.embedding = make_table(config)
        self.recurrent = Recurrent(config, dropout_layers, directions=config.directions)
        self.output = nn.Linear(config.directions * config.hidden_size, config.classes)

    @property
    def stacks(self) -> list[Recurrent]:
        """The recurrent layers, all that there are."""
        return [self.recurrent]

    def forward(self, inputs: Tensor, lengths: Tensor) -> Tensor:
        """(T, B) token ids, or (T, B, F) numbers, of `lengths` (B,) steps each, to (B, C) logits."""
        x = dropout(self._embed(inputs), self.dropout_embedding, self.training)
        y = self.recurrent.read(x, lengths)  # (T, B, D*H)
        return self.output(dropout(self._pool(y, lengths), self.dropout_output, self.training))  # type: ignore[no-any-return]

    def _embed(self, inputs: Tensor) -> Tensor:
        if self.config.input == "rows":
            scaled = (inputs.to(self.input.weight.dtype) - self.config.input_mean) / self.config.input_deviation
            vectors: Tensor = self.input(scaled.clamp(-FARTHEST, FARTHEST))
            return vectors
        return embed(inputs, self.embedding, self.config.vocab_size, self.output.weight.dtype)

    def _pool(self, y: Tensor, lengths: Tensor) -> Tensor:
        """One vector (B, D*H) for each sequence."""
        if self.config.pooling == "last":
            return last_outputs(y, lengths, self.config.directions)
        real = inside(lengths, len(y)).unsqueeze(-1)  # (T, B, 1)
        if self.config.pooling == "max":
            return y.masked_fill(~real, -torch.inf).amax(0)
        return wide(torch.where(real, y, 0.0)).sum(0) / lengths.unsqueeze(-1)  # bf16 knows no 257


def inside(lengths: Tensor, steps: int) -> Tensor:
    """Which of `steps` time steps belong to sequences of `lengths` (B,): (T, B) of bool."""
    return torch.arange(steps, device=lengths.device).unsqueeze(1) < lengths


def last_outputs(y: Tensor, lengths: Tensor, directions: int) -> Tensor:
    """What each direction of (T, B, D*H) outputs has when it has read all: (B, D*H). Backwards that is at the first step."""
    forwards, *backwards = y.chunk(directions, -1)
    last = forwards[lengths - 1, torch.arange(y.shape[1], device=y.device)]  # (B, H)
    return torch.cat([last, *(back[0] for back in backwards)], -1)
