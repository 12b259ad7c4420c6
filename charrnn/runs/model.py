"""A trained model as it stands in a file: shape, tokenizer, weights, and where they came from.

One `Model` is enough to sample, score or go on training. Knows the layout of the metadata; knows nothing of how a
network computes. What a file claims is checked against the shape it claims to have before it is used.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ModelConfig, contradiction, from_mapping
from charrnn.errors import CheckpointError, TokenizerError, UsageError
from charrnn.runs import checkpoint
from charrnn.runs.checkpoint import Checkpoint, Tensors
from charrnn.runs.metrics import METRICS_FILE as METRICS_FILE
from charrnn.text import tokenizers
from charrnn.text.examples import is_name
from charrnn.text.tokenizers import EOS, Tokenizer
from charrnn.weights import weight_shapes

MODEL_FILE = "model.safetensors"
LAST_FILE = "last.safetensors"
LOCK_FILE = "lock"
LARGEST_WEIGHT = 1e6  # no training arrives there; from 1e15 on sums of products overflow, and what is drawn is no number
WRITING = ("language", "conditional")  # tasks whose models write texts of their own
DOES = {  # what a model of each task does, and the command for it
    "language": ("write", "sample {}"),
    "conditional": ("write by label", "sample {} --label NAME"),
    "classify": ("tell labels", "classify {} TEXT"),
    "seq2seq": ("answer texts", "translate {} TEXT"),
}
MOST_SAID = 200  # characters of what a file says of itself that a message repeats
AVERAGE = "average/"  # prefix of the averaged weights inside LAST_FILE


@dataclass(frozen=True)
class Model:
    """What `charrnn.load` and every command but `train` work with.

    `weights` are named and shaped by `charrnn.weights`; `start` are the ids a text without a prompt begins after;
    `provenance` is what the training run wrote about itself; `digest` is the tensor digest of weights and tokenizer.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    weights: Tensors
    start: tuple[int, ...]
    provenance: dict[str, Any]
    name: str
    path: Path
    digest: str
    labels: tuple[str, ...] = ()  # of classify and conditional, in the order of their numbers

    @property
    def knows_ends(self) -> bool:
        """Whether it learnt from several documents, and so where one ends."""
        return self.start == (EOS,)

    def encode(self, documents: Sequence[str]) -> NDArray[np.int64]:
        """The tokens of `documents` as it learns and is scored: joined by <eos>, by a newline if it learnt from one alone."""
        if not self.knows_ends:
            return self.tokenizer.encode("\n".join(documents))
        parts = [np.append(self.tokenizer.encode(document), EOS) for document in documents]
        return np.concatenate(parts)[:-1]

    @property
    def at_eos(self) -> Literal["end", "newline", "never"]:
        """What <eos> does to a text that it writes, unless something else is asked for (see generate.stream).

        One by a label stands alone: it ends there. Of a text from one document the model never learnt where it ends.
        """
        if self.config.task == "conditional":
            return "end"
        return "newline" if self.knows_ends else "never"

    @property
    def unfinished(self) -> bool:
        """Whether these are the averaged weights of a last save, for want of a best model."""
        return self.path.name == LAST_FILE


def need(model: Model, tasks: Collection[str]) -> None:
    """Raise UsageError, with the right command, if a model was trained for none of `tasks`."""
    if model.config.task not in tasks:
        does, command = DOES[model.config.task]
        raise UsageError(f"{model.name!r} was trained to {does}.", f"Use `charrnn {command.format(model.name)}`, or another run.")


def save(path: Path, config: ModelConfig, tokenizer: Tokenizer, weights: Tensors, about: Mapping[str, Any]) -> None:
    """Write a self-contained model file; `about` holds "name", "start" and "provenance"."""
    checkpoint.write(path, describe(config, tokenizer, about), {**weights, **tokenizer.tensors()})


def describe(config: ModelConfig, tokenizer: Tokenizer, about: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata document of a model file."""
    return {"model": asdict(config), "tokenizer": tokenizer.kind, **about}


def load(path: Path) -> Model:
    """Load a model from a file, or from a run folder: its best weights, else the averaged ones of its last save.

    Raises CheckpointError if there is no model there or it is damaged, foreign or inconsistent.
    """
    file = model_file(path)
    try:
        return from_checkpoint(checkpoint.read(file), file)
    except CheckpointError as error:
        last = file.with_name(LAST_FILE)
        if file != path and file != last and last.is_file():
            error.hint = f"Use another copy of it, or the weights of the last save: {str(last)!r}."
        raise


def model_file(path: Path) -> Path:
    """The file to load a model from: `path` itself, or inside the folder the best model, else the last save."""
    if not os.path.isdir(path):  # which, unlike Path's, is false for a name that cannot be
        return path
    for name in (MODEL_FILE, LAST_FILE):
        if (path / name).is_file():
            return path / name
    raise CheckpointError(f"{str(path)!r} holds no {MODEL_FILE} or {LAST_FILE}.", "`charrnn runs` lists what there is.")


def from_checkpoint(content: Checkpoint, path: Path) -> Model:
    """Make a Model of the verified content of `path`; raises CheckpointError if its parts do not fit each other."""
    name = str(path)
    config = _config(content.metadata, name)
    tensors = _averaged(content.tensors) if any(key.startswith(AVERAGE) for key in content.tensors) else content.tensors
    weights = {key: value for key, value in tensors.items() if not key.startswith("tokenizer.")}
    _check_weights(config, weights, name)
    tokenizer = _tokenizer(content, name)
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(f"{name!r}: tokenizer of {tokenizer.vocab_size} tokens, model of {config.vocab_size}.")
    digest = checkpoint.tensor_digest({**weights, **tokenizer.tensors()})
    start, provenance = _start(content.metadata, config, name), content.metadata.get("provenance")
    run_name = content.metadata.get("name")
    return Model(
        config, tokenizer, weights, start, provenance if isinstance(provenance, dict) else {},
        run_name[:MOST_SAID] if isinstance(run_name, str) else path.stem, path, digest, _labels(content.metadata, config, name),
    )  # fmt: skip


def _config(metadata: Mapping[str, Any], name: str) -> ModelConfig:
    values = metadata.get("model")
    if not isinstance(values, dict):
        raise CheckpointError(f"{name!r} does not say what shape its model has.", "Use another copy of it.")
    try:
        config = from_mapping(ModelConfig, values, repr(name))
        if why := contradiction(config):
            raise UsageError(f"{why}.")
        return config
    except (UsageError, TypeError) as error:
        raise CheckpointError(
            f"{name!r} describes an impossible model: {str(error)[:MOST_SAID]}", "Use another copy of it."
        ) from error


def _averaged(tensors: Tensors) -> Tensors:
    kept = {key.removeprefix(AVERAGE): value for key, value in tensors.items() if key.startswith(AVERAGE)}
    return kept | {key: value for key, value in tensors.items() if key.startswith("tokenizer.")}


def _check_weights(config: ModelConfig, weights: Tensors, name: str) -> None:
    shapes = weight_shapes(config)
    if set(weights) != set(shapes):
        odd = sorted(set(weights) ^ set(shapes))[0]
        raise CheckpointError(f"{name!r}: tensor {odd[:80]!r} is missing or not expected.", "Use another copy of it.")
    for key, shape in shapes.items():
        found = weights[key]
        if found.shape != shape or found.dtype not in (np.float32, np.float16):
            expected = f"expected {shape}, float32 or float16"
            raise CheckpointError(f"{name!r}: tensor {key!r} is {found.shape}, {found.dtype}; {expected}.", "Use another copy.")
        low, high = float(found.min(initial=0)), float(found.max(initial=0))  # nan if one of them is
        if not -LARGEST_WEIGHT <= low <= high <= LARGEST_WEIGHT:
            values = "values that are no numbers" if not np.isfinite([low, high]).all() else f"values up to {max(-low, high):g}"
            message = f"{name!r}: tensor {key!r} holds {values}; expected at most {LARGEST_WEIGHT:g} either way."
            raise CheckpointError(message, "Use another copy, or train again.")


def _labels(metadata: Mapping[str, Any], config: ModelConfig, name: str) -> tuple[str, ...]:
    labels = metadata.get("labels", [])
    proper = isinstance(labels, list) and all(isinstance(label, str) and is_name(label) for label in labels)
    if not proper or len(set(labels)) != len(labels) or len(labels) != config.classes:
        raise CheckpointError(f"{name!r} does not say what its {config.classes:,} labels are.", "Use another copy of it.")
    return tuple(labels)


def _tokenizer(content: Checkpoint, name: str) -> Tokenizer:
    kind = content.metadata.get("tokenizer")
    try:
        return tokenizers.load(str(kind), {key: value for key, value in content.tensors.items() if key.startswith("tokenizer.")})
    except TokenizerError as error:
        raise CheckpointError(f"{name!r} holds a damaged tokenizer: {error.message}", "Use another copy of it.") from error


def _start(metadata: Mapping[str, Any], config: ModelConfig, name: str) -> tuple[int, ...]:
    start = metadata.get("start")
    if not isinstance(start, list) or not start or len(start) > 1000:
        raise CheckpointError(f"{name!r} does not say how a text starts.", "Use another copy of it.")
    if not all(isinstance(i, int) and not isinstance(i, bool) and 0 <= i < config.vocab_size for i in start):
        raise CheckpointError(f"{name!r}: its start tokens are not in its vocabulary.", "Use another copy of it.")
    return tuple(start)
