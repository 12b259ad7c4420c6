"""A corpus: what it holds (one pass), where it is split, and its tokens on disk (another pass).

Nothing here grows with the corpus but the table of its characters. Documents are what reading.py says they are; empty
ones do not count. Between two documents stands one <eos>, in the part of the split where the first of them ends; it is
no character, so that the split and every count are of text alone. Knows nothing of training.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ReadingConfig
from charrnn.errors import CorpusError
from charrnn.text import cache
from charrnn.text import reading as reading_room
from charrnn.text.sources import Source, find_sources, raw_digest, stem
from charrnn.text.subword import safe_cut
from charrnn.text.tokenizers import EOS, UNK, Tokenizer, code_points, well_formed

__all__ = ["Source", "Survey", "TokenData", "documents", "documents_of", "find_sources", "pieces", "raw_digest", "read_text",
           "split_position", "survey", "tokenize", "training_pieces", "training_text"]  # fmt: skip

FORMAT_VERSION = 1  # of the token arrays; part of the cache's key
GATHERED = 1 << 20  # characters counted at once
ENCODED = 1 << 16  # characters encoded at once, at least
SAMPLED = 1 << 14  # characters of a piece of the trainer's sample
SAMPLE_LIMIT = 5_000_000  # a vocabulary gains little from more, and this much takes some 10 s


@dataclass(frozen=True)
class Survey:
    """What one pass over a corpus found."""

    characters: int
    bytes: int  # of the text as UTF-8
    documents: int
    counts: Mapping[str, int]  # how often each character occurs
    digest: str  # see sources.raw_digest
    names: tuple[str, ...]  # base names of the files
    name: str  # for a run on this corpus


@dataclass(frozen=True)
class TokenData:
    """The tokens of a corpus, read-only and mapped from disk, and what they stand for.

    The arrays are uint8, uint16 or uint32 by the size of the vocabulary, (N,); `val` is empty without a validation
    part. `hidden` counts the characters that became <unk>; `notes` are for the user.
    """

    train: NDArray[np.unsignedinteger[Any]]
    val: NDArray[np.unsignedinteger[Any]]
    train_characters: int
    train_bytes: int
    train_hidden: int
    val_characters: int
    val_bytes: int
    val_hidden: int
    documents: int
    notes: tuple[str, ...] = ()


def pieces(sources: Sequence[Source], reading: ReadingConfig) -> Iterator[tuple[int, str]]:
    """The text of all sources as (document, piece of text), documents counted from 0, pieces never empty."""
    number = itertools.count(-1)
    document, last = next(number), None
    for place, source in enumerate(sources):
        for row, piece in reading_room.pieces(source, reading):
            if (place, row) != last:
                document, last = next(number), (place, row)
            yield document, piece


def survey(sources: Sequence[Source], reading: ReadingConfig) -> Survey:
    """Read everything once; raises CorpusError if something cannot be read or there is no text at all."""
    table = np.zeros(0x110000, np.int64)
    found = -1

    def texts() -> Iterator[str]:
        nonlocal found
        for document, piece in pieces(sources, reading):
            found = document
            yield piece

    for text in _gathered(texts()):
        counted = np.bincount(code_points(text))
        table[: len(counted)] += counted
    present = np.flatnonzero(table)
    if not len(present):
        raise CorpusError(f"{_named(sources)} holds no text.", "Give a text with something in it.")
    counts = {chr(code): int(table[code]) for code in present.tolist()}
    return Survey(
        characters=sum(counts.values()),
        bytes=sum(count * len(letter.encode("utf-8")) for letter, count in counts.items()),
        documents=found + 1,
        counts=counts,
        digest=raw_digest(sources),
        names=tuple(well_formed(source.path.name) for source in sources),
        name=well_formed(stem(sources)),
    )


def _named(sources: Sequence[Source]) -> str:
    return repr(sources[0].name) if len(sources) == 1 else f"none of the {len(sources)} files"


def _gathered(texts: Iterable[str]) -> Iterator[str]:
    """The same text in pieces of some size: rows are short, and a NumPy call on each would be slow."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= GATHERED:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


def split_position(characters: int, val_fraction: float) -> int:
    """How many characters are for training: int((1 - val_fraction) * characters), reckoned exactly in decimals."""
    return int((1 - Fraction(repr(float(val_fraction)))) * characters)


def _checked_split(survey: Survey, val_fraction: float) -> int:
    split = split_position(survey.characters, val_fraction)
    if val_fraction > 0 and not 0 < split < survey.characters:
        raise CorpusError(
            f"the text has {survey.characters:,} characters: too few to keep {val_fraction:g} of them for validation.",
            "Give a longer text, or --val-fraction 0 to train without validation.",
        )
    return split


def tokenize(
    sources: Sequence[Source],
    reading: ReadingConfig,
    tokenizer: Tokenizer,
    survey: Survey,
    val_fraction: float,
    cache_folder: Path | None = None,
) -> TokenData:
    """The tokens of both parts of the split, out of the cache or made now.

    Raises CorpusError if the text is too short to be split or is no longer what `survey` saw, WriteError if there is
    no room for the tokens.
    """
    split = _checked_split(survey, val_fraction)
    key = {
        "version": FORMAT_VERSION,
        "corpus": survey.digest,
        "formats": [f"{source.format}{' gz' if source.packed else ''}" for source in sources],
        "reading": asdict(reading),
        "tokenizer": tokenizer.digest(),
        "val_fraction": val_fraction,
    }
    make = lambda folder: _write_tokens(folder, sources, reading, tokenizer, survey, split)  # noqa: E731
    (arrays, facts), notes = cache.obtain(cache_folder, key, make)
    return TokenData(train=arrays["train"], val=arrays["val"], documents=survey.documents, notes=notes, **facts)


def _write_tokens(
    folder: Path, sources: Sequence[Source], reading: ReadingConfig, tokenizer: Tokenizer, survey: Survey, split: int
) -> dict[str, int]:
    """Write train.npy and val.npy into `folder`; returns the counts that TokenData has of them."""
    dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
    position, current = 0, 0
    with cache.TokenFile(folder / "train.npy", dtype) as first, cache.TokenFile(folder / "val.npy", dtype) as second:
        last = train = _Part(first, tokenizer)
        val = _Part(second, tokenizer)
        for document, text in pieces(sources, reading):
            if document != current:
                last.end_document()
                current = document
            before = min(max(split - position, 0), len(text))
            train.add(text[:before])
            val.add(text[before:])
            last = val if before < len(text) else train
            position += len(text)
        train.end()
        val.end()
    # A second look at the bytes: tokens of another text under this digest would haunt the cache.
    if position != survey.characters or raw_digest(sources) != survey.digest:
        raise CorpusError("the text changed while it was being read.", "Try again when nothing writes to it.")
    return {f"{name}_{what}": getattr(part, what) for name, part in (("train", train), ("val", val))
            for what in ("characters", "bytes", "hidden")}  # fmt: skip


class _Part:
    """One part of the split on its way to disk: text goes in, tokens come out, cut where a cut does no harm."""

    def __init__(self, file: cache.TokenFile, tokenizer: Tokenizer) -> None:
        self.characters = self.bytes = self.hidden = 0
        self._tokenizer = tokenizer
        self._pending = ""
        self._file = file

    def add(self, text: str) -> None:
        self._pending += text
        if len(self._pending) >= ENCODED:
            self._encode(safe_cut(self._pending))

    def end(self) -> None:
        self._encode(len(self._pending))

    def end_document(self) -> None:
        self.end()
        self._file.add(np.array([EOS]))

    def _encode(self, cut: int) -> None:
        text, self._pending = self._pending[:cut], self._pending[cut:]
        ids = self._tokenizer.encode(text)
        self._file.add(ids)
        self.characters += len(text)
        self.bytes += len(text.encode("utf-8"))
        self.hidden += int(np.count_nonzero(ids == UNK))  # what Tokenizer.hidden counts, without encoding twice


def training_pieces(
    sources: Sequence[Source], reading: ReadingConfig, survey: Survey, val_fraction: float
) -> Iterator[tuple[int, str]]:
    """The training part of the split, as `pieces` gives the whole: (document, piece of text), never empty."""
    left = split_position(survey.characters, val_fraction)
    for document, text in pieces(sources, reading):
        if left <= 0:
            return
        yield document, text[:left]
        left -= len(text)


def training_text(
    sources: Sequence[Source], reading: ReadingConfig, survey: Survey, val_fraction: float, limit: int = SAMPLE_LIMIT
) -> Iterator[str]:
    """Pieces of the training part, for a tokenizer to learn from: all of it, or about `limit` characters evenly spread."""
    split = split_position(survey.characters, val_fraction)
    position = kept = 0
    for _, text in training_pieces(sources, reading, survey, val_fraction):
        for start in range(0, len(text), SAMPLED):
            piece = text[start : start + SAMPLED]
            if kept * split <= limit * position:
                kept += len(piece)
                yield piece
            position += len(piece)


def documents(arguments: Sequence[str], reading: ReadingConfig) -> list[str]:
    """The documents that `arguments` name, in memory: for what is small."""
    return documents_of(find_sources(arguments), reading)


def documents_of(sources: Sequence[Source], reading: ReadingConfig) -> list[str]:
    """The documents of `sources`, likewise."""
    found = pieces(sources, reading)
    return ["".join(piece for _, piece in group) for _, group in itertools.groupby(found, key=lambda item: item[0])]


def read_text(arguments: Sequence[str], reading: ReadingConfig) -> str:
    """The text that `arguments` name, in memory; several documents are put together with a newline between."""
    return "\n".join(documents(arguments, reading))
