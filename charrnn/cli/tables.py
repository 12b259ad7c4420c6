"""Tables of figures: drawn where there is a terminal, else in plain columns. Knows how wide letters are, not what they say."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TextIO

from charrnn.cli import console

PLAIN_WIDTH = 100  # columns, where nobody knows how many there are
ELLIPSIS = "..."


@dataclass(frozen=True)
class Table:
    """Names of columns, the first flush left and the others right; rows of cells; what is said below."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    note: str = ""


def columns(stream: TextIO) -> int:
    """How wide a line on `stream` may be."""
    return shutil.get_terminal_size().columns if stream.isatty() else PLAIN_WIDTH


def width(text: str) -> int:
    """The columns that `text` takes, as `fitted` shows it."""
    return _cells(_one_line(text))


def fitted(text: str, most: int, *, fill: bool = False) -> str:
    """`text` on one line, made visible, shortened to `most` columns and, with `fill`, made up to them."""
    from rich.cells import set_cell_size

    line = _one_line(text)
    if _cells(line) > most:
        line = set_cell_size(line, max(0, most - len(ELLIPSIS))).rstrip() + ELLIPSIS
    return line + " " * (most - _cells(line)) if fill else line


def plain(table: Table) -> str:
    """A table as lines of columns that stand below each other."""
    grid = [table.columns, *table.rows]
    widths = [max(_cells(row[place]) for row in grid) for place in range(len(table.columns))]
    lines = []
    for first, *others in grid:
        cells = [first + " " * (widths[0] - _cells(first))]
        cells += [" " * (most - _cells(cell)) + cell for cell, most in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([*lines, *([table.note] if table.note else [])]) + "\n"


def draw(table: Table, stream: TextIO) -> None:
    """A table on a terminal."""
    console.table(table.columns, table.rows, right=table.columns[1:], stream=stream)
    if table.note:
        stream.write(console.visible(table.note) + "\n")


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _one_line(text: str) -> str:
    return console.visible(" ".join(text.split()))
