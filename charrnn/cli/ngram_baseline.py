"""`charrnn eval --ngram`: what an n-gram model makes of the same text, so that one sees what the network adds.

Knows which text may be counted: the one the run was trained on, its training part alone, or one that the user names;
never what is scored. Knows nothing of how it is counted (text/kneser_ney.py does) or of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from charrnn.cli import console
from charrnn.cli import evaluate as evaluation
from charrnn.config import ReadingConfig
from charrnn.errors import CheckpointError, CorpusError, UsageError
from charrnn.runs import checkpoint
from charrnn.runs.model import LAST_FILE, Model
from charrnn.text import corpus, kneser_ney, overlap
from charrnn.text.sources import is_kept

if TYPE_CHECKING:
    from charrnn.text.kneser_ney import Tokens
    from charrnn.text.sources import Source
    from charrnn.training.evaluate import Report

FIGURES = ("bits_per_character", "bits_per_byte", "loss", "perplexity")
COPIED = 0.1  # a share of the scored text that stands in the counted one, from which on it has to be said
LONG = 1 << 21  # tokens that take more than some seconds to count
NAME_IT = "Name a text to count: --ngram-text FILE (with --split val, FILE may be the text itself)."


@dataclass(frozen=True)
class Baseline:
    """What an n-gram model said of a text."""

    nats: float  # over all tokens, escape costs not included
    tokens: int
    order: int
    counted: int  # tokens
    text: str  # what was counted, in words
    copied: float  # the share of the scored text that stands word for word in what was counted


def score(
    model: Model, documents: Sequence[str], sources: Sequence[Source], split: str, named: Sequence[str], asked: dict[str, Any]
) -> Baseline:
    """Count an n-gram model and score `documents` with it, the whole or the part for validation of `sources`.

    It is counted on the text that is `named`, else on the one the model was trained on. Raises UsageError, CorpusError.
    """
    tokens, text = _counted(model, sources, split, named, asked)
    scored, size = model.encode(documents), model.tokenizer.vocab_size
    if len(tokens) > kneser_ney.MOST_COUNTED:
        console.note(f"the n-gram model is counted on the last {kneser_ney.MOST_COUNTED:,} of {len(tokens):,} tokens")
        tokens = tokens[-kneser_ney.MOST_COUNTED :]
    if len(tokens) >= LONG:
        console.note(f"counting the n-grams of {len(tokens):,} tokens: this takes a minute or so")
    copied = overlap.share_of(scored, tokens)
    if copied >= COPIED:
        console.note(f"{copied:.0%} of this text stands word for word in the one that is counted: its figures flatter n-grams")
    order = kneser_ney.best_order(tokens, size)
    nats = kneser_ney.losses(tokens, np.array(model.start), scored, size, order)
    return Baseline(float(nats.sum()), len(scored), order, len(tokens), text, copied)


def _counted(
    model: Model, sources: Sequence[Source], split: str, named: Sequence[str], asked: dict[str, Any]
) -> tuple[Tokens, str]:
    """The tokens to count, and what they are in words; of the text that is scored only what stands before the split."""
    scored, trained = corpus.raw_digest(sources), _digest(model)
    reading = ReadingConfig(**asked)
    if named:
        sources = sources if [source.argument for source in sources] == list(named) else corpus.find_sources(named)
    elif scored != trained:
        sources, reading = _where_it_was(model), ReadingConfig(**evaluation.as_trained(model))
    survey = corpus.survey(sources, reading)
    if survey.digest == scored and split == "all":
        raise UsageError("the n-gram model would be scored on the very text that it is counted on.", _instead(model))
    part = survey.digest in (scored, trained)
    fraction = evaluation.val_fraction(model) if part else 0.0
    tokens = corpus.tokenize(sources, reading, model.tokenizer, survey, fraction).train
    several = f" and {len(survey.names) - 1} more" if len(survey.names) > 1 else ""
    return tokens, f"{'the training part of ' if fraction else ''}{survey.names[0]}{several}"


def _instead(model: Model) -> str:
    if not evaluation.val_fraction(model):
        return "Score another text, or name another to count: --ngram-text FILE. This run kept none for validation."
    return "Use --split val (what stands before the split is counted, the rest scored), or name another text: --ngram-text FILE."


def _digest(model: Model) -> str | None:
    """That of the text the model was trained on, as the model says."""
    about = model.provenance.get("corpus")
    digest = about.get("digest") if isinstance(about, dict) else None
    return digest if isinstance(digest, str) else None


def _where_it_was(model: Model) -> list[Source]:
    """The text that the model was trained on, found by its last save, which says where it lay; raises CorpusError."""
    path = model.path.parent / LAST_FILE
    try:
        found = checkpoint.read_metadata(path).get("resume") if path.is_file() else None
    except CheckpointError:
        found = None
    names = found.get("sources") if isinstance(found, dict) else None
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise CorpusError(f"this is not the text that {model.name!r} was trained on, and where that lies is not known.", NAME_IT)
    for name in names:
        if not is_kept(name):
            raise CorpusError(f"the text that {model.name!r} was trained on is no longer where it was: {name[:200]!r}.", NAME_IT)
    sources = corpus.find_sources(names)
    if corpus.raw_digest(sources) != _digest(model):
        raise CorpusError(f"the text that {model.name!r} was trained on has changed since: {names[0][:200]!r}.", NAME_IT)
    return sources


def _report(model: Model, baseline: Baseline, report: Report) -> Report:
    """The network's report with the n-gram model's nats in the place of its own; hidden characters cost both the same."""
    assert baseline.tokens == report.tokens
    return replace(report, nats=baseline.nats + report.hidden * model.tokenizer.escape_nats)


def record(model: Model, baseline: Baseline, report: Report) -> dict[str, Any]:
    """All of it, for programs; `report` is the network's."""
    own = _report(model, baseline, report)
    figures = {name: getattr(own, name) for name in FIGURES}
    about = {"counted_on": baseline.text, "counted_tokens": baseline.counted, "copied": baseline.copied}
    adds = own.bits_per_character - report.bits_per_character
    return {"method": "modified Kneser-Ney", "order": baseline.order} | figures | about | {"network_adds": adds}


def lines(model: Model, baseline: Baseline, report: Report) -> str:
    """Its rows of the figures, for people; `report` is the network's."""
    own = _report(model, baseline, report)
    adds = own.bits_per_character - report.bits_per_character
    better = "" if adds > 0 else ": the n-gram model predicts this text better"
    copied = f"; {baseline.copied:.0%} of the text scored stands in it" if baseline.copied >= COPIED else ""
    rows = (
        (
            f"n-gram, order {baseline.order}",
            f"{own.bits_per_character:.4f} bits per character, {own.bits_per_byte:.4f} per byte;"
            f" perplexity {own.perplexity:.3f}, loss {own.loss:.4f}",
        ),
        ("n-gram, counted on", f"{baseline.counted:,} tokens: {baseline.text}{copied} (modified Kneser-Ney)"),
        ("network saves", f"{adds:.4f} bits per character{better}"),
    )
    return "".join(f"{name:<20}{value}\n" for name, value in rows)
