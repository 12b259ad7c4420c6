"""Texts named on the command line: given literally, as a file, or on stdin. Knows nothing of what becomes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from charrnn.cli import console
from charrnn.config import ReadingConfig
from charrnn.errors import CorpusError, UsageError

if TYPE_CHECKING:
    from charrnn.text.sources import Source


def prompt(value: str) -> str:
    """The prompt that TEXT, @FILE or - means; @@ begins a text with @. One line end at the end of a file is dropped."""
    if value.startswith("@@"):
        return literal(value[1:], "--prompt")
    if value == "-" or value.startswith("@"):
        return _file(value.removeprefix("@") if value != "-" else value).removesuffix("\n")
    return literal(value, "--prompt")


def text_or_file(value: str) -> str:
    """The text of TEXT|FILE|-: a file if there is one of that name, else the words themselves."""
    if value == "-" or is_file(value):
        return _file(value)
    return words(value)


def words(value: str) -> str:
    """An argument that names no file, as text; a note, if it looks like the name of one. Raises UsageError."""
    if "." in value.strip(".") and not any(map(str.isspace, value)):
        console.note(f"there is no file {value[:100]!r}: these are the words themselves")
    return literal(value, "the text")


def is_file(value: str) -> bool:
    """Whether there is something of that name that can be read as a file is."""
    try:
        return os.path.exists(value) and not os.path.isdir(value)
    except ValueError:  # a NUL in the name
        return False


def literal(value: str, name: str) -> str:
    """An argument as text; the shell may have handed over bytes that are not UTF-8, which no model has learnt."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not valid UTF-8.", "Type it again, or put it into a file.") from None
    return value


def tell_unknown(characters: Sequence[str]) -> None:
    """Name characters that a model cannot read; it goes on with <unk> in their place."""
    if not characters:
        return
    named = ", ".join(f"'{console.visible(character)}' (U+{ord(character):04X})" for character in characters[:8])
    more = f" and {len(characters) - 8} more" if len(characters) > 8 else ""
    console.note(f"the model has never seen {named}{more}: read as <unk>")


def tell_cut(number: int, what: str) -> None:
    """Say of how many texts or sources (`what`) only the beginning was read, if of any."""
    from charrnn.text.examples import LONGEST_READ

    if number:
        several = "" if number == 1 else "s"
        console.note(f"of {number:,} {what}{several} only the first {LONGEST_READ:,} tokens were read")


def sources(files: Sequence[str]) -> list[Source]:
    """What is to be read, for once or several times."""
    from charrnn.text.sources import find_sources

    _invite(files)
    return find_sources(files)


def documents_of(found: Sequence[Source], asked: Mapping[str, Any]) -> list[str]:
    """Whole texts, read as training reads them."""
    from charrnn.text import corpus

    return corpus.documents_of(found, ReadingConfig(**asked))


def _file(name: str) -> str:
    """A file's text (or stdin's, for -), by the rules for a corpus: a byte order mark wins, CRLF becomes LF."""
    from charrnn.text import corpus

    if name != "-" and not is_file(name):  # a corpus may be a folder or a pattern, this may not
        raise CorpusError(f"there is no file {name!r}.", "Check the path; a text that begins with @ is written @@.")
    _invite([name])
    return corpus.read_text([name], ReadingConfig())


def _invite(names: Sequence[str]) -> None:
    if "-" in names and console.typing():
        console.note("reading from the terminal; end with Ctrl-D on an empty line")
