"""Dynamic evaluation: no token's score knows the token, nothing is lost, and what was learnt can be taken back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Run, runner

from charrnn.config import DynamicConfig, ModelConfig
from charrnn.errors import CharrnnError
from charrnn.models.language import LanguageModel
from charrnn.models.weights import export_weights
from charrnn.training import evaluate
from charrnn.training.dynamic import Adapter

TOKENS = np.random.default_rng(3).integers(4, 12, 300).astype(np.uint8)
Make = Callable[..., Adapter]


def adapter(rate: float = 0.3, window: int = 8, **shape: Any) -> Adapter:
    torch.manual_seed(4)
    config = ModelConfig(**({"vocab_size": 12, "embedding_size": 5, "hidden_size": 9, "layers": 2} | shape))
    weights = export_weights(LanguageModel(config))
    return Adapter(config, weights, DynamicConfig(dynamic_rate=rate, dynamic_window=window))


@pytest.mark.parametrize("shape", [{}, {"cell": "gru"}, {"cell": "rnn"}, {"tie_weights": True, "embedding_size": 9}])
def test_a_token_is_scored_by_weights_that_have_not_seen_it(shape: dict[str, Any]) -> None:
    """Changing a token changes no score before it, and that of all after it; the first of its own window apart."""
    first, second, place = adapter(**shape), adapter(**shape), 150
    changed = TOKENS.copy()
    changed[place] = 4 + (changed[place] - 3) % 8
    costs, _, _ = first.learn(TOKENS, first.begin())
    others, _, _ = second.learn(changed, second.begin())
    assert np.array_equal(costs[: place - 1], others[: place - 1])
    assert (costs[place - 1 :] != others[place - 1 :]).all()


def test_learning_nothing_is_the_static_score() -> None:
    still = adapter(rate=0)
    costs, right, state = still.learn(TOKENS, still.begin())
    nats, hits = evaluate.stream_loss(still.network, TOKENS, 1)
    assert costs.sum() == pytest.approx(nats, rel=1e-6)
    assert right.sum() == hits
    assert len(costs) == len(right) == len(TOKENS) - 1
    _, expected = still.network(torch.from_numpy(TOKENS[:-1].astype(np.int64))[:, None], still.network.begin(1))
    assert all(np.allclose(part, other.detach(), atol=1e-6) for part, other in zip(state, expected, strict=True))


def test_learning_helps_where_the_text_repeats_itself() -> None:
    one = adapter()
    costs, _, _ = one.learn(np.tile(TOKENS[:10], 80), one.begin())
    assert costs[-50:].mean() < 0.7 * costs[:50].mean()


@pytest.mark.parametrize("cuts", [(8, 16), (40, 160), (160,)])
def test_in_pieces_of_whole_windows_it_is_the_same(cuts: tuple[int, ...]) -> None:
    whole, pieces = adapter(), adapter()
    expected, _, last = whole.learn(TOKENS, whole.begin())
    state, found, first = pieces.begin(), [], 0
    for end in (*cuts, len(TOKENS) - 1):
        costs, _, state = pieces.learn(TOKENS[first : end + 1], state)
        found.append(costs)
        first = end
    assert np.array_equal(np.concatenate(found), expected)
    assert all(np.array_equal(part, other) for part, other in zip(state, last, strict=True))
    assert all(np.array_equal(part, whole.weights()[name]) for name, part in pieces.weights().items())


def test_what_was_learnt_is_taken_back_exactly() -> None:
    one = adapter()
    before = one.weights()
    first, _, _ = one.learn(TOKENS, one.begin())
    assert all((part != before[name]).any() for name, part in one.weights().items())
    one.reset()
    assert all(np.array_equal(part, before[name]) for name, part in one.weights().items())
    again, _, _ = one.learn(TOKENS, one.begin())
    assert np.array_equal(first, again)


def test_nothing_to_score() -> None:
    one = adapter()
    costs, right, state = one.learn(TOKENS[:1], one.begin())
    assert len(costs) == len(right) == 0
    assert not any(part.any() for part in state)


def test_beyond_all_measure_there_is_an_error_and_the_weights_are_back() -> None:
    wild = adapter(rate=100, cell="rnn", nonlinearity="relu")
    before = wild.weights()
    far = tuple(np.full_like(part, 1e30) for part in wild.begin())
    with pytest.raises(CharrnnError, match="rate of 100"):
        wild.learn(TOKENS, far)
    assert all(np.array_equal(part, before[name]) for name, part in wild.weights().items())


# --- the command


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHARRNN_CACHE", str(tmp_path / "cache"))
    return runner(capfdbinary)


def trained(run: Run, *options: str) -> None:
    Path("verse.txt").write_text("so much depends upon\na red wheel barrow\n" * 30, encoding="utf-8")
    done = run("train", "verse.txt", "--steps", "2", "--hidden-size", "12", "--threads", "1", *options)
    assert done.code == 0, done.err


@pytest.mark.parametrize("kind", ["char", "byte"])
def test_eval_has_a_row_of_its_own_for_it(run: Run, kind: str) -> None:
    trained(run, "--tokenizer", kind)
    file = Path("checkpoints/verse/model.safetensors")
    before = file.read_bytes()
    static = json.loads(run("eval", "verse", "verse.txt", "--json", "--threads", "1").out)
    record = json.loads(run("eval", "verse", "verse.txt", "--json", "--threads", "1", "--dynamic").out)
    figures = record.pop("dynamic")
    assert record == static
    assert "dynamic" not in static
    assert figures["loss"] < static["loss"]
    assert figures["bits_per_character"] == pytest.approx(figures["loss"] / math.log(2))
    assert figures["dynamic_rate"] == DynamicConfig.dynamic_rate
    plain = run("eval", "verse", "verse.txt", "--threads", "1", "--dynamic").out
    assert f"loss                {static['loss']:.4f}" in plain
    assert f"loss              {figures['loss']:.4f}" in plain
    assert file.read_bytes() == before


def test_without_learning_the_rows_agree(run: Run) -> None:
    trained(run)
    record = json.loads(run("eval", "verse", "verse.txt", "--json", "--threads", "1", "--dynamic", "--dynamic-rate", "0").out)
    assert record["dynamic"]["loss"] == pytest.approx(record["loss"], rel=1e-6)
    assert record["dynamic"]["correct"] == record["correct"]


def test_a_setting_of_it_alone_is_refused(run: Run) -> None:
    done = run("eval", "verse", "verse.txt", "--dynamic-rate", "0.2")
    assert done.code == 2
    assert "Add --dynamic" in done.err


def test_a_model_of_single_examples_cannot(run: Run) -> None:
    Path("rows.tsv").write_text("label\ttext\n" + "sun\tit is warm\nrain\tit is wet\n" * 20, encoding="utf-8")
    assert run("train", "rows.tsv", "--task", "classify", "--steps", "2", "--hidden-size", "8", "--threads", "1").code == 0
    done = run("eval", "rows", "rows.tsv", "--dynamic")
    assert done.code == 2
    assert "was trained to tell labels" in done.err
