"""The encoder and decoder, shape N-M: a source in, a target out.

The encoder reads the source, in both directions by default, with half of the units each; the decoder is a language
model of the target whose first state comes from the encoder: its last outputs h as they are (`last`), or as
tanh(W h + b) (`transformed`, and with attention). An LSTM's cell begins at zero. With `attention` each step also looks
at all of the encoder's outputs (attention.py). Sutskever et al. (2014), Cho et al. (2014), Bahdanau et al. (2015).
Knows nothing of text or of searching for the best target.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from charrnn.config import ModelConfig
from charrnn.models.attention import Attention
from charrnn.models.classifier import inside, last_outputs
from charrnn.models.dropout import dropout
from charrnn.models.embedding import embed, make_table
from charrnn.models.language import LanguageModel
from charrnn.models.precision import wide
from charrnn.models.recurrent import Recurrent, State


class Memory(NamedTuple):
    """What the decoder has of B sources: the encoder's outputs (B, S, H), and which of them are real (B, S)."""

    outputs: Tensor
    real: Tensor


class Encoder(nn.Module):
    """S steps of B sources to H hidden units, H/D of them in each of D directions."""

    def __init__(self, config: ModelConfig, dropout_embedding: float, dropout_layers: float) -> None:
        super().__init__()
        self.config, self.dropout_embedding = config, dropout_embedding
        self.embedding = make_table(config)
        size = config.hidden_size // config.directions
        self.recurrent = Recurrent(config, dropout_layers, hidden_size=size, directions=config.directions)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """(S, B) token ids of sources of `lengths` (B,) to (S, B, H) outputs."""
        x = embed(ids, self.embedding, self.config.vocab_size, next(self.recurrent.parameters()).dtype)
        return self.recurrent.read(dropout(x, self.dropout_embedding, self.training), lengths)


class Seq2seq(LanguageModel):
    """V tokens in, V logits out; B pairs, S steps of the source, T of the target, H hidden."""

    def __init__(
        self, config: ModelConfig, *, dropout_embedding: float = 0.0, dropout_layers: float = 0.0, dropout_output: float = 0.0
    ) -> None:
        super().__init__(
            config, dropout_embedding=dropout_embedding, dropout_layers=dropout_layers, dropout_output=dropout_output
        )
        assert config.hidden_size % config.directions == 0
        self.encoder = Encoder(config, dropout_embedding, dropout_layers)
        if config.context != "last":
            self.context = nn.Linear(config.hidden_size, config.hidden_size)
        if config.context == "attention":
            self.attention = Attention(config.hidden_size, config.attention == "additive")

    @property
    def stacks(self) -> list[Recurrent]:
        """The recurrent layers, all that there are."""
        return [self.recurrent, self.encoder.recurrent]

    def encode(self, ids: Tensor, lengths: Tensor) -> tuple[Memory, State]:
        """(S, B) token ids of sources of `lengths` (B,) to what the decoder has of them and the state it begins in."""
        outputs = self.encoder(ids, lengths)  # (S, B, H)
        h = last_outputs(outputs, lengths, self.config.directions)
        if self.config.context != "last":
            h = torch.tanh(self.context(h))
        h = wide(h)
        state = (h, torch.zeros_like(h)) if self.config.cell == "lstm" else (h,)
        return Memory(outputs.transpose(0, 1), inside(lengths, len(ids)).T), state * self.config.layers

    def decode(self, ids: Tensor, memory: Memory, state: State) -> tuple[Tensor, State, Tensor | None]:
        """(T, B) token ids before each step to (T, B, V) logits, the state after the last, and attention (B, T, S) if any."""
        x = dropout(self.embed(ids), self.dropout_embedding, self.training)
        y, state = self.recurrent(x, state)  # (T, B, H)
        weights = None
        if self.config.context == "attention":
            seen, weights = self.attention(y.transpose(0, 1), memory.outputs, memory.real)
            y = seen.transpose(0, 1)
        return self.output(dropout(y, self.dropout_output, self.training)), state, weights
