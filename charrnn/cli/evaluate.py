"""`charrnn eval`: exactly how well a run predicts a whole text. Knows nothing of how it is computed."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich_click

from charrnn.cli import console, loading, options, reading
from charrnn.config import DynamicConfig, ReadingConfig, TrainingConfig
from charrnn.errors import CheckpointError, CorpusError, UsageError

if TYPE_CHECKING:
    from charrnn.decoding.novelty import Shares
    from charrnn.runs.model import Model
    from charrnn.training.evaluate import Report

FIGURES = ("bits_per_character", "bits_per_byte", "loss", "perplexity", "accuracy")


@rich_click.command("eval")
@options.apply(
    [
        options.run_argument(),
        rich_click.argument("files", nargs=-1, required=True, metavar="FILE...", shell_complete=options.complete_file),
        rich_click.option(
            "--split", type=click.Choice(["all", "val"]), default="all", show_default="all",
            help="The whole text, or only the part at its end that training kept for validation.",
        ),
        rich_click.option(
            "--ngram", is_flag=True,
            help="Score an n-gram model too, counted on the run's training text, to see what the network adds.",
        ),
        rich_click.option(
            "--ngram-text", type=options.PathType(), multiple=True, metavar="FILE", shell_complete=options.complete_file,
            help="Count the n-gram model of --ngram on this text instead. May be given again.",
        ),
        rich_click.option(
            "--dynamic", is_flag=True,
            help="Score it once more, by a copy of the model that learns from each part of the text after it was scored.",
        ),
        options.json_option("One JSON object with all figures."),
        *options.settings(TrainingConfig, "Machine", only=("device", "threads")),
        *options.settings(DynamicConfig, "Dynamic evaluation"),
        *options.settings(ReadingConfig, "Text"),
        options.checkpoints_option(),
    ]
)  # fmt: skip
def evaluate(
    run: str, files: tuple[str, ...], split: str, dynamic: bool, as_json: bool, checkpoints: Path, **values: Any
) -> None:  # fmt: skip
    """Score a run on whole texts: bits per character and byte, perplexity per token, share of tokens predicted right.

    The state is carried from token to token, in up to 16 parallel streams of at least 4,096 tokens.
    The figures of a subword model are upper bounds.
    Novelty is the share of stretches of 20, 40 and 80 characters that stand nowhere in the training text: in 10,000
    characters that the run writes (at the default temperature), and in the text that is scored, for comparison.
    With --dynamic a copy of the model learns from the text as it goes, each token only after its score (dynamic evaluation,
    Krause et al. 2018): figures of their own, which say how well the model follows a text of a kind that is new to it.

    --ngram adds what a model of n-grams makes of the same tokens (interpolated modified Kneser-Ney): one that only counts
    which tokens follow which, up to an order that is chosen on the end of what is counted. Counted is the training part
    of the text that the run was trained on: FILE, or where training found it on this machine, or what --ngram-text names
    (any text will do). Of a text that is scored itself only the part before the split is counted, with --split val.

    A model of single examples reads files like those it was trained on and is scored by its task: one that tells labels
    by accuracy, by precision, recall and F1 of each label, and by what it takes for what. --split val are then the
    examples that its training held out of the same files.

        charrnn eval poems corpora/poems.txt --split val
        charrnn eval poems corpora/poems.txt --split val --ngram
        charrnn eval poems other.txt --json
        charrnn eval poems other.txt --dynamic
    """
    from charrnn.cli import evaluate_dynamic
    from charrnn.runs import model as models

    evaluate_dynamic.check(dynamic)
    model = loading.load(run, checkpoints, ())
    asked = {**as_trained(model), **options.asked(values, ReadingConfig)}
    ngram_text = values["ngram_text"]
    ngram = bool(values["ngram"] or ngram_text)
    if dynamic:
        models.need(model, ("language",))
    if model.config.task != "language":
        if ngram:
            raise UsageError("--ngram is for runs of running text; this one learnt single examples.", "Leave it out.")
        from charrnn.cli import evaluate_examples

        with console.Output() as out:
            out.write(evaluate_examples.run(model, files, ReadingConfig(**asked), split, as_json, values))
        loading.suggest_use(model, run)
        return
    sources = reading.sources(files)
    documents = reading.documents_of(sources, asked)
    if split == "val":
        documents = _validation_part(model, documents)
    if not any(documents):
        raise CorpusError("there is no text to score.", "Name a file that holds some, or use --split all.")
    baseline = None
    if ngram:
        from charrnn.cli import ngram_baseline

        baseline = ngram_baseline.score(model, documents, sources, split, ngram_text, asked)
    from charrnn.training.evaluate import evaluate_text  # torch: only when all else has been found in order

    report = evaluate_text(model, documents, device=values["device"] or "auto", threads=values["threads"] or 0)
    learnt = evaluate_dynamic.run(model, documents, report, values) if dynamic else None
    shares = _novelty(model, documents)
    with console.Output() as out:
        if as_json:
            more = {"ngram": ngram_baseline.record(model, baseline, report)} if baseline else {}
            more |= learnt.record() if learnt else {}
            out.write(json.dumps(_record(model, split, report, shares) | more, ensure_ascii=False) + "\n")
        else:
            rows = ngram_baseline.lines(model, baseline, report) if baseline else ""
            rows += learnt.lines() if learnt else ""
            out.write(_lines(model, report) + rows + _novelty_lines(shares))
    loading.suggest_use(model, run)


def as_trained(model: Model) -> dict[str, Any]:
    """How the run read its text: --field, --column and the like need not be said again."""
    settings = model.provenance.get("settings")
    known = {item.name: type(item.default) for item in fields(ReadingConfig)}
    found = settings if isinstance(settings, dict) else {}
    return {name: found[name] for name, kind in known.items() if isinstance(found.get(name), kind)}


def val_fraction(model: Model) -> float:
    """How much of its text training kept for validation, as the run says; what is usual where it says nothing."""
    settings = model.provenance.get("settings")
    fraction = settings.get("val_fraction") if isinstance(settings, dict) else None
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 0.9:
        return TrainingConfig.val_fraction
    return fraction


def _validation_part(model: Model, documents: list[str]) -> list[str]:
    """The end of the texts, cut where training cut them: by position in the text alone, before tokenization."""
    from charrnn.text.corpus import split_position

    before = split_position(sum(len(document) for document in documents), val_fraction(model))
    part = []
    for document in documents:
        part.append(document[before:])
        before = max(0, before - len(document))
    return [document for document in part if document]


def _novelty(model: Model, documents: list[str]) -> list[Shares] | None:
    """The novelty of what the model writes and of the text itself; None, and a note why, without an index."""
    from charrnn.decoding import novelty
    from charrnn.decoding.engine import single_thread
    from charrnn.runs import copies

    try:
        grams = copies.load(model)
    except CheckpointError as error:
        console.note(f"no novelty: {error.message} {error.hint}")
        return None
    with single_thread():  # the same draws on any number of cores
        return novelty.novelty(grams, novelty.draw(model), documents)


def _record(model: Model, split: str, report: Report, shares: list[Shares] | None) -> dict[str, Any]:
    figures = {name: getattr(report, name) for name in FIGURES}
    drawn, of_text = shares or (None, None)
    more = {"novelty": drawn, "novelty_of_text": of_text}
    return {"run": model.name, "split": split} | figures | asdict(report) | more


def _lines(model: Model, report: Report) -> str:
    bound = "  (upper bound: one segmentation is scored)" if model.tokenizer.kind == "subword" else ""
    hidden = f", {report.hidden:,} of them unknown to the model" if report.hidden else ""
    lines = [
        f"bits per character  {report.bits_per_character:.4f}{bound}",
        f"bits per byte       {report.bits_per_byte:.4f}",
        f"perplexity          {report.perplexity:.3f} per token",
        f"loss                {report.loss:.4f} nats per token",
    ]
    if report.cold256 is not None:
        lines.append(f"loss, cold          {report.cold256:.4f} nats per token, in windows of 256 from a zero state")
    lines.append(f"accuracy            {report.accuracy:.2%} of {report.tokens:,} tokens")
    lines.append(f"text                {report.characters:,} characters{hidden}")
    return "\n".join(lines) + "\n"


def _novelty_lines(shares: list[Shares] | None) -> str:
    if shares is None:
        return ""
    drawn, of_text = (_shares_line(one) for one in shares)
    return f"novelty, drawn      {drawn}: not in the training text\nnovelty, this text  {of_text}\n"


def _shares_line(shares: Shares) -> str:
    """Such as: 25.00% at 20, 100.00% at 40, -- at 80 characters, the last for want of runs so long."""
    cells = (f"{'--' if share is None else f'{share:.2%}'} at {size}" for size, share in shares.items())
    return ", ".join(cells) + " characters"
