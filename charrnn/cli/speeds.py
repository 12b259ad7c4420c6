"""`charrnn bench speed`: what a training step costs on this device, shape by shape; also what `bench train` shows first."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import click
import rich_click

from charrnn.cli import console, options
from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CharrnnError, UsageError

if TYPE_CHECKING:
    from charrnn.training.speed import Machine
    from charrnn.training.step_speed import Row

SHAPES = ((1, 256), (1, 512), (2, 512), (2, 1024), (3, 1024))  # layers, hidden units
BATCHES = (32, 128, 512)
WIDE = 160  # columns of a table that goes into a file, where nothing has to be folded
CAPTION = (
    "Random tokens, no dropout; the time is that of whole steps, Muon and averaging included. arithmetic: the FLOPs of a "
    "step (6 for each weight in a product and each token, and Muon's) over those of a large square product in the same "
    "precision, as a share of the time. bandwidth: the bytes that a step must move over those that a copy moves, likewise; "
    "re-read: the same, if W_hh is read anew at every time step (above 100 % where a cache holds it). memory: at most, of "
    "the device. The formulae stand in charrnn/training/step_speed.py."
)


class ShapeType(click.ParamType):  # type: ignore[type-arg]
    """Layers and hidden size, 1x256."""

    name = "LxH"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """(layers, hidden size); raises UsageError."""
        layers, sign, hidden = str(value).partition("x")
        try:
            shape = int(layers), int(hidden)
        except ValueError:
            shape = 0, 0
        if not sign or not 1 <= shape[0] <= 64 or not 1 <= shape[1] <= 8192:
            raise UsageError(f"--shape is {str(value)[:40]!r}; expected layers x hidden size.", "Give --shape 1x256.")
        return shape


def shape_option(usual: str) -> Any:
    """--shape: again and again."""
    return rich_click.option(
        "--shape", "shapes", type=ShapeType(), multiple=True, metavar="LxH", show_default=usual,
        help="Layers and hidden size; may be given several times.",
    )  # fmt: skip


def _repeated(name: str, usual: str, help_text: str) -> Any:
    """A setting of training that may be given several times."""
    (item,) = (item for item in fields(TrainingConfig) if item.name == name)
    kind = options.SettingType(item)
    flag = f"--{name.replace('_', '-')}"
    return rich_click.option(flag, name, type=kind, multiple=True, metavar=kind.name, show_default=usual, help=help_text)


@rich_click.command()
@options.apply(
    [
        shape_option("1x256, 1x512, 2x512, 2x1024 and 3x1024"),
        _repeated("batch_size", "32, 128 and 512", "Parallel streams; may be given several times."),
        _repeated("precision", "all that the device has", "Arithmetic; may be given several times."),
        *options.settings(ModelConfig, "Options", only=("cell", "embedding_size")),
        *options.settings(TrainingConfig, "Options", only=("window", "device", "threads")),
        options.json_option("One JSON object with the machine and all rows."),
    ]
)
def speed(shapes: tuple[tuple[int, int], ...], as_json: bool, **values: Any) -> None:
    """Measure how long a training step takes, by shape, precision and batch, beside the bounds of this device.

    \b
    charrnn bench speed
    charrnn bench speed --device cuda --embedding-size 128
    charrnn bench speed --shape 2x512 --batch-size 32 --precision fp32
    """
    from charrnn.training.speed import this_machine  # torch: only when all else has been found in order

    machine = this_machine()
    wanted = {name: value for name, value in values.items() if value not in (None, ())}
    _tell(measured(machine, as_json, shapes, **wanted), machine, as_json)


def measured(machine: Machine, as_json: bool, shapes: Sequence[tuple[int, int]] = (), **wanted: Any) -> list[Row]:
    """The rows, each said on stderr as it comes; when something ends this before its time, those that there are are shown."""
    from charrnn.training import step_speed

    batches, precisions = wanted.pop("batch_size", BATCHES), wanted.pop("precision", ())
    rows: list[Row] = []
    console.say("how fast this device multiplies and copies ...")
    try:
        for row in step_speed.measure(step_speed.Wanted(shapes or SHAPES, batches, precisions, **wanted)):
            rows.append(row)
            console.say(f"{_network(row)}, {row.precision}, {row.batch_size} streams ...")
    except BaseException:  # Ctrl-C must not cost the minutes of the rows before it
        if rows:
            with contextlib.suppress(OSError, CharrnnError, SystemExit):
                _tell(rows, machine, as_json)
        raise
    return rows


def _tell(rows: Sequence[Row], machine: Machine, as_json: bool) -> None:
    if not as_json:
        show(rows, machine)
        return
    with console.Output() as out:
        out.write(json.dumps({"machine": asdict(machine), "rows": [asdict(row) for row in rows]}, ensure_ascii=False) + "\n")


def show(rows: Sequence[Row], machine: Machine) -> None:
    """The table on stdout."""
    from rich.table import Table
    from rich.text import Text as Styled

    facts = Styled(console.visible(f"{_facts(rows, machine)}\n{CAPTION}"), style="dim")
    grid = Table(box=None, pad_edge=False, header_style="bold", caption=facts, caption_justify="left", caption_style="")
    for name in ("network", "precision", "streams", "tokens/s", "ms/step", "memory", "arithmetic", "bandwidth", "re-read"):
        grid.add_column(name, justify="left" if name in ("network", "precision") else "right", overflow="fold")
    for row in rows:
        grid.add_row(_network(row), row.precision, str(row.batch_size), *_measured(row))
    screen = console.rich_console(sys.stdout)
    if not sys.stdout.isatty():
        screen.width = WIDE
    screen.print(grid)


def _network(row: Row) -> str:
    return f"{row.cell} {row.layers}x{row.hidden_size}"


def _measured(row: Row) -> list[str]:
    """What was, of a row; in place of the tokens why nothing was."""
    if row.seconds_per_step is None:
        return [row.failed]
    memory = "" if row.memory_bytes is None else f"{row.memory_bytes / 2**20:,.0f} MiB"
    shares = [f"{share:.1%}" for share in (row.arithmetic, row.bandwidth, row.rereading) if share is not None]
    return [f"{row.tokens_per_second:,.0f}", f"{1000 * row.seconds_per_step:.2f}", memory, *shares]


def _facts(rows: Sequence[Row], machine: Machine) -> str:
    """The machine and what it is capable of; one line."""
    first = rows[0]
    where = machine.accelerator if first.device == "cuda" else f"{machine.processor}, threads {first.threads}"
    rates = {row.precision: f"{row.precision} {row.matrix_gigaflops / 1000:,.2f} TFLOP/s" for row in rows}
    able = f"large products in {', '.join(rates.values())}; copies {first.copy_gigabytes:,.0f} GB/s"
    return f"{where}, torch {machine.torch}; {able}; windows of {first.window}, embedding of {first.embedding_size}."
