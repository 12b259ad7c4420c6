"""The Python API: load a model and stream text from it, score a text, train.

A thin shell over the rooms. `load` imports NumPy, never torch; `train` imports torch.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from charrnn.config import SamplingConfig, ShapingConfig, from_mapping
from charrnn.errors import UsageError
from charrnn.runs import model as runs
from charrnn.runs.model import Model

if TYPE_CHECKING:
    from charrnn.decoding.engine import Engine
    from charrnn.text.ngrams import Copies
    from charrnn.training.events import Event


class TextModel:
    """A trained model, ready to write. `model` holds its parts; `engine` computes it (by the first label, if it has any)."""

    def __init__(self, model: Model) -> None:
        from charrnn.decoding import engine as engines

        runs.need(model, runs.WRITING)
        self.model = model
        self.engine = engines.of(model)
        self._engines = {0: self.engine}

    @property
    def labels(self) -> tuple[str, ...]:
        """What its texts can be written by; none of a language model."""
        return self.model.labels

    def _by(self, label: str | None) -> Engine:
        """The engine of a label, which a model that has labels needs and no other takes; raises UsageError."""
        from charrnn.decoding import engine as engines
        from charrnn.decoding import labelled

        if (label is None) != (not self.labels):
            why = "writes by no labels" if label is not None else "writes by a label"
            raise UsageError(f"{self.model.name!r} {why}.", labelled.listed(self.labels) if self.labels else "Leave label out.")
        number = 0 if label is None else labelled.number_of(str(label), self.labels)
        if number not in self._engines:
            self._engines[number] = engines.of(self.model, label=number)
        return self._engines[number]

    def stream(
        self, prompt: str = "", *, length: int | None = 500, seed: int | None = None, stop: Sequence[str] = (),
        label: str | None = None, **sampling: Any,
    ) -> Iterator[str]:  # fmt: skip
        """Yield the pieces of a text that follows `prompt` (which is not repeated), as they are drawn.

        `length` counts tokens (None: without end); the same `seed` gives the same text; `sampling` are the fields of
        SamplingConfig (temp, top_k, ban, ...) and ShapingConfig (lines, acrostic, regex, ...). A model with `labels` writes by
        the `label` given, and its text ends where the model ends it. Raises UsageError for values out of bounds or a label
        that it does not have, CharrnnError where no text of that shape is found.
        """
        from charrnn.decoding import generate, healing

        shapes = {item.name for item in fields(ShapingConfig)}
        asked = {name: tuple(value) if isinstance(value, list) else value for name, value in sampling.items()}
        settings = from_mapping(SamplingConfig, {k: v for k, v in asked.items() if k not in shapes}, "stream()")
        stops = {"stop": (stop,) if isinstance(stop, str) else tuple(stop)}
        shape = from_mapping(ShapingConfig, stops | {k: v for k, v in asked.items() if k in shapes}, "stream()")
        if not isinstance(prompt, str):
            raise UsageError(f"the prompt is {prompt!r}; expected a str.", 'Give stream("Shall I").')
        if length is not None and (not isinstance(length, int) or length < 0):
            raise UsageError(f"length is {length!r}; expected a whole number at least 0, or None.", "Give length=500.")
        if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**63):
            raise UsageError(f"seed is {seed!r}; expected a whole number from 0 to 2**63 - 1.", "Give seed=1.")
        engine = self._by(label)
        opening = healing.opening(engine, self.model.tokenizer, self.model.start, prompt)
        seed = secrets.randbits(32) if seed is None else seed
        tokens = generate.stream(
            engine, self.model.tokenizer, opening.prefix, settings, seed=seed, length=length, shaping=shape,
            recent=opening.recent, shown=prompt, pending=opening.pending, copies=self._copies(shape.max_copy),
            at_eos=self.model.at_eos,
        )  # fmt: skip
        for token in tokens:
            if token.text:
                yield token.text

    def _copies(self, longest: int) -> Copies | None:
        from charrnn.runs import copies

        return copies.watch(self.model, longest) if longest else None

    def generate(self, prompt: str = "", **options: Any) -> str:
        """The whole text that `stream` would yield; the length must be finite."""
        return "".join(self.stream(prompt, **options))

    def bits_per_character(self, text: str, *, label: str | None = None) -> float:
        """How surprising the model finds `text`: bits for each of its characters; characters it hides are charged for.

        Of a model with `labels`, by the `label` given.
        """
        import math

        from charrnn.decoding import generate

        ids, engine = self.model.tokenizer.encode(text), self._by(label)
        prefix = generate.prime(engine, list(self.model.start))
        nats = -float(generate.logprobs(engine, ids, prefix).sum())
        nats += self.model.tokenizer.hidden(text) * self.model.tokenizer.escape_nats
        return nats / math.log(2) / max(1, len(text))

    def __repr__(self) -> str:
        config = self.model.config
        return f"<charrnn.TextModel {self.model.name}: {config.layers}x{config.hidden_size} {config.cell}>"


def load(path: str | Path) -> TextModel:
    """Load a run folder or a model file; raises CheckpointError."""
    return TextModel(runs.load(Path(path)))


def train(
    *corpus: str | Path, name: str | None = None, checkpoints: str | Path = "checkpoints",
    init_from: str | Path | None = None, **settings: Any,
) -> TextModel:  # fmt: skip
    """Train on files, folders or globs and return the best model; see `train_events` for the settings."""
    events = list(train_events(*corpus, name=name, checkpoints=checkpoints, init_from=init_from, **settings))
    return load(events[-1].folder)  # type: ignore[union-attr]  # the last event is Finished


def train_events(
    *corpus: str | Path, name: str | None = None, checkpoints: str | Path = "checkpoints",
    init_from: str | Path | None = None, **settings: Any,
) -> Iterator[Event]:  # fmt: skip
    """Train, yielding the events of the run as they happen (`charrnn.training.events`).

    `settings` are `minutes`, `epochs` or `steps` and any option of `charrnn train` with underscores, for example
    hidden_size=256. `init_from` is a run to begin with instead of chance: a name, a folder or a file. Raises CharrnnError.
    """
    from charrnn.runs import registry

    origin = None if init_from is None else runs.load(registry.resolve(str(init_from), Path(checkpoints)))
    from charrnn.training.base import Base

    base = None if origin is None else Base(origin, str(init_from))
    from charrnn.training import job
    from charrnn.training.recipe import Bound

    bounds = {item.name: settings.pop(item.name) for item in fields(Bound) if item.name in settings}
    limit, texts, root = Bound(**bounds), [str(item) for item in corpus], Path(checkpoints)
    return job.run(texts, asked=settings, name=name, root=root, bound=limit, base=base)
