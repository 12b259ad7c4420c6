"""Dynamic evaluation: a model that goes on learning from the text it is scored on, each token after its score.

After Krause, Kahembwe, Murray and Renals (2018). The text is one stream, cut into short windows: a window is scored with
weights that have seen everything before it and nothing of it, and only then learnt from. `Adapter` is that and no more,
so that a session can learn from what somebody writes in the same way. Neither knows of files: a run stays as it is.

A step goes against the gradient g over F / f + 0.3, where F is the mean square of the weight's gradient and f that of all
weights: by the diagonal of the Fisher information, so that what much hangs on moves little. Krause et al. divide by the
root of F, measured on the training text; the whole is better, and a text that the model writes itself is as good and is
at hand wherever a model is (docs/results.md). All is divided by the root of f, so that the rate means the same for a
network of any size.

NumPy arrays come in and go out, so that who calls needs no torch. Shapes: T tokens, B streams, V vocabulary, H hidden.
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
WRITTEN = (64, 64)  # B and T of the text that the model writes for the mean squares; twice as much is no better
MEASURED = 64  # tokens behind one of its gradients, and what a whole step is for, whatever the window of the settings
DAMPING = 0.3
OUTPUT = 6.0  # how much faster the output layer learns (measured), which is where new words are seen first
TINY = 1e-24  # for a network that nothing changes
CHUNK = 2048  # tokens, about, between two looks at whether all is finite, and two words on how far it has come


class Adapter:
    """A copy of a language model's weights that learns from what it reads; deterministic for a number of threads."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, NDArray[Any]], settings: DynamicConfig, where: torch.device | None = None
    ) -> None:
        # Without dropout; in training mode, since cuDNN would not go backwards in another.
        self.network = LanguageModel(config).to(where or torch.device("cpu")).train()
        self.settings = settings
        self._trained = weights
        self._weights: list[Tensor] = [*self.network.parameters()]
        self.reset()
        self._origin = [weight.detach().clone() for weight in self._weights]
        self._scale: list[Tensor] = []  # what a gradient is multiplied by; found out when it is first needed

    def reset(self) -> None:
        """Go back to the trained weights, exactly."""
        import_weights(self.network, self._trained)

    def weights(self) -> dict[str, NDArray[Any]]:
        """The weights as they are now, by the names of a model file; for an Engine of decoding."""
        return export_weights(self.network)

    def begin(self) -> State:
        """The zero state."""
        return _arrays(self.network.begin(1))

    def read(self, tokens: NDArray[Any], state: State) -> State:
        """The state before tokens[-1], from that before tokens[0], without learning."""
        if len(tokens) < 2:
            return state
        ids, now = self._tensors(tokens, state)
        with torch.no_grad():
            return _arrays(self.network(ids[:-1].unsqueeze(1), now)[1])

    def learn(self, tokens: NDArray[Any], state: State) -> tuple[Floats, NDArray[np.bool_], State]:
        """Score tokens[1:], given `state`, which is that before tokens[0], and learn from them window by window.

        Returns the nats of each, whether it was the likeliest, and the state before tokens[-1], with which the next call
        goes on from there. Raises CharrnnError, with the trained weights again, if the weights left all measure.
        """
        size = self.settings.dynamic_window
        ids, now = self._tensors(tokens, state)
        nats, right = [torch.zeros(0, device=ids.device)], [torch.zeros(0, dtype=torch.bool, device=ids.device)]
        for first in range(0, len(ids) - 1, size):
            window = ids[first : first + size + 1]
            costs, hits, now = self._step(window, now)
            nats.append(costs)
            right.append(hits)
        self._check(nats)
        return torch.cat(nats).cpu().double().numpy(), torch.cat(right).cpu().numpy(), _arrays(now)

    def _tensors(self, tokens: NDArray[Any], state: State) -> tuple[Tensor, recurrent.State]:
        where = self._weights[0].device
        ids = torch.from_numpy(np.asarray(tokens, np.int64)).to(where)
        return ids, tuple(torch.from_numpy(np.array(part, np.float32)).to(where) for part in state)

    def _step(self, window: Tensor, state: recurrent.State) -> tuple[Tensor, Tensor, recurrent.State]:
        """Score one window (T + 1,), then learn from it: nats (T,) and hits (T,) of before that, and the state after."""
        costs, logits, state = self._scored(window, state)
        if self.settings.dynamic_rate:
            # Not by the window's own length: a token counts the same in any, and so does a short line that somebody writes.
            self._update(self._gradients(costs.sum() / MEASURED), len(costs) / MEASURED)
        return costs.detach(), logits.detach().argmax(-1) == window[1:], state

    def _scored(self, window: Tensor, state: recurrent.State) -> tuple[Tensor, Tensor, recurrent.State]:
        """Nats (T,) of window[1:], the logits (T, V) they come from, and the state after it, which no gradient enters."""
        logits, state = self.network(window[:-1].unsqueeze(1), state)
        costs = functional.cross_entropy(logits[:, 0], window[1:], reduction="none")
        return costs, logits[:, 0], tuple(part.detach() for part in state)

    def _gradients(self, loss: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(loss, self._weights))

    @torch.no_grad()
    def _update(self, gradients: list[Tensor], share: float) -> None:
        """One step against the scaled gradient, and a little of the way back to the trained weights; `share` of a whole one."""
        self._scale = self._scale or self._measured()
        torch._foreach_addcmul_(self._weights, gradients, self._scale, value=-self.settings.dynamic_rate)
        if back := min(1.0, share * self.settings.dynamic_decay):
            torch._foreach_lerp_(self._weights, self._origin, back)

    @torch.no_grad()
    def _measured(self) -> list[Tensor]:
        """The scales, by the weights and a text that they write; called before the first step, so by the trained weights."""
        squares = [torch.zeros_like(weight) for weight in self._weights]
        text = self._written()  # (T + 1, B)
        for stream in text.unbind(1):
            state = self.network.begin(1)
            for first in range(0, len(text) - 1, MEASURED):
                with torch.enable_grad():
                    costs, _, state = self._scored(stream[first : first + MEASURED + 1], state)
                    gradients = self._gradients(costs.mean())
                torch._foreach_addcmul_(squares, gradients, gradients)
        torch._foreach_div_(squares, text[1:].numel() / MEASURED)
        return self._scaled(squares)

    def _scaled(self, squares: list[Tensor]) -> list[Tensor]:
        """What gradients are multiplied by, from their mean squares."""
        mean = sum(float(square.sum()) for square in squares) / sum(square.numel() for square in squares)
        mean = max(mean, TINY)
        output = {id(weight) for weight in self.network.output.parameters()}
        faster = [OUTPUT if id(weight) in output else 1.0 for weight in self._weights]
        return [factor / mean**0.5 / (square / mean + DAMPING) for factor, square in zip(faster, squares, strict=True)]

    @torch.no_grad()
    def _written(self) -> Tensor:
        """A text (T + 1, B) that the weights write, the same each time: by their own odds, from any tokens."""
        streams, steps = WRITTEN
        generator = torch.Generator().manual_seed(0)
        tokens = [torch.randint(self.network.config.vocab_size, (streams,), generator=generator)]
        state = self.network.begin(streams)
        for _ in range(steps):
            logits, state = self.network.step(tokens[-1].to(state[0].device), state)
            tokens.append(torch.multinomial(logits.float().softmax(-1).cpu(), 1, generator=generator)[:, 0])
        return torch.stack(tokens).to(state[0].device)

    def _check(self, nats: Sequence[Tensor]) -> None:
        if all(bool(torch.isfinite(part).all()) for part in (*nats, *self._weights)):
            return
        self.reset()
        raise CharrnnError(
            f"dynamic evaluation left all measure at a rate of {self.settings.dynamic_rate:g}: its weights are no numbers.",
            f"Use a lower one: --dynamic-rate {self.settings.dynamic_rate / 10:g}.",
        )


def _arrays(state: recurrent.State) -> State:
    return tuple(part.cpu().numpy() for part in state)


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
    nats, right, state = 0.0, 0, adapter.read(tokens[: skip + 1], adapter.begin())
    chunk = max(1, CHUNK // settings.dynamic_window) * settings.dynamic_window
    for first in range(skip, len(tokens) - 1, chunk):
        costs, hits, state = adapter.learn(tokens[first : first + chunk + 1], state)
        nats, right = nats + float(costs.sum()), right + int(hits.sum())
        done = first - skip + len(costs)
        tell(done, len(tokens) - 1 - skip, nats / done)
    escape = static.hidden * model.tokenizer.escape_nats
    return replace(static, nats=nats + escape, correct=right, cold256=None)
