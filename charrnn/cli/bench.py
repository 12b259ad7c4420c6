"""`charrnn bench`: the tables of docs/results.md, made again. Knows how to show a table, nothing of how one measures."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich_click

from charrnn import config
from charrnn.cli import console, options, speeds
from charrnn.config import TrainingConfig
from charrnn.errors import CharrnnError, CorpusError

if TYPE_CHECKING:
    from charrnn.training import decoding_speed
    from charrnn.training.bench import Begun, Medians, Row, Text
    from charrnn.training.speed import Machine
    from charrnn.training.step_speed import Row as StepRow

COLUMNS = (
    "minutes", "wall-clock", "seed", "size", "steps", "tokens/s", "GFLOP/s", "share", "overhead", "stream", "cold256",
    "bits/char",
)  # fmt: skip
LEFT = ("seed", "size")
LEFT_OUT, NARROW = ("GFLOP/s", "share", "overhead", "bits/char"), 110  # of a table for fewer columns than these
WIDE = 160  # columns of a table that goes into a file, where nothing has to be folded
CAPTION = (
    "GFLOP/s: 6 FLOPs for each weight of the recurrent and output layers and each token (median tokens/s of the run's "
    "log). share: that divided by the rate of one torch product, (B*T x I+H) @ (I+H x G*H) of the first layer, in the "
    "run's precision and threads. overhead: share of a step that is neither forward, backward nor the optimizer's update. "
    "stream, cold256: nats per token on the whole validation part, as `charrnn eval --split val` has them."
)


@dataclass(frozen=True)
class BenchConfig:
    """What is trained, and how often."""

    minutes: float = config.setting(
        0.0, "Minutes a run may take; may be given several times.", low=0, low_open=True, high=1e6, automatic="5"
    )
    seeds: int = config.setting(1, "Runs of each time, with the seeds 1 to N.", low=1, high=1000)


def _minutes_option() -> Any:
    (item,) = (item for item in fields(BenchConfig) if item.name == "minutes")
    kind = options.SettingType(item)
    about = {"help": item.metadata["help"], "show_default": item.metadata["automatic"], "metavar": kind.name}
    return rich_click.option("--minutes", type=kind, multiple=True, **about)


@rich_click.group(invoke_without_command=True)
@click.pass_context
def bench(context: click.Context) -> None:
    """Measure this machine and this version: the tables of the results, made again.

    \b
    charrnn bench train my.txt --minutes 2 --seeds 3
    charrnn bench speed
    charrnn bench sample
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


bench.add_command(speeds.speed)


@bench.command()
@options.apply(
    [
        rich_click.argument("text", metavar="TEXT", shell_complete=options.complete_file),
        _minutes_option(),
        rich_click.option(
            "--seeds", type=options.SettingType(fields(BenchConfig)[1]), default=1, show_default="1", metavar="N",
            help=fields(BenchConfig)[1].metadata["help"],
        ),
        rich_click.option("--plain", is_flag=True, help="For each time, also a textbook trainer: AdamW at one rate, LSTM 1x256."),
        rich_click.option(
            "--keep", type=options.PathType(path_type=Path, file_okay=False), metavar="FOLDER",
            help="Keep the runs there (5min-seed1, ...); otherwise they are removed.",
        ),
        rich_click.option(
            "--speeds/--no-speeds", "timed", default=None, show_default="with --device cuda",
            help="First the table of `charrnn bench speed`: what a step costs, by shape, precision and batch.",
        ),
        options.json_option("One JSON object with the machine, the text and all rows."),
        *options.settings(TrainingConfig, "Machine", only=("device", "threads")),
    ]
)  # fmt: skip
def train(
    text: str, minutes: tuple[float, ...], seeds: int, plain: bool, keep: Path | None, timed: bool | None, as_json: bool,
    **values: Any,
) -> None:  # fmt: skip
    """Train on the file TEXT, score the whole validation part, and measure the speed: one row for each run.

    Each run is a `charrnn train TEXT` in a process of its own, with no other settings than those named here: neither
    a settings file nor CHARRNN_* variables reach it. With several seeds their medians follow.

        charrnn bench train my.txt
        charrnn bench train my.txt --minutes 0.5 --minutes 5 --seeds 3 --plain
        charrnn bench train my.txt --device cuda
        charrnn bench train my.txt --json > results.json
    """
    if not Path(text).is_file():
        raise CorpusError(f"there is no file {text!r}.", "Name one text file: `charrnn bench train my.txt`.")
    from charrnn.training import bench as measuring  # torch: only when all else has been found in order
    from charrnn.training import speed

    about, where = measuring.this_text(text), speed.this_machine()
    wanted = measuring.trials(minutes or (5.0,), seeds, plain)
    rows: list[Row] = []
    steps: list[StepRow] = []
    if timed if timed is not None else values["device"] == "cuda":
        steps = speeds.measured(where, as_json, **options.asked(values, TrainingConfig))
        if not as_json:
            speeds.show(steps, where)

    def show() -> None:
        if as_json:
            record = measuring.record(where, about, rows, len(wanted))
            record |= {"speeds": [asdict(row) for row in steps]} if steps else {}
            with console.Output() as out:
                out.write(json.dumps(record, ensure_ascii=False) + "\n")
        else:
            _show(rows, measuring.medians(rows), _facts(where, about, rows))

    try:
        with closing(measuring.train(text, wanted, keep=keep, device=values["device"], threads=values["threads"])) as events:
            for event in events:
                if isinstance(event, measuring.Begun):
                    console.say(_progress(event))
                else:
                    rows.append(event)
    except BaseException:  # a run that fails, or Ctrl-C, must not cost the hours of those before it
        if rows:
            console.say(f"{len(rows)} of {len(wanted)} runs were made:")
            with contextlib.suppress(OSError, CharrnnError, SystemExit):
                show()
        raise
    show()


def _progress(event: Begun) -> str:
    trial = event.trial
    what = "the plain trainer" if trial.plain else f"seed {trial.seed}"
    return f"run {event.number} of {event.total}: {trial.minutes:g} min, {what} ..."


def _show(rows: Sequence[Row], medians: Sequence[Medians], facts: str) -> None:
    """The table on stdout: the rows of each time, the medians below them; then what was measured how."""
    from rich.table import Table
    from rich.text import Text as Styled

    caption = Styled(console.visible(f"{facts}\n{CAPTION}"), style="dim")
    grid = Table(box=None, pad_edge=False, header_style="bold", caption=caption, caption_justify="left", caption_style="")
    screen = console.rich_console(sys.stdout)
    if not sys.stdout.isatty():
        screen.width = WIDE
    shown = [index for index, name in enumerate(COLUMNS) if screen.width >= NARROW or name not in LEFT_OUT]
    if len(shown) < len(COLUMNS):
        caption.append(f" A terminal of {NARROW} columns, or --json, shows more.")
    for column in (COLUMNS[index] for index in shown):
        grid.add_column(column, justify="left" if column in LEFT else "right", overflow="fold")
    for minutes in dict.fromkeys(row.minutes for row in rows):
        for row in (one for one in rows if one.minutes == minutes):
            cells = _cells(row, row.size, "plain" if row.plain else str(row.seed))
            grid.add_row(*(cells[index] for index in shown))
        for middle in (one for one in medians if one.minutes == minutes):
            cells = _cells(middle, ", ".join(middle.sizes), "median")
            grid.add_row(*(cells[index] for index in shown), style="bold")
    screen.print(grid)


def _cells(row: Row | Medians, size: str, seed: str) -> list[str]:
    return [
        f"{row.minutes:g}", clock(row.wall_seconds), seed, size, f"{row.steps:,.0f}", f"{row.tokens_per_second:,.0f}",
        f"{row.gigaflops:.1f}", f"{row.share:.0%}", f"{row.overhead:.0%}", f"{row.stream:.4f}",
        "" if row.cold256 is None else f"{row.cold256:.4f}", f"{row.bits_per_character:.4f}",
    ]  # fmt: skip


def clock(seconds: float) -> str:
    """Whole minutes and seconds, 5:01."""
    return f"{round(seconds) // 60}:{round(seconds) % 60:02d}"


def _facts(where: Machine, text: Text, rows: Sequence[Row]) -> str:
    """The machine, as much of it as was used, and the text; one line."""
    threads = " or ".join(str(number) for number in sorted({row.threads for row in rows}))
    gpu = f", {where.accelerator}" if any(row.device == "cuda" for row in rows) else ""
    machine = f"{where.processor}, threads {threads} on {where.cores} usable cores{gpu}, torch {where.torch}"
    return f"{machine}; {text.name}, {text.characters:,} characters, SHA-256 {text.sha256[:8]}."


@dataclass(frozen=True)
class DecodingConfig:
    """What is decoded, and how often."""

    rounds: int = config.setting(7, "Rounds in which each way is measured once; medians are shown.", low=1, high=1000)
    cell: str = config.setting("lstm", "Recurrent cell.", choices=["lstm", "gru", "rnn"])


@bench.command()
@options.apply(
    [
        speeds.shape_option("1x128, 1x256, 1x512 and 2x512"),
        *options.settings(DecodingConfig, "Options"),
        options.json_option("One JSON object with the machine and all rows."),
    ]
)  # fmt: skip
def sample(shapes: tuple[tuple[int, int], ...], as_json: bool, **values: Any) -> None:
    """Measure how fast tokens are drawn, on one thread, beside the bare products of the same weights and beside torch.

    charrnn bench sample
    charrnn bench sample --shape 1x256 --shape 2x1024 --cell gru
    """
    asked = DecodingConfig(**options.asked(values, DecodingConfig))
    from charrnn.training import decoding_speed, speed

    machine, rows = speed.this_machine(), []
    for row in decoding_speed.measure(shapes or ((1, 128), (1, 256), (1, 512), (2, 512)), asked.cell, asked.rounds):
        rows.append(row)
        console.say(f"{row.layers}x{row.hidden_size} ...")
    if as_json:
        with console.Output() as out:
            out.write(json.dumps({"machine": asdict(machine), "rows": [asdict(row) for row in rows]}, ensure_ascii=False) + "\n")
    else:
        _show_decoding(rows, machine)


DECODING_CAPTION = (
    "Tokens a second on one thread, a step and a draw each. bare: NumPy's products over the same weights, nothing else, "
    "and in brackets the share of it. torch.nn: its layer called once a token; torch: a plain step. NumPy, compiled, int8: "
    "charrnn without a C compiler, with one, and with --int8. 64 streams: counted together, beside the same product of 64 "
    "rows; with their texts and states kept apart in the last column."
)


def _show_decoding(rows: Sequence[decoding_speed.Row], machine: Machine) -> None:
    from rich.table import Table
    from rich.text import Text as Styled

    facts = console.visible(f"{machine.processor}, torch {machine.torch}. {DECODING_CAPTION}")
    grid = Table(box=None, pad_edge=False, header_style="bold", caption=Styled(facts, style="dim"), caption_justify="left")
    for name in ("network", "bare", "torch.nn", "torch", "NumPy", "compiled", "int8", "64 bare", "64 streams", "64 texts"):
        grid.add_column(name, justify="left" if name == "network" else "right", overflow="fold")
    for row in rows:
        one = [_share(value, row.bare) for value in (row.numpy, row.compiled, row.int8)]
        many = [_share(value, row.many_bare) for value in (row.many, row.many_text)]
        ends = [f"{row.bare:,.0f}", f"{row.stepped:,.0f}", f"{row.fused:,.0f}", *one, f"{row.many_bare:,.0f}", *many]
        grid.add_row(f"{row.cell} {row.layers}x{row.hidden_size}", *ends)
    screen = console.rich_console(sys.stdout)
    if not sys.stdout.isatty():
        screen.width = WIDE
    screen.print(grid)


def _share(value: float | None, bare: float) -> str:
    return "" if value is None else f"{value:,.0f} ({value / bare:.0%})"
