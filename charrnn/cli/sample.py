"""`charrnn sample`: a text from a trained model, shown while it is drawn. Knows nothing of how a token is chosen.

NumPy does the work: neither torch nor Rich is imported, so that the first character comes at once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import console, loading, options, reading
from charrnn.cli.main import Terminated
from charrnn.config import SamplingConfig, ShapingConfig
from charrnn.errors import UsageError

if TYPE_CHECKING:
    from charrnn.decoding.engine import Engine
    from charrnn.decoding.generate import Prefix, Token
    from charrnn.runs.model import Model

SEPARATOR = "---"


@dataclass(frozen=True)
class Plan:
    """What was asked for, completely."""

    settings: SamplingConfig
    prompt: str
    seed: int
    num: int
    length: int | None  # tokens; None is for ever
    until_end: bool  # of a document
    stops: tuple[str, ...]


@rich_click.command()
@options.apply(
    [
        options.run_argument(required=False),
        rich_click.option(
            "--length", type=options.LengthType(), default="500", envvar="CHARRNN_LENGTH", show_default="500", metavar="N|inf",
            help="Tokens to write (characters, for a char model); inf goes on until Ctrl-C.", panel="Text",
        ),
        rich_click.option(
            "--until-end", is_flag=True, panel="Text",
            help="End where the model ends a document (it learns this from a corpus of several); else another one begins.",
        ),
        rich_click.option(
            "--prompt", default="", metavar="TEXT|@FILE|-", panel="Text",
            help="The text to go on from; @FILE reads a file, - reads stdin, @@ begins a text with @.",
        ),
        rich_click.option(
            "--stop", "stops", multiple=True, metavar="TEXT", panel="Text", help="End before this text; may be given again."
        ),
        *options.settings(options.DrawConfig, "Text"),
        *options.settings(SamplingConfig, "Choice of the next token"),
        options.json_option("One JSON object a line for each text, with its seed, settings and bits per character."),
        rich_click.option("-o", "--output", metavar="FILE", help="Write to FILE: all of it or, if anything fails, nothing."),
        options.checkpoints_option(),
        options.config_option(),
    ]
)  # fmt: skip
def sample(
    run: str | None, length: float, until_end: bool, prompt: str, stops: tuple[str, ...], as_json: bool,
    output: str | None, checkpoints: Path, **values: Any,
) -> None:  # fmt: skip
    """Write a text with a trained model.

    The prompt is printed first, as the beginning of the text. Texts of --num are separated by a line of ---.
    The same seed gives the same text.

        charrnn sample                                 500 characters from the newest run
        charrnn sample poems --temp 0.6 --seed 7
        charrnn sample --prompt "Shall I" --stop ";"   up to the first semicolon
        charrnn sample --length inf                    until Ctrl-C
        charrnn sample --num 20 --json -o texts.jsonl
    """
    plan = _plan(length, until_end, prompt, stops, as_json or output not in (None, "-"), values)
    model = loading.load(run, checkpoints)
    _tell_unknown(model, plan.prompt)
    if values["seed"] is None:
        console.note(f"seed {plan.seed}")
    with _destination(output) as out:
        _write(model, plan, out, as_json)
    console.suggest("`charrnn repl` to write together with it")


def _plan(
    length: float, until_end: bool, prompt: str, stops: Sequence[str], bounded: bool, values: dict[str, Any]
) -> Plan:  # fmt: skip
    num, seed = values["num"] or 1, values["seed"]
    if math.isinf(length) and (bounded or num > 1):
        raise UsageError("--length inf never ends, so it goes with neither --json, -o nor --num.", "Give --length a number.")
    if any(not stop for stop in stops):
        raise UsageError("--stop is empty; expected some text.", "Leave it out, or give --stop TEXT.")
    if seed is None:
        import secrets

        seed = secrets.randbelow(2**32)
    settings = SamplingConfig(**options.asked(values, SamplingConfig))
    bound = None if math.isinf(length) else int(length)
    return Plan(settings, reading.prompt(prompt), seed, num, bound, until_end, tuple(stops))


def _tell_unknown(model: Model, prompt: str) -> None:
    """Name the characters of the prompt that the model cannot read; it goes on with <unk> in their place."""
    unknown = model.tokenizer.unknown(prompt)
    if not unknown:
        return
    named = ", ".join(f"'{console.visible(character)}' (U+{ord(character):04X})" for character in unknown[:8])
    more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
    console.note(f"the model has never seen {named}{more}: read as <unk>")


@contextmanager
def _destination(output: str | None) -> Iterator[console.Output]:
    if output in (None, "-"):
        with console.Output() as out:
            yield out
        return
    from charrnn import durable

    with durable.replacing(Path(output or "")) as file, console.Output(file) as out:
        yield out


def _write(model: Model, plan: Plan, out: console.Output, as_json: bool) -> None:
    from charrnn.decoding import engine as engines
    from charrnn.decoding import generate

    with engines.single_thread():
        engine = engines.Engine(model.config, model.weights)
        ids = [*model.start, *model.tokenizer.encode(plan.prompt)]
        prefix = generate.prime(engine, ids)
        for index in range(plan.num):
            tokens = _tokens(engine, model, prefix, plan, index)
            if as_json:
                out.write(json.dumps(_record(model, plan, index, tokens), ensure_ascii=False) + "\n")
                continue
            if index:
                out.write(SEPARATOR + "\n")
            _stream(tokens, plan.prompt, out)


def _tokens(engine: Engine, model: Model, prefix: Prefix, plan: Plan, index: int) -> Iterator[Token]:
    from charrnn.decoding import generate

    recent = tuple(int(i) for i in model.tokenizer.encode(plan.prompt))
    return generate.stream(
        engine, model.tokenizer, prefix, plan.settings,
        seed=plan.seed, stream_index=index, length=plan.length, shaping=ShapingConfig(stop=plan.stops), recent=recent,
        at_eos=("end" if plan.until_end else "newline") if model.knows_ends else "never",
    )  # fmt: skip


def _stream(tokens: Iterator[Token], prompt: str, out: console.Output) -> None:
    out.write(prompt)
    try:
        for token in tokens:
            out.write(token.text)
    except (KeyboardInterrupt, Terminated):  # what was written is a whole last line
        out.end_line()
        raise
    out.end_line()


def _record(model: Model, plan: Plan, index: int, tokens: Iterator[Token]) -> dict[str, Any]:
    pieces, count, nats = [], 0, 0.0
    for token in tokens:
        pieces.append(token.text)
        count, nats = count + 1, nats - token.logprob
    text = "".join(pieces)
    return {
        "text": text,
        "prompt": plan.prompt,
        "seed": plan.seed,
        "stream": index,
        "tokens": count,
        "bits_per_character": nats / math.log(2) / len(text) if text else None,
        "settings": asdict(plan.settings) | {"length": plan.length, "stop": list(plan.stops)},
        "run": model.name,
        "model": model.digest,
    }
