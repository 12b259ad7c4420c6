"""Checkpoints with something changed in them, at random but repeatably: refused or used, never a crash.

A case is its number: `python -c "import test_fuzz; test_fuzz.write(1234)"` in this folder writes its file. Half of what is
changed blindly and all that is changed with sense is sealed again, or nothing but the checksum would be tried.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import hostile
import numpy as np
import pytest
from hostile import Parts, apart, complaints, ran, sealed, together

RUN = Path(__file__).parent / "golden" / "format-1"
KINDS, CELLS = ("char", "byte", "subword"), ("lstm", "gru")
REFUSED, USAGE = 65, 2
FOLDER = Path("checkpoints/evil")
LAST, MODEL = "last.safetensors", "model.safetensors"
STRANGE = (
    None, True, False, 0, 1, -1, 2, 4, 255, 2**16, 10**9, 2**31, 2**53, 10**17, 0.5, -0.0, 1e300, 1e-300, "", "x", "lstm", "char",
    "../../etc/passwd", hostile.ESCAPES, "\ud800", "\0", [], {}, [[]], [0], [-1], [None], {"": {}}, "9" * 400, ["x"] * 300,
)  # fmt: skip
DTYPES = {"F64": 8, "F32": 4, "F16": 2, "I64": 8, "I32": 4, "U64": 8, "U32": 4, "U8": 1}
SPECIAL = (float("nan"), float("inf"), -float("inf"), 1e6, -1e6, 3e38, 1e-45, 0.0)
LARGE = (1e6, -1e6, 1e3, -1e3, 1e-45, 0.0)  # but numbers that a weight may be
NAMED = re.compile("evil")
FAILED = 1  # training has diverged
Change = Callable[[random.Random, Parts], Parts]


@functools.cache
def good(kind: str, cell: str, last: bool) -> bytes:
    """The file that is changed; a last save has its weights as averages, and among others."""
    data = hostile.model_bytes(kind, cell)
    if not last:
        return data
    parts = apart(data)
    names = {name: name if name.startswith("tokenizer.") else f"average/{name}" for name in parts.entries}
    parts = replace(parts, entries={names[name]: entry for name, entry in parts.entries.items()})
    parts.document["resume"] = apart((RUN / LAST).read_bytes()).document["resume"]
    return together(hostile.with_tensor(parts, "state/0", np.zeros((8, 16), np.float32)))


def chosen(seed: int) -> tuple[random.Random, bytes, str]:
    """The generator of a case, the file that it changes, and what that is called."""
    generator = random.Random(seed)
    kind, cell, last = KINDS[seed % 3], CELLS[seed // 3 % 2], generator.random() < 0.3
    return generator, good(kind, cell, last), LAST if last else MODEL


def changed(generator: random.Random, data: bytes) -> bytes:
    """`data` with one to three changes of one kind: of bytes, or of what they mean."""
    if generator.random() < 0.3:
        for _ in range(generator.randint(1, 3)):
            data = blind(generator, data)
        return sealed(data) if generator.random() < 0.5 else data
    parts = apart(data)
    changes = [change for change in CHANGES if change is not protocol or SENTENCEPIECE in parts.entries]
    for _ in range(generator.randint(1, 3)):
        parts = generator.choice(changes)(generator, copy.deepcopy(parts))
    return torn(generator, parts) if generator.random() < 0.1 else together(parts)


def blind(generator: random.Random, data: bytes) -> bytes:
    """Bytes flipped, overwritten, left out, put in, doubled or cut off; half of the time in the header."""
    header = 8 + int.from_bytes(data[:8], "little")
    end = max(1, min(header, len(data)) if generator.random() < 0.5 else len(data))
    place, length = generator.randrange(end), generator.choice([1, 2, 4, 8, 64, 500])
    before, piece, after = data[:place], data[place : place + length], data[place + length :]
    return generator.choice(
        [
            before + bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :] if data else b"",
            before + generator.randbytes(len(piece)) + after,
            before + generator.choice([b"\0", b"\xff", b'"', b"{", b"[", b"\\", b"9"]) * len(piece) + after,
            before + after,
            before + generator.randbytes(length) + piece + after,
            before + piece + piece + after,
            before,
            struct.pack("<Q", generator.choice([0, 1, header, 2**24, 2**63, len(data)])) + data[8:],
        ]
    )


def torn(generator: random.Random, parts: Parts) -> bytes:
    """The file with a key twice, or with JSON that no object gives."""
    document, entries = hostile.compact(parts.document), hostile.entries_text(parts)
    keys = [*parts.document, *parts.entries]
    more = generator.choice(
        [f'"{generator.choice(keys)}":{{}}', '"x":NaN', '"x":1e999', '"x":' + "[" * 300, '"\\ud800":-0', '"x":01']
    )
    if generator.random() < 0.5:
        return hostile.from_text(f"{document[:-1]},{more}}}", entries, parts.body)
    return hostile.from_text(document, f"{entries},{more}", parts.body)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a JSON value: what holds it, and its key or index."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def said_otherwise(generator: random.Random, parts: Parts) -> Parts:
    """One value of the header replaced, left out, moved, nested, renamed or a little off."""
    side = parts.document if generator.random() < 0.7 else parts.entries
    holder, key = generator.choice(list(places(side)))
    other, from_key = generator.choice(list(places(side)))
    value, kind = holder[key], generator.randrange(7)
    if kind == 0 and isinstance(holder, dict):
        del holder[key]
    elif kind == 1:
        holder[key] = copy.deepcopy(other[from_key])
    elif kind == 2:
        holder[key] = generator.choice([[value], {"x": value}, [value, value]])
    elif kind == 3 and isinstance(holder, dict):
        holder[generator.choice(["x", "", hostile.ESCAPES, f"{key}s", str(key).upper()])] = value
    elif isinstance(value, int | float) and kind < 6:
        holder[key] = generator.choice(
            [value + 1, value - 1, -value, 2 * value, value * 10**6, value + 0.5, str(value), bool(value)]
        )
    else:
        holder[key] = generator.choice(STRANGE)
    return parts


def tensors_otherwise(generator: random.Random, parts: Parts) -> Parts:
    """A tensor of another type or shape that has as many bytes; or two that change places, or names."""
    name, other = generator.choice(list(parts.entries)), generator.choice(list(parts.entries))
    entry = parts.entries[name]
    size = entry["data_offsets"][1] - entry["data_offsets"][0] if _proper(entry) else 0
    kind = generator.randrange(5)
    if kind == 0:
        dtype = generator.choice(list(DTYPES))
        entry.update(dtype=dtype, shape=[size // DTYPES[dtype]])
    elif kind == 1 and isinstance(entry.get("shape"), list):
        entry["shape"] = generator.choice([entry["shape"][::-1], [1, *entry["shape"]], [*entry["shape"], 1], [0], []])
    elif kind == 2:
        parts.entries[name], parts.entries[other] = parts.entries[other], entry
    elif kind == 3:
        parts.entries[generator.choice(["average/" + name, "tokenizer." + name, name.removeprefix("average/")])] = (
            parts.entries.pop(name)
        )
    elif _proper(entry):
        begin, end = entry["data_offsets"]
        step = generator.choice([-4, -1, 1, 4, size])
        entry["data_offsets"] = generator.choice([[begin + step, end + step], [begin, end + step], [end, begin]])
    return parts


def _proper(entry: Any) -> bool:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return isinstance(offsets, list) and len(offsets) == 2 and all(isinstance(one, int) for one in offsets)


def weights_otherwise(generator: random.Random, parts: Parts) -> Parts:
    """Some numbers of the body replaced by the largest, the smallest and those that are none; or by random bits."""
    body, numbers = bytearray(parts.body), generator.choice([SPECIAL, LARGE, LARGE, ()])
    for _ in range(generator.choice([1, 10, 300])):
        place = 4 * generator.randrange(len(body) // 4)
        value = struct.pack("<f", generator.choice(numbers)) if numbers else generator.randbytes(4)
        body[place : place + 4] = value
    return replace(parts, body=bytes(body))


SENTENCEPIECE = "tokenizer.sentencepiece"
Field = tuple[int, int | bytes]  # tag (number and wire type), and value


def fields(data: bytes) -> list[Field]:
    """A protocol buffer taken apart; raises IndexError or ValueError if it is none."""
    found: list[Field] = []
    place = 0

    def varint() -> int:
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = data[place]
            place, value, shift = place + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while place < len(data):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag, varint()))
            continue
        length = {1: 8, 5: 4}[tag & 7] if tag & 7 != 2 else varint()
        if place + length > len(data):
            raise ValueError("too short")
        found.append((tag, data[place : place + length]))
        place += length
    return found


def joined(parts: Sequence[Field]) -> bytes:
    """The protocol buffer of these fields."""
    result = bytearray()
    for tag, value in parts:
        result += _varint(tag)
        if isinstance(value, int):
            result += _varint(value)
        else:
            result += (_varint(len(value)) if tag & 7 == 2 else b"") + value
    return bytes(result)


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def protocol(generator: random.Random, parts: Parts) -> Parts:
    """The SentencePiece model with a field of it, or of a field of it, changed; the file fits it."""
    entry = parts.entries.get(SENTENCEPIECE)
    if not _proper(entry):
        return parts
    begin, end = entry["data_offsets"]
    try:
        model = message_otherwise(generator, parts.body[begin:end], 2)
    except (LookupError, ValueError):  # an earlier change has spoilt it
        return parts
    longer = begin + len(model) - end
    for other in filter(_proper, parts.entries.values()):
        other["data_offsets"] = [one + longer if one >= end else one for one in other["data_offsets"]]
    entry.update(shape=[len(model)], data_offsets=[begin, begin + len(model)])
    return replace(parts, body=parts.body[:begin] + model + parts.body[end:])


def message_otherwise(generator: random.Random, data: bytes, depth: int) -> bytes:
    found = fields(data)
    index = generator.randrange(len(found))
    tag, value = found[index]
    kind = generator.randrange(8)
    if kind < 4 and depth and tag & 7 == 2 and isinstance(value, bytes) and value:
        try:
            found[index] = (tag, message_otherwise(generator, value, depth - 1))
        except (LookupError, ValueError):
            found[index] = (tag, generator.choice([b"", value + value, value[::-1], b"\xff\xfe", b"\0", "▁".encode(), b"<0x41>"]))
    elif kind == 4:
        del found[index]
    elif kind == 5:
        found.insert(generator.randrange(len(found) + 1), found[index])
    elif isinstance(value, int):
        found[index] = (tag, generator.choice([0, 1, 2, 3, 4, 5, 6, 7, 2**31, 2**32 - 1, 2**63, value + 1]))
    elif tag & 7 == 5:
        found[index] = (tag, struct.pack("<f", generator.choice(SPECIAL)))
    else:
        found[index] = generator.choice(
            [(tag, generator.randbytes(9)), (tag ^ generator.choice([8, 16, 24]), value), (tag, value[:3])]
        )
    return joined(found)


CHANGES: tuple[Change, ...] = (said_otherwise, said_otherwise, tensors_otherwise, weights_otherwise, protocol, protocol)


def write(seed: int) -> None:
    """Write the file of a case, to look at it."""
    generator, data, name = chosen(seed)
    Path(f"case-{seed}-{name}").write_bytes(changed(generator, data))


def place(data: bytes, file: str) -> None:
    """`data` as the only file of the run."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    (FOLDER / file).write_bytes(data)


def used(name: str, data: bytes, commands: Sequence[Sequence[str]], allowed: Sequence[int]) -> str:
    """What is wrong when these commands are used on a file; `name` ends with what it is called."""
    place(data, name.split()[-1])
    outcomes = [(command, ran(*command)) for command in commands]
    wrong = [
        (command, code, err) for command, (code, _, err) in outcomes if code not in allowed or "Traceback" in err or "\x1b" in err
    ]
    named = [(command, code, err) for command, (code, _, err) in outcomes if code == REFUSED and not NAMED.search(err)]
    return f"{[*wrong, *named]!r:.1000}" if wrong or named else ""


COMMANDS = (
    ("inspect", "evil", "--json"),
    ("sample", "evil", "--length", "20", "--seed", "1"), ("score", "evil", "the harbour"), ("runs",),
)  # fmt: skip
RESUME = (("train", "--resume", "evil", str(RUN / "harbour.txt"), "--steps", "242"),)


def case(seed: int) -> tuple[str, bytes]:
    generator, data, file = chosen(seed)
    return f"case {seed} {file}", changed(generator, data)


def resumed_case(seed: int) -> tuple[str, bytes]:
    generator = random.Random(seed)
    return f"case {seed} {LAST}", changed(generator, (RUN / LAST).read_bytes())


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What the commands import, imported before children are forked; and unchanged files are used."""
    with contextlib.chdir(tmp_path_factory.mktemp("good")):
        for kind, last in (("char", False), ("byte", True), ("subword", False)):
            assert used(LAST if last else MODEL, good(kind, "gru", last), COMMANDS, [0]) == ""


@pytest.fixture(scope="module")
def warm_training(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same for a run that is gone on with, in one thread."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.chdir(tmp_path_factory.mktemp("good")):
        assert used(LAST, (RUN / LAST).read_bytes(), RESUME, [0]) == ""
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    "first", [*range(0, 200, 50), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(10_000, 12_000, 50))]
)
def test_a_changed_file_is_refused_or_used(first: int, tmp_path: Path) -> None:
    cases = [case(seed) for seed in range(first, first + 50)]
    assert complaints(cases, lambda name, data: used(name, data, COMMANDS, [0, REFUSED]), tmp_path, 25) == []


@pytest.mark.usefixtures("warm_training")
@pytest.mark.parametrize("first", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(20_000, 20_400, 20))])
def test_a_changed_run_is_gone_on_with_or_refused(first: int, tmp_path: Path) -> None:
    """2 is a setting that this machine does not have, or a bound that is not longer; 1 weights that training cannot use."""
    cases = [resumed_case(seed) for seed in range(first, first + 20)]
    assert complaints(cases, lambda name, data: used(name, data, RESUME, [0, FAILED, REFUSED, USAGE]), tmp_path, 10) == []
