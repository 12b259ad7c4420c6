"""The parts of a training run as named arrays, and back: weights, what the optimizers remember, random generators.

Knows the names in last.safetensors; knows nothing of steps, losses or files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from charrnn.errors import CheckpointError
from charrnn.models.weights import export_weights, import_weights
from charrnn.runs.checkpoint import Tensors
from charrnn.runs.model import AVERAGE
from charrnn.training.distributed import Ranks
from charrnn.training.loss import Network
from charrnn.training.muon import Muon

MOMENTS = {torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"), Muon: ("momentum",)}
NEW_RUN = "Start a new run."


def weights_of(network: Network, average: Network, optimizers: Sequence[torch.optim.Optimizer]) -> Tensors:
    """Current and averaged weights, and what is remembered of each."""
    result: Tensors = {AVERAGE + name: weight for name, weight in export_weights(average).items()}
    for name, weight in export_weights(network).items():
        result[f"current/{name}"] = weight
    for name, parameter in network.named_parameters():
        for key, value in optimizer_of(parameter, optimizers).state[parameter].items():
            result[f"optimizer/{key}/{name}"] = array_of(value)
    return result


def restore_weights(
    network: Network, average: Network, optimizers: Sequence[torch.optim.Optimizer], tensors: Mapping[str, NDArray[Any]]
) -> None:
    """Take up what `weights_of` gave."""
    for one, prefix in ((network, "current/"), (average, AVERAGE)):
        import_weights(one, {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)})
    for name, parameter in network.named_parameters():
        optimizer = optimizer_of(parameter, optimizers)
        for key in MOMENTS[type(optimizer)]:
            stored = tensors.get(f"optimizer/{key}/{name}")
            if stored is not None:
                optimizer.state[parameter][key] = torch.from_numpy(np.array(stored)).to(parameter.device)


def randoms_of(ranks: Ranks, device: torch.device) -> Tensors:
    """The generators of all ranks: random/cpu is that of rank 0 (or of a run that is alone), random/cpu/1 the next."""
    generators = {"random/cpu": torch.get_rng_state()}
    if device.type == "cuda":
        generators["random/cuda"] = torch.cuda.get_rng_state(device)
    result: Tensors = {}
    for name, state in generators.items():
        for rank, row in enumerate(ranks.whole(state.unsqueeze(0), ranks.count)):
            result[_random(name, rank)] = row.numpy().copy()
    return result


def restore_randoms(ranks: Ranks, device: torch.device, tensors: Mapping[str, NDArray[Any]]) -> None:
    """Take up this rank's own; one that was not there when the run was saved keeps what it has."""
    own = {name: tensors.get(_random(name, ranks.rank)) for name in ("random/cpu", "random/cuda")}
    if own["random/cpu"] is not None:
        torch.set_rng_state(torch.from_numpy(np.array(own["random/cpu"])))
    if device.type == "cuda" and own["random/cuda"] is not None:
        torch.cuda.set_rng_state(torch.from_numpy(np.array(own["random/cuda"])), device)


def _random(name: str, rank: int) -> str:
    return f"{name}/{rank}" if rank else name


def check(
    tensors: Mapping[str, NDArray[Any]], here: Tensors, network: Network, optimizers: Sequence[torch.optim.Optimizer], moved: bool
) -> None:
    """Raise CheckpointError unless `tensors` are as large and of the types that torch's kernels will take them for.

    The kernels do not look. `here` is what there is now; after a step that changed something (`moved`), more is remembered.
    """
    expected = {name: (array.shape, array.dtype) for name, array in here.items() if not name.startswith("random/")}
    if moved or any(name.startswith("optimizer/") for name in tensors):
        for name, parameter in network.named_parameters():
            for key in MOMENTS[type(optimizer_of(parameter, optimizers))]:
                expected[f"optimizer/{key}/{name}"] = (() if key == "step" else tuple(parameter.shape), np.dtype(np.float32))
    known = {name: (array.shape, array.dtype) for name, array in tensors.items() if not name.startswith("tokenizer.")}
    found = {name: kind for name, kind in known.items() if not name.startswith("random/")}
    for name in (name for name in known if name.startswith("random/cpu")):
        found[name], expected[name] = known[name], (here["random/cpu"].shape, here["random/cpu"].dtype)
    expected["random/cpu"] = (here["random/cpu"].shape, here["random/cpu"].dtype)
    if odd := sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)):
        raise CheckpointError(f"its training state does not fit: tensor {odd[0][:80]!r}.", NEW_RUN)
    if bad := [name for name, array in tensors.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]:
        raise CheckpointError(f"its training state does not fit: {bad[0][:80]!r} holds values that are no numbers.")


def optimizer_of(parameter: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> torch.optim.Optimizer:
    """The one that updates a weight."""
    for optimizer in optimizers:
        if any(parameter is one for group in optimizer.param_groups for one in group["params"]):
            return optimizer
    raise AssertionError("every weight has an optimizer")


def array_of(value: Tensor) -> NDArray[Any]:
    """A copy of a tensor where files are written from."""
    return value.detach().cpu().numpy().copy()
