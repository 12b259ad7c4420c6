"""Every command in every surrounding, and every option with every value that cannot be meant.

Each command line runs in a forked child with the signal handlers of the real program. What the commands and options
are is asked of the program, so that a new one is covered without a line here.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import pytest
import toy
from commands import Run, runner
from forked import STREAMS, Child, Ended, command, forked

import charrnn.cli.prompt
import charrnn.cli.sessions
import charrnn.cli.writing
import charrnn.decoding.session  # noqa: F401  # what the children need is imported here, once
from charrnn.cli import options, speeds
from charrnn.cli.commands import charrnn as group
from charrnn.runs import model as models
from charrnn.runs.metrics import METRICS_FILE

LINES = b"the boat\n/show\n\n"
TYPED = b"the boat\n/show\n/tree\n/bye\n"
WRITING = ("--seed", "1", "--length", "20")
TRAINING = ("train", "text.txt", "--steps", "2", "--hidden-size", "8", "--batch-size", "2", "--window", "8", "--threads", "1")
# A command line, and whether its product goes to stdout.
WORKING: dict[tuple[str, ...], bool] = {
    ("sample", "toy", *WRITING): True,
    ("sample", "toy", "--num", "2", *WRITING): True,
    ("sample", "toy", "--json", *WRITING): True,
    ("sample", "toy", "-o", "poem.txt", *WRITING): False,
    ("sample", "toy", "--prompt", "-", *WRITING): True,
    ("sample", "toy", "-i", *WRITING): True,
    ("repl", "toy", *WRITING): True,
    ("chat", "talk", "--seed", "1"): True,
    ("sample", "odes", "--label", "ode", *WRITING): True,
    ("sample", "odes", "--num", "2", *WRITING): True,
    ("repl", "odes", "--label", "night piece", *WRITING): True,
    ("score", "odes", "text.txt", "--label", "ode"): True,
    ("score", "toy", "text.txt"): True,
    ("score", "toy", "text.txt", "--heat"): True,
    ("runs",): True,
    ("runs", "--json"): True,
    ("inspect", "toy"): True,
    ("inspect", "tell"): True,
    ("inspect", "toy", "--weights"): True,
    ("inspect", "toy", "--weights", "--json"): True,
    ("inspect", "toy", "--dump", "-"): True,
    ("inspect", "toy", "--dump", "weights.txt"): False,
    ("plot", "toy"): True,
    ("plot", "toy", "--json"): True,
    ("--version",): True,
}
TALKING = {
    ("repl", "toy", *WRITING), ("chat", "talk", "--seed", "1"), ("chat", "pairs", "--seed", "1"),
    ("sample", "toy", "-i", *WRITING), ("repl", "odes", "--label", "night piece", *WRITING),
}  # fmt: skip
TORCH = {  # these load it, so they run once, and all of them only in the soak
    TRAINING: False,
    ("train", "--resume", "nobody"): False,
    ("eval", "toy", "text.txt", "--threads", "1"): True,
    ("eval", "tell", "rows.tsv", "--threads", "1"): True,
    ("classify", "tell", "a b", "--threads", "1"): True,
    ("classify", "tell", "rows.tsv", "-", "--threads", "1", "--top", "2"): True,
    ("classify", "tell", "-", "--threads", "1", "--json"): True,
    ("eval", "odes", "odes.tsv", "--threads", "1"): True,
    ("bench", "sample", "--shape", "1x8", "--rounds", "1"): True,
    ("bench", "speed", "--shape", "1x8", "--batch-size", "2", "--precision", "fp32", "--threads", "1"): True,
    ("eval", "pairs", "pairs.tsv", "--threads", "1"): True,
    ("translate", "pairs", "the", "boat"): True,
    ("translate", "pairs", "-"): True,
    ("translate", "pairs", "pairs.tsv", "--attention"): True,
    ("translate", "pairs", "the boat", "--json", "--top", "2"): True,
    ("chat", "pairs", "--seed", "1"): True,
}
CODES = {("train", "--resume", "nobody"): 65}
WRONG_LINES = [
    ["bogus"],
    ["sample", "odes", "--label", "oda"],
    ["sample", "nobody"],
    ["train"],
    ["sample", "--temp", "hot"],
    ["bench", "x"],
    ["classify", "toy", "a b"],
]
COLOUR = re.compile(rb"\x1b\[[\d;]*[1-9][\d;]*m")


def leaves(parent: click.Group = group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that is not a group, with the words that call it."""
    context = click.Context(parent)
    for name in parent.list_commands(context):
        found = parent.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from leaves(found, (*path, name))
        else:
            yield (*path, name), found


HELP = [(), ("--help",), ("bench",), ("bench", "--help"), *((*path, "--help") for path, _ in leaves())]
EVERY = WORKING | dict.fromkeys(HELP, True)
FEW = [line for line in WORKING if not {"--num", "--json", "-"} & set(line) and line[-1] != "text.txt"] + [("train", "--help")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, rows and three runs, in a folder of its own."""
    folder = tmp_path_factory.mktemp("outside") / "inside"
    units = toy.tokenizer()
    runs = (
        ("toy", toy.config(units), toy.weights(units), units, ()), ("talk", *toy.talker(), ()), ("tell", *toy.teller()),
        ("odes", *toy.labelled(units), units, toy.LABELS), ("pairs", *toy.answerer(), ()),
    )  # fmt: skip
    for name, shape, weights, tokenizer, labels in runs:
        about = {"name": name, "start": tokenizer.encode("\n").tolist(), "provenance": {}, "labels": list(labels)}
        (folder / "checkpoints" / name).mkdir(parents=True)
        models.save(folder / "checkpoints" / name / models.MODEL_FILE, shape, tokenizer, weights, about)
    log = [{"event": "step", "step": step, "loss": 4 / step, "accuracy": 0.1, "gradient_norm": 1.0} for step in range(1, 9)]
    (folder / "checkpoints" / "toy" / METRICS_FILE).write_text("\n".join(map(json.dumps, log)), encoding="utf-8")
    (folder / "odes.tsv").write_text("ode\tthe boat\nelegy\ta lamp\n", encoding="utf-8")
    (folder / "pairs.tsv").write_text("the boat\tit\nthe tide\tand\n", encoding="utf-8")
    (folder / "text.txt").write_text((toy.TALE + "\n") * 3, encoding="utf-8")
    (folder / "rows.tsv").write_text("alpha\taa b\nbeta\tb\n", encoding="utf-8")
    return folder


def at(place: Path, line: tuple[str, ...], before: Callable[[], None] = lambda: None, **variables: str) -> Callable[[], int]:
    """Work for a child: `line` in the folder, as a program that has just begun."""

    def work() -> int:
        os.chdir(place)
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
            os.environ.pop(name, None)
        os.environ |= {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "CHARRNN_NOHISTORY": "1"} | variables
        sys.modules.pop("charrnn.cli.commands")  # the help decides about colours when it is imported
        before()
        return command(*line)()

    return work


def ended(place: Path, line: tuple[str, ...], **how: Any) -> Ended:
    """How a command line ends in a pipe."""
    variables = how.pop("variables", {})
    done = forked(at(place, line, how.pop("before", lambda: None), **variables), stdin=LINES, seconds=60, **how)
    assert done.calm, (line, how, done)
    return done


def typed(place: Path, line: tuple[str, ...], **variables: str) -> Ended:
    """How a command line ends on a terminal, where its lines have been typed already."""
    child = Child(at(place, line, **variables), tty=True)
    os.write(child._outer[0], TYPED if line in TALKING else b"the boat\n\x04")
    done = child.end(60)
    assert done.calm, (line, variables, done)
    return done


def full(stream: int) -> None:
    """Put a stream of the child on a disk that is full."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), stream)


def left(place: Path, line: tuple[str, ...], lines: int) -> Ended:
    """How a command line ends whose reader takes so many lines and goes away, as `head` does."""
    reader, writer = os.pipe()

    if not lines:
        os.close(reader)  # before there is anything to read

    def change() -> None:
        os.dup2(writer, 1)
        if lines:
            os.close(reader)

    child = Child(at(place, line, change), stdin=LINES * 2000)
    os.close(writer)
    if lines:
        left_over = lines
        with open(reader, "rb", buffering=0) as stream:
            while left_over and (byte := stream.read(1)):
                left_over -= byte == b"\n"
    done = child.end(60)
    assert done.calm, (line, done)
    return done


def check_streams(place: Path, line: tuple[str, ...], product: bool, *, all_of_them: bool) -> None:
    """What one command line promises wherever its output goes."""
    code = CODES.get(line, 0)
    plain = ended(place, line, variables={"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"})
    assert (plain.code, bool(plain.out), b"\x1b" in plain.out + plain.err) == (code, product, False), plain
    assert left(place, line, 0).code == (141 if product else code)
    assert ended(place, line, before=partial(full, 1)).code == (74 if product else code)
    assert ended(place, line, closed=STREAMS).code == code
    if all_of_them:
        assert left(place, line, 1).code in (141, code)
        assert ended(place, line, before=partial(full, 2)).code in (74, code)
        for stream in STREAMS:
            done = ended(place, line, closed=(stream,))
            assert (done.code, b"\x1b" in done.out + done.err) == (code, False), (stream, done)


def check_terminal(place: Path, line: tuple[str, ...]) -> None:
    """What one command line promises on a terminal that shows colours, that wants none, and that can show none."""
    for variables in ({}, {"NO_COLOR": "1"}, {"TERM": "dumb"}):
        done = typed(place, line, **variables)
        assert done.code == CODES.get(line, 0)
        if variables and line in TALKING and "NO_COLOR" in variables:  # the line editor moves the cursor
            assert not COLOUR.search(done.out)
        else:
            assert (b"\x1b" in done.out) is (not variables and line != ("--version",))


@pytest.mark.parametrize("line", FEW, ids=" ".join)
def test_a_command_keeps_its_word_wherever_its_output_goes(line: tuple[str, ...], place: Path) -> None:
    check_streams(place, line, EVERY[line], all_of_them=False)


@pytest.mark.parametrize("line", FEW, ids=" ".join)
def test_a_command_writes_escapes_only_on_a_terminal_that_wants_them(line: tuple[str, ...], place: Path) -> None:
    check_terminal(place, line)


@pytest.mark.slow
@pytest.mark.parametrize("line", [*EVERY, *TORCH], ids=" ".join)
def test_every_command_in_every_surrounding(line: tuple[str, ...], place: Path) -> None:
    check_streams(place, line, (EVERY | TORCH)[line], all_of_them=True)
    check_terminal(place, line)


@pytest.mark.parametrize("line", WRONG_LINES, ids=" ".join)
def test_a_failure_is_told_in_every_surrounding(line: list[str], place: Path) -> None:
    words = tuple(line)
    done = ended(place, words)
    assert (done.code in (2, 65), done.out) == (True, b"")
    assert done.err.startswith(b"error: ")
    assert b"\x1b" not in typed(place, words, NO_COLOR="1").out
    assert b"\x1b[31merror:\x1b[0m" in typed(place, words).out
    for how in ({"closed": STREAMS}, {"before": partial(full, 2)}):
        assert ended(place, words, **how).code == done.code  # nobody listens, but the code still tells


def test_a_text_without_end_ends_with_its_reader(place: Path) -> None:
    line = ("sample", "toy", "--length", "inf", "--seed", "1")
    assert left(place, line, 3).code == 141
    assert ended(place, line, before=partial(full, 1)).code == 74


BIG, DIGITS = "1" + "0" * 30, "9" * 100_000  # Python itself reads at most 4,300 digits
WRONG = (
    "nan", "NaN", "-nan", "inf", "-inf", "Infinity", "1e308", "1e400", "-1e400", "1e999", str(2**63), BIG, "-" + BIG, DIGITS,
    "-" + DIGITS, "1" + "0" * 4000, "", "\udcff", "0x10", "1\0", "\x1b[31m1", "one", "1,5",
)  # fmt: skip
WRONG_IN_A_FILE = (
    "nan", "inf", "-inf", "1e400", BIG, "-" + BIG, "0x" + "f" * 5000, "1979-05-27", "[5]", "[nan]", "{a = 5}",
    "true", '"text"', '""', DIGITS,
)  # fmt: skip
TEXTS = (click.types.StringParamType, click.types.BoolParamType, click.Choice, click.Path, click.types.UnprocessedParamType)
NUMBERS = (options.LengthType, speeds.ShapeType, click.types.IntParamType, click.types.FloatParamType)


def numeric(option: click.Parameter) -> bool:
    """Whether an option takes a number."""
    kind = option.type
    if isinstance(kind, options.SettingType):
        return not isinstance(kind.item.default, (str, bool))
    assert isinstance(kind, (*TEXTS, *NUMBERS)), f"a new kind of option, which these tests do not know: {option.opts}"
    return isinstance(kind, NUMBERS)


NUMERIC = [(path, option) for path, found in leaves() for option in found.params if numeric(option)]
LASTING = [(options.LengthType, value) for value in ("inf", "Infinity")]  # documented as values
FILES = {path: found for path, found in leaves() if "config" in [one.name for one in found.params]}
NEEDED = {
    ("train",): ["a"], ("eval",): ["nobody", "a"], ("score",): ["nobody", "a"], ("classify",): ["nobody", "a"],
    ("translate",): ["nobody", "a"], ("bench", "train"): ["a"],
}  # fmt: skip


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> Run:
    """Run a command line of which nothing is carried out: its code is 0 if it would have been."""
    monkeypatch.chdir(tmp_path)
    for _, found in leaves():
        monkeypatch.setattr(found, "callback", lambda *given, **named: None)
    return runner(capsysbinary)


def words(path: tuple[str, ...], *more: str) -> list[str]:
    """A command with all that it needs."""
    return [*path, *more, *NEEDED.get(path, ())]


def refuses(done: Any, *named: str) -> None:
    """A refusal: of wrong usage, in few words, by name."""
    assert (done.code, done.out) == (2, "")
    assert all(name in done.err for name in named), done.err[:500]
    assert len(done.err) < 500


@pytest.mark.parametrize("value", WRONG, ids=lambda one: repr(one)[:12])
def test_no_option_takes_a_number_that_is_none(value: str, parsed: Run) -> None:
    assert len(NUMERIC) > 80
    for path, option in NUMERIC:
        if (type(option.type), value) not in LASTING:
            refuses(parsed(*words(path, f"{option.opts[0]}={value}")), option.opts[0])


def test_what_is_in_order_would_be_carried_out(parsed: Run) -> None:
    """The control of the test above: a good value of the same options, given in the same way, is not refused."""
    for path, option in NUMERIC:
        whole = isinstance(option.type, options.LengthType) or isinstance(getattr(option.type, "item", option).default, int)
        good = "1x1" if isinstance(option.type, speeds.ShapeType) else "2" if whole else "0.5"
        assert parsed(*words(path, f"{option.opts[0]}={good}")).code == 0, option.opts


def test_minus_zero_is_zero_or_refused(parsed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Any] = []
    for path, found in leaves():
        monkeypatch.setattr(found, "callback", lambda *given, **named: taken.append(named))
        for option in (one for one in found.params if numeric(one)):
            done = parsed(*words(path, f"{option.opts[0]}=-0.0"))
            assert done.code == 2 or str(taken[-1][option.name]) == "0.0", (path, option.opts, taken[-1][option.name])
            assert done.code == 0 or option.opts[0] in done.err


@pytest.mark.parametrize("value", [one for one in WRONG if one and "\0" not in one], ids=lambda one: repr(one)[:12])
def test_the_environment_is_checked_and_named(value: str, parsed: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = 0
    for path, option in NUMERIC:
        if isinstance(option.envvar, str) and (type(option.type), value) not in LASTING:
            with monkeypatch.context() as patch:
                patch.setenv(option.envvar, value)
                refuses(parsed(*words(path)), option.opts[0])
            checked += 1
    assert checked > 70


@pytest.mark.parametrize("value", WRONG_IN_A_FILE, ids=lambda one: one[:12])
def test_a_file_of_settings_is_checked_and_named(value: str, parsed: Run) -> None:
    for path, option in ((path, option) for path, option in NUMERIC if path in FILES):
        if not (isinstance(option.type, options.LengthType) and value in ("inf", "1e400")):  # which TOML reads as inf
            key = str(option.name).replace("_", "-")
            Path("s.toml").write_text(f"{key} = {value}\n", encoding="utf-8")
            refuses(parsed(*words(path, "--config", "s.toml")), "s.toml", *([] if value == DIGITS else [key]))


def test_a_file_of_settings_may_hold_anything(parsed: Run) -> None:
    """Every option of every command with every value: refused or taken, but never a traceback."""
    for path, found in FILES.items():
        for key in [str(one.opts[0]).removeprefix("--") for one in found.params if isinstance(one, click.Option)]:
            for value in ("0x" + "f" * 5000, "[0x" + "f" * 5000 + "]", "1979-05-27", '"\\u0000"', '["\\u001b"]'):
                Path("s.toml").write_text(f"{key} = {value}\n", encoding="utf-8")
                assert parsed(*words(path, "--config", "s.toml")).code in (0, 2)


HOSTILE_NAMES = (
    "../x", "-rf", ".", "..", "", "x" * 300, "x" * 5000, "a\0b", "a\nb", "a\x1b[31mb", "\udcff", "\u202e", "a b", "toy/../..",
)  # fmt: skip
NAMING = (
    ("sample", "--", "?"), ("repl", "--", "?"), ("chat", "--", "?"), ("eval", "--", "?", "text.txt"),
    ("score", "--", "?", "boat"), ("inspect", "--", "?"), ("plot", "--", "?"), ("classify", "--", "?", "boat"),
    ("sample", "?"), ("train", "text.txt", "--name=?"), ("train", "text.txt", "--name", "?"),
    ("train", "--resume=?"), ("train", "--resume", "?"),
)  # fmt: skip


@pytest.fixture
def there(place: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    monkeypatch.chdir(place)
    return runner(capsysbinary)


@pytest.mark.parametrize("line", NAMING, ids=" ".join)
def test_no_name_leads_out_of_the_checkpoints(line: tuple[str, ...], place: Path, there: Run) -> None:
    before = sorted(place.parent.rglob("*"))
    for name in HOSTILE_NAMES:
        done = there(*(word.replace("?", name) for word in line))
        assert (done.code in (2, 65), done.out) == (True, ""), (name[:20], done)
        assert done.err.startswith("error: ")
        assert len(done.err) < 1000
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e\udcff]", done.err)
    assert sorted(place.parent.rglob("*")) == before


def test_no_path_may_hold_a_nul_or_name_a_folder_to_write_to(place: Path, there: Run) -> None:
    paths = [(path, one) for path, found in leaves() for one in found.params if isinstance(one.type, click.Path)]
    assert len(paths) > 10
    for path, option in paths:
        refuses(there(*words(path, f"{option.opts[0]}=a\0b")), option.opts[0])
    for output in ("a\0b", "/", ".", "..", "checkpoints"):
        assert there("sample", "toy", "--length", "2", "-o", output).code == 73
        assert there("inspect", "toy", "--dump", output).code == 73
