"""The loop of a session at a terminal, or in a pipe: lines in, events out to the screen. Knows nothing of what a line means.

On a terminal lines are edited and the two voices are told apart by colour; otherwise it is a filter, a line in, text out,
that imports no line editor and writes no escape byte.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

from charrnn.cli import console
from charrnn.cli.screen import Screen

if TYPE_CHECKING:
    from charrnn.decoding.events import Output
    from charrnn.decoding.session import Session
    from charrnn.decoding.settings import Settings

Begin = Callable[[Callable[[Iterable["Output"]], bool]], bool]
MOST_ABOVE = 20  # lines of a block that stay on the screen
HOW_TO_LEAVE = "Ctrl-D or /bye leaves."


def at_terminal() -> bool:
    """Whether a person types and reads."""
    return console.typing() and sys.stdout.isatty()


def run(
    session: Session, greeting: str, *, vi: bool = False, first: str | None = None, later: Settings | None = None
) -> None:  # fmt: skip
    """Hold a session until it ends: with a person, or with a pipe.

    `first` is what to say before any line is read; from then on the settings are `later`.
    """

    def begin(show: Callable[[Iterable[Output]], bool]) -> bool:
        going_on = first is None or show(session.begin(first))
        session.settings = later or session.settings
        return going_on

    if at_terminal():
        _converse(session, greeting, vi, begin)
    else:
        _filter(session, _lines(), begin)


def _lines() -> Iterator[str]:
    """The lines of stdin, as they come; bytes that are not UTF-8 become U+FFFD, a byte order mark is dropped."""
    if sys.stdin is None:  # closed
        return
    for number, line in enumerate(sys.stdin.buffer):
        text = line.decode("utf-8-sig" if number == 0 else "utf-8", "replace")
        yield text.removesuffix("\n").removesuffix("\r")


def _filter(session: Session, lines: Iterable[str], begin: Begin) -> None:
    """Each line's text and its continuation (in a conversation, the reply) to stdout, everything else to stderr."""
    with console.Output() as out:
        screen = Screen(out, in_colour=False, repeat_lines=session.turns is None)
        begin(screen.show)
        out.flush()
        for line in lines:
            if not screen.show(session.feed(line)):
                return
            out.flush()
        screen.show(session.finish())


def _converse(session: Session, greeting: str, vi: bool, begin: Begin) -> None:
    fancy = console.fancy(sys.stdout)
    with console.Output() as out:
        apart = session.turns is not None
        screen = Screen(out, in_colour=fancy, repeat_lines=fancy, apart=apart)
        helper = _Helper(session, erased=fancy)
        prompt = _line_reader(helper, out, fancy, vi)
        out.write(greeting + "\n")
        with _ctrl_c_stops(session, screen):
            going_on = begin(lambda events: _shown(screen, helper, events))
            while going_on:
                try:
                    line = prompt.read()
                    if fancy and not helper.is_text(line):
                        screen.typed(line + "\n")
                    going_on = _shown(screen, helper, session.feed(line))
                except KeyboardInterrupt:
                    _interrupted(session, prompt)
                except EOFError:
                    _shown(screen, helper, session.finish())
                    going_on = False


def _shown(screen: Screen, helper: _Helper, events: Iterable[Output]) -> bool:
    with console.unechoed():
        return helper.timed(lambda: screen.show(events))


def _interrupted(session: Session, prompt: LineReader) -> None:
    """Ctrl-C where nobody speaks: it drops what was being typed; if that is nothing, it says how to leave."""
    if session.block is not None:
        session.block = None
        console.note("The lines are dropped.")
    elif not prompt.dropped():
        console.note(HOW_TO_LEAVE)


class LineReader(Protocol):
    """Whatever a person can type lines into."""

    def read(self) -> str:
        """The next line; raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""

    def dropped(self) -> str:
        """What stood in the line when Ctrl-C ended it."""


def _line_reader(helper: _Helper, out: console.Output, fancy: bool, vi: bool) -> LineReader:
    """The line editor or, on a terminal that understands no escapes, the terminal's own editing."""
    if os.environ.get("TERM") in ("dumb", "unknown"):
        return _PlainReader(helper, out)
    from charrnn.cli.prompt import Prompt

    return Prompt(helper, erase=fancy, coloured=fancy, vi=vi)


class _PlainReader:
    def __init__(self, helper: _Helper, out: console.Output) -> None:
        self._helper, self._out = helper, out

    def read(self) -> str:
        self._out.write(self._helper.prompt())
        try:
            line = sys.stdin.buffer.readline().decode("utf-8", "replace")
        except KeyboardInterrupt:
            self._out.write("\n")
            raise
        if not line:
            self._out.write("\n")
            raise EOFError
        return line.removesuffix("\n")

    def dropped(self) -> str:
        return ""


class _Helper:
    """What the line editor wants to know of a session; see prompt.Helper."""

    def __init__(self, session: Session, *, erased: bool) -> None:
        self._session, self._erased = session, erased
        self._rate = 0.0  # tokens a second of the last answer

    def timed(self, show: Callable[[], bool]) -> bool:
        """Show an answer, and know how fast it came."""
        self._session.drawn = 0
        begun = time.perf_counter()
        going_on = show()
        if self._session.drawn:
            self._rate = self._session.drawn / (time.perf_counter() - begun)
        return going_on

    def complete(self, line: str) -> Sequence[str]:
        from charrnn.decoding.commands import complete

        return complete(line, tuple(self._session.tree.ends))

    def wants_file(self, line: str) -> str | None:
        from charrnn.decoding.commands import wants_file

        return wants_file(line)

    def is_text(self, line: str) -> bool:
        from charrnn.decoding.commands import is_command

        return self._session.block is not None or not is_command(line)

    def ghost(self, line: str, cancelled: Callable[[], bool]) -> str:
        return self._session.ghost(line, cancelled)

    def next_tokens(self, line: str, cancelled: Callable[[], bool]) -> Sequence[tuple[str, float]]:
        return self._session.next_tokens(line, cancelled)

    def offered(self) -> int:
        return len(self._session.offered)

    def prompt(self) -> str:
        """Of a block, the lines so far stand above the line, where the screen forgets a line that is entered."""
        block = self._session.block
        if block is None:
            return "> "
        lines = [console.visible(line) for line in block[-MOST_ABOVE:]] if self._erased else []
        return "".join(f". {line}\n" for line in lines) + ". "

    def bar(self) -> str:
        from charrnn.decoding.settings import shown

        session, tree = self._session, self._session.tree
        rate = [f"{self._rate:,.0f} tokens/s"] if self._rate else []
        where = f"{tree.branch}, node {tree.current} of {len(tree.nodes) - 1}"
        heat = ["heat"] if session.heating else []
        parts = [session.partner.name, f"temp {shown(session.settings, 'temp')}", *rate, where, *heat]
        return " | ".join(map(console.visible, parts))


@contextmanager
def _ctrl_c_stops(session: Session, screen: Screen) -> Iterator[None]:
    """Ctrl-C stops the model while it speaks; at other times it is an exception, as the line editor makes it one."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        if not screen.busy:
            raise KeyboardInterrupt
        session.cancel()

    before: Any = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
