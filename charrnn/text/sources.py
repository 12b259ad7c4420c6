"""Where a corpus comes from: files, folders, globs and standard input, as a list of sources that can be read twice.

* a file is taken whatever it is called; its suffix says how it is read (.jsonl, .csv, .tsv; .gz around any of them;
  everything else is plain text);
* a folder gives all files below it, in the order of their paths, but no hidden ones; a file whose suffix is unknown is
  taken if its first bytes hold no NUL, which leaves out pictures and programs;
* a glob (`*`, `?`, `[`, `**`) gives what it matches, in order;
* `-` is standard input. It and other pipes are copied to a temporary file first, because a corpus is read twice.

A file that is named twice is read once. Knows nothing of what is inside the files.
"""

from __future__ import annotations

import contextlib
import difflib
import glob
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from charrnn.errors import CorpusError, WriteError

BLOCK = 1 << 20  # bytes
MAX_PIPE = 8 << 30  # bytes a pipe may bring
ROWS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv"}
PLAIN = (".txt", ".md", ".text")
RUN_LOG, RUN_FILES = "metrics.jsonl", {"model.safetensors", "last.safetensors"}  # what marks a folder as a run
PROBED = 8192  # bytes looked at for a NUL


class Readable(Protocol):
    """All that reading asks of an open file."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes; none at the end."""


class _Spool:
    """A temporary file without a name; it is gone when nobody holds it, however the process ends."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the object

    def __del__(self) -> None:
        self.file.close()


class _SpoolReader:
    """A reader with a position of its own, so that two may read one spool."""

    def __init__(self, spool: _Spool) -> None:
        self._spool, self._position = spool, 0

    def read(self, size: int = -1, /) -> bytes:
        self._spool.file.seek(self._position)
        data = self._spool.file.read(size)
        self._position += len(data)
        return data


@dataclass(frozen=True)
class Source:
    """One file of a corpus; `argument` is what the user named, `spool` the copy of a pipe."""

    name: str
    argument: str
    path: Path
    spool: _Spool | None = None

    @property
    def packed(self) -> bool:
        """Whether it is a .gz."""
        return self.path.suffix.lower() == ".gz"

    @property
    def format(self) -> str:
        """ "text", "jsonl", "csv" or "tsv"."""
        path = self.path.with_suffix("") if self.packed else self.path
        return ROWS.get(path.suffix.lower(), "text")

    @contextlib.contextmanager
    def open(self) -> Iterator[Readable]:
        """The raw bytes from the beginning; may raise OSError."""
        if self.spool is not None:
            yield _SpoolReader(self.spool)
        else:
            with open(self.path, "rb") as file:
                yield file


def is_kept(name: str) -> bool:
    """Whether what a file names can be read again, and has an end: a file, a folder or a glob, no pipe and no device."""
    if "\0" in name:
        return False
    return os.path.isfile(name) or os.path.isdir(name) or (glob.has_magic(name) and not os.path.exists(name))


def find_sources(arguments: Sequence[str], stdin: Readable | None = None) -> list[Source]:
    """The sources that `arguments` name (see the module's docstring); `stdin` stands in for standard input.

    Raises CorpusError for what is missing, unreadable or holds no text files.
    """
    if not arguments:
        raise CorpusError("no text was named.", "Name a file, a folder, a glob, or - for standard input.")
    found: dict[str, Source] = {}
    for argument in arguments:
        for source in _found(argument, stdin):
            found.setdefault(source.name if source.spool else os.path.realpath(source.path), source)
    return list(found.values())


def raw_digest(sources: Sequence[Source]) -> str:
    """SHA-256 (hex) over the length and the bytes of each source, in order; raises CorpusError."""
    digest = hashlib.sha256()
    for source in sources:
        inner, length = hashlib.sha256(), 0
        with reported(source.name), source.open() as file:
            while block := file.read(BLOCK):
                inner.update(block)
                length += len(block)
        digest.update(length.to_bytes(8, "little") + inner.digest())
    return digest.hexdigest()


def stem(sources: Sequence[Source]) -> str:
    """A name for a run on these sources: that of the first argument without its suffixes; "text" for a pipe.

    And for a home folder, which is called as its owner is: the name goes into the model, and models are shared.
    """
    first = sources[0]
    if first.spool is not None:
        return "text"
    path = Path(first.argument)
    if path.is_dir():
        at_home = os.path.realpath(path) == os.path.realpath(os.path.expanduser("~"))
        return "text" if at_home else path.resolve().name or "text"
    path = first.path.with_suffix("") if first.packed else first.path
    return path.stem or "text"


@contextlib.contextmanager
def reported(name: str) -> Iterator[None]:
    """Turn an OSError into a CorpusError that names the file."""
    try:
        yield
    except OSError as error:
        raise unreadable(name, error) from error


def unreadable(name: str, error: OSError) -> CorpusError:
    """The CorpusError for an OSError."""
    return CorpusError(f"cannot read {name!r}: {error.strerror or error}.", "Check the path and its permissions.")


def _found(argument: str, stdin: Readable | None) -> list[Source]:
    if argument == "-":
        return [Source("standard input", argument, Path("-"), _spooled("standard input", stdin or _standard_input()))]
    if os.path.isdir(argument):
        return _in_folder(argument)
    if os.path.isfile(argument):
        return [Source(argument, argument, Path(argument))]
    if os.path.exists(argument):
        with reported(argument), open(argument, "rb") as pipe:
            return [Source(argument, argument, Path(argument), _spooled(argument, pipe))]
    if glob.has_magic(argument) and "\0" not in argument:
        return _matching(argument)
    raise CorpusError(f"there is no file or folder {argument!r}.", _similar(argument))


def _standard_input() -> Readable:
    if sys.stdin is None:
        raise CorpusError("there is no standard input to read.", "Name a file instead of -.")
    return sys.stdin.buffer


def _spooled(name: str, pipe: Readable) -> _Spool:
    spool, size = _Spool(), 0
    read = getattr(pipe, "read1", pipe.read)  # of a terminal, what is there: its end need not be typed twice
    while True:
        with reported(name):
            block = read(BLOCK)
        if not block:
            return spool
        size += len(block)
        if size > MAX_PIPE:
            raise CorpusError(f"{name} brings more than {MAX_PIPE:,} bytes.", "Save it to a file and name that.")
        try:
            spool.file.write(block)
        except OSError as error:
            raise WriteError(f"cannot copy {name} to a temporary file: {error.strerror}.", "Free some space.") from error


def _in_folder(folder: str, argument: str = "") -> list[Source]:
    paths = sorted(_walked(folder), key=lambda path: path.parts)
    if not paths:
        raise CorpusError(f"the folder {folder!r} holds no text files.", "Name the files themselves.")
    return [Source(str(path), argument or folder, path) for path in paths]


def _walked(folder: str) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        if RUN_LOG in files and RUN_FILES & set(files):  # a run of ours is no text, its log neither
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(parent, name) for name in files if not name.startswith("."))
        yield from (path for path in paths if os.path.isfile(path) and _is_text(path))


def _refuse(error: OSError) -> None:
    raise unreadable(str(error.filename), error) from error


def _is_text(path: Path) -> bool:
    suffix = (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()
    if suffix in PLAIN or suffix in ROWS:
        return True
    with reported(str(path)), open(path, "rb") as file:
        return b"\0" not in file.read(PROBED)


def _matching(pattern: str) -> list[Source]:
    found: list[Source] = []
    for match in sorted(glob.glob(pattern, recursive=True), key=lambda name: Path(name).parts):
        if os.path.isfile(match):
            found.append(Source(match, pattern, Path(match)))
    if not found:
        raise CorpusError(f"no file matches {pattern!r}.", "Check the pattern, or name the files.")
    return found


def _similar(argument: str) -> str:
    """A hint that names a file spelt alike, if there is one."""
    folder, name = os.path.split(argument)
    try:
        names = os.listdir(folder or ".")
    except (OSError, ValueError):
        names = []
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {os.path.join(folder, close[0])!r}?" if close else "Check the spelling and the folder you are in."
