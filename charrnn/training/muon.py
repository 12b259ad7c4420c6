"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024).

A gradient of a recurrent matrix is dominated by few directions; its nearest orthogonal matrix moves all of them alike,
which learns the same from about half of the steps (docs/results.md). Each gate's block is a matrix of its own. The
nearest orthogonal matrix is approached by a quintic Newton-Schulz iteration on the block divided by its Frobenius norm;
its coefficients (Jordan's) take all but the smallest singular values near 1 within three rounds and no further, which
suffices.

Knows nothing of schedules: the learning rate of each group is set from outside. Weight decay is decoupled. Like torch's
fused optimizers it makes no step where `found_inf`, set from outside, is not zero, without asking the device for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from charrnn.models.precision import wide

A, B, C = 3.4445, -4.7750, 2.0315
ROUNDS = 3  # five are no better here and cost two thirds more
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """For matrices of stacked gate blocks, (G * H, I) each; `size` of each group is H, the rows of a block.

    `product` is the type in which the iteration multiplies. State: `momentum`, shaped as the matrix.
    """

    found_inf: Tensor | None = None  # ()

    def __init__(
        self, groups: Iterable[dict[str, Any]], *, lr: float, momentum: float, weight_decay: float, product: torch.dtype
    ) -> None:
        super().__init__(groups, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.product = product

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is not None:
                    self._update(matrix, matrix.grad, group)

    def _update(self, matrix: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[matrix]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(matrix)
        go: float | Tensor = 1.0
        if self.found_inf is not None:
            go = 1 - self.found_inf  # 0 changes nothing below, once the gradient is a number
            gradient = torch.where(go > 0, gradient, state["momentum"])
        mean = state["momentum"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(mean, group["momentum"])  # Nesterov's
        blocks = ahead.view(-1, group["size"], matrix.shape[1]).to(self.product)
        wide = max(1.0, group["size"] / matrix.shape[1]) ** 0.5  # so that every step has the same effect on the outputs
        matrix.mul_(1 - group["lr"] * group["weight_decay"] * go)
        change = orthogonalise(blocks).to(matrix.dtype).view_as(matrix)
        matrix.add_(change if self.found_inf is None else change * go, alpha=-group["lr"] * wide)


def orthogonalise(blocks: Tensor, rounds: int = ROUNDS) -> Tensor:
    """(G, M, N) matrices to ones with the same singular vectors and singular values near 1.

    Those above 0.03 of the Frobenius norm come to some 0.7 to 1.2; a round makes smaller ones up to 3.4 times as large.
    X <- A X + (B S + C S S) X with S = X X^T, on the side where S is smaller.
    """
    turned = blocks.shape[1] > blocks.shape[2]
    x = blocks.mT if turned else blocks
    x = x / (torch.linalg.vector_norm(wide(x), dim=(1, 2), keepdim=True) + TINY).to(x.dtype)
    for _ in range(rounds):
        square = torch.bmm(x, x.mT)
        polynomial = torch.baddbmm(square, square, square, beta=B, alpha=C)
        x = torch.baddbmm(x, polynomial, x, beta=A)
    return x.mT.contiguous() if turned else x
