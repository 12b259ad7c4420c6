"""Whole training runs, small ones: exact resume from a file, what is refused, what is left behind."""

from __future__ import annotations

import itertools
import json
import random
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from charrnn.cli import main
from charrnn.errors import CheckpointError, CorpusError, LockedError, UsageError
from charrnn.runs import checkpoint, copies, registry
from charrnn.runs import model as runs
from charrnn.text import tokenizers
from charrnn.text.ngrams import Copies
from charrnn.training import deadline, index, job, planning
from charrnn.training.events import Evaluated, Event, Finished, Saved, Started, Step
from charrnn.training.learner import Learner
from charrnn.training.recipe import Bound
from charrnn.training.start import separator_of

SMALL = {"hidden_size": 24, "embedding_size": 8, "window": 12, "batch_size": 4, "threads": 1, "eval_every": 10}
DROPOUT = {"dropout_output": 0.2, "dropout_embedding": 0.1, "reset": 0.1}
CLOCK = {"seconds", "tokens_per_second", "eta_seconds", "memory_bytes"}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    words = ["rain", "river", "lamp", "harbour", "bread", "moon", "and", "the", "of", "a", "slow", "bright", "over", "under"]
    choose = random.Random(3)
    lines = [" ".join(choose.choices(words, k=6)).capitalize() + "." for _ in range(200)]
    path = tmp_path / "words.txt"
    path.write_text("\n".join(lines) + "\nna\u00efve \u65e5\u672c\n", encoding="utf-8")
    return path


def train(text: Path, steps: int = 40, stop: Callable[[], bool] = lambda: False, **asked: Any) -> Iterator[Event]:
    root = asked.pop("root", text.parent / "checkpoints")
    name = asked.pop("name", None)
    settings = {**SMALL, **asked}
    return job.run([str(text)], asked=settings, name=name, root=root, bound=Bound(steps=steps), stop=stop)


class Made:
    """Steps made by all learners of this test; a `stop` is asked more often than that."""

    steps = 0


@pytest.fixture(autouse=True)
def _counted_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    advance, Made.steps = Learner.advance, 0

    def counted(learner: Learner) -> None:
        advance(learner)
        Made.steps += 1

    monkeypatch.setattr(Learner, "advance", counted)


def after(steps: int) -> Callable[[], bool]:
    """A `stop` that says yes once `steps` more have been made."""
    begun = Made.steps
    return lambda: Made.steps - begun >= steps


def finished(events: Iterator[Event]) -> Finished:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    return last


def digest(folder: Path) -> str:
    return checkpoint.tensor_digest(checkpoint.read(folder / runs.LAST_FILE).tensors)


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in CLOCK} for line in lines]


def test_a_step_run_twice_is_the_same_run(text: Path) -> None:
    one, two = finished(train(text, **DROPOUT)), finished(train(text, **DROPOUT))
    assert (one.folder.name, two.folder.name) == ("words", "words-2")
    assert digest(one.folder) == digest(two.folder)


def test_events_come_in_order_and_tell_what_happened(text: Path) -> None:
    events = list(train(text))
    started, last = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(last, Finished)
    assert (started.name, started.steps, started.step) == ("words", 40, 0)
    assert f"--steps {started.steps}" in started.command
    scores = [event for event in events if isinstance(event, Evaluated)]
    assert [score.step for score in scores] == [10, 20, 30, 40]
    assert scores[-1].loss < scores[0].loss
    assert last.best_loss == min(score.loss for score in scores)
    assert all(event.path.exists() for event in events if isinstance(event, Saved))
    steps = [event for event in events if isinstance(event, Step)]
    assert steps[-1].step == 40
    assert steps[-1].loss < steps[0].loss
    assert sorted(path.name for path in last.folder.iterdir() if path.name != "lock") == [
        "last.safetensors", "metrics.jsonl", "model.safetensors", "ngrams.safetensors",
    ]  # fmt: skip


def test_the_model_file_holds_the_best_averaged_weights(text: Path) -> None:
    done = finished(train(text))
    model = runs.load(done.folder)
    assert model.provenance["scores"]["loss"] == done.best_loss
    assert model.provenance["scores"]["step"] == done.best_step
    average = {key: value for key, value in checkpoint.read(done.folder / runs.LAST_FILE).tensors.items() if "average/" in key}
    assert done.best_step == 40  # so the averaged weights of the last save are the best ones
    for key, value in average.items():
        assert (model.weights[key.removeprefix("average/")] == value).all()


def test_early_stopping_keeps_the_best(text: Path) -> None:
    done = finished(train(text, steps=400, patience=2, eval_every=5, learning_rate=5.0, clip=0.0, ema=0.0, schedule="constant"))
    assert done.reason == "early stop"
    assert done.step == done.best_step + 10
    assert runs.load(done.folder).provenance["scores"]["loss"] == done.best_loss


def test_without_validation_the_best_is_by_training_loss(text: Path) -> None:
    events = list(train(text, val_fraction=0.0))
    assert {event.on for event in events if isinstance(event, Evaluated)} == {"training"}
    assert runs.load(finished(iter(events)).folder).provenance["split"]["val_characters"] == 0


@pytest.mark.parametrize(("content", "asked"), [("ab", {}), ("abcdefghij" * 3, {"window": 50}), ("abcdefgh", {})])
def test_a_text_too_small_says_what_to_do(tmp_path: Path, content: str, asked: dict[str, Any]) -> None:
    path = tmp_path / "small.txt"
    path.write_text(content)
    settings = {**SMALL, **asked} if asked else {key: value for key, value in SMALL.items() if key != "window"}
    with pytest.raises(CorpusError) as error:
        list(job.run([str(path)], asked=settings, root=tmp_path / "checkpoints", bound=Bound(steps=3)))
    assert "--val-fraction 0" in error.value.hint
    assert not (tmp_path / "checkpoints").exists()


def test_a_tiny_text_trains_when_it_can(tmp_path: Path) -> None:
    path = tmp_path / "alphabet.txt"
    path.write_text("abcdefghijklmnopqrstuvwxyz")
    asked = {"hidden_size": 8, "threads": 1, "val_fraction": 0.0}
    done = finished(job.run([str(path)], asked=asked, root=tmp_path / "c", bound=Bound(steps=3)))
    assert runs.load(done.folder).tokenizer.vocab_size == 30


def test_documents_are_joined_and_texts_start_after_an_end(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"the {name} document goes on for a while\n" * 20)
    events = job.run([str(tmp_path)], asked=SMALL, root=tmp_path / "checkpoints", bound=Bound(steps=3))
    model = runs.load(finished(events).folder)
    assert model.start == (tokenizers.EOS,)
    assert model.provenance["corpus"]["names"] == ["a.txt", "b.txt"]


def test_resume_refuses_a_changed_text_and_takes_the_old_one_from_elsewhere(text: Path) -> None:
    folder = finished(train(text, stop=after(5))).folder
    moved = text.rename(text.with_name("moved.txt"))
    with pytest.raises(CorpusError, match=r"words\.txt"):
        list(job.resume(folder))
    text.write_text(moved.read_text() + "more")
    with pytest.raises(CorpusError, match="changed"):
        list(job.resume(folder))
    assert finished(job.resume(folder, corpus=[str(moved)])).reason == "done"


def test_a_finished_run_goes_on_only_with_a_longer_bound(text: Path) -> None:
    folder = finished(train(text, steps=20)).folder
    with pytest.raises(UsageError, match="all of its 20 steps"):
        list(job.resume(folder))
    with pytest.raises(UsageError, match="shorter"):
        list(job.resume(folder, bound=Bound(steps=10)))
    assert finished(job.resume(folder, bound=Bound(steps=30))).step == 30


def repeated(command: str, root: Path, name: str) -> Path:
    """The folder of a run made by a command that a run printed."""
    assert main.run([*shlex.split(command)[1:], "--checkpoints", str(root), "--name", name]) == 0
    return root / name


@pytest.mark.parametrize("interrupted_at", [0, 30, 200])
def test_a_run_bounded_by_time_is_repeated_by_the_command_it_prints(
    text: Path, interrupted_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while its number of steps was an estimate, or in its falling half, it is the same run."""
    ticks = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: 0.01 * next(ticks))  # a hundredth of a second for a step
    monkeypatch.setattr(job, "time", clock)
    monkeypatch.setattr(deadline, "time", clock)
    root, stop = text.parent / "c", after(interrupted_at) if interrupted_at else lambda: False
    asked = {**SMALL, **DROPOUT, "eval_every": 50}
    events = list(job.run([str(text)], asked=asked, root=root, bound=Bound(minutes=0.05), stop=stop))
    if interrupted_at:
        events = list(job.resume(events[-1].folder))  # type: ignore[union-attr]
    done = events[-1]
    assert isinstance(done, Finished)
    assert 250 < done.step < 300
    again = repeated(done.command, root, "again")
    assert digest(again) == digest(done.folder)
    logs = [[{**line, "steps": None} for line in metrics(folder)] for folder in (again, done.folder)]
    assert logs[0] == logs[1]
    models = [runs.load(folder).provenance["settings"] for folder in (again, done.folder)]
    assert models[0] == models[1]


def test_a_run_whose_bound_was_changed_has_no_command(text: Path) -> None:
    folder = finished(train(text, steps=20)).folder
    events = list(job.resume(folder, bound=Bound(steps=60), stop=after(10)))
    events += list(job.resume(folder))
    assert [event.command for event in events if isinstance(event, Started | Finished)] == ["", "", "", ""]


def test_too_little_time_to_go_on_is_refused_in_words(text: Path) -> None:
    folder = finished(train(text, steps=20, stop=after(10))).folder
    with pytest.raises(UsageError, match=r"--minutes 1e-06 is enough for \d+"):
        list(job.resume(folder, bound=Bound(minutes=1e-6)))


def test_a_name_that_is_taken_is_refused_before_the_text_is_read(text: Path) -> None:
    (text.parent / "checkpoints" / "mine").mkdir(parents=True)
    with pytest.raises(UsageError, match="'mine' already"):
        list(job.run(["no-such-file"], name="mine", root=text.parent / "checkpoints"))


def test_a_text_is_no_run(text: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        list(job.resume(text))
    assert "--resume RUN FILE" in caught.value.hint


def test_a_run_has_one_trainer(text: Path) -> None:
    first = train(text, stop=after(5))
    started = next(first)
    assert isinstance(started, Started)
    list(first)
    going = job.resume(started.folder)
    next(going)
    with pytest.raises(LockedError, match="process"):
        next(job.resume(started.folder))
    assert finished(going).reason == "done"


def test_a_run_that_never_saved_leaves_nothing(text: Path) -> None:
    events = train(text)
    started = next(events)
    assert isinstance(started, Started)
    assert started.folder.is_dir()
    events.close()  # type: ignore[attr-defined]
    assert not started.folder.exists()


def test_a_new_run_has_an_index_of_its_training_part_before_it_trains(text: Path) -> None:
    events = train(text)
    started = next(events)
    assert isinstance(started, Started)
    assert (started.folder / copies.INDEX_FILE).is_file()
    known = Copies(copies.load(runs.load(finished(events).folder)), 12)
    whole = text.read_text(encoding="utf-8")
    split = int(0.9 * len(whole))
    assert known.found(whole[:split]).all()
    assert not known.found(whole[split:]).all()


def test_the_index_knows_where_documents_end(tmp_path: Path) -> None:
    rows = [f"row {number} of a table with something in it" for number in range(90)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    events = job.run([str(tmp_path / "rows.jsonl")], asked=SMALL, root=tmp_path / "c", bound=Bound(steps=3))
    known = Copies(copies.load(runs.load(finished(events).folder)), 12)
    assert known.found(rows[3]).all()
    assert not known.found((rows[3] + rows[4])[-len(rows[4]) - 12 : -len(rows[4]) + 12]).any()


def test_going_on_keeps_the_index_and_makes_one_that_is_missing_or_damaged(text: Path) -> None:
    folder = finished(train(text, steps=40, stop=after(5))).folder
    path = folder / copies.INDEX_FILE
    written, number = path.read_bytes(), path.stat().st_ino
    list(job.resume(folder, stop=after(5)))
    assert (path.read_bytes(), path.stat().st_ino) == (written, number)
    for spoil in (path.unlink, lambda: path.write_bytes(written[:-1]), lambda: path.write_bytes(b"")):
        spoil()
        list(job.resume(folder, stop=after(5)))
        assert path.read_bytes() == written


def test_a_text_too_long_for_an_index_is_trained_on_without(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "MOST_CHARACTERS", 1000)
    events = list(train(text, stop=after(5)))
    assert isinstance(events[0], Started)
    assert "copies: no index, for a text of more than 1,000 characters" in events[0].notes
    folder = events[0].folder
    assert finished(job.resume(folder)).reason == "done"
    assert not (folder / copies.INDEX_FILE).exists()


def test_the_time_for_the_index_is_time_of_the_run(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the number of steps is planned from what is left of the minutes."""
    clock, hashed = SimpleNamespace(now=0.0, takes=0.0, monotonic=lambda: clock.now), index.hashed

    def slowly(*arguments: Any) -> Any:
        clock.now += clock.takes
        return hashed(*arguments)

    monkeypatch.setattr(job, "time", clock)
    monkeypatch.setattr(planning, "time", clock)
    monkeypatch.setattr(planning, "seconds_per_step", lambda *_, **__: 0.01)
    monkeypatch.setattr(index, "hashed", slowly)
    steps = []
    for seconds in (0.0, 30.0):
        clock.now, clock.takes = 0.0, seconds
        asked = {**SMALL, "schedule": "cosine"}
        events = job.run([str(text)], asked=asked, root=text.parent / "c", bound=Bound(minutes=1), stop=lambda: True)
        started = next(events)
        assert isinstance(started, Started)
        steps.append(started.steps)
        list(events)
    assert steps[1] == pytest.approx(steps[0] - 30 / 0.0103, abs=2)


def test_a_run_killed_before_its_first_save_is_not_listed(text: Path) -> None:
    events = train(text)
    started = next(events)
    assert isinstance(started, Started)
    assert copies.INDEX_FILE in {path.name for path in started.folder.iterdir()}
    assert registry.listing(started.folder.parent) == []  # what a look at this moment sees, a kill leaves
    events.close()  # type: ignore[attr-defined]


def test_a_damaged_last_save_leaves_the_model_usable(text: Path) -> None:
    folder = finished(train(text)).folder
    data = bytearray((folder / runs.LAST_FILE).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / runs.LAST_FILE).write_bytes(data)
    with pytest.raises(CheckpointError, match=r"last\.safetensors"):
        list(job.resume(folder))
    runs.load(folder)


@pytest.mark.parametrize("asked", [{"hiden_size": 3}, {"dropout_output": 1.0}, {"learning_rate": float("nan")}, {"cell": "x"}])
def test_wrong_settings_are_refused_before_anything_is_made(text: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        list(train(text, **asked))
    assert not (text.parent / "checkpoints").exists()


def rewritten(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change metadata["resume"] and the tensors of a last save, and seal it again."""
    content = checkpoint.read(folder / runs.LAST_FILE)
    tensors = dict(content.tensors)
    change(content.metadata["resume"], tensors)
    checkpoint.write(folder / runs.LAST_FILE, content.metadata, tensors)


OPTIMIZER = "optimizer/momentum/recurrent.layers.0.weight_hh_l0"
CLOCKWORK = {"used": 1.0, "left": 1.0, "most": 2**40, "settled": False}
SPOILED: dict[str, Callable[[dict[str, Any], dict[str, Any]], None]] = {
    "optimizer tensor too small": lambda resume, tensors: tensors.update({OPTIMIZER: tensors[OPTIMIZER][:3]}),
    "optimizer tensor missing": lambda resume, tensors: tensors.pop(OPTIMIZER),
    "optimizer tensor of another type": lambda resume, tensors: tensors.update({OPTIMIZER: tensors[OPTIMIZER].astype("f8")}),
    "state of another shape": lambda resume, tensors: tensors.update({"state/0": tensors["state/0"][:1]}),
    "sums of another shape": lambda resume, tensors: tensors.update({"progress/sums": tensors["progress/sums"][:2]}),
    "random state too short": lambda resume, tensors: tensors.update({"random/cpu": tensors["random/cpu"][:9]}),
    "unknown tensor": lambda resume, tensors: tensors.update({"more": tensors["state/0"]}),
    "best is no number": lambda resume, tensors: resume.update(best={"loss": "x"}),
    "cursor beyond the text": lambda resume, tensors: resume.update(cursor={"epoch": 0, "window": 10**9}),
    "cursor before it": lambda resume, tensors: resume.update(cursor={"epoch": -1, "window": 0}),
    "windows larger than the text": lambda resume, tensors: resume["training"].update(batch_size=5000),
    "a setting out of bounds": lambda resume, tensors: resume["training"].update(dropout_output=2),
    "an unknown setting": lambda resume, tensors: resume["training"].update(nonsense=2),
    "a source that is no name": lambda resume, tensors: resume.update(sources=[1]),
    "a clock of fractions of steps": lambda resume, tensors: resume.update(deadline=CLOCKWORK | {"most": 200.5}),
    "a clock of fewer steps than there are": lambda resume, tensors: resume.update(deadline=CLOCKWORK | {"most": 1}),
    "a clock that never ends": lambda resume, tensors: resume.update(deadline=CLOCKWORK | {"left": 1e308}),
    "a clock that is no clock": lambda resume, tensors: resume.update(deadline=[1]),
    "wishes that are no names": lambda resume, tensors: resume.update(asked=[1]),
    "a negative length": lambda resume, tensors: resume.update(metrics_bytes=-1),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_last_save_that_lies_is_refused(text: Path, what: str) -> None:
    folder = finished(train(text, stop=after(12))).folder
    rewritten(folder, SPOILED[what])
    with pytest.raises(CheckpointError, match=r"last\.safetensors|training state"):
        list(job.resume(folder))


def test_a_last_save_without_a_clock_of_an_earlier_version_is_gone_on_with(text: Path) -> None:
    folder = finished(train(text, steps=20, stop=after(10))).folder
    rewritten(folder, lambda resume, tensors: [resume.pop(key) for key in ("deadline", "asked", "extended")])  # type: ignore[arg-type, return-value]
    assert finished(job.resume(folder)).step == 20


def test_resume_after_an_early_stop_goes_on_exactly(text: Path) -> None:
    asked = {"patience": 2, "eval_every": 5, "learning_rate": 5.0, "clip": 0.0, "ema": 0.0, "schedule": "constant"}
    straight = finished(train(text, steps=400, **asked))
    interrupted = finished(train(text, steps=400, stop=after(straight.step - 3), **asked))
    resumed = finished(job.resume(interrupted.folder))
    assert (resumed.reason, resumed.step) == (straight.reason, straight.step) == ("early stop", straight.step)
    assert digest(resumed.folder) == digest(straight.folder)


def test_evaluating_the_validation_part_gives_the_figure_of_training(tmp_path: Path) -> None:
    from charrnn.training.evaluate import evaluate_text

    rows = [f"row {number} of a table with something in it" for number in range(90)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    events = job.run([str(tmp_path / "rows.jsonl")], asked={**SMALL, "ema": 0.0}, root=tmp_path / "c", bound=Bound(steps=30))
    done = finished(events)
    model = runs.load(done.folder)
    split = int(0.9 * sum(map(len, rows)))
    kept, before = [], split
    for row in rows:
        kept.append(row[before:])
        before = max(0, before - len(row))
    report = evaluate_text(model, [row for row in kept if row], threads=1)
    assert report.hidden == 0
    # training scores from the part's first token on, evaluation from the model's start: they differ in one token of hundreds
    assert report.loss == pytest.approx(done.best_loss, rel=0.03)


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("a\nb\n\n\nc\nd\n\n\ne\nf\n\n\ng\n", "\n\n\n"),
        ("one line\nand another\n\nnew speaker\n" * 5, "\n\n"),
        ("no paragraph\n" * 50 + "\n\n\n", "\n"),
        ("nothing at all", "\n"),
        ("x" + "\n" * 50 + "y" + "\n" * 50 + "z" + "\n" * 50 + "w", "\n" * 8),
    ],
)
def test_a_text_begins_after_what_separates_its_parts(text: str, separator: str) -> None:
    assert separator_of(text) == separator


def test_a_busy_machine_is_met_with_one_thread(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text.write_text(text.read_text() * 3)
    monkeypatch.setattr(planning, "seconds_per_step", lambda *_, **__: 0.001 * (1 + (torch.get_num_threads() > 1)))
    monkeypatch.setattr(job.machine, "available_cores", lambda: 2)
    asked = {name: value for name, value in SMALL.items() if name != "threads"}
    events = job.run([str(text)], asked=asked, root=text.parent / "c", bound=Bound(minutes=0.02), stop=lambda: True)
    started = next(events)
    assert isinstance(started, Started)
    assert started.settings["threads"] == 1
    assert any(note.startswith("threads: 1") for note in started.notes)
    list(events)
