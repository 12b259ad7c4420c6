"""The text of a session as a tree of states: who said what after what, and the net's state after each.

A transformer pays for every branch with a cache as long as the text; a recurrent net with a few KB, so each node may
keep its own, and going back, asking again and branching cost nothing. Knows engines and token ids; knows nothing of
commands, settings, files or terminals. Nodes are only ever added: taking back moves `current`, it deletes nothing.

A branch is a name for the end of what was written on it last; to look at another place does not move it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from charrnn.decoding import generate, healing
from charrnn.decoding.course import Copies
from charrnn.decoding.engine import Ids, Stepper
from charrnn.decoding.generate import Prefix
from charrnn.decoding.healing import Opening
from charrnn.text.tokenizers import EOS, Tokenizer

if TYPE_CHECKING:
    from charrnn.decoding.adapting import Adapting

Kind = Literal["root", "you", "model"]
PRIME_AT_ONCE = 256  # token ids between two looks at the cancel flag, about 30 ms
MAIN = "main"
LONGEST_NAME = 40  # of a branch
KEPT = 1024  # states of the nodes met last; of those before,
EVERY = 64  # one in so many along a text, so that a long one does not fill the memory and no place is far from a state


@dataclass(frozen=True)
class Partner:
    """The model that writes with you: how to step it, its units of text, and what /show tells of it (`card`).

    `start` are the ids every text begins after; `digest` tells models apart in saved files; `watch` gives what tells runs
    of more characters than a number from the training text, or raises CharrnnError; `spelling` makes tokens of your lines
    where that is not for the tokenizer alone.

    A model that writes by `labels` writes by one of them, `label`; `by` gives it with the engine of another. `adapting`
    makes what learns from what you write, where that is possible.
    """

    engine: Stepper
    tokenizer: Tokenizer
    start: tuple[int, ...]
    name: str
    digest: str
    at_eos: generate.AtEos
    card: tuple[tuple[str, str], ...] = ()
    watch: Callable[[int], Copies] | None = None
    label: str = ""
    labels: tuple[str, ...] = ()
    by: Callable[[str], Partner] | None = None
    spelling: Callable[[str], Ids] | None = None
    adapting: Callable[[], Adapting] | None = None

    def spelt(self, text: str) -> Ids:
        """The tokens of a line of yours."""
        return self.tokenizer.encode(text) if self.spelling is None else self.spelling(text)


@dataclass(frozen=True)
class Node:
    """A piece of text that one side added to the text of node `parent` (the root's parent is -1).

    `ids` are exactly the tokens of `text`: text_of(ids) == text for the model's, encode(text) == ids for yours, which
    may hold characters the model does not know. A model's node was drawn with `seed` and `attempt`.
    """

    parent: int
    kind: Kind
    ids: tuple[int, ...]
    text: str
    seed: int = 0
    attempt: int = 0


@dataclass(frozen=True)
class Measure:
    """How much there is from the root to a node."""

    characters: int = 0
    turns: int = 0  # of yours
    depth: int = 0  # nodes, the root not counted


class Tree:
    """All nodes (parents before children; node 0 is the root) and the branches, of which one is being written on.

    The states are those of one partner, and so of one label, if it writes by labels.
    """

    def __init__(self, partner: Partner) -> None:
        self.nodes = [Node(-1, "root", (), "")]
        self.children: list[list[int]] = [[]]
        self.current = 0  # the node that the text ends in
        self.branch = MAIN  # the branch that is written on
        self.ends = {MAIN: 0}  # of each branch, the last node written
        self.onward = [0]  # of each node, the child one was last at; 0 if at none
        self._measures = [Measure()]
        self.partner = partner
        self._prefixes: dict[int, Prefix] = {}
        self._met: deque[int] = deque()  # the nodes whose states came last
        self._stable: dict[int, Prefix] = {}  # of some of these, what is before the end of your line that may change (healing.py)
        self._begun: tuple[int, int, Prefix | None] = (-1, 0, None)  # a node that is being read, how far, the state there

    def go(self, index: int) -> None:
        """Let the text end in node `index`; /redo then finds the way on that led here."""
        assert 0 <= index < len(self.nodes)
        self.current = index
        if index:
            self.onward[self.nodes[index].parent] = index

    def grow(self, index: int) -> None:
        """Go to node `index`, which is from now on the end of the branch."""
        self.go(index)
        self.ends[self.branch] = index

    def add(self, node: Node, after: Prefix | None = None, *, go: bool = True) -> int:
        """Add a node, let the branch grow by it if asked to, return its index; `after` is the state after it, if known."""
        assert 0 <= node.parent < len(self.nodes)
        index, above = len(self.nodes), self._measures[node.parent]
        self.nodes.append(node)
        self.children.append([])
        self.children[node.parent].append(index)
        self.onward.append(0)
        self._measures.append(Measure(above.characters + len(node.text), above.turns + (node.kind == "you"), above.depth + 1))
        if after is not None:
            self.know(index, after)
        if go:
            self.grow(index)
        return index

    def measure(self) -> Measure:
        """How much there is up to the current node."""
        return self._measures[self.current]

    def path(self, index: int | None = None) -> list[int]:
        """The nodes from the root to `index` (the current one if None), both included."""
        return list(self._upwards(self.current if index is None else index))[::-1]

    def text(self) -> str:
        """Everything said from the root to the current node."""
        return "".join(self.nodes[index].text for index in self.path())

    def tail(self, count: int, index: int | None = None) -> str:
        """The last `count` characters up to node `index` (the current one if None), without reading more than that takes."""
        pieces: list[str] = []
        length = 0
        for above in self._upwards(self.current if index is None else index):
            pieces.append(self.nodes[above].text[-count:])
            length += len(pieces[-1])
            if length >= count:
                break
        return "".join(reversed(pieces))[-count:]

    def apart(self, text: str) -> str:
        """`text` on a line of its own after the current node."""
        return "\n" + text if self._in_line(self.current) else text

    def is_apart(self, index: int) -> bool:
        """Whether your node `index` begins with a line end that only puts it on a line of its own."""
        return self._in_line(self.nodes[index].parent)

    def _in_line(self, index: int) -> bool:
        return self.tail(1, index) not in ("", "\n")

    def open_line(self, index: int) -> str:
        """The line that the text is in after node `index`, empty if it has ended."""
        pieces: list[str] = []
        for above in self._upwards(index):
            _, line_end, line = self.nodes[above].text.rpartition("\n")
            pieces.append(line)
            if line_end:
                break
        return "".join(reversed(pieces))

    def opening(self, index: int, prefix: Prefix, count: int) -> Opening:
        """What an answer to node `index` goes on from, which is `prefix` unless your line ends within a piece (see healing.py).

        `count` is how many tokens it has to remember; of its shape, only the line that is open counts.
        """
        node, tokenizer, line = self.nodes[index], self.partner.tokenizer, self.open_line(index)
        stable = healing.stable(tokenizer, node.text) if node.kind == "you" else len(node.text)
        if stable == len(node.text):
            return Opening(prefix, self.recent(index, count), line)
        ids = tokenizer.encode(node.text[:stable]).tolist()
        if index not in self._stable:
            before = self.prefix(node.parent)
            assert before is not None
            self.know_stable(index, generate.prime(self.partner.engine, ids, before))
        recent = (*self.recent(node.parent, count), *ids)[-count:]
        return Opening(self._stable[index], recent, line, node.text[stable:])

    def know_stable(self, index: int, prefix: Prefix) -> None:
        """What is before the end of your line in node `index` that its continuation may change."""
        self._stable[index] = prefix

    def recent(self, index: int, count: int) -> tuple[int, ...]:
        """The last `count` token ids before whatever follows node `index`."""
        ids: tuple[int, ...] = ()
        for above in self._upwards(index):
            if len(ids) >= count:
                break
            ids = self.nodes[above].ids[-count:] + ids
        return ids[-count:]

    def next_attempt(self, parent: int) -> int:
        """The attempt that differs from every answer that `parent` has had so far."""
        answers = (self.nodes[child] for child in self.children[parent])
        return max((node.attempt + 1 for node in answers if node.kind == "model"), default=0)

    def prefix(self, index: int, cancelled: Callable[[], bool] = lambda: False) -> Prefix | None:
        """The state after node `index`, primed from the nearest known one above it; None if cancelled on the way.

        The states on the way are remembered, so that nothing is read twice, cancelled or not.
        """
        missing = []
        for above in self._upwards(index):
            if above in self._prefixes:
                break
            missing.append(above)
        for node in reversed(missing):
            if not self._prime(node, cancelled):
                return None
        return self._prefixes[index]

    def _prime(self, index: int, cancelled: Callable[[], bool]) -> bool:
        """Read node `index` after the known state before it; False if cancelled, and then the next time goes on from there."""
        ids = self.nodes[index].ids if index else self.partner.start
        begun, place, known = self._begun
        if begun != index:
            place, known = 0, self._prefixes.get(self.nodes[index].parent)
        while place < len(ids):
            self._begun = (index, place, known)
            if cancelled():
                return False
            known = generate.prime(self.partner.engine, ids[place : place + PRIME_AT_ONCE], known)
            place += PRIME_AT_ONCE
        assert known is not None, "a model has start ids"
        self.know(index, known)
        return True

    def know(self, index: int, after: Prefix) -> None:
        """Remember the state after node `index`, and forget one that is old and has others near it."""
        if index in self._prefixes:
            return
        self._prefixes[index] = after
        self._met.append(index)
        if len(self._met) > KEPT:
            old = self._met.popleft()
            self._stable.pop(old, None)
            if self._measures[old].depth % EVERY:
                del self._prefixes[old]

    def rethink(self, engine: Stepper) -> None:
        """Go on with other weights of the same model: the states, which are those of the weights before, are forgotten."""
        self.partner = replace(self.partner, engine=engine)
        self._prefixes.clear()
        self._met.clear()
        self._stable.clear()
        self._begun = (-1, 0, None)

    def _upwards(self, index: int) -> Iterator[int]:
        while index >= 0:
            yield index
            index = self.nodes[index].parent


def is_branch_name(name: str) -> bool:
    """Whether a branch may have this name: one word of characters that can be shown, and no number."""
    return name.isprintable() and len(name.split()) == 1 and len(name) <= LONGEST_NAME and not name.isdecimal()


def text_of(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """The text of drawn tokens; the end of a document reads as a line end, as in `generate.stream`."""
    documents: list[list[int]] = [[]]
    for token in ids:
        if token == EOS:
            documents.append([])
        else:
            documents[-1].append(token)
    return "\n".join(tokenizer.decode(document) for document in documents)


def tokens_of(text: str, drawn: list[int], tokenizer: Tokenizer) -> list[int]:
    """Tokens whose text is exactly `text`: as many of the `drawn` ones as it holds, and its rest encoded anew."""
    decoder, position, whole = tokenizer.stream_decoder(), 0, (0, 0)  # tokens, characters
    for count, token in enumerate(drawn, 1):
        if token == EOS:
            piece, decoder = decoder.flush() + "\n", tokenizer.stream_decoder()
        else:
            piece = decoder.push(token)
        if not text.startswith(piece, position):
            break
        position += len(piece)
        if not decoder.copy().flush():
            whole = (count, position)
    tokens, characters = whole
    return drawn[:tokens] + [int(token) for token in tokenizer.encode(text[characters:])]
