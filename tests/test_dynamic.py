"""Dynamic evaluation: no token's score knows the token, nothing is lost, and what was learnt can be taken back."""

from __future__ import annotations

import itertools
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
from charrnn.decoding.engine import Engine
from charrnn.errors import CharrnnError
from charrnn.models.language import LanguageModel
from charrnn.models.weights import export_weights
from charrnn.training import dynamic, evaluate
from charrnn.training.dynamic import Adapter

TOKENS = np.random.default_rng(3).integers(4, 12, 300).astype(np.uint8)
Make = Callable[..., Adapter]


@pytest.fixture(autouse=True)
def little_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic, "WRITTEN", (2, 128))


def adapter(rate: float = 0.003, window: int = 8, **shape: Any) -> Adapter:
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


def naively(one: Adapter, tokens: np.ndarray, window: int) -> list[float]:
    """The definition: token by token through `step`, with plain autograd and a loop over the weights."""
    network, origin = LanguageModel(one.network.config), one.network.state_dict()
    network.load_state_dict(origin)
    trained = [weight.detach().clone() for weight in network.parameters()]
    scales, costs, state = one._measured(), [], network.begin(1)
    for first in range(0, len(tokens) - 1, window):
        piece, losses = tokens[first : first + window + 1].tolist(), []
        for before, target in itertools.pairwise(piece):
            logits, state = network.step(torch.tensor([before]), state)
            losses.append(-torch.log_softmax(logits, -1)[0, target])
        costs += [float(loss.detach()) for loss in losses]
        gradients = torch.autograd.grad(torch.stack(losses).sum() / 64, [*network.parameters()])
        with torch.no_grad():
            for weight, gradient, scale, home in zip(network.parameters(), gradients, scales, trained, strict=True):
                weight -= one.settings.dynamic_rate * gradient * scale
                weight += one.settings.dynamic_decay * len(losses) / 64 * (home - weight)
        state = tuple(part.detach() for part in state)
    return costs


@pytest.mark.parametrize("shape", [{}, {"cell": "gru", "embedding": "onehot"}, {"tie_weights": True, "embedding_size": 9}])
def test_the_scores_are_those_of_a_naive_loop(shape: dict[str, Any]) -> None:
    one = adapter(**shape)
    expected = naively(one, TOKENS, 8)
    costs, _, _ = one.learn(TOKENS, one.begin())
    assert costs == pytest.approx(np.array(expected), abs=1e-4)


def test_the_scale_is_the_fisher_information_of_what_the_model_writes() -> None:
    one = adapter()
    scales = one._measured()
    text = one._written()
    assert torch.equal(text, one._written())
    squares = [torch.zeros_like(weight) for weight in one.network.parameters()]
    for stream in text.T:
        state = one.network.begin(1)
        for first in range(0, len(text) - 1, 64):
            logits, state = one.network(stream[first : first + 64, None], tuple(part.detach() for part in state))
            loss = torch.nn.functional.cross_entropy(logits[:, 0], stream[first + 1 : first + 65])
            for square, gradient in zip(squares, torch.autograd.grad(loss, [*one.network.parameters()]), strict=True):
                square += gradient**2 / (text[1:].numel() / 64)
    mean = float(torch.cat([square.flatten() for square in squares]).mean())
    for (name, _), square, scale in zip(one.network.named_parameters(), squares, scales, strict=True):
        faster = 6 if name.startswith("output") else 1
        assert torch.allclose(scale, faster / math.sqrt(mean) / (square / mean + 0.3), rtol=1e-3)


def test_the_state_before_a_text_can_be_read() -> None:
    one = adapter()
    state = one.read(TOKENS[:50], one.begin())
    _, expected = one.network(torch.from_numpy(TOKENS[:49].astype(np.int64))[:, None], one.network.begin(1))
    assert all(np.allclose(part, same.detach()) for part, same in zip(state, expected, strict=True))
    assert one.read(TOKENS[:1], state) is state


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


def test_the_weights_it_gives_away_are_those_that_score_what_comes_next() -> None:
    """By the other engine, NumPy's, which knows nothing of what comes next."""
    one = adapter(window=16)
    _, _, state = one.learn(TOKENS[:161], one.begin())
    engine = Engine(one.network.config, one.weights())
    expected = []
    now = state
    for before, target in itertools.pairwise(TOKENS[160:177].tolist()):
        logits, now = engine.step(np.array([before]), now)
        expected.append(float(np.log(np.exp(logits[0]).sum()) - logits[0, target]))
    costs, _, _ = one.learn(TOKENS[160:177], state)
    assert costs == pytest.approx(np.array(expected), abs=1e-4)


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
    wild = adapter(rate=1, cell="rnn", nonlinearity="relu")
    before = wild.weights()
    far = tuple(np.full_like(part, 1e30) for part in wild.begin())
    with pytest.raises(CharrnnError, match="rate of 1"):
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


def test_where_learning_harms_it_is_said(run: Run) -> None:
    trained(run)
    assert "does not learn" not in run("eval", "verse", "verse.txt", "--threads", "1", "--dynamic").err
    done = run("eval", "verse", "verse.txt", "--threads", "1", "--dynamic", "--dynamic-rate", "1")
    assert done.code == 0
    assert "better if it does not learn from it: try a lower rate (--dynamic-rate 0.33)" in done.err


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
