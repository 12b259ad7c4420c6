"""The program in a real pseudo-terminal, before a screen that understands escapes and answers where the cursor is.

It is forked from this process, which has loaded what it needs: a fresh start takes most of the time of such a test.
"""

from __future__ import annotations

import os
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pexpect
import pyte
from forked import become, command

from charrnn.cli import chat, main, prompt, repl, sample, writing  # noqa: F401 - loaded before children are forked

ROOT = Path(__file__).parent.parent
CTRL_C, CTRL_D, CTRL_E, CTRL_G, TAB = "\x03", "\x04", "\x05", "\x07", "\t"
UP, RIGHT, CTRL_RIGHT, ALT_F, ALT_ENTER = "\x1b[A", "\x1b[C", "\x1b[1;5C", "\x1bf", "\x1b\r"


def environment(world: Path, **more: str) -> dict[str, str]:
    dropped = {"NO_COLOR", "FORCE_COLOR", "PYTHONWARNINGS"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    own = {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(world / "state"), "TERM": "xterm-256color"}
    return kept | own | {"COLUMNS": "", "LINES": ""} | more


class Terminal:
    """The program in a pseudo-terminal, and what a person would see."""

    def __init__(
        self, world: Path, options: list[str], env: Mapping[str, str], size: tuple[int, int] = (24, 100), code: str = ""
    ) -> None:  # fmt: skip
        """Run `charrnn` with `options`, after other Python `code` if there is any."""

        def program() -> None:
            os.closerange(3, 1024)  # one of them is where pexpect waits for an exec, which there is none of
            os.environ.clear()
            os.environ.update(env)
            become(lambda: (exec(code, {"__name__": "__main__"}), command(*options)())[1])

        self.child = pexpect.spawn("true", cwd=str(world), preexec_fn=program, dimensions=size, timeout=20)
        self.child.delaybeforesend = None
        self.child.delayafterclose = self.child.delayafterterminate = self.child.ptyproc.delayafterclose = 0.01
        self.before = termios.tcgetattr(self.child.child_fd)
        self.screen = pyte.Screen(size[1], size[0])
        self.stream, self.raw = pyte.ByteStream(self.screen), b""

    def resize(self, rows: int, columns: int) -> None:
        """Another size of the window."""
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def colours(self, text: str) -> set[str]:
        """The colours of `text` where it stands on the screen for the last time."""
        rows = [y for y, line in enumerate(self.screen.display) if text in line]
        start = self.screen.display[rows[-1]].rindex(text)
        return {
            self.screen.buffer[rows[-1]][x].fg for x in range(start, start + len(text)) if self.screen.display[rows[-1]][x] != " "
        }

    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def read(self) -> bool:
        """Take in what has come; False at the end."""
        try:
            data = self.child.read_nonblocking(65536, 0.05)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += data
        self.stream.feed(data)
        for _ in range(data.count(b"\x1b[6n")):  # "where is the cursor?"
            self.child.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
        return True

    def until(self, wanted: Callable[[], bool]) -> None:
        limit = time.monotonic() + 20
        while not wanted():
            assert self.read() or wanted(), f"ended: {self.lines()}"
            assert time.monotonic() < limit, f"waited in vain: {self.lines()}"

    def shows(self, text: str) -> None:
        self.until(lambda: text in "\n".join(self.lines()))

    def line(self) -> str:
        """The line that the cursor is in."""
        return self.screen.display[self.screen.cursor.y].rstrip()

    def prompted(self) -> None:
        """Wait for an empty prompt; the line editor switches bracketed paste on when it is ready for keys."""
        self.until(lambda: self.line() in (">", ".") and self.raw.rfind(b"\x1b[?2004h") > self.raw.rfind(b"\x1b[?2004l"))

    def types(self, keys: str, shown: str | None = None) -> None:
        """Press `keys` and wait until the line is `shown` (what was typed, if None)."""
        self.child.send(keys)
        self.until(lambda: self.line().startswith("> " + (keys if shown is None else shown)))

    def enter(self, line: str) -> None:
        """Type a line at an empty prompt, and Enter."""
        self.prompted()
        entered = self.raw.count(b"\x1b[?2004l")
        self.child.send(line + "\r")
        self.until(lambda: self.raw.count(b"\x1b[?2004l") > entered)

    def leaves(self, code: int) -> None:
        """The program ends with `code`, and has left the terminal as it found it."""
        while self.read():
            pass
        after = termios.tcgetattr(self.child.child_fd)
        self.child.close()
        assert (self.child.exitstatus, self.child.signalstatus) == (code, None)
        assert after == self.before
        assert self.raw.rfind(b"\x1b[?2004l") >= self.raw.rfind(b"\x1b[?2004h")  # bracketed paste is off
        assert self.raw.rfind(b"\x1b[?25h") >= self.raw.rfind(b"\x1b[?25l")  # the cursor is shown
