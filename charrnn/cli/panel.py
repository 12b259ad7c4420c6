"""The live panel of a training run on a terminal. Fed with events; knows nothing of training.

Every text that enters it is a Rich Text made of visible characters, never markup: a sample may hold anything. It is
drawn at most eight times a second, and only when an event comes, so that drawing never costs more than a glance.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel as Frame
from rich.table import Table
from rich.text import Text

from charrnn.cli import console as terminal
from charrnn.cli.progress import duration, headline, measured, sample_lines, short_number
from charrnn.training.events import Adjusted, Evaluated, Event, Finished, Sampled, Saved, Started, Step

REFRESH_SECONDS = 1 / 8
BLOCKS = "▁▂▃▄▅▆▇█"
MOST_POINTS = 512  # of the loss curve; neighbours are averaged beyond
FIXED_ROWS = 11  # rows of the panel that are not the sample
Figure = tuple[str, str]


class LossCurve:
    """The losses of a run of any length in bounded memory: when full, neighbouring points become their mean."""

    def __init__(self) -> None:
        self.points: list[float] = []
        self._each, self._sum, self._count = 1, 0.0, 0

    def add(self, loss: float) -> None:
        """Take one more loss; what is not a finite number is left out."""
        if not math.isfinite(loss):
            return
        self._sum, self._count = self._sum + loss, self._count + 1
        if self._count < self._each:
            return
        self.points.append(self._sum / self._count)
        self._sum, self._count = 0.0, 0
        if len(self.points) >= MOST_POINTS:
            pairs = zip(self.points[::2], self.points[1::2], strict=True)
            self.points, self._each = [(left + right) / 2 for left, right in pairs], self._each * 2


def sparkline(values: Sequence[float], width: int) -> str:
    """`values` as at most `width` block characters, the lowest value lowest, on a logarithmic scale.

    Logarithmic, because a loss falls most in its first moments and the rest would look flat.
    """
    if not values or width < 1:
        return ""
    buckets = min(width, len(values))
    edges = [len(values) * i // buckets for i in range(buckets + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]
    logs = [math.log(max(mean, 1e-9)) for mean in means]
    low, spread = min(logs), (max(logs) - min(logs)) or 1.0
    return "".join(BLOCKS[round((value - low) / spread * (len(BLOCKS) - 1))] for value in logs)


class Panel:
    """A listener (see progress.Listener) that draws itself on `console`."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._live: Live | None = None
        self._drawn_at = -math.inf
        self._started: Started | None = None
        self._step: Step | None = None
        self._evaluated: Evaluated | None = None
        self._sampled: Sampled | None = None
        self._saved: Saved | None = None
        self._curve = LossCurve()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._live is not None and not terminal.in_background():
            self._live.update(self.render(), refresh=True)
            self._live.stop()

    def feed(self, event: Event) -> None:
        """Take notice of one event and draw, unless something was drawn a moment ago."""
        match event:
            case Started():
                self._begin(event)
            case Step():
                self._step = event
                self._curve.add(event.loss)
            case Evaluated():
                self._evaluated = event
            case Sampled():
                self._sampled = event
            case Saved():
                self._saved = event
            case Adjusted():
                self._console.print(_text(f"note: {event.note}", "dim"))
            case Finished():
                pass
        if self._live is not None and self._clock() - self._drawn_at >= REFRESH_SECONDS and not terminal.in_background():
            self._drawn_at = self._clock()
            self._live.update(self.render(), refresh=True)

    def _begin(self, event: Started) -> None:
        self._started = event
        self._console.print(_text(headline(event)))
        for sentence in event.notes:
            self._console.print(_text(f"note: {sentence}", "dim"))
        self._live = Live(
            console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False, vertical_overflow="crop"
        )
        self._live.start()

    def render(self) -> RenderableType:
        """The panel as it stands, for the width and height the console has now."""
        width = max(20, self._console.width - 4)
        rows: list[RenderableType] = [*self._progress(width), self._figures(width)]
        if self._curve.points:
            rows.append(_text("loss  ", "dim").append(sparkline(self._curve.points, width - 6), "cyan"))
        rows.extend(self._sample())
        title = _text(f" {self._started.name} " if self._started else "", "bold")
        return Frame(Group(*rows), title=title, border_style="dim", padding=(0, 1))

    def _progress(self, width: int) -> list[Text]:
        step, steps = self._position()
        share = step / steps if steps else 0.0
        filled = round(share * width)
        bar = _text("━" * filled, "green").append("─" * (width - filled), "dim")
        words = [f"{share:.0%}", f"step {step:,} of {steps:,}"]
        if self._step is not None:
            words.append(f"epoch {self._step.epoch:.2f}")
            words.append(f"{duration(self._step.seconds)} gone, {duration(self._step.eta_seconds)} left")
        return [bar, *(_text(line) for line in _fill(words, width))]

    def _position(self) -> tuple[int, int]:
        if self._step is not None:
            return self._step.step, self._step.steps
        return (self._started.step, self._started.steps) if self._started else (0, 0)

    def _figures(self, width: int) -> Table:
        """Names and values, in as many pairs of columns as fit."""
        pairs = max(1, min(4, width // 28))
        table = Table.grid(padding=(0, 2), expand=True)
        for _ in range(pairs):
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
            table.add_column(no_wrap=True, overflow="ellipsis", ratio=2, justify="right")
        figures = self._values()
        figures += [("", "")] * (-len(figures) % pairs)
        for first in range(0, len(figures), pairs):
            cells = [(_text(name, "dim"), _text(value)) for name, value in figures[first : first + pairs]]
            table.add_row(*(cell for pair in cells for cell in pair))
        return table

    def _values(self) -> list[Figure]:
        step, evaluated = self._step, self._evaluated
        where = "averaged" if evaluated is not None and evaluated.on == "training" else "validation"
        star = " *" if evaluated is not None and evaluated.best else ""
        return [
            ("train loss", f"{step.loss:.4f}" if step else "--"),
            (f"{where} loss", f"{evaluated.loss:.4f}{star}" if evaluated else "--"),
            *self._measures(),
            ("accuracy", f"{(evaluated or step).accuracy:.1%}" if evaluated or step else "--"),  # type: ignore[union-attr]
            ("learning rate", f"{step.learning_rate:.2e}" if step else "--"),
            ("gradient norm", f"{step.gradient_norm:.3f}" if step else "--"),
            ("tokens/s", short_number(step.tokens_per_second) if step else "--"),
            ("memory", f"{short_number(step.memory_bytes)}B" if step else "--"),
        ]

    def _measures(self) -> list[Figure]:
        """Bits per character, where text is predicted, and what else the task measures."""
        evaluated, task = self._evaluated, self._started.settings.get("task") if self._started else None
        if evaluated is None:
            return [] if task == "classify" else [("bits/char", "--")]
        bits = evaluated.bits_per_character
        found = [("bits/char", f"{bits:.4f}")] if math.isfinite(bits) else []
        return found + [measured(name, value) for name, value in evaluated.measures.items() if math.isfinite(value)]

    def _sample(self) -> list[RenderableType]:
        if self._sampled is None:
            return []
        room = max(1, min(12, self._console.height - FIXED_ROWS))
        lines = sample_lines(self._sampled.text, room)
        return [_text(f"sample at step {self._sampled.step:,}", "dim"), *(_text(line, "italic") for line in lines)]


def _text(content: str, style: str = "") -> Text:
    return Text(terminal.visible(content), style=style, no_wrap=True, overflow="ellipsis")


def _fill(words: Sequence[str], width: int) -> list[str]:
    """Join words by three spaces into lines of at most `width`."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + 3 + len(word) <= width:
            lines[-1] += "   " + word
        else:
            lines.append(word)
    return lines
