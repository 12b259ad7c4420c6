"""`charrnn chat` and what else goes on from a first text: in a pipe, in a terminal, with models that know turns or not."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import toy
from commands import Run
from terminal import CTRL_C, CTRL_D, Terminal, environment

from charrnn.cli import chat
from charrnn.decoding.engine import Engine
from charrnn.decoding.events import Text
from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings
from charrnn.decoding.tree import Partner
from charrnn.decoding.turns import STANDARD, Turns
from charrnn.runs import model as models
from charrnn.text.tokenizers import EOS

# pexpect forks; on newer Pythons that warns when threads are about, as BLAS's are.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
CONVERSATIONS = [
    ("hello", "hi, who are you"), ("who are you", "a small net"), ("how are you", "well, and you"), ("bye", "good night"),
]  # fmt: skip


def told() -> Partner:
    """A partner that knows one conversation by heart."""
    units = toy.tokenizer("talk")
    lines = "".join(f"> {you}\n< {model}\n" for you, model in CONVERSATIONS)
    return Partner(toy.Teller(lines, units), units, (EOS,), "told", "d" * 64, "newline")


@pytest.fixture
def talker(world: Path) -> Path:
    """`world` with a run that has learnt turns and always says "ok"."""
    shape, weights, units = toy.talker()
    folder = world / "checkpoints" / "talker"
    folder.mkdir()
    about = {"name": "talker", "start": [EOS], "provenance": {}}
    models.save(folder / models.MODEL_FILE, shape, units, weights, about)
    return world


def piped(world: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "charrnn", *options]
    return subprocess.run(command, input=text, cwd=world, env=environment(world), capture_output=True, text=True, timeout=60)


def reply(session: Session, line: str) -> str:
    return "".join(event.text for event in session.feed(line) if isinstance(event, Text))


def test_the_state_is_carried_through_the_conversation() -> None:
    """Each answer is the one that stands after all that was said before it."""
    session = Session(told(), Settings(temp=0), STANDARD)
    for you, model in CONVERSATIONS:
        assert reply(session, you) == model
    assert session.text == "".join(f"> {you}\n< {model}\n" for you, model in CONVERSATIONS).removesuffix("\n")
    list(session.feed("/undo"))
    list(session.feed("/undo"))
    assert reply(session, "how are you") == "well, and you"
    list(session.feed("/reset"))
    assert reply(session, "hello") == "hi, who are you"


def test_a_stopped_answer_goes_on_with_an_empty_line() -> None:
    session = Session(told(), Settings(temp=0), STANDARD)
    for count, _ in enumerate(session.feed("hello")):
        if count == 4:
            session.cancel()
    assert session.text.endswith("< hi, ")
    assert reply(session, "") == "who are you"
    assert reply(session, "who are you") == "a small net"


def test_who_knows_turns() -> None:
    shape, weights, units = toy.talker()
    talker = Partner(Engine(shape, weights), units, (EOS,), "talker", "d" * 64, "newline")
    assert chat.knows_turns(talker, STANDARD)
    assert not chat.knows_turns(talker, Turns("> ", "> "))
    assert not chat.knows_turns(talker, Turns("You: ", "It: "))
    assert not chat.knows_turns(toy.partner("talk"), STANDARD)
    assert not chat.knows_turns(toy.partner(), STANDARD)


def test_a_pipe_gives_a_reply_for_each_line(talker: Path) -> None:
    done = piped(talker, "hello\nhow are you\n/undo\n\n/bye\n", "chat", "talker", "--seed", "1")
    assert done.stdout == "ok\nok\n"
    assert "Taken back. Node 2: 12 characters, 1 line of yours" in done.stderr
    assert done.returncode == 0


def test_options_and_the_default_temperature(talker: Path) -> None:
    done = piped(talker, "/set temp\n/set ghost\n/show\n", "chat", "talker")
    assert re.fullmatch(r"seed \d+\ntemp is 0.5\nghost is 40\n(?s:.*)", done.stderr)
    assert "'> ,< '" in done.stderr
    hot = piped(talker, "/set temp\n", "chat", "talker", "--temp", "0.9", "--seed", "1")
    assert hot.stderr == "temp is 0.9\n"


def test_a_model_that_was_not_trained_on_conversations_needs_turns(talker: Path) -> None:
    refused = piped(talker, "hello\n", "chat", "toy")
    assert refused.returncode == 2
    assert "not trained on conversations" in refused.stderr
    assert "--turns" in refused.stderr
    assert "charrnn repl toy" in refused.stderr
    allowed = piped(talker, "hello\n", "chat", "toy", "--turns", "a: ,b! ", "--seed", "1")
    assert allowed.returncode == 0
    assert "not trained on lines that begin with 'a: ' and 'b! '; it has never seen ':' '!'" in allowed.stderr
    session = Session(toy.partner(), Settings(seed=1, temp=0.5), Turns("a: ", "b! "))
    assert allowed.stdout == reply(session, "hello") + "\n"
    assert piped(talker, "", "chat", "talker", "--turns", "> ").returncode == 2


def test_without_a_run_it_is_one_that_has_learnt_turns(talker: Path) -> None:
    about = {"name": "later", "start": [1], "provenance": {}, "saved": 2e9}
    folder = talker / "checkpoints" / "later"
    folder.mkdir()
    units = toy.tokenizer()
    models.save(folder / models.MODEL_FILE, toy.config(units), units, toy.weights(units), about)
    (talker / "checkpoints" / "broken").mkdir()
    (talker / "checkpoints" / "broken" / models.MODEL_FILE).write_bytes(b"no model")
    assert piped(talker, "hello\n", "chat", "--seed", "1").stdout == "ok\n"
    shown = piped(talker, "/show\n", "chat", "--seed", "1", "--turns", "You: ,It: ").stderr
    assert "later was not trained on" in shown


def test_turns_of_another_form_that_the_model_knows_are_no_warning(talker: Path) -> None:
    done = piped(talker, "hello\n", "chat", "talker", "--turns", "x,<", "--seed", "1")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_conversation_is_saved_as_one(talker: Path) -> None:
    assert piped(talker, "hello\n/save talk.json\n", "chat", "talker").returncode == 0
    again = piped(talker, "/load talk.json\n/export talk.txt\n", "chat", "talker")
    assert "Loaded." in again.stderr
    assert (talker / "talk.txt").read_text(encoding="utf-8") == "> hello\n< ok\n"
    assert "is a chat" in piped(talker, "/load talk.json\n", "repl", "talker").stderr
    assert piped(talker, "hello\n/save lines.json\n", "repl", "talker", "--length", "5").returncode == 0
    assert "saved by `charrnn repl`" in piped(talker, "/load lines.json\n", "chat", "talker").stderr


def test_a_conversation_in_a_terminal(terminal: Callable[..., Terminal], talker: Path) -> None:
    one = terminal(command=("chat", "talker", "--seed", "1"))
    one.prompted()
    assert "Say something" in one.lines()[0]
    one.enter("hello")
    one.until(lambda: "ok" in one.lines())
    rows = one.lines()
    assert rows[rows.index("ok") - 1] == "> hello"
    assert one.colours("ok") == {"cyan"}
    one.enter('"""two')
    one.prompted()
    one.child.send(CTRL_C)
    one.enter("/retry")
    one.enter("/tree")
    one.shows("[main] <- here")
    one.prompted()
    one.child.send(CTRL_D)
    one.leaves(0)


def test_training_tells_how_to_talk(run: Run, trained: Path) -> None:
    """After conversations it names chat, after verse it does not."""
    text = "> hello\n< hi, who are you\n> a friend\n< then sit down\n\n"
    (trained / "talk.txt").write_text(text * 60, encoding="utf-8")
    options = ("--hidden-size", "32", "--window", "32", "--batch-size", "8", "--threads", "1", "--seed", "1")
    done = run("train", "talk.txt", "--steps", "150", *options)
    assert done.code == 0, done.err
    assert "talk with it: charrnn chat talk" in done.err
    assert "talk with it" not in run("train", "verse.txt", "--steps", "2", *options).err


# --- sample -i


def test_sample_goes_on_as_a_session(world: Path) -> None:
    options = ("toy", "--seed", "7", "--prompt", "the boat", "--temp", "0.6", "--length", "40")
    first = piped(world, "", "sample", *options).stdout
    done = piped(world, "and then\n/set length\n", "sample", *options, "-i")
    session = Session(toy.partner(), Settings(seed=7, temp=0.6, length=40))
    list(session.feed("the boat"))
    list(session.feed("/set finish line"))
    list(session.feed("and then"))
    assert done.stdout.removesuffix("\n") == session.text.removesuffix("\n")
    assert done.stdout.startswith(first)
    assert done.stderr == "length is 40\n"


def test_the_first_text_has_the_length_of_a_sample_and_the_answers_that_of_answers(world: Path) -> None:
    done = piped(world, "/set length\n", "sample", "toy", "--seed", "7", "-i", "--prompt", "/bye")
    assert done.stderr.endswith("length is 200\n")
    assert done.stdout.startswith("/bye")
    assert len(done.stdout.rstrip("\n")) == len("/bye") + 500


@pytest.mark.parametrize("options", ["--num 2", "--json", "--best-of 2", "--beam 2", "--length inf", "-o x", "--until-end"])
def test_what_a_session_cannot_begin_with(options: str, run: Run) -> None:
    done = run("sample", "-i", *options.split())
    assert done.code == 2
    assert "-i goes on with one text" in done.err


def test_a_prompt_from_stdin_and_lines_from_stdin_are_one_too_many(run: Run) -> None:
    done = run("sample", "-i", "--prompt", "-")
    assert done.code == 2
    assert "--prompt - reads stdin" in done.err


def test_sample_i_in_a_terminal(terminal: Callable[..., Terminal]) -> None:
    one = terminal(command=("sample", "toy", "--seed", "7", "--length", "30", "--prompt", "the boat", "-i"), CHARRNN_KEYS="vi")
    session = Session(toy.partner(), Settings(seed=7, length=30))
    list(session.feed("the boat"))
    one.shows("> " + session.text)
    one.prompted()
    one.types("the boat")
    one.child.send("\x1b")
    one.child.send("0x")
    one.until(lambda: one.line().startswith("> he boat"))
    one.child.send("dd")
    one.prompted()
    one.child.send(CTRL_D)
    one.leaves(0)


# --- score --heat


def test_heat_off_a_terminal_is_two_columns(run: Run) -> None:
    rows = [line.split("\t") for line in run("score", "verse", "the lamps", "--heat").out.splitlines()]
    assert "".join(token.strip('"') for _, token in rows) == "the lamps"
    mean = sum(float(bits) for bits, _ in rows) / len("the lamps")
    assert f"bits per character  {mean:.3f}" in run("score", "verse", "the lamps").out
    records = run("score", "verse", "the lamps", "--heat", "--json").out.splitlines()
    assert len(records) == len(rows)
    assert records[0].startswith('{"token": "t", "bits": ')


def test_heat_in_a_terminal_colours_the_text(terminal: Callable[..., Terminal]) -> None:
    one = terminal(command=("score", "toy", "the boat\nqq[b]", "--heat"))
    one.shows("bits per character")
    assert "the boat" in one.lines()
    assert "qq[b]" in one.lines()
    assert "8 and more" in one.lines()[0]
    assert len(one.colours("the boat")) > 1
