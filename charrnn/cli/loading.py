"""From RUN, as it was typed, to a model; says so when the model is not what one would expect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.cli import console

if TYPE_CHECKING:
    from charrnn.decoding.engine import Engine
    from charrnn.runs.model import Model


def load(run: str | None, root: Path) -> Model:
    """The model of a run (without a name, the one saved last), folder or file; raises CheckpointError."""
    from charrnn.runs import model as models
    from charrnn.runs import registry

    model = models.load(registry.resolve(run, root))
    if model.unfinished:
        console.note(f"{model.name} has no best model yet: these are the averaged weights of its last save")
    return model


def engine(model: Model, narrow: bool = False) -> Engine:
    """The engine of a model, its weights rounded to eight bits where that is wanted and possible."""
    from charrnn.decoding import engine as engines

    made = engines.of(model, narrow=narrow)
    if narrow and not made.narrow:
        console.note("--int8 needs a C compiler (cc), which was not found: the weights are used as they are")
    return made
