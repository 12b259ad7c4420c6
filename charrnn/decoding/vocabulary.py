"""The units of a tokenizer as text: what each token adds to a text, and which may come next under given rules.

A token adds bytes; together with bytes before it that did not make up a character yet (`rest`) it decides some text and
may leave a rest of its own. Knows nothing of models.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from charrnn.text.tokenizers import BOS, EOS, PAD, UNK, Tokenizer

RESERVED_IDS = (PAD, BOS, UNK)  # never drawn


class Vocabulary:
    """All tokens of one tokenizer that can be drawn. `end` is what <eos> adds: a newline, or None where it is not text."""

    def __init__(self, tokenizer: Tokenizer, end: str | None) -> None:
        self.size = tokenizer.vocab_size
        pieces = tokenizer.pieces()
        pieces[EOS] = (end or "").encode("utf-8")
        self._bytes = pieces
        self._whole: dict[str, list[int]] = {}  # by text, tokens that are whole characters
        self._parts: list[int] = []  # the others
        for token, piece in enumerate(pieces):
            if piece and token not in RESERVED_IDS:
                text, rest = decoded(piece)
                if text is None or rest:
                    self._parts.append(token)
                else:
                    self._whole.setdefault(text, []).append(token)

    def read(self, token: int, rest: bytes) -> tuple[str, bytes]:
        """The text that `token` decides after `rest`, with U+FFFD for what is no UTF-8, and the rest it leaves."""
        if not rest and self._bytes[token].isascii():
            return self._bytes[token].decode("ascii"), b""
        data = rest + self._bytes[token]
        text, used = codecs.utf_8_decode(data, "replace", False)  # as what is shown is decoded
        return text, data[used:]

    def allowed(self, rest: bytes, fits: Callable[[str], bool], may_begin: Callable[[bytes], bool]) -> NDArray[np.bool_]:
        """Which tokens (V,) may follow: those whose text `fits` and whose rest, if any, `may_begin` a character that does.

        `fits` is asked for a first character before any longer text that begins with it.
        """
        mask = np.zeros(self.size, bool)
        if not rest:
            first: dict[str, bool] = {}
            for text, tokens in self._whole.items():
                letter = text[0]
                if letter not in first:
                    first[letter] = fits(letter)
                if first[letter] and (len(text) == 1 or fits(text)):
                    mask[tokens] = True
        for token in self._parts if not rest else range(self.size):
            if token not in RESERVED_IDS and self._bytes[token]:
                text_or_none, left = decoded(rest + self._bytes[token])
                if text_or_none is not None and (not left or may_begin(left)):
                    mask[token] = not text_or_none or fits(text_or_none)
        return mask

    def beginning(self, text: str, rest: bytes) -> tuple[NDArray[np.int64], dict[int, tuple[str, bytes]]]:
        """The tokens that hold all of `text`, and more perhaps; and those that hold a part of it, with what is then left."""
        mask = self.allowed(
            rest, lambda piece: text.startswith(piece) or piece.startswith(text), text[0].encode("utf-8").startswith
        )  # fmt: skip
        read = {token: self.read(token, rest) for token in np.flatnonzero(mask).tolist()}
        whole = [token for token, (piece, _) in read.items() if len(piece) >= len(text)]
        inside = {token: (text[len(piece) :], left) for token, (piece, left) in read.items() if len(piece) < len(text)}
        return np.array(whole, np.int64), inside

    def holding(self, characters: str) -> Iterator[int]:
        """Tokens whose text, whole on its own, holds one of `characters`."""
        for text, tokens in self._whole.items():
            if any(letter in characters for letter in text):
                yield from tokens

    @property
    def halves(self) -> tuple[int, ...]:
        """The tokens that are no whole characters."""
        return tuple(self._parts)

    def spelling(self, text: str) -> list[int]:
        """The tokens that are `text` and nothing else."""
        return self._whole.get(text, [])


def decoded(data: bytes) -> tuple[str | None, bytes]:
    """The characters that `data` begins with, and bytes at its end that may become one; None if it is not UTF-8."""
    try:
        return data.decode("utf-8"), b""
    except UnicodeDecodeError as error:
        if error.reason == "unexpected end of data":
            return data[: error.start].decode("utf-8"), data[error.start :]
        return None, b""
