"""How much of the gradient comes back: python docs/measure_gradients.py RUN FILE [--rows N] [--checkpoints DIR]

RUN tells labels (charrnn train --task classify) and reads in one direction, FILE is such a file as it was trained on. The
loss of each of its first N rows (100) is taken back through time, and the norm of d loss / d h_t is told for the last step
(0 steps back), the one before it, and so on to the first: the mean over all rows that are so long, and a bar of two cells
for each power of ten above 1e-15. Of an LSTM it is the norm by h_t and c_t together, as its memory is in c_t; of several
layers that by all that one step hands to the next.

A recurrent network is the same matrix again and again, so these norms fall, or grow, like the powers of a number: Hochreiter
(1991), Bengio, Simard and Frasconi (1994), Pascanu, Mikolov and Bengio (2013).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from charrnn.cli.console import visible
from charrnn.config import ReadingConfig
from charrnn.errors import CharrnnError, UsageError
from charrnn.models.classifier import Classifier
from charrnn.models.recurrent import State
from charrnn.runs import model as runs
from charrnn.runs import registry
from charrnn.text.examples import Examples
from charrnn.text.sources import find_sources
from charrnn.training import examiner
from charrnn.training.padding import by_length

ROWS, LINES = 100, 21  # of the file, of the table
LEAST, CELLS, MOST = -15, 2, 60  # a bar: the power of ten where it begins, cells for each, cells in all
EIGHTHS = " ▏▎▍▌▋▊▉"


def norms(network: Classifier, examples: Examples) -> list[float]:
    """The mean norm of the gradient 0, 1, ... steps before the end of a sequence."""
    sums, counts = torch.zeros(int(examples.sizes.max())), torch.zeros(int(examples.sizes.max()))
    for batch in by_length(examples):
        lengths, labels = torch.from_numpy(batch.lengths), torch.from_numpy(batch.labels)
        found = by_step(network, torch.from_numpy(batch.inputs), lengths, labels)  # (T, B)
        for back in range(len(found)):
            long = lengths > back
            sums[back] += found[lengths[long] - 1 - back, long].sum()
            counts[back] += long.sum()
    return [float(norm) for norm in sums / counts]


def by_step(network: Classifier, inputs: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
    """The norm of d loss / d h_t of each sequence after each step, (T, B)."""
    stack = network.recurrent
    state, outputs, states = stack.begin(inputs.shape[1]), [], []
    for vector in network._embed(inputs).unbind():  # (B, E)
        _, state = stack(vector.unsqueeze(0), state)
        state = tuple(part.clone() for part in state)  # a tensor of its own, through which all later steps go
        for part in state:
            part.retain_grad()
        states.append(state)
        outputs.append(state[-stack.per_layer])
    logits = network.output(network._pool(torch.stack(outputs), lengths))
    functional.cross_entropy(logits, labels, reduction="sum").backward()
    return torch.stack([gradient(state).norm(dim=-1) for state in states])


def gradient(state: State) -> Tensor:
    """By all parts of a state, side by side; nothing comes to the last c of an LSTM, as the answer is made from h."""
    return torch.cat([torch.zeros_like(part) if part.grad is None else part.grad for part in state], -1)


def table(found: Sequence[float]) -> list[str]:
    """Lines of steps back, norm and bar, with even spaces between; the first step of all is always there."""
    shown = -(-len(found) // LINES)
    backs = sorted({*range(0, len(found), shown), len(found) - 1})
    return ["steps back  mean norm", *(f"{back:10}  {found[back]:9.1e}  {bar(found[back])}".rstrip() for back in backs)]


def bar(norm: float) -> str:
    """CELLS cells for each power of ten above LEAST, to an eighth of a cell, the same for every network."""
    eighths = max(0, min(MOST * 8, round((math.log10(norm) - LEAST) * CELLS * 8))) if norm > 0 else 0
    return "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()


def loaded(run: str, file: str, rows: int, checkpoints: Path) -> tuple[Classifier, Examples]:
    """The network of a run and the first examples of a file; raises CharrnnError."""
    model = runs.load(registry.resolve(run, checkpoints))
    if model.config.task != "classify" or model.config.bidirectional:
        found = f"{model.name!r} reads both ways" if model.config.task == "classify" else f"{model.name!r} tells no labels"
        raise UsageError(f"{found}; expected a run that reads in one direction.", "Train one: --task classify --no-bidirectional")
    network = examiner.network_of(model, threads=1)
    assert isinstance(network, Classifier)
    examples = examiner.read(model, find_sources([file]), ReadingConfig())
    return network, examples.take(np.arange(min(rows, len(examples))))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table; leave with a message where there is none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("file", metavar="FILE")
    parser.add_argument("--rows", type=int, default=ROWS, metavar="N", help=f"how many of the file ({ROWS})")
    parser.add_argument("--checkpoints", type=Path, default=Path("checkpoints"), metavar="DIR", help="the folder of runs")
    wanted = parser.parse_args(arguments)
    if wanted.rows < 1:
        parser.error(f"found --rows {wanted.rows}; expected at least 1")
    try:
        print("\n".join(table(norms(*loaded(wanted.run, wanted.file, wanted.rows, wanted.checkpoints)))))
    except CharrnnError as error:
        sys.exit(visible(f"{error.message} {error.hint}"))


if __name__ == "__main__":
    main()
