"""The words the library is written in: names for shapes, and the five kinds of function that everything composes.

Data are ``(batch, *shape)``: points ``(batch, 2)`` and images ``(batch, 3, 32, 32)`` take the same path.
Time is ``(batch,)``, one time an item, running from 0 (clean data) to T (the prior).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

Data = Float[Tensor, "batch *shape"]
"""A batch of items of any one shape, points or images."""
Time = Float[Tensor, " batch"]
"""One time an item."""
PerItem = Float[Tensor, " batch"]
"""One number an item: a loss, a log-density."""
Probe = Float[Tensor, "*probes_batch_shape"]
"""Directions shaped as the data, (batch, *shape), or P of them an item, (P, batch, *shape)."""
PerProbe = Float[Tensor, "*probes batch"]
"""One number an item, (batch,), or one for each of its probes, (P, batch)."""
Grid = Float[Tensor, " times"]
"""Times in a row, one for each step and one more."""
Coefficient = Float[Tensor, "*times"]
"""A number for each time, whatever the shape of the times."""


class NoiseSource(Protocol):
    """Anything that can draw standard normal noise of a tensor's shape.

    Wherever the library takes a ``torch.Generator`` it also takes one of these: common random numbers,
    a recorded Brownian path, or the unit vectors with which :func:`sdelib.affine_law` probes a step.
    """

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal noise of ``x``'s shape, dtype and device."""
        ...


Generator = torch.Generator | NoiseSource
"""Where randomness comes from. ``None`` in its place is torch's default generator."""

ScoreFn = Callable[[Data, Time], Data]
"""``score(x, t)``: an estimate of grad_x log p_t(x), shaped as ``x``."""
Drift = Callable[[Data, Time], Data]
"""``drift(x, t)``: the deterministic part of an SDE, shaped as ``x``."""
Diffusion = Callable[[Time], Time]
"""``diffusion(t)``: the noise amplitude g(t) of an SDE, one number a time."""


class Stepped(NamedTuple):
    """Where a step arrived.

    ``mean`` is the step without the noise it drew last; ``t`` the time at which ``x`` now lives: ``t_next``
    after a predictor, the old ``t`` after a corrector.
    """

    x: Data
    mean: Data
    t: Time


Step = Callable[[Data, Time, Time, Generator | None], Stepped]
"""``step(x, t, t_next, generator)``: one move of a sampler. It may also offer ``plan(times)`` and ``nfe``:
see :mod:`sdelib.steps`.
"""
Constraint = Callable[[Stepped, Generator | None], Stepped]
"""What is put behind a step to change where it arrived, for example towards an observation."""
