"""Dropout (Srivastava et al. 2014) whose random numbers cost little on a CPU.

torch draws one number of 32 bits after the other for each element, which beside an LSTM in bf16 was a sixth of a
training step. Here one draw of 64 bits serves eight elements, so the share dropped is a whole number of 256ths; what is
kept is scaled by the inverse of that share (in bf16 as near as its 8 bits come). On a GPU torch's own dropout is fast.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

LEVELS = 256
BYTES = 8  # of one draw


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """`x` with about `share` (0 up to 1) of its elements zero and the rest scaled up; `x` itself outside of training."""
    if not training or not share:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, share)
    dropped = min(LEVELS - 1, max(1, round(share * LEVELS)))
    draws = torch.empty(-(-x.numel() // BYTES), dtype=torch.int64).random_(-(2**63), None)
    kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= dropped
    return x * kept.to(x.dtype).mul_(LEVELS / (LEVELS - dropped))
