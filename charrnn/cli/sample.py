"""`charrnn sample`: texts from a trained model. Knows what can be asked for, nothing of how a token is chosen.

NumPy does the work: neither torch nor Rich is imported, so that the first character comes at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import console, destination, labels, loading, options, reading
from charrnn.config import SamplingConfig, ShapingConfig
from charrnn.errors import UsageError

if TYPE_CHECKING:
    from charrnn.runs.model import Model

LENGTH = 500  # tokens, where nothing else bounds a text
LONGEST_ANSWER = 100_000  # tokens, of a session
LABELLED = 2000  # tokens, of a text by a label: it ends by itself, if the model has learnt where
LINE = 1000  # tokens for each line, where lines do


@dataclass(frozen=True)
class Plan:
    """What was asked for, completely."""

    settings: SamplingConfig
    shaping: ShapingConfig
    prompt: str
    seed: int
    num: int
    best_of: int
    beam: int  # 0: no beam
    length_penalty: float
    length: int | None  # tokens; None is for ever
    until_end: bool  # of a document
    narrow: bool
    label: str | None = None  # None: drawn, if the model writes by labels


@rich_click.command()
@options.apply(
    [
        options.run_argument(required=False),
        rich_click.option(
            "--length", type=options.LengthType(), envvar="CHARRNN_LENGTH", metavar="N|inf", panel="Text",
            show_default="500; by a label, 2000; with --lines and the like, enough for them",
            help="Tokens to write (characters, for a char model); inf goes on until Ctrl-C.",
        ),
        rich_click.option(
            "--until-end", is_flag=True, panel="Text",
            help="End where the model ends a document (it learns this from a corpus of several); else another one begins. "
            "A text by a label always does.",
        ),
        labels.option("without it the seed draws one for each text"),
        rich_click.option(
            "--prompt", default="", metavar="TEXT|@FILE|-", panel="Text",
            help="The text to go on from; @FILE reads a file, - reads stdin, @@ begins a text with @.",
        ),
        *options.settings(options.DrawConfig, "Text"),
        *options.settings(ShapingConfig, "Shape of the text"),
        *options.settings(SamplingConfig, "Choice of the next token, in this order"),
        rich_click.option("-i", "--interactive", is_flag=True, help="Go on together with the model, as `charrnn repl` does."),
        options.keys_option(),
        options.int8_option(),
        options.json_option("One JSON object a line for each text, with its seed, settings and bits per character."),
        rich_click.option("-o", "--output", metavar="FILE", help="Write to FILE: all of it or, if anything fails, nothing."),
        options.checkpoints_option(),
        options.config_option(),
    ]
)  # fmt: skip
def sample(
    run: str | None, length: float | None, until_end: bool, label: str | None, prompt: str, interactive: bool, keys: str,
    narrow: bool, as_json: bool, output: str | None, checkpoints: Path, **values: Any,
) -> None:  # fmt: skip
    """Write a text with a trained model.

    The prompt is printed first, as the beginning of the text. Texts of --num are separated by a line of ---.
    The same seed gives the same text.

        charrnn sample                                 500 characters from the newest run
        charrnn sample poems --temp 0.6 --seed 7
        charrnn sample --prompt "Shall I" --stop ";"   up to the first semicolon
        charrnn sample --lines 4 --line-length 40      four lines
        charrnn sample --acrostic HOPE --best-of 20    the best of twenty
        charrnn sample --length inf                    until Ctrl-C
        charrnn sample verses --label haiku            by a label (train --task conditional)
        charrnn sample --num 20 --json -o texts.jsonl
        charrnn sample -i                              and go on together
    """
    if interactive and prompt == "-":
        raise UsageError("--prompt - reads stdin, from which -i reads your lines.", "Give --prompt a text, or @FILE.")
    plan = replace(_plan(length, until_end, prompt, narrow, as_json or output not in (None, "-"), values), label=label)
    if interactive:
        _check_interactive(plan, as_json or output not in (None, "-"))
        _go_on(run, checkpoints, plan, lasting=length is not None, seeded=values["seed"] is not None, vi=keys == "vi")
        return
    from charrnn.cli import writing

    model = loading.load(run, checkpoints)
    plan = _by_label(plan, model, length is None)
    _tell_unknown(model, plan.prompt)
    if values["seed"] is None and not plan.beam:
        console.note(f"seed {plan.seed}")
    if label is None:
        _tell_label(model, plan)
    with destination.opened(output) as out:
        writing.write(model, plan, out, as_json)
    named = f" {console.quoted(run)}" if run else ""  # the run saved last may be another one, which writes nothing
    console.suggest(f"`charrnn repl{named}` to write together with it")


def _plan(
    length: float | None, until_end: bool, prompt: str, narrow: bool, bounded: bool, values: dict[str, Any]
) -> Plan:  # fmt: skip
    asked = options.asked(values, options.DrawConfig)
    seed = asked.pop("seed", None)
    draw = options.DrawConfig(**asked)
    shaping = ShapingConfig(**options.asked(values, ShapingConfig))
    bound = _bound(length, shaping)
    _check(draw, bound, bounded)
    if seed is None:
        import secrets

        seed = secrets.randbelow(2**32)
    settings = SamplingConfig(**options.asked(values, SamplingConfig))
    return Plan(
        settings, shaping, reading.prompt(prompt), seed, draw.num, draw.best_of, draw.beam, draw.length_penalty,
        None if math.isinf(bound) else int(bound), until_end, narrow,
    )  # fmt: skip


def _bound(length: float | None, shaping: ShapingConfig) -> float:
    """Tokens at most: as asked, or enough for the lines that were asked for, or LENGTH."""
    if length is not None:
        return length
    lines = 0 if shaping.regex else len(shaping.acrostic) or shaping.lines or shaping.max_lines
    return min(LINE * lines, options.LONGEST) or LENGTH  # a pattern that never comes to match is tried many times


def _by_label(plan: Plan, model: Model, unbounded: bool) -> Plan:
    """The plan for this model, with its label if one serves all texts; raises UsageError if it has no such label."""
    first = labels.chosen(model, plan.label, plan.seed)
    if not first:
        return plan
    several = plan.num > 1 and not plan.beam  # texts of one beam are by one label
    length = LABELLED if unbounded and plan.length == LENGTH else plan.length
    return replace(plan, until_end=True, length=length, label=plan.label if several else first)


def _tell_label(model: Model, plan: Plan) -> None:
    """Say which label was drawn; of several texts each says its own."""
    if plan.label is None and model.labels:
        console.note(f"each text by a label of its own ({labels.others(model)})")
    else:
        labels.tell(model, plan.label or "")


def _check(draw: options.DrawConfig, bound: float, bounded: bool) -> None:
    """Raise UsageError where two wishes contradict each other."""
    several = draw.num > 1 or draw.best_of > 1 or draw.beam
    if math.isinf(bound) and (bounded or several):
        message = "--length inf never ends, so it goes with neither --json, -o, --num, --best-of nor --beam."
        raise UsageError(message, "Give --length a number.")
    if draw.beam and draw.best_of > 1:
        raise UsageError("--beam and --best-of are two ways to choose a text.", "Give one of them.")
    if draw.beam and draw.num > draw.beam:
        raise UsageError(f"a beam of {draw.beam} has no {draw.num} texts.", f"Give --beam {draw.num}, or a smaller --num.")


def _check_interactive(plan: Plan, elsewhere: bool) -> None:
    """Raise UsageError where a session cannot begin with what was asked for."""
    if plan.length and plan.length > LONGEST_ANSWER:
        raise UsageError(f"--length is {plan.length:,}; a session's texts have at most {LONGEST_ANSWER:,} tokens.", "Give fewer.")
    several = plan.num > 1 or plan.best_of > 1 or plan.beam or plan.until_end
    if elsewhere or several or plan.length is None:
        others = "--num, --best-of, --beam, --until-end, --json, -o nor --length inf"
        raise UsageError(f"-i goes on with one text, so it goes with neither {others}.", "Leave out -i or those.")


def _go_on(run: str | None, checkpoints: Path, plan: Plan, *, lasting: bool, seeded: bool, vi: bool) -> None:
    """A session whose first text is the one that was asked for; its length is that of later answers if it was given."""
    from dataclasses import asdict

    from charrnn.cli import converse, sessions
    from charrnn.decoding import engine as engines
    from charrnn.decoding.session import Session
    from charrnn.decoding.settings import Settings

    model = loading.load(run, checkpoints)
    drawn, plan = plan.label is None, _by_label(plan, model, not lasting)
    assert plan.length is not None
    later = Settings(**asdict(plan.settings), **asdict(plan.shaping), seed=plan.seed, finish="line")
    if lasting:
        later = replace(later, length=plan.length)
    if not seeded:
        console.note(f"seed {plan.seed}")
    if drawn:
        _tell_label(model, plan)
    with engines.single_thread():
        partner = sessions.partner(model, plan.narrow, plan.label or "", checkpoints)
        session = Session(partner, replace(later, length=plan.length, finish="off"))
        session.check(later)
        greeting = sessions.greeting(model, "/help tells what can be typed.", partner.label)
        converse.run(session, greeting, first=plan.prompt, later=later, vi=vi)


def _tell_unknown(model: Model, prompt: str) -> None:
    """Name the characters of the prompt that the model cannot read; it goes on with <unk> in their place."""
    reading.tell_unknown(model.tokenizer.unknown(prompt))
