"""`charrnn repl` as a program: in a pipe, and in a real pseudo-terminal with a screen that understands escapes."""

from __future__ import annotations

import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy
from terminal import CTRL_C, CTRL_D, TAB, UP, Terminal, environment

from charrnn.cli import main
from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings

# pexpect forks; on newer Pythons that warns when threads are about, as BLAS's are.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")


def piped(world: Path, text: bytes, *options: str, code: str = "") -> subprocess.CompletedProcess[bytes]:
    start = ["-c", code] if code else ["-m", "charrnn"]
    command = [sys.executable, *start, "repl", "toy", "--seed", "7", "--length", "30", "--finish", "off", *options]
    return subprocess.run(command, input=text, cwd=world, env=environment(world), capture_output=True, timeout=60)


def expected_answer(*lines: str, **settings: Any) -> str:
    """The text that a session of the same lines holds at its end."""
    session = Session(toy.partner(), Settings(**{"seed": 7, "length": 30, **settings}))
    for line in lines:
        list(session.feed(line))
    return session.text


def test_a_pipe_is_a_filter(world: Path) -> None:
    done = piped(world, b"the boat\nand then\r\n\n")
    assert done.stdout.decode() == expected_answer("the boat", "and then") + "\n" + _continuation("the boat", "and then") + "\n"
    assert done.stderr == b""
    assert done.returncode == 0


def _continuation(*lines: str) -> str:
    return expected_answer(*lines, "").removeprefix(expected_answer(*lines))


def test_a_last_line_without_an_end_counts_and_the_seed_is_told(world: Path) -> None:
    command = [sys.executable, "-m", "charrnn", "repl", "--length", "30", "--finish", "off"]
    done = subprocess.run(command, input=b"the boat", cwd=world, env=environment(world), capture_output=True, timeout=60)
    seed = re.fullmatch(r"seed (\d+)\n", done.stderr.decode())
    assert seed
    assert done.stdout.decode() == expected_answer("the boat", seed=int(seed.group(1))) + "\n"


def test_a_pipe_brings_only_text_to_stdout_and_no_escape_anywhere(world: Path) -> None:
    typed = "/help\n/set temp 0.5\n/set temp hot\n/nonsense\n/show\n\u00e9\x1b[31m\n/bye\nnever read\n"
    done = piped(world, typed.encode() + b"\xff\n")
    assert done.stdout.decode().startswith("\u00e9\x1b[31m")  # exact: it is what was typed
    assert done.stdout.count(b"\x1b") == 1
    assert b"\x1b" not in done.stderr
    for word in ("/export FILE", "temp is 0.5", "'hot'", "There is no command /nonsense", "lstm 2x16", "U+00E9", "U+001B"):
        assert word in done.stderr.decode()
    assert b"never" not in done.stdout
    assert done.returncode == 0


def test_bytes_that_are_no_text_and_a_byte_order_mark(world: Path) -> None:
    assert piped(world, b"\xef\xbb\xbfa\xffb").stdout.decode().startswith("a\ufffdb")


def test_a_pipe_imports_neither_torch_nor_a_line_editor(world: Path) -> None:
    code = (
        "import sys; from charrnn.cli import main; code = main.run(sys.argv[1:]);"
        "print([n for n in ('torch', 'prompt_toolkit', 'rich.console') if n in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    done = piped(world, b"the boat\n", code=code)
    assert done.stderr.decode() == "[]\n"
    assert done.returncode == 0


def test_a_reader_that_leaves_is_no_error(world: Path) -> None:
    reader = f'exec 2>err; (yes "the boat" | "{sys.executable}" -m charrnn repl toy --seed 7) | head -n 1'
    done = subprocess.run(["sh", "-c", reader], cwd=world, env=environment(world), capture_output=True, timeout=60)
    assert done.stdout.startswith(b"the boat")
    assert b"Error" not in (world / "err").read_bytes()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--temp", "nan"], "--temp"), (["--length", "0"], "--length"), (["--length", "inf"], "--length"),
        (["--stop", ""], "--stop"), (["--seed", "-1"], "--seed"), (["--regex", "("], "--regex '('"),
        (["--acrostic", "Q1"], "holds '1'"),
        (["--lines", "2", "--max-lines", "1"], "--max-lines allows 1"), (["--bias", "xyz=1"], "not one token"),
    ],
)  # fmt: skip
def test_wrong_options_are_usage_errors(options: list[str], words: str, world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["repl", "toy", "--checkpoints", str(world / "checkpoints"), *options]) == 2
    assert words in capsys.readouterr().err


def test_the_shape_of_an_answer(world: Path) -> None:
    done = piped(world, b"the boat\n/set acrostic xy\nand then\n", "--lines", "2", "--length", "2000")
    assert done.stderr == b"acrostic is xy\n"
    first, second, *others = done.stdout.decode().splitlines()
    assert first.startswith("the boat")
    assert second.strip()
    assert others[0] == "and then"
    assert [line[0] for line in others[1:]] == ["x", "y"]


def test_an_answer_ends_with_its_line_and_a_reply_with_its_word(world: Path) -> None:
    for command, finish in (("repl", "line"), ("chat", "word")):
        asked = [
            sys.executable,
            "-m",
            "charrnn",
            command,
            "toy",
            "--seed",
            "7",
            *(["--turns", "a,b"] if command == "chat" else []),
        ]
        done = subprocess.run(asked, input=b"/set finish\n", cwd=world, env=environment(world), capture_output=True, timeout=60)
        assert f"finish is {finish}" in done.stderr.decode()
    assert piped(world, b"the boat\n", "--finish", "word").stdout.decode() == expected_answer("the boat", finish="word") + "\n"


def test_what_was_said_can_be_looked_at(world: Path) -> None:
    """/text is the text, on stdout; where one comes to another place only a terminal shows what stands there."""
    done = piped(world, b"the boat\n/text\n/undo\n/redo\n")
    assert done.stdout.decode() == 2 * (expected_answer("the boat") + "\n")


def test_options_arrive(world: Path) -> None:
    done = piped(
        world, b"/set\n", "--temp", "0.25", "--top-k", "9", "--stop", "a b", "--stop", "\n", "--repetition-penalty", "1.5"
    )
    values = dict(re.findall(r"^(\w+) +(\S.*?)(?:  |$)", done.stderr.decode(), re.MULTILINE))
    assert {name: values[name] for name in ("temp", "top_k", "repetition_penalty", "stop", "length", "seed")} == {
        "temp": "0.25", "top_k": "9", "repetition_penalty": "1.5", "stop": r'"a b" "\n"', "length": "30", "seed": "7",
    }  # fmt: skip


def test_typing_gives_a_completion_in_another_colour_and_ctrl_d_leaves(terminal: Callable[..., Terminal]) -> None:
    one = terminal()
    one.prompted()
    assert "toy: lstm 2x16" in one.lines()[0]
    assert "/help" in one.lines()[0]
    one.enter("the boat")
    one.shows("> " + expected_answer("the boat"))
    row = next(y for y, line in enumerate(one.screen.display) if line.startswith("> the boat"))
    assert {one.screen.buffer[row][x].fg for x in range(2, 10)} == {"default"}
    assert {one.screen.buffer[row][x].fg for x in range(10, 38)} == {"cyan"}
    one.enter("")
    one.shows(_continuation("the boat"))
    one.prompted()
    one.child.send(CTRL_D)
    one.leaves(0)


def test_ctrl_c_stops_the_stream_and_not_the_session(terminal: Callable[..., Terminal], world: Path) -> None:
    one = terminal("--length", "100000")
    for attempt in range(2):  # twice: the line editor in between must not take the key away for good
        one.enter(f"the boat {'abc'[attempt]}")
        seen = len(one.raw)
        one.until(lambda seen=seen: len(one.raw) > seen + 500)
        one.child.send(CTRL_C)
        one.prompted()
    one.enter("/export poem.txt")
    one.shows("Written to poem.txt")
    text = (world / "poem.txt").read_text(encoding="utf-8")
    assert "the boat a" in text
    assert "\nthe boat b" in text
    assert len(text) < 150_000
    whole = Session(toy.partner(), Settings(seed=7, length=len(text)))
    list(whole.feed("the boat a"))
    assert whole.text.startswith(text[: text.index("\nthe boat b")])
    one.enter("/bye")
    one.leaves(0)


def test_ctrl_c_at_the_prompt_drops_the_line_and_then_says_how_to_leave(terminal: Callable[..., Terminal]) -> None:
    one = terminal()
    one.prompted()
    one.child.send("half a line")
    one.shows("> half a line")
    one.child.send(CTRL_C)
    one.prompted()
    assert "leaves" not in "\n".join(one.lines())
    one.child.send(CTRL_C)
    one.shows("Ctrl-D or /bye leaves.")
    one.prompted()
    one.child.send(CTRL_D)
    one.leaves(0)


def test_tab_completes_commands_settings_and_files(terminal: Callable[..., Terminal], world: Path) -> None:
    (world / "poems-of-mine").mkdir()
    one = terminal()
    for typed, shown in (
        ("/hel", "> /help"),
        ("/set rep", "> /set repetition_penalty"),
        ("/load poems-", "> /load poems-of-mine"),
    ):
        one.prompted()
        one.child.send(typed + TAB)
        one.shows(shown)
        one.child.send(CTRL_C)
    one.prompted()
    one.child.send("/set top" + TAB)
    one.shows("> /set top_")
    one.child.send(TAB)
    one.shows("top_k top_p")


def test_history_lasts_and_nobody_else_can_read_it(terminal: Callable[..., Terminal], world: Path) -> None:
    one = terminal()
    one.enter("a line to remember")
    one.prompted()
    one.child.send(CTRL_D)
    one.leaves(0)
    (file,) = (path for path in (world / "state").rglob("*") if path.is_file())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    two = terminal()
    two.prompted()
    two.child.send(UP)
    two.shows("> a line to remember")


def test_no_history_where_none_is_wanted(terminal: Callable[..., Terminal], world: Path) -> None:
    one = terminal(CHARRNN_NOHISTORY="1")
    one.enter("a line to forget")
    one.prompted()
    one.child.send(CTRL_D)
    one.leaves(0)
    assert not (world / "state").exists()


def test_a_home_that_cannot_be_written_costs_only_the_history(terminal: Callable[..., Terminal], world: Path) -> None:
    (world / "state").write_text("a file where a folder should be", encoding="utf-8")
    one = terminal()
    one.enter("the boat")
    one.shows(expected_answer("the boat"))


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colour_the_answer_stands_on_a_line_of_its_own(env: dict[str, str], terminal: Callable[..., Terminal]) -> None:
    one = terminal(**env)
    one.shows("/help tells more.")
    one.until(lambda: one.lines()[-1].startswith(">"))
    one.child.send("the boat\r")
    answer = expected_answer("the boat").removeprefix("the boat")
    one.until(lambda: answer in one.lines())
    assert one.lines()[one.lines().index(answer) - 1].startswith("> the boat")
    assert not re.search(rb"\x1b\[[\d;]*[1-9][\d;]*m", one.raw)
    if env.get("TERM") == "dumb":
        assert b"\x1b" not in one.raw
    one.until(lambda: one.line() == ">")
    one.child.send(CTRL_D)
    one.until(lambda: not one.read())


def test_what_is_typed_and_pasted_cannot_act_on_the_terminal(terminal: Callable[..., Terminal]) -> None:
    one = terminal()
    one.prompted()
    one.child.send("\x1b[200~red \x1b[31mand\nblue\x1b[201~\r")
    one.shows("> red \u241b[31mand\nblue")
    one.prompted()


def test_a_long_paste_is_one_line(terminal: Callable[..., Terminal], world: Path) -> None:
    one, pasted = terminal(), "the boat and the sea\n" * 100
    one.prompted()
    one.child.send(f"\x1b[200~{pasted}\x1b[201~\r")
    one.prompted()
    one.enter("/export poem.txt")
    one.shows("Written to poem.txt")
    text = (world / "poem.txt").read_text(encoding="utf-8")
    assert text.startswith(pasted)
    assert text.rstrip("\n") == expected_answer(pasted).rstrip("\n")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_kill_restores_the_terminal(streaming: bool, terminal: Callable[..., Terminal]) -> None:
    one = terminal("--length", "100000")
    one.prompted()
    if streaming:
        one.enter("the boat")
        seen = len(one.raw)
        one.until(lambda: len(one.raw) > seen + 500)
    one.child.kill(signal.SIGTERM)
    one.leaves(143)
