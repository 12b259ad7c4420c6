"""How much a text surprises the model, piece by piece and on the whole: bits, -log2 of the model's own probability.

Knows tokens and states; knows nothing of colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from charrnn.decoding import generate
from charrnn.decoding.events import Heated
from charrnn.decoding.tree import Partner, Tree
from charrnn.decoding.turns import Turns
from charrnn.text.tokenizers import EOS, Tokenizer


class Bits(NamedTuple):
    """Bits and characters of your lines and of the model's, from the root on."""

    yours: float = 0.0
    your_characters: int = 0
    models: float = 0.0
    model_characters: int = 0

    def __str__(self) -> str:
        yours = f"{self.yours / self.your_characters:.2f} in your lines" if self.your_characters else ""
        models = f"{self.models / self.model_characters:.2f} in the model's" if self.model_characters else ""
        return "Bits per character: " + (", ".join(filter(None, [yours, models])) or "nothing said yet") + "."


class Heat:
    """The surprise of the nodes of one tree; what was measured is remembered."""

    def __init__(self, partner: Partner, tree: Tree, turns: Turns | None, cancelled: Callable[[], bool]) -> None:
        self._partner, self._tree, self._turns, self._cancelled = partner, tree, turns, cancelled
        self._totals = {0: Bits()}
        self._pieces: dict[int, tuple[Heated, ...]] = {}

    def words(self, index: int) -> str:
        """The mean bits per character of all lines up to node `index`, in words."""
        total = self.total(index)
        return "Ctrl-C: the bits per character are not known yet." if total is None else str(total)

    def total(self, index: int) -> Bits | None:
        """The bits of all lines up to node `index`; None if it was cancelled on the way."""
        missing = []
        while index not in self._totals:
            missing.append(index)
            index = self._tree.nodes[index].parent
        for node in reversed(missing):
            if self._cancelled() and node != missing[0]:
                return None
            self._totals[node] = self._with(self._totals[self._tree.nodes[node].parent], node)
        return self._totals[missing[0] if missing else index]

    def _with(self, before: Bits, index: int) -> Bits:
        pieces = self.pieces(index)
        bits, characters = sum(piece.bits for piece in pieces), sum(len(piece.text) for piece in pieces)
        if self._tree.nodes[index].kind == "you":
            return before._replace(yours=before.yours + bits, your_characters=before.your_characters + characters)
        return before._replace(models=before.models + bits, model_characters=before.model_characters + characters)

    def pieces(self, index: int) -> tuple[Heated, ...]:
        """The pieces of what was said in node `index`; of your turns in a conversation, what you typed of them.

        Your turns have none where the model does not predict them.
        """
        if self._turns is not None and not self._turns.told and self._tree.nodes[index].kind == "you":
            return ()
        if index not in self._pieces:
            self._pieces[index] = tuple(self._measured(index))
        return self._pieces[index]

    def _measured(self, index: int) -> Iterator[Heated]:
        node, partner = self._tree.nodes[index], self._partner
        before = self._tree.prefix(node.parent)
        assert before is not None
        costs = -generate.logprobs(partner.engine, node.ids, before)
        return said(self._tree, index, self._turns, heated(partner.tokenizer, node.text, node.ids, costs.tolist()))


def said(tree: Tree, index: int, turns: Turns | None, pieces: Iterable[Heated]) -> Iterator[Heated]:
    """Of the `pieces` of node `index`, what was said: no line end that only stands before your line, no prefix of a turn."""
    node = tree.nodes[index]
    begin = node.kind == "you" and tree.is_apart(index)
    if node.kind == "model" or turns is None:
        return _within(pieces, begin, len(node.text))
    return _within(pieces, begin + len(turns.you), len(node.text) - len(turns.model) - 1)


def heated(tokenizer: Tokenizer, text: str, ids: Iterable[int], nats: Sequence[float]) -> Iterator[Heated]:
    """The pieces of `text` that its tokens decide, with the cost of each; where a character is hidden, that of naming it."""
    decoder, position, bits = tokenizer.stream_decoder(), 0, 0.0
    for token, cost in zip(ids, nats, strict=True):
        bits += cost / math.log(2)
        size = 1 if token == EOS else len(decoder.push(token))
        if size:
            piece = text[position : position + size]
            yield Heated(piece, bits + tokenizer.hidden(piece) * tokenizer.escape_nats / math.log(2))
            position, bits = position + size, 0.0
    if position < len(text):
        yield Heated(text[position:], bits)


def _within(pieces: Iterable[Heated], begin: int, end: int) -> Iterator[Heated]:
    """Of the pieces of a text, what lies between two places."""
    position = 0
    for text, bits in pieces:
        part = text[max(begin - position, 0) : max(end - position, 0)]
        if part:
            yield Heated(part, bits)
        position += len(text)
