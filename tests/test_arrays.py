"""Rows of numbers out of .npz and IDX: what is right is read, what lies is refused by name, in memory that is bounded."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run
from hostile import complaints
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn.errors import CorpusError
from charrnn.text import arrays
from charrnn.text.sources import find_sources

X = np.arange(24, dtype=np.float32).reshape(4, 3, 2)
Y = np.array([1, 0, 1, 0])


def read(folder: Path, **files: bytes) -> arrays.Numbers:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return arrays.read(find_sources([str(folder / name) for name in files]))


def refused(folder: Path, match: str = ".", **files: bytes) -> None:
    with pytest.raises(CorpusError, match=match) as told:
        read(folder, **files)
    assert any(name in told.value.message for name in files)
    assert told.value.hint


def npz(**made: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **made)
    return buffer.getvalue()


def npy(descr: str, shape: str, body: bytes, version: int = 1, extra: str = "") -> bytes:
    """An array written by hand, whatever its header says."""
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, {extra}}}".encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(text)) + text + body


def zipped(x: bytes, y: bytes | None = None, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("x.npy", x)
        archive.writestr("y.npy", npy("'<i8'", "(4,)", Y.astype("<i8").tobytes()) if y is None else y)
    return buffer.getvalue()


def idx(kind: int, shape: tuple[int, ...], body: bytes) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", side) for side in shape) + body


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f2", "<f8", "<i2", "|u1", ">u4", "?"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_of_any_kind_of_number(kind: str, save: Callable[..., None], tmp_path: Path) -> None:
    save(tmp_path / "a.npz", x=X.astype(kind), y=Y)
    found = arrays.read(find_sources([str(tmp_path / "a.npz")]))
    assert found.rows.dtype == np.float32
    assert np.array_equal(found.rows, X.astype(kind).astype(np.float32))
    assert found.labels == ("1", "0", "1", "0")


@pytest.mark.parametrize(
    ("y", "labels"),
    [
        (np.array(["ja", "nein", "日本", "x" * 200]), ("ja", "nein", "日本", "x" * 200)),
        (np.array([1.0, 2.0, -3.0, 2.0], np.float16), ("1", "2", "-3", "2")),
        (np.array([True, False, True, True]), ("True", "False", "True", "True")),
        (np.array([2**63, 0, 1, 2], ">u8"), (str(2**63), "0", "1", "2")),
    ],
)
def test_labels_are_names_or_whole_numbers(y: Any, labels: tuple[str, ...], tmp_path: Path) -> None:
    assert read(tmp_path, a=npz(x=X, y=y)).labels == labels


def test_one_number_a_step_columns_first_and_a_large_header(tmp_path: Path) -> None:
    assert read(tmp_path, a=npz(x=X[:, :, 0], y=Y)).rows.shape == (4, 3, 1)
    assert np.array_equal(read(tmp_path, b=npz(x=np.asfortranarray(X), y=Y, other=np.zeros(3))).rows, X)
    for version in (1, 2, 3):
        by_hand = zipped(npy("'<f4'", "(4, 3, 2)", X.tobytes(), version))
        assert np.array_equal(read(tmp_path, c=by_hand).rows, X)


@pytest.mark.parametrize("kind", arrays.IDX_TYPES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_of_each_type_packed_or_not(kind: int, pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    pictures = idx(kind, (4, 3, 2), X.astype(arrays.IDX_TYPES[kind]).tobytes())
    found = read(tmp_path, pictures=pack(pictures), labels=pack(idx(8, (4,), bytes([7, 9, 7, 9]))))
    assert np.array_equal(found.rows, X)
    assert found.labels == ("7", "9", "7", "9")


def test_several_files_stand_one_after_the_other(tmp_path: Path) -> None:
    found = read(tmp_path, a=npz(x=X, y=Y), b=npz(x=X + 1, y=Y + 1))
    assert np.array_equal(found.rows, np.concatenate([X, X + 1]))
    assert found.labels == ("1", "0", "1", "0", "2", "1", "2", "1")


def test_several_files_of_labels_stand_in_the_order_of_their_pictures(tmp_path: Path) -> None:
    """The totals alone would let each label name a picture of another file."""
    pictures, few = idx(8, (4, 3, 2), bytes(24)), idx(8, (2, 3, 2), bytes(12))
    labels, two = idx(8, (4,), bytes([1, 2, 3, 4])), idx(8, (2,), bytes([5, 6]))
    found = read(tmp_path, a=pictures, c=labels, b=few, d=two)
    assert found.labels == tuple("123456")
    with pytest.raises(CorpusError, match="the files have 4, 2 sequences and 2, 4 labels"):
        read(tmp_path, a=pictures, b=few, d=two, c=labels)


BAD_Y = {
    "of NaN": np.array([0, 1, 0, np.nan]), "of infinity": np.array([0, 1, 0, np.inf]), "of halves": np.array([0, 1, 0, 0.5]),
    "beyond all": np.array([0, 1, 0, 1e300]), "in two rows": np.zeros((2, 2), int), "complex": np.zeros(4, complex),
    "of dates": np.zeros(4, "M8[s]"), "of bytes": np.array([b"a"] * 4), "empty": np.array(["a", "b", "", "a"]),
    "too long": np.array(["x" * 201] * 4), "with an escape": np.array(["a", "b\x1b[2J", "a", "b"]),
    "with half a pair": np.array(["a", "\ud800", "a", "b"]), "with a line end": np.array(["a", "b\nc", "a", "b"]),
    "of one sequence too many": np.array([0, 1, 0, 1, 1]), "of none": np.zeros(0, int), "structured": np.zeros(4, "i4,i4"),
}  # fmt: skip
BAD_X = {
    "of NaN": X * np.nan, "of infinity": X.astype(float) * 1e300, "beyond float32": np.full((4, 3, 2), 1e39),
    "whose squares are none": X + np.float32(2e18), "of texts": np.full((4, 3, 2), "1"), "complex": X * 1j,
    "in one row": np.zeros(4), "in four directions": np.zeros((4, 3, 2, 1)), "of no sequences": np.zeros((0, 3, 2)),
    "of no steps": np.zeros((4, 0, 2)), "of no numbers": np.zeros((4, 3, 0)), "too wide": np.zeros((4, 1, 65537), np.uint8),
    "structured": np.zeros((4, 3, 2), "f4,f4"), "of dates": np.zeros((4, 3, 2), "m8[s]"),
}  # fmt: skip


class Payload:
    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return Path.touch, (Path(self.canary),)


def bad() -> Iterator[tuple[str, bytes]]:
    """Files that hold no rows of numbers, or say more than they hold."""
    yield from ((f"y {name}", npz(x=X, y=value)) for name, value in BAD_Y.items())
    yield from ((f"x {name}", npz(x=value, y=Y)) for name, value in BAD_X.items())
    yield "no x", npz(y=Y)
    yield "no y", npz(x=X)
    yield "another name", npz(data=X, y=Y)
    body = X.tobytes()
    for shape in (
        "(4, 3, 200000000)", "(4, 3, 3)", "(4, 3, 1)", "(4, 3, -2)", "(-4, -3, 2)", "(2**70, 0)", f"({2**70}, 0)", f"({2**70},)",
        "()", "(4, 3, 2", "[4, 3, 2]", "'432'", "(4.0, 3, 2)", "(True, 24)", "None", f"({'1,' * 65} 24)", "(0, -1)", "{[]: 1}",
        "(" * 500, "-" * 5000 + "1",
    ):  # fmt: skip
        yield f"shape {shape[:30]}", zipped(npy("'<f4'", shape, body))
    for descr in (
        "'|O'", "'O'", "'<U0'", "'|V0'", "'<U4294967296'", "'<f3'", "'f4,f4'", "[('a', '|O')]", "[('a', '<f4', (2,))]", "7",
        "None", "'no'", "''", "('<f4', (2,))", "'>c16'", "__import__('os').system('touch canary')",
    ):  # fmt: skip
        yield f"type {descr[:30]}", zipped(npy(descr, "(4, 3, 2)", body))
    yield "another key", zipped(npy("'<f4'", "(4, 3, 2)", body, extra="1: 2, "))
    yield "version 9", zipped(npy("'<f4'", "(4, 3, 2)", body, version=9))
    yield "a header too long", zipped(npy("'<f4'", "(4, 3, 2)" + " " * 20_000, body))
    yield "a header without end", zipped(b"\x93NUMPY\2\0\xff\xff\xff\xff{")
    yield (
        "labels beyond Unicode",
        zipped(npy("'<f4'", "(4, 3, 2)", body), npy("'<U1'", "(4,)", struct.pack("<4I", 97, 0x110000, 2**31, 98))),
    )
    objects = io.BytesIO()
    np.save(objects, np.array([Payload("canary")] * 4, object), allow_pickle=True)
    yield "array of objects", zipped(objects.getvalue())
    yield "pickle as x", zipped(pickle.dumps(Payload("canary")))
    yield "pickle alone", pickle.dumps(Payload("canary"))
    yield "x alone", npy("'<f4'", "(4, 3, 2)", body)
    good = zipped(npy("'<f4'", "(4, 3, 2)", body), method=zipfile.ZIP_STORED)
    place = good.index(body)
    yield "a flipped bit", good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = zipped(npy("'<f4'", "(4, 3, 2)", body), method=method)
        for place in range(49, 140, 9):
            yield f"method {method} spoiled at {place}", packed[:place] + b"\xff\xff\xff" + packed[place + 3 :]
    for method in (1, 6, 98, 65535):
        place = good.index(b"PK\x01\x02")
        changed = good[:8] + struct.pack("<H", method) + good[10 : place + 10] + struct.pack("<H", method) + good[place + 12 :]
        yield f"method {method}", changed
    place = good.index(b"PK\x01\x02")
    yield "encrypted", good[:6] + b"\1\0" + good[8 : place + 8] + b"\1\0" + good[place + 10 :]
    for cut in (4, 30, 100, len(good) - 30, len(good) - 1):
        yield f"cut at {cut}", good[:cut]
    for kind, shape, length in (
        (8, (4, 3, 2), 23), (8, (4, 3, 2), 25), (8, (2**32 - 1,) * 3, 24), (13, (4, 3, 2), 24), (8, (4, 0, 2), 0), (8, (4,), 4),
        (8, (4, 3, 2, 1), 24), (8, (), 1), (10, (4, 3, 2), 24), (0, (4, 3, 2), 24), (8, (0, 3, 2), 0),
    ):  # fmt: skip
        yield f"IDX {kind} {shape} {length}", idx(kind, shape, bytes(length))
    yield "IDX of NaN", idx(13, (4, 3, 2), np.full(24, np.nan, ">f4").tobytes())
    yield "IDX cut in its header", idx(8, (4, 3, 2), b"")[:9]
    yield "pictures without labels", idx(8, (4, 3, 2), bytes(24))
    yield "gzip of nothing", gzip.compress(b"")
    yield "gzip cut", gzip.compress(idx(8, (4, 3, 2), bytes(24)))[:-9]
    yield "gzip spoiled", b"\x1f\x8b\x08\x00" + bytes(30)
    yield from (("nothing", b""), ("text", b"a\tb\nc\td\n"), ("zeros", bytes(100)), ("ones", b"\xff" * 100), ("zip", b"PK\3\4"))


CASES = list(bad())


@pytest.mark.parametrize(("name", "data"), CASES, ids=[name for name, _ in CASES])
def test_what_holds_no_rows_of_numbers_is_refused_by_name(
    name: str, data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil").write_bytes(data)
    with pytest.raises(CorpusError) as told:
        arrays.read(find_sources(["evil"]))
    said = told.value.message
    assert "'evil'" in said or "sequences and" in said
    assert len(said) < 600
    assert said.isprintable()
    assert not (tmp_path / "canary").exists()


def test_the_command_line_says_so_and_leaves_nothing(tmp_path: Path, run: Run) -> None:
    Path("evil.npz").write_bytes(npz(x=X * np.nan, y=Y))
    one, other = npz(x=X, y=np.zeros(4, int)), npz(x=X, y=np.arange(4))
    Path("one.npz").write_bytes(one)
    Path("few.npz").write_bytes(other)
    Path("wide.npz").write_bytes(npz(x=X[:, :, :1], y=Y))
    before = sorted(Path("checkpoints").rglob("*"))
    for files, why in (
        (["evil.npz"], "no finite numbers"), (["one.npz"], "nothing to tell apart"), (["few.npz"], "too few examples"),
        (["few.npz"], "Add --input rows"),
        (["few.npz", "wide.npz"], "different shapes"), (["verse.txt"], "neither .npz nor IDX"), (["missing.npz"], "no file"),
    ):  # fmt: skip
        kind = () if why.startswith("Add") else ("--input", "rows")
        done = run("train", "--task", "classify", *kind, *files, "--steps", "3")
        assert (done.code, done.out) == (65, ""), done.err
        assert why in done.err
    assert sorted(Path("checkpoints").rglob("*")) == before
    for name, values in (("large", X * np.float32(4e16)), ("tiny", np.full((4, 3, 2), 1e-44)), ("same", np.ones((4, 3, 2)))):
        Path(f"{name}.npz").write_bytes(npz(x=values, y=Y))
        done = run("train", "--task", "classify", "--input", "rows", f"{name}.npz", "--steps", "3", "--threads", "1")
        assert done.code == 0, done.err
        assert "loss nan" not in done.err


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**9), st.sampled_from(["npz", "idx"]), st.data())
def test_a_spoiled_file_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, seed: int, kind: str, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.getbasetemp()
    good = npz(x=X, y=Y) if kind == "npz" else idx(8, (4, 3, 2), bytes(range(24)))
    places = data.draw(st.lists(st.integers(0, len(good) - 1), min_size=1, max_size=4))
    changed = bytearray(good)
    for place in places:
        changed[place] = (seed + place * 7919) % 256
    try:
        found = (
            read(tmp_path, evil=bytes(changed), labels=idx(8, (4,), bytes(4)))
            if kind == "idx"
            else read(tmp_path, evil=bytes(changed))
        )
    except CorpusError:
        return
    assert found.rows.dtype == np.float32
    assert len(found.rows) == len(found.labels)


@pytest.mark.parametrize("claim", ["(4, 3, 2)", "(50000000,)", "(1000000, 50)"])
def test_a_bomb_takes_little_memory(claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that unpacks to a hundred times what may be: that is never all held, whatever its header says."""
    monkeypatch.setattr(arrays, "MOST_BYTES", 1 << 20)
    x = npy("'|u1'", claim, bytes(50_000_000))
    bombs = (zipped(x), lying(zipped(x)), gzip.compress(idx(8, (50_000, 10, 100), bytes(50_000_000))))
    del x
    for bomb in bombs:
        tracemalloc.start()
        refused(tmp_path, evil=bomb)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
        tracemalloc.stop()


def lying(data: bytes) -> bytes:
    """The archive with small sizes in its directory, in place of those that are true."""
    place = data.index(b"PK\x01\x02")
    return data[: place + 24] + struct.pack("<I", 24 + 128) + data[place + 28 :]


def test_bytes_that_would_be_too_many_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "MOST_BYTES", 1000)
    refused(tmp_path, "at most 250", evil=idx(8, (4, 10, 20), bytes(800)))


def test_a_hostile_file_ends_no_process(tmp_path: Path) -> None:
    """In a child of bounded memory, through the command line: 65, no traceback, for some of each kind."""
    from hostile import ran

    from charrnn.training import job  # noqa: F401 - imported once, and not by each child

    def look(name: str, data: bytes) -> str:
        Path("evil.npz").write_bytes(data)
        code, out, err = ran("train", "--task", "classify", "--input", "rows", "evil.npz", "--steps", "2")
        wrong = code != 65 or out or "Traceback" in err or Path("canary").exists() or Path("checkpoints").exists()
        return f"{code} {out} {err}" if wrong else ""

    assert complaints(CASES[::6], look, tmp_path, 50) == []
