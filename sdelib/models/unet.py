r"""One U-Net for images; DDPM, DDPM++ and NCSN++ are argument sets of it (paper section 4.4 and appendix H).

A picture goes down through ``multipliers`` levels, each of half the height and width of the one before, and up again; on the way
up every residual block also gets what its mirror image on the way down put aside (Ronneberger et al. 2015; Ho et al. 2020)::

    x ---- first ---- [block]..[block] ------------- skips -------------> [block]..[block] ---- last ---- out
                          | shrink                                            ^ grow
                          +--- [block]..[block] ---- skips ---> [block]..[block]
                                    | shrink                         ^ grow
                                    +---------- block attention block

The time label enters every block through a small network. With a progressive input the picture itself, made smaller and smaller,
is added at each level; with a progressive output each level adds to a picture that grows and grows.

The network sees data as they come: scalings such as 2x - 1, log sigma, 1/sigma belong to :class:`sdelib.NetScore`. Memory is
channels-last throughout, which convolutions like on CPUs and GPUs alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sdelib import ops
from sdelib.models.blocks import Attention, ConvDown, ConvUp, ResBlock, Speak, Stage, Unit, joined
from sdelib.models.checks import check_call, check_options, check_sizes
from sdelib.models.fir import Down, Images, Remade, Up, check_taps
from sdelib.models.layers import SILENT, TimeNetwork, channels_last, conv1, conv3
from sdelib.types import Time

PROGRESSIVE = ("none", "residual", "skip")


class UNet(nn.Module):
    """``net(x, label)``: images (batch, in_channels, image_size, image_size) and labels (batch,) in, images of that shape out.

    Each comment gives the values of the paper's networks: DDPM | DDPM++ | NCSN++ on CIFAR-10, and of the 256 and 1024 pixel ones
    where they differ. :func:`ddpm_unet`, :func:`ddpmpp` and :func:`ncsnpp` are these columns.

    Args:
        image_size: height and width, divisible by 2^(levels - 1).
        in_channels: of the images.
        channels: of the first level.
        multipliers: channels of each level, as multiples of ``channels``; as many levels as multipliers.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention_at: heights of the levels whose blocks are followed by attention. The lowest level always has one.
        dropout: share of a residual block's features that training silences, drawn from torch's default generator.
        progressive_in: how the shrunk picture joins in: not at all, through a convolution at each level ("residual"), or
            resampled and mixed by a 1 x 1 convolution ("skip").
        progressive_out: how each level speaks to the output: the last one alone, by a picture that grows through convolutions
            ("residual"), or by a sum of resampled pictures ("skip").
        block: "biggan", whose blocks resample, or "ddpm", where convolutions between the levels do.
        fir: taps of the resampling filter, or ``None`` for means and repetitions.
        rescale: whether every residual sum is divided by sqrt(2).
        time: "fourier" features for labels such as log sigma, "positional" ones for labels such as 999 t.
        fourier_scale: standard deviation of the Fourier frequencies.
        groups: of the normalisations, at most; ``None``: channels/4, at most 32.
        combine: of progressive input "skip": "sum" with the level's channels, or "cat", beside them.
        generator: draws the initial weights; same generator, same network. ``None``: torch's default one.

    Raises:
        TypeError: if a number is not a number, or an argument is of another kind.
        ValueError: for a size or a name that is not allowed.

    >>> net = UNet(image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, attention_at=(4,))
    >>> net(torch.zeros(5, 1, 8, 8), torch.full((5,), 0.3)).shape
    torch.Size([5, 1, 8, 8])
    """

    down: Any  # stages, as `middle` is one, and `up`
    middle: Any
    up: Any

    def __init__(
        self,
        *,
        image_size: int = 32,  # 256; 1024
        in_channels: int = 3,
        channels: int = 128,  # 256: 128; 1024: 16
        multipliers: Sequence[int] = (1, 2, 2, 2),  # 256: 1, 1, 2, 2, 2, 2, 2; 1024: 1, 2, 4, 8, 16, 32, 32, 32
        blocks: int = 4,  # 2 | 4 | 4; deep 8; 256: 2; 1024: 1
        attention_at: Sequence[int] = (16,),
        dropout: float = 0.1,  # 256 and 1024: 0
        progressive_in: str = "none",  # none | none | residual; 256 and 1024: skip
        progressive_out: str = "none",  # 256 and 1024: skip
        block: str = "biggan",  # ddpm | biggan | biggan
        fir: Sequence[float] | None = None,  # None | None | 1, 3, 3, 1
        rescale: bool = True,  # False | True | True
        time: str = "positional",  # positional | positional | fourier (trained with eq. 1: positional)
        fourier_scale: float = 16.0,
        groups: int | None = None,  # 32 | None | None
        combine: str = "sum",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        multipliers = ops.check_counts(multipliers, "multipliers", "channels' multiples")
        attention_at = ops.check_counts(attention_at, "attention_at", "pixels")
        check_sizes(image_size, in_channels, channels, multipliers, blocks)
        check_options(dropout, rescale, time, fourier_scale, generator)
        if channels < 2:
            raise ValueError(f"channels: needs at least 2, got {channels}")
        if groups is not None:
            ops.check_count(groups, "groups", "groups")
        fir = None if fir is None else check_taps(fir, "fir")
        for value, allowed, name in (
            (progressive_in, PROGRESSIVE, "progressive_in"),
            (progressive_out, PROGRESSIVE, "progressive_out"),
            (block, ("biggan", "ddpm"), "block"),
            (combine, ("sum", "cat"), "combine"),
        ):
            ops.check_choice(value, allowed, name)
        self.image_size, self.in_channels, self.block = image_size, in_channels, block
        self.progressive_out, self.combine = progressive_out, combine
        self.factor = math.sqrt(0.5) if rescale else 1.0
        make = _Make(4 * channels, block, fir, rescale, groups, float(dropout), generator)
        widths = [channels * m for m in multipliers]
        attends = [image_size // 2**level in attention_at for level in range(len(widths))]

        self.embed = TimeNetwork(channels, make.heard, time, fourier_scale, generator)
        self.first = conv3(in_channels, channels, generator=generator)
        self.down, self.middle, self.up = nn.ModuleList(), Stage(), nn.ModuleList()  # in the order in which they run
        wide, aside, pyramid = channels, [channels], in_channels  # aside: the widths of what waits for the way up
        for level, width in enumerate(widths):
            stage = Stage()
            for _ in range(blocks):
                stage.units.append(make.unit(wide, width, attends[level]))
                aside.append(wide := width)
            if level < len(widths) - 1:
                stage.resample = make.halving(wide)
                if progressive_in == "skip":
                    stage.shrink, stage.mix = Down(make.fir), conv1(pyramid, wide, generator=generator)
                    wide = 2 * wide if combine == "cat" else wide
                elif progressive_in == "residual":
                    stage.shrink = ConvDown(pyramid, wide, make.fir, generator=generator)
                    pyramid = wide
                aside.append(wide)
            self.down.append(stage)
        self.middle.units.extend([make.unit(wide, wide, True), make.unit(wide, wide, False)])
        for level, width in reversed(list(enumerate(widths))):
            stage, lowest = Stage(), level == len(widths) - 1
            for i in range(blocks + 1):
                stage.units.append(make.unit(wide + aside.pop(), width, attends[level] and i == blocks))
                wide = width
            if progressive_out == "skip":
                stage.grow = None if lowest else Up(make.fir)
                stage.speak = Speak(wide, in_channels, SILENT, groups, generator)
            elif progressive_out == "residual":
                stage.grow = None if lowest else ConvUp(pyramid, wide, make.fir, generator=generator)
                stage.speak = Speak(wide, wide, 1.0, groups, generator) if lowest else None
                pyramid = wide
            stage.resample = make.doubling(wide) if level > 0 else None
            self.up.append(stage)
        self.last = None if progressive_out == "skip" else Speak(wide, in_channels, SILENT, groups, generator)
        channels_last(self)

    def forward(self, x: Images, label: Time) -> Images:
        """The network's output, of ``x``'s shape.

        Raises:
            ValueError: if an item of ``x`` has another shape, or ``label`` is not (batch,).
        """
        check_call(x, label, self.in_channels, self.image_size)
        heard = F.silu(self.embed(label))
        pyramid = x.contiguous(memory_format=torch.channels_last)
        h = self.first(pyramid)
        aside = [h]
        for stage in self.down:
            for unit in stage.units:
                h = unit(h, heard)
                aside.append(h)
            if stage.resample is not None:
                h = stage.resample(h, heard)
                pyramid, h = self._take_in(stage, pyramid, h)
                aside.append(h)
        for unit in self.middle.units:
            h = unit(h, heard)
        picture: Remade | None = None
        for stage in self.up:
            for unit in stage.units:
                h = unit(torch.cat([h, aside.pop()], 1), heard)
            picture, h = self._give_out(stage, picture, h)
            if stage.resample is not None:
                h = stage.resample(h, heard)
        if self.last is not None:
            return self.last(h)
        assert picture is not None  # progressive output "skip" spoke at every level
        return picture

    def _take_in(self, stage: Stage, pyramid: Remade, h: Remade) -> tuple[Remade, Remade]:
        """Progressive input: the picture shrunk to this level, and h with it."""
        if stage.shrink is None:
            return pyramid, h
        pyramid = stage.shrink(pyramid)
        if stage.mix is None:  # "residual" carries the sum on
            pyramid = joined(pyramid, h, self.factor)
            return pyramid, pyramid
        mixed = stage.mix(pyramid)
        return pyramid, mixed + h if self.combine == "sum" else torch.cat([mixed, h], 1)

    def _give_out(self, stage: Stage, picture: Remade | None, h: Remade) -> tuple[Remade | None, Remade]:
        """Progressive output: the picture grown to this level with its part in it, and h."""
        if picture is None:  # the lowest level, or no progressive output
            return (None if stage.speak is None else stage.speak(h)), h
        picture = stage.grow(picture)
        if self.progressive_out == "residual":  # carries the sum on
            picture = joined(picture, h, self.factor)
            return picture, picture
        return picture + stage.speak(h), h

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module that computes, under its name here, in the order in which they run.

        It is the order in which the authors' networks number theirs, and in which a drawing puts them. What has no weights and
        stands in no block (:class:`~sdelib.models.Up`, :class:`~sdelib.models.Down`) is among them.
        """
        yield "embed", self.embed
        yield "first", self.first
        for name, stage in self.named_modules():
            if isinstance(stage, Stage):
                yield from ((f"{name}.{part}", module) for part, module in stage.parts())
        if self.last is not None:
            yield "last", self.last


def ncsnpp(**changes: Any) -> UNet:
    """NCSN++ for CIFAR-10, the paper's best for VE: all five ingredients, Fourier features of log sigma.

    ``changes`` replace arguments of :class:`UNet`: deep is ``ncsnpp(blocks=8)``, and the one trained on the
    discrete levels of SMLD ``ncsnpp(time="positional")``.

    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in ncsnpp().parameters())  # and 128 frequencies that are not trained
    62758787
    """
    arguments: dict[str, Any] = {"fir": (1, 3, 3, 1), "progressive_in": "residual", "time": "fourier"}
    return UNet(**arguments | changes)


def ddpmpp(**changes: Any) -> UNet:
    """DDPM++ for CIFAR-10, the paper's best for VP and sub-VP: NCSN++ without the filter and the progressive input.

    ``changes`` replace arguments of :class:`UNet`: deep is ``ddpmpp(blocks=8)``.
    """
    return UNet(**changes)


def ddpm_unet(**changes: Any) -> UNet:
    """DDPM's U-Net for CIFAR-10 (Ho et al. 2020), where the paper started: two blocks a level, convolutions between levels.

    ``changes`` replace arguments of :class:`UNet`.
    """
    arguments: dict[str, Any] = {"blocks": 2, "block": "ddpm", "rescale": False, "groups": 32}
    return UNet(**arguments | changes)


@dataclass(frozen=True)
class _Make:
    """What the blocks of one network have in common, and the blocks."""

    heard: int
    block: str
    fir: tuple[float, ...] | None
    rescale: bool
    groups: int | None
    dropout: float
    generator: torch.Generator | None

    def residual(self, wide: int, out: int, resample: Down | Up | None = None) -> ResBlock:
        return ResBlock(
            wide,
            out,
            self.heard,
            resample=resample,
            groups=self.groups,
            rescale=self.rescale,
            dropout=self.dropout,
            generator=self.generator,
        )

    def unit(self, wide: int, out: int, attends: bool) -> Unit:
        residual = self.residual(wide, out)
        attention = (
            Attention(out, groups=self.groups, rescale=self.rescale, generator=self.generator) if attends else None
        )
        return Unit(residual, attention)

    def halving(self, wide: int) -> nn.Module:
        if self.block == "biggan":
            return self.residual(wide, wide, Down(self.fir))
        return ConvDown(wide, wide, self.fir, generator=self.generator)

    def doubling(self, wide: int) -> nn.Module:
        if self.block == "biggan":
            return self.residual(wide, wide, Up(self.fir))
        return ConvUp(wide, wide, self.fir, generator=self.generator)
