"""The commands that write and read files. What a session did not write itself, it does not replace."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn import durable
from charrnn.decoding import memory
from charrnn.decoding.events import Notice, Output
from charrnn.decoding.moving import passage, where
from charrnn.errors import CannotCreateError

if TYPE_CHECKING:
    from charrnn.decoding.session import Session

MANY_LINES = 16  # of a loaded text, to see where one left it


def save(session: Session, argument: str) -> Iterator[Output]:
    """Write the whole tree to a file; another session's file may be replaced, any other may not."""
    path = _writable(argument, memory.is_session)
    learnt = session.adaptation.characters
    memory.write(path, session.kept(), session.settings, session.turns, learnt)
    session.exports.discard(path.resolve())
    yield Notice(f"Saved. `/load {argument}` goes on from here.")
    if learnt:
        yield Notice("What the model has learnt is not in it: /adapt save NAME keeps that, as a run.")


def load(session: Session, argument: str) -> Iterator[Output]:
    """Go on from a saved session, its settings included; the present one stays as it is if that fails."""
    trees, settings, adapted = memory.read(_path(argument), session.partner, session.turns)
    session.check(settings)
    session.settings = settings
    session.trees.clear()
    for tree in reversed(trees):
        session.replace(tree)
    by = f"Label {session.partner.label}. " if session.partner.label else ""
    yield Notice(f"Loaded. {by}{where(session)}.")
    if adapted:
        yield Notice(
            f"The model had learnt {adapted:,} characters then; that is not in the file. /adapt says what it has learnt now."
        )
    yield passage(session, MANY_LINES)


def export(session: Session, argument: str) -> Iterator[Output]:
    """Write the text, plain, to a file that does not exist yet or that this session wrote."""
    path, text = _writable(argument, lambda path: path.resolve() in session.exports), session.text
    durable.replace(path, (text if text.endswith("\n") else text + "\n").encode("utf-8"))
    session.exports.add(path.resolve())
    yield Notice(f"Written to {argument}.")


def _writable(argument: str, may_replace: Callable[[Path], bool]) -> Path:
    path = _path(argument)
    if os.path.exists(path) and not may_replace(path):
        raise CannotCreateError(f"{argument!r} exists already, and this session did not write it.", "Give another name.")
    return path


def _path(argument: str) -> Path:
    """The file that was typed; `~` is the home folder. Raises CannotCreateError if no file can have this name."""
    try:
        path = Path(argument).expanduser()
        path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a NUL, a loop of links, nobody's home
        raise CannotCreateError(f"{argument!r} is no name for a file: {error}.", "Give another name.") from error
    return path
