r"""The network for points, and for images small enough to be treated as points.

Hidden layers h, each of which also hears the label's features (Fourier features, Tancik et al. 2020; the paper uses them
for the time label, appendix H)::

    features = [sin(2 pi W c), cos(2 pi W c)],     c = asinh(label),     W fixed and drawn from N(0, fourier_scale^2)
    h_1      = silu(A_1 x + B_1 features),         h_i = h_{i-1} + silu(A_i h_{i-1} + B_i features)
    output   = C h_depth

Why asinh: label conventions differ by a factor of a thousand (t, 999 t, log sigma), and fixed frequencies suit one of them
only. asinh keeps labels below 1 as they are and turns large ones into their logarithm, so one network hears all of them; and
the logarithm of time is what noise levels are even in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sdelib import ops
from sdelib.models.checks import check_label
from sdelib.types import Data, Time


class FourierFeatures(nn.Module):
    """Label (batch,) to ``features`` numbers: sines and cosines at fixed random frequencies (a buffer, not trained).

    Args:
        features: how many, an even number of at least 2.
        scale: standard deviation of the frequencies; the higher, the sharper the changes that can be told apart.
        generator: draws the frequencies.

    Raises:
        ValueError: if ``features`` is not even and at least 2, or ``scale`` is not above 0.
    """

    frequencies: Tensor

    def __init__(self, features: int, *, scale: float, generator: torch.Generator | None = None) -> None:
        super().__init__()
        ops.check_count(features, "features", "features")
        if features % 2:
            raise ValueError(f"features: needs an even number, a sine and a cosine each, got {features}")
        ops.check_positive(scale, "scale")
        drawn = ops.randn((features // 2,), generator=generator, dtype=torch.float32)
        self.register_buffer("frequencies", scale * drawn)

    def forward(self, label: Time) -> Float[Tensor, "batch features"]:
        """Sines and cosines of the squeezed label."""
        angle = 2 * math.pi * torch.asinh(label)[:, None] * self.frequencies
        return torch.cat([torch.sin(angle), torch.cos(angle)], 1)


class MLP(nn.Module):
    """A residual multi-layer perceptron whose every layer hears the label.

    Args:
        shape: of one item: a number of dimensions, or a shape such as ``(1, 8, 8)``, which is flattened inside.
        hidden: width of the hidden layers.
        depth: number of hidden layers.
        features: number of Fourier features of the label, even.
        fourier_scale: standard deviation of their frequencies.
        generator: draws the initial weights; same generator, same network. ``None``: torch's default one.

    Raises:
        ValueError: if a size is not a whole number of at least 1, or ``fourier_scale`` is not above 0.

    >>> net = MLP(2, hidden=16)
    >>> net(torch.zeros(5, 2), torch.full((5,), 0.3)).shape
    torch.Size([5, 2])
    """

    def __init__(
        self,
        shape: int | Sequence[int] = 2,
        *,
        hidden: int = 128,
        depth: int = 3,
        features: int = 64,
        fourier_scale: float = 0.3,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        ops.check_counts(self.shape, "shape", "numbers")
        ops.check_count(hidden, "hidden", "units")
        ops.check_count(depth, "depth", "layers")
        dims = math.prod(self.shape)
        self.embed = FourierFeatures(features, scale=fourier_scale, generator=generator)
        widths = [dims, *[hidden] * (depth - 1)]
        self.layers = nn.ModuleList(_linear(width, hidden, generator) for width in widths)
        self.hear = nn.ModuleList(_linear(features, hidden, generator) for _ in widths)
        self.output = _linear(hidden, dims, generator)

    def forward(self, x: Data, label: Time) -> Data:
        """The network's output, of ``x``'s shape.

        Raises:
            ValueError: if an item of ``x`` has another shape, or ``label`` is not (batch,).
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"x: needs items of shape {self.shape}, got {tuple(x.shape[1:])}")
        check_label(label, x)
        features = self.embed(label)
        h = x.reshape(len(x), -1)
        for i, (layer, hear) in enumerate(zip(self.layers, self.hear, strict=True)):
            step = nn.functional.silu(layer(h) + hear(features))
            h = step if i == 0 else h + step
        return self.output(h).reshape(x.shape)


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A linear layer with torch's own initial law, U(-1/sqrt(inputs), 1/sqrt(inputs)), drawn from the generator."""
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs)
    bound = 1 / math.sqrt(inputs)
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer
