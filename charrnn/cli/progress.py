"""What a training run says off a terminal: plain lines, few of them. Also the words both kinds of report share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from charrnn.cli import console
from charrnn.launch import launch
from charrnn.training.events import Adjusted, Evaluated, Event, Finished, Sampled, Saved, Started, Step

LINE_SECONDS = 5.0  # between two lines about steps
SAMPLE_LINES = 8
MEASURES = {  # in words, where the name alone would not do
    "macro_f1": "macro F1",
    "bits_per_character_wrong_label": "wrong-label bits",
    "character_error_rate": "character errors",
}


class Listener(Protocol):
    """Whoever is told what happens in a run; entered before the first event, left after the last or after an error."""

    def __enter__(self) -> Self: ...
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...
    def feed(self, event: Event) -> None:
        """Take notice of one event."""


class Lines:
    """A listener that writes plain lines: one every few seconds, one for each evaluation and sample."""

    def __init__(self, write: Callable[[str], None] = console.say, clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._next = 0.0  # when the next line about steps is due

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    def feed(self, event: Event) -> None:
        """Write the line of one event, if it is due."""
        match event:
            case Started():
                self._write(headline(event))
                for sentence in event.notes:
                    self._write(f"note: {sentence}")
            case Step():
                if self._clock() >= self._next:
                    self._next = self._clock() + LINE_SECONDS
                    self._write(step_line(event))
            case Evaluated():
                self._write(evaluation_line(event))
            case Sampled():
                self._write(f"sample at step {event.step:,}:")
                for line in sample_lines(event.text):
                    self._write(f"  | {line}")
            case Adjusted():
                self._write(f"note: {event.note}")
            case Saved():
                pass  # after every evaluation; the end says where
            case Finished():
                pass  # the command tells the end, in the same words on and off a terminal


class Undisturbed:
    """A listener that lets a run go on though nobody can be told of it: the terminal is gone, the disk of the log full.

    A reader that went away, as `head` does, wants no more: `stop` is called, so that the run is saved and ends, and the
    BrokenPipeError comes after it.
    """

    def __init__(self, listener: Listener, stop: Callable[[], None]) -> None:
        self._listener, self._stop = listener, stop
        self._gone: BrokenPipeError | None = None

    def __enter__(self) -> Self:
        self._listener.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._tried(lambda: self._listener.__exit__(kind, error, trace))
        if self._gone is not None and kind is None:
            raise self._gone

    def feed(self, event: Event) -> None:
        """Pass an event on, if somebody is there."""
        self._tried(lambda: self._listener.feed(event))

    def _tried(self, tell: Callable[[], None]) -> None:
        try:
            tell()
        except BrokenPipeError as error:
            self._gone = error
            self._stop()
        except OSError:
            pass


def headline(event: Started) -> str:
    """One line on what is about to be trained."""
    begin = f"from step {event.step:,} " if event.step else ""
    begin += "to about" if event.estimated else "to"
    ranks = launch().count
    return (
        f"training {event.name!r} {begin} step {event.steps:,}: {event.material}, "
        f"{event.parameters:,} parameters, on {event.device}{f' by {ranks} ranks' if ranks > 1 else ''}"
    )


def step_line(event: Step) -> str:
    """One line on the steps since the last one."""
    skipped = f"  {event.skipped:,} skipped (not finite)" if event.skipped else ""
    return (
        f"step {event.step:,}/{event.steps:,}  epoch {event.epoch:.2f}  loss {event.loss:.4f}  "
        f"accuracy {event.accuracy:.1%}  lr {event.learning_rate:.2e}  gradient {event.gradient_norm:.3f}  "
        f"{short_number(event.tokens_per_second)} tokens/s  {short_number(event.memory_bytes)}B  "
        f"left {duration(event.eta_seconds)}{skipped}"
    )


def evaluation_line(event: Evaluated) -> str:
    """One line on an evaluation."""
    best = "  (best so far)" if event.best else ""
    bits = "" if math.isnan(event.bits_per_character) else f"{event.bits_per_character:.4f} bits/char  "
    measures = (measured(name, value) for name, value in event.measures.items() if math.isfinite(value))
    more = "".join(f"  {name} {value}" for name, value in measures)
    return (
        f"step {event.step:,}  {event.on} loss {event.loss:.4f}  {bits}perplexity {event.perplexity:.2f}  "
        f"accuracy {event.accuracy:.1%}{more}{best}"
    )


def measured(name: str, value: float) -> tuple[str, str]:
    """What a task measures beside its loss, in words, and how much: a share in per cent, or a number."""
    shown = f"{value:.4f}" if "bits" in name or "f1" in name else f"{value:.1%}"
    return MEASURES.get(name, name.replace("_", " ")), shown


def sample_lines(text: str, most: int = SAMPLE_LINES) -> list[str]:
    """The first lines of a sample, made visible wherever they go: here they are part of a report, not the product."""
    lines = [console.visible(line) for line in text.strip("\n").split("\n")]
    return lines[:most]


def duration(seconds: float) -> str:
    """Seconds as people read them: 0:07, 12:30, 1:02:03; two dashes if unknown."""
    if not 0 <= seconds < 1e8:  # nan too
        return "--"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short_number(value: float) -> str:
    """Three digits and a unit: 512, 51.2k, 1.2M."""
    for unit, factor in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * factor:
            scaled = value / factor
            return f"{scaled:.0f}{unit}" if scaled >= 99.95 else f"{scaled:.1f}{unit}"
    return f"{value:.0f}"
