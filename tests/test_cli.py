"""Whole commands, as a person or a script types them."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import click
import pytest
from commands import Done, Run, environment, process

import charrnn
from charrnn.cli import main, options
from charrnn.cli.commands import COMMANDS
from charrnn.cli.commands import charrnn as group
from charrnn.cli.train import _listener
from charrnn.config import ModelConfig, ReadingConfig, SamplingConfig, TokenizerConfig, TrainingConfig

TINY = ("--hidden-size", "16", "--embedding-size", "4", "--window", "16", "--threads", "1")


# --- the command line itself


@pytest.mark.parametrize("arguments", [["--help"], [], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_needs_no_heavy_import_and_shows_an_example(arguments: list[str], tmp_path: Path) -> None:
    code = f"import sys; from charrnn.cli.main import run; code = run({arguments!r})"
    heavy = ["torch", "numpy", "sentencepiece", "safetensors", "prompt_toolkit"]
    check = f"{code}; print([name for name in {heavy} if name in sys.modules], code, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, env=environment(), cwd=tmp_path, check=True
    )
    assert done.stderr.strip() == "[] 0"
    assert re.search(rf"charrnn {arguments[0] if len(arguments) > 1 else 'train'}\b.*\n", done.stdout)
    assert "\x1b" not in done.stdout


def test_sample_imports_neither_torch_nor_rich(trained: Path) -> None:
    code = "import sys; from charrnn.cli.main import run; run(['sample', '--length', '5'])"
    check = f"{code}; print([n for n in ('torch', 'rich', 'sentencepiece') if n in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, env=environment(), cwd=trained, check=True
    )
    assert done.stderr.splitlines()[-1] == "[]"


def test_version(run: Run) -> None:
    assert run("--version") == Done(0, f"charrnn {charrnn.__version__}\n", "")


def test_a_command_that_does_not_exist(run: Run) -> None:
    done = run("trian")
    assert done.code == 2
    assert done.err.startswith("error: No such command 'trian'.")


def options_of(name: str) -> dict[str, click.Option]:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    return {str(option.name): option for option in command.params if isinstance(option, click.Option)}


def test_every_setting_has_an_option_and_an_environment_variable() -> None:
    train = options_of("train")
    names = {item.name for kind in (ReadingConfig, TokenizerConfig, ModelConfig, TrainingConfig) for item in fields(kind)}
    for name in names - {"classes", "features", "input_mean", "input_deviation"}:  # which the text decides
        assert train[name].envvar == f"CHARRNN_{name.upper()}"
        assert train[name].default is None
        assert train[name].opts == ["--" + name.replace("_", "-")]
    assert {item.name for item in fields(SamplingConfig)} <= set(options_of("sample"))


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "--temp", "nan"], ["sample", "--temp", "-0.1"], ["sample", "--temp", "inf"], ["sample", "--temp", "warm"],
        ["sample", "--top-p", "0"], ["sample", "--top-p", "1.01"], ["sample", "--top-k", "-1"], ["sample", "--top-k", "1.5"],
        ["sample", "--min-p", "2"], ["sample", "--repetition-penalty", "0"], ["sample", "--length", "0"],
        ["sample", "--length", "nan"], ["sample", "--length", "-5"], ["sample", "--num", "0"], ["sample", "--seed", "-1"],
        ["sample", "--seed", "9223372036854775808"], ["sample", "--stop", ""], ["sample", "--length", "inf", "--json"],
        ["sample", "--length", "inf", "-o", "x"], ["sample", "--length", "inf", "--num", "2"], ["sample", "a", "b"],
        ["train"], ["train", "verse.txt", "--minutes", "0"], ["train", "verse.txt", "--epochs", "nan"],
        ["train", "verse.txt", "--minutes", "1", "--steps", "5"], ["train", "verse.txt", "--hidden-size", "0"],
        ["train", "verse.txt", "--learning-rate", "nan"], ["train", "verse.txt", "--cell", "transformer"],
        ["train", "verse.txt", "--dropout-output", "1"], ["train", "verse.txt", "--layers", "1e3"],
        ["train", "--resume", "verse", "--name", "x"], ["train", "--resume", "verse", "--layers", "2"],
        ["train", "verse.txt", "--name", "../x", "--steps", "1"], ["eval", "verse"], ["score", "verse"],
        ["eval", "verse", "verse.txt", "--split", "train"], ["train", "verse.txt", "--no-such-option"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_wrong_usage_says_so_and_leaves_with_2(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: ")
    assert not Path("x").exists()


def test_an_option_out_of_bounds_is_named_with_what_is_allowed(run: Run) -> None:
    assert "--top-p is 1.5; expected a number above 0 and at most 1." in run("sample", "--top-p", "1.5").err


# --- where a setting comes from


def settings_used(done: Done) -> dict[str, float]:
    assert done.code == 0, done.err
    return dict(json.loads(done.out)["settings"])


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["sample", "--json", "--length", "1", "--seed", "1"]
    assert settings_used(run(*command))["top_k"] == SamplingConfig.top_k
    Path("s.toml").write_text("top-k = 3\ntemp = 1\nmin_p = 0.1\nhidden-size = 5\n", encoding="utf-8")
    command += ["--config", "s.toml"]
    from_file = settings_used(run(*command))
    assert (from_file["top_k"], from_file["temp"], from_file["min_p"]) == (3, 1.0, 0.1)
    monkeypatch.setenv("CHARRNN_TOP_K", "4")
    assert settings_used(run(*command))["top_k"] == 4
    assert settings_used(run(*command, "--top-k", "5"))["top_k"] == 5


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("top-q = 1", "top-q"), ("temp = nan", "temp"), ("temp = 'warm'", "temp"), ("top_k = true", "top_k"), ("[temp]", "temp"),
        ("temp = [1]", "temp"), ("temp", "TOML"), ("temp = 1\ntemp = 2", "TOML"), ("prompt = 5\nseed = -1", "seed"),
    ],
)  # fmt: skip
def test_an_error_in_the_file_names_file_and_key(run: Run, content: str, named: str) -> None:
    Path("bad.toml").write_text(content, encoding="utf-8")
    done = run("sample", "--config", "bad.toml")
    assert done.code == 2
    assert "bad.toml" in done.err
    assert named in done.err


def test_other_bad_files_of_settings(run: Run) -> None:
    Path("latin.toml").write_bytes(b"prompt = '\xe9'")
    assert run("sample", "--config", "latin.toml").code == 2
    assert "'none.toml'" in run("train", "verse.txt", "--config", "none.toml").err


def test_an_error_from_the_environment_names_the_variable(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARRNN_TEMP", "hot")
    done = run("sample")
    assert done.code == 2
    assert "CHARRNN_TEMP" in done.err


def test_of_two_bounds_the_one_that_was_typed_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHARRNN_MINUTES", "90")
    done = run("train", "verse.txt", "--steps", "2", *TINY)
    assert done.code == 0
    assert "done after 2 steps" in done.err


# --- sample


def test_sample_writes_the_text_and_nothing_more(run: Run) -> None:
    done = run("sample", "verse", "--length", "60", "--seed", "5")
    assert (done.code, done.err) == (0, "")
    assert 60 <= len(done.out) <= 61
    assert done.out.endswith("\n")
    assert run("sample", "verse", "--length", "60", "--seed", "5") == done
    assert run("sample", "--length", "60", "--seed", "6").out != done.out


def test_the_seed_that_was_not_given_is_told_and_repeats_the_text(run: Run) -> None:
    first = run("sample", "--length", "40", "--temp", "1.5")
    seed = re.fullmatch(r"seed (\d+)\n", first.err)
    assert seed is not None
    assert run("sample", "--length", "40", "--temp", "1.5", "--seed", seed[1]).out == first.out


def test_the_prompt_begins_the_text_however_it_is_given(run: Run, trained: Path) -> None:
    Path("prompt.txt").write_bytes(b"\xef\xbb\xbfthe tide\r\ngoes out\r\n")
    common = ("--length", "20", "--seed", "1")
    plain = run("sample", "--prompt", "the tide\ngoes out", *common)
    assert plain.out.startswith("the tide\ngoes out")
    assert run("sample", "--prompt", "@prompt.txt", *common) == plain
    piped = process("sample", "--prompt", "-", *common, cwd=trained, stdin=b"the tide\ngoes out\n")
    assert piped == plain
    assert run("sample", "--prompt", "@@home", *common).out.startswith("@home")


def test_greedy_goes_on_where_the_prompt_ends(run: Run) -> None:
    """One long greedy text equals a shorter one whose end is given back as the prompt."""
    whole = run("sample", "--temp", "0", "--seed", "1", "--prompt", "the ", "--length", "30").out
    part = run("sample", "--temp", "0", "--seed", "1", "--prompt", whole[:14], "--length", "20").out
    assert part == whole


def test_unknown_characters_of_the_prompt_are_named(run: Run) -> None:
    done = run("sample", "--prompt", "große Ω\x1b", "--length", "5", "--seed", "1")
    assert done.code == 0
    assert "'ß' (U+00DF)" in done.err
    assert "'Ω' (U+03A9)" in done.err
    assert done.out.startswith("große Ω\x1b")  # off a terminal the bytes are exact


def test_json_tells_everything_needed_to_repeat(run: Run) -> None:
    done = run("sample", "--json", "--num", "3", "--length", "30", "--seed", "9", "--prompt", "one ")
    records = [json.loads(line) for line in done.out.splitlines()]
    assert [record["stream"] for record in records] == [0, 1, 2]
    assert len({record["text"] for record in records}) == 3
    assert all(record["seed"] == 9 and record["tokens"] == 30 and record["run"] == "verse" for record in records)
    plain = run("sample", "--num", "3", "--length", "30", "--seed", "9", "--prompt", "one ").out
    expected = ["one " + record["text"] for record in records]
    assert plain == "---\n".join(text if text.endswith("\n") else text + "\n" for text in expected)


def test_bits_of_a_sample_are_those_of_its_score(run: Run) -> None:
    """Sampling and scoring must agree on what a text costs: the text of a sample, scored, costs the same."""
    record = json.loads(run("sample", "--json", "--length", "50", "--seed", "3", "--temp", "1").out)
    scored = json.loads("[" + ",".join(run("score", "verse", record["text"], "--json").out.splitlines()) + "]")
    bits = sum(line["bits"] for line in scored)
    assert bits / len(record["text"]) == pytest.approx(record["bits_per_character"], rel=1e-4)


def test_a_stop_text_ends_the_sample_before_it(run: Run) -> None:
    done = run("sample", "--seed", "1", "--length", "200", "--stop", "e", "--stop", "t")
    assert not set(done.out) & {"e", "t"}


def test_output_to_a_file_is_all_or_nothing(run: Run) -> None:
    expected = run("sample", "--length", "50", "--seed", "2").out
    done = run("sample", "--length", "50", "--seed", "2", "-o", "poem.txt")
    assert done == Done(0, "", "")
    assert Path("poem.txt").read_text(encoding="utf-8") == expected
    assert run("sample", "--length", "5", "-o", "no/such/folder.txt").code == 73
    Path("checkpoints/verse/model.safetensors").write_bytes(b"spoilt")
    assert run("sample", "-o", "poem.txt").code == 65
    assert Path("poem.txt").read_text(encoding="utf-8") == expected


def test_a_prompt_that_cannot_be_read(run: Run) -> None:
    assert run("sample", "--prompt", "@none.txt").code == 65
    Path("gbk.txt").write_bytes("春眠不觉晓".encode("gbk"))
    assert run("sample", "--prompt", "@gbk.txt").code == 65
    assert run("sample", "--prompt", "a\udcffb").code == 2


# --- score and eval


def test_text_file_and_stdin_score_alike(run: Run, trained: Path) -> None:
    text = "and one by one\nthe lamps"
    Path("some.txt").write_text(text, encoding="utf-8")
    direct = run("score", "verse", text)
    assert direct.code == 0
    assert "characters          24\n" in direct.out
    assert run("score", "verse", "some.txt") == direct
    assert process("score", "verse", "-", cwd=trained, stdin=text.encode()) == direct


def test_score_equals_the_api_and_its_lines_add_up(run: Run) -> None:
    text = "the tide goes out\n\nand leaves ß the boats"
    model = charrnn.load("checkpoints/verse")
    expected = model.bits_per_character(text)
    summary = run("score", "verse", text).out
    assert f"bits per character  {expected:.4f}\n" in summary
    assert "unknown characters  1\n" in summary
    lines = [json.loads(line) for line in run("score", "verse", text, "--json").out.splitlines()]
    assert [line["text"] for line in lines] == text.split("\n")
    assert [line["line"] for line in lines] == [1, 2, 3]
    assert sum(line["characters"] for line in lines) == len(text)
    assert sum(line["bits"] for line in lines) == pytest.approx(expected * len(text))


def test_nothing_to_score(run: Run) -> None:
    assert run("score", "verse", "").code == 65


def test_eval_agrees_with_score(run: Run) -> None:
    """The whole text by the training network in torch against the decoding engine in NumPy."""
    text = Path("verse.txt").read_text(encoding="utf-8")
    report = json.loads(run("eval", "verse", "verse.txt", "--json", "--threads", "1").out)
    scored = run("score", "verse", "verse.txt").out
    found = re.search(r"bits per character  ([\d.]+)", scored)
    assert found
    assert float(found[1]) == pytest.approx(report["bits_per_character"], abs=1e-3)
    assert report["characters"] == len(text)
    held = json.loads(run("eval", "verse", "verse.txt", "--json", "--split", "val").out)
    assert held["characters"] == len(text) - int(0.9 * len(text))
    plain = run("eval", "verse", "verse.txt", "--threads", "1").out
    assert f"bits per character  {report['bits_per_character']:.4f}\n" in plain
    assert run("eval", "verse", "none.txt").code == 65


def test_eval_says_how_much_is_new(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies drawn and copies read, against the definition: runs that are not in the training part of the text."""
    from charrnn.decoding import novelty

    text = Path("verse.txt").read_text(encoding="utf-8")
    part = text[: int(0.9 * len(text))]
    drawn, other = [part[50:140] + "#" * 30 + part[:40], "a tide of bread"], part[100:150] + "nothing of the sort " * 3
    monkeypatch.setattr(novelty, "draw", lambda model: drawn)
    Path("other.txt").write_text(other, encoding="utf-8")
    record = json.loads(run("eval", "verse", "other.txt", "--json", "--threads", "1").out)
    for name, texts in (("novelty", drawn), ("novelty_of_text", [other])):
        assert list(record[name]) == ["20", "40", "80"]
        for size in (20, 40, 80):
            runs = [one[start : start + size] for one in texts for start in range(len(one) - size + 1)]
            share = sum(one not in part for one in runs) / len(runs)
            assert record[name][str(size)] == pytest.approx(share)
            assert share > 0
    Path("short.txt").write_text(part[:50], encoding="utf-8")
    lines = run("eval", "verse", "short.txt", "--threads", "1").out.splitlines()
    figures = [f"{record['novelty'][size]:.2%} at {size}" for size in ("20", "40", "80")]
    assert lines[-2] == f"novelty, drawn      {', '.join(figures)} characters: not in the training text"
    assert lines[-1] == "novelty, this text  0.00% at 20, 0.00% at 40, -- at 80 characters"


def test_eval_draws_from_the_model(run: Run) -> None:
    """This one has learnt little, so that all it writes is new; what it was trained on is not."""
    record = json.loads(run("eval", "verse", "verse.txt", "--json", "--threads", "1").out)
    assert record["novelty"] == {"20": pytest.approx(1.0, abs=0.01), "40": 1.0, "80": 1.0}
    assert record["novelty_of_text"]["20"] == 0.0  # the verse is there twenty times, so its end is in its beginning


def test_eval_without_an_index_says_so(run: Run) -> None:
    whole = run("eval", "verse", "verse.txt", "--threads", "1")
    assert (whole.code, whole.err) == (0, "")
    index = Path("checkpoints/verse/ngrams.safetensors")
    index.write_bytes(index.read_bytes()[:-1])
    assert "no novelty" in run("eval", "verse", "verse.txt", "--threads", "1").err
    index.unlink()
    done = run("eval", "verse", "verse.txt", "--threads", "1")
    assert done.code == 0
    assert done.err.startswith("no novelty: 'verse' has no index of its training text; expected ")
    assert "`charrnn train FILE`" in done.err
    assert done.out == whole.out[: whole.out.index("novelty")]
    record = json.loads(run("eval", "verse", "verse.txt", "--json", "--threads", "1").out)
    assert record["novelty"] is record["novelty_of_text"] is None


def test_completion_offers_no_folder_that_holds_an_index_alone(run: Run) -> None:
    for name, file in (("killed", "ngrams"), ("begun", "last")):
        Path(f"checkpoints/{name}").mkdir()
        Path(f"checkpoints/{name}/{file}.safetensors").write_bytes(b"")
    context = click.Context(group)
    assert [item.value for item in options.complete_run(context, click.Argument(["run"]), "")] == ["begun", "verse"]


# --- runs and inspect


def test_runs_off_a_terminal_are_lines_of_cells(run: Run) -> None:
    done = run("runs")
    name, saved, tokenizer, shape, _, loss, bits, size = done.out.rstrip("\n").split("\t")
    assert (name, tokenizer, shape) == ("verse", "char", "lstm 1x32")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d", saved)
    assert 0 < float(loss) < float(bits) < 8
    assert size.endswith("B")
    assert json.loads(run("runs", "--json").out)["name"] == "verse"
    assert run("runs", "--checkpoints", "nowhere") == Done(0, "", "")


def test_a_damaged_run_is_listed_as_damaged(run: Run) -> None:
    folder = Path("checkpoints/broken")
    folder.mkdir()
    data = bytearray(Path("checkpoints/verse/model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    lines = run("runs").out.splitlines()
    assert [line.split("\t")[:2] for line in lines if line.startswith("broken")] == [["broken", "damaged"]]
    assert len(lines) == 2
    assert any("problem" in json.loads(line) for line in run("runs", "--json").out.splitlines())
    for command in (["sample", "broken"], ["inspect", "broken"], ["score", "broken", "x"], ["eval", "broken", "verse.txt"]):
        assert run(*command).code == 65


@pytest.mark.parametrize(
    "command", [["sample", "nobody"], ["inspect", "nobody"], ["score", "nobody", "x"], ["train", "--resume", "nobody"]]
)
def test_a_run_that_does_not_exist(run: Run, command: list[str]) -> None:
    done = run(*command)
    assert (done.code, done.out) == (65, "")
    assert "verse" in done.err  # what there is instead


def test_inspect_shows_shape_alphabet_and_tensors(run: Run) -> None:
    card = run("inspect", "verse").out
    model = charrnn.load("checkpoints/verse").model
    for name, array in model.weights.items():
        assert re.search(rf"{re.escape(name)} +float32 {' x '.join(map(str, array.shape))}\n", card)
    assert "␊" in card  # the newline of the alphabet
    record = json.loads(run("inspect", "checkpoints/verse/model.safetensors", "--json").out)
    assert record["parameters"] == sum(array.size for array in model.weights.values())
    assert set(record["tokenizer"]["alphabet"]) == set(Path("verse.txt").read_text(encoding="utf-8"))
    assert record["digest"] == model.digest


# --- train


def test_train_talks_on_stderr_only_and_names_the_next_step(run: Run) -> None:
    done = run("train", "verse.txt", "--steps", "30", "--name", "new", *TINY)
    assert (done.code, done.out) == (0, "")
    assert "\x1b" not in done.err
    for expected in (
        "training 'new'",
        "step ",
        "validation loss",
        "sample at step",
        "saved ",
        "done after 30 steps",
        "--steps 30",
    ):
        assert expected in done.err
    assert done.err.endswith("write with it: charrnn sample new\n")
    assert run("sample", "new", "--length", "10").code == 0
    assert run("train", "verse.txt", "--name", "new", "--steps", "1", *TINY).code != 0  # never overwritten


def test_train_refuses_a_missing_or_malformed_text(run: Run) -> None:
    assert run("train", "none.txt").code == 65
    Path("bad.txt").write_bytes(b"abc\xff\xfe" * 100)
    done = run("train", "bad.txt")
    assert done.code == 65
    assert "bad.txt" in done.err


def test_resume_without_a_name_takes_the_run_saved_last(run: Run) -> None:
    done = run("train", "--resume", "--steps", "45")
    assert done.code == 0, done.err
    assert "training 'verse' from step 40 to step 45" in done.err


class Terminal(io.StringIO):
    """A text stream that says it is a terminal; `encoding` says which."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "encoding", "kind"),
    [({}, "utf-8", "Panel"), ({"NO_COLOR": "1"}, "utf-8", "Lines"), ({"TERM": "dumb"}, "utf-8", "Lines"), ({}, "ascii", "Lines")],
)
def test_the_panel_only_where_it_can_be_drawn(
    variables: dict[str, str], encoding: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ({"NO_COLOR": "", "TERM": "xterm"} | variables).items():
        monkeypatch.setenv(name, value)
    stream = Terminal()
    stream.encoding = encoding  # type: ignore[misc]
    monkeypatch.setattr("sys.stderr", stream)
    assert type(_listener(quiet=False)).__name__ == kind
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert type(_listener(quiet=False)).__name__ == "Lines"


# --- the process and its streams


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_that_may_not_be_read(run: Run) -> None:
    Path("locked").mkdir(mode=0)
    assert run("runs", "--checkpoints", "locked").code == 1


def test_a_reader_that_goes_away_is_no_error(trained: Path) -> None:
    command = [sys.executable, "-m", "charrnn", "sample", "--length", "inf", "--seed", "1"]
    with subprocess.Popen(command, cwd=trained, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert len(running.stdout.read(1000)) == 1000
        running.stdout.close()
        assert running.stderr.read() == b""
    assert running.returncode == main.BROKEN_PIPE


def test_ctrl_c_ends_an_endless_sample_with_a_whole_line(trained: Path) -> None:
    command = [sys.executable, "-m", "charrnn", "sample", "--length", "inf", "--seed", "1"]
    with subprocess.Popen(command, cwd=trained, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        first = running.stdout.read(100)
        running.send_signal(signal.SIGINT)
        rest, error = running.communicate()
    assert (running.returncode, error) == (130, b"")
    assert (first + rest).decode("utf-8").endswith("\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_behind_stdout(trained: Path) -> None:
    for arguments in (["sample", "--seed", "1"], ["--help"], ["runs"]):
        with open("/dev/full", "wb") as full:
            done = subprocess.run(
                [sys.executable, "-m", "charrnn", *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                cwd=trained,
                env=environment(),
                check=False,
            )
        assert done.returncode == 74
        assert done.stderr.startswith(b"error: cannot write the output")
        assert b"Exception" not in done.stderr


def test_closed_streams_and_odd_locales(trained: Path) -> None:
    command = f"{sys.executable} -m charrnn sample --length 5 --seed 1"
    for redirection in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        assert subprocess.run(f"{command} {redirection}", shell=True, cwd=trained, env=environment(), check=False).returncode == 0
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    done = process("sample", "--prompt", "große", "--length", "3", "--seed", "1", cwd=trained, env=odd)
    assert done.code in (0, 2)  # the prompt may arrive as bytes nobody can read; the answer is never a traceback
    assert "Traceback" not in done.err


def complete(words: Sequence[str], cwd: Path) -> list[str]:
    env = {"_CHARRNN_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return [line.split(",", 1)[1] for line in process(cwd=cwd, env=env).out.splitlines()]


def test_shell_completion(trained: Path) -> None:
    assert complete(["charrnn", "tra"], trained) == ["train", "translate"]
    assert complete(["charrnn", "sample", "ve"], trained) == ["verse"]
    assert complete(["charrnn", "train", "--cell", "l"], trained) == ["lstm"]
    assert "complete" in process(cwd=trained, env={"_CHARRNN_COMPLETE": "bash_source"}).out


# --- a real terminal


def on_a_terminal(arguments: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> tuple[bytes, int]:
    """Everything a command writes to a terminal of 100 by 40, and its exit code."""
    import pexpect

    child = pexpect.spawn(
        sys.executable, ["-m", "charrnn", *arguments], cwd=str(cwd), env=environment({"TERM": "xterm", **(env or {})}),
        dimensions=(40, 100), timeout=60,
    )  # fmt: skip
    child.expect(pexpect.EOF)
    child.close()
    return child.before, child.exitstatus if child.exitstatus is not None else -child.signalstatus


def screen_of(data: bytes) -> list[str]:
    import pyte

    screen = pyte.Screen(100, 40)
    pyte.ByteStream(screen).feed(data)
    return [line.rstrip() for line in screen.display]


def test_the_panel_on_a_terminal(trained: Path) -> None:
    started = time.monotonic()
    data, code = on_a_terminal(["train", "verse.txt", "--name", "seen", "--steps", "60", *TINY], trained)
    seconds = time.monotonic() - started
    assert code == 0
    screen = screen_of(data)
    text = "\n".join(screen)
    for expected in (
        "step 60 of 60",
        "train loss",
        "validation loss",
        "tokens/s",
        "sample at step",
        "done after 60 steps",
        "charrnn sample seen",
    ):
        assert expected in text
    assert sum("step 60 of 60" in line for line in screen) == 1  # drawn over itself, not again and again
    assert data.count(b"train loss") <= 8 * seconds + 3
    assert data.endswith(b"\x1b[?25h") or b"\x1b[?25h" in data  # the cursor is given back


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
@pytest.mark.parametrize("arguments", [["train", "--help"], ["runs"], ["sample", "--length", "20"], ["bogus"]], ids=" ".join)
def test_no_escape_byte_where_none_is_wanted(arguments: list[str], env: dict[str, str], trained: Path) -> None:
    data, code = on_a_terminal(arguments, trained, env)
    assert code == (2 if arguments == ["bogus"] else 0)
    assert data
    assert b"\x1b" not in data


def test_data_cannot_act_on_a_terminal(trained: Path) -> None:
    data, code = on_a_terminal(
        ["sample", "--prompt", "a\x1b]0;title\x07\x9bb", "--length", "3", "--seed", "1"], trained, {"NO_COLOR": "1"}
    )
    assert code == 0
    assert "a␛]0;title␇\\x9bb" in data.decode("utf-8")
    assert b"\x1b" not in data
    assert "next: " in data.decode("utf-8")
