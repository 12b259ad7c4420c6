"""What a run wrote down while it learnt, metrics.jsonl, as series of points. The standard library alone.

Knows nothing of charts. A log may be torn, endless or from a stranger: a line that is no JSON object is counted and passed
over, so is a number that is none or that no chart could hold, and a series never has more than twice MOST_POINTS points:
when it has, neighbours become their mean, and from then on each point is the mean of twice as many events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

METRICS_FILE = "metrics.jsonl"
MOST_POINTS = 2048
LONGEST_LINE = 1 << 16  # bytes; ours have 400
LARGEST = 1e15  # of a number that is drawn: sums of as many as there may be, and their squares, are still finite
WANTED = {"step": ("loss", "accuracy", "gradient_norm"), "evaluated": ("loss", "accuracy")}

Point = tuple[float, float]


@dataclass
class Series:
    """The values of one quantity by step; each point is the mean of `each` events, the last one perhaps of fewer."""

    each: int = 1
    _points: list[Point] = field(default_factory=list)
    _sums: Point = (0.0, 0.0)
    _count: int = 0
    _last: float = -1.0

    def add(self, step: float, value: float) -> bool:
        """Take in a value; False for one that does not come after the last."""
        if step <= self._last:
            return False
        self._last = step
        self._sums, self._count = (self._sums[0] + step, self._sums[1] + value), self._count + 1
        if self._count == self.each:
            self._points.append(self._mean())
            self._sums, self._count = (0.0, 0.0), 0
            if len(self._points) == 2 * MOST_POINTS:
                self._merge()
        return True

    @property
    def points(self) -> list[Point]:
        """What there is, in the order of the steps."""
        return [*self._points, self._mean()] if self._count else list(self._points)

    def _mean(self) -> Point:
        return self._sums[0] / self._count, self._sums[1] / self._count

    def _merge(self) -> None:
        pairs = zip(self._points[::2], self._points[1::2], strict=True)
        self._points = [((one[0] + two[0]) / 2, (one[1] + two[1]) / 2) for one, two in pairs]
        self.each *= 2


@dataclass
class Log:
    """What a metrics.jsonl says; `on` is what evaluations scored, `lowest` their lowest loss and its step."""

    series: dict[tuple[str, str], Series] = field(default_factory=dict)
    step: int = 0
    steps: int = 0  # of the whole run, as the last event has it
    on: str = "validation"
    lowest: Point | None = None
    damaged: int = 0  # lines that are no JSON object, a torn last one aside
    refused: int = 0  # numbers that are none, too large or out of order

    def points(self, event: str, name: str) -> list[Point]:
        """The points of one quantity, none if the log has none."""
        found = self.series.get((event, name))
        return found.points if found else []


def read(path: Path) -> Log:
    """Read a log in bounded memory; raises OSError."""
    log = Log()
    for line, whole in _lines(path):
        record = _object(line)
        if record is not None:
            _take(log, record)
        elif whole and line.strip():
            log.damaged += 1
    return log


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """The lines, and whether each has an end; of one that is too long only the beginning."""
    with open(path, "rb") as file:
        while line := file.readline(LONGEST_LINE):
            ended = line.endswith(b"\n")
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST_LINE)
            yield line, ended or bool(rest)


def _object(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None if it is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # no JSON, no UTF-8, a number of thousands of digits; nested too deep
        return None
    return record if isinstance(record, dict) else None


def _take(log: Log, record: dict[str, Any]) -> None:
    event, step = record.get("event"), record.get("step")
    if not isinstance(event, str) or event not in WANTED:
        return
    if not _is_number(step) or step < 0:
        log.refused += 1
        return
    log.step = max(log.step, int(step))
    steps = record.get("steps")
    if event == "step" and _is_number(steps):
        log.steps = max(0, int(steps))
    if record.get("on") == "training":
        log.on = "training"
    for name in WANTED[event]:
        _add(log, event, name, float(step), record.get(name))


def _add(log: Log, event: str, name: str, step: float, value: Any) -> None:
    if value is None:  # what was no number when it was written
        return
    series = log.series.setdefault((event, name), Series())
    if not _is_number(value) or not series.add(step, float(value)):
        log.refused += 1
    elif (event, name) == ("evaluated", "loss") and (log.lowest is None or value < log.lowest[1]):
        log.lowest = (step, float(value))


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST <= value <= LARGEST
