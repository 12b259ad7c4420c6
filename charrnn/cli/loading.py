"""From RUN, as it was typed, to a model; says so when the model is not what one would expect."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from charrnn.cli import console

if TYPE_CHECKING:
    from charrnn.decoding.engine import Engine
    from charrnn.runs.model import Model
    from charrnn.runs.registry import RunInfo


def load(run: str | None, root: Path, tasks: Collection[str] = ("language", "conditional")) -> Model:
    """The model of a run (without a name, the one saved last of those for `tasks`), folder or file; raises CheckpointError.

    Raises UsageError if it was trained for none of `tasks` (by default those that write); none means any.
    """
    from charrnn.runs import model as models
    from charrnn.runs import registry

    model = models.load(registry.resolve(run, root) if run is not None or not tasks else _newest(root, tasks))
    if tasks:
        models.need(model, tasks)
    if model.unfinished:
        console.note(f"{model.name} has no best model yet: these are the averaged weights of its last save")
    return model


def _newest(root: Path, tasks: Collection[str]) -> Path:
    """The run saved last of those for `tasks`; if there is none, the one saved last."""
    from charrnn.runs import registry

    infos = registry.listing(root)
    fitting = (info.path for info in infos if not info.problem and _task(info) in tasks)
    return next(fitting, None) or registry.resolve(None, root)


def _task(info: RunInfo) -> str:
    """What a run was trained for, as it says."""
    model = info.metadata.get("model")
    return str(model.get("task", "language")) if isinstance(model, dict) else "language"


def suggest_use(model: Model, run: str | None) -> None:
    """Suggest the command for what a model does; RUN as it was typed."""
    console.suggest(f"`charrnn {use(model.config.task, run or model.name, model.config.input == 'rows')}`")


def use(task: str, run: str, rows: bool = False) -> str:
    """What to type to use a model of a task, or of `rows` of numbers: sample NAME, classify NAME TEXT ..."""
    from charrnn.runs.model import DOES

    command = DOES.get(task, DOES["language"])[1]
    return (command.replace("TEXT", "FILE") if rows else command).format(console.quoted(run))


def engine(model: Model, narrow: bool = False, label: int = 0) -> Engine:
    """The engine of a model that writes (by the label of that number), rounded to eight bits where wanted and possible."""
    from charrnn.decoding import engine as engines

    made = engines.of(model, narrow=narrow, label=label)
    if narrow and not made.narrow:
        console.note("--int8 needs a C compiler (cc), which was not found: the weights are used as they are")
    return made
