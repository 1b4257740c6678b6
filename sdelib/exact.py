r"""Laws known in closed form: their densities, scores, and what noise does to them.

A noising takes x(0) to scale x(0) + std z, so Gaussian data stay Gaussian and mixtures stay mixtures::

    N(m, C)               becomes  N(scale m, scale^2 C + std^2 I),
    sum_k w_k N(m_k, C_k) becomes  sum_k w_k N(scale m_k, scale^2 C_k + std^2 I).

Noise keeps the eigenvectors of C and only moves its eigenvalues, so one decomposition serves every time at once.

A noisy linear measurement y = A x(0) + noise leaves a mixture, too, so the answer of every such problem is known
(:meth:`GaussianMixture.given`), and so is the classifier of noisy data (:meth:`GaussianMixture.classifier`).
Densities are in nats. Laws live on points ``(batch, D)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, Self

import torch
from torch import Tensor

from sdelib import ops
from sdelib.sde import Noising
from sdelib.types import Data, Generator, PerItem, ScoreFn, Time

Numbers = Tensor | Sequence[Any] | float
"""Parameters of a law: tensors, or lists nested as deep as their shape."""


class GaussianMixture:
    r"""A mixture of normal laws on points (batch, D), exact at every time of every noising.

    .. math:: p(x) = \sum_k w_k\, N(x;\, m_k, C_k)

    Args:
        weights: (K,), above 0; they are normalised to sum to 1.
        means: (K, D).
        covs: (K, D, D) symmetric, or (K,) or one number for multiples of the identity. Zero variances are allowed (a
            point mass, to be diffused), but such a law has no density or score until it is.

    Parameters are kept in float64; samples come in the dtype of ``means`` (torch's default one for plain lists), densities
    and scores in the dtype of ``x``.

    Raises:
        ValueError: if shapes do not fit, a weight is not above 0, or a covariance is not symmetric and non-negative.
    """

    _cov_name = "covs"  # what the errors call the covariances

    def __init__(self, weights: Numbers, means: Numbers, covs: Numbers) -> None:
        given = means.dtype if isinstance(means, Tensor) else None
        self.dtype = given if given is not None and given.is_floating_point else torch.get_default_dtype()
        weights, means, covs = (_parameter(v, n) for v, n in ((weights, "weights"), (means, "means"), (covs, "covs")))
        if means.ndim != 2 or weights.shape != means.shape[:1]:
            raise ValueError(
                f"means: needs shape (K, D) with K the number of weights, got {tuple(means.shape)} "
                f"for weights of shape {tuple(weights.shape)}"
            )
        if not bool((weights > 0).all()):
            raise ValueError(f"weights: need to be above 0, got {weights.tolist()}")
        self.weights, self.means = weights / weights.sum(), means
        self.covs = _covariances(covs, *means.shape, name=self._cov_name)
        eigenvalues, self._axes = torch.linalg.eigh(self.covs)
        floor = -1e-6 * self.covs.abs().amax((-2, -1)).clamp_min(1e-300)
        if bool((eigenvalues < floor[:, None]).any()):
            raise ValueError(
                f"{self._cov_name}: needs variances of at least 0, got an eigenvalue of {float(eigenvalues.min()):g}"
            )
        self._variances = eigenvalues.clamp_min(0)
        # All components' axes side by side, (D, K D), and the means in them: one product serves every component.
        self._all_axes = self._axes.permute(1, 0, 2).reshape(means.shape[1], -1)
        self._means_in_axes = torch.einsum("kd,kde->ke", means, self._axes)

    @property
    def dim(self) -> int:
        """D, the dimension of the points."""
        return self.means.shape[1]

    def __repr__(self) -> str:
        """Name the size."""
        return f"{type(self).__name__}(K={len(self.weights)}, D={self.dim})"

    def sample(self, n: int, *, generator: Generator | None = None, dtype: torch.dtype | None = None) -> Data:
        """``n`` points, (n, D), on the CPU.

        Raises:
            ValueError: if ``n`` < 1.
            TypeError: if ``generator`` draws normal noise only and there are several components to choose from.
        """
        ops.check_count(n, "n", "points")
        if len(self.weights) == 1:
            component = torch.zeros(n, dtype=torch.long)
        else:
            u = ops.rand(n, generator=generator, dtype=torch.float64, device="cpu")
            edges = self.weights.cumsum(0)[:-1]
            component = torch.searchsorted(edges, u, right=True)
        z = ops.randn((n, self.dim), generator=generator, dtype=torch.float64, device="cpu")
        x = torch.empty_like(z)
        for k in component.unique().tolist():  # component by component: one (D, D) matrix at a time, not one an item
            chosen = component == k
            x[chosen] = self.means[k] + (z[chosen] * self._variances[k].sqrt()) @ self._axes[k].T
        return x.to(dtype or self.dtype)

    def log_prob(self, x: Data) -> PerItem:
        """log p(x) in nats, (batch,), for points x (batch, D).

        Raises:
            TypeError: if ``x`` is not floating-point.
            ValueError: if ``x`` is not (batch, D), or a variance of the law is zero.
        """
        self._need_density()
        log_terms, _ = self._terms(self._points(x), None, None)
        return torch.logsumexp(log_terms, 1)

    def score(self, x: Data) -> Data:
        r"""The exact score, (batch, D), with r_k the posterior weight of component k.

        .. math:: \nabla \log p(x) = \sum_k r_k(x)\, C_k^{-1} (m_k - x)

        Errors as for :meth:`log_prob`.
        """
        self._need_density()
        return self._score(self._points(x), None, None)

    def responsibilities(self, x: Data) -> Tensor:
        r"""(batch, K): the posterior probability r_k(x) that x came from component k.

        .. math:: r_k(x) = \frac{w_k N(x;\, m_k, C_k)}{\sum_j w_j N(x;\, m_j, C_j)}
        """
        self._need_density()
        return torch.softmax(self._terms(self._points(x), None, None)[0], 1)

    def at(self, noising: Noising, t: float | Tensor) -> Self:
        r"""The law of x(t): the same class, diffused to one time t by the noising's kernel N(scale x0, std^2 I).

        .. math:: p_t = \sum_k w_k\, N(\mathrm{scale}\, m_k,\, \mathrm{scale}^2 C_k + \mathrm{std}^2 I)

        VE's kernel keeps sigma_min at time 0, so ``at(VE(), 0)`` is a little wider than the data; :meth:`score_fn` agrees.

        Raises:
            ValueError: if ``t`` is not one time in [0, T].
        """
        t = ops.as_time(t).detach().double().cpu()
        if t.numel() != 1:
            raise ValueError(f"t: needs one time for the whole law, got shape {tuple(t.shape)}")
        ops.check_time(t.reshape(1), 1, low=0.0, high=noising.T)
        scale, std = float(noising.scale(t)), float(noising.std(t))
        eye = torch.eye(self.dim, dtype=torch.float64)
        return self._like(scale * self.means, scale**2 * self.covs + std**2 * eye)

    def score_fn(self, noising: Noising) -> ScoreFn:
        """``score(x, t)`` = grad_x log p_t(x), exact at every item's own time: x (batch, D), t (batch,).

        The values of t are not checked, so that a sampler's step stays cheap; the shapes are.
        """

        def score(x: Data, t: Time) -> Data:
            return self._score(self._points(x), *self._kernel(noising, x, t))

        return score

    @property
    def mean(self) -> Tensor:
        """The mean of the whole law, (D,)."""
        return self.weights @ self.means

    @property
    def cov(self) -> Tensor:
        """The covariance of the whole law, (D, D), within the components and between them."""
        gaps = self.means - self.mean
        return torch.einsum("k,kde->de", self.weights, self.covs + gaps[:, :, None] * gaps[:, None])

    def part(self, k: int) -> Gaussian:
        """Component k alone, counted from 0: the law of x(0) in class k, where components are classes.

        Raises:
            ValueError: if there is no component ``k``.
        """
        if isinstance(k, bool) or not isinstance(k, Integral) or not 0 <= k < len(self.weights):
            raise ValueError(f"k: needs a component from 0 to {len(self.weights) - 1}, got {k!r}")
        law = Gaussian(self.means[k], self.covs[k])
        law.dtype = self.dtype
        return law

    def given(self, A: Numbers, y: Numbers, *, noise_std: float = 0.0) -> Self:
        r"""The law of x(0) once y = A x(0) + noise_std z is known: the same class, the posterior by Bayes' rule.

        .. math:: m_k' &= m_k + G_k (y - A m_k), \\
            C_k' &= (I - G_k A)\, C_k\, (I - G_k A)^\top \\
            &\quad + \sigma^2 G_k G_k^\top, \\
            w_k' &\propto w_k\, N(y;\, A m_k, S_k)

        with S_k = A C_k A^T + sigma^2 I, G_k = C_k A^T S_k^-1 and sigma = ``noise_std``. Its ``score_fn(noising)`` is the exact
        conditional score grad_x log p_t(x given y), the truth that every way of control is compared with. To know some
        coordinates is to choose rows of the identity as A: imputation.

        Args:
            A: (M, D), a row for each number measured.
            y: (M,), what was measured.
            noise_std: standard deviation of its noise. At 0 the posterior is flat in the measured directions: it has a
                density and a score once diffused.

        Raises:
            ValueError: if shapes do not fit, ``noise_std`` is negative, or some S_k is singular: without noise, rows of A that
                depend on one another, or a component that has no spread along one of them.
        """
        A, y = _parameter(A, "A"), _parameter(y, "y")
        if A.ndim != 2 or A.shape[1] != self.dim or not len(A):
            raise ValueError(f"A: needs shape (M, {self.dim}), got {tuple(A.shape)}")
        if y.shape != A.shape[:1]:
            raise ValueError(f"y: needs one number for each row of A, shape ({len(A)},), got {tuple(y.shape)}")
        if not (math.isfinite(noise_std) and noise_std >= 0):
            raise ValueError(f"noise_std: needs a finite number of at least 0, got {noise_std!r}")
        eye, variance = torch.eye(self.dim, dtype=torch.float64), float(noise_std) ** 2
        across = A @ self.covs  # (K, M, D)
        S = across @ A.T + variance * torch.eye(len(A), dtype=torch.float64)
        eigenvalues = torch.linalg.eigvalsh(S)
        if not bool((eigenvalues[:, 0] > 1e-12 * eigenvalues[:, -1]).all()):
            raise ValueError(
                "noise_std: needs to be above 0 here, for without noise this measurement says the same thing twice, "
                "or something that a component already knows"
            )
        gain = torch.linalg.solve(S, across).mT  # (K, D, M)
        gap = y - self.means @ A.T
        means = self.means + (gain @ gap[..., None])[..., 0]
        keep = eye - gain @ A
        covs = keep @ self.covs @ keep.mT + variance * (gain @ gain.mT)
        fit = (gap * torch.linalg.solve(S, gap[..., None])[..., 0]).sum(1) + torch.logdet(S)
        # A weight that underflows stays above 0, so that components keep their numbers.
        weights = torch.softmax(self.weights.log() - 0.5 * fit, 0).clamp_min(torch.finfo(torch.float64).tiny)
        return self._like(means, 0.5 * (covs + covs.mT), weights)

    def classifier(self, noising: Noising) -> Callable[[Data, Time], Tensor]:
        r"""``classifier(x, t)``: the exact log p_t(k given x), (batch, K), where components are classes.

        .. math:: \log p_t(k \mid x) = \log \frac{w_k N_k(x)}{\sum_j w_j N_j(x)}

        with N_k = N(scale m_k, scale^2 C_k + std^2 I). As logits they are normalised already. Guidance by it
        (:func:`sdelib.classifier_score`) makes the mixture's score that of one component, exactly.

        Raises:
            ValueError: when called, if ``x`` is not (batch, D) or ``t`` not (batch,).
        """

        def classify(x: Data, t: Time) -> Tensor:
            return torch.log_softmax(self._terms(self._points(x), *self._kernel(noising, x, t))[0], 1)

        return classify

    def _kernel(self, noising: Noising, x: Data, t: Time) -> tuple[Tensor, Tensor]:
        if t.shape != x.shape[:1]:
            raise ValueError(f"t: needs one time an item, shape ({x.shape[0]},), got {tuple(t.shape)}")
        return noising.scale(t).to(x), noising.std(t).to(x)

    def _like(self, means: Tensor, covs: Tensor, weights: Tensor | None = None) -> Self:
        law = type(self).__new__(type(self))
        GaussianMixture.__init__(law, self.weights if weights is None else weights, means, covs)
        law.dtype = self.dtype
        return law

    def _need_density(self) -> None:
        if not bool((self._variances > 0).all()):
            raise ValueError(
                f"{self._cov_name}: a law with a zero variance has no density or score; diffuse it first with .at(noising, t)"
            )

    def _points(self, x: Data) -> Data:
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x: needs points of shape (batch, {self.dim}), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"x: needs floating-point points, got {x.dtype}; convert them first, e.g. x.float()")
        return x

    def _terms(self, x: Data, scale: Tensor | None, std: Tensor | None) -> tuple[Tensor, Tensor]:
        """log(w_k N_k(x)), (batch, K), and the components' scores in their own axes, (batch, K, D)."""
        axes, means, variances = (v.to(x) for v in (self._all_axes, self._means_in_axes, self._variances))
        if scale is not None and std is not None:
            means, variances = means * scale[:, None, None], variances * (scale**2)[:, None, None]
            variances = variances + (std**2)[:, None, None]
        along = (x @ axes).unflatten(1, (-1, self.dim)) - means
        own_score = -along / variances
        quadratic = (along * own_score).sum(-1) - torch.log(variances).sum(-1)
        return self.weights.log().to(x) + 0.5 * (quadratic - self.dim * math.log(2 * math.pi)), own_score

    def _score(self, x: Data, scale: Tensor | None, std: Tensor | None) -> Data:
        log_terms, own_score = self._terms(x, scale, std)
        share = torch.softmax(log_terms, 1)
        return (own_score * share[..., None]).flatten(1) @ self._all_axes.to(x).mT


class Gaussian(GaussianMixture):
    """N(mean, cov) on points (batch, D).

    Args:
        mean: (D,), or one number for D = 1.
        cov: (D, D) symmetric, or one number for a multiple of the identity; zero variances as for the mixture.

    Raises:
        ValueError: if shapes do not fit, values are not finite, or ``cov`` is not symmetric and non-negative.
    """

    _cov_name = "cov"

    def __init__(self, mean: Numbers, cov: Numbers) -> None:
        dtype = mean.dtype if isinstance(mean, Tensor) and mean.is_floating_point() else torch.get_default_dtype()
        mean, cov = _parameter(mean, "mean"), _parameter(cov, "cov")
        if mean.ndim > 1:
            raise ValueError(f"mean: needs shape (D,), got {tuple(mean.shape)}")
        mean = mean.reshape(1, -1)
        if cov.ndim and cov.shape != (mean.shape[1],) * 2:
            raise ValueError(
                f"cov: needs shape ({mean.shape[1]}, {mean.shape[1]}) or one number for a mean of {mean.shape[1]} numbers, "
                f"got {tuple(cov.shape)}"
            )
        super().__init__(torch.ones(1, dtype=torch.float64), mean, cov if cov.ndim == 0 else cov[None])
        self.dtype = dtype

    @property
    def mean(self) -> Tensor:
        """The mean, (D,)."""
        return self.means[0]

    @property
    def cov(self) -> Tensor:
        """The covariance, (D, D)."""
        return self.covs[0]

    def kl(self, other: Gaussian) -> float:
        r"""KL(self || other) in nats, for self N(m, C) and other N(m', C').

        .. math:: \tfrac12 \Big[ &\operatorname{tr}(C'^{-1} C) - D + \log\frac{\det C'}{\det C} \\
            &+ (m' - m)^\top C'^{-1} (m' - m) \Big]

        Raises:
            TypeError: if ``other`` is not a Gaussian; between mixtures there is no closed form.
            ValueError: if the dimensions differ or a variance is zero.
        """
        if not isinstance(other, Gaussian):
            raise TypeError(f"other: needs a Gaussian, got {type(other).__name__}")
        if other.dim != self.dim:
            raise ValueError(f"other: needs dimension {self.dim}, got {other.dim}")
        self._need_density()
        other._need_density()
        gap = (other.mean - self.mean)[:, None]
        ratio = torch.linalg.solve(other.cov, self.cov)
        # log det of the ratio through log1p keeps small divergences: KLs of 1e-7 are asked for.
        spread = torch.linalg.eigvals(ratio).real - 1.0
        distance = float((gap.T @ torch.linalg.solve(other.cov, gap)).squeeze())
        return 0.5 * (float((spread - torch.log1p(spread)).sum()) + distance)


def _parameter(value: Numbers, name: str) -> Tensor:
    tensor = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    if not bool(torch.isfinite(tensor).all()):
        first = float(tensor.flatten()[int((~torch.isfinite(tensor.flatten())).nonzero()[0])])
        raise ValueError(f"{name}: needs finite values, got {first}")
    return tensor


def _covariances(covs: Tensor, K: int, D: int, *, name: str) -> Tensor:
    if covs.ndim <= 1 and covs.numel() in (1, K):
        return covs.reshape(-1, 1, 1).expand(K, 1, 1) * torch.eye(D, dtype=torch.float64)
    if covs.shape != (K, D, D):
        raise ValueError(f"{name}: needs shape ({K}, {D}, {D}), ({K},) or one number, got {tuple(covs.shape)}")
    gap = float((covs - covs.mT).abs().max())
    if gap > 1e-6 * float(covs.abs().max()):  # a covariance estimated in float32 is symmetric to 1e-7 only
        raise ValueError(
            f"{name}: needs symmetric matrices, got entries that differ from their mirror image by {gap:g}"
        )
    return 0.5 * (covs + covs.mT)
