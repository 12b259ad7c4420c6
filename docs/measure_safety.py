"""What safety costs: python docs/measure_safety.py TEXT [--minutes M] [--signals N]

Trains on the file TEXT with the defaults, in this process, and tells which share of the time from the first step to the
last goes into saves (checks of every number, writing, fsync) and into asking whether a step was finite. Then steps of the
same network with that question and without it, in turn, many of each: the median of their ratios; and with the choice left
to the device, which a GPU makes. At last it starts the real program N times, sends SIGINT once it learns, and tells how
long the end took.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.training import job
from charrnn.training import learner as learners
from charrnn.training.events import Finished, Started
from charrnn.training.learner import Learner
from charrnn.training.recipe import Bound
from charrnn.training.trainer import Run

ROUNDS, STEPS = 40, 10


class Clock:
    """Seconds spent in functions that are watched, the outermost only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._inside = False

    def watch(self, owner: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(owner, name)

        def timed(*values: Any, **options: Any) -> Any:
            if self._inside:
                return function(*values, **options)
            self._inside, began = True, time.perf_counter()
            try:
                return function(*values, **options)
            finally:
                self._inside = False
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began
                self.calls[name] = self.calls.get(name, 0) + 1

        setattr(owner, name, timed)


def measure_run(text: str, minutes: float, folder: Path) -> tuple[ModelConfig, TrainingConfig, Any]:
    """Train with the clock on; returns what was trained, and its tokens."""
    clock, kept = Clock(), []
    for owner, name in ((Run, "_save_model"), (Run, "_save_last"), (Learner, "check_finite")):
        clock.watch(owner, name)
    begin = Learner.__init__

    def remembered(learner: Learner, *values: Any) -> None:
        begin(learner, *values)
        kept[:] = [learner]

    Learner.__init__ = remembered  # type: ignore[method-assign]
    for event in job.run([text], root=folder, bound=Bound(minutes=minutes), started_at=time.monotonic()):
        if isinstance(event, Started):
            began = time.perf_counter()
        if isinstance(event, Finished):
            whole = time.perf_counter() - began
            print(f"{event.step:,} steps in {whole:.1f} s")
    for name, seconds in clock.seconds.items():
        print(f"{name:14}{clock.calls[name]:4} times  {seconds:7.3f} s  {seconds / whole:7.3%}")
    print(f"together                 {sum(clock.seconds.values()):7.3f} s  {sum(clock.seconds.values()) / whole:7.3%}")
    Learner.__init__ = begin  # type: ignore[method-assign]
    learner = kept[0]
    return learner.model_config, learner.training, learner.feed.tokens


def measure_question(model: ModelConfig, training: TrainingConfig, tokens: Any) -> None:
    """The cost of asking, and of leaving the choice to the device, of all that a step takes."""
    sure = torch.ones((), dtype=torch.bool)
    asked = learners.torch.isfinite
    made = {name: Learner(model, training, tokens, torch.device("cpu")) for name in ("unasked", "asked", "left to the device")}
    made["left to the device"].asks = False
    seconds: dict[str, list[float]] = {name: [] for name in made}
    for number in range(ROUNDS + 1):
        for name, learner in random.sample(sorted(made.items()), len(made)):
            learners.torch.isfinite = (lambda value: sure) if name == "unasked" else asked  # type: ignore[assignment]
            began = time.perf_counter()
            for _ in range(STEPS):
                learner.advance()
            if number:  # the first is for warming up
                seconds[name].append(time.perf_counter() - began)
    learners.torch.isfinite = asked
    for name in ("asked", "left to the device"):
        ratios = [one / other for one, other in zip(seconds[name], seconds["unasked"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        step = statistics.median(seconds[name]) / STEPS
        print(f"{name:20} {middle:.4f} of a step without ({low:.4f} to {high:.4f}), {1000 * step:.2f} ms a step")


def measure_signals(text: str, times: int, folder: Path) -> None:
    """Seconds from SIGINT to the end of the real program, at moments that chance names."""
    waits, choose = [], random.Random(1)
    for _ in range(times):
        program = [sys.executable, "-m", "charrnn", "train", os.path.abspath(text), "--minutes", "10"]
        with subprocess.Popen(program, cwd=folder, stderr=subprocess.PIPE, text=True) as child:
            assert child.stderr is not None
            for line in child.stderr:
                if line.startswith("step "):
                    break
            time.sleep(choose.uniform(0.0, 8.0))
            began = time.perf_counter()
            child.send_signal(signal.SIGINT)
            said = child.stderr.read()
        waits.append(time.perf_counter() - began)
        assert "interrupted at step" in said, said
        assert child.returncode == 130
    print(f"SIGINT to the end, {times} times: median {statistics.median(waits):.2f} s, most {max(waits):.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--signals", type=int, default=10)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        made = measure_run(asked.text, asked.minutes, Path(place))
        measure_question(*made)
        if asked.signals:
            measure_signals(asked.text, asked.signals, Path(place))


if __name__ == "__main__":
    main()
