"""Integers of known entropy: masses of cells at 50 digits, densities, scores, samples, entropies."""

import itertools
import math

import mpmath
import pytest
import scipy.integrate
import torch

from sdelib import VE, VP, Quantised, SubVP, ddpm, dequantise, grad_of, linear_betas
from sdelib.quantised import grid_values, log_mass
from tests.problems import mp_kernel, name

f64 = torch.float64
SDES = [VE(), VP(), SubVP()]
each_sde = pytest.mark.parametrize("sde", SDES, ids=name)


def pair(data_range=(-1.0, 1.0), levels=5):
    g = torch.Generator().manual_seed(0)
    tables = torch.rand(2, 2, levels, generator=g, dtype=f64) ** 2
    tables[0, 0, 0] = tables[1, 0, 1] = 0.0  # a level that a component never has
    return Quantised([3.0, 7.0], tables, data_range=data_range)


# --- masses of cells ----------------------------------------------------------------------------------------------------

HALVES = [1e-9, 1e-6, 1e-4, 0.01, 0.0499, 0.0501, 0.3, 1.0, 3.0, 100.0]
MIDDLES = [-1e6, -5000.0, -40.0, -7.0, -1.1, -1e-3, 0.0, 1e-8, 0.5, 3.0, 30.0, 1e3, 1e5]


def mp_mass(m, d):
    """Mass and its derivative, at 50 digits where the two tails share far fewer."""
    m, d = abs(mpmath.mpf(m)), mpmath.mpf(d)
    root = mpmath.sqrt(2)
    value = (mpmath.erfc((m - d) / root) - mpmath.erfc((m + d) / root)) / 2
    return mpmath.log(value), (mpmath.npdf(m + d) - mpmath.npdf(m - d)) / value


@pytest.mark.parametrize("d", HALVES)
def test_masses_and_slopes_at_50_digits(d):
    """From a millionth of a standard deviation to 100, at the middle and a million of them away: measured 3e-15 and 8e-14."""
    m = torch.tensor(MIDDLES, dtype=f64)
    found = log_mass(m, torch.full_like(m, d))
    for middle, log, slope in zip(MIDDLES, found.log.tolist(), found.slope.tolist(), strict=True):
        true_log, true_slope = map(float, mp_mass(middle, d))
        assert log == pytest.approx(true_log, rel=1e-13, abs=1e-13)
        assert slope == pytest.approx(math.copysign(1, -middle) * abs(true_slope), rel=1e-12, abs=1e-300)


@pytest.mark.parametrize("d", [1e-4, 0.3, 3.0])
def test_its_slope_is_its_derivative_also_at_the_middle(d):
    """And the slope's own derivative is that of second differences, which probes and traces differentiate."""
    m = torch.tensor([-6.0, -1.0, 0.0, 0.2, 2.0, 8.0], dtype=f64, requires_grad=True)
    half = torch.full_like(m, d)
    found = log_mass(m, half)
    (by_autograd,) = torch.autograd.grad(found.log.sum(), m, retain_graph=True)
    torch.testing.assert_close(by_autograd, found.slope, rtol=1e-9, atol=1e-9)
    (curve,) = torch.autograd.grad(found.slope.sum(), m)
    with torch.no_grad():
        h = 1e-4
        difference = (log_mass(m + h, half).slope - log_mass(m - h, half).slope) / (2 * h)
    torch.testing.assert_close(curve, difference, rtol=1e-5, atol=1e-6)  # error h^2, and 1e-12/h of rounding


# --- densities and scores -----------------------------------------------------------------------------------------------


@each_sde
@pytest.mark.parametrize("t", [1e-5, 0.01, 0.3, 1.0])
def test_the_score_is_the_gradient_of_the_density(sde, t, generator):
    """Where data go, and 20 standard deviations of it away; rounding in the tails is a thousandth of a millionth."""
    law = pair()
    k = law.sample(200, generator=generator)
    y = dequantise(k.double(), levels=5, data_range=(-1.0, 1.0), generator=generator)
    times = torch.full((200,), t, dtype=f64)
    noise = torch.randn(200, 2, generator=generator, dtype=f64)
    for reach in (1.0, 20.0):
        for grid in (None, "ends", "centres"):
            x = sde.perturb(law.values(k, grid=grid, dtype=f64) if grid else y, times, reach * noise)
            score = law.score_fn(sde, grid=grid)(x, times)
            by_autograd = grad_of(law.log_density_fn(sde, grid=grid))(x, times)
            assert bool(torch.isfinite(score).all())
            torch.testing.assert_close(score, by_autograd, rtol=1e-7, atol=1e-7)


def test_float32_is_as_good_as_its_input(generator):
    """Worked in float64: only x and the result are rounded, also where erf would share all its digits."""
    law = pair()
    for sde, t in itertools.product(SDES, (1e-5, 0.5, 1.0)):
        x = sde.perturb(
            torch.rand(50, 2, generator=generator), torch.full((50,), t), torch.randn(50, 2, generator=generator)
        )
        times = torch.full((50,), t)
        single, double = (law.score_fn(sde)(x.to(d), times.to(d)) for d in (torch.float32, f64))
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-30)  # float32 ends at 1e-38


@each_sde
def test_the_density_by_mpmath(sde):
    """Cells blurred by the kernel, written with erf at 50 digits."""
    law, t = pair(), 0.02
    scale, variance = mp_kernel(sde, t)
    std = mpmath.sqrt(variance)
    x = [0.37, -0.9]

    def cell(value, level):
        low = scale * (-1 + mpmath.mpf(2 * level) / 5)
        high = scale * (-1 + mpmath.mpf(2 * (level + 1)) / 5)
        return (mpmath.ncdf((value - low) / std) - mpmath.ncdf((value - high) / std)) / (high - low)

    total = mpmath.mpf(0)
    for w, table in zip(law.weights.tolist(), law.tables.tolist(), strict=True):
        parts = [
            sum(p * cell(mpmath.mpf(v), level) for level, p in enumerate(row)) for v, row in zip(x, table, strict=True)
        ]
        total += w * parts[0] * parts[1]
    found = law.log_density_fn(sde)(torch.tensor([x], dtype=f64), torch.tensor([t], dtype=f64))
    assert float(found) == pytest.approx(float(mpmath.log(total)), rel=1e-12)


def test_densities_integrate_to_one():
    law = Quantised([0.4, 0.6], [[[0.2, 0.0, 0.8]], [[0.1, 0.9, 0.0]]], data_range=(0.0, 3.0))
    one = lambda fn, t: torch.exp(fn(torch.tensor([[t]], dtype=f64), torch.tensor([0.05], dtype=f64))).item()
    for grid in (None, "ends", "centres"):
        density = law.log_density_fn(VP(), grid=grid)
        total = scipy.integrate.quad(lambda v, d=density: one(d, v), -2, 5, points=[0, 1, 2, 3], limit=200)[0]
        assert total == pytest.approx(1.0, abs=1e-7)
    inside = torch.tensor([[0.5], [1.5], [2.5], [3.0], [-0.1], [3.1]], dtype=f64)
    expected = torch.tensor([0.14, 0.54, 0.32, 0.32, 0.0, 0.0], dtype=f64).log()
    torch.testing.assert_close(law.log_density(inside), expected, rtol=1e-12, atol=1e-12)


def test_it_works_on_a_chain_and_on_pictures(generator):
    """Tables (K, *shape, levels) are those of the flattened law."""
    tables = torch.rand(2, 1, 2, 3, 4, generator=generator, dtype=f64)
    law, flat = Quantised([1.0, 2.0], tables), Quantised([1.0, 2.0], tables.reshape(2, 6, 4))
    chain = ddpm(linear_betas(30))
    k = law.sample(5, generator=generator)
    assert k.shape == (5, 1, 2, 3)
    assert torch.equal(law.log_prob(k), flat.log_prob(k.reshape(5, 6)))
    assert law.entropy() == pytest.approx(flat.entropy(), rel=1e-14)
    x, t = law.values(k, dtype=f64), torch.full((5,), 0.5, dtype=f64)
    assert torch.equal(law.score_fn(chain)(x, t).reshape(5, 6), flat.score_fn(chain)(x.reshape(5, 6), t))


# --- integers -----------------------------------------------------------------------------------------------------------


def test_probabilities_and_entropy_by_enumeration():
    law = pair()
    every = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    p = [
        sum(w * T[0][a] * T[1][b] for w, T in zip(law.weights.tolist(), law.tables.tolist(), strict=True))
        for a, b in every.tolist()
    ]
    assert sum(p) == pytest.approx(1.0, rel=1e-14)
    torch.testing.assert_close(law.log_prob(every).exp(), torch.tensor(p, dtype=f64), rtol=1e-13, atol=1e-17)
    assert law.entropy() == pytest.approx(-sum(v * math.log(v) for v in p if v > 0), rel=1e-13)


def test_positions_that_all_components_share_add_up():
    """64 such positions of 256 levels are no matter; one of them uniform has log 256 nats."""
    shared = torch.ones(2, 64, 256, dtype=f64)
    own = torch.zeros(2, 1, 256, dtype=f64)
    own[0, 0, 0] = own[1, 0, 1] = 1.0
    law = Quantised([0.25, 0.75], torch.cat([shared, own], 1))
    expected = 64 * math.log(256) - 0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    assert law.entropy() == pytest.approx(expected, rel=1e-13)
    with pytest.raises(ValueError, match=r"entropy: would enumerate 256\^3 combinations"):
        Quantised([1.0, 1.0], torch.rand(2, 3, 256, generator=torch.Generator().manual_seed(0))).entropy()


def test_samples_have_the_law(generator, untouched):
    """Chi-squared over 25 - 1 - (impossible ones) classes; never a level of probability 0."""
    law, n = pair(), 20_000
    k = law.sample(n, generator=generator)
    counts = torch.bincount(k[:, 0] * 5 + k[:, 1], minlength=25).double()
    p = law.log_prob(torch.cartesian_prod(torch.arange(5), torch.arange(5))).exp()
    assert bool((counts[p == 0] == 0).all())
    chi = float(((counts - n * p) ** 2 / (n * p))[p > 0].sum())
    assert chi < 24 + 5 * math.sqrt(48)
    single = Quantised([1.0], [[[0.0, 1.0, 0.0]]]).sample(100, generator=generator)
    assert torch.equal(single, torch.ones(100, 1, dtype=torch.long))


def test_grids():
    k = torch.arange(4)
    assert grid_values(k, 4, (-1.0, 1.0), grid="ends", dtype=f64).tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert grid_values(k, 4, (0.0, 1.0), grid="centres", dtype=f64).tolist() == [0.125, 0.375, 0.625, 0.875]


def test_bad_input(generator):
    law = pair()
    for weights, tables, message in (
        ([1.0], [[0.5, 0.5]], r"tables: needs shape \(K, \*shape, levels\)"),
        ([1.0, 1.0], [[[0.5, 0.5]]], r"tables: needs shape .* got \(1, 1, 2\) for weights of shape \(2,\)"),
        ([0.0], [[[0.5, 0.5]]], "weights: need to be above 0"),
        ([1.0], [[[-0.5, 1.5]]], "tables: needs probabilities"),
        ([1.0], [[[0.0, 0.0]]], "tables: needs probabilities"),
        ([1.0], [[[math.nan, 1.0]]], "tables: needs finite values"),
    ):
        with pytest.raises(ValueError, match=message):
            Quantised(weights, tables)
    with pytest.raises(ValueError, match=r"data_range: needs \(low, high\)"):
        Quantised([1.0], [[[1.0, 1.0]]], data_range=(1.0, 0.0))
    with pytest.raises(ValueError, match="x: needs whole numbers from 0 to 4"):
        law.log_prob(torch.tensor([[0, 5]]))
    with pytest.raises(ValueError, match=r"x: needs items of shape \(2,\)"):
        law.score_fn(VP())(torch.zeros(3, 3), torch.ones(3))
    with pytest.raises(ValueError, match=r"t: needs one time an item, shape \(3,\)"):
        law.score_fn(VP())(torch.zeros(3, 2), torch.ones(1))
    with pytest.raises(ValueError, match="grid: needs one of 'ends', 'centres'"):
        law.score_fn(VP(), grid="edges")
    with pytest.raises(ValueError, match="n: needs a whole number of items"):
        law.sample(0)
    with pytest.raises(ValueError, match="levels: a grid with both ends needs at least 2"):
        grid_values(torch.zeros(1).long(), 1, (0.0, 1.0))
