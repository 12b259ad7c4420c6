"""The index of copies of a run, made from its text: hashed before the plan, kept once there is a folder.

That reads the training part once more: 1.2 s for 45 million characters, 0.03 s for one. The array and, while it is
written, one copy are all the memory it takes. Knows the text; runs/copies.py knows the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from charrnn.config import ReadingConfig
from charrnn.runs import copies
from charrnn.text import corpus, ngrams
from charrnn.text.corpus import Source, Survey, TokenData
from charrnn.text.ngrams import Grams


def hashed(
    sources: Sequence[Source], reading: ReadingConfig, survey: Survey, val_fraction: float
) -> tuple[Grams | None, tuple[str, ...]]:
    """The hashes of the training part, (N,), and notes for the user; no hashes of a text that is too long for an index."""
    if corpus.split_position(survey.characters, val_fraction) > copies.MOST_CHARACTERS:
        return None, (f"copies: no index, for a text of more than {copies.MOST_CHARACTERS:,} characters",)
    return ngrams.hashes(corpus.training_pieces(sources, reading, survey, val_fraction)), ()


def keep(folder: Path, survey: Survey, data: TokenData, grams: Grams | None) -> None:
    """Write the index of the run in `folder`, if there are hashes; raises WriteError or CannotCreateError."""
    if grams is not None:
        copies.write(folder, copies.describe(survey.digest, data.train_characters), grams)


def renew(folder: Path, sources: Sequence[Source], reading: ReadingConfig, survey: Survey, data: TokenData, val: float) -> None:
    """Write the index of a run that goes on if it has none, or none that fits: as one of an earlier version."""
    if not copies.fits(folder, copies.describe(survey.digest, data.train_characters)):
        keep(folder, survey, data, hashed(sources, reading, survey, val)[0])
