"""What updates the weights, and at which rate.

AdamW: Loshchilov and Hutter (2019). Muon for the recurrent matrices: muon.py. Knows nothing of losses or steps made.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from charrnn.config import TrainingConfig
from charrnn.training.loss import Network
from charrnn.training.muon import Muon


def rise(training: TrainingConfig) -> int:
    """Steps of the warm-up."""
    return max(1, training.warmup)


def rate_share(training: TrainingConfig, step: int) -> float:
    """The share of the peak rates at step `step` (from 0): a linear rise, then the schedule, to just above zero."""
    risen = (step + 1) / rise(training)
    if training.schedule == "trapezoid":  # Zhai et al. (2022); Hagele et al. (2024)
        return min(1.0, risen, max(0.0, training.steps - step) / max(1.0, training.decay * training.steps))
    if risen < 1:
        return risen
    left = min(1.0, max(0.0, (training.steps - step) / max(1, training.steps - rise(training))))
    return {"linear": left, "cosine": 0.5 - 0.5 * math.cos(math.pi * left), "constant": 1.0}[training.schedule]


def product_in(precision: str) -> str:
    """The precision in which Muon multiplies, by that of the network: bf16 where that is as short and there are units for it."""
    if precision == "fp16":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return precision


def optimizers_of(network: Network, training: TrainingConfig, precision: str) -> list[torch.optim.Optimizer]:
    """Muon for the recurrent layers' matrices (not for one-hot inputs, which are rows of their own), AdamW for the rest.

    Weight decay pulls on matrices only: a bias has no size to regularise. `peak` is each group's highest rate.
    """
    onehot = network.config.embedding == "onehot"
    stacks = network.stacks if training.optimizer == "muon" else []
    orthogonal: list[dict[str, Any]] = [{"params": stack.matrices(onehot), "size": stack.hidden_size} for stack in stacks]
    chosen = [matrix for group in orthogonal for matrix in group["params"]]
    rest = [weight for weight in network.parameters() if not any(weight is matrix for matrix in chosen)]
    matrices, vectors = [w for w in rest if w.ndim >= 2], [w for w in rest if w.ndim < 2]
    groups = [{"params": matrices, "weight_decay": training.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    betas, fused = (float(training.beta1), float(training.beta2)), next(network.parameters()).device.type in ("cpu", "cuda")
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=training.learning_rate, betas=betas, fused=fused)]
    if chosen:
        product = torch.bfloat16 if product_in(precision) == "bf16" else next(network.parameters()).dtype
        optimizers.append(
            Muon(orthogonal, lr=training.muon_learning_rate, momentum=training.muon_momentum,
                 weight_decay=training.muon_weight_decay, product=product)
        )  # fmt: skip
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers
