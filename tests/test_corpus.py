"""A corpus: counts, the split, and token arrays that are what encoding the text at once would give."""

from __future__ import annotations

import gzip
import json
import os
import stat
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from charrnn.config import ReadingConfig, TokenizerConfig
from charrnn.errors import CorpusError, WriteError
from charrnn.text import cache, corpus, tokenizers
from charrnn.text.corpus import Source, find_sources
from charrnn.text.tokenizers import EOS, ByteTokenizer, Tokenizer

READING = ReadingConfig()
CANDLE = "The candle leaned, the window let it lean,\nand all the names — for évening fell between.\n"
SUBWORD = tokenizers.build(TokenizerConfig(tokenizer="subword", vocab_size=400), Counter(CANDLE), lambda: [CANDLE] * 9)[0]
CHAR = tokenizers.build(TokenizerConfig(tokenizer="char", min_count=2), Counter(CANDLE), list)[0]
ALL = pytest.mark.parametrize("tokenizer", [CHAR, ByteTokenizer(), SUBWORD], ids=["char", "byte", "subword"])
letters = st.characters(exclude_categories=["Cs"], exclude_characters="\r\ufeff") | st.sampled_from(CANDLE)
contents = st.text(letters, max_size=200)
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


def library(folder: Path, *documents: str) -> list[Source]:
    """A .jsonl holds each as a row; a single one is a plain file."""
    folder.mkdir(exist_ok=True)
    if len(documents) == 1:
        path = folder / "book.txt"
        path.write_text(documents[0], encoding="utf-8", newline="")
    else:
        path = folder / "book.jsonl"
        path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents), encoding="utf-8")
    return find_sources([str(path)])


def tokenized(sources: list[Source], tokenizer: Tokenizer, val_fraction: float, folder: Path) -> corpus.TokenData:
    return corpus.tokenize(sources, READING, tokenizer, corpus.survey(sources, READING), val_fraction, folder)


def direct(documents: list[str], tokenizer: Tokenizer, val_fraction: float) -> tuple[list[int], list[int]]:
    """What the arrays must hold, written down as plainly as can be."""
    documents = [document for document in documents if document]
    split = corpus.split_position(sum(map(len, documents)), val_fraction)
    parts: tuple[list[int], list[int]] = ([], [])
    position, last = 0, 0
    for number, document in enumerate(documents):
        if number:
            parts[last].append(EOS)
        cut = min(max(split - position, 0), len(document))
        for part, text in enumerate((document[:cut], document[cut:])):
            parts[part].extend(tokenizer.encode(text).tolist())
            last = part if text else last
        position += len(document)
    return parts


# --- the survey -------------------------------------------------------------------------------------------------------


@given(documents=st.lists(contents, min_size=2, max_size=5))
@SAME_FOLDER
def test_the_survey_counts(tmp_path: Path, documents: list[str]) -> None:
    sources, text = library(tmp_path, *documents), "".join(documents)
    if not text:
        with pytest.raises(CorpusError, match="holds no text"):
            corpus.survey(sources, READING)
        return
    survey = corpus.survey(sources, READING)
    assert survey.characters == len(text)
    assert survey.bytes == len(text.encode("utf-8"))
    assert survey.counts == Counter(text)
    assert survey.documents == sum(map(bool, documents))


def test_the_survey_of_a_large_text_and_its_names(tmp_path: Path) -> None:
    text = CANDLE * 20_000  # more than is counted at once
    (tmp_path / "b.txt").write_text(text, encoding="utf-8")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfa\r\nb"))
    (tmp_path / "a.txt").write_bytes(b"")
    survey = corpus.survey(find_sources([str(tmp_path)]), READING)
    assert survey.counts == Counter(text + "a\nb")
    assert (survey.names, survey.name, survey.documents) == (("a.txt", "b.txt", "c.txt.gz"), tmp_path.name, 2)
    (tmp_path / "c.txt.gz").unlink()
    assert corpus.survey(find_sources([str(tmp_path)]), READING).digest != survey.digest


def test_documents_and_texts_in_memory(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"text": ""}\n{"text": "three"}', encoding="utf-8")
    assert corpus.documents([str(tmp_path)], READING) == ["one\n", "two", "three"]
    assert corpus.read_text([str(tmp_path / "a.txt")], READING) == "one\n"
    assert corpus.read_text([str(tmp_path / "b.jsonl")], READING) == "two\nthree"


# --- the split --------------------------------------------------------------------------------------------------------


@given(characters=st.integers(0, 10**12), percent=st.integers(0, 90))
def test_the_split_is_reckoned_in_decimals(characters: int, percent: int) -> None:
    assert corpus.split_position(characters, percent / 100) == characters * (100 - percent) // 100


@given(characters=st.integers(0, 10**10))
def test_the_default_split_is_the_usual_one(characters: int) -> None:
    assert corpus.split_position(characters, 0.1) == int(0.9 * characters)
    assert corpus.split_position(1_115_394, 0.1) == 1_003_854


@pytest.mark.parametrize(("text", "fraction"), [("a", 0.1), ("a", 0.9), ("ab", 0.9)])
def test_too_small_to_split(tmp_path: Path, text: str, fraction: float) -> None:
    sources = library(tmp_path, text)
    if corpus.split_position(len(text), fraction) in (0, len(text)):
        with pytest.raises(CorpusError, match="too few") as caught:
            tokenized(sources, ByteTokenizer(), fraction, tmp_path)
        assert "--val-fraction 0" in caught.value.hint
    data = tokenized(sources, ByteTokenizer(), 0, tmp_path)
    assert data.train_characters == len(text)


# --- the tokens -------------------------------------------------------------------------------------------------------


@ALL
@given(documents=st.lists(contents, min_size=1, max_size=5), fraction=st.sampled_from([0.0, 0.1, 0.5, 0.9]))
@SAME_FOLDER
def test_the_arrays_are_what_direct_encoding_gives(
    tmp_path: Path, tokenizer: Tokenizer, documents: list[str], fraction: float
) -> None:
    documents = [*documents, CANDLE]
    sources, text = library(tmp_path, *documents), "".join(documents)
    data = tokenized(sources, tokenizer, fraction, tmp_path)
    assert (data.train.tolist(), data.val.tolist()) == direct(documents, tokenizer, fraction)
    split = corpus.split_position(len(text), fraction)
    assert (data.train_characters, data.val_characters) == (split, len(text) - split)
    assert data.train_bytes == len(text[:split].encode("utf-8"))
    assert data.val_bytes == len(text[split:].encode("utf-8"))
    assert (data.train_hidden, data.val_hidden) == (tokenizer.hidden(text[:split]), tokenizer.hidden(text[split:]))
    assert data.documents == len([document for document in documents if document])


@ALL
@pytest.mark.parametrize("text", [CANDLE * 3000, (CANDLE * 3000).replace("\n", " ")], ids=["lines", "one line"])
def test_long_texts_are_encoded_piece_by_piece(tmp_path: Path, tokenizer: Tokenizer, text: str) -> None:
    data = tokenized(library(tmp_path, text), tokenizer, 0.1, tmp_path)
    assert (data.train.tolist(), data.val.tolist()) == direct([text], tokenizer, 0.1)


@pytest.mark.parametrize(("last", "dtype"), [(251, np.uint8), (252, np.uint16)])
def test_the_arrays_are_as_narrow_as_the_vocabulary_allows(tmp_path: Path, last: int, dtype: type) -> None:
    text = "".join(map(chr, range(0x4E00, 0x4E00 + last + 1)))
    tokenizer = tokenizers.build(TokenizerConfig(tokenizer="char", min_count=1), Counter(text), list)[0]
    data = tokenized(library(tmp_path, text), tokenizer, 0.1, tmp_path)
    assert data.train.dtype == data.val.dtype == dtype
    assert isinstance(data.train, np.memmap)
    assert not data.train.flags.writeable
    assert tokenizer.decode([*data.train.tolist(), *data.val.tolist()]) == text


def test_without_a_validation_part(tmp_path: Path) -> None:
    data = tokenized(library(tmp_path, CANDLE), CHAR, 0, tmp_path)
    assert (data.val.shape, data.val_characters, data.val_bytes, data.val_hidden) == ((0,), 0, 0, 0)
    assert data.train.tolist() == CHAR.encode(CANDLE).tolist()


def test_a_text_that_changes_meanwhile(tmp_path: Path) -> None:
    for changed in (CANDLE + "!", CANDLE.swapcase()):
        sources = library(tmp_path, CANDLE)
        survey = corpus.survey(sources, READING)
        library(tmp_path, changed)
        with pytest.raises(CorpusError, match="changed"):
            corpus.tokenize(sources, READING, CHAR, survey, 0.1, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.npy"))


# --- the cache --------------------------------------------------------------------------------------------------------


def entries(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob("tokens/*/facts.json"))


def test_an_entry_is_used_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = library(tmp_path / "one", CANDLE * 9)
    first = tokenized(sources, CHAR, 0.1, tmp_path)
    monkeypatch.setattr(corpus, "_write_tokens", None)  # whoever makes it anew calls this
    elsewhere = library(tmp_path / "two", CANDLE * 9)
    again = tokenized(elsewhere, CHAR, 0.1, tmp_path)
    assert again.train.tolist() == first.train.tolist()
    assert (again.val_characters, again.val_hidden) == (first.val_characters, first.val_hidden)
    assert len(entries(tmp_path)) == 1


def test_nobody_else_can_read_the_tokens_of_a_private_text(tmp_path: Path) -> None:
    tokenized(library(tmp_path / "one", CANDLE * 9), CHAR, 0.1, tmp_path)
    assert stat.S_IMODE((tmp_path / "tokens").stat().st_mode) == 0o700


def test_a_home_that_nobody_has_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARRNN_CACHE", "~no-such-user/c")
    data = tokenized(library(tmp_path / "one", CANDLE * 9), CHAR, 0.1, None)  # type: ignore[arg-type]
    assert "~no-such-user/c" in data.notes[0]


def test_what_an_entry_depends_on(tmp_path: Path) -> None:
    sources = library(tmp_path, CANDLE)
    tokenized(sources, CHAR, 0.1, tmp_path)
    tokenized(sources, ByteTokenizer(), 0.1, tmp_path)
    tokenized(sources, CHAR, 0.2, tmp_path)
    survey = corpus.survey(sources, ReadingConfig(newline="keep"))
    corpus.tokenize(sources, ReadingConfig(newline="keep"), CHAR, survey, 0.1, tmp_path)
    tokenized(library(tmp_path, CANDLE + "!"), CHAR, 0.1, tmp_path)
    assert len(entries(tmp_path)) == 5


def test_the_same_bytes_as_rows_are_another_corpus(tmp_path: Path) -> None:
    line = json.dumps({"text": CANDLE}) + "\n"
    for name in ("rows.jsonl", "plain.txt"):
        (tmp_path / name).write_text(line, encoding="utf-8")
    plain = tokenized(find_sources([str(tmp_path / "plain.txt")]), ByteTokenizer(), 0, tmp_path)
    rows = tokenized(find_sources([str(tmp_path / "rows.jsonl")]), ByteTokenizer(), 0, tmp_path)
    assert ByteTokenizer().decode(plain.train) == line
    assert ByteTokenizer().decode(rows.train) == CANDLE


@pytest.mark.parametrize("name", ["train.npy", "val.npy", "facts.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_a_damaged_entry_is_made_anew(tmp_path: Path, name: str, damage: str) -> None:
    sources = library(tmp_path, CANDLE)
    whole = tokenized(sources, CHAR, 0.1, tmp_path).train.tolist()
    path = entries(tmp_path)[0] / name
    data = path.read_bytes()
    path.unlink()  # a new file, as mapped arrays may still look at the old one
    if damage != "remove":
        path.write_bytes({"flip": data[:-1] + bytes([data[-1] ^ 1]), "truncate": data[:-1], "empty": b""}[damage])
    assert tokenized(sources, CHAR, 0.1, tmp_path).train.tolist() == whole
    assert (entries(tmp_path)[0] / name).read_bytes() == data


def test_what_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    sources = library(tmp_path, CANDLE)
    tokenized(sources, CHAR, 0.1, tmp_path)
    (entry,) = entries(tmp_path)
    entry.rename(entry.with_name(entry.name + ".making"))
    data = tokenized(sources, CHAR, 0.1, tmp_path)
    assert data.train.tolist() == direct([CANDLE], CHAR, 0.1)[0]
    assert entries(tmp_path) == [entry]


def test_old_entries_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "KEPT", 2)
    sources, made = library(tmp_path, CANDLE), []
    for number, fraction in enumerate((0.1, 0.2, 0.3)):
        tokenized(sources, CHAR, fraction, tmp_path)
        (new,) = set(entries(tmp_path)) - set(made)
        made.append(new)
        os.utime(new / "facts.json", (number, number))
    assert set(entries(tmp_path)) == set(made[1:])


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.write_bytes(b"a file where the folder should be")
    data = tokenized(library(tmp_path, CANDLE), CHAR, 0.1, blocked)
    assert data.train.tolist() == direct([CANDLE], CHAR, 0.1)[0]
    assert "temporary folder" in data.notes[0]
    assert tokenized(library(tmp_path, CANDLE), CHAR, 0.1, tmp_path).notes == ()


def test_no_room_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, numbers: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.TokenFile, "add", full)
    with pytest.raises(WriteError, match="No space left"):
        tokenized(library(tmp_path, CANDLE), CHAR, 0.1, tmp_path)
    assert not list(tmp_path.rglob("*.npy"))


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARRNN_CACHE", "~/somewhere")
    assert cache.default_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("CHARRNN_CACHE")
    assert cache.default_folder().name == "charrnn"


def test_the_training_part_keeps_its_documents(tmp_path: Path) -> None:
    sources = library(tmp_path, CANDLE * 3, "", CANDLE * 2, CANDLE)
    survey = corpus.survey(sources, READING)
    found: dict[int, str] = {}
    for document, piece in corpus.training_pieces(sources, READING, survey, 0.25):
        assert piece
        found[document] = found.get(document, "") + piece
    assert list(found) == [0, 1]
    assert found == {0: CANDLE * 3, 1: (CANDLE * 2)[: int(0.75 * len(CANDLE * 6)) - len(CANDLE * 3)]}


# --- text for the tokenizer's trainer ---------------------------------------------------------------------------------


def test_the_sample_is_all_of_a_small_training_part(tmp_path: Path) -> None:
    sources = library(tmp_path, CANDLE * 300, "", CANDLE * 200)
    survey = corpus.survey(sources, READING)
    whole = CANDLE * 500
    assert "".join(corpus.training_text(sources, READING, survey, 0.1)) == whole[: int(0.9 * len(whole))]


def test_the_sample_is_spread_evenly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "SAMPLED", 1000)
    text = "".join(chr(0x4E00 + number // 20_000) for number in range(2_000_000))  # the character tells the place
    sources = library(tmp_path, text)
    survey = corpus.survey(sources, READING)
    sample = "".join(corpus.training_text(sources, READING, survey, 0.1, limit=200_000))
    assert 200_000 <= len(sample) <= 200_000 + 2 * corpus.SAMPLED
    places = Counter((ord(letter) - 0x4E00) // 10 for letter in sample)
    assert sorted(places) == list(range(9))
    assert max(places.values()) - min(places.values()) <= 2 * corpus.SAMPLED
