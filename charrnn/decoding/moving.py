"""The commands that move in the tree of a session. Nothing is ever deleted: what was taken back is still in /tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from charrnn.decoding.events import Listing, Notice, Output, Part, Passage, Problem
from charrnn.decoding.family import family
from charrnn.decoding.labelled import number_of
from charrnn.decoding.settings import did_you_mean
from charrnn.decoding.tree import LONGEST_NAME, Tree, is_branch_name

if TYPE_CHECKING:
    from charrnn.decoding.session import Session

FEW_LINES = 4  # of the text, shown where one comes to another place
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
    yield Notice(f"Taken back. {where(session)}.")
    yield passage(session, FEW_LINES)


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
    yield Notice(f"Done again. {where(session)}.")
    yield passage(session, FEW_LINES)


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
    """Go to the end of a branch, or to a node by its number in /tree; then the branch is what it was."""
    tree = session.tree
    way_back = tree.branch if tree.current == tree.ends[tree.branch] else str(tree.current)
    if argument in tree.ends:
        tree.branch = argument
        tree.go(tree.ends[argument])
    elif argument.isdecimal() and len(argument) < 10 and int(argument) < len(tree.nodes):
        tree.go(int(argument))
    else:
        hint = did_you_mean(argument, tree.ends) or "/tree shows what there is."
        yield Problem(f"There is no branch and no node {argument[:EXCERPT]!r}.", hint)
        return
    yield Notice(f"{where(session)}. `/goto {way_back}` goes back.")
    yield passage(session, FEW_LINES)


def tree_(session: Session, argument: str) -> Iterator[Output]:
    """Everything that was said, as a tree."""
    yield family(session.tree, session.turns)


def reset(session: Session, argument: str) -> Iterator[Output]:
    """Go back to the root, where another text can grow."""
    session.tree.go(0)
    yield Notice("A new text begins." if session.turns is None else "A new conversation begins.")


def label(session: Session, argument: str) -> Iterator[Output]:
    """List the labels, or begin a new text by one of them.

    A state belongs to its label, so each label has a tree of its own, and /undo and /goto stay within it.
    """
    partner = session.partner
    if partner.by is None:
        yield Problem("This model writes by no labels.", "A run of `charrnn train --task conditional` does.")
    elif not argument:
        yield Listing(tuple((name, _use(session, name)) for name in partner.labels))
    else:
        number_of(argument, partner.labels)
        tree = session.trees.get(argument) or Tree(partner.by(argument))
        tree.go(0)
        session.replace(tree)
        before = " /tree shows what was written by it before." if len(tree.nodes) > 1 else ""
        yield Notice(f"A new text by {argument} begins.{before}")


def _use(session: Session, name: str) -> str:
    """What was made of a label so far."""
    nodes = len(session.trees[name].nodes) - 1 if name in session.trees else 0
    written = [f"{nodes:,} node{'s' * (nodes != 1)}"] if nodes else []
    return ", ".join(["in use"] * (name == session.partner.label) + written)


def text(session: Session, argument: str) -> Iterator[Output]:
    """The text so far, or its last lines."""
    if argument and not (argument.isdecimal() and len(argument) < 10 and int(argument)):
        yield Problem(f"/text {argument[:EXCERPT]}: expected a number of lines.", "Type /text, or /text 20")
    elif not session.tree.measure().characters:
        yield Notice("The text is empty.")
    else:
        yield replace(passage(session, int(argument) if argument else None), asked=True)


def passage(session: Session, lines: int | None) -> Passage:
    """The end of the text, so many lines of it (all if None), with who said what."""
    tree, parts, found = session.tree, list[Part](), 0
    node = tree.current
    while node > 0 and (lines is None or found <= lines):
        said = tree.nodes[node]
        parts.append(Part(said.kind == "you", said.text))
        found += said.text.count("\n")
        node = said.parent
    parts.reverse()
    return Passage(tuple(parts) if lines is None else _last_lines(parts, lines))


def _last_lines(parts: list[Part], lines: int) -> tuple[Part, ...]:
    """The end of `parts`, so many lines; a line end that ends the text does not begin another."""
    text = "".join(part.text for part in parts)
    cut = len(text.removesuffix("\n"))
    for _ in range(lines):
        cut = text.rfind("\n", 0, cut) if cut >= 0 else -1
    kept, cut = list[Part](), cut + 1
    for part in parts:
        kept.append(Part(part.yours, part.text[cut:]))
        cut = max(cut - len(part.text), 0)
    return tuple(part for part in kept if part.text)


def where(session: Session) -> str:
    """Where in the tree one is, and how long the text is there."""
    tree = session.tree
    measure = tree.measure()
    here = f"Branch {tree.branch}, node {tree.current}" if len(tree.ends) > 1 else f"Node {tree.current}"
    if not measure.characters:
        return f"{here}: the text is empty"
    return f"{here}: {measure.characters:,} characters, {measure.turns:,} line{'s' * (measure.turns != 1)} of yours"


def place(session: Session) -> str:
    """Where in the tree one is, and what stands before the cursor there."""
    tail = session.tree.tail(EXCERPT)
    return where(session) + (f", ending: {tail}".replace("\n", "\u23ce") if tail else "")
