"""Which label a command writes by: the one that was asked for, or one that the seed draws. Knows nothing of engines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import console, options
from charrnn.errors import UsageError

if TYPE_CHECKING:
    from charrnn.runs.model import Model

LISTED = 12  # labels of which a note says that they could be asked for
WITHOUT = "without it the seed draws one"


def option(otherwise: str = WITHOUT) -> options.Decorator[Any]:
    """--label NAME."""
    return rich_click.option(
        "--label", metavar="NAME", panel="Text",
        help=f"Of a run of --task conditional: the label; {otherwise}.",
    )  # fmt: skip


def number(model: Model, label: str) -> int:
    """Which of the model's labels it is, 0 of a model that writes by none; raises UsageError if it has no such label."""
    from charrnn.decoding.labelled import number_of

    return number_of(label, model.labels) if model.labels else 0


def chosen(model: Model, label: str | None, seed: int, text: int = 0) -> str:
    """The label of text number `text`, empty of a model that writes by none; raises UsageError if it cannot be `label`.

    Nobody who has just trained such a run knows all its labels, and a first text is worth more to them than a list: so
    where none is asked for the seed draws one for each text. Position 0 of a stream, where every text has its start,
    never draws a token.
    """
    if not model.labels:
        if label is not None:
            message = f"{model.name!r} writes by no labels, so --label has nothing to choose from."
            raise UsageError(message, "Leave it out, or name a run of `charrnn train --task conditional`.")
        return ""
    if label is not None:
        return model.labels[number(model, label)]
    from charrnn.decoding.sampling import uniform

    return model.labels[int(uniform(seed, text, 0, 0) * len(model.labels))]


def tell(model: Model, label: str) -> None:
    """Say which label was drawn, and which others there are."""
    if label:
        console.note(f"label {label} ({others(model)})")


def others(model: Model) -> str:
    """What --label could be."""
    more = f" and {len(model.labels) - LISTED:,} more" if len(model.labels) > LISTED else ""
    return f"--label chooses from {', '.join(label[:40] for label in model.labels[:LISTED])}{more}"
