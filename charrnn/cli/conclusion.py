"""What `charrnn train` says at the end: how good the best model is, in its task's own measures, and what to do with it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.cli import console, loading
from charrnn.cli.progress import duration
from charrnn.errors import CharrnnError
from charrnn.launch import launch
from charrnn.training.events import Finished, Started

if TYPE_CHECKING:
    from charrnn.runs.model import Model

VERBS = {"language": "write", "conditional": "write", "classify": "tell labels", "seq2seq": "answer texts"}
FIGURES = {  # of each task, what the scores of a model call it, and in words
    "classify": (("accuracy", "accuracy {:.2%}"), ("macro_f1", "macro F1 {:.4f}")),
    "conditional": (
        ("bits_per_character", "{:.4f} bits per character with the right label"),
        ("bits_per_character_wrong_label", "{:.4f} with a wrong one"),
    ),
    "seq2seq": (("exact_match", "exact match {:.2%}"), ("character_error_rate", "character error rate {:.2%}")),
}


def tell(started: Started, finished: Finished, root: Path) -> None:
    """The last words of a run."""
    elsewhere = "" if str(root) == "checkpoints" else f" --checkpoints {console.quoted(str(root))}"
    name = console.quoted(started.name)
    if finished.reason == "interrupted":
        command = f"{launch().prefix}charrnn train --resume {name}{elsewhere}"
        console.say(f"interrupted at step {finished.step:,}, saved; go on with `{command}`")
        return
    model = _best(finished.folder)
    if model is not None and model.config.task == "classify":
        _show_labels(model)
    task = str(started.settings.get("task", "language"))
    why = " (no better for a while)" if finished.reason == "early stop" else ""
    figures = [f"best loss {finished.best_loss:.4f}", *_figures(task, model, finished)]
    console.say(
        f"done after {finished.step:,} steps{why}, {duration(finished.seconds)}: "
        f"{', '.join(figures)}, at step {finished.best_step:,}{'' if finished.best_step else ', before any was made'}"
    )
    console.say(f"saved in {console.shown_path(finished.folder)}")
    if command := finished.command or started.command:
        console.say(f"the same again: {command}")
    console.say(f"{VERBS.get(task, 'write')} with it: charrnn {_use(task, started.name, model)}{elsewhere}")
    if model is not None and _can_chat(model):
        console.say(f"talk with it: charrnn chat {name}{elsewhere}")


def _best(folder: Path) -> Model | None:
    """The best model of the run; None if it is somebody else's business now, and was removed: the run is done."""
    from charrnn.runs import model

    try:
        return model.load(folder)
    except CharrnnError:
        return None


def _figures(task: str, model: Model | None, finished: Finished) -> list[str]:
    """The figures of the task; nothing that is no number."""
    if task not in FIGURES:
        bits = finished.best_bits_per_character
        return [f"{bits:.4f} bits per character"] if math.isfinite(bits) else []
    scores = _scores(model)
    found = [(scores.get(key), words) for key, words in FIGURES[task]]
    shown = [words.format(value) for value, words in found if isinstance(value, float | int) and math.isfinite(value)]
    if shown and task != "conditional":
        shown[0] = f"{'held-out' if scores.get('on') == 'validation' else 'on what it has learnt'} {shown[0]}"
        scored, held = scores.get("scored"), scores.get("held_out")
        if isinstance(scored, int) and isinstance(held, int) and scored < held:
            shown.append(f"of {scored:,} of {held:,} examples (`charrnn eval` scores all)")
    return shown


def _scores(model: Model | None) -> Mapping[str, Any]:
    scores = model.provenance.get("scores") if model is not None else None
    return scores if isinstance(scores, dict) else {}


def _show_labels(model: Model) -> None:
    """The tables of the last scores, on stderr."""
    from charrnn.cli import confusion

    found = confusion.Confusion.of_table(model.labels, _scores(model).get("confusion"))
    if found is not None:
        for line in confusion.shown(found, sys.stderr).splitlines():
            console.say(line)


def _use(task: str, name: str, model: Model | None) -> str:
    """The command that uses the model, as it is to be typed."""
    quoted = console.quoted(name)
    if task == "conditional" and model is not None:
        return f"sample {quoted} --label {console.quoted(model.labels[0])}"
    if task == "classify" and model is not None and model.config.input == "rows":
        return f"classify {quoted} FILE"
    return {"classify": f'classify {quoted} "..."', "seq2seq": f'translate {quoted} "..."'}.get(
        task, loading.use(task, name)
    )  # fmt: skip


def _can_chat(model: Model) -> bool:
    from charrnn.cli import chat
    from charrnn.decoding.turns import STANDARD

    try:
        return chat.can_chat(model, STANDARD)
    except CharrnnError:  # no reason to end badly: the run is done
        return False
