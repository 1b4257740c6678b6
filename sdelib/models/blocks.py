r"""Blocks: residual ones that hear the time, attention, and what changes the size between two levels.

A residual block adds a correction to what passes through it (BigGAN's, Brock et al. 2019; paper section 4.4, appendix H)::

    h = conv(resample(silu(norm(x)))) + dense(heard)
    h = conv(dropout(silu(norm(h))))
    y = (shortcut(resample(x)) + h) c,         c = 1/sqrt(2) with skip rescaling, 1 without

``resample`` halves, doubles or does nothing, and ``heard`` are the time features after their silu. DDPM's block is the one
without resampling; there a convolution of its own halves or doubles between the levels. Two independent terms of variance 1 sum
to variance 2: the factor 1/sqrt(2) keeps the variance at 1, however many blocks follow one another.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sdelib.models.fir import Blur, Down, Images, Remade, Up, check_even
from sdelib.models.layers import SILENT, Features, bare, conv1, conv3, dense, norm, start, zero

__all__ = ["Attention", "ConvDown", "ConvUp", "ResBlock", "Speak", "Stage", "Unit"]


class ResBlock(nn.Module):
    """A residual block that hears the time: BigGAN's with ``resample``, DDPM's without.

    Args:
        channels: into the block.
        out_channels: out of it.
        heard: number of time features.
        resample: ``None``, or a module that halves or doubles, which acts on both branches.
        groups: of the normalisations; see :func:`~sdelib.models.layers.norm`.
        rescale: whether the sum is divided by sqrt(2).
        dropout: share of the features that a training step silences.
        generator: draws the initial weights.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        heard: int,
        *,
        resample: Down | Up | None = None,
        groups: int | None = None,
        rescale: bool = True,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.resample = resample
        self.norm0 = norm(channels, groups)
        self.conv0 = conv3(channels, out_channels, generator=generator)
        self.dense = dense(heard, out_channels, generator=generator)
        self.norm1 = norm(out_channels, groups)
        self.dropout = nn.Dropout(dropout)
        self.conv1 = conv3(out_channels, out_channels, gain=SILENT, generator=generator)
        changes = channels != out_channels or resample is not None
        self.shortcut = conv1(channels, out_channels, generator=generator) if changes else None
        self.factor = math.sqrt(0.5) if rescale else 1.0

    def forward(self, x: Images, heard: Features) -> Remade:
        """The block's output; ``heard`` are the time features after their silu."""
        h = F.silu(self.norm0(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv0(h) + self.dense(heard)[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        return joined(x if self.shortcut is None else self.shortcut(x), h, self.factor)


class Attention(nn.Module):
    """Self-attention with one head over all pixels: each pixel asks every other one (Ho et al. 2020; Vaswani et al. 2017).

    Args:
        channels: in and out.
        groups: of the normalisation; see :func:`~sdelib.models.layers.norm`.
        rescale: whether the sum with the input is divided by sqrt(2).
        generator: draws the initial weights.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int | None = None,
        rescale: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.norm = norm(channels, groups)
        # Three layers in one product; each starts on its own, as the authors' do.
        self.ask = bare(nn.Conv2d, channels, 3 * channels, 1)
        for part in self.ask.weight.detach().chunk(3):
            start(part, 0.1, generator)
        zero(self.ask.bias)
        self.answer = conv1(channels, channels, gain=SILENT, generator=generator)
        self.factor = math.sqrt(0.5) if rescale else 1.0

    def forward(self, x: Images) -> Images:
        """The attended images."""
        batch, channels, height, width = x.shape
        asked = self.ask(self.norm(x))
        # (batch, pixels, channels) costs nothing where the channels lie last in memory already
        query, key, value = asked.permute(0, 2, 3, 1).reshape(batch, height * width, 3 * channels).chunk(3, 2)
        found = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
        found = found.reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return joined(x, self.answer(found), self.factor)


class ConvDown(nn.Module):
    """Halve height and width with a 3 x 3 convolution of stride 2, filtered by ``taps`` before it or not.

    Without a filter the picture gets one row and one column of zeros at its lower right, as in DDPM.

    Args:
        channels: in.
        out_channels: out.
        taps: of the filter, or ``None``.
        generator: draws the initial weights.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        taps: Sequence[float] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.blur = Blur(taps, padding=len(taps) // 2) if taps is not None else None
        self.conv = conv3(channels, out_channels, stride=2, padding=0, generator=generator)

    def forward(self, x: Images, heard: Features | None = None) -> Remade:
        """The halved images. ``heard`` is ignored: a convolution between levels hears no time."""
        check_even(x)
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.blur is None else self.blur(x))


class ConvUp(nn.Module):
    """Double height and width: repeat pixels and convolve (DDPM), or with ``taps`` convolve between zeros and filter.

    Args:
        channels: in.
        out_channels: out.
        taps: of the filter, or ``None``.
        generator: draws the initial weights.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        taps: Sequence[float] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.blur = Blur(taps, padding=len(taps) // 2 - 1, gain=4.0) if taps is not None else None
        self.conv = conv3(channels, out_channels, generator=generator)

    def forward(self, x: Images, heard: Features | None = None) -> Remade:
        """The doubled images. ``heard`` is ignored: a convolution between levels hears no time."""
        if self.blur is None:
            return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        # A transposed convolution is the correlation with the zeros put in, and does not multiply by them.
        weight = self.conv.weight.flip(2, 3).transpose(0, 1)
        grown = self.blur(F.conv_transpose2d(x, weight, stride=2))
        return grown if self.conv.bias is None else grown + self.conv.bias[:, None, None]


def joined(x: Images, h: Images, factor: float) -> Images:
    """(x + h) factor: how every residual sum of the network is made."""
    return x + h if factor == 1.0 else (x + h) * factor


class Speak(nn.Module):
    """From a level's features to a picture: normalise, silu, convolve.

    Args:
        channels: in.
        out_channels: out.
        gain: of the convolution's start.
        groups: of the normalisation; see :func:`~sdelib.models.layers.norm`.
        generator: draws the initial weights.
    """

    def __init__(
        self, channels: int, out_channels: int, gain: float, groups: int | None, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.norm = norm(channels, groups)
        self.conv = conv3(channels, out_channels, gain=gain, generator=generator)

    def forward(self, h: Images) -> Remade:
        """The picture that ``h`` makes."""
        return self.conv(F.silu(self.norm(h)))


class Unit(nn.Module):
    """A residual block, and attention after it or none.

    Args:
        residual: the block.
        attention: what follows it.
    """

    def __init__(self, residual: ResBlock, attention: Attention | None) -> None:
        super().__init__()
        self.residual, self.attention = residual, attention

    def forward(self, h: Images, heard: Features) -> Remade:
        """What ``h`` becomes; ``heard`` are the time features."""
        h = self.residual(h, heard)
        return h if self.attention is None else self.attention(h)


class Stage(nn.Module):
    """What happens at one level, on the way down or on the way up; a part that a network lacks is ``None``."""

    resample: Any  # to the next level
    shrink: Any  # progressive input: shrinks the picture
    mix: Any  # and makes it a part of the level's features
    grow: Any  # progressive output: grows the picture
    speak: Any  # and makes the level's features a part of it

    units: Any  # of Unit

    def __init__(self) -> None:
        super().__init__()
        self.units = nn.ModuleList()
        self.resample = self.shrink = self.mix = self.grow = self.speak = None

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """The modules in the order in which they run."""
        for i, unit in enumerate(self.units):
            yield f"units.{i}.residual", unit.residual
            if unit.attention is not None:
                yield f"units.{i}.attention", unit.attention
        for name in ("grow", "speak", "resample", "shrink", "mix"):
            part = getattr(self, name)
            if part is not None:
                yield name, part
