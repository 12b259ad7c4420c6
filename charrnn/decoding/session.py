"""A session of writing together: feed it a line, get events; its memory is a tree of states.

Knows what may be typed (text, or a command of the table in commands.py) and what follows; knows no terminal, no keys,
no colours. `feed` is a generator: closing it, or calling `cancel` from a signal handler or another thread, stops the
model in mid-word, and what was said so far stays in the tree.

The same lines with the same seed give the same text: a draw depends on the seed, its place in the text and the number
of the attempt, and on nothing else. So stopping a stream and going on with an empty line gives what would have been
said anyway (with characters and bytes; subwords may be cut otherwise where the model was stopped), and taking a line back and
typing it again gives the same answer; `/retry` gives another.

With `turns` it is a conversation: your line and the model's reply are lines of their own, by the convention of turns.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

from charrnn.decoding import adapting, commands, draft, generate, healing
from charrnn.decoding import settings as all_settings
from charrnn.decoding.adapting import Adaptation
from charrnn.decoding.answer import Answer
from charrnn.decoding.course import RECENT, REMEMBERED, Copies, Drawing
from charrnn.decoding.draft import Choice, Draft
from charrnn.decoding.engine import Stepper
from charrnn.decoding.events import Heated, Notice, Output, Problem, Resumed, Text, Typed
from charrnn.decoding.family import said_in
from charrnn.decoding.generate import Prefix, Token
from charrnn.decoding.heat import Heat
from charrnn.decoding.settings import Settings
from charrnn.decoding.tree import Node, Partner, Tree, tokens_of
from charrnn.decoding.turns import Reply, Turns
from charrnn.errors import CharrnnError
from charrnn.text.tokenizers import well_formed

NAMED_CHARACTERS = 8
MOST_TOKENS = 4  # for a character, of a byte model
BLOCK = '"""'  # begins and ends a text of several lines


class Session:
    """One person, one model, one tree. Not for two threads at once, `cancel` excepted."""

    def __init__(self, partner: Partner, settings: Settings | None = None, turns: Turns | None = None) -> None:
        self.partner, self.turns = partner, turns
        self.adaptation = Adaptation(partner)
        self.settings = settings or Settings()
        self.heating = False
        self.block: list[str] | None = None  # the lines of an unfinished block
        self.drawn = 0  # tokens, in all
        self.keys: tuple[tuple[str, str], ...] = ()  # what /help tells of them, as far as there are any
        self.exports: set[Path] = set()  # texts that this session wrote, and may write again
        self._cancelled = False
        self.trees: dict[str, Tree] = {}  # by label, each with states of its own; one under "" where there are no labels
        self.replace(Tree(partner))
        self._watched: Copies | None = None

    def replace(self, tree: Tree) -> None:
        """Go on with another tree; if it is of another label, the one before stays what it is."""
        self.tree, self.partner = tree, tree.partner
        self.trees[self.partner.label] = tree
        self.heat = Heat(self.partner, tree, self.turns, self.cancelled)
        self._draft = Draft(self.partner)
        self.offered: tuple[int, ...] = ()  # nodes of which a digit takes one, as the next thing that is said

    def rethink(self, engine: Stepper) -> None:
        """Go on with other weights of the same model; the text and the tree stay what they are."""
        offered = self.offered
        self.tree.rethink(engine)
        self.replace(self.tree)
        self.offered = offered

    def kept(self) -> list[Tree]:
        """The trees that hold anything, the one in use first."""
        return [self.tree, *(tree for tree in self.trees.values() if tree is not self.tree and len(tree.nodes) > 1)]

    @property
    def text(self) -> str:
        """The text as it stands."""
        return self.tree.text()

    def cancel(self) -> None:
        """Stop the answer that is being streamed, after the token in hand; safe in a signal handler or a thread."""
        self._cancelled = True

    def feed(self, line: str) -> Iterator[Output]:
        """What follows when `line` (without its line end) is entered; whatever is wrong with it is a Problem."""
        return self._safely(self._read(well_formed(line)))

    def begin(self, text: str) -> Iterator[Output]:
        """What follows when `text` is said, whatever it begins with; whatever is wrong with it is a Problem."""
        return self._safely(self.say(well_formed(text)))

    def _safely(self, events: Iterator[Output]) -> Iterator[Output]:
        self._cancelled = False
        try:
            yield from events
        except CharrnnError as error:
            yield Problem(all_settings.as_typed(error.message), all_settings.as_typed(error.hint))

    def _read(self, line: str) -> Iterator[Output]:
        offered, self.offered = self.offered, ()
        if self.block is not None or line.startswith(BLOCK):
            yield from self._lengthen(line)
        elif line.strip() in map(str, range(1, len(offered) + 1)):
            yield from self._take(offered[int(line) - 1])
        elif commands.is_command(line):
            here = self.tree.current
            yield from commands.obey(self, line)
            if here == self.tree.current:  # it only looked at something
                self.offered = self.offered or offered
        else:
            yield from self.say(line[1:] if line.startswith("//") else line)

    def finish(self) -> Iterator[Output]:
        """There are no more lines: what follows from a block that was not closed."""
        if self.block is not None:
            yield from self.feed(BLOCK)

    def _lengthen(self, line: str) -> Iterator[Output]:
        """Another line of a block, which may be its first, its last or both."""
        if self.block is None:
            line, self.block = line[len(BLOCK) :], []
            if not line:
                return
        ended = line.rstrip().endswith(BLOCK)
        if ended:
            line = line.rstrip()[: -len(BLOCK)]
        if line or not ended:
            self.block.append(line)
        if ended:
            text, self.block = "\n".join(self.block), None
            yield from self.say(text)

    def say(self, text: str) -> Iterator[Output]:
        """Add what was typed to the text, on a line of its own, and answer; nothing typed lets the model go on."""
        if not text:
            if self.turns is not None and self.tree.nodes[self.tree.current].kind == "root":
                yield Notice("Say something; /help tells what else can be typed.")
                return
            yield from self.context(self.tree.current)
            yield from self.answer(self.tree.current, 0)
            return
        before = self.tree.current
        if unknown := self.partner.tokenizer.unknown(text):
            yield Notice(_naming(unknown))
        added = self.tree.apart(text if self.turns is None else self.turns.asked(text))
        node = self.tree.add(Node(before, "you", tuple(self.partner.spelt(added).tolist()), added))
        yield self.typed(node)
        if self.adaptation.on:
            yield from adapting.learn_line(self, node)
        self._read_draft(node)
        yield from self.answer(node, 0)

    def _read_draft(self, node: int) -> None:
        """Read your line in `node`, as far as it was not read while it was typed."""
        text = self.tree.nodes[node].text
        before = self.tree.prefix(self.tree.nodes[node].parent, self.cancelled)
        if before is None:
            return
        end = healing.stable(self.partner.tokenizer, text)
        stable = self._draft.read(before, text[:end], self.cancelled) if end < len(text) else None
        if stable is not None:
            self.tree.know_stable(node, stable)
        after = self._draft.read(before, text, self.cancelled)
        if after is not None:
            self.tree.know(node, after)

    def typed(self, node: int) -> Typed:
        """What you said in `node`, with its surprise if that is wanted."""
        return Typed(said_in(self.tree, node, self.turns), self.heat.pieces(node) if self.heating else ())

    def context(self, base: int) -> Iterator[Output]:
        """What an answer to node `base` goes on from: your line, or the model's own that has not ended."""
        if self.tree.nodes[base].kind == "you":
            yield self.typed(base)
        elif line := self.tree.open_line(base):
            yield Resumed(line if self.turns is None else line.removeprefix(self.turns.model))

    def last_said(self) -> tuple[tuple[Heated, ...], tuple[Heated, ...]]:
        """Your last line and its answer, in pieces with their surprise; either may be missing."""
        nodes, here = self.tree.nodes, self.tree.current
        asked = nodes[here].parent if nodes[here].kind == "model" else here
        pieces = self.heat.pieces
        return pieces(asked) if nodes[asked].kind == "you" else (), pieces(here) if nodes[here].kind == "model" else ()

    def cancelled(self) -> bool:
        """Whether the answer in hand is to stop."""
        return self._cancelled

    def answer(self, base: int, attempt: int, *, go: bool = True) -> Iterator[Output]:
        """Stream the model's continuation of node `base`, and keep as a node, and go to, whatever of it was shown."""
        prefix = self.tree.prefix(base, self.cancelled)
        if prefix is None:
            return
        answer = Answer(base, attempt, None if self.turns is None else Reply(self.turns))
        try:
            for token in self._stream(prefix, base, attempt):
                shown = answer.take(token)
                answer.bits -= token.logprob / math.log(2)
                if shown:
                    yield Text(shown, answer.bits if self.heating else None)
                    answer.bits = 0.0
                if self._cancelled or answer.stopped or (token.text and answer.is_enough(self.settings)):
                    break
            else:
                answer.stopped |= not self._cancelled
        finally:
            self._keep(answer, go)
        if answer.stopped and not answer.text:
            yield Notice(self._why_empty())
        elif self.heating and go:
            yield Notice(self.heat.words(self.tree.current))

    def _why_empty(self) -> str:
        if self.turns is not None:
            return "The answer is empty: the model leaves the word to you. Say something, or /retry."
        if self.partner.at_eos == "end":
            return "Nothing follows: the text ends here. Type a line, /retry, or /reset to begin another text."
        return "The answer is empty: a stop, a number of lines or the pattern ends it. Type a line, /retry, or change a setting."

    def _stream(self, prefix: Prefix, base: int, attempt: int) -> Iterator[Token]:
        """Tokens without end: who listens counts them, so that the last is never half a character or half a stop.

        Only where a pattern has to be met in time does the stream itself know how long an answer may be.
        """
        settings = self.settings
        remembered = REMEMBERED if settings.no_repeat_ngram else RECENT
        opening = self.tree.opening(base, prefix, max(remembered, MOST_TOKENS * settings.max_copy))
        shown = opening.shown if self.turns is None else opening.shown.removeprefix(self.turns.model)
        return generate.stream(
            self.partner.engine, self.partner.tokenizer, opening.prefix, settings, seed=settings.seed, attempt=attempt,
            length=settings.length if settings.regex else None, at_eos=self.partner.at_eos, shaping=settings,
            recent=opening.recent, shown=shown, pending=opening.pending, copies=self._copies(settings), cancelled=self.cancelled,
        )  # fmt: skip

    def _copies(self, settings: Settings) -> Copies | None:
        """What --max-copy watches with; loaded when first wanted."""
        if not settings.max_copy or self.partner.watch is None:
            return None
        if self._watched is None or self._watched.longest != settings.max_copy:
            self._watched = self.partner.watch(settings.max_copy)
        return self._watched

    def _keep(self, answer: Answer, go: bool) -> None:
        """Make a node of what was said.

        A stop text at once is an answer too, so that /retry asks for another; Ctrl-C before the first character is none.
        """
        self.drawn += len(answer.ids)
        nothing_to_add = self.turns is not None and self.tree.nodes[answer.base].kind == "model"
        if not answer.text and (nothing_to_add or not answer.stopped):
            return
        ids = tokens_of(answer.text, answer.ids, self.partner.tokenizer)
        node = Node(answer.base, "model", tuple(ids), answer.text, self.settings.seed, answer.attempt)
        self.tree.add(node, self._after(answer, ids), go=go)

    def _after(self, answer: Answer, ids: list[int]) -> Prefix | None:
        """The state after the first of the drawn tokens, `ids`, if it is at hand."""
        further = len(answer.ids) - len(ids)
        if not ids or ids != answer.ids[: len(ids)] or further >= len(answer.last):
            return None
        token, base = answer.last[-1 - further], self.tree.prefix(answer.base)
        if base is None or token.prefix.position + 1 != base.position + len(ids):
            return None  # the first of them wrote the end of your line anew, as a part of longer pieces
        return generate.prime(self.partner.engine, [token.id], token.prefix)

    def _take(self, node: int) -> Iterator[Output]:
        """Go on from one of the alternatives."""
        self.tree.grow(node)
        yield from self.context(self.tree.nodes[node].parent)
        if not self.heating:
            yield Text(said_in(self.tree, node, self.turns))
            return
        yield from (Text(piece.text, piece.bits) for piece in self.heat.pieces(node))
        yield Notice(self.heat.words(node))

    def check(self, settings: Settings) -> None:
        """Raise CharrnnError if this model cannot write under these settings."""
        Drawing(self.partner.tokenizer, settings, settings, self.partner.at_eos)
        self._copies(settings)

    def ghost(self, line: str, cancelled: Callable[[], bool]) -> str:
        """The likeliest continuation of a line that is being typed; empty if there is none, or it was cancelled."""
        text = self._being_typed(line) if line and self.settings.ghost else None
        before = None if text is None else self.tree.prefix(self.tree.current, cancelled)
        if text is None or before is None:
            return ""
        recent = self.tree.recent(self.tree.current, RECENT)
        try:
            said = self._draft.continuation(before, recent, text, self.settings, self.settings.ghost, cancelled)
        except CharrnnError:
            return ""  # the answer will say what is wrong
        return said or ""

    def next_tokens(self, line: str, cancelled: Callable[[], bool]) -> list[Choice]:
        """The likeliest next tokens of a line that is being typed; none if it was cancelled."""
        text = self._being_typed(line)
        before = None if text is None else self.tree.prefix(self.tree.current, cancelled)
        if text is None or before is None:
            return []
        return self._draft.choices(before, text, draft.MOST_CHOICES, cancelled)

    def _being_typed(self, line: str) -> str | None:
        """What an unfinished line, as far as it is typed, adds to the text; None if it is a command, or not foreseen."""
        if self.turns is not None and not self.turns.told:
            return None
        line = well_formed(line)
        if self.block is not None:
            line = "\n".join([*self.block, line])
        elif line.startswith(BLOCK):
            line = line[len(BLOCK) :]
        elif commands.is_command(line):
            return None
        elif line.startswith("//"):
            line = line[1:]
        return self.tree.apart(line if self.turns is None else self.turns.typing(line))


def _naming(unknown: list[str]) -> str:
    shown = ((f"U+{ord(letter):04X}", f" '{letter}'" if letter.isprintable() else "") for letter in unknown[:NAMED_CHARACTERS])
    named = ", ".join(code + picture for code, picture in shown)
    more = f" and {len(unknown) - NAMED_CHARACTERS} more" if len(unknown) > NAMED_CHARACTERS else ""
    return f"The model has never seen {named}{more}; it reads <unk> instead."
