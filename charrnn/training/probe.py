"""How long one step takes here and now: some real steps of a throw-away learner, the mean of their times.

The mean, because a run pays for the slow steps too. A run seldom waits for a GPU, so neither does this: several steps are
given to it at once.
"""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.training.learner import Learner

WARM_STEPS = 3
MOST_STEPS = 2000
TOGETHER = {"cuda": 4}  # steps between two waits for the device, where they are not 1


def seconds_per_step(
    model: ModelConfig, training: TrainingConfig, data: Any, device: torch.device, seconds: float = 0.4,
    most: float = math.inf,
) -> float:  # fmt: skip
    """Mean seconds of a training step, measured for about `seconds`; after two in a row of more than `most` it is enough.

    The random generator is left as it was found.
    """
    random = torch.get_rng_state()
    mean = timed(Learner(model, training, data, device), seconds, most)
    torch.set_rng_state(random)
    return mean


def timed(learner: Learner, seconds: float, most: float = math.inf) -> float:
    """Mean seconds of a step of `learner`, which makes as many as that takes; see `seconds_per_step`."""
    device, times = learner.device, list[float]()
    together, began = TOGETHER.get(device.type, 1), time.perf_counter()
    while len(times) < WARM_STEPS + 3 or (time.perf_counter() - began < seconds and len(times) < MOST_STEPS):
        then = time.perf_counter()
        for _ in range(together):
            learner.advance()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append((time.perf_counter() - then) / together)
        if len(times) > 2 and min(times[-2:]) > most:  # the first is slow anywhere
            break
    return statistics.fmean(times[WARM_STEPS:] or times[-2:])
