"""Each way of choosing against its definition; the draws against their distribution, false-alarm odds stated."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from charrnn.config import SamplingConfig
from charrnn.decoding import sampling
from charrnn.decoding.sampling import (
    PENALIZED,
    NothingLeft,
    choose,
    draw,
    forbid,
    frequency_penalty,
    greedy,
    is_plain,
    min_p,
    no_repeat_ngram,
    penalized,
    repetition_penalty,
    temperature,
    top_k,
    top_p,
    uniform,
)  # fmt: skip
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
PASTS = st.lists(st.integers(0, 5), max_size=120)
SETTINGS = st.builds(
    SamplingConfig,
    no_repeat_ngram=st.integers(0, 4),
    frequency_penalty=st.one_of(st.floats(-100, 100), st.just(0.0)),
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


@given(MODERATE, st.data(), st.floats(1e-3, 100))
def test_repetition_penalty_is_its_definition_for_any_text(logits: np.ndarray, data: st.DataObject, penalty: float) -> None:
    recent = data.draw(st.lists(st.integers(0, len(logits) - 1)))
    found = repetition_penalty(logits, recent, penalty)
    for token, logit in enumerate(logits.tolist()):
        expected = logit if token not in recent else logit / penalty if logit > 0 else logit * penalty
        assert found[token] == expected
    assert not np.isnan(found).any()


@given(LOGITS, st.data(), st.floats(-100, 100))
def test_frequency_penalty_is_its_definition(logits: np.ndarray, data: st.DataObject, penalty: float) -> None:
    before, recent = logits.copy(), data.draw(st.lists(st.integers(0, len(logits) - 1)))
    found = frequency_penalty(logits, recent, penalty)
    expected = [float(logit) - penalty * recent.count(token) for token, logit in enumerate(logits)]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-9)
    untouched = [token for token in range(len(logits)) if token not in recent]
    assert (found[untouched] == logits[untouched]).all()
    assert (found > -math.inf).tolist() == (logits > -math.inf).tolist()  # it forbids nothing
    assert logits.tobytes() == before.tobytes()


@given(st.integers(1, 6), st.lists(st.integers(0, 5), max_size=40), st.integers(1, 6), st.integers(0, 2**6 - 1))
def test_no_repeat_ngram_is_its_definition(count: int, recent: list[int], size: int, forbidden: int) -> None:
    """A token is out if, put at the end, the last `size` tokens stand somewhere before as well; unless all are out then."""
    recent = [token % count for token in recent]
    logits = np.array([-math.inf if forbidden >> token & 1 else token for token in range(count)], np.float32)
    before, grams = logits.copy(), {tuple(recent[at : at + size]) for at in range(len(recent) - size + 1)}
    out = [token for token in range(count) if (*recent[len(recent) - size + 1 :], token) in grams and len(recent) >= size]
    kept = [token for token in range(count) if token not in out and logits[token] > -math.inf]
    expected = [logits[token] if token in kept or not kept else -math.inf for token in range(count)]
    assert no_repeat_ngram(logits, recent, size).tolist() == expected
    assert logits.tobytes() == before.tobytes()


def test_no_repeat_ngram_never_writes_the_same_twice() -> None:
    """500 draws among 8 tokens: no 3 in a row come twice while there is another way; without it, they soon do."""
    logits = np.random.default_rng(1).normal(0, 1, 8).astype(np.float32)
    for size in (0, 3):
        text: list[int] = []
        for place in range(500):
            text.append(choose(logits, SamplingConfig(temp=1.0, no_repeat_ngram=size), text, uniform(2, 0, place, 0)))
        grams = [tuple(text[at : at + 3]) for at in range(498)]
        trapped = sum(all((*text[at : at + 2], token) in grams[:at] for token in range(8)) for at in range(498))
        assert len(set(grams)) == 498 - trapped if size else len(set(grams)) < 300


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


@given(LOGITS, SETTINGS, PASTS, UNIFORMS)
def test_whatever_is_chosen_was_possible(logits: np.ndarray, settings: SamplingConfig, past: list[int], u: float) -> None:
    recent = [token % len(logits) for token in past]
    token = choose(logits, settings, recent, u)
    assert 0 <= token < len(logits)
    assert logits[token] > -math.inf
    if settings.temp == 0:
        assert token == int(np.argmax(penalized(logits, settings, recent)))


@given(LOGITS, SETTINGS, PASTS)
def test_penalties_leave_a_support_and_make_no_nan(logits: np.ndarray, settings: SamplingConfig, past: list[int]) -> None:
    before, recent = logits.copy(), [token % len(logits) for token in past]
    found = penalized(logits, settings, recent)
    assert not np.isnan(found).any()
    assert np.isfinite(found).any()
    assert (logits > -math.inf)[found > -math.inf].all()  # what was forbidden stays so
    assert logits.tobytes() == before.tobytes()
    if not recent or replace(settings, temp=1.0, top_k=0, top_p=1.0, min_p=0.0) == PLAIN:
        assert found.tolist() == logits.tolist()


OTHERWISE: dict[str, Any] = {
    "no_repeat_ngram": 1, "repetition_penalty": 1.3, "frequency_penalty": -0.1, "top_k": 3, "top_p": 0.5, "min_p": 0.5,
}  # fmt: skip


def test_plain_is_what_draw_does_and_nothing_else() -> None:
    """What is banned and biased is in what is added, and a temperature is drawn with; each other setting needs `choose`."""
    added = {"ban": "abc", "bias": ("e=2",), "temp": 0.3}
    assert {item.name for item in fields(SamplingConfig)} == {*OTHERWISE, *added}
    assert is_plain(PLAIN)
    assert is_plain(replace(PLAIN, **added))
    for name, value in OTHERWISE.items():
        assert not is_plain(replace(PLAIN, **{name: value})), name


@given(MODERATE, SETTINGS, PASTS, UNIFORMS, st.integers(1, 50), st.booleans())
def test_what_is_plain_is_chosen_as_draw_draws_it(
    logits: np.ndarray, settings: SamplingConfig, past: list[int], u: float, k: int, off: bool
) -> None:
    settings = replace(PLAIN, temp=settings.temp) if off else settings
    recent, added = [token % len(logits) for token in past], np.zeros(len(logits))
    if is_plain(settings):
        assert draw(logits, added, settings.temp, u)[0] == choose(logits, settings, recent, u)
    else:
        assert not off


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


Stage = Callable[[np.ndarray, list[int]], np.ndarray]
STAGES: dict[str, Stage] = {
    "no-repeat n-gram": lambda logits, recent: no_repeat_ngram(logits, recent, 2),
    "repetition": lambda logits, recent: repetition_penalty(logits, recent[-PENALIZED:], 1.7),
    "frequency": lambda logits, recent: frequency_penalty(logits, recent[-PENALIZED:], 0.4),
    "temperature": lambda logits, recent: temperature(logits, 0.6),
    "top-k": lambda logits, recent: top_k(logits, 6),
    "top-p": lambda logits, recent: top_p(logits, 0.85),
    "min-p": lambda logits, recent: min_p(logits, 0.15),
}
# What would show if the first came after the second. No-repeat n-gram does not mind penalties, nor temperature top-k.
MATTERS = [
    ("no-repeat n-gram", "top-k"), ("repetition", "frequency"), ("repetition", "temperature"), ("frequency", "temperature"),
    ("temperature", "top-p"), ("temperature", "min-p"), ("top-k", "top-p"), ("top-p", "min-p"),
]  # fmt: skip


def in_order(names: list[str], logits: np.ndarray, recent: list[int], u: float) -> int:
    for name in names:
        logits = STAGES[name](logits, recent)
    return int(np.searchsorted(np.cumsum(softmax(logits)), u, "right"))


def test_the_order_of_application_is_the_documented_one() -> None:
    """And each of the orders that matter does matter to these draws."""
    settings = SamplingConfig(
        no_repeat_ngram=2, repetition_penalty=1.7, frequency_penalty=0.4, temp=0.6, top_k=6, top_p=0.85, min_p=0.15
    )
    generator, differ = np.random.default_rng(3), dict.fromkeys(MATTERS, 0)
    for _ in range(40):
        logits, recent = generator.normal(0, 1, 16).astype(np.float32), generator.integers(0, 16, 150).tolist()
        for u in generator.random(10):
            found = choose(logits, settings, recent, u)
            assert found == in_order(list(STAGES), logits, recent, u)
            for first, second in MATTERS:
                names = [name for name in STAGES if name != first]
                names.insert(names.index(second) + 1, first)
                differ[first, second] += found != in_order(names, logits, recent, u)
    assert min(differ.values()) > 0, differ


def test_penalties_look_back_64_tokens_and_no_repeat_ngram_at_all() -> None:
    logits, recent = np.ones(4, np.float32), [0] + [1] * PENALIZED
    for name, value in (("repetition_penalty", 2.0), ("frequency_penalty", 1.0)):
        found = penalized(logits, replace(PLAIN, **{name: value}), recent)
        assert found[0] == 1
        assert found[1] < 1
    assert penalized(logits, replace(PLAIN, no_repeat_ngram=1), recent).tolist() == [-math.inf, -math.inf, 1, 1]


@pytest.mark.parametrize("temp", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_spoilt_model_is_said_to_be_one(bad: float, temp: float) -> None:
    with pytest.raises(CharrnnError, match="expected a number"):
        choose(np.array([0, bad, 1], np.float32), replace(PLAIN, temp=temp), [], 0.5)
    with pytest.raises(NothingLeft, match="forbidden"):
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
