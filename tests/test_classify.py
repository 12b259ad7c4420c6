"""`charrnn classify`, and what `eval`, `train`, `runs` and `inspect` say of models that were not trained to write on.

The classifier is made by hand, so that what it must answer is known from its definition: see toy.teller.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy
from commands import Done, Run, runner
from forked import Child, command
from rich.console import Console
from test_panel import started

from charrnn.cli import asked_texts, conclusion, confusion, main, tables
from charrnn.cli.confusion import Confusion
from charrnn.cli.panel import Panel
from charrnn.config import ModelConfig, ReadingConfig
from charrnn.runs import model as models
from charrnn.text import single
from charrnn.text.single import Single
from charrnn.text.sources import find_sources
from charrnn.training import classify
from charrnn.training.events import Evaluated, Finished
from charrnn.weights import weight_shapes

LABELS = ("alpha", "beta", "gamma")


def chances(text: str) -> dict[str, float]:
    """What the toy model must say, by its definition."""
    odds = [math.exp(10 * text.count(letter) / len(text)) for letter in "abc"]
    return {label: odd / sum(odds) for label, odd in zip(LABELS, odds, strict=True)}


def pictures(folder: Path) -> None:
    """A run that takes rows of two numbers: one for the first being the greater, else two."""
    shape = ModelConfig(
        task="classify", cell="rnn", nonlinearity="relu", input="rows", vocab_size=260, embedding_size=2, hidden_size=2,
        bidirectional=False, classes=2, features=2,
    )  # fmt: skip
    made = {name: np.zeros(size, np.float32) for name, size in weight_shapes(shape).items()}
    for name in ("input.weight", "layers.0.weight_ih", "output.weight"):
        np.fill_diagonal(made[name], 3)
    about = {"name": "rows", "start": [2], "provenance": {}, "labels": ["one", "two"]}
    (folder / "checkpoints" / "rows").mkdir(parents=True)
    models.save(folder / "checkpoints" / "rows" / models.MODEL_FILE, shape, toy.tokenizer("byte"), made, about)


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Runs command lines in a folder with the toy model, a model of rows, and files."""
    shape, weights, units, labels = toy.teller()
    (tmp_path / "checkpoints" / "tell").mkdir(parents=True)
    scores = {"step": 5, "on": "validation", "loss": 0.5, "accuracy": 0.75, "confusion": [[3, 1, 0], [0, 2, 0], [1, 0, 1]]}
    about = {"name": "tell", "start": [2], "provenance": {"scores": scores}, "labels": labels}
    models.save(tmp_path / "checkpoints" / "tell" / models.MODEL_FILE, shape, units, weights, about)
    pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "60")
    return runner(capsysbinary)


def says(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


# --- classify


def test_one_text_has_a_label_and_its_probability(tell: Run) -> None:
    done = tell("classify", "tell", "abba a")
    assert (done.code, done.out) == (0, f"alpha\t{chances('abba a')['alpha']:.4f}\n")


def test_the_likeliest_come_first_and_several_texts_are_told_apart(tell: Run) -> None:
    done = tell("classify", "tell", "aab", "c", "--top", "2")
    expected = [
        f"{label}\t{chances(text)[label]:.4f}\t{text}"
        for text, labels in (("aab", ("alpha", "beta")), ("c", ("gamma", "alpha")))
        for label in labels
    ]
    assert done.out.splitlines() == expected
    assert len(tell("classify", "tell", "a", "--top", "99").out.splitlines()) == 3


def test_json_has_text_label_and_the_probability_of_each(tell: Run) -> None:
    record = json.loads(tell("classify", "tell", "ab b", "--json").out)
    assert (record["text"], record["label"], list(record)) == ("ab b", "beta", ["text", "label", "probabilities"])
    assert record["probabilities"] == pytest.approx(chances("ab b"), abs=1e-6)
    assert sum(record["probabilities"].values()) == pytest.approx(1)
    assert list(json.loads(tell("classify", "tell", "ab b", "--json", "--top", "1").out)["probabilities"]) == ["beta"]


def test_a_file_is_a_file_unless_its_name_is_the_text(tell: Run) -> None:
    Path("abc.txt").write_text("a\r\n\n  \nbb\n", encoding="utf-8")
    done = tell("classify", "tell", "abc.txt")
    assert [line.split("\t")[::2] for line in done.out.splitlines()] == [["alpha", "a"], ["beta", "bb"]]
    assert "left out: 2 lines without text" in done.err
    Path("cc").write_text("a\n", encoding="utf-8")
    assert tell("classify", "tell", "cc").out == "alpha\t0.9999\ta\n"
    assert tell("classify", "tell", "--text", "cc").out == "gamma\t0.9999\n"
    assert "no file 'bb.txt'" in tell("classify", "tell", "bb.txt").err


def test_rows_are_told_with_their_accuracy(tell: Run) -> None:
    Path("rows.tsv").write_text("alpha\ta a\\nb\nbeta\tbb\ngamma\ta\ndelta\tc\n", encoding="utf-8")
    done = tell("classify", "tell", "rows.tsv")
    assert [line.split("\t")[2] for line in done.out.splitlines()] == ["a a\\nb", "bb", "a", "c"]
    assert "accuracy 50.00% of 4 with a label (1 of them unknown to the model)" in done.err
    truths = [json.loads(line)["truth"] for line in tell("classify", "tell", "rows.tsv", "--json").out.splitlines()]
    assert truths == ["alpha", "beta", "gamma", "delta"]


def test_a_plain_file_of_rows_is_told_as_eval_reads_it(tell: Run) -> None:
    content = "alpha\ta a\nbeta\tbb\n\ngamma\ta\n"
    for name in ("rows.tsv", "rows.txt"):
        Path(name).write_text(content, encoding="utf-8")
    table, plain = (tell("classify", "tell", name) for name in ("rows.tsv", "rows.txt"))
    assert [line.split("\t")[2] for line in plain.out.splitlines()] == ["a a", "bb", "a"]
    assert (plain.out, "accuracy 66.67% of 3 with a label" in plain.err) == (table.out, True)
    assert json.loads(tell("eval", "tell", "rows.txt", "--json").out)["accuracy"] == pytest.approx(2 / 3)


def test_stdin_has_one_text_a_line_and_the_last_needs_no_end(tell: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, b"\xef\xbb\xbfa\r\n\nalpha\tb\ncc")
    done = tell("classify", "tell", "-")
    assert [line.split("\t", 2)[::2] for line in done.out.splitlines()] == [
        ["alpha", "a"],
        ["alpha", "alpha\\tb"],
        ["gamma", "cc"],
    ]
    says(monkeypatch, b"")
    assert tell("classify", "tell", "-") == Done(0, "", "")
    says(monkeypatch, b"\xff\n")
    assert tell("classify", "tell", "-").code == 65
    says(monkeypatch, b"\xff\n")
    assert tell("classify", "tell", "-", "--errors", "replace").code == 0


def test_batches_change_nothing(tell: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["abc"[number % 3] * (number % 7 + 1) + " x" * (number % 11) for number in range(1200)]
    Path("many.txt").write_text("\n".join(texts), encoding="utf-8")
    lines = tell("classify", "tell", "many.txt", "--json").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts
    for line, text in zip(lines, texts, strict=True):
        assert json.loads(line)["probabilities"] == pytest.approx(chances(text), abs=1e-5)


def test_of_a_text_without_end_the_beginning_is_read(tell: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.text.examples.LONGEST_READ", 4)
    done = tell("classify", "tell", "abab" + "c" * 90, "--json")
    assert json.loads(done.out)["probabilities"] == pytest.approx(chances("abab"), abs=1e-6)
    assert "only the first 4 tokens" in done.err


def test_characters_never_seen_are_named_once(tell: Run) -> None:
    done = tell("classify", "tell", "a☃a", "☃")
    assert done.err.count("☃") == 1
    assert "U+2603" in done.err


@pytest.mark.parametrize(
    ("words", "content", "code", "said"),
    [
        (["verse", "a"], "", 65, "verse"),
        (["tell", ""], "", 65, "empty"),
        (["tell", " \n"], "", 65, "empty"),
        (["tell", "\udcff"], "", 2, "UTF-8"),
        (["tell"], "", 2, "TEXT"),
        (["tell", "f.txt"], "\n\n", 65, "no text"),
        (["tell", "f.txt"], b"\xff", 65, "f.txt"),
        (["tell", "f.tsv"], "alpha\ta\nbeta\n", 65, "line 2"),
        (["tell", "f.tsv"], "alpha\ta\nbeta\t \n", 65, "line 2"),
        (["tell", "f.csv"], 'alpha,"a', 65, "f.csv"),
        (["tell", "f.jsonl"], '{"text": "a"}\n{"label": "alpha"}\n', 65, "line 2"),
        (["tell", "f.csv", "--label-column", "mood"], "text,id\na,b\n", 65, "mood"),
        (["tell", "f.csv", "--text-column", "0"], "a,b\n", 2, "--text-column"),
        (["tell", "a", "--top", "0"], "", 2, "--top"),
        (["tell", "a", "--encoding", "klingon"], "", 2, "klingon"),
        (["rows", "f.npz"], "nonsense", 65, "f.npz"),
        (["rows", "nothing.npz"], "", 65, "nothing.npz"),
    ],
)
def test_what_cannot_be_is_refused(tell: Run, words: list[str], content: str | bytes, code: int, said: str) -> None:
    for word in (word for word in words if word.startswith("f.")):
        Path(word).write_bytes(content if isinstance(content, bytes) else content.encode())
    done = tell("classify", *words)
    assert (done.code, said in done.err) == (code, True), done


def test_a_model_of_another_task_says_what_it_does(run: Run) -> None:
    done = run("classify", "verse", "a")
    assert (done.code, done.out) == (2, "")
    assert "charrnn sample verse" in done.err


def test_sequences_of_numbers_have_an_index_for_a_text(tell: Run) -> None:
    x = np.array([[[2, 1], [1, 0]], [[0, 1], [1, 3]], [[1, 0], [1, 0]]], np.float32)
    np.savez("x.npz", x=x)
    done = tell("classify", "rows", "x.npz")
    assert [line.split("\t")[::2] for line in done.out.splitlines()] == [["one", "0"], ["two", "1"], ["one", "2"]]
    assert "accuracy" not in done.err
    np.savez("xy.npz", x=x, y=np.array(["one", "two", "two"]))
    done = tell("classify", "rows", "xy.npz", "--json")
    assert [json.loads(line)["index"] for line in done.out.splitlines()] == [0, 1, 2]
    assert "accuracy 66.67% of 3" in done.err
    np.savez("wide.npz", x=np.zeros((2, 2, 3)))
    assert tell("classify", "rows", "wide.npz").code == 65


@pytest.mark.parametrize("mean", [0.0, 1e18])
def test_numbers_far_from_what_was_learnt_have_odds(tell: Run, tmp_path: Path, mean: float) -> None:
    """A stranger's file may say that the numbers hardly differed: what is divided by that must not become nan."""
    path = tmp_path / "checkpoints" / "rows" / models.MODEL_FILE
    made = models.load(path)
    shape = replace(made.config, input_mean=mean, input_deviation=1e-30)
    models.save(
        path, shape, made.tokenizer, made.weights, {"name": "rows", "start": [2], "provenance": {}, "labels": ["one", "two"]}
    )
    np.savez("far.npz", x=np.array([[[3.0, -1e18]] * 2, [[0.0, 0.0]] * 2]))
    told = tell("classify", "rows", "far.npz")
    assert told.code == 0
    assert all(0.5 <= float(line.split("\t")[1]) <= 1 for line in told.out.splitlines())


def test_of_a_text_without_end_eval_reads_as_much_as_classify(tell: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.text.examples.LONGEST_READ", 4)
    monkeypatch.setattr("charrnn.training.examiner.LONGEST_READ", 4)
    Path("long.tsv").write_text("alpha\taaab" + "b" * 50 + "\nbeta\tb\n")
    told = tell("eval", "tell", "long.tsv")
    assert told.code == 0
    assert "100.00% of 2 texts" in told.out
    assert "of 1 text only the first 4 tokens were read" in told.err


def test_lines_are_answered_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is waited for that has not been promised: a read that would block for ever is none of these."""
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8") as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        found = asked_texts.lines_of_stdin(ReadingConfig())
        os.write(writer, b"a\nbc\nd")
        assert [next(found) for _ in range(3)] == [Single("a"), Single("bc"), None]
        os.write(writer, "é\n".encode()[:2])
        assert next(found) is None
        os.write(writer, b"\n")
        os.close(writer)
        assert list(found) == [Single("dé"), None]


def test_answers_come_while_stdin_is_open(tell: Run, tmp_path: Path) -> None:
    child = Child(command("classify", "tell", "-", "--threads", "1"), tty=True)
    os.write(child._outer[0], b"aa\n")
    while b"0.9999" not in child._pieces[child._outer[0]]:
        assert child.read(), "no answer"
    os.write(child._outer[0], b"\x04")
    done = child.end()
    assert done.code == 0
    assert b"alpha  0.9999  aa\r\n" in done.out


def test_on_a_terminal_labels_stand_in_columns_and_texts_end_with_the_line(tell: Run, tmp_path: Path) -> None:
    done = Child(
        command("classify", "tell", "b\x1b[31m" + "b" * 200, "漢" * 100 + "a", "--top", "2", "--threads", "1"), tty=True
    ).end()
    lines = [line for line in done.out.decode().split("\r\n") if re.match("alpha|beta|gamma", line)]
    assert [re.split(" +", line)[0] for line in lines[::2]] == ["beta", "alpha"]
    assert lines[0][15:].startswith("b\u241b[31mbbb")
    assert all(tables.width(line) <= 60 for line in lines)
    assert [line.endswith("...") for line in lines] == [True, False, True, False]
    assert b"next:" in done.out


# --- rows with and without labels


@pytest.mark.parametrize(
    ("name", "content", "asked", "expected"),
    [
        ("a.tsv", "one\ntwo\n", {}, [("one", ""), ("two", "")]),
        ("a.tsv", "text\none\n", {}, [("one", "")]),
        ("a.tsv", "x\tone\ny\ttwo\n", {}, [("one", "x"), ("two", "y")]),
        ("a.csv", "text,label\none,x\n", {}, [("one", "x")]),
        ("a.csv", "id,text\n5,one\n", {}, [("one", "")]),
        ("a.csv", "id,body\n5,one\n", {"text_column": "body"}, [("one", "")]),
        ("a.csv", "mood,body\nx,one\n", {"text_column": "body", "label_column": "mood"}, [("one", "x")]),
        ("a.csv", "one,x\ntwo,\n", {"text_column": "1", "label_column": "2"}, [("one", "x"), ("two", "")]),
        ("a.csv", "one\ntwo\n", {"text_column": "1", "label_column": "2"}, [("one", ""), ("two", "")]),
        ("a.csv", "one,x\n", {"label_column": "2", "text_column": "1"}, [("one", "x")]),
        ("a.jsonl", '{"text": "one"}\n{"text": "two", "label": 5}\n', {}, [("one", ""), ("two", "5")]),
        ("a.txt", "x\tone\n\ntwo", {}, [("x\tone", ""), ("", ""), ("two", "")]),
        ("a.txt", "x\tone\\nand\n \ny\ttwo", {}, [("one\nand", "x"), ("two", "y")]),
        ("a.txt", "text\tlabel\none\tx\n", {}, [("one", "x")]),
        ("a.txt", "\n\n", {}, [("", ""), ("", "")]),
        ("a.txt", "\n \nx\tone\n", {}, [("one", "x")]),
    ],
)
def test_a_label_may_be_missing(tmp_path: Path, name: str, content: str, asked: dict[str, str], expected: list[object]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    (source,) = find_sources([str(tmp_path / name)])
    found = single.read(source, ReadingConfig(**asked))
    assert [(item.text, item.label) for item in found] == expected


# --- eval and its tables


def definition(truths: Sequence[int], guesses: Sequence[int], label: int) -> tuple[float, float, float]:
    """Precision, recall and F1 as the textbook has them."""
    both = sum(truth == guess == label for truth, guess in zip(truths, guesses, strict=True))
    precision, recall = both / max(1, list(guesses).count(label)), both / max(1, list(truths).count(label))
    return precision, recall, 2 * precision * recall / (precision + recall) if both else 0.0


def test_the_figures_are_those_of_the_definition() -> None:
    drawn = np.random.Generator(np.random.PCG64(1)).integers(0, 5, (2, 200))
    found = confusion.labels(Confusion.of("abcde", *drawn))
    for number, label in enumerate(found):
        figures = (label.precision, label.recall, label.f1)
        assert figures == pytest.approx(definition(drawn[0].tolist(), drawn[1].tolist(), number))
    square = np.zeros((5, 5), np.int64)
    np.add.at(square, tuple(drawn), 1)
    assert classify.macro_f1(*drawn, 5) == pytest.approx(np.mean([label.f1 for label in found]))
    of_table = Confusion.of_table("abcde", square.tolist())
    assert of_table is not None
    assert confusion.labels(of_table) == found


def test_a_label_that_was_never_met_has_no_figures() -> None:
    found = Confusion.of(("x", "y", "z"), np.array([0, 0]), np.array([0, 1]))
    assert confusion.label_table(found).rows[1:] == [("y", "0", "0.0000", "--", "0.0000"), ("z", "0", "--", "--", "--")]
    record = confusion.as_record(found)
    assert record["labels"]["z"] == {"examples": 0, "taken_for_it": 0, "precision": None, "recall": None, "f1": None}
    assert record["confusion"] == {"x": {"x": 1, "y": 1}}


@pytest.mark.parametrize("table", [None, [], [[1]], [[1, 2], [3]], [[1, 2], [3, -1]], [[1, 2], [3, 1.5]], [[0, 0], [0, 0]], "x"])
def test_a_table_that_is_none_is_not_shown(table: object) -> None:
    assert Confusion.of_table(("x", "y"), table) is None


@pytest.mark.parametrize("width", [40, 80, 100])
def test_of_many_labels_the_commonest_are_shown_and_nobody_is_lost(width: int) -> None:
    generator = np.random.Generator(np.random.PCG64(2))
    truths, guesses = generator.geometric(0.05, (2, 5000)) % 300
    found = Confusion.of([f"label number {number}" for number in range(300)], truths, guesses)
    table = confusion.confusion_table(found, width)
    assert max(map(len, tables.plain(replace(table, note="")).splitlines())) <= width
    cells = [int(cell.replace(",", "").replace(".", "0")) for row in table.rows for cell in row[1:]]
    assert sum(cells) == 5000
    assert table.rows[-1][0] == "(others)"
    assert f"the {300 - len(table.rows) + 1} labels" in table.note
    labels = confusion.label_table(found)
    assert (len(labels.rows), "270" in labels.note) == (30, True)


def test_eval_tells_figures_and_tables(tell: Run) -> None:
    Path("rows.tsv").write_text("alpha\ta\nalpha\tb\nbeta\tb\nalpha\taa\n", encoding="utf-8")
    lines = tell("eval", "tell", "rows.tsv").out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["label", "examples", "precision", "recall", "F1"],
        ["alpha", "3", "1.0000", "0.6667", "0.8000"],
        ["beta", "1", "0.5000", "1.0000", "0.6667"],
        ["gamma", "0", "--", "--", "--"],
    ]
    assert [line.split()[-3:] for line in lines[6:9]] == [["2", "1", "."], [".", "1", "."], [".", ".", "."]]
    loss = -np.mean(
        [math.log(chances(text)[label]) for label, text in (("alpha", "a"), ("alpha", "b"), ("beta", "b"), ("alpha", "a"))]
    )
    assert lines[10:] == [
        "accuracy   75.00% of 4 texts",
        "commonest  75.00% are alpha",
        f"macro F1   {(0.8 + 2 / 3) / 2:.4f}",
        f"loss       {loss:.4f} nats per example",
    ]
    record = json.loads(tell("eval", "tell", "rows.tsv", "--json").out)
    assert record["confusion"] == {"alpha": {"alpha": 2, "beta": 1}, "beta": {"beta": 1}}
    assert (record["accuracy"], record["loss"], record["examples"]) == (0.75, pytest.approx(loss, abs=1e-5), 4)
    assert tell("eval", "tell", "rows.tsv", "--split", "val").code == 0
    Path("rows.tsv").write_text("delta\ta\n", encoding="utf-8")
    assert tell("eval", "tell", "rows.tsv").code == 65


def test_on_a_terminal_the_tables_are_drawn(tell: Run) -> None:
    Path("rows.tsv").write_text("alpha\ta\nbeta\tb\n", encoding="utf-8")
    done = Child(command("eval", "tell", "rows.tsv", "--threads", "1"), tty=True).end()
    assert b"truth \\ taken for" in done.out
    assert (b"\x1b[1mlabel" in done.out or b"\x1b[1m" in done.out, b"next:" in done.out) == (True, True)


# --- the end of a training, the panel, runs and inspect


ROWS = {  # of the tasks, what they learn in a moment
    "classify": "".join(
        f"{label}\t{letter * (number % 5 + 1)} {number}\n" for number in range(20) for label, letter in ("xa", "yb")
    ),
    "conditional": "".join(f"{label}\t{letter * 9} {number}\n" for number in range(20) for label, letter in ("xa", "yb")),
    "seq2seq": "".join(f"{number} a\t{number} b\n" for number in range(20)),
}
ENDS = {
    "classify": (r"held-out accuracy [\d.]+%, macro F1 [\d.]+, at step", 'tell labels with it: charrnn classify t "..."'),
    "conditional": (r"[\d.]+ bits per character with the right label, [\d.]+ with a wrong one", "charrnn sample t --label x"),
    "seq2seq": (r"held-out exact match [\d.]+%, character error rate [\d.]+%", 'answer texts with it: charrnn translate t "..."'),
}
SMALL = ("--steps", "3", "--hidden-size", "8", "--batch-size", "4", "--threads", "1", "--name", "t")


@pytest.mark.parametrize("task", ROWS)
def test_a_training_ends_with_the_figures_of_its_task(tell: Run, task: str) -> None:
    Path("rows.tsv").write_text(ROWS[task], encoding="utf-8")
    done = tell("train", "--task", task, "rows.tsv", *SMALL)
    assert (done.code, done.out) == (0, "")
    assert re.search(ENDS[task][0], done.err), done.err
    assert ENDS[task][1] in done.err
    assert not re.search(r"\bnan\b", done.err)
    assert ("taken for" in done.err) is (task == "classify")
    listed = next(line for line in tell("runs").out.splitlines() if line.startswith("t\t")).split("\t")
    assert listed[3] == f"{task} lstm 1x8"
    assert re.fullmatch({"classify": r"[\d.]+% right", "seq2seq": r"[\d.]+% exact"}.get(task, r"[\d.]+"), listed[6])
    card = tell("inspect", "t").out
    shown = {name: f"\n  {name} " in card for name in ("pooling", "label_as", "attention", "bidirectional", "nonlinearity")}
    meant = {"classify": {"pooling", "bidirectional"}, "conditional": {"label_as"}, "seq2seq": {"attention", "bidirectional"}}
    assert {name for name, there in shown.items() if there} == meant[task]
    assert ("x, y" in card) is (task != "seq2seq")
    assert not re.search(r"\bnan\b", card)


def test_a_training_without_scores_says_no_nan(tell: Run) -> None:
    """As after a run whose best model somebody has removed."""
    done = Finished(5, "done", 5, 0.25, math.nan, 1.0, Path("nowhere"))
    for task in (*ENDS, "language"):
        lines: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("charrnn.cli.console.say", lines.append)
            conclusion.tell(replace(started(), settings={"task": task}), done, Path("checkpoints"))
        assert "best loss 0.2500, at step 5" in lines[0]
        assert "nan" not in "\n".join(lines)


def test_the_panel_shows_what_the_task_measures() -> None:
    screen = Console(file=io.StringIO(), width=100, height=30)
    panel = Panel(screen)
    panel.feed(replace(started(), settings={"task": "classify"}))
    panel.feed(Evaluated(5, 0.5, math.nan, math.nan, 1.6, 0.75, True, "validation", 1.0, {"macro_f1": 0.7321}))
    screen.print(panel.render())
    drawn = screen.file.getvalue()  # type: ignore[attr-defined]
    assert "macro F1" in drawn
    assert "0.7321" in drawn
    assert "nan" not in drawn
    assert "bits/char" not in drawn
    with panel:
        pass


def test_inspect_keeps_tables_off_the_card_and_labels_in_the_json(tell: Run) -> None:
    card = tell("inspect", "tell").out
    assert "confusion" not in card
    assert "alpha, beta, gamma" in card
    record = json.loads(tell("inspect", "tell", "--json").out)
    assert (record["labels"], len(record["provenance"]["scores"]["confusion"])) == (list(LABELS), 3)
    assert "tokenizer\n" not in tell("inspect", "rows").out
    assert tell("runs").out.count("rows") > 1


def test_the_table_of_too_many_labels_is_not_saved() -> None:
    """A header holds only so many values; a model that says more could not be read again."""
    for number, saved in ((classify.MOST_SAVED, True), (classify.MOST_SAVED + 1, False)):
        measures = classify.report(np.log(np.full((5, number), 1 / number)), np.arange(5)).measures
        assert ("confusion" in measures) is saved


@pytest.mark.parametrize(
    ("task", "option"),
    [
        ([], ["--pooling", "max"]), ([], ["--balance"]), (["--task", "seq2seq"], ["--label-column", "1"]),
        (["--task", "classify"], ["--window", "8"]), (["--task", "conditional"], ["--attention", "dot"]),
    ],
)  # fmt: skip
def test_an_option_of_another_task_is_refused(
    task: list[str], option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.tsv").write_text("a\tx y\nb\ty z\n" * 4, encoding="utf-8")
    assert main.run(["train", "rows.tsv", *task, *option, "--steps", "1"]) == 2
    said = capsys.readouterr().err
    assert f"{option[0]} is for --task " in said
    assert not Path("checkpoints").exists()


def test_a_file_of_settings_may_serve_several_tasks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the command that repeats a run does not name what is not its own, which would be refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARRNN_POOLING", "max")
    Path("all.toml").write_text('attention = "additive"\nthreads = 1\nhidden-size = 8\n')
    Path("text.txt").write_text("the rain comes down the lane. " * 60)
    assert main.run(["train", "text.txt", "--config", "all.toml", "--steps", "2"]) == 0
    again = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("the same again: "))
    assert "pooling" not in again
    assert "attention" not in again
    monkeypatch.delenv("CHARRNN_POOLING")
    assert main.run([*shlex.split(again.removeprefix("the same again: "))[1:], "--name", "twice"]) == 0
