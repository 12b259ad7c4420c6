"""A run that is taken up on another machine: what of its settings that machine cannot keep. Knows nothing of files.

All numbers of a last save are the device's own business no longer: they are read from it as they were. What changes is
where and in which arithmetic the next steps are made, so the run goes on, but not as it would have gone on there.
"""

from __future__ import annotations

from dataclasses import replace

from charrnn.config import TrainingConfig
from charrnn.training import device as machine


def here(training: TrainingConfig) -> tuple[TrainingConfig, tuple[str, ...]]:
    """The settings of a run as this machine can go on with them, and words about it where they had to change."""
    if machine.is_there(training.device):
        return training, ()
    device = machine.resolve("auto")
    precision = machine.resolve_precision("auto", device)
    moved = replace(training, device=device.type, precision=precision, threads=min(training.threads, machine.available_cores()))
    pairs = [(name, getattr(moved, name), getattr(training, name)) for name in ("precision", "threads")]
    changes = "".join(f", {name} {new} in place of {old}" for name, new, old in pairs if new != old)
    note = f"device: {device.type}, as there is no {training.device} here{changes}; going on is not exact"
    return moved, (note,)
