"""A signal in any phase: what was learnt is saved, the exit code tells, the terminal is as it was, nothing is printed twice."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import Run, environment
from forked import Child, Ended, command, forked
from terminal import Terminal

from charrnn.cli import chat, main, repl, sample, train, writing  # noqa: F401 - loaded before children are forked
from charrnn.decoding import generate
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.text import corpus, tokenizers
from charrnn.training import evaluate, job  # noqa: F401 - likewise
from charrnn.training.learner import Learner

TINY = ("--hidden-size", "16", "--embedding-size", "8", "--window", "16", "--threads", "1", "--eval-every", "5")
TRAIN = ("train", "verse.txt", "--name", "long", "--steps", "100000", *TINY)
UNRESTORED = 98  # the exit code of a child whose terminal is not as it was
BEFORE = {"reading": (corpus, "survey"), "vocabulary": (tokenizers, "build"), "tokenizing": (corpus, "tokenize")}
WITHIN = {"step": (Learner, "advance"), "evaluation": (evaluate, "_run"), "save": (checkpoint, "write")}
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


def signalled(owner: Any, name: str, *numbers: int, at: int = 1) -> None:
    """From here on, the call number `at` of a function begins with these signals to this process."""
    before, calls = getattr(owner, name), iter(range(1, 10**9))

    def with_signals(*values: Any, **options: Any) -> Any:
        if next(calls) == at:
            for number in numbers:
                signal.raise_signal(number)
        return before(*values, **options)

    setattr(owner, name, with_signals)


def interrupted(arguments: tuple[str, ...], owner: Any, name: str, *numbers: int, at: int = 1) -> Callable[[], int]:
    """Work for a child at a terminal: a command that is sent signals in that phase."""

    def work() -> int:
        signalled(owner, name, *numbers, at=at)
        before = termios.tcgetattr(0)
        code = command(*arguments)()
        return code if termios.tcgetattr(0) == before else UNRESTORED

    return work


def check_ended(ended: Ended, number: int) -> str:
    """It ended as by that signal, calmly, the cursor shown; returns what stood on the terminal."""
    text = ended.out.decode()
    assert ended.code == 128 + number, text
    assert ended.calm, text
    assert ended.out.rfind(b"\x1b[?25h") >= ended.out.rfind(b"\x1b[?25l")
    return text


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", BEFORE)
def test_before_anything_is_learnt_a_signal_leaves_nothing(phase: str, number: int, trained: Path, here: None) -> None:
    check_ended(forked(interrupted(TRAIN, *BEFORE[phase], number), tty=True), number)
    assert os.listdir(trained / "checkpoints") == ["verse"]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("phase", WITHIN)
def test_once_it_learns_a_signal_saves_and_resume_goes_on(phase: str, number: int, trained: Path, here: None) -> None:
    at = {"step": 8, "evaluation": 2, "save": 5}[phase]  # the first writes are of the index and of the first evaluation
    text = check_ended(forked(interrupted(TRAIN, *WITHIN[phase], number, at=at), tty=True), number)
    step = int(checkpoint.read(trained / "checkpoints" / "long" / runs.LAST_FILE).metadata["resume"]["step"])
    assert step == {"step": 8, "evaluation": 10, "save": 10}[phase]
    assert f"interrupted at step {step}, saved; go on with `charrnn train --resume long`" in re.sub(r"\s+", " ", text)
    ended = forked(interrupted(("train", "--resume", "long"), Learner, "advance", signal.SIGINT, at=3), tty=True)
    assert f"from step {step}" in check_ended(ended, signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_leaves_at_once(number: int, trained: Path, here: None) -> None:
    text = check_ended(forked(interrupted(TRAIN, Learner, "advance", signal.SIGINT, number, at=8), tty=True), number)
    assert "interrupted at step" not in text
    last = checkpoint.read(trained / "checkpoints" / "long" / runs.LAST_FILE)
    assert last.metadata["resume"]["step"] == 5  # what was saved before


def test_a_terminal_that_goes_away_after_a_signal_hastens_nothing(trained: Path, here: None) -> None:
    work = interrupted(TRAIN, Learner, "advance", signal.SIGTERM, signal.SIGHUP, at=8)  # a system that shuts down
    assert "interrupted at step 8" in check_ended(forked(work, tty=True), signal.SIGTERM)


def test_signals_that_the_caller_ignores_stay_ignored(trained: Path, here: None) -> None:
    """As nohup sets SIGHUP, and a shell SIGINT for what it runs in the background."""

    def work() -> int:
        for number in (signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        signalled(Learner, "advance", signal.SIGHUP, signal.SIGINT, at=8)
        return command("train", "verse.txt", "--name", "long", "--steps", "12", *TINY)()

    ended = forked(work)
    assert ended.code == 0, ended.err
    assert b"done after 12 steps" in ended.err


@pytest.mark.parametrize("number", SIGNALS)
def test_a_sample_ends_with_a_whole_line(number: int, here: None) -> None:
    for owner, name in ((generate, "stream"), (runs, "load")):
        ended = forked(interrupted(("sample", "verse", "--length", "inf"), owner, name, number), tty=True)
        text = check_ended(ended, number)
        assert not text or text.endswith("\n")


IMPORTS = """
import os, signal, sys
class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            signal.raise_signal({number})
sys.meta_path.insert(0, Hook())
sys.argv = ["charrnn", *{arguments!r}]
from charrnn.cli import main
main.main()
"""


@pytest.mark.parametrize(
    ("module", "arguments", "number"),
    [
        ("numpy._core.multiarray", ("sample", "verse"), signal.SIGINT),
        ("numpy._core.multiarray", ("sample", "verse"), signal.SIGTERM),
        ("torch._C", ("train", "verse.txt"), signal.SIGINT),
    ],
)
def test_a_signal_during_an_import_ends_the_program_after_it(
    module: str, arguments: tuple[str, ...], number: int, trained: Path
) -> None:
    code = IMPORTS.format(module=module, number=int(number), arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], cwd=trained, env=environment(), capture_output=True, check=False)
    assert done.returncode == 128 + number  # when the import is over: the first words may be out by then
    assert not re.search(b"Traceback|ignored|terminate called", done.stderr), done.stderr


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_comes_in_a_callback_is_not_lost(number: int, trained: Path, here: None) -> None:
    """Python drops what a callback raises; in an import there are many."""

    class Signalling:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def work() -> int:
        survey = corpus.survey

        def dropping(*values: Any) -> Any:
            Signalling()
            time.sleep(5)  # until the signal comes again
            return survey(*values)

        corpus.survey = dropping
        return command(*TRAIN)()

    ended = forked(work)
    assert (ended.code, ended.err) == (128 + number, b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_editor_of_a_session_gives_the_terminal_back(number: int, terminal: Callable[..., Terminal]) -> None:
    one = terminal()
    one.prompted()
    one.types("the t")
    one.child.kill(number)
    one.leaves(128 + number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_a_session_that_speaks_gives_the_terminal_back(number: int, terminal: Callable[..., Terminal]) -> None:
    one = terminal("--length", "100000")
    one.enter("the")
    one.until(lambda: len(one.raw) > 3000)
    one.child.kill(number)
    one.leaves(128 + number)


@pytest.mark.parametrize("speaking", [False, True])
def test_a_session_whose_window_is_closed_ends(speaking: bool, terminal: Callable[..., Terminal]) -> None:
    one = terminal("--length", "100000")
    one.prompted()
    if speaking:
        one.enter("the")
        one.until(lambda: len(one.raw) > 3000)
    one.child.ptyproc.fileobj.close()
    one.child.wait()
    assert one.child.exitstatus == 128 + signal.SIGHUP


def test_a_training_whose_window_is_closed_is_saved(trained: Path, here: None) -> None:
    def work() -> int:
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # now it is the terminal of this session, and its end a SIGHUP
        return command(*TRAIN)()

    last = trained / "checkpoints" / "long" / runs.LAST_FILE
    child = Child(work, tty=True)
    while not last.exists():
        assert child.read(), child.end()
    before = last.stat().st_mtime_ns  # a hang-up that comes right behind this save stops at the same step, and saves again
    child.hang_up()
    assert child.end().code == 128 + signal.SIGHUP
    assert last.stat().st_mtime_ns > before
    assert checkpoint.read(last).metadata["resume"]["step"] >= 5


def test_a_training_that_nobody_reads_is_saved(trained: Path, here: None) -> None:
    """`charrnn train FILE 2>&1 | head -1`"""
    child = Child(command(*TRAIN))
    assert child.read()
    child.hang_up()
    assert child.end().code == main.BROKEN_PIPE
    assert (trained / "checkpoints" / "long" / runs.LAST_FILE).exists()


def test_a_second_hang_up_does_not_keep_a_session_alive(terminal: Callable[..., Terminal]) -> None:
    """A shell and its terminal both send one; here the second comes when the first is being served."""
    twice = "import signal\nfrom charrnn.cli.aside import Aside\nrest = Aside.rest\n"
    one = terminal(code=twice + "Aside.rest = lambda self: (signal.raise_signal(signal.SIGHUP), rest(self))")
    one.prompted()
    one.child.kill(signal.SIGHUP)
    one.leaves(128 + signal.SIGHUP)


def test_who_is_in_the_background_leaves_the_terminal_alone(trained: Path, here: None) -> None:
    """After `&` a touch of the terminal would stop the process, silently and for ever."""

    def work() -> int:
        os.close(os.open(os.ttyname(0), os.O_RDWR))  # the terminal of this session, whose foreground the parent is
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)
            signal.signal(signal.SIGTTOU, signal.SIG_DFL)
            os._exit(command("train", "verse.txt", "--name", "long", "--steps", "12", *TINY)())
        _, status = os.waitpid(pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.kill(pid, signal.SIGKILL)
            return 99
        return os.waitstatus_to_exitcode(status)

    ended = forked(work, tty=True)
    assert ended.code == 0, ended.out
    assert b"done after 12 steps" in ended.out
    assert b"\x1b[?25l" not in ended.out  # nor is a panel drawn over what is typed there


def test_who_is_suspended_leaves_the_terminal_as_it_was(trained: Path, here: None) -> None:
    def work() -> int:
        os.close(os.open(os.ttyname(0), os.O_RDWR))
        before = termios.tcgetattr(0)
        pid = os.fork()
        if pid == 0:
            signalled(Learner, "advance", signal.SIGTSTP, at=8)
            os._exit(command("train", "verse.txt", "--name", "long", "--steps", "12", *TINY)())
        _, status = os.waitpid(pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status) or termios.tcgetattr(0) != before:
            os.kill(pid, signal.SIGKILL)
            return 97
        os.write(1, b"STOPPED")
        os.kill(pid, signal.SIGCONT)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status) if termios.tcgetattr(0) == before else 96

    ended = forked(work, tty=True)
    assert ended.code == 0, ended.out
    stopped = ended.out.index(b"STOPPED")
    assert ended.out.rindex(b"\x1b[?25h", 0, stopped) > ended.out.rindex(b"\x1b[?25l", 0, stopped)
    assert b"done after 12 steps" in ended.out[stopped:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_signals_at_any_moment_of_a_real_process(trained: Path, run: Run) -> None:
    choose, phases = random.Random(11), {"saved": 0, "not begun": 0}
    for _ in range(60):
        number = choose.choice([signal.SIGINT, signal.SIGTERM])
        program = [sys.executable, "-m", "charrnn", *TRAIN[:2], *TRAIN[4:]]
        with subprocess.Popen(program, cwd=trained, env=environment(), stderr=subprocess.PIPE) as child:
            while not handles(child.pid, signal.SIGTERM):
                time.sleep(0.001)
            time.sleep(choose.uniform(0.0, 4.0))
            child.send_signal(number)
            _, text = child.communicate(timeout=30)
        assert child.returncode in (128 + number, -number), text  # the shell calls both 130
        assert b"Traceback" not in text, text
        assert b"Exception ignored" not in text, text
        phases["saved" if b"interrupted at step" in text else "not begun"] += 1
    print(phases)
    for folder in (trained / "checkpoints").iterdir():
        checkpoint.read(folder / runs.LAST_FILE)


def handles(process: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    mask = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text())
    return mask is not None and bool(int(mask[1], 16) >> (number - 1) & 1)


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the folder of the trained run."""
    monkeypatch.chdir(trained)
