r"""The 3 x 3 convolution, with a faster weight gradient on CPUs.

With channels last in memory, a convolution is nine matrix products, one for each of its taps; and so is the gradient of its
weights. With g the gradient at the output, p = (row, column) a pixel and d one of the nine shifts::

    y[p] = sum_d W_d x[p + d],            dL/dW_d = sum_p g[p] x[p + d]^T

On a CPU, PyTorch's own kernel for the second runs at little more than half the speed of the first (PyTorch 2.13, float32); nine
products by the matrix multiplication run at nearly the full speed. So that is what training does there. Everything else, and
every other device, goes PyTorch's own way. The function is as differentiable as the one it replaces: again, forward, and under
``torch.func``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDE = 16  # fewer channels make products too thin to gain


class Conv3(nn.Conv2d):
    """A 3 x 3 convolution with a border of zeros, as ``nn.Conv2d(channels, out_channels, 3, padding=1)``.

    Args:
        channels: in.
        out_channels: out.
        device: of the weights.
    """

    def __init__(self, channels: int, out_channels: int, *, device: torch.device | str | None = None) -> None:
        super().__init__(channels, out_channels, 3, padding=1, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """The convolved images."""
        trains = torch.is_grad_enabled() and self.weight.requires_grad
        wide = min(self.in_channels, self.out_channels) >= WIDE
        plain = x.device.type == "cpu" and x.dtype == self.weight.dtype and not torch.is_autocast_enabled("cpu")
        if trains and wide and plain and not torch.compiler.is_compiling():
            return _Convolve.apply(x, self.weight, self.bias)
        return super().forward(x)


class _Convolve(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            F.conv_transpose2d(g, weight, padding=1) if to_x else None,
            _weight_gradient(x, g) if to_weight else None,
            g.sum((0, 2, 3)) if to_bias else None,
        )

    @staticmethod
    def jvp(ctx: Any, x_dot: Tensor | None, weight_dot: Tensor | None, bias_dot: Tensor | None) -> Tensor:
        x, weight = ctx.saved_tensors
        y_dot = torch.zeros((), dtype=x.dtype, device=x.device)
        if x_dot is not None:
            y_dot = y_dot + F.conv2d(x_dot, weight, padding=1)
        if weight_dot is not None:
            y_dot = y_dot + F.conv2d(x, weight_dot, padding=1)
        return y_dot if bias_dot is None else y_dot + bias_dot[:, None, None]


def _weight_gradient(x: Tensor, g: Tensor) -> Tensor:
    channels, height, width = x.shape[1:]
    out_channels = g.shape[1]
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    rows = g.permute(0, 2, 3, 1).reshape(-1, out_channels).T
    taps = [rows @ padded[:, i : i + height, j : j + width].reshape(-1, channels) for i in range(3) for j in range(3)]
    return torch.stack(taps, 2).reshape(out_channels, channels, 3, 3)
