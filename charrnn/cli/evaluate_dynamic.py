"""`charrnn eval --dynamic`: its figures in words and as JSON, and how far it has come. Computes nothing itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from charrnn.cli import console, options
from charrnn.cli.progress import LINE_SECONDS, duration
from charrnn.config import DynamicConfig
from charrnn.errors import UsageError

if TYPE_CHECKING:
    from charrnn.runs.model import Model
    from charrnn.training.evaluate import Report

FIGURES = ("bits_per_character", "bits_per_byte", "loss", "perplexity", "accuracy", "nats", "correct")


@dataclass(frozen=True)
class Learnt:
    """What came of dynamic evaluation, with what settings."""

    report: Report
    settings: DynamicConfig
    bound: str  # what is said of a subword model's figures, or nothing

    def record(self) -> dict[str, Any]:
        """For programs."""
        return {"dynamic": {name: getattr(self.report, name) for name in FIGURES} | asdict(self.settings)}

    def lines(self) -> str:
        """For people: a block of its own, since it is another game than the figures above it."""
        values = ", ".join(f"{name.removeprefix('dynamic_')} {value:g}" for name, value in asdict(self.settings).items())
        lines = [
            f"dynamic evaluation  each token scored, then learnt from; {values}",
            f"  per character     {self.report.bits_per_character:.4f} bits{self.bound}",
            f"  per byte          {self.report.bits_per_byte:.4f} bits",
            f"  loss              {self.report.loss:.4f} nats per token",
            f"  accuracy          {self.report.accuracy:.2%}",
        ]
        return "\n".join(lines) + "\n"


def check(dynamic: bool) -> None:
    """Raise UsageError if a setting of --dynamic was typed without it; one for all commands, in a file, does no harm."""
    context = click.get_current_context()
    for item in fields(DynamicConfig):
        if not dynamic and context.get_parameter_source(item.name) is ParameterSource.COMMANDLINE:
            flag = "--" + item.name.replace("_", "-")
            raise UsageError(
                f"{flag} says how --dynamic learns, which was not asked for.", f"Add --dynamic, or leave out {flag}."
            )


def run(model: Model, documents: Sequence[str], static: Report, values: Mapping[str, Any]) -> Learnt:
    """Score `documents` by a copy of `model` that learns from them; `static` is their report without that."""
    from charrnn.training.dynamic import evaluate_dynamic  # torch

    settings = DynamicConfig(**options.asked(values, DynamicConfig))
    where: dict[str, Any] = {"device": values["device"] or "auto", "threads": values["threads"] or 0}
    report = evaluate_dynamic(model, documents, static, settings, **where, tell=_Progress().tell)
    bound = "  (upper bound: one segmentation is scored)" if model.tokenizer.kind == "subword" else ""
    return Learnt(report, settings, bound)


class _Progress:
    """A line every few seconds, to a person at a terminal."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._next = self._began + LINE_SECONDS

    def tell(self, done: int, of: int, loss: float) -> None:
        """Say how far it has come, if it is time to."""
        now = time.monotonic()
        if now < self._next or not sys.stderr.isatty():
            return
        self._next = now + LINE_SECONDS
        left = duration((now - self._began) / done * (of - done))
        console.say(f"dynamic evaluation  {done:,} of {of:,} tokens  loss {loss:.4f}  left {left}")
