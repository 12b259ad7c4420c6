"""The engine, in NumPy and compiled, against the textbook (float64, naive), torch's layers and the models' own step."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from charrnn.config import ModelConfig
from charrnn.decoding.engine import Engine, Follower, State, single_thread
from charrnn.decoding.kernel import Library
from charrnn.errors import CheckpointError
from charrnn.weights import weight_shapes

CELLS = [("lstm", "tanh"), ("gru", "tanh"), ("rnn", "tanh"), ("rnn", "relu")]
WIDER = {"lstm": 3.0, "gru": 3.0, "rnn": 1.5}  # times the initial weights
INPUTS = [("learned", False), ("learned", True), ("onehot", False)]
GRID = [
    ModelConfig(
        cell=cell, nonlinearity=act, layers=layers, embedding=kind, tie_weights=tied,
        vocab_size=19, hidden_size=12, embedding_size=12 if tied else 7,
    )
    for (cell, act), layers, (kind, tied) in itertools.product(CELLS, (1, 2, 3), INPUTS)
]  # fmt: skip


Build = Callable[..., Engine]


@pytest.fixture(params=["numpy", "compiled"])
def build(request: pytest.FixtureRequest) -> Build:
    """Makes an Engine of either kind."""
    return functools.partial(Engine, kernel=request.getfixturevalue("library") if request.param == "compiled" else None)


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Large enough that gates are used over their whole range; a plain RNN's recurrence shrinks, or it is chaotic."""
    generator = np.random.default_rng(seed)
    weights = {name: generator.normal(0, 0.7, shape).astype(np.float32) for name, shape in weight_shapes(config).items()}
    for layer in range(config.layers):
        if config.cell == "rnn":
            weights[f"layers.{layer}.weight_hh"] /= config.hidden_size**0.5
    return weights


def random_ids(config: ModelConfig, count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, config.vocab_size, count)


def steps(engine: Engine, ids: np.ndarray, state: State) -> tuple[np.ndarray, State]:
    rows = []
    for token in ids:
        logits, state = engine.step(np.array([token]), state)
        rows.append(logits[0])
    return np.array(rows), state


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def textbook(config: ModelConfig, weights: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """Logits (N, V) straight from the equations, in float64."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    table = w.get("embedding.weight", np.eye(config.vocab_size))
    hs, cs = np.zeros((2, config.layers, config.hidden_size))
    rows = []
    for token in ids:
        x = table[token]
        for n, (h, c) in enumerate(zip(hs.copy(), cs.copy(), strict=True)):
            a = np.split(w[f"layers.{n}.weight_ih"] @ x + w[f"layers.{n}.bias_ih"], config.gates)
            b = np.split(w[f"layers.{n}.weight_hh"] @ h + w[f"layers.{n}.bias_hh"], config.gates)
            if config.cell == "lstm":
                i, f, g, o = (p + q for p, q in zip(a, b, strict=True))
                cs[n] = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                hs[n] = sigmoid(o) * np.tanh(cs[n])
            elif config.cell == "gru":
                r, z = sigmoid(a[0] + b[0]), sigmoid(a[1] + b[1])
                hs[n] = (1 - z) * np.tanh(a[2] + r * b[2]) + z * h
            else:
                hs[n] = np.tanh(a[0] + b[0]) if config.nonlinearity == "tanh" else np.maximum(a[0] + b[0], 0)
            x = hs[n]
        rows.append(w["embedding.weight" if config.tie_weights else "output.weight"] @ x + w["output.bias"])
    return np.array(rows)


def torch_logits(config: ModelConfig, weights: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    torch = pytest.importorskip("torch")
    kind: dict[str, Any] = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
    extra = {"nonlinearity": config.nonlinearity} if config.cell == "rnn" else {}
    net = kind[config.cell](config.input_size, config.hidden_size, config.layers, **extra)
    w = {name: torch.from_numpy(array) for name, array in weights.items()}
    with torch.no_grad():
        for name, parameter in net.named_parameters():  # weight_ih_l0 is layers.0.weight_ih
            stem, layer = name.rsplit("_l", 1)
            parameter.copy_(w[f"layers.{layer}.{stem}"])
        x = w.get("embedding.weight", torch.eye(config.vocab_size))[torch.from_numpy(ids)]
        y, _ = net(x[:, None])
        return (y[:, 0] @ w["embedding.weight" if config.tie_weights else "output.weight"].T + w["output.bias"]).numpy()


def name_of(config: ModelConfig) -> str:
    return f"{config.cell}-{config.nonlinearity}-{config.layers}-{config.embedding}{'-tied' * config.tie_weights}"


@pytest.mark.parametrize("config", GRID, ids=name_of)
def test_logits_are_those_of_the_textbook_and_of_torch(config: ModelConfig, build: Build) -> None:
    weights, ids = random_weights(config), random_ids(config, 100)
    engine = build(config, weights)
    found, _ = steps(engine, ids, engine.begin())
    assert np.std(found) > 0.1
    np.testing.assert_allclose(found, textbook(config, weights, ids), rtol=0, atol=1e-4)
    np.testing.assert_allclose(found, torch_logits(config, weights, ids), rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", GRID, ids=name_of)
def test_one_stream_and_many_agree(config: ModelConfig, build: Build) -> None:
    engine = build(config, random_weights(config))
    ids = np.stack([random_ids(config, 40, seed) for seed in range(5)])  # (B, T)
    alone = np.stack([steps(engine, row, engine.begin())[0] for row in ids], axis=1)  # (T, B, V)
    state = engine.begin(5)
    for column, expected in zip(ids.T, alone, strict=True):
        logits, state = engine.step(column, state)
        np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("size", [1, 3, 65])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("cell", "act"), CELLS)
def test_any_size_will_do(cell: str, act: str, layers: int, size: int, build: Build) -> None:
    config = ModelConfig(cell=cell, nonlinearity=act, layers=layers, hidden_size=size, vocab_size=7, embedding_size=3)
    weights = {name: array / size**0.5 for name, array in random_weights(config).items()}
    ids = np.stack([random_ids(config, 12, seed) for seed in range(3)])  # (B, T)
    expected = np.stack([textbook(config, weights, row) for row in ids])
    engine = build(config, weights)
    alone = np.stack([steps(engine, row, engine.begin())[0] for row in ids])
    together, state = [], engine.begin(3)
    for column in ids.T:
        logits, state = engine.step(column, state)
        together.append(logits)
    np.testing.assert_allclose(alone, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.stack(together, axis=1), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stepwise", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("cell", "act"), CELLS)
def test_ten_thousand_tokens_are_those_of_the_models_own(cell: str, act: str, stepwise: bool, library: Library) -> None:
    """Teacher-forced, two layers of a size in use, weights as large as training leaves them; 0.2 ms for each step of torch's."""
    torch = pytest.importorskip("torch")
    from charrnn.models.language import LanguageModel
    from charrnn.models.weights import export_weights, import_weights

    config = ModelConfig(cell=cell, nonlinearity=act, layers=2, vocab_size=69, hidden_size=96)
    torch.manual_seed(4)
    oracle = LanguageModel(config).eval()
    import_weights(oracle, {name: WIDER[cell] * array for name, array in export_weights(oracle).items()})
    ids, rows, hidden = torch.from_numpy(random_ids(config, 10_000)), [], oracle.begin(1)
    with torch.inference_mode():
        for part in ids.split(1 if stepwise else 1000):
            logits, hidden = oracle(part[:, None], hidden)
            rows.append(logits[:, 0])
    expected = torch.cat(rows).numpy()
    assert np.std(expected) > 0.3
    for kernel in (None, library):
        engine = Engine(config, export_weights(oracle), kernel=kernel)
        found, _ = steps(engine, ids.numpy(), engine.begin())
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("config", GRID, ids=name_of)
def test_given_text_is_followed_to_the_same_state_bit_by_bit(config: ModelConfig, build: Build) -> None:
    engine, ids = build(config, random_weights(config)), random_ids(config, 30)
    assert isinstance(engine, Follower)
    logits, after = steps(engine, ids, engine.begin())
    followed, state = engine.follow(ids[10:], engine.advance(ids[:10], engine.begin()))
    assert [a.tobytes() for a in state] == [a.tobytes() for a in after]
    np.testing.assert_allclose(followed, logits[10:], rtol=0, atol=1e-4)


@pytest.mark.parametrize(("cell", "arrays"), [("lstm", 4), ("gru", 2), ("rnn", 2)])
def test_a_state_is_a_snapshot(cell: str, arrays: int, build: Build) -> None:
    config = ModelConfig(cell=cell, vocab_size=9, hidden_size=6, layers=2)
    engine = build(config, random_weights(config))
    logits, state = engine.step(np.array([4]), engine.begin())
    assert [array.shape for array in state] == [(1, 6)] * arrays
    before = [array.tobytes() for array in (*state, logits)]
    first, _ = engine.step(np.array([5]), state)
    engine.step(np.array([1, 2, 3]), engine.begin(3))
    again, _ = engine.step(np.array([5]), state)
    assert [array.tobytes() for array in (*state, logits)] == before
    assert first.tobytes() == again.tobytes()
    for array in (*state, logits, *engine.begin(2), *engine.gather(state, [0])):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1


def test_gather_picks_repeats_and_reorders_streams(build: Build) -> None:
    config = ModelConfig(cell="lstm", vocab_size=9, hidden_size=6, layers=2)
    engine = build(config, random_weights(config))
    _, state = engine.step(np.array([1, 2, 3]), engine.begin(3))
    picked = engine.gather(state, [2, 0, 0, 1])
    for array, source in zip(picked, state, strict=True):
        assert array.tobytes() == np.stack([source[2], source[0], source[0], source[1]]).tobytes()
    assert engine.step(np.array([1, 1, 1, 1]), picked)[0].shape == (4, 9)


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_a_table_beyond_its_bound_changes_nothing(cell: str, build: Build) -> None:
    config = ModelConfig(cell=cell, vocab_size=50, hidden_size=8, embedding_size=5)
    weights, ids = random_weights(config), random_ids(config, 200)
    whole, small = build(config, weights), build(config, weights, table_bytes=7 * config.gates * 8 * 4)
    expected, _ = steps(whole, ids, whole.begin())
    found, _ = steps(small, ids, small.begin())
    assert found.tobytes() == expected.tobytes()
    assert whole._input.table is not None
    assert (small._input.table, len(small._input._kept)) == (None, 7)
    batch = ids[:9]
    np.testing.assert_allclose(small.step(batch, small.begin(9))[0], whole.step(batch, whole.begin(9))[0], rtol=0, atol=1e-5)


def test_half_precision_weights_are_computed_with_in_single(build: Build) -> None:
    config = ModelConfig(vocab_size=9, hidden_size=6)
    half = {name: array.astype(np.float16) for name, array in random_weights(config).items()}
    single = {name: array.astype(np.float32) for name, array in half.items()}
    ids = random_ids(config, 20)
    first, second = build(config, half), build(config, single)
    assert steps(first, ids, first.begin())[0].tobytes() == steps(second, ids, second.begin())[0].tobytes()


def test_the_weights_given_are_left_as_they_are(build: Build) -> None:
    config = ModelConfig(vocab_size=9, hidden_size=6, embedding_size=6, layers=2, tie_weights=True)
    weights = random_weights(config)
    copies = {name: array.copy() for name, array in weights.items()}
    engine = build(config, weights)
    engine.step(np.array([4]), engine.begin())
    engine.step(np.array([5, 6]), engine.begin(2))
    assert {name: array.tobytes() for name, array in weights.items()} == {n: array.tobytes() for n, array in copies.items()}


def damaged(config: ModelConfig, what: str) -> dict[str, np.ndarray]:
    weights = random_weights(config)
    if what == "missing":
        del weights["output.bias"]
    elif what == "not expected":
        weights["layers.1.weight_ih"] = weights["layers.0.weight_ih"]
    elif what == "(9, 5)":
        weights["output.weight"] = weights["output.weight"][:, :5]
    else:
        weights["output.weight"] = weights["output.weight"].astype(what)
    return weights


@pytest.mark.parametrize("what", ["missing", "not expected", "(9, 5)", "float64", "int64"])
def test_weights_that_do_not_fit_are_refused(what: str, build: Build) -> None:
    config = ModelConfig(vocab_size=9, hidden_size=6)
    with pytest.raises(CheckpointError) as raised:
        build(config, damaged(config, what))
    assert what in raised.value.message
    assert raised.value.hint


@pytest.mark.parametrize("settings", [{"embedding": "onehot"}, {"embedding_size": 5}])
def test_an_impossible_tie_is_refused(settings: dict[str, Any], build: Build) -> None:
    config = ModelConfig(vocab_size=9, hidden_size=6, tie_weights=True, **settings)
    with pytest.raises(CheckpointError, match="tied"):
        build(config, random_weights(config))


def test_single_thread_limits_the_pools_inside_only() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl")
    before = threadpoolctl.threadpool_info()
    with single_thread():
        assert {pool["num_threads"] for pool in threadpoolctl.threadpool_info()} == {1}
    assert threadpoolctl.threadpool_info() == before
