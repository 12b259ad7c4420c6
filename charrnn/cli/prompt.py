"""The line editor: keys, history and completion. The only file that knows prompt_toolkit.

Knows nothing of sessions or models: what can be completed is asked of the caller. The terminal is put back as it was
whenever a line, Ctrl-C, Ctrl-D or an exception ends the editing.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import FrameType

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.shortcuts import CompleteStyle

from charrnn import durable
from charrnn.cli.main import Terminated
from charrnn.errors import CannotCreateError

PROMPT = "> "


class Prompt:
    """Reads one edited line after the other."""

    def __init__(self, complete: Callable[[str], Sequence[str]], wants_file: Callable[[str], str | None], *, erase: bool) -> None:
        """`complete` gives what the last word of a line may become; `wants_file` the file name being typed, or None.

        With `erase`, a line vanishes once it is entered: the caller writes it where it wants it.
        """
        self._session: PromptSession[str] = PromptSession(
            PROMPT,
            history=_history(),
            completer=_Completer(complete, wants_file),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,  # needs no room below the line
            enable_suspend=True,
            erase_when_done=erase,
        )

    def read(self) -> str:
        """The next line, without its end; raises EOFError at Ctrl-D on an empty line, KeyboardInterrupt at Ctrl-C."""
        before = signal.signal(signal.SIGTERM, self._terminate)
        try:
            return self._session.prompt()
        finally:
            signal.signal(signal.SIGTERM, before)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Let the editor end by itself: an exception in the midst of its drawing would leave the terminal as it was then."""
        app = self._session.app
        if not app.is_running or app.loop is None:
            raise Terminated
        app.loop.call_soon_threadsafe(self._leave)

    def _leave(self) -> None:
        with contextlib.suppress(Exception):
            self._session.app.exit(exception=Terminated())

    def dropped(self) -> str:
        """What stood in the line when Ctrl-C ended it."""
        return self._session.default_buffer.text


class _Completer(Completer):
    def __init__(self, complete: Callable[[str], Sequence[str]], wants_file: Callable[[str], str | None]) -> None:
        self._complete, self._wants_file = complete, wants_file
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The ways in which the last word before the cursor can end."""
        line = document.text_before_cursor
        file = self._wants_file(line)
        if file is not None:
            yield from self._paths.get_completions(Document(file), complete_event)
            return
        word = line.rpartition(" ")[2]
        for found in self._complete(line):
            yield Completion(found, start_position=-len(word))


class _History(FileHistory):
    """Lines of earlier days; a disk that is full or a folder that went away costs a line, not the session."""

    def store_string(self, string: str) -> None:
        """Append a line to the file."""
        with contextlib.suppress(OSError):
            super().store_string(string.encode("utf-8", "replace").decode("utf-8"))


def _history() -> History:
    path = None if os.environ.get("CHARRNN_NOHISTORY") else _history_file()
    return InMemoryHistory() if path is None else _History(str(path))


def _history_file() -> Path | None:
    """The file, made so that nobody else can read it; None where there can be none."""
    import platformdirs

    path = platformdirs.user_state_path("charrnn", appauthor=False) / "history"
    try:
        durable.make_folder(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        os.close(descriptor)
        path.chmod(0o600)
    except (OSError, CannotCreateError):
        return None
    return path
