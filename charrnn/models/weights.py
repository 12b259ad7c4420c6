"""Between a network and the named tensors of a file. Knows names, nothing of files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from charrnn.config import ModelConfig
from charrnn.weights import weight_shapes


def export_weights(model: nn.Module) -> dict[str, NDArray[Any]]:
    """The weights under the names of `charrnn.weights`, as NumPy arrays (copies, on the CPU)."""
    named = {file_name(name): weight for name, weight in model.named_parameters()}
    config = model.config
    assert isinstance(config, ModelConfig)
    assert {name: tuple(weight.shape) for name, weight in named.items()} == weight_shapes(config)
    return {name: weight.detach().cpu().numpy().copy() for name, weight in named.items()}


def import_weights(model: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Copy weights, named and shaped as `export_weights` gives them, into the model, whatever its device."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(torch.from_numpy(np.array(weights[file_name(name)])))


def file_name(parameter_name: str) -> str:
    """`encoder.recurrent.layers.0.weight_ih_l0` is `encoder.layers.0.weight_ih` in a file."""
    return parameter_name.replace("recurrent.", "").removesuffix("_l0")
