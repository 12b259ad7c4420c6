"""The file format: what is written is read, foreign readers can read it, and any damage is an error by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.errors import CheckpointError
from charrnn.runs import checkpoint

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.array([1, 2, 0x10FFFF], dtype=np.uint32),
    "scalar": np.array(3.5, dtype=np.float32),
    "empty": np.zeros((0, 4), dtype=np.float16),
}
METADATA = {"model": {"cell": "lstm"}, "name": "päper"}


def encoded() -> bytes:
    return checkpoint.encode(METADATA, TENSORS)


def with_header(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    checkpoint.write(path, METADATA, TENSORS)
    assert path.read_bytes() == encoded()
    content = checkpoint.read(path)
    assert {key: content.metadata[key] for key in METADATA} == METADATA
    assert content.metadata["format"] == checkpoint.FORMAT_VERSION
    assert set(content.tensors) == set(TENSORS)
    for name, array in TENSORS.items():
        assert content.tensors[name].dtype == array.dtype
        assert np.array_equal(content.tensors[name], array)
        assert not content.tensors[name].flags.writeable


def test_the_same_content_gives_the_same_bytes() -> None:
    backwards = dict(reversed(list(TENSORS.items())))
    assert checkpoint.encode(METADATA, TENSORS) == checkpoint.encode(METADATA, backwards)


def test_the_safetensors_library_reads_it() -> None:
    loaded = safetensors.numpy.load(encoded())
    assert {name: array.tobytes() for name, array in loaded.items()} == {n: a.tobytes() for n, a in TENSORS.items()}


def test_every_single_bit_flip_is_refused() -> None:
    data = encoded()
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        with pytest.raises(CheckpointError):
            checkpoint.decode(bytes(damaged), "x")


def test_every_truncation_is_refused() -> None:
    data = encoded()
    for length in range(len(data)):
        with pytest.raises(CheckpointError):
            checkpoint.decode(data[:length], "x")


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_no_bytes_do_worse_than_an_error(data: bytes) -> None:
    for candidate in (data, len(data).to_bytes(8, "little") + data):
        with pytest.raises(CheckpointError):
            checkpoint.decode(candidate, "x")


@pytest.mark.parametrize(
    "header",
    [
        [],
        {"__metadata__": {"charrnn": "{}"}},
        {"__metadata__": {"charrnn": "[" * 100_000}},
        {"__metadata__": {"charrnn": '{"format":99,"checksum":"x"}'}},
        {"__metadata__": {"charrnn": '{"format":1,"checksum":"' + "0" * 64 + '"}'}},
        {"__metadata__": {"other": "x"}},
        {"t": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}},
    ],
)
def test_foreign_and_hostile_headers_are_refused(header: object) -> None:
    with pytest.raises(CheckpointError):
        checkpoint.decode(with_header(header), "x")


def resealed(entries: str) -> bytes:
    """A file with a right checksum and these tensor entries (JSON text) over 8 bytes of body."""
    document = json.dumps({"checksum": "0" * 64, "format": 1}, separators=(",", ":"))
    header = ("{" + f'"__metadata__":{{"charrnn":{json.dumps(document)}}},{entries}' + "}").encode()
    data = bytearray(len(header).to_bytes(8, "little") + header + bytes(8))
    import hashlib

    start = data.find(b"0" * 64)
    data[start : start + 64] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def test_a_resealed_file_is_read() -> None:
    entry = '"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    assert checkpoint.decode(resealed(entry), "x").tensors["t"].shape == (2,)


@pytest.mark.parametrize(
    "entries",
    [
        '"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}',
        '"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}',
        '"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}',
        '"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"u":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}',
        '"t":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}',
        '"t":{"dtype":"F32","shape":[true,2],"data_offsets":[0,8]}',
        '"t":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}',
        '"t":{"dtype":"BF16","shape":[4],"data_offsets":[0,8]}',
        '"t":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1}',
        '"t":[1,2]',
    ],
)
def test_entries_that_lie_are_refused_even_with_a_right_checksum(entries: str) -> None:
    with pytest.raises(CheckpointError):
        checkpoint.decode(resealed(entries), "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere\.safetensors"):
        checkpoint.read(tmp_path / "nowhere.safetensors")


def test_the_tensor_digest_sees_name_type_shape_and_bytes_alone() -> None:
    digest = checkpoint.tensor_digest(TENSORS)
    assert digest == checkpoint.tensor_digest(dict(reversed(list(TENSORS.items()))))
    changed = [
        {**TENSORS, "b": TENSORS["b"].reshape(3, 2)},
        {**TENSORS, "b": TENSORS["b"].view(np.int32)},
        {**TENSORS, "b": TENSORS["b"] + np.float32(1e-7)},
        {("c" if name == "b" else name): array for name, array in TENSORS.items()},
    ]
    assert len({digest, *(checkpoint.tensor_digest(tensors) for tensors in changed)}) == 5
