"""What the networks for images refuse at the door, each argument by its name."""

from __future__ import annotations

import torch

from sdelib import ops
from sdelib.models.fir import Images
from sdelib.types import Data, Time

__all__: list[str] = []  # helpers of the networks


def check_sizes(image_size: int, in_channels: int, channels: int, multipliers: tuple[int, ...], blocks: int) -> None:
    """Refuse what is no count among ``in_channels``, ``channels`` and ``blocks``, and an ``image_size`` with too many halvings.

    There is one halving less than there are ``multipliers``.
    """
    for value, name, what in (
        (image_size, "image_size", "pixels"),
        (in_channels, "in_channels", "channels"),
        (channels, "channels", "channels"),
        (blocks, "blocks", "blocks"),
    ):
        ops.check_count(value, name, what)
    if not multipliers:
        raise ValueError("multipliers: needs at least one level, got none")
    if image_size % 2 ** (len(multipliers) - 1):
        raise ValueError(
            f"image_size: needs a multiple of {2 ** (len(multipliers) - 1)} for {len(multipliers)} levels, got {image_size}"
        )


def check_options(
    dropout: float, rescale: bool, time: str, fourier_scale: float, generator: torch.Generator | None
) -> None:
    """Refuse what no block and no time network takes: ``dropout``, ``rescale``, ``time``, ``fourier_scale``, ``generator``."""
    if isinstance(dropout, bool) or not isinstance(dropout, int | float) or not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout: needs a number in [0, 1), got {dropout!r}")
    if not isinstance(rescale, bool):
        raise TypeError(f"rescale: needs True or False, got {rescale!r}")
    ops.check_choice(time, ("fourier", "positional"), "time")
    ops.check_positive(fourier_scale, "fourier_scale")
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(f"generator: needs a torch.Generator or None, got {type(generator).__name__}")


def check_call(x: Images, label: Time, in_channels: int, image_size: int) -> None:
    """Refuse images that have not ``in_channels`` and ``image_size`` x ``image_size`` pixels, and a ``label`` not (batch,)."""
    wanted = (in_channels, image_size, image_size)
    if x.ndim != 4 or x.shape[1:] != wanted:
        raise ValueError(f"x: needs shape (batch, {', '.join(map(str, wanted))}), got {tuple(x.shape)}")
    check_label(label, x)


def check_label(label: Time, x: Data) -> None:
    """Refuse a ``label`` that is not (batch,)."""
    if label.shape != x.shape[:1]:
        raise ValueError(f"label: needs one number an item, shape ({len(x)},), got {tuple(label.shape)}")
