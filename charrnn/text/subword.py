"""Subword pieces by SentencePiece, made lossless.

SentencePiece is told to change nothing: identity normalisation, no dummy prefix, no whitespace removal, a byte piece
for whatever has no piece of its own, and the newline as a piece of its own. One thing it changes all the same: it
writes a space as U+2581 and would read that character back as a space. So U+2581 never reaches it: text is cut there,
and the character stands as its three byte pieces. No escape character is needed, and none can collide.

Text is segmented in units: a line with its newline, longer ones cut every UNIT characters (`safe_cut`), so that a
stream encodes as the whole text does. It is one segmentation out of many: the likelihood it gives is a lower bound.
Decoding is a table from id to bytes; SentencePiece has no part in it.

A model out of a file is untrusted: its pieces are read by proto.py, must have our layout and give a probe text back, and
C++ is handed a message made of them, none of the file's own bytes.
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
from charrnn.text import proto
from charrnn.text.tokenizers import RESERVED, UNK, BytesTokenizer, Ids, Tokenizer, reserved_bytes, well_formed

TENSOR = "tokenizer.sentencepiece"
NAMES = ("<pad>", "<bos>", "<eos>", "<unk>")
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
        checked, pieces = _pieces(model)
        self._model = np.frombuffer(model.tobytes(), np.uint8)
        super().__init__(reserved_bytes() + [_content(piece) for piece in pieces[RESERVED:]])
        byte_ids = {self._table[token]: token for token, piece in enumerate(pieces) if piece.kind == proto.BYTE}
        if len(byte_ids) != 256:
            raise proto.foreign("it has no piece for every byte")
        self._processor = _processor(checked)
        self._space_ids = [byte_ids[bytes([value])] for value in SPACE.encode("utf-8")]
        if self.decode(self._encoded(PROBE)) != PROBE:
            raise proto.foreign("it does not give text back as it was")

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
        raise proto.foreign("SentencePiece cannot read it") from error


def _pieces(model: NDArray[Any]) -> tuple[bytes, list[proto.Piece]]:
    """The model that SentencePiece is to run, and its pieces, which must be laid out as ours."""
    if model.dtype != np.uint8 or model.ndim != 1:
        raise proto.foreign(f"it is {model.dtype} of shape {model.shape}")
    kind, pieces = proto.read(model.tobytes())
    if len(pieces) <= BASE:
        raise proto.foreign(f"it has {len(pieces):,} pieces")
    special = [(piece.text, piece.kind) for piece in pieces[:RESERVED]]
    kinds = [proto.CONTROL] * 3 + [proto.UNKNOWN]
    if special != list(zip(NAMES, kinds, strict=True)) or any(piece.kind in kinds for piece in pieces[RESERVED:]):
        raise proto.foreign("its reserved pieces are not where they must be")
    if len({piece.text for piece in pieces}) != len(pieces):
        raise proto.foreign("a piece of it stands there twice")
    return proto.write(kind, pieces), pieces


def _content(piece: proto.Piece) -> bytes:
    """What a piece decodes to, as UTF-8."""
    if piece.kind != proto.BYTE:
        return piece.text.replace(SPACE, " ").encode("utf-8")
    match = _BYTE_PIECE.fullmatch(piece.text)
    if match is None:
        raise proto.foreign("a byte piece of it names no byte")
    return bytes([int(match[1], 16)])
