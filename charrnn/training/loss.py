"""What a batch costs, and what can be learnt at all. Knows nothing of where batches come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charrnn.models.classifier import Classifier
from charrnn.models.language import LanguageModel
from charrnn.models.precision import wide
from charrnn.models.recurrent import State
from charrnn.text.tokenizers import PAD

Network = LanguageModel | Classifier  # the conditional model, and the encoder with its decoder, are language models, too
DROPOUTS = ("dropout_embedding", "dropout_layers", "dropout_output")


@dataclass(frozen=True)
class Loss:
    """Sums over a batch: nats (the graph hangs on it) and right predictions; and the state after it."""

    nats: Tensor
    right: Tensor
    state: State = ()


def of_targets(logits: Tensor, targets: Tensor) -> Loss:
    """The cross entropy of (..., V) logits with the `targets` (...), <pad> among them left out."""
    flat, wanted = wide(logits).reshape(-1, logits.shape[-1]), targets.reshape(-1)
    nats = functional.cross_entropy(flat, wanted, reduction="sum", ignore_index=PAD)
    return Loss(nats, ((flat.detach().argmax(-1) == wanted) & (wanted != PAD)).sum())


def shifted(targets: Tensor, first: int) -> Tensor:
    """What is known before each of `targets` (T, B): `first`, then the targets themselves."""
    return torch.cat([torch.full_like(targets[:1], first), targets[:-1]])


def on(device: torch.device, array: NDArray[Any] | Tensor) -> Tensor:
    """An array as a tensor where the network is; a tensor that is there as it is.

    To a GPU it goes by way of memory that the GPU reads by itself, so that nothing waits for its arrival.
    """
    if isinstance(array, Tensor):
        return array
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
