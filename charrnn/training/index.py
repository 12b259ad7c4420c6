"""The index of copies of a run, made from its text: hashed before the plan, kept once there is a folder.

That reads the training part once more: 1.2 s for 45 million characters, 0.03 s for one. The array and, while it is
written, one copy are all the memory it takes. Knows the text; runs/copies.py knows the file.
"""

from __future__ import annotations

from pathlib import Path

from charrnn.runs import copies
from charrnn.text import corpus, ngrams
from charrnn.text.corpus import TokenData
from charrnn.text.ngrams import Grams
from charrnn.training.material import Material


def hashed(material: Material, val_fraction: float) -> tuple[Grams | None, tuple[str, ...]]:
    """The hashes of the training part, (N,), and notes for the user; none of single examples, or of too long a text."""
    if not isinstance(material.data, TokenData):
        return None, ()
    sources, reading, survey = material.sources, material.reading, material.survey
    if corpus.split_position(survey.characters, val_fraction) > copies.MOST_CHARACTERS:
        return None, (f"copies: no index, for a text of more than {copies.MOST_CHARACTERS:,} characters",)
    return ngrams.hashes(corpus.training_pieces(sources, reading, survey, val_fraction)), ()


def keep(folder: Path, material: Material, grams: Grams | None) -> None:
    """Write the index of the run in `folder`, if there are hashes; raises WriteError or CannotCreateError."""
    if grams is not None and isinstance(material.data, TokenData):
        copies.write(folder, copies.describe(material.survey.digest, material.data.train_characters), grams)


def renew(folder: Path, material: Material, val_fraction: float) -> None:
    """Write the index of a run that goes on if it has none, or none that fits: as one of an earlier version."""
    data = material.data
    if isinstance(data, TokenData) and not copies.fits(folder, copies.describe(material.survey.digest, data.train_characters)):
        keep(folder, material, hashed(material, val_fraction)[0])
