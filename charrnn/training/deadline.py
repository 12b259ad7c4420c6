"""Ending on time: how many steps a run of M minutes makes is settled on the way, when its rate begins to fall.

A machine is not as fast in the next minutes as it was while it was probed. While the learning rate stands on the flat
top of its trapezoid nothing depends on the number of steps to come, so that number may wait for the clock: when the
share of the time has passed that the trapezoid leaves to its top, the steps made so far are that share of all. The
weights are those of the plain command with this number as --steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from charrnn.config import TrainingConfig

FLAT = ("trapezoid", "constant")  # schedules whose rate does not depend, for a while, on the steps to come
EXIT_SECONDS = 0.3  # from the last save to the end of the process


@dataclass
class Deadline:
    """Seconds of `time.monotonic` between which the steps are made and the last evaluation is done."""

    began: float
    ends: float
    most: int = 2**40  # steps
    settled: bool = False

    def as_json(self) -> dict[str, Any]:
        """What a run that is resumed goes on with; the clock stands still meanwhile."""
        now = time.monotonic()
        return {"used": now - self.began, "left": self.ends - now, "most": self.most, "settled": self.settled}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any] | None) -> Self | None:
        """What `as_json` gave, with the clock running on from now; None stays None."""
        if saved is None:
            return None
        now = time.monotonic()
        return cls(now - saved["used"], now + saved["left"], saved["most"], saved["settled"])

    def settle(self, training: TrainingConfig, step: int, evaluation_seconds: float) -> TrainingConfig:
        """The settings after `step` steps; `evaluation_seconds` is what the last evaluation will take."""
        if self.settled or training.schedule not in FLAT:
            return training
        flat = 1 - training.decay if training.schedule == "trapezoid" else 1.0
        last = self.ends - evaluation_seconds - EXIT_SECONDS
        if time.monotonic() - self.began >= flat * (last - self.began):
            self.settled = True
            return replace(training, steps=min(self.most, max(step + 1, math.ceil(step / flat))))
        if step + 1 > flat * training.steps:  # faster than was thought: the top grows longer
            longer = min(self.most, math.ceil(1.02 * (step + 1) / flat))
            self.settled = longer <= training.steps
            return replace(training, steps=max(longer, training.steps))
        return training
