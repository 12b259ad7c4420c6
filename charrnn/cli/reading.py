"""Texts named on the command line: given literally, as a file, or on stdin. Knows nothing of what becomes of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from charrnn.cli import console
from charrnn.config import ReadingConfig
from charrnn.errors import CorpusError, UsageError


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
    if "." in value.strip(".") and not any(map(str.isspace, value)):
        console.note(f"there is no file {value[:100]!r}: these are the words themselves")
    return literal(value, "the text")


def documents(files: Sequence[str], asked: Mapping[str, Any]) -> list[str]:
    """Whole texts, read as training reads them."""
    from charrnn.text import corpus

    _invite(files)
    return corpus.documents(files, ReadingConfig(**asked))


def literal(value: str, name: str) -> str:
    """An argument as text; the shell may have handed over bytes that are not UTF-8, which no model has learnt."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(f"{name} is not valid UTF-8.", "Type it again, or put it into a file.") from None
    return value


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


def is_file(value: str) -> bool:
    """Whether there is something of that name that can be read."""
    try:
        return os.path.exists(value) and not os.path.isdir(value)
    except ValueError:  # a NUL in the name
        return False
