"""Muon against a singular value decomposition, and its place in the learner."""

from __future__ import annotations

import pytest
import torch

from charrnn.training.muon import ROUNDS, Muon, orthogonalise
from tests.test_learner import make


@pytest.mark.parametrize("shape", [(4, 16, 16), (4, 16, 6), (3, 8, 20)])
@pytest.mark.parametrize("rounds", [ROUNDS, 5])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int, int], rounds: int) -> None:
    torch.manual_seed(0)
    blocks = torch.randn(shape, dtype=torch.float64)
    found = orthogonalise(blocks, rounds)
    left, values, right = torch.linalg.svd(blocks, full_matrices=False)
    large = values > 0.03 * torch.linalg.vector_norm(blocks, dim=(1, 2)).unsqueeze(1)
    inner = left.mT @ found @ right.mT  # diagonal, if the singular vectors are the same
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert torch.allclose(inner, torch.diag_embed(diagonal), atol=1e-9)
    assert bool(((diagonal > 0.6) & (diagonal < 1.3))[large].all())


def test_a_zero_gradient_moves_nothing() -> None:
    matrix = torch.ones(8, 4).requires_grad_()
    matrix.grad = torch.zeros(8, 4)
    Muon([{"params": [matrix], "size": 4}], lr=0.1, momentum=0.9, weight_decay=0.0, product=torch.float32).step()
    assert torch.equal(matrix.detach(), torch.ones(8, 4))


def test_each_gate_is_a_matrix_of_its_own_and_its_scale_does_not_matter() -> None:
    torch.manual_seed(1)
    gradient = torch.randn(8, 4)
    louder = torch.cat([gradient[:4], 1000 * gradient[4:]])
    moved = []
    for one in (gradient, louder):
        matrix = torch.zeros(8, 4).requires_grad_()
        matrix.grad = one
        Muon([{"params": [matrix], "size": 4}], lr=1.0, momentum=0.95, weight_decay=0.0, product=torch.float32).step()
        moved.append(matrix.detach().clone())
    assert torch.allclose(moved[0], moved[1], atol=1e-4)
    assert torch.allclose(moved[0][:4], -orthogonalise(gradient[None, :4])[0], atol=1e-4)


def test_decay_shrinks_by_the_rate_times_the_decay() -> None:
    matrix = torch.ones(4, 4).requires_grad_()
    matrix.grad = torch.zeros(4, 4)
    Muon([{"params": [matrix], "size": 4}], lr=0.1, momentum=0.9, weight_decay=0.5, product=torch.float32).step()
    assert torch.allclose(matrix.detach(), torch.full((4, 4), 0.95))


@pytest.mark.parametrize("embedding", ["learned", "onehot"])
def test_muon_has_the_recurrent_matrices_and_adamw_the_rest(embedding: str) -> None:
    learner = make(model={"layers": 2, "embedding": embedding})
    adamw, muon = learner.optimizers
    chosen = muon.param_groups[0]["params"]
    names = {name for name, weight in learner.network.named_parameters() if any(weight is one for one in chosen)}
    expected = {f"recurrent.layers.{layer}.weight_{kind}_l0" for layer in (0, 1) for kind in ("ih", "hh")}
    assert names == expected - ({"recurrent.layers.0.weight_ih_l0"} if embedding == "onehot" else set())
    rest = sum(len(group["params"]) for group in adamw.param_groups)
    assert rest + len(names) == len(list(learner.network.parameters()))


def test_adamw_alone_when_asked() -> None:
    learner = make(optimizer="adamw")
    assert [type(optimizer) for optimizer in learner.optimizers] == [torch.optim.AdamW]


def test_both_rates_follow_the_schedule() -> None:
    learner = make(steps=1000, warmup=10)
    learner.advance()
    adamw, muon = learner.optimizers
    assert adamw.param_groups[0]["lr"] == pytest.approx(learner.training.learning_rate / 10)
    assert muon.param_groups[0]["lr"] == pytest.approx(learner.training.muon_learning_rate / 10)
