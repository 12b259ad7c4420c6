"""A run of a GPU on a machine that has none, and back: its files say the same there, and training goes on.

The GPU's files are made from a CPU's: by the format's own reader and writer, with all that a GPU would have put in them.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Run

import charrnn
from charrnn.config import TrainingConfig
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.training import device as machine
from charrnn.training import job
from charrnn.training.elsewhere import here
from charrnn.training.events import Finished
from charrnn.training.recipe import Bound

ON_GPU = {"device": "cuda", "threads": 64}
SCALER = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 40}
GENERATOR = np.array([1, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0], np.uint8)  # seed and offset, as CUDA's state is
FOLDER = Path("checkpoints") / "verse"
PRECISIONS = pytest.mark.parametrize("precision", ["fp16", "bf16"])


def as_of_a_gpu(folder: Path, precision: str) -> None:
    """Make of a CPU's files what a GPU would have written."""
    for name in (runs.MODEL_FILE, runs.LAST_FILE):
        content = checkpoint.read(folder / name)
        metadata, tensors = content.metadata, dict(content.tensors)
        metadata["provenance"]["settings"] |= {**ON_GPU, "precision": precision}
        if name == runs.LAST_FILE:
            metadata["resume"]["training"] |= {**ON_GPU, "precision": precision}
            metadata["resume"]["scaler"] = SCALER if precision == "fp16" else {}
            tensors["random/cuda"] = GENERATOR
        checkpoint.write(folder / name, metadata, tensors)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one core and nothing else."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine, "available_cores", lambda: 1)


def said(run: Run) -> list[tuple[int, str]]:
    """What every command that reads a model has to say of it."""
    commands = [
        ("sample", "verse", "--seed", "5", "--length", "200"),
        ("sample", str(FOLDER / runs.LAST_FILE), "--seed", "5", "--length", "50"),
        ("eval", "verse", "verse.txt", "--split", "val", "--threads", "1", "--json"),
        ("score", "verse", "verse.txt"),
        ("inspect", "verse", "--weights", "--json"),
        ("inspect", "verse", "--dump", "-"),
    ]
    done = [run(*command) for command in commands]
    return [(one.code, one.out) for one in done]


@PRECISIONS
@pytest.mark.usefixtures("no_gpu")
def test_every_command_says_the_same(run: Run, precision: str) -> None:
    before, card = said(run), json.loads(run("inspect", "verse", "--json").out)
    as_of_a_gpu(FOLDER, precision)
    assert said(run) == before
    assert all(code == 0 and out for code, out in before)
    other = json.loads(run("inspect", "verse", "--json").out)
    assert changed(card, other) - {"precision"} == {"device", "threads"}  # a CPU's may have been bf16, too


def changed(one: Any, other: Any) -> set[str]:
    """The names of the entries in which two objects of JSON differ, but for the checksum and the name of the file."""
    if not isinstance(one, dict):
        return set()
    found = set[str]()
    for key in one.keys() | other.keys():
        if one.get(key) != other.get(key) and key not in ("checksum", "bytes"):
            found |= changed(one[key], other[key]) if isinstance(one.get(key), dict) else {key}
    return found


@pytest.mark.usefixtures("no_gpu")
def test_the_library_loads_it(trained: Path) -> None:
    folder = trained / FOLDER
    before = charrnn.load(folder).generate("the", length=80, seed=3)
    as_of_a_gpu(folder, "fp16")
    assert charrnn.load(folder).generate("the", length=80, seed=3) == before


@PRECISIONS
@pytest.mark.usefixtures("no_gpu")
def test_training_goes_on_where_there_is_no_gpu_and_says_how(run: Run, precision: str) -> None:
    as_of_a_gpu(FOLDER, precision)
    done = run("train", "--resume", "verse", "--steps", "60")
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert "device: cpu, as there is no cuda here" in said
    assert "threads 1 in place of 64; going on is not exact" in said
    assert "charrnn train ./" not in said, "no command repeats it"
    content = checkpoint.read(FOLDER / runs.LAST_FILE)
    kept = content.metadata["resume"]
    assert (kept["step"], kept["training"]["device"], kept["scaler"]) == (60, "cpu", {})
    assert kept["training"]["precision"] == machine.resolve_precision("auto", torch.device("cpu"))
    assert content.metadata["provenance"]["settings"]["device"] == "cpu"
    assert "random/cuda" not in content.tensors
    assert run("sample", "verse", "--length", "20").code == 0
    again = run("train", "--resume", "verse", "--steps", "70")
    assert again.code == 0
    assert "there is no cuda" not in again.err


def resumed(folder: Path, steps: int) -> str:
    """The digest of all that is then in the last save."""
    list(job.resume(folder, bound=Bound(steps=steps)))
    return checkpoint.tensor_digest(checkpoint.read(folder / runs.LAST_FILE).tensors)


@pytest.mark.usefixtures("no_gpu")
def test_it_goes_on_from_the_very_same_numbers(trained: Path) -> None:
    """The bytes that the CPU's own run arrives at."""
    folder, twin = trained / FOLDER, trained / "checkpoints" / "twin"
    shutil.copytree(folder, twin)
    as_of_a_gpu(twin, "fp16")
    assert resumed(twin, 60) == resumed(folder, 60)


@pytest.mark.usefixtures("no_gpu")
def test_no_command_repeats_what_has_moved(trained: Path) -> None:
    """An interrupted run, whose bound is the old one."""
    file = trained / FOLDER / runs.LAST_FILE
    content = checkpoint.read(file)
    content.metadata["resume"]["training"]["steps"] = 42
    checkpoint.write(file, content.metadata, content.tensors)
    twin = trained / "checkpoints" / "twin"
    shutil.copytree(trained / FOLDER, twin)
    as_of_a_gpu(twin, "bf16")
    for folder, repeats in ((trained / FOLDER, True), (twin, False)):
        finished = list(job.resume(folder))[-1]
        assert isinstance(finished, Finished)
        assert (finished.step, bool(finished.command)) == (42, repeats)


def test_what_is_there_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = TrainingConfig(device="cpu", precision="fp32", threads=500)
    assert here(settings) == (settings, ())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_gpu = replace(settings, device="cuda", precision="fp16")
    assert here(on_gpu) == (on_gpu, ())


def test_what_is_not_there_is_changed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(machine, "has_matrix_units", lambda: False)
    monkeypatch.setattr(machine, "available_cores", lambda: 4)
    settings = TrainingConfig(device="cuda", precision="bf16", threads=2)
    moved, notes = here(settings)
    assert moved == replace(settings, device="cpu", precision="fp32")
    (note,) = notes
    assert note == "device: cpu, as there is no cuda here, precision fp32 in place of bf16; going on is not exact"
    moved, notes = here(replace(settings, device="mps", precision="fp32", threads=8))
    assert (moved.device, moved.precision, moved.threads) == ("cpu", "fp32", 4)
    assert "no mps here, threads 4 in place of 8;" in notes[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    moved, notes = here(replace(settings, device="mps", precision="fp32"))
    assert (moved.device, moved.precision) == ("cuda", "bf16")


# --- with a GPU


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_a_run_of_a_cpu_stays_on_it_and_is_exact(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, twin = trained / FOLDER, trained / "checkpoints" / "twin"
    shutil.copytree(folder, twin)
    with_gpu = resumed(folder, 60)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resumed(twin, 60) == with_gpu


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.usefixtures("gpu")
def test_what_a_cpu_has_learnt_is_gone_on_with_on_a_gpu(run: Run, precision: str) -> None:
    before = json.loads(run("eval", "verse", "verse.txt", "--json", "--device", "cpu").out)["loss"]
    as_of_a_gpu(FOLDER, precision)
    done = run("train", "--resume", "verse", "--steps", "120")
    assert done.code == 0, done.err
    assert "going on is not exact" not in done.err
    kept = checkpoint.read(FOLDER / runs.LAST_FILE)
    assert kept.metadata["resume"]["training"]["device"] == "cuda"
    assert bool(kept.metadata["resume"]["scaler"]) == (precision == "fp16")
    assert "random/cuda" in kept.tensors
    scores = [json.loads(run("eval", "verse", "verse.txt", "--json", "--device", where).out)["loss"] for where in ("cpu", "cuda")]
    assert scores[0] < before
    assert scores[1] == pytest.approx(scores[0], abs=1e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
@pytest.mark.usefixtures("gpu")
def test_a_run_of_a_gpu_goes_to_a_cpu_and_says_the_same(run: Run, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(
        "train", "verse.txt", "--name", "far", "--device", "cuda", "--precision", precision, "--steps", "40", "--hidden-size",
        "32", "--window", "16", "--eval-every", "20",
    )  # fmt: skip
    assert made.code == 0, made.err
    command = ("sample", "far", "--seed", "5", "--length", "100")
    with_gpu = run(*command)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    without = run(*command)
    assert (without.code, without.out) == (0, with_gpu.out)
    moved = run("train", "--resume", "far", "--steps", "60")
    assert moved.code == 0, moved.err
    assert "device: cpu, as there is no cuda here" in " ".join(moved.err.split())
