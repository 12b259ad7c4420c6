"""The text of a run, read and tokenized: anew, or as it was when the run began.

Knows how settings and a last save say what is to be read; knows nothing of training.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from charrnn.config import ReadingConfig, TokenizerConfig, check
from charrnn.errors import CorpusError
from charrnn.runs import model as runs
from charrnn.text import corpus as texts
from charrnn.text import tokenizers
from charrnn.text.corpus import Source, Survey, TokenData
from charrnn.text.tokenizers import Tokenizer
from charrnn.training.saved import saved_config


@dataclass(frozen=True)
class Material:
    """A text, read and tokenized."""

    corpus: tuple[str, ...]  # as it was named
    sources: tuple[Source, ...]
    survey: Survey
    reading: ReadingConfig
    units: TokenizerConfig
    tokenizer: Tokenizer
    data: TokenData


def part(kind: type[Any], asked: Mapping[str, Any]) -> Any:
    """The config of one kind that `asked` gives, checked."""
    names = {item.name for item in fields(kind)}
    return check(kind(**{name: value for name, value in asked.items() if name in names}))


def read(corpus: Sequence[str], asked: Mapping[str, Any], val_fraction: float) -> tuple[Material, tuple[str, ...]]:
    """The text that `corpus` names, as `asked` has it, and notes for the user; raises CorpusError and TokenizerError."""
    reading, units = part(ReadingConfig, asked), part(TokenizerConfig, asked)
    sources = texts.find_sources(corpus)
    survey = texts.survey(sources, reading)
    sample = lambda: texts.training_text(sources, reading, survey, val_fraction)  # noqa: E731
    tokenizer, notes = tokenizers.build(units, survey.counts, sample)
    data = texts.tokenize(sources, reading, tokenizer, survey, val_fraction)
    found = () if survey.documents == 1 else (f"text: {survey.documents:,} documents from {_counted(len(sources), 'file')}",)
    return Material(tuple(corpus), tuple(sources), survey, reading, units, tokenizer, data), (*found, *notes, *data.notes)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def read_again(corpus: Sequence[str], saved: Mapping[str, Any], model: runs.Model, val_fraction: float) -> Material:
    """The text of a run, from where it was or from where the user says; refused if a single byte changed."""
    reading = saved_config(ReadingConfig, saved["reading"], model.path.parent)
    named = tuple(corpus) or tuple(saved["sources"])
    if "-" in named and not corpus:
        raise CorpusError("this run read its text from standard input.", "Give the text again: charrnn train --resume RUN FILE.")
    if not corpus and (odd := [name for name in named if not _is_kept(name)]):  # a stranger's may name what has no end
        found = f"the text of this run is no longer where it was: {odd[0][:200]!r} is no file or folder."
        raise CorpusError(found, "Name the text: charrnn train --resume RUN FILE.")
    sources = texts.find_sources(named)
    survey = texts.survey(sources, reading)
    if survey.digest != saved["digest"]:
        raise CorpusError(
            "the text of this run has changed since it was trained; going on would not be exact.",
            "Put the old text back, name it (charrnn train --resume RUN FILE), or train a new run.",
        )
    data = texts.tokenize(sources, reading, model.tokenizer, survey, val_fraction)
    units = saved_config(TokenizerConfig, saved["units"], model.path.parent)
    return Material(named, tuple(sources), survey, reading, units, model.tokenizer, data)


def _is_kept(name: str) -> bool:
    """Whether a source is something that can be read again: a file, a folder or a glob, no pipe and no device."""
    return os.path.isfile(name) or os.path.isdir(name) or (glob.has_magic(name) and not os.path.exists(name))


def check_validation(data: TokenData, val_fraction: float) -> None:
    """Raise CorpusError if there is to be a validation part and too little text for one."""
    if val_fraction and len(data.val) < 2:
        raise CorpusError(
            f"the text is too small to split: {val_fraction:.0%} of it for validation is {len(data.val)} tokens.",
            "Give more text, or --val-fraction 0 to train on all of it.",
        )
