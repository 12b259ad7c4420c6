"""The torch models: state explicit, chunked equals whole, initial weights as asked for, weights there and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from charrnn.config import ModelConfig, TrainingConfig
from charrnn.models.dropout import dropout
from charrnn.models.language import LanguageModel
from charrnn.models.weights import export_weights, import_weights
from charrnn.training.learner import Learner
from charrnn.weights import weight_shapes

CELLS = [("lstm", "tanh"), ("gru", "tanh"), ("rnn", "tanh"), ("rnn", "relu")]
IDS = torch.from_numpy(np.random.default_rng(2).integers(4, 15, (24, 3)))


def make(cell: str = "lstm", nonlinearity: str = "tanh", **more: object) -> LanguageModel:
    torch.manual_seed(8)
    shape = {"vocab_size": 15, "embedding_size": 5, "hidden_size": 10, "layers": 2, **more}
    return LanguageModel(ModelConfig(cell=cell, nonlinearity=nonlinearity, **shape)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize(("cell", "nonlinearity"), CELLS)
def test_chunked_and_stepwise_equal_whole(cell: str, nonlinearity: str) -> None:
    model = make(cell, nonlinearity)
    whole, end = model(IDS, model.begin(3))
    state, pieces = model.begin(3), []
    for rows in IDS.split([7, 1, 16]):
        logits, state = model(rows, state)
        pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces), whole)
    stepped, steps = model.begin(3), []
    for ids in IDS:
        logits, stepped = model.step(ids, stepped)
        steps.append(logits)
    torch.testing.assert_close(torch.stack(steps), whole)
    for one, other, third in zip(end, state, stepped, strict=True):
        torch.testing.assert_close(one, other)
        torch.testing.assert_close(one, third)


@pytest.mark.parametrize(("cell", "nonlinearity"), CELLS)
def test_the_gradient_is_that_of_finite_differences(cell: str, nonlinearity: str) -> None:
    model = make(cell, nonlinearity, layers=1).double()
    targets = IDS[1:5].flatten()

    def loss() -> torch.Tensor:
        logits, _ = model(IDS[:4], model.begin(3))
        return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)

    weight = model.recurrent.layers[0].get_parameter("weight_hh_l0")
    (gradient,) = torch.autograd.grad(loss(), weight)
    for row, column in ((0, 0), (3, 7), (9, 2)):
        values = []
        for change in (1e-6, -1e-6):
            with torch.no_grad():
                weight[row, column] += change
                values.append(loss().item())
                weight[row, column] -= change
        assert float(gradient[row, column]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("embedding", ["learned", "onehot"])
@pytest.mark.parametrize(("cell", "nonlinearity"), CELLS)
def test_weights_go_out_and_back_under_the_names_of_the_format(cell: str, nonlinearity: str, embedding: str) -> None:
    model, other = make(cell, nonlinearity, embedding=embedding), make(cell, nonlinearity, embedding=embedding)
    weights = export_weights(model)
    assert {name: weight.shape for name, weight in weights.items()} == weight_shapes(model.config)
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    import_weights(other, weights)
    torch.testing.assert_close(other(IDS, other.begin(3))[0], model(IDS, model.begin(3))[0])


def test_tied_weights_are_one_tensor() -> None:
    model = make(tie_weights=True, embedding_size=10)
    assert model.output.weight is model.embedding.weight
    assert "output.weight" not in export_weights(model)


def fresh(**training: object) -> Learner:
    tokens = np.zeros(500, dtype=np.uint8)
    settings = {"batch_size": 2, "window": 8, "steps": 5, **training}
    return Learner(ModelConfig(vocab_size=15, hidden_size=10), TrainingConfig(**settings), tokens, torch.device("cpu"))  # type: ignore[arg-type]


def test_forget_bias_and_orthogonal_recurrent_weights_when_asked_for() -> None:
    plain, asked = export_weights(fresh().network), export_weights(fresh(forget_bias=1.0, recurrent_init="orthogonal").network)
    difference = asked["layers.0.bias_ih"] - plain["layers.0.bias_ih"]
    assert np.allclose(difference.reshape(4, 10), np.array([0, 1, 0, 0])[:, None])
    for block in asked["layers.0.weight_hh"].reshape(4, 10, 10):
        assert np.allclose(block @ block.T, np.eye(10), atol=1e-5)
    assert not np.allclose(plain["layers.0.weight_hh"][:10] @ plain["layers.0.weight_hh"][:10].T, np.eye(10), atol=0.1)


def test_dropout_drops_in_training_alone() -> None:
    torch.manual_seed(8)
    config = ModelConfig(vocab_size=15, hidden_size=10, layers=2)
    for name in ("dropout_embedding", "dropout_layers", "dropout_output"):
        model = LanguageModel(config, **{name: 0.5})
        first, second = (model(IDS, model.begin(3))[0] for _ in range(2))
        assert not torch.equal(first, second), name
        model.eval()
        first, second = (model(IDS, model.begin(3))[0] for _ in range(2))
        assert torch.equal(first, second), name


@pytest.mark.parametrize("share", [0.001, 0.1, 0.3, 0.5, 0.99])
def test_dropout_drops_its_share_and_keeps_the_mean(share: float) -> None:
    torch.manual_seed(5)
    ones = torch.ones(1001, 997)  # no multiple of eight
    found = dropout(ones, share, training=True)
    dropped, count = min(255, max(1, round(256 * share))) / 256, ones.numel()
    assert abs(dropped - share) <= 1 / 256
    error = 5 * (dropped * (1 - dropped) / count) ** 0.5  # five standard errors: a false alarm in two million
    assert float((found == 0).float().mean()) == pytest.approx(dropped, abs=error)
    assert found.unique().tolist() == pytest.approx([0.0, 1 / (1 - dropped)])
    assert torch.equal(dropout(ones, share, training=False), ones)


def test_neighbours_in_one_draw_are_dropped_independently() -> None:
    torch.manual_seed(6)
    dropped = (dropout(torch.ones(200_000, 8), 0.5, training=True) == 0).float() - 0.5
    correlations = 4 * dropped.T @ dropped / len(dropped)
    assert float((correlations - torch.eye(8)).abs().max()) < 5 / len(dropped) ** 0.5
    assert float((4 * dropped[1:] * dropped[:-1]).mean(0).abs().max()) < 5 / len(dropped) ** 0.5
