"""What `charrnn eval` says of a model of the task conditional: what its labels are worth.

A text costs bits under its own label, and other bits under the others. Where a label means something its own is the
cheapest, and choosing the cheapest tells the label of a text: a classifier by Bayes, with labels equally likely before.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from charrnn.runs.model import Model
    from charrnn.text.examples import Examples
    from charrnn.training.evaluate import Report
    from charrnn.training.loss import Network

WRONG = 12  # other labels at most, with which texts are scored again
SHOWN = 40  # characters of a label
FIGURES = ("bits_per_character", "bits_per_byte", "loss", "perplexity", "accuracy")


@dataclass(frozen=True)
class Costs:
    """Bits of N texts: under their own label (N,), and under W others (W, N); their numbers of characters (N,)."""

    right: NDArray[np.float64]
    wrong: NDArray[np.float64]
    characters: NDArray[np.int64]

    def of(self, chosen: NDArray[np.bool_]) -> tuple[int, int, float, float | None]:
        """Texts and characters among the chosen, and their bits per character under the right label and others, if any."""
        characters = int(self.characters[chosen].sum())
        right = float(self.right[chosen].sum()) / max(1, characters)
        wrong = float(self.wrong[:, chosen].mean(0).sum()) / max(1, characters) if len(self.wrong) else None
        return int(chosen.sum()), characters, right, wrong

    @property
    def told(self) -> float | None:
        """The share of texts that cost least under their own label; where another costs the same, it is not told."""
        return float((self.right < self.wrong.min(0)).mean()) if len(self.wrong) else None


def report(model: Model, network: Network, examples: Examples, split: str, as_json: bool) -> str:
    """Figures and a table of the labels, or one JSON object."""
    from charrnn.models.conditional import ConditionalModel
    from charrnn.training import conditional

    assert isinstance(network, ConditionalModel)
    whole, costs = conditional.report(network, examples, model.tokenizer), _costs(model, network, examples)
    assert examples.labels is not None
    rows = [
        (label, *costs.of(examples.labels == number))
        for number, label in enumerate(model.labels)
        if (examples.labels == number).any()
    ]
    if as_json:
        return json.dumps(_record(model, split, whole, costs, rows), ensure_ascii=False) + "\n"
    return _lines(model, whole, costs) + _table([*rows, ("all", *costs.of(np.ones(len(examples), np.bool_)))])


def _costs(model: Model, network: Any, examples: Examples) -> Costs:
    """What the texts cost; characters that are hidden from the model are charged for under any label."""
    from charrnn.training import conditional

    texts = [text for _, text in examples.texts]
    hidden = np.array([model.tokenizer.hidden(text) for text in texts]) * model.tokenizer.escape_nats

    def bits(scored: Examples) -> NDArray[np.float64]:
        return (conditional.losses(network, scored)[0] + hidden) / math.log(2)

    others = range(1, min(WRONG, len(model.labels) - 1) + 1)
    wrong = [bits(conditional.mislabelled(examples, len(model.labels), shift)) for shift in others]
    return Costs(
        bits(examples), np.array(wrong).reshape(len(others), len(texts)), np.array([len(text) for text in texts], np.int64)
    )


def _record(model: Model, split: str, whole: Report, costs: Costs, rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    names = ("label", "texts", "characters", "bits_per_character", "bits_per_character_wrong_label")
    everything = dict(zip(names[1:], costs.of(np.ones(len(costs.right), np.bool_)), strict=True))
    figures = {name: getattr(whole, name) for name in FIGURES}
    return {
        "run": model.name, "split": split, **everything, **figures, "tokens": whole.tokens, "hidden": whole.hidden,
        "wrong_labels": len(costs.wrong), "labels_told": costs.told,
        "labels": [dict(zip(names, row, strict=True)) for row in rows],
    }  # fmt: skip


def _lines(model: Model, whole: Report, costs: Costs) -> str:
    bound = "  (upper bound: one segmentation is scored)" if model.tokenizer.kind == "subword" else ""
    hidden = f", {whole.hidden:,} of them unknown to the model" if whole.hidden else ""
    wrong = costs.of(np.ones(len(costs.right), np.bool_))[3]
    tried = len(costs.wrong)
    which = "the other label" if tried == 1 else f"{tried} others each"
    lines = [f"bits per character  {whole.bits_per_character:.4f}{bound}"]
    if wrong is not None and costs.told is not None:
        lines.append(f"with a wrong label  {wrong:.4f}, in the mean; {which}")
        lines.append(f"label told          {costs.told:.2%} of the texts cost least under their own label, of {tried + 1}")
    lines += [
        f"perplexity          {whole.perplexity:.3f} per token",
        f"accuracy            {whole.accuracy:.2%} of {whole.tokens:,} tokens",
        f"text                {whole.characters:,} characters{hidden}, in {len(costs.right):,} texts",
    ]
    return "\n".join(lines) + "\n\n"


def _table(rows: list[tuple[Any, ...]]) -> str:
    """A row for each label, and the bits per character of its texts."""
    shown = [
        (" ".join(label.split())[:SHOWN], f"{texts:,}", f"{many:,}", *("--" if bits is None else f"{bits:.4f}" for bits in both))
        for label, texts, many, *both in rows
    ]
    cells = [("label", "texts", "characters", "right", "wrong"), *shown]
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells)
    return "\n".join(lines) + "\n"
