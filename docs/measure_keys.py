"""How long a key takes to show, and how long its ghost text takes: python docs/measure_keys.py RUN TEXT [--core N]

Types the characters of the file TEXT into the real `charrnn repl RUN` in a pseudo-terminal, one after the other as they
are drawn, and looks at the screen that a person would see. Counted is from writing the key to the moment when the key,
and a ghost that is not the rest of the one before, stand on the screen. Where the key is what the ghost said anyway there is
nothing to count; where no ghost comes within half a second (most often because the model would end the line there) it is
told how often. `--before N` enters so many characters of TEXT as a first line. Needs the test extra (pexpect, pyte).
"""

from __future__ import annotations

import argparse
import math
import os
import select
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pexpect
import pyte

COLUMNS, ROWS = 160, 24
LINE = 60  # characters, after which the line is given up and another begins
PAUSE = 0.08  # seconds between the ghost of a key and the next key
GIVE_UP = 0.5
CTRL_U = "\x15"


class Typist:
    """The program, its screen, and a hand on the keyboard."""

    def __init__(self, run: str, core: int | None) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.ByteStream(self.screen)
        environment = {**os.environ, "TERM": "xterm-256color", "CHARRNN_NOHISTORY": "1"}
        environment.pop("NO_COLOR", None)
        pinned = None if core is None else lambda: os.sched_setaffinity(0, {core})
        command = ["-m", "charrnn", "repl", run, "--seed", "1"]
        self.child = pexpect.spawn(sys.executable, command, env=environment, dimensions=(ROWS, COLUMNS), preexec_fn=pinned)
        self.child.delaybeforesend = None
        if not self.until(lambda: self.line() == ">", 20):
            sys.exit("no prompt: " + "\n".join(self.screen.display))

    def line(self) -> str:
        """The line that the cursor is in."""
        return str(self.screen.display[self.screen.cursor.y]).rstrip()

    def ghost(self) -> str:
        """What stands dim after the cursor."""
        cells = [self.screen.buffer[self.screen.cursor.y][x] for x in range(self.screen.cursor.x, COLUMNS)]
        return "".join(cell.data for cell in cells if cell.fg == "brightblack")

    def until(self, wanted: Callable[[], bool], seconds: float) -> float | None:
        """Seconds until the screen is as `wanted`; None if it is not in time."""
        begun = time.perf_counter()
        while not wanted():
            left = begun + seconds - time.perf_counter()
            if left <= 0 or not select.select([self.child.child_fd], [], [], left)[0]:
                return None
            data = os.read(self.child.child_fd, 65536)
            self.stream.feed(data)
            for _ in range(data.count(b"\x1b[6n")):  # "where is the cursor?"
                self.child.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
        return time.perf_counter() - begun

    def type(self, letter: str) -> tuple[float | None, float | None]:
        """Press a key: seconds until it is shown, and until there is a ghost of its own."""
        before, column, begun = self.ghost(), self.screen.cursor.x, time.perf_counter()
        self.child.send(letter)
        shown = self.until(lambda: self.screen.cursor.x == column + 1, GIVE_UP)
        if shown is None or before.startswith(letter):
            return shown, None
        new = self.until(lambda: self.ghost() != "" and self.screen.cursor.x == column + 1, GIVE_UP)
        return shown, math.inf if new is None else time.perf_counter() - begun

    def enter(self, text: str) -> None:
        """Paste a line and wait for the end of its answer."""
        self.child.send(f"\x1b[200~{text}\x1b[201~")
        self.until(lambda: text[-20:].strip() in "".join(self.screen.display), 20)
        self.child.send("\r")
        self.until(lambda: self.line() == ">", 20)

    def clear(self) -> None:
        """Give up the line."""
        self.child.send(CTRL_U)
        self.until(lambda: self.line() == ">", GIVE_UP)


def main() -> None:
    """Type, and print the two rows of a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("text", type=Path)
    parser.add_argument("--keys", type=int, default=1000)
    parser.add_argument("--core", type=int, help="the one core that the program may use")
    parser.add_argument("--before", type=int, default=0, help="characters to enter as a first line")
    asked = parser.parse_args()
    text = " ".join(asked.text.read_text(encoding="utf-8").split())
    letters = text[asked.before : asked.before + asked.keys]
    typist, keys, ghosts = Typist(asked.run, asked.core), list[float](), list[float]()
    if asked.before:
        typist.enter(text[: asked.before])
    for number, letter in enumerate(letters):
        if number % LINE == 0:
            typist.clear()
        shown, ghost = typist.type(letter)
        keys.append(math.inf if shown is None else shown)
        ghosts += [] if ghost is None else [ghost]
        typist.until(lambda: False, PAUSE)
    typist.child.close(force=True)
    for name, all_seconds in (("key", keys), ("ghost", ghosts)):
        seconds = [one for one in all_seconds if one < math.inf]
        cuts = statistics.quantiles(seconds, n=100)
        shares = "   ".join(f"{percent} % {1e3 * cuts[percent - 1]:5.1f} ms" for percent in (50, 95, 99))
        print(f"{name:6} {len(seconds):5} times   {shares}   none {len(all_seconds) - len(seconds)} times")


if __name__ == "__main__":
    main()
