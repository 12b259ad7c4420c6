"""The session without a terminal: whole transcripts, and what must hold whatever is typed.

`python tests/test_session.py` writes the transcripts anew; look at what changed before believing it.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.decoding import generate, memory, tree
from charrnn.decoding.commands import COMMANDS, complete, wants_file
from charrnn.decoding.events import (
    Alternatives,
    Ended,
    Family,
    Listing,
    Notice,
    Output,
    Passage,
    Place,
    Problem,
    Recalled,
    Resumed,
    Text,
    Typed,
)
from charrnn.decoding.session import Session
from charrnn.decoding.settings import NAMES, Settings
from charrnn.decoding.tree import Partner, Tree, text_of
from charrnn.decoding.turns import STANDARD, Turns
from charrnn.errors import UsageError

TRANSCRIPTS = Path(__file__).parent / "transcripts"
SHORT = Settings(length=30, seed=7)


def rendered(events: Iterable[Output]) -> str:
    """Events as a transcript shows them: text as it is, `#` notices, `!` problems, `|` rows, `.` the end."""
    blocks: list[str] = []
    for event in events:
        match event:
            case Typed(text):
                blocks.append(f"[{text}]")
            case Text(text):
                blocks[-1:] = [blocks[-1] + text] if blocks and blocks[-1][0] not in "#!|=" else [text]
            case Notice(text):
                blocks.append(f"# {text}")
            case Problem(text, hint):
                blocks.append(f"! {text}\n!   {hint}")
            case Listing(rows):
                blocks.extend("| " + " | ".join(row) for row in rows)
            case Alternatives(texts):
                blocks.extend(f"{number}) {text}" for number, text in enumerate(texts, 1))
            case Resumed(text):
                blocks.append(f"<{text}>")
            case Passage(parts, asked):
                blocks.append("= " + "".join(f"{'you' * part.yours}{part.text!r} " for part in parts) + "asked" * asked)
            case Recalled(typed, answer):
                blocks.append("| " + " ".join(f"{piece.text!r}:{piece.bits:.1f}" for piece in typed + answer))
            case Family(trunk):
                blocks.append(drawn(trunk))
            case Ended():
                blocks.append(". (left)")
    return "".join(block + "\n" for block in blocks)


def drawn(row: Sequence[Place], depth: int = 0) -> str:
    """Nodes below each other, and what forks off after them, indented."""
    lines = []
    for place in row:
        more = f" (+{place.left_out})" * bool(place.left_out)
        ends = "".join(f" {name}" for name in place.branches) + " *" * place.here + more
        lines.append(f"| {'  ' * depth}{place.number} {'> ' * place.yours}{place.text!r}{ends}")
        lines += [drawn(side, depth + 1) for side in place.sides]
    return "\n".join(lines)


def played(transcript: str) -> str:
    """What a transcript's typed lines give when they are typed now. The first line says which toy model answers."""
    first, *lines = transcript.splitlines()
    kind, end_bias, *chat = re.split(", end |, ", first.removeprefix("model: "))
    partner = toy.labelled_partner(float(end_bias)) if kind == "label" else toy.partner(kind, float(end_bias))
    session = Session(partner, SHORT, STANDARD if chat else None)
    typed = [line.removeprefix("> ") for line in lines if line.startswith("> ")]
    return first + "\n" + "".join(f"> {line}\n{rendered(session.feed(line))}" for line in typed)


def said(session: Session, line: str) -> str:
    return "".join(event.text for event in session.feed(line) if isinstance(event, Text))


def problem(session: Session, line: str) -> Problem:
    events = list(session.feed(line))
    assert len(events) == 1, events
    assert isinstance(events[0], Problem), events
    return events[0]


@pytest.mark.parametrize("path", sorted(TRANSCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("not yours to overwrite\n", encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    assert played(expected) == expected


def test_there_are_transcripts() -> None:
    assert len(list(TRANSCRIPTS.glob("*.txt"))) >= 8


LINES = st.one_of(
    st.sampled_from(["", "/undo", "/retry", "/reset", "/show", "/set temp 0", "/set seed 3", "/set stop e", "/set stop off"]),
    st.sampled_from(["/set length 9", "/set repetition_penalty 1.3", "/set top_k 4", "/set temp x", "/nonsense", "/help"]),
    st.sampled_from(["/set lines 2", "/set line_length 9", '/set line_prefix "a "', "/set acrostic ab", "/set ban e"]),
    st.sampled_from(
        ["/redo", "/branch", "/branch b", "/goto main", "/goto b", "/goto 1", "/goto 3", "/tree", "/text 2", "/alternatives 2"]
    ),
    st.sampled_from(
        [
            "1",
            "2",
            "/heat on",
            "/heat off",
            "/heat",
            "/multi",
            '"""',
            '"""a',
            'b"""',
            "/set ghost 0",
            "/set finish line",
            "/set finish word",
        ]
    ),
    st.sampled_from(["/set regex [a-z ,.]*", "/set regex off", "/set stop_regex [aeiou]{2}", "/set max_lines 1"]),
    st.text(max_size=8),
    st.text(alphabet=toy.ALPHABET, min_size=1, max_size=8),
)


def check_consistent(session: Session) -> None:
    tree, partner = session.tree, session.partner
    assert 0 <= tree.current < len(tree.nodes)
    assert tree.nodes[0].parent == -1
    for index, node in enumerate(tree.nodes[1:], 1):
        assert 0 <= node.parent < index
        if node.kind == "model":
            assert text_of(node.ids, partner.tokenizer) == node.text
        else:
            assert partner.tokenizer.encode(node.text).tolist() == list(node.ids)
    assert tree.branch in tree.ends
    for parent, (children, after) in enumerate(zip(tree.children, tree.onward, strict=True)):
        assert after in (0, *children)
        assert children == [index for index, node in enumerate(tree.nodes) if node.parent == parent]
    whole = [tree.nodes[index] for index in tree.path()]
    measure = tree.measure()
    assert measure.characters == len(session.text)
    assert measure.turns == sum(node.kind == "you" for node in whole)
    assert measure.depth == len(whole) - 1
    ids = [token for index in tree.path() for token in tree.nodes[index].ids]
    assert session.text == "".join(tree.nodes[index].text for index in tree.path())
    carried, primed = tree.prefix(tree.current), generate.prime(partner.engine, [*partner.start, *ids])
    assert carried is not None
    assert carried.position == primed.position
    assert all(np.array_equal(a, b) for a, b in zip(carried.state, primed.state, strict=True))
    assert np.array_equal(carried.logits, primed.logits)


@pytest.mark.parametrize(
    ("kind", "end_bias", "turns"),
    [("char", -1e4, None), ("char", 2.0, None), ("byte", 2.0, None), ("subword", 2.0, None), ("talk", 2.0, STANDARD),
     ("subword", 0.0, Turns("You:", "It: "))],
)  # fmt: skip
@settings(max_examples=25)
@given(steps=st.lists(st.tuples(LINES, st.none() | st.integers(0, 6)), max_size=10), length=st.integers(1, 12))
def test_any_lines_keep_the_tree_consistent_and_replay_exactly(
    kind: str, end_bias: float, turns: Turns | None, steps: list[tuple[str, int | None]], length: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    """Lines, some stopped after so many events; then the saved file must be the session, to the bit."""
    session = Session(toy.partner(kind, end_bias), Settings(length=length, seed=1, temp=1.0), turns)
    for line, stop_after in steps:
        for count, _ in enumerate(session.feed(line)):
            if count == stop_after:
                session.cancel()
    list(session.finish())
    session.offered = ()
    check_consistent(session)
    path = tmp_path_factory.mktemp("saved") / "session.json"
    assert isinstance(next(iter(session.feed(f"/save {path}"))), Notice)
    other = Session(toy.partner(kind, end_bias), None, turns)
    assert isinstance(next(iter(other.feed(f"/load {path}"))), Notice)
    assert other.settings == session.settings
    assert other.tree.nodes == session.tree.nodes
    assert (other.tree.ends, other.tree.branch, other.tree.onward) == (
        session.tree.ends,
        session.tree.branch,
        session.tree.onward,
    )
    other.heating = session.heating  # which is how one looks at it, no part of it
    check_consistent(other)
    for line in ("/redo", "", "/retry", "more", "/undo", "/undo", "/redo"):
        assert list(other.feed(line)) == list(session.feed(line))


@given(lines=st.lists(LINES, max_size=8))
@settings(max_examples=25)
def test_same_lines_same_events(lines: list[str]) -> None:
    first, second = (Session(toy.partner(end_bias=1.0), SHORT) for _ in range(2))
    assert [list(first.feed(line)) for line in lines] == [list(second.feed(line)) for line in lines]


@pytest.mark.parametrize("kind", ["char", "byte"])
@pytest.mark.parametrize("stop_after", [0, 1, 10, 37])
def test_a_stopped_answer_goes_on_as_if_it_had_not_been_stopped(kind: str, stop_after: int) -> None:
    options = Settings(length=80, seed=3, repetition_penalty=1.2, stop=("qqqq",))
    whole, stopped = Session(toy.partner(kind), options), Session(toy.partner(kind), options)
    expected = said(whole, "tell me")
    for count, _ in enumerate(stopped.feed("tell me")):
        if count == stop_after:
            stopped.cancel()
    assert len(stopped.text) < len(whole.text)
    said(stopped, "")
    assert stopped.text.startswith("tell me" + expected)


def test_closing_the_generator_keeps_what_was_said() -> None:
    session = Session(toy.partner(), SHORT)
    events = session.feed("once")
    heard = [next(events) for _ in range(6)]
    events.close()  # type: ignore[attr-defined]
    assert session.text == "once" + "".join(event.text for event in heard[1:] if isinstance(event, Text))
    assert len(session.text) == 4 + 5
    check_consistent(session)


def test_another_thread_can_cancel() -> None:
    session = Session(toy.partner(), Settings(length=100_000, seed=1))
    events = session.feed("once")
    next(events)
    next(events)
    thread = threading.Thread(target=session.cancel)
    thread.start()
    thread.join()
    assert len(list(events)) == 0
    check_consistent(session)


def test_cancelling_a_retry_at_once_keeps_the_answer_that_was_there() -> None:
    session = Session(toy.partner(), SHORT)
    list(session.feed("once"))
    before = session.text
    for event in session.feed("/retry"):
        assert isinstance(event, Typed)
        session.tree._prefixes.clear()
        session.tree._met.clear()  # so that priming, which looks at the flag first, is needed
        session.cancel()
    assert session.text == before


def test_undo_and_the_same_line_give_the_same_answer_and_retry_gives_others() -> None:
    session = Session(toy.partner(), SHORT)
    first = said(session, "once")
    others = [said(session, "/retry") for _ in range(3)]
    assert len({first, *others}) == 4
    list(session.feed("/undo"))
    assert session.text == ""
    assert said(session, "once") == first


def test_the_first_answer_is_the_sample_of_the_same_prompt_and_seed() -> None:
    partner, session = toy.partner(), Session(toy.partner(), SHORT)
    ids = [*partner.start, *partner.tokenizer.encode("once").tolist()]
    prefix = generate.prime(partner.engine, ids)
    tokens = generate.stream(partner.engine, partner.tokenizer, prefix, SHORT, seed=SHORT.seed, length=SHORT.length)
    assert said(session, "once") == "".join(token.text for token in tokens)


def test_half_a_character_is_never_said() -> None:
    """A byte model that always begins and goes on with a lead byte of three-byte characters, then their rest."""
    session = Session(toy.partner("byte"), Settings(length=1, seed=1))
    partner = session.partner
    euro = partner.tokenizer.encode("\u20ac").tolist()

    class Euros:
        vocab_size = partner.engine.vocab_size

        def begin(self, batch: int = 1, context: object = None) -> Any:
            return (np.zeros((1, 1), np.float32),)

        def step(self, ids: Any, state: Any) -> Any:
            place = euro.index(ids[0]) if ids[0] in euro else -1
            logits = np.full((1, self.vocab_size), -1e9, np.float32)
            logits[0, euro[(place + 1) % 3]] = 0
            return logits, state

        def gather(self, state: Any, indices: Any) -> Any:
            return state

    object.__setattr__(partner, "engine", Euros())
    assert said(session, "") == "\u20ac"
    session.settings = Settings(length=5, seed=1)
    assert said(session, "") == "\u20ac\u20ac"
    assert [node.ids for node in session.tree.nodes[1:]] == [tuple(euro), tuple(euro * 2)]


def test_a_line_stands_on_a_line_of_its_own() -> None:
    session = Session(toy.partner(), Settings(length=5, seed=2, stop=("\n",)))
    answers = [said(session, line) for line in ("one", "two")]
    assert session.text == f"one{answers[0]}\ntwo{answers[1]}"


def test_a_document_end_is_a_line_end_and_no_dead_end() -> None:
    session = Session(toy.partner(end_bias=6.0), Settings(length=50, seed=2, temp=1.0))
    before = ""
    for _ in range(5):
        list(session.feed(""))
        assert len(session.text) > len(before)
        before = session.text
    assert 2 in {token for node in session.tree.nodes for token in node.ids}
    check_consistent(session)


def test_an_answer_that_is_stopped_at_once_can_be_asked_for_again() -> None:
    session = Session(toy.partner(), Settings(length=5, seed=2))
    first = said(session, "one")[0]
    list(session.feed("/undo"))
    list(session.feed(f"/set stop {first}" if first.strip() else f"/set stop {json.dumps(first)}"))
    assert isinstance(list(session.feed("one"))[-1], Notice)
    assert any(said(session, "/retry") for _ in range(5))


NUMBERS = [name for name in NAMES if isinstance(getattr(SHORT, name), int | float)]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["x", "nan", "inf", "-1e3", "1e999", "9" * 400, "0x3", "None", '"1"'])
def test_a_wrong_value_keeps_the_old_one(name: str, value: str) -> None:
    session = Session(toy.partner(), SHORT)
    assert name in problem(session, f"/set {name} {value}").text
    assert session.settings == SHORT


@pytest.mark.parametrize(
    ("typed", "word"),
    [
        ("bias x", "TEXT=NUMBER"), ("bias ab=1", "not one token"), ("bias a=nan", "TEXT=NUMBER"), ("bias a=1e9", "TEXT=NUMBER"),
        ("regex (", "no pattern"), ("stop_regex [", "no pattern"), ("acrostic X\u00e9", "never seen"),
        ("line_prefix #", "never seen"), (r"ban \n" + toy.ALPHABET[1:], "leaves no"), ("max_copy 3", "at least 8"),
        ('bias "a=1" b', "double quotes"),
    ],
)  # fmt: skip
def test_a_setting_that_no_text_can_meet_keeps_the_old_one(typed: str, word: str) -> None:
    session = Session(watching(toy.partner()), SHORT)
    assert word in problem(session, f"/set {typed}").text
    assert session.settings == SHORT


def test_settings_that_contradict_each_other_keep_the_old_one() -> None:
    session = Session(toy.partner(), SHORT)
    list(session.feed("/set lines 3"))
    told = problem(session, "/set acrostic ab")
    assert (told.text, told.hint) == ("acrostic ab makes 2 lines, lines asks for 3.", "Leave lines out.")
    assert (session.settings.lines, session.settings.acrostic) == (3, "")


def watching(partner: Partner, text: str = "") -> Partner:
    """A partner that knows its training text."""

    def watch(longest: int) -> toy.Copies:
        if longest < 8:
            raise UsageError(f"--max-copy is {longest}; expected at least 8.")
        return toy.Copies(text, longest - 5)

    return replace(partner, watch=watch)


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("line_prefix - ", "-"), ('line_prefix "- "', "- "), ("ban aeiou", "aeiou"), (r"ban x\n", "x\n"), ('ban "', '"'),
        ('ban "!', '"!'), ('ban " "', " "), ("acrostic hope", "hope"), ('regex "[a-z]+"', '"[a-z]+"'), (r"regex a\n\.", "a\n\\."),
        ("acrostic off", ""), ('ban "off"', "off"), (r'ban "\ud800"', "\ufffd"), ("bias e=-2", ("e=-2",)),
        (r'bias "e=-2" "\n=3"', ("e=-2", "\n=3")), ("lines 4", 4), ("max-copy 20", 20),
    ],
)  # fmt: skip
def test_a_setting_as_typed_and_as_shown(typed: str, value: Any) -> None:
    session = Session(toy.partner("byte"), SHORT)
    name = typed.partition(" ")[0].replace("-", "_")
    (notice,) = session.feed(f"/set {typed}")
    assert isinstance(notice, Notice), notice
    assert getattr(session.settings, name) == value
    list(session.feed(f"/set {name} {notice.text.removeprefix(name + ' is ')}"))  # what is shown can be typed
    assert getattr(session.settings, name) == value


def shaped(typed: Sequence[str], lines: Sequence[str], kind: str = "char", end_bias: float = -1e4) -> Session:
    session = Session(toy.partner(kind, end_bias), Settings(length=2000, seed=3))
    for setting in typed:
        assert isinstance(next(iter(session.feed(f"/set {setting}"))), Notice)
    for line in lines:
        list(session.feed(line))
    return session


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
def test_an_answer_has_its_shape(kind: str) -> None:
    session = shaped(["lines 3"], ["the boat"], kind)
    assert session.text.startswith("the boat")
    assert session.text.count("\n") == 2
    assert all(line.strip() for line in session.text.split("\n"))
    apart = shaped(["acrostic ahe"], ["the boat"], kind).text
    assert [line[:1].lower() for line in apart.split("\n")] == ["t", "a", "h", "e"]
    assert apart.startswith("the boat\n")
    assert [line[:1].lower() for line in shaped(["acrostic the"], ["the boat"], kind).text.split("\n")] == ["t", "h", "e"]
    check_consistent(session)


def test_the_line_that_is_open_counts() -> None:
    """Yours, or one the model was in: its length, and that it has begun."""
    text = shaped(["line_length 12", "length 60"], ["the boat is", "", "and"]).text
    assert all(len(line) <= 12 for line in text.split("\n"))
    prefixed = shaped(['line_prefix "ab "', "lines 2"], ["the boat"]).text
    assert prefixed.split("\n")[1].startswith("ab ")
    assert not prefixed.startswith("the boatab")
    matched = shaped([r"regex [a-z ]+\n[a-z]{3}"], ["one", "two"])
    for yours, answer in zip(matched.tree.nodes[1::2], matched.tree.nodes[2::2], strict=True):
        assert re.fullmatch(r"[a-z ]+\n[a-z]{3}", yours.text.removeprefix("\n") + answer.text)
    check_consistent(matched)


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
def test_no_copies_whatever_was_said_before(kind: str) -> None:
    """Also not across answers: an empty line goes on where the last answer ended."""
    text = toy.POEMS.read_text(encoding="utf-8")[:3000].lower()
    session = Session(watching(toy.partner(kind), text), Settings(length=5, seed=1, max_copy=8))
    for line in ["the tide", *[""] * 30]:
        list(session.feed(line))
    said = session.text
    assert len(said) > 60
    for end in range(len("the tide") + 1, len(said) + 1):
        assert said[end - 4 : end] not in text
    free = shaped([], ["the tide"], kind).text
    assert any(free[end - 4 : end] in text for end in range(len("the tide") + 1, len(free) + 1))
    check_consistent(session)


def test_where_nothing_can_follow_it_is_said() -> None:
    session = shaped(["regex the boat"], [])
    *_, last = session.feed("the boat")
    assert isinstance(last, Notice)
    assert "pattern ends it" in last.text
    assert "matches the pattern" in list(session.feed("another"))[-1].text  # type: ignore[union-attr]


def test_a_session_of_an_earlier_version_still_loads(tmp_path: Path) -> None:
    """Its settings are those there were: what has come since keeps its default."""
    session, path = Session(toy.partner(), SHORT), tmp_path / "s.json"
    list(session.feed("once"))
    list(session.feed(f"/save {path}"))
    document = json.loads(path.read_text(encoding="utf-8"))
    earlier = ("temp", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "length", "seed")
    document["settings"] = {name: document["settings"][name] for name in earlier}
    path.write_text(json.dumps(document), encoding="utf-8")
    other = Session(toy.partner(), Settings(lines=4, ban="e"))
    assert isinstance(next(iter(other.feed(f"/load {path}"))), Notice)
    assert other.settings == SHORT
    assert other.text == session.text


def test_shapes_are_saved_and_a_shape_out_of_a_file_that_cannot_be_is_a_problem(tmp_path: Path) -> None:
    session, path = shaped(["lines 2", "acrostic ab", "bias a=1", "regex (?s).*"], ["a"]), tmp_path / "s.json"
    list(session.feed(f"/save {path}"))
    other = Session(toy.partner())
    list(other.feed(f"/load {path}"))
    assert other.settings == session.settings
    document = json.loads(path.read_text(encoding="utf-8"))
    document["settings"] |= {"regex": "(", "bias": ["zz"]}
    path.write_text(json.dumps(document), encoding="utf-8")
    before = (other.tree, other.settings)
    problem(other, f"/load {path}")
    assert (other.tree, other.settings) == before


@pytest.mark.parametrize(
    ("typed", "stops"),
    [
        ("END", ("END",)),
        ("a b", ("a b",)),
        (r"\n\n", ("\n\n",)),
        (r'"\n" "x y"', ("\n", "x y")),
        ("off", ()),
        ('"off"', ("off",)),
        ('""', ()),
    ],
)
def test_stops_as_typed(typed: str, stops: tuple[str, ...]) -> None:
    session = Session(toy.partner(), SHORT)
    list(session.feed(f"/set stop {typed}"))
    assert session.settings.stop == stops


def corrupted() -> list[tuple[str, Any]]:
    """Ways in which a saved file can be wrong: where in the document, and what stands there instead."""
    return [
        ("charrnn_session", 99), ("charrnn_session", "1"), ("charrnn_session", True), ("model", None), ("model", {"name": "x"}),
        ("model", {"name": "x", "digest": "0" * 64}), ("settings", {"hot": 1}), ("settings", []), ("settings.temp", "hot"),
        ("settings.temp", -1), ("settings.top_k", 10**400), ("settings.stop", [1]), ("settings.stop", [""]),
        ("settings.seed", 1.5),
        ("current", 99), ("current", None), ("current", True),
        ("branches.main", 99), ("branches.main", -1), ("branches.main", True), ("branches", []), ("branches", {}),
        ("branch", "x"), ("branches", {"main": 0, "7": 0}), ("branches", {"main": 0, "a\x1bb": 0}),
        ("branches", {"main": 0, "a" * 41: 0}),
        ("branch", None), ("onward", [1, 2]), ("onward", [0, 0, 1]), ("onward", None), ("onward", [True, 2, 0]),
        ("turns", 1), ("turns", ["> ", "< "]), ("turns", ["a"]), ("nodes", {}), ("nodes", [[]]),
        ("nodes.0.parent", 1),
        ("nodes.1.parent", -1), ("nodes.0.kind", "root"), ("nodes.0.ids", []), ("nodes.1.ids", [99999]), ("nodes.1.ids", [-1]),
        ("nodes.1.ids", [True]), ("nodes.1.ids", "abc"), ("nodes.1.text", "other"), ("nodes.0.text", "other"),
        ("nodes.0.text", "\ud800"), ("nodes.1.seed", None), ("nodes.1.attempt", 2**40), ("nodes.1.more", 1),
    ]  # fmt: skip


@pytest.mark.parametrize(("where", "value"), corrupted())
def test_a_spoilt_file_is_refused_and_nothing_is_lost(where: str, value: Any, tmp_path: Path) -> None:
    session, path = Session(toy.partner(), SHORT), tmp_path / "s.json"
    list(session.feed("once"))
    list(session.feed(f"/save {path}"))
    document = json.loads(path.read_text(encoding="utf-8"))
    spot: Any = document
    *way, last = where.split(".")
    for key in way:
        spot = spot[int(key) if isinstance(spot, list) else key]
    spot[last] = value
    path.write_text(json.dumps(document), encoding="utf-8")
    before = (session.tree, session.text, session.settings)
    assert problem(session, f"/load {path}").hint
    assert (session.tree, session.text, session.settings) == before


@given(cut=st.integers(0, 3000), put=st.binary(max_size=4))
@settings(max_examples=40)
def test_any_bytes_are_loaded_or_refused_with_words(cut: int, put: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    session, path = Session(toy.partner(), SHORT), tmp_path_factory.mktemp("fuzz") / "s.json"
    list(session.feed("once"))
    list(session.feed(f"/save {path}"))
    data = path.read_bytes()
    path.write_bytes(data[:cut] + put + data[cut + len(put) :])
    event, *_ = session.feed(f"/load {path}")
    assert isinstance(event, Problem | Notice)
    check_consistent(session)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.mkdir(),
        lambda path: None,
    ],
    ids=["deep", "not UTF-8", "folder", "missing"],
)
def test_what_is_no_file_of_ours_is_refused(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "s.json")
    assert "s.json" in problem(Session(toy.partner(), SHORT), f"/load {tmp_path / 's.json'}").text


def test_a_file_of_another_model_is_refused_with_its_name(tmp_path: Path) -> None:
    list(Session(toy.partner(), SHORT).feed(f"/save {tmp_path / 's.json'}"))
    told = problem(Session(toy.partner(digest="e5" * 32), SHORT), f"/load {tmp_path / 's.json'}")
    assert "toy" in told.text
    assert "charrnn repl toy" in told.hint


def test_only_own_files_are_replaced(tmp_path: Path) -> None:
    session, corpus, own = Session(toy.partner(), SHORT), tmp_path / "corpus.txt", tmp_path / "own.txt"
    corpus.write_text("a year's work", encoding="utf-8")
    list(session.feed("once"))
    for command in ("/save", "/export"):
        assert "exists already" in problem(session, f"{command} {corpus}").text
    assert corpus.read_text(encoding="utf-8") == "a year's work"
    for _ in range(2):
        assert isinstance(next(iter(session.feed(f"/export {own}"))), Notice)
    assert own.read_text(encoding="utf-8") == session.text.rstrip("\n") + "\n"
    for who in (session, Session(toy.partner(), SHORT)):  # a session may take the place of another
        assert isinstance(next(iter(who.feed(f"/save {tmp_path / 's.json'}"))), Notice)


@pytest.mark.parametrize("name", ["/no/such/folder/x", "a\0b", "x" * 5000, "~nobody-of-that-name/x", "/dev/null"])
@pytest.mark.parametrize("command", ["/save", "/load", "/export"])
def test_impossible_files_are_problems(command: str, name: str) -> None:
    problem(Session(toy.partner(), SHORT), f"{command} {name}")


def test_lone_surrogates_become_characters() -> None:
    session = Session(toy.partner("byte"), SHORT)
    list(session.feed("a\ud800b"))
    assert session.text.startswith("a\ufffdb")


def test_every_command_is_in_help_and_completion_and_corrected() -> None:
    session = Session(toy.partner(), SHORT)
    (listing,) = session.feed("/help")
    assert isinstance(listing, Listing)
    for command in COMMANDS:
        assert (command.usage, command.help) in listing.rows
        assert f"/{command.name}" in complete(f"/{command.name[:2]}")
        assert problem(session, f"/{command.name}x").hint == f"Did you mean /{command.name}?"


@pytest.mark.parametrize(
    ("line", "found"),
    [("/se", ["/set"]), ("/SE", ["/set"]), ("/s", ["/set", "/show", "/save"]), ("/set to", ["top_k", "top_p"]),
     ("/set temp ", []), ("text", []), ("", []), ("//s", []), ("/undo t", []), ("/label n", [])],
)  # fmt: skip
def test_completion(line: str, found: list[str]) -> None:
    assert complete(line) == found


def test_which_commands_want_a_file() -> None:
    assert [wants_file(line) for line in ("/save a/b", "/load ", "/export x y", "/set x", "/save", "text")] == [
        "a/b", "", "x y", None, None, None,
    ]  # fmt: skip


def test_a_spoilt_model_is_a_problem_and_no_crash() -> None:
    session = Session(toy.partner(), SHORT)
    weights = toy.weights(session.partner.tokenizer)
    weights["output.bias"][:] = np.nan
    object.__setattr__(session.partner, "engine", type(session.partner.engine)(toy.config(session.partner.tokenizer), weights))
    assert isinstance(list(session.feed("once"))[-1], Problem)


def test_priming_a_long_line_can_be_cancelled() -> None:
    session = Session(toy.partner(), SHORT)
    for event in session.feed("word " * 1000):
        if isinstance(event, Typed):
            session.cancel()
    assert session.text == "word " * 1000
    assert said(session, "")
    check_consistent(session)


def test_tail_is_the_end_of_the_text() -> None:
    session = Session(toy.partner(), SHORT)
    for line in ("one", "", "two"):
        list(session.feed(line))
        for count in (1, 5, 50, 500):
            assert session.tree.tail(count) == session.text[-count:]
    assert Tree(session.partner).tail(3) == ""


def test_a_tree_of_many_forks_is_drawn_narrow() -> None:
    """However deep it is: what is nested grows with the logarithm of the nodes, and where one is lies at the left."""
    session = Session(toy.partner(), Settings(length=2, seed=1))
    for number in range(300):
        list(session.feed(f"{number}"))
        list(session.feed("/retry"))
        if number % 50 == 0:
            list(session.feed("/goto 2"))
    (drawing,) = session.feed("/tree")
    assert isinstance(drawing, Family)
    rows = [(drawing.trunk, 0)]
    deepest, seen, here = 0, 0, -1
    for row, depth in rows:
        deepest = max(deepest, depth)
        for place in row:
            seen += 1 + place.left_out
            here = depth if place.here else here
            rows += [(side, depth + 1) for side in place.sides]
    assert (seen, here) == (len(session.tree.nodes), 0)
    assert deepest <= 10


def test_an_answer_that_is_long_enough_goes_on_to_the_end_of_its_word_or_line() -> None:
    """And no further: the same text as without, and then what is missing."""
    tale = toy.TALE.replace(" and ", "\nand ")
    for finish, end in (("off", tale[:30]), ("word", "the harbour holds the evening "), ("line", tale[: tale.index("\n") + 1])):
        partner = toy.partner()
        object.__setattr__(partner, "engine", toy.Teller("\n" + tale, partner.tokenizer))
        session = Session(partner, Settings(length=30 if finish != "word" else 25, temp=0, finish=finish))
        assert said(session, "") == end
    long = toy.partner()
    object.__setattr__(long, "engine", toy.Teller("\n" + "word " * 200, long.tokenizer))
    session = Session(long, Settings(length=33, temp=0, finish="line"))
    assert len(told := said(session, "")) in range(233, 239)  # no line ends
    assert told.endswith(" ")


def test_ctrl_c_stops_the_search_for_a_pattern() -> None:
    """Though no token is certain, and so none is yielded, before it matches."""
    session = shaped([r"regex (.|\n)*zzzzzz", "length 100000"], [])
    events = session.feed("the boat")
    assert isinstance(next(events), Typed)
    threading.Timer(0.3, session.cancel).start()
    assert list(events) == []
    assert session.text == "the boat"


def test_to_look_at_a_place_does_not_move_the_branch() -> None:
    session = Session(toy.partner(), SHORT)
    for line in ("one", "two", "/goto 2"):
        list(session.feed(line))
    assert (session.tree.current, session.tree.ends) == (2, {"main": 4})
    list(session.feed("/goto main"))
    assert session.tree.current == 4
    for line in ("/undo", "three"):
        list(session.feed(line))
    assert session.tree.ends == {"main": 6}
    list(session.feed("/branch b"))
    for place in ("4", "2"):  # the end of no branch, and of main's past
        *_, notice = (event for event in session.feed(f"/goto {place}") if isinstance(event, Notice))
    assert notice.text.endswith("`/goto 4` goes back.")
    assert (session.tree.branch, session.tree.ends) == ("b", {"main": 6, "b": 6})
    list(session.feed("four"))
    assert session.tree.ends == {"main": 6, "b": 8}


@pytest.mark.parametrize("lines", [1, 2, 3, 7, None])
def test_the_last_lines_of_the_text_and_who_said_them(lines: int | None) -> None:
    session = Session(toy.partner(end_bias=3.0), Settings(length=15, seed=3))
    for line in ("one", "", "two", "", ""):
        list(session.feed(line))
    (passage,) = session.feed(f"/text {lines or ''}".strip())
    assert isinstance(passage, Passage)
    text = "".join(part.text for part in passage.parts)
    whole = re.findall(r"[^\n]*\n|[^\n]+$", session.text)
    assert text == "".join(whole if lines is None else whole[-lines:])
    assert [part.yours for part in passage.parts][-1] is False


def test_numbers_of_thousands_of_digits_are_problems() -> None:
    session = shaped([], ["once"])
    for command in ("/alternatives", "/goto", "/text", "/set length", "/set max_copy"):
        problem(session, f"{command} {'9' * 5000}")


def test_only_a_session_is_replaced_by_one(tmp_path: Path) -> None:
    session, notes = shaped([], ["once"]), tmp_path / "notes.txt"
    notes.write_text('my notes on "charrnn_session": 1\n', encoding="utf-8")
    assert "exists already" in problem(session, f"/save {notes}").text
    list(session.feed(f"/save {tmp_path / 'q'}"))
    assert "exists already" in problem(session, f"/export {tmp_path / 'q'}").text


def test_a_turn_of_several_nodes_is_shown_as_it_stands_in_the_text() -> None:
    session = Session(toy.partner("talk"), Settings(length=4, seed=3), STANDARD)
    for line in ("hello", "", '"""one', 'two"""', ""):
        list(session.feed(line))
    (passage,) = session.feed("/text")
    assert isinstance(passage, Passage)
    assert "".join(part.text for part in passage.parts) == session.text
    assert passage.parts[0] == (True, "> hello\n< ")


def test_an_offer_lasts_until_something_else_is_said() -> None:
    for between, taken in (("/show", True), ("/set temp 0.5", True), ("more", False), ("/undo", False), ("/retry", False)):
        session = Session(toy.partner("byte"), SHORT)
        for line in ("once", "/alternatives 2", between):
            list(session.feed(line))
        if between == "more":
            list(session.feed("/undo"))
        nodes = len(session.tree.nodes)
        list(session.feed("2"))
        assert (len(session.tree.nodes) == nodes) == taken, between


def test_a_line_end_of_ones_own_is_not_lost() -> None:
    session = Session(toy.partner(), SHORT)
    for line in ("/multi", ""):
        list(session.feed(line))
    (typed, *_) = session.feed('foo"""')
    assert typed == Typed("\nfoo")
    assert session.text.startswith("\nfoo")
    assert next(iter(session.feed("/retry"))) == Typed("\nfoo")


def test_what_a_file_says_of_its_model_is_quoted_for_the_shell(tmp_path: Path) -> None:
    session, path = Session(toy.partner(), SHORT), tmp_path / "s.json"
    list(session.feed(f"/save {path}"))
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(document | {"model": {"name": "x; touch y", "digest": "0"}}), encoding="utf-8")
    assert "`charrnn repl 'x; touch y'`" in problem(session, f"/load {path}").hint
    path.write_text(json.dumps(document | {"turns": ["$(touch y)", "b"]}), encoding="utf-8")
    assert "--turns '$(touch y),b'`" in problem(session, f"/load {path}").hint


def test_a_session_too_large_to_be_loaded_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(toy.partner(), SHORT)
    list(session.feed("once"))
    monkeypatch.setattr(memory, "MAX_FILE_BYTES", 100)
    assert "/export" in problem(session, f"/save {tmp_path / 's.json'}").hint
    assert not (tmp_path / "s.json").exists()


def test_a_long_session_does_not_keep_every_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Yet going back to any place reads only what lies between it and the last state before it that was kept."""
    monkeypatch.setattr(tree, "KEPT", 10)
    monkeypatch.setattr(tree, "EVERY", 4)
    session = Session(toy.partner(), Settings(length=2, seed=1))
    for number in range(60):
        list(session.feed(f"{number}"))
    nodes = len(session.tree.nodes)
    assert len(session.tree._prefixes) <= nodes / 4 + 10 + 1
    list(session.feed("/goto 61"))
    assert any(node in session.tree._prefixes for node in session.tree.path(61)[-15:])
    list(session.feed("/retry"))
    check_consistent(session)


if __name__ == "__main__":
    import os
    import tempfile

    for transcript in TRANSCRIPTS.glob("*.txt"):
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            Path("mine.txt").write_text("not yours to overwrite\n", encoding="utf-8")
            transcript.write_text(played(transcript.read_text(encoding="utf-8")), encoding="utf-8")
