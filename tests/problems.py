"""Closed-form oracles that several tests share. Nothing here calls the library's own formulas.

Kernels and transitions are computed with mpmath at 50 digits from the definitions in the paper, with the differences
written as differences: at 50 digits nothing cancels, so the oracle shares no trick with the library.
"""

from __future__ import annotations

import math

import mpmath
import numpy as np
import torch

from sdelib import (
    SDE,
    VE,
    VP,
    Chain,
    Gaussian,
    GaussianMixture,
    Noising,
    SubVP,
    ddpm,
    geometric_sigmas,
    linear_betas,
    smld,
)

mpmath.mp.dps = 50

SDES = [VE(), VP(), SubVP(), VE(0.02, 30.0, T=2.0), VP(0.2, 9.0, T=2.0), SubVP(0.05, 12.0, T=0.5)]
CHAINS = [smld(geometric_sigmas(40)), ddpm(linear_betas(50)), Chain.from_sde(SubVP(), torch.linspace(0.05, 1.0, 20))]


def name(noising: Noising) -> str:
    """A short name for a test's id."""
    return f"{type(noising).__name__}-T{noising.T:g}" if isinstance(noising, SDE) else f"chain{noising.N}"


# --- kernels, from the definitions, at 50 digits ----------------------------------------------------------------


def mp_kernel(sde: SDE, t: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """(scale, variance) of x(t) given x(0) for VE, VP and sub-VP (paper eq. 9, 11, 12; VE without sigma(0)^2)."""
    t, T = mpmath.mpf(float(t)), mpmath.mpf(sde.T)
    if isinstance(sde, VE):
        low, high = mpmath.mpf(sde.sigma_min), mpmath.mpf(sde.sigma_max)
        return mpmath.mpf(1), (low * (high / low) ** (t / T)) ** 2
    low, high = mpmath.mpf(sde.beta_min), mpmath.mpf(sde.beta_max)
    B = low * t + (high - low) * t**2 / (2 * T)
    variance = 1 - mpmath.exp(-B)
    return mpmath.exp(-B / 2), variance**2 if isinstance(sde, SubVP) else variance


def mp_transition(sde: SDE, s: float, t: float) -> tuple[mpmath.mpf, mpmath.mpf]:
    """(a, b^2) from s to t: a = scale_t/scale_s, b^2 = std_t^2 - a^2 std_s^2; time 0 is clean data."""
    scale_s, variance_s = mp_kernel(sde, s) if s else (mpmath.mpf(1), mpmath.mpf(0))
    scale_t, variance_t = mp_kernel(sde, t)
    a = scale_t / scale_s
    return a, variance_t - a**2 * variance_s


# --- a user's own noisings: scale and std, nothing else ----------------------------------------------------------


class Cosine(SDE):
    """scale = cos(w t), std = sin(w t) on [0, 2]: variance preserving, f = -w tan(w t), g^2 = 2 w tan(w t)."""

    T = 2.0
    w = 0.45 * math.pi / 2.0

    def scale(self, t):
        return torch.cos(self.w * t)

    def std(self, t):
        return torch.sin(self.w * t)


class Brownian(SDE):
    """x0 plus Brownian motion on [0, 2]: scale 1, std sqrt(t), so f = 0 and g = 1, also at time 0."""

    T = 2.0

    def scale(self, t):
        return torch.ones_like(t)

    def std(self, t):
        return torch.sqrt(t)


class Impossible(SDE):
    """A std that falls while the mean stays: noise cannot be taken back, so no SDE has these two."""

    def scale(self, t):
        return torch.ones_like(t)

    def std(self, t):
        return 2.0 - t


# --- laws -------------------------------------------------------------------------------------------------------

G1 = {"mean": 0.5, "cov": 0.25}  # the book's one-dimensional test law N(0.5, 0.25)


def g1() -> Gaussian:
    """N(0.5, 0.25) in float64."""
    return Gaussian(torch.tensor([0.5], dtype=torch.float64), torch.tensor([[0.25]], dtype=torch.float64))


def g3() -> Gaussian:
    """A 3-D Gaussian with a full covariance: variances 0.1 to 2, correlations of both signs."""
    cov = torch.tensor([[2.0, 0.6, -0.3], [0.6, 0.5, -0.05], [-0.3, -0.05, 0.1]], dtype=torch.float64)
    return Gaussian(torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64), cov)


def gm2() -> GaussianMixture:
    """Three unequal components in 2-D with full covariances."""
    means = torch.tensor([[-1.5, 0.0], [1.0, 1.2], [0.5, -1.0]], dtype=torch.float64)
    covs = torch.tensor(
        [[[0.2, 0.1], [0.1, 0.3]], [[0.05, -0.02], [-0.02, 0.1]], [[0.5, 0.0], [0.0, 0.02]]], dtype=torch.float64
    )
    return GaussianMixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, covs)


def gaussian_kl(mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray) -> float:
    """KL(N1 || N2) in nats at 50 digits, by the textbook formula."""
    D = len(mean1)
    m = mpmath.matrix([float(b) - float(a) for a, b in zip(mean1, mean2, strict=True)])
    C1, C2 = mpmath.matrix(cov1.tolist()), mpmath.matrix(cov2.tolist())
    inverse = C2**-1
    trace = sum((inverse * C1)[i, i] for i in range(D))
    distance = (m.T * inverse * m)[0]
    return float((trace - D + distance + mpmath.log(mpmath.det(C2) / mpmath.det(C1))) / 2)


def z_scores(samples: torch.Tensor, mean: torch.Tensor, cov: torch.Tensor) -> torch.Tensor:
    """How many standard errors the sample means and covariances of a Gaussian are from the truth: (D + D*D,).

    The covariance estimator's variance is (C_ii C_jj + C_ij^2)/n around the known mean.
    """
    n = len(samples)
    centred = samples.double() - mean
    of_mean = centred.mean(0) / (cov.diagonal() / n).sqrt()
    spread = cov.diagonal()[:, None] * cov.diagonal()[None] + cov**2
    of_cov = (centred.T @ centred / n - cov) / (spread / n).sqrt()
    return torch.cat([of_mean, of_cov.flatten()])
