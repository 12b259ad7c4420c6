"""The benchmark's parts: what is run, what is read off it, what is measured, and how it ends when something fails."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from charrnn.cli import evaluate as evaluating
from charrnn.cli import main
from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CharrnnError, UsageError
from charrnn.models.language import LanguageModel
from charrnn.training import bench, speed
from charrnn.training.batching import Streams
from charrnn.training.bench import Begun, Row, Trial

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "make_loss_svg.py"
ROW = Row(
    minutes=5.0, seed=1, plain=False, cell="lstm", layers=1, hidden_size=256, parameters=350_000, batch_size=16, window=64,
    precision="fp32", optimizer="adamw", device="cpu", threads=2, steps=1000, best_step=900, wall_seconds=300.6,
    tokens_per_second=50_000.0, gigaflops=100.0, matrix_gigaflops=200.0, share=0.5, overhead=0.1, stream=1.5, cold256=1.6,
    bits_per_character=2.2,
)  # fmt: skip


# --- what is run


def test_trials_are_all_seeds_of_each_time_and_then_the_plain_one() -> None:
    names = [trial.name for trial in bench.trials([5.0, 0.25, 5.0], 2, plain=True)]
    assert names == ["5min-seed1", "5min-seed2", "5min-plain", "0.25min-seed1", "0.25min-seed2", "0.25min-plain"]
    assert len({trial.name for trial in bench.trials([1e6, 1e6 - 1e-9, 1e-5], 1, plain=False)}) == 3


def test_the_command_of_a_trial() -> None:
    words = bench.command("my.txt", Trial(0.5, 3), Path("runs"))
    expected = ["train", "my.txt", "--minutes", "0.5", "--seed", "3", "--name", "0.5min-seed3", "--checkpoints", "runs"]
    assert words == [sys.executable, "-m", "charrnn", *expected]
    assert bench.command("my.txt", Trial(0.5, 3), Path("runs"), "cpu", 1) == [*words, "--device", "cpu", "--threads", "1"]


def test_the_plain_trainer_is_made_of_options_that_exist() -> None:
    words = bench.command("my.txt", Trial(5, 1, plain=True), Path("runs"))
    options = dict(zip(words[5::2], words[6::2], strict=True))
    assert options["--name"] == "5min-plain"
    assert (options["--hidden-size"], options["--clip"], options["--schedule"]) == ("256", "1", "constant")
    for name, value in {"--optimizer": "adamw", "--schedule": "constant", "--patience": "0", "--ema": "0"}.items():
        assert options[name] == value


def test_settings_of_the_environment_do_not_reach_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARRNN_HIDDEN_SIZE", "17")
    check = "import os, sys; print([name for name in os.environ if name.startswith('CHARRNN_')], file=sys.stderr)"
    assert bench._carried_out([sys.executable, "-c", check]) == (0, "['CHARRNN_CACHE']\n")


# --- what is read off a run


@pytest.fixture
def row(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Row:
    """The row of the small run of conftest."""
    monkeypatch.setattr(bench, "OVERHEAD_SECONDS", 0.05)
    monkeypatch.setattr(bench, "RATE_SECONDS", 0.05)
    monkeypatch.chdir(trained)
    return bench.measure("verse.txt", Trial(0.1, 1), Path("checkpoints/verse"), 12.5, "cpu", 1)


def test_a_row_says_what_the_run_was_and_scores_it_as_eval_does(row: Row, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert (row.size, row.steps, row.window, row.threads, row.wall_seconds) == ("lstm 1x32", 40, 16, 1, 12.5)
    assert row.best_step in (20, 40)
    assert row.tokens_per_second > 0
    assert row.share == pytest.approx(row.gigaflops / row.matrix_gigaflops)
    assert 0 <= row.overhead < 1
    assert main.run(["eval", "verse", "verse.txt", "--split", "val", "--threads", "1", "--json"]) == 0
    report = json.loads(capsysbinary.readouterr().out)
    assert (row.stream, row.cold256, row.bits_per_character) == (
        report["loss"], report["cold256"], report["bits_per_character"],
    )  # fmt: skip


def test_the_validation_part_is_that_of_eval(trained: Path) -> None:
    from charrnn.runs import model as runs

    documents = ["a" * 70, "b" * 25, "", "c" * 3, "d" * 4]
    part = bench.validation_part(documents, 0.1)
    assert part == ["b" * 4, "c" * 3, "d" * 4]
    assert part == evaluating._validation_part(runs.load(trained / "checkpoints" / "verse"), documents)


def test_medians_are_over_the_seeds_of_one_time() -> None:
    rows = [replace(ROW, seed=seed, stream=loss) for seed, loss in ((1, 1.5), (2, 1.4), (3, 1.7))]
    rows += [replace(ROW, plain=True, stream=9.0), replace(ROW, minutes=1.0, hidden_size=128)]
    (middle,) = bench.medians(rows)
    assert (middle.minutes, middle.runs, middle.stream, middle.sizes) == (5.0, 3, 1.5, ("lstm 1x256",))
    short = [replace(row, cold256=None) for row in rows[:2]]
    assert bench.medians(short)[0].cold256 is None
    assert bench.medians(short)[0].stream == pytest.approx(1.45)


# --- what is measured


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_weights_in_products_are_all_matrices_but_the_embedding(cell: str) -> None:
    model = ModelConfig(cell=cell, vocab_size=12, embedding_size=5, hidden_size=9, layers=2)
    matrices = [weight for name, weight in LanguageModel(model).named_parameters() if weight.ndim > 1 and "embedding" not in name]
    assert speed.product_weights(model) == sum(weight.numel() for weight in matrices)
    tied = replace(model, embedding_size=9, tie_weights=True)
    assert speed.product_weights(tied) == speed.product_weights(replace(tied, tie_weights=False))
    assert speed.training_gigaflops(model, 1e9) == 6 * speed.product_weights(model)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_matrix_rate_is_a_rate(precision: str) -> None:
    rate = speed.matrix_rate(64, 48, 128, precision, "cpu", 1, seconds=0.02)
    assert math.isfinite(rate)
    assert rate > 0


def test_a_rate_counts_a_multiplication_and_an_addition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_alternating", lambda *_, **__: [[0.002, 0.001, 0.004]])
    assert speed.matrix_rate(64, 48, 128, "fp32", "cpu", 1) == pytest.approx(2 * 64 * 48 * 128 / 0.002 / 1e9)


@pytest.mark.parametrize(("delay", "low", "high"), [(0.0, 0.0, 0.9), (0.05, 0.3, 1.0)])
def test_overhead_is_the_share_of_what_is_not_arithmetic(
    monkeypatch: pytest.MonkeyPatch, delay: float, low: float, high: float
) -> None:
    at = Streams.at
    monkeypatch.setattr(Streams, "at", lambda self, cursor: (time.sleep(delay), at(self, cursor))[1])
    model = ModelConfig(vocab_size=12, embedding_size=4, hidden_size=16)
    training = TrainingConfig(batch_size=4, window=8, steps=100, device="cpu", threads=1, precision="fp32")
    tokens = np.random.default_rng(1).integers(4, 12, 2000).astype(np.uint8)
    assert low <= speed.overhead(model, training, tokens, seconds=0.05) <= high


def test_work_is_timed_in_turns() -> None:
    calls: list[str] = []
    works = [lambda: calls.append("a"), lambda: calls.append("b")]
    times = speed._alternating(works, torch.device("cpu"), 0.0, block_seconds=0.0)
    assert [len(own) for own in times] == [speed.FEWEST] * 2
    assert calls[-2 * speed.FEWEST :] == ["a", "b"] * speed.FEWEST


# --- how it ends


def test_a_run_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, keep = tmp_path / "small.txt", tmp_path / "kept"
    text.write_text("ab", encoding="utf-8")
    assert main.run(["bench", "train", str(text), "--minutes", "0.1", "--threads", "1", "--keep", str(keep)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "run 1 of 1: 0.1 min, seed 1 ...\nerror: the run '0.1min-seed1' failed with exit code 65; it said:" in captured.err
    assert "too" in captured.err
    assert "Try it alone: `charrnn train " in captured.err
    assert not keep.exists()


def test_ctrl_c_ends_the_run_and_removes_what_is_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sleeping child stands in for a training run, which would sleep as little."""
    pid, unfinished = tmp_path / "pid", tmp_path / "kept" / "5min-seed1"
    code = f"import os, time; os.makedirs({str(unfinished)!r}); open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(bench, "command", lambda *_: [sys.executable, "-c", code])
    events = bench.train("my.txt", bench.trials([5], 1, plain=False), keep=tmp_path / "kept")
    assert next(events) == Begun(1, 1, Trial(5, 1))

    def press() -> None:
        while not (pid.exists() and pid.read_text()):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        next(events)
    thread.join()
    assert not (tmp_path / "kept").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_kept_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "5min-seed2").mkdir()
    with pytest.raises(UsageError, match="'5min-seed2'"):
        next(bench.train("my.txt", bench.trials([5], 2, plain=False), keep=tmp_path))
    assert (tmp_path / "5min-seed2").is_dir()


@pytest.mark.parametrize(
    ("options", "code"),
    [(["--minutes", "0"], 2), (["--minutes", "nan"], 2), (["--seeds", "0"], 2), (["--seeds", "x"], 2), ([], 65)],
)
def test_wrong_usage(options: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["bench", "train", "no-such-file", *options]) == code
    assert capsys.readouterr().err.startswith("error: ")


def test_an_error_without_words_still_says_which_run() -> None:
    error = bench._failed("my text.txt", Trial(5, 2), -9, "")
    assert isinstance(error, CharrnnError)
    assert "'5min-seed2'" in error.message
    assert "'my text.txt' --minutes 5 --seed 2" in error.hint


# --- what is shown


@pytest.fixture
def instant(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that have been trained before: the small one of conftest, under each name."""

    def copy(text: str, trial: Trial, folder: Path, device: str | None, threads: int | None) -> float:
        shutil.copytree(trained / "checkpoints" / "verse", folder / trial.name)
        return 61.2

    monkeypatch.setattr(bench, "_train_one", copy)
    monkeypatch.setattr(bench, "OVERHEAD_SECONDS", 0.02)
    monkeypatch.setattr(bench, "RATE_SECONDS", 0.02)
    monkeypatch.chdir(trained)


@pytest.mark.usefixtures("instant")
def test_the_table_and_the_runs_that_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["bench", "train", "verse.txt", "--minutes", "1", "--seeds", "2", "--plain", "--keep", "kept", "--threads", "1"]
    assert main.run(command) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert lines[0].split()[:4] == ["minutes", "wall-clock", "seed", "size"]
    assert [line.split()[2] for line in lines[1:5]] == ["1", "2", "plain", "median"]
    assert lines[1].split()[:6] == ["1", "1:01", "1", "lstm", "1x32", "40"]
    assert "verse.txt, 3,680 characters, SHA-256 " in " ".join(" ".join(lines[5:]).split())
    assert captured.err.splitlines()[2] == "run 3 of 3: 1 min, the plain trainer ..."
    assert sorted(path.name for path in Path("kept").iterdir()) == ["1min-plain", "1min-seed1", "1min-seed2"]


@pytest.mark.usefixtures("instant")
def test_a_run_that_fails_does_not_cost_those_before_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = bench._train_one

    def second_fails(text: str, trial: Trial, *rest: Any) -> float:
        if trial.seed == 2:
            raise CharrnnError("it failed.")
        return copy(text, trial, *rest)

    monkeypatch.setattr(bench, "_train_one", second_fails)
    assert main.run(["bench", "train", "verse.txt", "--seeds", "2", "--json", "--threads", "1"]) == 1
    captured = capsys.readouterr()
    record = json.loads(captured.out)
    assert ([row["seed"] for row in record["rows"]], record["complete"]) == ([1], False)
    assert "1 of 2 runs were made:" in captured.err
    assert "error: it failed." in captured.err


@pytest.mark.usefixtures("instant")
def test_a_narrow_terminal_gets_fewer_columns_and_whole_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("charrnn.cli.bench.WIDE", 80)
    assert main.run(["bench", "train", "verse.txt", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["minutes", "wall-clock", "seed", "size", "steps", "tokens/s", "stream", "cold256"]
    assert len(lines[1].split()) == 9
    assert "--json" in " ".join(lines[2:])


@pytest.mark.usefixtures("instant")
def test_json_is_one_object_without_absolute_paths(trained: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main.run(["bench", "train", str(trained / "verse.txt"), "--seeds", "2", "--json", "--threads", "1"]) == 0
    out = capsysbinary.readouterr().out.decode("utf-8")
    assert str(trained) not in out
    assert out.count("\n") == 1
    record = json.loads(out)
    assert list(record) == ["machine", "text", "complete", "rows", "medians"]
    assert (record["text"]["name"], len(record["text"]["sha256"])) == ("verse.txt", 64)
    assert [row["minutes"] for row in record["rows"]] == [5.0, 5.0]
    assert set(record["rows"][0]) == {item.name for item in fields(Row)}
    assert record["medians"][0]["runs"] == 2


def test_a_machine_has_a_processor(tmp_path: Path) -> None:
    facts = tmp_path / "cpuinfo"
    facts.write_text("processor\t: 0\nmodel name\t: Some  CPU @ 2 GHz\n", encoding="utf-8")
    assert speed._processor(facts) == "Some CPU @ 2 GHz"
    assert "\n" not in speed._processor(tmp_path / "none")
    assert speed.this_machine().cores >= 1


# --- the picture


def picture(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", str(SCRIPT), *arguments], capture_output=True, encoding="utf-8", check=False)


def test_the_picture_has_a_line_and_a_label_for_each_run(trained: Path) -> None:
    run = trained / "checkpoints" / "verse"
    done = picture(f"a folder={run}", f"a <file>={run / 'metrics.jsonl'}")
    assert (done.returncode, done.stderr) == (0, "")
    root = ElementTree.fromstring(done.stdout)
    assert (root.get("width"), root.get("height")) == ("760", "420")
    assert len(root.findall("{*}polyline")) == 2
    texts = [(element.text or "") for element in root.findall("{*}text")]
    assert texts[0] == "Loss on unseen text against training time"
    assert [text.rsplit(" ", 1)[0] for text in texts[-2:]] == ["a folder", "a <file>"]
    heights = [float(element.get("y", "")) for element in root.findall("{*}text")[-2:]]
    assert abs(heights[0] - heights[1]) >= 15, "labels of equal lines stand apart"


def test_a_picture_of_nothing_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"event": "step", "loss": 1}\n', encoding="utf-8")
    assert "holds no evaluation" in picture(f"x={tmp_path}").stderr
    assert "expected LABEL=FOLDER" in picture("x").stderr
    assert picture("x=nowhere").returncode == 1
