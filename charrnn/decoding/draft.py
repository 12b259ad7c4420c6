"""The line that is being typed: read as it is typed, so that what may follow is known between two keys.

A key adds a token or two to what was read before; the state after each of the last tokens is kept, so that taking back
a key costs nothing. What is asked for can be cancelled at any token. Knows nothing of keys, threads or sessions: one
draft serves one thread at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from charrnn.config import SamplingConfig
from charrnn.decoding import generate, healing
from charrnn.decoding.course import RECENT
from charrnn.decoding.engine import Ids
from charrnn.decoding.generate import Prefix
from charrnn.decoding.healing import Opening
from charrnn.decoding.pending import NOTHING, explored
from charrnn.decoding.tree import PRIME_AT_ONCE, Partner
from charrnn.decoding.vocabulary import RESERVED_IDS, Vocabulary
from charrnn.text.tokenizers import EOS

KEPT = 64  # of the last tokens, a state after each
LONGEST_CHARACTER = 4  # bytes
LEAST = -7.0  # log of the share of a way to cut the end of a line that is worth following: one in a thousand
MOST_CHOICES = 9  # as there are digits
Cancelled = Callable[[], bool]


class Choice(NamedTuple):
    """What may come next, and how likely the model finds it (temperature 1)."""

    text: str
    probability: float


class _Way(NamedTuple):
    """A place where the next piece may be drawn: after what, which tokens, the log of this way's share, characters known."""

    prefix: Prefix
    tokens: Ids
    share: float
    known: int


class Draft:
    """What has been typed after one place of the text."""

    def __init__(self, partner: Partner) -> None:
        self._partner = partner
        self._vocabulary: Vocabulary | None = None
        self._before: Prefix | None = None
        self._ids = np.empty(0, np.int64)
        self._marks: dict[int, Prefix] = {}  # by the number of ids that have been read

    def read(self, before: Prefix, text: str, cancelled: Cancelled) -> Prefix | None:
        """What follows `text` after `before`, from as much of it as was read already; None if cancelled on the way."""
        ids = self._partner.spelt(text)
        self._keep_common(before, ids)
        place = max(self._marks)
        while place < len(ids):
            if cancelled():
                return None
            several = min(PRIME_AT_ONCE, len(ids) - KEPT - place)
            after = place + max(several, 1)
            self._marks[after] = generate.prime(self._partner.engine, ids[place:after], self._marks[place])
            place = after
        self._marks = {mark: known for mark, known in self._marks.items() if mark % PRIME_AT_ONCE == 0 or mark > place - KEPT}
        return self._marks[place]

    def _keep_common(self, before: Prefix, ids: Ids) -> None:
        """Forget what was read, but for the beginning that it has in common with `ids`."""
        if before is not self._before:
            self._before, self._marks = before, {0: before}
        length = min(len(ids), len(self._ids))
        different = np.flatnonzero(ids[:length] != self._ids[:length])
        common = int(different[0]) if len(different) else length
        self._marks = {mark: known for mark, known in self._marks.items() if mark <= common}
        self._ids = ids

    def _opening(self, before: Prefix, recent: Sequence[int], text: str, cancelled: Cancelled) -> Opening | None:
        stable = healing.stable(self._partner.tokenizer, text)
        prefix = self.read(before, text[:stable], cancelled)
        if prefix is None:
            return None
        return Opening(prefix, (*recent, *self._ids.tolist())[-RECENT:], "", text[stable:])

    def continuation(
        self, before: Prefix, recent: Sequence[int], text: str, settings: SamplingConfig, length: int, cancelled: Cancelled
    ) -> str | None:  # fmt: skip
        """The likeliest way in which the line goes on, up to its end or `length` characters; None if cancelled."""
        opening = self._opening(before, recent, text, cancelled)
        if opening is None:
            return None
        partner, said = self._partner, ""
        for token in generate.stream(
            partner.engine, partner.tokenizer, opening.prefix, replace(settings, temp=0.0), seed=0, length=2 * length,
            at_eos="newline" if partner.at_eos == "newline" else "never", recent=opening.recent, pending=opening.pending,
        ):  # fmt: skip
            if cancelled():
                return None
            said += token.text
            if "\n" in said or len(said) >= length:
                break
        return said.partition("\n")[0][:length].rstrip()

    def choices(self, before: Prefix, text: str, count: int, cancelled: Cancelled) -> list[Choice]:
        """The `count` likeliest next pieces of text, the likeliest first; none if cancelled.

        Where the line ends within a piece of a subword model, they are what the pieces that begin so add to it, or what
        follows if the piece ends with the line, by all ways of cutting it that count.
        """
        opening = self._opening(before, (), text, cancelled)
        if opening is None:
            return []
        if not np.isfinite(opening.prefix.logits).all():  # the answer will say that these are no numbers
            return []
        found: dict[str, float] = {}
        for prefix, tokens, share, known in self._ways_on(opening):
            scores = prefix.logits.astype(np.float64)
            scores -= np.logaddexp.reduce(scores)
            for token in tokens[np.argsort(-scores[tokens], kind="stable")][: count + len(RESERVED_IDS)].tolist():
                if cancelled():
                    return []
                piece = self._whole(prefix, token)[known:]
                if piece:
                    found[piece] = found.get(piece, 0.0) + float(np.exp(scores[token] + share))
        likeliest = sorted(found.items(), key=lambda one: -one[1])
        return [Choice(piece, probability) for piece, probability in likeliest[:count]]

    def _ways_on(self, opening: Opening) -> Iterator[_Way]:
        """Where the next piece may be drawn."""
        partner = self._partner
        self._vocabulary = self._vocabulary or Vocabulary(partner.tokenizer, "\n" if partner.at_eos == "newline" else None)
        any_token = np.setdiff1d(np.arange(self._vocabulary.size), [*RESERVED_IDS, EOS])
        if opening.pending:
            yield from self._ways_within(opening, self._vocabulary, any_token)
        else:
            yield _Way(opening.prefix, any_token, 0.0, 0)

    def _ways_within(self, opening: Opening, vocabulary: Vocabulary, any_token: Ids) -> Iterator[_Way]:
        """The ways to cut the end of a line that has not been read, those that count: within it, and after it."""
        engine, prefix = self._partner.engine, opening.prefix
        usual = self._partner.tokenizer.encode(opening.pending).tolist()
        pending = explored(engine, vocabulary, prefix.state, prefix.logits, opening.pending, usual)
        places = deque([(prefix, pending, -pending.hope)])  # what has been read, what is left, the log of the tokens' share
        while places:
            before, left, share = places.popleft()
            scores = before.logits - np.logaddexp.reduce(before.logits.astype(np.float64))
            holding = vocabulary.beginning(left.text, b"")[0]
            yield _Way(before, holding, share, len(left.text))
            ends = [(token, NOTHING) for token in holding.tolist() if vocabulary.read(token, b"")[0] == left.text]
            for token, rest in (*ends, *left.ways.items()):
                its_share = share + float(scores[token])
                if its_share + rest.hope >= LEAST:
                    after = generate.prime(engine, [token], before)
                    if rest.text:
                        places.append((after, rest, its_share))
                    else:
                        yield _Way(after, any_token, its_share, 0)

    def _whole(self, prefix: Prefix, token: int) -> str:
        """The text of `token`, with the likeliest other bytes if it is only a part of a character; empty if none do."""
        assert self._vocabulary is not None
        text, rest = self._vocabulary.read(token, b"")
        for _ in range(LONGEST_CHARACTER - 1):
            if not rest:
                break
            prefix = generate.prime(self._partner.engine, [token], prefix)
            token = int(np.argmax(prefix.logits))
            text, rest = self._vocabulary.read(token, rest)
        return "" if rest or "\ufffd" in text else text
