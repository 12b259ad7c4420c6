"""`charrnn sample` as a poet types it: each wish arrives, several choose among texts, and what cannot be is told."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
import toy
from commands import Done, Run

import charrnn
from charrnn.config import ShapingConfig
from charrnn.decoding import beam, generate, healing, patterns
from charrnn.decoding.course import Drawing

SEEDED = ("--seed", "1")


def records(done: Done) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    return [json.loads(line) for line in done.out.splitlines()]


# --- the shape of the text


def test_so_many_lines(run: Run) -> None:
    done = run("sample", "--lines", "4", *SEEDED)
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 4
    assert all(line.strip() for line in done.out.splitlines())
    assert run("sample", "--lines", "4", "--json", *SEEDED).out.count("\\n") == 3  # the last line's end is not of the text
    assert run("sample", "--max-lines", "2", *SEEDED).out.count("\n") <= 2


def test_an_acrostic(run: Run) -> None:
    done = run("sample", "--acrostic", "TEA at", *SEEDED)
    assert [line[:1].lower() for line in done.out.splitlines()] == ["t", "e", "a", "", "a", "t"]
    begun = run("sample", "--acrostic", "TEA", "--prompt", "the tide", *SEEDED).out
    assert [line[:1] for line in begun.splitlines()] == ["t", "e", "a"]
    assert begun.startswith("the tide")
    apart = run("sample", "--acrostic", "TEA", "--prompt", "and", *SEEDED).out
    assert apart.startswith("and\n")
    assert [line[:1].lower() for line in apart.splitlines()[1:]] == ["t", "e", "a"]


def test_lines_that_begin_alike_and_are_no_longer_than(run: Run) -> None:
    done = run("sample", "--line-prefix", "and ", "--line-length", "12", "--lines", "5", *SEEDED)
    assert all(line.startswith("and ") and len(line) <= 12 for line in done.out.splitlines())


def test_a_pattern_for_the_whole_text(run: Run) -> None:
    done = run("sample", "--prompt", "the ", "--regex", "the [a-z]{3} [a-z]{4},", *SEEDED)
    assert regex.fullmatch("the [a-z]{3} [a-z]{4},\n", done.out)


def test_a_stop_by_pattern(run: Run) -> None:
    whole = run("sample", "--length", "200", *SEEDED).out
    first = regex.search("[aeiou]{2}", whole)
    assert first
    assert run("sample", "--length", "200", "--stop-regex", "[aeiou]{2}", *SEEDED).out.rstrip("\n") == whole[
        : first.start()
    ].rstrip("\n")


def test_what_is_never_written_and_what_is_written_more(run: Run) -> None:
    assert not set(run("sample", "--ban", "et", *SEEDED).out) & set("et")
    assert run("sample", "--bias", "b=1000", "--length", "5", *SEEDED).out == "bbbbb\n"
    assert run("sample", "--bias", "e=-1000", "--bias", "t=-1000", *SEEDED).out == run("sample", "--ban", "et", *SEEDED).out
    loop = run("sample", "--temp", "0", "--length", "200").out
    other = run("sample", "--temp", "0", "--length", "200", "--no-repeat-ngram", "4").out
    grams = [[text[start : start + 4] for start in range(len(text) - 4)] for text in (loop, other)]
    assert len(set(grams[0])) < len(grams[0])
    assert len(set(grams[1])) == len(grams[1])


def test_no_long_copies(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model of these tests copies no eight characters, which the index needs; so another one watches for three."""
    text = Path("verse.txt").read_text(encoding="utf-8")
    free = run("sample", "--temp", "0.5", *SEEDED).out
    assert run("sample", "--temp", "0.5", "--max-copy", "8", *SEEDED).out == free
    monkeypatch.setattr("charrnn.runs.copies.watch", lambda model, longest: toy.Copies(text, longest - 5))
    watched = run("sample", "--temp", "0.5", "--max-copy", "8", *SEEDED).out.rstrip("\n")
    assert any(free[start : start + 4] in text for start in range(len(free) - 3))
    assert not any(watched[start : start + 4] in text for start in range(len(watched) - 3))


def test_each_wish_is_told_in_json_and_comes_from_environment_and_file_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("s.toml").write_text('stop = ["x", "q"]\nbias = "a=1"\nline-prefix = "a"\nbeam = 0\n', encoding="utf-8")
    monkeypatch.setenv("CHARRNN_LINE_LENGTH", "30")
    monkeypatch.setenv("CHARRNN_ACROSTIC", "an")
    command = ["sample", "--json", "--config", "s.toml", "--max-copy", "9", "--max-lines", "9", "--ban", "Z", *SEEDED]
    (record,) = records(run(*command, "--stop-regex", "zz", "--regex", "(?s).*", "--no-repeat-ngram", "7"))
    wishes = {
        "stop": ["x", "q"], "bias": ["a=1"], "line_prefix": "a", "line_length": 30, "acrostic": "an", "max_copy": 9, "lines": 0,
        "max_lines": 9, "ban": "Z", "stop_regex": "zz", "regex": "(?s).*", "no_repeat_ngram": 7, "beam": 0, "best_of": 1,
        "length_penalty": 0.6, "int8": False, "length": 500, "temp": 0.8,
    }  # fmt: skip
    assert {name: record["settings"][name] for name in wishes} == wishes
    assert record.keys() == {
        "text", "prompt", "seed", "stream", "tokens", "bits_per_character", "settings", "run", "model",
    }  # fmt: skip
    (record,) = records(run(*command, "--stop", "k"))
    assert record["settings"]["stop"] == ["k"]  # a flag takes the place of the file's
    assert record["settings"]["length"] == 2000  # enough for two lines


def test_a_text_that_ended_too_early_is_told(run: Run) -> None:
    assert run("sample", "--lines", "9", "--length", "20", *SEEDED).err.endswith(
        "20 tokens were not enough; give more --length\n"
    )
    for length in ("inf", "5000"):
        done = run("sample", "--lines", "9", "--stop", "\n", "--length", length, *SEEDED)
        assert (done.code, done.err) == (0, "1 of 9 lines: the text ended before\n")
    prompted = run("sample", "--acrostic", "an", "--prompt", "the", "--stop", "e", *SEEDED).err
    assert prompted == "" or prompted.startswith(("0 of 2", "1 of 2"))


# --- the best of several


def test_the_best_of_many_has_the_fewest_bits_for_each_character(run: Run) -> None:
    """By the model's own scores of the text, computed anew from the tokens."""
    model = charrnn.load("checkpoints/verse")
    prefix = generate.prime(model.engine, list(model.model.start))
    many = records(run("sample", "--json", "--num", "12", "--length", "40", "--temp", "1.3", "--ban", "e", *SEEDED))
    for record in many:
        costs = generate.logprobs(model.engine, model.model.tokenizer.encode(record["text"]), prefix)
        assert record["bits_per_character"] == pytest.approx(-costs.sum() / math.log(2) / len(record["text"]), rel=1e-4)
    best = records(
        run("sample", "--json", "--num", "3", "--best-of", "4", "--length", "40", "--temp", "1.3", "--ban", "e", *SEEDED)
    )
    for number, record in enumerate(best):
        mine = min(many[4 * number : 4 * number + 4], key=lambda one: one["bits_per_character"])
        assert (record["text"], record["stream"], record["tokens"]) == (mine["text"], mine["stream"], 40)
        assert record["settings"]["best_of"] == 4
    assert len({record["stream"] % 4 for record in best}) > 1
    plain = run("sample", "--num", "3", "--best-of", "4", "--length", "40", "--temp", "1.3", "--ban", "e", *SEEDED).out
    assert plain == "---\n".join(record["text"].rstrip("\n") + "\n" for record in best)


def test_an_empty_text_is_never_the_best(run: Run) -> None:
    """A stop that is found at once in some streams: what says nothing has no bits, and is no achievement."""
    common = ("--json", "--length", "30", "--temp", "2", "--stop", "t", "--stop", "h", "--stop", "e", "--stop", " ", *SEEDED)
    many = records(run("sample", "--num", "20", *common))
    assert any(not record["text"] and record["bits_per_character"] is None for record in many)
    (best,) = records(run("sample", "--best-of", "20", *common))
    assert best["bits_per_character"] == min(record["bits_per_character"] for record in many if record["text"])


def test_a_beam_from_the_command_line(run: Run) -> None:
    command = ["sample", "--beam", "6", "--num", "3", "--length", "30", "--prompt", "the ", "--length-penalty", "0.9"]
    done = run(*command, "--json")
    assert done.err == ""  # there is no seed to be told
    model = charrnn.load("checkpoints/verse")
    opening = healing.opening(model.engine, model.model.tokenizer, model.model.start, "the ")
    drawing = Drawing(model.model.tokenizer, charrnn.config.SamplingConfig(), ShapingConfig(), "never", hard=True)
    expected = beam.search(model.engine, drawing, opening, width=6, length=30, alpha=0.9)
    for place, (record, one) in enumerate(zip(records(done), expected, strict=False)):
        assert (record["text"], record["tokens"], record["stream"]) == (one.text, one.tokens, place)
        assert record["bits_per_character"] == pytest.approx(-one.logprob / math.log(2) / len(one.text))
        assert (record["settings"]["beam"], record["settings"]["length_penalty"]) == (6, 0.9)
    plain = run(
        "sample", "--beam", "6", "--num", "3", "--length", "30", "--prompt", "the ", "--length-penalty", "0.9", "--temp", "9"
    )
    assert plain.out == "---\n".join(("the " + one.text).rstrip("\n") + "\n" for one in expected[:3])
    assert run("sample", "--beam", "3", "--lines", "3", "--line-length", "15").out.count("\n") == 3


def test_a_beam_of_one_is_greedy(run: Run) -> None:
    assert run("sample", "--beam", "1", "--length", "60").out == run("sample", "--temp", "0", "--length", "60", "--seed", "1").out


# --- what cannot be


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lines", "3", "--acrostic", "at"], "--acrostic at makes 2 lines, --lines asks for 3"),
        (["--lines", "3", "--max-lines", "2"], "--lines asks for 3 lines, --max-lines allows 2"),
        (["--acrostic", "TQ"], "--acrostic holds 'Q', which the model has never seen"),
        (["--acrostic", "A\tB"], "expected letters"),
        (["--line-prefix", "# "], "--line-prefix holds '#'"), (["--line-prefix", "a\nb"], "line end"),
        (["--line-length", "3", "--line-prefix", "and"], "has at least 4"), (["--regex", "("], "--regex '(' is no pattern"),
        (["--stop-regex", "a{"], ""), (["--stop-regex", "*"], "--stop-regex '*' is no pattern"), (["--bias", "e"], "TEXT=NUMBER"),
        (["--bias", "the=1"], "'the' is not one token"), (["--bias", "e=2000"], "at most 1000"), (["--bias", ""], "--bias"),
        (["--ban", "the", "--line-prefix", "he"], "--ban forbids"), (["--ban", "\n", "--lines", "2"], "--ban forbids line ends"),
        (["--max-copy", "3"], "--max-copy is 3; expected at least 8"), (["--max-copy", "-1"], "--max-copy"),
        (["--beam", "2", "--best-of", "2"], "two ways"), (["--beam", "2", "--num", "3"], "a beam of 2 has no 3 texts"),
        (["--beam", "2", "--length", "inf"], "never ends"), (["--best-of", "2", "--length", "inf"], "never ends"),
        (["--beam", "-1"], "--beam"), (["--best-of", "0"], "--best-of"), (["--lines", "x"], "--lines"),
        (["--lines", "-1"], "--lines"), (["--no-repeat-ngram", "1001"], "--no-repeat-ngram"),
        (["--length-penalty", "nan"], "--length-penalty"), (["--ban", "\udcff"], "--ban"),
        (["--prompt", "the", "--regex", "and.*"], "no text that begins with 'the' matches"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_written(run: Run, arguments: list[str], words: str) -> None:
    if not words:  # a brace that begins no repetition is a brace
        assert run("sample", "--length", "5", *arguments, *SEEDED).code == 0
        return
    prompt = [] if "--prompt" in arguments else ["--prompt", "the"]
    done = run("sample", *prompt, *arguments, "--seed", "1")
    assert (done.code, done.out) == (2, "")
    assert words in done.err.splitlines()[0]
    assert done.err.splitlines()[1].startswith("hint: ")
    assert not Path("x").exists()


@pytest.mark.parametrize("option", ["--regex", "--stop-regex"])
def test_a_pattern_without_end_is_an_error_and_the_line_is_whole(option: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "SECONDS", 0.1)
    shape = ["--prompt", "a" * 40] if option == "--regex" else ["--line-length", "40", "--bias", "a=1000"]
    done = run("sample", option, "(a|a)*b", *shape, *SEEDED)
    assert done.code == 1
    assert done.out == ("" if option == "--stop-regex" else "a" * 40) + "\n" * (option == "--regex")
    assert done.err.startswith(f"error: {option} took more than 0.1 s on ")
    if option == "--regex":
        done = run("sample", "--prompt", "a" * 40, option, "(a|a)*b", "-o", "x")
        assert not Path("x").exists()
        assert done.code == 1


def test_a_pattern_that_no_text_comes_to_match(run: Run) -> None:
    done = run("sample", "--prompt", "the", "--regex", "the.*#", "--length", "30", *SEEDED)
    assert done.code == 1
    assert done.err.startswith("error: 20 texts were begun, and none matched the pattern.\nhint: ")
    assert run("sample", "--beam", "3", "--regex", "the.*#", "--length", "30").err.startswith("error: the beam found no text")


def test_no_index_of_the_training_text(run: Run) -> None:
    Path("checkpoints/verse/ngrams.safetensors").unlink()
    done = run("sample", "--max-copy", "20", "--prompt", "the", *SEEDED)
    assert (done.code, done.out) == (65, "")
    assert "no index of its training text" in done.err
    assert "charrnn train" in done.err


@pytest.mark.parametrize(
    ("content", "named"), [('stop = ""', "stop"), ("bias = [1]", "bias"), ("stop = [[]]", "stop"), ("lines = 1.5", "--lines")]
)
def test_a_wish_in_a_file_that_is_none(run: Run, content: str, named: str) -> None:
    Path("bad.toml").write_text(content, encoding="utf-8")
    done = run("sample", "--config", "bad.toml")
    assert done.code == 2
    assert "bad.toml" in done.err
    assert named in done.err


def test_eight_bits_are_asked_for(run: Run) -> None:
    """Without a C compiler, as in these tests, there are none; and it is said."""
    done = run("sample", "--int8", "--length", "20", "--json", *SEEDED)
    assert records(done)[0]["settings"]["int8"] is True
    assert "--int8 needs a C compiler" in done.err
    assert np.isfinite(records(done)[0]["bits_per_character"])
