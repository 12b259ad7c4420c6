"""How long a training step takes, by shape, precision and batch, beside the two bounds that no program can beat.

Arithmetic: the FLOPs of the step over those that this device makes in a large square product of the same precision.
Bandwidth: the bytes that the step must move over those that this device copies. Both are reckoned from the shape alone
and measured on this device, in this process; a step's time is what the recipe's own probe says. Knows nothing of texts:
tokens are drawn at random, which a step's time does not depend on; nor of tables.

The reckoning, for T time steps of B streams, layers of input I, H units, G gates and A arrays of state, V logits, P weights:

FLOPs. 6 for each weight in a product and each token (`speed.training_gigaflops`), and Muon's: to make a block of gates
M x N orthogonal, with m the smaller side, ROUNDS times two products of 2 m m N' and one of 2 m m m (N' the larger side).

Bytes. Numbers have 2 bytes in bf16 and fp16, else 4. Each token: of each layer 3 I + (4 G + 2 A + 1) H (forward reads
the input, writes gates and states; backward reads both again and the gradient of the outputs, writes those of gates and
input and reads the gates' for the weights); of the output 3 H + 4 V (outputs read twice, their gradient written; logits
and their gradient written and read); of the embedding 2 E. Each weight: read forward and backward; 36 bytes for its
gradient written, read for the norm, and AdamW (four numbers read, three written; Muon moves no less); in 16 bits 6 more to
make it so short. W_hh is read once forward and once backward, as a persistent kernel does, or `rereading` at every time
step of both, from whatever memory holds it: where that is a cache, that share may exceed 1. As if no cache outlived a
kernel; the shares of small networks can be too high by that. cuDNN multiplies fp32 in TF32, the large product does not.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from charrnn.config import ModelConfig, TrainingConfig, check
from charrnn.errors import CharrnnError
from charrnn.training import device as machine
from charrnn.training import speed
from charrnn.training.learner import Learner
from charrnn.training.muon import ROUNDS
from charrnn.training.optimizers import product_in
from charrnn.training.probe import timed
from charrnn.weights import state_arrays, weight_shapes

VOCABULARY = 69  # tinyshakespeare's 65 characters and the four reserved tokens
WINDOWS = 8  # of each stream, in the tokens that are learnt
LOOK, RATE_SECONDS = 1.0, 0.5  # seconds for each row, and for each rate
LARGE = {"cuda": 8192, "mps": 4096, "cpu": 1024}  # side of the large product
COPIED = 1 << 28  # bytes, more than any cache holds
UPDATE_BYTES, CAST_BYTES = 36, 6  # of each weight, see above


@dataclass(frozen=True)
class Wanted:
    """What is to be measured: every shape (layers, hidden size) in every precision with every batch."""

    shapes: Sequence[tuple[int, int]]
    batches: Sequence[int]
    precisions: Sequence[str] = ()  # none: all that the device has
    cell: str = "lstm"
    embedding_size: int = 64
    window: int = 64
    device: str = "auto"
    threads: int = 0


@dataclass(frozen=True)
class Row:
    """One step. Seconds, bytes; 1e9 FLOPs or bytes a second; shares of the step's time, 1 where it is at that bound.

    What could not be measured is None, and `failed` says why.
    """

    cell: str
    layers: int
    hidden_size: int
    embedding_size: int
    batch_size: int
    window: int
    precision: str
    device: str
    threads: int
    matrix_gigaflops: float
    copy_gigabytes: float
    failed: str = ""
    seconds_per_step: float | None = None
    tokens_per_second: float | None = None
    memory_bytes: int | None = None  # at most, of the device; None where it does not count it
    arithmetic: float | None = None
    bandwidth: float | None = None
    rereading: float | None = None  # bandwidth, with W_hh read anew at each time step


@dataclass(frozen=True)
class Rates:
    """What the device is capable of, 1e9 a second."""

    gigaflops: dict[str, float]  # by precision
    copy_gigabytes: float


def measure(wanted: Wanted) -> Iterator[Row]:
    """A row for each; one that does not fit into the memory says so. Raises UsageError before anything is measured."""
    where = machine.prepare(wanted.device, wanted.threads)
    precisions = [machine.resolve_precision(name, where) for name in wanted.precisions] or working(where)
    threads = torch.get_num_threads()
    for layers, hidden in wanted.shapes:
        check(_model(wanted, layers, hidden))
    rates = _rates({*precisions, *(product_in(name) for name in precisions)}, where, threads)
    for layers, hidden in wanted.shapes:
        for precision in precisions:
            for batch in wanted.batches:
                training = TrainingConfig(
                    batch_size=batch, window=wanted.window, precision=precision, device=where.type, threads=threads, steps=10**6
                )
                yield _row(_model(wanted, layers, hidden), training, where, rates)


def working(where: torch.device) -> list[str]:
    """The precisions that a device has."""
    found = [name for name in speed.DTYPES if (name, where.type) in machine.WORKING]
    old = where.type == "cuda" and not torch.cuda.is_bf16_supported()
    return [name for name in found if not (old and name == "bf16")]


def _model(wanted: Wanted, layers: int, hidden: int) -> ModelConfig:
    return ModelConfig(
        cell=wanted.cell, vocab_size=VOCABULARY, embedding_size=wanted.embedding_size, hidden_size=hidden, layers=layers
    )


def _rates(precisions: set[str], where: torch.device, threads: int) -> Rates:
    side = LARGE[where.type]
    square = {name: speed.matrix_rate(side, side, side, name, where.type, threads, RATE_SECONDS) for name in precisions}
    return Rates(square, copy_rate(where))


def copy_rate(where: torch.device) -> float:
    """1e9 bytes a second that a copy within the device's memory moves, those read and those written."""
    source = torch.ones(COPIED, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    times = speed._alternating([lambda: target.copy_(source)], where, RATE_SECONDS, block_seconds=0.01)[0]
    return 2 * COPIED / statistics.median(times) / 1e9


def _row(model: ModelConfig, training: TrainingConfig, where: torch.device, rates: Rates) -> Row:
    shape = {name: getattr(model, name) for name in ("cell", "layers", "hidden_size", "embedding_size")}
    how = {name: getattr(training, name) for name in ("batch_size", "window", "precision", "device", "threads")}
    able: dict[str, Any] = {"matrix_gigaflops": rates.gigaflops[training.precision], "copy_gigabytes": rates.copy_gigabytes}
    seconds, memory = _measured(model, training, where)
    if seconds is None:
        return Row(**shape, **how, **able, failed="out of memory")
    moved = [step_bytes(model, training, rereading=again) / 1e9 / rates.copy_gigabytes for again in (False, True)]
    return Row(
        **shape, **how, **able, seconds_per_step=seconds, memory_bytes=memory,
        tokens_per_second=training.batch_size * training.window / seconds,
        arithmetic=_arithmetic_seconds(model, training, rates) / seconds,
        bandwidth=moved[0] / seconds, rereading=moved[1] / seconds,
    )  # fmt: skip


def _measured(model: ModelConfig, training: TrainingConfig, where: torch.device) -> tuple[float | None, int | None]:
    """Seconds of a step and the most memory of the device; no seconds where its memory did not suffice."""
    size = WINDOWS * training.batch_size * training.window + 1
    tokens = np.random.default_rng(1).integers(4, VOCABULARY, size).astype(np.uint8)
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    try:
        seconds = _seconds(model, training, tokens, where)
    except (RuntimeError, MemoryError, CharrnnError) as error:
        if not machine.out_of_memory(error) and "not enough memory" not in str(error):  # the latter: not for one stream
            raise
        return None, None
    finally:
        if where.type == "cuda":  # what another process, or the next row, may need
            torch.cuda.empty_cache()
    return seconds, machine.memory_bytes(where) if where.type == "cuda" and seconds is not None else None


def _seconds(model: ModelConfig, training: TrainingConfig, tokens: NDArray[Any], where: torch.device) -> float | None:
    """Seconds of a step; None where it went in parts, because all streams at once did not fit."""
    learner = Learner(model, training, tokens, where)
    seconds = timed(learner, LOOK)
    return None if learner.training.micro_batch else seconds


def _arithmetic_seconds(model: ModelConfig, training: TrainingConfig, rates: Rates) -> float:
    """What the step's products would take as fast as the large ones."""
    own = step_gigaflops(model, training) / rates.gigaflops[training.precision]
    return own + muon_gigaflops(model) / rates.gigaflops[product_in(training.precision)]


def step_gigaflops(model: ModelConfig, training: TrainingConfig) -> float:
    """1e9 FLOPs of a step, forward and backward."""
    return speed.training_gigaflops(model, training.batch_size * training.window)


def muon_gigaflops(model: ModelConfig) -> float:
    """1e9 FLOPs with which Muon makes a step's changes of the recurrent matrices orthogonal."""
    matrices = [shape for name, shape in weight_shapes(model).items() if name.startswith("layers.") and len(shape) > 1]
    sides = [sorted((model.hidden_size, width)) for _, width in matrices]
    return sum(ROUNDS * model.gates * (4 * less * less * more + 2 * less**3) for less, more in sides) / 1e9


def step_bytes(model: ModelConfig, training: TrainingConfig, *, rereading: bool) -> int:
    """Bytes that a step must move, as reckoned above."""
    size = 4 if training.precision == "fp32" else 2
    hidden, gates = model.hidden_size, model.gates
    widths = [model.input_size] + [hidden] * (model.layers - 1)
    numbers = sum(3 * width + (4 * gates + 2 * state_arrays(model) + 1) * hidden for width in widths)
    numbers += 3 * hidden + 4 * model.vocab_size + 2 * model.embedding_size
    weights = sum(int(np.prod(shape)) for shape in weight_shapes(model).values())
    moved = training.batch_size * training.window * numbers * size
    moved += weights * (2 * size + UPDATE_BYTES + (CAST_BYTES if size == 2 else 0))
    again = 2 * (training.window - 1) * model.layers * gates * hidden * hidden * size
    return moved + again * rereading
