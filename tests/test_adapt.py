"""/adapt: what is learnt, from whom, and that it can be taken back; states are those of the weights of now; runs stay."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from commands import Run

from charrnn.cli import sessions
from charrnn.config import DynamicConfig
from charrnn.decoding import adapting, generate, memory
from charrnn.decoding.commands import complete, wants_file
from charrnn.decoding.engine import Engine
from charrnn.decoding.events import Notice, Problem, Text, Typed
from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings
from charrnn.decoding.turns import STANDARD, Turns
from charrnn.errors import CharrnnError, DataError, UsageError
from charrnn.runs import model as runs
from charrnn.text.tokenizers import EOS
from charrnn.training.dynamic import Adapter

SHORT = Settings(length=30, seed=7)
LINES = ("the harbour holds", "and one by one", "", "/retry", "the lamps")


def feed(session: Session, *lines: str) -> list[Any]:
    return [event for line in lines for event in session.feed(line)]


def notices(events: list[Any]) -> str:
    assert not [event for event in events if isinstance(event, Problem)], events
    return "\n".join(event.text for event in events if isinstance(event, Notice))


def problem(session: Session, line: str) -> Problem:
    last = feed(session, line)[-1]
    assert isinstance(last, Problem), last
    return last


def learner(session: Session) -> toy.Pupil:
    assert isinstance(session.adaptation.who, toy.Pupil)
    return session.adaptation.who


def talking(turns: Turns | None) -> Session:
    return Session(toy.partner("talk" if turns else "char"), SHORT, turns)


@pytest.fixture
def written(trained: Path) -> Callable[[], Session]:
    """Makes sessions with a small trained run."""
    model = runs.load(trained / "checkpoints" / "verse")
    return lambda: Session(sessions.partner(model, root=trained / "checkpoints"), SHORT)


@pytest.fixture
def note(tmp_path: Path) -> Path:
    path = tmp_path / "note.txt"
    path.write_text("eels see eels; " * 100, encoding="utf-8")
    return path


def test_off_goes_back_exactly(written: Callable[[], Session], note: Path) -> None:
    """The engine is the one of the start, so is every weight of who learns, and the same lines are answered the same."""
    plain, session = written(), written()
    expected, engine = feed(plain, *LINES), session.partner.engine
    feed(session, "/adapt on", *LINES[:2], f"/adapt {note}")
    adapted = session.partner.engine
    assert isinstance(engine, Engine)
    assert isinstance(adapted, Engine)
    assert any(not np.array_equal(engine._named[name], adapted._named[name]) for name in engine._named)
    feed(session, "/adapt off", "/reset")
    assert session.partner.engine is engine
    assert feed(session, *LINES) == expected
    who: Any = session.adaptation.who
    assert all(np.array_equal(weight, engine._named[name]) for name, weight in who.mark().items())
    assert notices(feed(session, "/adapt")) == "adapt is off: the model is as it was trained."


def test_the_same_lines_teach_the_same(written: Callable[[], Session]) -> None:
    first, second = written(), written()
    feed(second, "/adapt on", "something else", "/adapt off", "/reset")
    assert feed(first, "/adapt on", *LINES)[2:] == feed(second, "/adapt on", *LINES)[1:]  # ready already


def test_what_comes_again_surprises_less(written: Callable[[], Session], note: Path) -> None:
    """By the figures that it tells, by what dynamic evaluation makes of the same text, and by the adapted engine."""
    session = written()
    partner, text = session.partner, note.read_text(encoding="utf-8")
    told = notices(feed(session, f"/adapt {note}"))
    figures = re.search(r": (\d\.\d\d) in its first tenth, (\d\.\d\d) in its last\.", told)
    assert figures
    assert float(figures[2]) < 0.8 * float(figures[1])
    bare = Adapter(partner.engine.config, partner.engine._named, DynamicConfig())  # type: ignore[attr-defined]
    *start, last = partner.start
    ids = np.concatenate([[last], partner.tokenizer.encode(text)])
    nats, _, _ = bare.learn(ids, generate.prime(partner.engine, start).state if start else bare.begin())
    hidden = partner.tokenizer.hidden(text) * partner.tokenizer.escape_nats
    assert session.adaptation.files[0][1].bits * np.log(2) == pytest.approx(nats.sum() + hidden, rel=1e-5)
    cost = [
        -generate.logprobs(one.engine, ids[1:], generate.prime(one.engine, ids[:1])).sum() for one in (partner, session.partner)
    ]
    assert cost[1] < cost[0]


def test_the_run_stays_as_it_is_and_a_saved_one_is_a_run(
    written: Callable[[], Session], note: Path, trained: Path, run: Run
) -> None:
    root = trained / "checkpoints"
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    session = written()
    old = session.partner.digest
    feed(session, "/adapt on", "the boats", f"/adapt {note}")
    assert "mine" in notices(feed(session, "/adapt save mine"))
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert {path: after[path] for path in before} == before
    assert {path.name for path in after.keys() - before.keys()} == {"model.safetensors"}
    model = runs.load(root / "mine")
    assert model.name == "mine"
    assert model.digest != old
    assert model.provenance["from"]["name"] == "verse"
    assert model.provenance["from"]["digest"] == old
    adapted = model.provenance["adapted"]
    assert adapted["characters"] == len("the boats") + len(note.read_text(encoding="utf-8"))
    assert adapted["files"] == [{"name": "note.txt", "characters": 1500}]
    assert str(trained.parent) not in json.dumps(model.provenance)
    assert "scores" not in model.provenance
    # It decodes as the session does, by every command.
    assert isinstance(session.partner.engine, Engine)
    assert all(np.array_equal(weight, session.partner.engine._named[name]) for name, weight in model.weights.items())
    for command in (("sample", "mine", "--length", "9"), ("eval", "mine", "verse.txt"), ("inspect", "mine"), ("runs",)):
        done = run(*command)
        assert done.code == 0, done.err
    resumed = run("train", "--resume", "mine")
    assert resumed.code == 65
    assert "holds no last.safetensors to go on from" in resumed.err


def test_a_saved_run_takes_no_name_that_is_taken(written: Callable[[], Session], trained: Path) -> None:
    session = written()
    assert problem(session, "/adapt save mine").text.startswith("Nothing has been learnt yet")
    feed(session, "/adapt on", "the boats")
    for name in ("verse", "../x", "", "a b", "x" * 101, "\u5b57" * 100):  # the last has more bytes than a folder's name may
        assert problem(session, f"/adapt save {name}").text
    assert sorted(path.name for path in (trained / "checkpoints").iterdir()) == ["verse"]
    feed(session, "/adapt save mine", "/adapt off", "/adapt on", "the lamps")
    first = (trained / "checkpoints" / "mine" / "model.safetensors").read_bytes()
    assert "already" in problem(session, "/adapt save mine").text
    assert (trained / "checkpoints" / "mine" / "model.safetensors").read_bytes() == first


def test_a_run_that_cannot_be_saved_leaves_nothing(
    written: Callable[[], Session], trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = written()
    feed(session, "/adapt on", "the boats")

    def full(*_: object) -> None:
        raise CharrnnError("the disk is full.")

    monkeypatch.setattr(runs, "save", full)
    assert problem(session, "/adapt save mine").text == "the disk is full."
    assert not (trained / "checkpoints" / "mine").exists()


@pytest.mark.parametrize("turns", [None, STANDARD])
def test_only_your_lines_are_learnt(turns: Turns | None) -> None:
    """Each once, whatever is drawn or tried in between; what was said before, and what is said afterwards, is not."""
    session = talking(turns)
    events = feed(session, "before", "/adapt on", "the boat", "/retry", "", "/alternatives 3", "2", "/undo", "/redo", "/goto 1")
    feed(session, "and then", '"""two', 'lines"""', "/heat on", "/adapt", "/tree", "/adapt")
    assert [event for event in events if isinstance(event, Text)]
    yours = [node for node in session.tree.nodes if node.kind == "you"][1:]
    assert len(yours) == (3 if turns is None else 4)  # there, no answers are offered, and a 2 is a line
    assert learner(session).heard == [token for node in yours for token in node.ids]
    feed(session, "/adapt off", "afterwards", "", "/retry")
    assert len(learner(session).heard) == sum(len(node.ids) for node in yours)


@pytest.mark.parametrize(("kind", "turns"), [("char", None), ("talk", STANDARD), ("subword", None)])
def test_states_are_those_of_the_weights_of_now(kind: str, turns: Turns | None) -> None:
    """At every node, after every way there; so are the ghost, the list of next tokens, the answers and the surprise."""
    session = Session(toy.partner(kind), SHORT, turns)
    session.heating = True
    moves = (
        "one",
        "/adapt on",
        "two",
        "/retry",
        "/undo",
        "three",
        "",
        "/goto 2",
        "/adapt off",
        "four",
        "/adapt on",
        "five",
        "/undo",
    )
    for move in moves:
        feed(session, move)
        fresh = _anew(session)
        for index in range(len(session.tree.nodes)):
            mine, its = session.tree.prefix(index), fresh.tree.prefix(index)
            assert mine is not None
            assert its is not None
            assert mine.position == its.position
            assert all(np.array_equal(a, b) for a, b in zip((*mine.state, mine.logits), (*its.state, its.logits), strict=True))
            assert not index or session.heat.pieces(index) == fresh.heat.pieces(index)
        for line in ("the ta", "x"):
            assert session.ghost(line, lambda: False) == fresh.ghost(line, lambda: False)
            assert session.next_tokens(line, lambda: False) == fresh.next_tokens(line, lambda: False)
    fresh = _anew(session)
    assert feed(session, "/retry", "/redo", "/alternatives 2") == feed(fresh, "/retry", "/redo", "/alternatives 2")


def _anew(session: Session) -> Session:
    """The same text and tree, with an engine made of the weights that the session has learnt, and no state of before."""
    who: Any = session.adaptation.who
    weights = who.weights if who else toy.weights(session.partner.tokenizer)
    partner = replace(session.partner, engine=Engine(toy.config(session.partner.tokenizer), weights))
    fresh = Session(partner, session.settings, session.turns)
    for node in session.tree.nodes[1:]:
        fresh.tree.add(node)
    fresh.tree.current, fresh.tree.ends, fresh.tree.branch = session.tree.current, dict(session.tree.ends), session.tree.branch
    fresh.tree.onward, fresh.heating = list(session.tree.onward), session.heating
    return fresh


def test_a_node_that_was_half_read_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("eels", encoding="utf-8")
    session = talking(None)
    for event in session.feed("word " * 100):
        if isinstance(event, Typed):
            session.cancel()
    looks = iter([False, True])
    assert session.tree.prefix(1, lambda: next(looks)) is None  # 256 tokens of it
    feed(session, f"/adapt {tmp_path / 'a.txt'}")
    mine, its = session.tree.prefix(1), _anew(session).tree.prefix(1)
    assert mine is not None
    assert its is not None
    assert all(np.array_equal(a, b) for a, b in zip(mine.state, its.state, strict=True))


def test_undo_does_not_unlearn() -> None:
    session = talking(None)
    feed(session, "/adapt on", "the boat")
    learnt = learner(session).weights
    feed(session, "/undo")
    assert learner(session).weights is learnt
    assert notices(feed(session, "/adapt")).startswith("adapt is on. Learnt: 1 line of yours (8 characters, ")


def test_a_line_is_scored_before_it_is_learnt_and_answered_after() -> None:
    session, plain = talking(None), talking(None)
    feed(session, "/heat on", "/adapt on")
    feed(plain, "/heat on")
    mine, its = ([event for event in feed(one, "eels see") if isinstance(event, Typed | Text)] for one in (session, plain))
    assert mine[0] == its[0]
    assert mine[1:] != its[1:]
    typed = its[0]
    assert isinstance(typed, Typed)
    assert session.adaptation.yours.bits == pytest.approx(sum(piece.bits for piece in typed.heat), rel=1e-5)


def test_ctrl_c_leaves_what_was_before_a_file(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = talking(None)
    feed(session, "/adapt on", "the boat")
    who, answer = learner(session), session.partner.engine
    before, calls, learn = who.weights, list[int](), who.learn

    def cancelling(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            session.cancel()
        return learn(*arguments)

    monkeypatch.setattr(who, "learn", cancelling)
    assert "nothing of it was learnt" in notices(feed(session, f"/adapt {note}"))
    assert len(calls) == 2  # of three
    assert who.weights is before
    assert session.partner.engine is answer
    assert session.adaptation.files == ()
    assert "note.txt (1,500 characters" in notices(feed(session, f"/adapt {note}", "/adapt"))


def test_ctrl_c_before_a_line_is_learnt_leaves_the_line_and_no_answer() -> None:
    session = talking(None)
    feed(session, "/adapt on")
    before, events = learner(session).weights, list[Any]()
    for event in session.feed("the boat"):
        events.append(event)
        session.cancel()
    assert notices(events) == "Ctrl-C: this line was not learnt."
    assert session.text == "the boat"
    assert learner(session).weights is before
    assert session.adaptation.characters == 0


def test_ctrl_c_while_it_gets_ready_leaves_it_off() -> None:
    session = talking(None)
    for _ in session.feed("/adapt on"):
        session.cancel()
    assert not session.adaptation.on
    assert "adapt is on:" in notices(feed(session, "/adapt on"))


def test_ctrl_c_is_heard_while_the_text_is_read_anew(note: Path) -> None:
    """A line that comes after a file is learnt after the text of now, all of which has to be read for it."""
    session = talking(None)
    feed(session, "/adapt on", *["word " * 60] * 3, f"/adapt {note}")
    before, lines = learner(session).weights, session.adaptation.lines
    for event in session.feed("the boat"):
        if isinstance(event, Typed):
            session.cancel()
            session.tree.rethink(session.partner.engine)
            session.replace(session.tree)
    assert learner(session).weights is before
    assert session.adaptation.lines == lines
    assert not session.tree._prefixes


def test_what_was_learnt_of_you_is_what_you_typed() -> None:
    """No prefixes of turns and no line end before your line, so that its bits are those of /heat."""
    for turns in (None, STANDARD):
        session = talking(turns)
        for _ in range(2):
            before = session.adaptation.yours.bits
            feed(session, "/heat on", "/adapt on")
            typed = next(event for event in feed(session, "eels see") if isinstance(event, Typed))
            assert session.adaptation.yours.bits - before == pytest.approx(sum(piece.bits for piece in typed.heat), rel=1e-5)
        assert session.adaptation.characters == 2 * len("eels see")
    assert "`charrnn chat mine` talks" in notices(feed(session, "/adapt save mine"))


def test_closing_while_it_learns_leaves_what_was_before(note: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapting, "TELLING", -1.0)
    session = talking(None)
    feed(session, "/adapt on")
    before, events = learner(session).weights, session.feed(f"/adapt {note}")
    assert "%" in str(next(events))
    assert learner(session).weights is not before
    events.close()  # type: ignore[attr-defined]
    assert learner(session).weights is before


def test_weights_that_leave_all_measure_are_taken_back(
    written: Callable[[], Session], note: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = written()
    feed(session, "/adapt on", "the boat")
    who: Any = session.adaptation.who
    before, engine, step = who.mark(), session.partner.engine, Adapter._check

    def spoilt(self: Adapter, nats: Any) -> None:
        next(self.network.parameters()).data[:] = np.nan
        step(self, nats)

    monkeypatch.setattr(Adapter, "_check", spoilt)
    for line in (f"/adapt {note}", "the lamps"):
        assert "left all measure" in problem(session, line).text
        assert all(np.array_equal(weight, before[name]) for name, weight in who.mark().items())
        assert session.partner.engine is engine
    assert session.adaptation.lines == 1


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("a.png", b"\x89PNG\r\n\x1a\n\x00\xff", "is not utf-8"),
        ("a.txt", "e\u0301t\u00e9".encode("latin-1", "replace"), "is not utf-8"),
        ("a.txt", "no mark".encode("utf-16-le"), "NUL"),
        ("a.txt", b"", "no text"),
        ("a.txt", b"long " * 30, "more than 100 characters"),
        ("a.txt.gz", gzip.compress(b"long " * 30), "more than 100 characters"),
        ("a.txt.gz", b"not packed", "no proper .gz"),
        ("a.jsonl", b'{"no": 1}\n', "text"),
        ("folder", None, "there is no file"),
        ("nothing", None, "there is no file"),
    ],
)
def test_what_is_no_text_to_learn(
    name: str, data: bytes | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapting, "MOST_CHARACTERS", 100)
    (tmp_path / "folder").mkdir()
    if data is not None:
        (tmp_path / name).write_bytes(data)
    session = talking(None)
    found = problem(session, f"/adapt {tmp_path / name}")
    assert said in found.text
    assert "/adapt" in found.hint or "--init-from toy" in found.hint
    assert session.adaptation.who is None  # nothing was loaded for it


@pytest.mark.parametrize("name", ["/dev/zero", "a\0b", "x" * 5000, "~nobody-of-that-name/x", "on.", "-"])
def test_impossible_files_are_problems(name: str) -> None:
    assert "there is no file" in problem(talking(None), f"/adapt {name}").text


def test_texts_are_read_as_training_reads_them(tmp_path: Path) -> None:
    """A byte order mark wins, line ends are made one, rows are documents."""
    (tmp_path / "marked.txt").write_bytes("one\r\ntwo".encode("utf-16"))
    (tmp_path / "rows.jsonl").write_bytes(b'{"text": "one"}\n{"text": "two"}\n')
    session = talking(None)
    encode = session.partner.tokenizer.encode
    feed(session, f"/adapt {tmp_path / 'marked.txt'}")
    assert learner(session).heard == encode("one\ntwo").tolist()
    feed(session, f"/adapt {tmp_path / 'rows.jsonl'}")
    assert learner(session).heard[7:] == [*encode("one").tolist(), EOS, *encode("two").tolist()]


def test_who_cannot_learn_says_so(trained: Path) -> None:
    labelled = Session(toy.labelled_partner(-1.0), SHORT)
    assert "labels" in problem(labelled, "/adapt on").text
    fixed = Session(replace(toy.partner(), adapting=None), SHORT)
    assert "cannot learn" in problem(fixed, "/adapt").text
    model = runs.load(trained / "checkpoints" / "verse")
    assert sessions.partner(model).adapting is None  # it has no place where a run could be saved


def test_a_saved_session_says_that_what_was_learnt_is_not_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session, other = talking(None), talking(None)
    assert "learnt" not in notices(feed(session, "the boat", "/save plain.json"))
    assert "adapted" not in json.loads((tmp_path / "plain.json").read_text(encoding="utf-8"))
    assert "not in it" in notices(feed(session, "/adapt on", "and then", "/save day.json"))
    assert "had learnt 8 characters then; that is not in the file" in notices(feed(other, "/load day.json"))
    assert other.text == session.text
    feed(other, "/adapt on", "more")  # and a session that is adapted goes on with what it knows
    learnt = learner(other).weights
    feed(other, "/load day.json", "more")
    assert learner(other).weights is not learnt
    assert other.adaptation.lines == 2
    for value in (-1, "9", True, 1.5, None):
        document = json.loads((tmp_path / "day.json").read_text(encoding="utf-8"))
        (tmp_path / "odd.json").write_text(json.dumps({**document, "adapted": value}), encoding="utf-8")
        with pytest.raises(DataError, match="how much the model had learnt"):
            memory.read(tmp_path / "odd.json", session.partner, None)


def test_numpy_keeps_its_denormal_numbers(written: Callable[[], Session]) -> None:
    feed(written(), "/adapt on", "the boat")
    assert np.float32(1e-40) * np.float32(0.5) > 0


def test_completion() -> None:
    assert complete("/adapt ") == ["on", "off", "save "]
    assert complete("/adapt s") == ["save "]
    names = ("/adapt no", "/adapt save ", "/adapt save x", "/adapt ", "/adapt o", "/adapt ./on")
    assert [wants_file(line) for line in names] == ["no", None, None, None, None, "./on"]


def test_a_toy_that_was_saved_is_not_overwritten() -> None:
    """The transcripts' own learner keeps the rule of the real one."""
    session = talking(None)
    feed(session, "/adapt on", "the boat", "/adapt save mine")
    with pytest.raises(UsageError):
        learner(session).save("mine", {})
