"""Each way of choosing against its definition; the draws against their distribution, false-alarm odds stated."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from charrnn.config import SamplingConfig
from charrnn.decoding import sampling
from charrnn.decoding.sampling import choose, forbid, greedy, min_p, repetition_penalty, temperature, top_k, top_p, uniform
from charrnn.errors import CharrnnError

PLAIN = SamplingConfig(temp=1.0)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def floats(width: int = 32) -> st.SearchStrategy[float]:
    """Ordinary logits, ties, the largest float32, and -inf."""
    huge = float(np.finfo(np.float32).max)
    ordinary = st.floats(-30, 30, width=width)
    return st.one_of(ordinary, st.sampled_from([0.0, 1.0, -0.0, huge, -huge, 1e-40, -math.inf]))


LOGITS = arrays.arrays(np.float32, st.integers(1, 40), elements=floats()).filter(lambda row: np.isfinite(row).any())
MODERATE = arrays.arrays(np.float32, st.integers(1, 40), elements=st.floats(-30, 30, width=32))
TEMPS = st.one_of(st.floats(0, 100, exclude_min=True), st.sampled_from([5e-324, 1e-300, 1e-30, 0.8, 1.0]))
SETTINGS = st.builds(
    SamplingConfig,
    repetition_penalty=st.one_of(st.floats(0, 100, exclude_min=True), st.just(1.0)),
    temp=st.one_of(TEMPS, st.just(0.0)),
    top_k=st.integers(0, 50),
    top_p=st.one_of(st.floats(0, 1, exclude_min=True), st.just(1.0)),
    min_p=st.one_of(st.floats(0, 1), st.just(0.0)),
)
UNIFORMS = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 1 - 2.0**-53]))


def test_temperature_is_its_definition() -> None:
    logits = np.array([1.0, -2.0, 0.5, -math.inf], np.float32)
    np.testing.assert_allclose(softmax(temperature(logits, 0.7)), softmax(logits.astype(np.float64) / 0.7), rtol=1e-12)
    assert temperature(logits, 0.7).max() == 0


@given(MODERATE, st.integers(1, 45))
def test_top_k_is_its_definition(logits: np.ndarray, k: int) -> None:
    ranked = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    assert np.flatnonzero(np.isfinite(top_k(logits, k))).tolist() == sorted(ranked[:k])


@given(MODERATE, st.floats(0.01, 0.99))
def test_top_p_is_its_definition(logits: np.ndarray, p: float) -> None:
    odds = softmax(logits)
    nucleus: list[int] = []
    for token in sorted(range(len(logits)), key=lambda token: (-logits[token], token)):
        if math.fsum(odds[nucleus]) >= p * (1 - 1e-12):
            break
        nucleus.append(token)
    kept = np.flatnonzero(np.isfinite(top_p(logits, p))).tolist()
    close = abs(math.fsum(odds[nucleus]) - p) < 1e-12 or abs(math.fsum(odds[kept]) - p) < 1e-12
    assert kept == sorted(nucleus) or close


@given(MODERATE, st.floats(0.001, 1))
def test_min_p_is_its_definition(logits: np.ndarray, p: float) -> None:
    odds = softmax(logits)
    kept = np.isfinite(min_p(logits, p))
    clear = np.abs(odds / odds.max() / p - 1) > 1e-5  # float32 logits leave some of the very edge undecided
    assert (kept == (odds >= p * odds.max()))[clear].all()


def test_repetition_penalty_is_its_definition() -> None:
    logits = np.array([2.0, -2.0, 1.0, 0.0, -math.inf], np.float32)
    found = repetition_penalty(logits, [0, 1, 0, 4, 3], 2.0)
    assert found.tolist() == [1.0, -4.0, 1.0, 0.0, -math.inf]
    assert logits.tolist() == [2.0, -2.0, 1.0, 0.0, -math.inf]


def test_forbid_forbids_and_copies() -> None:
    logits = np.zeros(4, np.float32)
    assert forbid(logits, [1, 3]).tolist() == [0, -math.inf, 0, -math.inf]
    assert forbid(logits, np.array([0])).tolist() == [-math.inf, 0, 0, 0]
    assert not logits.any()


@given(LOGITS, TEMPS, st.integers(1, 50), st.floats(0, 1, exclude_min=True), st.floats(0, 1, exclude_min=True))
def test_filters_keep_a_support_the_order_and_make_no_nan(logits: np.ndarray, temp: float, k: int, p: float, m: float) -> None:
    before = logits.copy()
    for filtered in (temperature(logits, temp), top_k(logits, k), top_p(logits, p), min_p(logits, m)):
        assert not np.isnan(filtered).any()
        kept = filtered > -math.inf
        assert kept[logits.argmax()]
        assert logits[kept].min() >= logits[~kept].max(initial=-math.inf)
        rising = filtered[kept][np.argsort(logits[kept])]
        assert (rising[1:] >= rising[:-1]).all()
    for filtered in (top_k(logits, k), top_p(logits, p), min_p(logits, m)):
        kept = filtered > -math.inf
        assert (filtered[kept] == logits[kept]).all()
    assert logits.tobytes() == before.tobytes()


@given(LOGITS, SETTINGS, st.lists(st.integers(0, 0)), UNIFORMS)
def test_whatever_is_chosen_was_possible(logits: np.ndarray, settings: SamplingConfig, recent: list[int], u: float) -> None:
    token = choose(logits, settings, recent, u)
    assert 0 <= token < len(logits)
    assert logits[token] > -math.inf
    if settings.temp == 0 and (settings.repetition_penalty == 1 or not recent):
        assert token == int(np.argmax(logits))


@given(MODERATE, UNIFORMS)
def test_a_draw_is_the_inverse_of_the_cdf(logits: np.ndarray, u: float) -> None:
    edges = np.concatenate([[0.0], np.cumsum(softmax(logits))])
    token = choose(logits, PLAIN, [], u)
    assert edges[token] - 1e-12 <= u < edges[token + 1] + 1e-12


@pytest.mark.parametrize("u", [0.0, 0.3, 1 - 2.0**-53])
def test_impossible_tokens_are_never_drawn_not_even_at_the_ends(u: float) -> None:
    logits = np.array([-math.inf, -1e4, 0, 0, -1e4, -math.inf], np.float32)
    assert choose(logits, PLAIN, [], u) in (2, 3)
    many = np.concatenate([np.zeros(10_000, np.float32), np.full(3, -math.inf, np.float32)])
    assert choose(many, PLAIN, [], u) < 10_000


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    assert greedy(np.array([1, 3, 3, 2], np.float32)) == 1
    assert choose(np.array([1, 3, 3, 2], np.float32), SamplingConfig(temp=0), [], 0.99) == 1


def test_the_order_is_penalty_temperature_top_k_top_p_min_p() -> None:
    generator = np.random.default_rng(3)
    settings = SamplingConfig(repetition_penalty=1.7, temp=0.6, top_k=12, top_p=0.8, min_p=0.04)
    for _ in range(50):
        logits, recent = generator.normal(0, 2, 30).astype(np.float32), generator.integers(0, 30, 9).tolist()
        scores = top_k(temperature(repetition_penalty(logits, recent, 1.7), 0.6), 12)
        odds = softmax(min_p(top_p(scores, 0.8), 0.04))
        for u in generator.random(20):
            assert choose(logits, settings, recent, u) == int(np.searchsorted(np.cumsum(odds), u, "right"))


@pytest.mark.parametrize("temp", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_spoilt_model_is_said_to_be_one(bad: float, temp: float) -> None:
    with pytest.raises(CharrnnError, match="expected a number"):
        choose(np.array([0, bad, 1], np.float32), replace(PLAIN, temp=temp), [], 0.5)
    with pytest.raises(CharrnnError, match="forbidden"):
        choose(np.full(3, -math.inf, np.float32), replace(PLAIN, temp=temp), [], 0.5)


def test_log_probability_is_the_log_of_the_softmax() -> None:
    logits = np.array([1e30, 5.0, -math.inf, 1e30], np.float32)
    assert sampling.log_probability(logits, 0) == pytest.approx(-math.log(2))
    assert sampling.log_probability(logits, 2) == -math.inf
    row = np.random.default_rng(0).normal(0, 3, 70).astype(np.float32)
    np.testing.assert_allclose([sampling.log_probability(row, i) for i in range(70)], np.log(softmax(row)), rtol=1e-12)


@given(
    st.tuples(*[st.integers(0, 2**64 - 1)] * 3, st.integers(0, 2**64 - 1)),
    st.tuples(*[st.integers(0, 2**64 - 1)] * 2),
)
def test_philox_is_numpys(counter: tuple[int, int, int, int], key: tuple[int, int]) -> None:
    number = sum(word << 64 * place for place, word in enumerate(counter))
    before = (number - 1) % 2**256  # NumPy counts up first
    theirs = np.random.Philox(key=key[0] + (key[1] << 64), counter=before).random_raw(4).tolist()
    assert list(sampling.philox(counter, key)) == theirs


@pytest.mark.parametrize(("seed", "stream", "attempt"), [(0, 0, 0), (1, 0, 0), (7, 3, 2), (2**63 - 1, 2**40, 5), (2**100, 1, 1)])
def test_uniform_is_the_generator_its_docstring_names(seed: int, stream: int, attempt: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed, counter=(stream << 64) + (attempt << 128)))
    assert [uniform(seed, stream, position, attempt) for position in range(50)] == generator.random(50).tolist()


def test_no_coordinate_of_uniform_is_lost() -> None:
    coordinates = [(s, t, p, a) for s in range(5) for t in range(5) for p in range(13) for a in range(5)]
    assert len({uniform(*each) for each in coordinates}) == len(coordinates)


def chi_square(counts: np.ndarray, odds: np.ndarray) -> float:
    expected = odds * counts.sum()
    assert expected.min() >= 5  # else the statistic has not its distribution
    return float(((counts - expected) ** 2 / expected).sum())


def bound(freedom: int, normal: float = 4.7534) -> float:
    """What a chi-square of `freedom` degrees exceeds as seldom as a normal variable exceeds `normal`.

    4.7534 is once in a million. Wilson and Hilferty 1931; good from 5 degrees on.
    """
    part = 2 / (9 * freedom)
    return freedom * (1 - part + normal * math.sqrt(part)) ** 3


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("changes", [{}, {"temp": 0.7}, {"temp": 1.5, "top_k": 6}, {"top_p": 0.9}])
def test_draws_follow_the_distribution(changes: dict[str, Any], seed: int) -> None:
    """Chi-square over 10,000 draws from neighbouring positions; false alarm one in a million, seeds fixed."""
    settings = replace(PLAIN, **changes)
    logits = np.random.default_rng(seed).normal(0, 0.8, 12).astype(np.float32)
    scores = logits / settings.temp
    if settings.top_k:
        scores = top_k(scores, settings.top_k)
    odds = softmax(top_p(scores, settings.top_p))
    drawn = [choose(logits, settings, [], uniform(seed, 0, position, 0)) for position in range(10_000)]
    counts = np.bincount(drawn, minlength=12)
    possible = odds > 0
    assert not counts[~possible].any()
    assert chi_square(counts[possible], odds[possible]) < bound(int(possible.sum()) - 1)


@pytest.mark.parametrize("axis", ["stream", "position", "attempt", "seed"])
def test_numbers_are_even_and_independent_along_each_coordinate(axis: str) -> None:
    """Chi-square of 8,192 pairs of numbers in 16 x 16 cells of (this, next); false alarm one in a million, fixed coordinates."""
    start = {"seed": 11, "stream": 0, "position": 0, "attempt": 0}
    numbers = np.array([uniform(**{**start, axis: start[axis] + n}) for n in range(16_384)])
    cells = np.floor(numbers * 16).astype(int).reshape(-1, 2)
    counts = np.bincount(cells[:, 0] * 16 + cells[:, 1], minlength=256)
    assert chi_square(counts, np.full(256, 1 / 256)) < bound(255)


def test_the_bound_is_the_chi_square_quantile() -> None:
    """Against the printed tables, at once in a thousand."""
    for freedom, table in [(5, 20.515), (11, 31.264), (100, 149.449)]:
        assert bound(freedom, 3.0902) == pytest.approx(table, rel=0.02)


def test_sampling_does_without_numpy_random() -> None:
    """Importing numpy.random would cost the first character 40 ms."""
    code = "import sys, charrnn.decoding.sampling as s; s.uniform(1, 2, 3, 4); assert 'numpy.random' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
