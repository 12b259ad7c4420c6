"""`/adapt`: the model learns from what you write, or from a file, until the session ends or you take it back.

Knows what is learnt and when: a line of yours once it is typed, before it is answered; a file from its beginning to its
end; never a word of the model's. Knows no torch: who learns is passed in. What is learnt at all is learnt whole: Ctrl-C,
an error or the end of the session leave the weights as they were before the line or the file.

States belong to the weights that made them, so those of the tree are forgotten whenever the weights change, and found anew
when they are wanted: at any node they are what the weights of now make of the text up to there. Each line that is learnt
so costs another reading of the text so far.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ReadingConfig
from charrnn.decoding import generate
from charrnn.decoding.events import Heated, Notice, Output, Problem
from charrnn.decoding.heat import heated, said
from charrnn.errors import CorpusError
from charrnn.runs import registry
from charrnn.text import corpus
from charrnn.text.tokenizers import EOS

if TYPE_CHECKING:
    from charrnn.decoding.engine import Ids, State, Stepper
    from charrnn.decoding.session import Session
    from charrnn.decoding.tree import Partner

CHUNK = 512  # tokens between two looks at the cancel flag; whole windows, as long as these are powers of two
MOST_CHARACTERS = 1_000_000  # of a file: 5 minutes with 2x192, half an hour with 2x384; beyond, training is better
TELLING = 3.0  # seconds between two words on how far it has come
LONG = 8192  # tokens that are not learnt in no time
TENTHS = 1000  # characters that a text must have, so that tenths of it say something
EXCERPT = 100  # characters of a name
PLAIN_TEXT = "Give /adapt a file of plain text in UTF-8."
Progress = Generator[Notice, None, "NDArray[np.float64] | None"]


class Adapting(Protocol):
    """A copy of the model's weights that can learn."""

    def learn(self, ids: Ids, before: State) -> tuple[NDArray[np.float64], State]:
        """Score ids[1:] (nats), given the state before ids[0], and learn from them; also the state before ids[-1].

        Raises CharrnnError if it leaves all measure.
        """

    def mark(self) -> object:
        """What it knows now, for `back`."""

    def back(self, mark: object) -> None:
        """Know what was known at `mark`, exactly; None is what the model was trained to."""

    def engine(self) -> Stepper:
        """What decodes with the weights of now, which do not change under it."""

    def save(self, name: str, learnt: dict[str, Any]) -> None:
        """Write them as a new run, which says what it has `learnt` since; raises CharrnnError, also if there is one."""


@dataclass(frozen=True)
class Learnt:
    """A text that was learnt: its characters, and the bits it cost before it was."""

    characters: int = 0
    bits: float = 0.0

    def __add__(self, other: Learnt) -> Learnt:
        return Learnt(self.characters + other.characters, self.bits + other.bits)

    def __str__(self) -> str:
        return f"{self.characters:,} characters, {self.bits / max(self.characters, 1):.2f} bits per character"


@dataclass
class Adaptation:
    """How things stand in one session. `partner` is the model as it was trained."""

    partner: Partner
    on: bool = False
    lines: int = 0
    yours: Learnt = field(default_factory=Learnt)
    files: tuple[tuple[str, Learnt], ...] = ()
    who: Adapting | None = None  # from when it is first wanted

    @property
    def characters(self) -> int:
        """How much was learnt since the model was trained."""
        return self.yours.characters + sum(learnt.characters for _, learnt in self.files)

    def forget(self) -> None:
        """Be as at the beginning."""
        self.on, self.lines, self.yours, self.files = False, 0, Learnt(), ()
        if self.who is not None:
            self.who.back(None)

    def listed(self) -> str:
        """What was learnt."""
        lines = [f"{self.lines:,} line{'s' * (self.lines != 1)} of yours ({self.yours})"] if self.lines else []
        return "; ".join([*lines, *(f"{name} ({learnt})" for name, learnt in self.files)])

    def record(self) -> dict[str, Any]:
        """The same for a saved run: no text, no paths."""
        files = [{"name": name, "characters": learnt.characters} for name, learnt in self.files]
        return {"characters": self.characters, "lines": self.lines, "files": files}


def adapt(session: Session, argument: str) -> Iterator[Output]:
    """Say how things stand, begin or end to learn from lines, learn from a file, or keep what was learnt as a run."""
    word, _, rest = argument.partition(" ")
    if session.adaptation.partner.adapting is None:
        yield _refused(session.adaptation.partner)
    elif not argument:
        yield Notice(_standing(session.adaptation))
    elif argument == "off":
        yield from _off(session)
    elif argument == "on":
        yield from _on(session)
    elif word == "save":
        yield from _save(session, rest.strip())
    else:
        yield from _from_file(session, argument)


def _refused(partner: Partner) -> Problem:
    why = "it writes by labels" if partner.labels else "it answers texts" if partner.spelling else "its weights are fixed here"
    return Problem(
        f"{partner.name} cannot learn in a session: {why}.", "A run that learnt running text can: `charrnn repl poems`."
    )


def _standing(now: Adaptation) -> str:
    if not now.characters:
        return f"adapt is {'on; nothing has been learnt yet' if now.on else 'off: the model is as it was trained'}."
    on = "adapt is on." if now.on else "Your lines are not learnt; /adapt on begins that."
    return f"{on} Learnt: {now.listed()}. /adapt off forgets it, /adapt save NAME keeps it as a run."


def _on(session: Session) -> Iterator[Output]:
    yield from _prepared(session)
    if session.cancelled():  # while torch was loaded, which nothing can stop
        yield Notice(f"Ctrl-C: adapt is {'on, as before' if session.adaptation.on else 'not on'}.")
        return
    session.adaptation.on = True
    yield Notice("adapt is on: each line of yours is learnt, then answered. /adapt off forgets all that was learnt.")


def _off(session: Session) -> Iterator[Output]:
    now = session.adaptation
    forgotten = f" Forgotten: {now.listed()}." if now.characters else ""
    now.forget()
    session.rethink(now.partner.engine)
    yield Notice(f"adapt is off: the model is as it was trained.{forgotten}")


def _save(session: Session, name: str) -> Iterator[Output]:
    now = session.adaptation
    if not registry.is_name(name):
        found = f"{name[:EXCERPT]!r} cannot name a run." if name else "/adapt save needs NAME."
        yield Problem(found, f"Letters, digits, '_', '-' and '.': /adapt save {now.partner.name}-mine")
    elif now.who is None or not now.characters:
        yield Problem(
            "Nothing has been learnt yet that could be saved.", "Type /adapt on, or /adapt and the name of a text file."
        )
    else:
        now.who.save(name, now.record())
        use = f"`charrnn repl {name}` writes" if session.turns is None else f"`charrnn chat {name}` talks"
        yield Notice(f"Saved as the run {name}: {use} with it.")


def _prepared(session: Session) -> Iterator[Output]:
    """Have who learns ready."""
    now = session.adaptation
    assert now.partner.adapting is not None
    if now.who is None:
        yield Notice("Getting ready to learn, which takes some seconds ...")
        now.who = now.partner.adapting()


def learn_line(session: Session, node: int) -> Iterator[Output]:
    """Learn your line in `node`, which has just been added."""
    now, known = session.adaptation, _before(session, node)
    ids = session.tree.nodes[node].ids
    costs = None if known is None else (yield from _read(session, np.array([known[0], *ids]), known[1]))
    if costs is None:
        yield Notice("Ctrl-C: this line was not learnt.")
        return
    pieces = heated(now.partner.tokenizer, session.tree.nodes[node].text, ids, costs.tolist())
    yours = [*said(session.tree, node, session.turns, pieces)]  # all of it was learnt, but this is what was typed
    learnt = Learnt(sum(len(piece.text) for piece in yours), sum(piece.bits for piece in yours))
    now.lines, now.yours = now.lines + 1, now.yours + learnt
    _go_on(session)


def _before(session: Session, node: int) -> tuple[int, State] | None:
    """The token before node `node`, and the state before that; None if cancelled while the text was read for it."""
    tree = session.tree
    above = tree.nodes[node].parent
    while above > 0 and not tree.nodes[above].ids:
        above = tree.nodes[above].parent
    if above <= 0:
        return _beginning(tree.partner)
    ids = tree.nodes[above].ids
    known = tree.prefix(tree.nodes[above].parent, session.cancelled)
    return None if known is None else (ids[-1], generate.prime(tree.partner.engine, ids[:-1], known).state)


def _beginning(partner: Partner) -> tuple[int, State]:
    """The last of the tokens that a text begins after, and the state before it."""
    *before, last = partner.start
    return last, generate.prime(partner.engine, before).state if before else partner.engine.begin(1)


def _from_file(session: Session, argument: str) -> Iterator[Output]:
    """Learn a text as one of its own, once through."""
    now, partner = session.adaptation, session.partner
    documents = _documents(argument, partner)
    text = "\n".join(documents)
    yield from _prepared(session)
    if unknown := partner.tokenizer.unknown(text):
        yield Notice(f"The model has never seen {len(unknown):,} different characters of it; it reads <unk> instead.")
    last, before = _beginning(partner)
    ids, began = _tokens(partner, documents), time.monotonic()
    costs = yield from _read(session, np.concatenate([[last], ids]), before)
    if costs is None:
        yield Notice("Ctrl-C: nothing of it was learnt; the model is as it was before.")
        return
    whole, first, last_tenth = _measured(heated(partner.tokenizer, text, ids.tolist(), costs.tolist()), len(text))
    now.files = (*now.files, (os.path.basename(argument)[:EXCERPT], whole))
    _go_on(session)
    tenths = f": {first:.2f} in its first tenth, {last_tenth:.2f} in its last" if len(text) >= TENTHS else ""
    seconds = time.monotonic() - began
    yield Notice(f"Learnt{f' in {seconds:.0f} s' if seconds >= 1 else ''}: {whole}{tenths}. /adapt off forgets it.")


def _documents(argument: str, partner: Partner) -> list[str]:
    """The texts of a file, read as training reads it; raises CorpusError if it is none, empty or too long."""
    try:
        path = os.path.expanduser(argument)
        if os.path.isdir(path) or not os.path.isfile(path):  # not a pipe, which would be waited for
            raise CorpusError(f"there is no file {argument[:EXCERPT]!r}.", "/adapt takes on, off, save NAME, or a text file.")
        found: list[list[str]] = []
        size, source = 0, corpus.Source(argument, argument, Path(path))
        for number, piece in corpus.pieces([source], ReadingConfig()):
            size += len(piece)
            if size > MOST_CHARACTERS:
                hint = f"Train on it: `charrnn train {shlex.quote(argument)} --init-from {shlex.quote(partner.name)}`."
                raise CorpusError(f"{argument!r} has more than {MOST_CHARACTERS:,} characters.", hint)
            found += [[] for _ in range(number + 1 - len(found))]
            found[number].append(piece)
    except CorpusError as error:
        raise CorpusError(
            error.message, error.hint if "/adapt" in error.hint or "init-from" in error.hint else PLAIN_TEXT
        ) from error
    return _checked(["".join(pieces) for pieces in found], argument)


def _checked(documents: list[str], argument: str) -> list[str]:
    if any("\0" in document for document in documents):
        raise CorpusError(f"{argument!r} holds NUL characters: it is no text, or not UTF-8.", PLAIN_TEXT)
    if not any(documents):
        raise CorpusError(f"{argument!r} holds no text.", PLAIN_TEXT)
    return documents


def _tokens(partner: Partner, documents: Sequence[str]) -> Ids:
    """The tokens of texts, with the end of a document between two where the model has learnt what that is."""
    encode = partner.tokenizer.encode
    if partner.at_eos != "newline":
        return encode("\n".join(documents))
    return np.concatenate([part for text in documents for part in (encode(text), np.array([EOS]))][:-1])


def _read(session: Session, ids: Ids, state: State) -> Progress:
    """Learn ids[1:] after the state before ids[0]: their nats, as each was before it was learnt; None if cancelled."""
    who, costs, told = session.adaptation.who, list[NDArray[np.float64]](), time.monotonic()
    assert who is not None
    mark, whole = who.mark(), False
    if len(ids) > LONG:
        yield Notice(f"Learning {len(ids) - 1:,} tokens; Ctrl-C stops.")
    try:
        for first in range(0, len(ids) - 1, CHUNK):
            if session.cancelled():
                return None
            nats, state = who.learn(ids[first : first + CHUNK + 1], state)
            costs.append(nats)
            if time.monotonic() - told > TELLING:
                told = time.monotonic()
                yield Notice(f"{(first + len(nats)) / (len(ids) - 1):.0%} ...")
        whole = True
    finally:
        if not whole:
            who.back(mark)
    return np.concatenate(costs)


def _go_on(session: Session) -> None:
    assert session.adaptation.who is not None
    session.rethink(session.adaptation.who.engine())


def _measured(pieces: Iterable[Heated], characters: int) -> tuple[Learnt, float, float]:
    """A text as a whole, and the bits per character in its first tenth and in its last."""
    position, tenths, sizes = 0, [0.0] * 10, [0] * 10
    for piece, bits in pieces:
        tenth = min(position * 10 // characters, 9)
        tenths[tenth], sizes[tenth] = tenths[tenth] + bits, sizes[tenth] + len(piece)
        position += len(piece)
    return Learnt(characters, sum(tenths)), tenths[0] / max(sizes[0], 1), tenths[9] / max(sizes[9], 1)
