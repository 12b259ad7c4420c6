"""Make docs/session.svg, the picture in the README, from a real session: python docs/make_session_svg.py

Runs `charrnn sample` and `charrnn repl` with the committed model in a pseudo-terminal, types what a person would type,
and lets Rich export the screen. Needs the test extra (pexpect, pyte). Nothing on the picture is written by hand.
"""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
import time
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 84, 40
TYPED = ["charrnn sample poems --prompt 'Limerick: ' --length 230 --seed 4", "charrnn repl poems --seed 7 --length 120"]
LINES = ["The river keeps", "/set temp 0.5", "/retry"]


def main() -> None:
    """Play the session, draw the screen, write the file."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    environment = {**os.environ, "TERM": "xterm-256color", "PS1": "$ ", "CHARRNN_NOHISTORY": "1", "PROMPT_COMMAND": ""}
    environment["PROMPT_TOOLKIT_NO_CPR"] = "1"  # nobody here answers where the cursor is
    environment.pop("NO_COLOR", None)
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    shell = pexpect.spawn("bash --norc --noprofile", env=environment, dimensions=(ROWS, COLUMNS), cwd=str(ROOT))
    for command in TYPED:
        settle(shell, stream)
        shell.sendline(command)
    for line in LINES:
        settle(shell, stream)
        shell.send(line + "\r")
    settle(shell, stream)
    shell.close(force=True)
    export(screen)


def settle(shell: pexpect.spawn, stream: pyte.ByteStream, quiet: float = 2.0) -> None:
    """Feed the screen until the program has said nothing for `quiet` seconds."""
    last = time.monotonic()
    while time.monotonic() - last < quiet:
        try:
            stream.feed(shell.read_nonblocking(65536, timeout=0.2))
            last = time.monotonic()
        except pexpect.TIMEOUT:
            continue


def export(screen: pyte.Screen) -> None:
    """Draw the screen's cells with Rich and save them as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    rows = [row(screen, number) for number in range(ROWS)]
    while rows and not rows[-1].plain.strip():
        rows.pop()
    for text in rows:
        console.print(text)
    svg = console.export_svg(title="charrnn", unique_id="session")
    svg = re.sub(r"@font-face \{.*?\n    \}\n", "", svg, flags=re.DOTALL)  # a picture that fetches nothing
    (ROOT / "docs" / "session.svg").write_text(svg, encoding="utf-8")


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
    """A cell's colour in Rich's words."""
    colour = {"default": "", "brown": "yellow"}.get(cell.fg, cell.fg)
    return f"{'bold ' if cell.bold else ''}{colour}".strip()


if __name__ == "__main__":
    main()
