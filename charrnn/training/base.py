"""Where a run begins that does not begin from chance: the weights of a trained model, moved to the alphabet of a new text.

The model decides the shape of the network and the tokenizer; a setting that says otherwise is refused. Rows of the
embedding, of a one-hot input and of the output go where their characters have gone, those of characters (or labels) that
the model has never met begin as the mean of all that it has. Knows files only as models; knows nothing of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ModelConfig, TokenizerConfig
from charrnn.errors import CorpusError, UsageError
from charrnn.runs.checkpoint import Tensors
from charrnn.runs.model import MOST_SAID, Model
from charrnn.text import extending
from charrnn.text.extending import Overlap
from charrnn.text.tokenizers import RESERVED, Tokenizer
from charrnn.training.recipe import FOUND, Plan
from charrnn.weights import weight_shapes

if TYPE_CHECKING:
    from charrnn.training.material import Material

DECIDED = {item.name for item in fields(ModelConfig)} | {item.name for item in fields(TokenizerConfig)} - {"min_count"}
RATES = ("learning_rate", "muon_learning_rate")
# Of the usual rates. Measured on three pairs of texts (docs/recipe.md), nats after 300 or 400 steps, summed over the three: all
# of them 4.164, a half 4.137, a quarter 4.189, a tenth 4.374; the same networks from chance 4.741.
SHARE = 0.5
MOST_BEFORE = 20  # runs before the last that provenance names


@dataclass(frozen=True)
class Base:
    """A model to go on from, and RUN as it was typed."""

    model: Model
    typed: str

    def contradictions(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the wishes that say otherwise than the model, with what the model says."""
        decided = self._decided()
        free = {"tokenizer": "auto", "size": "auto"}
        return {
            name: decided[name]
            for name, value in asked.items()
            if name in decided and value != decided[name] and value != free.get(name)
        }

    def wishes(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The wishes, with the model's shape among them; raises UsageError where they contradict it."""
        for name, value in self.contradictions(asked).items():
            option, mine = f"--{name.replace('_', '-')}", f"with {value!r}" if value != "" else "without one"
            found = f"{option} is {asked[name]!r}; {self.model.name!r}, which this run is to begin with, was trained {mine}."
            raise UsageError(found, f"Leave {option} out, or train from the start, without --init-from.")
        shape = {name: value for name, value in asdict(self.model.config).items() if name not in FOUND}
        kept = {name: value for name, value in asked.items() if name not in DECIDED and name != "size"}
        return {**kept, **shape, "tokenizer": self.model.tokenizer.kind}

    def _decided(self) -> dict[str, Any]:
        """What nobody else may wish, by the names of settings."""
        model, settings = self.model, self.model.provenance.get("settings")
        units = settings.get("tokenizer") if isinstance(settings, dict) else None
        shape = {name: value for name, value in asdict(model.config).items() if name not in FOUND}
        decided = {**shape, "tokenizer": model.tokenizer.kind, "size": ""}
        if model.tokenizer.kind == "subword":
            decided["vocab_size"] = model.tokenizer.vocab_size
            decided["subword_model"] = units.get("subword_model", "") if isinstance(units, dict) else ""
        return decided

    def tokenizer(self, min_count: int) -> Callable[[Mapping[str, int]], tuple[Tokenizer, list[str]]]:
        """What makes a tokenizer for a text of so many of each character."""
        return lambda counts: extending.extended(self.model.tokenizer, counts, min_count)

    def check(self, material: Material) -> None:
        """Raise CorpusError if the examples are not such as the model has learnt from."""
        missing = [label for label in self.model.labels if label not in material.labels]
        if missing:
            found = f"the text has no example of the label {missing[0]!r}, which {self.model.name!r} knows"
            raise CorpusError(f"{found}.", "Add some: what is no longer learnt is soon forgotten.")
        if self.model.config.input == "rows":
            values, features = material.data.train.inputs.values, self.model.config.features  # type: ignore[union-attr]
            if values.shape[1] != features:
                raise CorpusError(f"its rows have {values.shape[1]:,} numbers; {self.model.name!r} was trained on {features:,}.")

    def planned(self, plan: Plan, asked: Mapping[str, Any], material: Material) -> Plan:
        """A plan with the model's own shape, and gentler rates where nobody set them."""
        shape = replace(self.model.config, vocab_size=material.tokenizer.vocab_size, classes=len(material.labels))
        gentler = {name: getattr(plan.training, name) * SHARE for name in RATES if name not in asked}
        if plan.training.optimizer != "muon":
            gentler.pop(RATES[1], None)
        notes = (*self._notes(material), *plan.notes)
        if gentler:
            notes += (f"learning rates: {SHARE:g} of the usual, for a network that has learnt already",)
        return replace(plan, model=shape, training=replace(plan.training, **gentler), notes=notes)

    def _notes(self, material: Material) -> tuple[str, ...]:
        """What becomes of the alphabet and of the labels."""
        model, parts = self.model, list[str]()
        found = self._overlap(material)
        if found is not None:
            parts.append(found.described())
        elif model.config.input == "tokens":
            parts.append(f"tokenizer kept ({model.tokenizer.kind}, {model.tokenizer.vocab_size:,} tokens)")
        if model.labels:
            parts.append(f"labels kept {len(model.labels):,}, new {len(material.labels) - len(model.labels):,}")
        said = f"from {model.name}: {'; '.join(parts) or 'all weights'}"
        nothing = f"{model.name} knows no character of this text: little of what it has learnt will be of use"
        return (said, nothing) if found is not None and not found.kept else (said,)

    def _overlap(self, material: Material) -> Overlap | None:
        if self.model.config.input == "rows":
            return None
        return extending.overlap(self.model.tokenizer, material.tokenizer, material.survey.counts)

    def weights(self, material: Material) -> Tensors:
        """The model's weights for the alphabet and the labels of a new text."""
        old, tokenizer, labels = self.model, material.tokenizer, material.labels
        weights = {name: np.array(array, np.float32) for name, array in old.weights.items()}
        if old.config.input == "tokens":
            tokens = extending.places(old.tokenizer, tokenizer)
            _move(weights, old.config, "vocab_size", tokens, tokenizer.vocab_size, RESERVED)
        numbers = np.array([labels.index(label) for label in old.labels], np.int64)
        if len(numbers):
            _move(weights, old.config, "classes", numbers, len(labels), 0)
        return weights

    def origin(self, material: Material) -> dict[str, Any]:
        """What provenance says of the model, and of those before it: names and digests, no paths."""
        told, found = origin(self.model), self._overlap(material)
        if found is not None:
            told["characters"] = {"kept": found.kept, "new": len(found.new), "unused": found.unused}
        return told


def origin(model: Model) -> dict[str, Any]:
    """What the provenance of a run says of the model that it comes from, and of those before that."""
    corpus = model.provenance.get("corpus")
    names = corpus.get("names") if isinstance(corpus, dict) else None
    told: dict[str, Any] = {"name": model.name, "digest": model.digest, "corpus": _words(names)}
    earlier = model.provenance.get("from")
    if isinstance(earlier, dict):
        last = " ".join(_words([earlier.get("name"), earlier.get("digest")]))
        told["before"] = [last, *_words(earlier.get("before"))][:MOST_BEFORE]
    return told


def _words(values: Any) -> list[str]:
    """Those of `values` that are texts, if there are any, and no more of them than a card can show: a file said them."""
    return [value[:MOST_SAID] for value in values[:MOST_BEFORE] if isinstance(value, str)] if isinstance(values, list) else []


def _move(
    weights: Tensors, config: ModelConfig, counted: str, places: Sequence[int] | NDArray[Any], size: int, first: int
) -> None:
    """Move what stands in `weights` for each of the `counted` (tokens or labels) of a model to its new place, among `size`.

    Which axes those are, the table of shapes tells: the ones that are longer where there is one more. What is new begins
    as the mean of the old from number `first` on.
    """
    longer = weight_shapes(replace(config, **{counted: getattr(config, counted) + 1}))
    for name, shape in weight_shapes(config).items():
        for axis in [axis for axis, (old, new) in enumerate(zip(shape, longer[name], strict=True)) if old != new]:
            rows = np.moveaxis(weights[name], axis, 0)
            made = np.repeat(rows[first:].mean(0, dtype=np.float64, keepdims=True).astype(np.float32), size, 0)
            made[places] = rows
            weights[name] = np.ascontiguousarray(np.moveaxis(made, 0, axis))
