"""Sequences of numbers out of files: NumPy's .npz, and the IDX files in which MNIST comes.

An .npz holds the sequences as `x` (N, T, F), or (N, T) for one number a step, and their labels as `y` (N,). An IDX file
says in its first bytes what it holds: (N, T, F) are sequences, such as pictures row by row, (N,) labels; both may be
.gz. Files are checked before they are believed: sizes against what is there, and nothing but numbers and short texts
is read; no pickle. Knows nothing of what the numbers mean.
"""

from __future__ import annotations

import gzip
import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from charrnn.errors import CorpusError
from charrnn.text.examples import LABEL_LENGTH, is_name
from charrnn.text.sources import Source, unreadable

MOST_BYTES = 2 << 30  # of one file, unpacked
MOST_HEADER = 10_000  # characters, as NumPy's own reader has it
UNICODE = 0x110000
MOST_FEATURES = 65_536  # numbers in a row
LARGEST = 1e18  # of a number: their mean and its square must be numbers that a setting, and float32, can hold
DAMAGED = (  # what NumPy and zipfile raise on files that lie; OSError: bz2's word for damage, as LZMAError is lzma's
    ValueError, KeyError, TypeError, OverflowError, MemoryError, EOFError, NotImplementedError, RuntimeError, OSError,
    SyntaxError, tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError,
)  # fmt: skip
IDX_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
EXPECTED = "Give an .npz with x (N, T, F) and y (N,), or two IDX files: pictures and labels."


@dataclass(frozen=True)
class Numbers:
    """Sequences (N, T, F) of float32, and the label of each, if there are labels."""

    rows: NDArray[np.float32]
    labels: tuple[str, ...]


def read(sources: Sequence[Source], labelled: bool = True) -> Numbers:
    """The sequences of all sources, with their labels if they are wanted; raises CorpusError."""
    arrays: dict[str, list[NDArray[Any]]] = {"x": [], "y": []}
    for source in sources:
        for name, array in _arrays(source).items():
            arrays[name].append(array)
    if not arrays["x"] or (labelled and not arrays["y"]):
        missing = "sequences" if not arrays["x"] else "labels"
        raise CorpusError(f"{', '.join(repr(source.name) for source in sources)}: there are no {missing} in it.", EXPECTED)
    shapes = {array.shape[1:] for array in arrays["x"]}
    if len(shapes) > 1:
        raise CorpusError(f"the sequences are of different shapes: {sorted(shapes)}.", "Give files of one shape.")
    rows = np.concatenate(arrays["x"])
    number = sum(map(len, arrays["y"]))
    if arrays["y"] and number != len(rows):
        raise CorpusError(f"there are {len(rows):,} sequences and {number:,} labels.", "Give as many of both.")
    if arrays["y"]:
        _check_order([len(array) for array in arrays["x"]], [len(array) for array in arrays["y"]])
    return Numbers(rows, tuple(str(value) for array in arrays["y"] for value in array.tolist()))


def _check_order(sequences: list[int], labels: list[int]) -> None:
    """Files of sequences and files of labels are joined in the order of mention: they must follow one another alike."""
    if sequences != labels:
        counts = [", ".join(f"{count:,}" for count in several) for several in (sequences, labels)]
        raise CorpusError(
            f"the files have {counts[0]} sequences and {counts[1]} labels, in the order they are named.",
            "Name the labels in the order of their sequences, file by file.",
        )


def _arrays(source: Source) -> dict[str, NDArray[Any]]:
    """What one file holds, by name: x, y or both."""
    data = _bytes(source)
    try:
        found = _npz(data) if data.startswith(b"PK\x03\x04") else _idx(data)
        return {name: _checked(name, array) for name, array in found.items()}
    except DAMAGED as error:
        why = str(error).splitlines()[0][:200] if str(error) else "it is damaged"
        raise CorpusError(f"{source.name!r} holds no rows of numbers: {why}.", EXPECTED) from error


def _bytes(source: Source) -> bytes:
    """All of a file, unpacked if it is packed."""
    try:
        with source.open() as file:
            data = file.read(MOST_BYTES + 1)
            if data[:2] == b"\x1f\x8b":
                data = gzip.GzipFile(fileobj=io.BytesIO(data)).read(MOST_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorpusError(f"{source.name!r} is no proper .gz file: {error}.", "Fetch it again.") from error
    except OSError as error:
        raise unreadable(source.name, error) from error
    if len(data) > MOST_BYTES:
        raise CorpusError(f"{source.name!r} holds more than {MOST_BYTES:,} bytes.", "Give fewer sequences.")
    return data


def _npz(data: bytes) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if "x" not in names:
            raise ValueError(f"it has no array x, but {', '.join(sorted(names))[:100]!r}")
        if sum(names[name].file_size for name in ("x", "y") if name in names) > MOST_BYTES:
            raise ValueError(f"it unpacks to more than {MOST_BYTES:,} bytes")
        return {name: _npy(archive, names[name]) for name in ("x", "y") if name in names}


def _npy(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as file:
        shape, columns_first, kind = _npy_header(file)
        if kind.kind not in "buifU" or kind.itemsize > 4 * LABEL_LENGTH:
            raise ValueError(f"{info.filename} holds {kind}, no numbers")
        size = math.prod(shape) * kind.itemsize
        if min(shape, default=1) < 0 or size > MOST_BYTES:
            raise ValueError(f"{info.filename} says it has the shape {str(shape)[:80]}")
        body = file.read(size + 1)
    if len(body) != size:
        raise ValueError(f"{info.filename} is shorter or longer than it says")
    return np.frombuffer(body, kind).reshape(shape, order="F" if columns_first else "C")


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"it is of version {version[0]}")
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, kind = read_header(file, max_header_size=MOST_HEADER)
    return shape, columns_first, kind


def _idx(data: bytes) -> dict[str, NDArray[Any]]:
    """x or y, by the number of dimensions."""
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES:
        raise ValueError("it is neither .npz nor IDX")
    kind, dimensions = np.dtype(IDX_TYPES[data[2]]), data[3]
    if dimensions not in (1, 2, 3) or len(data) < 4 + 4 * dimensions:
        raise ValueError(f"it has {dimensions} dimensions")
    shape = tuple(int.from_bytes(data[4 + 4 * place : 8 + 4 * place], "big") for place in range(dimensions))
    start = 4 + 4 * dimensions
    if len(data) - start != math.prod(shape) * kind.itemsize:
        raise ValueError("it is shorter or longer than it says")
    return {"y" if dimensions == 1 else "x": np.frombuffer(data, kind, offset=start).reshape(shape)}


def _checked(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Sequences as (N, T, F) of float32, or labels as they are; raises ValueError."""
    if name == "y":
        return _labels(array)
    if array.dtype.kind == "U" or array.ndim not in (2, 3) or 0 in array.shape or array.shape[2:] > (MOST_FEATURES,):
        raise ValueError(f"x is {array.dtype} of shape {array.shape}; expected numbers (N, T, F)")
    if 4 * array.size > MOST_BYTES:  # a file of bytes takes four times as much here
        raise ValueError(f"x holds {array.size:,} numbers; expected at most {MOST_BYTES // 4:,}")
    with np.errstate(over="ignore"):
        rows = (array if array.ndim == 3 else array[..., None]).astype(np.float32)
    if not -LARGEST <= float(rows.min()) <= float(rows.max()) <= LARGEST:  # nan if one of them is
        raise ValueError(f"x holds values that are no finite numbers, or beyond {LARGEST:g}")
    return rows


def _labels(array: NDArray[Any]) -> NDArray[Any]:
    """Labels (N,) as whole numbers or proper names; raises ValueError."""
    with np.errstate(over="ignore"):
        whole = array.dtype.kind in "buiU" or bool(np.all((array == np.floor(array)) & (np.abs(array) < 2.0**63)))
    if array.ndim != 1 or not whole:
        raise ValueError(f"y is {array.dtype} of shape {array.shape}; expected whole numbers or texts (N,)")
    if array.dtype.kind == "U" and int(array.view(f"{array.dtype.byteorder}u4").max(initial=0)) >= UNICODE:
        raise ValueError("y holds what is no character")  # and CPython's SystemError, if it were asked
    for label in np.unique(array).tolist() if array.dtype.kind == "U" else ():
        if not is_name(label):
            raise ValueError(f"y holds the label {label!a}; expected 1 to {LABEL_LENGTH} characters, none of them for control")
    return array.astype(np.int64) if array.dtype.kind == "f" else array
