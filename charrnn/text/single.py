"""Texts one by one out of files, each with its label where there is one, in memory that does not grow with the file.

A plain file has one text a line. .tsv, .csv, .jsonl, and a plain file all of whose lines hold a tab, are read as rows of
a label and a text are (see rows.py), but that the label may be missing: a single column is the text, and a header needs
to hold but the text's usual name. Knows nothing of what becomes of the texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from charrnn.config import ReadingConfig
from charrnn.errors import CorpusError, UsageError
from charrnn.text import reading as reading_room
from charrnn.text import rows
from charrnn.text.sources import Source


@dataclass(frozen=True)
class Single:
    """A text (blank only where it is a line of a plain file), and its label or ""."""

    text: str
    label: str = ""


@dataclass(frozen=True)
class _Places:
    """Where text and label stand in a row, from 0; whether the first row is a header."""

    text: int
    label: int | None
    header: bool


def read(source: Source, reading: ReadingConfig, labelled: bool = False) -> Iterator[Single]:
    """The texts of a file; raises CorpusError for each fault of it, which a missing label is only if `labelled`."""
    pieces = reading_room.decoded(source, reading)
    if source.format == "text" and not _is_table(source, reading):
        yield from (Single(line.removesuffix("\n")) for line in reading_room.lines(source, pieces))
        return
    cells = _objects(source, pieces, reading) if source.format == "jsonl" else _table(source, pieces, reading, labelled)
    for line, label, text in cells:
        where = f"{source.name!r}, line {line:,}"
        if source.format in ("text", "tsv"):
            label, text = rows.unescaped(label), rows.unescaped(text)
        text = reading_room.cell(text, reading, where)
        if not text.strip() or (labelled and not label.strip()):
            raise CorpusError(f"{where} has an empty {'label' if text.strip() else 'text'}.", rows.MEND)
        yield Single(text, reading_room.cell(label, reading, where) if label.strip() else "")


def _is_table(source: Source, reading: ReadingConfig) -> bool:
    """Whether all lines of a plain file, but blank ones, hold a tab: training reads such a file as rows."""
    written = (line for line in reading_room.lines(source, reading_room.decoded(source, reading)) if line.strip())
    first = next(written, "")
    return "\t" in first and all("\t" in line for line in written)


def _objects(source: Source, pieces: Iterator[str], reading: ReadingConfig) -> Iterator[tuple[int, str, str]]:
    name = reading.label_column or "label"
    for line, value in reading_room.json_rows(source, pieces):
        where = f"{source.name!r}, line {line:,}"
        text = rows.field(value, reading.text_column or "text", where)
        yield line, "" if value.get(name) is None else rows.field(value, name, where), text


def _table(source: Source, pieces: Iterator[str], reading: ReadingConfig, labelled: bool) -> Iterator[tuple[int, str, str]]:
    found = (row for row in reading_room.csv_rows(source, pieces) if any(cell.strip() for cell in row[1]))
    first = next(found, None)
    if first is None:
        return
    places = _places(source, first[1], reading)
    if labelled and places.label is None:
        named = f"{source.name!r} has no column {reading.label_column!r}"
        raise CorpusError(f"{named}; its first row is {_shown(first[1])}.", "Give another --label-column.")
    if not places.header:
        yield _row(source, first, places)
    for row in found:
        yield _row(source, row, places)


def _row(source: Source, row: tuple[int, list[str]], places: _Places) -> tuple[int, str, str]:
    line, cells = row
    if max(places.text, places.label or 0) >= len(cells):
        count = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
        expected = max(places.text, places.label or 0) + 1
        raise CorpusError(f"{source.name!r}, line {line:,} has {count}; expected {expected}.", rows.MEND)
    return line, "" if places.label is None else cells[places.label], cells[places.text]


def _places(source: Source, first: list[str], reading: ReadingConfig) -> _Places:
    """The columns as asked for; else those of a header; else the label is the first of several and the text beside it."""
    text, label = (_place(first, getattr(reading, f"{name}_column"), name) for name in ("text", "label"))
    named = [asked for asked in (reading.text_column, reading.label_column) if asked and not rows.is_number(asked)]
    if not reading.text_column and rows.is_number(reading.label_column):  # by number: there is no header then
        text = None
    usual = not reading.text_column and text is not None
    header = usual or any(cell.strip() in named for cell in first)
    if len(first) == 1:
        return _Places(0, None, header)
    if text is None and reading.text_column:
        named_so = f"{source.name!r} has no column {reading.text_column!r}"
        raise CorpusError(f"{named_so}; its first row is {_shown(first)}.", "Give another --text-column.")
    if text is None:
        text = 1
    if label is None and not header and not reading.label_column:
        label = 0
    return _Places(text, None if label == text else label, header)


def _place(first: list[str], asked: str, name: str) -> int | None:
    """The column that was asked for, or that has the usual name; None if there is none."""
    if rows.is_number(asked):
        if int(asked) < 1:
            raise UsageError(f"--{name}-column is {asked}; columns are counted from 1.", f"Give --{name}-column 1.")
        return int(asked) - 1 if int(asked) <= len(first) else None
    for place, cell in enumerate(first):
        if cell.strip() == asked or (not asked and cell.strip().lower() == name):
            return place
    return None


def _shown(first: list[str]) -> str:
    return ", ".join(repr(cell[:40]) for cell in first[:8])
