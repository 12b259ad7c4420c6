"""The only writer to stdout and stderr, and the only maker of Rich consoles. Knows nothing of models or commands.

stdout is the product, stderr is everything else. Text that came from a model, a file or a checkpoint is data: on a
terminal every character that could move the cursor, change colours or turn the writing direction is made visible
here; off a terminal the bytes are exactly the text in UTF-8. Rich is imported only where a table or panel is drawn,
so that the short messages of `charrnn sample` cost nothing.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self, TextIO

from charrnn.errors import WriteError

if TYPE_CHECKING:
    from rich.console import Console

_RED, _YELLOW, _DIM, _BOLD = "31", "33", "2", "1"
_FLUSH_SECONDS = 0.2  # off a terminal, the longest a written character waits while more are being written

# C0 without tab and newline, DEL, C1, the marks that turn the writing direction, and lone surrogates.
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """`text` with every character that could act on a terminal replaced by one that shows it; tab and newline stay.

    Control characters below U+0020 become their pictures (escape is ␛), DEL becomes ␡, others their Python escape.
    """
    return _HIDDEN.sub(_picture, text)


def in_place(text: str) -> str:
    """`text` with U+FFFD for every character above the control characters that `visible` replaces, so as long as before."""
    return _TURNING.sub("\ufffd", text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def fancy(stream: TextIO) -> bool:
    """Whether escape sequences may be written to `stream`: a terminal, not a dumb one, and NO_COLOR not set."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "unknown")


def help_colours() -> dict[str, Any]:
    """The settings that make rich-click's help obey the same rule as everything else here."""
    plain = not fancy(sys.stdout)
    return {"force_terminal": not plain, "color_system": None if plain else "auto"}


def rich_console(stream: TextIO) -> Console:
    """A Rich console on `stream`, deaf to markup, emoji codes and highlighting, since what it prints may be data.

    What the stream's encoding lacks becomes a question mark, and a reader that went away raises BrokenPipeError:
    Rich itself would end the process in both cases.
    """
    from rich.console import Console

    class Calm(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    allowed = fancy(stream)
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="replace")
    return Calm(
        file=stream,
        force_terminal=allowed,
        color_system="auto" if allowed else None,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )


def table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str], alarming: Sequence[bool] = (),
    stream: TextIO | None = None,
) -> None:  # fmt: skip
    """Print a table on stdout or `stream`; columns named in `right` are set flush right, rows marked `alarming` in red."""
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        grid.add_column(Text(visible(column)), justify="right" if column in right else "left", overflow="fold")
    for row, alarm in zip(rows, alarming or [False] * len(rows), strict=True):
        grid.add_row(*(Text(visible(cell), style="red" if alarm else "") for cell in row))
    rich_console(stream or sys.stdout).print(grid)


def error(message: str, hint: str = "") -> None:
    """Say what went wrong on stderr, and what to type next."""
    _line(f"{_styled('error:', _RED)} {_wrapped(_safe(message), len('error: '))}")
    if hint:
        _line(f"{_styled('hint:', _YELLOW)} {_safe(hint)}")


def note(message: str) -> None:
    """Say something worth knowing on stderr."""
    _line(_styled(_wrapped(_safe(message)), _DIM))


def say(message: str) -> None:
    """Write a plain line on stderr."""
    _line(_safe(message))


def suggest(message: str) -> None:
    """Suggest the next command; only to a person at a terminal."""
    if sys.stderr.isatty():
        _line(f"{_styled('next:', _BOLD)} {_safe(message)}")


def _wrapped(text: str, begun: int = 0) -> str:
    """A sentence in lines that a terminal need not break in the middle of a word; `begun` columns stand before it."""
    if not sys.stderr.isatty():
        return text
    import shutil
    import textwrap

    width = max(shutil.get_terminal_size().columns - 1, 20)
    lines = textwrap.wrap(
        text, width, initial_indent=" " * begun, break_long_words=False, break_on_hyphens=False, replace_whitespace=False
    )
    return "\n".join(lines)[begun:] if lines else text


def _safe(text: str) -> str:
    return visible(text)  # off a terminal too: messages are no product, and a log is read on a terminal one day


def _styled(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if fancy(sys.stderr) else text


def _line(text: str) -> None:
    """Write a line on stderr. One that cannot be written (a terminal that is gone, a full disk) is lost, no reason to end."""
    try:
        sys.stderr.write(text + "\n")  # Python's stderr escapes what its encoding lacks, so this cannot fail on a character
        sys.stderr.flush()
    except BrokenPipeError:
        raise
    except OSError:
        pass


class Output:
    """The product of a command on its way to stdout or, byte for byte, into an open file.

    On a terminal each piece is made visible and shown at once; elsewhere it is exact UTF-8, and at most
    a moment behind. Raises WriteError when the disk is full; a reader that went away raises BrokenPipeError.
    """

    def __init__(self, file: BinaryIO | None = None) -> None:
        self.tty = file is None and sys.stdout.isatty()
        self._binary = sys.stdout.buffer if file is None else file
        self._encoding = (sys.stdout.encoding or "utf-8") if self.tty else "utf-8"
        self._last, self._flushed_at = "", time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.flush()

    def write(self, text: str) -> None:
        """Write `text`; on a terminal, and elsewhere five times a second, what was written also arrives."""
        if not text:
            return
        self._last = text[-1]
        data = visible(text) if self.tty else text
        try:
            self._binary.write(data.encode(self._encoding, "replace"))
        except BrokenPipeError:
            raise
        except OSError as error:
            raise WriteError(f"cannot write the output: {error.strerror}", "Free some space and try again.") from error
        if self.tty or time.monotonic() - self._flushed_at > _FLUSH_SECONDS:
            self.flush()

    @property
    def empty(self) -> bool:
        """Whether nothing was written yet."""
        return not self._last

    def end_line(self) -> None:
        """End the last line, unless it has ended already."""
        if self._last != "\n":
            self.write("\n")

    def flush(self) -> None:
        """Let everything written so far arrive."""
        try:
            self._binary.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise WriteError(f"cannot write the output: {error.strerror}", "Free some space and try again.") from error
        self._flushed_at = time.monotonic()


@contextlib.contextmanager
def unechoed() -> Iterator[None]:
    """Keys pressed inside do not show: not in the middle of a poem, and no `^C` that moves a panel by a line.

    They wait for whoever reads next. Without a terminal on stdin, or without termios (Windows), nothing changes; nor from
    the background, where it is the shell's. Who is suspended meanwhile (Ctrl-Z) leaves the terminal as it was, too.
    """
    if not in_foreground():
        yield
        return
    import signal
    import termios

    before = termios.tcgetattr(sys.stdin)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]

    def set_to(state: list[Any]) -> None:
        with contextlib.suppress(termios.error):  # the terminal is gone
            if in_foreground():
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, state)

    def suspended(number: int, frame: FrameType | None) -> None:
        if fancy(sys.stderr):
            sys.stderr.write("\x1b[?25h")  # a panel hides the cursor
            sys.stderr.flush()
        set_to(before)
        os.kill(os.getpid(), signal.SIGSTOP)
        set_to(silent)

    earlier = signal.getsignal(signal.SIGTSTP)
    if earlier is signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, suspended)
    set_to(silent)
    try:
        yield
    finally:
        set_to(before)
        if earlier is signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, earlier)


def in_foreground() -> bool:
    """Whether a person at a terminal types for this process."""
    return typing() and hasattr(os, "tcgetpgrp") and not in_background()


def in_background() -> bool:
    """Whether the terminal is somebody else's now: after `&`, or Ctrl-Z and `bg`; what is drawn there would be in the way."""
    try:
        return typing() and os.tcgetpgrp(sys.stdin.fileno()) != os.getpgrp()
    except (OSError, AttributeError):  # no terminal of ours; Windows, where there is no background
        return False


def typing() -> bool:
    """Whether stdin is a person at a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def width(text: str) -> int:
    """The columns that a text takes on a terminal: two for a Chinese character."""
    from rich.cells import cell_len

    return cell_len(text)


def shown_path(path: Path) -> str:
    """A path as people write it: relative to where they are, if it lies there."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def quoted(text: str) -> str:
    """`text` as one word of a shell, for commands that people are told to type."""
    import shlex

    return shlex.quote(text)
