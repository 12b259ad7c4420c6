"""What the model says in one answer of a session, while it comes: what is shown of it, what counts, when it is enough."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from charrnn.decoding.settings import Settings
from charrnn.decoding.turns import Reply
from charrnn.decoding.voice import Token
from charrnn.text.tokenizers import EOS

LINE_BEYOND = 200  # tokens that an answer may be longer than asked for, to come to the end of its line
LAST_TOKENS = 16  # whose states are at hand when an answer ends: more than a convention or a stop is long


@dataclass
class Answer:
    """What the model has said after node `base` so far: its text, and every token drawn for it."""

    base: int
    attempt: int
    reply: Reply | None = None
    pieces: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    last: deque[Token] = field(default_factory=lambda: deque(maxlen=LAST_TOKENS))
    document_ended: bool = False
    stopped: bool = False
    bits: float = 0.0
    letter: str = ""  # the last one that was shown

    def take(self, token: Token) -> str:
        """What is to be shown when `token` has come."""
        self.ids.append(token.id)
        self.last.append(token)
        self.document_ended |= token.id == EOS
        if self.reply is not None:
            shown = self.reply.push(token.text)
            self.stopped |= self.reply.ended or token.id == EOS
        else:
            shown = token.text
            self.pieces.append(shown)
        self.letter = shown[-1:] or self.letter
        return shown

    @property
    def text(self) -> str:
        """What of it counts: not what is held back, half a character or the beginning of a stop."""
        return "".join(self.pieces) if self.reply is None else self.reply.text

    def is_enough(self, settings: Settings) -> bool:
        """Whether it is as long as it may be, or has come to the end of a document (which is its last line end)."""
        beyond = len(self.ids) - settings.length
        if beyond < 0 or self.document_ended:
            return self.document_ended
        in_word = self.letter.isalnum() or self.letter in "'\u2019-"
        if settings.finish == "line" and beyond < LINE_BEYOND:
            return self.letter == "\n"
        return settings.finish == "off" or not in_word or beyond >= 2 * LINE_BEYOND
