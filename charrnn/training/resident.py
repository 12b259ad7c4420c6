"""A text that lies where it is learnt: on a GPU the tokens are sent once, and each window is cut out there.

What travels each step is where its B streams stand. Knows nothing of networks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from charrnn.training.batching import Cursor, Feed, Streams, Window
from charrnn.training.loss import on

MOST_TOKENS = 1 << 28  # a gigabyte of them; longer texts stay where they are


@dataclass(frozen=True)
class Resident(Streams):
    """As Streams; `kept` are all the tokens (N,), on the device."""

    kept: Tensor = field(default_factory=lambda: torch.empty(0))

    def at(self, cursor: Cursor) -> Window:
        """See Streams; inputs and targets are tensors."""
        starts = on(self.kept.device, self._starts(cursor))  # (B,)
        steps = torch.arange(self.window + 1, device=self.kept.device).unsqueeze(1)
        piece = self.kept[starts + steps].long()  # (T + 1, B)
        return Window(piece[:-1], piece[1:], self._resets(cursor), self._next(cursor))


def kept_on(device: torch.device, feed: Feed[Any]) -> Feed[Any]:
    """The feed, its text on the `device` if that is a GPU with room for it."""
    if device.type != "cuda" or not isinstance(feed, Streams) or len(feed.tokens) > MOST_TOKENS:
        return feed
    try:
        return resident(device, feed)
    except torch.OutOfMemoryError:
        return feed


def resident(device: torch.device, feed: Streams) -> Resident:
    """The same streams over tokens on the `device`, one byte each where that is enough."""
    kind = np.uint8 if feed.tokens.dtype == np.uint8 else np.int32
    kept = torch.from_numpy(feed.tokens.astype(kind)).to(device)  # a copy: those of the cache may not be written to
    return Resident(feed.tokens, feed.batch_size, feed.window, feed.seed, feed.reset, kept)
