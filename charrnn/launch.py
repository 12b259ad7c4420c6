"""What a launcher of many processes (torchrun, or whatever sets the same variables) says of this one.

A process is one of `count` ranks, and one of `local_count` on its machine. The standard library alone: the command line
asks before torch is loaded. Knows nothing of how ranks talk (training/distributed.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from charrnn.errors import UsageError

NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Launch:
    """Which of the ranks a process is."""

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    @property
    def prefix(self) -> str:
        """What stands before `charrnn` in a command that starts as many ranks."""
        if self.count == 1:
            return ""
        nodes = self.count // self.local_count
        several = f"--nnodes {nodes} --node-rank 0 --master-addr HOST " if nodes > 1 else ""
        return f"torchrun {several}--nproc-per-node {self.local_count} -m "


def launch(environment: Mapping[str, str] = os.environ) -> Launch:
    """The place of this process; that of the only one, where no launcher says otherwise. Raises UsageError."""
    if not all(environment.get(name) for name in NEEDED):
        return Launch()
    rank, count = _number(environment, "RANK", 0), _number(environment, "WORLD_SIZE", 1)
    found = Launch(rank, count, _number(environment, "LOCAL_RANK", rank), _number(environment, "LOCAL_WORLD_SIZE", count))
    if not (0 <= found.rank < found.count and 0 <= found.local_rank < found.local_count):
        raise UsageError(
            f"RANK is {found.rank} of {found.count}, LOCAL_RANK {found.local_rank} of {found.local_count}: no such rank.",
            "Start it as `torchrun --nproc-per-node 2 -m charrnn train ...`, or unset RANK.",
        )
    return found


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, str(default))
    if not text.isdecimal() or len(text) > 9:
        raise UsageError(f"{name} is {text[:40]!r}, which is no number.", f"torchrun sets it; without torchrun, unset {name}.")
    return int(text)
