"""The loop of a session at a terminal, or in a pipe: lines in, events out to the screen. Knows nothing of what a line means.

On a terminal lines are edited and the two voices are told apart by colour; otherwise it is a filter, a line in, text out,
that imports no line editor and writes no escape byte.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from charrnn.cli import console
from charrnn.cli.helper import SessionHelper
from charrnn.cli.lines import LineReader, line_reader, piped_lines
from charrnn.cli.screen import Screen

if TYPE_CHECKING:
    from charrnn.decoding.events import Output
    from charrnn.decoding.session import Session
    from charrnn.decoding.settings import Settings

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

    opening = _opening(session, first, later)
    if at_terminal():
        _converse(session, greeting, vi, opening)
    else:
        _filter(session, piped_lines(), opening)


def _opening(session: Session, first: str | None, later: Settings | None) -> Iterator[Output]:
    if first is not None:
        yield from session.begin(first)
    session.settings = later or session.settings


def _filter(session: Session, lines: Iterable[str], opening: Iterable[Output]) -> None:
    """Each line's text and its continuation (in a conversation, the reply) to stdout, everything else to stderr."""
    with console.Output() as out:
        screen = Screen(out, in_colour=False, repeat_lines=session.turns is None)
        screen.show(opening)
        out.flush()
        for line in lines:
            if not screen.show(session.feed(line)):
                return
            out.flush()
        screen.show(session.finish())


def _converse(session: Session, greeting: str, vi: bool, opening: Iterable[Output]) -> None:
    fancy = console.fancy(sys.stdout)
    with console.Output() as out:
        apart = session.turns is not None
        screen = Screen(out, in_colour=fancy, repeat_lines=fancy, apart=apart)
        helper = SessionHelper(session, erased=fancy)
        prompt = line_reader(session, helper, out, fancy, vi)
        out.write(greeting + "\n")
        with _ctrl_c_stops(session, prompt):
            going_on = _shown(screen, helper, opening)
            while going_on:
                try:
                    line = prompt.read()
                    if fancy and not helper.is_text(line):
                        screen.typed(line + "\n")
                    screen.repeat_lines = fancy or not (line and helper.is_text(line))  # what was typed may stand there still
                    going_on = _shown(screen, helper, session.feed(line))
                except KeyboardInterrupt:
                    _interrupted(session, prompt)
                except EOFError:
                    _shown(screen, helper, session.finish())
                    going_on = False


def _shown(screen: Screen, helper: SessionHelper, events: Iterable[Output]) -> bool:
    with console.unechoed():
        return helper.timed(lambda: screen.show(events))


def _interrupted(session: Session, prompt: LineReader) -> None:
    """Ctrl-C where nobody speaks: it drops what was being typed; if that is nothing, it says how to leave."""
    if session.block is not None:
        session.block = None
        console.note("The lines are dropped.")
    elif not prompt.dropped():
        console.note(HOW_TO_LEAVE)


@contextmanager
def _ctrl_c_stops(session: Session, reader: LineReader) -> Iterator[None]:
    """Ctrl-C stops the model; while a line is read it is an exception, as the line editor makes it one by itself."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        if reader.listening:
            raise KeyboardInterrupt
        session.cancel()

    before: Any = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
