"""A save is all or nothing, whatever happens at whatever moment: faults, full disks, kills."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from faults import DIED, ERRORS, FAULTS, Faulty
from forked import Child, command, forked, running

from charrnn import durable
from charrnn.cli import main, train  # noqa: F401 - loaded before children are forked
from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CannotCreateError, CharrnnError, WriteError
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.runs.model import METRICS_FILE
from charrnn.text.tokenizers import CharTokenizer, code_points
from charrnn.training import job  # noqa: F401 - likewise
from charrnn.training import trainer as training
from charrnn.training.language import HeldText
from charrnn.training.learner import Learner

VERSE = "the tide goes out to talk it over with the sand\nand leaves the boats to think of what it said.\n" * 30
TINY = (
    "--hidden-size",
    "16",
    "--embedding-size",
    "8",
    "--window",
    "16",
    "--batch-size",
    "4",
    "--threads",
    "1",
    "--eval-every",
    "5",
)
FILES = (runs.MODEL_FILE, runs.LAST_FILE)


@dataclass(frozen=True)
class Saving:
    """A run with a save on disk, about to make the next one."""

    run: training.Run
    old: dict[str, bytes]
    log: bytes

    @property
    def folder(self) -> Path:
        return self.run.folder

    def restore(self) -> None:
        """Put the folder back to where it was before the save."""
        shutil.rmtree(self.folder)
        self.folder.mkdir()
        for name, data in self.old.items():
            (self.folder / name).write_bytes(data)
        (self.folder / METRICS_FILE).write_bytes(self.log)

    def files(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in FILES}


@pytest.fixture
def saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Saving:
    monkeypatch.setattr(training.time, "time", lambda: 1.7e9)  # the time of a save is part of its bytes,
    monkeypatch.setattr(training.Run, "seconds", lambda run: 1.0)  # and so is the length of the log
    torch.set_num_threads(1)
    tokenizer = CharTokenizer(torch.unique(torch.tensor(code_points(VERSE).tolist())).numpy().astype("uint32"))
    tokens = tokenizer.encode(VERSE)
    model = ModelConfig(vocab_size=tokenizer.vocab_size, embedding_size=8, hidden_size=16)
    learner = Learner(model, TrainingConfig(batch_size=4, window=16, steps=60, eval_every=5), tokens, torch.device("cpu"))
    folder = tmp_path / "run"
    folder.mkdir()
    about = {"name": "run", "start": [tokenizer.encode("\n")[0].item()], "provenance": {"settings": {}}}
    held = HeldText(tokens[:500], 500, 500, 0, "training")
    facts = {"sources": [], "digest": "", "reading": {}, "units": {}}
    run = training.Run(learner, tokenizer, held, folder, about, facts, time.monotonic())
    for event in run.events():
        if isinstance(event, training.Sampled):  # the first save is done
            break
    for _ in range(10):
        learner.advance()
    return Saving(run, {name: (folder / name).read_bytes() for name in FILES}, (folder / METRICS_FILE).read_bytes())


def save(saving: Saving, disk: Faulty) -> Callable[[], int]:
    """Work for a child: evaluate and save, on that disk."""

    def work() -> int:
        durable.disk = disk
        try:
            list(saving.run._evaluate())
        except WriteError as error:
            return error.exit_code
        return 0 if not disk.struck else DIED  # a fault that nobody noticed, as in removing what is not there

    return work


def check_saved(saving: Saving, new: dict[str, bytes]) -> dict[str, bytes]:
    """Each file is the old or the new one, whole; the log goes on where the last save says; nothing else stays."""
    found = saving.files()
    for name, data in found.items():
        assert data in (saving.old[name], new[name]), name
        checkpoint.decode(data, name)
    log = saving.folder / METRICS_FILE
    noted = checkpoint.decode(found[runs.LAST_FILE], "").metadata["resume"]["metrics_bytes"]
    assert log.read_bytes().startswith(saving.log)
    assert log.stat().st_size >= noted
    durable.cut_log(log, noted)
    assert [json.loads(line) for line in log.read_text().splitlines()]
    durable.sweep(saving.folder)
    assert sorted(os.listdir(saving.folder)) == sorted((*FILES, METRICS_FILE))
    return found


def reference(saving: Saving) -> dict[str, bytes]:
    """The files after a save without any fault."""
    assert forked(save(saving, Faulty())).code == 0
    new = saving.files()
    assert all(new[name] != saving.old[name] for name in FILES)
    return new


@pytest.mark.parametrize("fault", FAULTS)
def test_a_save_that_fails_at_any_operation_leaves_each_file_old_or_new(saving: Saving, fault: str) -> None:
    new, seen = reference(saving), set()
    for at in range(1, 1000):
        saving.restore()
        ended = forked(save(saving, Faulty(at, fault)))
        if ended.code == 0:
            break  # the save had fewer operations
        assert ended.code == DIED or (fault in ERRORS and ended.code == WriteError.exit_code), (at, ended)
        seen.add(tuple(data == new[name] for name, data in check_saved(saving, new).items()))
    assert at > 15
    assert {(False, False), (True, True)} <= seen <= {(False, False), (True, False), (True, True)}


def test_bytes_come_before_the_name_and_the_name_before_the_end(saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = Faulty()
    monkeypatch.setattr(durable, "disk", disk)
    list(saving.run._evaluate())
    for name in FILES:
        target = str(saving.folder / name)
        temporary = next(path for what, path in disk.calls if what == "create" and f".{name}." in path)
        written = max(place for place, call in enumerate(disk.calls) if call == ("write", temporary))
        synced, renamed = disk.calls.index(("sync", temporary)), disk.calls.index(("rename", target))
        assert written < synced < renamed < disk.calls.index(("sync folder", str(saving.folder)), renamed)
    logged = disk.calls.index(("sync", str(saving.folder / METRICS_FILE)))
    assert logged < disk.calls.index(("rename", str(saving.folder / runs.LAST_FILE)))


def test_a_disk_without_sync_would_be_caught(saving: Saving, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power cut is real: leave the syncs out, and a half file stands there."""
    monkeypatch.setattr(Faulty, "sync", lambda disk, descriptor: None)
    new = reference(saving)
    saving.restore()
    calls = 0
    while forked(save(saving, Faulty(calls := calls + 1, "power cut, renames kept"))).code == DIED:
        if saving.files()[runs.MODEL_FILE] not in (saving.old[runs.MODEL_FILE], new[runs.MODEL_FILE]):
            return
        saving.restore()
    pytest.fail("every file was whole")


def test_a_file_may_grow_only_so_far(saving: Saving) -> None:
    new = reference(saving)
    most = max(map(len, new.values()))
    for limit in (*range(0, most, most // 12), most - 1, most):
        saving.restore()
        ended = forked(save(saving, Faulty()), file_size=limit)
        assert ended.code == (0 if limit >= most else WriteError.exit_code), (limit, ended)
        check_saved(saving, new)


def started(folder: Path, *more: str) -> tuple[str, ...]:
    (folder / "verse.txt").write_text(VERSE, encoding="utf-8")
    return ("train", "verse.txt", *TINY, "--steps", "100000", "--patience", "0", *more)


def saved_step(folder: Path) -> int:
    """How far the last save is; it must be whole, and the best model beside it."""
    last = checkpoint.read(folder / runs.LAST_FILE)
    runs.load(folder / runs.MODEL_FILE)
    return int(last.metadata["resume"]["step"])


def kill_again_and_again(folder: Path, kills: int, choose: random.Random) -> Iterator[int]:
    """Train and kill, resume and kill, ...; the step of the last save after each."""
    run = folder / "checkpoints" / "verse"
    first = started(folder)
    for number in range(kills):
        with running(Child(command(*(("train", "--resume", "verse") if number else first)))) as child:
            if not number:
                await_file(run / runs.LAST_FILE)
            time.sleep(choose.uniform(0.0, 0.7))
            child.kill()
            ended = child.end()
        assert ended.code == -9, ended.err.decode()
        yield saved_step(run)


def await_file(path: Path) -> None:
    limit = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < limit, f"{path} did not come"
        time.sleep(0.01)


@pytest.mark.parametrize("kills", [6, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_kill_at_any_moment_loses_no_save(kills: int, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # `trained` has made torch load what it loads at the first step; children begin with that
    steps = list(kill_again_and_again(tmp_path, kills, random.Random(7)))
    assert steps == sorted(steps)  # never back behind what was saved
    assert steps[-1] > steps[0] > 0
    run = tmp_path / "checkpoints" / "verse"
    log = [json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines()]
    logged = [line["step"] for line in log if line["event"] == "step"]
    assert logged == sorted(set(logged))  # no step stands there twice, however often it was repeated
    print(f"{kills} kills, saves at steps {steps[0]} to {steps[-1]}, {len(set(steps))} different")


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes at `folder`; skips where this user may not mount one."""
    folder.mkdir()
    how = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(how, check=False, capture_output=True).returncode:
        pytest.skip("only who may mount can make a small disk; RLIMIT_FSIZE stands for it in the suite")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_is_full_costs_nothing_that_was_saved(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of every size from nothing to enough: train, then go on when there is room; `trained` has torch loaded."""
    monkeypatch.chdir(tmp_path)
    first = started(tmp_path, "--checkpoints", "disk/checkpoints")
    short = tuple("40" if word == "100000" else word for word in first)
    ends: Counter[int] = Counter()
    for size in (4096, *range(16_384, 300_000, 12_288)):
        folder = tmp_path / "disk"
        with small_disk(folder, size):
            ended = forked(command(*short))
            ends[ended.code] += 1
            assert ended.calm, ended.err
            assert ended.code in (0, WriteError.exit_code, CannotCreateError.exit_code), ended.err
            if ended.code:
                assert b"No space left on device" in ended.err
            run = folder / "checkpoints" / "verse"
            for name in FILES:
                if (run / name).exists():
                    checkpoint.read(run / name)
            if (run / runs.LAST_FILE).exists():
                subprocess.run(["mount", "-o", "remount,size=100M", str(folder)], check=True)
                again = forked(command("train", "--resume", "verse", "--checkpoints", "disk/checkpoints", "--steps", "45"))
                assert again.code == 0, again.err
                assert saved_step(run) == 45
            left = {path.name for path in run.iterdir()} if run.exists() else set()
            assert left <= {*FILES, METRICS_FILE, "lock", "ngrams.safetensors"}
        folder.rmdir()
    print(dict(ends))
    assert ends[0] > 2
    assert ends[WriteError.exit_code] > 2


def test_weights_that_could_not_be_read_again_do_not_take_the_place_of_others(saving: Saving) -> None:
    new = reference(saving)
    saving.restore()
    with torch.no_grad():
        for parameter in saving.run.learner.average.parameters():
            parameter[0] = 2 * runs.LARGEST_WEIGHT
    with pytest.raises(CharrnnError, match="diverged"):
        list(saving.run._evaluate())
    assert saving.files() == saving.old != new
