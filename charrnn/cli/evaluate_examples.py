"""`charrnn eval` for models whose examples stand alone: reads them, and leaves the figures to each task's own file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from charrnn.cli import confusion, pairs, verses
from charrnn.cli import reading as reading_room
from charrnn.config import ReadingConfig

if TYPE_CHECKING:
    from charrnn.runs.model import Model
    from charrnn.text.examples import Examples
    from charrnn.training.loss import Network

Show = Callable[["Model", "Network", "Examples", str, bool], str]
SHOW: Mapping[str, Show] = {"classify": confusion.report, "conditional": verses.report, "seq2seq": pairs.report}


def run(
    model: Model, files: tuple[str, ...], reading: ReadingConfig, split: str, as_json: bool, values: Mapping[str, Any]
) -> str:
    """What is to be printed: figures and tables, or one JSON object; raises CorpusError."""
    from charrnn.text.examples import LONGEST_READ
    from charrnn.text.sources import find_sources

    sources = find_sources(files)
    from charrnn.training import examiner  # torch: only when the files have been found

    examples = examiner.read(model, sources, reading, split)
    if model.config.task == "classify" and model.config.input == "tokens":
        reading_room.tell_cut(int((examples.inputs.lengths == LONGEST_READ).sum()), "text")
    network = examiner.network_of(model, values["device"] or "auto", values["threads"] or 0)
    return SHOW[model.config.task](model, network, examples, split, as_json)
