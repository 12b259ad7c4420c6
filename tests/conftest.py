"""Shared by all tests: one thread, no clocks in hypothesis, no user settings, and a small trained run."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import toy
from commands import Run, runner
from hypothesis import settings
from terminal import Terminal, environment

from charrnn.decoding import kernel
from charrnn.decoding.kernel import Library
from charrnn.runs import model as models

os.environ["CHARRNN_KERNEL"] = "off"  # what the compiled kernel does is tested beside what it stands in for
settings.register_profile("charrnn", deadline=None)
settings.load_profile("charrnn")

VERSE = """The harbour holds the evening in its hand,
and one by one the lamps come up like bread;
the tide goes out to talk it over with the sand
and leaves the boats to think of what it said.

"""


@pytest.fixture(autouse=True)
def _own_world(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's CHARRNN_* settings, writes to their cache or reads their history."""
    for name in [name for name in os.environ if name.startswith("CHARRNN_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.getbasetemp() / "home"
    monkeypatch.setenv("CHARRNN_CACHE", str(home / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(home / "state"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CHARRNN_KERNEL", "off")


@pytest.fixture(autouse=True)
def _normal_denormals() -> Iterator[None]:
    """Training flushes denormal numbers in the whole process; hypothesis's floats need them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The compiled kernel, made once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CHARRNN_KERNEL")
        patch.setenv("CHARRNN_CACHE", str(tmp_path_factory.mktemp("compiled")))
        made = kernel.make()
    if not kernel._compiler() or sys.maxsize < 2**32:
        pytest.skip("no C compiler for 64 bits here; NumPy does all the work")
    assert made is not None
    return made


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from charrnn.training import job
    from charrnn.training.recipe import Bound

    folder = tmp_path_factory.mktemp("trained")
    os.environ["CHARRNN_CACHE"] = str(folder / "cache")
    (folder / "verse.txt").write_text(VERSE * 20, encoding="utf-8")
    asked = {"hidden_size": 32, "embedding_size": 8, "threads": 1, "window": 16, "eval_every": 20}
    list(job.run([str(folder / "verse.txt")], asked=asked, root=folder / "checkpoints", bound=Bound(steps=40)))
    return folder


@pytest.fixture
def trained(_trained: Path, tmp_path: Path) -> Path:
    """A folder with verse.txt and checkpoints/verse, a small model trained on it; a copy that a test may spoil."""
    folder = tmp_path / "trained"
    shutil.copytree(_trained, folder)
    return folder


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command line in this process, in the folder of the trained run."""
    monkeypatch.chdir(trained)
    return runner(capsysbinary)


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with one run, the toy model."""
    partner, units = toy.partner(), toy.tokenizer()
    about = {"name": "toy", "start": list(partner.start), "provenance": {}}
    folder = tmp_path / "checkpoints" / "toy"
    folder.mkdir(parents=True)
    models.save(folder / models.MODEL_FILE, toy.config(units), units, toy.weights(units), about)
    return tmp_path


@pytest.fixture
def terminal(world: Path) -> Iterator[Callable[..., Terminal]]:
    """Opens `charrnn repl` with the toy model (or the `command` given) in a terminal; variables as keywords."""
    opened: list[Terminal] = []

    def open_terminal(*options: str, command: tuple[str, ...] = (), code: str = "", **env: str) -> Terminal:
        started = command or ("repl", "toy", "--seed", "7", "--length", "30", "--finish", "off")
        opened.append(Terminal(world, [*started, *options], environment(world, **env), code=code))
        return opened[-1]

    yield open_terminal
    for one in opened:
        one.child.close(force=True)
