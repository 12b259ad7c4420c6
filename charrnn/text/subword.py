"""Subword pieces by SentencePiece, made lossless.

SentencePiece is told to change nothing: identity normalisation, no dummy prefix, no whitespace removal, a byte piece
for whatever has no piece of its own, and the newline as a piece of its own. One thing it changes all the same: it
writes a space as U+2581 and would read that character back as a space. So U+2581 never reaches it: text is cut there,
and the character stands as its three byte pieces. No escape character is needed, and none can collide.

Text is segmented in units: a line with its newline, longer ones cut every UNIT characters (`safe_cut`), so that a
stream encodes as the whole text does. It is one segmentation out of many: the likelihood it gives is a lower bound.
Decoding is a table from id to bytes; SentencePiece has no part in it.

A model out of a file is untrusted: its size is bounded, a normaliser of its own is refused before any of its bytes are
interpreted by C++, and it must have our layout and give a probe text back.
"""

from __future__ import annotations

import itertools
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.config import TokenizerConfig
from charrnn.errors import TokenizerError, UsageError
from charrnn.text.tokenizers import RESERVED, UNK, BytesTokenizer, Ids, Tokenizer, reserved_bytes, well_formed

TENSOR = "tokenizer.sentencepiece"
MAX_MODEL_BYTES = 32 << 20
MAX_PIECES = 200_000
UNIT = 4096
BASE = RESERVED + 1 + 256  # reserved, newline, bytes
SMALLEST, SMALL, LARGE = BASE + 39, 2000, 8000
SENTENCE = 1000  # characters; SentencePiece drops sentences of more than 4,192 bytes
COVERAGE = 0.9995  # rarer characters are left to byte pieces
TRAINER_THREADS = 4  # a constant: the model depends on it
SPACE = "\u2581"
NOT_FOR_TRAINING = "\n\t\x00\u2581\u2585"  # SentencePiece keeps these for itself, and drops sentences that hold some of them
PROBE = "To be,  or\tnot\r\n\n  \u2581 \u2585\x00 e\u0301 \U0001f600 <unk><0x41>\n "
_FROM_CPP = (RuntimeError, OSError, ValueError, LookupError, TypeError, SystemError, MemoryError)
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


class SubwordTokenizer(BytesTokenizer):
    """A SentencePiece model, as the uint8 tensor a checkpoint holds (see the module's docstring)."""

    kind = "subword"

    def __init__(self, model: NDArray[Any]) -> None:
        self._model = _checked_model(model)
        self._processor = _processor(self._model.tobytes())
        super().__init__(_checked_table(self._processor))
        byte_ids = {piece: token for token, piece in enumerate(self._table) if len(piece) == 1 and self._processor.is_byte(token)}
        if len(byte_ids) != 256:
            raise _foreign("it has no piece for every byte")
        self._space_ids = [byte_ids[bytes([value])] for value in SPACE.encode("utf-8")]
        if self.decode(self._encoded(PROBE)) != PROBE:
            raise _foreign("it does not give text back as it was")

    def encode(self, text: str) -> Ids:
        """See Tokenizer."""
        return np.array(self._encoded(well_formed(text)), np.int64)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """See Tokenizer."""
        return {TENSOR: self._model}

    def _encoded(self, text: str) -> list[int]:
        parts = text.split(SPACE)
        found = self._segmented(parts[0])
        for part in parts[1:]:
            found += self._space_ids
            found += self._segmented(part)
        return found

    def _segmented(self, text: str) -> list[int]:
        units = list(_units(text))
        try:
            rows = self._processor.encode(units) if units else []
        except _FROM_CPP as error:
            raise TokenizerError(f"SentencePiece cannot encode the text: {error}.", "Use another copy of the model.") from error
        return list(itertools.chain.from_iterable(rows))


def safe_cut(text: str) -> int:
    """Where a text that is not finished may be cut so that both sides encode as the whole would.

    `text` must begin at the beginning of the stream or at an earlier cut. Less than UNIT characters stay behind it.
    """
    line = text.rfind("\n") + 1
    return line + (len(text) - line) // UNIT * UNIT


def _units(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield from (text[begin : min(begin + UNIT, end)] for begin in range(start, end, UNIT))
        start = end


def build(
    config: TokenizerConfig, counts: Mapping[str, int], sample: Callable[[], Iterable[str]], stop: Callable[[], bool]
) -> tuple[Tokenizer, list[str]]:
    """Train a model on `sample()`; see tokenizers.build. The model does not depend on how many cores there are."""
    asked = config.vocab_size
    if 0 < asked < SMALLEST:
        raise UsageError(f"--vocab-size is {asked}; a subword vocabulary has at least {SMALLEST}.", "Ask for more pieces.")
    wanted = asked or default_vocab_size(counts)
    sentences = _sentences(sample(), (wanted - BASE) // 2)
    if not sentences:
        raise TokenizerError("the text holds nothing a subword vocabulary could be made of.", "Use --tokenizer byte.")
    model = _in_worker(lambda: _trained(sentences, wanted, config.subword_model), stop)
    tokenizer = SubwordTokenizer(np.frombuffer(model, np.uint8))
    notes = [f"tokenizer: subword ({config.subword_model}, {tokenizer.vocab_size:,} pieces, {len(counts):,} distinct characters)"]
    if asked > tokenizer.vocab_size:
        notes.append(f"vocabulary lowered from {asked:,} to {tokenizer.vocab_size:,} pieces: the text yields no more")
    return tokenizer, notes


def default_vocab_size(counts: Mapping[str, int]) -> int:
    """2,000 pieces up to a million characters, growing with the root of the text to 8,000; more where a script needs it.

    A text too short to show each piece ten times gets fewer: of 10,000 characters of Chinese verse 2,061 pieces were
    learnt to 10.7 bits per character, 1,095 to 8.5.
    """
    characters = sum(counts.values())
    by_size = round(SMALL * max(characters / 1e6, 1.0) ** 0.5, -2)
    by_script = BASE + 2 * len(counts)
    return int(min(max(by_size, by_script), LARGE, max(SMALLEST, characters // 10)))


def _sentences(pieces: Iterable[str], most_characters: int) -> list[str]:
    """The sample as SentencePiece can use it: short lines of characters that deserve a piece.

    Its own character_coverage goes down to 0.98 only, too high for thousands of characters and a small vocabulary, so
    text is cut here at the rare ones; in the trained model they are spelt in bytes.
    """
    lines = [line for piece in pieces for line in well_formed(piece).split("\n") if line]
    found: Counter[str] = Counter()
    for line in lines:
        found.update(line)
    for letter in NOT_FOR_TRAINING:
        found.pop(letter, None)
    kept = _frequent(found, most_characters)
    if not kept:
        return []
    others = re.compile(f"[^{re.escape(''.join(kept))}]+")
    parts = (part for line in lines for part in others.split(line))
    # The space at the end gives it a piece even where the text has none: by its bytes it would come back as U+2581.
    return [*(part[start : start + SENTENCE] for part in parts for start in range(0, len(part), SENTENCE)), " "]


def _frequent(found: Mapping[str, int], most: int) -> list[str]:
    """The most frequent characters, until they cover COVERAGE of the text or are `most`."""
    ordered = sorted(found, key=lambda letter: (-found[letter], letter))[:most]
    total, kept, covered = sum(found.values()), [], 0
    for letter in ordered:
        if covered >= COVERAGE * total:
            break
        kept.append(letter)
        covered += found[letter]
    return kept


def _trained(sentences: list[str], vocab_size: int, model_type: str) -> bytes:
    import io

    sentencepiece, model = _library(), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences), model_writer=model, vocab_size=vocab_size, model_type=model_type,
        pad_id=0, bos_id=1, eos_id=2, unk_id=UNK, pad_piece="<pad>", bos_piece="<bos>", eos_piece="<eos>", unk_piece="<unk>",
        user_defined_symbols=["\n"], byte_fallback=True, hard_vocab_limit=False, character_coverage=1.0,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True, num_threads=TRAINER_THREADS, minloglevel=3,
    )  # fmt: skip
    return model.getvalue()


def _in_worker(train: Callable[[], bytes], stop: Callable[[], bool]) -> bytes:
    """Run `train` in a thread and wait in short steps: C++ would keep Ctrl-C from being seen for minutes."""
    results: list[bytes] = []
    errors: list[BaseException] = []

    def work() -> None:
        try:
            results.append(train())
        except _FROM_CPP as error:
            errors.append(error)

    thread = threading.Thread(target=work, name="sentencepiece", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if stop():
            raise KeyboardInterrupt
    if not results:
        cause = errors[0] if errors else None
        hint = "Give another --vocab-size, or use --tokenizer byte."
        raise TokenizerError(f"SentencePiece cannot make a vocabulary of this text: {cause}.", hint) from cause
    return results[0]


def _library() -> Any:
    import sentencepiece  # 50 ms, and only subword needs it

    sentencepiece.set_min_log_level(3)  # it writes to stderr by itself otherwise
    return sentencepiece


def _processor(model: bytes) -> Any:
    try:
        return _library().SentencePieceProcessor(model_proto=model)
    except _FROM_CPP as error:
        raise _foreign("SentencePiece cannot read it") from error


def _foreign(why: str) -> TokenizerError:
    return TokenizerError(f"the SentencePiece model is damaged or not one of charrnn's: {why}.", "Use another copy of the file.")


def _checked_model(model: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes, if there are as many as can be, and they are a model that brings no normaliser."""
    if model.dtype != np.uint8 or model.ndim != 1 or not 0 < len(model) <= MAX_MODEL_BYTES:
        raise _foreign(f"it is {model.dtype} of shape {model.shape}")
    data = model.tobytes()
    for number, value in _fields(data):
        if number in (3, 5) and any(inner == 2 and content for inner, content in _fields(value)):
            raise _foreign("it brings a normaliser")
    return np.frombuffer(data, np.uint8)


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The top fields of a protocol buffer: number and content (empty for numbers); raises TokenizerError if malformed."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        wire, length = tag & 7, 0
        if wire == 0:
            _, position = _varint(data, position)
        elif wire == 2:
            length, position = _varint(data, position)
        elif wire in (1, 5):
            position += 8 if wire == 1 else 4
        else:
            raise _foreign("it has a field of no known kind")
        if position + length > len(data):
            raise _foreign("it ends too early")
        yield tag >> 3, data[position : position + length]
        position += length


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        value |= (data[position] & 0x7F) << shift
        position += 1
        if data[position - 1] < 0x80:
            return value, position
    raise _foreign("it holds a number without an end")


def _checked_table(processor: Any) -> list[bytes]:
    """What each id decodes to, as UTF-8; raises TokenizerError if the ids are not laid out as ours."""
    size = processor.get_piece_size()
    if not BASE < size <= MAX_PIECES:
        raise _foreign(f"it has {size:,} pieces")
    try:
        pieces = [processor.id_to_piece(token) for token in range(size)]
    except _FROM_CPP as error:
        raise _foreign("a piece of it is no text") from error
    special = [token for token in range(size) if processor.is_control(token) or processor.is_unknown(token)]
    unused = any(processor.is_unused(token) for token in range(size))
    if pieces[:RESERVED] != ["<pad>", "<bos>", "<eos>", "<unk>"] or special != list(range(RESERVED)) or unused:
        raise _foreign("its reserved pieces are not where they must be")
    return reserved_bytes() + [_content(processor, token, pieces[token]) for token in range(RESERVED, size)]


def _content(processor: Any, token: int, piece: str) -> bytes:
    if not processor.is_byte(token):
        return piece.replace(SPACE, " ").encode("utf-8")
    match = _BYTE_PIECE.fullmatch(piece)
    if match is None:
        raise _foreign("a byte piece of it names no byte")
    return bytes([int(match[1], 16)])
