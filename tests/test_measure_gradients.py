"""docs/measure_gradients.py: its norms against the recurrence written out, padding, its bars, and what it refuses."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig
from charrnn.models.classifier import Classifier
from charrnn.text.examples import Examples, Ragged

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "measure_gradients.py"
SIZE = 5


def loaded() -> ModuleType:
    description = importlib.util.spec_from_file_location("measure_gradients", SCRIPT)
    assert description
    assert description.loader
    module = sys.modules["measure_gradients"] = importlib.util.module_from_spec(description)
    description.loader.exec_module(module)
    return module


measure = loaded()


def network(cell: str = "rnn", layers: int = 1) -> Classifier:
    torch.manual_seed(1)
    shape = ModelConfig(
        task="classify", cell=cell, layers=layers, vocab_size=9, embedding_size=4, hidden_size=SIZE, classes=3, pooling="last",
        bidirectional=False,
    )  # fmt: skip
    return Classifier(shape).eval()


def some_examples(*lengths: int) -> Examples:
    generator = np.random.default_rng(1)
    texts = Ragged.of(generator.integers(4, 9, size=length) for length in lengths)
    return Examples(texts, None, np.arange(len(lengths)) % 3, ())


def by_hand(net: Classifier, ids: list[int], label: int) -> list[float]:
    """Of a plain RNN: d loss / d h_t = W^T ((1 - h^2) * d loss / d h) of the step after, from the softmax down."""
    weights = {name: value.detach().numpy().astype(np.float64) for name, value in net.state_dict().items()}
    layer = "recurrent.layers.0."
    states = [np.zeros(SIZE)]
    for token in ids:
        inner = weights[layer + "weight_ih_l0"] @ weights["embedding.weight"][token] + weights[layer + "bias_ih_l0"]
        states.append(np.tanh(inner + weights[layer + "weight_hh_l0"] @ states[-1] + weights[layer + "bias_hh_l0"]))
    scores = weights["output.weight"] @ states[-1] + weights["output.bias"]
    odds = np.exp(scores) / np.exp(scores).sum()
    gradient = weights["output.weight"].T @ (odds - np.eye(3)[label])
    found = []
    for state in reversed(states[1:]):
        found.append(float(np.linalg.norm(gradient)))
        gradient = weights[layer + "weight_hh_l0"].T @ ((1 - state**2) * gradient)
    return found


def test_the_norms_are_those_of_the_recurrence_written_out() -> None:
    net, examples = network(), some_examples(7)
    assert measure.norms(net, examples) == pytest.approx(by_hand(net, examples.inputs[0].tolist(), 0), rel=1e-4)


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize("layers", [1, 2])
def test_rows_of_any_length_are_counted_from_their_own_end(cell: str, layers: int) -> None:
    net, examples = network(cell, layers), some_examples(3, 8, 5)
    alone = [measure.norms(net, examples.take(np.array([row]))) for row in range(3)]
    means = [float(np.mean([norms[back] for norms in alone if back < len(norms)])) for back in range(8)]
    assert measure.norms(net, examples) == pytest.approx(means, rel=1e-4)


def test_an_open_forget_gate_lets_the_gradient_through() -> None:
    shut, opened, examples = network("lstm"), network("lstm"), some_examples(30)
    with torch.no_grad():
        opened.recurrent.layers[0].get_parameter("bias_ih_l0")[SIZE : 2 * SIZE] += 3
    assert measure.norms(opened, examples)[-1] > 1e4 * measure.norms(shut, examples)[-1]


def test_a_bar_has_two_cells_for_a_power_of_ten() -> None:
    assert [len(measure.bar(10.0**power)) for power in (-20, -15, -14, 0, 5, 30)] == [0, 0, 2, 30, 40, 60]
    assert measure.bar(10**-0.25) == "█" * 29 + "▌"
    assert measure.bar(0.0) == ""


def test_the_table_has_few_lines_and_the_first_step() -> None:
    lines = measure.table([0.5] * 51)
    assert len(lines) <= measure.LINES + 2
    assert [line.split()[0] for line in lines[1:]] == [*map(str, range(0, 51, 3)), "50"]
    assert measure.table([0.5] * 50)[-1].split()[:2] == ["49", "5.0e-01"]


def test_what_it_cannot_measure_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"'poems' tells no labels; expected .* Train one: --task classify"):
        measure.main(["poems", "x.tsv", "--checkpoints", str(SCRIPT.parent.parent / "checkpoints")])
    with pytest.raises(SystemExit, match="no run, folder or file 'none'"):
        measure.main(["none", "x.tsv"])
    with pytest.raises(SystemExit):
        measure.main(["poems", "x.tsv", "--rows", "0"])
    assert "expected at least 1" in capsys.readouterr().err
