"""Does it only copy its text? The share of runs of 20, 40 and 80 characters that stand nowhere in the training text.

The figures of what a model draws say something beside those of a text that somebody wrote and the model never saw:
people, too, say the same 20 characters twice. Knows nothing of where the index comes from (runs/copies.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from charrnn.config import SamplingConfig
from charrnn.decoding import engine as engines
from charrnn.decoding import generate
from charrnn.runs.model import Model
from charrnn.text.ngrams import BOUNDARY, Copies, Grams
from charrnn.text.tokenizers import EOS, code_points

SIZES = (20, 40, 80)  # characters of a run
STREAMS, CHARACTERS = 20, 500  # drawn: streams side by side, and from each of them
MOST_TOKENS = 4  # for a character, of a byte model; a stream that takes more ends short
SEED = 1

Shares = dict[int, float | None]  # by size, from 0 to 1; None where the text has no run of that size


def draw(model: Model) -> list[str]:
    """10,000 characters from `model`, from where it starts, at the default settings: the documents they make, in order."""
    engine = engines.of(model)
    prefix = generate.prime(engine, list(model.start))
    documents, left = [[""] for _ in range(STREAMS)], [CHARACTERS] * STREAMS
    tokens = generate.draw_many(
        engine, model.tokenizer, prefix, SamplingConfig(), seed=SEED, count=STREAMS, length=MOST_TOKENS * CHARACTERS,
        at_eos=model.at_eos,
    )  # fmt: skip
    for index, token in tokens:
        text = token.text.removesuffix("\n") if token.id == EOS else token.text  # that newline is no text of the model's
        documents[index][-1] += text[: left[index]]
        left[index] = max(0, left[index] - len(text))
        if token.id == EOS:
            documents[index].append("")
        if not any(left):
            break
    return [document for stream in documents for document in stream if document]


def novelty(grams: Grams, *texts: Sequence[str]) -> list[Shares]:
    """For each text, given as its documents, the shares of its runs that do not stand in the text with the hashes `grams`."""
    shares: list[Shares] = [{} for _ in texts]
    joined = [BOUNDARY.join(documents) for documents in texts]
    for size in SIZES:
        copies = Copies(grams, size - 1)  # of one size at a time: they are as large as eight bytes for each character
        for share, text in zip(shares, joined, strict=True):
            found = copies.found(text)[_inside(text, size)]
            share[size] = 1 - float(found.mean()) if len(found) else None
    return shares


def _inside(text: str, size: int) -> NDArray[np.bool_]:
    """Which windows of `size` characters lie inside a document, (len(text) - size + 1,) or (0,)."""
    before = np.concatenate([[0], np.cumsum(code_points(text) == ord(BOUNDARY), dtype=np.int32)])  # boundaries
    return np.asarray(before[size:] == before[: max(0, len(before) - size)])
