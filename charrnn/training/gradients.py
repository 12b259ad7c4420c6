"""What a batch says about the weights: backpropagated, in parts that fit into memory, summed over all ranks.

The loss is divided by the targets of the whole batch, whoever computes it, so that neither ranks nor parts change what
is learnt (but for dropout, which each draws for itself). Knows nothing of what is done with a gradient.

Accumulating the gradients of micro-batches trades time for memory: Huang et al. (2019, GPipe).
"""

from __future__ import annotations

import gc
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from charrnn.config import TrainingConfig
from charrnn.errors import CharrnnError
from charrnn.models.recurrent import State
from charrnn.training import device as machine
from charrnn.training.distributed import Ranks
from charrnn.training.loss import Loss, Network

if TYPE_CHECKING:
    from charrnn.training.tasks import Task


@dataclass(frozen=True)
class Gradients:
    """Of one network, in a batch's share of one rank."""

    task: Task
    network: Network
    device: torch.device
    precision: str
    ranks: Ranks

    def of(self, batch: Any, state: State, training: TrainingConfig, scaler: torch.amp.GradScaler) -> tuple[Loss, TrainingConfig]:
        """Leave the mean gradient over the batch in the weights' `grad`, times the scale of the `scaler`.

        `state` is that of this rank's streams. Returns the sums over the whole batch, with this rank's state after it; and
        the settings, with a smaller micro-batch if this one did not fit on some rank. Raises CharrnnError if none fits.
        """
        while True:
            cost = self._tried(batch, state, training, scaler)
            if not self.ranks.any(cost is None):
                assert cost is not None
                return self._summed(cost), training
            self.network.zero_grad(set_to_none=True)
            training = replace(training, micro_batch=self._halved(batch.width, training.micro_batch))
            gc.collect()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _tried(self, batch: Any, state: State, training: TrainingConfig, scaler: torch.amp.GradScaler) -> Loss | None:
        """This rank's sums; None if they take more memory than there is."""
        self.network.zero_grad(set_to_none=True)
        try:
            return self._accumulated(batch, state, training, scaler)
        except (RuntimeError, MemoryError) as error:
            if not machine.out_of_memory(error):
                raise
        return None

    def _accumulated(self, batch: Any, state: State, training: TrainingConfig, scaler: torch.amp.GradScaler) -> Loss:
        mine, count = self.ranks.share(batch.width), self.task.count(batch)
        size = training.micro_batch or batch.width
        costs = []
        for first in range(mine.start, mine.stop, size):
            part = slice(first, min(first + size, mine.stop))
            before = tuple(one[part.start - mine.start : part.stop - mine.start] for one in state)
            with machine.arithmetic(self.precision, self.device):
                cost = self.task.loss(self.network, batch.part(part), before, training, self.device)
            scaler.scale(cost.nats / count).backward()  # type: ignore[no-untyped-call]
            costs.append(replace(cost, nats=cost.nats.detach(), state=tuple(one.detach() for one in cost.state)))
        return costs[0] if len(costs) == 1 else self._joined(costs)

    def _joined(self, costs: list[Loss]) -> Loss:
        """The sums of several parts, or of none: an epoch's last batch may have fewer examples than there are ranks."""
        nats, right = (torch.zeros((), device=self.device) for _ in range(2))
        for cost in costs:
            nats, right = nats + cost.nats, right + cost.right
        return Loss(nats, right, tuple(map(torch.cat, zip(*(cost.state for cost in costs), strict=True))))

    def _summed(self, cost: Loss) -> Loss:
        """Gradients and costs, over all ranks."""
        if self.ranks.count == 1:
            return cost
        gradients: list[Tensor] = []
        for weight in self.network.parameters():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
            gradients.append(weight.grad)
        nats, right = (value.to(gradients[0].dtype).reshape(1) for value in (cost.nats, cost.right))
        self.ranks.add([*gradients, nats, right])
        return Loss(nats[0], right[0], cost.state)

    def _halved(self, width: int, micro_batch: int) -> int:
        """Half as many streams at once as were tried: the same on every rank."""
        tried = min(micro_batch or width, -(-width // self.ranks.count))
        if tried == 1:
            found = f"there is not enough memory for a step, even with one of the {width:,} streams at a time."
            hint = "Try a smaller --hidden-size or --window, or a machine with more memory."
            raise self.ranks.alike(CharrnnError(found, hint))
        return -(-tried // 2)
