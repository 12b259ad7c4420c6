"""--init-from RUN: the trained model that a new run begins with, found and asked before torch is loaded.

Knows which wishes were typed: one that contradicts the model is an error, one out of the environment or a file, which
stand for many runs, is left out with a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich_click
from click.core import ParameterSource

from charrnn.cli import console, loading, options
from charrnn.errors import UsageError
from charrnn.launch import launch

if TYPE_CHECKING:
    from charrnn.training.base import Base


def option(panel: str) -> options.Decorator[Any]:
    """The option itself."""
    return rich_click.option(
        "--init-from", metavar="RUN", shell_complete=options.complete_run, panel=panel,
        help="Begin with the trained RUN instead of chance: its network, its weights and its alphabet, which grows.",
    )  # fmt: skip


def load(run: str | None, root: Path) -> Base | None:
    """The model of RUN to begin with, None without one; raises CheckpointError."""
    if run is None:
        return None
    if not run.strip():
        raise UsageError("--init-from names no run.", "Give one: `charrnn runs` lists them.")
    model = loading.load(run, root, ())
    from charrnn.training.base import Base

    return Base(model, run)


def agreed(base: Base | None, context: click.Context, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The wishes without those that contradict the model and were not typed; raises UsageError for one that was."""
    if base is None:
        return dict(asked)
    found = base.contradictions(asked)
    left = [name for name in found if context.get_parameter_source(name) is not ParameterSource.COMMANDLINE]
    for name in left if launch().rank == 0 else ():
        option = name.replace("_", "-")
        console.note(f"{option} = {asked[name]} of the environment or a file is left out: {base.model.name} decides it")
    agreed = {name: value for name, value in asked.items() if name not in left}
    base.wishes(agreed)
    return agreed
