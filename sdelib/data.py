"""Data that need no download: laws and toys in the plane, small digits, and batches of them for training.

Everything in the plane fits the square from -3 to 3, has mean near 0 and a standard deviation near 1 a coordinate, so
that no picture and no network needs another scale::

    g1()           N(0.5, 0.25) in 1-D                       exact.Gaussian: diffused law and score at every t
    gm1()          two modes with weights 0.8 and 0.2, 1-D   exact.GaussianMixture: the same
    gm2()          three unequal components in the plane     exact.GaussianMixture: the same
    checkerboard   uniform on 8 of 16 squares                log_prob exact, -inf outside
    pinwheel       five arms                                 log_prob exact
    two_moons      two half circles, blurred                 log_prob by one-dimensional quadrature
    spiral         a spiral arm, blurred                     log_prob by one-dimensional quadrature

A toy is called like a function, ``two_moons(1000, generator=g)``, and shares the laws' ``sample`` and ``log_prob``.
Samples are drawn in float64 on the generator's device and then cast, so the same generator gives the same points in
every dtype. ``digits`` needs scikit-learn: ``pip install "sdelib[plot]"``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sdelib import ops
from sdelib.exact import Gaussian, GaussianMixture
from sdelib.types import PerItem

Points = Float[Tensor, "batch 2"]
"""Points of the plane."""


# --- laws known at every time -----------------------------------------------------------------------------------


def g1() -> Gaussian:
    """The book's G1: N(0.5, 0.25) in one dimension (variance 0.25, standard deviation 0.5)."""
    return Gaussian(0.5, 0.25)


def gm1(distance: float = 4.0, *, std: float = 0.4) -> GaussianMixture:
    """Two modes in one dimension, the left one with weight 0.8, the right one with 0.2, ``distance`` apart around 0.

    At the default ten standard deviations lie between the modes, so that Langevin dynamics at noise 0 does not cross.

    Raises:
        ValueError: if ``distance`` or ``std`` is not above 0.
    """
    ops.check_positive(distance, "distance")
    ops.check_positive(std, "std")
    means: Any = [[-distance / 2], [distance / 2]]  # a list: float64 inside, samples in torch's default dtype
    return GaussianMixture(
        torch.tensor([0.8, 0.2], dtype=torch.float64), means, torch.tensor(std**2, dtype=torch.float64)
    )


def gm2() -> GaussianMixture:
    """The book's GM2: three components in the plane, mean 0, each unlike the others.

    ======  ============  ====================================  =========================
    weight  mean          standard deviations along its axes    first axis
    ======  ============  ====================================  =========================
    0.5     (-1.0, -0.4)  0.60 and 0.25                         at 60 degrees from x1
    0.3     (1.4, -0.6)   0.30 and 0.30                         (round)
    0.2     (0.4, 1.9)    0.55 and 0.18                         at -20 degrees from x1
    ======  ============  ====================================  =========================
    """
    covs = []
    for long, short, degrees in ((0.60, 0.25, 60.0), (0.30, 0.30, 0.0), (0.55, 0.18, -20.0)):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        axes = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
        covs.append(axes @ torch.diag(torch.tensor([long, short], dtype=torch.float64) ** 2) @ axes.T)
    means: Any = [[-1.0, -0.4], [1.4, -0.6], [0.4, 1.9]]  # a list: float64 inside, samples in torch's default dtype
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, _symmetric(torch.stack(covs)))


# --- toys in the plane ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Toy(ABC):
    """A law in the plane that can be sampled and whose log-density at noise 0 is known.

    Another parameter: ``dataclasses.replace(two_moons, noise=0.3)``.
    """

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Points:
        """``n`` independent points, (n, 2).

        Raises:
            ValueError: if ``n`` is not a whole number of at least 1.
            TypeError: if ``dtype`` is not a floating-point one.
        """
        _check_count(n, "n")
        dtype = dtype or torch.get_default_dtype()
        if not dtype.is_floating_point:
            raise TypeError(f"dtype: needs a floating-point dtype, got {dtype}")
        return self._draw(n, generator).to(device=device, dtype=dtype)

    __call__ = sample

    def log_prob(self, x: Points) -> PerItem:
        """log p(x) in nats, in x's dtype.

        Raises:
            ValueError: if ``x`` is not (batch, 2).
        """
        if x.ndim != 2 or x.shape[1] != 2:
            raise ValueError(f"x: needs points of shape (batch, 2), got {tuple(x.shape)}")
        return self._log_density(x.double()).to(x.dtype)

    @abstractmethod
    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor: ...

    @abstractmethod
    def _log_density(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Checkerboard(Toy):
    """Uniform on 8 of the 16 unit squares of [-2, 2) x [-2, 2): those whose column plus row is even.

    The density is 1/8 on them and 0 elsewhere (log_prob -inf), so its score is nowhere useful: edges are what a
    score network finds hard. Standard deviation 1.15 a coordinate.
    """

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        u = _uniform(n, 3, generator)
        square = (8 * u[:, 2]).long().clamp_max(7)
        column = square // 2
        row = 2 * (square % 2) + column % 2
        return u[:, :2] + torch.stack([column, row], 1) - 2.0

    def _log_density(self, x: Tensor) -> Tensor:
        inside = (x >= -2).all(1) & (x < 2).all(1) & (torch.floor(x).sum(1) % 2 == 0)
        return torch.where(inside, x.new_tensor(-math.log(8.0)), x.new_tensor(-math.inf))


@dataclass(frozen=True)
class Pinwheel(Toy):
    """Five Gaussian arms, each turned by an angle that grows with the distance from the centre.

    A turn by ``twist * |x|`` keeps areas, so the density is that of the unturned mixture at the point turned back:
    exact. (The pinwheel of Johnson et al. 2016 turns by another function of the radius, which does not.)
    """

    arms: int = 5
    radius: float = 1.4
    radial: float = 0.4
    tangential: float = 0.12
    twist: float = 0.9

    def _straight(self) -> GaussianMixture:
        angles = 2 * math.pi * torch.arange(self.arms, dtype=torch.float64) / self.arms
        axes = _rotations(angles)
        spread = torch.tensor([self.radial, self.tangential], dtype=torch.float64) ** 2
        covs = _symmetric(axes @ torch.diag(spread) @ axes.mT)
        return GaussianMixture(torch.ones(self.arms), self.radius * axes[:, :, 0], covs)

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        x = self._straight().sample(n, generator=generator, dtype=torch.float64)
        return _turned(x, self.twist)

    def _log_density(self, x: Tensor) -> Tensor:
        return self._straight().log_prob(_turned(x, -self.twist))


@dataclass(frozen=True)
class _BlurredCurve(Toy):
    """Points of a curve plus normal noise: p(x) = integral over u in [0, 1] of q(u) N(x; curve(u), noise^2 I).

    The integral is done by Gauss-Legendre quadrature on pieces of the curve, 16 nodes on each, none longer than four
    times the noise. Up to ten noises away from the curve, where log_prob is above -50 or so, it is right to 1e-9 nats
    (tested against eight times as many pieces, at noise 0.02 too); far outside, where no sample ever is, only roughly.
    """

    noise: float = 0.1
    _pieces_per_length = 0.25  # times 1/noise

    def _draw(self, n: int, generator: torch.Generator | None) -> Tensor:
        on_curve = self._curve_points(n, generator)
        z = ops.randn((n, 2), generator=generator, dtype=torch.float64)
        return on_curve + self.noise * z.to(on_curve.device)

    def _log_density(self, x: Tensor) -> Tensor:
        ops.check_positive(self.noise, "noise")
        centres, log_weights = (v.to(x.device) for v in self._quadrature())
        # log w - |x - c|^2 / (2 noise^2), with the square multiplied out so that a matrix product does the work.
        precision = 1.0 / self.noise**2
        offset = log_weights - 0.5 * precision * (centres**2).sum(1)
        constant = math.log(2 * math.pi * self.noise**2)
        parts = []
        for chunk in x.split(2048):  # keeps the table of points times nodes in the processor's cache, or near it
            terms = torch.addmm(offset, chunk, centres.T, alpha=precision)
            parts.append(torch.logsumexp(terms, 1) - 0.5 * precision * (chunk**2).sum(1) - constant)
        return torch.cat(parts)

    def _rule(self, length: float) -> tuple[Tensor, Tensor]:
        """Nodes and weights on [0, 1] for a curve whose speed is at most ``length``."""
        return _gauss_legendre(math.ceil(self._pieces_per_length * length / self.noise))

    @abstractmethod
    def _curve_points(self, n: int, generator: torch.Generator | None) -> Tensor: ...

    @abstractmethod
    def _quadrature(self) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class TwoMoons(_BlurredCurve):
    """Two interleaved half circles of radius 1.4, evenly filled, blurred by N(0, noise^2 I)."""

    noise: float = 0.14
    radius: float = 1.4

    def _moon(self, angle: Tensor, lower: Tensor) -> Tensor:
        x = torch.where(lower, 1 - torch.cos(angle), torch.cos(angle)) - 0.5
        y = torch.where(lower, 0.5 - torch.sin(angle), torch.sin(angle)) - 0.25
        return self.radius * torch.stack([x, y], 1)

    def _curve_points(self, n: int, generator: torch.Generator | None) -> Tensor:
        u = _uniform(n, 2, generator)
        return self._moon(math.pi * u[:, 0], u[:, 1] < 0.5)

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        u, w = self._rule(math.pi * self.radius)
        lower = torch.arange(2).repeat_interleave(len(u)).bool()
        return self._moon(math.pi * u.repeat(2), lower), torch.log(w.repeat(2) / 2)


@dataclass(frozen=True)
class Spiral(_BlurredCurve):
    """A spiral arm of one and a half turns, reaching out to radius 2.2, blurred by N(0, noise^2 I).

    The point at angle 3 pi v and radius 2.2 v has v = sqrt(u) with u uniform: nearly evenly filled along its length.
    """

    noise: float = 0.1
    reach: float = 2.2

    def _arm(self, v: Tensor) -> Tensor:
        angle = 3 * math.pi * v
        return self.reach * v[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], 1)

    def _curve_points(self, n: int, generator: torch.Generator | None) -> Tensor:
        return self._arm(_uniform(n, 1, generator)[:, 0].sqrt())

    def _quadrature(self) -> tuple[Tensor, Tensor]:
        v, w = self._rule(self.reach * math.hypot(1.0, 3 * math.pi))
        return self._arm(v), torch.log(2 * v * w)  # du = 2 v dv


checkerboard = Checkerboard()
"""The checkerboard of the book."""
pinwheel = Pinwheel()
"""The pinwheel of the book, five arms."""
two_moons = TwoMoons()
"""The two moons of the book, noise 0.14."""
spiral = Spiral()
"""The spiral of the book, noise 0.1."""
TOYS: dict[str, Toy] = {
    "checkerboard": checkerboard,
    "pinwheel": pinwheel,
    "two_moons": two_moons,
    "spiral": spiral,
}
"""The four toys by name."""


# --- digits -----------------------------------------------------------------------------------------------------


class Digits(NamedTuple):
    """Images (n, 1, size, size) and the digits they show, (n,)."""

    images: Float[Tensor, "n 1 size size"]
    labels: Int[Tensor, " n"]


def digits(
    *, size: int = 8, data_range: tuple[float, float] = (0.0, 1.0), split: str = "all", dtype: torch.dtype | None = None
) -> Digits:
    """scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 pixels, ink on 0.

    A pixel has one of 17 levels: level k in 0..16 becomes low + (high - low) k / 16. (``data_range=(0, 16)`` gives the
    levels themselves.) They are the test half of the UCI set "Optical Recognition of Handwritten Digits".

    Args:
        size: 8, 16 or 32; larger ones repeat pixels, so that the levels stay the same.
        data_range: the values of no ink and of full ink.
        split: ``"train"`` (1,497), ``"test"`` (300) or ``"all"``. Every sixth image of the file, the first one included,
            is a test image; neighbours in the file come from the same hand, so both splits hold every writer.
        dtype: of the images; torch's default one if not given.

    Raises:
        ImportError: if scikit-learn is missing.
        ValueError: for another size or split, or unless low < high.
    """
    ops.check_choice(split, ("all", "train", "test"), "split")
    if size not in (8, 16, 32):
        raise ValueError(f"size: needs 8, 16 or 32, got {size!r}")
    low, high = data_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"data_range: needs (low, high) with low < high, got {data_range!r}")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('sdelib.data.digits needs scikit-learn: pip install "sdelib[plot]"') from error
    table = load_digits()
    levels = torch.as_tensor(table.images, dtype=torch.float64)[:, None]
    labels = torch.as_tensor(table.target, dtype=torch.int64)
    if split != "all":
        keep = (torch.arange(len(labels)) % 6 == 0) == (split == "test")
        levels, labels = levels[keep], labels[keep]
    levels = levels.repeat_interleave(size // 8, 2).repeat_interleave(size // 8, 3)
    images = low + (high - low) * (levels / 16)
    return Digits(images.to(dtype or torch.get_default_dtype()), labels)


# --- batches ----------------------------------------------------------------------------------------------------

Sampler = Callable[..., Tensor]
"""``sampler(n, generator=...)``: n fresh draws."""


def batches(
    data: Tensor | tuple[Tensor, ...] | Sampler | Any,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Iterator[Any]:
    """Batches without end.

    Args:
        data: a tensor ``(n, *shape)``, or a tuple of tensors of equal length (images and labels), which are shuffled anew on
            each round and visited once a round; or a law or toy, or a function ``sampler(n, generator=...)``, of which every
            batch is a fresh draw.
        batch_size: items a batch, always full: a batch that meets the end of a round goes on in the next one.
        generator: for the shuffling or the draws. Same generator, same batches.
        device: where the batches go.

    Returns:
        an iterator of tensors, or of tuples of tensors if ``data`` is a tuple.

    Raises:
        TypeError: if ``data`` is none of these.
        ValueError: if ``batch_size`` < 1, or tensors are empty or differ in length.
    """
    _check_count(batch_size, "batch_size")
    sampler = getattr(data, "sample", data)
    if isinstance(data, Tensor):
        return (batch for (batch,) in _shuffled((data,), batch_size, generator, device))
    if isinstance(data, tuple):
        tensors = tuple(data)  # a NamedTuple such as Digits becomes a plain one
        if not tensors or not all(isinstance(part, Tensor) for part in tensors):
            raise TypeError(f"data: needs a tuple of tensors, got {[type(part).__name__ for part in tensors]}")
        return _shuffled(tensors, batch_size, generator, device)
    if callable(sampler):
        return _drawn(sampler, batch_size, generator, device)
    raise TypeError(f"data: needs tensors, a law with .sample, or a function, got {type(data).__name__}")


def _shuffled(
    tensors: tuple[Tensor, ...], size: int, generator: torch.Generator | None, device: torch.device | str | None
) -> Iterator[tuple[Tensor, ...]]:
    lengths = [len(part) if part.ndim else 0 for part in tensors]
    if lengths[0] < 1 or len(set(lengths)) > 1:
        raise ValueError(f"data: needs tensors of one length, at least 1, got lengths {lengths}")

    def walk() -> Iterator[tuple[Tensor, ...]]:
        where = None if generator is None else generator.device
        queue = torch.empty(0, dtype=torch.int64, device=where)
        while True:
            while len(queue) < size:
                queue = torch.cat([queue, torch.randperm(lengths[0], generator=generator, device=where)])
            index, queue = queue[:size], queue[size:]
            yield tuple(part[index.to(part.device)].to(device) for part in tensors)

    return walk()


def _drawn(
    sampler: Sampler, size: int, generator: torch.Generator | None, device: torch.device | str | None
) -> Iterator[Tensor]:
    while True:
        yield sampler(size, generator=generator).to(device)


# --- parts ------------------------------------------------------------------------------------------------------


def _check_count(n: int, name: str) -> None:
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"{name}: needs a whole number, at least 1, got {n!r}")


def _uniform(n: int, columns: int, generator: torch.Generator | None) -> Tensor:
    return ops.rand(n * columns, generator=generator, dtype=torch.float64).reshape(n, columns)


def _symmetric(covs: Tensor) -> Tensor:
    return 0.5 * (covs + covs.mT)  # rounding leaves a difference in the last place


def _rotations(angle: Tensor) -> Tensor:
    """Rotation matrices, (batch, 2, 2)."""
    c, s = torch.cos(angle), torch.sin(angle)
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def _turned(x: Tensor, twist: float) -> Tensor:
    """Every point turned about the origin by ``twist`` times its distance from it; areas stay."""
    turn = _rotations(twist * x.norm(dim=1))
    return (turn @ x[:, :, None])[:, :, 0]


def _gauss_legendre(pieces: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1]: 16 on each of as many equal pieces."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(16))
    left = torch.arange(pieces, dtype=torch.float64)[:, None]
    return ((left + (nodes + 1) / 2) / pieces).reshape(-1), (weights / (2 * pieces)).repeat(pieces)
