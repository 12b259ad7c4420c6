"""Dynamic evaluation: a model that goes on learning from the text it is scored on, each token after its score.

Krause, Kahembwe, Murray and Renals (2018). The text is one stream, cut into short windows: a window is scored with
weights that have seen everything before it and nothing of it, and only then learnt from. `Adapter` is that and no more,
so that a session can learn from what somebody writes in the same way. Neither knows of files: a run stays as it is.

NumPy arrays come in and go out, so that who calls needs no torch. Shapes: T tokens, V vocabulary, H hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from charrnn.config import DynamicConfig, ModelConfig
from charrnn.errors import CharrnnError
from charrnn.models import recurrent
from charrnn.models.language import LanguageModel
from charrnn.models.weights import export_weights, import_weights
from charrnn.runs.model import Model
from charrnn.training import device as machine
from charrnn.training.evaluate import Report, tokens_of

State = tuple[NDArray[Any], ...]  # (1, H) arrays, as an Engine's
Floats = NDArray[np.float64]
CHUNK = 2048  # tokens between two looks at whether all is finite, and two words on how far it has come


class Adapter:
    """A copy of a language model's weights that learns from what it reads; deterministic for a number of threads."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, NDArray[Any]], settings: DynamicConfig, where: torch.device | None = None
    ) -> None:
        # Without dropout; in training mode, since cuDNN would not go backwards in another.
        self.network = LanguageModel(config).to(where or torch.device("cpu")).train()
        self.settings = settings
        self._original = weights
        self._weights: list[Tensor] = [*self.network.parameters()]
        self.reset()

    def reset(self) -> None:
        """Go back to the original weights, exactly."""
        import_weights(self.network, self._original)

    def weights(self) -> dict[str, NDArray[Any]]:
        """The weights as they are now, by the names of a model file; for an Engine of decoding."""
        return export_weights(self.network)

    def begin(self) -> State:
        """The zero state."""
        return tuple(part.cpu().numpy() for part in self.network.begin(1))

    def learn(self, tokens: NDArray[Any], state: State) -> tuple[Floats, NDArray[np.bool_], State]:
        """Score tokens[1:], given `state`, which is that before tokens[0], and learn from them window by window.

        Returns the nats of each, whether it was the likeliest, and the state before tokens[-1], with which the next call
        goes on from there. Raises CharrnnError, with the original weights again, if the weights left all measure.
        """
        ids = torch.from_numpy(np.asarray(tokens, np.int64)).to(self._weights[0].device)
        now = tuple(torch.from_numpy(np.array(part, np.float32)).to(ids.device) for part in state)
        nats: list[Tensor] = []
        right: list[Tensor] = []
        for first in range(0, len(ids) - 1, self.settings.dynamic_window):
            window = ids[first : first + self.settings.dynamic_window + 1]
            costs, logits, now = self._step(window, now)
            nats.append(costs)
            right.append(logits.argmax(-1) == window[1:])
        self._check(nats)
        after = tuple(part.cpu().numpy() for part in now)
        return _joined(nats).astype(np.float64), _joined(right).astype(np.bool_), after

    def _step(self, window: Tensor, state: recurrent.State) -> tuple[Tensor, Tensor, recurrent.State]:
        """Score one window (T + 1,), then learn from it: the nats (T,) and logits (T, V) of before, and the state after."""
        logits, state = self.network(window[:-1].unsqueeze(1), state)
        logits = logits[:, 0]
        costs = functional.cross_entropy(logits, window[1:], reduction="none")
        # Divided by the length of a full window: a token of a shorter one counts no more than any other.
        gradients = torch.autograd.grad(costs.sum() / self.settings.dynamic_window, self._weights)
        with torch.no_grad():
            self._update(list(gradients))
        return costs.detach(), logits.detach(), tuple(part.detach() for part in state)

    def _update(self, gradients: list[Tensor]) -> None:
        """Plain gradient descent, by a gradient of norm 1 at most."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, -self.settings.dynamic_rate / norm.clamp(min=1.0))
        torch._foreach_add_(self._weights, gradients)

    def _check(self, nats: Sequence[Tensor]) -> None:
        if all(bool(torch.isfinite(part).all()) for part in (*nats, *self._weights)):
            return
        self.reset()
        raise CharrnnError(
            f"dynamic evaluation left all measure at a rate of {self.settings.dynamic_rate:g}: its weights are no numbers.",
            f"Use a lower one: --dynamic-rate {self.settings.dynamic_rate / 10:g}.",
        )


def _joined(parts: Sequence[Tensor]) -> NDArray[Any]:
    joined: NDArray[Any] = torch.cat(list(parts)).cpu().numpy() if parts else np.empty(0)
    return joined


def evaluate_dynamic(
    model: Model, documents: Sequence[str], static: Report, settings: DynamicConfig, *, device: str = "cpu", threads: int = 0,
    tell: Callable[[int, int, float], None] = lambda done, of, loss: None,
) -> Report:  # fmt: skip
    """Score `documents` by a model that learns from them as it goes; `static` is their report without that.

    `tell` is called now and then with the tokens done, how many there are, and the nats per token so far.
    """
    adapter = Adapter(model.config, model.weights, settings, machine.prepare(device, threads))
    tokens = tokens_of(model, documents)
    skip = len(model.start) - 1  # start tokens are read, and neither scored nor, being none of the text, learnt from
    nats, right, state = 0.0, 0, _read(adapter, tokens[: skip + 1])
    for first in range(skip, len(tokens) - 1, CHUNK):
        costs, hits, state = adapter.learn(tokens[first : first + CHUNK + 1], state)
        nats, right = nats + float(costs.sum()), right + int(hits.sum())
        done = first - skip + len(costs)
        tell(done, len(tokens) - 1 - skip, nats / done)
    escape = static.hidden * model.tokenizer.escape_nats
    return replace(static, nats=nats + escape, correct=right, cold256=None)


def _read(adapter: Adapter, tokens: NDArray[Any]) -> State:
    """The state before the last of `tokens`, without learning."""
    state = adapter.network.begin(1)
    with torch.inference_mode():
        for token in tokens[:-1].tolist():
            _, state = adapter.network.step(torch.tensor([token], device=state[0].device), state)
    return tuple(part.cpu().numpy() for part in state)
