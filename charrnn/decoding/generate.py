"""From a state to text: prime, stream, many streams at once, and the cost of a given text.

Drives anything that is a Stepper. The same engine, prefix, settings, seed and stream number give the same tokens,
because each draw takes its number from (seed, stream, position, attempt) and from nothing else. Nothing grows with the
length of what is drawn. Knows nothing of terminals, files or torch.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn.config import SamplingConfig, ShapingConfig
from charrnn.decoding.course import RECENT, AtEos, Copies, Course, Drawing
from charrnn.decoding.engine import Engine, Floats, Follower, Ids, State, Stepper
from charrnn.decoding.pending import NOTHING, Pending, explored
from charrnn.decoding.sampling import no_number
from charrnn.decoding.voice import Prefix, Token, Voice
from charrnn.text.tokenizers import Tokenizer

__all__ = ["RECENT", "AtEos", "Copies", "Prefix", "Token", "draw_many", "logprobs", "prime", "stream"]

_CHUNK_FLOATS = 1 << 20  # logits of given text held at once
_CHUNK_TOKENS = 512
TOGETHER = 16  # tokens that many streams draw at once
ANY_TEXT = ShapingConfig()


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
        logits, state = engine.step_one(int(read[-1]), state)
        return Prefix(state, logits, position + len(read))
    for index in range(len(read)):
        rows, state = engine.step(read[index : index + 1], state)
    return Prefix(state, rows[0], position + len(read))


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
    at_eos: AtEos = "end",
    shaping: ShapingConfig = ANY_TEXT,
    recent: Sequence[int] = (),
    shown: str = "",
    pending: str = "",
    copies: Copies | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Iterator[Token]:
    """Draw up to `length` tokens (None: for ever, in constant memory) after `prefix`.

    A text ends before its first stop to be complete (of several, the longest), found across token boundaries; the stop's
    tokens are yielded, its text is not. `at_eos` says what <eos> does: "end" the stream (it is then yielded only if text
    that was held back as the beginning of a stop comes with it), be a "newline", or "never" be drawn, which is right for
    a model that learnt from a single document. <pad>, <bos> and <unk> are never drawn.

    `shown` is what the text begins with already, for `shaping`; `recent` are ids before the prefix's end, for the
    penalties and `copies`, which refuses tokens that copy too much; `pending` is the end of the prompt that the prefix has
    not read (see healing.py): pieces that begin with it are drawn, and it is not shown again; the log-probabilities are
    those given that they do. Tokens that may yet be taken back, because a line gets too long or the text does not match a
    pattern, are yielded when that is decided. The stream ends where `cancelled` says so, which is asked before each draw.

    Raises UsageError if the settings cannot be met, CharrnnError if no text that matches was found or the model's scores
    are no numbers.
    """
    drawing = Drawing(tokenizer, settings, shaping, at_eos, copies, getattr(engine, "kernel", None))
    course = Course.begun(drawing, shown, recent, pieces_pending(engine, drawing, prefix, pending))
    voice = Voice(course, prefix, seed, stream_index, attempt, length)
    while not voice.ended and not cancelled():
        if isinstance(engine, Engine) and voice.free:
            prefix = yield from _run_ahead(engine, voice, prefix)
        yield from voice.draw(prefix)
        prefix = _after(engine, voice)


def pieces_pending(engine: Stepper, drawing: Drawing, prefix: Prefix, text: str) -> Pending:
    """What is pending after `prefix`: `text`, in whatever pieces the model would write it."""
    if not text:
        return NOTHING
    usual = drawing.tokenizer.encode(text).tolist()
    return explored(engine, drawing.vocabulary, prefix.state, prefix.logits, text, usual)


def _after(engine: Stepper, voice: Voice) -> Prefix:
    """What follows the token that `voice` has drawn."""
    before = voice.before
    if voice.ended:
        return before
    if isinstance(engine, Engine):
        logits, state = engine.step_one(voice.token, before.state)
        return Prefix(state, logits, before.position + 1)
    rows, state = engine.step(np.array([voice.token]), before.state)
    return Prefix(state, rows[0], before.position + 1)


def _run_ahead(engine: Engine, voice: Voice, prefix: Prefix) -> Generator[Token, None, Prefix]:
    """Tokens that the engine draws many at a time, as long as it can; returns what comes before the next to be drawn."""
    while (drawn := engine.run(prefix.state, prefix.logits, voice.ahead(prefix.position, engine.ahead))).tokens:
        for token, logprob, state, logits in zip(drawn.tokens, drawn.logprobs, drawn.states, drawn.logits, strict=False):
            yield from voice.take(token, logprob, prefix)
            if voice.ended:
                return prefix
            prefix = Prefix(state, logits, prefix.position + 1)
    return prefix


def draw_many(
    engine: Stepper,
    tokenizer: Tokenizer,
    prefix: Prefix,
    settings: SamplingConfig,
    *,
    seed: int,
    count: int,
    first: int = 0,
    length: int | None,
    at_eos: AtEos = "end",
    shaping: ShapingConfig = ANY_TEXT,
    recent: Sequence[int] = (),
    shown: str = "",
    pending: str = "",
    copies: Copies | None = None,
) -> Iterator[tuple[int, Token]]:
    """`count` streams after the same prefix, decoded as one batch: (index, token) in the order they come.

    Stream i, from `first` on, gives the tokens that `stream(..., stream_index=i)` gives, but for draws that lie so close
    to a boundary that a matrix product's other rounding tips them (less than 1e-5 away).
    """
    drawing = Drawing(tokenizer, settings, shaping, at_eos, copies, getattr(engine, "kernel", None))
    course = Course.begun(drawing, shown, recent, pieces_pending(engine, drawing, prefix, pending))
    voices = {index: Voice(course.copy(), prefix, seed, index, 0, length) for index in range(first, first + count)}
    prefixes = dict.fromkeys(voices, prefix)
    batch: list[Prefix] = []  # those whose states stand, in this order, in `state`
    state: State = ()
    while voices := {index: voice for index, voice in voices.items() if not voice.ended}:
        if isinstance(engine, Engine) and all(voice.free for voice in voices.values()):
            yield from _run_together(engine, voices, prefixes)
            continue
        for index, voice in voices.items():
            yield from ((index, token) for token in voice.draw(prefixes[index]))
        going = {index: voice for index, voice in voices.items() if not voice.ended}
        before = [voice.before for voice in going.values()]
        if not before:
            return
        if not (len(before) == len(batch) and all(map(operator.is_, before, batch))):  # some ended, or were taken back
            state = stacked(before)
        logits, state = engine.step(np.array([voice.token for voice in going.values()]), state)
        batch = [Prefix(row_of(state, row), logits[row], one.position + 1) for row, one in enumerate(before)]
        prefixes = dict(zip(going, batch, strict=True))


def _run_together(engine: Engine, voices: dict[int, Voice], prefixes: dict[int, Prefix]) -> Iterator[tuple[int, Token]]:
    """Some tokens of streams of which nothing but the logits decides, drawn and read together; `prefixes` goes on with them."""
    before = [prefixes[index] for index in voices]
    draws = [voice.ahead(prefixes[index].position, TOGETHER) for index, voice in voices.items()]
    count = min(len(draw.numbers) for draw in draws)
    numbers = np.array([draw.numbers[:count] for draw in draws]).T  # (N, B)
    logits = np.stack([one.logits for one in before])
    for tokens, logprobs, state, after in engine.run_many(stacked(before), logits, draws[0]._replace(numbers=numbers)):
        chosen = zip(voices.items(), tokens.tolist(), logprobs.tolist(), strict=True)
        for row, ((index, voice), token, logprob) in enumerate(chosen):
            if not voice.ended:
                yield from ((index, one) for one in voice.take(token, logprob, prefixes[index]))
                prefixes[index] = Prefix(row_of(state, row), after[row], prefixes[index].position + 1)


def stacked(prefixes: Sequence[Prefix]) -> State:
    """The states of single streams as one batch."""
    return tuple(map(np.concatenate, zip(*(one.state for one in prefixes), strict=True)))


def logprobs(engine: Stepper, ids: Sequence[int] | Ids, prefix: Prefix) -> NDArray[np.float64]:
    """The log-probability (nats) of each of `ids` (N,) when they follow `prefix`, each given those before it.

    Raises CheckpointError if the model's scores are no numbers.
    """
    read = np.asarray(ids, np.int64)
    result = np.empty(len(read), np.float64)
    size = max(1, min(_CHUNK_TOKENS, _CHUNK_FLOATS // engine.vocab_size))
    state, before = prefix.state, prefix.logits[None]
    for start in range(0, len(read), size):
        chunk = read[start : start + size]
        logits, state = _follow(engine, chunk, state)
        scores = np.concatenate([before, logits[:-1]]).astype(np.float64)  # those that predict the chunk, (N, V)
        peaks = scores.max(axis=1, keepdims=True)
        if not np.isfinite(peaks).all():
            raise no_number(float(peaks[~np.isfinite(peaks)][0]))
        scores -= peaks
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


def row_of(state: State, row: int) -> State:
    """One stream of a batch, as views: read-only, as the state is."""
    return tuple([array[row : row + 1] for array in state])  # a list is quicker here than a generator
