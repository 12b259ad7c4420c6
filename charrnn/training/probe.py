"""How long one step takes here and now: a few real steps of a throw-away learner, the median of their times."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
from numpy.typing import NDArray

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.training.learner import Learner

WARM_STEPS = 3
PROBE_SECONDS = 0.4


def seconds_per_step(model: ModelConfig, training: TrainingConfig, tokens: NDArray[Any], device: torch.device) -> float:
    """Median seconds of a training step. The random generator is left as it was found."""
    random = torch.get_rng_state()
    learner = Learner(model, training, tokens, device)
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < WARM_STEPS + 3 or (time.perf_counter() - began < PROBE_SECONDS and len(times) < 200):
        then = time.perf_counter()
        learner.advance()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - then)
    torch.set_rng_state(random)
    return statistics.median(times[WARM_STEPS:])
