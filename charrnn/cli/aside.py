"""One thread beside the keyboard, for what takes a model: it does one thing at a time, and drops what has become stale.

The thread is there from the start and holds nobody up at the end: one that a signal interrupts while it is being started,
and that is waited for at the exit, would never let a program go whose terminal has gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Cancelled = Callable[[], bool]
Question = Callable[[str, Cancelled], "T"]
T = TypeVar("T")


class Aside:
    """Whoever asks takes a flag from `turn` at that moment; the next `turn` says that the answer is not wanted any more."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stale = threading.Event()
        threading.Thread(target=self._run, name="aside", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._work.get()()

    def turn(self) -> threading.Event:
        """Cancel whatever was asked for; returns the flag for what is asked next."""
        self._stale.set()
        self._stale = threading.Event()
        return self._stale

    async def ask(self, question: Question[T], line: str, stale: threading.Event) -> tuple[T | None, BaseException | None]:
        """The answer, None if it was cancelled; or why there is none."""
        if stale.is_set():
            return None, None
        loop = asyncio.get_running_loop()
        told: asyncio.Future[tuple[T | None, BaseException | None]] = loop.create_future()

        def work() -> None:
            found = _tried(question, line, stale.is_set)
            with contextlib.suppress(RuntimeError):  # the editor has left, and its loop is closed
                loop.call_soon_threadsafe(lambda: None if told.done() else told.set_result(found))

        self._work.put(work)
        answer, error = await told
        return (None if stale.is_set() else answer), error

    def rest(self) -> None:
        """Cancel, and wait until the thread has noticed."""
        self.turn()
        noticed = threading.Event()
        self._work.put(noticed.set)
        noticed.wait()


def _tried(question: Question[T], line: str, cancelled: Cancelled) -> tuple[T | None, BaseException | None]:
    """The answer or the error, which must not end the thread: the editor's raises it."""
    try:
        return None if cancelled() else question(line, cancelled), None
    except Exception as error:  # noqa: BLE001  # whatever it is, the editor's thread raises it
        return None, error
