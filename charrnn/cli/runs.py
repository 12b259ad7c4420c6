"""`charrnn runs`: what has been trained. A damaged run is a line of the list, never the end of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click

from charrnn.cli import console, loading, options

if TYPE_CHECKING:
    from charrnn.runs.registry import RunInfo

COLUMNS = ("name", "saved", "tokenizer", "model", "steps", "loss", "bits/char", "size")
SHARES = {  # of the tasks that have a better figure than bits per character: its name among the scores, and in words
    "classify": ("accuracy", "right"),
    "seq2seq": ("exact_match", "exact"),
}


@rich_click.command()
@options.apply(
    [options.json_option("One JSON object a line, with everything a run says about itself."), options.checkpoints_option()]
)
def runs(as_json: bool, checkpoints: Path) -> None:
    """List the runs, the one saved last first.

    Off a terminal: one line a run, columns separated by tabs. In place of bits per character, models that tell labels
    have the share told right, and those that answer texts the share answered exactly. A run that cannot be read is
    listed with the reason.

        charrnn runs
        charrnn runs --json | jq .name
    """
    from charrnn.runs import registry

    found = registry.listing(checkpoints)
    with console.Output() as out:
        if as_json:
            for info in found:
                out.write(json.dumps(_record(info), ensure_ascii=False) + "\n")
        elif out.tty:
            _table(found)
        else:
            for info in found:
                out.write("\t".join(_one_line(cell) for cell in _cells(info)) + "\n")
    usable = [info for info in found if not info.problem]
    shape = _mapping(usable[0].metadata.get("model")) if usable else {}
    use = loading.use(_task(shape), usable[0].name, shape.get("input") == "rows") if usable else "train FILE"
    console.suggest(f"`charrnn {use}`")


def _table(found: list[RunInfo]) -> None:
    if not found:
        console.say("There are no runs here yet.")
        return
    rows = [[_one_line(cell) for cell in _cells(info)] for info in found]
    console.table(COLUMNS, rows, right=COLUMNS[4:], alarming=[bool(info.problem) for info in found])


def _cells(info: RunInfo) -> list[str]:
    if info.problem:
        return [info.name, "damaged", info.problem, *[""] * (len(COLUMNS) - 3)]
    shape, scores = _mapping(info.metadata.get("model")), scores_of(info.metadata)
    return [
        info.name, _when(info), _units(info.metadata), shape_text(shape),
        _number(scores.get("step")), _figure(scores.get("loss")),
        _result(shape, scores), size_text(info.size),
    ]  # fmt: skip


def _record(info: RunInfo) -> dict[str, Any]:
    record = {"name": info.name, "path": str(info.path), "bytes": info.size}
    return record | ({"problem": info.problem} if info.problem else dict(info.metadata))


def scores_of(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a run says of how well it predicts, or nothing."""
    return _mapping(_mapping(metadata.get("provenance")).get("scores"))


def shape_text(shape: Mapping[str, Any]) -> str:
    """The network in a few signs: lstm 2x512, or classify gru 1x64 where the task is not to write on."""
    task = _task(shape)
    network = f"{shape.get('cell', '?')} {shape.get('layers', '?')}x{shape.get('hidden_size', '?')}"
    return network if task == "language" else f"{task} {network}"


def _task(shape: Mapping[str, Any]) -> str:
    return str(shape.get("task", "language"))


def _units(metadata: Mapping[str, Any]) -> str:
    rows = _mapping(metadata.get("model")).get("input") == "rows"
    return "rows" if rows else str(metadata.get("tokenizer", ""))


def _result(shape: Mapping[str, Any], scores: Mapping[str, Any]) -> str:
    """Bits per character, or what says more of the task."""
    if _task(shape) not in SHARES:
        return _figure(scores.get("bits_per_character"))
    name, words = SHARES[_task(shape)]
    share = scores.get(name)
    known = isinstance(share, float | int) and not isinstance(share, bool) and 0 <= share <= 1
    return f"{share:.1%} {words}" if known else ""


def size_text(size: int) -> str:
    """Bytes for people: 3.1 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}" if size < 999.5 * factor else f"{size / factor:.0f} {unit}"
    return f"{size} B"


def _when(info: RunInfo) -> str:
    saved = info.metadata.get("saved")
    if isinstance(saved, bool) or not isinstance(saved, int | float) or not 0 <= saved < 1e11:
        return ""
    return datetime.fromtimestamp(saved).strftime("%Y-%m-%d %H:%M")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else ""


def _figure(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float | int) and math.isfinite(value) else ""


def _one_line(text: str) -> str:
    return console.visible(" ".join(text.split()))
