"""What must not be computed in few digits: sums, states that are carried, scores that are exponentiated."""

from __future__ import annotations

import torch
from torch import Tensor


def wide(values: Tensor) -> Tensor:
    """The values in float32, if they are narrower (under autocast they are)."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
