"""The language model, shape N-N: at every step the logits of the next token.

Embedding (or one-hot), a recurrent stack, an output layer. Also the readable oracle of the NumPy engine: `begin` and
`step` here and there agree. Knows nothing of text, files or training loops.
"""

from __future__ import annotations

from torch import Tensor, nn

from charrnn.config import ModelConfig
from charrnn.models.dropout import dropout
from charrnn.models.embedding import embed, make_table
from charrnn.models.recurrent import Recurrent, State


class LanguageModel(nn.Module):
    """V tokens in, V logits out; B streams, T time steps, E embedding, H hidden."""

    def __init__(
        self, config: ModelConfig, *, dropout_embedding: float = 0.0, dropout_layers: float = 0.0, dropout_output: float = 0.0
    ) -> None:
        super().__init__()
        assert not config.tie_weights or (config.embedding == "learned" and config.embedding_size == config.hidden_size)
        self.config = config
        self.dropout_embedding = dropout_embedding
        self.dropout_output = dropout_output
        self.embedding = make_table(config)
        self.recurrent = Recurrent(config, dropout_layers)
        self.output = nn.Linear(config.hidden_size, config.vocab_size)
        if self.embedding is not None and config.tie_weights:
            self.output.weight = self.embedding.weight

    @property
    def stacks(self) -> list[Recurrent]:
        """The recurrent layers, all that there are."""
        return [self.recurrent]

    def begin(self, batch: int = 1) -> State:
        """The zero state for `batch` streams: a flat tuple of (B, H) tensors."""
        return self.recurrent.begin(batch)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """(T, B) token ids and a state to (T, B, V) logits and the state after the last step."""
        x = dropout(self.embed(ids), self.dropout_embedding, self.training)  # (T, B, E)
        y, state = self.recurrent(x, state)  # (T, B, H)
        return self.output(dropout(y, self.dropout_output, self.training)), state

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """(B,) token ids to (B, V) logits: one time step."""
        logits, state = self(ids.unsqueeze(0), state)
        return logits[0], state

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (...) to what the first layer takes, (..., E or V)."""
        return embed(ids, self.embedding, self.config.vocab_size, self.output.weight.dtype)
