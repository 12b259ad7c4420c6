"""What a line editor wants to know of a session (see prompt.Helper), and the bar below the line."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from charrnn.cli import console

if TYPE_CHECKING:
    from charrnn.decoding.session import Session

MOST_ABOVE = 20  # lines of a block that stay on the screen
LABEL = 24  # characters of it before each line


class SessionHelper:
    """What the line editor wants to know of a session; see prompt.Helper."""

    def __init__(self, session: Session, *, erased: bool) -> None:
        self._session, self._erased = session, erased
        self._rate = 0.0  # tokens a second of the last answer

    def timed(self, show: Callable[[], bool]) -> bool:
        """Show an answer, and know how fast it came."""
        self._session.drawn = 0
        begun = time.perf_counter()
        going_on = show()
        if self._session.drawn:
            self._rate = self._session.drawn / (time.perf_counter() - begun)
        return going_on

    def complete(self, line: str) -> Sequence[str]:
        from charrnn.decoding.commands import complete

        return complete(line, tuple(self._session.tree.ends), self._session.partner.labels)

    def wants_file(self, line: str) -> str | None:
        from charrnn.decoding.commands import wants_file

        return wants_file(line)

    def is_text(self, line: str) -> bool:
        from charrnn.decoding.commands import is_command

        return self._session.block is not None or not is_command(line)

    def ghost(self, line: str, cancelled: Callable[[], bool]) -> str:
        return self._session.ghost(line, cancelled)

    def next_tokens(self, line: str, cancelled: Callable[[], bool]) -> Sequence[tuple[str, float]]:
        return self._session.next_tokens(line, cancelled)

    def offered(self) -> int:
        return len(self._session.offered)

    def prompt(self) -> str:
        """Of a block, the lines so far stand above the line, where the screen forgets a line that is entered."""
        block = self._session.block
        if block is None:
            return self._label() + "> "
        lines = [console.visible(line) for line in block[-MOST_ABOVE:]] if self._erased else []
        return "".join(f". {line}\n" for line in lines) + ". "

    def _label(self) -> str:
        """By which label the text is, as far as there is room for it before a line."""
        return " ".join(console.visible(self._session.partner.label).split())[:LABEL]

    def bar(self) -> str:
        from charrnn.decoding.settings import shown

        session, tree = self._session, self._session.tree
        rate = [f"{self._rate:,.0f} tokens/s"] if self._rate else []
        where = f"{tree.branch}, node {tree.current} of {len(tree.nodes) - 1}"
        heat = ["heat"] if session.heating else []
        learning = ["adapt"] if session.adaptation.on else ["adapted"] if session.adaptation.characters else []
        parts = [session.partner.name, f"temp {shown(session.settings, 'temp')}", *rate, where, *heat, *learning]
        return " | ".join(map(console.visible, parts))
