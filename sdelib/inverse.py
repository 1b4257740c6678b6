r"""Linear inverse problems: terms that pull samples towards a measurement y = A x(0) + noise, for :func:`sdelib.guided`.

The term that Bayes' rule asks for is the gradient of log p_t(y | x), and p_t(y | x) asks what x(0) is, given x(t) = x. Replace
that law by a normal one, N(m, C), and it is known::

    p_t(y | x) ~ N(y; A m, A C A^T + noise_std^2 I),
    term       = (dm/dx)^T A^T (A C A^T + noise_std^2 I)^-1 (y - A m).

Three choices of m and C, each asking more of the score::

    through y(t)   m = x / scale             C = (std/scale)^2 I                    no score at all (paper appendix I.4)
    isotropic      m = E[x(0) | x(t) = x]    C = r^2 I                              Song et al. 2023 (Pi-GDM)
    Tweedie        m = E[x(0) | x(t) = x]    C = (std^2/scale) dm/dx                the true second moment: exact on Gaussians

The first is what one believes with no idea of the data; the last knows mean and covariance of x(0), and errs only where its law
is not normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from sdelib import ops
from sdelib.score import denoised
from sdelib.sde import Noising
from sdelib.types import Data, Generator, PerItem, ScoreFn, Time

Measurement = Tensor | Callable[[Data], Tensor]
"""A: a matrix (M, D) that acts on flattened items, or a linear function of a batch of items."""

COVARIANCES = ("isotropic", "tweedie")


def measured(
    noising: Noising,
    A: Measurement,
    y: Tensor,
    *,
    noise_std: float = 0.0,
    draw: bool = False,
    generator: Generator | None = None,
) -> ScoreFn:
    r"""The paper's approximation through y(t) (appendix I.4), for a linear measurement: it needs no network.

    Noise the measurement as the data are noised: y(t) = A x(t) + scale(t) noise. Two of its laws are known,

    .. math:: y(t) \mid y &\sim N(\mathrm{scale}\, y,\; \mathrm{std}^2 A A^\top), \\
        y(t) \mid x(t) &\approx N(A x(t),\; \mathrm{scale}^2 \sigma^2 I),

    the second as if x(t) said nothing about the noise in y, which is the approximation. The paper draws one y(t) from the first
    and takes the gradient of the second's logarithm (``draw=True``). Its size is 1/(scale sigma)^2, so that it does not exist
    without noise and is stiff with little. Integrating over y(t) instead of drawing it gives the term of the default,

    .. math:: h(x, t) = A^\top \big( \mathrm{std}^2 A A^\top + \mathrm{scale}^2 \sigma^2 I \big)^{-1}
        (\mathrm{scale}\, y - A x)

    It is right if the data are spread evenly over the whole space, and then p_t(y given x) is this normal law. Otherwise it pulls
    too soon, while x is still noise. On two numbers of correlation 0.8 with the first one measured as 1.5, noise 0.3, sampling
    ends at means 1.18 and 0.50, where 1.376 and 1.101 are right; :func:`linear_guidance` ends at 1.34 and 1.05 (isotropic) and at
    the right ones (Tweedie). The single draw has a step's size limit of (scale sigma)^2, which VP breaks at its first step.

    Args:
        noising: an SDE or a chain.
        A: a matrix (M, D) acting on flattened items, or a linear function of a batch (its adjoint is found by autograd).
        y: the measurement, broadcastable to A's output.
        noise_std: sigma, the standard deviation of y's noise.
        draw: whether y(t) is drawn afresh at every call, as in the paper, or integrated over.
        generator: where y(t) is drawn from.

    Returns:
        ``term(x, t)``. A call applies A once and its adjoint once.

    Raises:
        TypeError: if ``noising`` has no kernel, or ``A`` is neither a matrix nor a function.
        ValueError: if ``noise_std`` is negative, or 0 with ``draw``; when called, if A does not fit the items or is not linear,
            or y does not fit A's output.
    """
    _need_kernel(noising)
    op, sigma = _Operator(A, y), _noise_std(noise_std)
    if draw and sigma == 0.0:
        raise ValueError("noise_std: needs to be above 0 with draw=True, for the term grows as 1/noise_std^2, got 0")

    def term(x: Data, t: Time) -> Data:
        scale, std = noising.scale(t).to(x), noising.std(t).to(x)
        op.check(x)
        gap = scale[:, None] * op.target(x) - op.forward(x)
        if draw:
            gap = gap + std[:, None] * op.forward(ops.randn_like(x, generator))
            return op.adjoint(gap / (scale * sigma)[:, None] ** 2, x)
        return op.adjoint(op.solve(gap, std**2, (scale * sigma) ** 2), x)

    return term


def linear_guidance(
    noising: Noising,
    score: ScoreFn,
    A: Measurement,
    y: Tensor,
    *,
    noise_std: float,
    covariance: str = "isotropic",
    data_std: float = 1.0,
) -> ScoreFn:
    r"""The term for a linear measurement with x(0) given x(t) taken as normal around its mean.

    .. math:: h(x, t) &= J^\top A^\top S^{-1} (y - A m), \\
        S &= A C A^\top + \sigma^2 I

    with m the denoised x (Tweedie's formula) and J = dm/dx by autograd, through the score. C is

    - "isotropic": r^2 I with r^2 = std^2 v / (scale^2 v + std^2), what is left of a variance v = ``data_std``\ ^2 in every
      direction (Song et al. 2023, "Pseudoinverse-guided diffusion models");
    - "tweedie": (std^2/scale) J, the true covariance of x(0) given x(t). On Gaussian data the term is exact. Elsewhere C
      depends on x, and its own derivative is left out.

    Args:
        noising: an SDE or a chain.
        score: the unconditional ``score(x, t)``, differentiable.
        A: a matrix (M, D) acting on flattened items, or a linear function of a batch (its adjoint is found by autograd).
        y: the measurement, broadcastable to A's output.
        noise_std: sigma, the standard deviation of y's noise; 0 is allowed.
        covariance: "isotropic" or "tweedie".
        data_std: standard deviation of the data, for "isotropic".

    Returns:
        ``term(x, t)``, for ``guided(score, term)``. A call costs one forward and one backward pass of the score, or one and M for
        "tweedie"; ``guided`` calls the score once more. M x M matrices are decomposed: once, or one an item for "tweedie".

    Raises:
        TypeError: if ``noising`` has no kernel, the score cannot be called, or ``A`` is neither a matrix nor a function.
        ValueError: if ``noise_std`` is negative, ``data_std`` is not above 0, for another ``covariance``; when called, if A
            does not fit the items or is not linear, or y does not fit A's output.
        RuntimeError: when called under ``torch.inference_mode``, which forbids derivatives.
    """
    _need_kernel(noising)
    ops.check_function(score, "score", "(x, t)")
    ops.check_choice(covariance, COVARIANCES, "covariance")
    ops.check_positive(data_std, "data_std")
    op, sigma, v = _Operator(A, y), _noise_std(noise_std), float(data_std) ** 2

    def term(x: Data, t: Time) -> Data:
        if torch.is_inference_mode_enabled():
            raise RuntimeError(
                "linear_guidance needs derivatives, which torch.inference_mode() forbids; use torch.no_grad()"
            )
        scale, std = noising.scale(t).to(x), noising.std(t).to(x)
        op.check(x)
        keep = torch.is_grad_enabled()
        with torch.enable_grad():
            leaf = x if x.requires_grad else x.detach().requires_grad_()
            seen = op.forward(denoised(noising, score, leaf, t))
            gap = op.target(x) - seen
            if covariance == "isotropic":
                pull = op.solve(gap, v * std**2 / (scale**2 * v + std**2), torch.full_like(std, sigma**2))
                (gradient,) = torch.autograd.grad(seen, leaf, pull, create_graph=keep)
                return gradient
            rows = [  # row i: J^T A^T e_i, the gradient of measurement i
                torch.autograd.grad(seen, leaf, unit.expand_as(seen), create_graph=keep, retain_graph=True)[0]
                for unit in torch.eye(seen.shape[1], dtype=x.dtype, device=x.device)
            ]
        J = torch.stack(rows, 1)
        spread = op.forward(J.flatten(0, 1)).unflatten(0, J.shape[:2]) * (std**2 / scale)[:, None, None]
        pull = _solve(
            *_decompose(spread), gap if keep else gap.detach(), torch.ones_like(std), torch.full_like(std, sigma**2)
        )
        return torch.einsum("bm,bm...->b...", pull, J)

    return term


def _need_kernel(noising: Noising) -> None:
    """Refuse a noising without scale and std (TypeError)."""
    if not isinstance(noising, Noising):
        raise TypeError(f"noising: needs scale and std, which {type(noising).__name__} lacks")


def _noise_std(noise_std: float) -> float:
    if not (math.isfinite(noise_std) and noise_std >= 0):
        raise ValueError(f"noise_std: needs a finite number of at least 0, got {noise_std!r}")
    return float(noise_std)


class _Operator:
    """A and y: A on a batch, its adjoint, and equations in A A^T, whose decomposition is kept for one shape of items."""

    def __init__(self, A: Measurement, y: Tensor) -> None:
        if isinstance(A, Tensor):
            if A.ndim != 2 or not A.is_floating_point():
                raise ValueError(f"A: needs a floating-point matrix (M, D), got {A.dtype} of shape {tuple(A.shape)}")
        else:
            ops.check_function(A, "A", "a batch")
        if not isinstance(y, Tensor) or not y.is_floating_point():
            raise TypeError(
                f"y: needs a floating-point tensor, got {y.dtype if isinstance(y, Tensor) else type(y).__name__}"
            )
        if not bool(torch.isfinite(y).all()):
            raise ValueError("y: needs finite values, got NaN or infinity")
        self.A, self.y = A, y
        self.seen: tuple[object, ...] = ()
        self.output: tuple[int, ...] = ()
        self.gram: tuple[Tensor, Tensor] | None = None

    def check(self, x: Data) -> None:
        """What one shape of items needs to be told once: that A fits them, is linear, and fits y."""
        key = (tuple(x.shape[1:]), x.dtype, x.device)
        if key == self.seen:
            return
        with torch.no_grad():
            probe = torch.linspace(-1.0, 2.0, x[0].numel(), dtype=x.dtype, device=x.device).reshape(1, *x.shape[1:])
            out = self._raw(torch.cat([probe, -probe, torch.zeros_like(probe)]))
            if out.ndim < 1 or len(out) != 3:
                raise ValueError(f"A: needs an output with an item for every item, got {tuple(out.shape)} for 3 items")
            size = 1e-4 * float(out.abs().max())
            if float(out[2].abs().max()) > size or float((out[0] + out[1]).abs().max()) > size:
                raise ValueError(
                    "A: needs a linear function, got one with A(-x) other than -A(x), or A(0) other than 0"
                )
        self.output, self.seen, self.gram = tuple(out.shape[1:]), key, None
        self.target(x)

    def target(self, x: Data) -> Tensor:
        """y, (batch, M)."""
        try:
            return self.y.to(x).expand(len(x), *self.output).reshape(len(x), -1)
        except RuntimeError:
            raise ValueError(
                f"y: needs a shape that broadcasts to A's output, {(len(x), *self.output)}, got {tuple(self.y.shape)}"
            ) from None

    def _raw(self, x: Data) -> Tensor:
        if not isinstance(self.A, Tensor):
            return self.A(x)
        flat = x.reshape(len(x), -1)
        if flat.shape[1] != self.A.shape[1]:
            raise ValueError(f"A: needs shape (M, {flat.shape[1]}) for these items, got {tuple(self.A.shape)}")
        return flat @ self.A.to(x).mT

    def forward(self, x: Data) -> Tensor:
        """A x, (batch, M)."""
        return self._raw(x).reshape(len(x), -1)

    def adjoint(self, w: Tensor, x: Tensor) -> Tensor:
        """A^T w, an item for each row of w, shaped as those of x."""
        if isinstance(self.A, Tensor):
            return (w @ self.A.to(x)).reshape(len(w), *x.shape[1:])
        with torch.enable_grad():
            leaf = torch.zeros(len(w), *x.shape[1:], dtype=x.dtype, device=x.device, requires_grad=True)
            out = self.forward(leaf)
        return torch.autograd.grad(out, leaf, w, create_graph=torch.is_grad_enabled() and w.requires_grad)[0]

    def solve(self, gap: Tensor, spread: PerItem, noise: PerItem) -> Tensor:
        """(spread A A^T + noise I)^-1 gap, an item at a time."""
        if self.gram is None:
            with torch.no_grad():
                unit = torch.eye(gap.shape[1], dtype=gap.dtype, device=gap.device)
                zeros = torch.zeros(1, *self.seen[0], dtype=gap.dtype, device=gap.device)  # type: ignore[misc]
                self.gram = _decompose(self.forward(self.adjoint(unit, zeros)))
        return _solve(*self.gram, gap, spread, noise)


def _decompose(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, at least 0, and eigenvectors of the symmetric part, found in float64."""
    precise = matrix if matrix.device.type == "mps" else matrix.double()
    values, axes = torch.linalg.eigh(0.5 * (precise + precise.mT))
    return values.clamp_min(0).to(matrix), axes.to(matrix)


def _solve(values: Tensor, axes: Tensor, gap: Tensor, spread: PerItem, noise: PerItem) -> Tensor:
    """The pseudo-inverse of (spread matrix + noise I) times gap: what was measured twice counts once."""
    S = spread[:, None] * values + noise[:, None]
    floor = S.shape[1] * torch.finfo(S.dtype).eps * S.amax(1, keepdim=True)
    along = torch.einsum("ij,bi->bj" if axes.ndim == 2 else "bij,bi->bj", axes, gap)
    along = torch.where(floor < S, along / S, 0.0)
    return torch.einsum("ij,bj->bi" if axes.ndim == 2 else "bij,bj->bi", axes, along)
