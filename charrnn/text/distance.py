"""How far one text is from another: the edit distance. Knows nothing of where they come from."""

from __future__ import annotations


def edits(one: str, other: str) -> int:
    """The fewest characters to insert, delete or replace to make `other` of `one` (Levenshtein 1966; Wagner, Fischer 1974)."""
    above = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        here = [row]
        for column, wanted in enumerate(other, start=1):
            here.append(min(above[column] + 1, here[-1] + 1, above[column - 1] + (letter != wanted)))
        above = here
    return above[-1]
