"""Beam search against all texts there are, one by one."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import regex
import toy

from charrnn.config import ModelConfig, SamplingConfig, ShapingConfig
from charrnn.decoding import beam, generate, healing, sampling
from charrnn.decoding.course import REMEMBERED, AtEos, Drawing
from charrnn.decoding.engine import Engine
from charrnn.decoding.generate import prime
from charrnn.errors import CharrnnError, UsageError
from charrnn.text.tokenizers import BOS, EOS, PAD, UNK
from charrnn.weights import weight_shapes

UNITS = toy.letters("ab\n")
ANY = SamplingConfig()
A, B, LINE_END = (int(UNITS.encode(letter)[0]) for letter in "ab\n")


def make_engine(seed: int, eos: float = 0.0) -> Engine:
    config = ModelConfig(vocab_size=UNITS.vocab_size, hidden_size=8, embedding_size=4)
    generator = np.random.default_rng(seed)
    weights = {name: generator.normal(0, 1.2, shape).astype(np.float32) for name, shape in weight_shapes(config).items()}
    weights["output.bias"][EOS] += eos
    return Engine(config, weights)


class Found(NamedTuple):
    text: str
    tokens: int
    logprob: float
    score: float


def search(
    engine: Engine, *, width: int, length: int, alpha: float = 0.6, at_eos: AtEos = "end", prompt: str = "",
    asked: SamplingConfig = ANY, **shaping: Any,
) -> list[beam.Hypothesis]:  # fmt: skip
    drawing = Drawing(UNITS, asked, ShapingConfig(**shaping), at_eos, hard=True)
    return beam.search(
        engine, drawing, healing.opening(engine, UNITS, [BOS], prompt), width=width, length=length, alpha=alpha
    )  # fmt: skip


def by_definition(
    engine: Engine, *, length: int, alpha: float = 0.6, at_eos: AtEos = "end", prompt: str = "",
    asked: SamplingConfig = ANY, stop: Sequence[str] = (), lines: int = 0, pattern: str = "",
) -> list[Found]:  # fmt: skip
    """Every text, the best first; of those that are spelt in several ways, the best spelling."""
    found: dict[str, Found] = {}
    banned = {UNITS.encode(letter)[0] for letter in asked.ban} | {PAD, BOS, UNK} | ({EOS} if at_eos == "never" else set())
    for ids in spellings(length, lines, at_eos):
        text = "".join(
            "" if token == EOS and at_eos == "end" else "\n" if token == EOS else UNITS.decode([token]) for token in ids
        )
        cuts = [text.find(one) for one in stop if one in text]
        ended = len(ids) == length or (ids[-1] == EOS and at_eos == "end") or 0 < lines == text.count("\n")
        if banned & set(ids) or (lines and any(not line for line in text.split("\n")[: text.count("\n")])):
            continue
        if lines and ids[-1] == EOS and at_eos == "end" and (text.count("\n") < lines - 1 or not text.rpartition("\n")[2]):
            continue
        if stop and any(one in (text[:-1] if ids[-1] != EOS or at_eos == "newline" else text) for one in stop):
            continue  # it ended earlier
        if not ended and not cuts:
            continue
        shown = text[: min(cuts)] if cuts else text.removesuffix("\n") if 0 < lines == text.count("\n") else text
        if pattern and not regex.fullmatch(pattern, prompt + shown):
            continue
        one = scored(engine, ids, shown, alpha, prompt, asked)
        if shown not in found or found[shown].score < one.score:
            found[shown] = one
    return sorted(found.values(), key=lambda one: -one.score)


def spellings(length: int, lines: int, at_eos: AtEos) -> Iterator[tuple[int, ...]]:
    for size in range(1, length + 1):
        for ids in itertools.product([EOS, A, B, LINE_END], repeat=size):
            if not (at_eos == "end" and EOS in ids[:-1]):
                ends = sum(token in (LINE_END, EOS) for token in ids[:-1])
                if not lines or ends < lines:
                    yield ids


def scored(engine: Engine, ids: Sequence[int], shown: str, alpha: float, prompt: str, asked: SamplingConfig) -> Found:
    read = UNITS.encode(prompt).tolist()
    prefix, logprob, total = prime(engine, [BOS, *read]), 0.0, 0.0
    for place, token in enumerate(ids):
        logits = prefix.logits.astype(float)
        for bias in asked.bias:
            name, _, number = bias.rpartition("=")
            logits[UNITS.encode(name)[0]] += float(number)
        changed = sampling.penalized(logits, asked, (*read, *ids[:place])[-REMEMBERED:])
        own = prefix.logits.astype(float)
        norm = np.logaddexp.reduce(own)
        logprob += own[token] - norm
        total += own[token] - norm + changed[token] - own[token]
        prefix = prime(engine, [token], prefix)
    return Found(shown, len(ids), float(logprob), float(total / ((5 + len(ids)) / 6) ** alpha))


def check(found: Sequence[beam.Hypothesis], expected: Sequence[Found]) -> None:
    assert [one.text for one in found] == [one.text for one in expected[: len(found)]]
    for mine, theirs in zip(found, expected, strict=False):
        assert mine.tokens == theirs.tokens
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-4)
        assert mine.score == pytest.approx(theirs.score, abs=1e-4)


CASES: list[dict[str, Any]] = [
    {}, {"alpha": 0.0}, {"alpha": 1.0}, {"alpha": 3.0}, {"at_eos": "never"}, {"at_eos": "newline"}, {"prompt": "ab\n"},
    {"asked": SamplingConfig(ban="a")}, {"asked": SamplingConfig(bias=("a=-1.5",))}, {"asked": SamplingConfig(bias=("b=2",))},
    {"asked": SamplingConfig(repetition_penalty=1.5)}, {"asked": SamplingConfig(frequency_penalty=0.7), "prompt": "aab"},
    {"asked": SamplingConfig(frequency_penalty=-0.7)}, {"asked": SamplingConfig(no_repeat_ngram=2), "at_eos": "never"},
    {"asked": SamplingConfig(temp=0.1, top_k=1, top_p=0.1, min_p=0.9)},
]  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_beam_that_drops_nothing_finds_the_best_texts(case: dict[str, Any], seed: int) -> None:
    engine = make_engine(seed)
    expected = by_definition(engine, length=4, **case)
    if case.get("asked", SamplingConfig()).no_repeat_ngram:
        expected = [one for one in expected if len({one.text[i : i + 2] for i in range(len(one.text) - 1)}) == len(one.text) - 1]
    found = search(engine, width=1000, length=4, **case)
    assert len(found) == len(expected)
    check(found, expected)
    check(search(engine, width=60, length=4, **case)[:5], expected)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("case", [{"stop": ("ab",)}, {"stop": ("b", "aa"), "at_eos": "never"}, {"stop": ("\n",)}], ids=str)
def test_a_text_ends_before_a_stop(case: dict[str, Any], seed: int) -> None:
    engine = make_engine(seed)
    check(search(engine, width=1000, length=4, **case), by_definition(engine, length=4, **case))


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("at_eos", ["end", "newline", "never"])
def test_lines_are_asked_for(at_eos: AtEos, seed: int) -> None:
    """Of texts that the length does not end."""
    engine = make_engine(seed)
    found = [one for one in search(engine, width=2000, length=5, at_eos=at_eos, lines=2) if one.tokens < 5]
    expected = [one for one in by_definition(engine, length=5, at_eos=at_eos, lines=2) if one.tokens < 5]
    assert found
    assert [one.text for one in found] == [one.text for one in expected]
    assert all(one.text.count("\n") == 1 for one in found)


def test_a_pattern_is_met() -> None:
    engine = make_engine(1)
    for pattern in ("(ab|ba)*", "a+b", "a?b{0,2}"):
        best = search(engine, width=500, length=4, at_eos="never", regex=pattern)
        assert best
        for one in best:
            assert regex.fullmatch(pattern, one.text)
            longer = [one.text + letter for letter in "ab"]  # the length, or nothing more could come
            assert one.tokens == 4 or not any(regex.fullmatch(pattern, text) for text in longer)
    (only,) = search(engine, width=3, length=9, at_eos="never", prompt="a", regex="abba")
    assert (only.text, only.tokens) == ("bba", 3)
    assert {one.text for one in search(engine, width=50, length=4, at_eos="never", regex="a{5}|ab")} == {"ab"}
    with pytest.raises(CharrnnError, match="no text of this shape"):
        search(engine, width=10, length=4, at_eos="never", regex="a{5}")


def test_a_stop_counts_where_the_text_before_it_matches() -> None:
    texts = {one.text for one in search(make_engine(1), width=500, length=4, at_eos="never", regex="a*b*", stop=("bb",))}
    assert "a" in texts
    assert not any("bb" in text for text in texts)
    with pytest.raises(CharrnnError, match="no text of this shape"):
        search(make_engine(1), width=500, length=4, at_eos="never", regex="aab", stop=("b",))


def test_one_hypothesis_is_greedy() -> None:
    engine, who = make_engine(4), prime(make_engine(4), [BOS])
    tokens = list(generate.stream(engine, UNITS, who, SamplingConfig(temp=0.0), seed=1, length=30, at_eos="never"))
    (only,) = search(engine, width=1, length=30, at_eos="never")
    assert only.text == "".join(token.text for token in tokens)
    assert only.logprob == pytest.approx(sum(token.logprob for token in tokens), abs=1e-4)


def test_wider_finds_no_worse_and_narrow_is_not_all() -> None:
    scores = [[search(make_engine(seed), width=width, length=8)[0].score for width in (1, 4, 3000)] for seed in range(6)]
    assert all(best >= narrow - 1e-6 for narrow, _, best in scores)
    assert any(best > narrow + 1e-3 for narrow, _, best in scores)


def test_no_more_than_asked_for_and_none_twice() -> None:
    best = search(make_engine(2), width=7, length=6, at_eos="newline")
    assert 1 < len(best) <= 7
    assert len({one.text for one in best}) == len(best)
    assert [one.score for one in best] == sorted((one.score for one in best), reverse=True)


class Wrapping(toy.Teller):
    """A teller that likes a line end nearly as much as each of its spaces."""

    def step(self, ids: Any, state: Any) -> Any:
        logits, state = super().step(ids, state)
        for row, place in enumerate(state[0][:, 0].astype(int)):
            if self.ids[place] in self._spaces:
                logits[row, self._line_end] = self._surely - 2
        return logits, state


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
@pytest.mark.parametrize("width", [1, 4])
def test_lines_end_at_a_space_before_they_get_too_long(kind: str, width: int) -> None:
    """A word is never cut, however narrow the beam."""
    units = toy.spaced(toy.tokenizer(kind))
    teller = Wrapping(toy.TALE, units)
    drawing = Drawing(units, ANY, ShapingConfig(line_length=20), "end", hard=True)
    best = beam.search(teller, drawing, healing.Opening(prime(teller, [BOS]), (), ""), width=width, length=400, alpha=0.6)
    assert best[0].text.replace("\n", " ") == toy.TALE
    assert max(map(len, best[0].text.split("\n"))) <= 20
    if width == 1:
        assert best[0].text == textwrap.fill(toy.TALE, 20)


@pytest.mark.parametrize("kind", ["char", "byte", "subword"])
def test_a_line_is_never_too_long(kind: str) -> None:
    who = toy.partner(kind)
    drawing = Drawing(
        who.tokenizer, SamplingConfig(), ShapingConfig(line_length=7, lines=3, line_prefix="a "), "never", hard=True
    )
    for prompt in ("", "hop", "long before the line"):
        opening = healing.opening(who.engine, who.tokenizer, who.start, prompt)
        for one in beam.search(who.engine, drawing, opening, width=5, length=60, alpha=0.6):
            lines = (prompt + one.text).split("\n")
            assert all(len(line) <= 7 for line in lines[1:])
            assert len(lines[0]) <= max(7, len(prompt))
            assert all(line.startswith("a ") for line in lines[not prompt :][bool(prompt) : -1])


def test_no_copies_in_a_beam() -> None:
    source, copied = "abbaabab\nbaab", 0
    for seed in range(6):
        engine = make_engine(seed)
        opening = healing.opening(engine, UNITS, [BOS], "abba")
        for watch in (None, toy.Copies(source, 3)):
            drawing = Drawing(UNITS, ANY, ShapingConfig(), "never", watch, hard=True)
            for one in beam.search(engine, drawing, opening, width=6, length=12, alpha=0.6):
                whole = "abba" + one.text
                copies = sum(whole[end - 4 : end] in source for end in range(5, len(whole) + 1))
                copied += copies
                assert watch is None or not copies
    assert copied


def test_scores_that_are_no_numbers_are_an_error() -> None:
    config = ModelConfig(vocab_size=UNITS.vocab_size, hidden_size=8, embedding_size=4)
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(config).items()}
    weights["output.bias"][:] = np.nan
    with pytest.raises(CharrnnError, match="expected a number"):
        search(Engine(config, weights), width=2, length=3)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="no text that begins"):
        search(make_engine(1), width=2, length=3, prompt="b", regex="a+")
    assert math.isfinite(search(make_engine(1), width=2, length=3)[0].score)
