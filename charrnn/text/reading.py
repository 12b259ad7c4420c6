"""From a source's bytes to text, piece by piece, in memory that does not grow with the file.

The chain is: blocks of bytes (a .gz unpacked), decoded text (a byte order mark wins over --encoding), newlines made
one, and for .jsonl, .csv and .tsv the rows taken apart. Every fault of a file is a CorpusError that names it.

Rows: .jsonl is one JSON object a line. .csv is quoted as Python's csv module has it; .tsv knows no quotes. Their first
row is a header if --column is a name that stands in it, or, with nothing asked for, if "text" does; with a number, or
with one column without a header, every row counts. Each row is a document; so is each plain file.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from typing import IO, Any, cast

from charrnn.config import ReadingConfig
from charrnn.errors import CorpusError, UsageError
from charrnn.text.encodings import check_encoding, guess
from charrnn.text.sources import BLOCK, Readable, Source, unreadable
from charrnn.text.tokenizers import well_formed

SIGNATURES = (  # of what people have their texts in, and take for text
    (b"\x89PNG", "a picture"), (b"\xff\xd8\xff", "a picture"), (b"GIF8", "a picture"), (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a zip archive, as .docx, .odt and .epub are"), (b"\xd0\xcf\x11\xe0", "an old Word document"),
    (b"\x1f\x8b", "packed by gzip without being called .gz"),
)  # fmt: skip
MAX_ROW = 16 << 20  # characters: as Python objects, those of the worst row take some 30 bytes each
GUESSED_FROM = 4 << 20  # bytes
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def pieces(source: Source, reading: ReadingConfig, block: int = BLOCK) -> Iterator[tuple[int, str]]:
    """The text of `source` as (row, piece of text), rows rising, pieces never empty; a plain file has one row.

    `block` is how many bytes are read at once; it has no influence on the text. Raises CorpusError for every fault of
    the file and UsageError for an impossible encoding or column.
    """
    text = decoded(source, reading, block)
    if source.format == "text":
        yield from ((0, piece) for piece in text if piece)
        return
    rows = _json_rows(source, reading, text) if source.format == "jsonl" else _table(source, reading, text)
    for line, row in rows:
        checked = cell(row, reading, f"{source.name!r}, line {line:,}")
        if checked:
            yield line, checked


def decoded(source: Source, reading: ReadingConfig, block: int = BLOCK) -> Iterator[str]:
    """The text of `source` in pieces, its newlines made one; errors as those of `pieces`."""
    check_encoding(reading.encoding)
    text = _decoded(source, reading, block)
    return _unified(text) if reading.newline == "lf" else text


def cell(text: str, reading: ReadingConfig, where: str) -> str:
    """The text of one cell of a row, its newlines made one; raises CorpusError if it is no text."""
    return _checked(_one_newline(text) if reading.newline == "lf" else text, reading, where)


def _blocks(source: Source, reading: ReadingConfig, size: int) -> Iterator[bytes]:
    total = 0
    try:
        with source.open() as file:
            stream: Readable = gzip.GzipFile(fileobj=cast(IO[bytes], file), mode="rb") if source.packed else file
            while block := stream.read(size):
                total += len(block)
                if source.packed and total > reading.max_unpacked:
                    limit = f"more than {reading.max_unpacked:,} bytes"
                    raise CorpusError(f"{source.name!r} unpacks to {limit}.", "If that is meant, raise --max-unpacked.")
                yield block
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        reason = "it ends too early" if isinstance(error, EOFError) else str(error)
        hint = "Fetch it again, or unpack it yourself."
        raise CorpusError(f"{source.name!r} is no proper .gz file: {reason}.", hint) from error
    except OSError as error:
        raise unreadable(source.name, error) from error


def _decoded(source: Source, reading: ReadingConfig, size: int) -> Iterator[str]:
    blocks = _blocks(source, reading, size)
    head = b""
    for block in blocks:  # as a rule the first one is enough
        head += block
        if len(head) >= 4:
            break
    mark, encoding = next(((mark, name) for mark, name in MARKS if head.startswith(mark)), (b"", reading.encoding))
    decoder, fed = codecs.getincrementaldecoder(encoding)(reading.errors), len(mark)
    for data, final in _with_end(head[len(mark) :], blocks):
        fed += len(data)
        try:
            text = decoder.decode(data, final)
        except UnicodeDecodeError as error:
            raise _undecodable(source, reading, encoding, error, fed - len(error.object) + error.start) from error
        except UnicodeError as error:
            raise CorpusError(f"{source.name!r} is not {encoding}: {error}.", "Name another --encoding.") from error
        yield _checked(text, reading, f"{source.name!r}")


def _with_end(first: bytes, rest: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    yield first, False
    yield from ((block, False) for block in rest)
    yield b"", True


def _undecodable(source: Source, reading: ReadingConfig, encoding: str, error: UnicodeDecodeError, offset: int) -> CorpusError:
    shown = error.object[error.start : max(error.end, error.start + 1)][:4].hex(" ")
    start, whole = b"", True
    for block in _blocks(source, reading, BLOCK):
        start += block
        if len(start) >= GUESSED_FROM:
            whole = False
            break
    hint = _hint(start, whole, encoding)
    return CorpusError(f"{source.name!r} is not {encoding}: the bytes {shown} at offset {offset:,} do not decode.", hint)


def _hint(start: bytes, whole: bool, encoding: str) -> str:
    """What a file that does not decode may be, by its `start`."""
    for signature, kind in SIGNATURES:
        if start.startswith(signature):
            return f"It begins like {kind}: save its text as plain text (.txt) and train on that."
    other = guess(start, whole, encoding)
    return f"It decodes as {other}: try --encoding {other}." if other else "Name its --encoding, or use --errors replace."


def _checked(text: str, reading: ReadingConfig, where: str) -> str:
    """`text`, its lone surrogates replaced or refused (.jsonl may hold them, and UTF-7)."""
    clean = well_formed(text)
    if clean is not text and reading.errors == "strict":
        raise CorpusError(f"{where} holds half a surrogate pair, which is no character.", "Mend it, or use --errors replace.")
    return clean


def _unified(text: Iterable[str]) -> Iterator[str]:
    """CRLF and CR become LF; a CR at the end of a piece waits for the next one."""
    held = ""
    for piece in text:
        joined = held + piece
        held = "\r" if joined.endswith("\r") else ""
        yield _one_newline(joined[: len(joined) - len(held)])
    if held:
        yield "\n"


def _one_newline(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def lines(source: Source, text: Iterable[str]) -> Iterator[str]:
    """Lines with their LF, and nothing else taken for a line end; bounded in length."""
    held: list[str] = []
    size = 0
    for piece in text:
        *complete, rest = piece.split("\n")
        for line in complete:
            held.append(line + "\n")
            yield "".join(held)
            held, size = [], 0
        held.append(rest)
        size += len(rest)
        if size > MAX_ROW:
            raise _too_long(source)
    if size:
        yield "".join(held)


def _too_long(source: Source) -> CorpusError:
    found = f"a row of {source.name!r} has more than {MAX_ROW:,} characters"
    return CorpusError(f"{found}.", "If it holds no rows, call it .txt.")


def _json_rows(source: Source, reading: ReadingConfig, text: Iterable[str]) -> Iterator[tuple[int, str]]:
    for number, row in json_rows(source, text):
        where = f"{source.name!r}, line {number:,}"
        if not isinstance(row, dict) or not isinstance(row.get(reading.field), str):
            found = f"has no text in a field {reading.field!r}; {what_it_is(row)}"
            raise CorpusError(f"{where} {found}.", "Name the field with --field.")
        yield number, row[reading.field]


def json_rows(source: Source, text: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """The JSON values of .jsonl, with their lines; raises CorpusError."""
    for number, line in enumerate(lines(source, text), start=1):
        if not line.strip():
            continue
        where = f"{source.name!r}, line {number:,}"
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else "a value too large"
            raise CorpusError(f"{where} is not JSON: {reason}.", "Mend that line, or take it out.") from error


def what_it_is(row: Any) -> str:
    """What a row of .jsonl is, for a message."""
    if not isinstance(row, dict):
        return "it is no JSON object"
    names = ", ".join(repr(name[:40]) for name in list(row)[:8])
    return f"its fields are {names}" if names else "it has no fields"


def _table(source: Source, reading: ReadingConfig, text: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The cells of one column, with the line each row ends on."""
    rows = csv_rows(source, text)
    first = next(rows, None)
    if first is None:
        return
    column, header = _column(source, reading, first[1])
    if not header:
        yield first[0], _cell(source, first, column)
    for row in rows:
        yield row[0], _cell(source, row, column)


class _RowLines:
    """Lines for the csv module, which takes one after the other while quotes are open: as many as a row may have."""

    def __init__(self, source: Source, lines: Iterator[str]) -> None:
        self._source, self._lines, self._size = source, lines, 0

    def __iter__(self) -> Iterator[str]:
        for line in self._lines:
            self._size += len(line)
            if self._size > MAX_ROW:
                raise _too_long(self._source)
            yield line

    def begin_row(self) -> None:
        """The row in hand is complete."""
        self._size = 0


def csv_rows(source: Source, text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row of .csv, or of anything else with tabs between them, and the line it ends on; raises CorpusError."""
    csv.field_size_limit(MAX_ROW)  # the module's own, 131,072, is less than a chapter; it can only be set for all
    numbered = _RowLines(source, lines(source, text))
    if source.format == "csv":
        reader = csv.reader(numbered, strict=True)
    else:
        reader = csv.reader(numbered, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            where = f"{source.name!r}, line {reader.line_num:,}"
            why = str(error) if "new-line" not in str(error) else "a carriage return stands alone in it"
            raise CorpusError(f"{where} is no proper .{source.format}: {why}.", "Mend that line, or take it out.") from error
        if row is None:
            return
        numbered.begin_row()
        if row:
            yield reader.line_num, row


def _column(source: Source, reading: ReadingConfig, first: list[str]) -> tuple[int, bool]:
    """Which column holds the text, from 0, and whether the first row is a header."""
    asked = reading.column
    if asked.isascii() and asked.isdigit() and len(asked) < 10:
        if int(asked) < 1:
            raise UsageError(f"--column is {asked}; columns are counted from 1.", "Give --column 1 for the first one.")
        return int(asked) - 1, False
    for column, name in enumerate(first):
        if name.strip() == asked or (not asked and name.strip().lower() == "text"):
            return column, True
    if not asked and len(first) == 1:
        return 0, False
    wanted = f"no column {asked!r}" if asked else f"{len(first)} columns"
    names = ", ".join(repr(name[:40]) for name in first[:8])
    raise CorpusError(f"{source.name!r} has {wanted}; its first row is {names}.", "Name one with --column, by name or number.")


def _cell(source: Source, row: tuple[int, list[str]], column: int) -> str:
    line, cells = row
    if column >= len(cells):
        found = f"has {len(cells)} columns; expected at least {column + 1}"
        raise CorpusError(f"{source.name!r}, line {line:,} {found}.", "Mend that line, or name another --column.")
    return cells[column]
