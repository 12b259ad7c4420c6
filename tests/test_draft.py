"""What may follow an unfinished line: the same as from scratch, at the cost of what was typed last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.decoding import generate, tree
from charrnn.decoding.draft import Draft
from charrnn.decoding.generate import Prefix
from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings
from charrnn.decoding.tree import Partner
from charrnn.decoding.turns import STANDARD
from charrnn.text.tokenizers import RESERVED

KINDS = pytest.mark.parametrize("kind", ["char", "byte", "subword"])


def never() -> bool:
    return False


class Counted:
    """A Stepper that counts the tokens it reads."""

    def __init__(self, partner: Partner) -> None:
        self._engine, self.vocab_size, self.steps = partner.engine, partner.engine.vocab_size, 0
        self.begin, self.gather = self._engine.begin, self._engine.gather

    def step(self, ids: Any, state: Any) -> Any:
        self.steps += len(ids)
        return self._engine.step(ids, state)


def counting(kind: str = "char") -> tuple[Partner, Counted]:
    partner = toy.partner(kind)
    counted = Counted(partner)
    object.__setattr__(partner, "engine", counted)
    return partner, counted


def start(partner: Partner) -> Prefix:
    return generate.prime(partner.engine, partner.start)


@KINDS
@given(lines=st.lists(st.text(max_size=30) | st.text(alphabet="ab ", max_size=400), max_size=6))
@settings(max_examples=20)
def test_a_line_however_edited_is_read_as_from_scratch(kind: str, lines: list[str]) -> None:
    partner = toy.partner(kind)
    draft, before = Draft(partner), start(partner)
    for line in lines:
        read = draft.read(before, line, never)
        expected = generate.prime(partner.engine, partner.tokenizer.encode(line), before)
        assert read is not None
        assert read.position == expected.position
        assert np.array_equal(read.logits, expected.logits)
        assert all(np.array_equal(a, b) for a, b in zip(read.state, expected.state, strict=True))


def test_a_key_costs_a_token_and_taking_it_back_nothing() -> None:
    partner, counted = counting()
    draft, before, line = Draft(partner), start(partner), "the boat and the sea " * 100
    draft.read(before, line, never)
    for typed, cost in ((line + "a", 1), (line + "ab", 1), (line + "a", 0), (line, 0), (line[:-20], 0), (line, 20)):
        counted.steps = 0
        draft.read(before, typed, never)
        assert counted.steps == cost


def test_a_long_line_can_be_cancelled_and_gone_on_with() -> None:
    partner, counted = counting()
    draft, before, line = Draft(partner), start(partner), "the boat and the sea " * 100
    asked = iter([False, False, True])
    counted.steps = 0
    assert draft.read(before, line, lambda: next(asked)) is None
    assert 0 < counted.steps < len(line)
    done, counted.steps = counted.steps, 0
    assert draft.read(before, line, never) is not None
    assert done + counted.steps == len(line)


def test_another_place_of_the_text_is_another_beginning() -> None:
    partner = toy.partner()
    draft, one = Draft(partner), start(partner)
    other = generate.prime(partner.engine, [9, 10], one)
    first = draft.read(one, "abc", never)
    second = draft.read(other, "abc", never)
    assert first is not None
    assert second is not None
    assert second.position == first.position + 2
    assert not np.array_equal(first.logits, second.logits)


def test_a_ghost_is_the_likeliest_continuation() -> None:
    session = Session(toy.partner(), Settings(ghost=12))
    partner, ghost = session.partner, session.ghost("the b", never)
    prefix, expected = generate.prime(partner.engine, [*partner.start, *partner.tokenizer.encode("the b").tolist()]), ""
    while len(expected) < 12:
        logits = prefix.logits.copy()
        logits[:RESERVED] = -np.inf
        letter = partner.tokenizer.decode([int(np.argmax(logits))])
        if letter == "\n":
            break
        expected += letter
        prefix = generate.prime(partner.engine, partner.tokenizer.encode(letter), prefix)
    assert ghost == expected.rstrip()
    assert ghost


@KINDS
def test_who_types_what_the_ghost_says_sees_it_come_true(kind: str) -> None:
    units = toy.tokenizer(kind)
    partner = toy.partner(kind)
    object.__setattr__(partner, "engine", toy.Teller("\n" + toy.TALE, units))
    session = Session(partner, Settings(ghost=30))
    for end in range(5, 60):
        assert toy.TALE[end:].startswith(session.ghost(toy.TALE[:end], never))
        assert len(session.ghost(toy.TALE[:end], never)) > 20


def test_where_there_is_no_ghost() -> None:
    session = Session(toy.partner(), Settings(seed=1, length=5))
    assert session.ghost("", never) == session.ghost("/set temp", never) == session.ghost("/", never) == ""
    assert session.ghost("a", lambda: True) == ""
    assert session.ghost("//a", never) == session.ghost('"""/a', never) != ""
    list(session.feed("/set ghost 0"))
    assert session.ghost("a", never) == ""
    list(session.feed("/set ghost 9"))
    list(session.feed("/multi"))
    list(session.feed("one"))
    assert session.ghost("a", never) == Session(session.partner, session.settings).ghost("one\na", never)


def test_a_ghost_follows_the_text_so_far() -> None:
    session = Session(toy.partner(), Settings(seed=1, length=5))
    before = session.ghost("abc", never)
    list(session.feed("the boat"))
    after = session.ghost("abc", never)
    assert before != after
    whole = Session(session.partner, session.settings)
    assert whole.ghost(session.text + "\nabc", never) == after


def test_in_a_conversation_the_ghost_is_your_own_line() -> None:
    units = toy.tokenizer("talk")
    partner = toy.partner("talk")
    object.__setattr__(partner, "engine", toy.Teller("\n> how are you\n< well", units))
    assert Session(partner, None, STANDARD).ghost("how a", never) == "re you"


def test_a_spoilt_model_has_no_ghost_and_no_choices_that_crash() -> None:
    session = Session(toy.partner(), Settings())
    weights = toy.weights(session.partner.tokenizer)
    weights["output.bias"][:] = np.nan
    engine = type(session.partner.engine)(toy.config(session.partner.tokenizer), weights)
    object.__setattr__(session.partner, "engine", engine)
    assert session.ghost("a", never) == ""
    assert session.next_tokens("a", never) == []


@KINDS
@given(line=st.text(alphabet="abcdefgh te", max_size=12))
@settings(max_examples=15)
def test_choices_are_the_likeliest_in_order(kind: str, line: str) -> None:
    session = Session(toy.partner(kind), Settings())
    choices = session.next_tokens(line, never)
    shares = [choice.probability for choice in choices]
    assert 1 < len(choices) <= 9
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 1 + 1e-6
    assert len({choice.text for choice in choices}) == len(choices)
    assert all(choice.text and "\ufffd" not in choice.text for choice in choices)


def test_choices_of_characters_are_the_softmax() -> None:
    session = Session(toy.partner(), Settings(temp=0.1))  # which does not count: they are the model's own
    partner = session.partner
    prefix = generate.prime(partner.engine, [*partner.start, *partner.tokenizer.encode("the b").tolist()])
    shares = np.exp(prefix.logits.astype(float)) / np.exp(prefix.logits.astype(float)).sum()
    for choice in session.next_tokens("the b", never):
        assert choice.probability == pytest.approx(shares[int(partner.tokenizer.encode(choice.text)[0])], rel=1e-6)


@KINDS
def test_what_a_model_wants_to_say_is_the_first_choice(kind: str) -> None:
    """At any place, also within a word, where it is the rest of a piece, or what follows as the word is commonly cut."""
    units, partner = toy.tokenizer(kind), toy.partner(kind)
    object.__setattr__(partner, "engine", toy.Teller("\n" + toy.TALE, units))
    session = Session(partner, Settings())
    for end in range(1, 60):
        first = session.next_tokens(toy.TALE[:end], never)[0]
        assert toy.TALE[end:].startswith(first.text), (toy.TALE[:end], first)
        assert first.probability > 0.99
    assert session.next_tokens("the s", lambda: True) == []
    assert session.next_tokens("/help", never) == []


@KINDS
def test_what_was_typed_is_not_read_again_when_it_is_entered_nor_for_another_answer(kind: str) -> None:
    partner, counted = counting(kind)
    session = Session(partner, Settings(length=1, seed=1))
    line = "the boat and the sea " * 20 + "a"
    session.ghost(line, never)
    for command in (line, "/retry", "/alternatives 2"):
        counted.steps = 0
        list(session.feed(command))
        assert counted.steps < (20 if kind != "subword" else 120)  # there the open word is followed in all its pieces


def test_after_a_load_the_text_is_read_once(tmp_path: Path) -> None:
    """However often one then moves, and however often a ghost is cancelled on the way."""
    partner, counted = counting()
    session = Session(partner, Settings(length=20, seed=1))
    for number in range(60):
        list(session.feed(f"line {number}"))
    list(session.feed(f"/save {tmp_path / 's.json'}"))
    again = Session(partner, Settings())
    list(again.feed(f"/load {tmp_path / 's.json'}"))
    counted.steps = 0
    for _ in range(40):
        asked = iter([False] * 5)
        again.ghost("a", lambda asked=asked: next(asked, True))  # type: ignore[misc]
    for command in ("/undo", "/undo", "/redo", "a", "/undo"):
        list(again.feed(command))
    assert counted.steps < len(session.text) + 40 * 5 + 100


def test_a_long_line_that_is_read_in_parts_is_not_begun_anew(tmp_path: Path) -> None:
    partner, counted = counting()
    session = Session(partner, Settings(length=1, seed=1))
    list(session.feed("the boat and the sea " * 200))
    list(session.feed(f"/save {tmp_path / 's.json'}"))
    again = Session(partner, Settings())
    list(again.feed(f"/load {tmp_path / 's.json'}"))
    counted.steps = 0
    for _ in range(30):
        asked = iter([False, False])
        again.ghost("a", lambda asked=asked: next(asked, True))  # type: ignore[misc]
    assert counted.steps <= len(session.text) + 100


def test_moving_in_the_tree_costs_nothing_however_long_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """No token is read, and of the nodes no more than a few."""
    partner, counted = counting()
    session = Session(partner, Settings(length=20, seed=1))
    for number in range(100):
        list(session.feed(f"line {number}"))
    read: list[int] = []
    upwards = tree.Tree._upwards

    def counted_upwards(self: tree.Tree, index: int) -> Any:
        for one in upwards(self, index):
            read.append(one)
            yield one

    monkeypatch.setattr(tree.Tree, "_upwards", counted_upwards)
    for command in ("/undo", "/redo", "/branch b", "/goto main", "/goto 3", "/goto 150", "/goto b", "/show", "/undo"):
        counted.steps, read[:] = 0, []
        list(session.feed(command))
        assert counted.steps == 0, command
        assert len(read) < 10, command
    counted.steps = 0
    list(session.feed("/goto 120"))
    list(session.feed("/retry"))
    assert counted.steps <= session.settings.length + 2
