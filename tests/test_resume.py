"""Stopped and gone on with is never stopped: same tensors, same log, same next words; however it was stopped, and wherever."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from forked import Child, command, running

import charrnn
from charrnn.cli import main, train  # noqa: F401 - loaded before children are forked
from charrnn.errors import UsageError
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.training import evaluate, job
from charrnn.training.events import Finished
from charrnn.training.learner import Learner
from charrnn.training.recipe import Bound

CLOCK = {"seconds", "tokens_per_second", "eta_seconds", "memory_bytes"}
SETTINGS = {
    "hidden_size": 24, "layers": 2, "embedding_size": 8, "window": 12, "batch_size": 4, "threads": 1, "eval_every": 5,
    "dropout_embedding": 0.1, "dropout_layers": 0.1, "dropout_output": 0.2, "reset": 0.1, "ema": 0.5, "patience": 1,
    "learning_rate": 0.1,
}  # fmt: skip
STEPS = 400  # more than it makes: it stops early
UNITS = {"char": {}, "byte": {}, "subword": {"vocab_size": 300}}
SOAK = [pytest.mark.slow, pytest.mark.timeout(3000)]


@dataclass(frozen=True)
class Outcome:
    """All that must be the same."""

    last: str
    model: str
    log: list[dict[str, Any]]
    words: str


def outcome(folder: Path) -> Outcome:
    """What a run has become: digests of all tensors, the log without the clock, a thousand tokens from its last weights."""
    last = checkpoint.read(folder / runs.LAST_FILE)
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shown = [{key: value for key, value in line.items() if key not in CLOCK} for line in log]
    words = charrnn.load(folder / runs.LAST_FILE).generate("", length=1000, seed=1)
    return Outcome(checkpoint.tensor_digest(last.tensors), runs.load(folder).digest, shown, words)


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    choose = random.Random(3)
    words = ["rain", "river", "lamp", "harbour", "bread", "moon", "and", "the", "of", "a", "slow", "bright", "over", "under"]
    lines = [" ".join(choose.choices(words, k=6)).capitalize() + "." for _ in range(120)]
    path = tmp_path / "words.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return path


def straight(text: Path, asked: dict[str, Any]) -> tuple[Outcome, int]:
    """A run that nothing stopped, and how many steps it made."""
    finished = list(job.run([str(text)], asked=asked, name="straight", bound=Bound(steps=STEPS)))[-1]
    assert isinstance(finished, Finished)
    assert finished.reason == "early stop"
    return outcome(finished.folder), finished.step


def flags(asked: dict[str, Any]) -> list[str]:
    return [word for name, value in asked.items() for word in (f"--{name.replace('_', '-')}", str(value))]


def stopped_at(step: int, text: Path, asked: dict[str, Any]) -> Path:
    """A run that was asked to stop after so many steps and gone on with."""
    made = 0
    advance = Learner.advance

    def counted(learner: Learner) -> None:
        nonlocal made
        advance(learner)
        made += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "advance", counted)
        events = job.run([str(text)], asked=asked, name=f"at-{step}", bound=Bound(steps=STEPS), stop=lambda: made >= step)
        stopped = list(events)[-1]
    assert isinstance(stopped, Finished)
    assert (stopped.reason, stopped.step) == ("interrupted", step)
    list(job.resume(stopped.folder))
    return stopped.folder


@pytest.mark.parametrize("stops", [2, pytest.param(20, marks=SOAK)])
@pytest.mark.parametrize("tokenizer", UNITS)
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_stopped_at_any_step(cell: str, tokenizer: str, stops: int, text: Path) -> None:
    asked = {**SETTINGS, "cell": cell, "tokenizer": tokenizer, **UNITS[tokenizer], "patience": 1 if stops < 10 else 3}
    expected, steps = straight(text, asked)
    assert steps > stops
    for step in random.Random(f"{cell} {tokenizer}").sample(range(1, steps), stops):
        assert outcome(stopped_at(step, text, asked)) == expected, step


def test_a_run_that_stopped_early_is_gone_on_with_only_when_that_is_asked(text: Path) -> None:
    _, steps = straight(text, SETTINGS)
    folder = Path("checkpoints") / "straight"
    with pytest.raises(UsageError, match=f"stopped early, at step {steps}") as told:
        list(job.resume(folder))
    assert f"--steps {STEPS}" in told.value.hint
    again = list(job.resume(folder, bound=Bound(steps=STEPS)))[-1]
    assert isinstance(again, Finished)
    assert again.step > steps


def test_an_evaluation_that_is_left_half_way_is_made_up_for(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _ = straight(text, SETTINGS)
    monkeypatch.setattr(evaluate, "SPAN", 5)  # steps at once: the evaluation takes many
    score, scored = evaluate._score, []

    def counted(*values: Any) -> Any:
        scored.append(values)
        return score(*values)

    monkeypatch.setattr(evaluate, "_score", counted)
    events = job.run([str(text)], asked=SETTINGS, name="half", bound=Bound(steps=STEPS), stop=lambda: len(scored) > 3)
    stopped = list(events)[-1]
    assert isinstance(stopped, Finished)
    assert (stopped.reason, stopped.step, len(scored)) == ("interrupted", SETTINGS["eval_every"], 4)
    assert checkpoint.read(stopped.folder / runs.LAST_FILE).metadata["resume"]["due"]
    assert b"evaluated" not in (stopped.folder / "metrics.jsonl").read_bytes()
    monkeypatch.undo()
    monkeypatch.chdir(text.parent)
    list(job.resume(stopped.folder))
    assert outcome(stopped.folder) == expected


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=SOAK)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_by_a_signal_at_any_moment(number: int, times: int, text: Path) -> None:
    asked, choose = SETTINGS, random.Random(number)
    expected, steps = straight(text, asked)
    begin = ["train", text.name, "--steps", str(STEPS), *flags(asked)]
    for place in range(times):
        name = f"run-{place}"
        stops = stop_and_go_on([*begin, "--name", name], name, number, steps, choose)
        assert outcome(Path("checkpoints") / name) == expected, stops


def stop_and_go_on(begin: list[str], name: str, number: int, steps: int, choose: random.Random) -> list[int]:
    """Send the signal three times on the way, at moments that chance names; the exit codes on the way."""
    codes, last = [], Path("checkpoints") / name / runs.LAST_FILE
    for turn in range(4):
        with running(Child(command(*(["train", "--resume", name] if turn else begin)))) as child:
            while not last.exists():
                assert child.read(), child.end()
            if turn < 3:
                time.sleep(choose.uniform(0.0, 0.25))
                os.kill(child.pid, number)
            codes.append(child.end(60).code)
        if codes[-1] in (0, UsageError.exit_code):  # done, or had been before the last signal came
            break
    assert checkpoint.read(last).metadata["resume"]["step"] == steps, codes
    assert set(codes) <= {0, UsageError.exit_code, -number, 128 + number}  # -15 where the program was not yet, or no more, there
    return codes
