"""The three ways a plain token is drawn (choose, draw, the compiled one) against each other and against the distribution."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from charrnn.config import ModelConfig, SamplingConfig
from charrnn.decoding import sampling
from charrnn.decoding.compiled import CompiledDraw, uniforms
from charrnn.decoding.engine import Engine
from charrnn.decoding.generate import draw_many, prime, stream
from charrnn.decoding.kernel import Library
from charrnn.decoding.sampling import choose, draw, draw_rows, uniform
from charrnn.errors import CharrnnError
from charrnn.text.tokenizers import RESERVED, CharTokenizer
from charrnn.weights import weight_shapes

CLOSE = 1e-5  # to a boundary; see DESIGN.md, "Sameness"
SIZES = st.sampled_from([1, 2, 3, 5, 40, 63, 64, 65, 127, 128, 129, 500])
TEMPS = st.one_of(st.floats(0.05, 100), st.sampled_from([0.0, 5e-324, 1e-300, 1e-30, 1e-3, 0.8, 1.0, 100.0]))
NUMBERS = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 2.0**-53, 0.5, 1 - 2.0**-53]))
SPREADS = st.sampled_from([0.0, 1e-6, 0.1, 1.0, 3.0, 30.0, 1e4])


@st.composite
def rows(draw_: st.DrawFn, spreads: st.SearchStrategy[float] = SPREADS) -> tuple[np.ndarray, np.ndarray]:
    """Logits (V,) of any spread with ties and -inf, and what is added to them: nothing, biases, bans."""
    generator = np.random.default_rng(draw_(st.integers(0, 2**32)))
    count = draw_(SIZES)
    logits = (generator.normal(0, 1, count) * draw_(spreads)).astype(np.float32)
    if draw_(st.booleans()):
        logits = logits.round(draw_(st.integers(0, 1)))  # ties
    if draw_(st.booleans()):
        logits[generator.random(count) < 0.3] = -math.inf
    added = np.zeros(count)
    if draw_(st.booleans()):
        added = np.where(generator.random(count) < 0.3, generator.uniform(-3, 3, count), 0.0)
    if draw_(st.booleans()):
        added[generator.random(count) < 0.1] += draw_(st.sampled_from([-1000.0, 1000.0]))
    if draw_(st.booleans()):
        added[generator.random(count) < 0.5] = -math.inf
    safe = int(generator.integers(count))  # one at least may come
    logits[safe], added[safe] = max(logits[safe], np.float32(-1)), max(added[safe], 0.0)
    return logits, added


def compiled(library: Library, logits: np.ndarray, added: np.ndarray, temp: float, number: float) -> tuple[int, float] | None:
    return CompiledDraw(library, added)(logits, temp, number)


def may_differ(one: int, other: int, logits: np.ndarray, added: np.ndarray, temp: float, number: float) -> bool:
    """Whether every boundary between the two tokens lies close to the number."""
    scores = sampling.temperature(logits.astype(np.float64) + added, temp)
    edges = np.cumsum(np.exp(scores)) / np.exp(scores).sum()
    low, high = sorted((one, other))
    return bool((np.abs(edges[low:high] - number) < CLOSE).all())


@example((np.zeros(1, np.float32), np.zeros(1)), 1.0, 1 - 2.0**-53)
@example((np.float32([1e-5, 2e-5]), np.array([1000.0, 1000.0])), 0.0, 0.5)  # a bias must not make them equal
@given(rows(), TEMPS, NUMBERS)
def test_all_ways_take_the_same_token(library: Library, row: tuple[np.ndarray, np.ndarray], temp: float, number: float) -> None:
    logits, added = row
    before = logits.tobytes(), added.tobytes()
    expected = choose(logits + added, SamplingConfig(temp=temp), [], number)
    found = compiled(library, logits, added, temp, number)
    assert found is not None
    for token, logprob in (found, draw(logits, added, temp, number)):
        assert token == expected or (temp > 0 and may_differ(token, expected, logits, added, temp, number))
        assert logits[token] + added[token] > -math.inf
        assert logprob == pytest.approx(sampling.log_probability(logits, token), abs=1e-5)
    assert (logits.tobytes(), added.tobytes()) == before


@given(st.integers(0, 2**32), st.sampled_from([1e16, 1e30, 3.4e38]), TEMPS, NUMBERS)
def test_huge_scores_are_told_apart(library: Library, seed: int, size: float, temp: float, number: float) -> None:
    """Without biases, which are nothing beside such scores, and may be lost."""
    logits = (np.random.default_rng(seed).uniform(-1, 1, 20) * size).astype(np.float32)
    added = np.zeros(20)
    expected = choose(logits, SamplingConfig(temp=temp), [], number)
    assert draw(logits, added, temp, number)[0] == expected
    found = compiled(library, logits, added, temp, number)
    assert found is not None
    assert found[0] == expected


@given(st.integers(1, 6), rows(), TEMPS, st.lists(NUMBERS, min_size=6, max_size=6), st.integers(0, 2**32))
def test_rows_are_drawn_as_each_is_alone(
    batch: int, row: tuple[np.ndarray, np.ndarray], temp: float, numbers: list[float], seed: int
) -> None:
    logits, added = row
    many = np.stack([np.random.default_rng(seed + number).permutation(logits) for number in range(batch)])
    many[:, added > -math.inf] = np.maximum(many[:, added > -math.inf], -50)  # permuted, nothing might be left
    drawn = np.array(numbers[:batch])
    tokens, logprobs = draw_rows(many, added, temp, drawn)
    for place, (token, logprob) in enumerate(zip(tokens.tolist(), logprobs.tolist(), strict=True)):
        alone = draw(many[place], added, temp, numbers[place])
        assert token == alone[0] or may_differ(token, alone[0], many[place], added, temp, numbers[place])
        assert many[place][token] + added[token] > -math.inf
        assert logprob == pytest.approx(sampling.log_probability(many[place], token), abs=1e-9)


@pytest.mark.parametrize("temp", [0.0, 0.8])
def test_compiled_rows_are_drawn_as_each_is_alone(library: Library, temp: float) -> None:
    generator = np.random.default_rng(3)
    logits, added = generator.normal(0, 3, (40, 90)).astype(np.float32), np.zeros(90)
    added[:5] = -math.inf
    numbers, draws = generator.random(40), CompiledDraw(library, added)
    found = draws.rows(logits, temp, numbers)
    assert found is not None
    alone = [draws(row, temp, float(number)) for row, number in zip(logits, numbers, strict=True)]
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == alone
    apart = draws.rows(logits[::2], temp, numbers[::2])  # rows that do not lie side by side
    assert apart is not None
    assert apart[0].tolist() == found[0][::2].tolist()
    logits[17] = math.nan
    assert draws.rows(logits, temp, numbers) is None


@pytest.mark.parametrize("temp", [0.0, 1.0])
@pytest.mark.parametrize("place", [0, 1, 70])
@pytest.mark.parametrize("bad", [math.nan, math.inf, "forbidden", "all -inf"])
def test_where_nothing_can_be_chosen_numpy_says_why(library: Library, bad: Any, place: int, temp: float) -> None:
    logits, added = np.zeros(71, np.float32), np.zeros(71)
    if bad == "forbidden":
        added[:] = -math.inf
    elif bad == "all -inf":
        logits[:] = -math.inf
    else:
        logits[place] = bad
        added[place] = -math.inf if temp else 0  # it is no better for being forbidden
    assert compiled(library, logits, added, temp, 0.5) is None
    with np.errstate(invalid="ignore"):
        for ways in (lambda: draw(logits, added, temp, 0.5), lambda: draw_rows(logits[None], added, temp, np.array([0.5]))):
            with pytest.raises(CharrnnError, match="forbidden" if isinstance(bad, str) else "expected a number"):
                ways()


@pytest.mark.parametrize("at", [0.0, 1 - 2.0**-53])
def test_the_first_and_the_last_possible_token_are_at_the_ends(library: Library, at: float) -> None:
    logits = np.zeros(200, np.float32)
    logits[:3] = logits[190:] = -math.inf
    added = np.where(np.arange(200) == 3, -math.inf, 0.0)
    expected = 4 if at == 0 else 189
    for found in (compiled(library, logits, added, 0.7, at), draw(logits, added, 0.7, at)):
        assert found is not None
        assert found[0] == expected
    assert draw_rows(logits[None], added, 0.7, np.array([at]))[0].tolist() == [expected]


@given(st.floats(1, 1e300), st.sampled_from([1.0, 2.0**52, 2.0**52 + 1, 1 + 2.0**-52]))
def test_the_largest_number_below_one_points_below_the_total(total: float, other: float) -> None:
    """On this the draws in NumPy rely: there is always a token there."""
    for one in (total, other, total * other):
        assert math.isinf(one) or (1 - 2.0**-53) * one < one


def test_rounding_never_goes_past_the_last_possible_token(library: Library) -> None:
    """At the largest number below 1 about one in twenty of these sums is used up before its end."""
    at = 1 - 2.0**-53
    for seed in range(400):
        generator = np.random.default_rng(seed)
        logits = (generator.normal(0, 1, generator.integers(2, 200)) * generator.choice([1, 5, 10, 20])).astype(np.float32)
        logits[-1] = -math.inf
        added = np.zeros(len(logits))
        found = compiled(library, logits, added, 1.0, at)
        assert found is not None
        for token in (found[0], draw(logits, added, 1.0, at)[0], int(draw_rows(logits[None], added, 1.0, np.array([at]))[0][0])):
            assert logits[token] > -math.inf


WORDS = st.one_of(st.integers(0, 100), st.integers(0, 2**64 - 1), st.sampled_from([2**32, 2**64 - 1]))


@given(st.one_of(st.integers(0, 2**128 - 1), WORDS), WORDS, st.integers(0, 2**64 - 100), WORDS, st.integers(0, 40))
def test_numbers_are_bit_for_bit_those_of_sampling(
    library: Library, seed: int, stream_index: int, position: int, attempt: int, count: int
) -> None:
    found = uniforms(library, seed, stream_index, position, attempt, count)
    assert found.tolist() == [uniform(seed, stream_index, position + number, attempt) for number in range(count)]


# ---- Distributions. At most one false alarm in 10**9 for each test, and what is nearly right is refused.

DRAWN = 20_000
Way = Callable[[Library, np.ndarray, np.ndarray, float, int], list[int]]


def chosen(library: Library, logits: np.ndarray, added: np.ndarray, temp: float, seed: int) -> list[int]:
    settings = SamplingConfig(temp=temp)
    return [choose(logits + added, settings, [], uniform(seed, 0, place, 0)) for place in range(DRAWN)]


def drawn_alone(library: Library, logits: np.ndarray, added: np.ndarray, temp: float, seed: int) -> list[int]:
    return [draw(logits, added, temp, uniform(seed, 0, place, 0))[0] for place in range(DRAWN)]


def drawn_in_rows(library: Library, logits: np.ndarray, added: np.ndarray, temp: float, seed: int) -> list[int]:
    numbers = np.array([uniform(seed, index, 0, 0) for index in range(DRAWN)])
    return draw_rows(np.tile(logits, (DRAWN, 1)), added, temp, numbers)[0].tolist()


def drawn_compiled(library: Library, logits: np.ndarray, added: np.ndarray, temp: float, seed: int) -> list[int]:
    pick = CompiledDraw(library, added)
    return [pick(logits, temp, number)[0] for number in uniforms(library, seed, 0, 0, 0, DRAWN).tolist()]  # type: ignore[index]


def chi_square(tokens: list[int], odds: np.ndarray) -> tuple[float, int]:
    """The statistic and its degrees of freedom; what is impossible must not have come."""
    counts, possible = np.bincount(tokens, minlength=len(odds)), odds > 0
    assert not counts[~possible].any()
    expected = odds[possible] * len(tokens)
    assert expected.min() >= 50  # else the statistic has not its distribution so far out
    return float(((counts[possible] - expected) ** 2 / expected).sum()), int(possible.sum()) - 1


def tail(freedom: int, statistic: float) -> float:
    """The chance that a chi-square of an even number of degrees exceeds `statistic`: e**(-x/2) times the first terms of the
    series of e**(x/2)."""
    half = statistic / 2
    return math.fsum(math.exp(-half + k * math.log(half) - math.lgamma(k + 1)) for k in range(freedom // 2))


def bound(freedom: int) -> float:
    """What a chi-square exceeds once in a billion; for an odd number of degrees that of the next, which is larger."""
    low, high = 1.0, 1e4
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (middle, high) if tail(freedom + freedom % 2, middle) > 1e-9 else (low, middle)
    return high


def follows(tokens: list[int], odds: np.ndarray) -> bool:
    statistic, freedom = chi_square(tokens, odds)
    return statistic < bound(freedom)


def odds_of(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def test_the_tail_is_that_of_the_printed_tables() -> None:
    for freedom, statistic in [(2, 13.816), (10, 29.588), (100, 149.449)]:
        assert tail(freedom, statistic) == pytest.approx(0.001, rel=1e-3)
    assert bound(11) == bound(12)
    assert tail(12, bound(12)) == pytest.approx(1e-9, rel=1e-4)


@pytest.mark.parametrize("temp", [1.0, 1.7])
@pytest.mark.parametrize("way", [chosen, drawn_alone, drawn_in_rows, drawn_compiled])
def test_draws_follow_the_softmax(library: Library, way: Way, temp: float) -> None:
    """20,000 draws with biases and a ban; false alarm once in a billion. A temperature a fifth too low, two tokens changed
    or a bias forgotten is refused."""
    logits = np.random.default_rng(1).permutation(np.linspace(-1.3, 1.3, 13)).astype(np.float32)
    added = np.zeros(13)
    added[2], added[5], added[7] = 1.0, -math.inf, -0.3
    tokens = way(library, logits, added, temp, 7)
    scores = (logits + added) / temp
    assert follows(tokens, odds_of(scores))
    swapped = np.arange(13)
    swapped[[0, 1]] = [1, 0]
    assert abs(logits[0] - logits[1]) > 0.4
    for wrong in (scores * 1.25, scores[swapped], np.where(added == 1, scores - 1 / temp, scores)):
        assert not follows(tokens, odds_of(wrong))


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        (SamplingConfig(temp=0.7, top_k=6), SamplingConfig(temp=0.7, top_k=7)),
        (SamplingConfig(temp=1.0, top_p=0.9), SamplingConfig(temp=1.0, top_p=0.97)),
        (SamplingConfig(temp=1.3, min_p=0.2), SamplingConfig(temp=1.0, min_p=0.1)),
        (SamplingConfig(temp=0.8, top_k=9, top_p=0.85, min_p=0.05), SamplingConfig(temp=0.8, top_k=9, top_p=0.99)),
    ],
)
def test_draws_through_filters_follow_what_is_left(settings: SamplingConfig, wrong: SamplingConfig) -> None:
    """10,000 draws; false alarm once in a billion; the `wrong` settings are refused."""
    logits = np.random.default_rng(3).permutation(np.linspace(-1.3, 1.3, 13)).astype(np.float32)
    tokens = [choose(logits, settings, [], uniform(5, 0, place, 0)) for place in range(10_000)]
    assert follows(tokens, odds_of(left(logits, settings)))
    support = left(logits, wrong)
    assert set(np.flatnonzero(support > -math.inf)) != set(tokens) or not follows(tokens, odds_of(support))


def left(logits: np.ndarray, settings: SamplingConfig) -> np.ndarray:
    """The definition: sorted by probability, cut after k tokens, then after the mass p of those, then below min_p."""
    scores = logits.astype(np.float64) / settings.temp
    ranked = np.argsort(-scores, kind="stable")
    ranked = ranked[: settings.top_k or None]
    odds = odds_of(scores[ranked])
    ranked = ranked[: int(np.searchsorted(np.cumsum(odds), settings.top_p)) + 1]
    ranked = ranked[odds[: len(ranked)] >= settings.min_p * odds[0]]
    kept = np.full(len(scores), -math.inf)
    kept[ranked] = scores[ranked]
    return kept


LETTERS = CharTokenizer(np.array([ord(letter) for letter in "abcdefgh"], np.uint32))


def forgetful(library: Library | None, logits: np.ndarray) -> Engine:
    """A net that always says the same."""
    config = ModelConfig(cell="rnn", vocab_size=len(logits), hidden_size=2, embedding_size=2)
    weights = {name: np.zeros(shape, np.float32) for name, shape in weight_shapes(config).items()}
    return Engine(config, weights | {"output.bias": logits}, kernel=library)


@pytest.mark.parametrize("together", [1, 10])
@pytest.mark.parametrize("kind", ["numpy", "compiled"])
def test_streams_follow_the_softmax(library: Library, kind: str, together: int) -> None:
    """20,000 tokens, run ahead or drawn together; false alarm once in a billion; a temperature a seventh off is refused."""
    logits = np.random.default_rng(4).normal(0, 0.8, LETTERS.vocab_size).astype(np.float32)
    engine, settings = forgetful(library if kind == "compiled" else None, logits), SamplingConfig(temp=0.9)
    prefix, length = prime(engine, [4]), DRAWN // together
    if together == 1:
        tokens = [token.id for token in stream(engine, LETTERS, prefix, settings, seed=3, length=length, at_eos="never")]
    else:
        drawn = draw_many(engine, LETTERS, prefix, settings, seed=3, count=together, length=length, at_eos="never")
        tokens = [token.id for _, token in drawn]
    assert len(tokens) == DRAWN
    scores = np.where(np.arange(len(logits)) < RESERVED, -math.inf, logits / 0.9)
    assert follows(tokens, odds_of(scores))
    assert not follows(tokens, odds_of(scores * 0.87))
