"""`charrnn repl`: writing together with a model. Shows what a session says; knows nothing of what a line means.

On a terminal lines are edited and the two voices are told apart by colour; otherwise it is a filter, a line in, its
text with the model's continuation out, that imports no line editor and writes no escape byte.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import rich_click

from charrnn.cli import console, loading, options
from charrnn.cli.runs import shape_text
from charrnn.config import SamplingConfig, ShapingConfig
from charrnn.decoding.settings import Settings

if TYPE_CHECKING:
    from charrnn.decoding.events import Output
    from charrnn.decoding.generate import AtEos
    from charrnn.decoding.session import Session
    from charrnn.decoding.tree import Partner
    from charrnn.runs.model import Model

MODEL_STYLE = "cyan"
HOW_TO_LEAVE = "Ctrl-D or /bye leaves."


@rich_click.command()
@options.apply(
    [
        options.run_argument(required=False),
        *options.settings(Settings, "Text", only=["length"]),
        *options.settings(options.DrawConfig, "Text", only=["seed"]),
        *options.settings(ShapingConfig, "Shape of an answer"),
        *options.settings(SamplingConfig, "Choice of the next token, in this order"),
        options.checkpoints_option(),
        options.config_option(),
    ]
)  # fmt: skip
def repl(run: str | None, checkpoints: Path, **values: Any) -> None:
    """Write together with a model: type a line, and it goes on from there.

    An empty line lets it go on, Ctrl-C stops it, /help shows the commands, Ctrl-D leaves. The same lines with the same
    seed give the same text. Without a terminal each line of input gives a line, or several, of text.

    \b
    charrnn repl                              with the newest run
    charrnn repl poems --temp 0.6 --length 80
    echo "Shall I" | charrnn repl poems
    """
    settings = _settings(values)
    from dataclasses import asdict

    from charrnn.decoding import engine as engines
    from charrnn.decoding.session import Session

    model = loading.load(run, checkpoints)
    with engines.single_thread():
        session = Session(_partner(model), settings)
        session.check(settings)
        if sys.stdin.isatty() and sys.stdout.isatty():
            _converse(session, f"{model.name}: {shape_text(asdict(model.config))}. Type a line and it goes on; /help tells more.")
        else:
            if values["seed"] is None:
                console.note(f"seed {settings.seed}")
            _filter(session, _lines())


def _settings(values: dict[str, Any]) -> Settings:
    asked = options.asked(values, Settings)
    if "seed" not in asked:
        import secrets

        asked["seed"] = secrets.randbelow(2**32)
    return Settings(**asked)


def _partner(model: Model) -> Partner:
    from dataclasses import asdict

    from charrnn.decoding import engine as engines
    from charrnn.decoding.tree import Partner
    from charrnn.runs import copies

    card = [("file", console.shown_path(model.path)), ("network", shape_text(asdict(model.config)))]
    card.append(("parameters", f"{sum(array.size for array in model.weights.values()):,}"))
    at_eos: AtEos = "newline" if model.knows_ends else "never"
    return Partner(
        engines.of(model), model.tokenizer, model.start, model.name, model.digest, at_eos, tuple(card),
        watch=lambda longest: copies.watch(model, longest),
    )  # fmt: skip


def _lines() -> Iterator[str]:
    """The lines of stdin, as they come; bytes that are not UTF-8 become U+FFFD, a byte order mark is dropped."""
    for number, line in enumerate(sys.stdin.buffer):
        text = line.decode("utf-8-sig" if number == 0 else "utf-8", "replace")
        yield text.removesuffix("\n").removesuffix("\r")


def _filter(session: Session, lines: Iterable[str]) -> None:
    """Each line's text and its continuation to stdout, everything else to stderr."""
    with console.Output() as out:
        screen = Screen(out, in_colour=False, repeat_lines=True)
        for line in lines:
            if not screen.show(session.feed(line)):
                return
            out.flush()


def _converse(session: Session, greeting: str) -> None:
    from charrnn.decoding.session import is_command

    fancy = console.fancy(sys.stdout)
    with console.Output() as out:
        screen = Screen(out, in_colour=fancy, repeat_lines=fancy)
        prompt = _line_reader(out, erase=fancy)
        out.write(greeting + "\n")
        going_on = True
        with _ctrl_c_stops(session, screen):
            while going_on:
                try:
                    line = prompt.read()
                    if fancy and is_command(line):
                        screen.typed(line + "\n")
                    with console.unechoed():
                        going_on = screen.show(session.feed(line))
                except KeyboardInterrupt:
                    if not prompt.dropped():
                        console.note(HOW_TO_LEAVE)
                except EOFError:
                    going_on = False


class LineReader(Protocol):
    """Whatever a person can type lines into."""

    def read(self) -> str:
        """The next line; raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""

    def dropped(self) -> str:
        """What stood in the line when Ctrl-C ended it."""


def _line_reader(out: console.Output, *, erase: bool) -> LineReader:
    """The line editor or, on a terminal that understands no escapes, the terminal's own editing."""
    if os.environ.get("TERM") in ("dumb", "unknown"):
        return _PlainReader(out)
    from charrnn.cli.prompt import Prompt
    from charrnn.decoding.session import complete, wants_file

    return Prompt(complete, wants_file, erase=erase)


class _PlainReader:
    def __init__(self, out: console.Output) -> None:
        self._out = out

    def read(self) -> str:
        self._out.write("> ")
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


@contextmanager
def _ctrl_c_stops(session: Session, screen: Screen) -> Iterator[None]:
    """Ctrl-C stops the model while it speaks; at other times it is an exception, as the line editor makes it one."""

    def interrupted(number: int, frame: FrameType | None) -> None:
        if not screen.busy:
            raise KeyboardInterrupt
        session.cancel()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Screen:
    """Where the events of a session become characters.

    With `in_colour`, lines stand behind a prompt and go over into the model's text, which has a colour of its own;
    without, nothing but the text is written. `repeat_lines` writes your line before its answer.
    """

    def __init__(self, out: console.Output, *, in_colour: bool, repeat_lines: bool) -> None:
        self._out, self._repeat_lines = out, repeat_lines
        self._coloured = console.rich_console(sys.stdout) if in_colour else None
        self._line_open = False
        self.busy = False

    def show(self, events: Iterable[Output]) -> bool:
        """Show what follows from one line; False if the session has ended."""
        from charrnn.decoding.events import Ended

        going_on, self.busy = True, True
        try:
            for event in events:
                going_on = not isinstance(event, Ended)
                self._show(event)
            self._end_line()
        finally:
            self.busy = False
        return going_on

    def _show(self, event: Output) -> None:
        from charrnn.decoding import events as said

        if not isinstance(event, said.Text):
            self._end_line()
        match event:
            case said.Typed(text):
                self.typed(text)
            case said.Text(text):
                self._answer(text)
            case said.Notice(text):
                console.note(text)
            case said.Problem(text, hint):
                console.error(text, hint)
            case said.Listing(rows):
                self._list(rows)

    def typed(self, text: str) -> None:
        """Write a line of yours, if nobody else has, so that what follows goes on from it."""
        if self._repeat_lines:
            self._write(("> " if self._coloured else "") + text)

    def _answer(self, text: str) -> None:
        if self._coloured is None:
            self._write(text)
            return
        from rich.text import Text

        self._coloured.print(Text(console.visible(text), MODEL_STYLE), end="", soft_wrap=True)
        self._line_open = not text.endswith("\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._line_open = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._line_open:
            self._write("\n")

    def _list(self, rows: tuple[tuple[str, ...], ...]) -> None:
        """Columns under each other; the last one is folded on a terminal. Off one, they are no product, so not on stdout."""
        for line in _columns(rows, shutil.get_terminal_size().columns if self._out.tty else 10_000):
            if self._out.tty:
                self._out.write(line + "\n")
            else:
                console.say(line)


def _columns(rows: tuple[tuple[str, ...], ...], width: int) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]) - 1)]
    for row in rows:
        head = "".join(cell.ljust(size) for cell, size in zip(row, widths, strict=False))
        room = max(width - len(head) - 1, 20)
        yield from textwrap.wrap(row[-1], room + len(head), initial_indent=head, subsequent_indent=" " * len(head)) or [head]
