"""The hand-written GRU and plain RNN against numeric gradients and against torch's own layers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from charrnn.config import ModelConfig
from charrnn.models.cells import gru, rnn
from charrnn.models.recurrent import Recurrent

T, B, H, WIDTH = 5, 3, 4, 6
CELLS: dict[str, tuple[int, Callable[..., Tensor]]] = {
    "gru": (3, gru),
    "tanh": (1, lambda *arguments: rnn(*arguments, "tanh")),
    "relu": (1, lambda *arguments: rnn(*arguments, "relu")),
}


def arguments(gates: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    shapes = [(T, B, WIDTH), (B, H), (gates * H, WIDTH), (gates * H, H), (gates * H,), (gates * H,)]
    return [torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_the_numeric_ones(cell: str) -> None:
    gates, function = CELLS[cell]
    assert torch.autograd.gradcheck(function, arguments(gates))


@pytest.mark.parametrize("cell", CELLS)
def test_outputs_and_gradients_are_those_of_torch(cell: str) -> None:
    gates, function = CELLS[cell]
    mine, theirs = arguments(gates), arguments(gates)
    layer = nn.GRU(WIDTH, H) if cell == "gru" else nn.RNN(WIDTH, H, nonlinearity=cell)
    layer.double()
    for name, weight in zip(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), theirs[2:], strict=True):
        delattr(layer, name)
        setattr(layer, name, weight)
    layer._flat_weights = theirs[2:]  # type: ignore[assignment]
    expected, found = layer(theirs[0], theirs[1].unsqueeze(0))[0], function(*mine)
    assert torch.allclose(found, expected, atol=1e-12)
    weights = torch.randn_like(expected)
    (found * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(mine, theirs, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-11)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_training_and_scoring_run_the_same_equations(cell: str) -> None:
    torch.manual_seed(3)
    stack = Recurrent(ModelConfig(cell=cell, vocab_size=9, embedding_size=WIDTH, hidden_size=H, layers=2))
    x, state = torch.randn(T, B, WIDTH), tuple(torch.randn(B, H) for _ in range(2))
    trained, after = stack(x, state)
    with torch.no_grad():
        scored, also_after = stack(x, state)
    assert torch.allclose(trained, scored, atol=1e-6)
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(after, also_after, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_under_autocast_the_products_are_in_bf16_and_the_state_is_not(cell: str) -> None:
    gates, function = CELLS[cell]
    single = [(0.4 * tensor.detach().float()).requires_grad_() for tensor in arguments(gates)]
    exact = function(*single)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = function(*single)
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    assert torch.allclose(rounded, exact, atol=0.05, rtol=0.05)
    rounded.sum().backward()
    assert all(tensor.grad is not None and tensor.grad.dtype == torch.float32 for tensor in single)
