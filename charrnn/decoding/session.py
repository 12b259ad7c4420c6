"""A session of writing together: feed it a line, get events; its memory is a tree of states.

Knows what may be typed (text, or a command of the one table at the end, from which help, completion and corrections
come) and what follows; knows no terminal, no keys, no colours. `feed` is a generator: closing it, or calling `cancel`
from a signal handler or another thread, stops the model in mid-word, and what was said so far stays in the tree.

The same lines with the same seed give the same text: a draw depends on the seed, its place in the text and the number
of the attempt, and on nothing else. So stopping a stream and going on with an empty line gives what would have been
said anyway, and taking a line back and typing it again gives the same answer; `/retry` gives another.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from charrnn import durable
from charrnn.decoding import generate, memory
from charrnn.decoding import settings as all_settings
from charrnn.decoding.course import RECENT, REMEMBERED, Copies, Drawing
from charrnn.decoding.events import Ended, Listing, Notice, Output, Problem, Text, Typed
from charrnn.decoding.generate import Prefix, Token
from charrnn.decoding.settings import Settings, did_you_mean
from charrnn.decoding.tree import Node, Partner, Tree, tokens_of
from charrnn.errors import CannotCreateError, CharrnnError
from charrnn.text.tokenizers import EOS, well_formed

EXCERPT = 40  # characters of the text's end that are shown to say where one is
NAMED_CHARACTERS = 8
MOST_TOKENS = 4  # for a character, of a byte model


@dataclass
class _Answer:
    """What the model has said after node `base` so far: shown text, and every token drawn for it."""

    base: int
    pieces: list[str] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    last: Token | None = None
    document_ended: bool = False
    stopped: bool = False

    def take(self, token: Token) -> None:
        self.ids.append(token.id)
        self.last = token
        self.document_ended |= token.id == EOS
        if token.text:
            self.pieces.append(token.text)


class Session:
    """One person, one model, one tree. Not for two threads at once, `cancel` excepted."""

    def __init__(self, partner: Partner, settings: Settings | None = None) -> None:
        self.partner = partner
        self.settings = settings or Settings()
        self.tree = Tree(partner)
        self._cancelled = False
        self._watched: Copies | None = None
        self._own_files: set[Path] = set()  # what this session wrote, and may write again

    @property
    def text(self) -> str:
        """The text as it stands."""
        return self.tree.text()

    def cancel(self) -> None:
        """Stop the answer that is being streamed, after the token in hand; safe in a signal handler or a thread."""
        self._cancelled = True

    def feed(self, line: str) -> Iterator[Output]:
        """What follows when `line` (without its line end) is entered; whatever is typed, it never raises."""
        self._cancelled = False
        line = well_formed(line)
        try:
            if is_command(line):
                yield from self._obey(line)
            else:
                yield from self._say(line[1:] if line.startswith("//") else line)
        except CharrnnError as error:
            yield Problem(all_settings.as_typed(error.message), all_settings.as_typed(error.hint))

    def _say(self, text: str) -> Iterator[Output]:
        """Add what was typed to the text, on a line of its own, and answer; nothing typed lets the model go on."""
        if text:
            tokenizer = self.partner.tokenizer
            if unknown := tokenizer.unknown(text):
                yield Notice(_naming(unknown))
            added = text if self.tree.tail(1) in ("", "\n") else "\n" + text
            self.tree.add(Node(self.tree.current, "you", tuple(tokenizer.encode(added).tolist()), added))
            yield Typed(text)
        yield from self._answer(self.tree.current, 0)

    def _answer(self, base: int, attempt: int) -> Iterator[Output]:
        """Stream the model's continuation of node `base`, and keep as a node whatever of it was shown."""
        prefix = self.tree.prefix(base, lambda: self._cancelled)
        if prefix is None:
            return
        answer = _Answer(base)
        try:
            for token in self._stream(prefix, base, attempt):
                answer.take(token)
                if token.text:
                    yield Text(token.text)
                if self._cancelled or (token.text and self._enough(answer)):
                    break
            else:
                answer.stopped = True
        finally:
            self._keep(answer, attempt)
        if answer.stopped and not answer.pieces:
            yield Notice(
                "The answer is empty: a stop or the pattern ends it at once. Type a line, /retry, or change the settings."
            )

    def _enough(self, answer: _Answer) -> bool:
        """Whether an answer is as long as it may be, or has come to the end of a document (which is its last line end)."""
        return len(answer.ids) >= self.settings.length or answer.document_ended

    def _stream(self, prefix: Prefix, base: int, attempt: int) -> Iterator[Token]:
        """Tokens without end: who listens counts them, so that the last is never half a character or half a stop.

        Only where a pattern has to be met in time does the stream itself know how long an answer may be.
        """
        settings = self.settings
        remembered = REMEMBERED if settings.no_repeat_ngram else RECENT
        opening = self.tree.opening(base, prefix, max(remembered, MOST_TOKENS * settings.max_copy))
        return generate.stream(
            self.partner.engine, self.partner.tokenizer, opening.prefix, settings, seed=settings.seed, attempt=attempt,
            length=settings.length if settings.regex else None, at_eos=self.partner.at_eos, shaping=settings,
            recent=opening.recent, shown=opening.shown, pending=opening.pending, copies=self._copies(settings),
        )  # fmt: skip

    def _copies(self, settings: Settings) -> Copies | None:
        """What --max-copy watches with; loaded when first wanted."""
        if not settings.max_copy or self.partner.watch is None:
            return None
        if self._watched is None or self._watched.longest != settings.max_copy:
            self._watched = self.partner.watch(settings.max_copy)
        return self._watched

    def _keep(self, answer: _Answer, attempt: int) -> None:
        """Make a node of what was shown; text held back (half a character, the beginning of a stop) is not part of it.

        A stop text at once is an answer too, so that /retry asks for another; Ctrl-C before the first character is none.
        """
        if not answer.pieces and not answer.stopped:
            return
        text, after = "".join(answer.pieces), None
        ids = tokens_of(text, answer.ids, self.partner.tokenizer)
        if ids == answer.ids and answer.last is not None:
            after = generate.prime(self.partner.engine, [answer.last.id], answer.last.prefix)
        self.tree.add(Node(answer.base, "model", tuple(ids), text, self.settings.seed, attempt), after)

    def _obey(self, line: str) -> Iterator[Output]:
        """Carry out one command; whatever is wrong with it is a Problem and changes nothing."""
        name, _, argument = line[1:].partition(" ")
        command, argument = _TABLE.get(name.lower()), argument.strip()
        if command is None:
            hint = did_you_mean(name.lower(), _TABLE, "/") or "/help lists the commands; // begins a line of text with a slash."
            yield Problem(f"There is no command /{name}.", hint)
        elif argument and not command.arguments:
            yield Problem(f"/{command.name} takes nothing after it.", f"Type {command.usage}")
        elif not argument and command.arguments and not command.arguments.startswith("["):
            yield Problem(f"/{command.name} needs {command.arguments}.", f"Type {command.usage}")
        else:
            yield from command.run(self, argument)

    def help(self, argument: str) -> Iterator[Output]:
        """What can be typed."""
        yield Listing(WRITING + tuple((command.usage, command.help) for command in COMMANDS))

    def set(self, argument: str) -> Iterator[Output]:
        """List the settings, show one, or change one."""
        name, _, value = argument.partition(" ")
        if not name:
            yield Listing(all_settings.rows(self.settings))
            return
        name, value = all_settings.canonical(name), value.strip()
        if value:
            changed = all_settings.changed(self.settings, name, value)
            self.check(changed)
            self.settings = changed
        yield Notice(f"{name} is {all_settings.shown(self.settings, name)}")

    def check(self, settings: Settings) -> None:
        """Raise CharrnnError if this model cannot write under these settings."""
        Drawing(self.partner.tokenizer, settings, settings, self.partner.at_eos)
        self._copies(settings)

    def retry(self, argument: str) -> Iterator[Output]:
        """Answer the last line once more; the answers before stay in the tree."""
        nodes, here = self.tree.nodes, self.tree.current
        if here == 0:
            yield Problem("There is nothing to answer yet.", "Type a line, or an empty one to let the model begin.")
            return
        base = nodes[here].parent if nodes[here].kind == "model" else here
        if nodes[base].kind == "you":
            yield Typed(nodes[base].text.removeprefix("\n"))
        yield from self._answer(base, self.tree.next_attempt(base))

    def undo(self, argument: str) -> Iterator[Output]:
        """Go back to before the last answer and the line it answered."""
        nodes, here = self.tree.nodes, self.tree.current
        if here == 0:
            yield Problem("There is nothing to take back.", "Type a line, or an empty one to let the model begin.")
            return
        if nodes[here].kind == "model":
            here = nodes[here].parent
        self.tree.current = nodes[here].parent if nodes[here].kind == "you" else here
        yield Notice(f"Taken back. {self._place()}")

    def reset(self, argument: str) -> Iterator[Output]:
        """Go back to the root, where another text can grow."""
        self.tree.current = 0
        yield Notice("A new text begins.")

    def show(self, argument: str) -> Iterator[Output]:
        """The model's card, the settings, and the place in the text."""
        partner, tokenizer = self.partner, self.partner.tokenizer
        units = ("tokenizer", f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens")
        values = ", ".join(f"{name} {all_settings.shown(self.settings, name)}" for name in all_settings.notable(self.settings))
        model = ("model", f"{partner.name} ({partner.digest[:12]})")
        yield Listing((model, *partner.card, units, ("settings", values), ("text", self._place())))

    def save(self, argument: str) -> Iterator[Output]:
        """Write the whole tree to a file; another session's file may be replaced, any other may not."""
        path = self._writable(argument, memory.is_session)
        memory.write(path, self.partner, self.tree, self.settings)
        self._own_files.add(path.resolve())
        yield Notice(f"Saved. `/load {argument}` goes on from here.")

    def load(self, argument: str) -> Iterator[Output]:
        """Go on from a saved session, its settings included; the present one stays as it is if that fails."""
        self.tree, self.settings = memory.read(_path(argument), self.partner)
        yield Notice(f"Loaded. {self._place()}")

    def export(self, argument: str) -> Iterator[Output]:
        """Write the text, plain, to a file that does not exist yet or that this session wrote."""
        path, text = self._writable(argument, lambda path: False), self.text
        durable.replace(path, (text if text.endswith("\n") else text + "\n").encode("utf-8"))
        self._own_files.add(path.resolve())
        yield Notice(f"Written to {argument}.")

    def bye(self, argument: str) -> Iterator[Output]:
        """Leave."""
        yield Ended()

    def _place(self) -> str:
        text = self.text
        if not text:
            return "The text is empty."
        lines = sum(self.tree.nodes[index].kind == "you" for index in self.tree.path())
        end = text[-EXCERPT:].replace("\n", "\u23ce")
        return f"The text has {len(text):,} characters (turns of yours: {lines:,}) and ends: {end}"

    def _writable(self, argument: str, may_replace: Callable[[Path], bool]) -> Path:
        path = _path(argument)
        if os.path.exists(path) and path.resolve() not in self._own_files and not may_replace(path):
            raise CannotCreateError(f"{argument!r} exists already, and this session did not write it.", "Give another name.")
        return path


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


COMMANDS = (
    Command("help", "", "Show this.", Session.help),
    Command("set", "[NAME VALUE]", "Change a setting; alone, list them all.", Session.set),
    Command("retry", "", "Another answer to the last line.", Session.retry),
    Command("undo", "", "Take back the last line and its answer.", Session.undo),
    Command("reset", "", "Begin a new text.", Session.reset),
    Command("show", "", "The model, the settings, and where you are in the text.", Session.show),
    Command("save", "FILE", "Keep the session, to go on another day.", Session.save),
    Command("load", "FILE", "Go on with a saved session.", Session.load),
    Command("export", "FILE", "Write the text to a file.", Session.export),
    Command("bye", "", "Leave; so does Ctrl-D.", Session.bye),
)
WRITING = (
    ("TEXT", "A new line of the text; the model goes on from its last character."),
    ("(empty line)", "Let the model go on."),
    ("//TEXT", "A line that begins with a slash."),
    ("Ctrl-C", "Stop the model; what it has said stays."),
)
_TABLE = {command.name: command for command in COMMANDS}


def is_command(line: str) -> bool:
    """Whether a line is a command rather than text."""
    return line.startswith("/") and not line.startswith("//")


def complete(line: str) -> list[str]:
    """What the last word of an unfinished line may become: names of commands and, after /set, of settings."""
    name, space, rest = line[1:].partition(" ")
    if not is_command(line) or " " in rest:
        return []
    if not space:
        return ["/" + command.name for command in COMMANDS if command.name.startswith(name.lower())]
    return [known for known in all_settings.NAMES if known.startswith(rest)] if name.lower() == "set" else []


def wants_file(line: str) -> str | None:
    """The unfinished file name at the end of a line whose command takes one; None for any other line."""
    name, space, rest = line[1:].partition(" ")
    command = _TABLE.get(name.lower()) if is_command(line) and space else None
    return rest if command is not None and command.arguments == "FILE" else None


def _naming(unknown: list[str]) -> str:
    shown = ((f"U+{ord(letter):04X}", f" '{letter}'" if letter.isprintable() else "") for letter in unknown[:NAMED_CHARACTERS])
    named = ", ".join(code + picture for code, picture in shown)
    more = f" and {len(unknown) - NAMED_CHARACTERS} more" if len(unknown) > NAMED_CHARACTERS else ""
    return f"The model has never seen {named}{more}; it reads <unk> instead."


def _path(argument: str) -> Path:
    """The file that was typed; `~` is the home folder. Raises CannotCreateError if no file can have this name."""
    try:
        path = Path(argument).expanduser()
        path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a NUL, a loop of links, nobody's home
        raise CannotCreateError(f"{argument!r} is no name for a file: {error}.", "Give another name.") from error
    return path
