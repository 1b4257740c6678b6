r"""Layers: how the label is heard, and how all weights start.

A label becomes features, at frequencies that are random (:class:`FourierTime`) or fixed (:class:`SinusoidalTime`), and two dense
layers make of them what every block hears (:class:`TimeNetwork`).

Every layer starts as the authors' do: U(-b, b) with b = sqrt(6 gain / (fan_in + fan_out)), biases at 0 (Glorot & Bengio 2010).
The last layer of a residual branch has the gain 1e-10, so that at first a block passes its input on and the network says 0.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad

from sdelib import ops
from sdelib.models.convolution import Conv3
from sdelib.types import Time

__all__ = [
    "SILENT",
    "Features",
    "FourierTime",
    "Norm",
    "SinusoidalTime",
    "TimeNetwork",
    "conv1",
    "conv3",
    "dense",
    "norm",
]

Features = Float[Tensor, "batch features"]
"""Numbers that say what the label is."""
Layer = TypeVar("Layer", bound=nn.Conv2d | nn.Linear)
SILENT = 1e-10
"""The gain of the last layer of a residual branch."""


class FourierTime(nn.Module):
    r"""Random Fourier features (Tancik et al. 2020): the paper's for VE, whose label is log sigma(t).

    .. math:: [\sin(2 \pi W c),\; \cos(2 \pi W c)], \qquad W \sim \mathcal{N}(0, \mathrm{scale}^2)

    W is a buffer: it is drawn once and never trained. It stays in float32 at least when a network is moved to a shorter type:
    in bfloat16 a frequency of 16 would be off by up to a quarter of a turn at label 4.

    Args:
        channels: how many frequencies; twice as many features come out.
        scale: standard deviation of the frequencies; the authors' networks: 16.
        generator: draws the frequencies.

    Raises:
        ValueError: if ``channels`` is not a whole number of at least 1, or ``scale`` not above 0.
    """

    frequencies: Tensor

    def __init__(self, channels: int, *, scale: float = 16.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        ops.check_count(channels, "channels", "frequencies")
        ops.check_positive(scale, "scale")
        self.features = 2 * channels
        drawn = ops.randn((channels,), generator=generator, dtype=torch.float32)
        self.register_buffer("frequencies", scale * drawn)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        precise = self.frequencies
        super()._apply(fn, recurse)
        if torch.finfo(self.frequencies.dtype).bits < 32:
            self.frequencies = precise.to(self.frequencies.device)
        return self

    def forward(self, label: Time) -> Features:
        """(batch,) to (batch, 2 channels)."""
        angle = 2 * math.pi * label[:, None] * self.frequencies
        return torch.cat([torch.sin(angle), torch.cos(angle)], 1)


class SinusoidalTime(nn.Module):
    r"""DDPM's features of a position (Vaswani et al. 2017): the paper's for VP, sub-VP and SMLD's chain.

    .. math:: [\sin(w_i c),\; \cos(w_i c)], \qquad w_i = 10^{-4 i / (h - 1)}, \quad i = 0 \dots h - 1

    with h = ``channels``/2 rounded down; an odd number of channels ends with a zero. The frequencies suit labels from 0 to about
    1,000, such as 999 t: at a label between 0 and 1 all but a few of the features stand still.

    Args:
        channels: how many features.

    Raises:
        ValueError: if ``channels`` is not a whole number of at least 2.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        ops.check_count(channels, "channels", "features")
        if channels < 2:
            raise ValueError(f"channels: needs at least 2, a sine and a cosine, got {channels}")
        self.features = channels

    def forward(self, label: Time) -> Features:
        """(batch,) to (batch, channels)."""
        half = self.features // 2
        powers = torch.arange(half, dtype=label.dtype, device=label.device) / max(half - 1, 1)
        angle = label[:, None] * torch.exp(-math.log(10_000.0) * powers)
        features = torch.cat([torch.sin(angle), torch.cos(angle)], 1)
        return F.pad(features, (0, self.features % 2))


class TimeNetwork(nn.Module):
    """Features of the label, and two layers that make of them what every block hears (before its silu).

    Args:
        channels: for the features.
        heard: how many numbers come out.
        kind: "fourier" or "positional".
        fourier_scale: standard deviation of the Fourier frequencies.
        generator: draws weights and frequencies.
    """

    def __init__(
        self, channels: int, heard: int, kind: str, fourier_scale: float, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.features: FourierTime | SinusoidalTime = (
            FourierTime(channels, scale=fourier_scale, generator=generator)
            if kind == "fourier"
            else SinusoidalTime(channels)
        )
        self.dense0 = dense(self.features.features, heard, generator=generator)
        self.dense1 = dense(heard, heard, generator=generator)

    def forward(self, label: Time) -> Features:
        """(batch,) to (batch, heard). The features are made in the label's precision, at least float32, then cast."""
        precise = label.to(torch.promote_types(label.dtype, torch.float32))
        features = self.features(precise).to(self.dense0.weight.dtype)
        return self.dense1(F.silu(self.dense0(features)))


# --- layers as the authors start them ---------------------------------------------------------------------------


class Norm(nn.GroupNorm):
    """Group normalisation (Wu & He 2018), for forward derivatives too, which PyTorch's takes of contiguous images only."""

    def forward(self, x: Tensor) -> Tensor:
        """The normalised images."""
        if not torch.compiler.is_compiling() and forward_ad.unpack_dual(x).tangent is not None:
            x = x.contiguous()
        return super().forward(x)


def norm(channels: int, groups: int | None = None) -> Norm:
    """Normalisation in groups of channels, with eps 1e-6.

    ``groups`` is the largest number of groups wanted: 32 in DDPM, and channels/4 but at most 32 (``None``) in DDPM++ and NCSN++.
    Where that does not divide the channels, the next smaller number that does is taken, so any number of channels works.
    """
    wanted = max(1, min(channels // 4 if groups is None else groups, 32, channels))
    fitting = next(n for n in range(wanted, 0, -1) if channels % n == 0)
    return Norm(fitting, channels, eps=1e-6)


def conv3(
    channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    padding: int = 1,
    gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> nn.Conv2d:
    """A 3 x 3 convolution from ``channels`` to ``out_channels``, starting with ``gain``; ``stride``, ``padding`` as in torch."""
    if (stride, padding) == (1, 1):
        return started(bare(Conv3, channels, out_channels), gain, generator)
    return started(bare(nn.Conv2d, channels, out_channels, 3, stride=stride, padding=padding), gain, generator)


def conv1(
    channels: int, out_channels: int, *, gain: float = 1.0, generator: torch.Generator | None = None
) -> nn.Conv2d:
    """A 1 x 1 convolution, the same linear map at every pixel, from ``channels`` to ``out_channels``, starting with ``gain``."""
    return started(bare(nn.Conv2d, channels, out_channels, 1), gain, generator)


def dense(features: int, out_features: int, *, generator: torch.Generator | None = None) -> nn.Linear:
    """A linear layer from ``features`` to ``out_features``."""
    return started(bare(nn.Linear, features, out_features), 1.0, generator)


def bare(kind: type[Layer], *sizes: int, **options: int) -> Layer:
    """A ``kind(*sizes, **options)`` whose weights are not drawn yet, on the default device (``meta``: no memory)."""
    return nn.utils.skip_init(kind, *sizes, device=torch.get_default_device(), **options)


def started(layer: Layer, gain: float, generator: torch.Generator | None) -> Layer:
    """``layer`` with its weight as ``gain`` says and its bias at 0."""
    start(layer.weight, gain, generator)
    zero(layer.bias)
    return layer


def start(weight: Tensor, gain: float, generator: torch.Generator | None) -> None:
    """Draw ``weight`` from U(-b, b) with b = sqrt(6 gain/(fan_in + fan_out))."""
    taps = math.prod(weight.shape[2:])
    bound = math.sqrt(6.0 * gain / (taps * (weight.shape[0] + weight.shape[1])))
    with torch.no_grad():
        weight.uniform_(-bound, bound, generator=None if weight.is_meta else generator)


def zero(bias: Tensor | None) -> None:
    """Set ``bias`` to 0."""
    assert bias is not None
    with torch.no_grad():
        bias.zero_()


def channels_last(net: nn.Module) -> None:
    """Let the convolutions' weights of ``net`` lie in memory with their channels last, as images do there."""
    for parameter in net.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
