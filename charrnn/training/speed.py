"""How fast the machine multiplies, how much of that training gets out of it, and what a step costs beside its arithmetic.

Everything is measured here and now, in this process. Knows nothing of runs on disk or of tables.
"""

from __future__ import annotations

import contextlib
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.training import device as machine
from charrnn.training.learner import Learner
from charrnn.weights import weight_shapes

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WARM_STEPS = 3
FEWEST = 5  # repeats behind a median, at least


@dataclass(frozen=True)
class Machine:
    """Where it was measured; nothing that names a user or a folder."""

    processor: str
    cores: int  # that this process may use
    accelerator: str  # empty without a GPU
    torch: str
    python: str


def this_machine() -> Machine:
    """What the rows were measured on."""
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return Machine(_processor(), machine.available_cores(), accelerator, torch.__version__, platform.python_version())


def _processor(facts: Path = Path("/proc/cpuinfo")) -> str:
    """The model of the CPU, from Linux's own words; elsewhere what Python knows."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        for line in facts.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def product_weights(model: ModelConfig) -> int:
    """Weights that take part in products: W_ih and W_hh of each recurrent layer, and the output layer; no bias.

    A learned embedding is a look-up and counts only where it is tied to the output, a one-hot input counts as a product.
    """
    shapes = weight_shapes(model)
    output = "embedding.weight" if model.tie_weights else "output.weight"
    matrices = [shape for name, shape in shapes.items() if name.startswith("layers.") and len(shape) > 1]
    return sum(math.prod(shape) for shape in (*matrices, shapes[output]))


def training_gigaflops(model: ModelConfig, tokens_per_second: float) -> float:
    """1e9 FLOPs a second that training amounts to: 6 for each of `product_weights` and each token.

    Two for the multiplication and addition of the forward pass, four for the gradients by the input and by the weights.
    """
    return 6 * product_weights(model) * tokens_per_second / 1e9


def first_layer_rate(model: ModelConfig, training: TrainingConfig, seconds: float) -> float:
    """`matrix_rate` of the first layer's whole window: rows B*T, inner I + H, columns G*H."""
    inner, columns = model.input_size + model.hidden_size, model.gates * model.hidden_size
    precision = machine.resolve_precision(training.precision, machine.resolve(training.device))
    return matrix_rate(
        training.batch_size * training.window, inner, columns, precision, training.device, training.threads, seconds
    )


def matrix_rate(rows: int, inner: int, columns: int, precision: str, device: str, threads: int, seconds: float = 0.5) -> float:
    """1e9 FLOPs a second of the torch product (rows x inner) @ (inner x columns), which has 2 * rows * inner * columns.

    The median of at least five repeats, for about `seconds`, after a warm-up; a repeat is as many products as take some
    10 ms. It is no upper bound: another shape may run faster, and larger products often do.
    """
    where = machine.prepare(device, threads)
    left = torch.randn(rows, inner, device=where).to(DTYPES[precision])
    right = torch.randn(inner, columns, device=where).to(DTYPES[precision])
    result = torch.empty(rows, columns, device=where, dtype=left.dtype)
    times = _alternating([lambda: torch.mm(left, right, out=result)], where, seconds, block_seconds=0.01)[0]
    return 2.0 * rows * inner * columns / statistics.median(times) / 1e9


def overhead(model: ModelConfig, training: TrainingConfig, tokens: NDArray[Any], seconds: float) -> float:
    """The share of a step's time that is neither forward, backward nor the optimizer's update; from 0 to 1.

    What is left is data, clipping, averaging and bookkeeping. 1 - median(bare) / median(whole) over blocks of steps
    that alternate in one process; a difference below zero is noise, and counted as 0.
    """
    where = machine.prepare(training.device, training.threads)
    learner = Learner(model, training, tokens, where)
    whole, bare = _alternating([learner.advance, _bare_step(learner)], where, seconds, block_seconds=seconds / 40)
    return max(0.0, 1 - statistics.median(bare) / statistics.median(whole))


def _bare_step(learner: Learner) -> Callable[[], None]:
    """A step with nothing around it: the same network and optimizers, one window for ever, always the zero state."""
    window = learner.feed.at(learner.cursor)
    inputs, targets = (torch.from_numpy(ids).to(learner.device) for ids in (window.inputs, window.targets))  # (T, B)
    state = learner.task.begin(learner.network, learner.training)

    def step() -> None:
        learner.network.zero_grad(set_to_none=True)
        with machine.arithmetic(learner.precision, learner.device):
            logits, _ = learner.network(inputs, state)  # (T, B, V)
        loss = torch.nn.functional.cross_entropy(logits.float().reshape(-1, logits.shape[-1]), targets.reshape(-1))
        loss.backward()  # type: ignore[no-untyped-call]
        for optimizer in learner.optimizers:
            optimizer.step()

    return step


def _alternating(
    works: Sequence[Callable[[], Any]], device: torch.device, seconds: float, block_seconds: float
) -> list[list[float]]:
    """Seconds that each of `works` takes once: means over blocks of about `block_seconds`, in turns, after a warm-up.

    In turns, because the speed of a shared machine moves by a third within minutes.
    """
    for work in works:
        _block(work, WARM_STEPS, device)
    once = max(_block(work, WARM_STEPS, device) for work in works)
    count = max(1, min(1000, int(block_seconds / max(once, 1e-9))))
    times: list[list[float]] = [[] for _ in works]
    began = time.perf_counter()
    while len(times[0]) < FEWEST or time.perf_counter() - began < seconds:
        for own, work in zip(times, works, strict=True):
            own.append(_block(work, count, device))
    return times


def _block(work: Callable[[], Any], count: int, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    for _ in range(count):
        work()
    _wait(device)
    return (time.perf_counter() - began) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
