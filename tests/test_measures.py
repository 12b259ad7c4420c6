"""Figures against numbers worked out by hand: of answers, of label smoothing, and of characters that a model cannot read."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import toy

from charrnn.cli import verses
from charrnn.config import ModelConfig, TrainingConfig
from charrnn.models.classifier import Classifier
from charrnn.models.conditional import ConditionalModel
from charrnn.models.seq2seq import Seq2seq
from charrnn.models.weights import export_weights
from charrnn.runs.model import Model
from charrnn.text.examples import Examples, Ragged
from charrnn.text.tokenizers import EOS, UNK
from charrnn.training import classify, conditional, seq2seq
from charrnn.training.batching import Cursor

UNITS = toy.letters("ab ")
CPU = torch.device("cpu")
SMALL = ModelConfig(vocab_size=UNITS.vocab_size, embedding_size=4, hidden_size=6)
LABELS = np.array([0, 2, 0, 1, 0])


def test_answers_are_compared_by_the_characters_of_the_targets() -> None:
    answers, targets = ["abc", "", "kitten", "same", "twice so long"], ["abd", "xy", "sitting", "same", "twice"]
    edits = 1 + 2 + 3 + 0 + 8
    assert seq2seq.compared(answers, targets) == {"exact_match": 1 / 5, "character_error_rate": edits / (3 + 2 + 7 + 4 + 5)}
    assert seq2seq.compared(["far too much"], ["a"])["character_error_rate"] == 11  # no share: it may be above 1
    assert seq2seq.compared([], []) == {"exact_match": 0, "character_error_rate": 0}


def texts_of(*texts: str) -> Ragged:
    return Ragged.of(UNITS.encode(text) for text in texts)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_label_smoothing_is_its_definition(smoothing: float, balance: bool) -> None:
    torch.manual_seed(3)
    network = Classifier(replace(SMALL, task="classify", classes=4)).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(4)
    examples = Examples(texts_of("a", "abba ab", "b b", "aaaa", "ba ba ba ba"), None, LABELS)
    training = TrainingConfig(label_smoothing=smoothing, balance=balance, batch_size=5)
    cost = classify.loss(network, classify.feed(examples, training).at(Cursor()), (), training, CPU)
    expected = 0.0
    for number, label in enumerate(LABELS.tolist()):  # each alone: nothing is padded
        odds = classify.log_odds(network, examples.take(np.array([number])))[0]
        smooth = (1 - smoothing) * -odds[label] + smoothing * -odds.mean()
        expected += smooth * (5 / (3 * [3, 1, 1][label]) if balance else 1)
    assert float(cost.nats.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(cost.right) <= 5


KNOWN, STRANGE = ("ab", "b a", "aa"), ("a猫", "b a", "é!")  # the second with 1, 0 and 2 characters that are hidden
HIDDEN = [1, 0, 2]


def both(label: bool) -> tuple[Examples, Examples]:
    """The same tokens, once as texts that are known and once as texts with characters that are hidden."""
    ids = Ragged.of(np.append(UNITS.encode(text), EOS) for text in STRANGE)
    assert (ids.values == UNK).sum() == 3
    made = Examples(ids, None, np.arange(3)) if label else Examples(texts_of(*KNOWN), ids)
    one, other = (replace(made, texts=tuple(("a", text) for text in texts)) for texts in (KNOWN, STRANGE))
    return one, other


def test_hidden_characters_of_texts_with_a_label_are_charged_for() -> None:
    network = ConditionalModel(replace(SMALL, task="conditional", classes=3)).eval()
    known, strange = both(label=True)
    free, charged = (conditional.report(network, examples, UNITS) for examples in (known, strange))
    assert (free.hidden, charged.hidden, charged.characters) == (0, 3, 7)
    assert charged.nats - free.nats == pytest.approx(3 * UNITS.escape_nats, abs=1e-4)
    weights = export_weights(network)
    model = Model(network.config, UNITS, weights, (EOS,), {}, "odes", Path("nowhere"), "", ("x", "y", "z"))
    before, after = (verses._costs(model, network, examples) for examples in (known, strange))
    bits = np.array(HIDDEN) * UNITS.escape_nats / math.log(2)
    assert np.allclose(after.right - before.right, bits, atol=1e-4)
    assert np.allclose(after.wrong - before.wrong, bits, atol=1e-4)  # under any label: it tells none from another


def test_hidden_characters_of_targets_are_charged_for_and_those_of_sources_are_not() -> None:
    network = Seq2seq(replace(SMALL, task="seq2seq")).eval()
    known, strange = both(label=False)
    free, charged = (seq2seq.taught(network, examples, UNITS) for examples in (known, strange))
    assert (free.hidden, charged.hidden, charged.characters) == (0, 3, 7)
    assert charged.nats - free.nats == pytest.approx(3 * UNITS.escape_nats, abs=1e-4)
    sources = replace(known, texts=tuple(("猫", text) for _, text in known.texts))
    assert seq2seq.taught(network, sources, UNITS).nats == pytest.approx(free.nats)
