"""One thread beside the keyboard, for what takes a model: it does one thing at a time, and drops what has become stale."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Cancelled = Callable[[], bool]
Question = Callable[[str, Cancelled], "T"]
T = TypeVar("T")


class Aside:
    """Whoever asks takes a flag from `turn` at that moment; the next `turn` says that the answer is not wanted any more."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="aside")
        self._stale = threading.Event()

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
        answer, error = await loop.run_in_executor(self._executor, _tried, question, line, stale.is_set)
        return (None if stale.is_set() else answer), error

    def rest(self) -> None:
        """Cancel, and wait until the thread has noticed."""
        self.turn()
        self._executor.submit(lambda: None).result()


def _tried(question: Question[T], line: str, cancelled: Cancelled) -> tuple[T | None, BaseException | None]:
    """The answer or the error, which must not stay in a future that nobody waits for any more: it would be shown later."""
    try:
        return None if cancelled() else question(line, cancelled), None
    except Exception as error:  # noqa: BLE001  # whatever it is, the editor's thread raises it
        return None, error
