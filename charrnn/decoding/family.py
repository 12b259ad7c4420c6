"""A tree of states as one draws it: runs of nodes without a fork, and the forks between them. Knows no terminal."""

from __future__ import annotations

from dataclasses import dataclass, field

from charrnn.decoding.events import Family, Place, Run
from charrnn.decoding.tree import Node, Tree
from charrnn.decoding.turns import Turns

EXCERPT = 60  # characters of a node
HEAD, FOOT = 3, 5  # nodes of a long run that are shown


@dataclass
class _Growing:
    """A run whose nodes are not all known yet."""

    first: int
    places: list[Place] = field(default_factory=list)
    forks: list[_Growing] = field(default_factory=list)


def family(tree: Tree, turns: Turns | None) -> Family:
    """All of `tree`. Long runs leave out what lies in the middle, but neither where one is nor where a branch ends."""
    named: dict[int, list[str]] = {}
    for name, end in tree.ends.items():
        named.setdefault(end, []).append(name)
    root = _Growing(0)
    order, waiting = [root], [root]
    while waiting:  # by hand: a tree may be deeper than Python's stack
        run = waiting.pop()
        index, numbers = run.first, [run.first]
        while len(tree.children[index]) == 1:
            index = tree.children[index][0]
            numbers.append(index)
        run.places = [_place(tree, number, named, turns) for number in numbers]
        run.forks = [_Growing(child) for child in tree.children[index]]
        order += run.forks
        waiting += run.forks
    done: dict[int, Run] = {}
    for run in reversed(order):
        done[run.first] = Run(_shortened(run.places), tuple(done.pop(fork.first) for fork in run.forks))
    return Family(done[0])


def said_in(node: Node, turns: Turns | None) -> str:
    """What was said in a node, without what the convention adds to it."""
    if node.kind == "you":
        return turns.typed(node.text) if turns else node.text.removeprefix("\n")
    return node.text.replace("\n" + turns.model, "\n") if turns else node.text


def _place(tree: Tree, number: int, named: dict[int, list[str]], turns: Turns | None) -> Place:
    node = tree.nodes[number]
    text = said_in(node, turns) if number else "(beginning)"
    short = text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "\u2026"
    return Place(number, node.kind == "you", short, tuple(named.get(number, ())), number == tree.current)


def _shortened(places: list[Place]) -> tuple[Place, ...]:
    """`places` without those in the middle, if there are many; the place before a gap says how many are left out."""
    kept: list[Place] = []
    for number, place in enumerate(places):
        near_an_end = number < HEAD or number >= len(places) - FOOT
        if near_an_end or place.branches or place.here:
            kept.append(place)
        else:
            last = kept[-1]
            kept[-1] = Place(last.number, last.yours, last.text, last.branches, last.here, last.left_out + 1)
    return tuple(kept)
