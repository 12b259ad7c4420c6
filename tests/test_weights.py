"""The weights of a run by their textbook names, and as text that reads back exactly."""

from __future__ import annotations

import errno
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy
from commands import Run, runner
from numpy.typing import NDArray

from charrnn import durable
from charrnn import weights as layout
from charrnn.config import ModelConfig
from charrnn.decoding.engine import Engine
from charrnn.runs import model as models
from charrnn.runs.named import GATES, Named, named
from charrnn.weights import weight_shapes

MODEL = Path("checkpoints/toy") / models.MODEL_FILE
ROOT = Path(__file__).parent.parent
Arrays = dict[str, NDArray[Any]]


def drawn(shapes: dict[str, tuple[int, ...]]) -> Arrays:
    generator = np.random.Generator(np.random.PCG64(3))
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def save(config: ModelConfig, weights: Arrays) -> None:
    units = toy.tokenizer()
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    start = units.encode("\n").tolist()
    models.save(MODEL, config, units, weights, {"name": "toy\x1b[31m\n#", "start": start, "provenance": {}})


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Run:
    """Command lines in a folder with a run called toy."""
    monkeypatch.chdir(tmp_path)
    save(toy.config(toy.tokenizer()), toy.weights(toy.tokenizer()))
    return runner(capsysbinary)


def block(values: Any, *, recurrent: bool = True) -> Named:
    return Named("W", "layers.0.weight_hh", None, recurrent, np.array(values, np.float32))


# --- names


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_gates_stand_in_the_documented_order(cell: str) -> None:
    order = re.search(rf"{cell.upper()} ((?:[a-z]\b ?)+)", (layout.__doc__ or "").replace("\n", " "))
    letters = {"input": "i", "forget": "f", "cell": "g", "output": "o", "reset": "r", "update": "z", "new": "n"}
    if cell == "rnn":
        assert GATES[cell] == ("",)
    else:
        assert order is not None
        assert [letters[gate] for gate in GATES[cell]] == order[1].split()


def test_the_forget_gate_is_the_one_that_forgets() -> None:
    """A bias of -1000 on the rows called forget: the cell keeps nothing of its state, whatever that was."""
    units = toy.tokenizer()
    weights = toy.weights(units)
    (found,) = [one for one in named(weights, "lstm") if one.name == "b_U forget (layer 1)"]
    engine = Engine(toy.config(units), weights)
    ids = units.encode("a")
    before = engine.step(ids, engine.step(units.encode("b"), engine.begin())[1])[0]
    other = engine.step(ids, engine.begin())[0]
    assert np.abs(before - other).max() > 1e-3
    weights = {name: array.copy() for name, array in weights.items()}
    assert found.place is not None
    for tensor in ("weight_hh", "bias_hh"):
        weights[f"layers.0.{tensor}"][:] = 0  # nothing but the cell's own state leads from step to step
        weights[f"layers.1.{tensor}"][:] = 0
    weights["layers.0.bias_ih"][found.place] = -1000
    weights["layers.1.bias_ih"][found.place] = -1000
    engine = Engine(toy.config(units), weights)
    forgot = engine.step(ids, engine.step(units.encode("b"), engine.begin())[1])[0]
    np.testing.assert_allclose(forgot, engine.step(ids, engine.begin())[0], atol=1e-5)


@pytest.mark.parametrize(("cell", "tied"), [("lstm", False), ("gru", True), ("rnn", False)])
def test_every_number_of_a_model_has_one_name(cell: str, tied: bool) -> None:
    config = ModelConfig(cell=cell, vocab_size=9, embedding_size=5, hidden_size=5, layers=2, tie_weights=tied)
    weights = drawn(weight_shapes(config))
    blocks = list(named(weights, cell, tied=tied))
    assert len({one.name for one in blocks}) == len(blocks)
    assert sum(one.values.size for one in blocks) == sum(array.size for array in weights.values())
    assert blocks[0].name == ("E embedding = V hidden-to-output" if tied else "E embedding")
    assert [one.name for one in blocks[-(2 - tied) :]] == ["V hidden-to-output", "c output"][tied:]
    for one in blocks:
        assert np.array_equal(weights[one.tensor][one.place or slice(None)], one.values)
        if cell == "rnn" and one.tensor == "layers.1.weight_hh":
            assert one.name == "W (layer 2)"
        if one.tensor == "layers.1.weight_ih" and one.place == slice(5, 10):
            assert one.name == {"lstm": "U forget (layer 2)", "gru": "U update (layer 2)"}[cell]


def test_the_tensors_of_every_task_have_names() -> None:
    """Those of docs/format.md and of the tasks beside it, with the gates of a GRU of 4 units."""
    layer = {"weight_ih": (12, 3), "weight_hh": (12, 4), "bias_ih": (12,), "bias_hh": (12,)}
    stacks = ("layers.0", "reverse.0", "layers.1", "reverse.1", "encoder.layers.0", "encoder.reverse.0")
    shapes: dict[str, tuple[int, ...]] = {f"{stack}.{part}": shape for stack in stacks for part, shape in layer.items()}
    attention = {f"attention.{part}": (4, 8) for part in ("query.weight", "key.weight", "energy.weight", "combine.weight")}
    shapes |= attention | {"attention.combine.bias": (4,), "context.weight": (4, 4), "context.bias": (4,)}
    shapes |= {"encoder.embedding.weight": (9, 3), "embedding.weight": (9, 3), "input.weight": (3, 2), "input.bias": (3,)}
    shapes |= {"label.state.weight": (2, 4), "label.step.weight": (2, 3), "output.weight": (9, 4), "output.bias": (9,)}
    weights = drawn(shapes | {"{gate} of a {stranger}": (2, 2)})
    blocks = {one.name: one for one in named(weights, "gru")}
    assert set(blocks) & set(shapes) == set()  # each has a name of its own
    assert next(iter(blocks)) == "E embedding (encoder)"
    assert list(blocks)[-1] == "{gate} of a {stranger}"
    assert sum(one.values.size for one in blocks.values()) == sum(array.size for array in weights.values())
    assert blocks["W update (encoder layer 1, backward)"].tensor == "encoder.reverse.0.weight_hh"
    assert np.array_equal(blocks["U new (layer 1)"].values, weights["layers.0.weight_ih"][8:])
    assert blocks["U new (layer 1)"].index == "8:12"
    order = [one.tensor for one in blocks.values()]
    stacked = sorted(stacks[:4], key=lambda stack: order.index(f"{stack}.weight_ih"))
    assert stacked == ["layers.0", "reverse.0", "layers.1", "reverse.1"]
    assert order.index("encoder.layers.0.bias_hh") < order.index("context.weight") < order.index("embedding.weight")


# --- figures


def test_norms_and_spectral_radii_of_known_matrices() -> None:
    angle = 0.3
    turning = 1.5 * np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    assert block(turning).spectral_radius() == pytest.approx(1.5)  # of a pair of complex eigenvalues
    assert block([[0, 100], [0, 0]]).spectral_radius() == 0  # a norm of 100 that nothing comes of
    assert block([[2, 5], [0, -3]]).spectral_radius() == pytest.approx(3)
    assert block([[3, 0], [0, 4]]).norm == pytest.approx(5)
    assert block([1e6] * 4).norm == pytest.approx(2e6)
    assert Named("h", "h", None, False, np.full((9, 9), 6e4, np.float16)).norm == pytest.approx(54e4, rel=1e-3)
    assert block([[1, 2, 3]]).spectral_radius() is block([[1]], recurrent=False).spectral_radius() is None


def test_a_block_too_large_for_eigenvalues_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert block(np.eye(3)).spectral_radius() == pytest.approx(1)
    monkeypatch.setattr("charrnn.runs.named.MOST_UNITS", 2)
    assert block(np.eye(3)).spectral_radius() is None


# --- what is shown


def test_the_table_names_every_block_in_eighty_columns(run: Run) -> None:
    done = run("inspect", "toy", "--weights")
    weights = toy.weights(toy.tokenizer())
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = [line for line in lines if line.startswith("W forget (layer 2)")]
    values = weights["layers.1.weight_hh"][16:32].astype(np.float64)
    radius = np.abs(np.linalg.eigvals(values)).max()
    expected = ["16x16", f"{np.linalg.norm(values):.3f}", f"{radius:.3f}", "layers.1.weight_hh[16:32]"]
    assert line.split()[4:] == expected
    assert sum(line.startswith(("U ", "W ", "b_U ", "b_W ")) and "(layer" in line for line in lines) == 2 * 4 * 4
    assert done.err == ""


def test_the_json_says_the_same(run: Run) -> None:
    record = json.loads(run("inspect", "toy", "--weights", "--json").out)
    assert record["digest"] == models.load(MODEL).digest
    (found,) = [one for one in record["weights"] if one["name"] == "U cell (layer 1)"]
    assert (found["tensor"], found["rows"], found["shape"]) == ("layers.0.weight_ih", [32, 48], [16, 8])
    assert found["spectral_radius"] is None
    (square,) = [one for one in record["weights"] if one["name"] == "W cell (layer 1)"]
    assert square["spectral_radius"] > 0


def test_long_names_fold_instead_of_running_over(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("charrnn.cli.weights.WIDTH", 60)
    lines = run("inspect", "toy", "--weights").out.splitlines()[4:]
    assert max(map(len, lines)) <= 60
    at = next(number for number, line in enumerate(lines) if line.startswith("W forget (layer 2)"))
    assert lines[at + 1] == "    layers.1.weight_hh[16:32]"


# --- the numbers as text


def read_back(path: Path) -> Arrays:
    """By the program of docs/format.md."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "format.md").read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)
        exec(program, names)
    return {str(name): array for name, array in names["tensors"].items()}


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_dump_reads_back_exactly(cell: str, run: Run) -> None:
    units = toy.tokenizer()
    config = ModelConfig(cell=cell, vocab_size=units.vocab_size, embedding_size=8, hidden_size=6, layers=2)
    weights = drawn(weight_shapes(config))
    odd = [0.1, -0.0, 1e6, -1e6, 1.4e-45, 1.1754942e-38, 1e-10, 16777216 / 17, 1 / 3, np.nextafter(np.float32(1), np.float32(2))]
    weights["output.weight"].flat[: len(odd)] = odd
    weights["layers.0.bias_ih"] = weights["layers.0.bias_ih"].astype(np.float16)
    save(config, weights)
    done = run("inspect", "toy", "--dump", "weights.txt")
    assert (done.code, done.out) == (0, "")
    back = read_back(Path("weights.txt").resolve())
    assert list(back) == list(dict.fromkeys(one.tensor for one in named(weights, cell)))
    for name, array in weights.items():
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert back[name].tobytes() == array.tobytes(), name
    assert run("inspect", "toy", "--dump", "-").out.encode() == Path("weights.txt").read_bytes()


def test_a_dump_has_a_row_a_line_under_a_header(run: Run) -> None:
    lines = run("inspect", "toy", "--dump", "-").out.splitlines()
    assert lines[0].startswith('# charrnn weights 1\trun "toy\\u001b[31m\\n#"\tdigest "')
    at = lines.index("# layers.0.weight_hh\t16:32\t16x16\tfloat32\tW forget (layer 1)")
    values = toy.weights(toy.tokenizer())["layers.0.weight_hh"][16:32]
    assert [line.split() for line in lines[at + 1 : at + 17]] == [[str(number) for number in row] for row in values]
    assert lines[at + 17].startswith("# layers.0.weight_hh\t32:48\t")


def test_a_dump_that_fails_leaves_what_was_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("weights.txt").write_text("old", encoding="utf-8")

    def full(self: durable.Disk, descriptor: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(durable.Disk, "write", full)
    done = run("inspect", "toy", "--dump", "weights.txt")
    assert done.code == 74
    assert "No space left" in done.err
    assert [path.name for path in Path().iterdir() if path.is_file()] == ["weights.txt"]
    assert Path("weights.txt").read_text(encoding="utf-8") == "old"
    assert run("inspect", "toy", "--dump", "nowhere/weights.txt").code == 73


@pytest.mark.parametrize("more", ["--weights", "--json"])
def test_a_dump_goes_alone(run: Run, more: str) -> None:
    done = run("inspect", "toy", "--dump", "-", more)
    assert (done.code, done.out) == (2, "")
    assert "--dump" in done.err
