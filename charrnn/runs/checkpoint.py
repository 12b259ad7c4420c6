"""The checkpoint files of a run: safetensors with one JSON document of metadata and a checksum over every byte.

Knows bytes, names, shapes and digests; knows nothing of networks, tokenizers or training. Any reader of the format opens
these files, but they are read by the code below, because a file from a stranger is checked before anything in it is
believed: sizes and JSON depth are bounded, duplicate keys refused, each tensor must lie where and as large as its shape
says, and the checksum must fit. They are written here too: the library makes copies of all tensors, knows no checksum,
and orders metadata by chance. No pickle, no code, no other file is ever touched.

Layout: 8 bytes header length (little endian), header JSON, tensor bytes. `__metadata__` of the header holds one
entry, "charrnn": a JSON document whose "format" is the version of this layout and whose "checksum" is the SHA-256 of
the whole file with the 64 digits of the checksum itself replaced by zeros.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from charrnn import durable
from charrnn.errors import CheckpointError, WriteError

FORMAT_VERSION = 1
MAX_HEADER_BYTES = 16 << 20
MAX_FILE_BYTES = 16 << 30
MAX_VALUES = 1 << 18  # in a header: some ten for each tensor; as Python objects they take up to 60 times their JSON
MAX_DEPTH = 64  # of a header; ours have 5, and whoever walks through what a file says may call itself for each level
_ZERO_CHECKSUM = "0" * 64
_CHECKSUM_MARK = b'\\"checksum\\":\\"'  # as it stands inside the JSON string inside the header JSON
_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32,
    "U64": np.uint64, "U32": np.uint32, "U8": np.uint8,
}  # fmt: skip
_NAMES = {kind: name for name, kind in _DTYPES.items()}

Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Checkpoint:
    """What a file held: its metadata (a JSON object) and its tensors (read-only views of the bytes read)."""

    metadata: dict[str, Any]
    tensors: Tensors


def write(path: Path, metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Write a checkpoint atomically; the same content always gives the same bytes.

    Raises WriteError or CannotCreateError (see `durable.replace`), the old file then being untouched.
    """
    parts = _sealed(metadata, tensors)
    with durable.replacing(path) as file:
        for part in parts:
            file.write(part)


def encode(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> bytes:
    """The bytes of a checkpoint file."""
    return b"".join(_sealed(metadata, tensors))


def _sealed(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> list[bytes | memoryview]:
    """A checkpoint file in parts, of which the tensors are views: the index of a long text is copied nowhere."""
    arrays = {name: _plain(tensors[name]) for name in sorted(tensors)}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))  # each as aligned as it needs
    head = _head({**metadata, "format": FORMAT_VERSION, "checksum": _ZERO_CHECKSUM}, arrays)
    body = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
    digest = hashlib.sha256(head)
    for part in body:
        digest.update(part)
    start = _checksum_position(head)
    return [head[:start], digest.hexdigest().encode("ascii"), head[start + 64 :], *body]


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """The array as the format has it: one row after the other, little endian."""
    contiguous = np.asarray(array, order="C")
    return contiguous.astype(contiguous.dtype.newbyteorder("<"), copy=False)


def _head(document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Length and header of a file: the document, and where each array lies."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    header: dict[str, Any] = {"__metadata__": {"charrnn": text}}
    position = 0
    for name, array in arrays.items():
        end = position + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype.type], "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    data = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    data += b" " * (-len(data) % 8)
    head = len(data).to_bytes(8, "little") + data
    try:
        _metadata(_header(head, "its description")[0], "its description")
    except CheckpointError as error:  # what could not be read again must not take the place of what can
        message = f"the run has too much to say of itself: {error.message}"
        raise WriteError(message, "Name the folder of the texts, not each of them.") from error
    return head


def read(path: Path) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises CheckpointError if the file is missing, unreadable, not a checkpoint, damaged, or of a newer format.
    """
    return decode(_read_bytes(path), str(path))


def decode(data: bytes, name: str) -> Checkpoint:
    """Verify the bytes of a checkpoint file called `name` and view its tensors; raises CheckpointError."""
    header, body_start = _header(data, name)
    metadata = _metadata(header, name)
    _verify_checksum(data, metadata, name)
    body = memoryview(data)[body_start:]
    entries = {key: value for key, value in header.items() if key != "__metadata__"}
    tensors = {key: _tensor(key, value, body, name) for key, value in entries.items()}
    _verify_layout(entries, len(body), name)
    return Checkpoint(metadata, tensors)


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone, without a look at the tensors or the checksum: for listings. Raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            head = file.read(8)
            length = min(int.from_bytes(head, "little"), MAX_HEADER_BYTES)
            data = head + file.read(length)
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}", "`charrnn runs` lists what there is.") from error
    return _metadata(_header(data, str(path))[0], str(path))


def tensor_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor in the order of their names.

    Unlike the file's checksum it does not depend on metadata: it is what "resumed equals uninterrupted" compares.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name], order="C")
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode("ascii"))
        digest.update(array.tobytes())
    return digest.hexdigest()


def _read_bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise CheckpointError(f"{str(path)!r} is no regular file.", "`charrnn runs` lists what there is.")
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            if size > MAX_FILE_BYTES:
                raise CheckpointError(f"{str(path)!r} has {size:,} bytes; a checkpoint has at most {MAX_FILE_BYTES:,}.")
            _refuse_foreign(file, size, str(path))
            file.seek(0)
            return file.read(size)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(f"cannot read {str(path)[:300]!r}: {reason}.", "`charrnn runs` lists what there is.") from error


def _refuse_foreign(file: BinaryIO, size: int, name: str) -> None:
    """Raise CheckpointError by the header alone: some GB of something else need not be read for that."""
    file.seek(0)
    head = file.read(8)
    _metadata(_header(head + file.read(_header_length(head, size, name)), name)[0], name)


def _damaged(name: str, why: str) -> CheckpointError:
    return CheckpointError(f"{name!r} is damaged or not a charrnn checkpoint: {why}.", "Use another copy of it, or train again.")


def _header_length(head: bytes, size: int, name: str) -> int:
    """The length that the first bytes of a file of `size` bytes state, if it can be."""
    if size < 8:
        raise _damaged(name, f"it has only {size} bytes")
    length = int.from_bytes(head[:8], "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise _damaged(name, "its header length is impossible")
    return length


def _header(data: bytes, name: str) -> tuple[dict[str, Any], int]:
    length = _header_length(data, len(data), name)
    try:
        text = data[8 : 8 + length].decode("utf-8")  # json itself would also take UTF-16, and halves of surrogate pairs
    except UnicodeDecodeError as error:
        raise _damaged(name, "its header is not UTF-8") from error
    return _json_object(text, name), 8 + length


def _json_object(text: str, name: str) -> dict[str, Any]:
    if sum(map(text.count, ",[{")) > MAX_VALUES:
        raise _damaged(name, f"its header holds more than {MAX_VALUES:,} values")
    try:
        value = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse, parse_int=_small_int, parse_float=_finite
        )
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise _damaged(name, "its header is not proper JSON") from error
    if not isinstance(value, dict):
        raise _damaged(name, "its header is not a JSON object")
    return value


def _check_depth(value: Any) -> None:
    """Raise ValueError if lists and objects lie deeper in each other than MAX_DEPTH."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for one in level if isinstance(one, dict | list) for inner in _inside(one)]
    if level:
        raise ValueError("too deep")


def _inside(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant[:20]} is no number for this file")


def _small_int(digits: str) -> Any:
    return int(digits) if len(digits) <= 20 and -(2**63) <= int(digits) < 2**63 else _refuse(digits)


def _finite(digits: str) -> Any:
    return float(digits) if math.isfinite(float(digits)) else _refuse(digits)


def _metadata(header: Mapping[str, Any], name: str) -> dict[str, Any]:
    document = header.get("__metadata__")
    if not isinstance(document, dict) or not isinstance(document.get("charrnn"), str):
        raise CheckpointError(
            f"{name!r} is a safetensors file, but not one of charrnn's.", "Train one with `charrnn train FILE`."
        )
    metadata = _json_object(document["charrnn"], name)
    version = metadata.get("format")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise _damaged(name, "it names no format version")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{name!r} has format {version}; this charrnn reads up to {FORMAT_VERSION}.", "Install a newer charrnn-lm."
        )
    return metadata


def _checksum_position(data: bytes | bytearray) -> int:
    mark = data.find(_CHECKSUM_MARK)
    return mark + len(_CHECKSUM_MARK) if mark >= 0 else -1


def _verify_checksum(data: bytes, metadata: Mapping[str, Any], name: str) -> None:
    start = _checksum_position(data[: 8 + MAX_HEADER_BYTES])
    stated = metadata.get("checksum")
    if start < 0 or not isinstance(stated, str) or data[start : start + 64] != stated.encode("utf-8", "replace"):
        raise _damaged(name, "it has no checksum")
    digest = hashlib.sha256(data[:start])
    digest.update(_ZERO_CHECKSUM.encode("ascii"))
    digest.update(memoryview(data)[start + 64 :])
    if digest.hexdigest() != stated:
        raise _damaged(name, "its checksum does not fit its bytes")


def _tensor(key: str, entry: Any, body: memoryview, name: str) -> NDArray[Any]:
    """View one tensor, if its entry is what the format allows and its bytes are as many as its shape says."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _damaged(name, f"the entry of tensor {key[:80]!r} is malformed")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise _damaged(name, f"tensor {key[:80]!r} has an unknown type")
    if not _whole_numbers(shape, 8) or not _whole_numbers(offsets, 2) or len(offsets) != 2:
        raise _damaged(name, f"tensor {key[:80]!r} has no proper shape")
    begin, end = offsets
    if math.prod(max(side, 1) for side in shape) > MAX_FILE_BYTES:  # NumPy minds even where another side is 0
        raise _damaged(name, f"tensor {key[:80]!r} is too large")
    size = math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize
    if not begin <= end <= len(body) or end - begin != size:
        raise _damaged(name, f"tensor {key[:80]!r} is not as large as its shape says")
    return np.frombuffer(body[begin:end], dtype=_DTYPES[dtype]).reshape(shape)


def _whole_numbers(values: Any, most: int) -> bool:
    if not isinstance(values, list) or len(values) > most:
        return False
    return all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= MAX_FILE_BYTES for v in values)


def _verify_layout(entries: Mapping[str, Any], body_size: int, name: str) -> None:
    """The tensors must tile the body: no gap where something could hide, no overlap."""
    position = 0
    for begin, end in sorted(entry["data_offsets"] for entry in entries.values()):
        if begin != position:
            raise _damaged(name, "its tensors leave a gap or overlap")
        position = end
    if position != body_size:
        raise _damaged(name, "bytes follow its last tensor")
