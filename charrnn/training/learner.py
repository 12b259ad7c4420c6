"""Everything that one optimizer step changes, and the step itself.

A Learner owns the network, its averaged copy, the optimizer, the carried state and the cursor; `advance` makes one
step, `tensors`/`restore` put all of it into a file and back, so that a resumed run is bit for bit the uninterrupted
one. A step whose loss or gradient is not finite changes nothing but the place in the text. Knows nothing of files,
evaluation or when to stop.

AdamW: Loshchilov and Hutter (2019). Clipping by the global norm: Pascanu et al. (2013). Averaged weights (EMA):
Polyak and Juditsky (1992), with a warm-up of the decay so that the first weights are soon forgotten.
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
from charrnn.models.recurrent import initialise
from charrnn.models.weights import export_weights, import_weights
from charrnn.runs.checkpoint import Tensors
from charrnn.runs.model import AVERAGE, LARGEST_WEIGHT
from charrnn.training import device as machine
from charrnn.training.batching import Cursor
from charrnn.training.loss import Network
from charrnn.training.muon import Muon
from charrnn.training.tasks import TASKS

MOST_SKIPPED = 10
AVERAGE_EVERY, AVERAGE_ALL = 4, 100  # steps; all of the first, which a short run has no others of
MOMENTS = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"), Muon: ("momentum",)}


@dataclass(frozen=True)
class Means:
    """Averages over the steps since they were last taken."""

    loss: float
    accuracy: float
    gradient_norm: float
    skipped: int  # steps that were not finite, since the run began


class Learner:
    """The moving parts of a training run. B streams, T steps, H hidden."""

    def __init__(self, model: ModelConfig, training: TrainingConfig, data: Any, device: torch.device) -> None:
        """`data` is the training part: tokens (N,) of a text, or Examples."""
        self.task = TASKS[model.task]
        self.model_config, self.training, self.device = model, training, device
        self.precision = machine.resolve_precision(training.precision, device)
        torch.manual_seed(training.seed)
        self.network = self.task.build(model, training)
        for stack in self.network.stacks:
            initialise(stack, training.forget_bias, training.recurrent_init == "orthogonal")
        self.network.to(device)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizers = _optimizers(self.network, training, self.precision)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.precision == "fp16")
        self.feed = self.task.feed(data, training)
        self.cursor = Cursor()
        self.state = self.task.begin(self.network, training)
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
        with machine.arithmetic(self.precision, self.device):
            cost = self.task.loss(self.network, batch, before, self.training, self.device)
        loss = cost.nats.detach()
        norm, finite = self._descend(cost.nats / cost.count)
        self.cursor = batch.after
        self.step += 1
        if not (self.asks and finite):
            self._count(finite, loss)
        if self.asks and not finite:
            self._check_skips()
            return
        self._update_average(finite)
        count = torch.as_tensor(cost.count, device=self.device)
        sums = torch.stack([loss, cost.right, count, norm, torch.ones_like(norm)]).to(self._sums.dtype)
        self._sums += self._chosen(finite, sums, torch.zeros_like(sums))
        self.state = tuple(self._chosen(finite, new.detach().float(), old) for new, old in zip(cost.state, before, strict=True))

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
        """Backpropagate, clip, update unless something is not finite; returns the norm before clipping, and whether not."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        gradients = [weight.grad for weight in self.network.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm) & torch.isfinite(loss.detach())
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
            raise _diverged(self.step, f"{MOST_SKIPPED} steps in a row were not finite")

    def check_finite(self) -> None:
        """Raise CharrnnError if a weight is not finite; called before an evaluation."""
        if not all(bool(torch.isfinite(w).all()) for network in (self.network, self.average) for w in network.parameters()):
            raise _diverged(self.step, "weights are not finite")

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

        Raises CharrnnError if something of it is not finite: what is saved, is.
        """
        result: Tensors = {AVERAGE + name: weight for name, weight in export_weights(self.average).items()}
        for name, weight in export_weights(self.network).items():
            result[f"current/{name}"] = weight
        for name, parameter in self.network.named_parameters():
            for key, value in self._moments(parameter).items():
                result[f"optimizer/{key}/{name}"] = value.detach().cpu().numpy().copy()
        for index, part in enumerate(self.state):
            result[f"state/{index}"] = part.detach().cpu().numpy().copy()
        result["progress/sums"] = self._sums.cpu().double().numpy().copy()
        result["random/cpu"] = torch.get_rng_state().numpy().copy()
        if self.device.type == "cuda":
            result["random/cuda"] = torch.cuda.get_rng_state(self.device).numpy().copy()
        return self._all_sound(result)

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
                raise _diverged(self.step, f"{name} is not finite, or beyond all measure")
        return tensors

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """What its optimizer remembers of a weight."""
        moments: dict[str, Tensor] = self._optimizer_of(parameter).state[parameter]
        return moments

    def _optimizer_of(self, parameter: Tensor) -> torch.optim.Optimizer:
        for optimizer in self.optimizers:
            if any(parameter is one for group in optimizer.param_groups for one in group["params"]):
                return optimizer
        raise AssertionError("every weight has an optimizer")

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

    def restore(self, tensors: Mapping[str, NDArray[Any]], progress: Mapping[str, Any]) -> None:
        """Take up what `tensors` and `progress` gave; raises CheckpointError if something is missing or misshapen."""
        self._check(tensors, progress)
        try:
            self._restore(tensors, progress)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"its training state does not fit: {error}", "Start a new run.") from error

    def _check(self, tensors: Mapping[str, NDArray[Any]], progress: Mapping[str, Any]) -> None:
        """Every tensor must be there, as large and of the type that torch's kernels will take it for: they do not look."""
        expected = {name: (array.shape, array.dtype) for name, array in self.tensors().items() if name != "random/cuda"}
        if any(name.startswith("optimizer/") for name in tensors) or progress["step"] > progress["skipped"]:
            for name, parameter in self.network.named_parameters():
                for key in MOMENTS[type(self._optimizer_of(parameter))]:
                    expected[f"optimizer/{key}/{name}"] = (() if key == "step" else tuple(parameter.shape), np.dtype(np.float32))
        found = {name: (array.shape, array.dtype) for name, array in tensors.items() if not name.startswith("tokenizer.")}
        found.pop("random/cuda", None)
        if odd := sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)):
            raise CheckpointError(f"its training state does not fit: tensor {odd[0][:80]!r}.", "Start a new run.")
        if bad := [name for name, array in tensors.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]:
            raise CheckpointError(f"its training state does not fit: {bad[0][:80]!r} holds values that are no numbers.")
        if progress["cursor"]["window"] >= self.feed.windows_per_epoch:
            raise CheckpointError("its training state does not fit: its place in the text.", "Start a new run.")

    def _restore(self, tensors: Mapping[str, NDArray[Any]], progress: Mapping[str, Any]) -> None:
        for network, prefix in ((self.network, "current/"), (self.average, "average/")):
            import_weights(network, {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
        for name, parameter in self.network.named_parameters():
            moments = self._moments(parameter)
            for key in MOMENTS[type(self._optimizer_of(parameter))]:
                stored = tensors.get(f"optimizer/{key}/{name}")
                if stored is not None:
                    moments[key] = torch.from_numpy(np.array(stored)).to(self.device)
        self.state = tuple(torch.from_numpy(np.array(tensors[f"state/{i}"])).to(self.device) for i in range(len(self.state)))
        self._sums = torch.from_numpy(np.array(tensors["progress/sums"])).to(self._sums)
        self.step = int(progress["step"])
        self._skips = self._counted(self.step, int(progress["skipped"]), int(progress["skips"]))
        self.cursor = Cursor(int(progress["cursor"]["epoch"]), int(progress["cursor"]["window"]))
        if progress["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(dict(progress["scaler"]))
        torch.set_rng_state(torch.from_numpy(np.array(tensors["random/cpu"])))
        if self.device.type == "cuda" and "random/cuda" in tensors:
            torch.cuda.set_rng_state(torch.from_numpy(np.array(tensors["random/cuda"])), self.device)


def rise(training: TrainingConfig) -> int:
    """Steps of the warm-up."""
    return max(1, training.warmup)


def rate_share(training: TrainingConfig, step: int) -> float:
    """The share of the peak rates at step `step` (from 0): a linear rise, then the schedule, to just above zero."""
    risen = (step + 1) / rise(training)
    if training.schedule == "trapezoid":  # Zhai et al. (2022); Hagele et al. (2024)
        return min(1.0, risen, max(0.0, training.steps - step) / max(1.0, training.decay * training.steps))
    if risen < 1:
        return risen
    left = min(1.0, max(0.0, (training.steps - step) / max(1, training.steps - rise(training))))
    return {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[training.schedule]


def _optimizers(network: Network, training: TrainingConfig, precision: str) -> list[torch.optim.Optimizer]:
    """Muon for the recurrent layers' matrices (not for one-hot inputs, which are rows of their own), AdamW for the rest.

    Weight decay pulls on matrices only: a bias has no size to regularise. `peak` is each group's highest rate.
    """
    onehot = network.config.embedding == "onehot"
    stacks = network.stacks if training.optimizer == "muon" else []
    orthogonal: list[dict[str, Any]] = [{"params": stack.matrices(onehot), "size": stack.hidden_size} for stack in stacks]
    chosen = [matrix for group in orthogonal for matrix in group["params"]]
    rest = [weight for weight in network.parameters() if not any(weight is matrix for matrix in chosen)]
    matrices, vectors = [w for w in rest if w.ndim >= 2], [w for w in rest if w.ndim < 2]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    betas, fused = (float(training.beta1), float(training.beta2)), next(network.parameters()).device.type in ("cpu", "cuda")
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=training.learning_rate, betas=betas, fused=fused)]
    if chosen:
        product = torch.bfloat16 if precision == "bf16" else torch.float32
        optimizers.append(
            Muon(orthogonal, lr=training.muon_learning_rate, momentum=training.muon_momentum,
                 weight_decay=training.muon_weight_decay, product=product)
        )  # fmt: skip
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def _diverged(step: int, what: str) -> CharrnnError:
    return CharrnnError(
        f"training diverged at step {step:,}: {what}. What was saved before is untouched.",
        "Try a lower --learning-rate (half of it), a smaller --clip, or --precision fp32.",
    )
