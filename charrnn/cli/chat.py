"""`charrnn chat`: talking with a model that has learnt conversations. Knows what can be asked for, nothing of lines."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import console, converse, labels, loading, options, sessions
from charrnn.errors import UsageError

if TYPE_CHECKING:
    from charrnn.decoding.tree import Partner
    from charrnn.decoding.turns import Turns
    from charrnn.runs.model import Model

DEFAULTS = {"finish": "word", "temp": 0.5}  # an answer that fits matters more than one that surprises
TALKING = ("language", "conditional", "seq2seq")
LEAST = 0.5  # probability of the model's prefix after a line of yours, by which one knows that it has learnt turns


@rich_click.command()
@options.apply(
    [
        options.run_argument(required=False),
        rich_click.option(
            "--turns", metavar="YOU,MODEL", panel="Text", show_default="> ,< ",
            help="What your lines and the model's begin with, for a model that learnt conversations in another form.",
        ),
        *sessions.flags(DEFAULTS),
    ]
)  # fmt: skip
def chat(run: str | None, checkpoints: Path, turns: str | None, keys: str, narrow: bool, **values: Any) -> None:
    """Talk with a model that was trained on conversations, or on pairs of texts.

    Without a RUN it is the one saved last of those that have learnt conversations; if none has, of those that learnt pairs.
    /retry asks for another answer, /undo takes back a turn, /reset begins a new conversation, /help shows all commands,
    Ctrl-C stops an answer, Ctrl-D leaves. Without a terminal each line of input gives a reply.

    Such a model comes from a text in which your lines begin with "> ", the model's with "< ", and a blank line ends a
    conversation; --turns names other beginnings. A model that learnt pairs (train --task seq2seq) answers each line by
    itself: it remembers none of those before. It draws its answers; `charrnn translate` searches for the likeliest.

    \b
    charrnn chat dialogues
    charrnn chat plays --turns "ROMEO: ,JULIET: "
    echo "hello" | charrnn chat dialogues
    """
    from charrnn.decoding import turns as conventions

    convention = conventions.STANDARD if turns is None else conventions.parsed(turns)
    settings = sessions.settings(values, DEFAULTS)
    from charrnn.decoding import engine as engines
    from charrnn.decoding.session import Session

    model = loading.load(run, checkpoints, TALKING) if run is not None else _newest(checkpoints, convention)
    if model.config.task == "seq2seq":
        convention = _pairs(turns, narrow)
    label = labels.chosen(model, values["label"], settings.seed)
    with engines.single_thread():
        if convention.told:
            other = sessions.partner(model, narrow, label, checkpoints)
            _check_learnt(model, other, convention, asked=turns is not None)
        else:
            other = sessions.replier(model)
        session = Session(other, settings, convention)
        session.check(settings)
        sessions.tell_seed(values, settings, model, label)
        converse.run(session, sessions.greeting(model, "Say something; /help tells more.", label), vi=keys == "vi")


def _newest(root: Path, turns: Turns) -> Model:
    """The run saved last of those that have learnt these turns; else of those that learnt pairs; else the one saved last.

    Raises CheckpointError.
    """
    from charrnn.runs import model as models
    from charrnn.runs import registry

    paired = None
    for info in registry.listing(root):
        if not info.problem:
            model = models.load(info.path)
            if model.config.task in models.WRITING and can_chat(model, turns):
                return model
            if paired is None and model.config.task == "seq2seq":
                paired = model
    return paired or loading.load(None, root)


def _pairs(turns: str | None, narrow: bool) -> Turns:
    """The convention of a model that learnt pairs; raises UsageError for options that it has no use for."""
    from charrnn.decoding import turns as conventions

    if turns is not None:
        raise UsageError("--turns is for models that learnt conversations; this one learnt pairs of texts.", "Leave it out.")
    if narrow:
        console.note("--int8 is for models that write: the weights are used as they are")
    return conventions.PAIRS


def _check_learnt(model: Model, other: Partner, turns: Turns, *, asked: bool) -> None:
    """Refuse a model that was not trained on conversations; if --turns were given, only warn. Raises UsageError."""
    if knows_turns(other, turns):
        return
    shown = f"lines that begin with {turns.you!r} and {turns.model!r}"
    if not asked:
        raise UsageError(
            f"{model.name} was not trained on conversations, {shown}.",
            f"`charrnn repl {console.quoted(model.name)}` writes with it; --turns 'You: ,It: ' talks with it all the same.",
        )
    unknown = other.tokenizer.unknown(turns.you + turns.model)
    never = f"; it has never seen {' '.join(map(repr, unknown))}" if unknown else ""
    console.note(f"{model.name} was not trained on {shown}{never}: do not expect much of its answers")


def can_chat(model: Model, turns: Turns) -> bool:
    """Whether a model has learnt these turns; an engine is made only for one that can read them."""
    readable = model.config.task == "language" and not model.tokenizer.unknown(turns.you + turns.model)
    return readable and knows_turns(sessions.partner(model), turns)


def knows_turns(other: Partner, turns: Turns) -> bool:
    """Whether the model expects its own prefix after a line of yours."""
    from charrnn.decoding import generate

    tokenizer, engine = other.tokenizer, other.engine
    if tokenizer.unknown(turns.you + turns.model):
        return False
    before = generate.prime(engine, [*other.start, *tokenizer.encode(turns.you + "hello\n").tolist()])
    sure = generate.logprobs(engine, tokenizer.encode(turns.model.rstrip() or turns.model), before).sum()
    return bool(sure > math.log(LEAST))
