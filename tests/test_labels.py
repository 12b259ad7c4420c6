"""Texts by a label: what the engine folds away is what the network computes, and every command keeps the label it was given."""

from __future__ import annotations

import io
import itertools
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy
from commands import Run, runner
from toy import LABELS

import charrnn
from charrnn.config import ModelConfig, SamplingConfig, TrainingConfig
from charrnn.decoding import generate, memory
from charrnn.decoding.commands import complete
from charrnn.decoding.engine import Engine
from charrnn.decoding.events import Notice, Output, Problem, Text
from charrnn.decoding.kernel import Library
from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings
from charrnn.errors import DataError, UsageError
from charrnn.models.weights import import_weights
from charrnn.runs import model as models
from charrnn.text.examples import Examples, Ragged
from charrnn.text.tokenizers import EOS
from charrnn.training import conditional
from charrnn.weights import weight_shapes

SHORT = Settings(length=30, seed=7)
SHAPES: list[dict[str, Any]] = [
    {"cell": "lstm"}, {"cell": "gru"}, {"cell": "rnn"}, {"cell": "lstm", "layers": 1, "embedding": "onehot"},
    {"cell": "gru", "label_as": "state"}, {"cell": "lstm", "label_as": "step"}, {"cell": "rnn", "label_as": "state"},
    {"cell": "gru", "embedding": "onehot", "label_as": "step"}, {"embedding_size": 16, "tie_weights": True},
]  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_text_that_is_too_long_for_one_reading_is_scored_in_parts(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN refuses some 200,000 steps at once; the state goes on from part to part."""
    units = toy.tokenizer()
    made, weights = toy.labelled(units)
    network = conditional.build(made, TrainingConfig()).eval()
    import_weights(network, weights)
    ids = [np.append(units.encode(text), EOS) for text in ("the boat and the sea", "the")]
    texts = Examples(Ragged.of(ids), None, np.array([1, 0]))
    whole, right = conditional.losses(network, texts, precision)
    monkeypatch.setattr(conditional, "SCORED", 3)
    parts, hits = conditional.losses(network, texts, precision)
    np.testing.assert_allclose(parts, whole, rtol=1e-5 if precision == "fp32" else 0.02)
    assert hits == right or precision == "bf16"


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(map(str, shape.values())))
@pytest.mark.parametrize("compiled", [False, True], ids=["numpy", "kernel"])
def test_the_engine_of_a_label_is_the_network(shape: dict[str, Any], compiled: bool, library: Library) -> None:
    """Stepwise, teacher-forced, for one stream and for three: the same logits for every label, and no two labels alike."""
    units = toy.tokenizer()
    made, weights = toy.labelled(units, **shape)
    network = conditional.build(made, TrainingConfig()).eval()
    import_weights(network, weights)
    ids = [EOS, *units.encode("the boat").tolist()]
    seen = []
    for label in range(len(LABELS)):
        labels = torch.tensor([label])
        with torch.inference_mode():
            expected = network.read(torch.tensor(ids)[:, None], labels, network.begin_with(labels))[0][:, 0].numpy()
        engine = Engine(made, weights, kernel=library if compiled else None, label=label)
        state, several = engine.begin(1), engine.begin(3)
        for token, wanted in zip(ids, expected, strict=True):
            logits, state = engine.step(np.array([token]), state)
            rows, several = engine.step(np.array([token] * 3), several)
            np.testing.assert_allclose(np.concatenate([logits, rows]), np.tile(wanted, (4, 1)), atol=1e-4)
        seen.append(expected)
    assert all(np.abs(one - other).max() > 0.01 for one, other in itertools.pairwise(seen))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Run a command line where there are a conditional run, `odes`, and a language run, `toy`."""
    units, partner = toy.tokenizer(), toy.partner()
    shape, weights = toy.labelled(units)
    for name, made, drawn, start, labels in (
        ("odes", shape, weights, [EOS], list(LABELS)),
        ("toy", toy.config(units), toy.weights(units), list(partner.start), []),
    ):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        models.save(folder / models.MODEL_FILE, made, units, drawn, {"name": name, "start": start, "labels": labels})
    monkeypatch.chdir(tmp_path)
    return runner(capsysbinary)


def own_text(label: str, seed: int, index: int = 0, length: int = 2000) -> str:
    """What the definition says: tokens from the engine of the label, up to <eos>."""
    units = toy.tokenizer()
    engine = Engine(*toy.labelled(units), label=LABELS.index(label))
    tokens = generate.stream(
        engine, units, generate.prime(engine, [EOS]), SamplingConfig(), seed=seed, stream_index=index, length=length
    )
    return "".join(token.text for token in tokens)


def test_a_text_by_a_label_ends_where_the_model_ends_it(run: Run) -> None:
    for label in LABELS:
        expected = own_text(label, 3)
        assert len(expected) < 2000
        done = run("sample", "odes", "--label", label, "--seed", "3")
        assert (done.code, done.out, done.err) == (0, expected.removesuffix("\n") + "\n", "")
    longest = max(LABELS, key=lambda label: len(own_text(label, 3)))
    cut = run("sample", "odes", "--label", longest, "--seed", "3", "--length", "2")
    assert cut.out == own_text(longest, 3)[:2].removesuffix("\n") + "\n"


def test_without_a_label_the_seed_draws_one_and_says_which(run: Run) -> None:
    done = run("sample", "odes", "--seed", "3")
    (label,) = [one for one in LABELS if done.err.startswith(f"label {one} (")]
    assert done.out == run("sample", "odes", "--seed", "3", "--label", label).out
    assert all(one in done.err for one in LABELS)


def test_each_of_many_texts_draws_its_label_and_can_be_had_again(run: Run) -> None:
    many = [json.loads(line) for line in run("sample", "odes", "--seed", "3", "--num", "12", "--json").out.splitlines()]
    assert {one["label"] for one in many} == set(LABELS)
    assert [one["stream"] for one in many] == list(range(12))
    assert all(one["text"] == own_text(one["label"], 3, one["stream"]) for one in many)
    plain = run("sample", "odes", "--seed", "3", "--num", "12")
    assert [line.removeprefix("label ") for line in plain.err.splitlines()[1:]] == [one["label"] for one in many]
    assert run("sample", "odes", "--seed", "3", "--num", "2", "--label", "ode", "--json").out.count('"label": "ode"') == 2


@pytest.mark.parametrize("more", [
    ("--num", "2", "--best-of", "3"), ("--beam", "3", "--num", "2", "--length", "9"), ("--prompt", "the "), ("--acrostic", "abc"),
    ("--lines", "3"), ("--regex", "[a-z ]{5,9}"), ("--int8",), ("-o", "text.txt"), ("-i", "--length", "20"),
], ids=" ".join)  # fmt: skip
def test_every_way_to_write_goes_with_a_label(more: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    for label in (("--label", "night piece"), ()):
        done = run("sample", "odes", "--seed", "5", *label, *more)
        assert done.code == 0, done
    if "--lines" in more:
        assert done.out.count("\n") == 3


def test_a_label_that_there_is_not(run: Run) -> None:
    for command in (["sample"], ["repl"], ["score"], ["chat"]):
        text = ["boat"] if command == ["score"] else []
        wrong = run(*command, "odes", *text, "--label", "oda")
        assert (wrong.code, wrong.out) == (2, "")
        assert "Did you mean ode? The labels are: elegy, night piece, ode." in wrong.err
        none = run(*command, "toy", *text, "--label", "ode")
        assert (none.code, none.out) == (2, "")
        assert "'toy' writes by no labels" in none.err


def test_score_asks_for_the_label(run: Run) -> None:
    refused = run("score", "odes", "the boat")
    assert refused.code == 2
    assert "night piece" in refused.err
    units, bits = toy.tokenizer(), []
    for label in range(len(LABELS)):
        engine = Engine(*toy.labelled(units), label=label)
        nats = -generate.logprobs(engine, units.encode("the boat"), generate.prime(engine, [EOS])).sum()
        bits.append(nats / np.log(2) / 8)
        assert f"{bits[-1]:.4f}" in run("score", "odes", "the boat", "--label", LABELS[label]).out
    assert len(set(bits)) == 3


def test_the_api_writes_and_scores_by_a_label(run: Run, tmp_path: Path) -> None:
    odes, plain = (charrnn.load(tmp_path / "checkpoints" / name) for name in ("odes", "toy"))
    assert (odes.labels, plain.labels) == (LABELS, ())
    for label in LABELS:
        assert odes.generate(label=label, seed=3, length=2000) == own_text(label, 3)
    assert len({odes.bits_per_character("the boat", label=label) for label in LABELS}) == 3
    for wrong in (lambda: odes.generate(seed=1), lambda: odes.bits_per_character("a"), lambda: odes.generate(label="odes")):
        with pytest.raises(UsageError) as refusal:
            wrong()
        assert "night piece" in refusal.value.hint
    with pytest.raises(UsageError, match="by no labels"):
        plain.generate(label="ode")


def said(events: Iterable[Output]) -> str:
    return "".join(event.text for event in events if isinstance(event, Text))


def test_each_label_has_states_of_its_own_whatever_was_between() -> None:
    """The same line gives what a session by that label alone gives, before and after others; undo stays within a label."""
    alone = {label: said(Session(toy.labelled_partner(-1e4, label), SHORT).feed("the boat")) for label in LABELS}
    assert len(set(alone.values())) == 3
    session = Session(toy.labelled_partner(-1e4), SHORT)
    for label in (*LABELS, *reversed(LABELS)):
        list(session.feed(f"/label {label}"))
        assert session.text == ""
        assert said(session.feed("the boat")) == alone[label]
        list(session.feed("/undo"))
        assert said(session.feed("the boat")) == alone[label]
        assert list(session.feed("/undo"))
        assert isinstance(next(session.feed("/undo")), Problem)


def test_a_saved_session_has_the_texts_of_all_its_labels(tmp_path: Path) -> None:
    file, session = tmp_path / "day.json", Session(toy.labelled_partner(-1e4), SHORT)
    for line in ("the boat", "/label ode", "the sea", "/label night piece", "/label ode", "/goto main", f"/save {file}"):
        assert not [event for event in session.feed(line) if isinstance(event, Problem)]
    other = Session(toy.labelled_partner(-1e4, "night piece"), SHORT)
    list(other.feed("not kept"))
    list(other.feed(f"/load {file}"))
    assert (other.partner.label, other.text, sorted(other.trees)) == ("ode", session.text, ["elegy", "ode"])
    assert said(other.feed("and on")) == said(session.feed("and on"))
    for one in (other, session):
        list(one.feed("/label elegy"))
        list(one.feed("/goto main"))
    assert other.text == session.text
    assert said(other.feed("and on")) == said(session.feed("and on"))


def test_where_the_model_ends_a_text_an_empty_line_says_so() -> None:
    session = Session(toy.labelled_partner(1e4), SHORT)
    (notice,) = session.feed("")
    assert isinstance(notice, Notice)
    assert "the text ends here" in notice.text
    assert session.text == ""


@pytest.mark.parametrize("change", [
    {"label": "epic"}, {"label": None}, {"label": ["ode"]}, {"others": []}, {"others": {"epic": {}}}, {"others": {"elegy": 1}},
    {"others": {"ode": {}}}, {"others": {"elegy": {}}}, {"others": {"elegy": {"nodes": []}}},
], ids=str)  # fmt: skip
def test_a_file_with_other_labels_is_damaged(change: dict[str, Any], tmp_path: Path) -> None:
    file, partner = tmp_path / "day.json", toy.labelled_partner(-1e4, "ode")
    session = Session(partner, SHORT)
    list(session.feed("the boat"))
    memory.write(file, session.kept(), SHORT, None)
    assert len(memory.read(file, partner, None)[0]) == 1
    file.write_text(json.dumps(json.loads(file.read_text("utf-8")) | change), encoding="utf-8")
    with pytest.raises(DataError, match="damaged"):
        memory.read(file, partner, None)


def test_a_language_session_has_no_label(tmp_path: Path) -> None:
    file, partner = tmp_path / "day.json", toy.partner()
    session = Session(partner, SHORT)
    (refusal,) = session.feed("/label ode")
    assert isinstance(refusal, Problem)
    memory.write(file, session.kept(), SHORT, None)
    document = json.loads(file.read_text("utf-8"))
    assert not {"label", "others"} & set(document)
    file.write_text(json.dumps(document | {"label": "ode"}), encoding="utf-8")
    with pytest.raises(DataError, match="a label"):
        memory.read(file, partner, None)


def test_tab_completes_labels_of_several_words() -> None:
    assert complete("/label ", (), LABELS) == list(LABELS)
    assert complete("/label n", (), LABELS) == ["night piece"]
    assert complete("/label night p", (), LABELS) == ["piece"]
    assert complete("/label night x", (), LABELS) == []


def test_eval_compares_the_right_label_with_all_others(run: Run, tmp_path: Path) -> None:
    rows = [("ode", "the boat"), ("elegy", "a lamp;"), ("night piece", "sand and sand"), ("ode", "it said")]
    (tmp_path / "rows.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in rows), encoding="utf-8")
    units, costs = toy.tokenizer(), []
    for _, text in rows:
        ids, engines = [*units.encode(text).tolist(), EOS], [Engine(*toy.labelled(units), label=k) for k in range(3)]
        costs.append([-generate.logprobs(e, ids, generate.prime(e, [EOS])).sum() / np.log(2) for e in engines])
    own = np.array([LABELS.index(label) for label, _ in rows])
    bits, characters = np.array(costs), sum(len(text) for _, text in rows)
    right = bits[range(4), own]
    done = json.loads(run("eval", "odes", "rows.tsv", "--json", "--threads", "1").out)
    assert done["bits_per_character"] == pytest.approx(right.sum() / characters, abs=1e-4)
    assert done["bits_per_character_wrong_label"] == pytest.approx((bits.sum() - right.sum()) / 2 / characters, abs=1e-4)
    assert done["labels_told"] == np.mean(bits.argmin(1) == own)
    assert [(row["label"], row["texts"], row["characters"]) for row in done["labels"]] == [
        ("elegy", 1, 7), ("night piece", 1, 13), ("ode", 2, 15),
    ]  # fmt: skip
    plain = run("eval", "odes", "rows.tsv", "--threads", "1").out
    assert plain.splitlines()[0] == f"bits per character  {done['bits_per_character']:.4f}"
    assert len([line for line in plain.splitlines() if line.startswith(("elegy ", "night piece ", "ode ", "all "))]) == 4


def test_chat_passes_over_runs_that_write_nothing(run: Run, tmp_path: Path) -> None:
    """Without a RUN it looks for one that has learnt conversations; the newest may be one that only reads."""
    units = toy.tokenizer("talk")
    shape = ModelConfig(task="classify", classes=2, vocab_size=units.vocab_size, embedding_size=4, hidden_size=4)
    weights = {name: np.zeros(size, np.float32) for name, size in weight_shapes(shape).items()}
    about = {"name": "reads", "start": [EOS], "labels": ["a", "b"], "provenance": {}}
    (tmp_path / "checkpoints" / "reads").mkdir()
    models.save(tmp_path / "checkpoints" / "reads" / models.MODEL_FILE, shape, units, weights, about)
    assert run("chat").code == 2  # none has learnt conversations, and that is said


def test_what_is_suggested_names_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run saved last may be one that tells labels."""
    said: list[str] = []
    monkeypatch.setattr("charrnn.cli.console.suggest", said.append)
    run("sample", "odes", "--label", LABELS[0], "--length", "2")
    assert said == ["`charrnn repl odes` to write together with it"]
