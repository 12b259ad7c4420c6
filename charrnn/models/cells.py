"""GRU and plain RNN over a window on a CPU, where torch runs them step by step through autograd.

torch records some ten operations for each time step and multiplies each step's own piece of the weight gradient. Here
the forward loop writes into buffers made once, whatever of the derivative does not depend on the gradient is computed
for the whole window at once, so that a backward step is a product by known numbers and one matrix product, and the
gradient of W_hh is one large product over all T * B rows. The input's share is an ordinary linear layer
before the loop: its own gradients are large products already. An LSTM needs none of this: oneDNN has it fused.

Shapes: T time steps, B streams, H hidden. `product` is the type in which h W_hh is multiplied (bf16 under autocast);
everything else is computed in the type of the state.

GRU: Cho et al. (2014) in cuDNN's form, r, z = sigmoid(a_r + u_r), sigmoid(a_z + u_z); n = tanh(a_n + r * u_n);
h' = n + z * (h - n), with u = h W_hh^T + b_hh. Plain RNN: Elman (1990), h' = tanh or relu(a + u).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional


def gru(x: Tensor, state: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor) -> Tensor:
    """All hidden states (T, B, H) from inputs (T, B, I) and h before (B, H); weights as in torch.nn.GRU.

    Differentiable once in all six. The state is fp32 or fp64, also under autocast.
    """
    size = state.shape[1]
    once = torch.cat([b_hh[: 2 * size], torch.zeros_like(b_hh[2 * size :])])  # only the reset gate wants b_hn apart
    inputs = functional.linear(x, w_ih, b_ih + once)
    result: Tensor = _Gru.apply(  # type: ignore[no-untyped-call]
        inputs, state, w_hh, b_hh[2 * size :], _product_type(state)
    )
    return result


def rnn(x: Tensor, state: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor, nonlinearity: str = "tanh") -> Tensor:
    """All hidden states (T, B, H) from inputs (T, B, I) and h before (B, H); weights as in torch.nn.RNN.

    `nonlinearity` is tanh or relu. Differentiable once in all six. The state is fp32 or fp64, also under autocast.
    """
    inputs = functional.linear(x, w_ih, b_ih + b_hh)
    result: Tensor = _Rnn.apply(  # type: ignore[no-untyped-call]
        inputs, state, w_hh, nonlinearity, _product_type(state)
    )
    return result


def _product_type(state: Tensor) -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else state.dtype


class _Context(FunctionCtx):
    """What the forward pass leaves for the backward pass."""

    saved_tensors: tuple[Tensor, ...]
    product: torch.dtype
    nonlinearity: str


class _Gru(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, inputs: Tensor, state: Tensor, weight: Tensor, bias: Tensor, product: torch.dtype) -> Tensor:
        size = state.shape[1]
        hidden = state.new_empty(len(inputs) + 1, *state.shape)  # (T + 1, B, H)
        gates = torch.empty_like(inputs, dtype=state.dtype)  # r, z, n
        recurrent = torch.empty_like(gates)  # u = h W_hh^T, and b_hn
        across = weight.to(product).t().contiguous()
        hidden[0] = state
        h, r_z, n, u_r_z, u_n = hidden.unbind(), *_split(gates, size), *_split(recurrent, size)
        a_r_z, a_n = _split(inputs, size)
        for t, u in enumerate(recurrent.unbind()):
            _multiply(h[t], across, u)
            u_n[t].add_(bias)
            r, z = torch.add(a_r_z[t], u_r_z[t], out=r_z[t]).sigmoid_().chunk(2, -1)
            new = torch.addcmul(a_n[t], r, u_n[t], out=n[t]).tanh_()
            torch.lerp(new, h[t], z, out=h[t + 1])
        ctx.save_for_backward(hidden, gates, recurrent, weight)
        ctx.product = product
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, gates, recurrent, weight = ctx.saved_tensors
        slopes, slope_n = _gru_slopes(hidden[:-1], gates, recurrent)
        back = weight.to(ctx.product)
        d_h, d_all, d_u = torch.zeros_like(hidden[0]), torch.empty_like(slope_n), torch.empty_like(slopes)
        keep = gates.chunk(3, -1)[1].unbind()
        for d, d_out, known, z, d_after in reversed([*zip(d_u, grad, slopes, keep, d_all, strict=True)]):
            torch.add(d_out, d_h, out=d_after)
            torch.mul(d_after.unsqueeze(1), known, out=d)
            _multiply(d.flatten(1), back, d_h).addcmul_(d_after, z)
        d_u = d_u.flatten(2)
        d_inputs = d_u.clone()
        torch.mul(d_all, slope_n, out=d_inputs.chunk(3, -1)[2])
        d_bias = d_u.chunk(3, -1)[2].sum((0, 1))
        return d_inputs, d_h, _weight_gradient(d_u, hidden[:-1], ctx.product), d_bias, None


def _split(gates: Tensor, size: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Views of each step's r and z together (B, 2H), and of its n (B, H)."""
    return gates[:, :, : 2 * size].unbind(), gates[:, :, 2 * size :].unbind()


def _gru_slopes(before: Tensor, gates: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """d u_r, d u_z and d u_n by d h' (T, B, 3, H), and d a_n by d h' (T, B, H): none depends on the gradient."""
    r, z, n = gates.chunk(3, -1)
    slopes = gates.new_empty(*r.shape[:2], 3, r.shape[2])
    slope_n = torch.ops.aten.tanh_backward(1 - z, n)
    torch.ops.aten.sigmoid_backward(slope_n * recurrent.chunk(3, -1)[2], r, grad_input=slopes[:, :, 0])
    torch.ops.aten.sigmoid_backward(before - n, z, grad_input=slopes[:, :, 1])
    torch.mul(slope_n, r, out=slopes[:, :, 2])
    return slopes, slope_n


class _Rnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, inputs: Tensor, state: Tensor, weight: Tensor, nonlinearity: str, product: torch.dtype) -> Tensor:
        hidden = state.new_empty(len(inputs) + 1, *state.shape)  # (T + 1, B, H)
        hidden[0] = state
        across = weight.to(product).t().contiguous()
        h = hidden.unbind()
        for t, a in enumerate(inputs.unbind()):
            _multiply(h[t], across, h[t + 1])
            h[t + 1].add_(a)
            h[t + 1].tanh_() if nonlinearity == "tanh" else h[t + 1].relu_()
        ctx.save_for_backward(hidden, weight)
        ctx.product, ctx.nonlinearity = product, nonlinearity
        return hidden[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight = ctx.saved_tensors
        after = hidden[1:]
        slopes = 1 - after * after if ctx.nonlinearity == "tanh" else (after > 0).to(after.dtype)
        back = weight.to(ctx.product)
        d_h, d_u = torch.zeros_like(hidden[0]), torch.empty_like(after)
        for d, d_out, slope in reversed([*zip(d_u, grad, slopes, strict=True)]):
            torch.add(d_out, d_h, out=d).mul_(slope)
            _multiply(d, back, d_h)
        return d_u, d_h, _weight_gradient(d_u, hidden[:-1], ctx.product), None, None


def _multiply(rows: Tensor, matrix: Tensor, out: Tensor) -> Tensor:
    """out = rows @ matrix, multiplied in the type of `matrix`."""
    return torch.mm(rows, matrix, out=out) if matrix.dtype == rows.dtype else out.copy_(rows.to(matrix.dtype) @ matrix)


def _weight_gradient(d_u: Tensor, before: Tensor, product: torch.dtype) -> Tensor:
    """Of W_hh, in one product over all T * B rows."""
    rows, h = d_u.flatten(0, 1), before.flatten(0, 1)
    return (rows.to(product).t() @ h.to(product)).to(d_u.dtype)
