"""`charrnn plot`: how a run learnt, from what it wrote down. In the terminal neither torch nor NumPy is needed."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import console, options
from charrnn.errors import CheckpointError, UsageError
from charrnn.runs import metrics

if TYPE_CHECKING:
    from charrnn.cli.chart import Chart, Row

KINDS = ("png", "svg", "pdf")
# The title of each chart and, of the events that it shows, their names in the log and for people.
CHARTS = (
    ("loss (nats)", "loss", ("step", "evaluated")),
    ("accuracy", "accuracy", ("step", "evaluated")),
    ("gradient norm", "gradient_norm", ("step",)),
)
STYLES = {"": "", "axis": "dim", "line": "cyan", "mark": "bold yellow"}
LARGEST_PAGE = (400, 200)  # columns and rows, whatever COLUMNS and LINES say
BELOW = 3  # rows that stay free: the line above the charts, the suggestion below them, the prompt


@rich_click.command()
@options.apply(
    [
        options.run_argument(required=False),
        rich_click.option(
            "-o", "--output", metavar="FILE",
            help="Draw a picture into FILE (.png, .svg or .pdf) instead; this needs matplotlib, the extra `plot`.",
        ),
        options.json_option("One JSON object: every series as steps and values."),
        options.checkpoints_option(),
    ]
)  # fmt: skip
def plot(run: str | None, output: str | None, as_json: bool, checkpoints: Path) -> None:
    """Draw how a run learnt: loss, accuracy and gradient norm by step, from its metrics.jsonl.

    Works while it is still training, from another terminal. Of a long run, each point is the mean of several events.

        charrnn plot
        charrnn plot poems -o poems.svg
        charrnn plot poems --json | jq .lowest
    """
    kind = _kind(output, as_json)
    path = _log_of(run, checkpoints)
    log = _read(path)
    _tell(log)
    if as_json:
        with console.Output() as out:
            out.write(json.dumps(_record(path, log), ensure_ascii=False) + "\n")
    elif output is not None:
        _save(_charts(log, path), output, kind)
    else:
        _show(_charts(log, path), _summary(log))
    named = f" {console.quoted(run)}" if run else ""  # not every run writes, and one that still trains says nothing yet
    console.suggest(f"`charrnn inspect{named}` for what it is")


def _kind(output: str | None, as_json: bool) -> str:
    """The kind of picture that is wanted, by the end of its name; raises UsageError."""
    if output is None:
        return ""
    if as_json:
        raise UsageError("-o writes a picture, so it does not go with --json.", "Give one of them.")
    kind = os.path.splitext(output)[1].lower().removeprefix(".")
    if kind not in KINDS:
        raise UsageError(f"-o is {output[:200]!r}; expected a name that ends with .png, .svg or .pdf.", "Type: -o loss.svg")
    return kind


def _log_of(run: str | None, root: Path) -> Path:
    """The log that RUN means: of a name below `root` or a folder, even before its first save; beside a run's file; or itself."""
    if run and "\0" not in run and len(run) < 4096:
        named = [root / run] if Path(run).name == run != ".." else []
        for folder in (*named, Path(run)):
            if os.path.isfile(folder / metrics.METRICS_FILE):
                return folder / metrics.METRICS_FILE
        if run.endswith(".jsonl") and os.path.isfile(run):
            return Path(run)
    return _log_beside(run, root)


def _log_beside(run: str | None, root: Path) -> Path:
    """The log of a run that only its model files tell of; raises CheckpointError."""
    from charrnn.runs import model, registry

    found = registry.resolve(run, root)
    folder = found.parent if found.name in (model.MODEL_FILE, model.LAST_FILE) else found
    path = folder / metrics.METRICS_FILE
    if not os.path.isfile(path):
        what = "is a model without a log" if os.path.isfile(found) else f"holds no {metrics.METRICS_FILE}"
        raise CheckpointError(
            f"{console.shown_path(found)!r} {what}.",
            f"Only the folder in which it was trained has one; name that, or its {metrics.METRICS_FILE}.",
        )
    return path


def _read(path: Path) -> metrics.Log:
    try:
        return metrics.read(path)
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}.", "Check the file and its permissions.") from error


def _tell(log: metrics.Log) -> None:
    """Say what of the log is left out."""
    if log.damaged:
        console.note(f"left out: {_count(log.damaged, 'line')} that {'is' if log.damaged == 1 else 'are'} no JSON object")
    if log.refused:
        console.note(f"left out: {_count(log.refused, 'number')} that cannot be drawn, or in the wrong order")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _charts(log: metrics.Log, path: Path) -> list[Chart]:
    """The charts of which there is something to show; raises CheckpointError if there are none."""
    from charrnn.cli.chart import Chart, Line

    names = {"step": "training", "evaluated": log.on if log.on == "validation" else "training text, averaged weights"}
    made = []
    for title, quantity, events in CHARTS:
        found = [(event, points) for event in events if (points := log.points(event, quantity))]
        if found:
            made.append(Chart(title, tuple(Line(names[event], points, event == "evaluated") for event, points in found)))
    if not made:
        raise CheckpointError(
            f"{console.shown_path(path)!r} holds no step to draw yet.", "A run writes its first line after a few steps."
        )
    return made


def _summary(log: metrics.Log) -> str:
    text = f"step {log.step:,}" + (f" of {log.steps:,}" if log.steps else "")
    if log.lowest is not None:
        text += f"; lowest {log.on} loss {log.lowest[1]:.4g} at step {log.lowest[0]:,.0f}"
    return text


def _show(charts: Sequence[Chart], summary: str) -> None:
    """Draw on stdout, as large as the terminal, in colours if it has any; what is not UTF-8 gets ASCII."""
    from charrnn.cli.chart import ASCII, BRAILLE, page

    columns, lines = shutil.get_terminal_size()
    columns, lines = min(columns - 1, LARGEST_PAGE[0]), min(lines - BELOW, LARGEST_PAGE[1])
    rows = page(charts, columns, lines, BRAILLE if _shows_braille() else ASCII)
    if console.fancy(sys.stdout):
        _paint(rows, summary)
        return
    with console.Output() as out:
        out.write("\n".join([summary, *("".join(sign for sign, _ in row).rstrip() for row in rows)]) + "\n")


def _paint(rows: Sequence[Row], summary: str) -> None:
    from rich.text import Text

    text = Text(summary)
    for row in rows:
        text.append("\n")
        for tone, cells in itertools.groupby(row, key=lambda cell: cell[1]):
            text.append("".join(sign for sign, _ in cells), STYLES[tone])
    console.rich_console(sys.stdout).print(text, soft_wrap=True)


def _shows_braille() -> bool:
    """Whether stdout takes UTF-8, and its reader is not the console of Linux, whose fonts hold no braille."""
    encoding = (sys.stdout.encoding or "").lower().replace("_", "-")
    return encoding in ("utf-8", "utf8") and not (sys.stdout.isatty() and os.environ.get("TERM") == "linux")


def _save(charts: Sequence[Chart], output: str, kind: str) -> None:
    from charrnn.cli import destination, figure

    data = figure.picture(charts, kind)
    with destination.file(output) as file:
        file.write(data)
    console.note(f"drawn into {output}")


def _record(path: Path, log: metrics.Log) -> dict[str, Any]:
    lowest = None if log.lowest is None else {"step": int(log.lowest[0]), "loss": log.lowest[1]}
    series = [
        {
            "event": event, "quantity": quantity, "each": log.series[event, quantity].each,
            "steps": [step for step, _ in log.points(event, quantity)],
            "values": [value for _, value in log.points(event, quantity)],
        }
        for _, quantity, events in CHARTS for event in events if (event, quantity) in log.series
    ]  # fmt: skip
    about = {"path": str(path), "step": log.step, "steps": log.steps, "evaluated_on": log.on, "lowest": lowest}
    return about | {"damaged_lines": log.damaged, "refused_numbers": log.refused, "series": series}
