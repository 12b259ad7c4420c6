"""Scores against their definition, computed the slow way: one token at a time, one stream at a time."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.models.language import LanguageModel
from charrnn.training import evaluate
from charrnn.training.evaluate import Report

TOKENS = np.random.default_rng(3).integers(4, 12, 1300).astype(np.uint8)


@pytest.fixture
def network() -> LanguageModel:
    torch.manual_seed(4)
    return LanguageModel(ModelConfig(vocab_size=12, embedding_size=5, hidden_size=9, layers=2), dropout_output=0.5)


def slowly(network: LanguageModel, tokens: np.ndarray) -> tuple[float, int]:
    """Nats and right predictions of tokens[1:], in float64 sums, from a zero state."""
    network.eval()
    state, nats, right = network.begin(1), 0.0, 0
    with torch.no_grad():
        for before, target in itertools.pairwise(tokens):
            logits, state = network.step(torch.tensor([int(before)]), state)
            nats -= float(torch.log_softmax(logits.double(), -1)[0, int(target)])
            right += int(logits.argmax()) == int(target)
    return nats, right


def test_one_stream_is_the_definition(network: LanguageModel) -> None:
    nats, right = evaluate.stream_loss(network, TOKENS, 1)
    expected, expected_right = slowly(network, TOKENS)
    assert nats == pytest.approx(expected, rel=1e-5)
    assert right == expected_right


@pytest.mark.parametrize("streams", [2, 3, 16])
def test_parallel_streams_score_every_token_once(network: LanguageModel, streams: int) -> None:
    length = math.ceil((len(TOKENS) - 1) / streams)
    parts = [slowly(network, TOKENS[i * length : (i + 1) * length + 1]) for i in range(streams)]
    nats, right = evaluate.stream_loss(network, TOKENS, streams)
    assert nats == pytest.approx(sum(part[0] for part in parts), rel=1e-5)
    assert right == sum(part[1] for part in parts)


def test_tokens_can_be_read_without_being_scored(network: LanguageModel) -> None:
    whole, _ = slowly(network, TOKENS[:100])
    head, _ = slowly(network, TOKENS[:8])
    assert evaluate.stream_loss(network, TOKENS[:100], 1, skip=7)[0] == pytest.approx(whole - head, rel=1e-5)


def test_cold_windows(network: LanguageModel) -> None:
    parts = [slowly(network, TOKENS[i * 256 : (i + 1) * 256 + 1])[0] for i in range(5)]
    assert evaluate.cold_loss(network, TOKENS) == pytest.approx(sum(parts) / (5 * 256), rel=1e-5)
    assert evaluate.cold_loss(network, TOKENS[:256]) is None


def test_evaluation_leaves_training_mode_and_random_numbers_alone(network: LanguageModel) -> None:
    network.train()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    evaluate.stream_loss(network, TOKENS, 4)
    assert network.training
    assert torch.equal(torch.rand(3), expected)


def test_a_report_divides_its_sums() -> None:
    report = Report(nats=math.log(2) * 300, tokens=100, correct=25, characters=150, utf8_bytes=200, hidden=0)
    assert report.loss == pytest.approx(3 * math.log(2))
    assert report.perplexity == pytest.approx(8)
    assert report.bits_per_character == pytest.approx(2)
    assert report.bits_per_byte == pytest.approx(1.5)
    assert report.accuracy == 0.25


def test_a_short_text_is_one_stream() -> None:
    assert [evaluate.streams_for(n) for n in (10, 9000, 10**9)] == [1, 2, 16]


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_bf16_scores_nearly_as_fp32(cell: str) -> None:
    torch.manual_seed(3)
    network = LanguageModel(ModelConfig(cell=cell, vocab_size=30, embedding_size=8, hidden_size=32, layers=2)).eval()
    tokens = np.random.default_rng(3).integers(4, 30, 4000)
    exact, near = (evaluate.stream_loss(network, tokens, 4, precision=precision)[0] / 3999 for precision in ("fp32", "bf16"))
    assert near != exact
    assert near == pytest.approx(exact, abs=2e-3)
