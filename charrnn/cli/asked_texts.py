"""The texts that a command is to answer one by one: arguments, lines of stdin as they come, and files row by row.

Knows nothing of models. `None` between texts says that whoever reads them should answer now, since the next may be long
in coming.
"""

from __future__ import annotations

import codecs
import sys
from collections.abc import Callable, Iterator, Sequence

from charrnn.cli import console, reading
from charrnn.config import ReadingConfig
from charrnn.errors import CorpusError
from charrnn.text import single
from charrnn.text.encodings import check_encoding
from charrnn.text.single import Single
from charrnn.text.sources import BLOCK, find_sources, reported

LONGEST_LINE = 16 << 20  # characters
STDIN = "standard input"
Found = Iterator[Single | None]


def prepare(arguments: Sequence[str], literal: bool, asked: ReadingConfig, labelled: bool) -> list[Callable[[], Found]]:
    """What reads the texts of each argument; files have been found, but nothing was read. Raises CorpusError, UsageError."""
    check_encoding(asked.encoding)
    return [_reader(argument, literal, asked, labelled) for argument in arguments]


def _reader(argument: str, literal: bool, asked: ReadingConfig, labelled: bool) -> Callable[[], Found]:
    if argument == "-" and not literal:
        if sys.stdin is None:
            raise CorpusError("there is no standard input to read.", "Name a file, or give the text itself.")
        return lambda: lines_of_stdin(asked)
    if literal or not reading.is_file(argument):
        text = reading.literal(argument, "the text") if literal else reading.words(argument)
        if not text.strip():
            raise CorpusError("the text is empty; there is nothing to tell of it.", "Give some text.")
        return lambda: iter([Single(text)])
    (source,) = find_sources([argument])
    return lambda: single.read(source, asked, labelled)


def lines_of_stdin(asked: ReadingConfig) -> Found:
    """The lines of stdin, and None whenever all that have come were told; raises CorpusError."""
    if console.typing():
        console.note("one text a line; end with Ctrl-D on an empty line")
    encoding = "utf-8-sig" if codecs.lookup(asked.encoding).name == "utf-8" else asked.encoding
    decoder, held = codecs.getincrementaldecoder(encoding)(asked.errors), ""
    read: Callable[[int], bytes] = getattr(sys.stdin.buffer, "read1", sys.stdin.buffer.read)  # what is there, no more
    while True:
        with reported(STDIN):
            block = read(BLOCK)
        try:
            *lines, held = (held + decoder.decode(block, final=not block)).split("\n")
        except UnicodeError as error:
            raise CorpusError(f"{STDIN} is not {asked.encoding}.", "Name its --encoding, or use --errors replace.") from error
        yield from (Single(line.removesuffix("\r")) for line in lines)
        if len(held) > LONGEST_LINE:
            raise CorpusError(f"a line of {STDIN} has more than {LONGEST_LINE:,} characters.", "Give one text a line.")
        if not block:
            yield from [Single(held.removesuffix("\r"))] if held else []
            return
        yield None
