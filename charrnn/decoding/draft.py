"""The line that is being typed: read as it is typed, so that what may follow is known between two keys.

A key adds a token or two to what was read before; the state after each of the last tokens is kept, so that taking back
a key costs nothing. What is asked for can be cancelled at any token. Knows nothing of keys, threads or sessions: one
draft serves one thread at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from charrnn.config import SamplingConfig
from charrnn.decoding import generate, healing
from charrnn.decoding.course import RECENT
from charrnn.decoding.engine import Ids
from charrnn.decoding.generate import Prefix
from charrnn.decoding.healing import Opening
from charrnn.decoding.pending import NOTHING, Pending, explored
from charrnn.decoding.tree import PRIME_AT_ONCE, Partner
from charrnn.decoding.vocabulary import RESERVED_IDS, Vocabulary
from charrnn.text.tokenizers import EOS

KEPT = 64  # of the last tokens, a state after each
LONGEST_CHARACTER = 4  # bytes
MOST_CHOICES = 9  # as there are digits
Cancelled = Callable[[], bool]


class Choice(NamedTuple):
    """What may come next, and how likely the model finds it (temperature 1)."""

    text: str
    probability: float


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
        ids = self._partner.tokenizer.encode(text)
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
        """The `count` likeliest next tokens, the likeliest first; none if cancelled.

        Where the line ends within a piece, they are what the pieces that begin with it add to it.
        """
        opening = self._opening(before, (), text, cancelled)
        if opening is None:
            return []
        scores = opening.prefix.logits.astype(np.float64)
        scores -= np.logaddexp.reduce(scores)
        pending, tokens = self._candidates(opening)
        likely = [int(token) for token in tokens[np.argsort(-scores[tokens], kind="stable")]]
        found: list[Choice] = []
        for token in likely:
            if len(found) == count or cancelled():
                break
            piece = self._whole(opening.prefix, token)[len(opening.pending) :]
            if piece and all(piece != choice.text for choice in found):
                found.append(Choice(piece, float(np.exp(scores[token] - pending.hope))))
        return found

    def _candidates(self, opening: Opening) -> tuple[Pending, Ids]:
        """The tokens that may come, those first that hold all of what is pending."""
        partner = self._partner
        self._vocabulary = self._vocabulary or Vocabulary(partner.tokenizer, "\n" if partner.at_eos == "newline" else None)
        if not opening.pending:
            reserved = {*RESERVED_IDS, EOS}
            return NOTHING, np.array([token for token in range(self._vocabulary.size) if token not in reserved], np.int64)
        usual = partner.tokenizer.encode(opening.pending).tolist()
        prefix = opening.prefix
        pending = explored(partner.engine, self._vocabulary, prefix.state, prefix.logits, opening.pending, usual)
        return pending, self._vocabulary.beginning(opening.pending, b"")[0]

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
