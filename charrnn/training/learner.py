"""Everything that one optimizer step changes, and the step itself.

A Learner owns the network, its averaged copy, the optimizer, the carried state and the cursor; `advance` makes one
step, `tensors`/`restore` put all of it into a file and back, so that a resumed run is bit for bit the uninterrupted
one. A step whose loss or gradient is not finite changes nothing but the place in the text. Where there are several
ranks, each has its share of a window's streams, and the gradients are summed before they are clipped; where a share does
not fit into memory, it is taken in smaller parts. Knows nothing of files, evaluation or when to stop.

Clipping by the global norm: Pascanu et al. (2013). Averaged weights (EMA): Polyak and Juditsky (1992), with a warm-up of
the decay so that the first weights are soon forgotten.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CharrnnError, CheckpointError
from charrnn.models.precision import wide
from charrnn.models.recurrent import initialise
from charrnn.models.weights import export_weights, import_weights
from charrnn.runs.checkpoint import Tensors
from charrnn.runs.model import AVERAGE, LARGEST_WEIGHT
from charrnn.training import device as machine
from charrnn.training import resident, snapshot
from charrnn.training.batching import Cursor
from charrnn.training.distributed import ALONE, Ranks
from charrnn.training.gradients import Gradients
from charrnn.training.optimizers import optimizers_of, rate_share
from charrnn.training.tasks import TASKS

MOST_SKIPPED = 10
AVERAGE_EVERY, AVERAGE_ALL = 4, 100  # steps; all of the first, which a short run has no others of
ANOTHER_STREAM = 1_000_003  # between the seeds of two ranks


@dataclass(frozen=True)
class Means:
    """Averages over the steps since they were last taken."""

    loss: float
    accuracy: float
    gradient_norm: float
    skipped: int  # steps that were not finite, since the run began


class Learner:
    """The moving parts of a training run. B streams, T steps, H hidden."""

    def __init__(
        self, model: ModelConfig, training: TrainingConfig, data: Any, device: torch.device, ranks: Ranks = ALONE
    ) -> None:
        """`data` is the training part: tokens (N,) of a text, or Examples; the whole of it on every rank."""
        self.task = TASKS[model.task]
        self.model_config, self.training, self.device, self.ranks = model, training, device, ranks
        self.precision = machine.resolve_precision(training.precision, device)
        torch.manual_seed(training.seed)
        self.network = self.task.build(model, training)
        for stack in self.network.stacks:
            initialise(stack, training.forget_bias, training.recurrent_init == "orthogonal")
        self.network.to(device)
        ranks.copy(list(self.network.parameters()))
        if not ranks.first:  # the same weights, but a dropout of its own
            torch.manual_seed((training.seed + ANOTHER_STREAM * ranks.rank) % 2**63)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        for part in (*self.network.modules(), *self.average.modules()):
            if isinstance(part, torch.nn.RNNBase):
                part.flatten_parameters()  # for cuDNN, which otherwise copies the weights together at each call
        self.optimizers = optimizers_of(self.network, training, self.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.scaler.scale(torch.zeros((), device=device))  # now, as a rank's share of the first batch may be of nothing
        self.feed = resident.kept_on(device, self.task.feed(data, training))
        self.gradients = Gradients(self.task, self.network, device, self.precision, ranks)
        self.cursor = Cursor()
        self.state = tuple(part[self._share] for part in self.task.begin(self.network, training))
        self.step = 0
        self.asks = device.type == "cpu"  # whether a step was finite; elsewhere the answer would have to be waited for
        self._skips = self._counted()
        self._sums = self._zero_sums()

    def _zero_sums(self) -> Tensor:
        """Loss, right predictions, tokens and gradient norms, summed on the device so that nothing waits for them."""
        return torch.zeros(5, dtype=torch.float32 if self.device.type == "mps" else torch.float64, device=self.device)

    def _counted(self, last: int = -1, row: int = 0, total: int = 0) -> Tensor:
        """Steps that were not finite, counted on the device: the last, how many in a row with it, most in a row, in all."""
        return torch.tensor([last, row, row, total], device=self.device)

    @property
    def epoch(self) -> float:
        """Passes over the training text so far."""
        return self.cursor.epoch + self.cursor.window / self.feed.windows_per_epoch

    def advance(self) -> None:
        """One optimizer step on one window; raises CharrnnError after ten in a row that were not finite.

        Where the device would have to be waited for, that is found by `take_means` and before anything is saved.
        """
        batch, before = self.feed.at(self.cursor), self.state
        self._set_learning_rate()
        cost, self.training = self.gradients.of(batch, before, self.training, self.scaler)
        norm, finite = self._descend(cost.nats)
        self.cursor = batch.after
        self.step += 1
        if not (self.asks and finite):
            self._count(finite, cost.nats)
        if self.asks and not finite:
            self._check_skips()
            return
        self._update_average(finite)
        count = torch.full((), self.task.count(batch), device=self.device)
        sums = torch.stack([cost.nats, cost.right, count, norm, torch.ones_like(norm)]).to(self._sums.dtype)
        self._sums += self._chosen(finite, sums, torch.zeros_like(sums))
        self.state = tuple(self._chosen(finite, wide(new), old) for new, old in zip(cost.state, before, strict=True))

    @property
    def _share(self) -> slice:
        """Which of the streams are this rank's."""
        return self.ranks.share(self.training.batch_size)

    def _chosen(self, finite: Tensor, new: Tensor, old: Tensor) -> Tensor:
        """`new` after a step that was finite, else `old`; decided on the device, where it has not been asked."""
        return new if self.asks else torch.where(finite, new, old)

    def take_means(self) -> Means:
        """Means over the steps since the last call (not numbers, if all were skipped); waits for the device."""
        self._check_skips()
        loss, right, tokens, norms, steps = self._sums.tolist()
        self._sums = self._zero_sums()
        if not steps:
            loss = right = norms = math.nan
        return Means(loss / (tokens or 1), right / (tokens or 1), norms / (steps or 1), int(self._skips[3]))

    def learning_rate(self) -> float:
        """AdamW's learning rate at the next step."""
        return self.training.learning_rate * rate_share(self.training, self.step)

    def _set_learning_rate(self) -> None:
        share = rate_share(self.training, self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share

    def _descend(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """Clip, and update unless something is not finite; returns the norm before clipping, and whether not."""
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm) & torch.isfinite(loss)
        if not (self.asks and not finite):
            if self.training.clip and not (self.asks and norm <= self.training.clip):
                torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.training.clip, norm)
            for optimizer in self.optimizers:
                self._update(optimizer, finite)
        self.scaler.update()  # `unscale_` has told it of any overflow
        return norm, finite

    def _update(self, optimizer: torch.optim.Optimizer, finite: Tensor) -> None:
        """One step of one optimizer, which itself leaves out a step that was not finite, whichever's weights it was for."""
        if self.asks:
            optimizer.step()
        elif optimizer.defaults.get("fused", True):
            vars(optimizer)["found_inf"] = (~finite).float()  # as torch's own GradScaler tells it
            optimizer.step()
        elif finite:  # MPS has no optimizer that could look for itself
            optimizer.step()

    def _count(self, finite: Tensor, loss: Tensor) -> None:
        """Count a step that was not finite, unless a gradient scaler is still on its way down to the right scale."""
        fault = ~finite
        if self.scaler.is_enabled():
            fault &= (self.scaler.scale(torch.ones_like(loss)) <= 1) | ~torch.isfinite(loss)
        last, row, most, total = self._skips
        row = torch.where(last == self.step - 1, row, 0) + 1
        counted = torch.stack([torch.full_like(last, self.step), row, torch.maximum(most, row), total + 1])
        self._skips = torch.where(fault, counted, self._skips)

    def _check_skips(self) -> None:
        if int(self._skips[2]) >= MOST_SKIPPED:
            raise self._diverged(f"{MOST_SKIPPED} steps in a row were not finite")

    def check_finite(self) -> None:
        """Raise CharrnnError if a weight is not finite; called before an evaluation."""
        if not all(bool(torch.isfinite(w).all()) for network in (self.network, self.average) for w in network.parameters()):
            raise self._diverged("weights are not finite")

    def _update_average(self, finite: Tensor) -> None:
        """Soon only every few steps, by as much as so many would have moved it: it follows as well at a part of the cost."""
        every = AVERAGE_EVERY if self.step > AVERAGE_ALL and self.training.ema else 1
        if self.step % every:
            return
        decay = min(self.training.ema, (1 + self.step) / (10 + self.step)) if self.training.ema else 0.0
        average: list[Tensor] = list(self.average.parameters())
        current: list[Tensor] = list(self.network.parameters())
        with torch.no_grad():
            if self.asks:
                torch._foreach_lerp_(average, current, 1 - decay**every)
                return
            for old, new in zip(average, torch._foreach_lerp(average, current, 1 - decay**every), strict=True):
                old.copy_(torch.where(finite, new, old))

    def tensors(self) -> Tensors:
        """All of it as named arrays: current and averaged weights, optimizer, carried state, random generators.

        Of all ranks: each has to ask, and gets the same. Raises CharrnnError if something of it is not finite: what is
        saved, is.
        """
        result = snapshot.weights_of(self.network, self.average, self.optimizers)
        for index, part in enumerate(self.state):
            result[f"state/{index}"] = snapshot.array_of(self.ranks.whole(part, self.training.batch_size))
        result["progress/sums"] = self._sums.cpu().double().numpy().copy()
        return self._all_sound({**result, **snapshot.randoms_of(self.ranks, self.device)})

    def averaged(self) -> Tensors:
        """The averaged weights, by the names of a model file; raises CharrnnError if they are not finite."""
        weights = {AVERAGE + name: weight for name, weight in export_weights(self.average).items()}
        return {name.removeprefix(AVERAGE): weight for name, weight in self._all_sound(weights).items()}

    def _all_sound(self, tensors: Tensors) -> Tensors:
        """The tensors, if they are what a reader of the file would take."""
        self._check_skips()
        for name, array in tensors.items():
            most = LARGEST_WEIGHT if name.startswith(AVERAGE) else sys.float_info.max
            low, high = float(array.min(initial=0)), float(array.max(initial=0))  # nan if one of them is
            if array.dtype.kind == "f" and not -most <= low <= high <= most:
                raise self._diverged(f"{name} is not finite, or beyond all measure")
        return tensors

    def progress(self) -> dict[str, Any]:
        """What is not a tensor."""
        scaler = self.scaler.state_dict() if self.scaler.is_enabled() else {}
        last, row, _, total = self._skips.tolist()
        return {
            "step": self.step, "cursor": asdict(self.cursor), "skipped": row if last == self.step else 0, "skips": total,
            "scaler": scaler,
        }  # fmt: skip

    def start_from(self, weights: Mapping[str, NDArray[Any]]) -> None:
        """Begin with weights that are named and shaped as a file has them, instead of chance."""
        import_weights(self.network, weights)
        import_weights(self.average, weights)
        self.ranks.copy([*self.network.parameters(), *self.average.parameters()])

    def restore(self, tensors: Mapping[str, NDArray[Any]], progress: Mapping[str, Any]) -> None:
        """Take up what `tensors` and `progress` gave; raises CheckpointError if something is missing or misshapen."""
        self._check(tensors, progress)
        try:
            self._restore(tensors, progress)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"its training state does not fit: {error}", "Start a new run.") from error

    def _check(self, tensors: Mapping[str, NDArray[Any]], progress: Mapping[str, Any]) -> None:
        moved = progress["step"] > progress["skipped"]
        snapshot.check(tensors, self.tensors(), self.network, self.optimizers, moved)
        if progress["cursor"]["window"] >= self.feed.windows_per_epoch:
            raise CheckpointError("its training state does not fit: its place in the text.", "Start a new run.")

    def _restore(self, tensors: Mapping[str, NDArray[Any]], progress: Mapping[str, Any]) -> None:
        snapshot.restore_weights(self.network, self.average, self.optimizers, tensors)
        states = (np.array(tensors[f"state/{index}"][self._share]) for index in range(len(self.state)))
        self.state = tuple(torch.from_numpy(state).to(self.device) for state in states)
        self._sums = torch.from_numpy(np.array(tensors["progress/sums"])).to(self._sums)
        self.step = int(progress["step"])
        self._skips = self._counted(self.step, int(progress["skipped"]), int(progress["skips"]))
        self.cursor = Cursor(int(progress["cursor"]["epoch"]), int(progress["cursor"]["window"]))
        if progress["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(progress["scaler"]))
        snapshot.restore_randoms(self.ranks, self.device, tensors)

    def _diverged(self, what: str) -> CharrnnError:
        found = f"training diverged at step {self.step:,}: {what}. What was saved before is untouched."
        hint = "Try a lower --learning-rate (half of it), a smaller --clip, or --precision fp32."
        return self.ranks.alike(CharrnnError(found, hint))
