"""Charts of lines in characters: axes, ticks, a legend, and dots in braille or, where there is no UTF-8, in ASCII.

Knows numbers, rows and columns; knows neither runs nor terminals. A row is a list of cells, each a character and what it is
(`tone`), so that whoever shows it may colour it; a chart reads without colours too: its lines are dots, or marks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

Cell = tuple[str, str]  # a character; "" (text), "axis", "line" or "mark"
Row = list[Cell]
LEAST_ROWS = 3  # of a plot, however small the terminal
LEAST_COLUMNS = 16
SIDE_BY_SIDE = 70  # columns from which the charts below the first stand beside each other
GAP = 3  # columns between them
FRAME = 3  # rows of a chart that are no plot: title, axis, labels
SKEWED = 30  # so many times the median, and an axis is logarithmic


@dataclass(frozen=True)
class Line:
    """A quantity by step: joined by a line or, where `marked`, a mark for each point."""

    name: str
    points: Sequence[tuple[float, float]]
    marked: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines that share their axes; each has a point."""

    title: str
    lines: tuple[Line, ...]

    @property
    def values(self) -> list[float]:
        """What is drawn against the steps."""
        return [value for line in self.lines for _, value in line.points]

    @property
    def logarithmic(self) -> bool:
        """Whether its axis of values is: if the largest is far from all the others, which would else be one line."""
        values = sorted(self.values)
        return values[0] > 0 and values[-1] > SKEWED * values[len(values) // 2]


@dataclass(frozen=True)
class Signs:
    """The characters of a chart; a cell holds `across` x `down` dots, and `dots` is the character of a set of them."""

    across: int
    down: int
    dots: Callable[[int], str]
    sample: str
    vertical: str
    horizontal: str
    left_tick: str
    lower_tick: str
    corner: str


BRAILLE_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # by row and column of the dot
BRAILLE = Signs(2, 4, lambda bits: chr(0x2800 + bits), "\u2812\u2812", "│", "─", "┤", "┬", "└")
ASCII = Signs(1, 2, lambda bits: " '.:"[bits], "..", "|", "-", "+", "+", "+")
MARK = "o"


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, both in the logarithm to base 10 where it is logarithmic."""

    low: float
    high: float
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Where `value` lies between the ends: 0 to 1."""
        return ((math.log10(value) if self.logarithmic else value) - self.low) / (self.high - self.low)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """About as many round numbers as `most` on the axis: where they lie, and how they are written."""
        step = _round_step((self.high - self.low) / max(1, most))
        if self.logarithmic:
            step = max(1.0, math.ceil(step))
        numbers = [index * step for index in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        shares = [(number - self.low) / (self.high - self.low) for number in numbers]
        return [(share, _label(10.0**at if self.logarithmic else at)) for share, at in zip(shares, numbers, strict=True)]


def page(charts: Sequence[Chart], width: int, height: int, signs: Signs) -> list[Row]:
    """The charts on a page of so many columns and rows: the first above, the others below it, side by side if there is room."""
    width = max(width, LEAST_COLUMNS)
    bands = [charts[:1], charts[1:]] if width >= SIDE_BY_SIDE else [[chart] for chart in charts]
    bands = [band for band in bands if band]
    plot_rows, spare = divmod(max(0, height - len(bands) * (FRAME + 1) + 1), len(bands))
    rows: list[Row] = []
    for number, band in enumerate(bands):
        columns = (width - GAP * (len(band) - 1)) // len(band)
        size = max(LEAST_ROWS, plot_rows + (number < spare))
        rows += [[], *_beside([draw(chart, columns, size, signs) for chart in band])]
    return rows[1:]


def draw(chart: Chart, width: int, plot_rows: int, signs: Signs) -> list[Row]:
    """One chart: its title with the legend, the plot, the axis and its labels; every row `width` cells wide."""
    across, up = _scale([step for line in chart.lines for step, _ in line.points]), _scale(chart.values, chart.logarithmic)
    labels = {_row(share, plot_rows, signs): text for share, text in up.ticks(max(2, plot_rows // 2))}
    margin = min(max(map(len, labels.values()), default=0), width // 2)
    columns = width - margin - 1
    plot = _plot(chart, columns, plot_rows, (across, up), signs)
    rows = [_title(chart, signs)]
    for number, cells in enumerate(plot):
        label, sign = labels.get(number, ""), signs.left_tick if number in labels else signs.vertical
        rows.append([*_cells(f"{label:>{margin}}"[:margin]), (sign, "axis"), *cells])
    rows += _foot(across, margin, columns, signs)
    return [(row + _cells(" " * width))[:width] for row in rows]


def _plot(chart: Chart, columns: int, rows: int, scales: tuple[Scale, Scale], signs: Signs) -> list[Row]:
    """The dots of the lines, and over them the marks."""
    dots: dict[Dot, int] = {}
    marks: set[Dot] = set()
    for line in chart.lines:
        places = [_place(point, columns * signs.across, rows * signs.down, scales) for point in line.points]
        if line.marked:
            marks |= {(x // signs.across, y // signs.down) for x, y in places}
        for x, y in [] if line.marked else _joined(places):
            place = (x // signs.across, y // signs.down)
            dots[place] = dots.get(place, 0) | _bit(x % signs.across, y % signs.down, signs)

    def cell(x: int, y: int) -> Cell:
        if (x, y) in marks:
            return MARK, "mark"
        return (signs.dots(dots[x, y]), "line") if (x, y) in dots else (" ", "")

    return [[cell(x, y) for x in range(columns)] for y in range(rows)]


Dot = tuple[int, int]


def _place(point: tuple[float, float], width: int, height: int, scales: tuple[Scale, Scale]) -> Dot:
    x, y = scales[0].share(point[0]), scales[1].share(point[1])
    return round(x * (width - 1)), round((1 - y) * (height - 1))


def _joined(places: Sequence[Dot]) -> Iterator[Dot]:
    """Every dot of the line through `places`."""
    yield from places[:1]
    for (left, start), (right, end) in itertools.pairwise(places):
        count = max(right - left, abs(end - start), 1)
        for number in range(1, count + 1):
            yield left + round((right - left) * number / count), start + round((end - start) * number / count)


def _bit(x: int, y: int, signs: Signs) -> int:
    return BRAILLE_BITS[y][x] if signs.across == 2 else 1 << y


def _row(share: float, rows: int, signs: Signs) -> int:
    return round((1 - share) * (rows * signs.down - 1)) // signs.down


def _title(chart: Chart, signs: Signs) -> Row:
    row = _cells(chart.title + (", logarithmic" if chart.logarithmic else ""))
    for line in chart.lines:
        sample = [(MARK, "mark")] if line.marked else [(sign, "line") for sign in signs.sample]
        row += [*_cells("   "), *sample, *_cells(f" {line.name}")]
    return row


def _foot(scale: Scale, margin: int, columns: int, signs: Signs) -> list[Row]:
    """The axis of the steps and, below its ticks, their numbers, as many as stand apart."""
    axis: Row = [*_cells(" " * margin), (signs.corner, "axis"), *[(signs.horizontal, "axis")] * columns]
    labels, free = _cells(" " * (margin + 1 + columns)), 0
    for share, text in scale.ticks(max(2, columns // 9)):
        at = margin + 1 + round(share * (columns - 1))
        start = min(max(at - len(text) // 2, 0), len(labels) - len(text))
        if start < free:
            continue
        axis[at] = (signs.lower_tick, "axis")
        labels[start : start + len(text)] = _cells(text)
        free = start + len(text) + 1
    return [axis, labels]


def _beside(drawn: Sequence[list[Row]]) -> Iterator[Row]:
    for rows in zip(*drawn, strict=True):
        row: Row = []
        for part in rows:
            row += (_cells(" " * GAP) if row else []) + part
        yield row


def _cells(text: str) -> Row:
    return [(character, "") for character in text]


def _scale(values: Sequence[float], logarithmic: bool = False) -> Scale:
    """An axis on which all `values` find room."""
    low, high = min(values), max(values)
    if logarithmic:
        return Scale(math.log10(low), math.log10(high), True)
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):  # one value, or nearly
        room = max(abs(low) / 10, 1e-3)
        return Scale(low - room, high + room)
    return Scale(low, high)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... and their fractions that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least or factor == 10)


def _label(number: float) -> str:
    for unit, factor in (("M", 1e6), ("k", 1e3)):
        if 10_000 <= abs(number) < 1e9 and abs(number) >= factor:
            return f"{number / factor:.4g}{unit}"
    return f"{number:.4g}"
