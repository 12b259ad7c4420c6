"""Many processes that train one model: who is which, sums across them, and agreement on what to do.

Every rank makes the same steps on the same weights, each with its share of the streams; what differs (gradients, losses,
the wish to stop) is summed, so that all go on alike. Rank 0's clock and rank 0's files count. Nothing is pickled: what
is not a tensor travels as JSON. A rank that is alone does nothing of all this. Knows nothing of what is trained.

torch.distributed: nccl between GPUs, gloo between CPUs and for what the CPUs agree on.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as group
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from charrnn.errors import CharrnnError, Elsewhere
from charrnn.launch import Launch, launch

T = TypeVar("T")
PATIENCE = datetime.timedelta(hours=1)  # how long a rank waits for the others: one may be reading a long text (text/cache.py)
MEETING = datetime.timedelta(minutes=5)  # for all ranks to be there: some machines are slow to begin
SPEAKERS = 2  # ranks of a machine that tell of another one's death: one of them may be the dead


@dataclass(frozen=True)
class Ranks(Launch):
    """All ranks of a run, and which of them this process is."""

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes, draws and looks at the clock."""
        return self.rank == 0

    def share(self, width: int) -> slice:
        """This rank's part of `width` streams or examples, by their global index; as equal as can be."""
        return slice(self.rank * width // self.count, (self.rank + 1) * width // self.count)

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Put the sum over all ranks into each of the tensors, all of one dtype and device, in one message."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _lost():
            group.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(sums, tensors, strict=True)])

    def agree(self, numbers: Sequence[float]) -> list[float]:
        """The sums of some numbers over all ranks."""
        if self.count == 1:
            return list(numbers)
        sums = torch.tensor(numbers, dtype=torch.float64)
        self.add([sums])
        found: list[float] = sums.tolist()
        return found

    def any(self, wish: bool) -> bool:
        """Whether any rank has the wish."""
        return wish if self.count == 1 else self.agree([float(wish)])[0] > 0

    def copy(self, tensors: Sequence[Tensor]) -> None:
        """Put rank 0's values into each of the tensors."""
        with _lost(), torch.no_grad():
            for tensor in tensors if self.count > 1 else ():
                group.broadcast(tensor, 0)

    def whole(self, mine: Tensor, width: int) -> Tensor:
        """All ranks' shares (see `share`) of something of `width` rows, as one tensor (width, ...)."""
        if self.count == 1:
            return mine
        result = mine.new_zeros(width, *mine.shape[1:])
        result[self.share(width)] = mine
        self.add([result])
        return result

    def tell(self, data: bytes = b"") -> bytes:
        """Rank 0's bytes, on every rank."""
        if self.count == 1:
            return data
        length = int(self.agree([len(data) if self.first else 0])[0])
        message = torch.zeros(length, dtype=torch.uint8)
        if self.first:
            message.copy_(torch.from_numpy(np.frombuffer(data, np.uint8).copy()))
        self.copy([message])
        return message.numpy().tobytes()

    def first_does(self, work: Callable[[], T]) -> T:
        """What `work` gives on rank 0, which must be something that JSON knows; done there alone."""
        if self.count == 1:
            return work()
        result = self.together(lambda: work() if self.first else None)
        found: T = json.loads(self.tell(json.dumps(result).encode() if self.first else b""))
        return found

    def together(self, work: Callable[[], T]) -> T:
        """What `work` gives on this rank; raises its CharrnnError on one of the ranks that failed, on all others Elsewhere."""
        if self.count == 1:
            return work()
        error = None
        try:
            result = work()
        except CharrnnError as caught:
            error = caught
        failed = self.agree([float(error is not None and rank == self.rank) for rank in range(self.count)])
        if any(failed):
            raise error if error is not None and failed.index(1.0) == self.rank else Elsewhere()
        return result

    def alike(self, error: CharrnnError) -> CharrnnError:
        """What to raise for an error that all ranks meet at the same place: the first alone tells it."""
        return error if self.first else Elsewhere()


ALONE = Ranks()


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """All ranks that were launched with this process, for as long as the block lasts; raises CharrnnError."""
    here = launch()
    if here.count == 1:
        yield ALONE
        return
    try:
        _heedful(_meet)
    except (RuntimeError, ValueError) as error:
        found = f"rank {here.rank} cannot reach the others: {_first_line(error)}."
        raise CharrnnError(found, "See that all ranks run the same command, and can reach MASTER_ADDR at MASTER_PORT.") from error
    try:
        yield Ranks(here.rank, here.count, here.local_rank, here.local_count)
    finally:
        with contextlib.suppress(RuntimeError):
            group.destroy_process_group()


def _meet() -> None:
    store, rank, count = next(rendezvous("env://", timeout=MEETING))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    group.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=PATIENCE)


def _heedful(work: Callable[[], None]) -> None:
    """Do `work` in a thread, or Ctrl-C would be heard only after it: torch waits for other ranks deaf to all signals."""
    errors: list[Exception] = []

    def inside() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # whatever it is, the thread that waits raises it
            errors.append(error)

    thread = threading.Thread(target=inside, name="meeting", daemon=True)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    """What torch raises where another rank is gone, in words; not those of all ranks."""
    try:
        yield
    except RuntimeError as error:
        if launch().local_rank >= SPEAKERS:
            raise Elsewhere() from error
        raise CharrnnError(
            f"another rank is gone, or does not answer: {_first_line(error)}.",
            "What was saved last is whole: find out why it ended, then go on with the same command and --resume RUN.",
        ) from error


def _first_line(error: Exception) -> str:
    """The first sentence of what torch says, without the place in its own code."""
    said = re.sub(r"\[[^\]]*\.(cc|cpp|h|hpp):\d+\]\s*", "", str(error).strip().split("\n")[0])
    return said.split(". ")[0][:200].rstrip(".")
