"""`charrnn classify`: the labels of texts, or of sequences of numbers. Knows what is asked and printed, nothing of nets."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import console, loading, options, reading, tables
from charrnn.cli.evaluate import as_trained
from charrnn.config import ReadingConfig, TrainingConfig, setting
from charrnn.errors import CorpusError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from charrnn.cli.asked_texts import Found
    from charrnn.runs.model import Model

TOGETHER = 512  # texts answered at once, at most
TOGETHER_CHARACTERS = 1 << 18  # and so many characters of them
READING = ("encoding", "errors", "newline", "label_column", "text_column", "max_unpacked")
LABEL_WIDTH = 24  # columns, on a terminal
MOST_UNKNOWN = 1_000


@dataclass(frozen=True)
class TellConfig:
    """What is told of each text."""

    top: int = setting(1, "The N likeliest labels of each text, likeliest first.", low=1, high=100_000)


@dataclass(frozen=True)
class Case:
    """One thing to be told the label of: its text or, of sequences of numbers, which it is, from 0."""

    key: str | int
    sequence: NDArray[Any]
    label: str = ""


@dataclass
class Tally:
    """What is said at the end."""

    cases: int = 0
    labelled: int = 0
    known: int = 0  # of these labels to the model
    right: int = 0
    empty: int = 0
    cut: int = 0
    unknown: dict[str, None] = field(default_factory=dict)  # characters, in order


@rich_click.command()
@options.apply(
    [
        options.run_argument(),
        rich_click.argument("texts", nargs=-1, required=True, metavar="TEXT|FILE|-...", shell_complete=options.complete_file),
        *options.settings(TellConfig, "Options"),
        options.json_option("One JSON object a line for each text: the text, its label and the probability of each label."),
        rich_click.option(
            "--text", "literal", is_flag=True, help="Each TEXT is the words themselves, even if a file is called so, or it is -."
        ),
        *options.settings(TrainingConfig, "Machine", only=("device", "threads")),
        *options.settings(ReadingConfig, "Files", only=READING),
        options.checkpoints_option(),
    ]
)  # fmt: skip
def classify(
    run: str, texts: tuple[str, ...], top: int | None, as_json: bool, literal: bool, checkpoints: Path, **values: Any
) -> None:
    """Tell the label of texts, with a model trained by --task classify.

    Each TEXT is a file if there is one of that name, - for the lines of stdin, else the text itself. A plain file has
    one text a line; .tsv, .csv and .jsonl have a column of texts and, if there is one of labels, are told how many are
    right: so has a plain file with a tab in each line. Lines without text are left out. A model of --input rows takes
    .npz and IDX files.

    One line a text: label, tab, probability and, unless it is a single TEXT, the text, written as in .tsv.

        charrnn classify reviews "It broke on the first day." --top 2
        charrnn classify reviews corpora/reviews.tsv --json
        tail -f letters.txt | charrnn classify reviews -
        charrnn classify digits digits.npz
    """
    model = loading.load(run, checkpoints, ("classify",))
    asked = ReadingConfig(**{**as_trained(model), **options.asked(values, ReadingConfig)})
    tally, rows = Tally(), model.config.input == "rows"
    alone = not rows and len(texts) == 1 and (literal or (texts[0] != "-" and not reading.is_file(texts[0])))
    told = _tell_json if as_json else _tell_alone if alone else _tell
    number = top or (len(model.labels) if as_json else 1)
    batches = _numbers(model, texts) if rows else _texts(model, texts, literal, asked, values, tally)
    with console.Output() as out:
        for cases, odds in _answered(model, batches, values, tally):
            for case, probabilities in zip(cases, odds, strict=True):
                told(out, case, _likeliest(model, probabilities, number), model)
            out.flush()
    if not tally.cases and "-" not in texts:  # a filter may have nothing to do
        raise CorpusError("there is no text in it; there is nothing to tell a label of.", "Give texts, one a line.")
    _sum_up(tally)
    console.suggest(f"`charrnn eval {console.quoted(run)} FILE` for the scores of labelled texts")


def _answered(
    model: Model, batches: Iterator[list[Case]], values: Mapping[str, Any], tally: Tally
) -> Iterator[tuple[list[Case], NDArray[np.float64]]]:
    """Batches with the probabilities (B, C) of their labels."""
    import numpy as np

    from charrnn.text.examples import Examples, Ragged
    from charrnn.training import examiner  # torch: only when arguments, run and files have been found in order
    from charrnn.training.classify import log_odds

    network = examiner.network_of(model, values["device"] or "auto", values["threads"] or 0)
    for cases in batches:
        odds = np.exp(log_odds(network, Examples(Ragged.of(case.sequence for case in cases))))  # type: ignore[arg-type]
        for case, best in zip(cases, odds.argmax(-1), strict=True):
            tally.labelled += bool(case.label)
            tally.known += case.label in model.labels
            tally.right += case.label == model.labels[best]
        tally.cases += len(cases)
        yield cases, odds


def _texts(
    model: Model, arguments: Sequence[str], literal: bool, asked: ReadingConfig, values: Mapping[str, Any], tally: Tally
) -> Iterator[list[Case]]:  # fmt: skip
    """Batches of the texts that arguments name; files are found now and read later."""
    from charrnn.cli import asked_texts

    return _batches(model, asked_texts.prepare(arguments, literal, asked, values["label_column"] is not None), tally)


def _batches(model: Model, readers: Sequence[Callable[[], Found]], tally: Tally) -> Iterator[list[Case]]:
    """The texts, as many together as are there to be answered; blank lines are counted and left out."""
    held: list[Case] = []
    size = 0
    for item in (item for reader in readers for item in reader()):
        if item is not None and not item.text.strip():
            tally.empty += 1
        elif item is not None:
            held.append(_case(model, item.text, item.label, tally))
            size += len(item.text)
        if held and (item is None or len(held) == TOGETHER or size >= TOGETHER_CHARACTERS):
            yield held
            held, size = [], 0
    if held:
        yield held


def _case(model: Model, text: str, label: str, tally: Tally) -> Case:
    from charrnn.text.examples import LONGEST_READ

    known = text.lower() if model.config.lowercase else text
    ids = model.tokenizer.encode(known)
    tally.cut += len(ids) > LONGEST_READ
    if len(tally.unknown) < MOST_UNKNOWN:
        tally.unknown |= dict.fromkeys(model.tokenizer.unknown(known))
    return Case(text, ids[:LONGEST_READ], label)


def _numbers(model: Model, files: Sequence[str]) -> Iterator[list[Case]]:
    """Sequences of numbers; their files are read now, and raise CorpusError."""
    from charrnn.text import arrays
    from charrnn.text.sources import find_sources

    found = arrays.read(find_sources(files), labelled=False)
    from charrnn.training.examiner import check_width  # torch: only when the files have been read

    check_width(model, found)
    labels = found.labels or ("",) * len(found.rows)
    cases = [Case(index, row, label) for index, (row, label) in enumerate(zip(found.rows, labels, strict=True))]
    return (cases[first : first + TOGETHER] for first in range(0, len(cases), TOGETHER))


def _likeliest(model: Model, probabilities: NDArray[np.float64], number: int) -> list[tuple[str, float]]:
    order = (-probabilities).argsort(kind="stable")[:number]
    return [(model.labels[place], float(probabilities[place])) for place in order]


def _tell_json(out: console.Output, case: Case, likeliest: list[tuple[str, float]], model: Model) -> None:
    record: dict[str, Any] = {"text" if isinstance(case.key, str) else "index": case.key, "label": likeliest[0][0]}
    record["probabilities"] = dict(likeliest)
    if case.label:
        record["truth"] = case.label
    out.write(json.dumps(record, ensure_ascii=False) + "\n")


def _tell_alone(out: console.Output, case: Case, likeliest: list[tuple[str, float]], model: Model) -> None:
    from charrnn.text.rows import escaped

    for label, probability in likeliest:
        out.write(f"{escaped(label)}\t{probability:.4f}\n")


def _tell(out: console.Output, case: Case, likeliest: list[tuple[str, float]], model: Model) -> None:
    """A line for each label; on a terminal in columns, and the text but once and no longer than the line."""
    from charrnn.text.rows import escaped

    if not out.tty:
        for label, probability in likeliest:
            out.write(f"{escaped(label)}\t{probability:.4f}\t{escaped(str(case.key))}\n")
        return
    width = min(LABEL_WIDTH, max(tables.width(label) for label in model.labels))
    shown = tables.fitted(str(case.key), max(10, tables.columns(sys.stdout) - width - 11))
    for label, probability in likeliest:
        out.write(f"{tables.fitted(label, width, fill=True)}  {probability:.4f}  {shown}".rstrip() + "\n")
        shown = ""


def _sum_up(tally: Tally) -> None:
    reading.tell_unknown(list(tally.unknown))
    reading.tell_cut(tally.cut, "text")
    if tally.empty:
        console.note(f"left out: {_count(tally.empty, 'line')} without text")
    if tally.labelled and not tally.known:
        console.note(f"none of the {tally.labelled:,} labels in the file is one of the model's")
    elif tally.labelled:
        strange = tally.labelled - tally.known
        others = f" ({strange:,} of them unknown to the model)" if strange else ""
        console.say(f"accuracy {tally.right / tally.labelled:.2%} of {tally.labelled:,} with a label{others}")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
