"""Every error a user can cause, each with a hint and an exit code.

    CharrnnError                 1   something failed
    |-- UsageError               2   an option or argument is wrong
    |-- DataError               65   a text, checkpoint or token file is bad
    |   |-- CorpusError               a text to read
    |   |-- TokenizerError            a tokenizer that cannot be built or read
    |   `-- CheckpointError           a run, model or last file
    |-- CannotCreateError       73   an output file cannot be made
    |-- WriteError              74   a write failed half-way (disk full, input/output error)
    |-- LockedError             75   another process owns the run
    `-- Elsewhere                1   another rank of a distributed run failed, and says why

A message says what was found and what was expected; the hint says what to type next. The exit codes are those of
sysexits.h (EX_DATAERR, EX_CANTCREAT, EX_IOERR, EX_TEMPFAIL). Programming mistakes are not here: those are assertions.
"""

from __future__ import annotations


class CharrnnError(Exception):
    """Base of all expected failures; `message` for people, `hint` for what to type next (may be empty)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(CharrnnError):
    """An option, an argument or a combination of them that cannot be meant."""

    exit_code = 2


class DataError(CharrnnError):
    """Input that was read but is not what it should be."""

    exit_code = 65


class CorpusError(DataError):
    """A text that cannot be read, decoded or trained on."""


class TokenizerError(DataError):
    """A tokenizer that cannot be built from this text or read from this file."""


class CheckpointError(DataError):
    """A run folder or checkpoint file that is missing, damaged, foreign or from a newer version."""


class CannotCreateError(CharrnnError):
    """An output file or folder that cannot be created."""

    exit_code = 73


class WriteError(CharrnnError):
    """A write that failed; what stood there before still stands."""

    exit_code = 74


class LockedError(CharrnnError):
    """A run that another process is training right now."""

    exit_code = 75


class Elsewhere(CharrnnError):
    """Another rank of this run failed, and tells why; this one ends without a word."""

    def __init__(self) -> None:
        super().__init__("")
