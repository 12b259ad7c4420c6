"""One writer of a run at a time, and readers that never see half a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import Run
from forked import Child, Ended, command, running

from charrnn import durable
from charrnn.cli import main, train  # noqa: F401 - loaded before children are forked
from charrnn.errors import LockedError
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.training.learner import Learner

RACERS = 8
RESUME = ("train", "--resume", "verse", "--steps", "41")
NEW = ("train", "verse.txt", "--steps", "2", "--hidden-size", "8", "--threads", "1", "--window", "16")


class Gate:
    """Opens when the parent, and every child that did not wait, has closed it or ended."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()

    def wait(self) -> None:
        os.close(self._writing)
        os.read(self._reading, 1)

    def open(self) -> None:
        os.close(self._writing)
        os.close(self._reading)


def racer(start: Gate, finish: Gate | None, *arguments: str) -> Callable[[], int]:
    """Work for a child: a command, whose first step waits for `finish`."""

    def work() -> int:
        advance = Learner.advance

        def held(learner: Learner) -> None:
            Learner.advance = advance  # type: ignore[method-assign]
            assert finish is not None
            finish.wait()
            advance(learner)

        if finish is not None:
            Learner.advance = held  # type: ignore[method-assign]
        start.wait()
        return command(*arguments)()

    return work


def race(*arguments: str, last: bool = True) -> dict[int, Ended]:
    """All start at once, and with `last` the winner learns when all others have ended; how they did, by process."""
    start, finish = Gate(), Gate() if last else None
    children = [Child(racer(start, finish, *arguments)) for _ in range(RACERS)]
    for gate in (start, finish):
        if gate is not None:
            gate.open()
    return {child.pid: child.end(60) for child in children}


@pytest.mark.parametrize("rounds", [2, pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_of_eight_that_go_on_one_wins_and_the_others_name_it(rounds: int, here: Path) -> None:
    run = here / "checkpoints" / "verse"
    saved = {path.name: path.read_bytes() for path in run.iterdir() if path.name != "lock"}
    for _ in range(rounds):
        ended = race(*RESUME)
        winners = [number for number, one in ended.items() if one.code == 0]
        assert len(winners) == 1, ended
        for number, one in ended.items():
            assert one.calm
            if number != winners[0]:
                assert one.code == LockedError.exit_code
                assert f"'checkpoints/verse' is in use by process {winners[0]}\n" in one.err.decode()
        metadata = checkpoint.read(run / runs.LAST_FILE).metadata
        assert metadata["resume"]["step"] == 41
        assert not [name for name in os.listdir(run) if name not in (*saved, "lock")]
        for name, data in saved.items():
            (run / name).write_bytes(data)


def test_of_eight_new_runs_each_has_a_folder_of_its_own(here: Path) -> None:
    assert [one.code for one in race(*NEW, last=False).values()] == [0] * RACERS
    names = {"verse", *(f"verse-{number}" for number in range(2, RACERS + 2))}
    assert set(os.listdir(here / "checkpoints")) == names
    for name in names:
        assert checkpoint.read(here / "checkpoints" / name / runs.LAST_FILE).metadata["name"] == name


def test_of_eight_new_runs_of_one_name_one_is_made(here: Path) -> None:
    ended = race(*NEW, "--name", "same")
    assert Counter(one.code for one in ended.values()) == {0: 1, 2: RACERS - 1}
    assert all("'same'" in one.err.decode() for one in ended.values() if one.code)


def test_the_lock_of_a_dead_holder_is_free_and_nobody_names_it(here: Path, run: Run) -> None:
    def held() -> int:
        with durable.locked(here / "checkpoints" / "verse" / "lock"):
            os.write(1, b"held")
            os.read(forever[0], 1)
        return 0

    forever = os.pipe()
    with running(Child(held)) as child:
        assert child.read()
        refused = run(*RESUME)
        assert refused.code == LockedError.exit_code
        assert f"process {child.pid}" in refused.err
        child.kill()
        child.end()
    assert run(*RESUME).code == 0


def test_readers_never_see_half_a_file(here: Path) -> None:
    """A writer that does nothing but save, beside a reader that does nothing but read."""
    folder = here / "checkpoints" / "verse"
    contents = [checkpoint.read(folder / name) for name in (runs.MODEL_FILE, runs.LAST_FILE)]

    def write() -> int:
        for number in range(10_000):
            for name, content in zip((runs.MODEL_FILE, runs.LAST_FILE), contents, strict=True):
                checkpoint.write(folder / name, {**content.metadata, "saved": number}, content.tensors)
        return 0

    seen = set()
    with running(Child(write)):
        for _ in range(300):
            runs.load(folder)
            seen.add(checkpoint.read(folder / runs.LAST_FILE).metadata["saved"])
    assert len(seen) > 10  # the file changed again and again


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the trained run, as the current one."""
    monkeypatch.chdir(trained)
    return trained
