"""Tokens as vectors: a learned table, or one-hot. Knows nothing of what reads them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from charrnn.config import ModelConfig


def make_table(config: ModelConfig) -> nn.Embedding | None:
    """The table (V, E) that is to be learned; None for one-hot input."""
    if config.embedding != "learned":
        return None
    table = nn.Embedding(config.vocab_size, config.embedding_size)
    nn.init.normal_(table.weight, std=_scale(config))
    return table


def _scale(config: ModelConfig) -> float:
    """As an input an embedding learns best at torch's own scale, 1; as an output layer that would be far too loud.

    Where all tokens of a text decide together, those seldom met would mostly add noise: there a tenth is better (measured).
    """
    if config.tie_weights:
        return float(config.hidden_size**-0.5)
    return 0.1 if config.task == "classify" else 1.0


def embed(ids: Tensor, table: nn.Embedding | None, vocab_size: int, dtype: torch.dtype) -> Tensor:
    """Token ids (...) to vectors (..., E), or without a table to one-hot ones (..., V)."""
    if table is None:
        return functional.one_hot(ids, vocab_size).to(dtype)
    embedded: Tensor = table(ids)
    return embedded
