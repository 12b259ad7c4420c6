"""Ending on time: how many steps a run of M minutes makes is settled on the way, when its rate begins to fall.

A machine is not as fast in the next minutes as it was while it was probed. While the learning rate stands on the flat
top of its trapezoid nothing depends on the number of steps to come, so that number may wait for the clock: when the
share of the time has passed that the trapezoid leaves to its top, the steps made so far are that share of all. The
weights are those of the plain command with this number as --steps.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

from charrnn.config import TrainingConfig

EXIT_SECONDS = 0.3  # from the last save to the end of the process
LEAST_RISES = 10  # steps, in warm-ups, from which on the warm-up no longer depends on the number of steps


@dataclass
class Deadline:
    """Seconds of `time.monotonic` between which the steps are made and the last evaluation is done."""

    began: float
    ends: float
    most: int = 2**40  # steps
    settled: bool = False

    def settle(self, training: TrainingConfig, step: int, evaluation_seconds: float) -> TrainingConfig:
        """The settings after `step` steps; `evaluation_seconds` is what the last evaluation will take."""
        least = LEAST_RISES * training.warmup
        if self.settled or training.schedule != "trapezoid" or training.steps < least:
            return training
        flat = 1 - training.decay
        last = self.ends - evaluation_seconds - EXIT_SECONDS
        if time.monotonic() - self.began >= flat * (last - self.began):
            self.settled = True
            return replace(training, steps=min(self.most, max(step + 1, least, math.ceil(step / flat))))
        if step + 1 > flat * training.steps:  # faster than was thought: the top grows longer
            longer = min(self.most, math.ceil(1.02 * (step + 1) / flat))
            self.settled = longer <= training.steps
            return replace(training, steps=max(longer, training.steps))
        return training
