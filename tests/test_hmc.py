"""Hamiltonian Monte Carlo: leapfrog by hand, the score's line integral as the density's difference, and the law it keeps."""

import math

import numpy as np
import pytest
import torch

from sdelib import (
    VE,
    VP,
    Gaussian,
    GaussianMixture,
    NonFiniteError,
    SubVP,
    affine_law,
    ancestral,
    annealed_langevin,
    ddpm,
    geometric_sigmas,
    hmc,
    linear_betas,
    simulate,
    smld,
    then,
    time_grid,
)
from sdelib.steps import leapfrog
from tests.problems import g3, gm2, z_scores
from tests.test_correctors import CASES, _alpha, filled, seeded
from tests.test_orders import slope
from tests.test_runge_kutta import Draws

f64 = torch.float64
MIX = GaussianMixture([0.3, 0.7], torch.tensor([[-1.0], [0.5]], dtype=f64), [0.02, 0.05])


def rolled(law, x, v, size, n):
    """A trajectory at one law's own score."""
    return leapfrog(lambda y, t: law.score(y), x, v, None, size, n)


# --- the trajectory and what the density gained on it -----------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 5, 20])
def test_on_a_gaussian_the_gain_is_the_densitys_to_rounding(n, generator):
    """A full covariance in 3-D: the score is linear, so any curve through the points integrates it alike."""
    law = g3()
    x, v = torch.randn(2, 50, 3, generator=generator, dtype=f64)
    end = rolled(law, x, v, 0.3, n)
    torch.testing.assert_close(end.gain, law.log_prob(end.x) - law.log_prob(x), rtol=1e-11, atol=1e-11)


def test_elsewhere_its_error_is_of_fourth_order(generator):
    """A trajectory of one length, cut ever finer, on a mixture: 4 +- 0.25 (over seeds 3.9 to 4.2, as a few
    points where the score bends most weigh most). The trapezoidal rule alone would have order 2.
    """
    law, ns = gm2().at(VP(), 0.2), [20, 40, 80, 160]
    x, v = law.sample(200, generator=generator), torch.randn(200, 2, generator=generator, dtype=f64)
    ends = [rolled(law, x, v, 1.0 / n, n) for n in ns]
    errors = [float((e.gain - law.log_prob(e.x) + law.log_prob(x)).pow(2).mean().sqrt()) for e in ends]
    assert slope(ns, errors) == pytest.approx(4.0, abs=0.25)


def test_run_backwards_it_is_the_same_trajectory(generator):
    """Metropolis' rule needs it: from the end with the velocity turned round, back to the start, with the gain's sign turned."""
    law = gm2()
    x, v = torch.randn(2, 50, 2, generator=generator, dtype=f64)
    there = rolled(law, x, v, 0.1, 5)
    back = rolled(law, there.x, -there.v, 0.1, 5)
    for a, b in ((back.x, x), (back.v, -v), (back.gain, -there.gain), (back.s, law.score(x))):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("noising, t, t_next", CASES, ids=repr)
@pytest.mark.parametrize("shape", [(3,), (2, 2, 2)])
def test_the_step_by_hand(noising, t, t_next, shape):
    """Leapfrog with d = 2 sqrt(alpha) snr std, written out; and the rule's edge: just below exp(H - H') go, just above stay."""
    x, v = torch.randn(2, 5, *shape, generator=seeded(1), dtype=f64)
    score = lambda x, t: -0.5 * x + 0.3  # of log p = -x^2/4 + 0.3 x
    log_p = lambda x: (-0.25 * x**2 + 0.3 * x).reshape(5, -1).sum(1)
    d = 2 * math.sqrt(_alpha(noising, t, t_next)) * 0.1 * float(noising.std(filled(t))[0])
    y, w = x, v
    for _ in range(4):
        half = w + d / 2 * score(y, t)
        y = y + d * half
        w = half + d / 2 * score(y, t)
    energy = lambda x, v: -log_p(x) + (v**2).reshape(5, -1).sum(1) / 2
    edge = torch.special.ndtri(torch.exp((energy(x, v) - energy(y, w)).clamp(max=-1e-9)))
    step = hmc(noising, score, snr=0.1, n_leapfrog=4)
    for shift, landed in ((-1e-4, y), (1e-4, None)):
        stepped = step(x, filled(t), filled(t_next), Draws(v, edge + shift))
        if landed is None:  # where H falls, the probability is 1 and nobody stays
            landed = torch.where((energy(y, w) < energy(x, v)).reshape(5, *[1] * len(shape)), y, x)
        torch.testing.assert_close(stepped.x, landed, rtol=1e-12, atol=1e-12)
        assert stepped.mean is stepped.x
        assert torch.equal(stepped.t, filled(t))


def test_one_leapfrog_step_is_annealed_langevins_move():
    """d^2 = 2 step: where it is accepted, the same point from the same noise."""
    sde, score = VP(), lambda x, t: -torch.sin(x)
    x, z = torch.randn(2, 6, 2, generator=seeded(1), dtype=f64)
    accepted = hmc(sde, score, n_leapfrog=1)(x, filled(0.5, 6), filled(0.4, 6), Draws(z, filled(-9.0, 6)))
    walked = annealed_langevin(sde, score)(x, filled(0.5, 6), filled(0.4, 6), Draws(z))
    torch.testing.assert_close(accepted.x, walked.x, rtol=1e-12, atol=1e-12)


def test_several_trajectories_are_one_after_another():
    sde, score = VP(), gm2().score_fn(VP())
    g, by_hand = seeded(), torch.randn(50, 2, generator=seeded(1), dtype=f64)
    three = hmc(sde, score, snr=0.4, n_steps=3)(by_hand, filled(0.3, 50), filled(0.2, 50), seeded())
    for _ in range(3):
        by_hand = hmc(sde, score, snr=0.4)(by_hand, filled(0.3, 50), filled(0.2, 50), g).x
    assert torch.equal(three.x, by_hand)


# --- the law it keeps ------------------------------------------------------------------------------------------------------


def defect(law, size, n, rule):
    """How much one step changes the variance of x ~ law (1-D), relative to it: quadrature over x and v, no Monte Carlo."""
    sd = law.covs[:, 0, 0].sqrt()
    x = torch.linspace(
        float((law.means[:, 0] - 8 * sd).min()), float((law.means[:, 0] + 8 * sd).max()), 3001, dtype=f64
    )
    v, weight = (torch.tensor(a) for a in np.polynomial.hermite_e.hermegauss(50))
    p = torch.softmax(law.log_prob(x[:, None]), 0)
    start, speed = (a.reshape(-1, 1) for a in torch.meshgrid(x, v, indexing="ij"))
    end = rolled(law, start, speed, size, n)
    work = {
        "gain": end.gain,
        "exact": law.log_prob(end.x) - law.log_prob(start),
        "always": math.inf * torch.ones(len(start)),
    }
    go = torch.exp((work[rule] + 0.5 * (speed**2 - end.v**2)[:, 0]).clamp(max=0))
    mass = (p[:, None] * weight / weight.sum()).reshape(-1)
    change = [float((mass * go * (end.x**k - start**k)[:, 0]).sum()) for k in (1, 2)]
    m1, m2 = (float((p * x**k).sum()) for k in (1, 2))
    return ((m2 + change[1] - (m1 + change[0]) ** 2) - (m2 - m1**2)) / (m2 - m1**2)


@pytest.mark.parametrize(
    "sde, t", [(VP(), 0.05), (VP(), 0.2), (VP(), 0.4), (VE(), 0.3), (VE(), 0.6), (SubVP(), 0.3)], ids=repr
)
def test_a_mixtures_law_is_kept(sde, t):
    """At the defaults one step from the exact law moves the variance by less than 3e-4; taken always, by up to 2.3 %.

    With the exact difference of log p nothing moves: what remains is the quadrature of this test.
    """
    law, size = MIX.at(sde, t), 2 * 0.16 * float(sde.std(torch.tensor(t, dtype=f64)))
    assert abs(defect(law, size, 5, "exact")) < 1e-5
    assert abs(defect(law, size, 5, "gain")) < 3e-4
    assert abs(defect(law, size, 5, "always")) > 4e-4


def test_without_the_rule_the_variance_would_be_off_by_two_per_cent():
    law, size = MIX.at(VP(), 0.4), 2 * 0.16 * float(VP().std(torch.tensor(0.4, dtype=f64)))
    assert defect(law, size, 5, "always") == pytest.approx(0.023, abs=0.001)


KEPT = [(n, t) for n in (VE(), VP(), SubVP()) for t in (0.02, 0.4, 1.0)]
KEPT += [(n, t) for n in (smld(geometric_sigmas(40)), ddpm(linear_betas(40))) for t in (1 / 40, 0.5)]


@pytest.mark.parametrize("noising, t", KEPT, ids=repr)
def test_defaults_keep_a_gaussians_variance(noising, t):
    """100 applications on 2-D Gaussian data: within 10 %, which is 4.5 standard errors of 4,000 variances. The bias is none."""
    law, n = Gaussian([0.3, -0.2], 0.25), 2000
    truth = law.at(noising, t)
    x = truth.sample(n, generator=seeded(1))
    now, later = torch.full((n,), t), torch.full((n,), max(t - 1 / 40, 0.0))
    x = hmc(noising, law.score_fn(noising), n_steps=100)(x, now, later, seeded()).x
    assert float(x.var(0).mean() / truth.cov[0, 0]) == pytest.approx(1.0, abs=0.1)
    assert float(z_scores(x, truth.mean, truth.cov).abs().max()) < 4.5


def test_it_finds_a_mixtures_moments(generator):
    """From a normal law far too wide, 50 trajectories at t = 0.4 on VP: the mixture's mean and covariance."""
    sde, data, n = VP(), gm2(), 6_000
    law = data.at(sde, 0.4)
    x = 2 * torch.randn(n, 2, generator=generator, dtype=f64)
    x = hmc(sde, data.score_fn(sde), n_steps=50)(x, filled(0.4, n), filled(0.35, n), generator).x
    mean = law.weights @ law.means
    cov = (law.weights[:, None, None] * law.covs).sum(0) + (law.means - mean).T @ (
        law.weights[:, None] * (law.means - mean)
    )
    assert (
        float(z_scores(x, mean, cov).abs().max()) < 4.5
    )  # a mixture's fourth moments are no larger than a normal's here


@pytest.mark.parametrize("D, refused, slack", [(2, 0.011, 0.003), (3072, 0.53, 0.1)])
def test_how_often_it_stays(D, refused, slack):
    """On N(0, std^2 I) at the defaults the refusals grow with the dimension (standard errors 0.7e-3 and 2.5 %)."""
    sde, n = VE(), 20_000 if D == 2 else 400
    point = lambda x, t: -x / (sde.std(t)[:, None].to(x)) ** 2
    x = float(sde.std(torch.tensor(0.5))) * torch.randn(n, D, generator=seeded(1))
    moved = hmc(sde, point)(x, torch.full((n,), 0.5), torch.full((n,), 0.4), seeded()).x
    assert float((moved == x).all(1).float().mean()) == pytest.approx(refused, abs=slack)


# --- in a sampler ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noising", [VE(), VP(), SubVP(), smld(geometric_sigmas(40)), ddpm(linear_betas(40))], ids=repr)
def test_at_time_zero_x_stays(noising):
    score = lambda x, t: torch.where(t[:, None] > 0, -x, torch.nan)
    x, g = torch.randn(5, 2, generator=seeded(1), dtype=f64), seeded()
    stepped = hmc(noising, score)(x, filled(0.0), filled(0.0), g)
    assert stepped.x is x
    assert torch.equal(g.get_state(), seeded().get_state())
    t = torch.tensor([0.5, 0.0, 0.5, 0.5, 0.0], dtype=f64)
    mixed, alone = (hmc(noising, score)(x[i], t[i], 0.9 * t[i], seeded()) for i in (slice(None), t > 0))
    assert torch.equal(mixed.x[t == 0], x[t == 0])
    assert torch.equal(mixed.x[t > 0], alone.x)


@pytest.mark.parametrize("n_leapfrog, n_steps", [(1, 1), (5, 1), (3, 4)])
def test_nfe_is_counted_truly(n_leapfrog, n_steps):
    """n_steps n_leapfrog + 1: the score at a trajectory's start is that at the end of the one before, or at its start."""
    sde, calls = VP(), []
    step = hmc(sde, lambda x, t: (calls.append(1), -x)[1], n_leapfrog=n_leapfrog, n_steps=n_steps)
    assert step.nfe == n_steps * n_leapfrog + 1
    path = simulate(
        then(step, ancestral(sde, lambda x, t: -x)), torch.ones(3, 2), time_grid(4, t_min=0.1), generator=seeded()
    )
    assert path.nfe == len(calls) + 4 == 4 * (step.nfe + 1)


def test_a_broken_score_is_not_hidden_by_refusal():
    """NaN cannot be compared, and a rule that stays would hide it: it goes, and simulate stops at that step."""
    sde = VP()
    score = lambda x, t: torch.where((torch.arange(4)[:, None] % 2 == 0) & (t[:, None] < 0.6), torch.nan, -x)
    with pytest.raises(NonFiniteError, match=r"the step from t = 0\.55 to 0\.1 gave NaN or infinity in 2 of 4 items"):
        simulate(then(hmc(sde, score), ancestral(sde, lambda x, t: -x)), torch.ones(4, 2), time_grid(3, t_min=0.1))


def test_affine_law_refuses_it():
    """Refusals make it no affine map, even where the probes happen to be accepted."""
    sde, data = VP(), g3()
    with pytest.raises(ValueError, match=r"step: draws noise of shape .* a step that accepts or refuses is not affine"):
        affine_law(hmc(sde, data.score_fn(sde)), data.at(sde, 0.5), [0.5, 0.4])


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"snr": 0.0}, ValueError, r"snr: needs a finite number above 0, got 0\.0"),
        ({"snr": -1}, ValueError, "snr: needs a finite number above 0, got -1"),
        ({"n_leapfrog": 0}, ValueError, "n_leapfrog: needs a whole number of leapfrog steps, at least 1, got 0"),
        ({"n_leapfrog": 2.5}, ValueError, r"n_leapfrog: needs a whole number of leapfrog steps, at least 1, got 2\.5"),
        ({"n_steps": 0}, ValueError, "n_steps: needs a whole number of steps at every time, at least 1, got 0"),
    ],
)
def test_bad_input(change, error, message):
    with pytest.raises(error, match=message):
        hmc(VP(), lambda x, t: -x, **change)
