"""The text of a run, read and tokenized: anew, or as it was when the run began.

Knows how settings and a last save say what is to be read; knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from charrnn.config import ModelConfig, ReadingConfig, TokenizerConfig, TrainingConfig, check
from charrnn.errors import CorpusError
from charrnn.runs import model as runs
from charrnn.text import corpus as texts
from charrnn.text import tokenizers
from charrnn.text.corpus import Source, Survey, TokenData
from charrnn.text.examples import Parts
from charrnn.text.sources import is_kept
from charrnn.text.tokenizers import Tokenizer
from charrnn.training import lessons
from charrnn.training.saved import saved_config


@dataclass(frozen=True)
class Material:
    """A text, read and tokenized; or rows of them, or of numbers."""

    corpus: tuple[str, ...]  # as it was named
    sources: tuple[Source, ...]
    survey: Survey
    reading: ReadingConfig
    units: TokenizerConfig
    tokenizer: Tokenizer
    data: TokenData | Parts
    task: str = "language"

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the labels, if there are any."""
        return self.data.names if isinstance(self.data, Parts) else ()

    def described(self) -> str:
        """What there is to learn, in words."""
        if isinstance(self.data, TokenData):
            return f"{self.survey.characters:,} characters, {self.tokenizer.vocab_size:,} different tokens"
        what = f"{self.survey.documents:,} {'pairs' if self.task == 'seq2seq' else 'examples'}"
        return f"{what}, {len(self.labels):,} labels" if self.labels else what


Maker = Callable[[Mapping[str, int]], tuple[Tokenizer, list[str]]]  # by how often each character occurs; and notes


class _Lesson(NamedTuple):
    """What of a task's settings bears on reading its examples."""

    task: str
    val_fraction: float
    input: str
    lowercase: bool
    longest: int


WISHES = ((ModelConfig, "input"), (ModelConfig, "lowercase"), (TrainingConfig, "longest"))  # those of them in other configs


def part(kind: type[Any], asked: Mapping[str, Any]) -> Any:
    """The config of one kind that `asked` gives, checked."""
    names = {item.name for item in fields(kind)}
    return check(kind(**{name: value for name, value in asked.items() if name in names}))


def read(
    corpus: Sequence[str], asked: Mapping[str, Any], val_fraction: float, make: Maker | None = None
) -> tuple[Material, tuple[str, ...]]:
    """The text that `corpus` names, as `asked` has it, and notes for the user; raises CorpusError and TokenizerError.

    `make` makes the tokenizer where it is not to be a new one.
    """
    reading, units = part(ReadingConfig, asked), part(TokenizerConfig, asked)
    sources = texts.find_sources(corpus)
    if (task := asked.get("task", "language")) != "language":
        wishes = (asked.get(name, getattr(kind, name)) for kind, name in WISHES)
        return _lessons(tuple(corpus), sources, reading, units, _Lesson(task, val_fraction, *wishes), make)
    survey = texts.survey(sources, reading)
    sample = lambda: texts.training_text(sources, reading, survey, val_fraction)  # noqa: E731
    tokenizer, notes = make(survey.counts) if make else tokenizers.build(units, survey.counts, sample)
    data = texts.tokenize(sources, reading, tokenizer, survey, val_fraction)
    found = () if survey.documents == 1 else (f"text: {survey.documents:,} documents from {_counted(len(sources), 'file')}",)
    return Material(tuple(corpus), tuple(sources), survey, reading, units, tokenizer, data), (*found, *notes, *data.notes)


def _lessons(
    corpus: tuple[str, ...], sources: Sequence[Source], reading: ReadingConfig, units: TokenizerConfig, lesson: _Lesson,
    make: Maker | None,
) -> tuple[Material, tuple[str, ...]]:  # fmt: skip
    """Single examples of a task; `make` gives the tokenizer they were learnt with, if they were."""
    task = lesson.task
    if lesson.input == "rows":
        survey, made, data, notes = lessons.numbers(sources, lesson.val_fraction)
        return Material(corpus, tuple(sources), survey, reading, units, made, data, task), notes
    rows = lessons.read_rows(sources, reading, task, lowercase=lesson.lowercase)
    survey = lessons.survey(sources, rows, task == "seq2seq")
    learnt = lessons.to_learn(rows, task, lesson.val_fraction)
    made, said = make(survey.counts) if make else lessons.tokenizer_of(learnt, survey, units, task)
    data, notes = lessons.parts(rows, made, task, lesson.val_fraction, lesson.longest)
    return Material(corpus, tuple(sources), survey, reading, units, made, data, task), (*said, *notes)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def read_again(corpus: Sequence[str], saved: Mapping[str, Any], model: runs.Model, training: TrainingConfig) -> Material:
    """The text of a run, from where it was or from where the user says; refused if a single byte changed."""
    reading = saved_config(ReadingConfig, saved["reading"], model.path.parent)
    named = tuple(corpus) or tuple(saved["sources"])
    if "-" in named and not corpus:
        raise CorpusError("this run read its text from standard input.", "Give the text again: charrnn train --resume RUN FILE.")
    if not corpus and (odd := [name for name in named if not is_kept(name)]):  # a stranger's may name what has no end
        found = f"the text of this run is no longer where it was: {odd[0][:200]!r} is no file or folder."
        raise CorpusError(found, "Name the text: charrnn train --resume RUN FILE.")
    sources = texts.find_sources(named)
    if texts.raw_digest(sources) != saved["digest"]:
        raise CorpusError(
            "the text of this run has changed since it was trained; going on would not be exact.",
            "Put the old text back, name it (charrnn train --resume RUN FILE), or train a new run.",
        )
    units = saved_config(TokenizerConfig, saved["units"], model.path.parent)
    if (task := model.config.task) != "language":
        lesson = _Lesson(task, training.val_fraction, model.config.input, model.config.lowercase, training.longest)
        return _lessons(named, sources, reading, units, lesson, lambda _: (model.tokenizer, []))[0]
    survey = texts.survey(sources, reading)
    data = texts.tokenize(sources, reading, model.tokenizer, survey, training.val_fraction)
    return Material(named, tuple(sources), survey, reading, units, model.tokenizer, data)


def check_validation(data: TokenData | Parts, val_fraction: float) -> None:
    """Raise CorpusError if there is to be a validation part and too little text for one."""
    if isinstance(data, Parts):
        if val_fraction and not len(data.val):
            raise CorpusError("there are too few examples to hold any out.", "Give more, or --val-fraction 0 to learn all.")
        return
    if val_fraction and len(data.val) < 2:
        raise CorpusError(
            f"the text is too small to split: {val_fraction:.0%} of it for validation is {len(data.val)} tokens.",
            "Give more text, or --val-fraction 0 to train on all of it.",
        )
