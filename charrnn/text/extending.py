"""An old alphabet and a new text: which characters a trained model keeps, and which it has still to learn.

Old characters stay even where the new text has none of them, for they may come in a prompt; their ids change, because an
alphabet is in the order of code points: `places` says to what. Bytes and pieces stay as they are, and spell anything.
Knows nothing of weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from charrnn.errors import TokenizerError
from charrnn.text.tokenizers import MOST_LETTERS, RESERVED, CharTokenizer, Ids, Tokenizer, least_count

SHOWN = 5  # characters that a note names


@dataclass(frozen=True)
class Overlap:
    """Characters of an old alphabet that a text has, those that were added for it, and old ones that it never has."""

    kept: int
    new: tuple[str, ...]
    unused: int

    def described(self) -> str:
        """In words."""
        named = f" ({_named(self.new)})" if self.new else ""
        return f"characters kept {self.kept:,}, new {len(self.new):,}{named}, unused {self.unused:,}"


def extended(old: Tokenizer, counts: Mapping[str, int], min_count: int) -> tuple[Tokenizer, list[str]]:
    """`old` with the characters of a text that it lacks and `min_count` allows, as tokenizers.build has it; and notes.

    Raises TokenizerError if there are too many.
    """
    if not isinstance(old, CharTokenizer):
        return old, _spelt(old, counts)
    known, least = set(old.letters[RESERVED:]), min_count or least_count(counts)
    lacking = [letter for letter in counts if letter not in known]
    added, rare = [[letter for letter in lacking if (counts[letter] >= least) is enough] for enough in (True, False)]
    notes = [f"too rare to learn, read as <unk>: {_named(rare)}; --min-count 1 keeps them"] if rare else []
    if not added:
        return old, notes
    if len(known) + len(added) > MOST_LETTERS:
        found = f"together with the alphabet of the run the text has {len(known) + len(added):,} distinct characters"
        raise TokenizerError(f"{found}; a model can tell {MOST_LETTERS:,} apart.", "Train it anew, with --tokenizer byte.")
    return CharTokenizer(np.array(sorted(map(ord, [*known, *added])), np.uint32)), notes


def overlap(old: Tokenizer, made: Tokenizer, counts: Mapping[str, int]) -> Overlap | None:
    """What `extended` made of an old alphabet; None where there is none."""
    if not (isinstance(old, CharTokenizer) and isinstance(made, CharTokenizer)):
        return None
    before = old.letters[RESERVED:]
    kept, known = sum(letter in counts for letter in before), set(before)
    return Overlap(kept, tuple(letter for letter in made.letters[RESERVED:] if letter not in known), len(before) - kept)


def places(old: Tokenizer, made: Tokenizer) -> Ids:
    """The new id of each old one, (V,)."""
    if not isinstance(old, CharTokenizer):
        return np.arange(old.vocab_size)
    return np.concatenate([np.arange(RESERVED), made.encode(old.decode(range(RESERVED, old.vocab_size)))])


def _spelt(old: Tokenizer, counts: Mapping[str, int]) -> list[str]:
    """A word on the characters for which there is no piece."""
    if old.kind == "byte":
        return []
    pieces = set(old.pieces())
    lacking = [letter for letter in counts if letter.encode("utf-8", "replace") not in pieces]
    return [f"characters without a piece, spelt in bytes: {len(lacking):,} ({_named(lacking)})"] if lacking else []


def _named(letters: list[str] | tuple[str, ...]) -> str:
    shown = " ".join(repr(letter) for letter in itertools.islice(letters, SHOWN))
    return f"{shown} ..." if len(letters) > SHOWN else shown
