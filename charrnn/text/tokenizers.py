"""Text to numbers and back: characters, bytes, and the door to subword pieces.

Every tokenizer reserves ids 0 to 3 for <pad>, <bos>, <eos> and <unk>; its own units follow. Byte and subword give any
text back exactly; char does so on its own alphabet and maps every other character to <unk>. Knows nothing of files,
networks or training; SentencePiece itself is known to subword.py alone.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from charrnn.config import TokenizerConfig
from charrnn.errors import TokenizerError

PAD, BOS, EOS, UNK = 0, 1, 2, 3
RESERVED = 4
REPLACEMENT = "\ufffd"
SCALAR_VALUES = 0x110000 - 0x800  # every code point but the surrogates
MOST_CHARACTERS = 500  # up to here "auto" means char,
MOST_LETTERS = 1_000_000 - RESERVED  # a model has a million tokens at most
LEAST_MEETINGS = 20  # and beyond it too, while a character is met fewer times than this on average: no piece is learnt so
HIDDEN_SHARE = 0.001  # characters seen once become <unk> where together they are less of the text than this
ALPHABET = "tokenizer.alphabet"
ANOTHER_COPY = "Use another copy of the file."

Ids = NDArray[np.int64]


class StreamDecoder(Protocol):
    """Turns one id after the other into text; never shows half a UTF-8 character."""

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a UTF-8 sequence is incomplete."""

    def flush(self) -> str:
        """What an incomplete sequence at the end amounts to: U+FFFD or nothing."""

    def copy(self) -> StreamDecoder:
        """Another decoder that goes on from here."""


class Tokenizer(Protocol):
    """What every tokenizer can do; immutable, and the same on every machine."""

    @property
    def kind(self) -> str:
        """ "char", "byte" or "subword"."""

    @property
    def vocab_size(self) -> int:
        """Number of ids, the four reserved ones included."""

    @property
    def escape_nats(self) -> float:
        """Cost to charge for each character that <unk> hides: ln(number of characters outside the alphabet)."""

    def encode(self, text: str) -> Ids:
        """The ids of any text, (N,); what cannot be represented becomes <unk> (char) or U+FFFD (lone surrogates)."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; <unk> and bytes that are not UTF-8 become U+FFFD, <pad> <bos> <eos> nothing."""

    def stream_decoder(self) -> StreamDecoder:
        """A decoder for ids that come one by one; together its pieces are what `decode` gives."""

    def pieces(self) -> list[bytes]:
        """What each id stands for, as UTF-8 or a part of it; <pad>, <bos> and <eos> for nothing."""

    def unknown(self, text: str) -> list[str]:
        """The distinct characters of `text` that cannot be represented, in order of appearance."""

    def hidden(self, text: str) -> int:
        """How many characters of `text` become <unk>."""

    def tensors(self) -> dict[str, NDArray[Any]]:
        """What a checkpoint must hold so that `load` can make this tokenizer again."""

    def digest(self) -> str:
        """SHA-256 (hex) over the kind and the tensors."""


class CharTokenizer:
    """One id for each character of an alphabet; id RESERVED + i is the i-th smallest code point."""

    kind = "char"

    def __init__(self, alphabet: NDArray[np.uint32]) -> None:
        self.alphabet = _checked_alphabet(alphabet)
        self.vocab_size = RESERVED + len(self.alphabet)
        self.escape_nats = math.log(max(SCALAR_VALUES - len(self.alphabet), 1))
        self._ids = np.full(int(self.alphabet[-1]) + 2, UNK, np.int64)  # by code point; the last entry stands for all above
        self._ids[self.alphabet] = np.arange(RESERVED, self.vocab_size)
        self._codes = np.concatenate([np.array([0, 0, 0, ord(REPLACEMENT)], np.uint32), self.alphabet]).astype("<u4")

    def encode(self, text: str) -> Ids:
        """See Tokenizer; one table look-up for all characters at once."""
        return self._ids[np.minimum(code_points(text), len(self._ids) - 1)]

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer."""
        chosen = np.fromiter(ids, np.int64)
        return self._codes[chosen[chosen >= UNK]].tobytes().decode("utf-32-le")

    @cached_property
    def letters(self) -> list[str]:
        """What each id decodes to."""
        return ["", "", "", REPLACEMENT, *map(chr, self.alphabet.tolist())]

    def stream_decoder(self) -> StreamDecoder:
        """See Tokenizer."""
        return _CharDecoder(self)

    def pieces(self) -> list[bytes]:
        """See Tokenizer."""
        return reserved_bytes() + [chr(code).encode("utf-8") for code in self.alphabet.tolist()]

    def unknown(self, text: str) -> list[str]:
        """See Tokenizer."""
        missing = code_points(text)[self.encode(text) == UNK]
        return [chr(code) for code in dict.fromkeys(missing.tolist())]

    def hidden(self, text: str) -> int:
        """See Tokenizer."""
        return int(np.count_nonzero(self.encode(text) == UNK))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See Tokenizer."""
        return {ALPHABET: self.alphabet}

    def digest(self) -> str:
        """See Tokenizer."""
        return digest_of(self.kind, self.tensors())


class BytesTokenizer:
    """What byte and subword share: each id stands for some bytes of UTF-8, and no character is unknown."""

    kind: str
    escape_nats = 0.0

    def __init__(self, table: list[bytes]) -> None:
        self.vocab_size = len(table)
        self._table = table

    def decode(self, ids: Iterable[int]) -> str:
        """See Tokenizer."""
        return b"".join([self._table[token] for token in ids]).decode("utf-8", "replace")

    def stream_decoder(self) -> StreamDecoder:
        """See Tokenizer."""
        return _BytesDecoder(self._table)

    def pieces(self) -> list[bytes]:
        """See Tokenizer."""
        return list(self._table)

    def unknown(self, text: str) -> list[str]:
        """Only lone surrogates, which are no characters at all; `encode` takes them for U+FFFD."""
        return list(dict.fromkeys(letter for letter in text if "\ud800" <= letter <= "\udfff"))

    def hidden(self, text: str) -> int:
        """See Tokenizer: none ever."""
        return 0

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See Tokenizer."""
        return {}

    def digest(self) -> str:
        """See Tokenizer."""
        return digest_of(self.kind, self.tensors())


class ByteTokenizer(BytesTokenizer):
    """One id for each byte of UTF-8: id RESERVED + b is byte b."""

    kind = "byte"

    def __init__(self) -> None:
        super().__init__([*reserved_bytes(), *(bytes([value]) for value in range(256))])

    def encode(self, text: str) -> Ids:
        """See Tokenizer."""
        return np.frombuffer(well_formed(text).encode("utf-8"), np.uint8).astype(np.int64) + RESERVED


class _CharDecoder:
    def __init__(self, tokenizer: CharTokenizer) -> None:
        self._letters = tokenizer.letters

    def push(self, token: int) -> str:
        return self._letters[token]

    def flush(self) -> str:
        return ""

    def copy(self) -> _CharDecoder:
        return self  # keeps nothing


class _BytesDecoder:
    def __init__(self, table: list[bytes]) -> None:
        self._table = table
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._decoder.decode(self._table[token])

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

    def copy(self) -> _BytesDecoder:
        other = _BytesDecoder(self._table)
        other._decoder.setstate(self._decoder.getstate())
        return other


def load(kind: str, tensors: Mapping[str, NDArray[Any]]) -> Tokenizer:
    """The tokenizer of `kind` that a checkpoint's tensors describe (other tensors are ignored).

    Nothing in a checkpoint is believed: raises TokenizerError on a kind that does not exist, a tensor that is missing,
    superfluous or of the wrong type, an alphabet out of order, a SentencePiece model that is not one of ours.
    """
    mine = {name: array for name, array in tensors.items() if name.startswith("tokenizer.")}
    expected = {"char": [ALPHABET], "byte": [], "subword": ["tokenizer.sentencepiece"]}.get(kind)
    if expected is None:
        raise TokenizerError(
            f"the tokenizer is of kind {kind[:20]!r}; expected char, byte or subword.", "Install a newer charrnn-lm."
        )
    if sorted(mine) != expected:
        raise TokenizerError(
            f"a {kind} tokenizer is stored as {expected}; found {[name[:80] for name in sorted(mine)[:9]]}.", ANOTHER_COPY
        )
    if kind == "byte":
        return ByteTokenizer()
    if kind == "char":
        return CharTokenizer(mine[ALPHABET])
    from charrnn.text.subword import SubwordTokenizer

    return SubwordTokenizer(mine["tokenizer.sentencepiece"])


def build(
    config: TokenizerConfig,
    counts: Mapping[str, int],
    sample: Callable[[], Iterable[str]],
    stop: Callable[[], bool] = lambda: False,
) -> tuple[Tokenizer, list[str]]:
    """A tokenizer for a corpus, with notes for the user on what was chosen and why.

    `counts` says how often each character occurs in the corpus; `sample()` gives pieces of training text and is asked
    only for subword; `stop` is asked while SentencePiece trains, and ends the wait with KeyboardInterrupt when true.
    Raises TokenizerError if the text cannot bear the tokenizer, UsageError if the settings never could.
    """
    if not counts:
        raise TokenizerError("the text is empty; a tokenizer needs at least one character.", "Give a text with something in it.")
    kind = config.tokenizer
    if kind == "auto":
        enough = sum(counts.values()) >= LEAST_MEETINGS * len(counts)
        kind = "subword" if len(counts) > MOST_CHARACTERS and enough else "char"
    if kind == "char":
        rare = config.tokenizer == "auto" and len(counts) > MOST_CHARACTERS
        return _build_char(config.min_count, counts, "; too short a text to learn subwords from" if rare else "")
    if kind == "byte":
        return ByteTokenizer(), ["tokenizer: byte (256 values)"]
    from charrnn.text import subword

    return subword.build(config, counts, sample, stop)


def _build_char(asked: int, counts: Mapping[str, int], why: str) -> tuple[Tokenizer, list[str]]:
    least = asked or least_count(counts)
    kept = sorted(ord(letter) for letter, count in counts.items() if count >= least)
    if not kept:
        most = max(counts.values())
        raise TokenizerError(f"no character occurs {least} times, the most frequent one {most} times.", "Lower --min-count.")
    if len(kept) > MOST_LETTERS:
        found = f"the text has {len(kept):,} distinct characters; char can tell {MOST_LETTERS:,} apart"
        raise TokenizerError(f"{found}.", "Use --tokenizer byte.")
    note, rare = f"{len(counts):,} distinct characters{why}", len(counts) - len(kept)
    if rare:
        named = " ".join(repr(letter) for letter, count in itertools.islice(_rarer(counts, least), 5))
        note += f"; too rare to learn, read as <unk>: {named}{' ...' if rare > 5 else ''}; --min-count 1 keeps them"
    return CharTokenizer(np.array(kept, np.uint32)), [f"tokenizer: char ({note})"]


def _rarer(counts: Mapping[str, int], least: int) -> Iterator[tuple[str, int]]:
    return (item for item in counts.items() if item[1] < least)


def least_count(counts: Mapping[str, int]) -> int:
    """2 where that hides little, so that <unk> is met in training; else 1."""
    once = sum(1 for count in counts.values() if count == 1)
    return 2 if once < HIDDEN_SHARE * sum(counts.values()) else 1


def code_points(text: str) -> NDArray[np.uint32]:
    """The code points of `text`, (N,), lone surrogates included; a read-only view of its UTF-32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def well_formed(text: str) -> str:
    """`text` with every lone surrogate replaced by U+FFFD, so that it can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def reserved_bytes() -> list[bytes]:
    """What the reserved ids decode to, as UTF-8."""
    return [b"", b"", b"", REPLACEMENT.encode("utf-8")]


def digest_of(kind: str, tensors: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 (hex) of a tokenizer's kind and tensors."""
    digest = hashlib.sha256(kind.encode("ascii"))
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode("ascii"))
        digest.update(array.tobytes())
    return digest.hexdigest()


def _checked_alphabet(alphabet: NDArray[Any]) -> NDArray[np.uint32]:
    proper = alphabet.dtype == np.uint32 and alphabet.ndim == 1 and 1 <= len(alphabet) <= SCALAR_VALUES
    if not proper:
        found = f"{alphabet.dtype} of shape {alphabet.shape}"
        raise TokenizerError(f"the alphabet is {found}; expected a row of uint32.", ANOTHER_COPY)
    ordered = bool(np.all(alphabet[1:] > alphabet[:-1]))
    characters = int(alphabet[-1]) < 0x110000 and not np.any((alphabet >= 0xD800) & (alphabet < 0xE000))
    if not ordered or not characters:
        raise TokenizerError("the alphabet is not a rising row of characters.", ANOTHER_COPY)
    return alphabet.copy()
