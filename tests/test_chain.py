"""Chains: the tables of SMLD and DDPM, their levels in time, and how they relate to the SDEs."""

import math

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdelib import SDE, VE, VP, Chain, Ito, SubVP, ddpm, geometric_sigmas, linear_betas, smld
from tests.problems import CHAINS, SDES, Cosine, mp_kernel, name

f64 = torch.float64


def levels(N: int) -> torch.Tensor:
    return torch.arange(N + 1, dtype=f64) / N


# --- the authors' tables -----------------------------------------------------------------------------------------


def test_linear_betas_are_the_authors_table():
    betas = linear_betas(1000)
    assert (betas[0].item(), betas[-1].item()) == (1e-4, 0.02)
    torch.testing.assert_close(betas.diff(), torch.full((999,), 0.0199 / 999, dtype=f64), rtol=1e-10, atol=0)


def test_geometric_sigmas_grow_by_one_ratio():
    sigmas = geometric_sigmas(1000)
    assert (sigmas[0].item(), sigmas[-1].item()) == (0.01, 50.0)
    torch.testing.assert_close(
        sigmas[1:] / sigmas[:-1], torch.full((999,), 5000 ** (1 / 999), dtype=f64), rtol=1e-13, atol=0
    )
    assert float(sigmas[1] / sigmas[0]) == pytest.approx(1.00856, abs=5e-6)  # the book's number
    assert geometric_sigmas(1, sigma_min=2.0, sigma_max=2.0).tolist() == [2.0]


def test_ddpm_is_the_product_of_its_betas():
    betas = linear_betas(1000)
    chain = ddpm(betas)
    alpha_bars = torch.cumprod(1 - betas, 0)  # the paper's alpha_i
    torch.testing.assert_close(chain.scales[1:] ** 2, alpha_bars, rtol=1e-12, atol=0)
    torch.testing.assert_close(chain.stds[1:] ** 2, 1 - alpha_bars, rtol=1e-11, atol=0)  # 1 - alpha_1 = 1e-4 cancels
    assert chain.prior_std == 1.0


def test_discrete_and_continuous_vp_at_the_end():
    # sqrt(alpha_1000) against exp(-B(1)/2): the book's numbers
    assert float(ddpm(linear_betas(1000)).scales[-1]) == pytest.approx(0.0063528, abs=5e-8)
    assert float(VP().scale(1.0)) == pytest.approx(0.0065716, abs=5e-8)


@pytest.mark.parametrize("N, gap, digits", [(100, 1.0e-2, 5e-4), (1000, 9.93e-4, 5e-7), (10_000, 9.9e-5, 5e-7)])
def test_ddpm_is_a_first_order_discretisation_of_vp(N, gap, digits):
    # The worst gap in scale over the chain falls as 1/N; tolerances are half of the last digit the book prints.
    worst = (ddpm(linear_betas(N)).scales - VP().scale(levels(N))).abs().max()
    assert float(worst) == pytest.approx(gap, abs=digits)


def test_the_chain_is_not_the_sde():
    # The exact transition over 1/N against ddpm's sqrt(beta_1): 73 % apart for N = 50, 4.9 % for N = 1000.
    for N, gap, digits in ((50, 0.73, 0.005), (1000, 0.049, 0.0005)):
        exact = float(VP().transition(0.0, 1.0 / N)[1])
        assert exact / float(ddpm(linear_betas(N)).b[0]) - 1 == pytest.approx(gap, abs=digits)


def test_smld_adds_the_difference_of_variances():
    sigmas = geometric_sigmas(1000)
    chain = smld(sigmas)
    torch.testing.assert_close(chain.stds[1:], sigmas, rtol=1e-13, atol=0)  # 1000 additions of 1e-16 each
    torch.testing.assert_close(chain.b[1:] ** 2, sigmas[1:] ** 2 - sigmas[:-1] ** 2, rtol=1e-12, atol=0)
    assert bool((chain.scales == 1).all())
    assert chain.prior_std == 50.0


# --- levels in time ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 2, 7, 10, 50, 999, 1000, 2000, 4096, 5000, 7919])
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_i_over_N_is_level_i(N, dtype):
    chain = Chain(torch.ones(N), torch.ones(N))
    i = torch.arange(N + 1)
    assert torch.equal(chain.level((i.to(f64) / N).to(dtype)), i)  # divided in float64, then cast, as simulate does
    assert torch.equal(chain.level(i.to(dtype) / N), i)  # divided in the dtype itself
    assert torch.equal(chain.level(chain.times().to(dtype)), i.flip(0))


def test_a_time_between_levels_counts_as_the_nearer():
    chain = Chain(torch.ones(10), torch.ones(10))
    assert chain.level(torch.tensor([0.0, 0.04, 0.06, 0.99, 1.0])).tolist() == [0, 0, 1, 10, 10]
    assert chain.level(0.3).item() == 3


@pytest.mark.parametrize("chain", CHAINS, ids=name)
def test_tables_by_time(chain):
    t = chain.times()
    assert (float(t[0]), float(t[-1]), len(t)) == (1.0, 0.0, chain.N + 1)
    assert torch.equal(chain.scale(t), chain.scales.flip(0))
    assert torch.equal(chain.std(t), chain.stds.flip(0))
    assert chain.std(t.float()).dtype == torch.float32
    assert chain.std(t.reshape(1, -1)).shape == (1, len(t))
    assert float(chain.std(0.0)) == 0.0  # time 0 is clean data


def test_labels_of_the_authors_discrete_networks():
    t = torch.tensor([0.1, 1.0])
    assert smld(geometric_sigmas(10)).net_label(t).tolist() == [9.0, 0.0]  # 0 is the noisiest
    assert ddpm(linear_betas(40)).net_label(torch.tensor([1 / 40, 1.0])).tolist() == [0.0, 39.0]


# --- transitions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chain", CHAINS, ids=name)
def test_neighbours_have_exactly_a_and_b(chain):
    for dtype in (torch.float32, f64):
        a, b = chain.transition(levels(chain.N)[:-1].to(dtype), levels(chain.N)[1:].to(dtype))
        assert torch.equal(a, chain.a.to(dtype))
        assert torch.equal(b, chain.b.to(dtype))


@given(which=st.integers(0, len(CHAINS) - 1), data=st.data())
def test_transitions_compose(which, data):
    chain = CHAINS[which]
    r, s, t = sorted(data.draw(st.lists(st.integers(0, chain.N), min_size=3, max_size=3)))
    r, s, t = (torch.tensor(v / chain.N, dtype=f64) for v in (r, s, t))
    (a1, b1), (a2, b2), (a, b) = chain.transition(r, s), chain.transition(s, t), chain.transition(r, t)
    torch.testing.assert_close(a1 * a2, a, rtol=1e-13, atol=0)
    # b^2 is a difference of variances of size std_t^2, rounded to 1e-16 of it in each of up to 50 levels
    size = float(chain.std(t)) ** 2
    torch.testing.assert_close((a2 * b1) ** 2 + b2**2, b**2, rtol=0, atol=1e-13 * size)
    clean = chain.transition(torch.zeros_like(t), t)
    torch.testing.assert_close(torch.stack(clean), torch.stack([chain.scale(t), chain.std(t)]), rtol=1e-15, atol=0)


@pytest.mark.parametrize("chain", CHAINS, ids=name)
def test_transitions_agree_with_walking_the_chain(chain, generator):
    n, low, high = 20_000, chain.N // 4, chain.N // 2
    x = torch.full((n,), 1.5, dtype=f64)
    for i in range(low, high):
        x = chain.a[i] * x + chain.b[i] * torch.randn(n, dtype=f64, generator=generator)
    a, b = (float(v) for v in chain.transition(low / chain.N, high / chain.N))
    # 4 standard errors of a mean and of a variance: 1 chance in 16,000, with a fixed seed
    assert abs(float(x.mean()) - 1.5 * a) < 4 * b / math.sqrt(n)
    assert abs(float(x.var()) / b**2 - 1) < 4 * math.sqrt(2 / n)


# --- from an SDE -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sde", [*SDES, Cosine()], ids=name)
def test_from_sde_has_the_sdes_marginals(sde):
    times = torch.logspace(-3, 0, 80, dtype=f64) * sde.T
    chain = Chain.from_sde(sde, times)
    assert (chain.N, chain.T, chain.prior_std) == (80, 1.0, sde.prior_std)
    # Built up from 80 exact transitions, each rounded at 1e-16; the generic one cancels, to 1e-14.
    torch.testing.assert_close(chain.scales[1:], sde.scale(times), rtol=1e-12, atol=0)
    torch.testing.assert_close(chain.stds[1:], sde.std(times), rtol=1e-12, atol=0)
    a, b = sde.transition(times[30], times[31])
    assert (float(chain.a[31]), float(chain.b[31])) == pytest.approx((float(a), float(b)), rel=1e-13)


def test_from_sde_agrees_with_the_paper_at_50_digits():
    times = torch.linspace(0.1, 1.0, 10, dtype=f64)
    for sde in SDES[:3]:
        chain = Chain.from_sde(sde, times)
        truth = [mp_kernel(sde, float(t)) for t in times]
        assert chain.scales[1:].tolist() == pytest.approx([float(s) for s, _ in truth], rel=1e-14)
        assert chain.stds[1:].tolist() == pytest.approx([float(v**0.5) for _, v in truth], rel=1e-14)


def test_smld_is_ve_on_a_geometric_grid():
    # sigma_i = sigma((i-1)/(N-1)); level 1 sits at time 0 of the SDE, which means clean data there: take 1e-15 instead.
    N = 200
    times = torch.linspace(0, 1, N, dtype=f64)
    times[0] = 1e-15
    one, other = smld(geometric_sigmas(N)), Chain.from_sde(VE(), times)
    torch.testing.assert_close(one.a, other.a, rtol=0, atol=0)
    torch.testing.assert_close(one.b, other.b, rtol=1e-11, atol=0)
    assert one.prior_std == pytest.approx(other.prior_std, rel=1e-14)


# --- training times ----------------------------------------------------------------------------------------------


def test_training_levels_are_uniform(untouched):
    chain, n = ddpm(linear_betas(25)), 10_000
    draw = lambda **kw: chain.sample_time(n, generator=torch.Generator().manual_seed(4), **kw)
    t = draw(t_min=0.0)
    assert t.dtype == torch.float32
    assert torch.equal(t, draw(t_min=0.0))
    counts = chain.level(t).bincount(minlength=26)
    assert int(counts[0]) == 0  # clean data have no kernel to learn from
    assert scipy.stats.chisquare(counts[1:].numpy()).pvalue > 1e-3  # one seed in a thousand fails, and it is fixed
    assert torch.equal(chain.level(draw(t_min=0.0, dtype=f64)), chain.level(t))
    late = chain.level(draw(t_min=10 / 25))
    assert (int(late.min()), int(late.max())) == (10, 25)  # t_min itself is in


def test_the_defaults_of_an_sde_hold_for_a_chain(generator):
    chain = smld(geometric_sigmas(10))
    x0, z = torch.randn(2, 4, 3, generator=generator).unbind(0)
    t = torch.tensor([0.1, 0.5, 0.5, 1.0], dtype=f64)
    expected = x0 + chain.stds[[1, 5, 5, 10]].float()[:, None] * z
    torch.testing.assert_close(chain.perturb(x0, t, z), expected, rtol=1e-6, atol=1e-6)
    x = chain.prior_sample((3000, 2), generator=generator)
    assert abs(float(x.double().var()) / 2500 - 1) < 4.5 * math.sqrt(2 / 6000)


# --- bad input ---------------------------------------------------------------------------------------------------

ones = torch.ones(3)


@pytest.mark.parametrize("N, level", [(1, 1), (2, 2), (5, 2), (20, 20)])
def test_a_short_ddpm_is_refused_by_level(N, level):
    # beta_max / N >= 1 for N <= 20 gives NaN in the authors' code; the error names the first such level
    betas = linear_betas(N, beta_min=0.1 if N > 1 else 20.0)
    with pytest.raises(
        ValueError, match=rf"betas: needs .* in \(0, 1\); .* smaller beta_max, got .* at level {level}$"
    ):
        ddpm(betas)


def test_the_shortest_ddpm_works():
    assert bool(torch.isfinite(ddpm(linear_betas(21)).stds).all())


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: ddpm(torch.tensor([0.1, 1.5, 0.2])), ValueError, "betas: .* got 1.5 at level 2"),
        (
            lambda: ddpm(torch.tensor([0.1, -0.1])),
            ValueError,
            r"betas: needs every value in \(0, 1\), got -0.1 at level 2",
        ),
        (
            lambda: ddpm(torch.tensor([0.1, math.nan])),
            ValueError,
            "betas: needs every value finite, got nan at level 2",
        ),
        (lambda: ddpm(torch.tensor(0.1)), ValueError, r"betas: needs one number a level, shape \(N,\), got \(\)"),
        (
            lambda: smld(torch.tensor([1.0, 2.0, 2.0])),
            ValueError,
            "sigmas: need to ascend .* got 2 at level 2 and 2 at level 3",
        ),
        (
            lambda: smld(torch.tensor([3.0, 1.0])),
            ValueError,
            r"level 1 \(the smallest\) first, got 3 at level 1 and 1 at",
        ),
        (lambda: smld(torch.tensor([0.0, 1.0])), ValueError, "sigmas: needs every value above 0, got 0 at level 1"),
        (lambda: smld(torch.zeros(0)), ValueError, r"sigmas: needs one number a level, shape \(N,\), got \(0,\)"),
        (lambda: Chain(ones, ones[:2]), ValueError, r"b: needs the shape of a, \(3,\), got \(2,\)"),
        (lambda: Chain(-ones, ones), ValueError, "a: needs every value above 0, got -1 at level 1"),
        (lambda: Chain(ones, -ones), ValueError, "b: needs every value at least 0, got -1 at level 1"),
        (lambda: Chain(ones, 0 * ones), ValueError, "b: .* above 0 at level 1, .* got 0 at level 1"),
        (lambda: Chain(ones, math.inf * ones), ValueError, "b: needs every value finite, got inf at level 1"),
        (lambda: Chain(ones, ones, prior_std=0.0), ValueError, r"prior_std: needs a finite number above 0, got 0\.0"),
        (lambda: Chain(ones, ones, prior_std="1"), TypeError, "prior_std: needs a number, got str"),
        (lambda: Chain.from_sde(VP(), [0.0, 0.5]), ValueError, r"times: need to lie in \(0, 1\], got 0 to 0.5"),
        (lambda: Chain.from_sde(VP(), [0.5, 1.5]), ValueError, r"times: need to lie in \(0, 1\], got 0.5 to 1.5"),
        (lambda: Chain.from_sde(SubVP(T=2.0), [0.5, 2.5]), ValueError, r"in \(0, 2\], got 0.5 to 2.5"),
        (
            lambda: Chain.from_sde(VP(), [0.5, 0.2]),
            ValueError,
            "times: need to ascend .* got 0.5 at level 1 and 0.2 at level 2",
        ),
        (
            lambda: Chain.from_sde(VP(), [0.5, math.nan]),
            ValueError,
            "times: needs every value finite, got nan at level 2",
        ),
        (
            lambda: Chain.from_sde(Ito(lambda x, t: x, lambda t: t), [0.5]),
            TypeError,
            "sde: needs scale, std .* which Ito lacks",
        ),
        (lambda: linear_betas(0), ValueError, "N: needs a whole number of levels, at least 1, got 0"),
        (lambda: linear_betas(10.0), ValueError, "N: needs a whole number of levels"),
        (
            lambda: linear_betas(10, beta_min=20.0, beta_max=0.1),
            ValueError,
            "beta_min: needs beta_min <= beta_max, got",
        ),
        (lambda: linear_betas(10, beta_min=0.0), ValueError, r"beta_min: needs a finite number above 0, got 0\.0"),
        (
            lambda: geometric_sigmas(10, sigma_min=5.0, sigma_max=1.0),
            ValueError,
            "sigma_min: needs sigma_min < sigma_max, got",
        ),
        (
            lambda: geometric_sigmas(10, sigma_min=1.0, sigma_max=1.0),
            ValueError,
            "sigma_min: needs sigma_min < sigma_max",
        ),
        (
            lambda: geometric_sigmas(10, sigma_max=math.nan),
            ValueError,
            "sigma_max: needs a finite number above 0, got nan",
        ),
        (
            lambda: smld(ones.cumsum(0)).sample_time(5, t_min=1.0),
            ValueError,
            r"t_min: needs 0 <= t_min < T = 1, got 1\.0",
        ),
        (
            lambda: smld(ones.cumsum(0)).sample_time(0, t_min=0.1),
            ValueError,
            "n: needs a whole number of times, at least 1",
        ),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_chain_is_no_sde():
    chain = CHAINS[0]
    assert not isinstance(chain, SDE)
    assert "N=40" in repr(chain)
