"""Model files and run names: a file alone is enough, whatever does not fit is refused, names are safe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import ModelConfig
from charrnn.errors import CheckpointError, UsageError
from charrnn.runs import checkpoint, registry
from charrnn.runs import model as runs
from charrnn.text import tokenizers
from charrnn.weights import weight_shapes

CONFIG = ModelConfig(vocab_size=7, embedding_size=3, hidden_size=4)
ALPHABET = {"tokenizer.alphabet": np.array([ord(c) for c in "abc"], dtype=np.uint32)}
ABOUT = {"name": "abc", "start": [1], "provenance": {"corpus": {"names": ["abc.txt"]}}, "saved": 5}


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in weight_shapes(CONFIG).items()}


def save(folder: Path, **about: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    runs.save(folder / runs.MODEL_FILE, CONFIG, tokenizers.load("char", ALPHABET), weights(), {**ABOUT, **about})
    return folder


def test_the_file_alone_is_enough(tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.safetensors"
    (save(tmp_path / "abc") / runs.MODEL_FILE).rename(moved)
    model = runs.load(moved)
    assert model.config == CONFIG
    assert model.name == "abc"
    assert model.start == (1,)
    assert model.tokenizer.decode(model.tokenizer.encode("cab")) == "cab"
    assert all(np.array_equal(model.weights[name], weight) for name, weight in weights().items())


def test_a_folder_without_a_best_model_gives_the_averaged_weights_of_its_last_save(tmp_path: Path) -> None:
    tensors = {f"average/{name}": weight for name, weight in weights().items()}
    tensors |= {f"current/{name}": weight + 1 for name, weight in weights().items()}
    tokenizer = tokenizers.load("char", ALPHABET)
    metadata = runs.describe(CONFIG, tokenizer, ABOUT)
    checkpoint.write(tmp_path / runs.LAST_FILE, metadata, {**tensors, **tokenizer.tensors()})
    assert runs.load(tmp_path).digest == runs.load(save(tmp_path / "best")).digest


def test_an_empty_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no model"):
        runs.load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"hidden_size": 1e9}},
        {"model": {"hidden_size": 5}},
        {"model": {"vocab_size": 8}},
        {"model": {"cell": "transformer"}},
        {"model": {"gates": 4}},
        {"model": "lstm"},
        {"start": []},
        {"start": [7]},
        {"start": "a"},
        {"tokenizer": "byte"},
        {"tokenizer": "nonsense"},
        {"tokenizer": 5},
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    tokenizer = tokenizers.load("char", ALPHABET)
    metadata = runs.describe(CONFIG, tokenizer, ABOUT)
    for key, value in change.items():
        metadata[key] = {**metadata[key], **value} if isinstance(value, dict) else value
    checkpoint.write(tmp_path / "x.safetensors", metadata, {**weights(), **tokenizer.tensors()})
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        runs.load(tmp_path / "x.safetensors")


def test_the_newest_run_is_the_one_meant_and_bundled_ones_come_last(tmp_path: Path) -> None:
    save(tmp_path / "old", saved=10)
    save(tmp_path / "new", saved=20)
    (save(tmp_path / "bundled", saved=30) / registry.BUNDLED_FILE).write_text("made so")
    assert [info.name for info in registry.listing(tmp_path)] == ["new", "old", "bundled"]
    assert registry.resolve(None, tmp_path) == tmp_path / "new"
    assert registry.resolve("old", tmp_path) == tmp_path / "old"
    file = tmp_path / "old" / runs.MODEL_FILE
    assert registry.resolve(str(file), tmp_path) == file


def test_a_damaged_run_is_listed_with_its_problem_and_never_chosen(tmp_path: Path) -> None:
    save(tmp_path / "good", saved=10)
    (save(tmp_path / "bad", saved=20) / runs.MODEL_FILE).write_bytes(b"not a model")
    problems = {info.name: info.problem for info in registry.listing(tmp_path)}
    assert problems["good"] == ""
    assert "damaged" in problems["bad"]
    assert registry.resolve(None, tmp_path) == tmp_path / "good"


def test_nothing_there_is_said_with_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # so that ../x is nothing
    with pytest.raises(CheckpointError, match="no run") as missing:
        registry.resolve(None, tmp_path)
    assert "charrnn train" in missing.value.hint
    save(tmp_path / "verse")
    for name in ("vers", "../x", "-rf", "x" * 5000, "a\0b"):
        with pytest.raises(CheckpointError) as unknown:
            registry.resolve(name, tmp_path)
        assert "verse" in unknown.value.hint


def test_names_are_taken_in_order_and_never_twice(tmp_path: Path) -> None:
    made = [registry.create(None, "my text", tmp_path).name for _ in range(3)]
    assert made == ["my-text", "my-text-2", "my-text-3"]
    with pytest.raises(UsageError, match="already"):
        registry.create("my-text", "", tmp_path)


@given(st.text(max_size=300))
def test_any_stem_makes_a_safe_name(stem: str) -> None:
    name = registry.next_free_name(stem, Path("/nonexistent"))
    assert registry.is_name(name)
    assert len(name.encode()) <= 255


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "-rf", "a/b", "a\0", "x" * 101, ".hidden", "a b"])
def test_unsafe_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        registry.check_name(name)


def test_a_model_file_says_nothing_of_its_maker(trained: Path) -> None:
    data = (trained / "checkpoints" / "verse" / runs.MODEL_FILE).read_bytes()
    metadata = checkpoint.decode(data, "x").metadata
    assert str(trained.parent) not in json.dumps(metadata)
    assert b"/" not in json.dumps({**metadata, "checksum": ""}).encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    spoiled = weights()
    spoiled["output.bias"][3] = value
    runs.save(tmp_path / "x.safetensors", CONFIG, tokenizers.load("char", ALPHABET), spoiled, ABOUT)
    with pytest.raises(CheckpointError, match="no numbers"):
        runs.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000, "/dev/zero", "/nowhere/at/all"])
def test_a_path_that_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(CheckpointError):
        runs.load(Path(path))


@pytest.mark.parametrize("hostile", [{"saved": 10**400}, {"saved": 1e308}, {"provenance": {"scores": {"loss": 10**400}}}])
def test_one_hostile_run_does_not_hide_the_others(
    tmp_path: Path, hostile: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "good", saved=10)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_metadata", lambda header, name: {})  # we would not write what we would not read
        save(tmp_path / "bad", **hostile)
    assert {info.name for info in registry.listing(tmp_path)} == {"good", "bad"}


def test_a_tensor_with_an_impossible_shape_is_refused() -> None:
    shape = [2**34, 2**34, 2**34, 0]
    header = json.dumps({"t": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    with pytest.raises(CheckpointError):
        checkpoint.decode(len(header).to_bytes(8, "little") + header, "x")


def test_resume_without_a_name_means_a_run_that_can_be_gone_on_with(trained: Path) -> None:
    root = trained / "checkpoints"
    save(root / "newer", saved=10**10)
    assert registry.resolve(None, root).name == "newer"
    assert registry.resolve(None, root, resumable=True).name == "verse"
