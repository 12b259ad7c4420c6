"""What the tasks of single examples learn from: rows of a label and a text, pairs of texts, or sequences of numbers.

Reads them, makes a tokenizer of all texts, and splits them, label by label. Knows how each task wants its examples;
knows nothing of networks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from charrnn.config import ReadingConfig, TokenizerConfig
from charrnn.errors import CorpusError
from charrnn.text import arrays, examples, rows, tokenizers
from charrnn.text.corpus import Source, Survey, raw_digest
from charrnn.text.examples import LABEL_LENGTH, LONGEST_READ, Examples, Ints, Parts, Ragged, is_name
from charrnn.text.rows import Row
from charrnn.text.sources import stem
from charrnn.text.tokenizers import EOS, ByteTokenizer, Tokenizer, well_formed

SHOWN_LABELS = 12
ENOUGH_ROWS = 40  # to know that a column is none of labels
MOST_LABELS = 10_000
ENOUGH_FOR_WORDS, WORDS, CHARACTERS_PER_WORD = 50_000, 8_000, 35  # characters of text; pieces; characters for each piece
UNEVEN = 3  # times as many examples of one label as of another, of which a note tells


def read_rows(
    sources: Sequence[Source], reading: ReadingConfig, task: str, *, several: bool = True, lowercase: bool = False
) -> list[Row]:
    """The rows of all sources, as `task` has them, with `several` labels if there are any to learn; raises CorpusError.

    With `lowercase` what is classified is in small letters.
    """
    for source in sources:
        if source.path.suffix.lower() == ".npz":
            raise CorpusError(f"{source.name!r} holds numbers, no text.", "Add --input rows, with --task classify.")
    columns = rows.paired(reading) if task == "seq2seq" else rows.labelled(reading)
    found = rows.read(sources, reading, columns)
    if task != "seq2seq":
        _check_names(found)
    if task == "classify" and several:
        _check_labels(found[0].where, [row.first for row in found])
    if task == "classify" and lowercase:
        return [Row(row.first, row.second.lower(), row.where) for row in found]
    return found


def _check_labels(where: str, labels: Sequence[str]) -> None:
    if len(set(labels)) < 2:
        found = f"every row has the label {labels[0][:80]!r}, from {where} on"
        raise CorpusError(f"{found}: there is nothing to tell apart.", "Give rows of at least two labels.")


def _check_names(found: Sequence[Row]) -> None:
    """Labels are names: a column of texts in their place is a mistake."""
    different = len({row.first for row in found})
    if len(found) >= ENOUGH_ROWS and different > len(found) / 2:
        shown = f"{different:,} different labels in {len(found):,} rows, such as {found[1].first[:40]!r}: is that the label?"
        raise CorpusError(f"there are {shown}", "Name the columns with --label-column and --text-column, by name or number.")
    for row in found:
        if len(row.first) > LABEL_LENGTH:
            shown = f"{row.where} has a label of {len(row.first):,} characters; expected at most {LABEL_LENGTH}"
            raise CorpusError(f"{shown}.", "Rows are label<TAB>text; --label-column names another column.")
        if not is_name(row.first):
            raise CorpusError(f"{row.where} has the label {row.first!a}, with a control character in it.", rows.MEND)
    _check_number([row.first for row in found])


def _check_number(labels: Sequence[str]) -> None:
    if len(set(labels)) > MOST_LABELS:
        raise CorpusError(f"there are more than {MOST_LABELS:,} different labels.", "Name the --label-column.")


def survey(sources: Sequence[Source], found: Sequence[Row], paired: bool) -> Survey:
    """What rows hold; the labels are not among the characters."""
    counts = Counter[str]()
    for row in found:
        counts.update(row.second)
        if paired:
            counts.update(row.first)
    return _survey(sources, counts, len(found))


def _survey(sources: Sequence[Source], counts: Counter[str], documents: int) -> Survey:
    size = sum(count * len(letter.encode("utf-8")) for letter, count in counts.items())
    names = tuple(well_formed(source.path.name) for source in sources)
    return Survey(counts.total(), size, documents, counts, raw_digest(sources), names, well_formed(stem(sources)))


def tokenizer_of(found: Sequence[Row], counts: Survey, config: TokenizerConfig, task: str) -> tuple[Tokenizer, list[str]]:
    """A tokenizer for the texts of rows, one for both sides of a pair, and notes.

    Labels hang on words rather than on letters: where there is text enough for it, classify has pieces of about a word.
    """
    paired = task == "seq2seq"
    if task == "classify" and config.tokenizer == "auto" and counts.characters >= ENOUGH_FOR_WORDS:
        words = config.vocab_size or min(WORDS, counts.characters // CHARACTERS_PER_WORD)
        config = replace(config, tokenizer="subword", vocab_size=words)
    return tokenizers.build(config, counts.counts, lambda: _texts(found, paired))


def to_learn(found: Sequence[Row], task: str, fraction: float) -> list[Row]:
    """The rows that are learnt from, the held-out ones left out: what a tokenizer may learn from, too."""
    return [found[index] for index in _split(found, task, fraction)[0].tolist()]


def _split(found: Sequence[Row], task: str, fraction: float) -> tuple[Ints, Ints]:
    """Which rows are learnt from, and which are held out."""
    if task == "seq2seq":
        return examples.split(len(found), None, fraction)
    names = examples.named(row.first for row in found)
    return examples.split(len(found), examples.numbered([row.first for row in found], names), fraction)


def _texts(found: Sequence[Row], paired: bool) -> Iterable[str]:
    for row in found:
        if paired:
            yield row.first
        yield row.second


def parts(found: Sequence[Row], tokenizer: Tokenizer, task: str, fraction: float, longest: int) -> tuple[Parts, tuple[str, ...]]:
    """The examples of rows as `task` learns them, and notes; of those to learn from, at most `longest` tokens each."""
    if task == "seq2seq":
        return _pairs(found, tokenizer, fraction, longest)
    names = examples.named(row.first for row in found)
    labels = examples.numbered([row.first for row in found], names)
    end = [EOS] if task == "conditional" else []
    ids = [_ended(tokenizer, row.second, end) for row in found]
    kept, held = _split(found, task, fraction)
    pairs = zip(found, ids, strict=True)
    short = [row if len(one) <= longest else _shortened(row, tokenizer, one[:longest]) for row, one in pairs]
    most = LONGEST_READ if task == "classify" else None  # as `charrnn classify` reads them
    result = Parts(
        Examples(Ragged.of(ids[index][:longest] for index in kept.tolist()), None, labels[kept], _as_read(short, kept)),
        Examples(Ragged.of(ids[index][:most] for index in held.tolist()), None, labels[held], _as_read(found, held)),
        names,
    )
    return result, (*_balance(labels, names, task), *_cut(sum(len(ids[index]) > longest for index in kept.tolist()), longest))


def _pairs(found: Sequence[Row], tokenizer: Tokenizer, fraction: float, longest: int) -> tuple[Parts, tuple[str, ...]]:
    sources, targets = ([tokenizer.encode(getattr(row, side)) for row in found] for side in ("first", "second"))
    kept, held = _split(found, "seq2seq", fraction)
    texts = _as_read(found, range(len(found)))
    whole = Examples(Ragged.of(sources), Ragged.of(np.append(ids, EOS) for ids in targets), None, texts)
    short = [index for index in kept.tolist() if max(len(sources[index]), len(targets[index])) <= longest]
    if not short:
        raise CorpusError(f"every pair is longer than {longest:,} tokens.", "Raise --longest, or give shorter pairs.")
    left = len(kept) - len(short)
    notes: tuple[str, ...] = (f"pairs: {left:,} of more than {longest:,} tokens are left out (--longest)",) if left else ()
    known = {found[index].first for index in short}
    again = sum(found[index].first in known for index in held.tolist())
    if again:
        notes += (f"pairs: {again:,} of {len(held):,} held-out sources are learnt from as well; their scores flatter",)
    return Parts(whole.take(np.array(short)), whole.take(held)), notes


def _shortened(row: Row, tokenizer: Tokenizer, ids: Ints) -> Row:
    """A row with as much of its text as is learnt, so that what it costs is divided by what was read."""
    return Row(row.first, tokenizer.decode(ids.tolist()), row.where)


def _ended(tokenizer: Tokenizer, text: str, end: list[int]) -> Ints:
    return np.concatenate([tokenizer.encode(text), np.array(end, np.int64)])


def _as_read(found: Sequence[Row], indices: Iterable[int]) -> tuple[tuple[str, str], ...]:
    return tuple((found[index].first, found[index].second) for index in map(int, indices))


def _cut(number: int, longest: int) -> tuple[str, ...]:
    return (f"texts: of {number:,} the first {longest:,} tokens are learnt from (--longest)",) if number else ()


def _balance(labels: Ints, names: Sequence[str], task: str = "classify") -> tuple[str, ...]:
    """How many examples each label has, and whether they are uneven."""
    counts = np.bincount(labels, minlength=len(names))
    shown = ", ".join(f"{name[:40]} {count:,}" for name, count in list(zip(names, counts, strict=True))[:SHOWN_LABELS])
    more = f" and {len(names) - SHOWN_LABELS:,} more" if len(names) > SHOWN_LABELS else ""
    uneven = "; uneven: --balance weighs them" if task == "classify" and counts.max() > UNEVEN * counts.min() else ""
    return (f"labels: {shown}{more}{uneven}",)


def numbers(sources: Sequence[Source], fraction: float) -> tuple[Survey, Tokenizer, Parts, tuple[str, ...]]:
    """Sequences of numbers with their labels; the tokenizer is there for the file's sake alone."""
    found = arrays.read(sources)
    _check_labels(repr(sources[0].name), found.labels)
    _check_number(found.labels)
    names = examples.named(found.labels)
    labels = examples.numbered(found.labels, names)
    kept, held = examples.split(len(labels), labels, fraction)
    result = Parts(_sequences(found.rows, labels, kept), _sequences(found.rows, labels, held), names)
    return _survey(sources, Counter(), len(labels)), ByteTokenizer(), result, _balance(labels, names)


def _sequences(found: NDArray[np.float32], labels: Ints, chosen: Ints) -> Examples:
    return Examples(of_rows(found[chosen]), None, labels[chosen])


def of_rows(found: NDArray[np.float32]) -> Ragged:
    """Sequences (N, T, F) as ragged ones."""
    number, steps = found.shape[:2]
    return Ragged(found.reshape(number * steps, found.shape[2]), np.arange(1, number + 1) * steps)
