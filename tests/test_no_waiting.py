"""A step of training never waits for the device: what it learns is asked for once in many steps.

On a GPU torch itself refuses whatever would wait. Here, where there is none, every operation is looked at that would carry
a number from the device to the program (`item`, `bool`, `float`, `tolist`, a choice by a mask whose size nobody knows).
Copies to the device can be seen on a GPU alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_tasks import KINDS, corpus
from torch.utils._python_dispatch import TorchDispatchMode

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.training import material as materials
from charrnn.training import planning
from charrnn.training.learner import AVERAGE_ALL, AVERAGE_EVERY, Learner
from charrnn.training.recipe import Bound

ANSWERS = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "equal", "is_nonzero"}
SMALL = {"hidden_size": 16, "embedding_size": 8, "batch_size": 4, "layers": 2, "threads": 1, "dropout_output": 0.2}
CASES = pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("language", {}), ("language", {"cell": "gru", "optimizer": "adamw", "clip": 0.0}), ("classify", {"balance": True}),
        ("classify", {"pooling": "max", "bidirectional": False}), ("rows", {"pooling": "last"}), ("conditional", {}),
        ("seq2seq", {}), ("seq2seq", {"attention": "additive", "cell": "gru"}), ("seq2seq", {"context": "last"}),
    ],
    ids=str,
)  # fmt: skip


class Asked(TorchDispatchMode):
    """The operations, in order, that answer with a number, or whose result is as large as the numbers say."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation: Any, types: Any, values: Any = (), named: Any = None) -> Any:
        name = operation.overloadpacket.__name__
        masks = [one for one in values[1] if one is not None and one.dtype == torch.bool] if name.startswith("index") else []
        if name in ANSWERS or masks:
            self.names.append(name)
        return operation(*values, **(named or {}))


def learner_of(folder: Path, kind: str, asked: dict[str, Any], device: torch.device) -> Learner:
    """Of a small text, or of some examples."""
    torch.set_num_threads(1)
    if kind == "language":
        name, task = str(folder / "verse.txt"), dict[str, Any]()
        Path(name).write_text("the tide goes out and leaves the boats to think of what it said\n" * 30, encoding="utf-8")
        task = {"window": 16, "reset": 0.5}
    else:
        name, task = corpus(folder, kind)
    wishes = {"precision": "fp32", **SMALL, **task, **asked}
    material, _ = materials.read([name], wishes, 0.1)
    plan = planning.make(wishes, material, device, Bound(steps=1000), 0.0)
    assert isinstance(plan.model, ModelConfig)
    assert isinstance(plan.training, TrainingConfig)
    return Learner(plan.model, plan.training, material.data.train, device)


@contextmanager
def watched() -> Iterator[list[str]]:
    """The names of what was asked within."""
    with Asked() as mode:
        yield mode.names


def test_every_kind_of_examples_is_here() -> None:
    assert set(KINDS) | {"language"} == {mark[0] for mark in CASES.args[1]}


@CASES
def test_no_step_asks_for_a_number(kind: str, asked: dict[str, Any], tmp_path: Path) -> None:
    learner = learner_of(tmp_path, kind, asked, torch.device("cpu"))
    learner.asks = False  # as on a GPU
    with watched() as names:
        for _ in range(3):
            learner.advance()
        learner.step = AVERAGE_ALL + AVERAGE_EVERY - 2  # then one that leaves the average alone, and one that does not
        for _ in range(2):
            learner.advance()
    assert names == []
    with watched() as names:
        learner.take_means()
    assert names, "once in many steps it is asked for"


def test_the_positive_control_is_seen() -> None:
    numbers = torch.arange(4.0)
    with watched() as names:
        float(numbers[0])
        bool(numbers.any())
        numbers[numbers > 2]
        numbers[torch.tensor([1, 2])]
    assert names == ["_local_scalar_dense", "_local_scalar_dense", "index"]


def test_a_cpu_asks(tmp_path: Path) -> None:
    learner = learner_of(tmp_path, "language", {}, torch.device("cpu"))
    with watched() as names:
        learner.advance()
    assert names


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@CASES
def test_no_step_waits_for_a_gpu(kind: str, asked: dict[str, Any], precision: str, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    learner = learner_of(tmp_path, kind, {**asked, "precision": precision}, torch.device("cuda"))
    for _ in range(2 * AVERAGE_EVERY):  # cuDNN's plans, the optimizers' memories
        learner.advance()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(30):
            learner.advance()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert learner.take_means().skipped == 0
