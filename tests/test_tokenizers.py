"""Tokenizers: text comes back as it was, ids stay in their range, and a stranger's tensors are not believed."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charrnn.config import TokenizerConfig
from charrnn.errors import TokenizerError, UsageError
from charrnn.text import proto, subword, tokenizers
from charrnn.text.tokenizers import BOS, EOS, PAD, RESERVED, UNK, ByteTokenizer, CharTokenizer

CANDLE = "The candle leaned, the window let it lean,\n    and all the names for evening fell between.\n" * 40
CHINESE = "".join(chr(0x4E00 + min(number * 7919 % 3001, number * 104729 % 3001)) for number in range(12_000))
ODD = [
    "\U0001f469\u200d\U0001f680", "e\u0301 a\u0308\u0323", "\u2581 \u2581\u2581a\u2581", "\ta\t\n", "a\r\nb\rc\n\r", "a\0b\0",
    "\u2028\u2029\x85", "\ufeff", "\u2585", "<unk><pad><0x41>", "  two  spaces ", "\U0010ffff\ufffe\ue000",
]  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from(" \n\r\t▁▅aeth"), max_size=60)
any_texts = st.text(st.characters(categories=["L", "Cs", "Cc", "Zs", "So"]), max_size=40)


def made(text: str, **asked: object) -> tokenizers.Tokenizer:
    return tokenizers.build(TokenizerConfig(**asked), Counter(text), lambda: [text])[0]  # type: ignore[arg-type]


UNIGRAM = made(CANDLE, tokenizer="subword")
BPE = made(CANDLE, tokenizer="subword", subword_model="bpe", vocab_size=400)
SCRIPT = made(CHINESE, tokenizer="subword", vocab_size=1000)
LOSSLESS = pytest.mark.parametrize("tokenizer", [ByteTokenizer(), UNIGRAM, BPE, SCRIPT], ids=["byte", "unigram", "bpe", "zh"])
CHAR = made("Shall I ?")
ALL = pytest.mark.parametrize("tokenizer", [CHAR, ByteTokenizer(), UNIGRAM, BPE], ids=["char", "byte", "unigram", "bpe"])


@LOSSLESS
@pytest.mark.parametrize("text", [*ODD, "a" * 10_000, "▁" * 5000, "\U0001f600" * 4097, "", CANDLE])
def test_odd_texts_come_back(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@LOSSLESS
@given(text=texts)
@settings(max_examples=60, deadline=None)
def test_any_text_comes_back_from_byte_and_subword(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int64
    assert not len(ids) or RESERVED <= ids.min() <= ids.max() < tokenizer.vocab_size
    assert tokenizer.decode(ids) == text
    assert tokenizer.unknown(text) == []
    assert tokenizer.hidden(text) == 0


@given(alphabet=st.sets(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30), data=st.data())
@settings(max_examples=60, deadline=None)
def test_char_gives_back_its_own_alphabet_and_hides_the_rest(alphabet: set[str], data: st.DataObject) -> None:
    tokenizer = CharTokenizer(np.array(sorted(map(ord, alphabet)), np.uint32))
    own = data.draw(st.text(st.sampled_from(sorted(alphabet))))
    assert tokenizer.decode(tokenizer.encode(own)) == own
    mixed = data.draw(st.text(max_size=20)) + own
    strangers = [letter for letter in mixed if letter not in alphabet]
    assert tokenizer.unknown(mixed) == list(dict.fromkeys(strangers))
    assert tokenizer.hidden(mixed) == len(strangers)
    assert tokenizer.decode(tokenizer.encode(mixed)) == "".join(c if c in alphabet else "�" for c in mixed)


@ALL
@given(text=any_texts)
@settings(max_examples=40, deadline=None)
def test_no_text_crashes_a_tokenizer(tokenizer: tokenizers.Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert all(0 <= token < tokenizer.vocab_size for token in ids)
    if tokenizer.kind != "char":
        assert tokenizer.decode(ids) == "".join("�" if c in tokenizer.unknown(text) else c for c in tokenizers.well_formed(text))


@ALL
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_stream_of_any_ids_is_what_decode_gives(tokenizer: tokenizers.Tokenizer, data: st.DataObject) -> None:
    bytes_first = st.integers(0, min(tokenizer.vocab_size, 261) - 1)  # random ids that are mostly bytes
    ids = data.draw(st.lists(bytes_first | st.integers(0, tokenizer.vocab_size - 1), max_size=30))
    decoder = tokenizer.stream_decoder()
    assert "".join(decoder.push(token) for token in ids) + decoder.flush() == tokenizer.decode(ids)


def test_a_stream_holds_back_half_a_character() -> None:
    decoder, ids = ByteTokenizer().stream_decoder(), ByteTokenizer().encode("\U0001f600a")
    assert [decoder.push(token) for token in ids] == ["", "", "", "\U0001f600", "a"]
    assert decoder.push(ids[0]) == ""
    assert decoder.flush() == "�"
    assert decoder.push(ids[4]) == "a"


@ALL
def test_reserved_ids(tokenizer: tokenizers.Tokenizer) -> None:
    assert tokenizer.decode([PAD, BOS, EOS]) == ""
    assert tokenizer.decode([UNK]) == "�"


def test_ids_of_char_and_byte() -> None:
    assert made("cab").encode("abc?").tolist() == [4, 5, 6, UNK]
    assert ByteTokenizer().encode("A\0é").tolist() == [4 + 0x41, 4, 4 + 0xC3, 4 + 0xA9]
    assert ByteTokenizer().vocab_size == 260


def test_escape_cost() -> None:
    assert made("abc").escape_nats == pytest.approx(math.log(0x110000 - 0x800 - 3))
    assert ByteTokenizer().escape_nats == UNIGRAM.escape_nats == 0


def test_newline_is_a_piece_of_its_own() -> None:
    newline = UNIGRAM.encode("\n").tolist()
    assert len(newline) == 1
    ids = UNIGRAM.encode("the\n\nall").tolist()
    assert ids.count(newline[0]) == 2
    assert UNIGRAM.decode(newline) == "\n"


@given(text=texts, cut=st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_a_text_cut_where_it_is_safe_encodes_as_the_whole(text: str, cut: int) -> None:
    seen = (text * 3)[:cut]
    safe = subword.safe_cut(seen)
    whole = UNIGRAM.encode(text * 3).tolist()
    assert UNIGRAM.encode((text * 3)[:safe]).tolist() + UNIGRAM.encode((text * 3)[safe:]).tolist() == whole


def test_long_lines_have_safe_cuts_too() -> None:
    line = "and all the names " * 1000
    cut = subword.safe_cut(line)
    assert len(line) - subword.UNIT < cut <= len(line)
    assert [*UNIGRAM.encode(line[:cut]), *UNIGRAM.encode(line[cut:])] == UNIGRAM.encode(line).tolist()


def test_auto_chooses_by_distinct_characters() -> None:
    small, notes = tokenizers.build(TokenizerConfig(), Counter(CANDLE), list)
    assert small.kind == "char"
    assert notes == [f"tokenizer: char ({len(set(CANDLE))} distinct characters)"]
    large, notes = tokenizers.build(TokenizerConfig(), Counter(CHINESE * 20), lambda: [CHINESE])
    assert large.kind == "subword"
    assert "subword" in notes[0]


def test_auto_stays_with_characters_while_the_text_is_too_short_to_learn_pieces_from() -> None:
    assert tokenizers.build(TokenizerConfig(), Counter(CHINESE), lambda: [CHINESE])[0].kind == "char"


@pytest.mark.parametrize(("asked", "once", "kept"), [(0, 1, 2), (0, 50, 52), (1, 1, 3), (2, 50, 2), (900, 1, 1)])
def test_min_count(asked: int, once: int, kept: int) -> None:
    counts = {"a": 2000, "b": 800} | {chr(0x100 + number): 1 for number in range(once)}
    tokenizer, notes = tokenizers.build(TokenizerConfig(tokenizer="char", min_count=asked), counts, list)
    assert tokenizer.vocab_size == RESERVED + kept
    assert ("<unk>" in notes[0]) == (kept < len(counts))


def test_what_cannot_be_built() -> None:
    with pytest.raises(TokenizerError, match="empty"):
        tokenizers.build(TokenizerConfig(), {}, list)
    with pytest.raises(TokenizerError, match="no character occurs 9 times"):
        made("abc", tokenizer="char", min_count=9)
    with pytest.raises(UsageError, match="vocab-size"):
        made("abc", tokenizer="subword", vocab_size=100)
    with pytest.raises(TokenizerError, match="nothing"):
        made("\0\t\n", tokenizer="subword")


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_a_vocabulary_too_large_is_lowered_with_a_note(kind: str) -> None:
    config = TokenizerConfig(tokenizer="subword", vocab_size=5000, subword_model=kind)
    tokenizer, notes = tokenizers.build(config, Counter(CANDLE), lambda: [CANDLE])
    assert tokenizer.vocab_size < 5000
    assert notes[1].startswith("vocabulary lowered from 5,000 to")


def test_many_characters_fit_a_small_vocabulary() -> None:
    assert SCRIPT.vocab_size <= 1000
    assert len(SCRIPT.encode(CHINESE)) < 3 * len(CHINESE)


@pytest.mark.parametrize("text", ["a", " ", "a\tb\0c▅" * 30, "<unk> <pad> <0x41> " * 30, "x" * 50_000])
def test_awkward_texts_can_be_trained_on(text: str) -> None:
    tokenizer = made(text, tokenizer="subword")
    assert tokenizer.decode(tokenizer.encode(text + CANDLE)) == text + CANDLE


def test_training_twice_gives_the_same_model() -> None:
    assert made(CANDLE, tokenizer="subword").digest() == UNIGRAM.digest() != BPE.digest()


def test_training_can_be_stopped() -> None:
    release = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        subword._in_worker(lambda: b"x" if release.wait(20) else b"", lambda: True)
    release.set()


def test_sentencepiece_says_nothing_and_is_imported_late() -> None:
    program = (
        "import sys; from charrnn.text import tokenizers as t, corpus; from charrnn.config import TokenizerConfig as C\n"
        "assert 'sentencepiece' not in sys.modules and 'torch' not in sys.modules\n"
        "t.build(C(tokenizer='subword', vocab_size=900), {'a': 2, 'b': 1}, lambda: ['ab\\t\\0 ba'] * 9)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout + done.stderr == b""


@ALL
def test_stored_and_loaded_it_is_the_same(tokenizer: tokenizers.Tokenizer) -> None:
    again = tokenizers.load(tokenizer.kind, {**tokenizer.tensors(), "output.bias": np.zeros(3)})
    assert again.digest() == tokenizer.digest()
    assert again.vocab_size == tokenizer.vocab_size
    assert again.encode("Shall I? é").tolist() == tokenizer.encode("Shall I? é").tolist()


def test_digests_tell_alphabets_apart() -> None:
    assert len({made(text, tokenizer="char").digest() for text in ("ab", "abc", "bc")} | {ByteTokenizer().digest()}) == 4


@pytest.mark.parametrize(
    "alphabet",
    [
        *(np.array(row, np.uint32) for row in ([], [2, 1], [1, 1], [0x110000], [0xD800], [[1, 2]], 7)),
        np.array([1, 2], np.int64),
        np.array([1.5]),
    ],
)
def test_bad_alphabets(alphabet: np.ndarray) -> None:
    with pytest.raises(TokenizerError):
        tokenizers.load("char", {"tokenizer.alphabet": alphabet})


def test_bad_kinds_and_tensors() -> None:
    alphabet = {"tokenizer.alphabet": np.array([65], np.uint32)}
    both = {**alphabet, "tokenizer.x": 0}
    for kind, tensors in [("word", {}), ("char", {}), ("byte", alphabet), ("subword", alphabet), ("char", both)]:
        with pytest.raises(TokenizerError):
            tokenizers.load(kind, tensors)  # type: ignore[arg-type]


def stranger(**changed: object) -> np.ndarray:
    """A SentencePiece model as somebody else would have trained it."""
    import io

    import sentencepiece

    ours = dict(  # noqa: C408 - reads as the call it is for
        pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="<pad>", bos_piece="<bos>", eos_piece="<eos>", byte_fallback=True,
        normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False, vocab_size=320,
    )  # fmt: skip
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CANDLE.split("\n")), model_writer=model, hard_vocab_limit=False, minloglevel=3, **(ours | changed)
    )
    return np.frombuffer(model.getvalue(), np.uint8)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"normalization_rule_name": "nmt_nfkc"}, "normaliser"),
        ({"byte_fallback": False, "vocab_size": 60}, "pieces"),
        ({"byte_fallback": False, "vocab_size": 400, "user_defined_symbols": [f"~{n}" for n in range(300)]}, "every byte"),
        ({"pad_id": 3, "unk_id": 0}, "reserved"),
        ({"pad_piece": "<none>"}, "reserved"),
        ({"control_symbols": ["<call>"]}, "reserved"),
        ({"add_dummy_prefix": True}, "as it was"),
        ({"remove_extra_whitespaces": True}, "as it was"),
    ],
)
def test_foreign_models_are_refused(changed: dict[str, object], why: str) -> None:
    with pytest.raises(TokenizerError, match=why):
        tokenizers.load("subword", {subword.TENSOR: stranger(**changed)})


@pytest.mark.parametrize("tokenizer", [UNIGRAM, BPE], ids=["unigram", "bpe"])
def test_what_the_library_gets_is_written_anew_and_cuts_text_as_the_trained_model_does(
    tokenizer: subword.SubwordTokenizer,
) -> None:
    import sentencepiece

    trained = tokenizer.tensors()[subword.TENSOR].tobytes()
    kind, pieces = proto.read(trained)
    assert proto.read(proto.write(kind, pieces)) == (kind, pieces)
    processor = sentencepiece.SentencePieceProcessor(model_proto=trained)
    for line in CANDLE.split("\n"):
        assert tokenizer.encode(line).tolist() == processor.encode(line)


def piece(content: bytes, score: bytes = bytes(4), kind: int = 1) -> bytes:
    """A piece, as a field of a model."""
    inner = b"\x0a" + proto._encoded(len(content)) + content + b"\x15" + score + b"\x18" + proto._encoded(kind)
    return b"\x0a" + proto._encoded(len(inner)) + inner


@pytest.mark.parametrize(
    "field",
    [
        piece(b"a" * 100_000),  # SentencePiece's issue 1263: its loader recursed along it until the stack was full
        piece(b""),
        piece(b"a\0b"),
        piece(b"\xff"),
        piece(b"nan", bytes.fromhex("0000c07f")),
        piece(b"infinite", bytes.fromhex("0000807f")),
        piece(b"unused", kind=5),
        piece(b"control", kind=3),
        piece(b"<unk>"),
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x80" * 11,
        b"\x0b",
    ],
)
def test_a_piece_that_cannot_be_is_refused_before_the_library_sees_it(field: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subword, "_processor", lambda model: pytest.fail("it was handed on"))
    model = UNIGRAM.tensors()[subword.TENSOR].tobytes() + field
    with pytest.raises(TokenizerError):
        tokenizers.load("subword", {subword.TENSOR: np.frombuffer(model, np.uint8)})


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_model_is_refused_or_works(data: st.DataObject) -> None:
    model = UNIGRAM.tensors()[subword.TENSOR].copy()
    how = data.draw(st.sampled_from(["flip", "cut", "noise"]))
    if how == "flip":
        for place in data.draw(st.lists(st.integers(0, len(model) - 1), min_size=1, max_size=3)):
            model[place] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        model = model[: data.draw(st.integers(0, len(model) - 1))]
    else:
        model = np.frombuffer(data.draw(st.binary(max_size=200)), np.uint8)
    try:
        tokenizer = tokenizers.load("subword", {subword.TENSOR: model})
    except TokenizerError:
        return
    assert all(0 <= token < tokenizer.vocab_size for token in tokenizer.encode("any \x00 text ▁\n"))


def test_a_model_too_large_or_of_another_type_is_refused() -> None:
    model = UNIGRAM.tensors()[subword.TENSOR]
    for tensor in (model.astype(np.int64), model.reshape(1, -1), np.zeros(proto.MAX_MODEL_BYTES + 1, np.uint8)):
        with pytest.raises(TokenizerError):
            tokenizers.load("subword", {subword.TENSOR: tensor})


@given(any_texts)
@example("\ud83d\ude00 \udc00")
def test_well_formed_text_can_be_written(text: str) -> None:
    clean = tokenizers.well_formed(text)
    clean.encode("utf-8")
    assert clean == text or any("\ud800" <= letter <= "\udfff" for letter in text)
