"""Checkpoint files made to do harm: foreign formats, lies about sizes, and documents resealed with a right checksum.

A checksum keeps accidents out, not people: whoever wrote a file can seal it. So most of these are sealed.
Also how a command is tried on one: in a child with 10 seconds and 2 GiB, so that a crash is a finding with a name.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import pickle
import signal
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import toy
from forked import forked
from numpy.typing import NDArray

from charrnn.cli import main
from charrnn.config import ModelConfig
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.text.tokenizers import Tokenizer
from charrnn.weights import weight_shapes

ZEROS = "0" * 64
MARK = b'\\"checksum\\":\\"'
ESCAPES = "\x1b[2J\x1b]52;c;cm0gLXJmIH4=\x07\x9b31m\u202e\r\x00[/INST][red]"
DEEP = 100_000
ODD = "odd"  # the prefix of files that are valid, if not as one would write them

MEMORY, SECONDS = 2 << 30, 10  # for a child, for a case
Change = Callable[[dict[str, Any]], object]


@dataclass(frozen=True)
class Parts:
    """A checkpoint file taken apart: entries of the tensors, the document of the metadata, and the tensors' bytes."""

    entries: dict[str, Any]
    document: dict[str, Any]
    body: bytes


def apart(data: bytes) -> Parts:
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    document = json.loads(header.pop("__metadata__")["charrnn"])
    return Parts(header, {**document, "checksum": ZEROS}, data[8 + length :])


def compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def entries_text(parts: Parts) -> str:
    return compact(parts.entries)[1:-1]


def together(parts: Parts) -> bytes:
    return from_text(compact(parts.document), entries_text(parts), parts.body)


def from_text(document: str, entries: str, body: bytes, before: str = "") -> bytes:
    """A file with a right checksum of JSON that is given as text, so that it can say what no object can."""
    return from_header(f'{{{before}"__metadata__":{{"charrnn":{json.dumps(document)}}},{entries}}}'.encode(), body)


def from_header(header: bytes, body: bytes) -> bytes:
    return sealed(struct.pack("<Q", len(header)) + header + body)


def sealed(data: bytes) -> bytes:
    """`data` with the checksum that is right for it, if it has a place for one."""
    place = data.find(MARK) + len(MARK)
    if place < len(MARK):
        return data
    zeroed = data[:place] + ZEROS.encode() + data[place + 64 :]
    return zeroed[:place] + hashlib.sha256(zeroed).hexdigest().encode() + zeroed[place + 64 :]


def shape(units: Tokenizer, cell: str = "lstm") -> ModelConfig:
    return ModelConfig(cell=cell, vocab_size=units.vocab_size, embedding_size=8, hidden_size=16, layers=2)


def model_bytes(kind: str = "char", cell: str = "lstm", scale: float = 1.0) -> bytes:
    """A good model file, small, of any tokenizer and cell."""
    units = toy.tokenizer(kind)
    config, generator = shape(units, cell), np.random.Generator(np.random.PCG64(5))
    weights = {name: (scale * generator.standard_normal(size)).astype(np.float32) for name, size in weight_shapes(config).items()}
    about = {"name": "toy", "start": [5], "saved": 1_700_000_000, "provenance": {"corpus": {"names": ["toy.txt"]}, "scores": {}}}
    return checkpoint.encode(runs.describe(config, units, about), {**weights, **units.tensors()})


def files(good: bytes, canary: Path) -> dict[str, bytes]:
    """All of them by name; one that is believed makes a file `canary`."""
    parts = apart(good)
    groups = (foreign(canary), polyglots(good, canary), headers(parts), entries(parts), documents(parts), odd(parts))
    return {name: data for group in groups for name, data in group}


class Payload:
    """What its pickle does to who loads it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def archive(canary: Path) -> bytes:
    """As torch.save writes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Payload(canary)))
        file.writestr("archive/version", "3\n")
    return buffer.getvalue()


def array_of_objects(canary: Path) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(canary)], object), allow_pickle=True)
    return buffer.getvalue()


def foreign(canary: Path) -> Iterator[tuple[str, bytes]]:
    """What is no checkpoint at all."""
    for protocol in (0, 2, 5):
        yield f"pickle of protocol {protocol}", pickle.dumps(Payload(canary), protocol)
    yield "torch zip", archive(canary)
    yield "NumPy array of objects", array_of_objects(canary)
    yield "GGUF", b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63) + bytes(64)
    yield "HDF5", b"\x89HDF\r\n\x1a\n" + bytes(200)
    yield "ELF", b"\x7fELF\x02\x01\x01" + bytes(200)
    yield "script", f"#!/bin/sh\ntouch {canary}\n".encode()
    yield "YAML", f"!!python/object/apply:os.system ['touch {canary}']\n".encode()
    yield "gzip", gzip.compress(bytes(100_000))
    yield "session", compact({"charrnn_session": 2, "model": {}, "nodes": []}).encode()
    yield "nothing", b""
    yield "seven bytes", b"\x02\0\0\0\0\0\0"
    yield "zeros", bytes(4096)
    yield "ones", b"\xff" * 4096


def polyglots(good: bytes, canary: Path) -> Iterator[tuple[str, bytes]]:
    """Good files that are something else as well."""
    yield "zip behind", good + archive(canary)
    yield "zip behind, sealed", sealed(good + archive(canary))
    yield "zip before", archive(canary) + good
    yield "pickle before", pickle.dumps(Payload(canary)) + good
    parts, extra = apart(good), pickle.dumps(Payload(canary))
    end = len(parts.body)
    entry = {"dtype": "U8", "shape": [len(extra)], "data_offsets": [end, end + len(extra)]}
    yield "pickle as a tensor", together(Parts({**parts.entries, "extra": entry}, parts.document, parts.body + extra))
    yield "pickle as the alphabet", together(with_tensor(parts, "tokenizer.alphabet", np.frombuffer(extra, np.uint8)))


def headers(parts: Parts) -> Iterator[tuple[str, bytes]]:
    """Headers that lie about their size, or that are no JSON as it should be."""
    good, names, document = together(parts), entries_text(parts), compact(parts.document)
    for length in (0, 1, len(good), (16 << 20) + 1, 2**63, 2**64 - 1):
        yield f"header of {length} bytes", struct.pack("<Q", length) + good[8:]
    yield "deep header", from_header(b"[" * DEEP, b"")
    yield "deep objects", from_header(b'{"a":' * DEEP + b"1" + b"}" * DEEP, b"")
    yield "deep document", from_text(document[:-1] + ',"x":' + "[" * DEEP + "]" * DEEP + "}", names, parts.body)
    first = next(iter(parts.entries))
    again = f"{json.dumps(first)}:{compact(parts.entries[first])}"
    yield "tensor named twice", from_text(document, f"{names},{again}", parts.body)
    escaped = again.replace(first[0], f"\\u{ord(first[0]):04x}", 1)
    yield "tensor named twice, escaped", from_text(document, f"{names},{escaped}", parts.body)
    yield "two shapes", from_text(document, names.replace('"shape":', '"shape":[1],"shape":', 1), parts.body)
    yield "two documents", from_text(document, names, parts.body, before='"__metadata__":{},')
    yield "two configurations", from_text(document[:-1] + ',"model":{}}', names, parts.body)
    yield "two widths", from_text(document.replace('"hidden_size":', '"hidden_size":4,"hidden_size":', 1), names, parts.body)
    for number in ("NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "-" + "9" * 400):
        yield f"number {number[:9]}", from_text(f'{document[:-1]},"saved":{number}}}', names, parts.body)
        yield f"shape of {number[:9]}", from_text(document, f'{names},"x":{{"shape":[{number}]}}', parts.body)
    text = good[8 : len(good) - len(parts.body)]
    yield "header of UTF-16", from_header(text.decode().encode("utf-16"), parts.body)
    yield "byte order mark", from_header(b"\xef\xbb\xbf" + text, parts.body)
    yield "half a character", from_header(text[:-1] + b',"\xff\xfe":0}', parts.body)
    yield "surrogate in bytes", from_header(text[:-1] + b',"\xed\xa0\x80":0}', parts.body)
    yield "JSON and more", from_header(text + b"{}", parts.body)
    yield "document that is a list", from_text(f"[{document}]", names, parts.body)
    yield "no document", from_header(b"{" + names.encode() + b"}", parts.body)


def with_tensor(parts: Parts, name: str, array: NDArray[Any]) -> Parts:
    """With this tensor in the place of the one so called, or behind the others; everything else is as it should be."""
    arrays = checkpoint.decode(together(parts), "x").tensors | {name: array}
    return replace(apart(checkpoint.encode({}, arrays)), document=parts.document)


def with_entry(parts: Parts, name: str, **changes: Any) -> bytes:
    return together(replace(parts, entries={**parts.entries, name: {**parts.entries[name], **changes}}))


def entries(parts: Parts) -> Iterator[tuple[str, bytes]]:
    """Tensors with names, sizes and contents that they should not have."""
    first, last = "output.bias", max(parts.entries, key=lambda name: int(parts.entries[name]["data_offsets"][1]))
    extra = with_tensor(parts, "zz", np.zeros(1, np.float32))
    for name in ("../../../etc/passwd", "/dev/stdin", ESCAPES, "\0", "", "\ud800", "x" * 1_000_000, "__class__", "average/"):
        yield f"tensor {name[:20]!r}", together(_renamed(extra, "zz", name))
    begin, end = parts.entries[first]["data_offsets"]
    yield "tensor of 2**60 bytes", with_entry(parts, last, shape=[2**58], data_offsets=[0, 2**60])
    yield "shape beyond its bytes", with_entry(parts, first, shape=[2**31, 2**31])
    yield "shape of nothing and much", with_entry(parts, first, shape=[0, 2**34, 2**34])
    yield "nine sides", with_entry(parts, first, shape=[1] * 8 + [(end - begin) // 4])
    yield "shape of truth", with_entry(parts, first, shape=[True, (end - begin) // 4])
    yield "shape that is a text", with_entry(parts, first, shape="35")
    yield "negative shape", with_entry(parts, first, shape=[-1, -((end - begin) // 4)])
    yield "offsets the wrong way", with_entry(parts, first, data_offsets=[end, begin])
    yield "offsets beyond the end", with_entry(parts, last, data_offsets=[len(parts.body), len(parts.body) + 4])
    yield "two in one place", with_entry(parts, last, data_offsets=[begin, end], shape=parts.entries[first]["shape"])
    for dtype in ("O", "BF16", "F8_E4M3", "|O", "<f4", "object", ["F32"], None, {}):
        yield f"type {dtype!r}", with_entry(parts, first, dtype=dtype)
    for name, value in (("NaN", np.nan), ("infinity", -np.inf), ("2e6", 2e6), ("-3e38", -3e38)):
        bias = np.zeros(parts.entries[first]["shape"], np.float32)
        bias[0] = value
        yield f"weight of {name}", together(with_tensor(parts, first, bias))
    alphabet = np.arange(97, 97 + parts.entries["tokenizer.alphabet"]["shape"][0], dtype=np.uint32)
    for name, letters in (
        ("backwards", alphabet[::-1]), ("of one letter", alphabet * 0 + 97), ("of surrogates", alphabet + 0xD800),
        ("beyond Unicode", alphabet + 0x110000), ("in two rows", alphabet[:30].reshape(2, 15)), ("of floats", alphabet * 1.0),
        ("too long", np.append(alphabet, np.uint32(5000))), ("of none", alphabet[:0]), ("at the end of numbers", alphabet - 98),
    ):  # fmt: skip
        yield f"alphabet {name}", together(with_tensor(parts, "tokenizer.alphabet", letters))


def _renamed(parts: Parts, old: str, new: str) -> Parts:
    return replace(parts, entries={new if name == old else name: entry for name, entry in parts.entries.items()})


def with_document(parts: Parts, change: Change) -> bytes:
    document = json.loads(compact(parts.document))
    change(document)
    return together(replace(parts, document=document))


def documents(parts: Parts) -> Iterator[tuple[str, bytes]]:
    """Documents that describe what cannot be."""
    for field, value in (
        ("hidden_size", 10**9), ("hidden_size", 1e9), ("hidden_size", 1e300), ("hidden_size", True), ("hidden_size", -1),
        ("hidden_size", "256"), ("hidden_size", None), ("hidden_size", [256]), ("hidden_size", 65536), ("layers", 64),
        ("layers", 0), ("layers", {"a": 1}), ("vocab_size", 4), ("vocab_size", 10**6), ("cell", "../lstm"), ("cell", ["lstm"]),
        ("cell", "rnn"), ("task", ESCAPES), ("embedding", "onehot"), ("tie_weights", True), ("tie_weights", 1),
        ("nonlinearity", "os.system"), ("__class__", "os"), (ESCAPES, ESCAPES), ("x" * 1_000_000, 1), ("\ud800", 1), ("", 0),
    ):  # fmt: skip
        yield f"{field[:20]!r} is {value!r:.20}", with_document(parts, lambda d, f=field, v=value: d["model"].update({f: v}))  # type: ignore[misc]
    for depth in (100, 400, 900):
        deep: Any = []
        for _ in range(depth):
            deep = {"x": deep}
        yield f"provenance {depth} deep", with_document(parts, lambda d, v=deep: d.update(provenance=v))  # type: ignore[misc]
    giant = {"hidden_size": 65536, "layers": 64, "vocab_size": 10**6, "embedding_size": 65536}
    document = {**parts.document, "model": {**parts.document["model"], **giant}}
    yield "giant without tensors", from_text(compact(document), '"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}', b"")
    for value in ([], None, "lstm", 7, [["cell", "lstm"]]):
        yield f"model is {value!r}", with_document(parts, lambda d, v=value: d.update(model=v))  # type: ignore[misc]
    for value in ([], None, "ab", [-1], [True], [1.0], [10**18], [35], ["5"], [[5]], [5] * 1001, {"0": 5}):
        yield f"start is {value!r:.20}", with_document(parts, lambda d, v=value: d.update(start=v))  # type: ignore[misc]
    for value in ("byte", "subword", "../char", ESCAPES, None, 5, ["char"], {"kind": "char"}, "x" * 1_000_000):
        yield f"tokenizer is {value!r:.20}", with_document(parts, lambda d, v=value: d.update(tokenizer=v))  # type: ignore[misc]
    for value in (0, 2, -1, True, 1.0, "1", None, [1], 10**17):
        yield f"format is {value!r}", with_document(parts, lambda d, v=value: d.update(format=v))  # type: ignore[misc]
    good = together(parts)
    place = good.find(MARK) + len(MARK)
    yield "checksum of nothing", good[:place] + ZEROS.encode() + good[place + 64 :]
    for value in ("", "é" * 64, None, 5):
        changed = replace(parts, document={**parts.document, "checksum": value})
        yield f"checksum is {value!r:.9}", from_text(compact(changed.document), entries_text(changed), changed.body)


def odd(parts: Parts) -> Iterator[tuple[str, bytes]]:
    """Files that are what they should be, but that say strange things of themselves: they may be used."""
    deep: Any = "bottom"
    for _ in range(20):
        deep = {ESCAPES: [deep]}
    for value in (
        [], None, 5, ESCAPES, {ESCAPES: ESCAPES}, {"corpus": 5, "scores": [], "settings": "x", "split": None}, {"deep": deep},
        {"corpus": {"digest": ESCAPES, "names": {"a": 1}}, "split": {"train_characters": -5}}, {"\ud800": "\udfff"},
        {"scores": {"step": True, "loss": "0", "bits_per_character": 10**17}}, {"x": list(range(10_000))}, {"": {"": {}}},
    ):  # fmt: skip
        yield f"{ODD} provenance {value!r:.30}", with_document(parts, lambda d, v=value: d.update(provenance=v))  # type: ignore[misc]
    for name in (ESCAPES, "../../etc/passwd", "", "-rf", "\ud800", "x" * 100_000, 5, None, ["toy"], "$(touch x)"):
        yield f"{ODD} name {name!r:.30}", with_document(parts, lambda d, n=name: d.update(name=n))  # type: ignore[misc]
    for saved in (-1, 1e300, True, "now", None, [], 10**17):
        yield f"{ODD} date {saved!r}", with_document(parts, lambda d, s=saved: d.update(saved=s))  # type: ignore[misc]
    elsewhere = {"sources": ["/etc/passwd"], "path": "/etc/shadow", "$ref": "file:///etc/passwd", "resume": {"sources": ["/x"]}}
    yield f"{ODD} names of other files", with_document(parts, lambda d: d.update(elsewhere))
    for name in ("output.bias", "layers.0.weight_hh", "embedding.weight", "layers.1.bias_ih"):
        for value in (1e6, -1e6, 0.0, 1e-45):
            full = np.full(parts.entries[name]["shape"], value, np.float32)
            yield f"{ODD} weights of {value} {name}", together(with_tensor(parts, name, full))
    every = {name: np.full(entry["shape"], 1e6, np.float32) for name, entry in parts.entries.items() if "weight" in name}
    large = parts
    for name, array in every.items():
        large = with_tensor(large, name, array)
    yield f"{ODD} weights of 1e6 everywhere", together(large)


def ran(*arguments: str) -> tuple[int, str, str]:
    """A command in this process, its streams caught: exit code, stdout, stderr. Whatever it raises is raised."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as main.main has it
        code = main.run(arguments)
    said = [stream.buffer.getvalue().decode("utf-8") for stream in (out, err)]  # type: ignore[attr-defined]
    return code, said[0], said[1]


def complaints(cases: Sequence[tuple[str, bytes]], look: Callable[[str, bytes], str], folder: Path, together: int) -> list[str]:
    """What is wrong with the cases, by name: what `look` says of each in a child in `folder`, or how the child ended."""
    found: list[str] = []
    for start in range(0, len(cases), together):

        def work(chosen: Sequence[tuple[str, bytes]] = cases[start : start + together]) -> int:
            os.chdir(folder)
            for name, data in chosen:
                os.write(1, ascii(name).encode() + b"\t")  # at once: the last name is that of the case that ends the child
                signal.alarm(SECONDS)
                os.write(1, ascii(look(name, data))[1:-1].encode() + b"\n")
            return 0

        ended = forked(work, memory=_taken() + MEMORY, seconds=SECONDS * (together + 1))
        lines = [line.partition("\t") for line in ended.out.decode("ascii").splitlines()]
        found += [f"{name}: {said}" for name, _, said in lines if said]
        if ended.code or not ended.calm:
            found.append(f"{lines[-1][0]}: ended with {ended.code}, {ended.err.decode('utf-8', 'replace')[-1500:]}")
    return found


def _taken() -> int:
    """The address space that this process has taken already; torch's libraries are much of it, if they are loaded."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGESIZE") if statm.exists() else MEMORY
