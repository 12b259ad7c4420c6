"""Many ranks: two are one, to rounding; what one wants all do; resumed is uninterrupted; a rank that dies ends the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CharrnnError, UsageError
from charrnn.launch import Launch, launch
from charrnn.runs import checkpoint
from charrnn.runs.checkpoint import tensor_digest
from charrnn.training import device as machine
from charrnn.training import evaluate, job, language, planning
from charrnn.training import together as together_on
from charrnn.training.distributed import ALONE, Ranks, joined
from charrnn.training.events import Evaluated
from charrnn.training.learner import Learner
from charrnn.training.loss import Loss
from charrnn.training.material import Material, read
from charrnn.training.planning import make
from charrnn.training.recipe import Bound
from tests.forked import command, running
from tests.ranks import environments, start, together
from tests.test_tasks import corpus

CPU = torch.device("cpu")
SMALL = {"hidden_size": 8, "embedding_size": 6, "threads": 1, "batch_size": 5, "window": 9, "reset": 0.2, "precision": "fp32"}
CALM = {"dropout_embedding": 0.0, "dropout_layers": 0.0, "dropout_output": 0.0}
KINDS = ("language", "classify", "conditional", "seq2seq", "rows")
CASES: list[tuple[str, dict[str, Any], int]] = [
    *((kind, {}, 2) for kind in KINDS),
    ("language", {}, 3),  # of 5 streams: shares of unequal size
    ("language", {"optimizer": "adamw", "cell": "gru"}, 2),
    ("language", {"layers": 2, "clip": 0.01, "embedding": "onehot"}, 3),
]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(machine, "available_cores", lambda: 1)  # a forked child can have no OpenMP threads
    torch.set_num_threads(1)


def text(folder: Path) -> Path:
    generator = np.random.default_rng(3)
    words = ["rain", "river", "lamp", "harbour", "bread", "moon", "slow", "bright"]
    path = folder / "words.txt"
    path.write_text(" ".join(generator.choice(words, 700)), encoding="utf-8")
    return path


def written(folder: Path, kind: str) -> tuple[str, dict[str, Any]]:
    """A text of a kind, and how it is to be read."""
    return (str(text(folder)), {"task": "language"}) if kind == "language" else corpus(folder, kind, 41)


def prepared(path: str, wishes: dict[str, Any]) -> tuple[Material, ModelConfig, TrainingConfig]:
    """A text, read, and what is to be learnt from it."""
    asked, kind = {**SMALL, **CALM, **wishes}, wishes["task"]
    if kind != "language":
        asked = {name: value for name, value in asked.items() if name not in ("window", "reset")}
    material, _ = read([path], asked, 0.1)
    plan = make(asked, material, CPU, Bound(steps=60), time.monotonic())
    return material, plan.model, plan.training


def in_float64(path: str, wishes: dict[str, Any], ranks: Ranks, steps: int = 50) -> dict[str, Any]:
    """All that so many steps leave, and the scores of what is held out, computed in float64."""
    torch.set_default_dtype(torch.float64)
    try:
        material, model, training = prepared(path, wishes)
        learner = Learner(model, training, material.data.train, CPU, ranks)
        for _ in range(steps):
            learner.advance()
        report = evaluate.scored(
            learner.task.hold(material.data, training), learner.average, material.tokenizer, "fp32", ranks=ranks
        )
        assert report is not None
        weights = {name: weight.detach().numpy() for name, weight in learner.network.named_parameters()}
        state = {f"state/{place}": ranks.whole(part, training.batch_size).numpy() for place, part in enumerate(learner.state)}
        means = learner.take_means()
        figures = np.array([means.loss, means.accuracy, means.gradient_norm, report.nats, report.correct])
        return {**weights, **state, "figures": figures, "text": np.frombuffer(json.dumps(_told(report)).encode(), np.uint8)}
    finally:
        torch.set_default_dtype(torch.float32)


def _told(report: evaluate.Report) -> dict[str, Any]:
    return {name: value for name, value in report.measures.items() if not isinstance(value, float)}


@pytest.mark.parametrize(("kind", "more", "count"), CASES)
def test_ranks_are_one_process(tmp_path: Path, kind: str, more: dict[str, Any], count: int) -> None:
    path, wishes = written(tmp_path, kind)
    wishes |= more
    alone = in_float64(path, wishes, ALONE)

    def work(rank: int) -> int:
        with joined() as ranks:
            assert (ranks.rank, ranks.count) == (rank, count)
            np.savez(f"{rank}.npz", **in_float64(path, wishes, ranks))
        return 0

    ended = together(count, work)
    assert [one.code for one in ended] == [0] * count, b"".join(one.err for one in ended).decode()
    for rank in range(count):
        found = np.load(f"{rank}.npz", allow_pickle=False)
        assert set(found) == set(alone)
        for name, array in alone.items():
            np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-9 * max(1.0, float(np.abs(array).max())), err_msg=name)


QUICK = ("--steps", "100000", "--hidden-size", "8", "--batch-size", "4", "--window", "8", "--threads", "1")
RESTLESS = {**SMALL, "layers": 2, "dropout_output": 0.3, "dropout_layers": 0.2, "dropout_embedding": 0.1, "eval_every": 7}


def trained(folder: Path, count: int, root: str, stop_at: int = 10**9, **how: Any) -> list[Any]:
    """A whole run of `count` ranks, of which the last asks to stop at a step; its notes go to stdout."""

    def work(rank: int) -> int:
        asked_to = {"stop": False}
        events = job.run(
            [str(folder / "words.txt")], asked=RESTLESS, name="x", root=Path(root), bound=Bound(steps=30),
            stop=lambda: asked_to["stop"],
        )  # fmt: skip
        if how.get("resume"):
            events = job.resume(Path(root) / "x")
        for event in events:
            print(type(event).__name__, getattr(event, "notes", ""), getattr(event, "reason", ""), flush=True)
            asked_to["stop"] |= rank == count - 1 and getattr(event, "step", 0) >= stop_at
        return 0

    ended = together(count, work)
    assert all(one.code == 0 for one in ended), ended
    return ended


def digests(root: str) -> list[str]:
    return [tensor_digest(checkpoint.read(Path(root) / "x" / name).tensors) for name in ("last.safetensors", "model.safetensors")]


def logged(root: str) -> list[dict[str, Any]]:
    lines = (Path(root) / "x" / "metrics.jsonl").read_text().splitlines()
    clock = {"seconds", "tokens_per_second", "eta_seconds", "memory_bytes"}
    return [{name: value for name, value in json.loads(line).items() if name not in clock} for line in lines]


def test_two_ranks_stop_together_and_go_on_exactly(tmp_path: Path) -> None:
    text(tmp_path)
    trained(tmp_path, 2, "straight")
    ended = trained(tmp_path, 2, "broken", stop_at=11)
    assert all(b"Finished  interrupted" in one.out for one in ended)
    assert checkpoint.read(Path("broken/x/last.safetensors")).metadata["resume"]["step"] < 30
    assert digests("broken") != digests("straight")
    trained(tmp_path, 2, "broken", resume=True)
    assert digests("broken") == digests("straight")
    assert logged("broken") == logged("straight")
    assert sorted(os.listdir("straight")) == ["x"]  # one run, whoever many ranks there are


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on_and_says_so(tmp_path: Path, before: int, after: int) -> None:
    text(tmp_path)
    trained(tmp_path, before, "broken", stop_at=11)
    ended = trained(tmp_path, after, "broken", resume=True)
    assert b"not the same to the bit" in ended[0].out
    saved = checkpoint.read(Path("broken/x/last.safetensors")).metadata["resume"]
    assert (saved["step"], saved["ranks"]) == (30, after)


def test_the_command_tells_once_and_repeats(tmp_path: Path) -> None:
    path = text(tmp_path)
    ended = together(2, lambda rank: command("train", str(path), *QUICK, "--steps", "12")())
    assert [one.code for one in ended] == [0, 0], ended
    assert b"torchrun --nproc-per-node 2 -m charrnn train" in ended[0].err
    assert (ended[1].out, ended[1].err) == (b"", b"")


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (["--batch-size", "1"], 2, b"2 ranks cannot share 1 streams"),
        (["--hidden-size", "0"], 2, b"hidden"),
        (["missing.txt"], 65, b"missing.txt"),
        (["-"], 2, b"standard input"),
        (["--resume", "nothing"], 65, b"nothing"),
    ],
)
def test_what_is_wrong_is_told_by_one(tmp_path: Path, more: list[str], code: int, words: bytes) -> None:
    text(tmp_path)
    first = [] if "--resume" in more else ["words.txt"]
    ended = together(2, lambda rank: command("train", *first, "--steps", "5", *more)())
    told = [one for one in ended if words in one.err]
    assert told
    assert told[0].code == code
    assert all(one.calm and one.code != 0 for one in ended), ended
    assert not any(Path("checkpoints").glob("*/*.safetensors"))


def test_one_rank_alone_tells_what_all_find(tmp_path: Path) -> None:
    text(tmp_path)
    few, lost = ["words.txt", "--batch-size", "1", "--steps", "5"], ["missing.txt", "--steps", "5"]
    for arguments in (few, lost, ["--resume", "nothing"]):
        ended = together(2, lambda rank, said=arguments: command("train", *said)())  # type: ignore[misc]
        assert [len(one.err) > 0 for one in ended] == [True, False], ended

    def diverges(rank: int) -> int:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Learner, "check_finite", lambda self: (_ for _ in ()).throw(self._diverged("weights")))
            return command("train", "words.txt", "--steps", "5", "--hidden-size", "8", "--batch-size", "4", "--window", "8")()

    ended = together(2, diverges)
    assert [one.code for one in ended] == [1, 1]
    assert [b"diverged" in one.err for one in ended] == [True, False], ended
    assert ended[1].err == b""


def test_a_lost_best_model_is_forgotten_by_all(tmp_path: Path) -> None:
    text(tmp_path)
    trained(tmp_path, 2, "broken", stop_at=11)
    last = checkpoint.read(Path("broken/x/last.safetensors"))
    last.metadata["resume"]["best"] |= {"loss": 0.001, "since": 0}
    checkpoint.write(Path("broken/x/last.safetensors"), last.metadata, last.tensors)
    Path("broken/x/model.safetensors").unlink()

    def work(rank: int) -> int:
        for event in job.resume(Path("broken/x")):
            if isinstance(event, Evaluated):  # the first alone tells of samples, too
                print(event.best)
        return 0

    ended = together(2, work)
    assert [b"True" in one.out for one in ended] == [True, True], ended
    assert ended[0].out == ended[1].out


def test_only_the_first_needs_the_folder_of_a_run_that_goes_on(tmp_path: Path) -> None:
    path = text(tmp_path)
    trained(tmp_path, 2, "checkpoints", stop_at=11)
    (tmp_path / "elsewhere").mkdir()

    def work(rank: int) -> int:
        os.chdir(tmp_path / "elsewhere" if rank else tmp_path)
        return command("train", "--resume", "x", str(path))()

    ended = together(2, work)
    assert [one.code for one in ended] == [0, 0], ended
    assert checkpoint.read(Path("checkpoints/x/last.safetensors")).metadata["resume"]["step"] == 30
    assert not any((tmp_path / "elsewhere").iterdir())


def test_devices_of_two_kinds_are_refused() -> None:
    def work(rank: int) -> int:
        with joined() as ranks:
            together_on.check_devices(ranks, CPU)
            try:
                together_on.check_devices(ranks, torch.device("cpu" if rank else "cuda"))
            except CharrnnError as error:
                print(f"{type(error).__name__} {error.message}")
        return 0

    one, other = together(2, work)
    assert one.out == b"Elsewhere \n"
    assert b"UsageError rank 0 learns on a device of the kind cuda, this one on cpu" in other.out


def test_a_folder_that_the_others_never_heard_of_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(self: Ranks, data: bytes = b"") -> bytes:
        assert Path("checkpoints/x").is_dir()
        raise CharrnnError("another rank is gone")

    monkeypatch.setattr(Ranks, "tell", gone)
    monkeypatch.setattr(Ranks, "agree", lambda self, numbers: [0.0] * len(numbers))
    with pytest.raises(CharrnnError, match="gone"):
        job._claimed(Ranks(0, 2, 0, 2), None, "x", Path("checkpoints"))
    assert not Path("checkpoints/x").exists()


def test_what_is_timed_is_the_share_of_one_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def seconds_per_step(model: ModelConfig, training: TrainingConfig, *_: Any, **__: Any) -> float:
        timed.append(training.batch_size)
        return 0.01

    monkeypatch.setattr(planning, "seconds_per_step", seconds_per_step)
    material, _ = read([str(text(tmp_path))], {}, 0.1)
    for ranks, share in ((1, 7), (2, 4), (3, 3)):
        plan = make({"batch_size": 7, "threads": 1}, material, CPU, Bound(minutes=1), time.monotonic(), ranks)
        assert plan.training.batch_size == 7
        assert set(timed) == {share}
        timed.clear()


def test_texts_that_differ_are_found(tmp_path: Path) -> None:
    def work(rank: int) -> int:
        path = Path(f"at-{rank}.txt")
        path.write_text(f"{rank} " + "so the rain comes down the lane\n" * 50)
        return command("train", str(path), "--steps", "5")()

    ended = together(2, work)
    assert ended[1].code == 65
    assert b"rank 1: the text" in ended[1].err
    assert ended[0].calm
    assert b"rank" not in ended[0].err


def test_a_rank_that_dies_ends_the_run_and_what_was_saved_is_whole(tmp_path: Path) -> None:
    path = text(tmp_path)
    first, second = start(2, lambda rank: command("train", str(path), *QUICK, "--eval-every", "20", "--name", "x")())
    with running(first), running(second):
        limit = time.monotonic() + 30
        while not Path("checkpoints/x/last.safetensors").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        second.kill(signal.SIGKILL)
        assert second.end().code == -signal.SIGKILL
        ended = first.end(30)
    assert ended.code == 1, ended
    assert b"another rank is gone" in ended.err
    assert b"--resume" in ended.err
    assert checkpoint.read(Path("checkpoints/x/last.safetensors")).metadata["resume"]["step"] >= 20


@pytest.mark.parametrize("who", [0, 1])
def test_ctrl_c_on_one_rank_ends_all(tmp_path: Path, who: int) -> None:
    path = text(tmp_path)
    children = start(2, lambda rank: command("train", str(path), *QUICK, "--eval-every", "20", "--name", "x")())
    with running(children[0]), running(children[1]):
        limit = time.monotonic() + 30
        while not Path("checkpoints/x/last.safetensors").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        for _ in range(3):  # the terminal sends one, and the launcher passes on another
            children[who].kill(signal.SIGINT)
        ended = [child.end(30) for child in children]
    assert [one.code for one in ended] == [130, 130], ended
    assert all(one.calm for one in ended)
    assert checkpoint.read(Path("checkpoints/x/last.safetensors")).metadata["resume"]["step"] >= 20


def test_torchrun_itself(tmp_path: Path) -> None:
    path = text(tmp_path)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "charrnn", "train", str(path)]
    done = subprocess.run(
        [*torchrun, "--steps", "6", "--hidden-size", "8", "--batch-size", "4", "--window", "8", "--name", "x"],
        capture_output=True, timeout=120, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert checkpoint.read(Path("checkpoints/x/last.safetensors")).metadata["resume"]["ranks"] == 2


def test_a_step_that_is_not_finite_on_one_rank_is_left_out_by_all(tmp_path: Path) -> None:
    path, wishes = written(tmp_path, "language")

    def work(ranks: Ranks) -> dict[str, Any]:
        material, model, training = prepared(path, wishes)
        learner, plain = Learner(model, training, material.data.train, CPU, ranks), language.loss

        def loss(*given: Any) -> Loss:
            cost = plain(*given)
            return replace(cost, nats=cost.nats * torch.nan) if ranks.rank == 1 and learner.step == 3 else cost

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(language, "loss", loss)
            digests = [_made(learner, steps) for steps in (3, 1, 2)]
        return {"digests": digests, "skipped": learner.take_means().skipped, "step": learner.step}

    one, other = spread(work)
    assert one == other
    before, left_out, after = one["digests"]
    assert before == left_out != after
    assert (one["skipped"], one["step"]) == (1, 6)


def _made(learner: Learner, steps: int) -> str:
    """What so many more steps make of the weights, and of what is remembered of them."""
    for _ in range(steps):
        learner.advance()
    return tensor_digest({name: array for name, array in learner.tensors().items() if not name.startswith("random/")})


def test_what_a_launcher_says() -> None:
    assert launch({}) == Launch() == launch({"RANK": "3"})  # without an address there is nobody to talk to
    assert launch(environments(3)[2]) == Launch(2, 3, 2, 3)
    for name, value in (("RANK", "3"), ("RANK", "x"), ("WORLD_SIZE", "0"), ("LOCAL_RANK", "-1")):
        with pytest.raises(UsageError):
            launch({**environments(3)[0], name: value})


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_shares_are_all_of_it_once(count: int) -> None:
    for width in range(12):
        shares = [Ranks(rank, count).share(width) for rank in range(count)]
        assert [place for share in shares for place in range(width)[share]] == list(range(width))
        assert max(map(_size, shares)) - min(map(_size, shares)) <= 1


def _size(share: slice) -> int:
    return int(share.stop - share.start)


def spread(work: Callable[[Ranks], dict[str, Any]], count: int = 2) -> list[dict[str, Any]]:
    """What `work` gives on each rank."""

    def inside(rank: int) -> int:
        with joined() as ranks:
            print(json.dumps(work(ranks)))
        return 0

    ended = together(count, inside)
    assert all(one.code == 0 for one in ended), ended
    return [json.loads(one.out) for one in ended]


def test_what_ranks_tell_each_other() -> None:
    def work(ranks: Ranks) -> dict[str, Any]:
        return {
            "told": ranks.tell(b"abc\0\xff" if ranks.first else b"").hex(),
            "any": [ranks.any(ranks.rank == 1), ranks.any(False)],
            "sum": ranks.agree([1.0, float(ranks.rank)]), "does": ranks.first_does(lambda: {"a": [1, "é"]}),
            "whole": ranks.whole(torch.tensor([[10.0 + ranks.rank]] * (1 + ranks.rank)), 3).tolist(),
        }  # fmt: skip

    one, other = spread(work)
    assert one == other
    assert one == {
        "told": "61626300ff", "any": [True, False], "sum": [2.0, 1.0], "does": {"a": [1, "é"]}, "whole": [[10.0], [11.0], [11.0]],
    }  # fmt: skip
