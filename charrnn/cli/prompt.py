"""The line editor: keys, history, completion, ghost text, the bar. The only file that knows prompt_toolkit.

Knows nothing of sessions or models: what can follow is asked of a Helper. What takes a model is asked in a thread of its
own and cancelled by the next key, so that no key ever waits. The terminal is put back as it was whenever a line, Ctrl-C,
Ctrl-D or an exception ends the editing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.application import get_app, run_in_terminal
from prompt_toolkit.auto_suggest import Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import Condition, emacs_mode, has_focus, has_selection
from prompt_toolkit.formatted_text import StyleAndTextTuples
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.layout.processors import Processor, Transformation, TransformationInput
from prompt_toolkit.shortcuts import CompleteStyle
from prompt_toolkit.styles import Style
from prompt_toolkit.utils import get_cwidth

from charrnn import durable
from charrnn.cli import console
from charrnn.cli.aside import Aside, Cancelled, Question, T
from charrnn.cli.main import ENDING, Terminated, handle
from charrnn.errors import CannotCreateError

COLOURS = Style.from_dict({"auto-suggestion": "fg:ansibrightblack", "bottom-toolbar": "noreverse fg:ansibrightblack"})
PLAIN = Style.from_dict({"bottom-toolbar": "noreverse"})
KEYS = (  # for /help
    ("Right, Ctrl-E", "Take the ghost text; Alt-F or Ctrl-Right takes a word of it."),
    ("Tab", "The likeliest next tokens; a digit takes one."),
    ("Ctrl-G", "Edit the line in $EDITOR; Alt-Enter puts a line end into it."),
)
WORD = re.compile(r"\s*\S+\s*")  # with what stands around it, so that the next one can follow


class Helper(Protocol):
    """What the editor asks while a line is typed. `ghost` and `next_tokens` are asked in another thread, one at a time."""

    def complete(self, line: str) -> Sequence[str]:
        """What the last word of a line may become."""

    def wants_file(self, line: str) -> str | None:
        """The file name that is being typed, or None."""

    def is_text(self, line: str) -> bool:
        """Whether a line is text, which a model can go on with."""

    def ghost(self, line: str, cancelled: Cancelled) -> str:
        """How the line may go on."""

    def next_tokens(self, line: str, cancelled: Cancelled) -> Sequence[tuple[str, float]]:
        """The likeliest next pieces of the line, with their probabilities."""

    def offered(self) -> int:
        """How many alternatives there are, of which a digit takes one."""

    def prompt(self) -> str:
        """What stands before the line."""

    def bar(self) -> str:
        """What stands below it."""


class Prompt:
    """Reads one edited line after the other."""

    def __init__(self, helper: Helper, *, erase: bool, coloured: bool, vi: bool = False) -> None:
        """With `erase`, a line vanishes once it is entered: the caller writes it where it wants it.

        Without colours there is no ghost text: it could not be told from what was typed.
        """
        self._helper, self._ghosts = helper, coloured
        self.listening = False  # SIGINT is a key of the editor
        self._aside = Aside()
        self._shown = ("", "")  # a line, and its ghost
        self._choices: Sequence[tuple[str, float]] = ()
        self._session: PromptSession[str] = PromptSession(
            helper.prompt,
            history=_history(),
            enable_history_search=True,
            completer=_Completer(helper),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,  # needs no room below the line
            enable_suspend=True,
            erase_when_done=erase,
            vi_mode=vi,
            key_bindings=self._keys(),
            bottom_toolbar=self._bar,
            style=COLOURS if coloured else PLAIN,
            input_processors=[_Visible()],
        )
        self._session.default_buffer.on_text_changed += self._changed
        self._session.default_buffer.on_cursor_position_changed += self._moved

    def read(self) -> str:
        """The next line, without its end; raises EOFError at Ctrl-D on an empty line, KeyboardInterrupt at Ctrl-C."""
        self._shown, self._choices = ("", ""), ()
        self._session.layout.search_links.clear()  # SIGINT from outside leaves an editor that searches as it is
        self._session.layout.focus(self._session.default_buffer)
        before = {number: handle(number, self._terminate) for number in ENDING}
        try:
            return self._session.prompt()
        finally:
            self._aside.rest()  # from here on the model is the caller's
            for number, handler in before.items():
                handle(number, handler)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        """Let the editor end by itself: an exception in the midst of its drawing would leave the terminal as it was then."""
        app = self._session.app
        if not app.is_running or app.loop is None:
            raise Terminated(number)
        app.loop.call_soon_threadsafe(self._leave, Terminated(number))

    def _leave(self, error: BaseException) -> None:
        with contextlib.suppress(Exception):  # it may be leaving already
            self._session.app.exit(exception=error)

    def dropped(self) -> str:
        """What stood in the line when Ctrl-C ended it."""
        return self._session.default_buffer.text

    def _changed(self, buffer: Buffer) -> None:
        """A key was typed: what was asked for the line before is stale, and a ghost stays only as far as it came true."""
        self._choices = ()
        stale, line, (before, ghost) = self._aside.turn(), buffer.text, self._shown
        whole = before + ghost
        if len(before) <= len(line) < len(whole) and whole.startswith(line):
            buffer.suggestion = Suggestion(whole[len(line) :])
        if self._ghosts and line and self._helper.is_text(line) and get_app().is_running:
            get_app().create_background_task(self._suggest(buffer, line, stale))

    def _moved(self, buffer: Buffer) -> None:
        """The cursor stands elsewhere, where other tokens are likely."""
        self._choices = ()

    async def _ask(self, question: Question[T], line: str, stale: threading.Event) -> T | None:
        """The answer of the thread, None if it is stale; a mistake in it ends the editing as one in the editor would."""
        answer, error = await self._aside.ask(question, line, stale)
        if error is not None:
            self._leave(error)
        return answer

    async def _suggest(self, buffer: Buffer, line: str, stale: threading.Event) -> None:
        ghost = await self._ask(self._helper.ghost, line, stale)
        if ghost is None or buffer.text != line:
            return
        self._shown = (line, ghost)
        buffer.suggestion = Suggestion(ghost) if ghost else None
        get_app().invalidate()

    async def _choose(self, buffer: Buffer, stale: threading.Event) -> None:
        line = buffer.document.text_before_cursor
        found = await self._ask(self._helper.next_tokens, line, stale)
        if found is not None and buffer.document.text_before_cursor == line:
            self._choices = found
            get_app().invalidate()

    def _bar(self) -> str:
        """The choices that digits take, if there are any, above the bar."""
        width = get_app().output.get_size().columns
        listed = _side_by_side([f"{number} {choice}" for number, choice in enumerate(map(_choice, self._choices), 1)], width)
        return "\n".join([*listed, _cut(self._helper.bar(), width - 1)])

    def _keys(self) -> KeyBindings:
        """The keys that are ours; all others are prompt_toolkit's."""
        keys, typing = KeyBindings(), has_focus(DEFAULT_BUFFER)
        ghostly = typing & Condition(lambda: self._suggestion() != "")
        keys.add("escape", "f", filter=ghostly & emacs_mode)(self._take_word)
        keys.add("c-right", filter=ghostly)(self._take_word)
        keys.add("escape", "enter", filter=typing & emacs_mode)(lambda event: event.current_buffer.insert_text("\n"))
        keys.add("c-c", filter=typing, eager=True)(_interrupt)  # with a selection it would be the beginning of other keys
        keys.add("c-g", filter=typing & ~has_selection)(self._edit)
        keys.add("tab", filter=typing & Condition(lambda: self._helper.is_text(self._session.default_buffer.text)))(self._list)
        keys.add(Keys.Vt100MouseEvent)(lambda event: None)  # no mouse was asked for; prompt_toolkit chokes on a typed ESC[31m
        choosing = typing & Condition(lambda: bool(self._choices))
        for digit in "123456789":
            keys.add(digit, filter=choosing & Condition(partial(self._is_choice, int(digit))))(self._take_choice)
            keys.add(digit, filter=typing & ~choosing & Condition(partial(self._is_offered, int(digit))))(_enter_digit)
        return keys

    def _is_choice(self, number: int) -> bool:
        return number <= len(self._choices)

    def _is_offered(self, number: int) -> bool:
        return number <= self._helper.offered() and not self._session.default_buffer.text

    def _suggestion(self) -> str:
        buffer = self._session.default_buffer
        return buffer.suggestion.text if buffer.suggestion and buffer.document.is_cursor_at_the_end else ""

    def _take_word(self, event: KeyPressEvent) -> None:
        word = WORD.match(self._suggestion())
        event.current_buffer.insert_text(word.group() if word else self._suggestion())

    def _list(self, event: KeyPressEvent) -> None:
        if self._choices:
            self._choices = ()
            return
        event.app.create_background_task(self._choose(event.current_buffer, self._aside.turn()))

    def _take_choice(self, event: KeyPressEvent) -> None:
        event.current_buffer.insert_text(self._choices[int(event.data) - 1][0])

    def _edit(self, event: KeyPressEvent) -> None:
        event.app.create_background_task(_edit(event.current_buffer))


def _enter_digit(event: KeyPressEvent) -> None:
    """Take an alternative at once, unless the digit is the beginning of something that comes in one go."""
    event.current_buffer.insert_text(event.data)
    if not event.app.key_processor.input_queue:
        event.current_buffer.validate_and_handle()


def _interrupt(event: KeyPressEvent) -> None:
    event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")


async def _edit(buffer: Buffer) -> None:
    """Let the person's editor change the line; as it was if there is no editor, or what it leaves is no text."""
    import click

    def edited() -> str | None:
        try:
            return click.edit(buffer.text, require_save=False, extension=".txt")
        except (click.ClickException, UnicodeError, OSError) as error:
            console.note(f"The editor did not work: {error}. Set EDITOR to another.")
            return None

    loop, app = asyncio.get_running_loop(), get_app()
    loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C is the editor's now
    try:
        text = await run_in_terminal(edited, in_executor=True)
    finally:
        loop.add_signal_handler(signal.SIGINT, app.key_processor.send_sigint)
    if text is not None:
        text = text.removesuffix("\n")
        buffer.document = Document(text, len(text))


def _choice(choice: tuple[str, float]) -> str:
    """A piece of text as one sees it, spaces and line ends included, and its share."""
    text, probability = choice
    shown = text.replace(" ", "\u2423").replace("\n", "\u23ce")
    shown = "".join(letter if letter.isprintable() else f"U+{ord(letter):04X}" for letter in shown)
    return f"{shown} {100 * probability:.0f}%" if probability >= 0.01 else f"{shown} <1%"


def _side_by_side(cells: Sequence[str], width: int) -> Iterator[str]:
    """Cells in as few lines as they need."""
    line = ""
    for cell in cells:
        if line and get_cwidth(line) + get_cwidth(cell) + 3 >= width:
            yield line
            line = ""
        line += ("   " if line else "") + cell
    if line:
        yield line


def _cut(text: str, width: int) -> str:
    """As much of `text` as there is room for; some characters are two cells wide."""
    while get_cwidth(text) > width:
        text = text[:-1]
    return text


class _Visible(Processor):
    """Characters that turn the writing direction are shown as U+FFFD; control characters prompt_toolkit shows by itself."""

    def apply_transformation(self, transformation_input: TransformationInput) -> Transformation:
        """The same fragments, each character of them in its place."""
        shown: StyleAndTextTuples = [(style, console.in_place(text)) for style, text, *_ in transformation_input.fragments]
        return Transformation(shown)


class _Completer(Completer):
    def __init__(self, helper: Helper) -> None:
        self._helper = helper
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """The ways in which the last word before the cursor can end."""
        line = document.text_before_cursor
        file = self._helper.wants_file(line)
        if file is not None:
            for path in self._paths.get_completions(Document(file), complete_event):
                yield Completion(path.text, path.start_position, display=console.visible(path.display_text))
            return
        word = line.rpartition(" ")[2]
        for found in self._helper.complete(line):
            yield Completion(found, start_position=-len(word), display=console.visible(found))


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
