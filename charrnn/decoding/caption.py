"""Tokens as the text that is shown: whole characters, without what is in the prompt already, up to a stop."""

from __future__ import annotations

import copy

from charrnn.decoding.course import Drawing
from charrnn.text.tokenizers import EOS, REPLACEMENT


class Caption:
    """What is shown of one text, token by token."""

    def __init__(self, drawing: Drawing, hidden: int) -> None:
        """The first `hidden` characters are in the prompt already."""
        self._tokenizer, self._hidden = drawing.tokenizer, hidden
        self._end = "" if drawing.at_eos == "end" else "\n"
        self._no_half = REPLACEMENT in drawing.settings.ban
        self._decoder = drawing.tokenizer.stream_decoder()
        self._finders = [copy.copy(finder) for finder in drawing.finders]

    @property
    def may_stop(self) -> bool:
        """Whether there is anything that could end the text."""
        return bool(self._finders)

    def copy(self) -> Caption:
        """Another caption that goes on from here."""
        other = copy.copy(self)
        other._decoder = self._decoder.copy()
        other._finders = [copy.copy(finder) for finder in self._finders]
        return other

    def read(self, token: int, last: bool, at_line_end: bool) -> tuple[str, bool]:
        """The text that `token` decides, all that is left of it if it is the `last`, and whether a stop was found.

        The newline after the last line that was asked for (`at_line_end`) is not shown.
        """
        if token == EOS:
            piece = self._flushed() + self._end
            self._decoder = self._tokenizer.stream_decoder()
        else:
            piece = self._decoder.push(token)
        if last:
            piece += self._flushed()
            if at_line_end:
                piece = piece.removesuffix("\n")
        if self._hidden:
            piece, self._hidden = piece[self._hidden :], max(0, self._hidden - len(piece))
        return self._up_to_stop(piece, last)

    def flush(self) -> str:
        """What is held back, if nothing follows it."""
        return self._up_to_stop(self._flushed(), True)[0]

    def _flushed(self) -> str:
        half = self._decoder.flush()
        return "" if self._no_half else half

    def _up_to_stop(self, piece: str, last: bool) -> tuple[str, bool]:
        """What all finders let through of `piece`: what one finds ends what the others, after it, get to see."""
        found = False
        for finder in self._finders:
            piece, stopped = finder.push(piece)
            if (last or found) and not stopped:
                held, stopped = finder.end()
                piece += held
            found |= stopped
        return piece, found
