"""Gaussians and mixtures: densities, scores, what noise does to them, and samples."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdelib import VE, VP, Gaussian, GaussianMixture, SubVP, grad_of
from tests.problems import CHAINS, SDES, Cosine, g1, g3, gaussian_kl, gm2, mp_kernel, name, z_scores

f64 = torch.float64
LAWS = {"G1": g1, "G3": g3, "GM2": gm2}
NOISINGS = [*SDES[:3], SDES[4], Cosine(), *CHAINS]
each_law = pytest.mark.parametrize("law", [make() for make in LAWS.values()], ids=LAWS)
each_noising = pytest.mark.parametrize("noising", NOISINGS, ids=name)


def scipy_log_prob(law: GaussianMixture, x: torch.Tensor) -> torch.Tensor:
    terms = [
        math.log(w) + scipy.stats.multivariate_normal(m, c).logpdf(x.numpy())
        for w, m, c in zip(law.weights.tolist(), law.means.numpy(), law.covs.numpy(), strict=True)
    ]
    return torch.from_numpy(scipy.special.logsumexp(np.stack(terms).reshape(len(terms), -1), axis=0))


# --- density and score -------------------------------------------------------------------------------------------


@each_law
def test_log_prob_against_scipy(law, generator):
    x = 3 * torch.randn(50, law.dim, dtype=f64, generator=generator)
    # Both take an eigendecomposition of covariances of condition up to 60: 1e-16 times that times |x|^2.
    torch.testing.assert_close(law.log_prob(x), scipy_log_prob(law, x), rtol=1e-12, atol=1e-12)


@each_law
def test_score_is_the_gradient_of_log_prob(law, generator):
    x = 3 * torch.randn(50, law.dim, dtype=f64, generator=generator)
    by_autograd = grad_of(lambda points, _: law.log_prob(points))(x, torch.zeros(50))
    torch.testing.assert_close(law.score(x), by_autograd, rtol=1e-10, atol=1e-10)


@each_law
@each_noising
def test_diffused_score_at_every_items_own_time(law, noising, generator):
    t = torch.tensor([0.05, 0.1, 0.3, 0.6, 1.0], dtype=f64) * noising.T  # levels of every chain here, too
    t = torch.round(t * 50) / 50 if noising in CHAINS else t
    x = torch.randn(5, law.dim, dtype=f64, generator=generator) * 2
    score = law.score_fn(noising)(x, t)
    for i in range(5):
        at = law.at(noising, t[i])
        by_autograd = grad_of(lambda points, _, at=at: at.log_prob(points))(x[i : i + 1], t[i : i + 1])
        torch.testing.assert_close(score[i : i + 1], by_autograd, rtol=1e-10, atol=1e-10)


@given(
    K=st.integers(1, 4), D=st.integers(1, 5), seed=st.integers(0, 10**6), t=st.floats(1e-3, 1.0),
    noising=st.sampled_from(NOISINGS[:3]), dtype=st.sampled_from([torch.float32, f64]),
)  # fmt: skip
def test_any_mixture_at_any_time(K, D, seed, t, noising, dtype):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(K, D, D, dtype=f64, generator=generator)
    covs = root @ root.mT + 0.1 * torch.eye(D, dtype=f64)
    law = GaussianMixture(
        torch.rand(K, dtype=f64, generator=generator) + 0.1, 2 * torch.randn(K, D, dtype=f64, generator=generator), covs
    )
    scale, variance = (float(v) for v in mp_kernel(noising, t))
    x = math.sqrt(1 + variance) * torch.randn(6, D, dtype=f64, generator=generator)
    # Straight from the formulas: r_k(x) C_k^-1 (m_k - x) with solves instead of eigenvectors
    C = scale**2 * law.covs + variance * torch.eye(D, dtype=f64)
    gap = scale * law.means[None] - x[:, None]
    own = torch.linalg.solve(C[None].expand(6, -1, -1, -1), gap[..., None])[..., 0]
    log_terms = law.weights.log() - 0.5 * (gap * own).sum(-1) - 0.5 * torch.logdet(C)
    truth = (torch.softmax(log_terms, 1)[..., None] * own).sum(1)
    score = law.score_fn(noising)(x.to(dtype), torch.full((6,), t, dtype=f64))
    assert score.dtype == dtype
    # float32: log terms of size 100 are rounded to 1e-5, and so are the components' shares.
    tolerance = 1e-9 if dtype == f64 else 2e-3
    torch.testing.assert_close(score.double(), truth, rtol=tolerance, atol=tolerance * float(1 + own.abs().max()))


def test_responsibilities_are_bayes_rule(generator):
    law = gm2()
    x = torch.randn(20, 2, dtype=f64, generator=generator)
    joint = np.stack(
        [
            w * scipy.stats.multivariate_normal(m, c).pdf(x.numpy())
            for w, m, c in zip(law.weights.tolist(), law.means.numpy(), law.covs.numpy(), strict=True)
        ],
        axis=1,
    )
    torch.testing.assert_close(
        law.responsibilities(x), torch.from_numpy(joint / joint.sum(1, keepdims=True)), rtol=1e-11, atol=0
    )


def test_far_out_nothing_underflows():
    # 1e4 standard deviations away every density is 0 in float64; the score is still that of the nearest component.
    score = gm2().score(torch.tensor([[1e4, 0.0]], dtype=f64))
    assert bool(torch.isfinite(score).all())
    assert float(score[0, 0]) < -1e3


# --- noise ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noising", NOISINGS[:5], ids=name)
@pytest.mark.parametrize("share", [0.03, 0.3, 1.0])
def test_diffused_density_is_a_convolution(noising, share):
    law = GaussianMixture([0.7, 0.3], torch.tensor([[-1.0], [1.5]], dtype=f64), torch.tensor([0.2, 0.05], dtype=f64))
    t = torch.tensor(share * noising.T, dtype=f64)
    scale, std = float(noising.scale(t)), float(noising.std(t))
    # p_t(x) = integral of p_0(x0) N(x; scale x0, std^2). The trapezoid rule converges faster than any power on smooth
    # integrands that vanish at the ends; its step 1/2500 is far below the narrowest width, 0.015 (VE at t = 0.03).
    x0 = torch.linspace(-8, 8, 40_001, dtype=f64)
    p0 = scipy_log_prob(law, x0[:, None]).exp()
    for x in (-2.0, -0.4, 0.0, 0.9, 3.0):
        kernel = torch.from_numpy(scipy.stats.norm.pdf(x, loc=scale * x0.numpy(), scale=std))
        density = float(torch.trapezoid(p0 * kernel, x0))
        assert float(law.at(noising, t).log_prob(torch.tensor([[x]], dtype=f64)).exp()) == pytest.approx(
            density, rel=1e-9
        )


@pytest.mark.parametrize("noising", [VE(sigma_max=3.0), VP(), CHAINS[1]], ids=name)
def test_diffused_law_has_the_moments_of_perturbed_samples(noising, generator):
    law, t, n = g3(), 0.4, 100_000
    x0 = law.sample(n, generator=generator)
    x = noising.perturb(x0, torch.full((n,), t, dtype=f64), torch.randn(n, 3, dtype=f64, generator=generator))
    at = law.at(noising, t)
    assert float(z_scores(x, at.mean, at.cov).abs().max()) < 4.5  # 12 numbers, 4.5 standard errors: chance 1e-4


def test_diffusing_twice_is_diffusing_once():
    sde, s, t = VP(), 0.2, 0.7
    a, b = (float(v) for v in sde.transition(s, t))
    early, late = gm2().at(sde, s), gm2().at(sde, t)
    torch.testing.assert_close(a * early.means, late.means, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(a**2 * early.covs + b**2 * torch.eye(2, dtype=f64), late.covs, rtol=1e-13, atol=1e-15)
    assert isinstance(g3().at(sde, 0.5), Gaussian)
    assert type(late) is GaussianMixture


def test_at_time_0():
    assert torch.equal(gm2().at(VP(), 0.0).covs, gm2().covs)
    # VE keeps sigma_min at time 0 (the class says so), and the score function agrees with .at
    x = torch.tensor([[0.3, 0.1]], dtype=f64)
    ve = VE(sigma_min=0.1)
    torch.testing.assert_close(gm2().at(ve, 0.0).covs, gm2().covs + 0.01 * torch.eye(2, dtype=f64), rtol=1e-14, atol=0)
    torch.testing.assert_close(
        gm2().at(ve, 0.0).score(x), gm2().score_fn(ve)(x, torch.zeros(1, dtype=f64)), rtol=1e-10, atol=0
    )


def test_point_masses_have_a_law_once_diffused(generator):
    law = GaussianMixture([1.0, 1.0, 2.0], torch.tensor([[0.0], [1.0], [3.0]], dtype=f64), 0.0)
    assert set(law.sample(100, generator=generator).flatten().tolist()) == {0.0, 1.0, 3.0}
    x = torch.linspace(-1, 4, 7, dtype=f64)[:, None]
    std = float(SubVP().std(0.1))
    truth = sum(
        w * scipy.stats.norm.pdf(x.numpy().ravel(), float(SubVP().scale(0.1)) * m, std)
        for w, m in [(0.25, 0), (0.25, 1), (0.5, 3)]
    )
    assert law.at(SubVP(), 0.1).log_prob(x).exp().tolist() == pytest.approx(truth.tolist(), rel=1e-11)
    with pytest.raises(ValueError, match="covs: a law with a zero variance has no density or score; diffuse it first"):
        law.score(x)
    with pytest.raises(ValueError, match="cov: a law with a zero variance"):
        Gaussian(torch.zeros(2), 0.0).log_prob(torch.zeros(1, 2))


# --- samples -------------------------------------------------------------------------------------------------------


def test_mixture_samples_visit_components_by_weight(generator):
    n, weights = 50_000, torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=f64)
    law = GaussianMixture(weights, torch.arange(4.0)[:, None] * 100, 1.0)
    counts = torch.round(law.sample(n, generator=generator)[:, 0] / 100).long().bincount(minlength=4)
    assert scipy.stats.chisquare(counts.numpy(), n * weights.numpy()).pvalue > 1e-3  # fixed seed


def test_samples_have_the_moments_of_every_component(generator):
    law = gm2()
    x = law.sample(100_000, generator=generator)
    near = (x[:, None] - law.means).norm(dim=2).argmin(1)
    assert bool((near.bincount() > 10_000).all())
    n = 100_000
    mean = (law.weights[:, None] * law.means).sum(0)
    second = (law.weights[:, None, None] * (law.covs + law.means[:, :, None] * law.means[:, None])).sum(0)
    cov = second - mean[:, None] * mean
    assert float(((x.mean(0) - mean) / (cov.diagonal() / n).sqrt()).abs().max()) < 4.5
    products = x[:, :, None] * x[:, None]  # standard errors from the samples themselves: no fourth moments by hand
    assert float(((products.mean(0) - second) / (products.std(0) / math.sqrt(n))).abs().max()) < 4.5


def test_gaussian_samples(generator):
    x = g3().sample(100_000, generator=generator)
    assert float(z_scores(x, g3().mean, g3().cov).abs().max()) < 4.5


def test_same_generator_same_samples(untouched):
    for law in (gm2(), g3()):
        first, again = (law.sample(10, generator=torch.Generator().manual_seed(1)) for _ in range(2))
        assert torch.equal(first, again)
        as_float = law.sample(10, generator=torch.Generator().manual_seed(1), dtype=torch.float32)
        assert torch.equal(as_float, first.float())


def test_dtype_follows_the_means():
    assert Gaussian(torch.zeros(2), 1.0).sample(3).dtype == torch.float32
    assert Gaussian(torch.zeros(2, dtype=f64), 1.0).at(VP(), 0.5).sample(3).dtype == f64
    assert GaussianMixture([1, 2], [[0], [5]], 1).sample(3).dtype == torch.get_default_dtype()
    x = torch.zeros(4, 2)
    assert gm2().log_prob(x).dtype == gm2().score(x).dtype == torch.float32
    assert gm2().score_fn(VP())(x, torch.full((4,), 0.5, dtype=f64)).dtype == torch.float32


# --- KL ------------------------------------------------------------------------------------------------------------


def test_kl_against_quadrature():
    p, q = Gaussian(0.3, 0.5), Gaussian(-0.2, 1.4)
    np_p, np_q = scipy.stats.norm(0.3, math.sqrt(0.5)), scipy.stats.norm(-0.2, math.sqrt(1.4))
    truth, _ = scipy.integrate.quad(lambda x: np_p.pdf(x) * (np_p.logpdf(x) - np_q.logpdf(x)), -10, 10, epsabs=1e-13)
    assert p.kl(q) == pytest.approx(truth, rel=1e-10)


def test_kl_in_three_dimensions_and_near_zero():
    p, q = g3(), g3().at(VP(), 0.3)
    assert p.kl(q) == pytest.approx(gaussian_kl(p.mean, p.cov.numpy(), q.mean, q.cov.numpy()), rel=1e-12)
    assert p.kl(p) == pytest.approx(0.0, abs=1e-14)
    near = Gaussian(p.mean + 1e-5, p.cov * (1 + 1e-5))
    assert p.kl(near) == pytest.approx(gaussian_kl(p.mean, p.cov.numpy(), near.mean, near.cov.numpy()), rel=1e-5)


def test_a_covariance_estimated_in_float32_is_taken(generator):
    # Symmetric and non-negative to float32's rounding only: rank 2 in three dimensions, eigenvalues down to -1e-8.
    x = torch.randn(3, 2, generator=generator)
    cov = x @ x.T + torch.tensor([[0.0, 1e-8, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    law = Gaussian(torch.zeros(3), cov)
    assert torch.equal(law.cov, law.cov.T)
    assert bool(torch.isfinite(law.sample(100, generator=generator)).all())


def test_the_prior_gap_of_vp():
    assert g1().at(VP(), 1.0).kl(Gaussian(0.0, 1.0)) == pytest.approx(5.398e-6, abs=5e-10)


# --- posteriors and classes ----------------------------------------------------------------------------------------

MEASURE, SEEN = torch.tensor([[1.0, 0.5]], dtype=f64), torch.tensor([0.4], dtype=f64)


def test_the_posterior_is_bayes_rule_pointwise(generator):
    # log p(x | y) - log p(x) - log p(y | x) is one number, -log p(y), wherever it is asked.
    x, law, y = 2 * torch.randn(50, 2, dtype=f64, generator=generator), gm2(), torch.tensor([0.4, -0.3], dtype=f64)
    A = torch.cat([MEASURE, MEASURE.flip(1)])
    for sigma in (0.05, 0.4, 3.0):
        likelihood = scipy.stats.norm(0.0, sigma).logpdf((y - x @ A.T).numpy()).sum(1)
        gap = law.given(A, y, noise_std=sigma).log_prob(x) - law.log_prob(x) - torch.from_numpy(likelihood)
        # log terms of size |x|^2 / variance, up to 1e5 at sigma = 0.05
        torch.testing.assert_close(gap, gap[0].expand(50), rtol=0, atol=1e-8)
        evidence = GaussianMixture(
            law.weights, law.means @ A.T, A @ law.covs @ A.T + sigma**2 * torch.eye(2, dtype=f64)
        )
        assert float(gap[0]) == pytest.approx(-float(evidence.log_prob(y[None])[0]), abs=1e-8)


@each_noising
def test_the_conditional_score_against_brute_force(noising):
    """grad log of the integral over x(0) of p(x0) p(y | x0) p(x(t) | x0), by the trapezoid rule on a line."""
    law = GaussianMixture([0.7, 0.3], torch.tensor([[-1.0], [1.5]], dtype=f64), torch.tensor([0.2, 0.05], dtype=f64))
    y, sigma = torch.tensor([0.3], dtype=f64), 0.6
    score = law.given([[2.0]], y, noise_std=sigma).score_fn(noising)
    x0 = torch.linspace(-6, 6, 40_001, dtype=f64)  # far finer than std 0.014 at t = 0.1
    log_joint = law.log_prob(x0[:, None]) - 0.5 * ((y - 2.0 * x0) / sigma) ** 2
    for share in (0.1, 0.4, 1.0):
        t = torch.tensor([round(share * 50) / 50 * noising.T], dtype=f64)
        scale, std = noising.scale(t), noising.std(t)
        for x in (-0.7, 0.1, 1.2):
            share_of = torch.softmax(log_joint - 0.5 * ((x - scale * x0) / std) ** 2, 0)
            truth = (share_of * (scale * x0 - x)).sum() / std**2
            got = score(torch.tensor([[x]], dtype=f64), t)
            # The trapezoid rule is as good as exact on smooth integrands; 1/std^2 times 1e-12 of rounding is left.
            assert float(got) == pytest.approx(float(truth), rel=1e-8, abs=1e-8)


def test_samples_that_happen_to_fit_are_the_posterior(generator):
    law, sigma = gm2(), 0.1
    x0 = law.sample(400_000, generator=generator, dtype=f64)
    y = x0 @ MEASURE.T + sigma * torch.randn(len(x0), 1, dtype=f64, generator=generator)
    kept = x0[((y - SEEN).abs() < 0.03)[:, 0]]
    post = law.given(MEASURE, SEEN, noise_std=sigma)
    assert len(kept) > 1500
    # A window of 0.03 beside a noise of 0.1 shifts nothing that these errors could show.
    error = (post.cov.diagonal() / len(kept)).sqrt()
    assert float(((kept.mean(0) - post.mean) / error).abs().max()) < 4
    torch.testing.assert_close(torch.cov(kept.T), post.cov, rtol=0, atol=0.06)


def test_what_is_known_without_noise_is_a_point_mass_until_diffused():
    post = g3().given(torch.eye(3)[:1], [2.0])
    assert isinstance(post, Gaussian)
    C = g3().cov
    torch.testing.assert_close(post.mean[1:], g3().mean[1:] + C[1:, 0] / C[0, 0] * 1.0, rtol=1e-13, atol=0)
    torch.testing.assert_close(post.cov[1:, 1:], C[1:, 1:] - C[1:, :1] @ C[:1, 1:] / C[0, 0], rtol=1e-12, atol=1e-14)
    assert float(post.cov[0].abs().max()) < 1e-15
    with pytest.raises(ValueError, match="zero variance"):
        post.score(torch.zeros(1, 3))
    assert bool(torch.isfinite(post.score_fn(VP())(torch.zeros(1, 3), torch.full((1,), 0.1))).all())


def test_measuring_twice_is_measuring_both():
    law = gm2()
    once = law.given(MEASURE, SEEN, noise_std=0.3).given(MEASURE.flip(1), SEEN, noise_std=0.3)
    both = law.given(torch.cat([MEASURE, MEASURE.flip(1)]), torch.cat([SEEN, SEEN]), noise_std=0.3)
    for name_ in ("weights", "means", "covs"):
        torch.testing.assert_close(getattr(once, name_), getattr(both, name_), rtol=1e-11, atol=1e-13)
    assert both.dtype == law.dtype


def test_an_impossible_component_keeps_its_number():
    law = GaussianMixture([0.5, 0.5], [[-100.0], [100.0]], 0.01).given([[1.0]], [100.0], noise_std=0.1)
    assert law.weights.tolist() == pytest.approx([0.0, 1.0], abs=1e-300)
    assert bool(torch.isfinite(law.log_prob(torch.tensor([[100.0]]))).all())


@each_noising
def test_the_classifier_is_the_responsibilities_at_every_time(noising, generator):
    t = torch.tensor([0.1, 0.5, 1.0], dtype=f64) * noising.T
    x = torch.randn(3, 2, dtype=f64, generator=generator)
    logits = gm2().classifier(noising)(x, t)
    for i in range(3):
        r = gm2().at(noising, t[i]).responsibilities(x[i : i + 1])
        torch.testing.assert_close(logits[i : i + 1].exp(), r, rtol=1e-10, atol=1e-14)
    assert logits.exp().sum(1).tolist() == pytest.approx([1.0] * 3, rel=1e-13)


def test_parts_and_moments():
    law = gm2()
    for k in range(3):
        assert isinstance(law.part(k), Gaussian)
        assert torch.equal(law.part(k).mean, law.means[k])
        assert torch.equal(law.part(k).cov, law.covs[k])
        assert law.part(k).dtype == law.dtype
    # The law of total variance, by hand
    second = (law.weights[:, None, None] * (law.covs + law.means[:, :, None] * law.means[:, None])).sum(0)
    torch.testing.assert_close(law.mean, (law.weights[:, None] * law.means).sum(0), rtol=1e-14, atol=1e-16)
    torch.testing.assert_close(law.cov, second - law.mean[:, None] * law.mean, rtol=1e-13, atol=1e-15)


# --- bad input -----------------------------------------------------------------------------------------------------

I2 = torch.eye(2)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: GaussianMixture([0.5, -0.5], [[0.0], [1.0]], 1.0), ValueError, r"weights: need .* above 0, got \[0.5, -0.5\]"),
        (lambda: GaussianMixture([0.5], [[0.0], [1.0]], 1.0), ValueError, r"means: needs shape \(K, D\) .* got \(2, 1\)"),
        (lambda: GaussianMixture([0.5], [0.0], 1.0), ValueError, r"means: needs shape \(K, D\)"),
        (lambda: GaussianMixture([0.5, math.nan], [[0.0], [1.0]], 1.0), ValueError, "weights: needs finite values, got nan"),
        (lambda: GaussianMixture([1.0], [[0.0, math.inf]], 1.0), ValueError, "means: needs finite values, got inf"),
        (lambda: GaussianMixture([1.0], [[0.0, 0.0]], -1.0), ValueError, "covs: needs variances of at least 0, got .* -1"),
        (lambda: GaussianMixture([1.0, 1.0], torch.zeros(2, 2), torch.ones(3)), ValueError, r"covs: needs shape \(2, 2, 2\)"),
        (lambda: GaussianMixture([1.0], torch.zeros(1, 2), torch.tensor([[[1.0, 0.5], [0.0, 1.0]]])), ValueError,
         "covs: needs symmetric matrices, got entries that differ .* by 0.5"),
        (lambda: Gaussian(torch.zeros(2), torch.eye(3)), ValueError, r"cov: needs shape \(2, 2\) or one number .* got \(3, 3\)"),
        (lambda: Gaussian(torch.zeros(2), torch.ones(2)), ValueError, r"cov: needs shape \(2, 2\) or one number .* got \(2,\)"),
        (lambda: Gaussian(torch.zeros(1, 2), I2), ValueError, r"mean: needs shape \(D,\), got \(1, 2\)"),
        (lambda: Gaussian(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])), ValueError, "cov: .* got .* -1"),
        (lambda: Gaussian(math.nan, 1.0), ValueError, "mean: needs finite values, got nan"),
        (lambda: gm2().log_prob(torch.zeros(3)), ValueError, r"x: needs points of shape \(batch, 2\), got \(3,\)"),
        (lambda: gm2().score(torch.zeros(4, 3)), ValueError, r"x: needs points of shape \(batch, 2\), got \(4, 3\)"),
        (lambda: gm2().score(torch.zeros(4, 2, dtype=torch.long)), TypeError, r"x: needs floating-point points, got torch.int64"),
        (lambda: gm2().score_fn(VP())(torch.zeros(4, 2), torch.tensor(0.5)), ValueError, r"t: needs one time an item"),
        (lambda: gm2().score_fn(VP())(torch.zeros(4, 2), torch.ones(3)), ValueError, r"shape \(4,\), got \(3,\)"),
        (lambda: gm2().at(VP(), 1.5), ValueError, r"t: needs times in \[0, 1\], got values from 1.5"),
        (lambda: gm2().at(VP(), -0.1), ValueError, r"t: needs times in \[0, 1\], got values from -0.1"),
        (lambda: gm2().at(VP(), math.nan), ValueError, r"t: needs times in \[0, 1\], got values from nan"),
        (lambda: gm2().at(VP(), torch.tensor([0.1, 0.2])), ValueError, r"t: needs one time for the whole law, got shape \(2,\)"),
        (lambda: gm2().sample(0), ValueError, "n: needs a whole number of points, at least 1, got 0"),
        (lambda: gm2().part(3), ValueError, "k: needs a component from 0 to 2, got 3"),
        (lambda: gm2().given(torch.ones(2), [1.0]), ValueError, r"A: needs shape \(M, 2\), got \(2,\)"),
        (lambda: gm2().given(torch.ones(1, 3), [1.0]), ValueError, r"A: needs shape \(M, 2\), got \(1, 3\)"),
        (lambda: gm2().given(I2, [1.0]), ValueError, r"y: needs one number for each row of A, shape \(2,\), got \(1,\)"),
        (lambda: gm2().given(I2, [1.0, math.nan]), ValueError, "y: needs finite values, got nan"),
        (lambda: gm2().given(I2, [1.0, 0.0], noise_std=-1.0), ValueError, "noise_std: .* at least 0, got -1.0"),
        (lambda: gm2().given(torch.ones(2, 2), [1.0, 1.0]), ValueError, "noise_std: needs to be above 0 .* same thing twice"),
        (lambda: gm2().classifier(VP())(torch.zeros(4, 2), torch.ones(3)), ValueError, r"t: .* shape \(4,\), got \(3,\)"),
        (lambda: g3().kl(g1()), ValueError, "other: needs dimension 3, got 1"),
        (lambda: g3().kl(gm2()), TypeError, "other: needs a Gaussian, got GaussianMixture"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
