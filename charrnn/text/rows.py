"""Rows of two texts: a label and a text, or a source and a target, with the place each comes from.

.tsv, and any plain file, has them with a tab between, and no quotes; `\n`, `\t` and `\\` stand there for a line end, a
tab and a backslash. .csv is quoted as Python's csv module has it, .jsonl has an object a line. Columns (or fields) are
asked for by name, or by number from 1; else a header that holds the two usual names counts, else the first two columns.
Every fault of a row is a CorpusError that names file and line. Knows nothing of what the texts are for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from shlex import quote
from typing import Any

from charrnn.config import ReadingConfig
from charrnn.errors import CorpusError, UsageError
from charrnn.text import reading as reading_room
from charrnn.text.sources import Source

ESCAPES = {"\\n": "\n", "\\t": "\t", "\\\\": "\\"}
LONGEST_NAME = 40  # characters of what may be a header
MEND = "Mend that line, or take it out."


@dataclass(frozen=True)
class Row:
    """Two texts, neither of them empty (but of `source_columns` the second may be), and their place as a message says it."""

    first: str
    second: str
    where: str


@dataclass(frozen=True)
class Columns:
    """The two columns: their usual names, and what was asked for in their place ("" for nothing)."""

    names: tuple[str, str]
    asked: tuple[str, str] = ("", "")
    alone: bool = False  # whether the first may stand alone
    repeated: bool = False  # whether the first of one row is that of others, as labels are

    def shown(self) -> str:
        """How a row looks, for a message."""
        return self.names[0] if self.alone else f"{self.names[0]}<TAB>{self.names[1]}"


def labelled(reading: ReadingConfig) -> Columns:
    """Label and text."""
    return Columns(("label", "text"), (reading.label_column, reading.text_column), repeated=True)


def paired(reading: ReadingConfig) -> Columns:
    """Source and target."""
    return Columns(("source", "target"), (reading.source_column, reading.target_column))


def source_columns(reading: ReadingConfig) -> Columns:
    """Source and, where there is one, target."""
    return replace(paired(reading), alone=not reading.target_column)


def read(sources: Sequence[Source], reading: ReadingConfig, columns: Columns) -> list[Row]:
    """All rows of all sources; raises CorpusError for each fault of theirs, and if there is none."""
    several = [list(_rows(source, reading, columns)) for source in sources]
    found = [row for rows in several for row in rows]
    if not found:
        raise CorpusError(f"there is no row in {sources[0].name!r}.", f"Give rows of {columns.shown()}.")
    if columns.repeated and not any(columns.asked):
        _check_headers([rows[0] for source, rows in zip(sources, several, strict=True) if _begins(source, rows)], found, columns)
    return found


def _begins(source: Source, found: list[Row]) -> bool:
    """Whether the first row of a table is its first line: then there was no header of the usual names above it."""
    return source.format != "jsonl" and bool(found) and found[0].where == _where(source, 1)


def _check_headers(firsts: list[Row], found: list[Row], columns: Columns) -> None:
    """Refuse a first row that is a header of other names: it would be one more label.

    That is nearly certain where its text is one word, no other row has its label, and each other label is there twice.
    """
    counts = Counter(row.first for row in found)
    counts.subtract(row.first for row in firsts)
    others = [count for count in counts.values() if count]
    for row in firsts:
        short = len(row.second.split()) == 1 and max(len(row.first), len(row.second)) <= LONGEST_NAME
        if short and not counts[row.first] and len(found) > 3 and min(others, default=0) > 1:
            named, numbered = (
                " ".join(f"--{name}-column {asked}" for name, asked in zip(columns.names, several, strict=True))
                for several in ((quote(row.first.strip()), quote(row.second.strip())), "12")
            )
            raise CorpusError(
                f"{row.where} looks like a header: no other row has the label {row.first!r}.",
                f"Add {named}; if it is a row, add {numbered}.",
            )


def _where(source: Source, line: int) -> str:
    return f"{source.name!r}, line {line:,}"


def _rows(source: Source, reading: ReadingConfig, columns: Columns) -> Iterator[Row]:
    text = reading_room.decoded(source, reading)
    plain = source.format in ("text", "tsv")
    cells = _objects(source, text, columns) if source.format == "jsonl" else _table(source, text, columns)
    for line, pair in cells:
        where = _where(source, line)
        first, second = (reading_room.cell(unescaped(part) if plain else part, reading, where) for part in pair)
        for name, part in zip(columns.names, (first, second), strict=True):
            if not part.strip() and not (columns.alone and name == columns.names[1]):
                raise CorpusError(f"{where} has an empty {name}; expected {columns.shown()}.", MEND)
        yield Row(first, second, where)


def unescaped(text: str) -> str:
    """What one cell of .tsv means."""
    return re.sub(r"\\[nt\\]", lambda found: ESCAPES[found[0]], text) if "\\" in text else text


def escaped(text: str) -> str:
    """`text` as one cell of .tsv."""
    for written, meant in reversed(ESCAPES.items()):
        text = text.replace(meant, written)
    return text


def _objects(source: Source, text: Iterable[str], columns: Columns) -> Iterator[tuple[int, tuple[str, str]]]:
    names = [asked or name for name, asked in zip(columns.names, columns.asked, strict=True)]
    for line, value in reading_room.json_rows(source, text):
        where = f"{source.name!r}, line {line:,}"
        absent = columns.alone and isinstance(value, dict) and names[1] not in value
        yield line, (field(value, names[0], where), "" if absent else field(value, names[1], where))


def field(value: Any, name: str, where: str) -> str:
    """The text (or whole number) in a field of a row of .jsonl; raises CorpusError."""
    found = value.get(name) if isinstance(value, dict) else None
    if isinstance(found, int) and not isinstance(found, bool) and abs(found) < 2**63:  # a label, as a rule
        return str(found)
    if not isinstance(found, str):
        hint = "Name the fields with --label-column and --text-column (or --source-column and --target-column)."
        raise CorpusError(f"{where} has no text in a field {name!r}; {reading_room.what_it_is(value)}.", hint)
    return found


def _table(source: Source, text: Iterable[str], columns: Columns) -> Iterator[tuple[int, tuple[str, str]]]:
    rows = (row for row in reading_room.csv_rows(source, text) if any(cell.strip() for cell in row[1]))
    first = next(rows, None)
    if first is None:
        return
    places, header = _places(source, first[1], columns)
    if not header:
        yield first[0], _pair(source, first, places, columns)
    for row in rows:
        yield row[0], _pair(source, row, places, columns)


def _places(source: Source, first: list[str], columns: Columns) -> tuple[tuple[int, int], bool]:
    """Which columns they are, from 0, and whether the first row is a header."""
    header = [cell.strip().lower() for cell in first]
    named = [asked for asked in columns.asked if asked and not is_number(asked)]
    usual = set(columns.names[: 1 if columns.alone and len(header) == 1 else 2])
    if not named and not any(columns.asked) and usual <= set(header):
        return (header.index(columns.names[0]), header.index(columns.names[1]) if len(usual) == 2 else 1), True
    places = []
    for position, (name, asked) in enumerate(zip(columns.names, columns.asked, strict=True)):
        if not asked:
            places.append(header.index(name) if named and name in header else position)
        elif is_number(asked):
            places.append(int(asked) - 1)
        else:
            places.append(_named(source, first, name, asked))
    if places[0] == places[1] or min(places) < 0:
        options = " and ".join(f"--{name}-column {place + 1}" for name, place in zip(columns.names, places, strict=True))
        raise UsageError(f"{options}: expected two columns, counted from 1.", "Name two different columns.")
    return (places[0], places[1]), bool(named)


def _named(source: Source, first: list[str], name: str, asked: str) -> int:
    for place, cell in enumerate(first):
        if cell.strip() == asked:
            return place
    found = ", ".join(repr(cell[:40]) for cell in first[:8])
    raise CorpusError(f"{source.name!r} has no column {asked!r}; its first row is {found}.", f"Give another --{name}-column.")


def is_number(asked: str) -> bool:
    """Whether a column was asked for by its number."""
    return asked.isascii() and asked.isdigit() and len(asked) < 10


def _pair(source: Source, row: tuple[int, list[str]], places: tuple[int, int], columns: Columns) -> tuple[str, str]:
    line, cells = row
    if columns.alone and places[0] < len(cells) <= places[1]:
        return cells[places[0]], ""
    if max(places) >= len(cells):
        count = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
        why = "there is no tab in it" if len(cells) == 1 and source.format != "csv" else f"expected {max(places) + 1}"
        raise CorpusError(f"{source.name!r}, line {line:,} has {count}: {why}.", f"Write {columns.shown()}, or {MEND.lower()}")
    return cells[places[0]], cells[places[1]]
