"""Numbers that are none: the step that has them changes nothing, they are counted, and none is ever saved."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from charrnn.errors import CharrnnError
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.training import job
from charrnn.training.events import Event, Finished, Step
from charrnn.training.learner import Learner
from charrnn.training.recipe import Bound
from tests.test_learner import advance, make

ODD = (float("nan"), float("inf"), -float("inf"))
PLACES = ("loss", "gradient", "weights")
DEVICES = pytest.mark.parametrize("asks", [True, False], ids=["asks", "does not ask"])  # the device, after each step


@contextmanager
def spoilt(learner: Learner, place: str, value: float) -> Iterator[None]:
    """Within, a number of the loss, of one gradient or of one weight is `value`."""
    weight = list(learner.network.parameters())[-1]
    kept = weight.detach().clone()
    if place == "loss":
        hook = learner.network.register_forward_hook(lambda net, given, result: (result[0] + value, result[1]))
    elif place == "gradient":
        hook = weight.register_hook(lambda gradient: gradient * value)
    else:
        hook = weight.register_hook(lambda gradient: gradient)
        weight.detach().view(-1)[0] = value
    try:
        yield
    finally:
        hook.remove()
        if place == "weights":
            weight.detach().copy_(kept)


def values(learner: Learner) -> dict[str, np.ndarray]:
    """All that a step changes, but for the random generator."""
    return {name: array.copy() for name, array in learner.tensors().items() if not name.startswith("random/")}


@DEVICES
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("place", ["loss", "gradient"])
@pytest.mark.parametrize("value", ODD)
def test_a_step_with_such_a_number_changes_nothing(value: float, place: str, optimizer: str, asks: bool) -> None:
    learner = make(optimizer=optimizer, reset=0.0)
    learner.asks = asks
    advance(learner, 5)
    before, cursor = values(learner), learner.cursor
    with spoilt(learner, place, value):
        learner.advance()
    after = values(learner)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert learner.cursor != cursor  # the window is passed over
    learner.advance()
    assert learner.take_means().skipped == 1
    assert not np.array_equal(values(learner)["current/output.weight"], before["current/output.weight"])


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_device_that_is_not_asked_learns_the_same(optimizer: str) -> None:
    """What a GPU does, on the CPU: the choice made by the device gives the bits that the choice made by us gives."""
    digests = set()
    for asks in (True, False):
        learner, choose = make(optimizer=optimizer, clip=0.1), random.Random(5)
        learner.asks = asks
        for _ in range(40):
            if choose.random() < 0.3:
                with spoilt(learner, choose.choice(PLACES[:2]), choose.choice(ODD)):
                    learner.advance()
            else:
                learner.advance()
        assert learner.take_means().skipped > 5
        digests.add(checkpoint.tensor_digest(learner.tensors()))
    assert len(digests) == 1


@DEVICES
@pytest.mark.parametrize("place", PLACES)
def test_ten_in_a_row_end_the_run(place: str, asks: bool) -> None:
    learner = make()
    learner.asks = asks
    advance(learner, 1)
    with spoilt(learner, place, float("nan")):
        advance(learner, 9).take_means()
    advance(learner, 1).take_means()
    with spoilt(learner, place, float("nan")), pytest.raises(CharrnnError, match="10 steps in a row were not finite"):
        advance(learner, 10).take_means()


def test_what_to_try_is_said() -> None:
    learner = make()
    with spoilt(learner, "loss", float("nan")), pytest.raises(CharrnnError) as told:
        advance(learner, 10)
    assert "--learning-rate" in told.value.hint
    assert "--clip" in told.value.hint
    assert "untouched" in told.value.message


@pytest.mark.parametrize("value", ODD)
def test_a_weight_or_a_moment_that_is_no_number_is_found_before_a_save(value: float) -> None:
    for spoil in (
        lambda learner: next(learner.network.parameters()),
        lambda learner: next(learner.average.parameters()),
        lambda learner: learner.optimizers[0].state[learner.optimizers[0].param_groups[0]["params"][0]]["exp_avg_sq"],
        lambda learner: learner.state[0],
    ):
        learner = make()
        learner.advance()
        spoil(learner).detach().view(-1)[0] = value
        with pytest.raises(CharrnnError, match="diverged at step 1"):
            learner.tensors()


def test_a_scaler_on_its_way_down_is_no_fault() -> None:
    """fp16 begins with a scale that is too high: its gradients overflow until the scale has been halved often
    enough. Here float32 does, at a scale that is higher still: a CPU has no LSTM in fp16."""
    learner = make()
    learner.asks = False
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    next(learner.network.parameters()).register_hook(lambda gradient: 1e6 * gradient)
    before = checkpoint.tensor_digest({name: array for name, array in learner.tensors().items() if "average" in name})
    advance(learner, 24)
    assert learner.scaler.get_scale() < 2.0**127
    assert learner.take_means().skipped == 0
    advance(learner, 30)
    assert checkpoint.tensor_digest({n: a for n, a in learner.tensors().items() if "average" in n}) != before  # it learns
    with spoilt(learner, "loss", float("nan")), pytest.raises(CharrnnError, match="10 steps in a row"):
        advance(learner, 10).take_means()


def test_a_scale_that_nothing_helps_is_a_fault() -> None:
    learner = make()
    learner.asks = False
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with spoilt(learner, "gradient", float("inf")), pytest.raises(CharrnnError, match="10 steps in a row"):
        advance(learner, 12).take_means()


def spoiling(choose: random.Random, share: float) -> Callable[[Learner], None]:
    """Learner.advance, a share of whose steps is spoilt somewhere."""
    sound = Learner.advance

    def spoil(learner: Learner) -> None:
        if choose.random() < share:
            with spoilt(learner, choose.choice(PLACES), choose.choice(ODD)):
                sound(learner)
        else:
            sound(learner)

    return spoil


def non_finite(path: Path) -> int:
    """How many numbers of a file are none."""
    return sum(int(np.count_nonzero(~np.isfinite(array))) for array in load_file(path).values() if array.dtype.kind == "f")


@pytest.mark.parametrize("seeds", [2, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_none_is_ever_on_disk(seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, sound = tmp_path / "verse.txt", Learner.advance
    text.write_text("the tide goes out and leaves the boats to think of what it said\n" * 30, encoding="utf-8")
    asked = {"hidden_size": 12, "embedding_size": 4, "window": 12, "batch_size": 4, "threads": 1, "eval_every": 6, "patience": 0}
    files = skipped = diverged = 0
    for seed in range(seeds):
        choose = random.Random(seed)
        monkeypatch.setattr(Learner, "advance", sound)
        monkeypatch.setattr(Learner, "advance", spoiling(choose, choose.choice([0.1, 0.3, 0.8])))
        events: list[Event] = []
        with contextlib.suppress(CharrnnError):
            events.extend(job.run([str(text)], asked=asked, root=tmp_path / "c", bound=Bound(steps=60)))
        diverged += not isinstance(events[-1], Finished)
        skipped += max((event.skipped for event in events if isinstance(event, Step)), default=0)
    for path in (tmp_path / "c").glob("*/*.safetensors"):
        assert non_finite(path) == 0
        checkpoint.read(path)
        files += 1
    assert files >= seeds
    assert skipped > 5 * seeds
    print(f"{seeds} runs, {skipped} steps skipped, {diverged} runs ended by them, {files} files, 0 values not finite")


def test_they_are_counted_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = tmp_path / "verse.txt"
    text.write_text("the tide goes out and leaves the boats to think of what it said\n" * 30, encoding="utf-8")
    monkeypatch.setattr(Learner, "advance", spoiling(random.Random(3), 0.3))
    asked = {"hidden_size": 12, "window": 12, "batch_size": 4, "threads": 1, "eval_every": 10}
    stopped = list(job.run([str(text)], asked=asked, root=tmp_path, bound=Bound(steps=30)))[-1]
    assert isinstance(stopped, Finished)
    log = [json.loads(line) for line in (stopped.folder / "metrics.jsonl").read_text().splitlines()]
    counted = [line["skipped"] for line in log if line["event"] == "step"]
    assert counted == sorted(counted)
    assert 3 < counted[-1] < 20
    assert checkpoint.read(stopped.folder / runs.LAST_FILE).metadata["resume"]["skips"] == counted[-1]
    list(job.resume(stopped.folder, bound=Bound(steps=31)))
    last = json.loads((stopped.folder / "metrics.jsonl").read_text().splitlines()[-2])
    assert (last["event"], last["step"]) == ("step", 31)
    assert last["skipped"] >= counted[-1]  # it goes on counting


def test_the_positive_control_is_seen(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"a": np.array([1, np.nan, np.inf], np.float32)}, tmp_path / "x.safetensors")
    assert non_finite(tmp_path / "x.safetensors") == 2


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("place", ["loss", "gradient"])
def test_a_gpu_leaves_such_a_step_out_by_itself(place: str, precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here")
    learner = make(device=torch.device("cuda"), precision=precision, reset=0.0)
    advance(learner, 40)  # by then a scaler has found its scale
    learner.take_means()
    before = values(learner)
    with spoilt(learner, place, float("nan")):
        learner.advance()
    after = values(learner)
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert advance(learner, 1).take_means().skipped >= 1
    with spoilt(learner, "loss", float("nan")), pytest.raises(CharrnnError, match="10 steps in a row"):
        advance(learner, 10).take_means()
