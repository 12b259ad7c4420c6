"""What helps while one types, in a real terminal: ghost text, next tokens, alternatives, the bar, the editor, blocks."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from forked import FAILED
from terminal import ALT_ENTER, ALT_F, CTRL_C, CTRL_D, CTRL_E, CTRL_G, CTRL_RIGHT, RIGHT, TAB, UP, Terminal

from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings

# pexpect forks; on newer Pythons that warns when threads are about, as BLAS's are.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
Opened = Callable[..., Terminal]


def session(*lines: str, **settings: int) -> Session:
    """What the program's session is after `lines`."""
    one = Session(toy.partner(), Settings(**{"seed": 7, "length": 30, **settings}))
    for line in lines:
        list(one.feed(line))
    return one


def ghost(typed: str, *lines: str) -> str:
    return session(*lines).ghost(typed, lambda: False)


def text_of(one: Terminal, world: Path) -> str:
    """The text of the session so far."""
    name = f"out-{len(list(world.glob('out-*')))}.txt"
    one.enter(f"/export {name}")
    one.shows(f"Written to {name}")
    return (world / name).read_text(encoding="utf-8").removesuffix("\n")


@pytest.mark.parametrize("key", [RIGHT, CTRL_E])
def test_a_ghost_stands_dim_after_the_cursor_and_a_key_takes_it(key: str, terminal: Opened, world: Path) -> None:
    one, expected = terminal(), ghost("the b")
    one.prompted()
    one.types("the b", "the b" + expected)
    assert one.screen.cursor.x == len("> the b")
    assert one.colours("the b") == {"default"}
    assert one.colours(expected) == {"brightblack"}
    one.child.send(key)
    one.until(lambda: one.colours("the b" + expected) == {"default"})
    one.until(lambda: one.screen.cursor.x == len("> the b" + expected))
    one.child.send("\r")
    one.prompted()
    assert text_of(one, world).startswith("the b" + expected)


@pytest.mark.parametrize("key", [ALT_F, CTRL_RIGHT])
def test_a_word_of_a_ghost(key: str, terminal: Opened) -> None:
    said = "the boat is late"
    one = terminal(code=f"from charrnn.decoding.session import Session\nSession.ghost = lambda s, line, c: {said!r}[len(line):]")
    one.prompted()
    one.types("the b", said)
    for taken in ("the boat ", "the boat is ", "the boat is late"):
        one.child.send(key)
        one.until(lambda taken=taken: one.screen.cursor.x == len("> " + taken))
    assert one.colours(said) == {"default"}


def test_typing_on_overrides_a_ghost_and_what_it_says_stays(terminal: Opened) -> None:
    one, expected = terminal(), ghost("the b")
    other = next(letter for letter in "qxz" if not expected.startswith(letter))
    one.prompted()
    one.types("the b", "the b" + expected)
    one.types(other, "the b" + other + ghost("the b" + other))
    one.types("\x7f", "the b" + expected)
    one.types(expected[0], "the b" + expected)
    one.until(lambda: one.screen.cursor.x == len("> the b") + 1)


def test_no_ghost_for_commands_nor_where_it_is_off(terminal: Opened) -> None:
    one = terminal("--ghost", "0")
    one.prompted()
    one.types("the b")
    one.types(TAB, "the b")
    one.shows("1 ")
    assert one.line() == "> the b"
    two = terminal(code="from charrnn.decoding.session import Session\nSession.ghost = lambda *a: 'a ghost'")
    two.prompted()
    two.types("/se")
    two.types("/", "/se/")
    assert two.line() == "> /se/"
    two.child.send("\x7f" * 4)
    two.types("text", "texta ghost")


def test_tab_lists_the_next_tokens_and_a_digit_takes_one(terminal: Opened) -> None:
    choices = session().next_tokens("the b", lambda: False)
    one = terminal()
    one.prompted()
    one.types("the b")
    one.child.send(TAB)
    one.shows(f"1 {choices[0].text} {100 * choices[0].probability:.0f}%")
    one.shows(f"2 {choices[1].text} {100 * choices[1].probability:.0f}%")
    one.child.send("2")
    one.until(lambda: one.line().startswith("> the b" + choices[1].text))
    one.until(lambda: "1 " not in one.lines()[-2])  # the list is gone,
    one.types("2", "the b" + choices[1].text + "2")  # and a digit is a digit


def test_a_digit_takes_an_alternative_at_once(terminal: Opened, world: Path) -> None:
    expected = session("the boat", "/alternatives 3", "2")
    one = terminal()
    one.enter("the boat")
    one.enter("/alternatives 3")
    one.shows("A digit takes one of them")
    shown = "\n".join(one.lines())
    for node in expected.tree.nodes[3:6]:
        assert node.text[:20] in shown
    row = next(line for line in one.lines() if expected.tree.nodes[3].text[:20] in line)
    assert expected.tree.nodes[4].text[:20] in row  # side by side
    one.prompted()
    one.child.send("2")
    one.until(lambda: expected.text in "\n".join(line.removeprefix("> ") for line in one.lines()))
    one.prompted()
    assert text_of(one, world) == expected.text


def test_a_digit_that_begins_a_line_is_no_choice_where_it_comes_with_it(terminal: Opened, world: Path) -> None:
    one = terminal("--ghost", "0")
    one.enter("the boat")
    one.enter("/alternatives 3")
    one.enter("1984 was")
    one.prompted()
    assert "\n1984 was" in text_of(one, world)


def test_a_burst_of_keys_asks_for_one_ghost(terminal: Opened, world: Path) -> None:
    """What was asked for the keys before is dropped when they come in one go, not only when each waits for its ghost."""
    code = (
        "import time\nfrom charrnn.decoding.session import Session\n"
        "def slow(self, line, cancelled):\n"
        "    for _ in range(20):\n"
        "        if cancelled(): return ''\n"
        "        time.sleep(0.01)\n"
        "    open('asked', 'a').write(line + chr(10))\n"
        "    return ' ghost'\n"
        "Session.ghost = slow"
    )
    one = terminal(code=code)
    one.prompted()
    one.types("abcdefghij", "abcdefghij ghost")
    assert (world / "asked").read_text(encoding="utf-8").split() == ["abcdefghij"]


def test_a_choice_goes_away_with_the_cursor(terminal: Opened) -> None:
    one = terminal("--ghost", "0")
    one.prompted()
    one.types("the b")
    one.child.send(TAB)
    one.shows("1 ")
    one.child.send("\x1b[D\x1b[D1")
    one.until(lambda: one.line() == "> the1 b")


def test_ctrl_c_right_after_enter_loses_no_line(terminal: Opened, world: Path) -> None:
    """While the thread beside the keyboard has not yet noticed that it is to stop."""
    code = "import time\nfrom charrnn.decoding.session import Session\nSession.ghost = lambda *a: time.sleep(0.5) or ''"
    one = terminal(code=code)
    one.prompted()
    one.types("the boat")
    entered = one.raw.count(b"\x1b[?2004l")
    one.child.send("\r")
    one.until(lambda: one.raw.count(b"\x1b[?2004l") > entered)
    time.sleep(0.1)
    one.child.send(CTRL_C)
    one.prompted()
    assert text_of(one, world).startswith("the boat")


def test_names_of_files_and_pasted_marks_cannot_act_on_the_terminal(terminal: Opened, world: Path) -> None:
    for name in ("evil\x9b31m\u202e-a.json", "evil\x9b31m\u202e-b.json"):
        (world / name).write_text("{}", encoding="utf-8")
    one = terminal("--ghost", "0")
    one.prompted()
    one.child.send("/load evil" + TAB + TAB)
    one.shows("a.json")
    one.until(lambda: one.line().startswith("> /load evil") and one.raw.rfind(b"\x1b[?2004h") > one.raw.rfind(b"\x1b[?2004l"))
    one.child.send(CTRL_C)
    one.prompted()
    one.child.send("\x1b[200~a\u202eb\u2066c\x1b[201~")
    one.until(lambda: one.line() == "> a\ufffdb\ufffdc")
    for mark in ("\u202e", "\x9b", "\u2066"):
        assert mark.encode() not in one.raw


def test_the_tree_stays_narrow_however_often_one_forked(terminal: Opened) -> None:
    one = terminal("--length", "3")
    for number in range(12):
        one.enter(f"line {number}")
        one.enter("/retry")
    one.enter("/tree")
    one.shows("[main] <- here")
    drawn = [line for line in one.lines() if "line 11" in line and not line.startswith("> ")]
    assert drawn[-1].split(">")[0].strip().isdecimal()  # no indentation


def test_the_bar_tells_run_temperature_speed_and_place(terminal: Opened) -> None:
    one = terminal()
    one.shows("toy | temp 0.8 | main, node 0 of 0")
    one.enter("the boat")
    one.shows("tokens/s | main, node 2 of 2")
    one.enter("/branch storm")
    one.enter("/set temp 0.5")
    one.shows("toy | temp 0.5 | ")
    one.shows("storm, node 2 of 2")


def test_a_place_one_comes_to_is_shown(terminal: Opened, world: Path) -> None:
    """After /load, /goto and /undo the end of the text stands there again; an empty line shows what it goes on from."""
    one = terminal()
    for line in ("the boat", "and then", "/save s.json"):
        one.enter(line)
    one.shows("Saved.")
    one.enter("")
    last = session("the boat", "and then").tree.nodes[4].text
    one.shows(last + session("the boat", "and then", "").tree.nodes[5].text)
    two = terminal()
    two.enter("/load s.json")
    two.shows("Loaded. Node 4")
    two.prompted()
    assert "the boat" + session("the boat").tree.nodes[2].text in two.lines()
    assert "and then" + last in two.lines()
    assert two.colours("and then") == {"default"}
    assert two.colours(last) == {"cyan"}
    two.enter("/undo")
    two.shows("Taken back. Node 2")
    two.enter("/text 1")
    two.prompted()
    assert "the boat" + session("the boat").tree.nodes[2].text in two.lines()[two.lines().index("> /text 1") :]


def test_the_tree_and_the_heat_are_drawn(terminal: Opened) -> None:
    one = terminal()
    for line in ("the boat", "/retry", "/tree"):
        one.enter(line)
    one.shows("[main] <- here")
    assert "\u2514\u2500\u2500 2 " in "\n".join(one.lines())
    one.enter("/heat on")
    one.shows("in the model's.")
    assert one.colours("8 and more") == {"white"}
    one.enter("and")
    one.shows("| heat")


def test_ctrl_g_opens_the_editor(terminal: Opened, world: Path) -> None:
    editor = world / "editor"
    editor.write_text('#!/bin/sh\nprintf "one\\ntwo" >> "$1"\n', encoding="utf-8")
    editor.chmod(0o755)
    one = terminal("--ghost", "0", EDITOR=str(editor), VISUAL="")
    one.prompted()
    one.types("zero")
    one.child.send(CTRL_G)
    one.until(lambda: one.line() == "two")
    one.child.send("\r")
    one.prompted()
    assert text_of(one, world).startswith("zero\none\ntwo")


@pytest.mark.parametrize("editor", ["/no/such/editor", "false"])
def test_an_editor_that_does_not_work_loses_nothing(editor: str, terminal: Opened) -> None:
    one = terminal("--ghost", "0", EDITOR=editor, VISUAL="")
    one.prompted()
    one.types("a line")
    one.child.send(CTRL_G)
    one.shows("The editor did not work")
    one.until(lambda: one.line() == "> a line")


def test_several_lines(terminal: Opened, world: Path) -> None:
    one = terminal("--ghost", "0")
    one.enter("/multi")
    for line in ("one", "/two"):
        one.enter(line)
    one.until(lambda: one.lines()[-4:-2] == [". one", ". /two"] and one.line() == ".")
    one.child.send('three"""\r')
    one.prompted()
    assert text_of(one, world).startswith("one\n/two\nthree")
    one.enter("four" + ALT_ENTER + "five")
    assert "\nfour\nfive" in text_of(one, world)
    one.enter('"""six')
    one.prompted()
    one.child.send(CTRL_C)
    one.shows("The lines are dropped.")
    one.prompted()
    assert "six" not in text_of(one, world)


def test_resizing_loses_nothing(terminal: Opened, world: Path) -> None:
    """While one types, and while the model speaks."""
    one = terminal("--length", "3000")
    one.prompted()
    one.types("the boat")
    for number, size in enumerate(((10, 30), (40, 120), (8, 24), (24, 100)), 1):
        one.resize(*size)
        one.child.send("s")
        one.until(lambda number=number: f"> the boat{'s' * number}" in "\n".join(one.lines()))
    one.child.send("\x7f" * 4 + "\r")
    for size in ((10, 40), (30, 90), (24, 100)):
        seen = len(one.raw)
        one.until(lambda seen=seen: len(one.raw) > seen + 100)
        one.resize(*size)
    one.prompted()
    assert text_of(one, world) == session("the boat", length=3000).text


def test_a_paste_of_ten_thousand_characters(terminal: Opened, world: Path) -> None:
    """Typing goes on while the model still reads it; nothing of it is lost."""
    one, pasted = terminal(), "the boat and the sea\n" * 477
    assert len(pasted) > 10_000
    one.prompted()
    one.child.send(f"\x1b[200~{pasted}\x1b[201~")
    one.child.send("the end\r")
    one.prompted()
    assert text_of(one, world) == session(pasted + "the end").text
    one.child.send(CTRL_D)
    one.leaves(0)


@pytest.mark.parametrize("where", ["_stream", "ghost"])
def test_an_exception_restores_the_terminal(where: str, terminal: Opened) -> None:
    """A programming mistake, in the midst of an answer or of the thread beside the keyboard."""
    code = (
        "from charrnn.decoding.session import Session\n"
        f"def spoilt(self, *a, **k): raise ZeroDivisionError('spoilt')\nSession.{where} = spoilt\n"
    )
    one = terminal(code=code)
    one.prompted()
    one.child.send("the boat" if where == "ghost" else "the boat\r")
    one.leaves(FAILED)
    assert "spoilt" in "\n".join(one.lines())


def test_an_interrupt_from_outside_while_one_searches_loses_nothing(terminal: Opened, world: Path) -> None:
    one = terminal("--ghost", "0")
    one.enter("the boat")
    one.prompted()
    one.child.send("\x12")
    one.shows("reverse-i-search")
    one.child.kill(signal.SIGINT)
    one.prompted()
    one.enter("and then")
    one.prompted()
    assert "\nand then" in text_of(one, world)


def test_ctrl_c_in_the_editor_is_the_editors(terminal: Opened, world: Path) -> None:
    editor = world / "editor"
    editor.write_text('#!/bin/sh\ntrap "" INT\necho EDITING\nsleep 0.5\necho edited > "$1"\n', encoding="utf-8")
    editor.chmod(0o755)
    one = terminal("--ghost", "0", EDITOR=str(editor), VISUAL="")
    one.prompted()
    one.types("my line")
    one.child.send(CTRL_G)
    one.shows("EDITING")
    one.child.send(CTRL_C)
    one.until(lambda: one.line().endswith("> edited"))


def test_ctrl_c_is_no_prefix_of_other_keys(terminal: Opened) -> None:
    one = terminal("--ghost", "0")
    one.prompted()
    one.types("abc")
    one.child.send("\x00\x1b[D\x1b[D" + CTRL_C)
    one.prompted()


def test_vi_keys_where_they_are_wanted(terminal: Opened) -> None:
    one = terminal("--ghost", "0", CHARRNN_KEYS="vi")
    one.prompted()
    one.types("the boat")
    one.child.send("\x1b")
    one.child.send("0x")
    one.until(lambda: one.line() == "> he boat")


def test_up_finds_lines_that_begin_so(terminal: Opened) -> None:
    one = terminal("--ghost", "0")
    for line in ("the boat", "and the sea", "theirs"):
        one.enter(line)
    one.prompted()
    one.types("the")
    one.types(UP, "theirs")
    one.types(UP, "the boat")


def test_without_colour_no_ghost_and_no_escape_that_colours(terminal: Opened) -> None:
    one = terminal(NO_COLOR="1")
    for line in ("the boat", "/heat on", "/tree", "/retry", "/alternatives 3"):
        one.enter(line)
    answers = [line for line in one.lines() if line.startswith("the boat")]
    one.enter("/retry")
    one.shows("the boat" + session("the boat", "/retry", "/alternatives 3", "/retry").tree.nodes[-1].text)
    assert answers  # /alternatives says what they go on from, too
    one.prompted()
    one.types("the b")
    one.child.send(TAB)
    one.shows("1 ")
    assert one.line() == "> the b"
    assert not re.search(rb"\x1b\[[\d;]*[1-9][\d;]*m", one.raw)
