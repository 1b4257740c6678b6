r"""A classifier of noisy images: ``net(x, label)`` gives logits, one number for each class (paper appendix I.1).

With it one samples from p(x | y) without training the score again: its gradient in x is the term that guidance adds (paper
section 5). The paper's is a Wide ResNet 28-10 (Zagoruyko & Komodakis 2016) that also hears log sigma, by the Fourier features of
NCSN++. It is the U-Net's way down, with another end::

    x ---- first ---- [block]..[block] ---- halve ---- [block]..[block] ---- .. ---- norm, silu, mean over pixels, dense

Three things differ from the Wide ResNet of 2016: blocks hear the time; they normalise in groups of channels, not over the batch,
in which noise levels are mixed; and the mean of two by two pixels halves a picture, where a stride that keeps every second one
would fold the noise over the picture. What the label means is not known here: :func:`sdelib.net_logits` knows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from sdelib import ops
from sdelib.models.blocks import ResBlock
from sdelib.models.checks import check_call, check_options, check_sizes
from sdelib.models.fir import Down, Images, check_taps
from sdelib.models.layers import TimeNetwork, channels_last, conv3, dense, norm
from sdelib.types import Time

__all__ = ["Classifier", "Logits", "wide_resnet"]

Logits = Float[Tensor, "batch classes"]
"""A number for each class: its log probability, up to a number for each item."""


class Classifier(nn.Module):
    """Images (batch, in_channels, image_size, image_size) and labels (batch,) in, logits (batch, classes) out.

    Defaults are the paper's.

    Args:
        image_size: height and width, divisible by 2^(levels - 1).
        in_channels: of the images.
        classes: how many.
        channels: of the first convolution.
        multipliers: channels of each level, as multiples of ``channels``; each level has half the height of the one before.
        blocks: residual blocks a level.
        dropout: share of a residual block's features that training silences, drawn from torch's default generator.
        fir: taps of the filter with which images are halved, or ``None`` for means.
        rescale: whether every residual sum is divided by sqrt(2).
        time: "fourier" features for labels such as log sigma, "positional" ones for labels such as 999 t.
        time_channels: of the features: as many frequencies, or sines and cosines in all.
        fourier_scale: standard deviation of the Fourier frequencies.
        generator: draws the initial weights; same generator, same network. ``None``: torch's default one.

    Raises:
        TypeError: if a number is not a number, or an argument is of another kind.
        ValueError: for a size or a name that is not allowed.

    >>> net = Classifier(image_size=8, in_channels=1, channels=8, multipliers=(1, 2), blocks=1, time_channels=8)
    >>> net(torch.zeros(5, 1, 8, 8), torch.full((5,), 0.3)).shape
    torch.Size([5, 10])
    """

    levels: Any  # lists of blocks

    def __init__(
        self,
        *,
        image_size: int = 32,
        in_channels: int = 3,
        classes: int = 10,
        channels: int = 16,
        multipliers: Sequence[int] = (10, 20, 40),
        blocks: int = 4,
        dropout: float = 0.0,
        fir: Sequence[float] | None = None,
        rescale: bool = False,
        time: str = "fourier",
        time_channels: int = 128,
        fourier_scale: float = 16.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        multipliers = ops.check_counts(multipliers, "multipliers", "channels' multiples")
        check_sizes(image_size, in_channels, channels, multipliers, blocks)
        check_options(dropout, rescale, time, fourier_scale, generator)
        ops.check_count(classes, "classes", "classes")
        ops.check_count(time_channels, "time_channels", "features")
        if time_channels < 2:
            raise ValueError(f"time_channels: needs at least 2, got {time_channels}")
        fir = None if fir is None else check_taps(fir, "fir")
        self.image_size, self.in_channels = image_size, in_channels
        heard = 4 * time_channels
        self.embed = TimeNetwork(time_channels, heard, time, fourier_scale, generator)
        self.first = conv3(in_channels, channels, generator=generator)
        self.levels, wide = nn.ModuleList(), channels
        for level, width in enumerate(channels * m for m in multipliers):
            stage = nn.ModuleList()
            for i in range(blocks):
                shrink = Down(fir) if level > 0 and i == 0 else None
                stage.append(
                    ResBlock(
                        wide,
                        width,
                        heard,
                        resample=shrink,
                        rescale=rescale,
                        dropout=float(dropout),
                        generator=generator,
                    )
                )
                wide = width
            self.levels.append(stage)
        self.norm = norm(wide)
        self.last = dense(wide, classes, generator=generator)
        channels_last(self)

    def forward(self, x: Images, label: Time) -> Logits:
        """The logits: log probabilities up to a number for each item.

        Raises:
            ValueError: if an item of ``x`` has another shape, or ``label`` is not (batch,).
        """
        check_call(x, label, self.in_channels, self.image_size)
        heard = F.silu(self.embed(label))
        h = self.first(x.contiguous(memory_format=torch.channels_last))
        for stage in self.levels:
            for block in stage:
                h = block(h, heard)
        return self.last(F.silu(self.norm(h)).mean((2, 3)))


def wide_resnet(**changes: Any) -> Classifier:
    """The paper's classifier for CIFAR-10: a Wide ResNet of 28 layers, ten times wider than the first of its kind.

    ``changes`` replace arguments of :class:`Classifier`. Without what hears the time, and without the biases of its convolutions,
    it has the 36.5 million parameters of Zagoruyko & Komodakis (2016).

    >>> with torch.device("meta"):
    ...     sum(p.numel() for p in wide_resnet().parameters())
    39181770
    """
    return Classifier(**changes)
