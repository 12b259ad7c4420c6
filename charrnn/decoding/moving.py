"""The commands that move in the tree of a session. Nothing is ever deleted: what was taken back is still in /tree."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from charrnn.decoding.events import Notice, Output, Problem
from charrnn.decoding.family import family
from charrnn.decoding.settings import did_you_mean
from charrnn.decoding.tree import LONGEST_NAME, is_branch_name

if TYPE_CHECKING:
    from charrnn.decoding.session import Session
    from charrnn.decoding.tree import Tree

EXCERPT = 40  # characters of the text's end that are shown to say where one is
NOTHING_YET = "Type a line, or an empty one to let the model begin."


def undo(session: Session, argument: str) -> Iterator[Output]:
    """Go back to before the last answer and the line it answered."""
    tree = session.tree
    if tree.current == 0:
        yield Problem("There is nothing to take back.", NOTHING_YET)
        return
    if tree.nodes[tree.current].kind == "model":
        _up(session)
    if tree.nodes[tree.current].kind == "you":
        _up(session)
    yield Notice(f"Taken back. {place(session)}")


def _up(session: Session) -> None:
    tree, here = session.tree, session.tree.current
    tree.go(tree.nodes[here].parent)
    tree.onward[tree.current] = here


def redo(session: Session, argument: str) -> Iterator[Output]:
    """Go on to where /undo came from: the answer that was last there, with the line it answers."""
    tree = session.tree
    after = tree.onward[tree.current]
    if not after:
        yield Problem("There is nothing to redo.", "/tree shows what there is; /goto goes there.")
        return
    yours = tree.nodes[after].kind == "you"
    tree.go(tree.onward[after] if yours and tree.onward[after] else after)
    yield Notice(f"Done again. {place(session)}")


def branch(session: Session, argument: str) -> Iterator[Output]:
    """Begin another branch here; the one before stays where it is."""
    tree = session.tree
    name = argument or _free_name(tree)
    if name in tree.ends:
        yield Problem(f"There is a branch {name} already.", f"Type /goto {name}, or give another name.")
    elif not is_branch_name(name):
        yield Problem(f"{name[:LONGEST_NAME]!r} is no name for a branch.", "Give one word that is not a number.")
    else:
        before = tree.branch
        tree.ends[name] = tree.current
        tree.branch = name
        yield Notice(f"A new branch, {name}, begins here. `/goto {before}` goes back.")


def _free_name(tree: Tree) -> str:
    number = 2
    while f"branch-{number}" in tree.ends:
        number += 1
    return f"branch-{number}"


def goto(session: Session, argument: str) -> Iterator[Output]:
    """Go to where a branch was left, or to a node by its number in /tree."""
    tree, before = session.tree, (session.tree.branch, session.tree.current)
    if argument in tree.ends:
        tree.branch = argument
        way_back = before[0]
    elif argument.isdecimal() and len(argument) < 10 and int(argument) < len(tree.nodes):
        ends_there = [name for name, end in tree.ends.items() if end == int(argument)]
        tree.branch = ends_there[0] if ends_there and tree.branch not in ends_there else tree.branch
        tree.go(int(argument))
        way_back = before[0] if tree.branch != before[0] else str(before[1])
    else:
        yield Problem(
            f"There is no branch and no node {argument!r}.", did_you_mean(argument, tree.ends) or "/tree shows what there is."
        )
        return
    yield Notice(f"{place(session)}. `/goto {way_back}` goes back.")


def tree_(session: Session, argument: str) -> Iterator[Output]:
    """Everything that was said, as a tree."""
    yield family(session.tree, session.turns)


def reset(session: Session, argument: str) -> Iterator[Output]:
    """Go back to the root, where another text can grow."""
    session.tree.go(0)
    yield Notice("A new text begins." if session.turns is None else "A new conversation begins.")


def place(session: Session) -> str:
    """Where in the tree, and what stands before the cursor there."""
    tree = session.tree
    measure = tree.measure()
    where = f"Branch {tree.branch}, node {tree.current}: the" if len(tree.ends) > 1 else "The"
    if not measure.characters:
        return f"{where} text is empty."
    end = tree.tail(EXCERPT).replace("\n", "\u23ce")
    return f"{where} text has {measure.characters:,} characters (turns of yours: {measure.turns:,}) and ends: {end}"
