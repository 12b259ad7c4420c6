"""`charrnn score`: how surprising a text is to a model, as a whole and line by line. NumPy, no torch."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import console, labels, loading, options, reading
from charrnn.errors import CorpusError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from charrnn.runs.model import Model
    from charrnn.text.tokenizers import Tokenizer


@dataclass(frozen=True)
class Line:
    """One line of a text, its line end included, and its cost in nats."""

    text: str
    nats: float


@rich_click.command()
@options.apply(
    [
        options.run_argument(),
        rich_click.argument("text", metavar="TEXT|FILE|-", shell_complete=options.complete_file),
        options.json_option("One JSON object for each line of the text: its number, text, characters and bits."),
        rich_click.option(
            "--heat", is_flag=True,
            help="Colour each token by how much it surprises, in bits; without colours, a line for each: bits, tab, token.",
        ),
        labels.option("it has to be named"),
        options.int8_option(),
        options.checkpoints_option(),
    ]
)  # fmt: skip
def score(run: str, text: str, as_json: bool, heat: bool, label: str | None, narrow: bool, checkpoints: Path) -> None:
    """Say how well a run predicts a text: the fewer bits per character, the less it is surprised.

    The argument is a file if there is one of that name, - for stdin, otherwise the text itself. It is scored as
    the beginning of a text. Characters that the model does not know are counted, and charged what it costs to name
    one of all the characters it does not know.

        charrnn score poems "Shall I compare thee"
        charrnn score poems letter.txt --heat
        charrnn score poems letter.txt --json | jq .bits_per_character
        charrnn score verses poem.txt --label haiku
    """
    content = reading.text_or_file(text)
    model = loading.load(run, checkpoints)
    if not content:
        raise CorpusError("the text is empty; there is nothing to score.", "Give some text.")
    ids, costs = _costs(model, content, narrow, _label(model, label))
    with console.Output() as out:
        if heat:
            _write_heat(model.tokenizer, content, ids, costs, out, as_json)
        elif as_json:
            for number, line in enumerate(_lines(content, model.tokenizer, ids, costs), 1):
                out.write(json.dumps(_record(number, line), ensure_ascii=False) + "\n")
        else:
            out.write(_summary(model.tokenizer, content, costs))
    console.suggest(f"`charrnn eval {run} FILE` for whole files")


def _label(model: Model, label: str | None) -> int:
    """The number of the label; raises UsageError if there is none such, or none was named (any would be a guess)."""
    if model.labels and label is None:
        from charrnn.decoding.labelled import listed

        raise UsageError(f"{model.name!r} predicts a text by its label: give --label.", listed(model.labels))
    return labels.number(model, labels.chosen(model, label, 0))


def _costs(model: Model, text: str, narrow: bool, label: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens of `text` and what each costs in nats, after the model's start from a zero state."""
    from charrnn.decoding import engine as engines
    from charrnn.decoding import generate

    with engines.single_thread():
        engine = loading.engine(model, narrow, label)
        ids = model.tokenizer.encode(text)
        return ids, -generate.logprobs(engine, ids, generate.prime(engine, list(model.start)))


def _write_heat(
    tokenizer: Tokenizer, text: str, ids: NDArray[np.int64], costs: NDArray[np.float64], out: console.Output, as_json: bool
) -> None:  # fmt: skip
    """The text token by token: in colours with the summary below, as JSON, or in two columns."""
    from charrnn.decoding.heat import heated

    pieces = heated(tokenizer, text, ids.tolist(), costs.tolist())
    if as_json:
        for piece, bits in pieces:
            out.write(json.dumps({"token": piece, "bits": bits}, ensure_ascii=False) + "\n")
    elif console.fancy(sys.stdout):
        from charrnn.cli import heat

        rich = console.rich_console(sys.stdout)
        rich.print(heat.legend())
        rich.print(heat.coloured(pieces), soft_wrap=True, end="" if text.endswith("\n") else "\n")
        out.write(_summary(tokenizer, text, costs))
    else:
        for piece, bits in pieces:
            out.write(f"{bits:.3f}\t{json.dumps(piece, ensure_ascii=False)}\n")


def _lines(text: str, tokenizer: Tokenizer, ids: NDArray[np.int64], costs: NDArray[np.float64]) -> Iterator[Line]:
    """The lines of `text`; a token counts towards the line its first character stands in."""
    decoder, position, index, end = tokenizer.stream_decoder(), 0, 0, 0
    for line in _split(text):
        end += len(line)
        nats = tokenizer.hidden(line) * tokenizer.escape_nats
        while index < len(ids) and position < end:
            nats += float(costs[index])
            position += len(decoder.push(int(ids[index])))
            index += 1
        yield Line(line, nats)


def _split(text: str) -> list[str]:
    """Lines as editors count them: ended by newlines only, which every line but perhaps the last keeps."""
    parts = text.split("\n")
    lines = [part + "\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


def _record(number: int, line: Line) -> dict[str, Any]:
    bits = line.nats / math.log(2)
    return {
        "line": number,
        "text": line.text.removesuffix("\n"),
        "characters": len(line.text),
        "bits": bits,
        "bits_per_character": bits / len(line.text),
    }


def _summary(tokenizer: Tokenizer, text: str, costs: NDArray[np.float64]) -> str:
    hidden = tokenizer.hidden(text)
    nats = float(costs.sum()) + hidden * tokenizer.escape_nats
    bound = "  (upper bound: one segmentation is scored)" if tokenizer.kind == "subword" else ""
    lines = [
        f"bits per character  {nats / math.log(2) / len(text):.4f}{bound}",
        f"perplexity          {math.exp(min(nats / len(costs), 700.0)):.3f} per token",
        f"characters          {len(text):,}",
        f"tokens              {len(costs):,}",
        f"unknown characters  {hidden:,}",
    ]
    return "\n".join(lines) + "\n"
