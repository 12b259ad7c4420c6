"""The index of a run's training text, in a file beside the model: what tells an invention from a copy.

Knows the file and whose it is; text/ngrams.py knows what is in it. The file is written once, before training begins,
and is no part of the model: who passes the model on alone passes on no hashes of its text.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from charrnn.errors import CheckpointError, UsageError
from charrnn.runs import checkpoint
from charrnn.runs.model import Model
from charrnn.text.ngrams import GRAM, LEAST, Copies, Grams

INDEX_FILE = "ngrams.safetensors"
KIND = "ngrams"
MOST_CHARACTERS = 1 << 26  # of a training text that gets an index; of so many it takes 256 MiB, and twice that more in use
AGAIN = "Train it again: `charrnn train FILE` writes the index beside each new run."


def describe(digest: str, characters: int) -> dict[str, Any]:
    """The metadata of the index of the training part, of so many characters, of the corpus of this digest."""
    return {"kind": KIND, "gram": GRAM, "corpus": digest, "train_characters": characters}


def write(folder: Path, about: Mapping[str, Any], grams: Grams) -> None:
    """Write the index of the run in `folder`; `about` is from `describe`. Raises WriteError or CannotCreateError."""
    checkpoint.write(folder / INDEX_FILE, about, {KIND: grams})


def fits(folder: Path, about: Mapping[str, Any]) -> bool:
    """Whether `folder` has an index, whole, that is as `about` says."""
    try:
        _read(folder / INDEX_FILE, about)
    except CheckpointError:
        return False
    return True


def load(model: Model) -> Grams:
    """The hashes of the text that `model` was trained on, from the file beside it, (N,).

    Raises CheckpointError if there is none, or it is damaged, not an index, or of another text.
    """
    corpus, split = (model.provenance.get(part) for part in ("corpus", "split"))
    digest = corpus.get("digest") if isinstance(corpus, dict) else None
    characters = split.get("train_characters") if isinstance(split, dict) else None
    if not isinstance(digest, str) or not isinstance(characters, int):
        raise CheckpointError(f"{str(model.path)!r} does not say which text it was trained on.", AGAIN)
    path = model.path.parent / INDEX_FILE
    if not path.is_file():
        raise CheckpointError(f"{model.name!r} has no index of its training text; expected {str(path)!r}.", AGAIN)
    return _read(path, describe(digest, characters))


def _read(path: Path, about: Mapping[str, Any]) -> Grams:
    """The hashes in the index `path`, which must be as `about` says."""
    content = checkpoint.read(path)
    grams = content.tensors.get(KIND)
    if content.metadata.get("kind") != KIND or grams is None or len(content.tensors) != 1:
        raise CheckpointError(f"{str(path)!r} is no index of a training text.", AGAIN)
    found = {name: content.metadata.get(name) for name in about}
    if found["gram"] != about["gram"]:
        message = f"{str(path)!r} has pieces of {str(found['gram'])[:20]} characters; expected {GRAM}."
        raise CheckpointError(message, AGAIN)
    if found != about:
        hint = f"Put the {INDEX_FILE} of this run beside it, or train it again."
        raise CheckpointError(f"{str(path)!r} is the index of another text than this model's.", hint)
    least = max(0, about["train_characters"] - GRAM + 1)
    if grams.dtype != np.uint32 or grams.ndim != 1 or len(grams) < least:
        message = f"{str(path)!r} holds {grams.dtype} {grams.shape}; expected at least {least:,} uint32 hashes in a row."
        raise CheckpointError(message, AGAIN)
    return grams


def watch(model: Model, longest: int) -> Copies:
    """What tells runs of more than `longest` characters of `model`'s training text; raises as `load`, and UsageError."""
    if longest < LEAST:
        raise UsageError(f"--max-copy is {longest}; expected at least {LEAST}.", f"Give --max-copy {LEAST}.")
    return Copies(load(model), longest)
