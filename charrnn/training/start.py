"""What a text begins after: what a model is given before the first character of a sample.

A model that is to begin at the beginning must be told that something has just ended.
"""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from charrnn.text.corpus import TokenData
from charrnn.text.tokenizers import BOS, EOS, UNK, Tokenizer

LOOKED_AT = 500_000  # tokens


def start_of(data: TokenData, tokenizer: Tokenizer) -> list[int]:
    """Token ids: the end of another document, else what separates the parts of one, else <bos>."""
    if data.documents > 1:
        return [EOS]
    head = np.asarray(data.train[:LOOKED_AT])
    separator = [int(i) for i in tokenizer.encode(separator_of(tokenizer.decode(head)))]
    return separator if UNK not in separator else [BOS]


def separator_of(text: str) -> str:
    """The longest run of newlines that is common in `text` (every hundredth run or more): between poems, or paragraphs."""
    runs = Counter(len(run) for run in re.findall("\n+", text.strip("\n")))
    common = [length for length, count in runs.items() if count >= max(3, runs.total() / 100)]
    return "\n" * min(max(common, default=1), 8)
