"""A tiny model for tests that need an engine but no training: fixed weights, drawn from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ModelConfig, weight_shapes
from charrnn.decoding.engine import Engine
from charrnn.decoding.tree import Partner
from charrnn.text.tokenizers import EOS, ByteTokenizer, CharTokenizer, Tokenizer

ALPHABET = "\n abcdefghijklmnopqrstuvwxyz,.;"


def tokenizer(kind: str = "char") -> Tokenizer:
    return ByteTokenizer() if kind == "byte" else CharTokenizer(np.array(sorted(map(ord, ALPHABET)), np.uint32))


def config(units: Tokenizer) -> ModelConfig:
    return ModelConfig(vocab_size=units.vocab_size, embedding_size=8, hidden_size=16, layers=2)


def weights(units: Tokenizer, end_bias: float = -1e4) -> dict[str, NDArray[np.float32]]:
    """Weights large enough that the state matters; `end_bias` says how likely a document's end is."""
    generator = np.random.Generator(np.random.PCG64(5))
    shapes = weight_shapes(config(units))
    drawn = {name: (0.8 * generator.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    drawn["output.bias"][EOS] = end_bias
    if units.kind == "byte":  # mostly letters, now and then the halves of others
        drawn["output.bias"][4 + ord("a") : 4 + ord("z")] += 3
    return drawn


def partner(kind: str = "char", end_bias: float = -1e4, digest: str = "d1" * 32) -> Partner:
    units = tokenizer(kind)
    start = (int(units.encode("\n")[0]),)
    return Partner(
        Engine(config(units), weights(units, end_bias)), units, start, "toy", digest, "newline", (("network", "lstm 2x16"),)
    )
