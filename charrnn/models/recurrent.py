"""A stack of recurrent layers with its state in the caller's hands.

`forward(x, state) -> (y, state)` and `begin(batch) -> state`: no module holds state. A state is a flat tuple of (B, H)
tensors, layer by layer: h0, c0, h1, c1, ... for an LSTM and h0, h1, ... for a GRU or a plain RNN, the same layout as
the NumPy engine's. Shapes: B streams, T time steps, H hidden, L layers, I input width.

Equations: LSTM with forget gate after Gers et al. (2000); GRU after Cho et al. (2014) in cuDNN's form, where the reset
gate multiplies W_hn h + b_hn; plain RNN after Elman (1990). One torch layer for each, because oneDNN and cuDNN run
them fused over the whole window; what they do not run, cells.py does.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from charrnn.config import ModelConfig
from charrnn.models.cells import gru, rnn
from charrnn.models.dropout import dropout
from charrnn.weights import state_arrays

State = tuple[Tensor, ...]
WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class Recurrent(nn.Module):
    """L layers of one cell; dropout between them; time first.

    With `directions` 2 each layer has another of `hidden_size` units that reads backwards, and the layer above takes the
    outputs of both (Schuster and Paliwal 1997): `read` is then the only way through.
    """

    def __init__(self, config: ModelConfig, dropout: float = 0.0, *, hidden_size: int = 0, directions: int = 1) -> None:
        super().__init__()
        self.cell = config.cell
        self.nonlinearity = config.nonlinearity
        self.hidden_size = hidden_size or config.hidden_size
        self.dropout = dropout
        widths = [config.input_size] + [directions * self.hidden_size] * (config.layers - 1)
        self.layers = nn.ModuleList(_layer(config, width, self.hidden_size) for width in widths)
        self.reverse = nn.ModuleList(_layer(config, width, self.hidden_size) for width in widths if directions == 2)
        self.per_layer = state_arrays(config)

    def begin(self, batch: int) -> State:
        """The zero state for `batch` streams."""
        like = next(self.parameters())
        zero = torch.zeros(batch, self.hidden_size, device=like.device, dtype=like.dtype)
        return (zero,) * (self.per_layer * len(self.layers))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(T, B, I) inputs and a state to (T, B, H) outputs of the last layer and the state after the last step."""
        after: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if index:
                x = dropout(x, self.dropout, self.training)
            mine = state[index * self.per_layer : (index + 1) * self.per_layer]
            x, mine = self._run(layer, x, mine)
            after.extend(mine)
        return x, tuple(after)

    def read(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(T, B, I) inputs, each from a zero state and of its own length (B,), to (T, B, D*H) outputs of the last layer.

        What lies behind the end of an input changes nothing before it; the outputs there mean nothing.
        """
        zero = self.begin(x.shape[1])[: self.per_layer]
        for index, layer in enumerate(self.layers):
            if index:
                x = dropout(x, self.dropout, self.training)
            y, _ = self._run(layer, x, zero)
            if len(self.reverse):
                back, _ = self._run(self.reverse[index], turned(x, lengths), zero)
                y = torch.cat([y, turned(back, lengths)], -1)
            x = y
        return x

    def matrices(self, onehot: bool) -> list[Tensor]:
        """The matrices of all layers, but for the first W_ih of each direction if the input is `onehot`."""
        found: list[Tensor] = []
        for direction in (self.layers, self.reverse):
            names = [(index, name) for index in range(len(direction)) for name in ("weight_ih_l0", "weight_hh_l0")]
            found += [direction[index].get_parameter(name) for index, name in names[onehot:]]
        return found

    def _run(self, layer: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
        if self.cell == "lstm":
            y, (h, c) = layer(x, (state[0].unsqueeze(0), state[1].unsqueeze(0)))
            return y, (h[0], c[0])
        # On a CPU torch's own step through time is slower, and under autocast it would round the state at each step.
        if x.device.type == "cpu" and (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu")):
            w_ih, w_hh, b_ih, b_hh = (layer.get_parameter(name) for name in WEIGHTS)
            if self.cell == "gru":
                y = gru(x, state[0], w_ih, w_hh, b_ih, b_hh)
            else:
                y = rnn(x, state[0], w_ih, w_hh, b_ih, b_hh, self.nonlinearity)
            return y, (y[-1],)
        y, h = layer(x, state[0].unsqueeze(0))  # (T, B, H), (1, B, H)
        return y, (h[0],)


def turned(x: Tensor, lengths: Tensor) -> Tensor:
    """(T, B, ...) sequences with the first `lengths` (B,) steps of each in the opposite order, the rest as it is."""
    steps = torch.arange(len(x), device=x.device).unsqueeze(1)  # (T, 1)
    order = torch.where(steps < lengths, lengths - 1 - steps, steps)  # (T, B)
    return x[order, torch.arange(x.shape[1], device=x.device)]


def _layer(config: ModelConfig, width: int, size: int) -> nn.Module:
    if config.cell == "rnn":
        return nn.RNN(width, size, nonlinearity=config.nonlinearity)
    return nn.LSTM(width, size) if config.cell == "lstm" else nn.GRU(width, size)


def initialise(stack: Recurrent, forget_bias: float, orthogonal: bool) -> None:
    """Change torch's own initial weights (uniform within 1/sqrt(H) of zero, biases too) where that is wanted.

    `forget_bias` is added to the bias of an LSTM's forget gate (Gers et al. 2000; Jozefowicz et al. 2015 advise 1), or of a
    GRU's update gate, which keeps in the same way;
    `orthogonal` makes each gate's recurrent block orthogonal (Saxe et al. 2014).
    """
    size = stack.hidden_size
    with torch.no_grad():
        for layer in (*stack.layers, *stack.reverse):
            weight = layer.get_parameter("weight_hh_l0")  # (G*H, H)
            if stack.cell in ("lstm", "gru"):  # the second block is f of the one, z of the other: both say what is kept
                layer.get_parameter("bias_ih_l0")[size : 2 * size] += forget_bias
            if orthogonal:
                for block in torch.split(weight, size):
                    nn.init.orthogonal_(block)
