"""`charrnn plot`: the log of a run as charts in characters and as a picture, whatever stands in the log."""

from __future__ import annotations

import builtins
import errno
import json
import math
import random
import re
import subprocess
import sys
import tracemalloc
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import toy
from commands import Run, environment, runner

from charrnn.cli.chart import ASCII, BRAILLE, Chart, Line, Scale, Signs, draw, page
from charrnn.runs import metrics
from charrnn.runs import model as models
from charrnn.training.events import Evaluated, Step
from charrnn.training.trainer import _jsonable

RUN = Path("checkpoints/toy")
LOG = RUN / metrics.METRICS_FILE


def step(number: int, **values: Any) -> dict[str, Any]:
    """A line of a log as the trainer writes it, but for the values given here."""
    event = Step(number, 100, 0.1, 4 / number, 1 - 1 / number, 0.01, 0.5, 1000.0, 1.0, 1.0, 1)
    return {"event": "step", **{key: _jsonable(value) for key, value in vars(event).items()}, **values}


def evaluated(number: int, loss: float, **values: Any) -> dict[str, Any]:
    event = Evaluated(number, loss, 1.0, 1.0, 1.0, 0.25, True, "validation", 1.0)
    return {"event": "evaluated", **vars(event), **values}


def write(lines: Iterable[Any], end: str = "\n") -> None:
    RUN.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    LOG.write_text("\n".join(texts) + end, encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Command lines in an empty folder, before a page of 80 columns and 24 rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    return runner(capsysbinary)


def text(rows: list[list[tuple[str, str]]]) -> list[str]:
    return ["".join(sign for sign, _ in row) for row in rows]


# --- charts


FALLING = Chart("loss", (Line("training", [(0, 8), (40, 0)]), Line("validation", [(0, 4), (40, 0)], marked=True)))


def test_a_known_line_in_ascii() -> None:
    assert [line.rstrip() for line in text(draw(FALLING, 40, 5, ASCII))] == [
        "loss   .. training   o validation",
        " |'''....",
        "5+       ''''....",
        " |o              ''''....",
        " |                       ''''....",
        "0+                               ''''..o",
        " ++--------+--------+---------+--------+",
        "  0       10       20        30       40",
    ]
    assert text(draw(FALLING, 20, 5, ASCII))[0] == "loss   .. training  "  # what has no room is cut


def test_the_dots_of_a_line_are_where_its_numbers_are() -> None:
    """Every dot of a straight line in braille lies on it, within half a dot, and there is one in each column."""
    rows = draw(Chart("y", (Line("x", [(0, 0), (10, 10)]),)), 34, 8, BRAILLE)[1:9]
    margin = 1 + next(column for column, (_, tone) in enumerate(rows[0]) if tone == "axis")
    columns, found = len(rows[0]) - margin, set()
    for y, row in enumerate(rows):
        for x, (sign, tone) in enumerate(row[margin:]):
            if tone == "line":
                bits = ord(sign) - 0x2800
                masks = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
                found |= {(2 * x + i, 4 * y + j) for j in range(4) for i in range(2) if bits & masks[j][i]}
    assert {x for x, _ in found} == set(range(2 * columns))
    assert all(abs(y - 31 * (1 - x / (2 * columns - 1))) <= 0.5 + 1e-9 for x, y in found)


@pytest.mark.parametrize("signs", [ASCII, BRAILLE], ids=["ascii", "braille"])
@pytest.mark.parametrize("size", [(79, 21), (119, 37), (40, 40), (20, 8), (1, 1), (400, 200)])
def test_a_page_fills_what_there_is(size: tuple[int, int], signs: Signs) -> None:
    width, height = size
    rows = text(page([FALLING, FALLING, FALLING], width, height, signs))
    assert max(map(len, rows)) <= max(width, 16)
    if height > 20:
        assert len(rows) == height
    assert sum(row.count("loss   ") for row in rows) == 3
    assert (signs is BRAILLE) or "".join(rows).isascii()


def test_ticks_are_round_and_stand_where_they_say() -> None:
    for low, high in ((0.0, 1.0), (1.37, 4.21), (-3.0, 1e6), (0.98, 0.981)):
        scale = Scale(low, high)
        ticks = scale.ticks(6)
        assert 2 <= len(ticks) <= 8
        for share, label in ticks:
            number = float(label.replace("k", "e3").replace("M", "e6"))
            assert scale.share(number) == pytest.approx(share, abs=1e-3)


def test_one_number_far_from_the_others_makes_an_axis_logarithmic() -> None:
    points = [(float(at), 2.0 - at / 100) for at in range(100)]
    assert "logarithmic" not in text(draw(Chart("loss", (Line("a", points),)), 60, 10, ASCII))[0]
    rows = text(draw(Chart("loss", (Line("a", [*points, (100.0, 1e12)]),)), 60, 10, ASCII))
    assert rows[0].startswith("loss, logarithmic")
    assert any(row.strip().startswith("1e+") for row in rows)


@pytest.mark.parametrize("values", [[0.0], [5e-324, 0.0], [1e15, -1e15], [1e15, 1e15 - 0.25], [2.0, 2.0], [-1e-20, 1e-20]])
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    for signs in (ASCII, BRAILLE):
        chart = Chart("y", (Line("x", list(enumerate(values))), Line("z", list(enumerate(values)), marked=True)))
        rows = draw(chart, 30, 6, signs)
        assert any(tone == "mark" for row in rows for _, tone in row)
        assert {len(row) for row in rows} == {30}


# --- what is read


def test_a_series_stays_bounded_and_keeps_its_means(tmp_path: Path) -> None:
    path, events = tmp_path / "log", 20_000
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"event": "step", "step": at, "loss": math.sin(at / 1e3)}) + "\n" for at in range(events))
    metrics.read(path)
    tracemalloc.start()
    log = metrics.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    points, series = log.points("step", "loss"), log.series["step", "loss"]
    assert metrics.MOST_POINTS <= len(points) <= 2 * metrics.MOST_POINTS
    assert peak < 3e6
    assert series.each == 8
    assert all(abs(value - math.sin(at / 1e3)) < 1e-4 for at, value in points[:-1])
    assert [at for at, _ in points[:3]] == [3.5, 11.5, 19.5]
    assert (log.step, log.damaged, log.refused) == (events - 1, 0, 0)


def test_one_endless_line_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'{"event": "step", "x": "' + b"x" * 30_000_000 + b'"}\n' + json.dumps(step(3)).encode() + b"\n")
    tracemalloc.start()
    log = metrics.read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6
    assert (log.damaged, log.points("step", "loss")) == (1, [(3.0, 4 / 3)])


STRANGE = [
    "", "nonsense", "[]", "null", "3", '"step"', "{" * 5000, "[" * 50_000, "\x00\x1b[31m", '{"event": "step"}',
    '{"event": ["step"], "step": 1}', '{"event": "step", "step": "1", "loss": 1}', '{"event": "step", "step": true, "loss": 1}',
    '{"event": "step", "step": NaN, "loss": 1}', '{"event": "step", "step": -4, "loss": 1}', '{"event": "sampled", "step": 7}',
    '{"event": "step", "step": 11, "loss": NaN}', '{"event": "step", "step": 12, "loss": -Infinity}',
    '{"event": "step", "step": 13, "loss": 1e308}', '{"event": "step", "step": 14, "loss": 1' + "0" * 400 + "}",
    '{"event": "step", "step": 15, "loss": 1' + "0" * 5000 + "}", '{"event": "step", "step": 16, "loss": null}',
    '{"event": "step", "step": 17, "loss": [1]}', '{"event": "step", "step": 18, "loss": {"a": "\\u001b[31m"}}',
    '{"event": "step", "step": 1e400, "steps": 1e400, "loss": 1}', '{"event": "evaluated", "step": 2, "on": "\\u001b[31m"}',
]  # fmt: skip


def test_strange_lines_are_counted_and_passed_over(run: Run) -> None:
    write([step(2), *STRANGE, step(20), evaluated(20, 0.5), step(4)])
    record = json.loads(run("plot", "toy", "--json").out)
    losses = {(one["event"], one["quantity"]): one for one in record["series"]}
    assert losses["step", "loss"] | {"event": 0, "quantity": 0} == {
        "event": 0, "quantity": 0, "each": 1, "steps": [2.0, 20.0], "values": [2.0, 0.2],
    }  # fmt: skip
    assert record["lowest"] == {"step": 20, "loss": 0.5}
    assert (record["damaged_lines"], record["step"]) == (9, 20)
    done = run("plot", "toy")
    assert done.code == 0
    assert "step 20 of 100; lowest validation loss 0.5 at step 20" in done.out
    assert "9 lines" in done.err
    assert "\x1b" not in done.out + done.err


@pytest.mark.parametrize("seed", range(3))
def test_any_bytes_are_no_reason_to_fail(seed: int, run: Run) -> None:
    generator = random.Random(seed)
    write([step(number) for number in range(1, 30)])
    good = LOG.read_bytes()
    for _ in range(60):
        data = bytearray(good)
        for _ in range(generator.randrange(1, 60)):
            at = generator.randrange(len(data))
            data[at : at + generator.randrange(3)] = generator.randbytes(generator.randrange(4))
        LOG.write_bytes(data)
        done = run("plot", "toy")
        assert done.code in (0, 65)
        assert "\x1b" not in done.out + done.err


def test_a_torn_last_line_is_not_worth_a_word(run: Run) -> None:
    write([step(1), step(2), json.dumps(step(3))[:50]], end="")
    done = run("plot", "toy")
    assert (done.code, done.err) == (0, "")
    assert len(json.loads(run("plot", "toy", "--json").out)["series"][0]["steps"]) == 2


# --- what is shown


def test_the_charts_of_a_known_log(run: Run) -> None:
    write([step(number) for number in range(1, 101)] + [evaluated(number, 3 / number) for number in (101, 120)])
    done = run("plot", "toy")
    lines = done.out.splitlines()
    assert lines[0] == "step 120 of 100; lowest validation loss 0.025 at step 120"
    assert re.fullmatch(r"loss \(nats\), logarithmic +⠒⠒ training +o validation", lines[1])
    assert any(re.match(r"accuracy +⠒⠒ training +o validation +gradient norm +⠒⠒ training", line) for line in lines)
    assert len(lines) == 24 - 2
    assert max(map(len, lines)) <= 79
    assert "120" in done.out
    assert done.err == ""


def test_without_validation_the_evaluations_say_what_they_scored(run: Run) -> None:
    write([step(1), evaluated(1, 3.0, on="training")])
    assert "lowest training loss 3 at step 1" in (out := run("plot", "toy").out)
    assert "o training text, averaged weights" in out


def test_what_is_not_utf8_gets_ascii(tmp_path: Path, run: Run) -> None:
    write([step(number) for number in range(1, 20)])
    line = [sys.executable, "-m", "charrnn", "plot", "toy"]
    done = subprocess.run(line, env=environment({"PYTHONIOENCODING": "latin-1"}), capture_output=True, check=True)
    assert done.stdout.isascii()
    assert b".. training" in done.stdout


def test_the_chart_needs_neither_torch_nor_numpy(run: Run) -> None:
    write([step(number) for number in range(1, 20)])
    look = "print({'torch', 'numpy', 'matplotlib'} & {*sys.modules})"
    code = f"import sys; from charrnn.cli import main; main.run(['plot', 'toy']); {look}"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, check=True, text=True)
    assert done.stdout.endswith("set()\n")


# --- which log


def save_model(path: Path) -> None:
    units = toy.tokenizer()
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {"name": "toy", "start": units.encode("\n").tolist(), "provenance": {}}
    models.save(path, toy.config(units), units, toy.weights(units), about)


def test_a_log_is_found_by_run_folder_file_and_itself(run: Run) -> None:
    write([step(1), step(2)])
    for word in ("toy", str(RUN), str(LOG)):  # there is no model yet: it may be training its first steps
        assert run("plot", word, "--json").code == 0, word
    save_model(RUN / models.MODEL_FILE)
    for words in ([], [str(RUN / models.MODEL_FILE)]):
        assert json.loads(run("plot", *words, "--json").out)["path"] == str(LOG)


def test_no_log_or_an_empty_one_is_told(run: Run) -> None:
    save_model(Path("copied.safetensors"))
    save_model(RUN / models.MODEL_FILE)
    for word, reason in (("copied.safetensors", "model without a log"), ("toy", "holds no metrics.jsonl"), ("nobody", "no run")):
        done = run("plot", word)
        assert (done.code, done.out) == (65, "")
        assert reason in done.err
        assert "hint: " in done.err
    for lines in ([], [""], ["nonsense"], [step(1, loss=None, accuracy=None, gradient_norm=None)]):
        write(lines)
        done = run("plot", "toy")
        assert (done.code, done.out) == (65, "")
        assert "no step to draw" in done.err
    LOG.unlink()
    LOG.mkdir()
    assert run("plot", "toy").code == 65


def test_a_log_that_may_not_be_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write([step(1)])

    def refused(path: Path) -> metrics.Log:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(metrics, "read", refused)
    done = run("plot", "toy")
    assert (done.code, done.out) == (65, "")
    assert "Permission denied" in done.err


# --- pictures


@pytest.mark.parametrize(("kind", "begins"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF"), ("SVG", b"<?xml")])
def test_a_picture(kind: str, begins: bytes, run: Run) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib, the extra `plot`, is not installed")
    write([step(number) for number in range(1, 50)] + [evaluated(40, 1.0), evaluated(50, 0.9)])
    done = run("plot", "toy", "-o", f"loss.{kind}")
    assert (done.code, done.out) == (0, "")
    data = Path(f"loss.{kind}").read_bytes()
    assert data.startswith(begins)
    assert run("plot", "toy", "-o", f"again.{kind}").code == 0
    assert Path(f"again.{kind}").read_bytes() == data


def test_without_matplotlib_one_is_told_what_to_type(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    write([step(1), step(2)])
    real = builtins.__import__

    def without(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "matplotlib":
            raise ModuleNotFoundError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    done = run("plot", "toy", "-o", "loss.png")
    assert (done.code, done.out) == (1, "")
    assert "python -m pip install matplotlib" in done.err
    assert not Path("loss.png").exists()


@pytest.mark.parametrize("words", [["-o", "loss.gif"], ["-o", "-"], ["-o", ""], ["-o", "loss.png", "--json"]])
def test_a_picture_has_one_of_three_kinds(words: list[str], run: Run) -> None:
    write([step(1)])
    done = run("plot", "toy", *words)
    assert (done.code, done.out) == (2, "")
    assert "-o" in done.err


def test_what_is_suggested_fits_a_run_that_does_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    said: list[str] = []
    monkeypatch.setattr("charrnn.cli.console.suggest", said.append)
    (tmp_path / "tells").mkdir()
    step = {"event": "step", "step": 1, "of_steps": 2, "loss": 0.7}
    (tmp_path / "tells" / "metrics.jsonl").write_text(json.dumps(step) + "\n")
    done = runner(capsysbinary)("plot", "tells", "--json", "--checkpoints", str(tmp_path))
    assert done.code == 0, done.err
    assert len(said) == 1
    assert said[0].startswith("`charrnn inspect tells --weights`")
