"""Rows of two texts, and what is held out of them: read from any kind of file, every fault named by file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Done, Run
from hypothesis import given
from hypothesis import strategies as st

from charrnn.config import ModelConfig, ReadingConfig, TokenizerConfig
from charrnn.errors import CorpusError, UsageError
from charrnn.runs.model import Model
from charrnn.text import examples, rows
from charrnn.text.sources import find_sources
from charrnn.text.tokenizers import EOS
from charrnn.training import examiner, lessons

PLAIN, LABELLED = ReadingConfig(), rows.labelled(ReadingConfig())
GOOD = "yes\tgood bread\nno\tcold soup\nyes\twarm rooms\nno\tno towels\n"
SOON = ("--steps", "2", "--hidden-size", "4", "--embedding-size", "4", "--threads", "1", "--val-fraction", "0.3")


def read(path: Path, content: str | bytes, paired: bool = False, **reading: Any) -> list[tuple[str, str]]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    asked = replace(PLAIN, **reading)
    columns = rows.paired(asked) if paired else rows.labelled(asked)
    return [(row.first, row.second) for row in rows.read(find_sources([str(path)]), asked, columns)]


# --- faults, as the command line tells of them


@pytest.fixture
def train(run: Run) -> Callable[..., Done]:
    """Train on a file of this name and content, or fail to; a failure must leave nothing behind."""

    def trained(name: str, content: str | bytes, *options: str, task: str = "classify") -> Done:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        before = sorted(Path("checkpoints").rglob("*"))
        done = run("train", "--task", task, name, *SOON, *options)
        if done.code:
            assert done.out == ""
            assert sorted(Path("checkpoints").rglob("*")) == before
        return done

    return trained


FAULTS: dict[str, tuple[str, str | bytes, str, str]] = {  # file, content, line ("" for none), what is said
    "no tab": ("a.tsv", GOOD + "yes and more\n", "5", "there is no tab in it"),
    "no tab in a plain file": ("a.txt", "yes good\n" + GOOD, "1", "there is no tab in it"),
    "no text": ("a.tsv", GOOD + "yes\t\n", "5", "has an empty text"),
    "a text of spaces": ("a.tsv", GOOD + "yes\t \\n \n", "5", "has an empty text"),
    "no label": ("a.tsv", "\tgood\n" + GOOD, "1", "has an empty label"),
    "no second column": ("a.csv", "label,text\nyes,good\nno\n", "3", "has 1 column: expected 2"),
    "one label": ("a.tsv", "yes\ta\nyes\tb\nyes\tc\n", "1", "every row has the label 'yes'"),
    "a label too long": ("a.tsv", GOOD + "x" * 201 + "\tgood\n", "5", "has a label of 201 characters; expected at most 200"),
    "NUL in a label": ("a.tsv", GOOD + "ye\0s\tgood\n", "5", "the label 'ye\\x00s', with a control character in it"),
    "an escape in a label": ("a.tsv", GOOD + "\x1b[2Jno\tgood\n", "5", "with a control character in it"),
    "a line end in a label": ("a.tsv", GOOD + "ye\\ns\tgood\n", "5", "with a control character in it"),
    "nothing": ("a.tsv", "", "", "there is no row in 'a.tsv'"),
    "empty lines alone": ("a.tsv", "\n\n  \n\n", "", "there is no row"),
    "a header alone": ("a.csv", "label,text\n", "", "there is no row in 'a.csv'"),
    "too few to hold out": ("a.tsv", "yes\tgood\nno\tbad\n", "", "too few examples to hold any out"),
    "bad JSON": ("a.jsonl", '{"label": "a", "text": "b"}\n{"label": \n', "2", "is not JSON"),
    "no object": ("a.jsonl", '["a", "b"]\n', "1", "has no text in a field 'label'; it is no JSON object"),
    "no field": ("a.jsonl", '{"label": "a", "text": "b"}\n\n{"label": "a", "words": "b"}\n', "3", "no text in a field 'text'"),
    "a field of another kind": ("a.jsonl", '{"label": true, "text": "b"}\n', "1", "has no text in a field 'label'"),
    "half a surrogate pair": ("a.jsonl", '{"label": "a", "text": "\\ud800"}\n', "1", "half a surrogate pair"),
    "open quotes": ("a.csv", 'label,text\nyes,good\nno,"bad\n', "3", "is no proper .csv"),
    "words behind quotes": ("a.csv", 'yes,"good" bread\n', "1", "is no proper .csv"),
    "bytes that do not decode": ("a.tsv", b"yes\tgood\nno\t\xff\xfe\xfa\n", "", "is not utf-8"),
    "a .gz that is none": ("a.tsv.gz", GOOD, "", "is no proper .gz file"),
    "a .gz cut off": ("a.tsv.gz", gzip.compress(GOOD.encode())[:-9], "", "it ends too early"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "line", "said"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_by_file_and_line(
    name: str, content: str | bytes, line: str, said: str, train: Callable[..., Done]
) -> None:
    done = train(name, content)
    assert done.code == 65, done.err
    assert said in " ".join(done.err.split())
    assert repr(name) in done.err or "hold any out" in said
    assert not line or f"line {line}" in done.err
    assert "\x1b" not in done.err


@pytest.mark.parametrize("task", ["classify", "conditional"])
def test_a_header_of_other_names_is_no_example(task: str, train: Callable[..., Done]) -> None:
    table = "sentiment,review\n" + GOOD.replace("\t", ",")
    done = train("h.csv", table, task=task)
    assert done.code == 65
    assert "'h.csv', line 1 looks like a header: no other row has the label 'sentiment'" in " ".join(done.err.split())
    assert "--label-column sentiment --text-column review" in " ".join(done.err.split())
    assert train("h.csv", table, "--label-column", "sentiment", "--text-column", "review", task=task).code == 0


def test_what_may_be_a_row_is_none_of_a_header(tmp_path: Path) -> None:
    path, head = tmp_path / "a.tsv", "mood\twords\n"
    for content in (GOOD + head, head + "yes\ta\nyes\tb\n", head.replace("words", "some words") + GOOD, head + GOOD + "so\ta\n"):
        assert len(read(path, content)) == content.count("\n")
    assert read(path, "label\ttext\n" + head + GOOD)[0] == ("mood", "words")
    assert read(path, head + GOOD, label_column="1", text_column="2")[0] == ("mood", "words")
    assert read(path, head + GOOD, paired=True)[0] == ("mood", "words")
    with pytest.raises(CorpusError, match="line 1 looks like a header"):
        read(path, head + GOOD)


def test_headers_of_several_files_are_seen(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.tsv").write_text("mood\twords\n" + GOOD)
    with pytest.raises(CorpusError, match="line 1 looks like a header"):
        rows.read(find_sources([str(tmp_path / "a.tsv"), str(tmp_path / "b.tsv")]), PLAIN, LABELLED)


def test_a_pair_with_a_side_missing_is_named(train: Callable[..., Done]) -> None:
    for content, said in (("a\tb\nc\t \n", "line 2 has an empty target"), ("a\tb\n\tc\n", "line 2 has an empty source")):
        done = train("p.tsv", content, task="seq2seq")
        assert done.code == 65
        assert said in done.err
    done = train("p.tsv", "aaaa\tbbbb\n" * 9, "--longest", "3", task="seq2seq")
    assert (done.code, "every pair is longer than 3 tokens" in done.err) == (65, True)


def test_a_label_that_a_model_does_not_know_is_named(train: Callable[..., Done], run: Run) -> None:
    done = train("good.tsv", GOOD * 3, "--name", "known")
    assert done.code == 0, done.err
    Path("strange.tsv").write_text("yes\tgood\nperhaps\tbad\n")
    done = run("eval", "known", "strange.tsv")
    assert (done.code, done.out) == (65, "")
    assert "'strange.tsv', line 2 has the label 'perhaps'" in done.err
    assert "'no', 'yes'" in done.err


def test_columns_that_are_not_there_are_named(train: Callable[..., Done]) -> None:
    table = "id,mood,words\n1,yes,good\n2,no,bad\n3,yes,fine\n4,no,ill\n"
    for options, code, said in (
        (("--label-column", "mood", "--text-column", "wrods"), 65, "has no column 'wrods'; its first row is 'id', 'mood'"),
        (("--label-column", "9", "--text-column", "1"), 65, "line 1 has 3 columns: expected 9"),
        (("--label-column", "2", "--text-column", "2"), 64, "expected two columns"),
        (("--label-column", "0"), 64, "expected two columns"),
        (("--label-column", "mood", "--text-column", "words"), 0, ""),
    ):  # fmt: skip
        done = train("t.csv", table, *options)
        assert done.code == code or (code == 64 and done.code == UsageError.exit_code), done.err
        assert said in done.err


# --- what is read


@pytest.mark.parametrize(
    "content",
    [
        GOOD, GOOD.rstrip("\n"), GOOD.replace("\n", "\r\n"), GOOD.replace("\n", "\r"), "\ufeff" + GOOD, "\n" + GOOD + "\n \n",
        GOOD.encode("utf-16"), "label\ttext\n" + GOOD, "Label\t TEXT \n" + GOOD,
    ],
)  # fmt: skip
def test_line_ends_marks_and_headers_change_nothing(content: str | bytes, tmp_path: Path) -> None:
    expected = [tuple(line.split("\t")) for line in GOOD.splitlines()]
    for name, pack in (("a.tsv", bytes), ("a.txt", bytes), ("a.tsv.gz", gzip.compress)):
        data = content if isinstance(content, bytes) else content.encode()
        assert read(tmp_path / name, pack(data)) == expected


def test_a_nul_in_a_text_is_a_character(tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", "yes\tgo\0od\n") == [("yes", "go\0od")]


HEADERS = [("label", "text"), ("text", "label"), ("id", "text", "x", "label")]


@pytest.mark.parametrize("header", HEADERS, ids=" ".join)
@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_columns_in_any_order_by_header_name_and_number(kind: str, header: tuple[str, ...], tmp_path: Path) -> None:
    values = [{name: f"{name} {number}" for name in header} for number in range(3)]
    expected = [(row["label"], row["text"]) for row in values]
    if kind == "jsonl":
        assert read(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in values)) == expected
        return
    separator = "," if kind == "csv" else "\t"
    lines = [separator.join(row.values()) for row in values]
    assert read(tmp_path / f"a.{kind}", "\n".join([separator.join(header), *lines])) == expected
    label, text = (str(header.index(name) + 1) for name in ("label", "text"))
    assert read(tmp_path / f"b.{kind}", "\n".join(lines), label_column=label, text_column=text) == expected
    other = separator.join(name.replace("label", "Mood").replace("text", "Words") for name in header)
    named = read(tmp_path / f"c.{kind}", "\n".join([other, *lines]), label_column="Mood", text_column="Words")
    assert named == expected


def test_columns_of_pairs_and_one_name_beside_a_number(tmp_path: Path) -> None:
    table = "target,source,other\nb,a,c\n"
    assert read(tmp_path / "a.csv", table, paired=True) == [("a", "b")]
    assert read(tmp_path / "a.csv", table, paired=True, source_column="other") == [("c", "b")]
    assert read(tmp_path / "a.csv", table, paired=True, source_column="other", target_column="2") == [("c", "a")]


def test_numbers_are_labels_in_jsonl(tmp_path: Path) -> None:
    assert read(tmp_path / "a.jsonl", '{"label": 3, "text": "x"}\n') == [("3", "x")]


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_what_is_escaped_is_read_again(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.getbasetemp() / "escaped.tsv"
    written = "".join(f"{rows.escaped(one)}\t{rows.escaped(other)}\n" for one, other in texts)
    assert read(path, "label\ttext\n" + written) == texts
    assert read(path, written, label_column="1", text_column="2") == texts


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_what_is_quoted_is_read_again(tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]]) -> None:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("label", "text"), *texts])
    assert read(tmp_path_factory.getbasetemp() / "quoted.csv", buffer.getvalue()) == texts


@pytest.mark.parametrize(
    ("written", "meant"), [("a\\nb", "a\nb"), ("a\\\\nb", "a\\nb"), ("\\t\\x\\", "\t\\x\\"), ("\\\\\\n", "\\\n")]
)
def test_escapes_by_hand(written: str, meant: str, tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", f"x\t{written}.\n") == [("x", f"{meant}.")]
    assert read(tmp_path / "a.csv", f"x,{written}.\n") == [("x", f"{written}.")]  # quotes do there what escapes do here


@given(st.binary(max_size=200), st.sampled_from(["a.tsv", "a.csv", "a.jsonl", "a.txt", "a.tsv.gz"]))
def test_any_bytes_are_rows_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str) -> None:
    path = tmp_path_factory.getbasetemp() / name
    try:
        found = read(path, data)
    except CorpusError:
        return
    assert found
    assert all(one.strip() and other.strip() for one, other in found)


# --- examples, and what is held out

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=120)
FRACTIONS = st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.5, 0.9])


@given(LABELS, FRACTIONS)
def test_each_label_has_its_share_held_out(labels: list[int], fraction: float) -> None:
    numbers = np.array(labels)
    kept, held = examples.split(len(labels), numbers, fraction)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert sorted(kept) == kept.tolist()
    assert sorted(held) == held.tolist()
    for label in set(labels):
        total, out = labels.count(label), int((numbers[held] == label).sum())
        assert out < total
        assert abs(out - fraction * total) <= 1
        assert out >= (1 if fraction and total > 1 else 0)
        assert fraction or not out


@given(LABELS, FRACTIONS, st.randoms())
def test_a_split_depends_on_nothing_but_the_places_of_a_label(labels: list[int], fraction: float, random: Any) -> None:
    """Rows of other labels between them change nothing, nor what labels are called, nor a seed: there is none."""
    order = sorted(range(len(labels)), key=lambda place: labels[place])
    random.shuffle(new := list(range(6)))
    held = set(examples.split(len(labels), np.array(labels), fraction)[1].tolist())
    renamed = examples.split(len(labels), np.array([new[label] for label in labels]), fraction)[1]
    grouped = examples.split(len(labels), np.array([labels[place] for place in order]), fraction)[1]
    assert held == set(renamed.tolist()) == {order[place] for place in grouped.tolist()}


def test_a_split_is_the_same_for_ever() -> None:
    assert examples.split(20, None, 0.2)[1].tolist() == [7, 9, 16, 17]
    assert examples.split(3, np.array([0, 1, 1]), 0.9)[0].tolist()[0] == 0


@pytest.mark.parametrize("task", ["classify", "conditional", "seq2seq"])
@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_eval_scores_what_training_held_out(task: str, fraction: float, tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(
        "".join(f"{'abc'[number**2 % 3]}{number if task == 'seq2seq' else ''}\ttext {number}\n" for number in range(40))
    )
    sources = find_sources([str(path)])
    found = lessons.read_rows(sources, PLAIN, task)
    counts = lessons.survey(sources, found, task == "seq2seq")
    tokenizer, _ = lessons.tokenizer_of(found, counts, TokenizerConfig(), task == "seq2seq")
    parts, _ = lessons.parts(found, tokenizer, task, fraction, 2000)
    shape = ModelConfig(task=task, vocab_size=tokenizer.vocab_size, classes=len(parts.names))
    about = {"settings": {"val_fraction": fraction}}
    model = Model(shape, tokenizer, {}, (EOS,), about, "toy", path, "", parts.names)
    scored = examiner.read(model, sources, PLAIN, "val")
    assert scored.texts == parts.val.texts
    assert not set(scored.texts) & set(parts.train.texts)
    assert len(examiner.read(model, sources, PLAIN)) == 40
    for one, other in zip(range(len(scored)), range(len(parts.val)), strict=True):
        assert scored.inputs[one].tolist() == parts.val.inputs[other].tolist()
    if parts.val.labels is not None and scored.labels is not None:
        assert scored.labels.tolist() == parts.val.labels.tolist()


def test_rows_of_numbers_are_held_out_likewise(tmp_path: Path) -> None:
    x, y = np.arange(120, dtype=np.float32).reshape(30, 2, 2), np.arange(30) % 3
    np.savez(tmp_path / "a.npz", x=x, y=y)
    sources = find_sources([str(tmp_path / "a.npz")])
    _, tokenizer, parts, _ = lessons.numbers(sources, 0.2)
    shape = ModelConfig(task="classify", input="rows", features=2, vocab_size=tokenizer.vocab_size, classes=3)
    model = Model(shape, tokenizer, {}, (EOS,), {"settings": {"val_fraction": 0.2}}, "toy", tmp_path, "", parts.names)
    scored = examiner.read(model, sources, PLAIN, "val")
    assert np.array_equal(scored.inputs.values, parts.val.inputs.values)
    assert not set(scored.inputs.values[:, 0].tolist()) & set(parts.train.inputs.values[:, 0].tolist())
    assert len(scored) + len(parts.train) == 30
    with pytest.raises(CorpusError, match="nothing to score"):
        examiner.read(replace(model, provenance={"settings": {"val_fraction": 0.0}}), sources, PLAIN, "val")


def test_labels_are_in_the_order_of_numbers_then_words() -> None:
    assert examples.named(["10", "b", "9", "A", "10", "01"]) == ("01", "9", "10", "A", "b")


def test_long_texts_are_cut_and_long_pairs_left_out_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("".join(f"{'ab'[number % 2]}\t{'x' * number}.\n" for number in range(1, 41)))
    sources = find_sources([str(path)])
    for task, said in (("classify", "texts: of"), ("conditional", "texts: of"), ("seq2seq", "pairs:")):
        found = lessons.read_rows(sources, PLAIN, task)
        counts = lessons.survey(sources, found, task == "seq2seq")
        tokenizer, _ = lessons.tokenizer_of(found, counts, TokenizerConfig(), task == "seq2seq")
        parts, notes = lessons.parts(found, tokenizer, task, 0.1, 20)
        longer = {"classify": 0, "conditional": 1, "seq2seq": 1}[task]
        assert any(note.startswith(said) for note in notes)
        assert max(parts.train.inputs.lengths) <= 20
        assert parts.train.targets is None or max(parts.train.targets.lengths) <= 20 + longer


def test_a_carriage_return_that_stands_alone_is_called_so(tmp_path: Path) -> None:
    """Python's own message tells of a mode in which nobody can open the file."""
    with pytest.raises(CorpusError, match="carriage return stands alone") as error:
        read(tmp_path / "a.tsv", "a\tone\rtwo\nb\tthree\n", newline="keep")
    assert "universal" not in str(error.value)
