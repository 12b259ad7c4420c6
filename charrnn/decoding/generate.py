"""From a state to text: prime, stream, many streams at once, and the cost of a given text.

Drives anything that is a Stepper. The same engine, prefix, settings, seed and stream number give the same tokens,
because each draw takes its number from (seed, stream, position, attempt) and from nothing else. Nothing grows with the
length of what is drawn. Knows nothing of terminals, files or torch.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from charrnn.config import SamplingConfig
from charrnn.decoding.engine import Floats, Follower, Ids, State, Stepper
from charrnn.decoding.sampling import choose, forbid, log_probability, uniform
from charrnn.decoding.stops import StopFinder
from charrnn.text.tokenizers import BOS, EOS, PAD, UNK, Tokenizer

RECENT = 64  # tokens that the repetition penalty looks back on
_NEVER = np.array([PAD, BOS, UNK])  # these ids are never drawn
_NEVER_NOR_EOS = np.array([PAD, BOS, UNK, EOS])
AtEos = Literal["end", "newline", "never"]  # what <eos> does to a stream
_CHUNK_FLOATS = 1 << 20  # logits of given text held at once
_CHUNK_TOKENS = 512


@dataclass(frozen=True)
class Prefix:
    """What has been read so far, immutable: the state of one stream after it, the logits (V,) of what comes next."""

    state: State
    logits: Floats
    position: int  # tokens read


@dataclass(frozen=True)
class Token:
    """A drawn token, the text that it decides, its log-probability (nats; the model's own, temperature 1), and from what.

    The text can be empty (half a UTF-8 character, or what may become a stop text) and can hold text of tokens before.
    """

    id: int
    text: str
    logprob: float
    prefix: Prefix


def prime(engine: Stepper, ids: Sequence[int] | Ids, prefix: Prefix | None = None) -> Prefix:
    """What follows after reading `ids` from `prefix` on (None: from nothing; then `ids` must not be empty).

    The result is the same to the last bit however a text is cut into calls.
    """
    assert prefix is not None or len(ids), "nothing to read"
    if not len(ids):
        assert prefix is not None
        return prefix
    state, position = (prefix.state, prefix.position) if prefix else (engine.begin(1), 0)
    read = np.asarray(ids, np.int64)
    if isinstance(engine, Follower):
        state = engine.advance(read[:-1], state)
    else:
        for index in range(len(read) - 1):
            _, state = engine.step(read[index : index + 1], state)
    logits, state = engine.step(read[-1:], state)
    return Prefix(state, logits[0], position + len(read))


def stream(
    engine: Stepper,
    tokenizer: Tokenizer,
    prefix: Prefix,
    settings: SamplingConfig,
    *,
    seed: int,
    stream_index: int = 0,
    attempt: int = 0,
    length: int | None,
    stops: Sequence[str] = (),
    recent: Sequence[int] = (),
    at_eos: AtEos = "end",
) -> Iterator[Token]:
    """Draw up to `length` tokens (None: for ever, in constant memory) after `prefix`.

    Ends before the first of the `stops` to be complete (of several, the longest), found across token boundaries; its
    tokens are yielded, its text is not. `at_eos` says what <eos> does: "end" the stream (it is then yielded only if
    text that was held back as the beginning of a stop comes with it), be a "newline", or "never" be drawn, which is
    right for a model that learnt from a single document. <pad>, <bos> and <unk> are never drawn. `recent` are ids before
    the prefix's end, for the repetition penalty. Raises UsageError on an empty stop, CharrnnError if the model's scores
    are no numbers.
    """
    voice = _Voice(tokenizer, settings, seed, stream_index, attempt, length, stops, recent, at_eos)
    while not voice.ended:
        token = voice.draw(prefix)
        if token is not None:
            yield token
        if token is None or voice.ended:
            return
        logits, state = engine.step(np.array([token.id]), prefix.state)
        prefix = Prefix(state, logits[0], prefix.position + 1)


def draw_many(
    engine: Stepper,
    tokenizer: Tokenizer,
    prefix: Prefix,
    settings: SamplingConfig,
    *,
    seed: int,
    count: int,
    length: int | None,
    stops: Sequence[str] = (),
    recent: Sequence[int] = (),
    at_eos: AtEos = "end",
) -> Iterator[tuple[int, Token]]:
    """`count` streams after the same prefix, decoded as one batch: (index, token) in the order they come.

    Stream i gives the tokens that `stream(..., stream_index=i)` gives, but for draws that lie so close to a boundary
    that a matrix product's other rounding tips them (less than 1e-5 away).
    """
    voices = {
        index: _Voice(tokenizer, settings, seed, index, 0, length, stops, recent, at_eos) for index in range(count)
    }  # fmt: skip
    prefixes = dict.fromkeys(voices, prefix)
    state = engine.gather(prefix.state, [0] * count)
    while voices:
        drawn = {index: voice.draw(prefixes[index]) for index, voice in voices.items() if not voice.ended}
        yield from ((index, token) for index, token in drawn.items() if token is not None)
        rows = [row for row, index in enumerate(voices) if not voices[index].ended]
        ids = [token.id for index, token in drawn.items() if token is not None and not voices[index].ended]
        if len(rows) < len(voices):
            voices = {index: voice for index, voice in voices.items() if not voice.ended}
            state = engine.gather(state, rows)
        if ids:
            logits, state = engine.step(np.array(ids), state)
            position = next(iter(prefixes.values())).position + 1
            prefixes = {index: Prefix(_row(state, row), logits[row], position) for row, index in enumerate(voices)}


def logprobs(engine: Stepper, ids: Sequence[int] | Ids, prefix: Prefix) -> NDArray[np.float64]:
    """The log-probability (nats) of each of `ids` (N,) when they follow `prefix`, each given those before it."""
    read = np.asarray(ids, np.int64)
    result = np.empty(len(read), np.float64)
    size = max(1, min(_CHUNK_TOKENS, _CHUNK_FLOATS // engine.vocab_size))
    state, before = prefix.state, prefix.logits[None]
    for start in range(0, len(read), size):
        chunk = read[start : start + size]
        logits, state = _follow(engine, chunk, state)
        scores = np.concatenate([before, logits[:-1]]).astype(np.float64)  # those that predict the chunk, (N, V)
        scores -= scores.max(axis=1, keepdims=True)
        chosen = scores[np.arange(len(chunk)), chunk]
        result[start : start + size] = chosen - np.log(np.exp(scores).sum(axis=1))
        before = logits[-1:]
    return result


def _follow(engine: Stepper, ids: Ids, state: State) -> tuple[Floats, State]:
    """The logits (N, V) after each of `ids`, and the state after the last."""
    if isinstance(engine, Follower):
        return engine.follow(ids, state)
    rows = []
    for index in range(len(ids)):
        logits, state = engine.step(ids[index : index + 1], state)
        rows.append(logits)
    return np.concatenate(rows), state


def _row(state: State, row: int) -> State:
    """One stream of a batch, as views: read-only, as the state is."""
    return tuple(array[row : row + 1] for array in state)


class _Voice:
    """One stream between two steps of the engine: takes logits, decides on a token, its text, and whether that was all."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        settings: SamplingConfig,
        seed: int,
        stream_index: int,
        attempt: int,
        length: int | None,
        stops: Sequence[str],
        recent: Sequence[int],
        at_eos: AtEos,
    ) -> None:
        self._tokenizer, self._settings, self._at_eos = tokenizer, settings, at_eos
        self._never = _NEVER_NOR_EOS if at_eos == "never" else _NEVER
        self._seed, self._stream_index, self._attempt = seed, stream_index, attempt
        self._left = math.inf if length is None else length
        self._recent = deque(recent, maxlen=RECENT)
        self._decoder = tokenizer.stream_decoder()
        self._stops = StopFinder(stops)
        self.ended = self._left <= 0

    def draw(self, prefix: Prefix) -> Token | None:
        """The next token; None if the stream ends without one."""
        number = uniform(self._seed, self._stream_index, prefix.position, self._attempt)
        token = choose(forbid(prefix.logits, self._never), self._settings, self._recent, number)
        self._recent.append(token)
        self._left -= 1
        over = token == EOS and self._at_eos == "end"
        text = self._read(token, self._left <= 0 or over)
        return None if over and not text else Token(token, text, log_probability(prefix.logits, token), prefix)

    def _read(self, token: int, last: bool) -> str:
        """The text that `token` decides, all that is left of it if it is the `last`; sets `ended`."""
        if token == EOS:
            piece = self._decoder.flush() + ("" if self._at_eos == "end" else "\n")
            self._decoder = self._tokenizer.stream_decoder()
        else:
            piece = self._decoder.push(token)
        if last:
            piece += self._decoder.flush()
        text, found = self._stops.push(piece)
        self.ended = found or last
        return text + self._stops.flush() if last and not found else text
