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

State = tuple[Tensor, ...]
WEIGHTS = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


class Recurrent(nn.Module):
    """L layers of one cell; dropout between them; time first."""

    def __init__(self, config: ModelConfig, dropout: float = 0.0) -> None:
        super().__init__()
        self.cell = config.cell
        self.nonlinearity = config.nonlinearity
        self.hidden_size = config.hidden_size
        self.dropout = dropout
        widths = [config.input_size] + [config.hidden_size] * (config.layers - 1)
        self.layers = nn.ModuleList(_layer(config, width) for width in widths)
        self.per_layer = 2 if config.cell == "lstm" else 1

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

    def matrices(self, onehot: bool) -> list[Tensor]:
        """The matrices of all layers, but for the first W_ih if the input is `onehot`."""
        names = [(index, name) for index in range(len(self.layers)) for name in ("weight_ih_l0", "weight_hh_l0")]
        return [self.layers[index].get_parameter(name) for index, name in names[onehot:]]

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


def _layer(config: ModelConfig, width: int) -> nn.Module:
    if config.cell == "rnn":
        return nn.RNN(width, config.hidden_size, nonlinearity=config.nonlinearity)
    return nn.LSTM(width, config.hidden_size) if config.cell == "lstm" else nn.GRU(width, config.hidden_size)


def initialise(stack: Recurrent, forget_bias: float, orthogonal: bool) -> None:
    """Change torch's own initial weights (uniform within 1/sqrt(H) of zero, biases too) where that is wanted.

    `forget_bias` is added to the bias of an LSTM's forget gate (Gers et al. 2000; Jozefowicz et al. 2015 advise 1);
    `orthogonal` makes each gate's recurrent block orthogonal (Saxe et al. 2014).
    """
    size = stack.hidden_size
    with torch.no_grad():
        for layer in stack.layers:
            weight = layer.get_parameter("weight_hh_l0")  # (G*H, H)
            if stack.cell == "lstm":
                layer.get_parameter("bias_ih_l0")[size : 2 * size] += forget_bias
            if orthogonal:
                for block in torch.split(weight, size):
                    nn.init.orthogonal_(block)
