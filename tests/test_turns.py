"""The convention of a conversation: what is yours, what is the model's, and where its turn ends."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.decoding.turns import STANDARD, Reply, Turns, parsed
from charrnn.errors import UsageError

OTHERS = Turns("Anna: ", "Ben: ")
TURNS = st.sampled_from([STANDARD, OTHERS, Turns("-", "--"), Turns("a\tb", "b")])


def test_a_turn_of_yours_as_the_readme_of_the_corpora_describes_it() -> None:
    assert STANDARD.asked("hello") == "> hello\n< "
    assert STANDARD.asked("two\nlines") == "> two\n> lines\n< "
    assert OTHERS.asked("hello") == "Anna: hello\nBen: "


@given(turns=TURNS, text=st.text(alphabet="ab <>-:\n", min_size=1))
def test_what_was_typed_comes_back(turns: Turns, text: str) -> None:
    asked = turns.asked(text)
    assert turns.typed(asked) == text
    assert asked.startswith(turns.typing(text))
    assert asked.endswith("\n" + turns.model)
    assert all(line.startswith(turns.you) for line in asked.split("\n")[:-1])


@pytest.mark.parametrize(
    ("text", "shown", "kept", "ended"),
    [
        ("I am Pim.\n> and", "I am Pim.", "I am Pim.", True),
        ("one\n< two\n\n", "one\ntwo", "one\n< two", True),
        ("one\n<two", "one", "one", True),
        ("one\n<", "one", "one", False),  # may be the beginning of another line
        ("one", "one", "one", False),
        ("\n> x", "", "", True),
        ("a\n< b\n< c", "a\nb\nc", "a\n< b\n< c", False),
    ],
)
def test_where_a_reply_ends(text: str, shown: str, kept: str, ended: bool) -> None:
    reply = Reply(STANDARD)
    assert (reply.push(text), reply.text, reply.ended) == (shown, kept, ended)
    assert reply.push("") == ""


@given(turns=TURNS, pieces=st.lists(st.text(alphabet="ab<> -:\n", max_size=4), max_size=12))
def test_a_reply_is_the_text_up_to_a_line_that_is_not_the_models(turns: Turns, pieces: list[str]) -> None:
    """By the definition, as a regular expression over the whole text, however it is cut into pieces."""
    reply, text = Reply(turns), "".join(pieces)
    shown = "".join(reply.push(piece) for piece in pieces)
    following = "\n" + turns.model
    end = next((found.start() for found in re.finditer("\n", text) if not text.startswith(following, found.start())), len(text))
    open_end = end < len(text) and following.startswith(text[end:])
    assert reply.text == text[:end]
    assert shown == text[:end].replace(following, "\n")
    assert reply.ended == (end < len(text) and not open_end)


def test_turns_as_typed() -> None:
    assert parsed("ROMEO: ,JULIET: ") == Turns("ROMEO: ", "JULIET: ")
    assert str(parsed(str(STANDARD))) == "> ,< "


@pytest.mark.parametrize(
    "text", ["", ",", "a", "a,", ",b", "a,a", ">>,>", "\udcff,b", "a,b,c", "a\n,b", "a\r,b", "a" * 101 + ",b"]
)
def test_turns_that_cannot_be(text: str) -> None:
    with pytest.raises(UsageError, match="--turns") as raised:
        parsed(text)
    assert "You: ,Bot: " in raised.value.hint
