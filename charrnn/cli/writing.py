"""What `sample` writes, in the order in which it writes it: one text as it is drawn, many drawn together, or the best.

Imported once it is clear what is asked for; imports NumPy, neither torch nor Rich.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from charrnn.cli import console, labels, loading
from charrnn.cli.main import Terminated
from charrnn.decoding import beam, constraints, generate, healing
from charrnn.decoding import engine as engines
from charrnn.decoding.course import Course, Drawing
from charrnn.decoding.engine import Engine
from charrnn.decoding.healing import Opening
from charrnn.decoding.pending import NOTHING
from charrnn.decoding.voice import Token
from charrnn.errors import CharrnnError, WriteError
from charrnn.runs.model import Model
from charrnn.text.ngrams import Copies

if TYPE_CHECKING:
    from charrnn.cli.sample import Plan

SEPARATOR = "---"
TOGETHER = 64  # streams of one batch
ENGINES = 32  # of labels, kept for the next text that draws one of them


@dataclass(frozen=True)
class Written:
    """A text without its prompt; `stream` is the number that, with the seed, draws it again, or its place in the beam."""

    text: str
    stream: int
    tokens: int
    nats: float  # minus the log-probability

    @property
    def bits_per_character(self) -> float:
        """The model's own surprise; an empty text has said nothing, which is no achievement."""
        return self.nats / math.log(2) / len(self.text) if self.text else math.inf


@dataclass(frozen=True)
class Desk:
    """A model that has read the prompt, and what it is to write."""

    model: Model
    engine: Engine
    opening: Opening
    plan: Plan
    copies: Copies | None
    label: str = ""
    first: int = 0  # the number of its first text

    @property
    def at_eos(self) -> generate.AtEos:
        """What the end of a document does."""
        return "end" if self.plan.until_end and self.model.knows_ends else self.model.at_eos

    @property
    def drawing(self) -> Drawing:
        """The tokens and the rules."""
        plan = self.plan
        return Drawing(
            self.model.tokenizer, plan.settings, plan.shaping, self.at_eos, self.copies, self.engine.kernel, hard=plan.beam > 0
        )  # fmt: skip

    @property
    def wishes(self) -> dict[str, Any]:
        """What one stream and many have in common."""
        return {
            "seed": self.plan.seed, "length": self.plan.length, "at_eos": self.at_eos, "shaping": self.plan.shaping,
            "recent": self.opening.recent, "shown": self.opening.shown, "pending": self.opening.pending, "copies": self.copies,
        }  # fmt: skip


def write(model: Model, plan: Plan, out: console.Output, as_json: bool) -> None:
    """Write all texts that `plan` asks of `model`; raises CharrnnError."""
    copies = None
    if plan.shaping.max_copy:
        from charrnn.runs import copies as indexes

        copies = indexes.watch(model, plan.shaping.max_copy)
    with engines.single_thread():
        desks = _desks(model, plan, copies)
        if as_json:
            for desk in desks:
                for written in _texts(desk):
                    out.write(json.dumps(_record(desk, written), ensure_ascii=False) + "\n")
        elif plan.num == 1 and plan.best_of == 1 and not plan.beam:
            _stream(next(desks), out)
        else:
            _one_after_the_other(desks, out)


def _desks(model: Model, plan: Plan, copies: Copies | None) -> Iterator[Desk]:
    """One for all texts or, where each draws its label, one for each."""

    @lru_cache(ENGINES)
    def made(label: str) -> Desk:
        engine = loading.engine(model, plan.narrow, labels.number(model, label))
        opening = healing.opening(engine, model.tokenizer, model.start, plan.prompt)
        desk = Desk(model, engine, opening, plan, copies, label)
        Course.begun(desk.drawing, plan.prompt, (), NOTHING)  # refuses what cannot be, before anything is written
        return desk

    if plan.label is not None or not model.labels:
        yield made(plan.label or "")
        return
    for text in range(plan.num):
        label = labels.chosen(model, None, plan.seed, text)
        yield replace(made(label), plan=replace(plan, num=1), first=text)


def _stream(desk: Desk, out: console.Output) -> None:
    """One text, shown while it is drawn."""
    out.write(desk.plan.prompt)
    line_ends = tokens = 0
    with _whole_line(out):
        for token in _tokens(desk, 0):
            out.write(token.text)
            line_ends += token.text.count("\n")
            tokens += 1
    _tell_missing_lines(desk, line_ends, tokens)


def _one_after_the_other(desks: Iterator[Desk], out: console.Output) -> None:
    for number, (desk, written) in enumerate((each, written) for each in desks for written in _texts(each)):
        if number:
            out.write(SEPARATOR + "\n")
        if desk.label and desk.plan.label is None:
            out.flush()
            console.note(f"label {desk.label}")
        with _whole_line(out):
            out.write(desk.plan.prompt + written.text)
        _tell_missing_lines(desk, written.text.count("\n"), written.tokens)


def _texts(desk: Desk) -> Iterator[Written]:
    plan, first = desk.plan, desk.first
    if plan.beam:
        yield from _found(desk)
    elif plan.best_of > 1:
        for number in range(first, first + plan.num):
            drawn = _drawn(desk, number * plan.best_of, plan.best_of)
            yield min(drawn, key=lambda written: written.bits_per_character)
    elif plan.num == 1:
        yield _written(first, list(_tokens(desk, first)))
    else:
        yield from _drawn(desk, first, plan.num)


def _found(desk: Desk) -> Iterator[Written]:
    plan = desk.plan
    assert plan.length is not None
    found = beam.search(
        desk.engine, desk.drawing, desk.opening, width=plan.beam, length=plan.length, alpha=plan.length_penalty
    )  # fmt: skip
    for place, one in enumerate(found[: plan.num]):
        yield Written(one.text, place, one.tokens, -one.logprob)


def _drawn(desk: Desk, first: int, count: int) -> Iterator[Written]:
    """The streams from `first` on, drawn together as many as go well together; rounded weights are for one at a time."""
    if desk.engine.narrow:
        yield from (_written(index, list(_tokens(desk, index))) for index in range(first, first + count))
        return
    for start in range(first, first + count, TOGETHER):
        some = min(TOGETHER, first + count - start)
        tokens: dict[int, list[Token]] = {index: [] for index in range(start, start + some)}
        for index, token in generate.draw_many(
            desk.engine, desk.model.tokenizer, desk.opening.prefix, desk.plan.settings, count=some, first=start, **desk.wishes
        ):  # fmt: skip
            tokens[index].append(token._replace(prefix=desk.opening.prefix))  # its own would keep the whole batch's states
        yield from (_written(index, mine) for index, mine in tokens.items())


def _tokens(desk: Desk, index: int) -> Iterator[Token]:
    return generate.stream(
        desk.engine, desk.model.tokenizer, desk.opening.prefix, desk.plan.settings, stream_index=index, **desk.wishes
    )


def _written(index: int, tokens: list[Token]) -> Written:
    nats = -sum(token.logprob for token in tokens)
    return Written("".join(token.text for token in tokens), index, len(tokens), nats)


def _record(desk: Desk, written: Written) -> dict[str, Any]:
    plan = desk.plan
    chosen = {
        "best_of": plan.best_of, "beam": plan.beam, "length_penalty": plan.length_penalty, "int8": plan.narrow,
        "until_end": plan.until_end,
    }  # fmt: skip
    return {
        "text": written.text,
        "prompt": plan.prompt,
        "seed": plan.seed,
        "stream": written.stream,
        "tokens": written.tokens,
        "bits_per_character": written.bits_per_character if written.text else None,
        "settings": asdict(plan.settings) | asdict(plan.shaping) | {"length": plan.length} | chosen,
        "run": desk.model.name,
        "model": desk.model.digest,
    } | ({"label": desk.label} if desk.label else {})


def _tell_missing_lines(desk: Desk, line_ends: int, tokens: int) -> None:
    """Say so if a text ended before it had all the lines that were asked for."""
    length, rules = desk.plan.length, constraints.rules_of(desk.plan.shaping)
    if rules is None or not rules.exact:
        return
    found = constraints.begun(rules, desk.plan.prompt).line + line_ends + 1
    if found < rules.count:
        enough = length is None or tokens < length
        why = "the text ended before" if enough else f"{length:,} tokens were not enough; give more --length"
        console.note(f"{found} of {rules.count} lines: {why}")


@contextmanager
def _whole_line(out: console.Output) -> Iterator[None]:
    """What is written inside ends with a whole line, whatever ends it."""
    try:
        yield
    except (KeyboardInterrupt, Terminated, CharrnnError) as error:
        if not isinstance(error, WriteError) and not out.empty:
            out.end_line()
        raise
    out.end_line()
