"""Prompts that end within a piece: what may follow, and how likely it is, by the model's own account of the whole."""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from charrnn.config import SamplingConfig, ShapingConfig
from charrnn.decoding import beam, generate, healing, pending
from charrnn.decoding.course import Course, Drawing
from charrnn.decoding.engine import Stepper
from charrnn.decoding.events import Text
from charrnn.decoding.generate import Prefix, draw_many, stream
from charrnn.decoding.session import Session
from charrnn.decoding.settings import Settings
from charrnn.text.tokenizers import BOS, Tokenizer

UNITS = toy.tokenizer("subword")
PARTNER = toy.partner("subword")
WORDS = st.text("abcdelmoprstThe ,.\n\u00e9\u20ac\u2581", max_size=30) | st.sampled_from(
    [
        "Shall I compa",
        "the lam",
        "  two  spac",
        "un",
        "a\n\n  b",
        "antidisestablishmentarianismfully",
        "one " * 9,
        "\u2581x",
        "",
        " ",
    ]
)


@settings(max_examples=300)
@given(WORDS, WORDS)
def test_whatever_follows_a_prompt_is_read_as_if_it_had_been_there(prompt: str, more: str) -> None:
    """Up to the stable part: the tokens of the whole are those of it, and then others that have a cut there."""
    cut = healing.stable(UNITS, prompt)
    whole, part = UNITS.encode(prompt + more).tolist(), UNITS.encode(prompt[:cut]).tolist()
    if len(prompt[cut:]) < healing.LONGEST and "\u2581" not in prompt + more:
        assert whole[: len(part)] == part
    assert UNITS.decode(part) == prompt[:cut]
    assert len(prompt) - cut <= 2 * healing.LONGEST + prompt.count(" ")


@pytest.mark.parametrize(
    ("prompt", "pending"),
    [
        ("Shall I compa", " compa"), ("the", "the"), ("the ", " "), ("the lamp\n", ""), ("the lamp\nun", "un"), ("", ""),
        ("a  b", "  b"), ("one two", " two"), ("\u20acx", "\u20acx"),
    ],
)  # fmt: skip
def test_the_last_word_is_pending(prompt: str, pending: str) -> None:
    assert prompt[healing.stable(UNITS, prompt) :] == pending
    opening = healing.opening(PARTNER.engine, UNITS, PARTNER.start, prompt)
    assert (opening.shown, opening.pending) == (prompt, pending)
    assert UNITS.decode(opening.recent) + pending == prompt
    read = generate.prime(PARTNER.engine, [*PARTNER.start, *opening.recent])
    assert np.array_equal(opening.prefix.logits, read.logits)


def test_of_a_long_word_the_end_is_pending() -> None:
    prompt = "one " + "stopandhear" * 6
    opening = healing.opening(PARTNER.engine, UNITS, PARTNER.start, prompt)
    assert healing.LONGEST <= len(opening.pending) <= 2 * healing.LONGEST
    assert prompt.endswith(opening.pending)
    assert UNITS.decode(opening.recent) + opening.pending == prompt


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_characters_have_nothing_to_heal(kind: str) -> None:
    who = toy.partner(kind)
    opening = healing.opening(who.engine, who.tokenizer, who.start, "the lam")
    assert opening.pending == ""
    assert opening.recent == tuple(who.tokenizer.encode("the lam").tolist())


# --- the odds of what follows


class Bigram:
    """A Stepper whose next token depends on the last one alone, by a table of probabilities."""

    def __init__(self, table: dict[str, dict[str, float]], units: Tokenizer) -> None:
        self.vocab_size = units.vocab_size
        ids = {piece.decode("utf-8", "replace"): token for token, piece in enumerate(units.pieces()) if token >= 261}
        self.rows = np.full((self.vocab_size, self.vocab_size), -30.0, np.float32)
        for before, odds in table.items():
            for after, share in odds.items():
                self.rows[ids[before] if before else BOS, ids[after]] = math.log(share)

    def begin(self, batch: int = 1, context: object = None) -> tuple[np.ndarray, ...]:
        return (np.zeros((batch, 1), np.float32),)

    def step(self, ids: np.ndarray, state: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        return self.rows[ids], state

    def gather(self, state: tuple[np.ndarray, ...], indices: Any) -> tuple[np.ndarray, ...]:
        return (state[0][np.asarray(indices)],)


# Pieces of the toy tokenizer. " lamp" has none of its own, but " l" + "a" + "m" + "p" and " " + "l" + ...; " the" and " to" have.
TABLE = {
    "": {" the": 0.02, " to": 0.03, " t": 0.5, " l": 0.25, " ": 0.2},
    " t": {"th": 0.3, "ing": 0.697, "o": 0.003},
    " l": {"a": 0.1, "o": 0.9},
    "a": {"m": 0.5, "t": 0.5},
    " ": {"l": 0.01, "and": 0.99},
    "l": {"a": 0.5, "e": 0.5},
    "m": {"p": 0.9, "e": 0.1},
    "t": {"e": 1.0},
}


def test_the_first_pieces_are_as_likely_as_the_model_has_them_given_the_prompt() -> None:
    """ " t" pending: 0.5 for " t" itself and what follows it, 0.02 for " the", 0.03 for " to"; nothing else."""
    drawn = first_pieces(" t")
    assert drawn == {" t": pytest.approx(0.5 / 0.55), " the": pytest.approx(0.02 / 0.55), " to": pytest.approx(0.03 / 0.55)}


def test_a_piece_counts_by_what_can_come_of_it() -> None:
    """ " to" pending: the piece " t" is likelier than " to", but is seldom followed by an "o"."""
    drawn = first_pieces(" to")
    share = 0.5 * 0.003
    assert drawn == {" t": pytest.approx(share / (share + 0.03), rel=1e-4), " to": pytest.approx(0.03 / (share + 0.03), rel=1e-4)}


def first_pieces(text: str) -> dict[str, float]:
    engine = Bigram(TABLE, UNITS)
    prefix, drawing = generate.prime(engine, [BOS]), Drawing(UNITS, SamplingConfig(temp=1.0), ShapingConfig(), "never")
    course = Course.begun(drawing, text, (), generate.pieces_pending(engine, drawing, prefix, text))
    weights = np.exp(prefix.logits + drawing.added(course)[0])
    odds = weights / weights.sum()
    return {UNITS.decode([token]): float(odds[token]) for token in np.flatnonzero(odds > 1e-6).tolist()}


def test_completions_are_drawn_as_often_as_the_model_has_them() -> None:
    """5,000 streams; each share of the first words is within five standard deviations of its probability."""
    engine, count = Bigram(TABLE, UNITS), 5000
    prefix, texts = generate.prime(engine, [BOS]), collections.defaultdict(str)
    for index, token in draw_many(
        engine, UNITS, prefix, SamplingConfig(temp=1.0), seed=1, count=count, length=4, at_eos="never", shown=" la", pending=" la"
    ):
        texts[index] += token.text
    shares = {"m": 0.25 * 0.1 * 0.5 + 0.2 * 0.01 * 0.5 * 0.5, "t": 0.25 * 0.1 * 0.5 + 0.2 * 0.01 * 0.5 * 0.5}
    for first, share in shares.items():
        expected = share / sum(shares.values())
        found = sum(text[:1] == first for text in texts.values())
        assert abs(found - count * expected) < 5 * math.sqrt(count * expected * (1 - expected))
    assert {text[:1] for text in texts.values()} == {"m", "t"}


def paths(engine: Stepper, prefix: Prefix, text: str, logprob: float = 0.0) -> Iterator[tuple[tuple[int, ...], float]]:
    """All ways in which pieces can hold `text`, each with its log-probability."""
    scores = prefix.logits.astype(float)
    scores -= np.log(np.exp(scores).sum())
    for token, piece in enumerate(UNITS.pieces()):
        if token < 4 or not piece:
            continue
        if piece.startswith(text.encode()):
            yield (token,), logprob + scores[token]
        elif text.encode().startswith(piece):
            rest = text.encode()[len(piece) :].decode()
            after = generate.prime(engine, [token], prefix)
            for more, total in paths(engine, after, rest, logprob + scores[token]):
                yield (token, *more), total


@pytest.mark.parametrize("text", [" la", "the", " co", " str"])
def test_drawing_is_drawing_on_the_condition_that_the_text_begins_so(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every way to begin, the odds step by step multiply to its share of all ways; with every way followed."""
    monkeypatch.setattr(pending, "MOST_STEPS", 10_000)
    monkeypatch.setattr(pending, "NEGLIGIBLE", 1e9)
    engine, start = PARTNER.engine, generate.prime(PARTNER.engine, PARTNER.start)
    drawing = Drawing(UNITS, SamplingConfig(temp=1.0), ShapingConfig(), "never")
    opened = generate.pieces_pending(engine, drawing, start, text)
    ways = dict(paths(engine, start, text))
    total = np.logaddexp.reduce(list(ways.values()))
    assert opened.hope == pytest.approx(total, abs=1e-6)
    for ids, logprob in sorted(ways.items(), key=lambda way: -way[1])[:50]:
        course, prefix, odds = Course.begun(drawing, text, (), opened), start, 0.0
        for token in ids:
            scores = prefix.logits + drawing.added(course)[0]
            odds += float(scores[token] - np.logaddexp.reduce(scores))
            course.accept(token)
            prefix = generate.prime(engine, [token], prefix)
        assert not course.pending.text
        assert odds == pytest.approx(logprob - total, abs=1e-6)


@pytest.mark.parametrize("text", [" lamp", " compa", "harb", " \u20acuro"])
def test_few_steps_are_nearly_all_steps(text: str) -> None:
    """A toy model likes no way more than others, so that this is far from easy for the bound on steps."""
    engine, start = PARTNER.engine, generate.prime(PARTNER.engine, PARTNER.start)
    drawing = Drawing(UNITS, SamplingConfig(temp=1.0), ShapingConfig(), "never")
    opened = generate.pieces_pending(engine, drawing, start, text)
    usual = start
    logprob = 0.0
    for token in UNITS.encode(text).tolist():
        scores = usual.logits.astype(float)
        logprob += scores[token] - np.log(np.exp(scores).sum())
        usual = generate.prime(engine, [token], usual)
    assert opened.hope >= logprob - 1e-6  # the usual pieces at least are there


def test_log_probabilities_are_those_given_the_prompt() -> None:
    """Their sum is the whole text's, less what the prompt's end cost in any case."""
    prompt = "and the lam"
    opening = healing.opening(PARTNER.engine, UNITS, PARTNER.start, prompt)
    drawing = Drawing(UNITS, SamplingConfig(), ShapingConfig(), "never")
    hope = generate.pieces_pending(PARTNER.engine, drawing, opening.prefix, opening.pending).hope
    for seed in range(5):
        tokens = list(
            stream(
                PARTNER.engine, UNITS, opening.prefix, SamplingConfig(), seed=seed, length=12, at_eos="never",
                shown=prompt, pending=opening.pending,
            )
        )  # fmt: skip
        raw = generate.logprobs(PARTNER.engine, [token.id for token in tokens], opening.prefix).sum()
        assert sum(token.logprob for token in tokens) == pytest.approx(raw - hope, abs=1e-3)


# --- texts


@pytest.mark.parametrize("prompt", ["Shall I compa", "the lam", "un", "and \u20ac", "  two  spac", "x" * 40])
@pytest.mark.parametrize(
    "asked", [SamplingConfig(), SamplingConfig(temp=0.0), SamplingConfig(temp=1.5, ban="aeiou"), SamplingConfig(top_k=3)]
)
def test_a_text_goes_on_from_the_prompt(prompt: str, asked: SamplingConfig) -> None:
    """Whatever is asked for, the first pieces are the end of the prompt, which is not said again."""
    opening = healing.opening(PARTNER.engine, UNITS, PARTNER.start, prompt)
    for seed in range(3):
        tokens = list(
            stream(
                PARTNER.engine, UNITS, opening.prefix, asked, seed=seed, length=40, at_eos="never", shown=prompt,
                recent=opening.recent, pending=opening.pending,
            )
        )  # fmt: skip
        whole = UNITS.decode([token.id for token in tokens])
        text = "".join(token.text for token in tokens)
        assert whole == opening.pending + text
        assert not any(letter in text for letter in asked.ban)


def test_a_mid_word_prompt_begins_pieces() -> None:
    """One word whose pieces the model knows: its usual ones are drawn, not the letters of the prompt one by one."""
    teller = toy.Teller(" stopped with the harbour", UNITS, 12.0)
    for prompt, rest in [(" sto", "pped with the harbour"), (" stopped w", "ith the harbour"), (" stopped with the harb", "our")]:
        opening = healing.opening(teller, UNITS, [BOS], prompt)
        tokens = stream(teller, UNITS, opening.prefix, SamplingConfig(), seed=1, length=40, shown=prompt, pending=opening.pending)
        assert "".join(token.text for token in tokens) == rest


def test_a_beam_goes_on_from_the_prompt() -> None:
    prompt = "and the lam"
    opening = healing.opening(PARTNER.engine, UNITS, PARTNER.start, prompt)
    drawing = Drawing(UNITS, SamplingConfig(), ShapingConfig(), "never", hard=True)
    best = beam.search(PARTNER.engine, drawing, opening, width=8, length=6, alpha=0.0)
    hope = generate.pieces_pending(PARTNER.engine, drawing, opening.prefix, opening.pending).hope
    for one in best:
        assert one.tokens == 6
        assert one.score == pytest.approx(one.logprob)
        assert one.logprob <= 0
    assert hope < 0
    assert len({one.text for one in best}) == len(best)


def test_a_session_heals_your_line() -> None:
    teller = toy.Teller("\nhe stopped with the harbour", UNITS, 12.0)
    session = Session(toy.partner("subword"), Settings(length=8, seed=1))
    object.__setattr__(session.partner, "engine", teller)
    answer = "".join(event.text for event in session.feed("he stopped w") if isinstance(event, Text))
    assert "he stopped with the harbour".startswith("he stopped w" + answer.rstrip())
    assert session.text == "he stopped w" + answer
