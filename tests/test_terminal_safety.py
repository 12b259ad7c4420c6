"""Data never drives the terminal: each place that writes is given strings made to move cursors, colours and clipboards.

The places draw on streams that say they are a terminal. What the program itself makes is known by name (OURS), and the
strings hold none of it; whatever else could act in what arrives came from the data.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import toy
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from terminal import TAB, Terminal
from test_console import acts_on_a_terminal
from test_panel import started

from charrnn.cli import bench, confusion, console, heat, loading, main, prompt, sample, sessions, speeds
from charrnn.cli import classify as tellers
from charrnn.cli import conclusion as finale
from charrnn.cli.helper import SessionHelper
from charrnn.cli.panel import Panel
from charrnn.cli.progress import Lines
from charrnn.cli.screen import Screen
from charrnn.decoding import events
from charrnn.decoding.session import Session
from charrnn.runs import model as models
from charrnn.runs import registry
from charrnn.training import step_speed
from charrnn.training.events import Finished, Sampled

SOAK = 10_000  # strings through each place
OURS = re.compile(r"\r?\x1b\[(?:(?:0|[1-3]|3[1-7]|41|9[01])(?:;(?:[1-3]|3[1-7]|41|9[01]))*m|1A|2K|\?25[lh])")
MARKUP = ("[red]", "[/INST]", "[/]", "[link=http://e.vil]", "[bold]x[/bold]", "list[int]", ":smile:", "[b")
ACTING = (
    "\x1b[5;44m", "\x1b[38;5;201m", "\x1b[2J", "\x1b[H", "\x1b[6n", "\x1b[?1049h", "\x1b]0;title\x07", "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]8;;http://e.vil\x1b\\", "\x1bPq\x1b\\", "\x1bc", "\x1b", "\x9b5m", "\x9d0;t\x9c", "\x90", "\x85", "\x07", "\x08", "\r",
    "\x0b", "\x0c", "\x0e", "\x7f", "\0", "\u202e", "\u2066", "\u2069", "\u200f", "\u061c", "\ud800", "\udc9b", "\udcff",
)  # fmt: skip
ODD = (
    "\u200b", "\u200d", "\ufeff", "\u2028", "\xad", "漢字", "e\u0301", "👩\u200d👧", "\\x1b[5m", "%s", "{0}", "'", '"', "a b",
    "\n", "\t", "/", "@", "=",
)  # fmt: skip
ANY = st.characters(codec=None, categories=None)  # type: ignore[arg-type]
HOSTILE = st.lists(st.one_of(*map(st.sampled_from, (MARKUP, ACTING, ODD)), ANY), max_size=10).map("".join)


class Tty(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def streams(kind: type[io.TextIOWrapper]) -> Iterator[io.BytesIO]:
    """Both output streams of the process as one of a kind, for a moment."""
    drawn, before = io.BytesIO(), (sys.stdout, sys.stderr)
    sys.stdout = kind(drawn, "utf-8", write_through=True)
    sys.stderr = kind(drawn, "utf-8", "backslashreplace", write_through=True)
    try:
        yield drawn
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.detach()
        sys.stdout, sys.stderr = before


# --- the places that write


def messages(text: str) -> None:
    console.error(text, text)
    for write in (console.note, console.say, console.suggest):
        write(text)


def output(text: str) -> None:
    with console.Output() as out:
        out.write(text)
        for character in text:
            out.write(character)


def table(text: str) -> None:
    console.table(("name", "value"), [[text, text], ["", text]], right=("value",), alarming=[True, False])


def panel(text: str) -> None:
    begun = started(name=text, notes=(text,), device=text)
    with Panel(console.rich_console(sys.stderr)) as drawn:
        for event in (begun, Sampled(1, text), Sampled(2, text)):
            drawn.feed(event)


def lines(text: str) -> None:
    listener = Lines()
    for event in (started(name=text, notes=(text,), device=text), Sampled(1, text)):
        listener.feed(event)


def conclusion(text: str) -> None:
    folder = Path("checkpoints") / text.replace("/", "").replace("\0", "")
    done = Finished(5, "done", 5, 1.0, 1.0, 1.0, folder, text)
    finale.tell(started(name=text, command=text), done, Path(text.replace("\0", "")))
    finale.tell(started(name=text), replace(done, reason="interrupted"), folder)


def said(text: str) -> list[events.Output]:
    pieces = tuple(events.Heated(text, bits) for bits in (0.5, 3.0, 9.0))
    place = events.Place(1, False, text, (text,), here=True, left_out=3)
    family = events.Family((events.Place(0, True, text, sides=((place, place), (place,))), place))
    return [
        events.Typed(text), events.Typed(text, pieces), events.Text(text), events.Text(text, 5.0), events.Resumed(text),
        events.Recalled(pieces, pieces), events.Passage((events.Part(True, text), events.Part(False, text)), asked=True),
        events.Notice(text), events.Problem(text, text), events.Listing(((text, text, text),) * 2),
        events.Alternatives((text, text)), family,
    ]  # fmt: skip


def screen(text: str, *, in_colour: bool = True) -> None:
    with console.Output() as out:
        drawn = Screen(out, in_colour=in_colour, repeat_lines=True)
        drawn.show(said(text))
        drawn.typed(text)


def plain_screen(text: str) -> None:
    screen(text, in_colour=False)


def coloured(text: str) -> None:
    console.rich_console(sys.stdout).print(heat.coloured([(text, 0.1), (text, 20.0)]))  # type: ignore[list-item]


def editor(text: str) -> None:
    """What the line editor is given to show, apart from what it makes visible by itself."""
    session = Session(replace(toy.partner(), name=text))
    session.tree.branch, session.block = text, [text]
    helper = SessionHelper(session, erased=True)
    print(helper.bar(), helper.prompt(), prompt._choice((text, 0.5)), sep="\n")


def bench_tables(text: str) -> None:
    bench._show([], [], text)
    bench._show_decoding([], SimpleNamespace(processor=text, torch=text))  # type: ignore[arg-type]
    for device in ("cpu", "cuda"):
        row = step_speed.Row("lstm", 1, 8, 4, 2, 6, "fp32", device, 1, 1.0, 1.0, failed="out of memory")
        speeds.show([row], SimpleNamespace(processor=text, accelerator=text, torch=text))  # type: ignore[arg-type]


def model_of(text: str) -> models.Model:
    units, partner = toy.tokenizer(), toy.partner()
    provenance = {text: text, "corpus": {"names": [text], "characters": 5}, "settings": {text: [text, {text: text}]}}
    path = Path(text.replace("\0", ""))
    return models.Model(
        toy.config(units), units, {text: toy.weights(units)["output.bias"]}, partner.start, provenance, text, path, text
    )


def shown_model(text: str) -> None:
    """`inspect`, its JSON, the greeting and the card of /show, and `runs`, of a model that somebody sent."""
    run = registry.RunInfo(
        text, Path("x"), None, 5, {"tokenizer": text, "model": {"cell": text, "layers": text, "task": text}}, "", 1.0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load", lambda *given: model_of(text))
        patch.setattr(registry, "listing", lambda root: [run, replace(run, problem=text)])
        for words in (
            ["inspect", "x"], ["inspect", "x", "--json"], ["inspect", "x", "--weights"], ["inspect", "x", "--weights", "--json"],
            ["inspect", "x", "--dump", "-"], ["runs"], ["runs", "--json"],
        ):  # fmt: skip
            assert main.run(words) == 0
    console.say(sessions.greeting(model_of(text), ""))
    screen_of_card = tuple(sessions._card(model_of(text)))
    with console.Output() as out:
        Screen(out, in_colour=True, repeat_lines=True).show([events.Listing(screen_of_card)])
    sample._tell_unknown(model_of(text), text)


def told_labels(text: str) -> None:
    """`classify`, and the tables of `eval` and `train`, of a model whose labels somebody else has named."""
    names = (text, text + "2")
    model = SimpleNamespace(labels=names)
    with console.Output() as out:
        for tell in (tellers._tell, tellers._tell_alone, tellers._tell_json):
            tell(out, tellers.Case(text, np.zeros(1), text), [(text, 0.5), (names[1], 0.25)], model)  # type: ignore[arg-type]
    found = confusion.Confusion.of(names, np.array([0, 1, 1]), np.array([0, 0, 1]))
    for stream in (sys.stdout, sys.stderr):
        assert confusion.shown(found, stream) == ""
    console.say(confusion.tables.plain(confusion.label_table(found)))


def argument(text: str) -> str:
    """`text` without what no argument and no variable can hold."""
    return re.sub("[\ud800-\udc7f\udd00-\udfff]", "?", text)


def usage(text: str) -> None:
    """Values, names of options and commands, paths and runs that there are none of."""
    text = argument(text)
    wrong = (
        [text], [f"--{text}"], ["bench", text], ["sample", f"--{text}"], ["sample", f"--temp={text}"], ["sample", "--keys", text],
        ["repl", f"--finish={text}"], ["sample", "--length", text], ["train", f"--tokenizer={text}"], ["chat", f"--turns={text}"],
        ["sample", f"--bias={text}"], ["sample", f"--regex=({text}"], ["bench", "sample", "--shape", text],
        ["eval", f"--split={text}"], ["sample", "--", text], ["eval", "--", text, text], ["train", f"--resume={text}"],
        ["sample", f"--config={text}"], ["inspect", f"--checkpoints={text}"], ["plot", "--", text],
        ["plot", f"--output={text}"], ["bench", "train", "--", text],
        ["sample", "x", text, text], ["sample", f"--prompt=@{text}"],
    )  # fmt: skip
    for words in wrong:
        if not {"-h", "--help", "--version", "-"} & set(words):
            assert main.run(words) in (0, 1, 2, 65), words


def environment(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CHARRNN_TEMP", "CHARRNN_CHECKPOINTS", "CHARRNN_KEYS", "CHARRNN_TIE_WEIGHTS", "CHARRNN_CELL"):
            patch.setenv(name, argument(text).replace("\0", ""))
        for words in (["sample"], ["train", "x"], ["runs"], ["repl", "--temp", "1"], ["repl", "--temp", "1", "--keys", "vi"]):
            assert main.run(words) in (0, 1, 2, 65)


def settings_file(text: str) -> None:
    quoted = json.dumps(text, ensure_ascii=False)
    for line in (f"{quoted} = 1", f"temp = {quoted}", f"keys = {quoted}", f"turns = {quoted}", f"stop = [{quoted}, 1]", text):
        Path("settings.toml").write_bytes(line.encode("utf-8", "replace"))
        main.run(["chat", "--config", "settings.toml", "none"])


PLACES = (
    messages, output, table, panel, lines, conclusion, screen, plain_screen, coloured, editor, bench_tables, shown_model,
    told_labels, usage, environment, settings_file,
)  # fmt: skip


REPEATING = (environment, settings_file)  # within quotation marks, where Python itself makes it visible


def drawn_on_a_terminal(place: Callable[[str], None], text: str) -> str:
    with streams(Tty) as drawn:
        place(text)
        return drawn.getvalue().decode("utf-8")


def examine(place: Callable[[str], None], count: int) -> None:
    """Let a place write `count` strings, none of which may act or lose its markup."""

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(HOSTILE)
    def check(text: str) -> None:
        assume(not OURS.search(text))
        shown = OURS.sub("", drawn_on_a_terminal(place, text))
        assert not [character for character in shown if acts_on_a_terminal(character)], ascii(shown)
        if len(text) <= 38 and "\t" not in text and place not in (settings_file, environment):  # more is cut short, or folded
            assert all(markup in shown for markup in MARKUP if markup in text), ascii(shown)

    check()


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A wide terminal with colours, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"NO_COLOR": "", "TERM": "xterm-256color", "COLUMNS": "1000", "LINES": "60"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize("count", [15, pytest.param(SOAK, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_no_place_lets_data_act_on_a_terminal(place: Callable[[str], None], count: int) -> None:
    examine(place, count)


@pytest.mark.usefixtures("colours")
@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_each_place_shows_what_it_is_given_and_would_be_found_out(
    place: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: every place does write the data, and would let it act if nothing were made visible."""
    assert "needle" in drawn_on_a_terminal(place, "needle")
    monkeypatch.setattr(console, "_HIDDEN", re.compile("(?!)"))
    shown = OURS.sub("", drawn_on_a_terminal(place, "a\x1b[5;44mb\x07"))
    assert ("\x1b[5;44m" in shown) is (place not in REPEATING)


# --- a line editor, a shell, and no terminal at all


SHOWN_BY_THE_EDITOR = """
from charrnn.decoding.draft import Choice
from charrnn.decoding.session import Session
from charrnn.decoding.tree import Partner
bad = "a\\x1b[5;44mb\\x1b]52;c;ZXZpbA==\\x07\\x9b5m\\u202e\\ud800[/INST]"
Session.ghost = lambda self, line, cancelled: bad
Session.next_tokens = lambda self, line, cancelled: [Choice(bad, 0.5)] * 2
made = Partner.__init__
Partner.__init__ = lambda self, *given, **named: made(self, *given[:3], "name " + bad, *given[4:], **named)
"""
EVIL = re.compile(rb"\x1b\[5;44m|\x1b\]52|\x07|\x9b5m|\xe2\x80\xae|\xed\xa0\x80")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_what_the_line_editor_shows_cannot_act(terminal: Callable[..., Terminal], world: Path) -> None:
    """Its bar, ghost text, next tokens, lines and the names of files that it completes."""
    for name in ("evil\x1b[5;44m1", "evil\x1b]52;c;ZXZpbA==\x072", "evil\u202e3"):
        (world / name).write_bytes(b"")
    one = terminal(code=SHOWN_BY_THE_EDITOR)
    one.prompted()
    one.shows("name a")
    one.child.send("the b")
    one.until(lambda: b"[/INST]" in one.raw.partition(b"the b")[2])
    one.child.send(TAB)
    one.shows("1 aU+001B")
    one.child.send("\x15/load evil" + TAB + TAB)
    one.shows("evil\u241b[5;44m1")
    one.until(lambda: one.line().startswith("> /load evil"))
    one.child.send("\x15\x1b[31mred\r")  # as typed, not as pasted: a key that means nothing
    one.shows("> red")
    for line in ("/text", "/tree", "/show"):
        one.enter(line)
    one.prompted()
    assert not EVIL.search(one.raw)


def test_a_run_of_a_hostile_name_is_not_offered_to_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("toy", "to\x1b[5;44m", "to\nfile,x", "to\u202e", "to\udcff"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / models.MODEL_FILE).write_bytes(b"")
    for name, value in {"_CHARRNN_COMPLETE": "bash_complete", "COMP_WORDS": "charrnn sample to", "COMP_CWORD": "2"}.items():
        monkeypatch.setenv(name, value)
    with streams(io.TextIOWrapper) as drawn:
        main.run([])
        assert drawn.getvalue() == b"plain,toy\n"


@settings(max_examples=30, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(text=HOSTILE)
def test_off_a_terminal_the_product_is_exact_and_the_rest_is_visible(text: str, world: Path) -> None:
    text = text.encode("utf-8", "replace").decode().lstrip("@").replace("-", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        asked = ["sample", "toy", "--seed", "1", "--length", "3", "--prompt", text]
        product, told = io.BytesIO(), io.BytesIO()
        patch.setattr("sys.stdout", io.TextIOWrapper(product, "utf-8", write_through=True))
        patch.setattr("sys.stderr", io.TextIOWrapper(told, "utf-8", "backslashreplace", write_through=True))
        assert main.run(asked) == 0
        assert product.getvalue().startswith(text.encode())
        product.seek(0)
        product.truncate()
        assert main.run([*asked, "--json"]) == 0
        assert json.loads(product.getvalue())["prompt"] == text
        assert not [character for character in told.getvalue().decode() if acts_on_a_terminal(character)]
