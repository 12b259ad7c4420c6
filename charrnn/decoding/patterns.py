"""Patterns of the package `regex` under a bound of time: some need longer than a life, and people type them by mistake."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from typing import Any

from charrnn.errors import CharrnnError, UsageError

SECONDS = 1.0  # of processor time, for all looks at one place of a text
_HARMLESS = re.compile(r"\\(?:[nrtbBAZ]|[^A-Za-z0-9])|\(\?[:=!>]|\(\?<[=!]")
_PLAIN_SET = re.compile(r"\[[^][^:\\][^][\\]*\]")
_BEYOND_ASCII = re.compile(r"[.\\]|\[\^|\[:|\(\?|\{[^0-9,]")  # any character, a class, the opposite of one, flags, near matches


class Pattern:
    """A pattern, the option it came by, and the time that it may still take."""

    def __init__(self, pattern: str, option: str) -> None:
        """Raises UsageError if it is none."""
        import regex  # 20 ms, and few need it

        self._option, self._text, self._seconds = option, pattern, SECONDS
        try:
            self._compiled = regex.compile(pattern)
        except (regex.error, RecursionError, OverflowError, ValueError) as error:
            hint = "Patterns are those of Python's `re` and of the package `regex`."
            raise UsageError(f"{option} {pattern[:200]!r} is no pattern: {error}.", hint) from error

    @functools.cached_property
    def ascii_alone(self) -> bool:
        """Whether no other character can stand in a match, as far as its spelling tells: it may say no where there is none."""
        return self._text.isascii() and not _BEYOND_ASCII.search(_PLAIN_SET.sub("", _HARMLESS.sub("", self._text)))

    def begin(self) -> None:
        """What follows is about another place of the text."""
        self._seconds = SECONDS

    def matches(self, text: str, *, partial: bool = False) -> bool:
        """Whether all of `text` matches or, if `partial`, some text that begins so; raises CharrnnError if that takes long."""
        return self._looked(text, lambda left: self._compiled.fullmatch(text, partial=partial, timeout=left)) is not None

    def search(self, text: str, position: int) -> Any:
        """The first match from `position` on, or what could become one; raises as `matches`."""
        return self._looked(text, lambda left: self._compiled.search(text, position, partial=True, timeout=left))

    def _looked(self, text: str, look: Callable[[float], Any]) -> Any:
        started = time.thread_time()
        try:
            return look(max(self._seconds, 1e-3))
        except TimeoutError as error:
            hint = "Write it without repetitions inside repetitions."
            message = f"{self._option} took more than {SECONDS:g} s on {len(text):,} characters."
            raise CharrnnError(message, hint) from error
        except MemoryError as error:
            raise CharrnnError(f"{self._option} calls itself without end.", "Write it without (?R).") from error
        finally:
            self._seconds -= time.thread_time() - started
