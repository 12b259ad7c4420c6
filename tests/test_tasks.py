"""Whole runs of the three tasks of single examples, small ones: they learn, go on exactly, repeat, and are refused if damaged."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn.cli import main
from charrnn.config import ModelConfig
from charrnn.errors import CheckpointError, CorpusError, UsageError
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.text import rows, tokenizers
from charrnn.text.sources import find_sources
from charrnn.training import examiner, job, seq2seq
from charrnn.training.conditional import losses
from charrnn.training.events import Evaluated, Event, Finished, Started
from charrnn.training.learner import Learner
from charrnn.training.recipe import Bound
from charrnn.weights import weight_shapes

TASKS = ("classify", "conditional", "seq2seq")
KINDS = (*TASKS, "rows")
CLOCK = {"seconds", "tokens_per_second", "eta_seconds", "memory_bytes"}
SMALL = {"hidden_size": 8, "embedding_size": 6, "threads": 1, "batch_size": 4, "eval_every": 5}
RESTLESS = {
    **SMALL, "layers": 2, "dropout_embedding": 0.1, "dropout_layers": 0.1, "dropout_output": 0.2, "ema": 0.5, "patience": 1,
    "learning_rate": 0.3, "balance": True, "eval_every": 7,
}  # fmt: skip
WORDS = ("rain", "river", "lamp", "harbour", "bread", "moon", "slow", "bright", "日本", "under\nthe", "a")


def corpus(folder: Path, kind: str, number: int = 36) -> tuple[str, dict[str, Any]]:
    """A file to train on, and how."""
    choose = random.Random(number)
    texts = [" ".join(choose.choices(WORDS, k=choose.randint(1, 5))) + f" {place}" for place in range(number)]
    if kind == "rows":
        x = np.random.default_rng(number).normal(5, 3, (number, 4, 3)).astype(np.float32)
        np.savez(folder / "rows.npz", x=x, y=(x[:, 2, 1] > 5).astype(int))
        return str(folder / "rows.npz"), {"task": "classify", "input": "rows"}
    firsts = [text[::-1] for text in texts] if kind == "seq2seq" else ["abbbbc"[place % 6] for place in range(number)]
    content = "".join(f"{rows.escaped(one)}\t{rows.escaped(other)}\n" for one, other in zip(firsts, texts, strict=True))
    (folder / f"{kind}.tsv").write_text(content, encoding="utf-8")
    return str(folder / f"{kind}.tsv"), {"task": kind}


class Made:
    """Steps made by all learners of this test."""

    steps = 0


@pytest.fixture(autouse=True)
def _counted_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    advance, Made.steps = Learner.advance, 0

    def counted(learner: Learner) -> None:
        advance(learner)
        Made.steps += 1

    monkeypatch.setattr(Learner, "advance", counted)
    monkeypatch.chdir(tmp_path)


def after(steps: int) -> Callable[[], bool]:
    begun = Made.steps
    return lambda: Made.steps - begun >= steps


def finished(events: Iterator[Event]) -> Finished:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    return last


def outcome(folder: Path) -> tuple[str, str, list[dict[str, Any]]]:
    """The digests of all tensors, last and best, and the log without the clock."""
    log = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    shown = [{key: value for key, value in line.items() if key not in CLOCK} for line in log]
    return checkpoint.tensor_digest(checkpoint.read(folder / runs.LAST_FILE).tensors), runs.load(folder).digest, shown


# --- learning


def slow(kind: str, **asked: Any) -> Any:
    return pytest.param(kind, asked, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        slow("classify"), ("classify", {"cell": "gru", "pooling": "max", "bidirectional": False}),
        slow("classify", cell="rnn", pooling="last", embedding="onehot"), ("rows", {"cell": "gru"}), ("conditional", {}),
        slow("conditional", label_as="step", cell="gru"), slow("conditional", label_as="state"), ("seq2seq", {}),
        slow("seq2seq", attention="additive", cell="gru"), slow("seq2seq", context="last"),
        slow("seq2seq", context="transformed"),
    ],
)  # fmt: skip
def test_each_shape_learns_32_examples_by_heart(kind: str, asked: dict[str, Any], tmp_path: Path) -> None:
    if kind in ("classify", "rows"):
        name, task = corpus(tmp_path, kind, 32)
    else:  # what must be told from the label, or from the source, alone
        task, name, drawn = {"task": kind}, str(tmp_path / "few.tsv"), random.Random(4)
        labels = ["".join(drawn.choices("abcd", k=4)) for _ in range(32)]
        labels = [f"{label}{place % 10}{place // 10}" for place, label in enumerate(labels)] if kind == "conditional" else labels
        texts = [label[::-1] if kind == "seq2seq" else "".join(drawn.choices("abc", k=4)) for label in labels]
        Path(name).write_text("".join(f"{one}\t{other}\n" for one, other in zip(labels, texts, strict=True)))
    settings = {
        "hidden_size": 32, "embedding_size": 12, "threads": 1, "batch_size": 16, "eval_every": 240, "val_fraction": 0.0,
        "dropout_embedding": 0.0, "dropout_output": 0.0, "warmup": 5, "ema": 0.9, "clip": 1.0, "patience": 0,
    }  # fmt: skip
    done = finished(job.run([name], asked={**settings, **task, **asked}, bound=Bound(steps=240)))
    model = runs.load(done.folder / runs.LAST_FILE)
    scores = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()][-1]
    assert scores["accuracy"] == 1.0, scores
    found, network = examiner.read(model, find_sources([name]), runs_reading()), examiner.network_of(model, threads=1)
    if kind == "seq2seq":
        assert seq2seq.answered(network, found, model.tokenizer) == [target for _, target in found.texts]
    if kind == "conditional":
        assert losses(network, found)[1] == int(found.inputs.lengths.sum())


def runs_reading() -> Any:
    from charrnn.config import ReadingConfig

    return ReadingConfig()


# --- going on


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_anywhere_and_gone_on_with_is_never_stopped(kind: str, tmp_path: Path) -> None:
    name, task = corpus(tmp_path, kind)
    asked = {**RESTLESS, **task}
    straight = finished(job.run([name], asked=asked, name="straight", bound=Bound(steps=200)))
    assert straight.reason == "early stop"
    expected = outcome(straight.folder)
    for number, step in enumerate(random.Random(kind).sample(range(1, straight.step), 1)):
        events = job.run([name], asked=asked, name=f"stopped-{number}", bound=Bound(steps=200), stop=after(step))
        stopped = finished(events)
        assert (stopped.reason, stopped.step) == ("interrupted", step)
        left = straight.step - step
        if left > 2:
            assert finished(job.resume(stopped.folder, stop=after(left // 2))).reason == "interrupted"
        assert finished(job.resume(stopped.folder)).reason == "early stop"
        assert outcome(stopped.folder) == expected, step


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_not_gone_on_with_and_a_longer_bound_is(kind: str, tmp_path: Path) -> None:
    name, task = corpus(tmp_path, kind)
    folder = finished(job.run([name], asked={**SMALL, **task}, bound=Bound(steps=9), stop=after(4))).folder
    good = Path(name).read_bytes()
    Path(name).write_bytes(good.replace(b"\n", b"!\n", 1) if kind != "rows" else good + b"\0")
    with pytest.raises(CorpusError, match="has changed"):
        list(job.resume(folder))
    Path(name).unlink()
    with pytest.raises(CorpusError, match="no longer where it was"):
        list(job.resume(folder))
    (tmp_path / "elsewhere").write_bytes(good)
    if kind != "rows":
        with pytest.raises(CorpusError):
            list(job.resume(folder, corpus=["no-such-file"]))
    Path(name).write_bytes(good)
    assert main.run(["train", "--resume", folder.name, "--steps", "12"]) == 0  # and no --task
    assert checkpoint.read(folder / runs.LAST_FILE).metadata["resume"]["step"] == 12
    with pytest.raises(UsageError, match="all of its 12 steps"):
        list(job.resume(folder))
    assert finished(job.resume(folder, bound=Bound(epochs=3))).step == 3 * (36 - HELD[kind]) // 4


HELD = {"classify": 4, "conditional": 4, "seq2seq": 4, "rows": 4}


# --- the recipe


TIMED = Bound(minutes=0.02)


@pytest.mark.parametrize(("kind", "bound"), [*((kind, Bound(epochs=2)) for kind in KINDS), ("seq2seq", TIMED)], ids=str)
def test_the_printed_command_repeats_a_run(kind: str, bound: Bound, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, task = corpus(tmp_path, kind)
    asked: dict[str, Any] = {"hidden_size": 8, "threads": 1, "seed": 3, **task}
    own = {"classify": {"balance": True, "bidirectional": False}, "seq2seq": {"bidirectional": False}}
    asked |= {"layers": 2, **own.get(str(task["task"]), {})} if bound.epochs else {}
    done = finished(job.run([name], asked=asked, name="first", bound=bound))
    assert f"--task {task['task']}" in done.command
    assert main.run([*shlex.split(done.command)[1:], "--name", "again"]) == 0
    said, again = capsys.readouterr().err, Path("checkpoints") / "again"
    use = {"conditional": "sample again --label ", "seq2seq": "translate again ", "rows": "classify again FILE"}
    assert f"with it: charrnn {use.get(kind, 'classify again ')}" in said
    assert "nan" not in said
    assert outcome(again)[:2] == outcome(done.folder)[:2]
    settings = [runs.load(folder).provenance["settings"] for folder in (again, done.folder)]
    assert settings[0] == settings[1]


@pytest.mark.parametrize("kind", ["classify", *(pytest.param(kind, marks=pytest.mark.slow) for kind in KINDS[1:])])
def test_minutes_are_kept(kind: str, tmp_path: Path) -> None:
    name, task = corpus(tmp_path, kind, 400)
    done = finished(job.run([name], asked={**task, "threads": 1, "patience": 0, "hidden_size": 32}, bound=Bound(minutes=0.03)))
    assert done.reason == "done"
    assert done.step >= 20
    assert 1.0 < done.seconds < 3.5


FEWEST = {"classify": 3, "conditional": 3, "seq2seq": 2, "rows": 3}  # rows of which one can be held out


@pytest.mark.parametrize("number", [2, 3, 26])
@pytest.mark.parametrize("kind", KINDS)
def test_few_rows_are_learnt_or_refused(kind: str, number: int, tmp_path: Path) -> None:
    name, task = corpus(tmp_path, kind, number)
    if kind == "rows":
        np.savez(name, x=np.ones((number, 3, 2)), y=np.arange(number) % 2)
    for fraction in (0.9, 0.0):
        asked = {**task, "threads": 1, "hidden_size": 8, "val_fraction": fraction}
        if fraction and number < FEWEST[kind]:
            with pytest.raises(CorpusError, match="too few examples"):
                list(job.run([name], asked=asked, bound=Bound(epochs=2)))
            continue
        events = list(job.run([name], asked=asked, bound=Bound(epochs=2)))
        started, done = events[0], events[-1]
        assert isinstance(started, Started)
        assert isinstance(done, Finished)
        scores = [event for event in events if isinstance(event, Evaluated)]
        assert scores[-1].on == ("validation" if fraction else "training")
        assert np.isfinite(scores[-1].loss)


@pytest.mark.slow  # seconds, but of measuring
def test_two_rows_with_nothing_asked_for(tmp_path: Path) -> None:
    (tmp_path / "two.tsv").write_text("a\tone\nb\ttwo\n")
    events = job.run([str(tmp_path / "two.tsv")], asked={"task": "classify", "val_fraction": 0.0}, stop=after(40))
    assert finished(events).step > 0


# --- checkpoints


LABELS = ["no", "yes", "é"]
SHAPES = [
    ModelConfig(task="classify", classes=3, layers=2), ModelConfig(task="classify", input="rows", features=4, classes=3),
    ModelConfig(task="classify", classes=3, bidirectional=False, embedding="onehot", cell="gru"),
    ModelConfig(task="conditional", classes=3), ModelConfig(task="conditional", classes=3, label_as="state", cell="rnn"),
    ModelConfig(task="conditional", classes=3, label_as="step", layers=2, tie_weights=True, embedding_size=4),
    ModelConfig(task="seq2seq"), ModelConfig(task="seq2seq", attention="additive", cell="gru", layers=2),
    ModelConfig(task="seq2seq", context="last", bidirectional=False), ModelConfig(task="seq2seq", context="transformed"),
]  # fmt: skip
SHAPES = [replace(one, vocab_size=7, embedding_size=4 if one.tie_weights else 3, hidden_size=4) for one in SHAPES]
UNITS = tokenizers.load("char", {"tokenizer.alphabet": np.array([97, 98, 99], np.uint32)})


def named(config: ModelConfig) -> str:
    return f"{config.task}-{config.cell}-{config.input}-{config.label_as}-{config.context}-{config.attention}"


def tensors(config: ModelConfig) -> dict[str, Any]:
    draw = np.random.default_rng(1)
    return {name: draw.normal(size=shape).astype(np.float32) for name, shape in weight_shapes(config).items()}


def written(path: Path, config: ModelConfig, weights: dict[str, Any] | None = None, **changes: Any) -> Path:
    about = {"name": "x", "start": [1], "provenance": {}, "labels": LABELS if config.classes else []}
    metadata = {**runs.describe(config, UNITS, about), **changes}
    metadata = {name: value for name, value in metadata.items() if value is not None}
    checkpoint.write(path, metadata, {**(tensors(config) if weights is None else weights), **UNITS.tensors()})
    return path


@pytest.mark.parametrize("config", SHAPES, ids=named)
def test_a_model_of_each_shape_comes_back_as_it_was(config: ModelConfig, tmp_path: Path) -> None:
    model = runs.load(written(tmp_path / "x.safetensors", config))
    assert model.config == config
    assert model.labels == (tuple(LABELS) if config.classes else ())
    assert all(np.array_equal(model.weights[name], weight) for name, weight in tensors(config).items())
    network = examiner.network_of(model, threads=1)
    assert sum(weight.numel() for weight in network.parameters()) == sum(map(np.size, tensors(config).values()))


@pytest.mark.parametrize(
    "labels",
    [
        None, [], LABELS[:2], [*LABELS, "more"], ["no", "yes", "no"], ["no", "yes", "\ud800"], ["no", "yes", "a\x1b[2J"],
        ["no", "yes", "a\0"], ["no", "yes", "a\nb"], ["no", "yes", "\x9b2J"], ["no", "yes", ""], ["no", "yes", "x" * 201],
        ["no", "yes", 3], ["no", "yes", None], ["no", "yes", ["x"]], "noy", {"no": 0, "yes": 1, "x": 2}, 3,
    ],
)  # fmt: skip
@pytest.mark.parametrize("config", [SHAPES[0], SHAPES[3]], ids=named)
def test_labels_that_cannot_be_are_refused(config: ModelConfig, labels: Any, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x\.safetensors.* does not say what its 3 labels are"):
        runs.load(written(tmp_path / "x.safetensors", config, labels=labels))


def test_labels_where_there_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="labels"):
        runs.load(written(tmp_path / "x.safetensors", SHAPES[6], labels=["a"]))


CONTRADICTIONS: list[tuple[int, dict[str, Any]]] = [
    (0, {"classes": 2}), (0, {"classes": 1}), (0, {"classes": 0}), (0, {"classes": -1}), (0, {"classes": 10**9}),
    (0, {"classes": True}), (0, {"classes": 3.0}), (0, {"input": "rows"}), (0, {"input": "rows", "features": 3}),
    (0, {"tie_weights": True, "embedding_size": 4}), (0, {"bidirectional": False}), (0, {"bidirectional": "yes"}),
    (0, {"pooling": "sum"}), (0, {"task": "conditional"}), (0, {"task": "language"}), (0, {"task": "seq2seq"}),
    (1, {"features": 0}), (1, {"features": 5}), (1, {"task": "conditional"}), (1, {"input": "tokens"}),
    (1, {"input_deviation": 0}), (1, {"input_deviation": -1.0}), (1, {"input_mean": 1e31}), (1, {"input_mean": "0"}),
    (3, {"classes": 0}), (3, {"label_as": "step"}), (3, {"label_as": "neither"}), (3, {"input": "rows", "features": 3}),
    (6, {"hidden_size": 5}), (6, {"context": "last"}), (6, {"attention": "additive"}), (6, {"bidirectional": False}),
    (6, {"attention": "none"}), (8, {"context": "transformed"}), (6, {"input": "rows", "features": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("number", "changes"), CONTRADICTIONS, ids=str)
def test_a_contradiction_in_what_a_file_says_of_its_model_is_refused(
    number: int, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = SHAPES[number]
    path = written(tmp_path / "x.safetensors", config, tensors(config), model={**asdict(config), **changes})
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        runs.load(path)


@pytest.mark.parametrize("config", SHAPES, ids=named)
def test_a_tensor_that_is_missing_or_of_another_shape_is_refused(config: ModelConfig, tmp_path: Path) -> None:
    good = tensors(config)
    for name, array in good.items():
        more, less = np.zeros((array.shape[0] + 1, *array.shape[1:]), np.float32), array[1:]
        for wrong in (more, less, array.T if len({*array.shape}) == 2 else None, array.astype(float))[len(name) % 2 :: 2]:
            weights = {key: value for key, value in {**good, name: wrong}.items() if value is not None}
            with pytest.raises(CheckpointError, match=r"x\.safetensors"):
                runs.load(written(tmp_path / "x.safetensors", config, weights))


@pytest.mark.parametrize("kind", KINDS)
def test_a_last_save_that_does_not_fit_its_text_is_refused(kind: str, tmp_path: Path) -> None:
    name, task = corpus(tmp_path, kind)
    folder = finished(job.run([name], asked={**SMALL, **task}, bound=Bound(steps=9), stop=after(4))).folder
    good = checkpoint.read(folder / runs.LAST_FILE)
    changes: list[Callable[[dict[str, Any]], None]] = [
        lambda document: document["resume"]["training"].update(batch_size=1000),
        lambda document: document["resume"]["training"].update(val_fraction=0.5, batch_size=19),
        lambda document: document["resume"]["cursor"].update(window=10**6),
        lambda document: document["resume"].update(cursor={}),
        lambda document: document["model"].update(hidden_size=10),
    ]
    if kind != "seq2seq":
        changes.append(lambda document: document.update(labels=[f"{label}?" for label in document["labels"]]))
        changes.append(lambda document: document.update(labels=document["labels"][::-1]))
    for change in changes:
        document = json.loads(json.dumps(good.metadata))
        change(document)
        checkpoint.write(folder / runs.LAST_FILE, document, good.tensors)
        with pytest.raises(CheckpointError):
            list(job.resume(folder))
    checkpoint.write(folder / runs.LAST_FILE, good.metadata, good.tensors)
    assert finished(job.resume(folder)).reason == "done"
