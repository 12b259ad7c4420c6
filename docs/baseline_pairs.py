"""What needs no network: python docs/baseline_pairs.py FILE [--val-fraction X]

FILE holds pairs, a source and a target, as `charrnn train --task seq2seq FILE` reads them; the same pairs are held out.
Each held-out source is answered with the target of the nearest source among the others: the one that fewest characters
have to be inserted into, taken out of or replaced in to make the held-out one of it; of several, the first. Prints the
figures of `charrnn eval RUN FILE --split val`, to be put beside a model's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from charrnn.config import ReadingConfig, TrainingConfig
from charrnn.text import examples, rows
from charrnn.text.distance import edits
from charrnn.text.sources import find_sources

Pairs = Sequence[tuple[str, str]]


def answered(learnt: Pairs, sources: Sequence[str]) -> list[str]:
    """The target of the nearest source that was learnt, for each source."""
    return [_nearest(learnt, source) for source in sources]


def _nearest(learnt: Pairs, source: str) -> str:
    best, answer = len(source) + max(len(known) for known, _ in learnt) + 1, ""
    for known, target in learnt:
        if abs(len(known) - len(source)) < best and (distance := edits(known, source)) < best:
            best, answer = distance, target
    return answer


def split(file: str, fraction: float) -> tuple[Pairs, Pairs]:
    """The pairs of a file to learn from, and those that are held out."""
    reading = ReadingConfig()
    pairs = [(row.first, row.second) for row in rows.read(find_sources([file]), reading, rows.paired(reading))]
    learnt, held = examples.split(len(pairs), None, fraction)
    return [pairs[index] for index in learnt.tolist()], [pairs[index] for index in held.tolist()]


def main() -> None:
    """Read the arguments, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("file")
    parser.add_argument("--val-fraction", type=float, default=TrainingConfig.val_fraction)
    options = parser.parse_args()
    learnt, held = split(options.file, options.val_fraction)
    answers = answered(learnt, [source for source, _ in held])
    exact = sum(answer == target for answer, (_, target) in zip(answers, held, strict=True))
    wrong = sum(edits(answer, target) for answer, (_, target) in zip(answers, held, strict=True))
    print(f"exact match           {exact / max(1, len(held)):.2%} of {len(held):,}, by the nearest of {len(learnt):,} sources")
    print(f"character error rate  {wrong / max(1, sum(len(target) for _, target in held)):.2%}")


if __name__ == "__main__":
    main()
