"""The index of a run on disk: what is written is read, and no other file is taken for it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from numpy.typing import NDArray

from charrnn.errors import CheckpointError
from charrnn.runs import checkpoint, copies, registry
from charrnn.runs import model as runs
from charrnn.text import ngrams

TEXT = "one by one the lamps come up like bread"
GRAMS = ngrams.hashes([(0, TEXT)])
ABOUT = copies.describe("d1" * 32, len(TEXT))
PROVENANCE = {"corpus": {"digest": "d1" * 32}, "split": {"train_characters": len(TEXT)}}


@pytest.fixture
def model(tmp_path: Path) -> runs.Model:
    units = toy.tokenizer()
    path = tmp_path / "checkpoints" / "lamps" / runs.MODEL_FILE
    path.parent.mkdir(parents=True)
    about = {"name": "lamps", "start": [4], "provenance": PROVENANCE}
    runs.save(path, toy.config(units), units, toy.weights(units), about)
    return runs.load(path)


def test_what_is_written_is_read(model: runs.Model) -> None:
    folder = model.path.parent
    copies.write(folder, ABOUT, GRAMS)
    assert copies.load(model).tolist() == GRAMS.tolist()
    assert copies.fits(folder, ABOUT)
    assert not copies.fits(folder, {**ABOUT, "train_characters": len(TEXT) - 1})
    assert not copies.fits(folder.parent, ABOUT)


def test_a_training_part_shorter_than_a_piece_has_an_empty_index(model: runs.Model) -> None:
    copies.write(model.path.parent, copies.describe("d1" * 32, 5), ngrams.hashes([(0, TEXT[:5])]))
    short = replace(model, provenance={**PROVENANCE, "split": {"train_characters": 5}})
    assert copies.load(short).shape == (0,)


def test_it_lies_beside_the_model_and_nowhere_else(model: runs.Model, tmp_path: Path) -> None:
    copies.write(model.path.parent, ABOUT, GRAMS)
    lonely = Path(shutil.copy(model.path, tmp_path / "sent.safetensors"))
    with pytest.raises(CheckpointError, match=r"'lamps' has no index.*ngrams\.safetensors") as caught:
        copies.load(runs.load(lonely))
    assert "charrnn train" in caught.value.hint


def test_an_index_is_no_run(model: runs.Model) -> None:
    folder = model.path.parent
    copies.write(folder, ABOUT, GRAMS)
    assert [info.name for info in registry.listing(folder.parent)] == ["lamps"]
    model.path.unlink()  # as if killed before the first save
    assert registry.listing(folder.parent) == []
    with pytest.raises(CheckpointError, match="no run"):
        registry.resolve("lamps-2", folder.parent)
    with pytest.raises(CheckpointError, match="what shape"):
        runs.load(folder / copies.INDEX_FILE)


SPOILED: dict[str, Callable[[dict[str, Any], dict[str, NDArray[Any]]], None]] = {
    "another text": lambda about, tensors: about.update(corpus="d2" * 32),
    "another split": lambda about, tensors: about.update(train_characters=len(TEXT) + 1),
    "pieces of 9": lambda about, tensors: about.update(gram=9),
    "pieces of": lambda about, tensors: about.update(gram=[8] * 1000),
    "no index": lambda about, tensors: about.update(kind="model"),
    "is no index": lambda about, tensors: tensors.update(more=GRAMS),
    "no index of": lambda about, tensors: tensors.clear(),
    "int32": lambda about, tensors: tensors.update(ngrams=GRAMS.view(np.int32)),
    "uint64": lambda about, tensors: tensors.update(ngrams=GRAMS.astype(np.uint64)),
    r"\(8, 4\); expected at least 32": lambda about, tensors: tensors.update(ngrams=GRAMS.reshape(8, 4)),
    r"\(31,\); expected at least 32": lambda about, tensors: tensors.update(ngrams=GRAMS[:-1]),
    r"\(\); expected": lambda about, tensors: tensors.update(ngrams=GRAMS[0]),
}


@pytest.mark.parametrize("what", SPOILED)
def test_an_index_that_lies_is_refused(model: runs.Model, what: str) -> None:
    about, tensors = dict(ABOUT), {"ngrams": GRAMS}
    SPOILED[what](about, tensors)
    checkpoint.write(model.path.parent / copies.INDEX_FILE, about, tensors)
    match = {"another split": "another text"}.get(what, what)
    with pytest.raises(CheckpointError, match=match) as caught:
        copies.load(model)
    assert "again" in caught.value.hint
    assert not copies.fits(model.path.parent, ABOUT)


def test_a_damaged_index_is_refused(model: runs.Model) -> None:
    copies.write(model.path.parent, ABOUT, GRAMS)
    path = model.path.parent / copies.INDEX_FILE
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="checksum"):
        copies.load(model)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="no index"):
        copies.load(model)


@pytest.mark.parametrize(
    "provenance", [{}, {"corpus": []}, {"corpus": {"digest": "d1" * 32}}, {**PROVENANCE, "corpus": {"digest": 3}}]
)
def test_a_model_that_does_not_know_its_text_has_no_index(model: runs.Model, provenance: dict[str, Any]) -> None:
    copies.write(model.path.parent, ABOUT, GRAMS)
    with pytest.raises(CheckpointError, match="which text"):
        copies.load(replace(model, provenance=provenance))


def test_the_run_of_the_clone_has_the_index_of_its_corpus() -> None:
    root = Path(__file__).resolve().parent.parent
    known = copies.load(runs.load(root / "checkpoints" / "poems"))
    text = (root / "corpora" / "poems.txt").read_text(encoding="utf-8")
    assert known.tolist() == ngrams.hashes([(0, text[: int(0.9 * len(text))])]).tolist()
