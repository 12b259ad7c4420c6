"""What reaches a terminal, and what reaches a file."""

from __future__ import annotations

import io
import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charrnn.cli import console
from charrnn.errors import WriteError

ANYTHING = st.text(st.characters(codec=None, categories=None))  # type: ignore[arg-type]


def acts_on_a_terminal(character: str) -> bool:
    """By definition, from the Unicode tables: controls, surrogates, and whatever has a bidirectional formatting class."""
    if character in "\n\t":
        return False
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    marks = {"\u061c", "\u200e", "\u200f"}
    category = unicodedata.category(character)
    return category in {"Cc", "Cs"} or unicodedata.bidirectional(character) in bidi or character in marks


@given(ANYTHING)
def test_visible_leaves_nothing_that_acts_and_everything_else(text: str) -> None:
    shown = console.visible(text)
    assert not any(acts_on_a_terminal(character) for character in shown)
    assert console.visible(shown) == shown
    if not any(acts_on_a_terminal(character) for character in text):
        assert shown == text


def test_visible_covers_every_code_point_that_acts() -> None:
    acting = [chr(code) for code in range(0x110000) if acts_on_a_terminal(chr(code))]
    assert len(acting) > 2000  # the surrogates alone
    assert all(console.visible(character) != character for character in acting)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\x1b[31m", "␛[31m"), ("a\rb", "a␍b"), ("\x7f", "␡"), ("\x9b1m", "\\x9b1m"), ("\u202e", "\\u202e"), ("\ud800", "\\ud800")],
)
def test_visible_by_example(text: str, shown: str) -> None:
    assert console.visible(text) == shown


@given(ANYTHING)
def test_off_a_terminal_the_bytes_are_the_text(text: str) -> None:
    file = io.BytesIO()
    with console.Output(file) as out:
        for character in text:
            out.write(character)
    assert file.getvalue() == text.encode("utf-8", "replace")  # equal to strict utf-8 unless there are surrogates


@pytest.mark.parametrize(("text", "written"), [("a", b"a\n"), ("a\n", b"a\n"), ("", b"\n"), ("a\n\n", b"a\n\n")])
def test_end_line_adds_at_most_one(text: str, written: bytes) -> None:
    file = io.BytesIO()
    with console.Output(file) as out:
        out.write(text)
        out.end_line()
    assert file.getvalue() == written


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_a_write_error() -> None:
    with open("/dev/full", "wb", buffering=0) as full:
        out = console.Output(full)
        with pytest.raises(WriteError):
            out.write("text")


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "allowed"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False), ({"TERM": "xterm"}, True)],
)
def test_escape_sequences_only_where_they_are_welcome(
    variables: dict[str, str], allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    assert console.fancy(stream) is allowed
    console.rich_console(stream).print("text", style="bold red")
    assert ("\x1b" in stream.getvalue()) is allowed
    assert console.fancy(io.StringIO()) is False


def test_messages_on_a_terminal_cannot_act(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stderr", stream)
    console.error("cannot read '\x1b]0;evil\x07'", "mend \u202eit")
    assert stream.getvalue() == "error: cannot read '␛]0;evil␇'\nhint: mend \\u202eit\n"
