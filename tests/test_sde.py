"""SDEs: what follows from scale and std, the closed forms, their precision, and their transitions."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdelib import SDE, VE, VP, Ito, Noising, SubVP, euler_maruyama, simulate
from tests.problems import SDES, Brownian, Cosine, Impossible, mp_kernel, mp_transition, name

f64 = torch.float64
each_sde = pytest.mark.parametrize("sde", SDES, ids=name)
OWN = [Cosine(), Brownian()]


def times(T: float, n: int = 200, low: float = 1e-5) -> torch.Tensor:
    """Times from low to T, dense near 0, where things cancel."""
    return torch.logspace(math.log10(low), 0.0, n, dtype=f64) * T


# --- override equals default ------------------------------------------------------------------------------------


@each_sde
def test_closed_f_and_g_equal_the_derived_ones(sde):
    t = times(sde.T)
    # One rounding per operation in float64, no cancellation in either: a few 1e-16, times z = 17 inside VE's exp.
    torch.testing.assert_close(SDE.f(sde, t), sde.f(t), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(SDE.g(sde, t), sde.g(t), rtol=1e-11, atol=0)


@each_sde
def test_derived_f_and_g_in_float32_are_as_good_as_float32(sde):
    t = times(sde.T).float()
    assert SDE.g(sde, t).dtype == SDE.f(sde, t).dtype == torch.float32
    torch.testing.assert_close(SDE.g(sde, t), SDE.g(sde, t.double()).float(), rtol=2e-7, atol=0)


@each_sde
def test_derived_g_is_finite_at_time_0(sde):
    # Where std starts like sqrt(t) the derived g is taken at 1e-6 T: off by the relative change of g up to there.
    zero = torch.zeros(1, dtype=f64)
    torch.testing.assert_close(SDE.g(sde, zero), sde.g(zero), rtol=3e-4, atol=1e-4 * float(sde.g(sde.T)))


@each_sde
def test_closed_transition_equals_the_default(sde):
    s, t = times(sde.T, 60)[:, None], times(sde.T, 60)[None]
    s, t = torch.minimum(s, t), torch.maximum(s, t)
    (a, b), (a0, b0) = sde.transition(s, t), Noising.transition(sde, s, t)
    torch.testing.assert_close(a, a0, rtol=1e-13, atol=0)
    # The default subtracts numbers of size std_t^2: it is right to some 1e-16 of that, which is why it is overridden.
    assert float(((b**2 - b0**2).abs() / sde.std(t) ** 2).max()) < 2e-14


def test_a_subclass_needs_scale_and_std_only():
    sde, t = Cosine(), torch.linspace(0.0, 2.0, 101, dtype=f64)
    wt = sde.w * t
    torch.testing.assert_close(sde.f(t), -sde.w * wt.tan(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(sde.g(t), (2 * sde.w * wt.tan()).sqrt(), rtol=1e-10, atol=1e-12)
    assert sde.prior_std == pytest.approx(math.sin(0.45 * math.pi), rel=1e-15)
    # variance preserving, so a^2 + b^2 = 1 for every transition
    a, b = sde.transition(t[:-1], t[1:])
    torch.testing.assert_close(a**2 + b**2, torch.ones_like(a), rtol=1e-14, atol=0)


def test_brownian_motion_has_g_1_from_the_start():
    t = torch.tensor([0.0, 1e-9, 0.3, 2.0], dtype=f64)
    torch.testing.assert_close(Brownian().g(t), torch.ones_like(t), rtol=1e-14, atol=0)
    # also as a forward simulation that starts at time 0: 0.5 + N(0, 2) after T = 2; 4.5 standard errors
    x0, n = torch.full((4000, 1), 0.5, dtype=f64), 4000
    sde = Brownian()
    grid = torch.linspace(0, 2, 51)
    x = simulate(euler_maruyama(sde.drift, sde.diffusion), x0, grid, generator=torch.Generator().manual_seed(1)).x
    assert abs(float(x.mean()) - 0.5) < 4.5 * math.sqrt(2 / n)
    assert abs(float(x.var()) - 2) < 4.5 * 2 * math.sqrt(2 / n)


def test_noise_cannot_be_taken_back():
    assert bool(torch.isnan(Impossible().g(torch.linspace(0.1, 1, 5))).all())


# --- closed forms, and their precision ---------------------------------------------------------------------------


@each_sde
def test_kernel_in_float64(sde):
    for t in times(sde.T, 30, low=1e-9):
        scale, variance = mp_kernel(sde, t)
        assert float(sde.scale(t)) == pytest.approx(float(scale), rel=5e-15)
        assert float(sde.std(t)) == pytest.approx(float(variance**0.5), rel=5e-15)


@each_sde
def test_float32_std_is_right_to_1e_5_down_to_small_times(sde):
    t = times(sde.T, 80, low=1e-6).float()
    truth = torch.tensor([float(mp_kernel(sde, float(u))[1] ** 0.5) for u in t], dtype=f64)
    error = (sde.std(t).double() / truth - 1).abs().max()
    assert sde.std(t).dtype == torch.float32
    # VE's exponent goes up to 8.5, so exp in float32 is right to 8.5 * 6e-8; VP and sub-VP do better.
    assert float(error) < 1e-6


def test_the_obvious_formula_would_not_be():
    # 1 - exp(-B) in float32, as the authors' code has it: why expm1 is there (paper.md: 1.4 % and more below 1e-4).
    sde, t = VP(), times(1.0, 80, low=1e-6).float()
    naive = (1 - torch.exp(-sde.beta_integral(t))).sqrt()
    assert float((naive / sde.std(t) - 1).abs().max()) > 0.01


@each_sde
def test_float32_transition(sde):
    # Neighbours of grids with 10 to 100,000 steps, where b^2 is a difference of close numbers.
    s, t = (v.flatten().float() for v in torch.broadcast_tensors(*_pairs(sde.T)))
    a, b = sde.transition(s, t)
    truth = [mp_transition(sde, float(u), float(v)) for u, v in zip(s, t, strict=True)]
    assert a.dtype == b.dtype == torch.float32
    # Rounding in float32: VE takes exp and expm1 of up to 8.5 and 17 (halved by the root), 6e-8 each.
    torch.testing.assert_close(a.double(), torch.tensor([float(x) for x, _ in truth], dtype=f64), rtol=1.5e-6, atol=0)
    torch.testing.assert_close(
        b.double(), torch.tensor([float(y**0.5) for _, y in truth], dtype=f64), rtol=1.5e-6, atol=0
    )
    # The default computes in float64 for float32 times, so that a user's own subclass does not lose its digits.
    default = Noising.transition(sde, s, t)[1]
    assert default.dtype == torch.float32
    torch.testing.assert_close(default, b, rtol=1e-5, atol=0)


def _pairs(T: float) -> tuple[torch.Tensor, torch.Tensor]:
    start = torch.logspace(-4, -0.001, 12, dtype=f64)[:, None] * T
    return start, (start + torch.logspace(-5, -1, 5, dtype=f64)[None] * T).clamp_max(T)


@each_sde
def test_dtypes_and_shapes_go_through(sde):
    for dtype in (torch.float32, f64):
        t = torch.full((2, 3), 0.3, dtype=dtype)
        for fn in (sde.scale, sde.std, sde.f, sde.g, lambda u: sde.transition(u / 2, u)[1], sde.clean_std):
            assert (fn(t).dtype, fn(t).shape) == (dtype, (2, 3))
    assert sde.std(0.3).dtype == f64  # a plain number counts as float64


def test_numbers_the_book_prints():
    vp, sub, ve = VP(), SubVP(), VE()
    assert float(vp.scale(1.0)) == pytest.approx(0.0065716, abs=5e-8)  # exp(-(0.1 + 19.9/2)/2)
    assert float(vp.std(1.0)) ** 2 == pytest.approx(0.9999568, abs=5e-8)
    assert float(sub.std(1.0)) ** 2 == pytest.approx(0.9999136, abs=5e-8)
    ratio = ve.sigma(torch.arange(1000, dtype=f64) / 999)
    torch.testing.assert_close(ratio[1:] / ratio[:-1], torch.full((999,), 1.00856, dtype=f64), rtol=0, atol=5e-6)
    assert (float(ve.sigma(0.0)), ve.prior_std) == (0.01, pytest.approx(50.0, rel=1e-14))
    torch.testing.assert_close(sub.std(times(1.0)), vp.std(times(1.0)) ** 2, rtol=1e-14, atol=0)
    assert bool((sub.std(times(1.0)) <= vp.std(times(1.0))).all())


# --- transitions -------------------------------------------------------------------------------------------------

share = st.floats(1e-4, 1.0)
positive = st.floats(1e-2, 30.0)


@given(
    kind=st.sampled_from([VE, VP, SubVP]), low=positive, factor=st.floats(1.01, 100.0), T=st.floats(0.2, 5.0),
    shares=st.tuples(share, share, share), from_clean=st.booleans(),
)  # fmt: skip
def test_transitions_compose(kind, low, factor, T, shares, from_clean):
    sde = kind(low, low * factor, T=T) if kind is VE else kind(min(low, 5.0), min(low, 5.0) * min(factor, 8.0), T=T)
    r, s, t = (torch.tensor(v * T, dtype=f64) for v in sorted(shares))
    r = torch.zeros_like(r) if from_clean else r
    (a1, b1), (a2, b2), (a, b) = sde.transition(r, s), sde.transition(s, t), sde.transition(r, t)
    # s = t can happen and is the identity. Rounding of B or of log sigma, up to 100, times 1e-16.
    torch.testing.assert_close(a1 * a2, a, rtol=1e-13, atol=0)
    torch.testing.assert_close((a2 * b1) ** 2 + b2**2, b**2, rtol=1e-12, atol=0)


@given(t=st.floats(1e-6, 1.0), index=st.integers(0, len(SDES) + len(OWN) - 1))
def test_the_transition_from_clean_data_is_the_kernel(t, index):
    sde = (SDES + OWN)[index]
    t = torch.tensor(t * sde.T, dtype=f64)
    a, b = sde.transition(torch.zeros_like(t), t)
    torch.testing.assert_close(a, sde.scale(t), rtol=1e-15, atol=0)
    torch.testing.assert_close(b, sde.std(t), rtol=1e-15, atol=0)
    torch.testing.assert_close(sde.transition(0.0, float(t))[1], sde.std(t), rtol=1e-15, atol=0)


@pytest.mark.parametrize("sde", [VE(), VP(), SubVP(), VP(0.2, 9.0, T=2.0), Cosine()], ids=name)
def test_transitions_agree_with_simulation(sde):
    n, s, t = 20_000, 0.3 * sde.T, 0.7 * sde.T
    x_s = torch.full((n, 1), 1.7, dtype=f64)
    grid = torch.linspace(s, t, 401, dtype=f64)
    x = simulate(euler_maruyama(sde.drift, sde.diffusion), x_s, grid, generator=torch.Generator().manual_seed(5)).x
    a, b = (float(v) for v in sde.transition(s, t))
    # 3.5 standard errors (chance 1 in 2000, and the seed is fixed) plus Euler-Maruyama's bias, of first order in the
    # step 1/400 of a span over which the rates change by a factor of at most 30: below 1 % of the variance.
    assert abs(float(x.mean()) - a * 1.7) < 3.5 * b / math.sqrt(n) + 0.005 * a * 1.7
    assert abs(float(x.var()) / b**2 - 1) < 3.5 * math.sqrt(2 / n) + 0.01


# --- perturb, prior, times ---------------------------------------------------------------------------------------


@each_sde
def test_perturb_is_the_kernel_for_points_and_images(sde, generator):
    x0, z = (torch.randn(5, 12, generator=generator) for _ in range(2))
    t = torch.linspace(0.1, 1.0, 5, dtype=f64) * sde.T
    x = sde.perturb(x0, t, z)
    assert x.dtype == torch.float32  # float64 times do not promote the data
    expected = torch.stack([float(sde.scale(u)) * a + float(sde.std(u)) * b for u, a, b in zip(t, x0, z, strict=True)])
    torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6)
    as_images = sde.perturb(x0.reshape(5, 3, 2, 2), t, z.reshape(5, 3, 2, 2))
    assert torch.equal(as_images.reshape(5, 12), x)


@each_sde
def test_prior_log_prob_is_a_normal_density_in_nats(sde, generator):
    x = 2 * torch.randn(4, 3, 2, 2, dtype=f64, generator=generator)
    truth = scipy.stats.norm.logpdf(x.numpy(), scale=sde.prior_std).sum((1, 2, 3))
    torch.testing.assert_close(sde.prior_log_prob(x), torch.from_numpy(truth), rtol=1e-13, atol=0)


@each_sde
def test_prior_sample_has_the_priors_spread(sde, untouched):
    draw = lambda **kw: sde.prior_sample((2000, 2, 5), generator=torch.Generator().manual_seed(2), **kw)
    x = draw(dtype=f64)
    assert torch.equal(x, draw(dtype=f64))
    assert draw().dtype == torch.float32
    assert abs(float(x.var()) / sde.prior_std**2 - 1) < 4.5 * math.sqrt(2 / x.numel())  # 4.5 standard errors


def test_prior_gap_of_vp():
    # KL(p_T || N(0, 1)) on N(0.5, 0.25): what the prior costs (book chapter 5); VE's prior is N(0, sigma_max^2).
    assert VP().prior_std == SubVP().prior_std == 1.0
    mean, variance = 0.5 * float(VP().scale(1.0)), 0.25 * float(VP().scale(1.0)) ** 2 + float(VP().std(1.0)) ** 2
    gap = 0.5 * (variance - 1 - math.log(variance) + mean**2)
    assert gap == pytest.approx(5.398e-6, abs=5e-10)


@each_sde
def test_training_times_are_uniform(sde, untouched):
    draw = lambda: sde.sample_time(4000, t_min=0.1 * sde.T, generator=torch.Generator().manual_seed(3), dtype=f64)
    t = draw()
    assert torch.equal(t, draw())
    assert 0.1 * sde.T <= float(t.min()) <= float(t.max()) <= sde.T
    # Kolmogorov-Smirnov: fails one seed in a thousand, and this seed is fixed
    assert scipy.stats.kstest(t.numpy(), "uniform", args=(0.1 * sde.T, 0.9 * sde.T)).pvalue > 1e-3


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: VE(0.0), ValueError, r"sigma_min: needs a finite number above 0, got 0\.0"),
        (lambda: VE(50.0, 0.01), ValueError, r"sigma_min: needs sigma_min < sigma_max, got sigma_min=50\.0 and sigma_max=0\.01"),
        (lambda: VE(1.0, 1.0), ValueError, "sigma_min < sigma_max"),
        (lambda: VE(0.01, math.nan), ValueError, "sigma_max: needs a finite number above 0, got nan"),
        (lambda: VP(-0.1), ValueError, r"beta_min: needs a finite number above 0, got -0\.1"),
        (lambda: VP(20.0, 0.1), ValueError, r"beta_min: needs beta_min <= beta_max, got beta_min=20\.0 and beta_max=0\.1"),
        (lambda: SubVP(0.1, math.inf), ValueError, "beta_max: needs a finite number above 0, got inf"),
        (lambda: VP("0.1"), TypeError, "beta_min: needs a number, got str"),
        (lambda: VP(T=0), ValueError, "T: needs a finite number above 0, got 0"),
        (lambda: VE(T=-1.0), ValueError, r"T: needs a finite number above 0, got -1\.0"),
        (lambda: Ito(1.0, lambda t: t), TypeError, "drift: needs a function, got float"),
        (lambda: Ito(lambda x, t: x, 1.0), TypeError, "diffusion: needs a function, got float"),
        (lambda: Ito(lambda x, t: x, lambda t: t, T=math.nan), ValueError, "T: needs a finite number above 0, got nan"),
        (lambda: VP().sample_time(3, t_min=1.0), ValueError, r"t_min: needs 0 <= t_min < T = 1, got 1\.0"),
        (lambda: VP(T=2.0).sample_time(3, t_min=-0.1), ValueError, r"t_min: needs 0 <= t_min < T = 2, got -0\.1"),
        (lambda: VP().sample_time(3, t_min=math.nan), ValueError, "t_min: .* got nan"),
        (lambda: VP().sample_time(0, t_min=0.1), ValueError, "n: needs a whole number of times, at least 1, got 0"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_equal_betas_are_a_constant_rate():
    # An Ornstein-Uhlenbeck process: variance 1 - exp(-beta t)
    t = torch.linspace(0, 1, 11, dtype=f64)
    torch.testing.assert_close(VP(3.0, 3.0).std(t) ** 2, 1 - torch.exp(-3 * t), rtol=1e-14, atol=1e-16)


def test_an_ito_has_no_kernel_but_moves():
    sde = Ito(lambda x, t: x - x**3, lambda t: 0.5, T=3.0)
    x, t = torch.tensor([[0.5], [2.0]]), torch.tensor([0.1, 0.2])
    torch.testing.assert_close(sde.drift(x, t), torch.tensor([[0.375], [-6.0]]))
    assert sde.diffusion(t).tolist() == [0.5, 0.5]  # a constant may be a plain number
    assert not hasattr(sde, "perturb")
    assert not isinstance(sde, Noising)
