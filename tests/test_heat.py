"""How much a text surprises: bits by the definition, piece by piece and on the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.cli import heat as colours
from charrnn.decoding import generate
from charrnn.decoding.events import Heated, Notice, Text, Typed
from charrnn.decoding.heat import Bits, heated
from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings
from charrnn.decoding.turns import STANDARD


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
@given(text=st.text(max_size=20) | st.text(alphabet="the boat \n\u00e9", max_size=40))
@settings(max_examples=25)
def test_pieces_are_the_text_and_their_bits_its_cost(kind: str, text: str) -> None:
    units = toy.tokenizer(kind)
    ids = units.encode(text).tolist()
    costs = [0.5 + index for index in range(len(ids))]
    pieces = list(heated(units, text, ids, costs))
    assert "".join(piece.text for piece in pieces) == text
    whole = sum(costs) / math.log(2) + units.hidden(text) * units.escape_nats / math.log(2)
    assert sum(piece.bits for piece in pieces) == pytest.approx(whole)


def warm(kind: str = "char", chat: bool = False, **more: int) -> Session:
    session = Session(toy.partner(kind), Settings(**{"length": 20, "seed": 3, **more}), STANDARD if chat else None)
    list(session.feed("/heat on"))
    return session


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_each_piece_by_the_definition(kind: str) -> None:
    """-log2 of the softmax, of your line and of the answer, each after all that stands before it."""
    session = warm(kind)
    list(session.feed("once"))
    typed, *said = [event for event in session.feed("the boat") if isinstance(event, Typed | Text)]
    assert isinstance(typed, Typed)
    assert "".join(piece.text for piece in typed.heat) == "the boat"
    partner = session.partner
    nodes = [session.tree.nodes[index] for index in session.tree.path()]
    prefix = generate.prime(partner.engine, partner.start)
    bits = []
    for token in [token for node in nodes for token in node.ids]:
        scores = prefix.logits.astype(np.float64)
        bits.append((np.logaddexp.reduce(scores) - scores[token]) / math.log(2))
        prefix = generate.prime(partner.engine, [token], prefix)
    answer = bits[-len(nodes[-1].ids) :]
    assert sum(event.bits or 0 for event in said if isinstance(event, Text)) == pytest.approx(sum(answer), rel=1e-4)
    if kind == "char":
        yours = bits[-len(answer) - len("the boat") : -len(answer)]
        assert [piece.bits for piece in typed.heat] == pytest.approx(yours, rel=1e-4)
        assert [event.bits for event in said] == pytest.approx(answer, rel=1e-4)


@pytest.mark.parametrize("chat", [False, True])
def test_the_mean_is_over_the_lines_of_the_branch_one_is_on(chat: bool) -> None:
    session = warm("talk", chat)
    totals = {}
    for line in ("once", "twice", "/retry", "/undo", "three", "/goto 2", ""):
        *_, last = session.feed(line)
        totals[session.tree.current] = session.heat.total(session.tree.current)
        if not line.startswith(("/undo", "/goto")):
            assert isinstance(last, Notice)
            assert last.text == str(totals[session.tree.current]) or last.text.startswith("The answer is empty")
    for node, total in totals.items():
        path = session.tree.path(node)[1:]
        yours = [piece for index in path if session.tree.nodes[index].kind == "you" for piece in session.heat.pieces(index)]
        models = [piece for index in path if session.tree.nodes[index].kind == "model" for piece in session.heat.pieces(index)]
        assert total.yours == pytest.approx(sum(piece.bits for piece in yours))
        assert total.models == pytest.approx(sum(piece.bits for piece in models))
        assert total.your_characters == sum(len(piece.text) for piece in yours)
        assert total.model_characters == sum(len(piece.text) for piece in models)
    said = "".join(piece.text for piece in session.heat.pieces(1))
    assert said == "once"


def test_switching_it_on_late_counts_what_was_said_before() -> None:
    early, late = warm(), Session(toy.partner(), Settings(length=20, seed=3))
    for session in (early, late):
        list(session.feed("once"))
    list(late.feed("/heat on"))
    assert late.heat.total(late.tree.current) == early.heat.total(early.tree.current)


def test_without_it_nothing_is_measured() -> None:
    session = Session(toy.partner(), Settings(length=20, seed=3))
    events = list(session.feed("once"))
    assert all(event.bits is None for event in events if isinstance(event, Text))
    assert all(event.heat == () for event in events if isinstance(event, Typed))


def test_the_words_for_it() -> None:
    assert str(Bits()) == "Bits per character: nothing said yet."
    assert str(Bits(10.0, 4, 3.0, 2)) == "Bits per character: 2.50 in your lines, 1.50 in the model's."
    assert str(Bits(0.0, 0, 3.0, 2)) == "Bits per character: 1.50 in the model's."


def test_more_surprise_is_another_colour() -> None:
    seen = [colours.style(bits) for bits in (0.0, 0.99, 1.0, 1.99, 2.0, 3.99, 4.0, 7.99, 8.0, 99.0, math.inf)]
    expected = [style for _, style in colours.SCALE]
    assert seen == [expected[index] for index in (0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4)]
    text = colours.coloured([Heated("a[/b]\x1b[31m", 0.5), Heated("c", 9.0)])
    assert text.plain == "a[/b]\u241b[31mc"
    assert [str(span.style) for span in text.spans] == [expected[0], expected[4]]
