"""Several ranks of one run, each a forked child of the test, as a launcher would start them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping

from tests.forked import Child, Ended


def environments(count: int) -> list[dict[str, str]]:
    """What a launcher sets for each of `count` ranks on this machine."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def start(count: int, work: Callable[[int], int], **how: object) -> list[Child]:
    """Fork the ranks; `work` gets the number of its own."""
    return [Child(_as_rank(work, rank, said), **how) for rank, said in enumerate(environments(count))]  # type: ignore[arg-type]


def _as_rank(work: Callable[[int], int], rank: int, environment: Mapping[str, str]) -> Callable[[], int]:
    def inside() -> int:
        os.environ.update(environment)
        return work(rank)

    return inside


def together(count: int, work: Callable[[int], int], *, seconds: float = 60.0, **how: object) -> list[Ended]:
    """Do `work` on all ranks and wait for their ends."""
    return [child.end(seconds) for child in start(count, work, **how)]
