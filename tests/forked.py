"""Work in a forked child: its own streams and limits, so that a crash, a kill or a hang there is a fact, not a failure.

The child begins with everything imported here, so a command in it takes milliseconds. It must be forked before any
library has threads of its own at work: torch with one thread, as in these tests.
"""

from __future__ import annotations

import contextlib
import os
import pty
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

STREAMS = (0, 1, 2)
FAILED = 99  # the exit code of a child whose work raised


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, or minus the signal that killed it; and what it wrote."""

    code: int
    out: bytes
    err: bytes

    @property
    def calm(self) -> bool:
        """Neither killed nor surprised."""
        return self.code >= 0 and self.code != FAILED and b"Traceback" not in self.err + self.out


class Child:
    """A child at work."""

    def __init__(
        self, work: Callable[[], int], *, stdin: bytes = b"", tty: bool = False, memory: int = 0, file_size: int = -1,
        closed: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        """Fork, and let the child do `work`, whose result is its exit code.

        With `tty` all three streams are one terminal; `closed` are streams that the child does not have. `memory` and
        `file_size` are limits in bytes.
        """
        inner, outer = _streams(stdin, tty)
        self.pid = os.fork()
        if self.pid == 0:
            _work(work, inner, outer, memory, file_size, closed)
        for descriptor in set(inner):
            os.close(descriptor)
        self._outer, self._gone = outer, list[int]()
        self._pieces = {descriptor: bytearray() for descriptor in outer}

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the child."""
        os.kill(self.pid, number)

    def read(self) -> bool:
        """Take in what one of the streams has; False where none has anything more."""
        ready, _, _ = select.select(self._outer, [], [], 30.0)
        return sum(map(self._read, ready)) > 0

    def hang_up(self) -> None:
        """Close our side: the reader of the pipes, or the terminal, goes away."""
        for descriptor in self._outer:
            os.close(descriptor)
        self._gone, self._outer = self._outer, []

    def end(self, seconds: float = 30.0) -> Ended:
        """Wait for the end, collecting what is written; a child that takes longer is killed (code -9)."""
        limit = time.monotonic() + seconds
        open_now = set(self._outer)
        while open_now:
            ready, _, _ = select.select(list(open_now), [], [], max(0.0, limit - time.monotonic()))
            if not ready:
                with contextlib.suppress(ProcessLookupError):
                    self.kill()
                limit = time.monotonic() + seconds
            for descriptor in ready:
                if not self._read(descriptor):
                    open_now.discard(descriptor)
        _, status = os.waitpid(self.pid, 0)
        for descriptor in self._outer:
            os.close(descriptor)
        out, *rest = (bytes(self._pieces[descriptor]) for descriptor in self._outer or self._gone)
        return Ended(os.waitstatus_to_exitcode(status), out, rest[0] if rest else b"")

    def _read(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # the other side of a terminal is gone
            return False
        self._pieces[descriptor] += data
        return bool(data)


def forked(work: Callable[[], int], *, seconds: float = 30.0, **how: object) -> Ended:
    """Do `work` in a child (see Child) and wait for its end."""
    return Child(work, **how).end(seconds)  # type: ignore[arg-type]


def command(*arguments: str) -> Callable[[], int]:
    """Work for a child: a command line, with the signal handlers of the real program."""

    def work() -> int:
        from charrnn.cli import main

        sys.argv[1:] = arguments
        try:
            main.main()
        except SystemExit as leaving:
            return int(leaving.code or 0)

    return work


def _streams(stdin: bytes, tty: bool) -> tuple[list[int], list[int]]:
    """The child's ends of its three streams, and ours: one of a terminal, or those of stdout and stderr."""
    if tty:
        ours, its = pty.openpty()
        return [its] * 3, [ours]
    source = os.memfd_create("stdin")
    os.write(source, stdin)
    os.lseek(source, 0, os.SEEK_SET)
    out, err = os.pipe(), os.pipe()
    return [source, out[1], err[1]], [out[0], err[0]]


def _work(
    work: Callable[[], int], inner: list[int], outer: list[int], memory: int, file_size: int, closed: tuple[int, ...]
) -> None:
    """The child's whole life."""
    os.setsid()
    for stream, descriptor in zip(STREAMS, inner, strict=True):
        os.dup2(descriptor, stream)
    for descriptor in {*inner, *outer} - set(STREAMS):
        os.close(descriptor)

    def limited() -> int:
        if memory:
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        if file_size >= 0:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
        return work()

    become(limited, closed)


def become(work: Callable[[], int], closed: tuple[int, ...] = ()) -> NoReturn:
    """In a child whose descriptors are in place: do `work` and be gone, whatever happens."""
    code = FAILED
    try:
        _reopen(closed)
        code = work()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:  # noqa: BLE001 - whatever it was, the parent is to see it
        with contextlib.suppress(BaseException):
            os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        os._exit(code)


def _reopen(closed: tuple[int, ...]) -> None:
    """Python's own streams on the new descriptors, as at a fresh start."""
    for stream, name in zip(STREAMS, ("stdin", "stdout", "stderr"), strict=True):
        if stream in closed:
            os.close(stream)
            setattr(sys, name, None)
        else:
            errors = "strict" if stream < 2 else "backslashreplace"
            buffering = 1 if os.isatty(stream) or stream == 2 else -1
            how = "r" if stream == 0 else "w"
            setattr(sys, name, open(stream, how, buffering, "utf-8", errors, closefd=False))  # noqa: SIM115


@contextlib.contextmanager
def running(child: Child) -> Iterator[Child]:
    """A child that does not outlive the block."""
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            if os.waitpid(child.pid, os.WNOHANG) == (0, 0):
                child.kill()
                os.waitpid(child.pid, 0)
