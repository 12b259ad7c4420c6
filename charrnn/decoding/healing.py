"""Where a prompt leaves off: before the pieces that what follows might still change.

A subword model has read "compare" as one piece, or "comp" and "are", never as "compa" and "re". A prompt that ends in the
middle of a word is therefore read up to the last place where every segmentation has a cut, before that word, and the rest
is `pending`: the first pieces drawn must begin with it. Characters and bytes have nothing to heal. (Microsoft's guidance
calls this token healing; the fault it mends is Sennrich, Haddow and Birch's fixed segmentation, 2016.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from charrnn.decoding import voice
from charrnn.decoding.engine import Stepper
from charrnn.decoding.generate import prime
from charrnn.text.tokenizers import Tokenizer

LONGEST = 16  # characters of a piece at most, as SentencePiece trains them


@dataclass(frozen=True)
class Opening:
    """A prompt that has been read: what follows the part that is stable, and what `generate.stream` needs of the rest."""

    prefix: voice.Prefix
    recent: tuple[int, ...]
    shown: str
    pending: str = ""


def opening(engine: Stepper, tokenizer: Tokenizer, start: Sequence[int], prompt: str) -> Opening:
    """Read `prompt` after the `start` ids of a model."""
    pending = prompt[stable(tokenizer, prompt) :]
    ids = tuple(int(token) for token in tokenizer.encode(prompt.removesuffix(pending) if pending else prompt))
    return Opening(prime(engine, (*start, *ids)), ids, prompt, pending)


def stable(tokenizer: Tokenizer, text: str) -> int:
    """How many characters of `text` are in the same tokens whatever follows.

    Pieces of our subword models never hold a newline with anything else, nor a space but at their beginning, and begin a
    new one at each space after another character. In a word longer than any piece, the pieces that a longer word could
    still change are taken to lie within a piece's length of its end.
    """
    if tokenizer.kind != "subword":
        return len(text)
    line = text.rfind("\n") + 1
    first = max(text.rfind(" ", line), line)
    while first > line and text[first - 1] == " ":
        first -= 1
    return _last_cut(tokenizer, text, first) if len(text) - first > LONGEST else first


def _last_cut(tokenizer: Tokenizer, text: str, first: int) -> int:
    """The last boundary of two pieces of the word at `first` that no piece from further on can reach over."""
    cut, end, decoder = first, len(text) - LONGEST, tokenizer.stream_decoder()
    for token in tokenizer.encode(text[first:]).tolist():
        cut, before = cut + len(decoder.push(token)), cut  # nothing comes of a byte until its character is complete
        if cut > end:
            return before
    return cut
