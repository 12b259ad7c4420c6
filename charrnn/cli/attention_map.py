"""Attention as a picture made of characters: a row for each character of an answer, a column for each of its source.

On a terminal the weights are shades, in colours where there are any, each as a share of the greatest in its row; elsewhere, or
where there are no such characters, they are tenths, as digits. Knows texts and numbers; knows nothing of models.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from charrnn.cli import console

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from charrnn.text.tokenizers import Tokenizer

# Shares of the greatest weight in the row below which a shade and a colour are meant.
SCALE = (
    (0.05, " ", ""), (0.25, "\u2591", "bright_black"), (0.5, "\u2592", "cyan"), (0.75, "\u2593", "green"),
    (float("inf"), "\u2588", "bold yellow"),
)  # fmt: skip
NAMED = {"\n": "\\n", "\t": "\\t", " ": "_"}
Cells = list[tuple[str, str]]  # of a line: text and style


@dataclass(frozen=True)
class Look:
    """What can be shown: colours, shades, how many columns (0: any number), in which encoding."""

    coloured: bool = False
    shaded: bool = False
    width: int = 0
    encoding: str = "utf-8"


def look(out: console.Output) -> Look:
    """What stdout can show."""
    if not out.tty:
        return Look()
    encoding = sys.stdout.encoding or "utf-8"
    shaded = encoding.lower().replace("-", "").startswith("utf")
    return Look(console.fancy(sys.stdout), shaded, shutil.get_terminal_size().columns, encoding)


def show(source: Sequence[str], answer: Sequence[str], weights: NDArray[Any], how: Look, out: console.Output) -> None:
    """Draw the weights (T, S) of an answer's pieces at its source's."""
    columns, rows = (_labels(pieces, how) for pieces in (source, answer))
    fitting = _fitting(columns, rows, how.width)
    for line in lines(columns[:fitting], rows, weights, how):
        if how.coloured:
            _print(line)
        else:
            out.write("".join(text for text, _ in line).rstrip() + "\n")
    if fitting < len(columns):
        console.note(f"{fitting} of {len(columns)} columns are shown: the terminal is {how.width} wide; --json has them all")


def lines(columns: Sequence[str], rows: Sequence[str], weights: NDArray[Any], how: Look) -> Iterator[Cells]:
    """The picture, a line after the other: the source, then a line for each row."""
    aside = max(map(console.width, rows), default=0)
    yield [(" " * (aside + 1) + "".join(columns), "")]
    for row, shares in zip(rows, weights.tolist(), strict=True):
        if how.shaded:  # a row that looks everywhere has no weight that is great by itself
            most = max(shares, default=0.0) or 1.0
            shares = [share / most for share in shares]
        cells: Cells = [(row + " " * (aside - console.width(row) + 1), "")]
        cells += [_cell(share, console.width(label), how.shaded) for label, share in zip(columns, shares, strict=False)]
        yield cells


def pieces(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[str]:
    """What stands for each of the tokens of `text`; for the first bytes of a character, nothing."""
    if tokenizer.kind == "char" and len(ids) == len(text):
        return list(text)  # those that the model does not know are shown all the same
    decoder = tokenizer.stream_decoder()
    return [decoder.push(token) for token in ids]


def _cell(share: float, width: int, shaded: bool) -> tuple[str, str]:
    """A weight as wide as the character above it."""
    if not shaded:
        return str(min(9, int(10 * share))).ljust(width), ""
    _, shade, style = next(step for step in SCALE if share < step[0] or step[0] == float("inf"))
    return shade * width, style


def _labels(pieces: Sequence[str], how: Look) -> list[str]:
    """Pieces as they can stand in a line: nothing in them acts on a terminal, each takes at least a column."""
    shown = ("".join(NAMED.get(letter, letter) for letter in piece) for piece in pieces)
    safe = (console.visible(piece).encode(how.encoding, "replace").decode(how.encoding) for piece in shown)
    return [piece if console.width(piece) else "." for piece in safe]


def _fitting(columns: Sequence[str], rows: Sequence[str], width: int) -> int:
    """How many columns there is room for."""
    left = width - max(map(console.width, rows), default=0) - 1
    for number, label in enumerate(columns):
        left -= console.width(label)
        if width and left < 0:
            return number
    return len(columns)


def _print(cells: Cells) -> None:
    from rich.text import Text

    line = Text()
    for text, style in cells:
        line.append(text, style)
    console.rich_console(sys.stdout).print(line, soft_wrap=True)
