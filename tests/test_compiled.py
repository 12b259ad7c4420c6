"""The compiled kernel against what it stands in for: nets and draws against NumPy's, rounded products against their bound."""

from __future__ import annotations

import ctypes
import itertools
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from charrnn.config import ModelConfig
from charrnn.decoding import kernel
from charrnn.decoding.compiled import PANEL, CompiledDraw, CompiledNet
from charrnn.decoding.engine import Draws, Engine, State
from charrnn.decoding.kernel import Library
from charrnn.weights import weight_shapes

CELLS = [("lstm", "tanh"), ("gru", "tanh"), ("rnn", "tanh"), ("rnn", "relu")]
SIZES = (1, 3, 67, 130)
INPUTS = [("learned", False), ("learned", True), ("onehot", False)]
VOCABULARIES = [5, 64, 63, 200, 65]


def grid() -> Iterator[ModelConfig]:
    """Every cell, depth and size, with inputs and vocabularies in turn."""
    for number, ((cell, act), layers, size) in enumerate(itertools.product(CELLS, (1, 2, 3), SIZES)):
        kind, tied = INPUTS[number % 3]
        yield ModelConfig(
            cell=cell, nonlinearity=act, layers=layers, hidden_size=size, vocab_size=VOCABULARIES[number % 5],
            embedding=kind, tie_weights=tied, embedding_size=size if tied else 7,
        )  # fmt: skip


def name_of(config: ModelConfig) -> str:
    shape = f"{config.cell}-{config.nonlinearity}-{config.layers}x{config.hidden_size}-{config.vocab_size}"
    return f"{shape}-{config.embedding}{'-tied' * config.tie_weights}"


GRID = list(grid())
each_net = pytest.mark.parametrize("config", GRID, ids=name_of)


def random_weights(config: ModelConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """As large as those of a trained net: gates are used, and a small error dies out."""
    generator = np.random.default_rng(seed)
    weights = {}
    for name, shape in weight_shapes(config).items():
        size = 0.5 if "bias" in name else shape[-1] ** -0.5
        if config.cell == "rnn" and "weight_hh" in name:
            size *= 0.7
        weights[name] = generator.normal(0, size, shape).astype(np.float32)
    return weights


def random_ids(config: ModelConfig, count: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, config.vocab_size, count)


def steps(engine: Engine, ids: np.ndarray) -> tuple[np.ndarray, list[State]]:
    """The logits (N, V) after each of `ids`, and the states."""
    state, rows, states = engine.begin(), [], []
    for token in ids:
        logits, state = engine.step(np.array([token]), state)
        rows.append(logits[0])
        states.append(state)
    return np.array(rows), states


def bits(*arrays: np.ndarray) -> bytes:
    return b"".join(array.tobytes() for array in arrays)


@each_net
def test_a_net_is_numpys(config: ModelConfig, library: Library) -> None:
    weights, ids = random_weights(config), random_ids(config, 60)
    expected, states = steps(Engine(config, weights), ids)
    table_bytes = 1 if config.hidden_size % 2 else 1 << 20  # of some no row is kept but the last
    found, also = steps(Engine(config, weights, kernel=library, table_bytes=table_bytes), ids)
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    for mine, theirs in zip(also, states, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("narrow", [False, True])
@each_net
def test_every_way_through_a_text_is_the_same_to_the_last_bit(config: ModelConfig, narrow: bool, library: Library) -> None:
    engine, ids = Engine(config, random_weights(config), kernel=library, narrow=narrow), random_ids(config, 30)
    logits, states = steps(engine, ids)
    assert bits(*engine.advance(ids, engine.begin())) == bits(*states[-1])
    followed, after = engine.follow(ids[10:], states[9])
    assert bits(*after) == bits(*states[-1])
    np.testing.assert_allclose(followed, logits[10:], rtol=0, atol=0 if narrow else 1e-5)
    for place in (0, 20, 5, 28, 6):  # back, on and elsewhere; `step` left off at the end
        one, after = engine.step_one(int(ids[place + 1]), states[place])
        assert bits(one, *after) == bits(logits[place + 1], *states[place + 1])


@each_net
def test_a_run_is_draws_and_steps_to_the_last_bit(config: ModelConfig, library: Library) -> None:
    engine = Engine(config, random_weights(config), kernel=library)
    logits, state = engine.step_one(3, engine.begin())
    draws = all_draws(engine, np.random.default_rng(2).random(40))
    assert len(engine.run(state, logits, draws).tokens) < 40 or config.embedding == "onehot"  # a row is not made yet
    for token in range(config.vocab_size):
        engine.step_one(token, state)
    drawn = engine.run(state, logits, draws)
    assert len(drawn.tokens) == 40
    assert engine.run(state, logits, all_draws(engine, np.empty(0))).tokens == []
    for token, logprob, after, scores, number in zip(*drawn, draws.numbers, strict=True):
        assert draws.compiled is not None
        assert draws.compiled(logits, draws.temp, number) == (token, logprob)
        logits, state = engine.step_one(token, state)
        assert bits(logits, *state) == bits(scores, *after)
        assert not any(array.flags.writeable for array in (scores, *after))


def all_draws(engine: Engine, numbers: np.ndarray, temp: float = 0.9) -> Draws:
    added = np.zeros(engine.vocab_size)
    assert engine.kernel is not None
    return Draws(added, CompiledDraw(engine.kernel, added), temp, numbers)


@pytest.mark.parametrize("config", [c for c in GRID if c.hidden_size in (3, 67)], ids=name_of)
def test_states_handed_out_stay_as_they_were(config: ModelConfig, library: Library) -> None:
    engine, ids = Engine(config, random_weights(config), kernel=library), random_ids(config, 20)
    logits, states = steps(engine, ids)
    before = [bits(*state) for state in states]
    engine.run(states[4], logits[4], all_draws(engine, np.full(9, 0.5)))
    engine.step(ids[:5], engine.begin(5))
    engine.follow(ids, states[7])
    assert [bits(*state) for state in states] == before
    for array in (*states[-1], engine.step_one(1, states[0])[0]):
        with pytest.raises(ValueError, match="read-only"):
            array[..., 0] = 1


def test_weights_that_lie_anywhere_in_a_file_will_do(library: Library) -> None:
    config = ModelConfig(cell="lstm", vocab_size=9, hidden_size=5, layers=2)
    weights = random_weights(config)
    odd = {name: np.frombuffer(b"?" + one.tobytes(), np.float32, offset=1).reshape(one.shape) for name, one in weights.items()}
    assert not odd["output.bias"].flags.aligned
    ids = random_ids(config, 20)
    found, _ = steps(Engine(config, odd, kernel=library), ids)
    assert bits(found) == bits(steps(Engine(config, weights, kernel=library), ids)[0])


def test_no_token_is_counted_from_the_end(library: Library) -> None:
    config = ModelConfig(vocab_size=9, hidden_size=5, embedding="onehot")
    engine = Engine(config, random_weights(config), kernel=library)
    for token in (-1, 9):
        with pytest.raises((AssertionError, IndexError)):
            engine.step_one(token, engine.begin())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(("cell", "act"), CELLS)
def test_a_spoilt_net_shows_it(cell: str, act: str, narrow: bool, bad: float, library: Library) -> None:
    """What is no number in a state must come out as none, and not as a 0 that hides it."""
    config = ModelConfig(cell=cell, nonlinearity=act, vocab_size=9, hidden_size=5, layers=2)
    weights = random_weights(config)
    fast, plain = Engine(config, weights, kernel=library, narrow=narrow), Engine(config, weights)
    for place in range(len(plain.begin())):
        spoilt = [array.copy() for array in plain.begin()]
        spoilt[place][0, 2] = bad
        with np.errstate(invalid="ignore"):
            expected, _ = plain.step_one(4, tuple(spoilt))
        if np.isnan(expected).any():
            assert np.isnan(fast.step_one(4, tuple(spoilt))[0]).any()
    with np.errstate(invalid="ignore"):
        ruined = Engine(config, {name: np.full_like(one, bad) for name, one in weights.items()}, kernel=library, narrow=narrow)
        logits, _ = ruined.step_one(4, ruined.begin())
    assert not np.isfinite(logits).any()


LABORATORY = """#include "{source}"
void product_(const struct matrix *m, const float *x, float *y, float *spare) {{ product(m, x, y, spare); }}
void functions_(const float *x, int64_t count, float *e, float *t)
{{
    for (int64_t i = 0; i < count; i++)
        e[i] = exp_(x[i]), t[i] = tanh_(x[i]);
}}
"""
MACHINES = {
    "native": ("-march=native",),
    "avx2": ("-march=native", "-mno-avx512f"),
    "plain": (),
    "no-vnni": ("-march=native", "-mno-avx512vnni"),
}


@pytest.fixture(scope="module", params=[*[*MACHINES][:3], pytest.param("no-vnni", marks=pytest.mark.slow)])
def laboratory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, library: Library) -> Any:
    """The inner functions of the kernel, compiled for a processor that may know less than this one."""
    assert library
    folder, flags = tmp_path_factory.mktemp("laboratory"), MACHINES[request.param]
    (folder / "empty.c").touch()
    (folder / "laboratory.c").write_text(LABORATORY.format(source=kernel.SOURCE), encoding="utf-8")
    compiler = kernel._compiler()
    if subprocess.run([*compiler, *flags, "-c", "-o", folder / "empty.o", folder / "empty.c"], capture_output=True).returncode:
        pytest.skip(f"this compiler does not take {' '.join(flags)}")
    made, strict = folder / "laboratory.so", ("-Wall", "-Wextra", "-Wshadow")
    command = [*compiler, *kernel._FLAGS, *strict, *flags, "-o", made, folder / "laboratory.c", "-lm"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")  # not even a warning
    return ctypes.PyDLL(str(made))


def product(laboratory: Any, library: Library, weight: np.ndarray, x: np.ndarray, narrow: bool) -> np.ndarray:
    """`weight` (out, in) times `x` (in,) as the kernel has it."""
    config = ModelConfig(cell="rnn", vocab_size=4, hidden_size=1)
    net = CompiledNet(library, config, random_weights(config), narrow)
    matrix = net._matrix(np.ascontiguousarray(weight, np.float32))
    out, into = weight.shape
    y, spare = np.full(-(-out // PANEL) * PANEL, 7, np.float32), np.empty(into + 1, np.int16)
    x = np.array(x, np.float32)
    laboratory.product_(ctypes.byref(matrix), *(ctypes.c_void_p(array.ctypes.data) for array in (x, y, spare)))
    return y[:out]


SHAPES = [(1, 1), (3, 2), (64, 3), (65, 64), (130, 67), (63, 1023), (2, 1024), (64, 1025), (65, 2048), (5, 2049), (70, 3001)]


def material(out: int, into: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights with a row of zeros, rows of all sizes and a large one in each; numbers of either sign with a large one."""
    generator = np.random.default_rng(out + into)
    weight = generator.normal(0, 1, (out, into)) * 10.0 ** generator.integers(-12, 12, (out, 1))
    weight[:, 0] *= 5
    weight[out // 2] *= out < 3  # zeros
    x = generator.normal(0, 0.3, into)
    x[into // 2] = -0.99
    return weight.astype(np.float32), x.astype(np.float32)


@pytest.mark.parametrize(("out", "into"), SHAPES)
def test_an_exact_product_is_one(out: int, into: int, laboratory: Any, library: Library) -> None:
    """Within the bound of sums in any order: `into` roundings of half a unit in the last place each."""
    weight, x = material(out, into)
    exact, sizes = weight.astype(np.float64) @ x, np.abs(weight).astype(np.float64) @ np.abs(x)
    assert (np.abs(product(laboratory, library, weight, x, False) - exact) <= (into + 1) * 2.0**-24 * sizes).all()


@pytest.mark.parametrize(("out", "into"), SHAPES)
def test_a_rounded_product_is_its_definition_and_within_its_bound(out: int, into: int, laboratory: Any, library: Library) -> None:
    """Weights w are rounded to q s with |q| <= 127 and s = max |w| / 127 for each row, numbers x to r / f with |r| <= 8191 and
    f = 8191 / max |x|. With the errors |w - q s| <= s / 2 and |x - r / f| <= 1 / 2f the product, W x = (W - Q s) x +
    Q s (x - r / f) + Q s r / f, is missed by at most sum |x| s / 2 + sum |q| s / 2f. A hundredth more is for float32."""
    weight, x = material(out, into)
    found = product(laboratory, library, weight, x, True)
    w, v = weight.astype(np.float64), x.astype(np.float64)
    s = np.maximum(np.abs(w).max(axis=1), 1e-30) / 127
    f = 8191 / np.abs(v).max()
    q, r = np.rint(w / s[:, None]), np.rint(v * f)
    undecided = in_the_middle(w / s[:, None]) @ np.abs(r) * s / f + np.abs(q) @ in_the_middle(v * f) * s / f
    np.testing.assert_array_less(np.abs(found - q @ r * s / f), undecided + 1e-6 * np.abs(q) @ np.abs(r) * s / f + 1e-30)
    bound = np.abs(v).sum() * s / 2 + np.abs(q).sum(axis=1) * s / (2 * f)
    np.testing.assert_array_less(np.abs(found - w @ v), 1.01 * bound + 1e-30)


def in_the_middle(numbers: np.ndarray) -> np.ndarray:
    """1 where float32 may round to either side, elsewhere 0."""
    return (np.abs(np.abs(numbers) % 1 - 0.5) < 2.0**-22 * np.abs(numbers)).astype(float)


@pytest.mark.parametrize("into", [1024, 1025, 2048, 3000])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_do_not_overflow(sign: int, into: int, laboratory: Any, library: Library) -> None:
    found = product(laboratory, library, np.full((65, into), 0.5), np.full(into, sign * 3.0), True)
    np.testing.assert_allclose(found, np.full(65, sign * 1.5 * into), rtol=1e-6)


@pytest.mark.parametrize("x", [[0, 0, 0], [1e-40, 0, -1e-40], [1e-30, -1e-30, 0], [3e38, -3e38, 3e38]])
def test_numbers_of_any_size_are_rounded(x: list[float], laboratory: Any, library: Library) -> None:
    weight = np.array([[1.0, 2.0, 3.0], [-0.25, 0.5, 0.125]]) * 0.1
    exact, rounded = weight @ x, product(laboratory, library, weight, np.array(x), True)
    np.testing.assert_allclose(rounded, exact, rtol=0, atol=0.02 * np.abs(x).max() + 1e-34)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_rounded_to_one(bad: float, laboratory: Any, library: Library) -> None:
    assert np.isnan(product(laboratory, library, np.ones((70, 3)), np.array([1.0, bad, 2.0]), True)).all()


def test_the_exponential_and_the_tangent_are_as_exact_as_they_say(laboratory: Any) -> None:
    x = np.linspace(-87, 88, 500_001).astype(np.float32)
    x = np.concatenate([x, np.linspace(-1, 1, 100_001).astype(np.float32), np.float32([1e-40, -1e-40, 0.0, -87.0, 88.0])])
    e, t = functions(laboratory, x)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(e - exact) <= 3e-7 * exact).all()
    assert (np.abs(t - np.tanh(x.astype(np.float64))) <= 3e-7).all()
    e, t = functions(laboratory, np.float32([-math.inf, -1e30, -88, 89, 1e30, math.inf, math.nan, 0]))
    assert e[:3].max() < 2e-38
    assert e[3:6].min() > 1e38
    assert np.isfinite(e[:6]).all()
    assert t.tolist()[:6] == [-1, -1, -1, 1, 1, 1]
    assert np.isnan([e[6], t[6]]).all()
    assert (e[7], t[7]) == (1, 0)


def functions(laboratory: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    e, t = np.empty_like(x), np.empty_like(x)
    address = [ctypes.c_void_p(array.ctypes.data) for array in (x, e, t)]
    laboratory.functions_(address[0], ctypes.c_int64(len(x)), *address[1:])
    return e, t


def rounded(config: ModelConfig, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights as eight bits have them; above the first layer W_ih and W_hh of LSTM and RNN lie, and are scaled, together."""

    def round_rows(weight: np.ndarray) -> np.ndarray:
        scale = np.abs(weight).max(axis=1, keepdims=True) / 127
        return (np.rint(weight / scale) * scale).astype(np.float32)

    near = dict(weights)
    near["output.weight"] = round_rows(weights["output.weight"])
    for layer in range(config.layers):
        names = [f"layers.{layer}.weight_ih", f"layers.{layer}.weight_hh"][layer == 0 :]
        if config.cell == "gru":
            near |= {name: round_rows(weights[name]) for name in names}
        else:
            both = round_rows(np.concatenate([weights[name] for name in names], axis=1))
            near |= dict(zip(names, np.split(both, len(names), axis=1), strict=True))
    return near


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(("cell", "act"), CELLS)
def test_a_narrow_net_is_the_net_with_rounded_weights(cell: str, act: str, layers: int, library: Library) -> None:
    config = ModelConfig(cell=cell, nonlinearity=act, layers=layers, vocab_size=70, hidden_size=67)
    weights, ids = random_weights(config), random_ids(config, 60)
    found, _ = steps(Engine(config, weights, kernel=library, narrow=True), ids)
    expected, _ = steps(Engine(config, rounded(config, weights)), ids)
    exact, _ = steps(Engine(config, weights), ids)
    assert np.abs(found - expected).max() < 1e-3
    assert 1e-3 < np.abs(found - exact).max() < 0.1


SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")


@pytest.mark.parametrize("machine", ["native", *(pytest.param(name, marks=pytest.mark.slow) for name in ("avx2", "plain"))])
def test_nothing_undefined_is_done_and_nothing_read_or_written_beyond_its_end(
    machine: str, library: Library, tmp_path: Path
) -> None:
    compiler = kernel._compiler()
    asked = subprocess.run([*compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=False)
    if not os.path.isabs(watch := asked.stdout.strip()):
        pytest.skip("this compiler has no library for sanitizers that could be loaded first")
    made = tmp_path / "watched.so"
    command = [*compiler, *kernel._FLAGS, *MACHINES[machine], *SANITIZERS, "-o", made, kernel.SOURCE, "-lm"]
    assert subprocess.run(command, check=False).returncode == 0
    environment = os.environ | {"LD_PRELOAD": watch, "ASAN_OPTIONS": "detect_leaks=0", "PYTHONMALLOC": "malloc"}
    script = Path(__file__).with_name("watched_kernel.py")
    found = subprocess.run(
        [sys.executable, script, made], capture_output=True, text=True, check=False, env=environment, timeout=100
    )
    assert (found.stdout, found.stderr) == ("done 64\n", "")
