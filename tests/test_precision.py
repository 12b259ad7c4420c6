"""Which arithmetic a GPU is given, with a made-up clock and no GPU; what only one can tell is marked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.training import material as materials
from charrnn.training import planning, precision, recipe, repeating
from charrnn.training.probe import seconds_per_step
from charrnn.training.recipe import Bound, Facts, Plan

CUDA = torch.device("cuda")
Speeds = dict[tuple[str, int], float]  # by precision and embedding, as many times as fast as bf16


def timer(speeds: Speeds, seen: list[tuple[str, int]] | None = None) -> recipe.Timer:
    """A device whose speed depends on precision and embedding."""

    def seconds(model: ModelConfig, training: TrainingConfig, look: float) -> float:
        way = (training.precision, model.embedding_size)
        if seen is not None:
            seen.append(way)
        if speeds.get(way) == 0:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model.layers * model.hidden_size**2 * training.batch_size * training.window / 1e11 / speeds.get(way, 1.0)

    return seconds


def planned(usual: str = "bf16", **model: Any) -> Plan:
    shape = {"vocab_size": 69, "hidden_size": 512, **model}
    return Plan(ModelConfig(**shape), TrainingConfig(precision=usual), (), 1.0)


def chosen(speeds: Speeds, plan: Plan | None = None, **asked: Any) -> dict[str, Any] | None:
    found = precision.faster(plan or planned(), asked, timer(speeds))
    return None if found is None else dict(found.wishes)


@pytest.mark.parametrize(
    ("speeds", "wishes"),
    [
        ({}, None),
        ({("fp16", 64): 1.04}, None),
        ({("fp16", 64): 1.06}, {"precision": "fp16"}),
        ({("fp32", 64): 1.5, ("fp16", 64): 1.3}, {"precision": "fp32"}),
        ({("fp16", 128): 2.0}, {"precision": "fp16", "embedding_size": 128}),
        ({("fp16", 64): 1.98, ("fp16", 128): 2.0}, {"precision": "fp16"}),  # no wider than need be
        ({("fp16", 64): 0, ("fp32", 64): 0}, None),  # out of memory
    ],
)
def test_the_faster_by_a_clear_margin_is_taken(speeds: Speeds, wishes: dict[str, Any] | None) -> None:
    assert chosen(speeds) == wishes


def test_it_is_said() -> None:
    for way, note in (
        (("fp16", 64), "precision: fp16, 1.4 times as fast as bf16 here"),
        (("fp16", 128), "precision: fp16 with an embedding of 128, 1.4 times as fast as bf16 here"),
    ):
        found = precision.faster(planned(), {}, timer({way: 1.4}))
        assert found is not None
        assert found.note == note


def test_an_older_gpu_is_tried_with_fp32_as_well() -> None:
    assert chosen({("fp16", 64): 1.0, ("fp32", 64): 1.2}, planned("fp16")) == {"precision": "fp32"}
    assert chosen({("fp16", 128): 1.2}, planned("fp16")) == {"precision": "fp16", "embedding_size": 128}


@pytest.mark.parametrize(
    "model",
    [{"cell": "gru"}, {"hidden_size": 192}, {"hidden_size": 1536}, {"embedding": "onehot"}, {"embedding_size": 256},
     {"embedding_size": 512, "tie_weights": True}],
)  # fmt: skip
def test_the_embedding_is_left_alone_where_that_could_not_help(model: dict[str, Any]) -> None:
    seen: list[tuple[str, int]] = []
    precision.faster(planned(**model), {}, timer({}, seen))
    assert {width for _, width in seen} == {planned(**model).model.embedding_size}


def test_what_was_asked_for_is_not_tried_otherwise() -> None:
    everything = {(name, width): 9.0 for name in ("fp16", "fp32") for width in (64, 128)}
    assert chosen(everything, precision="bf16") is None
    assert chosen(everything, embedding_size=64) == {"precision": "fp16"}
    assert chosen(everything, precision="auto") is not None


def test_no_time_is_spent_where_there_is_little_or_where_it_is_no_bound() -> None:
    for minutes in (None, 0.4):
        seen: list[tuple[str, int]] = []
        plan = Plan(ModelConfig(vocab_size=69), TrainingConfig(precision="bf16"), (), minutes)
        assert precision.faster(plan, {}, timer({}, seen)) is None
        assert seen == []


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Plan]:
    """Plans for a GPU that is not there."""
    text = tmp_path / "verse.txt"
    text.write_text("the tide goes out and leaves the boats to think of what it said\n" * 3000, encoding="utf-8")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    material, _ = materials.read([str(text)], {}, 0.1)

    def plan(speeds: Speeds, bound: Bound, device: torch.device = CUDA, **asked: Any) -> Plan:
        clock = timer(speeds)
        monkeypatch.setattr(planning, "seconds_per_step", lambda m, t, data, device, look: clock(m, t, look))
        return planning.make({"threads": 1, **asked}, material, device, bound, time.monotonic())

    return plan


def test_a_plan_for_a_gpu_is_made_anew_with_what_is_faster(make: Callable[..., Plan]) -> None:
    minute = Bound(minutes=1)
    plain, fast = make({}, minute), make({("fp16", 128): 1.4}, minute)
    assert (plain.training.precision, plain.model.embedding_size) == ("bf16", 64)
    assert not any(note.startswith("precision") for note in plain.notes)
    assert (fast.training.precision, fast.model.embedding_size) == ("fp16", 128)
    assert fast.notes[0] == "precision: fp16 with an embedding of 128, 1.4 times as fast as bf16 here"
    assert len({note.partition(":")[0] for note in fast.notes}) == len(fast.notes), "nothing is said twice"
    configs = (materials.ReadingConfig(), materials.TokenizerConfig(), fast.model, fast.training)
    assert "--embedding-size 128" in repeating.command(["a"], *configs)
    assert "--precision fp16" in repeating.command(["a"], *configs)


def test_a_plan_of_so_many_steps_or_for_a_cpu_is_not_measured(make: Callable[..., Plan]) -> None:
    speeds = {("fp16", 64): 9.0, ("fp32", 64): 9.0}
    assert make(speeds, Bound(steps=50)).training.precision == "bf16"
    assert make(speeds, Bound(minutes=1), precision="bf16").training.precision == "bf16"
    on_cpu = make({("fp16", 64): 9.0}, Bound(minutes=1), torch.device("cpu"), precision="fp32")
    assert on_cpu.training.precision == "fp32"


def test_a_batch_that_is_planned_suits_the_kernels() -> None:
    """32 streams, or a smaller multiple of 8, wherever the text fills eight streams of a window."""
    for tokens in (600, 5_000, 50_000, 5_000_000):
        made = recipe.plan({}, Facts(tokens, 0, 69), Bound(steps=9), lambda: 0.0, lambda *_: 1.0)
        assert made.training.batch_size % 8 == 0


@pytest.mark.gpu
def test_a_gpu_is_asked() -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    tokens = np.random.default_rng(1).integers(4, 69, 200_000).astype(np.uint8)
    seen: dict[tuple[str, int], float] = {}

    def clock(model: ModelConfig, training: TrainingConfig, look: float) -> float:
        way = (training.precision, model.embedding_size)
        seen[way] = seconds_per_step(model, replace(training, device="cuda", steps=10**6), tokens, CUDA, look)
        return seen[way]

    precision.faster(planned(), {}, clock)
    print({way: f"{1000 * seconds:.2f} ms" for way, seconds in seen.items()})
    assert set(seen) == {("bf16", 64), ("fp16", 64), ("fp32", 64), ("fp16", 128)}
    assert all(0 < seconds < 1 for seconds in seen.values())
