"""Where the lines of a session come from: a line editor, a terminal's own editing, or a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from charrnn.cli import console
from charrnn.cli.helper import SessionHelper
from charrnn.errors import CorpusError

if TYPE_CHECKING:
    from charrnn.decoding.session import Session

CTRL_C = ("Ctrl-C", "Stop the model; what it has said stays.")


def piped_lines() -> Iterator[str]:
    """The lines of stdin, as they come; bytes that are not UTF-8 become U+FFFD, a byte order mark is dropped."""
    if sys.stdin is None:  # closed
        return
    try:
        for number, line in enumerate(sys.stdin.buffer):
            text = line.decode("utf-8-sig" if number == 0 else "utf-8", "replace")
            yield text.removesuffix("\n").removesuffix("\r")
    except OSError as error:  # a folder, or a file that is open for writing only
        raise CorpusError(f"cannot read standard input: {error.strerror or error}.", "Give it lines of text.") from error


class LineReader(Protocol):
    """Whatever a person can type lines into."""

    def read(self) -> str:
        """The next line; raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""

    def dropped(self) -> str:
        """What stood in the line when Ctrl-C ended it."""

    @property
    def listening(self) -> bool:
        """Whether SIGINT has to end `read` from outside; an editor has the key for itself."""


def line_reader(session: Session, helper: SessionHelper, out: console.Output, fancy: bool, vi: bool) -> LineReader:
    """The line editor or, on a terminal that understands no escapes, the terminal's own editing."""
    if os.environ.get("TERM") in ("dumb", "unknown"):
        session.keys = (CTRL_C,)
        return PlainReader(helper, out)
    from charrnn.cli.prompt import KEYS, Prompt

    session.keys = (*KEYS, CTRL_C)
    return Prompt(helper, erase=fancy, coloured=fancy, vi=vi)


class PlainReader:
    """The terminal's own editing."""

    def __init__(self, helper: SessionHelper, out: console.Output) -> None:
        self._helper, self._out = helper, out
        self.listening = False

    def read(self) -> str:
        self._out.write(self._helper.prompt())
        self.listening = True
        try:
            line = sys.stdin.buffer.readline().decode("utf-8", "replace")
        except KeyboardInterrupt:
            self._out.write("\n")
            raise
        finally:
            self.listening = False
        if not line:
            self._out.write("\n")
            raise EOFError
        return line.removesuffix("\n")

    def dropped(self) -> str:
        return ""
