r"""Resampling by two with a low-pass filter, as a fixed depthwise convolution (Zhang 2019; paper section 4.4, appendix H).

A picture cannot be shrunk by keeping every second pixel: whatever is finer than two pixels comes back as a coarse pattern that
was never there (aliasing). So filter first, then keep every second pixel; and grow by inserting zeros, then filter::

    down:  y[n]  = sum_j k[j] x[2 n + 1 - j]
    up:    y[n]  = sum_m 2 k[n - 2 m] x[m]            (the 2, one for each axis, makes up for the zeros)

along both axes, for taps k of even length whose middle pair is k[0] and k[1], with zeros beyond the border. ``(1, 3, 3, 1)``,
divided by its sum 8, is the paper's filter (StyleGAN2's, Karras et al. 2020). A filter that treats both axes alike needs one
depthwise convolution, forward or transposed: no compiled operator.

Without a filter the resamplers are the plain ones: the mean of two by two pixels, and each pixel repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Blur", "Down", "Images", "Remade", "Resized", "Up", "fir_downsample", "fir_kernel", "fir_upsample"]

Images = Float[Tensor, "batch channels height width"]
"""A batch of images, or of what a network makes of them."""
Resized = Float[Tensor, "batch channels _ _"]
"""As many items and channels, of another height and width."""
Remade = Float[Tensor, "batch _ _ _"]
"""As many items, of other channels, height and width."""


def fir_kernel(taps: Sequence[float]) -> Float[Tensor, "size size"]:
    """The 2D filter of 1D ``taps``: their outer product with itself, divided by its sum; float64.

    >>> fir_kernel((1, 1))
    tensor([[0.2500, 0.2500],
            [0.2500, 0.2500]], dtype=torch.float64)

    Raises:
        TypeError: if the taps are no numbers in a row.
        ValueError: if there is not an even number of at least two finite taps, or their sum is 0.
    """
    line = torch.tensor(check_taps(taps, "taps"), dtype=torch.float64)
    line = line / line.sum()
    return torch.outer(line, line)


def check_taps(taps: Sequence[float], name: str) -> tuple[float, ...]:
    """The taps as floats; refuse, under the argument's ``name``, what is no filter of even length with a sum."""
    try:
        k = tuple(float(tap + 0.0) for tap in taps)  # the sum refuses text
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}: needs taps, numbers in a row such as (1, 3, 3, 1), got {taps!r}") from error
    if len(k) < 2 or len(k) % 2 or not math.isfinite(sum(k)) or sum(k) == 0.0:
        raise ValueError(f"{name}: needs an even number of finite taps whose sum is not 0, got {taps!r}")
    return k


def fir_downsample(x: Images, taps: Sequence[float] = (1, 3, 3, 1)) -> Resized:
    """Filter, then keep every second pixel: height and width halve.

    Raises:
        TypeError: if the taps are no numbers in a row, or the images no floating-point ones.
        ValueError: for taps that :func:`fir_kernel` refuses, or what is no batch of images of even height and width.
    """
    check_even(x)
    return _filtered_down(x, fir_kernel(taps).to(x))


def fir_upsample(x: Images, taps: Sequence[float] = (1, 3, 3, 1)) -> Resized:
    """Put zeros between the pixels, then filter: height and width double.

    Raises:
        TypeError: if the taps are no numbers in a row, or the images no floating-point ones.
        ValueError: for taps that :func:`fir_kernel` refuses, or what is no batch of images.
    """
    check_images(x)
    return _filtered_up(x, 4.0 * fir_kernel(taps).to(x))


def check_images(x: Images) -> None:
    """Refuse what is no batch of images; in whole numbers a filter's taps would all round to 0."""
    if not x.is_floating_point():
        raise TypeError(f"x: needs floating-point images, got {x.dtype}; convert them first, e.g. x.float()")
    if x.ndim != 4:
        raise ValueError(f"x: needs images of shape (batch, channels, height, width), got {tuple(x.shape)}")


def check_even(x: Images) -> None:
    """Refuse images that cannot be halved."""
    check_images(x)
    if x.shape[-1] % 2 or x.shape[-2] % 2:
        raise ValueError(f"x: needs an even height and width to be halved, got {tuple(x.shape[-2:])}")


def _filtered_down(x: Images, kernel: Tensor) -> Resized:
    channels, pad = x.shape[1], len(kernel) // 2 - 1
    # conv2d correlates, so a filter is flipped; that matters for taps that read differently backwards
    weight = kernel.flip(0, 1).expand(channels, 1, -1, -1)
    return F.conv2d(x, weight, stride=2, padding=pad, groups=channels)


def _filtered_up(x: Images, kernel: Tensor) -> Resized:
    channels, pad = x.shape[1], len(kernel) // 2 - 1
    return F.conv_transpose2d(x, kernel.expand(channels, 1, -1, -1), stride=2, padding=pad, groups=channels)


class _Resampled(nn.Module):
    """What :class:`Down` and :class:`Up` share: a fixed filter, times the ``gain`` of its kind, or none."""

    kernel: Tensor | None
    gain = 1.0

    def __init__(self, taps: Sequence[float] | None = (1, 3, 3, 1)) -> None:
        super().__init__()
        kernel = None if taps is None else (self.gain * fir_kernel(taps)).float()
        self.register_buffer("kernel", kernel, persistent=False)


class Down(_Resampled):
    """Halve height and width: filtered by ``taps``, or with ``None`` the mean of two by two pixels.

    Args:
        taps: of the filter, an even number; the paper's NCSN++: (1, 3, 3, 1), DDPM++: ``None``.

    Raises:
        TypeError: if the taps are no numbers in a row.
        ValueError: for taps that :func:`fir_kernel` refuses.
    """

    def forward(self, x: Images) -> Resized:
        """The halved images."""
        check_even(x)
        if self.kernel is None:
            return F.avg_pool2d(x, 2)
        return _filtered_down(x, self.kernel)


class Up(_Resampled):
    """Double height and width: filtered by ``taps``, or with ``None`` each pixel repeated.

    Args:
        taps: of the filter, an even number; the paper's NCSN++: (1, 3, 3, 1), DDPM++: ``None``.

    Raises:
        TypeError: if the taps are no numbers in a row.
        ValueError: for taps that :func:`fir_kernel` refuses.
    """

    gain = 4.0  # zeros between the pixels take three quarters of the sum

    def forward(self, x: Images) -> Resized:
        """The doubled images."""
        check_images(x)
        if self.kernel is None:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        return _filtered_up(x, self.kernel)


class Blur(nn.Module):
    """The filter alone, with zeros beyond the border; the size stays but for ``padding``.

    Args:
        taps: of the filter, an even number.
        padding: rows and columns of zeros on every side.
        gain: factor of the result; 4 where zeros were put between the pixels.

    Raises:
        TypeError: if the taps are no numbers in a row.
        ValueError: for taps that :func:`fir_kernel` refuses.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float] = (1, 3, 3, 1), *, padding: int, gain: float = 1.0) -> None:
        super().__init__()
        self.padding = padding
        self.register_buffer("kernel", gain * fir_kernel(taps).float(), persistent=False)

    def forward(self, x: Images) -> Resized:
        """The filtered images: each side grows by 2 padding + 1 - len(taps)."""
        channels = x.shape[1]
        weight = self.kernel.flip(0, 1).expand(channels, 1, -1, -1)
        return F.conv2d(x, weight, padding=self.padding, groups=channels)
