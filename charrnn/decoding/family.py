"""A tree of states as one draws it: a trunk that stays where it is, and side branches that hang from it.

From each fork the trunk goes on towards where one is or, off that path, with the child that has most after it; the other
children are side branches. Those after the first can so be nested only as deep as the logarithm of their number, and the
drawing stays narrow however often one forked. Knows no terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from charrnn.decoding.events import Family, Place
from charrnn.decoding.tree import Tree
from charrnn.decoding.turns import Turns

EXCERPT = 60  # characters of a node
HEAD, FOOT = 3, 5  # nodes of a long row that are shown
LEAST_GAP = 3  # nodes worth a line that says that they are left out


def family(tree: Tree, turns: Turns | None) -> Family:
    """All of `tree`. Long rows leave out what lies in the middle, but not forks, ends of branches and where one is."""
    return Family(_Drawing(tree, turns).row(0))


def said_in(tree: Tree, index: int, turns: Turns | None) -> str:
    """What was said in a node, without what the convention, or a line of its own, adds to it."""
    node = tree.nodes[index]
    if node.kind == "you":
        text = node.text[tree.is_apart(index) :]
        return turns.typed(text) if turns else text
    return node.text.replace("\n" + turns.model, "\n") if turns else node.text


class _Drawing:
    def __init__(self, tree: Tree, turns: Turns | None) -> None:
        self._tree, self._turns = tree, turns
        self._path = set(tree.path())
        self._named: dict[int, list[str]] = {}
        for name, end in tree.ends.items():
            self._named.setdefault(end, []).append(name)
        self._sizes = [1] * len(tree.nodes)  # of each node, how many there are from it on
        for index in range(len(tree.nodes) - 1, 0, -1):
            self._sizes[tree.nodes[index].parent] += self._sizes[index]

    def row(self, first: int) -> tuple[Place, ...]:
        """The nodes from `first` on that stand below each other, with their side branches."""
        return _shortened(list(self._places(first)))

    def _places(self, index: int) -> Iterator[Place]:
        while True:
            children = self._tree.children[index]
            onward = max(children, key=lambda child: (child in self._path, self._sizes[child]), default=0)
            yield self._place(index, [child for child in children if child != onward])
            if not onward:
                return
            index = onward

    def _place(self, index: int, aside: list[int]) -> Place:
        text = said_in(self._tree, index, self._turns) if index else "(beginning)"
        short = text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "\u2026"
        return Place(
            index, self._tree.nodes[index].kind == "you", short, tuple(self._named.get(index, ())), index == self._tree.current,
            sides=tuple(self.row(child) for child in aside),
        )  # fmt: skip


def _shortened(places: list[Place]) -> tuple[Place, ...]:
    """`places` without those in the middle, if there are many; the place before a gap says how many are left out."""
    if len(places) <= HEAD + FOOT + LEAST_GAP:
        return tuple(places)
    kept: list[Place] = []
    for number, place in enumerate(places):
        near_an_end = number < HEAD or number >= len(places) - FOOT
        if near_an_end or place.branches or place.here or place.sides:
            kept.append(place)
        else:
            kept[-1] = replace(kept[-1], left_out=kept[-1].left_out + 1)
    return tuple(kept)
