"""Where a product goes: stdout, or a file that is whole or not there. Knows nothing of what is written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from charrnn.cli import console
from charrnn.errors import CannotCreateError


@contextmanager
def opened(output: str | None, option: str = "-o") -> Iterator[console.Output]:
    """The file that `option` names, or stdout for none and for `-`; raises CannotCreateError or WriteError."""
    if output in (None, "-"):
        with console.Output() as out:
            yield out
        return
    with file(output or "", option) as binary, console.Output(binary) as out:
        yield out


@contextmanager
def file(output: str, option: str = "-o") -> Iterator[BinaryIO]:
    """The file that `option` names, open for bytes; it takes its place when all is written."""
    from charrnn import durable

    if not output or "\0" in output or os.path.isdir(output):
        raise CannotCreateError(f"cannot write {output!r}: that is no name for a file.", f"Give {option} another one.")
    with durable.replacing(Path(output)) as binary:
        yield binary
