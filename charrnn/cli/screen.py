"""Where the events of a session become characters, on a terminal and off one. Knows nothing of what a line means."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from charrnn.cli import console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from charrnn.decoding.events import Alternatives, Family, Heated, Output, Passage, Place, Typed

MODEL_STYLE = "cyan"
NARROWEST = 20  # columns of one of several answers


class Screen:
    """The voices of one session.

    With `in_colour`, lines stand behind a prompt, and the model's text has a colour of its own; without, nothing but the
    text is written. `repeat_lines` writes your line before its answer, which goes on from it (`apart`: stands on its own
    line, as in a conversation).
    """

    def __init__(self, out: console.Output, *, in_colour: bool, repeat_lines: bool, apart: bool = False) -> None:
        self._out, self.repeat_lines, self._apart = out, repeat_lines, apart
        self._coloured = console.rich_console(sys.stdout) if in_colour else None
        self._line_open = False

    def show(self, events: Iterable[Output]) -> bool:
        """Show what follows from one line; False if the session has ended."""
        from charrnn.decoding.events import Ended

        going_on = True
        for event in events:
            going_on = not isinstance(event, Ended)
            self._show(event)
        self._end_line()
        return going_on

    def _show(self, event: Output) -> None:
        from charrnn.decoding import events as said

        if not isinstance(event, said.Text):
            self._end_line()
        match event:
            case said.Typed():
                self._typed(event)
            case said.Text(text, bits):
                self._answer(text, bits)
            case said.Recalled(typed, answer):
                self._recall(typed, answer)
            case said.Resumed(text):
                self._resume(text)
            case said.Passage():
                self._recite(event)
            case said.Notice(text):
                console.note(text)
            case said.Problem(text, hint):
                console.error(text, hint)
            case said.Listing(rows):
                self._list(rows)
            case said.Alternatives():
                self._choose(event)
            case said.Family():
                self._draw(event)

    def typed(self, text: str) -> None:
        """Write a line of yours, if nobody else has, so that what follows goes on from it."""
        if self.repeat_lines:
            self._write(("> " if self._coloured else "") + text)

    def _typed(self, event: Typed) -> None:
        if event.heat and self._coloured is not None:
            self._heated(event.heat)
        else:
            self.typed(event.text)
        if self._apart:
            self._end_line()

    def _heated(self, pieces: tuple[Heated, ...]) -> None:
        """A line of yours in the colours of its surprise."""
        assert self._coloured is not None
        from charrnn.cli import heat

        self._write("> ")
        self._coloured.print(heat.coloured(pieces), end="", soft_wrap=True)
        self._line_open = True

    def _recall(self, typed: tuple[Heated, ...], answer: tuple[Heated, ...]) -> None:
        """What stands already, once more in colours; without them there is nothing to add to it."""
        if self._coloured is None:
            console.note("There are no colours here: only the means are told.")
            return
        from charrnn.cli import heat

        self._coloured.print(heat.legend())
        if typed:
            self._heated(typed)
        if typed and self._apart:
            self._end_line()
        self._coloured.print(heat.coloured(answer), end="", soft_wrap=True)
        said = "".join(piece.text for piece in (*typed, *answer))
        self._line_open = bool(said) and not said.endswith("\n")

    def _answer(self, text: str, bits: float | None) -> None:
        if self._coloured is None:
            self._write(text)
            return
        from rich.text import Text

        from charrnn.cli import heat

        style = MODEL_STYLE if bits is None else heat.style(bits)
        self._coloured.print(Text(console.visible(text), style), end="", soft_wrap=True)
        self._line_open = not text.endswith("\n")

    def _resume(self, line: str) -> None:
        """The line that the model goes on with, where it does not stand just above."""
        if self._out.tty:
            self._answer(line, None)

    def _recite(self, event: Passage) -> None:
        """The text as it stands; in a pipe, where it came out already, only if it was asked for."""
        if not (self._out.tty or event.asked):
            return
        for part in event.parts:
            if part.yours:
                self._write(part.text)
            else:
                self._answer(part.text, None)
        self._end_line()

    def _write(self, text: str) -> None:
        self._out.write(text)
        if text:
            self._line_open = not text.endswith("\n")

    def _end_line(self) -> None:
        if self._line_open:
            self._write("\n")

    def _list(self, rows: tuple[tuple[str, ...], ...]) -> None:
        """Columns under each other; the last one is folded on a terminal. Off one, they are no product, so not on stdout."""
        for line in _columns(rows, shutil.get_terminal_size().columns if self._out.tty else 10_000):
            self._aside(line)

    def _aside(self, line: str) -> None:
        if self._out.tty:
            self._out.write(line + "\n")
        else:
            console.say(line)

    def _choose(self, event: Alternatives) -> None:
        """Several answers, side by side where there is room for it."""
        width = shutil.get_terminal_size().columns
        if not self._out.tty or width < NARROWEST * len(event.texts):
            for number, text in enumerate(event.texts, 1):
                self._aside(f"{number}: {text}")
        else:
            self._side_by_side(event)
        console.note(f"A digit takes one of them: 1 to {len(event.texts)}.")

    def _side_by_side(self, event: Alternatives) -> None:
        from rich.table import Table
        from rich.text import Text

        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        for _ in event.texts:
            grid.add_column(overflow="fold", ratio=1)
        grid.add_row(*(Text(str(number), "bold") for number in range(1, len(event.texts) + 1)))
        grid.add_row(*(Text(console.visible(text).strip("\n"), MODEL_STYLE) for text in event.texts))
        grid.expand = True
        self._print(grid)

    def _draw(self, event: Family) -> None:
        """The tree: what follows stands below, what forks off is indented."""
        from rich.console import Group

        self._print(Group(*map(_drawn, event.trunk)))

    def _print(self, drawing: RenderableType) -> None:
        rich = self._coloured or console.rich_console(sys.stdout if self._out.tty else sys.stderr)
        self._out.flush()
        rich.print(drawing)


def _drawn(place: Place) -> RenderableType:
    """A node, and the side branches that hang from it."""
    from rich.console import Group
    from rich.tree import Tree

    if not place.sides:
        return _label(place)
    tree = Tree(_label(place), guide_style="bright_black")
    for side in place.sides:
        tree.add(Group(*map(_drawn, side)))  # one below the other, as what follows stands
    return tree


def _label(place: Place) -> Text:
    """A node on a line, and how many after it are not shown."""
    from rich.text import Text

    said = console.visible(place.text.replace("\n", "\u23ce"))
    line = Text()
    line.append(f"{place.number} ", "bright_black")
    line.append(f"> {said}" if place.yours else said, "" if place.yours or not place.number else MODEL_STYLE)
    for name in place.branches:
        line.append(f" [{console.visible(name)}]", "green")
    if place.here:
        line.append(" <- here", "bold")
    if place.left_out:
        line.append(f"\n({place.left_out:,} more)", "bright_black")
    return line


def _columns(rows: tuple[tuple[str, ...], ...], width: int) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(len(rows[0]) - 1)]
    for row in rows:
        head = "".join(cell.ljust(size) for cell, size in zip(row, widths, strict=False))
        room = max(width - len(head) - 1, 20)
        yield from textwrap.wrap(row[-1], room + len(head), initial_indent=head, subsequent_indent=" " * len(head)) or [head]
