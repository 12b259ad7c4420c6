"""A linear bag of words on labelled rows, split as `charrnn train --task classify` splits them: what a model has to beat.

Counts of words (or of words and pairs of words, or TF-IDF of them) into a logistic regression, by scikit-learn (in the
`test` extra). The strength of its regularisation is chosen on the training part alone, by cross validation.

    python docs/baseline_reviews.py corpora/reviews.tsv
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import f1_score, log_loss

from charrnn.config import ReadingConfig, TrainingConfig
from charrnn.text import examples
from charrnn.text.sources import find_sources
from charrnn.training import lessons

WORDS = r"(?u)\b\w[\w']*\b"  # one-letter words and "didn't" too
KINDS = {
    "words": CountVectorizer(token_pattern=WORDS, binary=True),
    "words and pairs": CountVectorizer(token_pattern=WORDS, ngram_range=(1, 2), binary=True),
    "TF-IDF of both": TfidfVectorizer(token_pattern=WORDS, ngram_range=(1, 2), sublinear_tf=True),
}


def main() -> None:
    """Print held-out accuracy, macro F1 and loss of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    rows = lessons.read_rows(find_sources([parser.parse_args().file]), ReadingConfig(), "classify", lowercase=True)
    names = examples.named(row.first for row in rows)
    labels = examples.numbered([row.first for row in rows], names)
    train, held = examples.split(len(rows), labels, TrainingConfig.val_fraction)
    texts = np.array([row.second for row in rows], dtype=object)
    print(f"{len(train):,} texts to learn from, {len(held):,} held out, labels: {', '.join(names)}")
    for name, counter in KINDS.items():
        known = counter.fit_transform(texts[train])
        model = LogisticRegressionCV(
            Cs=np.logspace(-2, 3, 11), l1_ratios=(0.0,), cv=5, max_iter=5000, scoring="accuracy", use_legacy_attributes=False
        )
        model.fit(known, labels[train])
        odds = model.predict_proba(counter.transform(texts[held]))
        best = odds.argmax(-1)
        accuracy, f1 = float(np.mean(best == labels[held])), f1_score(labels[held], best, average="macro")
        print(f"{name:16} accuracy {accuracy:.1%}  macro F1 {f1:.1%}  loss {log_loss(labels[held], odds):.4f}")


if __name__ == "__main__":
    main()
