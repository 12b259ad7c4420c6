"""A run that begins with another one's weights: nothing is forgotten by the move, what is new is said, the rest is refused."""

from __future__ import annotations

import random
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Run
from numpy.typing import NDArray

from charrnn import api
from charrnn.cli import main
from charrnn.config import ModelConfig, TrainingConfig
from charrnn.errors import CheckpointError, CorpusError, TokenizerError, UsageError
from charrnn.models.weights import export_weights, import_weights
from charrnn.runs import checkpoint
from charrnn.runs import model as runs
from charrnn.runs.model import Model
from charrnn.text import extending
from charrnn.text.tokenizers import RESERVED, UNK, ByteTokenizer, CharTokenizer, Tokenizer
from charrnn.training import base as bases
from charrnn.training import job
from charrnn.training.base import Base
from charrnn.training.events import Evaluated, Event, Finished, Started
from charrnn.training.learner import Learner
from charrnn.training.recipe import Bound
from charrnn.training.tasks import TASKS

SMALL = {
    "hidden_size": 12,
    "embedding_size": 6,
    "window": 8,
    "batch_size": 4,
    "threads": 1,
    "eval_every": 10,
    "precision": "fp32",
}
SHORT = {name: SMALL[name] for name in ("window", "batch_size", "threads", "eval_every", "precision")}
ALONE = {name: value for name, value in SMALL.items() if name != "window"}
OLD, NEW = "the rain went on and on, and the river ran", "Été: the rain is over!\n"


def alphabet(text: str) -> CharTokenizer:
    return CharTokenizer(np.array(sorted(set(map(ord, text))), np.uint32))


def counts(text: str) -> dict[str, int]:
    return {letter: text.count(letter) for letter in text}


def text_of(path: Path, words: str, lines: int = 150) -> Path:
    choose = random.Random(words)
    path.write_text("".join(" ".join(choose.choices(words.split(), k=6)) + ".\n" for _ in range(lines)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def _base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with old.txt, and checkpoints/old that was trained on it."""
    folder = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHARRNN_CACHE", str(folder / "cache"))
        list(job.run([str(text_of(folder / "old.txt", "rain river lamp bread and the of"))], asked=SMALL, name="old",
                     root=folder / "checkpoints", bound=Bound(steps=30)))  # fmt: skip
    return folder


@pytest.fixture
def place(_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder, with new.txt beside."""
    folder = tmp_path / "place"
    shutil.copytree(_base, folder)
    text_of(folder / "new.txt", "r\u00e9alit\u00e9 rain and the Sun")
    monkeypatch.chdir(folder)
    return folder


def base_of(name: str = "checkpoints/old") -> Base:
    return Base(runs.load(Path(name)), name)


def train(text: str = "new.txt", steps: int = 20, base: Base | None = None, **options: Any) -> Iterator[Event]:
    asked = {**SHORT, **options.pop("asked", {})}
    return job.run([text], asked=asked, bound=Bound(steps=steps), base=base or base_of(), **options)


def finished(events: Iterator[Event]) -> Finished:
    last = list(events)[-1]
    assert isinstance(last, Finished)
    return last


def first_evaluation(events: Iterator[Event]) -> Evaluated:
    return next(event for event in events if isinstance(event, Evaluated))


def after_evaluation(folder: Path) -> Callable[[], bool]:
    """A `stop` that says yes once something has been saved."""
    return (folder / runs.LAST_FILE).exists


def digest(folder: Path) -> str:
    return checkpoint.tensor_digest(checkpoint.read(folder / runs.LAST_FILE).tensors)


# --- the alphabet


def test_an_alphabet_grows_and_says_by_what() -> None:
    old = alphabet(OLD)
    made, notes = extending.extended(old, counts(NEW * 2), 0)
    found = extending.overlap(old, made, counts(NEW * 2))
    assert found is not None
    assert notes == []
    assert found.new == ("\n", "!", ":", "s", "\u00c9", "\u00e9")
    assert (found.kept, found.unused) == (len(set(OLD) & set(NEW)), len(set(OLD) - set(NEW)))
    assert found.described().startswith(f"characters kept {found.kept}, new 6 ('\\n' '!' ':' 's' '\u00c9' ...), unused ")
    assert made.decode(made.encode(OLD + NEW)) == OLD + NEW


def test_every_old_character_keeps_its_meaning() -> None:
    old = alphabet(OLD)
    made, _ = extending.extended(old, counts(NEW), 1)
    moved = extending.places(old, made)
    assert made.decode(moved) == old.decode(range(old.vocab_size))
    assert moved[:RESERVED].tolist() == list(range(RESERVED))
    assert (moved[old.encode(OLD)] == made.encode(OLD)).all()


def test_rare_characters_stay_unknown_and_rare_old_ones_stay_known() -> None:
    old, text = alphabet(OLD), NEW * 300 + "\u65e5r"
    made, notes = extending.extended(old, counts(text), 0)
    assert notes == ["too rare to learn, read as <unk>: '\u65e5'; --min-count 1 keeps them"]
    assert made.encode("\u65e5").tolist() == [UNK]
    assert extending.extended(old, counts(text), 1)[0].unknown("\u65e5") == []
    assert extending.extended(old, counts("rr"), 500)[0].digest() == old.digest()


def test_an_alphabet_beyond_bounds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extending, "MOST_LETTERS", 12)
    with pytest.raises(TokenizerError, match="can tell 12 apart"):
        extending.extended(alphabet(OLD), counts(NEW), 1)


def test_bytes_stay_bytes() -> None:
    old = ByteTokenizer()
    assert extending.extended(old, counts(NEW), 0) == (old, [])
    assert extending.overlap(old, old, counts(NEW)) is None
    assert extending.places(old, old).tolist() == list(range(260))


# --- the weights


def network(config: ModelConfig, seed: int = 1) -> Any:
    torch.manual_seed(seed)
    return TASKS[config.task].build(config, TrainingConfig()).eval()


def model_of(config: ModelConfig, tokenizer: Tokenizer, labels: tuple[str, ...] = ()) -> Model:
    return Model(config, tokenizer, export_weights(network(config)), (1,), {}, "old", Path("old"), "d", labels)


def material(tokenizer: Tokenizer, labels: tuple[str, ...] = ()) -> Any:
    return type("Few", (), {"tokenizer": tokenizer, "labels": labels})


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("shape", [{}, {"embedding": "onehot"}, {"tie_weights": True, "embedding_size": 6}])
def test_old_characters_have_the_logits_they_had(cell: str, shape: dict[str, Any]) -> None:
    old = alphabet(OLD)
    config = ModelConfig(cell=cell, vocab_size=old.vocab_size, hidden_size=6, layers=2, **{"embedding_size": 4, **shape})
    model = model_of(config, old)
    made, _ = extending.extended(old, counts(NEW), 1)
    larger = network(replace(config, vocab_size=made.vocab_size), seed=2)
    import_weights(larger, Base(model, "old").weights(material(made)))
    before, after = (logits(net, units) for net, units in ((network(config), old), (larger, made)))
    np.testing.assert_allclose(after[:, extending.places(old, made)], before, atol=1e-6)
    new = [token for token in range(made.vocab_size) if token not in extending.places(old, made)]
    assert len(new) == len(set(NEW) - set(OLD))
    np.testing.assert_allclose(after[:, new], np.repeat(before[:, RESERVED:].mean(1)[:, None], len(new), 1), atol=1e-5)


def logits(net: Any, units: Tokenizer) -> NDArray[Any]:
    """After each character of OLD, (T, V)."""
    with torch.no_grad():
        found, _ = net(torch.from_numpy(units.encode(OLD)).unsqueeze(1), net.begin(1))
    return np.asarray(found[:, 0])


@pytest.mark.parametrize("task", ["classify", "conditional", "seq2seq"])
@pytest.mark.parametrize("embedding", ["learned", "onehot"])
def test_rows_of_every_task_go_where_their_characters_and_labels_go(task: str, embedding: str) -> None:
    old, labels = alphabet(OLD), () if task == "seq2seq" else ("b", "d")
    config = ModelConfig(
        task=task, vocab_size=old.vocab_size, hidden_size=6, embedding=embedding, embedding_size=4, classes=len(labels)
    )
    model, (made, _) = model_of(config, old, labels), extending.extended(old, counts(NEW), 1)
    more = ("a", "b", "c", "d") if labels else ()
    weights = Base(model, "old").weights(material(made, more))
    import_weights(network(replace(config, vocab_size=made.vocab_size, classes=len(more))), weights)  # all are as large
    moved, sizes = extending.places(old, made), {old.vocab_size: made.vocab_size, len(labels): len(more)}
    for name, array in model.weights.items():
        back = weights[name]
        for axis, size in enumerate(array.shape):
            if back.shape[axis] != size:
                assert back.shape[axis] == sizes[size]
                back = np.take(back, moved if size == old.vocab_size else [1, 3], axis)
        np.testing.assert_array_equal(back, array, name)
    if labels:
        name = "output.bias" if task == "classify" else "label.state.weight"
        np.testing.assert_allclose(weights[name][0], model.weights[name].mean(0), atol=1e-7)


# --- runs


def test_a_run_goes_on_from_another_and_says_so(place: Path) -> None:
    events = list(train(name="fine"))
    started, done = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(done, Finished)
    assert any(note.startswith("from old: characters kept ") and "new 3 ('S' 'u' '\u00e9')" in note for note in started.notes)
    assert any(note.startswith("learning rates: 0.5 of the usual") for note in started.notes)
    model, old = runs.load(place / "checkpoints/fine"), runs.load(place / "checkpoints/old")
    assert model.config == replace(old.config, vocab_size=old.config.vocab_size + 3)
    origin = model.provenance["from"]
    assert (origin["name"], origin["digest"], origin["corpus"]) == ("old", old.digest, ["old.txt"])
    assert origin["characters"]["new"] == 3
    assert str(place) not in str(model.provenance)
    scores = [event for event in events if isinstance(event, Evaluated)]
    assert [score.step for score in scores] == [0, 10, 20]
    assert done.best_loss < scores[0].loss


@pytest.mark.parametrize("task", ["language", "classify", "conditional", "seq2seq"])
def test_the_first_evaluation_is_that_of_the_old_model(task: str, place: Path) -> None:
    text = "old.txt"
    if task != "language":
        text = f"{task}.tsv"
        drawn = random.Random(4)
        rows = [("xy"[place % 2], "".join(drawn.choices("abc ", k=6)) + "xy"[place % 2]) for place in range(40)]
        Path(text).write_text("".join(f"{one}\t{other}\n" for one, other in rows))
        list(job.run([text], asked={**ALONE, "task": task}, name="small", bound=Bound(steps=8)))
    base = base_of("checkpoints/small" if task != "language" else "checkpoints/old")
    asked = {"threads": 1, "precision": "fp32"}
    again = first_evaluation(job.run([text], asked=asked, name="again", bound=Bound(steps=5), base=base))
    assert again.loss == pytest.approx(base.model.provenance["scores"]["loss"], abs=1e-6)


def test_a_run_that_came_from_another_repeats_and_goes_on_exactly_without_it(place: Path) -> None:
    straight = finished(train(name="straight", asked={"dropout_output": 0.2}))
    halves = place / "checkpoints/halves"
    list(train(name="halves", asked={"dropout_output": 0.2}, stop=after_evaluation(halves)))
    shutil.rmtree(place / "checkpoints/old")
    saved = checkpoint.read(halves / runs.LAST_FILE).metadata["resume"]
    assert saved["step"] < 20
    resumed = finished(job.resume(halves))
    assert digest(resumed.folder) == digest(straight.folder)
    assert resumed.command.endswith(" --init-from checkpoints/old")
    assert runs.load(halves).provenance["from"] == runs.load(straight.folder).provenance["from"]


def test_the_command_repeats_the_run(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = finished(train(name="one", asked={"min_count": 1}))
    words = shlex.split(one.command)
    assert words[-2:] == ["--init-from", "checkpoints/old"]
    assert not {"--hidden-size", "--layers", "--tokenizer", "--cell"} & set(words)
    assert main.run([*words[1:], "--name", "two"]) == 0
    assert digest(place / "checkpoints/two") == digest(one.folder)


def test_a_best_model_of_before_any_step_that_is_damaged_is_written_anew(place: Path) -> None:
    folder = place / "checkpoints/hurt"
    list(train(name="hurt", stop=after_evaluation(folder)))
    (folder / runs.MODEL_FILE).write_bytes(b"nothing")
    started = next(job.resume(folder))
    assert isinstance(started, Started)
    assert any("damaged or gone" in note for note in started.notes)


def test_those_before_the_last_are_named_too(place: Path) -> None:
    finished(train(name="second", steps=2))
    third = finished(train("old.txt", name="third", steps=2, base=base_of("checkpoints/second")))
    origin = runs.load(third.folder).provenance["from"]
    old = runs.load(place / "checkpoints/old")
    assert (origin["name"], origin["before"]) == ("second", [f"old {old.digest}"])


@pytest.mark.parametrize("said", [{"from": 3}, {"from": {"name": 3, "digest": None, "before": [1, "x" * 500]}}, {"corpus": []}])
def test_what_a_strangers_file_says_of_its_past_is_bounded(place: Path, said: dict[str, Any]) -> None:
    base = base_of()
    base.model.provenance.clear()
    base.model.provenance.update(said)
    origin = base.origin(type("Few", (), {"tokenizer": base.model.tokenizer, "survey": type("S", (), {"counts": {}})}))  # type: ignore[arg-type]
    assert all(len(word) <= runs.MOST_SAID for word in origin.get("before", []))
    assert origin["corpus"] == []


def test_a_rate_that_somebody_set_stays(place: Path) -> None:
    started = next(train(asked={"learning_rate": 0.004}))
    assert isinstance(started, Started)
    assert started.settings["learning_rate"] == 0.004
    assert started.settings["muon_learning_rate"] == TrainingConfig().muon_learning_rate * bases.SHARE
    alone = next(train(asked={"optimizer": "adamw"}))
    assert isinstance(alone, Started)
    assert alone.settings["muon_learning_rate"] == TrainingConfig().muon_learning_rate


def test_a_text_without_a_character_in_common_is_learnt_with_a_warning(place: Path) -> None:
    Path("far.txt").write_text("\u96e8\u6cb3\u706f\u9762" * 200, encoding="utf-8")
    started = next(train("far.txt"))
    assert isinstance(started, Started)
    assert any("characters kept 0, new 4" in note for note in started.notes)
    assert any("knows no character of this text" in note for note in started.notes)


@pytest.mark.parametrize(
    ("kind", "note"), [("byte", "tokenizer kept (byte, 260 tokens)"), ("subword", "tokenizer kept (subword, ")]
)
def test_bytes_and_pieces_are_kept(kind: str, note: str, place: Path) -> None:
    list(job.run(["old.txt"], asked={**SMALL, "tokenizer": kind}, name=kind, bound=Bound(steps=1)))
    base = base_of(f"checkpoints/{kind}")
    started = next(train(base=base))
    assert isinstance(started, Started)
    assert any(note in said for said in started.notes)
    assert any("spelt in bytes: 1 ('\u00e9')" in said for said in started.notes) == (kind == "subword")
    assert base.weights(material(base.model.tokenizer)).keys() == base.model.weights.keys()


def test_labels_may_be_more_but_not_fewer(place: Path) -> None:
    rows = "".join(f"{label}\t{text}\n" for label in "bd" for text in ("one", "two", "three", "four"))
    Path("two.tsv").write_text(rows)
    list(job.run(["two.tsv"], asked={**ALONE, "task": "classify"}, name="two", bound=Bound(steps=2)))
    base = base_of("checkpoints/two")
    Path("three.tsv").write_text(rows + "c\tfive\nc\tsix\n")
    Path("other.tsv").write_text(rows.replace("b\t", "a\t"))
    three = finished(job.run(["three.tsv"], asked={"threads": 1}, name="three", bound=Bound(steps=2), base=base))
    assert runs.load(three.folder).labels == ("b", "c", "d")
    with pytest.raises(CorpusError, match="no example of the label 'b'"):
        list(job.run(["other.tsv"], asked={"threads": 1}, bound=Bound(steps=2), base=base))


def test_rows_of_numbers_keep_their_scale_and_must_be_as_wide(place: Path) -> None:
    for name, width, mean in (("narrow", 3, 0.0), ("moved", 3, 9.0), ("wide", 4, 0.0)):
        x = np.random.default_rng(1).normal(mean, 1, (16, 4, width)).astype(np.float32)
        np.savez(f"{name}.npz", x=x, y=(x[:, 2, 1] > mean).astype(int))
    asked = {**ALONE, "task": "classify", "input": "rows"}
    list(job.run(["narrow.npz"], asked=asked, name="narrow", bound=Bound(steps=2)))
    base = base_of("checkpoints/narrow")
    moved = finished(job.run(["moved.npz"], asked={"threads": 1}, bound=Bound(steps=2), base=base))
    assert runs.load(moved.folder).config == base.model.config
    with pytest.raises(CorpusError, match="rows have 4 numbers; 'narrow' was trained on 3"):
        list(job.run(["wide.npz"], asked={"threads": 1}, bound=Bound(steps=2), base=base))


def test_start_from_fills_network_and_average(place: Path) -> None:
    model = base_of().model
    learner = Learner(model.config, TrainingConfig(steps=1, batch_size=2, window=4), np.arange(40) % 9, torch.device("cpu"))
    learner.start_from(model.weights)
    for net in (learner.network, learner.average):
        for name, array in export_weights(net).items():
            np.testing.assert_array_equal(array, model.weights[name])


# --- what is refused, and the command line


@pytest.mark.parametrize(
    "asked",
    [{"hidden_size": 13}, {"cell": "gru"}, {"tokenizer": "byte"}, {"size": "tiny"}, {"task": "classify"}, {"tie_weights": True}],
)
def test_a_wish_that_contradicts_the_run_is_refused(place: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(asked)).replace('_', '-')} is .* 'old'"):
        list(train(asked=asked))
    assert [path.name for path in (place / "checkpoints").iterdir()] == ["old"]


def test_wishes_that_agree_are_fine(place: Path) -> None:
    asked = {"hidden_size": 12, "cell": "lstm", "tokenizer": "auto", "size": "auto", "task": "language"}
    assert isinstance(next(train(asked=asked)), Started)


def test_the_command_line_goes_on_from_a_run(place: Path, run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARRNN_HIDDEN_SIZE", "99")
    done = run_here("train", "new.txt", "--init-from", "old", "--steps", "2", "--threads", "1")
    assert done.code == 0, done.err
    assert "hidden-size = 99 of the environment or a file is left out: old decides it" in done.err
    assert "note: from old: characters kept " in done.err
    assert done.err.index("step 0  validation loss") < done.err.index("step 2  validation loss")
    assert "--init-from old" in done.err
    card = run_here("inspect", "new").out
    assert "  from\n" in card
    assert base_of().model.digest in card


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["new.txt", "--init-from", "nothing"], 65, "there is no run, folder or file 'nothing'"),
        (["new.txt", "--init-from", "old.txt"], 65, "old.txt"),
        (["new.txt", "--init-from", "old", "--hidden-size", "99"], 2, "--hidden-size is 99; 'old'"),
        (["new.txt", "--init-from", "old", "--task", "classify"], 2, "--task is 'classify'; 'old'"),
        (["new.txt", "--init-from", "old", "--balance"], 2, "--balance is for --task classify; this is --task language"),
        (["--resume", "old", "--init-from", "old"], 2, "--init-from cannot be changed in a run that is resumed"),
    ],
)
def test_what_cannot_be_is_refused_with_words(place: Path, run_here: Run, words: list[str], code: int, said: str) -> None:
    done = run_here("train", *words, "--steps", "2")
    assert (done.code, said in done.err) == (code, True), done.err


@pytest.fixture
def run_here(capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    from commands import runner

    return runner(capsysbinary)


def test_steps_that_make_nothing_better_are_not_saved_as_the_best(place: Path, run_here: Run) -> None:
    words = ("train", "new.txt", "--init-from", "old", "--steps", "1", "--learning-rate", "9", "--clip", "0", "--ema", "0")
    done = run_here(*words, "--threads", "1", "--schedule", "constant", "--name", "worse")
    assert done.code == 0, done.err
    assert "at step 0, before any was made" in done.err
    assert runs.load(place / "checkpoints/worse").provenance["scores"]["step"] == 0


def test_a_base_is_found_without_torch() -> None:
    code = "import charrnn.cli.origin, charrnn.training.base, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_python_goes_on_from_a_run_by_its_name(place: Path) -> None:
    model = api.train("new.txt", steps=2, threads=1, init_from="old").model
    assert model.provenance["from"]["name"] == "old"
    with pytest.raises(CheckpointError, match="no run, folder or file 'older'"):
        api.train("new.txt", steps=2, init_from="older")
