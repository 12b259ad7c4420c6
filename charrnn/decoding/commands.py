"""The commands of a session, one function each, and their one table, from which help, completion and corrections come.

A command takes the session and what stands after its name, and yields events; whatever is wrong with it is a Problem and
changes nothing. Knows no terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from charrnn.decoding import settings as all_settings
from charrnn.decoding.adapting import adapt
from charrnn.decoding.events import Alternatives, Ended, Listing, Notice, Output, Problem, Recalled
from charrnn.decoding.family import said_in
from charrnn.decoding.files import export, load, save
from charrnn.decoding.moving import NOTHING_YET, branch, goto, label, place, redo, reset, text, tree_, undo
from charrnn.decoding.settings import did_you_mean

if TYPE_CHECKING:
    from charrnn.decoding.session import Session

MOST_ALTERNATIVES = 9  # as there are digits
USUAL_ALTERNATIVES = 3
EXCERPT = 40  # characters of a mistake
EXAMPLES = {"save": "tonight.json", "load": "tonight.json", "export": "poem.txt", "goto": "main", "label": "haiku"}


@dataclass(frozen=True)
class Command:
    """One line of the table: /name, what stands after it ([in brackets] if it can be left out), help, what it does."""

    name: str
    arguments: str
    help: str
    run: Callable[[Session, str], Iterator[Output]]

    @property
    def usage(self) -> str:
        """How it is typed."""
        return f"/{self.name} {self.arguments}".rstrip()

    @property
    def example(self) -> str:
        """One way to type it."""
        return f"/{self.name} {EXAMPLES.get(self.name, '')}".rstrip()


def obey(session: Session, line: str) -> Iterator[Output]:
    """Carry out the command that `line` is."""
    name, _, argument = line[1:].partition(" ")
    command, argument = _TABLE.get(name.lower()), argument.strip()
    if command is None:
        yield Problem(f"There is no command /{name}.", _meant(name.lower()))
    elif argument and not command.arguments:
        yield Problem(f"/{command.name} takes nothing after it.", f"Type {command.usage} alone.")
    elif not argument and command.arguments and not command.arguments.startswith("["):
        yield Problem(f"/{command.name} needs {command.arguments}.", f"Type for example {command.example}")
    else:
        yield from command.run(session, argument)


def _meant(name: str) -> str:
    """What somebody who typed this may have meant."""
    if name in SYNONYMS:
        return f"Did you mean /{SYNONYMS[name]}?"
    return did_you_mean(name, _TABLE, "/") or "/help lists the commands; // begins a line of text with a slash."


def help_(session: Session, argument: str) -> Iterator[Output]:
    """What can be typed."""
    typed = WRITING if session.turns is None else TALKING
    yield Listing(typed + session.keys + tuple((command.usage, command.help) for command in COMMANDS))


def set_(session: Session, argument: str) -> Iterator[Output]:
    """List the settings, show one, or change one."""
    name, _, value = argument.partition(" ")
    if not name:
        yield Listing(all_settings.rows(session.settings))
        return
    name, value = all_settings.canonical(name), value.strip()
    if value:
        changed = all_settings.changed(session.settings, name, value)
        session.check(changed)
        session.settings = changed
    yield Notice(f"{name} is {all_settings.shown(session.settings, name)}")


def retry(session: Session, argument: str) -> Iterator[Output]:
    """Answer the last line once more; the answers before stay in the tree."""
    base = _last_asked(session)
    if base is None:
        yield Problem("There is nothing to answer yet.", NOTHING_YET)
        return
    yield from session.context(base)
    yield from session.answer(base, session.tree.next_attempt(base))


def alternatives(session: Session, argument: str) -> Iterator[Output]:
    """Several answers to the last line, each a node; the text stays what it is until one is taken."""
    base = _last_asked(session)
    if argument and argument not in map(str, range(2, MOST_ALTERNATIVES + 1)):
        found = argument[:EXCERPT]
        yield Problem(f"/alternatives {found}: expected a number from 2 to {MOST_ALTERNATIVES}.", "Type /alternatives 3")
        return
    if base is None:
        yield Problem("There is nothing to answer yet.", NOTHING_YET)
        return
    tree, known = session.tree, len(session.tree.nodes)
    for _ in range(int(argument or USUAL_ALTERNATIVES)):
        for _ in session.answer(base, tree.next_attempt(base), go=False):
            pass  # shown when all have come
        if session.cancelled():
            break
    offered = tuple(node for node in range(known, len(tree.nodes)) if tree.nodes[node].text)
    if not offered:
        yield Notice("All of them are empty. Type a line, /retry, or change the settings.")
        return
    session.offered = offered
    yield from session.context(base)
    yield Alternatives(tuple(said_in(tree, node, session.turns) for node in offered))


def _last_asked(session: Session) -> int | None:
    """The node that the last answer answers, or that waits for one; None if there is nothing yet."""
    here = session.tree.current
    node = session.tree.nodes[here]
    return None if node.kind == "root" else node.parent if node.kind == "model" else here


def heat(session: Session, argument: str) -> Iterator[Output]:
    """Switch the colours of surprise on or off, or say what they show."""
    if argument not in ("", "on", "off"):
        yield Problem(f"/heat is {argument!r}; expected on or off.", "Type /heat on")
        return
    session.heating = argument == "on" if argument else session.heating
    if not session.heating:
        yield Notice("heat is off")
        return
    here = session.tree.current
    yield Recalled(*session.last_said())
    yield Notice(session.heat.words(here))


def show(session: Session, argument: str) -> Iterator[Output]:
    """The model's card, the settings, and the place in the text."""
    partner, tokenizer, settings = session.partner, session.partner.tokenizer, session.settings
    units = ("tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens")
    values = ", ".join(f"{name} {all_settings.shown(settings, name)}" for name in all_settings.notable(settings))
    model = ("model", f"{partner.name} ({partner.digest[:12]})")
    turns = (("turns", repr(str(session.turns))),) if session.turns and session.turns.told else ()
    by = (("label", partner.label),) if partner.labels else ()
    learnt = (("adapted", session.adaptation.listed()),) if session.adaptation.characters else ()
    yield Listing((model, *partner.card, units, *turns, *by, *learnt, ("settings", values), ("text", place(session))))


def multi(session: Session, argument: str) -> Iterator[Output]:
    """Begin a text of several lines."""
    session.block = []
    yield Notice('Several lines now; """ ends them.')


def bye(session: Session, argument: str) -> Iterator[Output]:
    """Leave."""
    yield Ended()


COMMANDS = (
    Command("help", "", "Show this.", help_),
    Command("set", "[NAME VALUE]", "Change a setting; alone, list them all.", set_),
    Command("retry", "", "Another answer to the last line.", retry),
    Command("alternatives", "[N]", "N answers to the last line side by side; a digit takes one.", alternatives),
    Command("undo", "", "Take back the last line and its answer.", undo),
    Command("redo", "", "Go on again to where /undo came from.", redo),
    Command("branch", "[NAME]", "Begin another branch here; the one before stays as it is.", branch),
    Command("goto", "NAME|NUMBER", "Go to the end of a branch, or to a node of /tree.", goto),
    Command("tree", "", "All that was said, as a tree.", tree_),
    Command("text", "[LINES]", "Show the text so far, or its last lines.", text),
    Command("label", "[NAME]", "Of a run with labels: begin a new text by another; alone, list them.", label),
    Command("heat", "[on|off]", "Colour each token by how much it surprises the model, in bits.", heat),
    Command("adapt", "[on|off|FILE|save NAME]", "Learn from your lines, or from a file; off forgets it. /undo does not.", adapt),
    Command("multi", "", 'Type several lines; """ ends them.', multi),
    Command("reset", "", "Begin a new text.", reset),
    Command("show", "", "The model, the settings, and where you are in the text.", show),
    Command("save", "FILE", "Keep the session, to go on another day.", save),
    Command("load", "FILE", "Go on with a saved session.", load),
    Command("export", "FILE", "Write the text to a file.", export),
    Command("bye", "", "Leave; so does Ctrl-D.", bye),
)
LINES = (
    ("//TEXT", "A line that begins with a slash."),
    ('"""', "Begins and ends a text of several lines."),
)
WRITING = (
    ("TEXT", "A new line of the text; the model goes on from its last character."),
    ("(empty line)", "Let the model go on."),
    *LINES,
)
TALKING = (
    ("TEXT", "Your turn; the model answers."),
    ("(empty line)", "Let the model go on, where it was stopped."),
    *LINES,
)
SYNONYMS = {"quit": "bye", "exit": "bye", "q": "bye", "clear": "reset", "new": "reset", "regenerate": "retry", "print": "text"}
_TABLE = {command.name: command for command in COMMANDS}
_VALUES = {"heat": ("on", "off"), "adapt": ("on", "off", "save ")}


def is_command(line: str) -> bool:
    """Whether a line is a command rather than text."""
    return line.startswith("/") and not line.startswith("//")


def complete(line: str, branches: tuple[str, ...] = (), labels: tuple[str, ...] = ()) -> list[str]:
    """What the last word of an unfinished command may become: a command's name, or what is known to stand after it."""
    name, space, rest = line[1:].partition(" ")
    if not is_command(line):
        return []
    if not space:
        return ["/" + command.name for command in COMMANDS if command.name.startswith(name.lower())]
    values = {**_VALUES, "set": all_settings.NAMES, "goto": branches, "label": labels}.get(name.lower(), ())
    words = rest.rfind(" ") + 1  # those before the last: a label may have several
    return [known[words:] for known in values if known.startswith(rest)]


def wants_file(line: str) -> str | None:
    """The unfinished file name at the end of a line whose command takes one; None for any other line."""
    name, space, rest = line[1:].partition(" ")
    command = _TABLE.get(name.lower()) if is_command(line) and space else None
    if command is None or "FILE" not in command.arguments:
        return None
    words = _VALUES.get(command.name, ())  # what else may stand there
    return None if any(word.startswith(rest) or (word.endswith(" ") and rest.startswith(word)) for word in words) else rest
