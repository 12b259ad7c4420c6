"""Make the pictures of the README from real sessions: python docs/make_session_svg.py

Runs `charrnn repl` and `charrnn chat` with the committed models in a pseudo-terminal, types what a person would type, and
lets Rich export the screen to docs/session.svg and docs/chat.svg. Needs the test extra (pexpect, pyte). Nothing on the
pictures is written by hand.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = 84


@dataclass(frozen=True)
class Scene:
    """One picture: a command, and the keys that are pressed one group after the other."""

    name: str
    rows: int
    command: str
    keys: tuple[str, ...]


WRITING = (
    "The river keeps\r",
    "/alternatives 3\r",
    "2",
    "/branch storm\r",
    "/retry\r",
    "/tree\r",
    "/heat on\r",
    "And in the eve",
)
TALKING = ("hello\r", "what is your name\r", "do you like rain?\r", "whats your favourite colour\r", "who is Button\r", "good ni")
SCENES = (
    Scene("session", 49, "charrnn repl poems --seed 12 --length 90 --temp 0.6", WRITING),
    Scene("chat", 15, "charrnn chat dialogues --seed 3", TALKING),
)


def main() -> None:
    """Play each scene, draw its screen, write its file."""
    for scene in SCENES:
        export(played(scene), scene)


def played(scene: Scene) -> pyte.Screen:
    """The screen after all keys have been pressed."""
    screen = pyte.Screen(COLUMNS, scene.rows)
    stream = pyte.ByteStream(screen)
    environment = {**os.environ, "TERM": "xterm-256color", "PS1": "$ ", "CHARRNN_NOHISTORY": "1", "PROMPT_COMMAND": ""}
    environment.pop("NO_COLOR", None)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    shell = pexpect.spawn("bash --norc --noprofile", env=environment, dimensions=(scene.rows, COLUMNS), cwd=str(ROOT))
    for keys in (scene.command + "\r", *scene.keys):
        settle(shell, screen, stream)
        shell.send(keys)
    settle(shell, screen, stream)
    shell.close(force=True)
    return screen


def settle(shell: pexpect.spawn, screen: pyte.Screen, stream: pyte.ByteStream, quiet: float = 2.0) -> None:
    """Feed the screen until the program has said nothing for `quiet` seconds; answer it where the cursor is."""
    last = time.monotonic()
    while time.monotonic() - last < quiet:
        try:
            data = shell.read_nonblocking(65536, timeout=0.2)
        except pexpect.TIMEOUT:
            continue
        stream.feed(data)
        last = time.monotonic()
        for _ in range(data.count(b"\x1b[6n")):
            shell.send(f"\x1b[{screen.cursor.y + 1};{screen.cursor.x + 1}R")


def export(screen: pyte.Screen, scene: Scene) -> None:
    """Draw the screen's cells with Rich and save them as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    rows = [row(screen, number) for number in range(scene.rows)]
    while rows and not rows[-1].plain.strip():
        rows.pop()
    for text in rows:
        console.print(text)
    svg = console.export_svg(title="charrnn", unique_id=scene.name)
    svg = re.sub(r"@font-face \{.*?\n    \}\n", "", svg, flags=re.DOTALL)  # a picture that fetches nothing
    (ROOT / "docs" / f"{scene.name}.svg").write_text(svg, encoding="utf-8")


def row(screen: pyte.Screen, number: int) -> Text:
    """One line of the screen with its colours, in runs; a space joins the run before it, for Rich's export loses it else."""
    cells = [screen.buffer[number][column] for column in range(COLUMNS)]
    styles: list[str] = []
    for cell in cells:
        styles.append(styles[-1] if styles and cell.data == " " else style_of(cell))
    text = Text()
    for style, run in itertools.groupby(zip(styles, cells, strict=True), key=lambda pair: pair[0]):
        text.append("".join(cell.data for _, cell in run), style or None)
    text.rstrip()
    return text


def style_of(cell: pyte.screens.Char) -> str:
    """A cell's colours in Rich's words."""
    colour = {"default": "", "brown": "yellow"}.get(cell.fg, cell.fg)
    colour = re.sub("^(bright)_?(?=.)", r"\1_", colour).replace("bright_brown", "bright_yellow")
    behind = "" if cell.bg == "default" else f" on {cell.bg}"
    return f"{'bold ' if cell.bold else ''}{colour}{behind}".strip()


if __name__ == "__main__":
    main()
