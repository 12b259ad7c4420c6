"""The n-gram model against its equations, in dictionaries and one token at a time; and that its chances are chances."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from charrnn.text import kneser_ney, overlap
from charrnn.text.kneser_ney import best_order, discounts, losses
from charrnn.text.tokenizers import RESERVED, UNK

VOCABULARY = RESERVED + 5
BEFORE = "before"  # the token that stands before a text, again and again
TOKENS = st.sampled_from([UNK, 4, 4, 4, 5, 5, 6, 7])  # 8 is never counted, but may have to be scored
TEXTS = st.lists(TOKENS, min_size=1, max_size=60)
SCORED = st.lists(st.sampled_from([UNK, 4, 5, 6, 7, 8]), max_size=12)
ORDERS = st.integers(1, 6)
Gram = tuple[object, ...]


class Slowly:
    """The equations of the module as they stand, in dictionaries."""

    def __init__(self, counted: Sequence[int], order: int) -> None:
        padded = [BEFORE] * order + list(counted)
        self.order = order
        self.counts = {order: self.occurring(padded, order)}
        for size in range(1, order):
            after: dict[Gram, set[object]] = defaultdict(set)
            for gram in self.occurring(padded, size + 1):
                after[gram[1:]].add(gram[0])
            self.counts[size] = Counter({gram: len(found) for gram, found in after.items()})
        self.taken = {size: self.discounts(self.counts[size]) for size in self.counts}

    def occurring(self, padded: Sequence[object], size: int) -> Counter[Gram]:
        return Counter(tuple(padded[end - size + 1 : end + 1]) for end in range(self.order, len(padded)))

    @staticmethod
    def discounts(counts: Counter[Gram]) -> list[float]:
        t = [sum(count == number for count in counts.values()) for number in range(5)]
        if min(t[1:]) == 0:
            return [0, 0.5, 1, 1.5]
        y = t[1] / (t[1] + 2 * t[2])
        found = [k - (k + 1) * y * t[k + 1] / t[k] for k in (1, 2, 3)]
        return [0, *(found if min(found) > 0 else [0.5, 1, 1.5])]

    def chance(self, history: Gram, token: int) -> float:
        size = len(history) + 1
        shorter = self.chance(history[1:], token) if history else 1 / (VOCABULARY - 2)
        counts, taken = self.counts[size], self.taken[size]
        here = {gram: count for gram, count in counts.items() if gram[:-1] == history}
        if not here:
            return shorter
        count = counts[(*history, token)]
        spared = sum(taken[min(other, 3)] for other in here.values())
        return (count - taken[min(count, 3)] + spared * shorter) / sum(here.values())

    def losses(self, history: Sequence[int], scored: Sequence[int]) -> list[float]:
        padded = [BEFORE] * self.order + list(history) + list(scored)
        ends = range(self.order + len(history), len(padded))
        return [-math.log(self.chance(tuple(padded[end - self.order + 1 : end]), padded[end])) for end in ends]


def quickly(counted: Sequence[int], history: Sequence[int], scored: Sequence[int], order: int) -> list[float]:
    arrays = (np.array(tokens, np.uint8) for tokens in (counted, history, scored))
    return losses(*arrays, VOCABULARY, order).tolist()


@given(TEXTS, SCORED, SCORED, ORDERS)
@example([4, 5] * 20, [4], [5, 4, 5], 3)
@example([4], [], [8, 4], 6)
@settings(max_examples=150)
def test_numbered_n_grams_are_the_equations(counted: list[int], history: list[int], scored: list[int], order: int) -> None:
    expected = Slowly(counted, order).losses(history, scored)
    assert quickly(counted, history, scored, order) == pytest.approx(expected, rel=1e-9)


def test_a_longer_text_has_discounts_of_its_own_and_agrees_too() -> None:
    """Random text as above falls back on fixed discounts; this one, of words, has n-grams of all counts."""
    draw = np.random.default_rng(2)
    words = [draw.integers(4, 8, size).tolist() for size in (2, 3, 3, 4, 5, 6)]
    counted = [token for _ in range(400) for token in words[draw.integers(6)] + [UNK] * bool(draw.random() < 0.05)]
    scored = [token for _ in range(20) for token in words[draw.integers(6)]] + [8, 4, 8]
    slowly = Slowly(counted, 5)
    assert sum(found != [0, 0.5, 1, 1.5] for found in slowly.taken.values()) >= 2
    assert quickly(counted, [4, 4], scored, 5) == pytest.approx(slowly.losses([4, 4], scored), rel=1e-9)


@given(TEXTS, SCORED, ORDERS)
@settings(max_examples=60)
def test_chances_sum_to_one_over_the_tokens_that_can_occur(counted: list[int], history: list[int], order: int) -> None:
    """After anything, contexts never met and <unk> among it; all but <pad> and <bos> can occur."""
    chances = [math.exp(-quickly(counted, history, [token], order)[0]) for token in range(2, VOCABULARY)]
    assert min(chances) > 0
    assert sum(chances) == pytest.approx(1, abs=1e-9)


def test_a_text_scored_in_blocks_is_scored_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(5)
    counted, scored = draw.integers(4, 8, 300), draw.integers(4, 9, 50)
    whole = quickly(counted, [4, 4], scored, 4)
    monkeypatch.setattr(kneser_ney, "BLOCK", 7)
    assert quickly(counted, [4, 4], scored, 4) == pytest.approx(whole, rel=1e-12)


def test_no_more_than_so_many_tokens_are_counted_and_those_are_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(6)
    counted, scored = draw.integers(4, 8, 300), draw.integers(4, 9, 50)
    monkeypatch.setattr(kneser_ney, "MOST_COUNTED", 100)
    assert quickly(counted, [], scored, 3) == quickly(counted[-100:], [], scored, 3)


def test_discounts_are_those_of_the_paper_or_fixed_ones() -> None:
    counts = np.repeat([0, 1, 2, 3, 4, 9], [7, 40, 15, 8, 5, 30])
    y = 40 / (40 + 2 * 15)
    assert discounts(counts).tolist() == pytest.approx([0, 1 - 2 * y * 15 / 40, 2 - 3 * y * 8 / 15, 3 - 4 * y * 5 / 8])
    assert discounts(np.repeat([1, 2, 3], 9)).tolist() == [0, 0.5, 1, 1.5]  # nothing was counted four times
    assert discounts(np.repeat([1, 2, 3, 4], [100, 2, 50, 9])).tolist() == [0, 0.5, 1, 1.5]  # D2 would be below zero
    assert discounts(np.zeros(0, np.int64)).tolist() == [0, 0.5, 1, 1.5]


@pytest.mark.parametrize("needed", [1, 2, 3])
def test_the_order_is_as_long_as_what_has_to_be_remembered(needed: int) -> None:
    """Most tokens are as the one `needed` - 1 places before; a shorter context says nothing, a longer one no more."""
    draw = np.random.default_rng(needed)
    tokens = draw.integers(4, 8, 4000)
    for place in range(needed - 1, len(tokens)):
        if draw.random() < 0.8:
            tokens[place] = tokens[place - needed + 1]
    assert best_order(tokens, VOCABULARY) == needed


@pytest.mark.parametrize("tokens", [[4], [4, 5], [4] * 30])
def test_the_order_of_next_to_nothing(tokens: list[int]) -> None:
    order = best_order(np.array(tokens), VOCABULARY)
    assert 1 <= order <= kneser_ney.LONGEST
    assert np.isfinite(quickly(tokens, [], [4, 8], order)).all()


def test_the_order_is_the_one_that_costs_least_where_it_is_chosen() -> None:
    """By `losses` itself, which the equations vouch for."""
    draw = np.random.default_rng(8)
    words = [draw.integers(4, 8, size).tolist() for size in (2, 3, 4, 5)]
    tokens = np.array([token for _ in range(300) for token in words[draw.integers(4)]])
    held = len(tokens) // 10 + 1
    sums = [losses(tokens[:-held], tokens[-held - 12 : -held], tokens[-held:], VOCABULARY, order).sum() for order in range(1, 13)]
    chosen = best_order(tokens, VOCABULARY)
    assert chosen == int(np.argmin(sums[: chosen + kneser_ney.PATIENCE])) + 1
    assert sums[chosen - 1] < sums[0]


@given(st.lists(TOKENS, max_size=70), st.lists(TOKENS, max_size=70), st.integers(0, 70))
@settings(max_examples=60)
def test_what_stands_in_both_texts(text: list[int], other: list[int], start: int) -> None:
    other = other + text[start : start + 40]
    size = overlap.LENGTH
    places = [str(text[i : i + size])[1:-1] in str(other) for i in range(len(text) - size + 1)]
    found = overlap.share_of(np.array(text, np.uint8), np.array(other, np.int64))
    assert found == pytest.approx(sum(places) / len(places) if places else 0.0)
