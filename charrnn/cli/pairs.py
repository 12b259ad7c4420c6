"""What `charrnn eval` says of a model of the task seq2seq: how many answers are right, and how well targets are predicted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from charrnn.cli import console

if TYPE_CHECKING:
    from charrnn.runs.model import Model
    from charrnn.text.examples import Examples
    from charrnn.training.evaluate import Report
    from charrnn.training.loss import Network

BEAM = 4
SHOWN = 8  # wrong answers
WIDEST = 48  # characters of a text among them
TAUGHT = ("loss", "perplexity", "accuracy", "bits_per_character")


def report(model: Model, network: Network, examples: Examples, split: str, as_json: bool) -> str:
    """Figures and some wrong answers, or one JSON object with all figures."""
    from charrnn.models.seq2seq import Seq2seq
    from charrnn.training import seq2seq

    assert isinstance(network, Seq2seq)
    targets = [target for _, target in examples.texts]
    taught = seq2seq.taught(network, examples, model.tokenizer)
    answers = {width: seq2seq.answered(network, examples, model.tokenizer, width) for width in (BEAM, 1)}
    beam, greedy = (seq2seq.compared(answers[width], targets) for width in (BEAM, 1))
    wrong = [(*pair, answer) for pair, answer in zip(examples.texts, answers[BEAM], strict=True) if answer != pair[1]]
    if as_json:
        record = {"run": model.name, "split": split, "examples": len(examples), "beam": BEAM, **beam}
        record |= {f"{name}_greedy": value for name, value in greedy.items()}
        record |= {name: getattr(taught, name) for name in TAUGHT} | {"tokens": taught.tokens, "hidden": taught.hidden}
        return json.dumps(record | {"wrong": [_record(*one) for one in wrong[:SHOWN]]}, ensure_ascii=False) + "\n"
    return _figures(model, len(examples), taught, beam, greedy) + _wrong(wrong)


def _figures(model: Model, number: int, taught: Report, beam: dict[str, Any], greedy: dict[str, Any]) -> str:
    bound = "  (upper bound: one segmentation is scored)" if model.tokenizer.kind == "subword" else ""
    hidden = f", {taught.hidden:,} of them unknown to the model" if taught.hidden else ""
    exact, errors = ([scores[name] for scores in (beam, greedy)] for name in ("exact_match", "character_error_rate"))
    lines = [
        f"exact match           {exact[0]:.2%} of {number:,} with a beam of {BEAM}, greedy {exact[1]:.2%}",
        f"character error rate  {errors[0]:.2%} with a beam of {BEAM}, greedy {errors[1]:.2%}",
        f"loss                  {taught.loss:.4f} nats per token of the targets, the true ones before it known",
        f"perplexity            {taught.perplexity:.3f} per token",
        f"accuracy              {taught.accuracy:.2%} of {taught.tokens:,} tokens",
        f"bits per character    {taught.bits_per_character:.4f}{bound}",
        f"targets               {taught.characters:,} characters{hidden}",
    ]
    return "\n".join(lines) + "\n"


def _wrong(wrong: Sequence[tuple[str, str, str]]) -> str:
    """Some answers that are not the target, in columns."""
    if not wrong:
        return ""
    rows = [("source", "answer", "wanted")]
    rows += [(_short(source), _short(answer), _short(target)) for source, target, answer in wrong[:SHOWN]]
    widths = [max(console.width(row[column]) for row in rows) for column in range(2)]
    more = f", the first {SHOWN}" if len(wrong) > SHOWN else ""
    lines = ("  ".join([*map(_filled, row, widths), row[2]]) for row in rows)
    return f"\n{len(wrong):,} wrong{more}\n" + "".join(line.rstrip() + "\n" for line in lines)


def _record(source: str, target: str, answer: str) -> dict[str, str]:
    return {"source": source, "answer": answer, "target": target}


def _short(text: str) -> str:
    line = console.visible(text.replace("\n", "\\n").replace("\t", "\\t"))
    return line if len(line) <= WIDEST else line[: WIDEST - 1] + "\u2026"


def _filled(text: str, width: int) -> str:
    return text + " " * (width - console.width(text))
