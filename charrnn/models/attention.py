"""Attention: which states of the encoder a step of the decoder looks at, and what it sees there.

The score of a decoder state s and an encoder state h is s . h / sqrt(H) (dot product: Luong et al. 2015; the scale of
Vaswani et al. 2017) or v . tanh(Q s + K h) (additive: Bahdanau et al. 2015); a softmax over the steps inside the source
makes weights of them. What is seen is put beside s and through tanh(W [c; s] + b) (Luong et al. 2015, equation 5). The
attention comes after the recurrence, so that a whole target is read by one fused layer while it is taught.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from charrnn.models.precision import wide

# In the sums of additive attention that are there at once: those of 64 pairs of 500 letters are 2 billion. What is more
# is computed part by part, and again for the gradient.
MOST_NUMBERS = 1 << 25


class Attention(nn.Module):
    """B pairs; S steps of the source, T of the target, H hidden."""

    def __init__(self, size: int, additive: bool) -> None:
        super().__init__()
        self.additive = additive
        self.combine = nn.Linear(2 * size, size)
        if additive:
            self.query = nn.Linear(size, size, bias=False)
            self.key = nn.Linear(size, size, bias=False)
            self.energy = nn.Linear(size, 1, bias=False)

    def forward(self, states: Tensor, memory: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder states (B, T, H), encoder states (B, S, H) and which of them are real (B, S) to (B, T, H) and the weights.

        The weights (B, T, S) sum to one over the real steps and are zero elsewhere.
        """
        scores = wide(self._scores(states, memory)).masked_fill(~real.unsqueeze(1), -torch.inf)
        weights = scores.softmax(-1)
        seen = torch.bmm(weights.to(memory.dtype), memory)  # (B, T, H)
        return torch.tanh(self.combine(torch.cat([seen, states.to(seen.dtype)], -1))), weights

    def _scores(self, states: Tensor, memory: Tensor) -> Tensor:
        if not self.additive:
            return torch.bmm(states.to(memory.dtype), memory.mT) / math.sqrt(memory.shape[-1])
        queries, keys = self.query(states), self.key(memory)
        parts = torch.split(queries, max(1, MOST_NUMBERS // max(1, keys.numel())), 1)
        if len(parts) == 1 or not torch.is_grad_enabled():
            return torch.cat([self._energies(part, keys) for part in parts], 1)
        return torch.cat([checkpoint(self._energies, part, keys, use_reentrant=False) for part in parts], 1)

    def _energies(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Queries (B, T, H) and keys (B, S, H) to scores (B, T, S)."""
        both = queries.unsqueeze(2) + keys.unsqueeze(1)  # (B, T, S, H)
        scores: Tensor = self.energy(torch.tanh(both)).squeeze(-1)
        return scores
