"""A SentencePiece model as bytes: read strictly, and written anew for the C++ that will run it.

A model out of a file is untrusted, and loaders of such files have been made to crash (CVE-2026-1260; SentencePiece's
issues 1263 and 1269). So none of its bytes reach the library: what is read here is a bounded list of pieces, each checked;
what the library gets is a message made here of those pieces, with settings that stand in this file. Knows the two
messages of sentencepiece_model.proto it needs, in the wire format of protocol buffers; knows nothing of tokenizing.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from charrnn.errors import TokenizerError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # kinds of pieces; 5, unused, is none of ours
KINDS = {"unigram": 1, "bpe": 2}
MAX_MODEL_BYTES = 32 << 20
MAX_PIECES = 200_000
MAX_PIECE_BYTES = 256  # SentencePiece's trainer makes pieces of up to 16 characters; its loader recurses along a piece
MAX_SCORE = 1e6
_PIECES, _TRAINER, _NORMALIZER, _DENORMALIZER = 1, 2, 3, 5  # fields of the model
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class Piece:
    """One piece: its text, its score (log-probability or minus its rank) and its kind."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Field:
    """One field of a message: a number as it stands (floats as their bits), or bytes."""

    number: int
    wire: int
    value: int
    content: bytes = b""


def read(data: bytes) -> tuple[str, list[Piece]]:
    """The kind ("unigram", "bpe") and the pieces of a model; raises TokenizerError if it is not one that could be ours."""
    if not 0 < len(data) <= MAX_MODEL_BYTES:
        raise foreign(f"it has {len(data):,} bytes")
    pieces: list[Piece] = []
    kind = "unigram"
    for field in _fields(data):
        if field.number == _PIECES:
            pieces.append(_piece(field))
            if len(pieces) > MAX_PIECES:
                raise foreign(f"it has more than {MAX_PIECES:,} pieces")
        elif field.number == _TRAINER:
            kind = _kind(field.content)
        elif field.number in (_NORMALIZER, _DENORMALIZER):
            _check_normalizer(field)
    return kind, pieces


def write(kind: str, pieces: Sequence[Piece]) -> bytes:
    """A model of these pieces that changes nothing in a text and spells in bytes what has no piece."""
    messages = [_bytes_field(_PIECES, _piece_message(piece)) for piece in pieces]
    ids = b"".join(_number_field(field, number) for field, number in ((40, 3), (41, 1), (42, 2), (43, 0)))  # unk bos eos pad
    names = b"".join(_bytes_field(45 + place, name) for place, name in enumerate((b"<unk>", b"<bos>", b"<eos>", b"<pad>")))
    trainer = _number_field(3, KINDS[kind]) + _number_field(35, 1) + ids + names  # 35: byte fallback
    normalizer = _bytes_field(1, b"identity") + _number_field(3, 0) + _number_field(4, 0) + _number_field(5, 1)
    return b"".join([*messages, _bytes_field(_TRAINER, trainer), _bytes_field(_NORMALIZER, normalizer)])


def foreign(why: str) -> TokenizerError:
    """The error for a model that cannot be ours."""
    return TokenizerError(f"the SentencePiece model is damaged or not one of charrnn's: {why}.", "Use another copy of the file.")


def _piece(field: Field) -> Piece:
    content, score, kind = b"", 0.0, NORMAL
    for inner in _fields(field.content):
        if (inner.number, inner.wire) == (1, _LENGTH):
            content = inner.content
        elif (inner.number, inner.wire) == (2, _FOUR_BYTES):
            score = struct.unpack("<f", struct.pack("<I", inner.value))[0]
        elif (inner.number, inner.wire) == (3, _VARINT):
            kind = inner.value
        else:
            raise foreign("a piece of it has a field of no known kind")
    if not 0 < len(content) <= MAX_PIECE_BYTES or b"\0" in content:
        raise foreign(f"a piece of it has {len(content):,} bytes" if b"\0" not in content else "a piece of it holds a NUL")
    if not math.isfinite(score) or abs(score) > MAX_SCORE or kind not in (NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE):
        raise foreign("a piece of it has an impossible score or kind")
    try:
        return Piece(content.decode("utf-8"), score, kind)
    except UnicodeDecodeError as error:
        raise foreign("a piece of it is no text") from error


def _check_normalizer(field: Field) -> None:
    """It must leave a text as it is: no table of its own, no space put before it, none taken away."""
    inner = {one.number: one for one in _fields(field.content)}
    if 2 in inner and inner[2].content:
        raise foreign("it brings a normaliser")
    if field.number == _NORMALIZER and any(number not in inner or inner[number].value for number in (3, 4)):
        raise foreign("it does not give text back as it was")


def _kind(trainer: bytes) -> str:
    number = next((field.value for field in _fields(trainer) if (field.number, field.wire) == (3, _VARINT)), KINDS["unigram"])
    for name, known in KINDS.items():
        if number == known:
            return name
    raise foreign("it is neither a unigram nor a BPE model")


def _fields(data: bytes) -> Iterator[Field]:
    """The fields of a message; raises TokenizerError if it is malformed."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire, value, length = tag & 7, 0, 0
        if wire == _VARINT:
            value, position = _varint(data, position)
        elif wire == _LENGTH:
            length, position = _varint(data, position)
        elif wire in (_FOUR_BYTES, _EIGHT_BYTES):
            length = 4 if wire == _FOUR_BYTES else 8
        else:
            raise foreign("it has a field of no known kind")
        if position + length > len(data):
            raise foreign("it ends too early")
        content = data[position : position + length]
        position += length
        if wire == _LENGTH:
            yield Field(tag >> 3, wire, 0, content)
        else:
            yield Field(tag >> 3, wire, value if wire == _VARINT else int.from_bytes(content, "little"))


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        value |= (data[position] & 0x7F) << shift
        position += 1
        if data[position - 1] < 0x80:
            return value, position
    raise foreign("it holds a number without an end")


def _piece_message(piece: Piece) -> bytes:
    score = _tag(2, _FOUR_BYTES) + struct.pack("<f", piece.score)
    return _bytes_field(1, piece.text.encode("utf-8")) + score + _number_field(3, piece.kind)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _tag(number, _LENGTH) + _encoded(len(content)) + content


def _number_field(number: int, value: int) -> bytes:
    return _tag(number, _VARINT) + _encoded(value)


def _tag(number: int, wire: int) -> bytes:
    return _encoded(number << 3 | wire)


def _encoded(value: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
