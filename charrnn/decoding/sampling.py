"""How the next token is chosen: pure functions from logits to logits, and one that draws.

They apply in this order: what is added to the logits (a bias; -inf where a token is banned or cannot continue the text),
no-repeat n-gram, repetition penalty, frequency penalty, temperature, top-k, top-p, min-p. A filter sets what it drops to
-inf and leaves the rest as it is, so the order of what is kept never changes, and it never drops everything. `choose`
goes through those that are on and takes the token that a number in [0, 1) points at. Where that number comes from
is below too: `uniform` is a counter-based generator, so every draw has its own number, whatever was drawn before.

Knows nothing of networks, tokenizers or text. V is the vocabulary; logits are (V,), float32 or float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from charrnn.config import SamplingConfig
from charrnn.errors import CharrnnError, CheckpointError

Logits = NDArray[Any]

PENALIZED = 64  # tokens that the penalties look back on
_STEEPEST = 1e100  # 1/temperature at most: any two float32 are told apart by it, and no product overflows


class NothingLeft(CharrnnError):
    """No token may come next."""


def forbid(logits: Logits, ids: Sequence[int] | NDArray[np.int64]) -> Logits:
    """Logits (V,) with those of `ids` set to -inf; unlike a filter it can forbid everything, which `choose` reports."""
    kept = logits.copy()
    kept[ids if isinstance(ids, np.ndarray) else list(ids)] = -math.inf
    return kept


def no_repeat_ngram(logits: Logits, recent: Sequence[int], size: int) -> Logits:
    """Drop each token that would make the last `size` >= 1 tokens the same as `size` tokens in a row of `recent`.

    If that leaves nothing, nothing is dropped. Paulus, Xiong and Socher 2018, "A Deep Reinforced Model for Abstractive
    Summarization", section 2.5, where `size` is 3.
    """
    past = np.array(recent, np.int64)
    if len(past) < size:
        return logits
    starts = np.lib.stride_tricks.sliding_window_view(past, size)  # (N - size + 1, size)
    same = (starts[:, : size - 1] == past[len(past) - size + 1 :]).all(axis=1)
    kept = forbid(logits, starts[same, -1])
    return kept if (kept > -math.inf).any() else logits


def frequency_penalty(logits: Logits, recent: Sequence[int], penalty: float) -> Logits:
    """Take from each logit `penalty` times the number of its token in `recent`; float64.

    The penalty that OpenAI's API documents under this name.
    """
    penalized = logits.astype(np.float64)
    np.subtract.at(penalized, np.array(recent, np.int64), penalty)
    return penalized


def repetition_penalty(logits: Logits, recent: Sequence[int], penalty: float) -> Logits:
    """Make each token of `recent` less likely: divide its logit by `penalty` if positive, else multiply it; float64.

    Penalties below 1 make them likelier. Keskar et al. 2019, "CTRL: A Conditional Transformer Language Model for
    Controllable Generation", section 4.1, with the correction of the sign that is in common use since.
    """
    penalty = max(penalty, 1 / _STEEPEST)
    penalized = logits.astype(np.float64)
    ids = list(set(recent))
    values = penalized[ids]
    penalized[ids] = np.where(values > 0, values / penalty, values * penalty)
    return penalized


def temperature(logits: Logits, temp: float) -> Logits:
    """Logits divided by `temp` > 0, shifted so that the highest is 0 (which changes no probability); float64.

    Ackley, Hinton and Sejnowski 1985, "A Learning Algorithm for Boltzmann Machines". Raises CharrnnError if there is
    nothing to choose from: no logit is above -inf, or one is nan or inf.
    """
    scaled = logits.astype(np.float64)
    scaled -= _peak(scaled)
    if temp != 1.0:
        scaled *= min(1.0 / temp, _STEEPEST)
    return scaled


def top_k(logits: Logits, k: int) -> Logits:
    """Keep exactly the `k` >= 1 highest logits; among equal ones the lowest ids.

    Fan, Lewis and Dauphin 2018, "Hierarchical Neural Story Generation", section 5.2.
    """
    if k >= len(logits):
        return logits
    lowest = np.partition(logits, -k)[-k]
    keep = logits > lowest
    ties = np.flatnonzero(logits == lowest)
    keep[ties[: k - np.count_nonzero(keep)]] = True
    return np.where(keep, logits, -math.inf)


def top_p(logits: Logits, p: float) -> Logits:
    """Keep the nucleus: the fewest likeliest tokens that together have at least probability `p` in (0, 1].

    Among equally likely ones the lowest ids. Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration".
    """
    weights = np.exp(logits.astype(np.float64) - _peak(logits))
    total = weights.sum()
    # Tokens each below (1 - p) / V cannot make up 1 - p together, so the nucleus is found without sorting them.
    candidates = np.flatnonzero(weights >= (1.0 - p) * total / len(weights))
    ranked = candidates[np.argsort(-logits[candidates], kind="stable")]
    size = int(np.cumsum(weights[ranked]).searchsorted(p * total)) + 1
    keep = np.zeros(len(logits), bool)
    keep[ranked[:size]] = True
    return np.where(keep, logits, -math.inf)


def min_p(logits: Logits, p: float) -> Logits:
    """Keep the tokens at least `p` in (0, 1] times as likely as the likeliest.

    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling for Creative and Coherent LLM Outputs".
    """
    return np.where(logits >= _peak(logits) + math.log(p), logits, -math.inf)


def greedy(logits: Logits) -> int:
    """The likeliest token; among equally likely ones the lowest id."""
    best = logits.argmax()
    _checked(float(logits[best]))
    return int(best)


def is_plain(settings: SamplingConfig) -> bool:
    """Whether nothing but the temperature (and what is added) decides, so that `draw` is `choose`."""
    penalized = settings.no_repeat_ngram or settings.repetition_penalty != 1.0 or settings.frequency_penalty
    return not (penalized or settings.top_k or settings.top_p < 1.0 or settings.min_p)


def draw(logits: Logits, added: Logits, temp: float, uniform: float) -> tuple[int, float]:
    """What `choose` picks from `logits + added` (V,) if nothing is on but temperature `temp`, and its `log_probability`.

    Both from the same exponentials, in half the calls. Raises as `choose` does.
    """
    raw = np.subtract(logits, _peak(logits), dtype=np.float64)
    total = float(np.add.reduce(np.exp(raw)))
    scores = raw + added
    best = int(scores.argmax())
    peak = _checked(float(scores[best]))
    token = best
    if temp != 0.0:
        np.subtract(scores, peak, scores)
        if temp != 1.0:
            np.multiply(scores, min(1.0 / temp, _STEEPEST), scores)
        token = _inverse_cdf(scores, uniform)
    return token, float(raw[token]) - math.log(total)


def draw_rows(logits: Logits, added: Logits, temp: float, uniforms: Logits) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """`draw` for each row of logits (B, V) with its own number of `uniforms` (B,): tokens (B,) and log-probabilities (B,)."""
    rows = np.arange(len(logits))
    raw = np.subtract(logits, _peaks(logits), dtype=np.float64)
    totals = np.log(np.exp(raw).sum(axis=1))
    scores = raw + added
    peaks = _peaks(scores)
    if temp == 0.0:
        tokens = scores.argmax(axis=1)
        return tokens, raw[rows, tokens] - totals
    scores -= peaks
    scores *= min(1.0 / temp, _STEEPEST)
    cumulative = np.exp(scores).cumsum(axis=1)
    tokens = (cumulative <= uniforms[:, None] * cumulative[:, -1:]).sum(axis=1)
    return tokens, raw[rows, tokens] - totals


def choose(logits: Logits, settings: SamplingConfig, recent: Sequence[int], uniform: float) -> int:
    """The token that `uniform` in [0, 1) picks from logits (V,) under `settings`, all that they add being added already.

    `recent` are the last ids, the newest last; the penalties look at PENALIZED of them, no-repeat n-gram at all. Inverse
    CDF in float64, ids in increasing order: token i if `uniform` lies in [P(< i), P(<= i)). A token of probability 0 is
    never picked. Temperature 0 is greedy. Raises CharrnnError if there is nothing to choose from.
    """
    logits = penalized(logits, settings, recent)
    if settings.temp == 0.0:
        return greedy(logits)
    scores = temperature(logits, settings.temp)
    if settings.top_k:
        scores = top_k(scores, settings.top_k)
    if settings.top_p < 1.0:
        scores = top_p(scores, settings.top_p)
    if settings.min_p > 0.0:
        scores = min_p(scores, settings.min_p)
    return _inverse_cdf(scores, uniform)


def penalized(logits: Logits, settings: SamplingConfig, recent: Sequence[int]) -> Logits:
    """The part of `choose` that depends on what came before: no-repeat n-gram and the penalties."""
    if settings.no_repeat_ngram:
        logits = no_repeat_ngram(logits, recent, settings.no_repeat_ngram)
    recent = recent[-PENALIZED:]
    if settings.repetition_penalty != 1.0 and recent:
        logits = repetition_penalty(logits, recent, settings.repetition_penalty)
    if settings.frequency_penalty and recent:
        logits = frequency_penalty(logits, recent, settings.frequency_penalty)
    return logits


def log_probability(logits: Logits, token: int) -> float:
    """The log-probability (nats) that the model itself, at temperature 1 and with every token allowed, gives `token`."""
    shifted = logits.astype(np.float64)
    shifted -= shifted[shifted.argmax()]
    return float(shifted[token]) - math.log(np.exp(shifted).sum())


def uniform(seed: int, stream: int, position: int, attempt: int) -> float:
    """One number in [0, 1), a multiple of 2**-53, that depends on its four coordinates and on nothing else.

    Philox4x64-10: the key is `seed` (below 2**128), block `position // 4` of counter (block, stream, attempt, 0) gives
    four numbers, `position % 4` says which. So it is number `position` of NumPy's
    `Generator(Philox(key=seed, counter=(stream << 64) + (attempt << 128))).random(...)`.
    """
    return _block(seed, stream, position >> 2, attempt)[position & 3]


@lru_cache(maxsize=1024)
def _block(seed: int, stream: int, block: int, attempt: int) -> tuple[float, ...]:
    assert 0 <= seed < 1 << 128
    assert max(stream, block, attempt) <= _MASK
    assert min(stream, block, attempt) >= 0
    counter = (block + 1 & _MASK, stream, attempt, 0)  # NumPy counts up before each block
    return tuple((word >> 11) * 2.0**-53 for word in philox(counter, (seed & _MASK, seed >> 64)))


_MASK = (1 << 64) - 1


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x64-10: four random 64-bit words for a 256-bit counter and a 128-bit key.

    Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3". In plain Python, because importing numpy.random
    takes 40 ms and making a NumPy generator 20 us, while a block of this takes 6 us and serves four draws.
    """
    a, b, c, d = counter
    left, right = key
    for _ in range(10):
        low, high = 0xD2E7470EE14C6C93 * a, 0xCA5A826395121157 * c
        a, b, c, d = (high >> 64) ^ b ^ left, high & _MASK, (low >> 64) ^ d ^ right, low & _MASK
        left, right = left + 0x9E3779B97F4A7C15 & _MASK, right + 0xBB67AE8584CAA73B & _MASK
    return a, b, c, d


def _inverse_cdf(scores: Logits, uniform: float) -> int:
    """The token at `uniform`; the highest of `scores` is 0.

    There is one: `uniform` is at most 1 - 2**-53, so its product with the total lies below the total, even when rounded.
    """
    cumulative = np.exp(scores).cumsum()
    return int(cumulative.searchsorted(uniform * cumulative[-1], "right"))


def _peak(logits: Logits) -> float:
    return _checked(float(logits[logits.argmax()]))  # argmax takes a quarter of the time of max, and finds nan as well


def _peaks(logits: Logits) -> Logits:
    """The highest of each row, (B, 1)."""
    peaks: Logits = logits.max(axis=1, keepdims=True)
    if not np.isfinite(peaks).all():
        for peak in peaks.ravel().tolist():
            _checked(peak)
    return peaks


def _checked(peak: float) -> float:
    if math.isfinite(peak):
        return peak
    if peak == -math.inf:
        raise NothingLeft("every token is forbidden; there is nothing to choose from.", "Allow some tokens.")
    raise no_number(peak)


def no_number(score: float) -> CheckpointError:
    """The error for a model whose scores are no numbers: its weights were finite, and too large to go on with."""
    hint = "Its weights are spoilt: use another copy, or train it again with a lower --learning-rate."
    return CheckpointError(f"the model's highest score is {score}; expected a number.", hint)
