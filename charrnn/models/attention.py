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

MOST_NUMBERS = 1 << 24  # of query and key together that stand in memory at once


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
        scores = self._scores(states, memory).float().masked_fill(~real.unsqueeze(1), -torch.inf)
        weights = scores.softmax(-1)
        seen = torch.bmm(weights.to(memory.dtype), memory)  # (B, T, H)
        return torch.tanh(self.combine(torch.cat([seen, states.to(seen.dtype)], -1))), weights

    def _scores(self, states: Tensor, memory: Tensor) -> Tensor:
        if not self.additive:
            return torch.bmm(states.to(memory.dtype), memory.mT) / math.sqrt(memory.shape[-1])
        query, key = self.query(states), self.key(memory)
        steps = max(1, MOST_NUMBERS // key.numel())
        if steps >= query.shape[1]:
            return self._energies(query, key)
        # What stands between is made anew for the gradient: all at once, long pairs would fill any memory.
        slices = [checkpoint(self._energies, part, key, use_reentrant=False) for part in query.split(steps, 1)]
        return torch.cat(slices, 1)

    def _energies(self, query: Tensor, key: Tensor) -> Tensor:
        """v . tanh(Q s + K h) of (B, T, H) and (B, S, H): (B, T, S)."""
        energies: Tensor = self.energy(torch.tanh(query.unsqueeze(2) + key.unsqueeze(1))).squeeze(-1)
        return energies
