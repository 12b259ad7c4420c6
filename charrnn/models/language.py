"""The language model, shape N-N: at every step the logits of the next token.

Embedding (or one-hot), a recurrent stack, an output layer. Also the readable oracle of the NumPy engine: `begin` and
`step` here and there agree. Knows nothing of text, files or training loops.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config import ModelConfig, weight_shapes
from charrnn.models.dropout import dropout
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
        if config.embedding == "learned":
            self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
            # As an input an embedding learns best at torch's own scale, 1; as an output layer that would be far too loud.
            nn.init.normal_(self.embedding.weight, std=config.hidden_size**-0.5 if config.tie_weights else 1.0)
        self.recurrent = Recurrent(config, dropout_layers)
        self.output = nn.Linear(config.hidden_size, config.vocab_size)
        if config.tie_weights:
            self.output.weight = self.embedding.weight

    def begin(self, batch: int = 1) -> State:
        """The zero state for `batch` streams: a flat tuple of (B, H) tensors."""
        return self.recurrent.begin(batch)

    def forward(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """(T, B) token ids and a state to (T, B, V) logits and the state after the last step."""
        x = self._embed(ids)  # (T, B, E)
        x = dropout(x, self.dropout_embedding, self.training)
        y, state = self.recurrent(x, state)  # (T, B, H)
        return self.output(dropout(y, self.dropout_output, self.training)), state

    def step(self, ids: Tensor, state: State) -> tuple[Tensor, State]:
        """(B,) token ids to (B, V) logits: one time step."""
        logits, state = self(ids.unsqueeze(0), state)
        return logits[0], state

    def _embed(self, ids: Tensor) -> Tensor:
        if self.config.embedding == "learned":
            embedded: Tensor = self.embedding(ids)
            return embedded
        return functional.one_hot(ids, self.config.vocab_size).to(self.output.weight.dtype)


def export_weights(model: LanguageModel) -> dict[str, NDArray[Any]]:
    """The weights under the names of `config.weight_shapes`, as NumPy arrays (copies, on the CPU)."""
    named = {file_name(name): weight for name, weight in model.named_parameters()}
    assert {name: tuple(weight.shape) for name, weight in named.items()} == weight_shapes(model.config)
    return {name: weight.detach().cpu().numpy().copy() for name, weight in named.items()}


def import_weights(model: LanguageModel, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copy weights, named and shaped as `export_weights` gives them, into the model, whatever its device."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(np.array(weights[file_name(name)])))


def file_name(parameter_name: str) -> str:
    """`recurrent.layers.0.weight_ih_l0` is `layers.0.weight_ih` in a file."""
    return parameter_name.removeprefix("recurrent.").removesuffix("_l0")
